"""Batches that left a validator's memory: the driver finds them in the log (CONS-2, CONS-60)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from supervm.contracts.storage import Durability, Put
from supervm.plugins.consensus.bft.batch_records import HeldBatch
from supervm.plugins.consensus.bft.driver.journal import LOCKS, Disk, Journal, record_key, scan_records
from supervm.plugins.consensus.bft.driver.rereading import LoggedBatches
from supervm.plugins.consensus.bft.driver.shortening import LockRows
from supervm.plugins.consensus.bft.events import Stream
from supervm.plugins.consensus.bft.fetching import Get, Got, WantDigest, What
from supervm.plugins.consensus.bft.holding import HeldBatches
from supervm.plugins.consensus.bft.messages import Accept, decode
from supervm.plugins.storage import supervm_components as stores
from supervm.testing.context import component_context, opened
from supervm.types.batch import Batch, batch_header
from supervm.types.certificate import VoteKind, vote_message
from supervm.types.digests import Digest

from .network import WAIT_S, Network, network
from .test_batches import ALICE, batch_of, claim

MEMORY = next(each for each in stores() if each.name == "memory")
SIGNERS = (b"one", b"two")


class GatedStore:
    """A store whose writes wait until they are let."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.let = trio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def write(self, batch: Sequence[Any], durability: Durability = Durability.DURABLE) -> None:
        await self.let.wait()
        await self._inner.write(batch, durability)


@attrs.define
class Desk:
    """A log, and what came of looking into it."""

    log: LoggedBatches
    journal: Journal
    rows: LockRows
    store: GatedStore
    unwanted: list[Digest]
    came: list[Batch]
    missed: list[tuple[Digest, tuple[bytes, ...]]]

    def append(self, number: int, batch: Batch) -> int:
        row = self.journal.append(number, HeldBatch(batch))
        self.rows.logged(row, HeldBatch(batch))
        return row


def desk_of(ctx: Any, inner: Any) -> Desk:
    store = GatedStore(inner)
    disk = Disk(ctx, store)  # type: ignore[arg-type]
    journal = Journal(disk, LOCKS, 1, lambda number: None)
    rows = LockRows(journal, lambda name: None)
    unwanted: list[Digest] = []
    came: list[Batch] = []
    missed: list[tuple[Digest, tuple[bytes, ...]]] = []
    log = LoggedBatches(
        ctx,
        store,  # type: ignore[arg-type]
        disk,
        1,
        row=rows.content,
        wanted=lambda digest: digest not in unwanted,
        came=came.append,
        missed=lambda digest, peers: missed.append((digest, peers)),
    )
    ctx.nursery.start_soon(disk.run)
    ctx.nursery.start_soon(log.run)
    return Desk(log, journal, rows, store, unwanted, came, missed)


async def test_a_batch_is_found_when_it_is_written_and_what_isnt_there_is_asked_for(tmp_path: Path) -> None:
    async with component_context(tmp_path) as ctx, opened(MEMORY, tmp_path / "store") as inner:
        desk = desk_of(ctx, inner)
        one, two, three = (batch_of([claim(ALICE, each)]) for each in range(3))
        desk.append(1, one)
        desk.append(2, two)
        desk.unwanted.append(two.digest())
        for each in (one, two, three, one):
            desk.log.find(each.digest(), SIGNERS)
        await trio.testing.wait_all_tasks_blocked()
        assert desk.came == [] and desk.missed == [(three.digest(), SIGNERS)]
        desk.store.let.set()
        await trio.testing.wait_all_tasks_blocked()
        assert desk.came == [one] and len(desk.missed) == 1
        assert await desk.log.get(two.digest()) == two
        assert await desk.log.get(three.digest()) is None


@pytest.mark.parametrize("damage", ["flipped", "gone", "another"])
async def test_a_damaged_record_counts_as_not_there(tmp_path: Path, damage: str) -> None:
    async with component_context(tmp_path) as ctx, opened(MEMORY, tmp_path / "store") as inner:
        desk = desk_of(ctx, inner)
        desk.store.let.set()
        one, two = (batch_of([claim(ALICE, each)]) for each in range(2))
        row = desk.append(1, one)
        await trio.testing.wait_all_tasks_blocked()
        key = record_key(LOCKS, 1, row)
        value = await inner.get(key)
        assert value is not None
        if damage == "flipped":
            await inner.write([Put(key, value[:-1] + bytes((value[-1] ^ 1,)))])
        elif damage == "another":
            desk.journal.replace(row, HeldBatch(two))
        else:
            desk.journal.drop([row])
        desk.log.find(one.digest(), SIGNERS)
        await trio.testing.wait_all_tasks_blocked()
        assert desk.came == [] and desk.missed == [(one.digest(), SIGNERS)]


async def test_a_batch_logged_again_stands_in_the_log_once(tmp_path: Path) -> None:
    async with component_context(tmp_path) as ctx, opened(MEMORY, tmp_path / "store") as inner:
        desk = desk_of(ctx, inner)
        desk.store.let.set()
        one = batch_of([claim(ALICE, 0)])
        for number in range(1, 4):
            desk.append(number, one)
        await trio.testing.wait_all_tasks_blocked()
        assert [each async for each in scan_records(inner, LOCKS, 1)] == [(3, HeldBatch(one))]
        assert await desk.log.get(one.digest()) == one


# Whole validators that let every accepted batch go at once


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = HeldBatches.let_go
    monkeypatch.setattr(HeldBatches, "let_go", lambda self, builder, bytes_max: let_go(self, builder, 0))


async def _pay(net: Network, builders: Sequence[int], to: Sequence[int]) -> None:
    """A transfer through each of these builders, in a block at each of the nodes."""
    for builder in builders:
        sent = net.transfer(builder % 4, b"\x07" * 32, 1)
        await net.nodes[builder].chain.submit([sent.data])
        for each in to:
            await net.committed(each, sent.digest)


@pytest.mark.usefixtures("forgetful")
async def test_what_left_memory_is_certified_executed_and_there_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Batch | None] = []
    get = LoggedBatches.get

    async def noted(self: LoggedBatches, digest: Digest) -> Batch | None:
        found.append(await get(self, digest))
        return found[-1]

    monkeypatch.setattr(LoggedBatches, "get", noted)
    async with network(tmp_path) as net:
        await _pay(net, range(4), range(4))
        assert len(found) >= 4 and None not in found
        await net.stop(2)
        await _pay(net, (0, 1), (0, 1, 3))
        await net.start(2)
        await _pay(net, (2, 3), range(4))
        await net.agree(min(node.height for node in net.nodes.values()))


class DamagedStore:
    """A store in which no batch of the log can be read by itself."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.read = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def get(self, key: bytes) -> bytes | None:
        value: bytes | None = await self._inner.get(key)
        if value is None or not key.startswith(LOCKS + b"r"):
            return value
        self.read += 1
        return value[:-1] + bytes((value[-1] ^ 1,))


@pytest.mark.usefixtures("forgetful")
async def test_who_cant_read_its_log_gets_the_batches_from_the_others(tmp_path: Path) -> None:
    async with network(tmp_path, begin=False) as net:
        damaged = DamagedStore(net.stores[0])
        net.stores[0] = damaged  # type: ignore[call-overload]
        for number in range(4):
            await net.start(number)
        await _pay(net, range(4), range(4))
        assert damaged.read > 0


@pytest.mark.usefixtures("forgetful")
async def test_a_peer_is_answered_with_what_left_memory(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        validator = net.nodes[0].engine._validator
        assert validator is not None
        accepted, answered = trio.Event(), trio.Event()
        answers: list[Got] = []

        def post(peer: bytes, stream: Stream, frame: bytes, late: bool) -> None:
            if peer == batch.header.builder and isinstance(decode(frame), Accept):
                accepted.set()

        def answer(peer: bytes, got: Got) -> None:
            answers.append(got)
            answered.set()

        batch = _batch_by(net, 1)
        validator._core._hands.post = post
        validator._answers._answer = answer
        validator._deliver(batch.header.builder, batch)
        with trio.fail_after(WAIT_S):
            await accepted.wait()
            assert validator._voter.batch(batch.digest()) is None
            validator._deliver(batch.header.builder, Get((WantDigest(What.BATCH, batch.digest()),)))
            await answered.wait()
        assert answers == [Got((batch,))]


def _batch_by(net: Network, number: int) -> Batch:
    """A batch that one validator sends to no other: nobody will certify it."""
    pair, data = net.validators[number], net.transfer(0, b"\x07" * 32, 1).data
    header = batch_header(
        chain_id=net.genesis.chain_id,
        epoch=1,
        builder=pair.node_id,
        sequence=2**60,
        attempt=0,
        after=(),
        transactions=(data,),
        gas=net.nodes[number].chain.measure((data,)).gas,
    )
    said = vote_message(net.genesis.chain_id, 1, VoteKind.BATCH, 0, header.digest())
    return Batch(header, pair.sign(said), (data,))
