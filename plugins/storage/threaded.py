"""The storage contract over a blocking engine: threads, limits, group commit, snapshots that expire.

Reads run in at most 8 threads, writes in one. A write that has begun is finished whatever happens to its
caller; one that waits may be cancelled. Writes that wait together are applied as one batch and share a
sync (STO-6): nothing waits for company. The first write or sync that fails with an I/O error ends the
store: what is on the disk is unknown from then on (STO-7).
"""

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeVar

import attrs
import trio

from supervm.api import Context, Health, HealthState
from supervm.contracts.storage import (
    BATCH_BYTES_MAX,
    BATCH_OPERATIONS_MAX,
    PASSING,
    DiskFull,
    Durability,
    Operation,
    Reader,
    SnapshotExpired,
    SnapshotsExhausted,
    StorageError,
    StoreCorrupt,
    StoreFailed,
    StoreStats,
    Unsupported,
    WriteBatch,
    check_batch,
    check_batch_size,
    check_bound,
    check_keys,
    check_limit,
)
from supervm.plugins.storage.folder import published
from supervm.plugins.storage.latency import Latency
from supervm.plugins.storage.reads import Reads
from supervm.plugins.storage.scan import Page, Row, Span, scan_pages

READERS = 8
GROUP_BATCHES_MAX = 256
CHECKED_INLINE_MAX = 1_000
STALL_S_MAX = 600.0
STALL_RETRY_S = 0.005

T = TypeVar("T")


class Stalled(Exception):
    """The engine can't take a write now; nothing was applied, and the same one may be tried again."""


class EngineView(Protocol):
    """A frozen view of an engine. Its calls block, and may come from several threads."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]: ...
    def page(self, span: Span) -> Page: ...
    def close(self) -> None: ...


class Engine(Protocol):
    """A blocking store. Reads come from several threads at once, `apply` and `settle` from one.

    Each raises only `StorageError`. `apply` may raise `DiskFull` or `Stalled` with nothing applied, so may
    `settle` raise `DiskFull`; any other error of theirs means that the state of the disk is unknown.
    """

    capabilities: frozenset[str]
    gives: Mapping[Durability, Durability]

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]: ...
    def open_view(self) -> EngineView: ...
    def apply(self, operations: Sequence[Operation], durability: Durability) -> None: ...
    def settle(self, durability: Durability) -> None: ...
    def checkpoint(self, path: Path) -> None: ...
    def compact(self, start: bytes, end: bytes | None) -> None: ...
    def get_property(self, name: str) -> str | None: ...
    def stats(self) -> StoreStats: ...
    def close(self) -> None: ...


@attrs.define(eq=False)
class _View:
    """An engine's view with its age, and how many calls use it now."""

    engine_view: EngineView
    opened_s: float
    busy: int = 0
    closed: bool = False


@attrs.define(eq=False)
class _Pending:
    """A batch that waits to be applied; `done` is set once it was, with `error` where it could not be."""

    operations: tuple[Operation, ...]
    size_bytes: int
    durability: Durability
    done: trio.Event = attrs.Factory(trio.Event)
    error: StorageError | None = None


class ThreadedStore(Reads):
    """A `KeyValueStore` over an `Engine`."""

    def __init__(
        self, ctx: Context, engine: Engine, *, snapshot_age_s_max: float, snapshots_max: int
    ) -> None:
        self._clock = ctx.clock
        self._log = ctx.log
        self._engine = engine
        self._latency = Latency(ctx)
        self._snapshot_age_s_max = snapshot_age_s_max
        self._snapshots_max = snapshots_max
        self._readers = trio.CapacityLimiter(READERS)
        self._writer = trio.CapacityLimiter(1)
        self._waiting = trio.Semaphore(GROUP_BATCHES_MAX)
        self._writing = trio.Lock()
        self._queue: deque[_Pending] = deque()
        self._views: set[_View] = set()
        self._views_opening = 0
        self._calls = 0
        self._idle = trio.Event()
        self._failure: StoreFailed | None = None
        self._disk_full = ""
        self._stalled_s = 0.0
        self._closed = False

    @property
    def capabilities(self) -> frozenset[str]:
        return self._engine.capabilities

    @property
    def gives(self) -> Mapping[Durability, Durability]:
        return self._engine.gives

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        wanted = await self._checked_keys(keys)
        with self._latency.read():
            return await self._run(self._readers, self._engine.get_many, wanted)

    def _range(self, start: bytes, end: bytes | None, reverse: bool, limit: int | None) -> AsyncIterator[Row]:
        return self._scan(start, end, reverse, limit, None)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Reader]:
        view = await self._open_view()
        try:
            yield ThreadedSnapshot(self, view)
        finally:
            self._close_view(view)

    async def write(self, batch: WriteBatch, durability: Durability = Durability.DURABLE) -> None:
        operations = tuple(batch)
        self._refuse_if_failed()
        check_batch_size(len(operations), 0)
        if len(operations) > CHECKED_INLINE_MAX:
            size_bytes = await self._run(self._readers, check_batch, operations)
        else:
            size_bytes = check_batch(operations)
        if not operations and durability is not Durability.DURABLE:
            await trio.lowlevel.checkpoint()
            return
        with self._latency.write(durability):
            async with self._waiting:
                await self._write(_Pending(operations, size_bytes, durability))

    async def checkpoint(self, path: Path) -> None:
        self._require("checkpoint")
        await self._run(self._readers, self._publish_checkpoint, path)

    async def compact(self, start: bytes = b"", end: bytes | None = None) -> None:
        self._require("compaction")
        check_bound(start)
        check_bound(end)
        await self._run(self._readers, self._engine.compact, start, end)

    async def get_property(self, name: str) -> str | None:
        self._require("properties")
        return await self._run(self._readers, self._engine.get_property, name)

    async def stats(self) -> StoreStats:
        # Asked every few seconds: so a view that is too old is closed though nobody opens another.
        self._close_expired()
        stats = await self._run(self._readers, self._engine.stats)
        extras = {**stats.extras, "write_stall_micros": self._stalled_s * 1e6}
        stats = attrs.evolve(stats, snapshots_open=len(self._views), stalled_s=self._stalled_s, extras=extras)
        self._latency.record(stats)
        return stats

    async def health(self) -> Health:
        await trio.lowlevel.checkpoint()
        if self._failure is not None:
            return Health(HealthState.FAILING, str(self._failure))
        if self._disk_full:
            return Health(HealthState.DEGRADED, self._disk_full)
        return Health()

    def raise_failure(self) -> None:
        """Raise the `StoreFailed` that ended the store, if one did."""
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """Finish the writes that wait, refuse new calls, wait for those that run, close the engine."""
        with trio.CancelScope(shield=True):
            async with self._writing:
                self._closed = True
            while self._calls:
                self._idle = trio.Event()
                await self._idle.wait()
            for view in tuple(self._views):
                self._close_view(view)
            try:
                await trio.to_thread.run_sync(self._engine.close, limiter=self._writer)
            except StorageError as error:
                # A full or failed disk has been told already; what was acknowledged is in the log.
                if not self._disk_full and self._failure is None:
                    raise
                self._log.warning("store_closed_with_error", cause=str(error))

    async def _run(self, limiter: trio.CapacityLimiter, call: Callable[..., T], *args: Any) -> T:
        """Run one blocking call of the engine. Once begun it is waited for, cancelled or not."""
        self._refuse_if_failed()
        self._calls += 1
        try:
            return await trio.to_thread.run_sync(call, *args, limiter=limiter)
        except StoreFailed as failure:
            self._fail(failure)
            raise
        except StoreCorrupt:
            self._latency.corrupted()
            raise
        finally:
            self._calls -= 1
            self._idle.set()

    async def _write(self, pending: _Pending) -> None:
        self._queue.append(pending)
        try:
            async with self._writing:
                # The first in the queue may be one that is cancelled and hasn't left yet, so that a group
                # need not reach this one.
                while not pending.done.is_set():
                    with trio.CancelScope(shield=True):
                        await self._write_group(self._take_group())
        finally:
            if pending in self._queue:
                self._queue.remove(pending)
            elif not pending.done.is_set():
                # Somebody else's group has it: begun, so it is finished before its caller may go.
                with trio.CancelScope(shield=True):
                    await pending.done.wait()
        if pending.error is not None:
            raise pending.error

    def _take_group(self) -> list[_Pending]:
        """The first batches that wait, as many as fit in one."""
        group = [self._queue.popleft()]
        operations, size_bytes = len(group[0].operations), group[0].size_bytes
        while self._queue:
            operations += len(self._queue[0].operations)
            size_bytes += self._queue[0].size_bytes
            if operations > BATCH_OPERATIONS_MAX or size_bytes > BATCH_BYTES_MAX:
                break
            group.append(self._queue.popleft())
        return group

    async def _write_group(self, group: list[_Pending]) -> None:
        """Apply batches as one. Where the disk is too full for all, each is tried alone."""
        operations: Sequence[Operation] = group[0].operations
        if len(group) > 1:
            operations = list(chain.from_iterable(pending.operations for pending in group))
        error: StorageError | None = None
        try:
            await self._commit(operations, max(pending.durability for pending in group))
        except DiskFull as full:
            if len(group) > 1:
                for pending in group:
                    await self._write_group([pending])
                return
            self._disk_full = str(full)
            error = full
        except StoreFailed as failure:
            error = failure
        else:
            self._disk_full = ""
        for pending in group:
            pending.error = type(error)(error.problem, error.subject, error.mend) if error else None
            pending.done.set()

    async def _commit(self, operations: Sequence[Operation], durability: Durability) -> None:
        try:
            taken_s = await self._apply_and_settle(operations, durability)
            if durability is Durability.DURABLE:
                self._latency.synced(taken_s)
        except DiskFull:
            raise
        except StorageError as error:
            failure = StoreFailed(error.problem, error.subject, error.mend)
            self._fail(failure)
            raise failure from error
        except Exception as bug:
            # Ours, but what it left behind is as unknown as after an I/O error.
            failure = StoreFailed(f"a write raised {bug!r}", "", "Report it.")
            self._fail(failure)
            raise failure from bug

    async def _apply_and_settle(self, operations: Sequence[Operation], durability: Durability) -> float:
        """Both in one call of a thread, since a call costs as much as many a sync; how long that took."""
        began_s = self._clock.monotonic()

        def apply_and_settle() -> None:
            self._engine.apply(operations, durability)
            self._engine.settle(durability)

        while True:
            try:
                written_s = self._clock.monotonic()
                await self._run(self._writer, apply_and_settle)
                return self._clock.monotonic() - written_s
            except Stalled:
                if self._clock.monotonic() - began_s > STALL_S_MAX:
                    raise StoreFailed(
                        f"no write was taken for {STALL_S_MAX} s", "", "Check the disk."
                    ) from None
            paused_s = self._clock.monotonic()
            await self._clock.sleep(STALL_RETRY_S)
            self._stalled_s += self._clock.monotonic() - paused_s

    def _fail(self, failure: StoreFailed) -> None:
        if self._failure is None and not self._closed:
            self._failure = failure
            self._log.error("store_failed", cause=str(failure))

    def _publish_checkpoint(self, path: Path) -> None:
        with published(path) as temporary:
            self._engine.checkpoint(temporary)

    async def _checked_keys(self, keys: Sequence[bytes]) -> list[bytes]:
        wanted = list(keys)
        if len(wanted) > CHECKED_INLINE_MAX:
            await self._run(self._readers, check_keys, wanted)
        else:
            check_keys(wanted)
        return wanted

    async def _scan(
        self, start: bytes, end: bytes | None, reverse: bool, limit: int | None, view: _View | None
    ) -> AsyncIterator[Row]:
        check_bound(start)
        check_bound(end)
        check_limit(limit)
        self._refuse_if_failed()
        own = view or await self._open_view()

        async def read_page(span: Span) -> Page:
            with self._latency.read():
                return await self._read_view(own, own.engine_view.page, span)

        try:
            async for row in scan_pages(Span(start, end, reverse), limit, read_page):
                yield row
        finally:
            if view is None:
                self._close_view(own)

    async def _read_view(self, view: _View, call: Callable[..., T], *args: Any) -> T:
        self._refuse_if_failed()
        if view.closed or self._expired(view):
            self._close_view(view)
            raise SnapshotExpired(
                "the snapshot was closed or is too old", f"{self._snapshot_age_s_max} s", "Take another."
            )
        view.busy += 1
        try:
            return await self._run(self._readers, call, *args)
        finally:
            view.busy -= 1
            self._close_if_unused(view)

    async def _open_view(self) -> _View:
        self._refuse_if_failed()
        self._close_expired()
        if len(self._views) + self._views_opening >= self._snapshots_max:
            raise SnapshotsExhausted(
                f"{self._snapshots_max} snapshots and scans are open",
                "snapshots_max",
                "Close some, or raise it.",
            )
        self._views_opening += 1
        try:
            opened = await self._run(self._readers, self._engine.open_view)
        finally:
            self._views_opening -= 1
        view = _View(opened, self._clock.monotonic())
        self._views.add(view)
        return view

    def _close_expired(self) -> None:
        for view in [v for v in self._views if self._expired(v)]:
            self._close_view(view)

    def _close_view(self, view: _View) -> None:
        """Close now, or when the last call that uses it is done. Nothing here waits for the disk."""
        if not view.closed:
            view.closed = True
            self._views.discard(view)
            self._close_if_unused(view)

    def _close_if_unused(self, view: _View) -> None:
        if view.closed and not view.busy:
            view.engine_view.close()

    def _expired(self, view: _View) -> bool:
        return self._clock.monotonic() - view.opened_s > self._snapshot_age_s_max

    def _require(self, capability: str) -> None:
        if capability not in self.capabilities:
            raise Unsupported("this backend can't", capability, "Ask `capabilities` first.")

    def _refuse_if_failed(self) -> None:
        if self._failure is not None:
            failure = self._failure
            raise StoreFailed(failure.problem, failure.subject, failure.mend)
        if self._closed:
            raise StoreFailed("the store is closed", "", "Open it again.")


@attrs.frozen(eq=False)
class ThreadedSnapshot(Reads):
    """A `Reader` of one view."""

    _store: ThreadedStore
    _view: _View

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        wanted = await self._store._checked_keys(keys)
        with self._store._latency.read():
            return await self._store._read_view(self._view, self._view.engine_view.get_many, wanted)

    def _range(self, start: bytes, end: bytes | None, reverse: bool, limit: int | None) -> AsyncIterator[Row]:
        return self._store._scan(start, end, reverse, limit, self._view)


REPORT_S = 5.0


@asynccontextmanager
async def served(
    ctx: Context, store: ThreadedStore, report: Callable[[StoreStats], None]
) -> AsyncIterator[None]:
    """Keep the metrics fresh, and fail the component once its store has failed, until the block ends."""
    scope = trio.CancelScope()

    async def watch() -> None:
        with scope:
            while True:
                await trio.lowlevel.checkpoint()
                store.raise_failure()
                try:
                    report(await store.stats())
                except (StoreCorrupt, *PASSING) as error:
                    # Whoever reads or writes meanwhile decides what it means; here it costs a metric.
                    ctx.log.warning("storage_stats_unavailable", cause=str(error))
                await ctx.clock.sleep(REPORT_S)

    ctx.nursery.start_soon(watch)
    try:
        yield
    finally:
        scope.cancel()
        await store.close()
