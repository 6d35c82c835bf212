"""A store over a backend: flushing, loading, fetching (EXEC-41, EXEC-50, STO-77 to STO-79)."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from supervm.contracts.storage import (
    DiskFull,
    Durability,
    KeyValueStore,
    Operation,
    Put,
    StoreCorrupt,
    StoreFailed,
    StoreTooNew,
)
from supervm.kernel.component import HealthState
from supervm.kernel.context import TrioClock
from supervm.mvcc import (
    BackedConfig,
    BackedStore,
    BadOperand,
    Busy,
    Conflict,
    MvccStore,
    NotFetched,
    PruneRules,
    SnapshotTooOld,
    TransactionTooLarge,
    VersionPruned,
    batch_delete,
    batch_write,
    flush,
    open_backed,
)
from supervm.mvcc.flusher import FlushConfig, Flusher, FlushStats, flushing
from supervm.plugins.storage.memory import memory
from supervm.plugins.storage.sqlite import sqlite
from supervm.storage.spaces import seal
from supervm.testing.context import opened

SMALL = BackedConfig(resident=False, keys_max=8)
ELSEWHERE = BackedConfig(resident=False)


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[KeyValueStore]:
    async with opened(memory, tmp_path) as store:
        yield store


@attrs.define
class Failing:
    """A backend whose writes fail as often as told, and wait at a door."""

    inner: KeyValueStore
    failures: int = 0
    levels: list[Durability] = attrs.Factory(list)
    batches: list[int] = attrs.Factory(list)
    door: trio.Event | None = None
    early: bool = False
    scans: trio.Event | None = None
    reached: trio.Event = attrs.Factory(trio.Event)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def write(self, batch: Sequence[Operation], durability: Durability = Durability.DURABLE) -> None:
        if self.door is not None and self.early:
            self.reached.set()
            await self.door.wait()
        if self.failures:
            self.failures -= 1
            raise DiskFull("no space", "here", "Make room.")
        self.levels.append(durability)
        self.batches.append(len(batch))
        await self.inner.write(batch, durability)
        if self.door is not None and not self.early:
            self.reached.set()
            await self.door.wait()

    async def scan_prefix(self, prefix: bytes) -> AsyncIterator[tuple[bytes, bytes]]:
        """Rows of a view that was taken before the door opened."""
        rows = [row async for row in self.inner.scan_prefix(prefix)]
        if self.scans is not None:
            self.reached.set()
            await self.scans.wait()
        for row in rows:
            yield row


async def everything(store: BackedStore) -> list[tuple[bytes, bytes]]:
    with store.begin_read_only() as txn:
        await txn.fetch(prefix=b"")
        return txn.scan()


async def test_ten_keys_are_flushed_in_one_durable_batch_and_loaded_again(backend: KeyValueStore) -> None:
    watched: Any = Failing(backend)
    store = await open_backed(watched)
    batch_write(store, {b"k%d" % at: b"%d" % at for at in range(10)})
    assert store.dirty_keys() == 10
    done = await flush(store)
    assert (done.keys, done.ts, store.dirty_keys()) == (10, 1, 0) and done.bytes > 10 * 2
    assert watched.levels == [Durability.DURABLE] and watched.batches == [11]
    again = await open_backed(backend)
    assert again.published == 1 and await everything(again) == [(b"k%d" % at, b"%d" % at) for at in range(10)]
    assert again.begin_read_only().read(b"k3") == b"3" and again.begin_read_only().read(b"none") is None


async def test_a_flush_of_unchanged_data_writes_nothing(backend: KeyValueStore) -> None:
    watched: Any = Failing(backend)
    store = await open_backed(watched)
    assert (await flush(store)).keys == 0
    batch_write(store, {b"k": b"1"})
    await flush(store)
    assert (await flush(store)).keys == 0
    assert len(watched.batches) == 1


async def test_only_what_is_dirty_is_written(backend: KeyValueStore) -> None:
    store = await open_backed(backend)
    for at in range(12):
        batch_write(store, {b"k%d" % (at % 4): b"%d" % at})
        if at % 4 == 3:
            assert (await flush(store)).keys == 4
    batch_write(store, {b"k0": b"x"})
    assert (await flush(store)).keys == 1


async def test_a_deletion_reaches_the_backend_and_then_leaves_memory(backend: KeyValueStore) -> None:
    store = await open_backed(backend)
    batch_write(store, {b"k": b"1", b"stays": b"1"})
    await flush(store)
    batch_delete(store, [b"k"])
    store.gc()
    assert store.total_keys() == 2, "a tombstone that isn't flushed must stay"
    await flush(store)
    assert store.total_keys() == 1
    assert await everything(await open_backed(backend)) == [(b"stays", b"1")]


async def test_the_newest_three_of_many_versions_stay_in_memory(backend: KeyValueStore) -> None:
    store = await open_backed(backend)
    for at in range(1, 21):
        batch_write(store, {b"k": b"%d" % at})
    await flush(store, keep_recent_versions=3)
    assert store.stats().versions == 3
    assert [store.read_at(b"k", ts) for ts in (18, 19, 20)] == [b"18", b"19", b"20"]
    with pytest.raises(VersionPruned):
        store.read_at(b"k", 17)


async def test_a_backend_that_refuses_the_batch_has_nothing_of_it_and_the_keys_stay_dirty(
    backend: KeyValueStore,
) -> None:
    failing: Any = Failing(backend)
    store = await open_backed(failing)
    batch_write(store, {b"a": b"1"})
    await flush(store)
    batch_write(store, {b"a": b"2", b"b": b"2"})
    failing.failures = 1
    with pytest.raises(DiskFull):
        await flush(store)
    before = await open_backed(backend)
    assert before.published == 1 and await everything(before) == [(b"a", b"1")]
    assert store.dirty_keys() == 2
    batch_write(store, {b"c": b"3"})
    assert (await flush(store)).keys == 3
    assert await everything(await open_backed(backend)) == [(b"a", b"2"), (b"b", b"2"), (b"c", b"3")]


async def test_what_is_committed_during_a_flush_is_not_in_it_and_stays_dirty(backend: KeyValueStore) -> None:
    watched: Any = Failing(backend, door=trio.Event())
    store = await open_backed(watched)
    batch_write(store, {b"a": b"1", b"b": b"1"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flush, store)
        await watched.reached.wait()
        batch_write(store, {b"a": b"2", b"c": b"2"})
        assert store.dirty_keys() == 2
        watched.door.set()
    torn = await open_backed(backend)
    assert torn.published == 1 and await everything(torn) == [(b"a", b"1"), (b"b", b"1")]
    assert store.dirty_keys() == 2 and (await flush(store)).keys == 2


async def test_a_cancelled_flush_forgets_nothing(backend: KeyValueStore) -> None:
    watched: Any = Failing(backend, door=trio.Event())
    store = await open_backed(watched)
    batch_write(store, {b"a": b"1"})
    with trio.move_on_after(0.01):
        await flush(store)
    assert store.dirty_keys() == 1 and store.stats().open == 0
    watched.door = None
    assert (await flush(store)).keys == 1


@pytest.mark.parametrize("component", [memory, sqlite], ids=lambda component: component.name)
@pytest.mark.parametrize("resident", [True, False])
async def test_a_store_opened_again_is_as_it_was_at_its_last_flush(
    component: Any, resident: bool, tmp_path: Path
) -> None:
    """Random commits, flushes and restarts; what came after the last flush is lost, nothing else."""
    chance = random.Random(7)
    config = BackedConfig(resident=resident, keys_max=30)
    async with opened(component, tmp_path) as backend:
        store = await open_backed(backend, config, rules=PruneRules(versions_max=2))
        now: dict[bytes, bytes] = {}
        flushed, flushed_ts = dict(now), 0
        for _ in range(150):
            key = b"k%d" % chance.randrange(20)
            match chance.randrange(6):
                case 0:
                    flushed_ts = (await flush(store, 2)).ts
                    flushed = dict(now)
                case 1:
                    assert await everything(store) == sorted(now.items())
                case 2:
                    store = await open_backed(backend, config, rules=PruneRules(versions_max=2))
                    assert store.published == flushed_ts
                    now = dict(flushed)
                case 3:
                    batch_delete(store, [key])
                    now.pop(key, None)
                case _:
                    now[key] = b"%d" % chance.randrange(1_000)
                    batch_write(store, {key: now[key]})


async def test_what_was_not_fetched_can_t_be_read_and_what_was_can(backend: KeyValueStore) -> None:
    store = await open_backed(backend)
    batch_write(store, {b"a/%d" % at: b"%d" % at for at in range(20)})
    await flush(store)
    store = await open_backed(backend, ELSEWHERE)
    assert store.total_keys() == 0
    with store.begin() as txn:
        for call in (
            lambda: txn.read(b"a/1"),
            lambda: txn.scan(b"a/"),
            lambda: txn.read_many([b"a/1"]),
            lambda: store.read_at(b"a/1", 1),
        ):
            with pytest.raises(NotFetched):
                call()
        assert txn.read_set() == frozenset()
        await txn.fetch([b"a/1", b"a/2", b"a/1", b"none"])
        assert txn.read_many([b"a/1", b"a/2", b"none"]) == [b"1", b"2", None]
        with pytest.raises(NotFetched):
            txn.read(b"a/3")
        await txn.fetch(prefix=b"a/1")
        assert txn.scan(b"a/1", 3) == [(b"a/1", b"1"), (b"a/10", b"10"), (b"a/11", b"11")]
        assert txn.scan(b"a/1")[-1] == (b"a/19", b"19") and txn.read(b"a/1999") is None
        for wider in (b"a/", b""):
            with pytest.raises(NotFetched):
                txn.scan(wider)
        txn.write(b"blind", b"1")
        assert txn.read(b"blind") == b"1"
        assert txn.commit() == 2
    other = store.begin_read_only()
    with pytest.raises(NotFetched):
        other.read(b"a/1")


async def test_fetched_reads_and_ranges_are_validated(backend: KeyValueStore) -> None:
    store = await open_backed(backend)
    batch_write(store, {b"a/%d" % at: b"%d" % at for at in range(5)})
    await flush(store)
    store = await open_backed(backend, ELSEWHERE)
    for disturb in ({b"a/1": b"x"}, {b"a/new": b"x"}):
        txn = store.begin()
        await txn.fetch([b"a/1"], prefix=b"a/")
        txn.read(b"a/1")
        txn.scan(b"a/")
        txn.write(b"sum", b"")
        batch_write(store, disturb)
        with pytest.raises(Conflict):
            txn.commit()
    batch_delete(store, [b"a/new"])
    txn = store.begin()
    await txn.fetch(prefix=b"a/")
    assert [key for key, _ in txn.scan(b"a/")] == [b"a/%d" % at for at in range(5)]


async def test_a_fetched_range_goes_on_as_it_was_while_others_write_into_it_blindly(
    backend: KeyValueStore,
) -> None:
    store = await open_backed(backend, ELSEWHERE)
    batch_write(store, {b"a/1": b"1"})
    reader = store.begin_read_only()
    await reader.fetch(prefix=b"a/")
    batch_write(store, {b"a/2": b"new", b"a/1": b"changed"})
    await flush(store)
    assert reader.scan(b"a/") == [(b"a/1", b"1")]
    assert reader.read(b"a/2") is None


async def test_a_key_that_another_wrote_unread_before_the_fetch_is_too_old(
    backend: KeyValueStore,
) -> None:
    store = await open_backed(backend)
    batch_write(store, {b"k": b"1"})
    await flush(store)
    store = await open_backed(backend, ELSEWHERE)
    txn = store.begin_read_only()
    batch_write(store, {b"k": b"2"})
    with pytest.raises(SnapshotTooOld) as caught:
        await txn.fetch([b"k"])
    assert caught.value.retryable
    with pytest.raises(SnapshotTooOld):
        await txn.fetch(prefix=b"k")
    with store.begin_read_only() as fresh:
        await fresh.fetch([b"k"])
        assert fresh.read(b"k") == b"2"


async def test_memory_holds_no_more_than_its_bound_and_says_when_it_is_full(
    backend: KeyValueStore,
) -> None:
    filler = await open_backed(backend)
    batch_write(filler, {b"k%03d" % at: b"%d" % at for at in range(100)})
    await flush(filler)
    store = await open_backed(backend, SMALL)
    for at in range(0, 100, 4):
        with store.begin_read_only() as txn:
            await txn.fetch([b"k%03d" % (at + more) for more in range(4)])
            assert txn.read(b"k%03d" % at) == b"%d" % at
        assert store.total_keys() <= 8
    holding = store.begin()
    await holding.fetch([b"k%03d" % at for at in range(8)])
    with store.begin() as txn, pytest.raises(Busy) as caught:
        await txn.fetch([b"k050"])
    assert caught.value.retryable
    assert holding.read_many([b"k%03d" % at for at in range(8)]) == [b"%d" % at for at in range(8)]
    holding.abort()
    with store.begin() as txn:
        await txn.fetch([b"k050"])
        assert txn.read(b"k050") == b"50"
        with pytest.raises(Busy):
            await txn.fetch(prefix=b"k")


async def test_what_is_not_flushed_is_never_put_out_of_memory(backend: KeyValueStore) -> None:
    store = await open_backed(backend, SMALL)
    batch_write(store, {b"k%d" % at: b"%d" % at for at in range(20)})
    with store.begin() as txn, pytest.raises(Busy):
        await txn.fetch([b"other"])
    await flush(store)
    assert store.total_keys() <= 8
    with store.begin() as txn:
        await txn.fetch([b"k0", b"k19", b"other"])
        assert txn.read_many([b"k0", b"k19", b"other"]) == [b"0", b"19", None]


async def test_an_open_snapshot_keeps_what_it_may_still_fetch_as_it_was(backend: KeyValueStore) -> None:
    """A key that was changed and flushed after a snapshot began stays in memory with its past."""
    store = await open_backed(backend, SMALL)
    batch_write(store, {b"k": b"1"})
    reader = store.begin_read_only()
    batch_write(store, {b"k": b"2"})
    await flush(store)
    for at in range(30):
        with store.begin() as txn:
            await txn.fetch([b"x%d" % at])
    assert store.total_keys() <= 8
    await reader.fetch([b"k"])
    assert reader.read(b"k") == b"1"


async def test_an_older_snapshot_may_fetch_what_a_newer_one_could_too(backend: KeyValueStore) -> None:
    filler = await open_backed(backend)
    batch_write(filler, {b"k": b"1"})
    await flush(filler)
    store = await open_backed(backend, ELSEWHERE)
    older = store.begin_read_only()
    batch_write(store, {b"other": b"1"})
    newer = store.begin_read_only()
    await newer.fetch([b"k"])
    await older.fetch([b"k"])
    assert older.read(b"k") == newer.read(b"k") == b"1"


async def test_a_deleted_row_doesn_t_come_back_through_a_fetch_that_was_under_way(
    backend: KeyValueStore,
) -> None:
    watched: Any = Failing(backend)
    store = await open_backed(watched, ELSEWHERE)
    batch_write(store, {b"a/k": b"1", b"a/l": b"1"})
    await flush(store)
    batch_delete(store, [b"a/k"])
    txn = store.begin_read_only()
    watched.scans = trio.Event()
    async with trio.open_nursery() as nursery:

        async def fetch() -> None:
            await txn.fetch(prefix=b"a/")

        nursery.start_soon(fetch)
        await watched.reached.wait()
        await flush(store)
        store.gc()
        watched.scans.set()
    assert txn.scan(b"a/") == [(b"a/l", b"1")]


async def test_a_deleted_key_that_was_fetched_stays_known_to_be_absent(backend: KeyValueStore) -> None:
    store = await open_backed(backend, ELSEWHERE)
    batch_write(store, {b"k": b"1"})
    batch_delete(store, [b"k"])
    with store.begin() as txn:
        await txn.fetch([b"k"])
        await flush(store)
        store.gc()
        assert txn.read(b"k") is None


async def test_what_was_fetched_after_commits_and_then_displaced_is_still_read(
    backend: KeyValueStore,
) -> None:
    store = await open_backed(backend, ELSEWHERE)
    batch_write(store, {b"k": b"1"})
    await flush(store)
    store = await open_backed(backend, ELSEWHERE)
    batch_write(store, {b"other": b"1"})
    with store.begin() as txn:
        await txn.fetch([b"k"])
        batch_write(store, {b"k": b"2"})
        assert txn.read(b"k") == b"1"


async def test_what_was_overwritten_unread_is_not_counted(backend: KeyValueStore) -> None:
    store = await open_backed(backend, ELSEWHERE)
    batch_write(store, {b"k": b"1"})
    assert store.stats().versions == store.total_keys() == 1
    batch_write(store, {b"k": b"2"})
    assert store.stats().versions == 2


async def test_a_deletion_that_is_in_the_log_only_is_not_forgotten(backend: KeyValueStore) -> None:
    """Commits that prune don't fold the whole log first."""
    store = await open_backed(backend, ELSEWHERE)
    batch_write(store, {b"k": b"1"})
    await flush(store)
    batch_delete(store, [b"k"])
    with store._lock:
        cycle = store._begin_cycle(store._rules)
        cycle.slice_locked(100)
    assert cycle.keys == (b"k",) and store.total_keys() == 1
    with store.begin() as txn:
        await txn.fetch([b"k"])
        assert txn.read(b"k") is None, "the backend's value, although its deletion was committed"


async def test_what_is_being_flushed_stays_in_memory_until_it_is(backend: KeyValueStore) -> None:
    failing: Any = Failing(backend, failures=1, door=trio.Event(), early=True)
    store = await open_backed(failing, SMALL)
    batch_write(store, {b"k%d" % at: b"%d" % at for at in range(8)})
    async with trio.open_nursery() as nursery:

        async def fail() -> None:
            with pytest.raises(DiskFull):
                await flush(store)

        nursery.start_soon(fail)
        await failing.reached.wait()
        with store.begin() as txn, pytest.raises(Busy):
            await txn.fetch([b"other"])
        failing.door.set()
    with store.begin() as txn:
        await txn.fetch([b"k%d" % at for at in range(8)])
        assert txn.read(b"k7") == b"7"


async def test_a_loaded_store_says_that_it_doesn_t_know_what_was_before(backend: KeyValueStore) -> None:
    store = await open_backed(backend)
    for at in range(3):
        batch_write(store, {b"k": b"%d" % at})
    again = await reopened(store)
    for key in (b"k", b"none"):
        with pytest.raises(VersionPruned):
            again.read_at(key, 2)
    assert (again.read_at(b"k", 3), again.read_at(b"none", 3)) == (b"2", None)


async def test_random_fetching_transactions_agree_with_a_store_that_holds_everything(
    backend: KeyValueStore,
) -> None:
    chance = random.Random(3)
    config = BackedConfig(resident=False, keys_max=16)
    store = await open_backed(backend, config, rules=PruneRules(versions_max=2))
    whole = MvccStore()
    keys = [b"%s/%d" % (part, at) for part in (b"a", b"b") for at in range(10)]
    refused = 0
    for _ in range(400):
        if chance.random() < 0.2:
            await flush(store)
        ours, judge = store.begin(), whole.begin()
        try:
            wanted = chance.sample(keys, 3)
            await ours.fetch(wanted)
            if chance.random() < 0.3:
                await ours.fetch(prefix=b"a/")
                assert ours.scan(b"a/") == judge.scan(b"a/")
        except Busy:
            refused += 1
            ours.abort()
            await flush(store)
            continue
        assert ours.read_many(wanted) == judge.read_many(wanted)
        for key in chance.sample(keys, 2):
            value = None if chance.random() < 0.3 else b"%d" % chance.randrange(99)
            for txn in (ours, judge):
                if value is None:
                    txn.delete(key)
                else:
                    txn.write(key, value)
        assert ours.commit() == judge.commit()
    assert refused < 200
    assert await everything(await reopened(store)) == whole.begin_read_only().scan()


async def reopened(store: BackedStore) -> BackedStore:
    await flush(store)
    return await open_backed(store.backend)


async def test_commits_are_refused_where_too_much_waits_to_be_flushed(backend: KeyValueStore) -> None:
    store = await open_backed(backend, BackedConfig(dirty_bytes_max=10_000))
    for _ in range(100):
        batch_write(store, {b"same": b"x" * 1_000})
    with pytest.raises(Busy) as caught:
        for at in range(100):
            batch_write(store, {b"k%d" % at: b"x" * 1_000})
    assert caught.value.retryable and 5 < store.dirty_keys() <= 10
    with pytest.raises(TransactionTooLarge):
        batch_write(store, {b"huge": b"x" * 10_001})
    assert store.stats().open == 0
    await flush(store)
    batch_write(store, {b"k": b"x" * 1_000})


async def test_conflicts_don_t_use_up_the_room(backend: KeyValueStore) -> None:
    store = await open_backed(backend, BackedConfig(dirty_bytes_max=1_000))
    batch_write(store, {b"k": b"1"})
    for _ in range(100):
        txn = store.begin()
        txn.write(b"k", b"x" * 300)
        batch_write(store, {b"k": b"2"})
        with pytest.raises(Conflict):
            txn.commit()


async def test_rows_that_the_backend_wouldn_t_take_are_refused_when_written(backend: KeyValueStore) -> None:
    store = await open_backed(backend)
    txn = store.begin()
    for key in (b"k" * 481, b"k" * 475, "text"):
        with pytest.raises(BadOperand):
            txn.write(key, b"")  # type: ignore[arg-type]
        with pytest.raises(BadOperand):
            txn.delete(key)  # type: ignore[arg-type]
    txn.write(b"k" * 474, b"")
    txn.write(b"", b"an empty key has its prefix")
    txn.commit()
    assert (await flush(store)).keys == 2


async def test_a_marker_that_isn_t_ours_is_refused(backend: KeyValueStore) -> None:
    key = b"mvcc/flushed"
    for data, error in (
        (seal(key, b"\x03" + bytes(8)), StoreTooNew),
        (seal(key, b"\x02" + bytes(7)), StoreCorrupt),
        (seal(key, b"\x01" + bytes(8)), StoreCorrupt),
        (b"\x01" + bytes(8), StoreCorrupt),
        (b"", StoreCorrupt),
    ):
        await backend.write([Put(key, data)])
        with pytest.raises(error):
            await open_backed(backend)


@pytest.mark.parametrize("resident", [True, False])
async def test_a_flipped_bit_in_a_flushed_row_is_named_and_never_read(
    backend: KeyValueStore, resident: bool
) -> None:
    config = BackedConfig(resident=resident)
    store = await open_backed(backend, config)
    batch_write(store, {b"k": b"value"})
    await flush(store)
    good = dict([row async for row in backend.scan()])
    for key, stored in good.items():
        for at in range(len(stored)):
            await backend.write([Put(key, stored[:at] + bytes((stored[at] ^ 4,)) + stored[at + 1 :])])
            with pytest.raises(StoreCorrupt, match=key.hex()):
                txn = (await open_backed(backend, config)).begin()
                await txn.fetch([b"k"])
            with pytest.raises(StoreCorrupt, match=key.hex()):
                txn = (await open_backed(backend, config)).begin()
                await txn.fetch(prefix=b"")
        await backend.write([Put(key, stored)])
    assert await everything(await open_backed(backend, config)) == [(b"k", b"value")]


async def test_two_stores_live_in_one_backend_under_their_prefixes(backend: KeyValueStore) -> None:
    one = await open_backed(backend, BackedConfig(prefix=b"one/"))
    other = await open_backed(backend, BackedConfig(prefix=b"other/"))
    batch_write(one, {b"k": b"1"})
    batch_write(other, {b"k": b"2"})
    await flush(one)
    await flush(other)
    assert await everything(await open_backed(backend, BackedConfig(prefix=b"one/"))) == [(b"k", b"1")]


@asynccontextmanager
async def flushed_by(store: BackedStore, config: FlushConfig, log: Any = None) -> AsyncIterator[Flusher]:
    async with trio.open_nursery() as nursery, flushing(store, config, TrioClock(), nursery, log) as flusher:
        yield flusher


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    mock_clock.autojump_threshold = 0
    return mock_clock


async def test_it_flushes_by_time_and_once_more_at_the_end(backend: KeyValueStore, clock: MockClock) -> None:
    store = await open_backed(backend)
    async with flushed_by(store, FlushConfig(interval_s=10)) as flusher:
        batch_write(store, {b"a": b"1"})
        await trio.sleep(9.5)
        assert flusher.stats == FlushStats()
        await trio.sleep(2)
        assert (flusher.stats.count, flusher.stats.keys) == (1, 1)
        batch_write(store, {b"b": b"1"})
    assert flusher.stats.keys == 2 and flusher.health().state is HealthState.OK
    assert len(await everything(await open_backed(backend))) == 2


async def test_it_flushes_by_blocks(backend: KeyValueStore, clock: MockClock) -> None:
    """15 blocks, every 5, distinct keys: 3 flushes of 5 keys, and nothing is written twice."""
    store = await open_backed(backend)
    async with flushed_by(store, FlushConfig(interval_s=1_000, blocks_per_flush=5)) as flusher:
        for block in range(1, 16):
            batch_write(store, {b"k%d" % block: b"1"})
            flusher.set_current_block(block)
            await trio.sleep(1.5)
        assert (flusher.stats.count, flusher.stats.keys, flusher.stats.last_block) == (3, 15, 15)
        assert flusher.current_block == 15


async def test_it_flushes_on_start_when_told_to(backend: KeyValueStore, clock: MockClock) -> None:
    store = await open_backed(backend)
    batch_write(store, {b"a": b"1"})
    async with flushed_by(store, FlushConfig(flush_on_start=True)) as flusher:
        await trio.sleep(0.1)
        assert flusher.stats.keys == 1


async def test_a_failing_backend_degrades_it_and_the_third_failure_in_a_row_ends_it(
    backend: KeyValueStore, clock: MockClock
) -> None:
    failing: Any = Failing(backend, failures=2)
    store = await open_backed(failing)
    batch_write(store, {b"a": b"1"})
    async with flushed_by(store, FlushConfig(interval_s=10)) as flusher:
        await trio.sleep(11.5)
        assert flusher.health().state is HealthState.DEGRADED and "no space" in flusher.health().detail
        await trio.sleep(25)
        assert flusher.health().state is HealthState.OK and store.dirty_keys() == 0
    failing.failures = 99
    batch_write(store, {b"a": b"2"})
    with pytest.RaisesGroup(StoreFailed):
        async with flushed_by(store, FlushConfig(interval_s=10)):
            await trio.sleep(100)
    assert store.dirty_keys() == 1


async def test_a_last_flush_that_hangs_is_given_two_seconds(backend: KeyValueStore, clock: MockClock) -> None:
    hanging: Any = Failing(backend, door=trio.Event())
    store = await open_backed(hanging)
    lines: list[str] = []

    class Log:
        def error(self, name: str, **facts: Any) -> None:
            lines.append(name)

    began = trio.current_time()
    async with flushed_by(store, FlushConfig(), Log()):
        batch_write(store, {b"a": b"1"})
    assert trio.current_time() - began == pytest.approx(2)
    assert lines == ["mvcc_last_flush_late"]
