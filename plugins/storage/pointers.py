"""What the hot class keeps in the place of a value that was moved: where it went, how long it is, its digest.

A pointer begins with the store's mark: 16 bytes drawn when the store was made, which nobody outside knows.
So no value is ever taken for a pointer, and no value need be changed to tell them apart. What is as long as a
pointer and begins almost as the mark is a damaged pointer, and no value either: by chance one in 10^26 is.
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
DAMAGED_BITS_MAX = 8


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
    """Whether a stored row is a pointer, be it a damaged one that `read_pointer` refuses."""
    if stored is None:
        return False
    return stored.startswith(mark) or (len(stored) == POINTER_BYTES and _begins_almost_as(mark, stored))


def read_pointer(mark: bytes, key: bytes, stored: bytes) -> Pointer:
    """The pointer that such a row is; raises `StoreCorrupt` for one that is damaged."""
    if len(stored) == POINTER_BYTES and stored.startswith(mark):
        number, size_bytes, digest = _FIELDS.unpack_from(stored, MARK_BYTES)
        if number in (Temperature.WARM, Temperature.COLD):
            return Pointer(Temperature(number), size_bytes, digest)
    raise StoreCorrupt("a damaged pointer to a moved row", key[:32].hex(), "Restore from a checkpoint.")


def _begins_almost_as(mark: bytes, stored: bytes) -> bool:
    differ = int.from_bytes(mark, "big") ^ int.from_bytes(stored[:MARK_BYTES], "big")
    return differ.bit_count() <= DAMAGED_BITS_MAX


def _digest(key: bytes, value: bytes) -> bytes:
    return blake3(len(key).to_bytes(2, "little") + key + value).digest(DIGEST_BYTES)
