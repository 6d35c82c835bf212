"""Storage in memory: a sorted dictionary. Nothing survives the component.

A snapshot costs nothing to take: each write first notes, in every open view, what the keys it changes
held before, and a view reads its notes over the live rows. A write longer than one slice yields to other
tasks in between; they read through a view taken before it, so that it becomes visible at once, and the
same notes undo it if it fails.
"""

import heapq
import struct
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import attrs
import blake3
import trio
from sortedcontainers import SortedDict

from supervm.api import Component, Context, Health, Role
from supervm.contracts.storage import (
    FORMAT,
    KEY_BYTES_MAX,
    SNAPSHOT_AGE_S_MAX,
    DeleteRange,
    DiskFull,
    Durability,
    Operation,
    Put,
    Reader,
    SnapshotExpired,
    SnapshotsExhausted,
    StorageError,
    StoreCorrupt,
    StoreFailed,
    StoreStats,
    StoreTooNew,
    Unsupported,
    WriteBatch,
    check_batch_size,
    check_bound,
    check_keys,
    check_limit,
    check_operation,
)
from supervm.plugins.storage.folder import os_error, published
from supervm.plugins.storage.latency import Latency
from supervm.plugins.storage.reads import Reads
from supervm.plugins.storage.scan import Page, PageBuilder, Row, Span, scan_pages

SLICE = 1_000
CHECKPOINT_FILE = "memory.rows"
MAGIC = b"supervm memory store\n"


@attrs.frozen(kw_only=True)
class MemoryConfig:
    """`path`: a checkpoint to start from ("": empty). `bytes_max`: keys and values; over it `DiskFull`."""

    path: str = ""
    bytes_max: int = attrs.field(default=2**30, validator=attrs.validators.ge(1))
    snapshot_age_s_max: float = attrs.field(default=SNAPSHOT_AGE_S_MAX, validator=attrs.validators.gt(0))
    snapshots_max: int = attrs.field(default=256, validator=attrs.validators.ge(1))


@attrs.define(eq=False)
class _View:
    """What the keys changed since `opened_s` held then (None: absent), over the live rows."""

    opened_s: float
    before: dict[bytes, bytes | None] = attrs.Factory(dict)
    closed: bool = False
    _sorted: list[bytes] = attrs.Factory(list)

    def changed_within(self, span: Span) -> Iterator[bytes]:
        # Notes are only ever added, so that their number tells whether the order is still right.
        if len(self._sorted) != len(self.before):
            self._sorted = sorted(self.before)
        low = bisect_left(self._sorted, span.start)
        high = len(self._sorted) if span.end is None else bisect_left(self._sorted, span.end)
        order = range(high - 1, low - 1, -1) if span.reverse else range(low, high)
        return map(self._sorted.__getitem__, order)


class _Rows:
    """The live rows, and the views to be told before each change."""

    def __init__(self) -> None:
        self.live: SortedDict[bytes, bytes] = SortedDict()
        self.bytes = 0
        self.views: list[_View] = []

    def set(self, key: bytes, value: bytes | None) -> None:
        """Set or (None) remove one key."""
        old = self.live.get(key)
        for view in self.views:
            view.before.setdefault(key, old)
        if old is not None:
            self.bytes -= len(key) + len(old)
        if value is None:
            self.live.pop(key, None)
        else:
            self.live[key] = value
            self.bytes += len(key) + len(value)

    def get(self, key: bytes, view: _View | None) -> bytes | None:
        if view is not None and key in view.before:
            return view.before[key]
        value: bytes | None = self.live.get(key)
        return value

    def page(self, span: Span, view: _View | None) -> Page:
        """One page of the view, or of the live rows."""
        page = PageBuilder(span)
        for key in self._keys(span, view):
            value = self.get(key, view)
            if value is not None and page.take(key, value):
                return Page(page.rows, True)
        return Page(page.rows, False)

    def _keys(self, span: Span, view: _View | None) -> Iterator[bytes]:
        live = self.live.irange(span.start, span.end, inclusive=(True, False), reverse=span.reverse)
        if view is None or not view.before:
            return live  # type: ignore[no-any-return]
        return _merged(live, view.changed_within(span), span.reverse)


def _merged(live: Iterator[bytes], changed: Iterator[bytes], reverse: bool) -> Iterator[bytes]:
    """Two sorted streams of keys as one, without doubles."""
    last = None
    for key in heapq.merge(live, changed, reverse=reverse):
        if key != last:
            yield key
        last = key


class MemoryStore(Reads):
    """A `KeyValueStore`. Everything happens in the event loop, in slices of 1,000 changes."""

    capabilities = frozenset({"checkpoint", "delete_range_native", "online_prune"})
    gives: Mapping[Durability, Durability] = dict.fromkeys(Durability, Durability.MEMORY)

    def __init__(self, ctx: Context, config: MemoryConfig) -> None:
        self._ctx = ctx
        self._config = config
        self._latency = Latency(ctx)
        self._rows = _Rows()
        self._writing = trio.Lock()
        # While a long write is applied, readers see the rows as they were before it.
        self._settled: _View | None = None
        self._closed = False

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._latency.read():
            return await self._get_many(keys, None)

    def _range(self, start: bytes, end: bytes | None, reverse: bool, limit: int | None) -> AsyncIterator[Row]:
        return self._scan(start, end, reverse, limit, None)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Reader]:
        view = await self._open_view()
        try:
            yield MemorySnapshot(self, view)
        finally:
            self._close_view(view)

    async def write(self, batch: WriteBatch, durability: Durability = Durability.DURABLE) -> None:
        operations = tuple(batch)
        self._refuse_if_closed()
        await self._check(operations)
        async with self._writing:
            with self._latency.write(durability), trio.CancelScope(shield=True):
                await self._apply(operations)

    async def checkpoint(self, path: Path) -> None:
        self._refuse_if_closed()
        async with self.snapshot() as reader:
            with published(path) as temporary:
                temporary.mkdir(mode=0o700)
                await _write_rows(temporary / CHECKPOINT_FILE, reader)

    async def compact(self, start: bytes = b"", end: bytes | None = None) -> None:
        await trio.lowlevel.checkpoint()
        raise Unsupported("memory has nothing to compact", "compaction", "Ask `capabilities` first.")

    async def get_property(self, name: str) -> str | None:
        await trio.lowlevel.checkpoint()
        raise Unsupported("memory has no properties", name, "Ask `capabilities` first.")

    async def stats(self) -> StoreStats:
        await trio.lowlevel.checkpoint()
        self._refuse_if_closed()
        stats = StoreStats(
            keys_estimate=len(self._rows.live),
            bytes=self._rows.bytes,
            snapshots_open=len(self._rows.views) - (self._settled is not None),
        )
        self._latency.record(stats)
        return stats

    async def health(self) -> Health:
        await trio.lowlevel.checkpoint()
        return Health()

    def close(self) -> None:
        """Free the rows; every later call raises `StoreFailed`."""
        self._closed = True
        for view in self._rows.views:
            view.closed = True
        self._rows = _Rows()

    async def load(self, file: trio.Path) -> None:
        """Take the rows of a checkpoint. Raises `StoreCorrupt`, `StoreTooNew`, `DiskFull` or an `OSError`."""
        for count, (key, value) in enumerate(_parse_rows(await file.read_bytes(), Path(file))):
            self._rows.set(key, value)
            self._check_bytes()
            if count % SLICE == 0:
                await trio.lowlevel.checkpoint()

    def _check_bytes(self) -> None:
        if self._rows.bytes > self._config.bytes_max:
            raise DiskFull(
                f"{self._rows.bytes} bytes of keys and values",
                "bytes_max",
                f"The limit is {self._config.bytes_max}: raise it, or delete first.",
            )

    async def _get_many(self, keys: Sequence[bytes], view: _View | None) -> list[bytes | None]:
        keys = tuple(keys)
        check_keys(keys)
        await trio.lowlevel.checkpoint()
        if len(keys) <= SLICE:
            self._refuse_if_expired(view)
            seen = view or self._settled
            return [self._rows.get(key, seen) for key in keys]
        # A read longer than a slice yields to other tasks, so it needs a view of its own.
        own = view or await self._open_view()
        try:
            values: list[bytes | None] = []
            for at in range(0, len(keys), SLICE):
                self._refuse_if_expired(own)
                values += [self._rows.get(key, own) for key in keys[at : at + SLICE]]
                await trio.lowlevel.checkpoint()
            return values
        finally:
            if view is None:
                self._close_view(own)

    async def _scan(
        self, start: bytes, end: bytes | None, reverse: bool, limit: int | None, view: _View | None
    ) -> AsyncIterator[Row]:
        check_bound(start)
        check_bound(end)
        check_limit(limit)
        self._refuse_if_expired(view)
        own = view or await self._open_view()

        async def read_page(span: Span) -> Page:
            await trio.lowlevel.checkpoint()
            self._refuse_if_expired(own)
            with self._latency.read():
                return self._rows.page(span, own)

        try:
            async for row in scan_pages(Span(start, end, reverse), limit, read_page):
                yield row
        finally:
            if view is None:
                self._close_view(own)

    async def _check(self, operations: tuple[Operation, ...]) -> None:
        check_batch_size(len(operations), 0)
        size_bytes = 0
        await trio.lowlevel.checkpoint()
        for count, operation in enumerate(operations, 1):
            size_bytes += check_operation(operation)
            if count % SLICE == 0:
                await trio.lowlevel.checkpoint()
        check_batch_size(len(operations), size_bytes)

    async def _apply(self, operations: tuple[Operation, ...]) -> None:
        self._refuse_if_closed()
        self._expire_views()
        rows = self._rows
        view = _View(self._ctx.clock.monotonic())
        rows.views.append(view)
        self._settled = view
        try:
            for count, (key, value) in enumerate(self._changes(operations), 1):
                rows.set(key, value)
                if count % SLICE == 0:
                    await trio.lowlevel.cancel_shielded_checkpoint()
            self._check_bytes()
        except BaseException:
            rows.views.remove(view)
            for key, value in view.before.items():
                rows.set(key, value)
            raise
        finally:
            self._settled = None
            self._close_view(view)

    def _changes(self, operations: tuple[Operation, ...]) -> Iterator[tuple[bytes, bytes | None]]:
        """Each change in order; a range is looked up when it is reached, a slice at a time."""
        for operation in operations:
            if isinstance(operation, DeleteRange):
                start, end = operation.start, operation.end
                if end is not None and start >= end:
                    continue
                while doomed := list(
                    islice(self._rows.live.irange(start, end, inclusive=(True, False)), SLICE)
                ):
                    for key in doomed:
                        yield key, None
            else:
                yield operation.key, operation.value if isinstance(operation, Put) else None

    async def _open_view(self) -> _View:
        # A view taken during a long write would see a part of it: wait for its end.
        async with self._writing:
            self._refuse_if_closed()
            self._expire_views()
            if len(self._rows.views) >= self._config.snapshots_max:
                raise SnapshotsExhausted(
                    f"{len(self._rows.views)} snapshots and scans are open",
                    "snapshots_max",
                    "Close some, or raise it.",
                )
            view = _View(self._ctx.clock.monotonic())
            self._rows.views.append(view)
            return view

    def _close_view(self, view: _View) -> None:
        view.closed = True
        if view in self._rows.views:
            self._rows.views.remove(view)

    def _expired(self, view: _View) -> bool:
        age_s = self._ctx.clock.monotonic() - view.opened_s
        return view.closed or age_s > self._config.snapshot_age_s_max

    def _expire_views(self) -> None:
        for view in [v for v in self._rows.views if self._expired(v)]:
            self._close_view(view)

    def _refuse_if_expired(self, view: _View | None) -> None:
        self._refuse_if_closed()
        if view is not None and self._expired(view):
            raise SnapshotExpired(
                "the snapshot was closed or is too old",
                f"{self._config.snapshot_age_s_max} s",
                "Take another.",
            )

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreFailed("the store is closed", self._ctx.name, "Open it again.")


@attrs.frozen(eq=False)
class MemorySnapshot(Reads):
    """A `Reader` of one view."""

    _store: MemoryStore
    _view: _View

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._store._latency.read():
            return await self._store._get_many(keys, self._view)

    def _range(self, start: bytes, end: bytes | None, reverse: bool, limit: int | None) -> AsyncIterator[Row]:
        return self._store._scan(start, end, reverse, limit, self._view)


async def _write_rows(path: Path, reader: Reader) -> None:
    """Magic, u8 format, then u32 key length, u32 value length, key, value each; blake3 of all at the end."""
    hasher = blake3.blake3()
    async with await trio.open_file(path, "wb") as file:
        head = MAGIC + bytes([FORMAT])
        hasher.update(head)
        await file.write(head)
        chunk = bytearray()
        async for key, value in reader.scan():
            chunk += struct.pack("<II", len(key), len(value)) + key + value
            if len(chunk) >= 2**20:
                hasher.update(chunk)
                await file.write(bytes(chunk))
                chunk.clear()
        hasher.update(chunk)
        await file.write(bytes(chunk) + hasher.digest())


def _parse_rows(data: bytes, path: Path) -> Iterator[Row]:
    """The rows of a checkpoint file, once its checksum is right."""
    if not data.startswith(MAGIC):
        raise StoreCorrupt("not a checkpoint of a memory store", path, "Name another.")
    at, end = len(MAGIC) + 1, len(data) - 32
    if data[at - 1 : at] > bytes([FORMAT]):
        raise StoreTooNew(f"format {data[at - 1]} is newer than {FORMAT}", path, "Run a newer program.")
    if end < at or blake3.blake3(data[:end]).digest() != data[end:]:
        raise StoreCorrupt("the checkpoint's checksum is wrong", path, "Take another checkpoint.")
    while at < end:
        sizes = data[at : min(at + 8, end)]
        key_bytes, value_bytes = struct.unpack("<II", sizes) if len(sizes) == 8 else (0, 0)
        at += 8
        if not 1 <= key_bytes <= KEY_BYTES_MAX or at + key_bytes + value_bytes > end:
            raise StoreCorrupt("the checkpoint holds what is no row", path, "Take another checkpoint.")
        yield data[at : at + key_bytes], data[at + key_bytes : at + key_bytes + value_bytes]
        at += key_bytes + value_bytes


@asynccontextmanager
async def open_memory(ctx: Context, config: MemoryConfig) -> AsyncIterator[MemoryStore]:
    """Open an empty store, or one with the rows of the checkpoint at `path`."""
    store = MemoryStore(ctx, config)
    if config.path:
        file = trio.Path(config.path) / CHECKPOINT_FILE
        try:
            await store.load(file)
        except FileNotFoundError:
            raise StorageError("no checkpoint of a memory store", file, "Name its folder.") from None
        except OSError as error:
            raise os_error(error, Path(file)) from error
    try:
        yield store
    finally:
        store.close()


memory = Component(
    role=Role.STORAGE,
    name="memory",
    open=open_memory,
    config=MemoryConfig,
    features=frozenset({"checkpoint", "delete_range_native", "online_prune"}),
    description="A sorted dictionary; nothing is kept when the node stops.",
)
