"""Sealed rows, many at once: in C where it was built, else one after the other; the same rows."""

import struct
from collections.abc import Iterable, Iterator, Sequence

from supervm.contracts.storage import Delete, Operation, Put
from supervm.hardware import fastpath
from supervm.storage.spaces import STALE, STALE_VALUE, TREE, height_bytes, seal
from supervm.types.changes import PackedChanges

if fastpath.BLOCKS_NATIVE:
    from supervm.hardware.fastpath import rows as native

_SIZE = struct.Struct("<I")


def sealed_rows(space: bytes, entries: PackedChanges) -> list[Operation]:
    """For each entry a row of the space, or the removal of it where it has no value."""
    if fastpath.BLOCKS_NATIVE:
        return list(_unpacked(native.seal_rows(space[0], entries.data, entries.count), entries.count))
    return [
        Delete(space + key) if value is None else Put(space + key, seal(space + key, value))
        for key, value in entries.items()
    ]


def page_rows(pages: Iterable[tuple[bytes, bytes]]) -> list[Operation]:
    """Pages of the state tree as rows, sealed too: a page's hash doesn't cover where its children lie."""
    entries = [bytes((len(key) - 1,)) + key[1:] + _SIZE.pack(len(data)) + data for key, data in pages]
    return sealed_rows(TREE, PackedChanges(b"".join(entries), len(entries)))


def stale_rows(height: int, pages: Sequence[bytes]) -> list[Operation]:
    """For the key of each page that no root of `height` or later needs, its entry in the stale index.

    An entry says which page may be removed, so it is sealed as any other row is. Its value is u8 format 1.
    """
    at = height_bytes(height)
    size, value = _SIZE.pack(len(STALE_VALUE)), STALE_VALUE
    entries = [bytes((len(at) + len(page),)) + at + page + size + value for page in pages]
    return sealed_rows(STALE, PackedChanges(b"".join(entries), len(entries)))


def _unpacked(rows: bytes, count: int) -> Iterator[Operation]:
    at = 0
    for _ in range(count):
        size_at = at + 1 + rows[at]
        end = size_at + 4 + _SIZE.unpack_from(rows, size_at)[0]
        key = rows[at + 1 : size_at]
        yield Put(key, rows[size_at + 4 : end]) if end > size_at + 4 else Delete(key)
        at = end
