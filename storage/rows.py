"""Sealed rows, many at once: in C where it was built, else one after the other; the same rows."""

import struct
from collections.abc import Iterator

from supervm.contracts.storage import Delete, Operation, Put
from supervm.hardware import fastpath
from supervm.storage.spaces import seal
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


def _unpacked(rows: bytes, count: int) -> Iterator[Operation]:
    at = 0
    for _ in range(count):
        size_at = at + 1 + rows[at]
        end = size_at + 4 + _SIZE.unpack_from(rows, size_at)[0]
        key = rows[at + 1 : size_at]
        yield Put(key, rows[size_at + 4 : end]) if end > size_at + 4 else Delete(key)
        at = end
