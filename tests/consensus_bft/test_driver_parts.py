"""The parts of bft's driver, each alone: disk, timers, network, questions, what a leader places."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from supervm.contracts.application import BlockBounds, Tip
from supervm.contracts.storage import DiskFull, Durability, Put, StoreCorrupt
from supervm.contracts.transport import Refusal, Unreachable
from supervm.plugins.consensus.bft.batch_records import Locked, UsedUp
from supervm.plugins.consensus.bft.branches import Branches
from supervm.plugins.consensus.bft.claims import Claim
from supervm.plugins.consensus.bft.driver import posting, receiving
from supervm.plugins.consensus.bft.driver.asking import AGAIN_S, QUESTIONS_MAX, Questions
from supervm.plugins.consensus.bft.driver.journal import LOCKS, ORDERING, Disk, Journal, read_records
from supervm.plugins.consensus.bft.driver.posting import METHODS, Post, pack, unpack
from supervm.plugins.consensus.bft.driver.receiving import Reception
from supervm.plugins.consensus.bft.driver.shortening import LockRows, OrderingRows
from supervm.plugins.consensus.bft.driver.timers import Timers
from supervm.plugins.consensus.bft.driver.waiting import WaitingCertificates
from supervm.plugins.consensus.bft.events import Stream
from supervm.plugins.consensus.bft.fetching import Absent, Get, Got, WantDigest, What
from supervm.plugins.consensus.bft.messages import ViewVote, encode
from supervm.plugins.consensus.bft.records import Nullified
from supervm.plugins.storage import supervm_components as stores
from supervm.testing.context import component_context, opened
from supervm.types.batch import batch_header
from supervm.types.certificate import BatchCertificate, VoteKind
from supervm.types.errors import DecodeError

PEER, OTHER = b"\x01" * 32, b"\x02" * 32
MEMORY = next(each for each in stores() if each.name == "memory")


def nullify(view: int) -> Nullified:
    return Nullified(ViewVote(VoteKind.NULLIFY, 1, view, bytes(32), 0, b"s" * 64))


class SlowStore:
    """A store whose writes wait to be let through, and may fail."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.let = trio.Event()
        self.errors: list[Exception] = []
        self.levels: list[Durability] = []

    async def write(self, batch: Sequence[Any], durability: Durability = Durability.DURABLE) -> None:
        await self.let.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.levels.append(durability)
        await self.inner.write(batch, durability)


@asynccontextmanager
async def slow_disk(folder: Path) -> AsyncIterator[tuple[SlowStore, Disk]]:
    """A disk that runs, over a store whose writes wait."""
    async with component_context(folder) as ctx, opened(MEMORY, folder / "store") as inner:
        store = SlowStore(inner)
        disk = Disk(ctx, store)  # type: ignore[arg-type]
        ctx.nursery.start_soon(disk.run)
        yield store, disk


# Disk


async def test_nothing_is_durable_before_the_store_says_so_and_records_come_back_in_order(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with slow_disk(tmp_path) as (store, disk):
        told: list[int] = []
        journal = Journal(disk, ORDERING, 1, told.append)
        for number in range(1, 4):
            journal.append(number, nullify(number))
        await trio.testing.wait_all_tasks_blocked()
        assert told == []
        store.let.set()
        await trio.testing.wait_all_tasks_blocked()
        assert told == [3]
        found = await read_records(store.inner, ORDERING, 1)
        assert found == [(number, nullify(number)) for number in range(1, 4)]
        assert await read_records(store.inner, ORDERING, 2) == []


async def test_while_the_disk_is_full_nothing_becomes_durable_and_then_it_goes_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with slow_disk(tmp_path) as (store, disk):
        store.let.set()
        store.errors = [DiskFull("full"), DiskFull("full")]
        told: list[int] = []
        Journal(disk, LOCKS, 1, told.append).append(1, nullify(1))
        await trio.sleep(0.5)
        assert told == []
        assert "full" in disk.stalled
        await trio.sleep(5)
        assert told == [1]
        assert disk.stalled == ""


async def test_a_group_that_waits_long_for_the_disk_is_told_of_until_it_is_through(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with slow_disk(tmp_path) as (store, disk):
        journal = Journal(disk, LOCKS, 1, lambda number: None)
        journal.append(1, nullify(1))
        await trio.sleep(4)
        assert disk.stalled == ""
        journal.append(2, nullify(2))
        await trio.sleep(2)
        assert "slow" in disk.stalled and "6 s" in disk.stalled
        store.let.set()
        await trio.testing.wait_all_tasks_blocked()
        assert disk.stalled == ""
        await trio.sleep(60)
        assert disk.stalled == "", "nothing waits"


async def test_the_wait_behind_another_group_counts(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with slow_disk(tmp_path) as (store, disk):
        journal = Journal(disk, LOCKS, 1, lambda number: None)
        journal.append(1, nullify(1))
        await trio.sleep(1)
        journal.append(2, nullify(2))
        await trio.sleep(3)
        let, store.let = store.let, trio.Event()
        let.set()
        await trio.sleep(1.5)
        assert disk.stalled == ""
        await trio.sleep(1)
        assert "slow" in disk.stalled


async def test_a_damaged_record_is_named_and_not_read(tmp_path: Path) -> None:
    async with component_context(tmp_path) as ctx, opened(MEMORY, tmp_path / "store") as store:
        disk = Disk(ctx, store)
        ctx.nursery.start_soon(disk.run)
        Journal(disk, ORDERING, 1, lambda number: None).append(1, nullify(1))
        await trio.testing.wait_all_tasks_blocked()
        async for key, value in store.scan_prefix(ORDERING):
            await store.write([Put(key, value[:-1] + bytes((value[-1] ^ 1,)))])
        with pytest.raises(StoreCorrupt):
            await read_records(store, ORDERING, 1)


async def test_records_of_past_views_and_of_used_up_locks_leave_the_log(tmp_path: Path) -> None:
    async with component_context(tmp_path) as ctx, opened(MEMORY, tmp_path / "store") as store:
        disk = Disk(ctx, store)
        ctx.nursery.start_soon(disk.run)
        ordering = Journal(disk, ORDERING, 1, lambda number: None)
        rows = OrderingRows(ordering)
        for view in (1, 2, 3):
            rows.logged(ordering.append(view, nullify(view)), nullify(view))
        rows.committed(3)
        locks = Journal(disk, LOCKS, 1, lambda number: None)
        claims = tuple(Claim(bytes((1 + at,)) * 32, (b"\x01" + bytes((at,)) * 40,)) for at in range(3))
        kept = LockRows(locks, {each.transaction: each for each in claims}.get)
        records = [
            Locked(b"a" * 32, PEER, True, claims[:2]),
            Locked(b"b" * 32, PEER, False, claims[2:]),
            UsedUp(1, (b"a" * 32,), claims[0].slots, (claims[0].transaction,)),
            UsedUp(2, (), claims[1].slots, (claims[1].transaction,)),
            Locked(b"c" * 32, PEER, False, (claims[0],), (b"e" * 32,)),
            UsedUp(3, (), (*claims[2].slots, *claims[0].slots), ()),
        ]
        proven = Locked(b"c" * 32, PEER, False, (), (b"e" * 32,))
        for number, record in enumerate(records, 1):
            kept.logged(locks.append(number, record), record)
        await trio.testing.wait_all_tasks_blocked()
        assert [row for row, _ in await read_records(store, ORDERING, 1)] == [3]
        # Who was proven to equivocate is known to the epoch's end; blocks keep what batches they held.
        assert await read_records(store, LOCKS, 1) == [
            (3, UsedUp(1, (b"a" * 32,), (), ())),
            (4, UsedUp(2, (), (), ())),
            (5, proven),
            (6, UsedUp(3, (), (), ())),
        ]


# Timers


async def test_a_timer_fires_once_a_replaced_or_cancelled_one_never(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with component_context(tmp_path) as ctx:
        fired: list[tuple[str, float]] = []
        timers = Timers(ctx, lambda name: fired.append((name, round(trio.current_time() - start, 3))))
        start = trio.current_time()
        ctx.nursery.start_soon(timers.run)
        timers.set("late", 5_000_000)
        timers.set("gone", 1_000_000)
        await trio.sleep(0.1)
        timers.set("early", 200_000)
        timers.set("late", 1_900_000)
        timers.cancel("gone")
        await trio.sleep(10)
        assert fired == [("early", 0.3), ("late", 2.0)]


# Network


class Wire:
    """A transport that keeps what it is asked, and answers when it is let."""

    def __init__(self) -> None:
        self.let = trio.Event()
        self.sent: list[tuple[bytes, int, list[bytes]]] = []
        self.reachable = True

    async def request(self, peer: bytes, method: int, payload: bytes, **how: Any) -> bytes:
        await self.tell(peer, method, payload)
        await self.let.wait()
        return b""

    async def tell(self, peer: bytes, method: int, payload: bytes, **how: Any) -> None:
        await trio.lowlevel.checkpoint()
        if not self.reachable:
            raise Unreachable("away", peer)
        self.sent.append((peer, method, unpack(payload)))


async def test_a_queue_at_its_bound_loses_its_oldest_and_the_streams_dont_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posting, "QUEUE_FRAMES_MAX", 3)
    monkeypatch.setattr(posting, "UNDER_WAY_MAX", 1)
    async with component_context(tmp_path) as ctx:
        wire = Wire()
        post = Post(ctx, (PEER,))
        post.transports = (wire,)  # type: ignore[assignment]
        ctx.nursery.start_soon(post.run)
        post.put(PEER, Stream.BULK, b"first")
        await trio.testing.wait_all_tasks_blocked()
        for at in range(5):
            post.put(PEER, Stream.BULK, b"%d" % at)
        post.put(PEER, Stream.VOTES, b"vote")
        await trio.testing.wait_all_tasks_blocked()
        assert (PEER, METHODS[Stream.VOTES], [b"vote"]) in wire.sent
        wire.let.set()
        await trio.testing.wait_all_tasks_blocked()
        assert wire.sent[-1] == (PEER, METHODS[Stream.BULK], [b"2", b"3", b"4"])


async def test_what_is_for_a_peer_that_is_away_is_lost_and_later_messages_reach_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with component_context(tmp_path) as ctx:
        wire = Wire()
        wire.let.set()
        wire.reachable = False
        post = Post(ctx, (PEER,))
        post.transports = (wire,)  # type: ignore[assignment]
        ctx.nursery.start_soon(post.run)
        post.put(PEER, Stream.VOTES, b"lost")
        await trio.sleep(1)
        wire.reachable = True
        post.put(PEER, Stream.VOTES, b"heard")
        await trio.sleep(1)
        assert wire.sent == [(PEER, METHODS[Stream.VOTES], [b"heard"])]


async def test_what_is_late_travels_with_the_next_message_or_alone_after_a_while(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with component_context(tmp_path) as ctx:
        wire = Wire()
        wire.let.set()
        post = Post(ctx, (PEER,))
        post.transports = (wire,)  # type: ignore[assignment]
        ctx.nursery.start_soon(post.run)
        votes = METHODS[Stream.VOTES]
        post.put(PEER, Stream.VOTES, b"late", late=True)
        await trio.sleep(posting.LATE_S / 2)
        assert wire.sent == []
        post.put(PEER, Stream.VOTES, b"now")
        await trio.sleep(posting.LATE_S / 4)
        assert wire.sent == [(PEER, votes, [b"late", b"now"])]
        post.put(PEER, Stream.VOTES, b"alone", late=True)
        await trio.sleep(posting.LATE_S / 2)
        assert len(wire.sent) == 1
        await trio.sleep(posting.LATE_S)
        assert wire.sent[1:] == [(PEER, votes, [b"alone"])]


VOTE = encode(ViewVote(VoteKind.NULLIFY, 1, 1, bytes(32), 0, b"s" * 64))


async def test_only_validators_are_heard_on_the_right_stream_within_their_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "SHARE_MESSAGES_MAX", 2)
    async with component_context(tmp_path) as ctx:
        reception = Reception(ctx, (PEER, OTHER))
        votes, bulk = (reception._handler(stream) for stream in (Stream.VOTES, Stream.BULK))
        with pytest.raises(Refusal, match="UNAUTHORIZED"):
            await votes(b"\x09" * 32, pack([VOTE]))
        with pytest.raises(Refusal, match="BAD_REQUEST"):
            await bulk(PEER, pack([VOTE]))
        await votes(PEER, pack([VOTE, VOTE]))
        with pytest.raises(Refusal, match="OVERLOADED"):
            await votes(PEER, pack([VOTE]))
        await votes(OTHER, pack([VOTE]))
        taken = await reception.inboxes[Stream.VOTES].take(10, 1_000_000)
        assert [each.peer for each in taken] == [PEER, OTHER, PEER]
        await votes(PEER, pack([VOTE]))


async def test_guests_may_ask_for_blocks_and_answer_only_what_they_are_asked_and_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "GUESTS_MAX", 1)
    guest = b"\x08" * 32
    ask = encode(Get((WantDigest(What.BLOCK, b"d" * 32),)))
    async with component_context(tmp_path) as ctx:
        reception = Reception(ctx, (PEER, OTHER))
        votes, bulk = (reception._handler(stream) for stream in (Stream.VOTES, Stream.BULK))
        assert reception.come(guest) and not reception.come(b"\x09" * 32)
        await bulk(guest, pack([ask]))
        with pytest.raises(Refusal, match="OVERLOADED"):
            await bulk(guest, pack([ask] * receiving.GUEST_MESSAGES_MAX))
        with pytest.raises(Refusal, match="UNAUTHORIZED"):
            await votes(guest, pack([VOTE]))
        answer = encode(Got((Absent(WantDigest(What.BLOCK, b"d" * 32)),)))
        with pytest.raises(Refusal, match="BAD_REQUEST"):
            await bulk(guest, pack([answer]))
        reception.asked = frozenset((guest,))
        await bulk(guest, pack([answer]))
        reception.leave(guest)
        with pytest.raises(Refusal, match="UNAUTHORIZED"):
            await bulk(guest, pack([ask]))


async def test_who_sends_too_much_garbage_isnt_heard_for_a_while(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with component_context(tmp_path) as ctx:
        reception = Reception(ctx, (PEER, OTHER))
        votes = reception._handler(Stream.VOTES)
        for _ in range(receiving.FAULTS_MAX):
            with pytest.raises(Refusal, match="BAD_REQUEST"):
                await votes(PEER, pack([b"\xffgarbage"]))
        with pytest.raises(Refusal, match="POLICY_REFUSED"):
            await votes(PEER, pack([VOTE]))
        await votes(OTHER, pack([VOTE]))
        await trio.sleep(receiving.DEAF_S + 1)
        await votes(PEER, pack([VOTE]))


def test_a_parcel_has_one_encoding_and_a_bound() -> None:
    assert unpack(pack([b"a", b"bc"])) == [b"a", b"bc"]
    for bad in (b"", pack([b"a"]) + b"\x00", pack([b"a" * 2])[:-1]):
        with pytest.raises(DecodeError):
            unpack(bad)
    with pytest.raises(DecodeError):
        unpack(pack([b"a"] * (posting.PARCEL_FRAMES_MAX + 1)))


# Questions


async def test_a_question_is_asked_of_one_after_the_other_until_it_isnt_wanted(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with component_context(tmp_path) as ctx:
        asked: list[tuple[bytes, Get]] = []
        questions = Questions(ctx, (PEER, OTHER), lambda peer, get: asked.append((peer, get)))
        ctx.nursery.start_soon(questions.run)
        want = WantDigest(What.BATCH, b"d" * 32)
        wanted = [True]
        questions.keep_asking(want, (OTHER,), lambda: wanted[0])
        questions.keep_asking(want, (OTHER,), lambda: True)
        await trio.sleep(AGAIN_S * 4)
        assert {peer for peer, _ in asked} == {PEER, OTHER}
        assert asked[0] == (OTHER, Get((want,)))
        assert 3 <= len(asked) <= 5
        wanted[0] = False
        before = len(asked)
        await trio.sleep(AGAIN_S * 4)
        assert (len(asked), len(questions)) == (before, 0)


async def test_questions_beyond_the_bound_push_out_the_oldest(tmp_path: Path) -> None:
    async with component_context(tmp_path) as ctx:
        questions = Questions(ctx, (PEER,), lambda peer, get: None)
        for at in range(QUESTIONS_MAX + 5):
            questions.keep_asking(WantDigest(What.BATCH, at.to_bytes(32, "big")), (), lambda: True)
        assert len(questions) == QUESTIONS_MAX


# What a leader places


def certificate(builder: int, sequence: int, after: Sequence[bytes] = (), gas: int = 10) -> BatchCertificate:
    header = batch_header(
        chain_id=b"c" * 32,
        epoch=1,
        builder=bytes((builder,)) * 32,
        sequence=sequence,
        transactions=(b"t%d %d" % (builder, sequence),),
        gas=gas,
        attempt=0,
        after=after,
    )
    return BatchCertificate(header, b"b" * 64, b"\x07", (b"1" * 64, b"2" * 64, b"3" * 64))


def test_builders_take_turns_and_a_past_stands_before_what_rests_on_it() -> None:
    many = [certificate(1, at) for at in range(6)]
    rests = certificate(2, 0, [many[0].header.digest()])
    waiting = [rests, *many]
    bounds = BlockBounds(gas_max=40, bytes_max=10_000, transactions_max=100, batch_gas_floor=1)
    base = Tip(height=0, digest=b"g" * 32, epoch=0, timestamp_ms=0, root_height=0, state_root=bytes(32))
    branch = Branches(base, frozenset({many[5].header.digest()}), frozenset()).branch(base.digest)
    pool = WaitingCertificates(lambda: waiting, bounds)
    assert pool.waits(branch, True)
    assert not pool.waits(branch, False)
    assert pool.pick(branch, False).certificates == ()
    assert pool.pick(branch, True).certificates == (many[0], rests, many[1], many[2])
    assert not WaitingCertificates(lambda: many[5:], bounds).waits(branch, True)
