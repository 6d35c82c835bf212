"""Which keys are written most: counts that fade, and tiers (EXEC-60, EXEC-61)."""

import heapq
from collections.abc import Iterable
from enum import IntEnum

ENTRIES_MAX = 100_000


class Tier(IntEnum):
    """How hot a key is over many batches."""

    COLD = 0
    MEDIUM = 1
    EXTREME = 2


class HotKeyTracker:
    """Least frequently used, with decay: counts of written keys, all made smaller now and then.

    Fed with the keys of write sets only: what is only read holds up nobody. At most `entries_max` keys are
    remembered; beyond it the least frequent tenth is forgotten.
    """

    def __init__(
        self,
        *,
        medium: float = 20,
        high: float = 50,
        decay_period: int = 10,
        decay_factor: float = 0.9,
        entries_max: int = ENTRIES_MAX,
    ) -> None:
        self.medium, self.high = medium, high
        self._decay_period, self._decay_factor = decay_period, decay_factor
        self._entries_max = entries_max
        self._counts: dict[bytes, float] = {}
        self._batches = 0

    def record(self, write_sets: Iterable[Iterable[bytes]]) -> None:
        """Count the keys that the transactions of one batch wrote."""
        counts = self._counts
        for keys in write_sets:
            for key in keys:
                counts[key] = counts.get(key, 0) + 1
        if len(counts) > self._entries_max:
            keep = self._entries_max - self._entries_max // 10
            self._counts = dict(heapq.nlargest(keep, counts.items(), key=lambda item: item[1]))

    def next_batch(self) -> None:
        """A batch begins; every `decay_period` of them counts fade, and those below 1 are forgotten."""
        self._batches += 1
        if self._batches % self._decay_period == 0:
            faded = ((key, count * self._decay_factor) for key, count in self._counts.items())
            self._counts = {key: count for key, count in faded if count >= 1}

    def count(self, key: bytes) -> float:
        """How often it was written, faded."""
        return self._counts.get(key, 0.0)

    def tier(self, key: bytes) -> Tier:
        """The tier of a key now."""
        count = self._counts.get(key, 0.0)
        return Tier.EXTREME if count >= self.high else Tier.MEDIUM if count >= self.medium else Tier.COLD

    def hottest(self, limit: int) -> list[tuple[bytes, float]]:
        """The most frequent keys and their counts."""
        return heapq.nlargest(limit, self._counts.items(), key=lambda item: item[1])

    def __len__(self) -> int:
        return len(self._counts)
