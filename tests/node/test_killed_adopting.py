"""A node that is killed while it begins with a snapshot of peers has one chain or the other (CONS-62, 67)."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from supervm.chain.incoming import INCOMING, Incoming
from supervm.contracts.storage import Durability, Put
from supervm.crypto.keys import KeyPair
from supervm.plugins.consensus.bft.driver.founding import LOST, WHOLE, read_standing
from supervm.storage import snapshot_restore
from supervm.storage.snapshot_chunks import Entry, encode_row, encode_table
from supervm.storage.snapshot_format import Manifest
from supervm.storage.snapshot_restore import FolderSource
from supervm.types.handover import HandOver
from tests.consensus_bft.network import Network, network
from tests.consensus_bft.test_restocking import grow
from tests.node.killed_adopting import BACKEND, begin, facts_of, store_in
from tests.storage.ledger_support import rows_of

ROOT = Path(__file__).parents[2]
STATE_AT = 6
KEY, UNUSED = "identity.json", "identity.unused"
HEIGHT = 25
LIMIT_S = 280


@attrs.frozen
class Waiting:
    """A validator's data folder in which a snapshot waits, and which store it has."""

    data: Path
    manifest: Manifest
    handovers: tuple[HandOver, ...]
    maker: KeyPair
    old: dict[str, Any]


@pytest.fixture(scope="module")
def made() -> list[Waiting]:
    """The first test makes it, the others copy it."""
    return []


@pytest.fixture
async def waiting(tmp_path: Path, made: list[Waiting], tmp_path_factory: pytest.TempPathFactory) -> Waiting:
    """The second validator has a chain and a log; the first one's snapshot is here, with its hand-overs."""
    if not made:
        folder = tmp_path_factory.mktemp("template")
        async with network(folder, weights=(100, 1, 1, 1), begin=False, founded=True, epoch_blocks=10) as net:
            made.append(await _made(folder / "data", net))
    shutil.copytree(made[0].data, tmp_path / "data")
    return attrs.evolve(made[0], data=tmp_path / "data")


async def _made(data: Path, net: Network) -> Waiting:
    manifest, _ = await grow(net, (0, 1), HEIGHT)
    keeper = net.nodes[0].chain.snapshots
    assert keeper is not None and manifest.epoch >= 2
    source, incoming = FolderSource(keeper.folder), Incoming(data / INCOMING)
    handovers = (await net.nodes[0].chain.handovers(1, 64))[: manifest.anchor_header.epoch - 1]
    with incoming.folder.writing():
        for section in manifest.sections:
            for table in section.tables:
                incoming.folder.put(await source.blob(table))
                for entry in await snapshot_restore._table(table, source):
                    incoming.folder.put(await source.blob(entry.digest))
    incoming.finish(manifest, handovers)
    await net.stop(1)
    (data / KEY).write_text("a key")
    (data / "genesis").write_bytes(net.genesis.encode())
    rows = await rows_of(net.stores[1])
    async with store_in(data / "storage" / BACKEND) as store:
        await store.write([Put(key, value) for key, value in rows.items()], Durability.DURABLE)
        assert await read_standing(store, data / UNUSED, keeps_log=True) == WHOLE
    old = (await facts_of(data))["store"]
    return Waiting(data, manifest, tuple(handovers), net.validators[0], old)


async def contradict(waiting: Waiting) -> None:
    """Its maker has signed a snapshot of another state than the one whose root is in the header."""
    incoming, manifest = Incoming(waiting.data / INCOMING), waiting.manifest
    section = manifest.sections[STATE_AT]
    rows: list[tuple[bytes, bytes]] = []
    for table in section.tables:
        for entry in await snapshot_restore._table(table, incoming):
            rows += await snapshot_restore._rows(section, entry, incoming)
    blob = b"".join([bytes((1, section.section)), *(encode_row(*row) for row in rows[1:])])
    with incoming.folder.writing():
        digest, _ = incoming.folder.put(blob)
        table, _ = incoming.folder.put(encode_table([Entry(digest, len(blob), len(rows) - 1)]))
    other = attrs.evolve(section, rows=len(rows) - 1, size_bytes=len(blob), chunks=1, tables=(table,))
    sections = (*manifest.sections[:STATE_AT], other, *manifest.sections[STATE_AT + 1 :])
    wrong = attrs.evolve(manifest, sections=sections).signed(waiting.maker.public_key, waiting.maker.sign)
    for each in waiting.data.glob(f"{INCOMING}/*.manifest"):
        each.unlink()
    incoming.finish(wrong, waiting.handovers)


def kills(waiting: Waiting, folder: Path, seed: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How it ends where nobody kills it, and what is found after each kill, and in the end."""
    program = [sys.executable, "-m", "tests.node.killed_adopting"]
    done = subprocess.run(
        [*program, str(waiting.data), str(folder / "work"), seed],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    whole, *each = map(json.loads, done.stdout.splitlines())
    assert len(each) >= len(whole["steps"]) // 3 and all(one["killed"] for one in each)
    return whole, each


async def test_killed_before_any_step_it_goes_on_and_neither_chain_nor_log_is_ever_lost(
    tmp_path: Path, waiting: Waiting
) -> None:
    old, height = waiting.old, waiting.manifest.height
    whole, found = kills(waiting, tmp_path, "honest")
    new = whole["store"]
    assert new["height"] == height and whole["aside"] == [old] and not whole["left"]
    assert {"write", "rename", "rmdir", "fsync", "open"} <= set(whole["steps"])
    for one in found:
        then = one["found"]
        # The old store, with the log, is there as it was; in its own place until the new one is whole.
        assert old in (then["store"], *then["aside"]), one
        assert then["store"] in (old, new, None), one
        # However often it was killed it ends as if it had not been, and blames nobody.
        assert {name: one[name] for name in ("store", "aside", "left", "refused")} == {
            name: whole[name] for name in ("store", "aside", "left", "refused")
        }, one
        assert "snapshot_refused" not in one["log"] and "snapshot_lost" not in one["log"]
    places = {json.dumps(one["found"]["store"]) for one in found}
    assert places == {json.dumps(each) for each in (old, new, None)}, "kills came before, between and after"


async def test_with_the_snapshot_its_log_counts_as_lost_whoever_founded_the_one_before(
    waiting: Waiting,
) -> None:
    data = waiting.data
    await begin(data)
    assert (data / KEY).read_text() == "a key"
    (aside,) = (each for each in (data / "storage").iterdir() if each.name != BACKEND)
    async with store_in(data / "storage" / BACKEND) as store:
        assert await read_standing(store, data / UNUSED, keeps_log=False) == LOST
    async with store_in(aside) as store:
        assert await read_standing(store, data / UNUSED, keeps_log=False) == WHOLE


async def test_killed_while_it_refuses_a_wrong_one_it_keeps_its_chain_and_names_the_maker(
    tmp_path: Path, waiting: Waiting
) -> None:
    await contradict(waiting)
    old, maker = waiting.old, waiting.manifest.node_id.hex()
    whole, found = kills(waiting, tmp_path, "wrong")
    assert "snapshot_refused" in whole["log"]
    for one in (whole, *found):
        assert (one["store"], one["aside"]) == (old, []), one
        assert (one["left"], one["refused"]) == (["incoming.refused"], [maker]), one
        then = one.get("found", one)
        assert (then["store"], then["aside"]) == (old, []), one


@pytest.mark.parametrize("spoilt", ["chunk", "table", "handovers", "manifest", "gone", "store"])
async def test_what_was_spoilt_here_is_fetched_again_and_blames_no_peer(
    spoilt: str, waiting: Waiting
) -> None:
    incoming = waiting.data / INCOMING
    (table,) = waiting.manifest.sections[STATE_AT].tables
    (entry,) = await snapshot_restore._table(table, Incoming(incoming))
    paths = {
        "chunk": incoming / "chunks" / entry.digest.hex()[:2] / entry.digest.hex(),
        "table": incoming / "chunks" / table.hex()[:2] / table.hex(),
        "handovers": incoming / "handovers",
        "manifest": next(incoming.glob("*.manifest")),
        "store": incoming / "storage" / BACKEND / "store.sqlite",
    }
    if spoilt == "gone":
        paths["chunk"].unlink()
    elif spoilt == "store":
        paths[spoilt].parent.mkdir(parents=True)
        paths[spoilt].write_bytes(b"no store" * 1_000)
    else:
        data = bytearray(paths[spoilt].read_bytes())
        data[len(data) // 2] ^= 1
        paths[spoilt].write_bytes(bytes(data))
    said = await begin(waiting.data)
    assert "snapshot_lost" in said and "snapshot_refused" not in said
    found = await facts_of(waiting.data)
    assert found == {"store": waiting.old, "aside": [], "left": [], "refused": []}


async def test_a_store_that_was_set_aside_before_is_not_in_the_way(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervm.node.adopting.time.time", lambda: 1_700_000_000.0)
    here = waiting.data / "storage"
    shutil.copytree(here / BACKEND, here / f"{BACKEND}.replaced-1700000000")
    await begin(waiting.data)
    found = await facts_of(waiting.data)
    assert found["store"]["height"] == waiting.manifest.height and found["aside"] == [waiting.old] * 2
