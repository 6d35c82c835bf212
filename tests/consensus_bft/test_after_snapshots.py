"""A node whose peers pruned what it misses goes on from a restored snapshot, by blocks (CONS-62, CONS-64)."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import attrs
import pytest
import trio

from supervm.cli.folders import finality_of
from supervm.contracts.application import NodeIdentity
from supervm.crypto.suites import verify
from supervm.kernel.context import SystemClock
from supervm.plugins.consensus.bft.driver.component import BftConfig
from supervm.plugins.consensus.bft.driver.following import Follower
from supervm.plugins.consensus.bft.driver.founding import read_standing
from supervm.plugins.consensus.bft.driver.validator import Validator
from supervm.storage.errors import NotProvable
from supervm.storage.snapshot_create import create_snapshot
from supervm.storage.snapshot_folder import SnapshotFolder
from supervm.storage.snapshot_format import Manifest
from supervm.storage.snapshot_restore import FolderSource, Trust, restore_snapshot
from supervm.types.address import Suite

from .lives import Lives
from .network import WAIT_S, Network, network
from .test_catching_up import every_block_is_proven
from .test_lost_logs import overhear

QUICK = BftConfig(block_interval_min_ms=1, block_interval_max_ms=5)
AT_REST = BftConfig(block_interval_min_ms=1, block_interval_max_ms=3_600_000)
TO = b"\x07" * 32


async def pay(net: Network, at: int = 0) -> int:
    sent = net.transfer(0, TO, 1)
    await net.nodes[at].chain.submit([sent.data])
    return await net.committed(0, sent.digest)


async def until(true: Callable[[], bool]) -> None:
    with trio.fail_after(WAIT_S):
        while True:
            if true():
                return
            await trio.sleep(0.05)


async def take(net: Network, folder: SnapshotFolder) -> Manifest:
    """A snapshot of the first node's chain, whose blocks go on; then they rest."""
    net.config = QUICK
    await net.start(0)
    await pay(net)
    await net.reached(0, 8)
    pair = net.validators[0]
    identity = NodeIdentity(node_id=pair.node_id, public_key=pair.public_key, sign=pair.sign)
    ledger, clock = net.nodes[0].chain.ledger, SystemClock()
    manifest: Manifest | None = None
    with trio.fail_after(WAIT_S):
        while manifest is None:
            # The roots of some heights are shown by no header.
            with suppress(NotProvable):
                _, manifest = await create_snapshot(
                    ledger, folder, net.genesis, identity, clock, backend="memory"
                )
    await net.stop(0)
    net.config = AT_REST
    await net.start(0)
    return manifest


async def restore(net: Network, number: int, folder: SnapshotFolder, manifest: Manifest) -> None:
    """As `supervm snapshot restore` does it, into the store of a node that is stopped."""
    trust = Trust(
        chain_id=net.genesis.chain_id,
        verify_signature=lambda key, message, signature: verify(Suite.ED25519, key, message, signature),
        check_certificate=finality_of(net.genesis),
    )
    await restore_snapshot(net.stores[number], FolderSource(folder), manifest, trust)


async def test_a_node_whose_peers_pruned_the_range_says_so_and_follows_from_a_snapshot(
    tmp_path: Path,
) -> None:
    folder = SnapshotFolder(tmp_path / "snapshots")
    async with network(tmp_path, validators=1, followers=2, begin=False, founded=True) as net:
        manifest = await take(net, folder)
        ledger = net.nodes[0].chain.ledger
        await ledger.raise_horizon(attrs.evolve(ledger.horizon, blocks=manifest.height))
        lost = await net.start(2)
        await until(lambda: "start from a snapshot" in lost.engine.status().reason)
        await restore(net, 1, folder, manifest)
        node = await net.start(1)
        assert node.height == manifest.height
        height = await pay(net)
        await net.reached(1, height)
        assert await net.balance(1, TO) == 2
        blocks = [await net.nodes[each].chain.ledger.block(height) for each in (0, 1)]
        assert blocks[0].digest() == blocks[1].digest()
        # It goes on where it was, after a restart, and so do roots that are computed here.
        await net.stop(1)
        for _ in range(4):
            height = await pay(net)
        await net.start(1)
        await net.reached(1, height)
        assert await net.balance(1, TO) == 6
        assert net.nodes[1].chain.ledger.tip_header.root_height > manifest.height
        await every_block_is_proven(net, 1, height, manifest.height)


@pytest.mark.parametrize("used", [False, True])
async def test_a_validator_that_begins_with_a_snapshot_votes_only_two_epochs_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: bool
) -> None:
    lives = Lives(monkeypatch)
    folder = SnapshotFolder(tmp_path / "snapshots")
    weights = (100, 1, 1, 1)
    async with network(tmp_path, weights=weights, begin=False, founded=True, epoch_blocks=40) as net:
        said = overhear(net.validators[3].node_id, monkeypatch)
        manifest = await take(net, folder)
        await restore(net, 3, folder, manifest)
        if used:
            (tmp_path / "unused-3").unlink()
        node = await net.start(3)
        assert isinstance(node.engine.life, Follower) and not node.engine.status().producing
        await net.reached(3, await pay(net))
        if used:
            await said.until(lambda: bool(said.standings))
        standing = await read_standing(net.stores[3], None, keeps_log=True)
        assert standing.votes_from is not None and standing.votes_from >= manifest.epoch + 2
        said.epochs.clear()
        while net.nodes[0].engine.life.epoch < standing.votes_from:
            await pay(net)
        await lives.wait_for(node.engine, Follower, Validator)
        await net.reached(3, await pay(net))
        await said.until(lambda: bool(said.epochs))
        assert min(said.epochs) >= standing.votes_from and node.engine.status().producing
