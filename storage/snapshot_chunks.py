"""Chunks: what a snapshot's rows are carried in, named by their digest. Pure.

A section is one space of the store in key order. It is cut where the content itself says so: after a row
whose seal is small against the row's size. So a change moves the cuts around it and no others, two snapshots
share the chunks that didn't change, and two nodes make the same chunks of the same rows.

    chunk   u8 format 1 || u8 section || rows: u16 key length || key || u32 value length || value
    table   u8 format 1 || u8 ff || entries: digest || u32 bytes || u32 rows

Keys are without the byte of their space, which is the section's number. Values are without their seals. A
table lists a section's chunks in order, and is a chunk itself, so a manifest stays small.
"""

import struct
from collections.abc import Iterator, Sequence

import attrs
from blake3 import blake3

from supervm.contracts.storage import KEY_BYTES_MAX, VALUE_BYTES_MAX
from supervm.storage.errors import SnapshotDamaged, SnapshotTooNew
from supervm.storage.spaces import (
    BODIES,
    CERTIFICATES,
    HEADERS,
    INDEX,
    META,
    RECEIPTS,
    STATE,
)

CHUNK_FORMAT = 1
CHUNK_BYTES_MIN = 256 * 2**10
CHUNK_BYTES_MEAN = 2**20
CHUNK_BYTES_MAX = 4 * 2**20
"""Of a chunk with more than one row; a row that is larger is a chunk by itself."""
ROW_BYTES_MAX = KEY_BYTES_MAX + VALUE_BYTES_MAX + 6
HEAD_BYTES = 2
BLOB_BYTES_MAX = HEAD_BYTES + ROW_BYTES_MAX
"""The most bytes that anything named by a digest here may have."""
TABLE = 0xFF
TABLE_ENTRIES_MAX = 65_536

GENESIS = META[0]
SECTIONS = (GENESIS, HEADERS[0], CERTIFICATES[0], INDEX[0], BODIES[0], RECEIPTS[0], STATE[0])
"""Every section, in the order in which a snapshot lists and a restore writes them."""
NAMES = dict(
    zip(SECTIONS, ("genesis", "headers", "certificates", "index", "bodies", "receipts", "state"), strict=True)
)

_KEY = struct.Struct("<H")
_VALUE = struct.Struct("<I")
_ENTRY = struct.Struct("<32sII")

Row = tuple[bytes, bytes]
"""A key without its space, and a value without its seal."""


@attrs.frozen
class Entry:
    """A chunk in a table: its digest (32 bytes), its size, and how many rows it has."""

    digest: bytes
    size_bytes: int
    rows: int


def digest_of(blob: bytes) -> bytes:
    """The name of a chunk or table: blake3 of its bytes."""
    return blake3(blob).digest()


def encode_row(key: bytes, value: bytes) -> bytes:
    return b"".join((_KEY.pack(len(key)), key, _VALUE.pack(len(value)), value))


def cuts_after(row_bytes: int, seal: bytes) -> bool:
    """Whether a chunk of at least CHUNK_BYTES_MIN ends after this row: on average every CHUNK_BYTES_MEAN."""
    return int.from_bytes(seal[:4], "big") * CHUNK_BYTES_MEAN < row_bytes << 32


@attrs.define
class Cutter:
    """Cuts a section's rows into chunks; `add` and `done` give those that are complete."""

    section: int
    _rows: list[bytes] = attrs.field(factory=list, init=False)
    _bytes: int = attrs.field(default=HEAD_BYTES, init=False)

    def add(self, key: bytes, value: bytes, seal: bytes) -> Iterator[tuple[bytes, int]]:
        """Take the next row in key order; (chunk, rows) of each chunk that it ends."""
        row = encode_row(key, value)
        if self._rows and self._bytes + len(row) > CHUNK_BYTES_MAX:
            yield self._cut()
        self._rows.append(row)
        self._bytes += len(row)
        if self._bytes >= CHUNK_BYTES_MIN and cuts_after(len(row), seal):
            yield self._cut()

    def done(self) -> Iterator[tuple[bytes, int]]:
        if self._rows:
            yield self._cut()

    def _cut(self) -> tuple[bytes, int]:
        made = b"".join((bytes((CHUNK_FORMAT, self.section)), *self._rows)), len(self._rows)
        self._rows, self._bytes = [], HEAD_BYTES
        return made


def check_blob(digest: bytes, blob: bytes) -> bytes:
    """The bytes themselves, where they have this name; raises `SnapshotDamaged`."""
    found = digest_of(blob)
    if found != digest:
        raise damaged(digest, f"its bytes hash to 0x{found.hex()}")
    return blob


def decode_chunk(digest: bytes, blob: bytes, section: int) -> list[Row]:
    """The rows of a chunk of `section`, strictly ascending by key. Raises `SnapshotDamaged`."""
    at = _head(digest, blob, section)
    rows: list[Row] = []
    before: bytes | None = None
    end = len(blob)
    while at < end:
        key, at = _take(digest, blob, at, _KEY)
        value, at = _take(digest, blob, at, _VALUE)
        if before is not None and key <= before:
            raise damaged(digest, f"row {len(rows)} is out of order")
        rows.append((key, value))
        before = key
    return rows


def encode_table(entries: Sequence[Entry]) -> bytes:
    assert len(entries) <= TABLE_ENTRIES_MAX
    head = bytes((CHUNK_FORMAT, TABLE))
    return head + b"".join(_ENTRY.pack(one.digest, one.size_bytes, one.rows) for one in entries)


def decode_table(digest: bytes, blob: bytes) -> list[Entry]:
    """The chunks that a table lists. Raises `SnapshotDamaged`."""
    at = _head(digest, blob, TABLE)
    count, left = divmod(len(blob) - at, _ENTRY.size)
    if left or not 0 < count <= TABLE_ENTRIES_MAX:
        raise damaged(digest, f"{len(blob)} bytes are no table of 1 to {TABLE_ENTRIES_MAX} chunks")
    entries = [Entry(*fields) for fields in _ENTRY.iter_unpack(blob[at:])]
    for one in entries:
        if not HEAD_BYTES < one.size_bytes <= BLOB_BYTES_MAX or not one.rows:
            raise damaged(digest, f"it lists a chunk of {one.size_bytes} bytes and {one.rows} rows")
    return entries


def damaged(digest: bytes, why: str) -> SnapshotDamaged:
    return SnapshotDamaged(
        "a chunk of the snapshot is damaged",
        f"0x{digest.hex()}: {why}",
        "Fetch it again from where the snapshot is from; what was restored so far is kept.",
    )


def _head(digest: bytes, blob: bytes, section: int) -> int:
    if len(blob) < HEAD_BYTES:
        raise damaged(digest, "it has no head")
    if blob[0] > CHUNK_FORMAT:
        raise SnapshotTooNew(
            f"a chunk has format {blob[0]}, this release reads {CHUNK_FORMAT}",
            f"0x{digest.hex()}",
            "Use a newer release.",
        )
    if blob[0] != CHUNK_FORMAT or blob[1] != section:
        raise damaged(digest, f"format {blob[0]}, section {blob[1]:02x}, where {section:02x} is expected")
    return HEAD_BYTES


def _take(digest: bytes, blob: bytes, at: int, length: struct.Struct) -> tuple[bytes, int]:
    start = at + length.size
    if start > len(blob):
        raise damaged(digest, "it ends within a row")
    end = start + length.unpack_from(blob, at)[0]
    if end > len(blob):
        raise damaged(digest, "it ends within a row")
    return blob[start:end], end
