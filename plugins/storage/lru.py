"""A bounded cache of key-value rows: what was used least recently goes first, and all of it after its time.

No I/O and no clock of its own: whoever asks says what time it is.
"""

from collections import OrderedDict
from collections.abc import Sequence, Set
from itertools import compress

import attrs

from supervm.contracts.storage import DeleteRange

# What Python takes for an entry beside its bytes.
ENTRY_BYTES = 250
SCORE_MIN = 1.0


@attrs.define
class _Entry:
    value: bytes | None
    until_s: float
    prefetched: bool


@attrs.define
class CacheCounts:
    """Since the cache was made. `useful` are prefetched entries that were asked for."""

    hits: int = 0
    misses: int = 0
    expired: int = 0
    evicted: int = 0
    prefetched: int = 0
    useful: int = 0


class RowCache:
    """Rows by key, None where it is known that there is none; at most so many entries and bytes."""

    def __init__(self, *, entries_max: int, bytes_max: int, ttl_s: float) -> None:
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._ttl_s = ttl_s
        self.bytes = 0
        self.counts = CacheCounts()

    def __len__(self) -> int:
        return len(self._entries)

    def look(self, key: bytes, now_s: float) -> tuple[bool, bytes | None]:
        """(whether it is known, what it is). Counts, and makes the entry the most recently used."""
        entry = self._entries.get(key)
        if entry is not None and entry.until_s <= now_s:
            self._drop(key)
            self.counts.expired += 1
            entry = None
        if entry is None:
            self.counts.misses += 1
            return False, None
        self.counts.hits += 1
        if entry.prefetched:
            entry.prefetched = False
            self.counts.useful += 1
        self._entries.move_to_end(key)
        return True, entry.value

    def put(self, key: bytes, value: bytes | None, now_s: float, *, prefetched: bool = False) -> None:
        """Remember a row, at the cost of those used least recently. One larger than the cache is not kept."""
        self._drop(key)
        cost = _cost(key, value)
        if cost > self._bytes_max:
            return
        while self._entries and (
            len(self._entries) >= self._entries_max or self.bytes + cost > self._bytes_max
        ):
            self._drop(next(iter(self._entries)))
            self.counts.evicted += 1
        self._entries[key] = _Entry(value, now_s + self._ttl_s, prefetched)
        self.bytes += cost
        self.counts.prefetched += prefetched

    def forget(self, keys: Set[bytes], span: DeleteRange | None = None) -> None:
        """Forget these keys and what lies in this range, at the cost of a look at every key that is here."""
        # A batch may have a million, of which few are here.
        few = len(keys) <= len(self._entries)
        for key in keys if few else list(filter(keys.__contains__, dict.keys(self._entries))):
            self._drop(key)
        if span is None:
            return
        # There may be 100,000 keys, and the event loop waits: loops that are not Python's, and not in the
        # order of use, which is slow to follow.
        known = list(dict.keys(self._entries))
        doomed = list(compress(known, map(span.start.__le__, known)))
        if span.end is not None:
            doomed = list(compress(doomed, map(span.end.__gt__, doomed)))
        for key in doomed:
            self._drop(key)

    def stays(self, key: bytes, until_s: float) -> bool:
        """Whether it is known, and will be at that time if it isn't evicted. Counts nothing."""
        entry = self._entries.get(key)
        return entry is not None and entry.until_s > until_s

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.bytes = 0

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= _cost(key, entry.value)


class HotKeys:
    """Which keys are asked most: each round halves what was counted before. At most so many are counted."""

    def __init__(self, keys_max: int) -> None:
        self._scores: dict[bytes, float] = {}
        self._keys_max = keys_max

    def __len__(self) -> int:
        return len(self._scores)

    def count(self, key: bytes) -> None:
        """One more question for a key. A new one is not counted while the table is full."""
        score = self._scores.get(key)
        if score is not None:
            self._scores[key] = score + 1
        elif len(self._scores) < self._keys_max:
            self._scores[key] = 1.0

    def copy(self) -> "HotKeys":
        """The same counts, to be looked through in another thread."""
        made = HotKeys(self._keys_max)
        made._scores = self._scores.copy()
        return made

    def hottest(self, most: int) -> list[bytes]:
        """The keys that were asked more than once of late, the hottest first."""
        known = [(score, key) for key, score in self._scores.items() if score > SCORE_MIN]
        return [key for _, key in sorted(known, key=lambda each: (-each[0], each[1]))[:most]]

    def age(self) -> None:
        """End a round."""
        self._scores = {key: score / 2 for key, score in self._scores.items() if score / 2 >= SCORE_MIN / 2}


def within(key: bytes, span: DeleteRange) -> bool:
    """Whether a range holds a key."""
    return key >= span.start and (span.end is None or key < span.end)


def covering(ranges: Sequence[DeleteRange]) -> DeleteRange | None:
    """One range that holds what any of these holds, and maybe more; None for none."""
    if not ranges:
        return None
    ends = [span.end for span in ranges if span.end is not None]
    return DeleteRange(min(span.start for span in ranges), max(ends) if len(ends) == len(ranges) else None)


def _cost(key: bytes, value: bytes | None) -> int:
    return len(key) + len(value or b"") + ENTRY_BYTES
