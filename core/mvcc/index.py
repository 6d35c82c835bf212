"""The keys of a store in order, for scans. It exists only once somebody has scanned."""

from collections.abc import Container, Iterable, Iterator
from itertools import islice

from sortedcontainers import SortedSet


class KeyIndex:
    """A sorted set of keys that follows a dictionary. Not safe for threads: the store's lock guards it."""

    __slots__ = ("_keys", "size")

    def __init__(self, keys: Iterable[bytes]) -> None:
        self._keys = SortedSet(keys)
        self.size = len(self._keys)

    def follow(self, touched: Iterable[bytes], present: Container[bytes]) -> None:
        """Add those of the keys that are in `present`, and drop the others."""
        come = [key for key in touched if key in present]
        gone = [key for key in touched if key not in present]
        self._keys.difference_update(gone)
        self._keys.update(come)
        self.size = len(self._keys)

    def every(self, start: bytes, end: bytes | None) -> Iterator[bytes]:
        """The keys k with start <= k < end, ascending; an end of None is the end of all."""
        return self._keys.irange(start, end, (True, False))  # type: ignore[no-any-return]

    def within(self, start: bytes, end: bytes | None, limit: int) -> list[bytes]:
        """The first `limit` of `every`."""
        return list(islice(self.every(start, end), limit))

    def __len__(self) -> int:
        return len(self._keys)
