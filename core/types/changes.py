"""Changes of the state, packed as execution in C makes them and the state tree takes them.

One after the other, in no order, one a key: u8 key size, key, u32 value size (0: removed), value. An entry is
never empty, since its format is its first byte, and no key has more than 254 bytes.
"""

import struct
from collections.abc import ItemsView, Iterator, Mapping

_SIZE = struct.Struct("<I")


class PackedChanges(Mapping[bytes, bytes | None]):
    """State key to its new value, None where it is removed. Looked into, it becomes a dict, once."""

    __slots__ = ("_found", "count", "data")

    def __init__(self, data: bytes, count: int) -> None:
        self.data = data
        self.count = count
        self._found: dict[bytes, bytes | None] | None = None

    @classmethod
    def of(cls, changes: Mapping[bytes, bytes | None]) -> "PackedChanges":
        """These changes, packed unless they are already."""
        if isinstance(changes, PackedChanges):
            return changes
        parts: list[bytes] = []
        for key, value in changes.items():
            assert 0 < len(key) < 255 and value != b"", (key, value)
            parts += (bytes((len(key),)), key, _SIZE.pack(len(value or b"")), value or b"")
        made = cls(b"".join(parts), len(changes))
        made._found = dict(changes)
        return made

    def beside(self, others: Mapping[bytes, bytes | None]) -> "PackedChanges":
        """These and others, of other keys."""
        if not others:
            return self
        more = PackedChanges.of(others)
        return PackedChanges(self.data + more.data, self.count + more.count)

    def unpack(self) -> dict[bytes, bytes | None]:
        """The dict, made now where it wasn't yet: for a thread, before the event loop looks anything up."""
        if self._found is None:
            self._found = dict(self._each())
            assert len(self._found) == self.count, "a key is changed twice"
        return self._found

    def _each(self) -> Iterator[tuple[bytes, bytes | None]]:
        data, at = self.data, 0
        for _ in range(self.count):
            size_at = at + 1 + data[at]
            end = size_at + 4 + _SIZE.unpack_from(data, size_at)[0]
            yield data[at + 1 : size_at], data[size_at + 4 : end] or None
            at = end
        assert at == len(data), "these are no packed changes"

    def __getitem__(self, key: bytes) -> bytes | None:
        return self.unpack()[key]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.unpack())

    def __len__(self) -> int:
        return self.count

    def items(self) -> ItemsView[bytes, bytes | None]:
        return self.unpack().items()

    def __repr__(self) -> str:
        return f"PackedChanges({self.unpack()!r})"
