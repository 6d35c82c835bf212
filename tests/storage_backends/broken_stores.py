"""Stores that break one promise each. The suite must catch every one of them."""

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from supervm.api import Component, Context, Role
from supervm.contracts.storage import DeleteRange, Durability, Operation, WriteBatch
from supervm.plugins.storage.memory import MemoryConfig, MemorySnapshot, MemoryStore
from supervm.plugins.storage.scan import Row
from supervm.plugins.storage.sqlite import SqliteConfig, SqliteEngine
from supervm.plugins.storage.threaded import ThreadedStore, served


class LosesOrder(MemoryStore):
    """Bytes above 7f come first, as where bytes are compared as signed numbers."""

    async def _scan(self, *args: Any) -> AsyncIterator[Row]:
        rows = [row async for row in super()._scan(*args)]
        for row in sorted(rows, key=lambda row: [byte ^ 0x80 for byte in row[0]], reverse=args[2]):
            yield row


class EndInclusive(MemoryStore):
    async def _scan(self, start: bytes, end: bytes | None, *args: Any) -> AsyncIterator[Row]:
        async for row in super()._scan(start, end if end is None else end + b"\x00", *args):
            yield row


class ScanFollowsWrites(MemoryStore):
    """Each page is read from the newest rows."""

    async def _scan(self, *args: Any) -> AsyncIterator[Row]:
        async for key, _ in super()._scan(*args):
            value = await self.get(key)
            if value is not None:
                yield key, value


class SnapshotSeesLaterWrites(MemoryStore):
    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        yield self


class SnapshotOutlivesItsContext(MemoryStore):
    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        yield MemorySnapshot(self, await self._open_view())


class TearsBatches(MemoryStore):
    """Half a batch is visible before the other half."""

    async def write(self, batch: WriteBatch, durability: Durability = Durability.DURABLE) -> None:
        half = len(batch) // 2
        with trio.CancelScope(shield=True):
            await super().write(batch[:half], durability)
            await super().write(batch[half:], durability)


class CancelsHalfWay(MemoryStore):
    async def write(self, batch: WriteBatch, durability: Durability = Durability.DURABLE) -> None:
        for at in range(0, len(batch), 100):
            await super().write(batch[at : at + 100], durability)


class ChecksWhileWriting(MemoryStore):
    """A bad operation stops the batch, but what stood before it is there."""

    async def write(self, batch: WriteBatch, durability: Durability = Durability.DURABLE) -> None:
        for operation in batch:
            await super().write([operation], durability)


class AcceptsAnySize(MemoryStore):
    async def _check(self, operations: tuple[Operation, ...]) -> None:
        await trio.lowlevel.checkpoint()


class FirstWins(MemoryStore):
    def _changes(self, operations: tuple[Operation, ...]) -> Iterator[tuple[bytes, bytes | None]]:
        return super()._changes(operations[::-1])


class SwallowsDeleteRange(MemoryStore):
    def _changes(self, operations: tuple[Operation, ...]) -> Iterator[tuple[bytes, bytes | None]]:
        return super()._changes(tuple(o for o in operations if not isinstance(o, DeleteRange)))


class DeletesRangesFirst(MemoryStore):
    def _changes(self, operations: tuple[Operation, ...]) -> Iterator[tuple[bytes, bytes | None]]:
        first = tuple(o for o in operations if isinstance(o, DeleteRange))
        return super()._changes(first + tuple(o for o in operations if not isinstance(o, DeleteRange)))


class ForgetsEmptyValues(MemoryStore):
    def _changes(self, operations: tuple[Operation, ...]) -> Iterator[tuple[bytes, bytes | None]]:
        for key, value in super()._changes(operations):
            yield key, value or None


class AnswersInKeyOrder(MemoryStore):
    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return await super().get_many(sorted(keys))


class ServesAfterClosing(MemoryStore):
    def close(self) -> None:
        pass


class ClaimsToPersist(MemoryStore):
    capabilities = MemoryStore.capabilities | {"persistent"}
    gives: Mapping[Durability, Durability] = {level: level for level in Durability}


class AcknowledgesEarly(ThreadedStore):
    """A batch is acknowledged when it is queued, and written with the one after it."""

    _held: tuple[Operation, ...] = ()

    async def write(self, batch: WriteBatch, durability: Durability = Durability.DURABLE) -> None:
        held, self._held = self._held, tuple(batch)
        await super().write(held, durability)

    async def close(self) -> None:
        await super().write(self._held)
        await super().close()


class WritesPiecemeal(SqliteEngine):
    """Every operation is a transaction of its own: a kill leaves a part of a batch."""

    def apply(self, operations: Sequence[Operation], durability: Durability) -> None:
        for operation in operations:
            super().apply([operation], durability)
            super().settle(durability)

    def settle(self, durability: Durability) -> None:
        pass


class LeavesAFileOpen(SqliteEngine):
    def close(self) -> None:
        pass


def on_memory(store: type[MemoryStore], name: str) -> Component:
    @asynccontextmanager
    async def open_store(ctx: Context, config: MemoryConfig) -> AsyncIterator[MemoryStore]:
        made = store(ctx, config)
        yield made
        made.close()

    return Component(
        role=Role.STORAGE, name=name, open=open_store, config=MemoryConfig, features=store.capabilities
    )


def on_sqlite(
    name: str, store: type[ThreadedStore] = ThreadedStore, engine: type[SqliteEngine] = SqliteEngine
) -> Component:
    """Without the folder's lock, too: any number of openers."""

    @asynccontextmanager
    async def open_store(ctx: Context, config: SqliteConfig) -> AsyncIterator[ThreadedStore]:
        folder = Path(config.path) if config.path else ctx.data_dir
        made = store(ctx, engine(folder, config), snapshot_age_s_max=600, snapshots_max=64)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(served(ctx, made, lambda stats: None))
            yield made

    return Component(
        role=Role.STORAGE, name=name, open=open_store, config=SqliteConfig, features=engine.capabilities
    )


# By name at module level, so that a child process finds them.
acknowledges_early = on_sqlite("acknowledges-early", store=AcknowledgesEarly)
writes_piecemeal = on_sqlite("writes-piecemeal", engine=WritesPiecemeal)
leaves_a_file_open = on_sqlite("leaves-a-file-open", engine=LeavesAFileOpen)
shares_its_folder = on_sqlite("shares-its-folder")


@attrs.frozen
class LaxOptions:
    """Options without a default: the component can't be opened as it is."""

    size: int


lax_options = attrs.evolve(on_memory(MemoryStore, "lax-options"), config=LaxOptions)
