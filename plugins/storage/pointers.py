"""What the hot class keeps in the place of a value that was moved: where it went, how long it is, its digest.

A pointer begins with the store's mark: 16 bytes drawn when the store was made, which nobody outside knows.
So no value is ever taken for a pointer, and no value need be changed to tell them apart.
"""

import struct
from typing import Self

import attrs
from blake3 import blake3

from supervm.contracts.storage import StoreCorrupt
from supervm.storage.temperature import Temperature

MARK_BYTES = 16
DIGEST_BYTES = 16
_FIELDS = struct.Struct(f"<BI{DIGEST_BYTES}s")
POINTER_BYTES = MARK_BYTES + _FIELDS.size


@attrs.frozen
class Pointer:
    """The row is in this class; `size_bytes` and `digest` are its value's."""

    temperature: Temperature
    size_bytes: int
    digest: bytes

    @classmethod
    def of(cls, temperature: Temperature, key: bytes, value: bytes) -> Self:
        return cls(temperature, len(value), _digest(key, value))

    def encode(self, mark: bytes) -> bytes:
        """mark || u8 class || u32 size || digest (little-endian)."""
        return mark + _FIELDS.pack(self.temperature, self.size_bytes, self.digest)

    def fits(self, key: bytes, value: bytes | None) -> bool:
        """Whether this is the value that was moved."""
        return value is not None and len(value) == self.size_bytes and _digest(key, value) == self.digest


def is_pointer(mark: bytes, stored: bytes | None) -> bool:
    return stored is not None and stored.startswith(mark)


def read_pointer(mark: bytes, key: bytes, stored: bytes) -> Pointer:
    """The pointer that a row with the mark is; raises `StoreCorrupt` for one that is damaged."""
    if len(stored) == POINTER_BYTES:
        number, size_bytes, digest = _FIELDS.unpack_from(stored, MARK_BYTES)
        if number in (Temperature.WARM, Temperature.COLD):
            return Pointer(Temperature(number), size_bytes, digest)
    raise StoreCorrupt("a damaged pointer to a moved row", key[:32].hex(), "Restore from a checkpoint.")


def _digest(key: bytes, value: bytes) -> bytes:
    return blake3(len(key).to_bytes(2, "little") + key + value).digest(DIGEST_BYTES)
