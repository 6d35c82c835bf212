"""The storage component `coffer`: a log on the disk, an index in memory, values read where they lie.

A batch is one record of the log, so it is on the disk whole or not at all, and batches become durable in
order since the log is one file. Every batch survives the process; a DURABLE one is synced too. The log
never shrinks, and the index takes memory for every key.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import attrs
import trio

from supervm.api import Component, Context, Health, HealthState, Role, storage
from supervm_coffer.index import Index
from supervm_coffer.log import FILE, Change, Log, Place, decode, encode, os_error

READERS = 4
SLICE = 1_000
Durability = storage.Durability
T = TypeVar("T")
Row = tuple[bytes, bytes]


@attrs.frozen(kw_only=True)
class CofferConfig:
    """`path`: the log's folder ("": the component's own)."""

    path: str = ""
    snapshots_max: int = attrs.field(default=256, validator=attrs.validators.ge(1))
    snapshot_age_s_max: float = attrs.field(
        default=storage.SNAPSHOT_AGE_S_MAX, validator=attrs.validators.gt(0)
    )


@attrs.define(eq=False)
class View:
    """What a reader may see: the store as it was after batch `moment`."""

    moment: int
    opened_s: float
    closed: bool = False


class CofferStore:
    """A `KeyValueStore`."""

    capabilities = frozenset({"persistent"})
    gives: Mapping[Durability, Durability] = {
        Durability.MEMORY: Durability.BUFFERED,
        Durability.BUFFERED: Durability.BUFFERED,
        Durability.DURABLE: Durability.DURABLE,
    }

    def __init__(self, ctx: Context, config: CofferConfig, log: Log, index: Index) -> None:
        self._clock = ctx.clock
        self._config = config
        self._log = log
        self._index = index
        self._moment = log.number
        self._views: list[View] = []
        self._writing = trio.Lock()
        self._readers = trio.CapacityLimiter(READERS)
        self._writer = trio.CapacityLimiter(1)
        self._failure: storage.StoreFailed | None = None

    # -- reads

    async def get(self, key: bytes) -> bytes | None:
        return (await self.get_many([key]))[0]

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return await self.read_keys(keys, None)

    def scan(
        self, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False, limit: int | None = None
    ) -> AsyncIterator[Row]:
        return self.read_rows(start, end, reverse, limit, None)

    def scan_prefix(
        self, prefix: bytes, *, reverse: bool = False, limit: int | None = None
    ) -> AsyncIterator[Row]:
        return self.read_rows(prefix, storage.prefix_end(prefix), reverse, limit, None)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[storage.Reader]:
        await trio.lowlevel.checkpoint()
        view = self._open_view()
        try:
            yield Snapshot(self, view)
        finally:
            self._close_view(view)

    async def read_keys(self, keys: Sequence[bytes], view: View | None) -> list[bytes | None]:
        """The values of `keys` in a view, or as they are now."""
        storage.check_keys(keys)
        self._refuse_if_failed()
        if view is not None:
            self._refuse_if_expired(view)
        moment = self._moment if view is None else view.moment
        places = [self._index.at(key, moment) for key in keys]
        return await self._in_thread(self._readers, self._log.read, places)

    async def read_rows(
        self, start: bytes, end: bytes | None, reverse: bool, limit: int | None, view: View | None
    ) -> AsyncIterator[Row]:
        """Rows in order, a page at a time."""
        storage.check_bound(start)
        storage.check_bound(end)
        storage.check_limit(limit)
        own = self._open_view() if view is None else view
        left = limit
        try:
            while left != 0 and (end is None or start < end):
                self._refuse_if_failed()
                self._refuse_if_expired(own)
                page = self._page(start, end, reverse, left, own.moment)
                values = await self._in_thread(self._readers, self._log.read, [place for _, place in page])
                for (key, _), value in zip(page, values, strict=True):
                    assert value is not None
                    yield key, value
                if not page:
                    return
                start, end = (start, page[-1][0]) if reverse else (page[-1][0] + b"\x00", end)
                left = None if left is None else left - len(page)
        finally:
            if view is None:
                self._close_view(own)

    def _page(
        self, start: bytes, end: bytes | None, reverse: bool, left: int | None, moment: int
    ) -> list[tuple[bytes, Place]]:
        page: list[tuple[bytes, Place]] = []
        rows_max = storage.PAGE_ROWS_MAX if left is None else min(left, storage.PAGE_ROWS_MAX)
        size = 0
        for key in self._index.between(start, end, reverse):
            place = self._index.at(key, moment)
            if place is None:
                continue
            page.append((key, place))
            size += len(key) + place.size
            if len(page) == rows_max or size >= storage.PAGE_BYTES_MAX:
                break
        return page

    # -- writes

    async def write(self, batch: storage.WriteBatch, durability: Durability = Durability.DURABLE) -> None:
        operations = tuple(batch)
        self._refuse_if_failed()
        storage.check_batch(operations)
        await trio.lowlevel.checkpoint()
        async with self._writing:
            self._refuse_if_failed()
            # From here on the batch happens, whatever becomes of its caller.
            with trio.CancelScope(shield=True):
                await self._append(operations, durability is Durability.DURABLE)

    async def _append(self, operations: tuple[storage.Operation, ...], sync: bool) -> None:
        if not operations:
            if sync:
                await self._in_thread(self._writer, self._log.sync)
            return

        changes = await self._in_thread(self._writer, _append, self._log, operations, sync)
        oldest = min((view.moment for view in self._open_views()), default=self._moment)
        for count, _ in enumerate(self._index.apply(changes, self._log.number, oldest), 1):
            if count % SLICE == 0:
                await trio.lowlevel.cancel_shielded_checkpoint()
        self._moment = self._log.number

    # -- the rest of the contract

    async def checkpoint(self, path: Path) -> None:
        await trio.lowlevel.checkpoint()
        raise storage.Unsupported("a coffer makes no checkpoints", path, "Ask `capabilities` first.")

    async def compact(self, start: bytes = b"", end: bytes | None = None) -> None:
        await trio.lowlevel.checkpoint()
        raise storage.Unsupported("a coffer's log never shrinks", "", "Ask `capabilities` first.")

    async def get_property(self, name: str) -> str | None:
        await trio.lowlevel.checkpoint()
        raise storage.Unsupported("a coffer has no properties", name, "Ask `capabilities` first.")

    async def stats(self) -> storage.StoreStats:
        await trio.lowlevel.checkpoint()
        self._refuse_if_failed()
        return storage.StoreStats(
            keys_estimate=self._index.live, bytes=self._log.end, snapshots_open=len(self._open_views())
        )

    async def health(self) -> Health:
        await trio.lowlevel.checkpoint()
        if self._failure is not None:
            return Health(HealthState.FAILING, str(self._failure))
        return Health()

    async def close(self) -> None:
        """Wait for the write that runs, then let the file go; every later call is refused."""
        with trio.CancelScope(shield=True):
            async with self._writing:
                self._failure = storage.StoreFailed("the store is closed", self._log.path, "Open it again.")
                for view in self._views:
                    view.closed = True
                # No reader may go on with a number that is another file's by then.
                turns = [object() for _ in range(READERS)]
                for turn in turns:
                    await self._readers.acquire_on_behalf_of(turn)
                self._log.close()
                for turn in turns:
                    self._readers.release_on_behalf_of(turn)

    async def _in_thread(self, limiter: trio.CapacityLimiter, call: Callable[..., T], *args: object) -> T:
        try:
            return await trio.to_thread.run_sync(self._unless_failed, call, *args, limiter=limiter)
        except storage.StoreFailed as error:
            self._failure = self._failure or error
            raise

    def _unless_failed(self, call: Callable[..., T], *args: object) -> T:
        self._refuse_if_failed()
        return call(*args)

    def _open_views(self) -> list[View]:
        self._views = [view for view in self._views if not self._expired(view)]
        return self._views

    def _open_view(self) -> View:
        self._refuse_if_failed()
        if len(self._open_views()) >= self._config.snapshots_max:
            raise storage.SnapshotsExhausted(
                f"{len(self._views)} snapshots are open", "snapshots_max", "Close some, or raise it."
            )
        view = View(self._moment, self._clock.monotonic())
        self._views.append(view)
        return view

    def _close_view(self, view: View) -> None:
        view.closed = True
        self._open_views()

    def _expired(self, view: View) -> bool:
        return view.closed or self._clock.monotonic() - view.opened_s > self._config.snapshot_age_s_max

    def _refuse_if_expired(self, view: View) -> None:
        if self._expired(view):
            raise storage.SnapshotExpired("the snapshot was closed or is too old", "", "Take another.")

    def _refuse_if_failed(self) -> None:
        if self._failure is not None:
            raise storage.StoreFailed(self._failure.problem, self._failure.subject, self._failure.mend)


@attrs.frozen(eq=False)
class Snapshot:
    """A `Reader` of one view."""

    _store: CofferStore
    _view: View

    async def get(self, key: bytes) -> bytes | None:
        return (await self.get_many([key]))[0]

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return await self._store.read_keys(keys, self._view)

    def scan(
        self, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False, limit: int | None = None
    ) -> AsyncIterator[Row]:
        return self._store.read_rows(start, end, reverse, limit, self._view)

    def scan_prefix(
        self, prefix: bytes, *, reverse: bool = False, limit: int | None = None
    ) -> AsyncIterator[Row]:
        return self._store.read_rows(prefix, storage.prefix_end(prefix), reverse, limit, self._view)


def _append(log: Log, operations: Sequence[storage.Operation], sync: bool) -> list[Change]:
    """Write a batch; the changes that it makes."""
    payload = encode(operations)
    return list(decode(payload, log.append(payload, sync)))


def open_log(folder: Path) -> tuple[Log, Index]:
    """Hold the log in `folder` and read it through. Raises `StorageError`s."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise os_error(error, folder) from error
    log, index = Log.open(folder / FILE), Index()
    try:
        for changes in log.records():
            for _ in index.apply(changes, log.number, log.number - 1):
                pass
    except BaseException:
        log.close()
        raise
    return log, index


@asynccontextmanager
async def open_coffer(ctx: Context, config: CofferConfig) -> AsyncIterator[CofferStore]:
    """Open the log in the component's folder, or the one at `path`."""
    folder = Path(config.path) if config.path else ctx.data_dir
    store = CofferStore(ctx, config, *await trio.to_thread.run_sync(open_log, folder))
    try:
        yield store
    finally:
        await store.close()


coffer = Component(
    role=Role.STORAGE,
    name="coffer",
    open=open_coffer,
    config=CofferConfig,
    features=frozenset({"persistent"}),
    description="An append-only log of checksummed batches; it never shrinks.",
)
