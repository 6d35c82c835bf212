"""The file: an append-only log of batches, each with a checksum. It blocks; the store calls it in threads.

    file    magic "coffer\\x01\\n", then records
    record  u32 size, u64 number, u32 crc32 of those twelve bytes, 16 bytes blake2b of number and payload,
            payload
    payload operations: u8 1 put, u32 key size, u32 value size, key, value
                        u8 2 delete, u32 key size, key
                        u8 3 delete range, u32 start size, u32 end size (ff ff ff ff: none), start, end

All numbers are little-endian; records are numbered from 1. A writer that dies leaves its last record cut
short, and power loss may leave it filled with zeros or with some of its pages missing. So what is wrong
with the last record is taken for a write that was never finished, and is cut off. Anything wrong before
the last record is damage, and is refused.
"""

import errno
import fcntl
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import attrs

from supervm.api import storage

MAGIC = b"coffer\x01\n"
FILE = "coffer.log"
HEAD = struct.Struct("<IQ")
HEAD_BYTES = HEAD.size + 4 + 16
PUT, DELETE, DELETE_RANGE = 1, 2, 3
NO_END = 2**32 - 1
# A batch's keys and values, and what each of a million operations adds to them.
PAYLOAD_BYTES_MAX = storage.BATCH_BYTES_MAX + 9 * storage.BATCH_OPERATIONS_MAX


@attrs.frozen
class Place:
    """Where a value is in the file."""

    offset: int
    size: int


Change = tuple[storage.Operation, Place | None]
"""An operation, and for a put the place of its value (its own `value` is then empty)."""


def encode(batch: Sequence[storage.Operation]) -> bytes:
    """The payload of a batch."""
    parts: list[bytes] = []
    for operation in batch:
        match operation:
            case storage.Put(key, value):
                parts += (struct.pack("<BII", PUT, len(key), len(value)), key, value)
            case storage.Delete(key):
                parts += (struct.pack("<BI", DELETE, len(key)), key)
            case storage.DeleteRange(start, end):
                end_size = NO_END if end is None else len(end)
                parts += (struct.pack("<BII", DELETE_RANGE, len(start), end_size), start, end or b"")
    return b"".join(parts)


def decode(payload: bytes, offset: int) -> Iterator[Change]:
    """The operations of a payload that lies at `offset`. Raises ValueError for any other bytes."""
    at = 0

    def take(size: int) -> bytes:
        nonlocal at
        if at + size > len(payload):
            raise ValueError("an operation is cut short")
        at += size
        return payload[at - size : at]

    def size() -> int:
        return int.from_bytes(take(4), "little")

    while at < len(payload):
        match take(1)[0]:
            case 1:
                key_size, value_size = size(), size()
                key = take(key_size)
                yield storage.Put(key, b""), Place(offset + at, value_size)
                take(value_size)
            case 2:
                yield storage.Delete(take(size())), None
            case 3:
                start_size, end_size = size(), size()
                start = take(start_size)
                yield storage.DeleteRange(start, None if end_size == NO_END else take(end_size)), None
            case other:
                raise ValueError(f"operation {other} is unknown")


def os_error(error: OSError, path: Path) -> storage.StorageError:
    """The contract's error for a failed system call."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return storage.DiskFull("no space left", path, "Free some.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return storage.ReadOnly("the log can't be written", path, "Make it writable for this user.")
    if error.errno == errno.ENOENT:
        return storage.StorageError("the parent folder does not exist", path, "Make it, or name another.")
    return storage.StoreFailed(error.strerror or str(error), path, "Check the disk.")


@attrs.define(eq=False)
class Log:
    """An open log. `end` is where the next record goes, `number` the last one's."""

    path: Path
    handle: int
    end: int
    number: int = 0

    @classmethod
    def open(cls, path: Path) -> "Log":
        """Hold the log at `path`, or make a new one. Raises `StorageError`s."""
        made = not path.exists()
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise os_error(error, path) from error
        log = cls(path, handle, len(MAGIC))
        try:
            log._hold(made)
        except OSError as error:
            log.close()
            raise os_error(error, path) from error
        except BaseException:
            log.close()
            raise
        return log

    def _hold(self, made: bool) -> None:
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise storage.StoreLocked(
                "the log is open elsewhere", self.path, "Stop that program, or name another folder."
            ) from None
        found = os.pread(self.handle, len(MAGIC), 0)
        if len(found) < len(MAGIC) and MAGIC.startswith(found):
            # New, or its maker died before it was whole: nothing was ever written to it.
            os.pwrite(self.handle, MAGIC, 0)
            os.fsync(self.handle)
            sync_folder(self.path.parent)
        elif found[:6] == MAGIC[:6] and found[6:7] > MAGIC[6:7]:
            raise storage.StoreTooNew(f"format {found[6]} is newer than 1", self.path, "Upgrade the plugin.")
        elif found != MAGIC:
            raise storage.StoreCorrupt("not a coffer log", self.path, "Name another folder.")

    def records(self) -> Iterator[list[Change]]:
        """The changes of each record from the first; then cut off what was never finished.

        Raises `StoreCorrupt` for damage. `end` and `number` follow.
        """
        size = os.fstat(self.handle).st_size
        while self.end < size:
            changes = self._record(size)
            if changes is None:
                os.ftruncate(self.handle, self.end)
                os.fsync(self.handle)
                return
            yield changes

    def _record(self, size: int) -> list[Change] | None:
        """The record at `end`, or None where it is the last one and was never finished."""
        head = os.pread(self.handle, HEAD_BYTES, self.end)
        if len(head) < HEAD_BYTES:
            return None
        payload_size, number = HEAD.unpack_from(head)
        if zlib.crc32(head[: HEAD.size]) != int.from_bytes(head[HEAD.size : HEAD.size + 4], "little"):
            if self._zeros(size):
                return None
            raise self._damage("a record's head")
        if number != self.number + 1 or payload_size > PAYLOAD_BYTES_MAX:
            raise self._damage(f"record {number} after {self.number}")
        start = self.end + HEAD_BYTES
        if start + payload_size > size:
            return None
        payload = os.pread(self.handle, payload_size, start)
        if _checksum(number, payload) != head[HEAD.size + 4 :]:
            if start + payload_size == size:
                return None
            raise self._damage(f"record {number}")
        try:
            changes = list(decode(payload, start))
        except ValueError as error:
            raise self._damage(f"record {number}: {error}") from error
        self.end, self.number = start + payload_size, number
        return changes

    def _zeros(self, size: int) -> bool:
        """Whether nothing but zeros follows: space that was given to a write which never came."""
        return all(
            not any(os.pread(self.handle, min(2**20, size - at), at)) for at in range(self.end, size, 2**20)
        )

    def _damage(self, what: str) -> storage.StoreCorrupt:
        return storage.StoreCorrupt(
            f"{what} at byte {self.end} is damaged", self.path, "Put the file back from a copy."
        )

    def append(self, payload: bytes, sync: bool) -> int:
        """Add a record and say where its payload is. Nothing is added where `DiskFull` is raised."""
        number = self.number + 1
        head = HEAD.pack(len(payload), number)
        record = head + struct.pack("<I", zlib.crc32(head)) + _checksum(number, payload) + payload
        try:
            written = 0
            while written < len(record):
                written += os.pwrite(self.handle, record[written : written + 2**26], self.end + written)
            if sync:
                os.fdatasync(self.handle)
        except OSError as error:
            failure = os_error(error, self.path)
            if isinstance(failure, storage.DiskFull):
                os.ftruncate(self.handle, self.end)
            raise failure from error
        start = self.end + HEAD_BYTES
        self.end, self.number = self.end + len(record), number
        return start

    def sync(self) -> None:
        """Make everything before this durable."""
        try:
            os.fdatasync(self.handle)
        except OSError as error:
            raise os_error(error, self.path) from error

    def read(self, places: Sequence[Place | None]) -> list[bytes | None]:
        """The values at `places`. Raises `StoreFailed`, `StoreCorrupt`."""
        try:
            return [None if place is None else self._read(place) for place in places]
        except OSError as error:
            raise os_error(error, self.path) from error

    def _read(self, place: Place) -> bytes:
        value = os.pread(self.handle, place.size, place.offset)
        if len(value) != place.size:
            raise storage.StoreCorrupt("the log is shorter than its records", self.path, "Open it again.")
        return value

    def close(self) -> None:
        """Let the file go, and the lock with it."""
        os.close(self.handle)


def _checksum(number: int, payload: bytes) -> bytes:
    return blake2b(number.to_bytes(8, "little") + payload, digest_size=16).digest()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
