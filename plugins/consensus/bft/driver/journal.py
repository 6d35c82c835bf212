"""The records of a validator's machines on disk (CONS-60): one writer, in groups, a group one synced batch.

A record's key is its space, its epoch and a number that rises; its value is sealed, so what was damaged is
found and told from a torn tail, which an atomic batch can't leave. Spaces of STO-30: 0b for locks, batches
and effects, 0d for ordering.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import attrs
import trio

from supervm.api import Context
from supervm.contracts.storage import (
    Delete,
    DeleteRange,
    DiskFull,
    Durability,
    KeyValueStore,
    Operation,
    Put,
    StoreCorrupt,
)
from supervm.plugins.consensus.bft.driver.slowness import DiskWait
from supervm.plugins.consensus.bft.events import Record
from supervm.plugins.consensus.bft.records import decode_record, encode_record
from supervm.storage.spaces import seal, unseal
from supervm.types.errors import DecodeError

LOCKS = b"\x0b"
ORDERING = b"\x0d"
CLOSING = ORDERING + b"c"
"""What closes an epoch; a space of its own within ordering's."""
RECORDS = b"r"
GROUP_BYTES_MAX = 8 * 2**20
GROUP_OPERATIONS_MAX = 10_000
WAITING_BYTES_MAX = 64 * 2**20
DISK_RETRY_S = 1.0


def record_key(space: bytes, epoch: int, number: int) -> bytes:
    return space + RECORDS + epoch.to_bytes(8, "big") + number.to_bytes(8, "big")


def record_prefix(space: bytes, epoch: int) -> bytes:
    return space + RECORDS + epoch.to_bytes(8, "big")


async def forget_records(store: KeyValueStore, epoch: int) -> None:
    """Remove the records of epochs before this one: their last block is final, and nothing of them is said
    again."""
    ends = [
        DeleteRange(record_prefix(space, 0), record_prefix(space, epoch))
        for space in (LOCKS, ORDERING, CLOSING)
    ]
    await store.write(ends, Durability.BUFFERED)


async def scan_records(
    store: KeyValueStore, space: bytes, epoch: int
) -> AsyncGenerator[tuple[int, Record], None]:
    """The records of an epoch in their order, with their numbers, a page of the store at a time.

    Raises `StoreCorrupt`, `DecodeError`. Close it when leaving early.
    """
    prefix = record_prefix(space, epoch)
    async for key, value in store.scan_prefix(prefix):
        yield int.from_bytes(key[len(prefix) :], "big"), decode_record(unseal(key, value))


async def read_records(store: KeyValueStore, space: bytes, epoch: int) -> list[tuple[int, Record]]:
    """All of `scan_records` at once: of a space that is small, as ordering's."""
    async with aclosing(scan_records(store, space, epoch)) as records:
        return [each async for each in records]


def cause_of(error: StoreCorrupt | DecodeError) -> str:
    """What is wrong with a row. Not how the ledger is mended: a validator never begins with an older log."""
    return f"{error.problem}: {error.subject}" if isinstance(error, StoreCorrupt) else str(error)


@attrs.define
class _Group:
    since_s: float
    operations: list[Operation] = attrs.Factory(list)
    size_bytes: int = 0
    durable: dict["Journal", int] = attrs.Factory(dict)
    written: trio.Event = attrs.Factory(trio.Event)


class Disk:
    """The writer. `run` writes what waits, a group at a time, and says what has become durable.

    While the disk is full or slow nothing becomes durable, so nothing that rests on it is sent (CONS-66);
    `stalled` says why. Any other error of the store ends `run`.
    """

    def __init__(self, ctx: Context, store: KeyValueStore) -> None:
        self._ctx = ctx
        self._store = store
        self._waiting: list[_Group] = []
        self._newest = trio.Event()
        self._newest.set()
        self._wake = trio.Event()
        self._room = trio.Event()
        self._synced = ctx.metrics.counter(
            "supervm_consensus_log_syncs_total", "Groups of records that were written durably"
        )
        self._wait = DiskWait(ctx, "nothing can be voted for")
        self.waiting_bytes = 0

    @property
    def stalled(self) -> str:
        """Why nothing becomes durable; empty if it does."""
        return self._wait.reason

    def put(self, journal: "Journal", number: int, key: bytes, value: bytes) -> None:
        """Write a record; `journal.durable(number)` follows."""
        group = self._open_group()
        group.operations.append(Put(key, seal(key, value)))
        group.size_bytes += len(value)
        self.waiting_bytes += len(value)
        group.durable[journal] = number

    def write_over(self, key: bytes, value: bytes) -> None:
        """Replace a record, some time."""
        self._open_group().operations.append(Put(key, seal(key, value)))

    def delete(self, keys: list[bytes]) -> None:
        """Remove records that nothing rests on any more, some time."""
        for key in keys:
            self._open_group().operations.append(Delete(key))

    async def wait_for_room(self) -> None:
        """Wait while more than `WAITING_BYTES_MAX` wait for the disk."""
        while self.waiting_bytes > WAITING_BYTES_MAX:
            await self._room.wait()

    async def written(self) -> None:
        """Wait until all that was put so far can be read."""
        await self._newest.wait()

    def _open_group(self) -> _Group:
        last = self._waiting[-1] if self._waiting else None
        if last is None or last.size_bytes > GROUP_BYTES_MAX or len(last.operations) >= GROUP_OPERATIONS_MAX:
            last = _Group(self._ctx.clock.monotonic())
            self._waiting.append(last)
            self._newest = last.written
        self._wake.set()
        return last

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            group = self._waiting.pop(0)
            if not self._waiting:
                self._wake = trio.Event()
            await self._write(group)
            group.written.set()
            self.waiting_bytes -= group.size_bytes
            self._room.set()
            self._room = trio.Event()
            for journal, number in group.durable.items():
                journal.durable(number)

    async def _write(self, group: _Group) -> None:
        level = Durability.DURABLE if group.durable else Durability.BUFFERED
        self._wait.begins(group.since_s)
        while True:
            try:
                await self._store.write(group.operations, level)
            except DiskFull as error:
                self._wait.is_full(error)
                self._ctx.log.error("disk_full", cause=str(error), retry_s=DISK_RETRY_S)
                await self._ctx.clock.sleep(DISK_RETRY_S)
            else:
                self._wait.ends()
                if group.durable:
                    self._synced.inc()
                return


@attrs.define(eq=False)
class Journal:
    """The records of one machine in one epoch. `durable(n)`: all up to the machine's number n are."""

    disk: Disk
    space: bytes
    epoch: int
    durable: Callable[[int], None]
    next_row: int = 1

    def append(self, number: int, record: Record) -> int:
        """Write the machine's record of this number. Returns its row."""
        row = self.next_row
        self.next_row += 1
        self.disk.put(self, number, record_key(self.space, self.epoch, row), encode_record(record))
        return row

    def replace(self, row: int, record: Record) -> None:
        """Write another record over one, some time: it says the same to whoever reads the log."""
        self.disk.write_over(record_key(self.space, self.epoch, row), encode_record(record))

    def drop(self, rows: list[int]) -> None:
        """Remove records that nothing rests on any more, some time."""
        self.disk.delete([record_key(self.space, self.epoch, row) for row in rows])
