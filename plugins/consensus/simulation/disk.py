"""A virtual disk: what was written and not synced may be lost at a crash, and what lies on it may go bad.

The store over it is the shipped store in memory, so that reads, snapshots and scans are its own. A write is
seen at once, as with real stores, and returns, where it must be durable, when the disk has synced. A crash
keeps some first part of what was written after the last sync (STO-10).
"""

import random
from collections.abc import Callable, Mapping

import attrs
import trio
from sortedcontainers import SortedDict

from supervm.api import Context
from supervm.contracts.storage import (
    DeleteRange,
    DiskFull,
    Durability,
    Operation,
    Put,
    StoreFailed,
    WriteBatch,
)
from supervm.plugins.consensus.simulation import turns
from supervm.plugins.storage.memory import MemoryConfig, MemoryStore


@attrs.define(eq=False)
class VirtualDisk:
    """The disk of one validator, through all its lives. `full`: nothing can be written now."""

    rows: SortedDict = attrs.Factory(SortedDict)
    full: bool = False
    _unsynced: list[tuple[Operation, ...]] = attrs.Factory(list)
    _synced: int = 0

    def write(self, operations: tuple[Operation, ...]) -> int:
        """Take a write; gives its number, for `sync`."""
        self._unsynced.append(operations)
        return self._synced + len(self._unsynced)

    def sync(self, number: int) -> None:
        """All writes up to this one are on the disk."""
        self._keep(number - self._synced)

    def crash(self, rng: random.Random) -> int:
        """Lose what wasn't synced, but for some first part of it. Gives how many writes are lost."""
        self._keep(rng.randint(0, len(self._unsynced)))
        lost = len(self._unsynced)
        self._synced += lost
        self._unsynced.clear()
        return lost

    def lose(self) -> None:
        """Another, empty disk."""
        self.rows.clear()
        self._synced += len(self._unsynced)
        self._unsynced.clear()

    def damage(self, rng: random.Random) -> bytes:
        """Flip a bit of a row. Gives its key, empty where there is no row."""
        if not self.rows:
            return b""
        key: bytes = self.rows.keys()[rng.randrange(len(self.rows))]
        value = bytearray(self.rows[key])
        if value:
            value[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
        self.rows[key] = bytes(value)
        return key

    def _keep(self, count: int) -> None:
        for operations in self._unsynced[: max(0, count)]:
            for operation in operations:
                self._apply(operation)
            self._synced += 1
        del self._unsynced[: max(0, count)]

    def _apply(self, operation: Operation) -> None:
        if isinstance(operation, Put):
            self.rows[operation.key] = operation.value
        elif isinstance(operation, DeleteRange):
            for key in list(self.rows.irange(operation.start, operation.end, inclusive=(True, False))):
                del self.rows[key]
        else:
            self.rows.pop(operation.key, None)


class VirtualStore(MemoryStore):
    """The store of one life of a node. After `die` whoever still writes gets `StoreFailed`."""

    gives: Mapping[Durability, Durability] = {each: each for each in Durability}

    def __init__(self, ctx: Context, disk: VirtualDisk, sync_s: Callable[[], float]) -> None:
        super().__init__(ctx, MemoryConfig())
        self._disk = disk
        self._sync_s = sync_s
        self._order = trio.Lock()
        self._dead = False
        for key, value in disk.rows.items():
            self._rows.set(key, value)

    def die(self) -> None:
        self._dead = True

    async def write(self, batch: WriteBatch, durability: Durability = Durability.DURABLE) -> None:
        operations = tuple(batch)
        async with self._order:
            self._check_alive()
            if self._disk.full:
                raise DiskFull("the virtual disk is full", "disk", "wait for room")
            await super().write(operations, durability)
            self._check_alive()
            number = self._disk.write(operations)
        if durability is Durability.DURABLE:
            await turns.sleep(self._sync_s())
            self._check_alive()
            self._disk.sync(number)

    def _check_alive(self) -> None:
        # Not for ever asleep: a commit is shielded, and the life's end waits for it.
        if self._dead:
            raise StoreFailed("the node has crashed", "virtual", "it starts again by itself")
