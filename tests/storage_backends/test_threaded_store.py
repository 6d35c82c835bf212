"""What the threaded store adds to any engine: group commit, failure that is final, views that expire."""

import itertools
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from supervm.contracts.storage import (
    PASSING,
    Delete,
    DeleteRange,
    DiskFull,
    Durability,
    Operation,
    Put,
    SnapshotExpired,
    SnapshotsExhausted,
    StorageError,
    StoreCorrupt,
    StoreFailed,
    StoreStats,
)
from supervm.kernel.component import Component
from supervm.plugins.storage import threaded
from supervm.plugins.storage.lmdb import lmdb
from supervm.plugins.storage.memory import memory
from supervm.plugins.storage.rocksdb import rocksdb
from supervm.plugins.storage.sqlite import SqliteConfig, SqliteEngine, sqlite
from supervm.plugins.storage.threaded import Stalled, ThreadedStore
from supervm.testing.conformance.component import only_error, refused
from supervm.testing.context import component_context, opened

BACKENDS = pytest.mark.parametrize(
    "component", [memory, sqlite, rocksdb, lmdb], ids=lambda component: component.name
)


class WatchedEngine(SqliteEngine):
    """Counts syncs, holds the first one until told, and fails as it is told."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, SqliteConfig())
        self.may_settle = threading.Event()
        self.may_settle.set()
        self.levels: list[Durability] = []
        self.apply_errors: list[Exception] = []
        self.settle_errors: list[Exception] = []
        self.operations_max = 1_000
        self.held_after = 0

    def hold_after(self, settles: int) -> None:
        """Let so many settle, and hold those after them."""
        self.held_after = settles
        self.may_settle.set()

    def apply(self, operations: Sequence[Operation], durability: Durability) -> None:
        if self.apply_errors:
            raise self.apply_errors.pop()
        if len(operations) > self.operations_max:
            raise DiskFull("no space left", "here")
        super().apply(operations, durability)

    def settle(self, durability: Durability) -> None:
        self.may_settle.wait()
        if self.settle_errors:
            raise self.settle_errors.pop()
        super().settle(durability)
        if len(self.levels) + 1 == self.held_after:
            self.may_settle.clear()
        self.levels.append(durability)


async def begun(store: ThreadedStore) -> None:
    """Wait until a write is on its way and every other task waits."""
    while not store._calls:
        await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()


def make(ctx: Any, engine: WatchedEngine) -> ThreadedStore:
    return ThreadedStore(ctx, engine, snapshot_age_s_max=600, snapshots_max=4)


async def test_batches_that_wait_together_share_one_sync(tmp_path: Path) -> None:
    engine = WatchedEngine(tmp_path)
    async with component_context(tmp_path) as ctx:
        store = make(ctx, engine)
        engine.may_settle.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.write, [Put(b"first", b"v")], Durability.BUFFERED)
            await begun(store)
            for i in range(50):
                level = Durability.DURABLE if i == 30 else Durability.BUFFERED
                nursery.start_soon(store.write, [Put(b"%d" % i, b"v")], level)
            await trio.testing.wait_all_tasks_blocked()
            engine.may_settle.set()
        assert engine.levels == [Durability.BUFFERED, Durability.DURABLE]
        assert len([row async for row in store.scan()]) == 51
        writes = ctx.metrics.families["supervm_storage_write_ms"].records
        assert sorted(labels["durability"] for _, _, labels in writes) == ["buffered"] * 50 + ["durable"]
        assert len(ctx.metrics.families["supervm_storage_sync_ms"].records) == 1
        await store.close()


async def test_a_group_that_does_not_fit_is_tried_batch_by_batch(tmp_path: Path) -> None:
    engine = WatchedEngine(tmp_path)
    engine.operations_max = 3
    refusals = []
    async with component_context(tmp_path) as ctx:
        store = make(ctx, engine)
        engine.may_settle.clear()

        async def write(size: int) -> None:
            try:
                await store.write([Put(b"%d/%d" % (size, i), b"v") for i in range(size)])
            except DiskFull:
                refusals.append(size)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.write, [Put(b"first", b"v")])
            await begun(store)
            for size in (2, 5, 3, 4, 1):
                nursery.start_soon(write, size)
            await trio.testing.wait_all_tasks_blocked()
            engine.may_settle.set()
        assert sorted(refusals) == [4, 5]
        assert len([row async for row in store.scan()]) == 1 + 2 + 3 + 1
        await store.close()


async def test_a_write_under_way_is_finished_though_its_caller_is_cancelled(tmp_path: Path) -> None:
    engine = WatchedEngine(tmp_path)
    async with component_context(tmp_path) as ctx:
        store = make(ctx, engine)
        engine.may_settle.clear()
        scopes = [trio.CancelScope() for _ in range(3)]

        async def write(i: int) -> None:
            with scopes[i]:
                await store.write([Put(b"%d" % i, b"v")])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, 0)
            await begun(store)
            nursery.start_soon(write, 1)
            nursery.start_soon(write, 2)
            await trio.testing.wait_all_tasks_blocked()
            scopes[0].cancel()
            scopes[1].cancel()
            await trio.testing.wait_all_tasks_blocked()
            engine.may_settle.set()
        assert await store.get_many([b"0", b"1", b"2"]) == [b"v", None, b"v"]
        await store.close()


async def test_a_write_in_the_group_of_another_is_finished_before_its_cancelled_caller_goes(
    tmp_path: Path,
) -> None:
    engine = WatchedEngine(tmp_path)
    async with component_context(tmp_path) as ctx:
        store = make(ctx, engine)
        engine.may_settle.clear()
        seen: list[bytes | None] = []
        scope = trio.CancelScope()

        async def cancelled() -> None:
            with scope:
                try:
                    await store.write([Put(b"theirs", b"v")])
                finally:
                    with trio.CancelScope(shield=True):
                        seen.append(await store.get(b"theirs"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.write, [Put(b"first", b"v")])
            await begun(store)
            nursery.start_soon(store.write, [Put(b"leader", b"v")])
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(cancelled)
            await trio.testing.wait_all_tasks_blocked()
            engine.hold_after(1)
            while store._queue:  # until the leader's group has taken both
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            engine.may_settle.set()
        assert seen == [b"v"]
        await store.close()


async def test_a_caller_that_is_cancelled_on_its_way_into_the_queue_hurts_no_other(tmp_path: Path) -> None:
    async with component_context(tmp_path) as ctx:
        store = make(ctx, WatchedEngine(tmp_path))

        async def after(checkpoints: int, scope: trio.CancelScope, key: bytes) -> None:
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            with scope:
                await store.write([Put(key, b"v")], Durability.BUFFERED)

        # Trio runs ready tasks in random order, so each way that they can meet is tried many times.
        for turn in range(200):
            scope = trio.CancelScope()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(after, 0, scope, b"cancelled")
                for i in range(5):
                    nursery.start_soon(after, i, trio.CancelScope(), b"%d" % i)
                for _ in range(turn % 5):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        assert await store.get_many([b"%d" % i for i in range(5)]) == [b"v"] * 5
        await store.close()


@pytest.mark.parametrize("place", ["apply_errors", "settle_errors"])
@pytest.mark.parametrize(
    "error",
    [StoreFailed("i/o error", "disk"), StorageError("odd"), AssertionError("ours"), OSError(5, "i/o")],
)
async def test_a_write_that_fails_ends_the_store_for_every_call(
    place: str, error: Exception, tmp_path: Path
) -> None:
    engine = WatchedEngine(tmp_path)
    async with component_context(tmp_path) as ctx:
        store = make(ctx, engine)
        await store.write([Put(b"before", b"v")])
        async with store.snapshot() as snapshot:
            getattr(engine, place).append(error)
            with refused(StoreFailed):
                await store.write([Put(b"lost", b"v")])
            for call in (store.get, snapshot.get):
                with refused(StoreFailed):
                    await call(b"before")
            with refused(StoreFailed):
                await store.write([])
            with refused(StoreFailed):
                await store.checkpoint(tmp_path / "copy")
            with refused(StoreFailed):
                await store.stats()
        assert (await store.health()).state == "failing"
        await store.close()


async def test_everyone_who_waits_for_a_failed_sync_is_told(tmp_path: Path) -> None:
    engine = WatchedEngine(tmp_path)
    told = []
    async with component_context(tmp_path) as ctx:
        store = make(ctx, engine)
        engine.may_settle.clear()
        engine.settle_errors.append(StoreFailed("sync failed", "disk"))

        async def write(i: int) -> None:
            try:
                await store.write([Put(b"%d" % i, b"v")])
            except StoreFailed:
                told.append(i)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, 0)
            await begun(store)
            for i in range(1, 6):
                nursery.start_soon(write, i)
            await trio.testing.wait_all_tasks_blocked()
            engine.may_settle.set()
        assert sorted(told) == list(range(6))
        await store.close()


async def test_the_component_fails_with_its_store(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with opened(sqlite, tmp_path) as store:
            await store.write([Put(b"a", b"v")])
            store._fail(StoreFailed("i/o error", "disk"))
            while True:
                # Again and again: the one who looks may be in the midst of a look, and sleeps after it.
                mock_clock.jump(threaded.REPORT_S + 1)
                await trio.testing.wait_all_tasks_blocked()
    assert isinstance(only_error(raised.value), StoreFailed)


async def test_a_stalled_engine_is_tried_again_and_the_time_counted(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    engine = WatchedEngine(tmp_path)
    async with component_context(tmp_path) as ctx:
        store = make(ctx, engine)
        engine.apply_errors = [Stalled(), Stalled(), Stalled()]
        await store.write([Put(b"a", b"v")])
        assert await store.get(b"a") == b"v"
        stats: StoreStats = await store.stats()
        assert stats.extras["write_stall_micros"] >= 3 * threaded.STALL_RETRY_S * 1e6 * 0.99
        await store.close()


async def test_closing_waits_for_the_write_under_way(tmp_path: Path) -> None:
    engine = WatchedEngine(tmp_path)
    async with component_context(tmp_path) as ctx:
        store = make(ctx, engine)
        engine.may_settle.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.write, [Put(b"a", b"v")])
            await begun(store)
            nursery.start_soon(store.close)
            await trio.testing.wait_all_tasks_blocked()
            engine.may_settle.set()
    async with opened(sqlite, tmp_path) as reopened:
        assert await reopened.get(b"a") == b"v"


BATCH: list[Operation] = [
    Put(b"a", b"new"),
    Delete(b"b"),
    Put(b"c", b"new"),
    DeleteRange(b"d", b"f"),
    Put(b"g", b""),
]


@pytest.mark.parametrize("place", range(len(BATCH)))
async def test_an_error_at_any_operation_leaves_nothing_of_the_batch_in_sqlite(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [(bytes([key]), b"old") for key in b"abde"]
    calls: list[object] = []
    apply_run = SqliteEngine._apply_run

    def failing(engine: SqliteEngine, run: Any) -> None:
        if len(calls) == place:
            raise sqlite3.OperationalError("disk I/O error")
        calls.append(run)
        apply_run(engine, run)

    async with opened(sqlite, tmp_path) as store:
        await store.write([Put(*row) for row in old])
        monkeypatch.setattr(SqliteEngine, "_apply_run", failing)
        with refused(StoreFailed):
            await store.write(BATCH)
    monkeypatch.undo()
    async with opened(sqlite, tmp_path) as store:
        assert [row async for row in store.scan()] == old


@pytest.mark.parametrize("place", range(6))
async def test_an_error_at_any_change_leaves_nothing_of_the_batch_in_memory(
    place: int, tmp_path: Path
) -> None:
    old = [(bytes([key]), b"old") for key in b"abde"]
    async with opened(memory, tmp_path) as store:
        await store.write([Put(*row) for row in old])
        changes = store._changes

        def failing(operations: Any) -> Any:
            yield from itertools.islice(changes(operations), place)
            raise MemoryError("no room")

        store._changes = failing
        async with store.snapshot() as snapshot:
            with refused(MemoryError):
                await store.write(BATCH)
            for reader in (store, snapshot):
                assert [row async for row in reader.scan()] == old
        assert (await store.stats()).bytes == sum(len(key + value) for key, value in old)


@BACKENDS
async def test_a_snapshot_expires_by_the_clock_and_so_does_a_scan(
    component: Component, tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with opened(component, tmp_path) as store:
        await store.write([Put(b"%05d" % i, b"v") for i in range(3_000)])
        async with store.snapshot() as snapshot:
            rows = store.scan()
            assert await anext(rows) == (b"00000", b"v")
            mock_clock.jump(599)
            assert await snapshot.get(b"00000") == b"v"
            mock_clock.jump(2)
            with refused(SnapshotExpired):
                await snapshot.get(b"00000")
            with refused(SnapshotExpired):
                assert [row async for row in rows]
        assert (await store.stats()).snapshots_open == 0
        assert await store.get(b"00000") == b"v"


async def test_a_snapshot_that_nobody_uses_any_more_holds_nothing_once_it_is_too_old(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """Else the log, or the pages, that it needs would grow for as long as it is forgotten. Figures are read
    every few seconds.
    """
    async with opened(sqlite, tmp_path, SqliteConfig(checkpoint_pages=10)) as store:
        await store.write([Put(b"a", bytes(1_000))])
        async with store.snapshot() as snapshot:
            assert await snapshot.get(b"a") == bytes(1_000)
            mock_clock.jump(599)
            assert (await store.stats()).snapshots_open == 1
            mock_clock.jump(2)
            assert (await store.stats()).snapshots_open == 0
            log = tmp_path / "store.sqlite-wal"
            for _ in range(50):
                await store.write([Put(b"a", bytes(10_000))])
            assert log.stat().st_size < 200_000
            with refused(SnapshotExpired):
                await snapshot.get(b"a")


@BACKENDS
async def test_snapshots_are_bounded_and_come_back(component: Component, tmp_path: Path) -> None:
    config = attrs.evolve(component.config(), snapshots_max=3)
    async with opened(component, tmp_path, config) as store:
        await store.write([Put(b"a", b"v"), Put(b"b", b"v")])
        async with store.snapshot(), store.snapshot():
            rows = store.scan()
            await anext(rows)
            with refused(SnapshotsExhausted):
                async with store.snapshot():
                    pass
            with refused(SnapshotsExhausted):
                assert [row async for row in store.scan()]
            assert await store.get(b"a") == b"v"
            await rows.aclose()
            assert len([row async for row in store.scan()]) == 2


@pytest.mark.parametrize("error", [*PASSING, StoreCorrupt])
async def test_figures_that_can_not_be_read_for_now_are_read_later(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    errors, reported = [error("injected")], trio.Event()
    good = SqliteEngine.stats

    def stats(engine: SqliteEngine) -> StoreStats:
        if errors:
            raise errors.pop()
        return good(engine)

    monkeypatch.setattr(SqliteEngine, "stats", stats)
    async with component_context(tmp_path) as ctx:
        store = ThreadedStore(
            ctx, SqliteEngine(tmp_path, SqliteConfig()), snapshot_age_s_max=600, snapshots_max=64
        )
        async with threaded.served(ctx, store, lambda stats: reported.set()):
            await reported.wait()
    assert not errors
