"""A store whose disk fails at one chosen operation, for what lies above the storage role (STO-44, STO-104).

`FaultyDisk` is a disk: rows in a `memory` store, what was synced of them, and the batches since. A
`FaultyStore` is a store on it as long as one process runs; `FaultyDisk.opened` gives the next one. The fault
comes at the n-th operation of its kind, and every choice is drawn from the seed: both make it happen again.
Several disks that share one `Due` have the fault on one of them.
"""

import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

import attrs
import trio

from supervm.contracts.storage import (
    Delete,
    DiskFull,
    Durability,
    KeyValueStore,
    Operation,
    Put,
    Reader,
    StoreFailed,
    WriteBatch,
    prefix_end,
)
from supervm.kernel.component import Health
from supervm.plugins.storage import memory
from supervm.testing.conformance.component import only_error
from supervm.testing.context import opened

Row = tuple[bytes, bytes]
NEVER = 2**62


class Fault(StrEnum):
    """What a disk can do to a store. All but the flips are told to whoever wrote or read."""

    WRITE_ERROR = "write error"
    SYNC_ERROR = "failed sync"
    DISK_FULL = "disk full"
    READ_ERROR = "read error"
    POWER_LOSS = "power loss"
    SHORT_WRITE = "short write"
    FLIP_ON_READ = "bit flip on read"
    FLIP_IN_VALUE = "bit flip at rest, value"
    FLIP_IN_KEY = "bit flip at rest, key"
    LOST_ROW = "row lost at rest"


AT_REST = frozenset({Fault.FLIP_IN_VALUE, Fault.FLIP_IN_KEY, Fault.LOST_ROW})
OF_READS = frozenset({Fault.READ_ERROR, Fault.FLIP_ON_READ})
LASTING = AT_REST | {Fault.SHORT_WRITE}
"""After these the disk is not what any sequence of batches leaves: the ledger may refuse it for good."""


class PowerLost(BaseException):
    """The process ends here. Not an `Exception`, so that nothing goes on by mistake."""


@attrs.define
class Due:
    """The one fault there will be, at the `at`-th operation (from 1) of its sort, on whichever of the disks
    that share this. `injected` says what happened, in words.
    """

    kind: Fault | None
    at: int
    operations: int = 0
    injected: str = ""

    def now(self, reading: bool) -> bool:
        """Count an operation; whether the fault is to come at it."""
        if self.kind is None or self.injected or (self.kind in OF_READS) != reading:
            return False
        self.operations += 1
        return self.operations >= self.at


@attrs.define
class FaultyDisk:
    """What is on a disk that has a fault when it is due."""

    store: Any  # the memory store that all is read from
    due: Due
    chance: random.Random
    damaged: tuple[bytes, ...] = ()  # the key of the row that was changed at rest, and where it is now
    noticed: list[str] = attrs.Factory(list)  # errors that whoever worked here took for what they are
    _synced: dict[bytes, bytes] = attrs.Factory(dict)
    _since: list[WriteBatch] = attrs.Factory(list)
    _process: int = 0

    @property
    def kind(self) -> Fault | None:
        return self.due.kind

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["FaultyStore"]:
        """The store as one process has it, from the start to its end or its death."""
        self._process += 1
        yield FaultyStore(self, self._process)

    async def lose_power(self) -> None:
        """Only what was synced is left, and a prefix of the batches after it (STO-5)."""
        kept = self._since[: self.chance.randrange(len(self._since) + 1)]
        rows = dict(self._synced)
        for batch in kept:
            _apply(rows, batch)
        await self._become(rows)
        self._synced, self._since = rows, []

    async def restart(self) -> None:
        """The process died and the machine did not: everything that was written is there."""
        self._process += 1
        await trio.lowlevel.checkpoint()

    def disarm(self) -> None:
        """The fault that didn't come yet doesn't come any more."""
        self.due.at = NEVER

    async def tear(self, batch: WriteBatch) -> None:
        """A part of the batch is there, and the rest never was: what no backend may leave."""
        rows = {row[0]: row[1] for row in await self.rows()}
        _apply(rows, batch[: self.chance.randrange(1, len(batch))])
        await self._become(rows)

    async def rows(self) -> list[Row]:
        return [row async for row in self.store.scan()]

    async def _become(self, rows: Mapping[bytes, bytes]) -> None:
        before = {key for key, _ in await self.rows()}
        await self.store.write(
            [*(Delete(key) for key in before - rows.keys()), *(Put(*row) for row in rows.items())]
        )

    async def damage(self) -> bool:
        """Change one row at rest; False where there is none."""
        rows = await self.rows()
        if not rows:
            return False
        key, value = self.chance.choice(rows)
        operations: list[Operation]
        damaged = (key,)
        if self.kind is Fault.LOST_ROW:
            operations = [Delete(key)]
        elif self.kind is Fault.FLIP_IN_KEY:
            moved = flipped(key, self.chance)
            if await self.store.get(moved) is not None:
                return False
            operations = [Delete(key), Put(moved, value)]
            damaged = (key, moved)
        elif value:
            operations = [Put(key, flipped(value, self.chance))]
        else:
            return False
        await self.store.write(operations)
        self._synced = dict(await self.rows())
        self._since = []
        self.damaged = damaged
        return True

    async def before_read(self) -> None:
        if self.kind is Fault.READ_ERROR and self.due.now(reading=True):
            self.due.injected = "a read failed"
            raise StoreFailed("injected: the disk doesn't read", "errno 5", "Check the disk.")

    def read(self, values: list[bytes | None]) -> list[bytes | None]:
        """The values, one of them with a bit flipped where it is time."""
        there = [number for number, value in enumerate(values) if value]
        if self.kind is Fault.FLIP_ON_READ and there and self.due.now(reading=True):
            self.due.injected = "a read gave a flipped bit"
            number = self.chance.choice(there)
            value = values[number]
            assert value is not None
            return [*values[:number], flipped(value, self.chance), *values[number + 1 :]]
        return values

    async def write(self, batch: WriteBatch, durability: Durability) -> None:
        if self.due.now(reading=False):
            await self._fail(batch)
        await self._write(batch, durability)

    async def _write(self, batch: WriteBatch, durability: Durability) -> None:
        await self.store.write(batch, durability)
        self._since.append(batch)
        if durability is Durability.DURABLE:
            for each in self._since:
                _apply(self._synced, each)
            self._since = []

    async def _fail(self, batch: WriteBatch) -> None:
        """What happens at the chosen write. Returns where the write itself goes on."""
        match self.kind:
            case Fault.DISK_FULL:
                self.due.injected = "no space for a batch"
                raise DiskFull("injected: no space left", "errno 28", "Free some.")
            case Fault.WRITE_ERROR:
                self.due.injected = "a write failed"
                raise StoreFailed("injected: the disk doesn't write", "errno 5", "Check the disk.")
            case Fault.SYNC_ERROR:
                self.due.injected = "a sync failed"
                self._since.append(batch)
                raise StoreFailed("injected: the disk doesn't sync", "errno 5", "Check the disk.")
            case Fault.POWER_LOSS:
                self.due.injected = "the power failed"
                self._since.append(batch)
                raise PowerLost
            case Fault.SHORT_WRITE:
                if len(batch) > 1:
                    self.due.injected = "a part of a batch was written"
                    await self.tear(batch)
                    raise PowerLost
            case _ if self.kind in AT_REST and await self.damage():
                self.due.injected = f"row {self.damaged[0].hex()}"


def flipped(data: bytes, chance: random.Random) -> bytes:
    """The bytes with one bit another."""
    at = chance.randrange(len(data))
    return data[:at] + bytes((data[at] ^ 1 << chance.randrange(8),)) + data[at + 1 :]


def _apply(rows: dict[bytes, bytes], batch: WriteBatch) -> None:
    for operation in batch:
        if isinstance(operation, Put):
            rows[operation.key] = operation.value
        elif isinstance(operation, Delete):
            rows.pop(operation.key, None)
        else:
            for key in [key for key in rows if key >= operation.start]:
                if operation.end is None or key < operation.end:
                    del rows[key]


@attrs.define
class _FaultyReader:
    """A reader on a faulty disk; refuses all once its store has failed."""

    _store: "FaultyStore"
    _inner: Reader

    async def get(self, key: bytes) -> bytes | None:
        return (await self.get_many((key,)))[0]

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        async with self._store._running() as disk:
            await disk.before_read()
            return disk.read(await self._inner.get_many(keys))

    async def scan(
        self, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False, limit: int | None = None
    ) -> AsyncGenerator[Row, None]:
        async with self._store._running() as disk:
            await disk.before_read()
        async for key, value in self._inner.scan(start, end, reverse=reverse, limit=limit):
            read = self._store._disk.read([value])[0]
            assert read is not None
            yield key, read

    def scan_prefix(
        self, prefix: bytes, *, reverse: bool = False, limit: int | None = None
    ) -> AsyncGenerator[Row, None]:
        return self.scan(prefix, prefix_end(prefix), reverse=reverse, limit=limit)


class FaultyStore(_FaultyReader):
    """A `KeyValueStore` on a faulty disk, as the contract wants it: after `StoreFailed` it refuses all."""

    def __init__(self, disk: FaultyDisk, process: int) -> None:
        super().__init__(self, disk.store)
        self._disk = disk
        self._process = process
        self._failed: StoreFailed | None = None
        self.capabilities = disk.store.capabilities | {"persistent"}
        self.gives = dict(zip(Durability, Durability, strict=True))

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[FaultyDisk]:
        assert self._process == self._disk._process, "a process that is dead"
        if self._failed is not None:
            raise StoreFailed("the store failed before", self._failed, "Open it again.")
        try:
            yield self._disk
        except StoreFailed as error:
            self._failed = error
            raise

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Reader]:
        async with self._running():
            pass
        async with self._disk.store.snapshot() as inner:
            yield _FaultyReader(self, inner)  # type: ignore[misc]

    async def write(self, batch: WriteBatch, durability: Durability = Durability.DURABLE) -> None:
        async with self._running() as disk:
            await disk.write(tuple(batch), durability)

    async def checkpoint(self, path: Path) -> None:
        await self._disk.store.checkpoint(path)

    async def compact(self, start: bytes = b"", end: bytes | None = None) -> None:
        await self._disk.store.compact(start, end)

    async def get_property(self, name: str) -> str | None:
        return await self._disk.store.get_property(name)  # type: ignore[no-any-return]

    async def stats(self) -> Any:
        return await self._disk.store.stats()

    async def health(self) -> Health:
        return Health()


@asynccontextmanager
async def faulty_disk(
    path: Path, kind: Fault | None = None, at: int = 1, seed: object = 0
) -> AsyncIterator[FaultyDisk]:
    """An empty disk that fails so at its `at`-th operation (from 1) of the sort that `kind` is about."""
    try:
        async with opened(memory.memory, path) as store:
            yield FaultyDisk(store, Due(kind, at), random.Random(f"{seed}/{kind}/{at}"))
    except BaseExceptionGroup as group:
        raise only_error(group) from None


def is_store(store: FaultyStore) -> KeyValueStore:
    """For the type checker: it is one."""
    return store
