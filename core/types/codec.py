"""Reading and writing the canonical encoding (EXEC-6).

Integers are little-endian of fixed width, byte strings `u32 length || bytes`, lists `u16 count ||
items`, booleans 0 or 1. There are no optional fields. A reader refuses every other form, and bounds each
length by what is left before it slices.
"""

import itertools
import struct
from collections.abc import Iterable, Sequence
from typing import Self

from supervm.types.errors import DecodeError, InvalidInput

U8_MAX = 2**8 - 1
U16_MAX = 2**16 - 1
U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1
U128_MAX = 2**128 - 1

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_U128 = struct.Struct("<QQ")


class Reader:
    """Reads one value after the other; every method names its field for the error it may raise."""

    __slots__ = ("data", "offset")

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self.data = data
        self.offset = offset

    def _take(self, size: int, field: str) -> int:
        start = self.offset
        left = len(self.data) - start
        if size > left:
            raise DecodeError("Truncated", field, f"{left} bytes left", f"{size} bytes are needed")
        self.offset = start + size
        return start

    def u8(self, field: str, maximum: int = U8_MAX) -> int:
        value = self.data[self._take(1, field)]
        if value > maximum:
            raise DecodeError("OutOfRange", field, value, f"at most {maximum}")
        return value

    def u16(self, field: str) -> int:
        value: int = _U16.unpack_from(self.data, self._take(2, field))[0]
        return value

    def u32(self, field: str) -> int:
        value: int = _U32.unpack_from(self.data, self._take(4, field))[0]
        return value

    def u64(self, field: str) -> int:
        value: int = _U64.unpack_from(self.data, self._take(8, field))[0]
        return value

    def u128(self, field: str) -> int:
        low, high = _U128.unpack_from(self.data, self._take(16, field))
        value: int = low | high << 64
        return value

    def boolean(self, field: str) -> bool:
        return self.u8(field, 1) == 1

    def fixed(self, size: int, field: str) -> bytes:
        start = self._take(size, field)
        return self.data[start : start + size]

    def bytes32(self, field: str) -> bytes:
        start = self._take(32, field)
        return self.data[start : start + 32]

    def byte_string(self, field: str, maximum: int = U32_MAX) -> bytes:
        """Read `u32 length || bytes` of at most `maximum` bytes."""
        size = self.u32(field)
        if size > maximum:
            raise DecodeError("TooLarge", field, f"{size} bytes", f"at most {maximum} bytes")
        return self.fixed(size, field)

    def count(self, field: str, maximum: int = U16_MAX, *, item_bytes_min: int = 1) -> int:
        """Read a list's `u16 count`; refuse one that is above `maximum` or cannot fit in what is left."""
        count = self.u16(field)
        self._check_count(count, field, maximum, item_bytes_min)
        return count

    def count32(self, field: str, maximum: int, *, item_bytes_min: int = 1) -> int:
        """Read a long list's `u32 count` (genesis accounts only)."""
        count = self.u32(field)
        self._check_count(count, field, maximum, item_bytes_min)
        return count

    def _check_count(self, count: int, field: str, maximum: int, item_bytes_min: int) -> None:
        if count > maximum:
            raise DecodeError("TooMany", field, count, f"at most {maximum} items")
        if count * item_bytes_min > len(self.data) - self.offset:
            raise DecodeError("Truncated", field, f"{count} items", "the bytes left are too few for them")

    def format_byte(self, field: str, known: int = 1) -> None:
        """Read a value's `u8 format`, which must be the `known` one."""
        value = self.u8(field)
        if value != known:
            raise DecodeError("UnknownFormat", field, value, f"this release reads format {known}")

    def finish(self, field: str) -> None:
        """Refuse anything after the value."""
        left = len(self.data) - self.offset
        if left:
            raise DecodeError("TrailingBytes", field, f"{left} bytes", "send exactly one value")


class Writer:
    """Gathers an encoding; each method returns the writer. A value that does not fit is `InvalidInput`."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def _integer(self, value: int, size: int, field: str) -> Self:
        try:
            self._parts.append(value.to_bytes(size, "little"))
        except OverflowError:
            wanted = f"0 to 2^{8 * size} - 1"
            raise InvalidInput("OutOfRange", f"{field}: out of range", value, wanted) from None
        return self

    def u8(self, value: int, field: str = "u8") -> Self:
        return self._integer(value, 1, field)

    def u16(self, value: int, field: str = "u16") -> Self:
        return self._integer(value, 2, field)

    def u32(self, value: int, field: str = "u32") -> Self:
        return self._integer(value, 4, field)

    def u64(self, value: int, field: str = "u64") -> Self:
        return self._integer(value, 8, field)

    def u128(self, value: int, field: str = "u128") -> Self:
        return self._integer(value, 16, field)

    def boolean(self, value: bool) -> Self:
        self._parts.append(b"\x01" if value else b"\x00")
        return self

    def fixed(self, data: bytes, size: int, field: str = "bytes") -> Self:
        if len(data) != size:
            raise InvalidInput("OutOfRange", f"{field}: wrong length", data, f"exactly {size} bytes")
        self._parts.append(data)
        return self

    def bytes32(self, data: bytes, field: str = "bytes32") -> Self:
        return self.fixed(data, 32, field)

    def byte_string(self, data: bytes, field: str = "byte string") -> Self:
        self.u32(len(data), f"{field} length")
        self._parts.append(data)
        return self

    def count(self, count: int, field: str = "list") -> Self:
        return self.u16(count, f"{field} count")

    def raw(self, data: bytes) -> Self:
        """Append bytes that are an encoding already."""
        self._parts.append(data)
        return self

    def done(self) -> bytes:
        return b"".join(self._parts)


def pack_transactions(transactions: Iterable[bytes]) -> bytes:
    """Return the length-prefixed stream `(u32 length || bytes)*`, the body of many in one request."""
    parts: list[bytes] = []
    for data in transactions:
        parts.append(_U32.pack(len(data)))
        parts.append(data)
    return b"".join(parts)


def unpack_transactions(stream: bytes, count_max: int, item_bytes_max: int) -> list[bytes]:
    """Split a length-prefixed stream of at most `count_max` items of 1 to `item_bytes_max` bytes.

    Raises `DecodeError` (`Truncated`, `TooMany`, `TooLarge`, `OutOfRange` for an empty item).
    """
    items: list[bytes] = []
    offset, end = 0, len(stream)
    while offset < end:
        field = f"item {len(items)}"
        if len(items) == count_max:
            raise DecodeError("TooMany", field, mend=f"at most {count_max} items a stream")
        if end - offset < 4:
            raise DecodeError("Truncated", field, f"{end - offset} bytes left", "4 length bytes are needed")
        size = _U32.unpack_from(stream, offset)[0]
        offset += 4
        if size == 0:
            raise DecodeError("OutOfRange", field, "0 bytes", "at least 1 byte")
        if size > item_bytes_max:
            raise DecodeError("TooLarge", field, f"{size} bytes", f"at most {item_bytes_max} bytes")
        if size > end - offset:
            raise DecodeError("Truncated", field, f"{end - offset} bytes left", f"{size} bytes are needed")
        items.append(stream[offset : offset + size])
        offset += size
    return items


def check_ascending(ids: Sequence[bytes], field: str) -> None:
    """Refuse a list of ids that is not strictly ascending, so that a set has one encoding."""
    for before, after in itertools.pairwise(ids):
        if before >= after:
            raise DecodeError("NonCanonical", field, after, "strictly ascending, without duplicates")
