"""A running node takes snapshots of its chain, keeps the newest, and goes on if one fails (STO-52)."""

from itertools import pairwise

import attrs
import pytest
import trio

from supervm.chain.component import LedgerOptions
from supervm.chain.snapshots import SnapshotRules
from supervm.crypto.suites import verify
from supervm.crypto.votes import verify_certificate
from supervm.plugins.consensus.solo import SoloConfig
from supervm.plugins.storage import supervm_components as stores
from supervm.storage.errors import SnapshotBusy
from supervm.storage.ledger import open_ledger
from supervm.storage.snapshot_folder import SnapshotFolder
from supervm.storage.snapshot_restore import FolderSource, Trust, restore_snapshot
from supervm.storage.verify import verify_tree
from supervm.testing.context import opened
from supervm.types.address import Suite
from supervm.types.certificate import Certificate
from tests.chain.conftest import Run, World

FAST = SoloConfig(block_interval_min_ms=0, block_interval_max_ms=1)
OPTIONS = LedgerOptions(
    admission_threads=1, snapshot_blocks=10, snapshot_share=1.0, snapshot_free_bytes_min=0
)


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervm.chain.snapshots.LOOK_S", 0.001)
    monkeypatch.setattr("supervm.chain.snapshots.REST_S", 0.001)


def trust_of(world: World) -> Trust:
    return Trust(
        chain_id=world.genesis.chain_id,
        verify_signature=lambda key, message, signature: verify(Suite.ED25519, key, message, signature),
        check_certificate=lambda header, certificate: verify_certificate(
            Certificate.decode(certificate), world.genesis.chain_id, world.genesis.validators
        ),
    )


async def until(node, found):
    while not found():
        await node.chain.ledger.wait_above(node.chain.ledger.tip.height)


async def test_a_node_takes_one_every_so_many_blocks_and_keeps_the_newest(world: World, run: Run, tmp_path):
    folder = SnapshotFolder(tmp_path / "ledger" / "snapshots")
    async with run(world, engine=FAST, options=OPTIONS) as node:
        await until(node, lambda: node.metric("supervm_snapshots_taken_total", result="done") >= 5)
        await until(node, lambda: node.metric("supervm_snapshots_kept") == 3)
    listed = folder.listed()
    assert len(listed) in (3, 4), "one may just have been taken"
    assert all(after.height - before.height >= 10 for before, after in pairwise(listed))
    newest = listed[-1]
    assert newest.name == f"snapshot-{newest.height:012d}-{newest.made_s}"
    memory = next(component for component in stores() if component.name == "memory")
    async with opened(memory, tmp_path / "other") as store:
        with folder.reading(newest.name) as manifest:
            assert manifest.node_id == world.identity.node_id
            await restore_snapshot(store, FolderSource(folder), manifest, trust_of(world))
        async with open_ledger(store, world.genesis, b"", 0) as ledger:
            assert ledger.tip.height == newest.height
            await verify_tree(ledger)


async def test_a_node_started_again_goes_on_behind_its_newest_snapshot(world: World, run: Run, tmp_path):
    folder = SnapshotFolder(tmp_path / "ledger" / "snapshots")
    async with run(world, storage="sqlite", engine=FAST, options=OPTIONS) as node:
        await until(node, lambda: node.metric("supervm_snapshots_taken_total", result="done") >= 1)
    height = folder.listed()[-1].height
    async with run(world, storage="sqlite", engine=FAST, options=OPTIONS) as node:
        await until(node, lambda: node.metric("supervm_snapshots_height") > height)
    assert all(one.height >= height + 10 for one in folder.listed() if one.height > height)


async def test_one_that_fails_is_told_and_blocks_go_on(world: World, run: Run, tmp_path):
    options = attrs.evolve(OPTIONS, snapshot_free_bytes_min=2**62)
    async with run(world, engine=FAST, options=options) as node:
        await until(node, lambda: node.metric("supervm_snapshots_taken_total", result="failed") >= 2)
        await node.chain.ledger.wait_above(node.chain.ledger.tip.height + 3)
    assert SnapshotFolder(tmp_path / "ledger" / "snapshots").listed() == []


async def test_one_is_taken_when_it_is_asked_for_and_one_at_a_time(world: World, run: Run):
    options = attrs.evolve(OPTIONS, snapshot_blocks=0)
    async with run(world, engine=FAST, options=options) as node:
        await node.chain.ledger.wait_above(3)
        kept = node.chain.snapshots
        assert await kept.listed() == []
        kept.ask()
        with pytest.raises(SnapshotBusy):
            kept.ask()
        await until(node, lambda: node.metric("supervm_snapshots_taken_total", result="done") == 1)
        await until(node, lambda: not kept.taking)
        (one,) = await kept.listed()
        header = await node.chain.ledger.header(one.height)
        assert (one.state_root, one.first_block, one.pinned) == (header.state_root, 0, False)
        kept.rules = attrs.evolve(kept.rules, free_bytes_min=2**62)
        kept.ask()
        await until(node, lambda: kept.last_failure)
        assert "nearly full" in kept.last_failure


async def test_without_rules_none_is_taken(world: World, run: Run, tmp_path):
    async with run(world, engine=FAST) as node:
        await node.chain.ledger.wait_above(40)
        await trio.lowlevel.checkpoint()
    assert not (tmp_path / "ledger" / "snapshots").exists()


def test_height_and_time_make_one_due_and_no_block_makes_none():
    by_height, by_time = SnapshotRules(blocks=10), SnapshotRules(seconds=60)
    both = SnapshotRules(blocks=10, seconds=60)
    assert by_height.due(20, 0.0, 10, 0.0) and not by_height.due(19, 1e9, 10, 0.0)
    assert by_time.due(11, 60.0, 10, 0.0) and not by_time.due(11, 59.0, 10, 0.0)
    assert not by_time.due(10, 1e9, 10, 0.0)
    assert both.due(20, 0.0, 10, 0.0) and both.due(11, 60.0, 10, 0.0) and not both.due(19, 59.0, 10, 0.0)
    assert SnapshotRules().off and not both.off
