"""A storage component in memory: replace `Rows` by your engine, and keep what the contract promises."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import attrs
import trio
from sortedcontainers import SortedDict

from supervm.api import Component, Context, Health, Role, storage


@attrs.frozen(kw_only=True)
class ExampleConfig:
    """`bytes_max`: keys and values together, above which writes are refused."""

    bytes_max: int = attrs.field(default=2**30, validator=attrs.validators.ge(1))
    snapshot_age_s_max: float = attrs.field(
        default=storage.SNAPSHOT_AGE_S_MAX, validator=attrs.validators.gt(0)
    )
    snapshots_max: int = attrs.field(default=256, validator=attrs.validators.ge(1))


Rows: TypeAlias = "SortedDict[bytes, bytes]"
"""Key to value, ordered. A snapshot keeps the rows it was taken of: a write after it copies them first."""


class Example:
    """A `KeyValueStore` without capabilities: nothing survives it, and it says so in `gives`."""

    capabilities: frozenset[str] = frozenset()
    gives: Mapping[storage.Durability, storage.Durability] = dict.fromkeys(
        storage.Durability, storage.Durability.MEMORY
    )

    def __init__(self, ctx: Context, config: ExampleConfig) -> None:
        self._ctx = ctx
        self._config = config
        self._rows = SortedDict()
        self._bytes = 0
        self._views: list[_View] = []
        self._closed = False

    async def get(self, key: bytes) -> bytes | None:
        return (await self.get_many([key]))[0]

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        storage.check_keys(keys)
        await trio.lowlevel.checkpoint()
        self._refuse_if_closed()
        return [self._rows.get(key) for key in keys]

    async def scan(
        self, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False, limit: int | None = None
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        storage.check_bound(start)
        storage.check_bound(end)
        storage.check_limit(limit)
        async with self.snapshot() as reader:
            async for row in reader.scan(start, end, reverse=reverse, limit=limit):
                yield row

    def scan_prefix(
        self, prefix: bytes, *, reverse: bool = False, limit: int | None = None
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        return self.scan(prefix, storage.prefix_end(prefix), reverse=reverse, limit=limit)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[storage.Reader]:
        await trio.lowlevel.checkpoint()
        self._refuse_if_closed()
        self._views = [view for view in self._views if view.open]
        if len(self._views) >= self._config.snapshots_max:
            raise storage.SnapshotsExhausted(
                f"{len(self._views)} snapshots are open", "snapshots_max", "Close some."
            )
        view = _View(self._ctx, self._rows, self._config.snapshot_age_s_max)
        self._views.append(view)
        try:
            yield view
        finally:
            view.rows = None

    async def write(
        self, batch: storage.WriteBatch, durability: storage.Durability = storage.Durability.DURABLE
    ) -> None:
        batch = tuple(batch)
        storage.check_batch(batch)
        await trio.lowlevel.checkpoint()
        self._refuse_if_closed()
        # No checkpoint from here on: the batch is visible at once, or not at all.
        rows = self._rows.copy()
        for operation in batch:
            match operation:
                case storage.Put(key, value):
                    rows[key] = value
                case storage.Delete(key):
                    rows.pop(key, None)
                case _:
                    for key in list(rows.irange(operation.start, operation.end, inclusive=(True, False))):
                        del rows[key]
        size = sum(len(key) + len(value) for key, value in rows.items())
        if size > self._config.bytes_max:
            raise storage.DiskFull(
                f"{size} bytes of keys and values", "bytes_max", "Raise it, or delete first."
            )
        self._rows, self._bytes = rows, size

    async def checkpoint(self, path: Path) -> None:
        await trio.lowlevel.checkpoint()
        raise storage.Unsupported("this store makes no checkpoints", path, "Ask `capabilities` first.")

    async def compact(self, start: bytes = b"", end: bytes | None = None) -> None:
        await trio.lowlevel.checkpoint()
        raise storage.Unsupported("this store has nothing to compact", "", "Ask `capabilities` first.")

    async def get_property(self, name: str) -> str | None:
        await trio.lowlevel.checkpoint()
        raise storage.Unsupported("this store has no properties", name, "Ask `capabilities` first.")

    async def stats(self) -> storage.StoreStats:
        await trio.lowlevel.checkpoint()
        self._refuse_if_closed()
        open_views = sum(view.open for view in self._views)
        return storage.StoreStats(keys_estimate=len(self._rows), bytes=self._bytes, snapshots_open=open_views)

    async def health(self) -> Health:
        await trio.lowlevel.checkpoint()
        return Health()

    def close(self) -> None:
        """Free the rows; every later call is refused."""
        self._closed = True
        for view in self._views:
            view.rows = None
        self._rows = SortedDict()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise storage.StoreFailed("the store is closed", self._ctx.name, "Open it again.")


class _View:
    """A `storage.Reader` of the rows as they were; `rows` None once it is closed."""

    def __init__(self, ctx: Context, rows: Rows, age_s_max: float) -> None:
        self.rows: Rows | None = rows
        self._ctx = ctx
        self._expires_s = ctx.clock.monotonic() + age_s_max

    @property
    def open(self) -> bool:
        return self.rows is not None and self._ctx.clock.monotonic() <= self._expires_s

    async def get(self, key: bytes) -> bytes | None:
        return (await self.get_many([key]))[0]

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        storage.check_keys(keys)
        await trio.lowlevel.checkpoint()
        rows = self._still_open()
        return [rows.get(key) for key in keys]

    async def scan(
        self, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False, limit: int | None = None
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        storage.check_bound(start)
        storage.check_bound(end)
        storage.check_limit(limit)
        if end is not None and start >= end:
            return
        keys = self._still_open().irange(start, end, inclusive=(True, False), reverse=reverse)
        for count, key in enumerate(keys):
            if count == limit:
                return
            if count % storage.PAGE_ROWS_MAX == 0:
                await trio.lowlevel.checkpoint()
            yield key, self._still_open()[key]

    def scan_prefix(
        self, prefix: bytes, *, reverse: bool = False, limit: int | None = None
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        return self.scan(prefix, storage.prefix_end(prefix), reverse=reverse, limit=limit)

    def _still_open(self) -> Rows:
        if self.rows is None or not self.open:
            raise storage.SnapshotExpired("the snapshot was closed or is too old", "", "Take another.")
        return self.rows


@asynccontextmanager
async def open_example(ctx: Context, config: ExampleConfig) -> AsyncIterator[Example]:
    """Open an empty store."""
    store = Example(ctx, config)
    try:
        yield store
    finally:
        store.close()


component = Component(role=Role.STORAGE, name="example", open=open_example, config=ExampleConfig)
