"""The index in memory: which value a key had after each batch, as long as somebody may ask.

A reader asks for a moment: the number of the last batch that it may see. So a batch is put into the index
piece by piece and is seen all at once, when the store says that it is the last one.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator

import attrs

from supervm.api import storage
from supervm_coffer.log import Change, Place

Version = tuple[int, Place | None]
"""The batch that made it, and the place of the value; None once it was deleted."""


@attrs.define(eq=False)
class Index:
    """Keys in order, each with its versions, oldest first. `live` counts the keys that have a value."""

    keys: list[bytes] = attrs.Factory(list)
    versions: dict[bytes, list[Version]] = attrs.Factory(dict)
    live: int = 0
    _deleted: deque[tuple[int, bytes]] = attrs.Factory(deque)

    def at(self, key: bytes, moment: int) -> Place | None:
        """The value of `key` after batch `moment`."""
        for number, place in reversed(self.versions.get(key, ())):
            if number <= moment:
                return place
        return None

    def apply(self, changes: list[Change], number: int, oldest: int) -> Iterator[None]:
        """Put batch `number` in, a piece at a step. `oldest` is the first moment that anybody still sees."""
        self._sweep(oldest)
        for operation, place in changes:
            match operation:
                case storage.Put(key, _) | storage.Delete(key):
                    self._set(key, place, number, oldest)
                    yield
                case storage.DeleteRange(start, end):
                    for key in list(self.between(start, end)):
                        self._set(key, None, number, oldest)
                        yield

    def between(self, start: bytes, end: bytes | None, reverse: bool = False) -> Iterator[bytes]:
        """The keys of a span, with or without a value. The index may not change meanwhile."""
        low = bisect_left(self.keys, start)
        high = len(self.keys) if end is None else bisect_left(self.keys, end)
        order = range(high - 1, low - 1, -1) if reverse else range(low, high)
        return map(self.keys.__getitem__, order)

    def _set(self, key: bytes, place: Place | None, number: int, oldest: int) -> None:
        before = self.versions.get(key)
        had = before is not None and before[-1][1] is not None
        if place is None and not had:
            return
        self.live += (place is not None) - had
        if before is None:
            insort(self.keys, key)
            before = self.versions[key] = []
        elif before[-1][0] == number:
            before.pop()
        before.append((number, place))
        # Of the versions at or before the oldest moment only the last one can still be seen.
        while len(before) > 1 and before[1][0] <= oldest:
            del before[0]
        if place is None:
            self._deleted.append((number, key))

    def _sweep(self, oldest: int) -> None:
        """Forget the keys that were deleted before anybody's moment."""
        while self._deleted and self._deleted[0][0] <= oldest:
            number, key = self._deleted.popleft()
            if key in self.versions and self.versions[key][-1] == (number, None):
                del self.versions[key]
                del self.keys[bisect_left(self.keys, key)]
