"""Quantiles over a sliding window, in bounded memory.

They come from logarithmic buckets: bucket i holds the values in (g^(i-1), g^i] with
g = (1 + e) / (1 - e), and answers 2 g^i / (g + 1), which is within e of every value it holds
(Masson, Rim and Lee, "DDSketch", VLDB 2019, section 2.2). The window is a ring of slots that are
emptied as they come round again, so it covers between 11/12 and 12/12 of its length.
"""

import math
from collections.abc import Iterable, Sequence

RELATIVE_ERROR = 0.02
_GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_PER_LOG = 1 / math.log(_GAMMA)
# Values outside this range are counted at its edge: 1e-12..1e15 needs at most 1,555 buckets a slot.
VALUE_MIN = 1e-12
VALUE_MAX = 1e15

SLOTS = 12


class WindowHistogram:
    """Observations of the last `window_s` seconds. Written by one thread; others may read at any time."""

    __slots__ = ("_slot_s", "_slots", "_stamps", "count", "total")

    def __init__(self, window_s: float) -> None:
        self._slot_s = window_s / SLOTS
        self._slots: list[dict[int, int]] = [{} for _ in range(SLOTS)]
        self._stamps = [-1] * SLOTS
        self.count = 0
        self.total = 0.0

    def observe(self, value: float, now_s: float) -> None:
        """Count one value. Zero and negative values count as zero; NaN and infinities are not counted."""
        if not math.isfinite(value):
            return
        stamp = int(now_s / self._slot_s)
        place = stamp % SLOTS
        if self._stamps[place] != stamp:
            self._slots[place] = {}
            self._stamps[place] = stamp
        slot = self._slots[place]
        bucket = bucket_of(value)
        slot[bucket] = slot.get(bucket, 0) + 1
        self.count += 1
        self.total += value

    def buckets(self, now_s: float) -> dict[int, int]:
        """Bucket index to count, over the window that ends now."""
        newest = int(now_s / self._slot_s)
        merged: dict[int, int] = {}
        for place in range(SLOTS):
            if newest - SLOTS < self._stamps[place] <= newest:
                for bucket, count in self._slots[place].copy().items():
                    merged[bucket] = merged.get(bucket, 0) + count
        return merged


_ZERO_BUCKET = math.floor(math.log(VALUE_MIN) * _PER_LOG) - 1


def bucket_of(value: float) -> int:
    if value < VALUE_MIN:
        return _ZERO_BUCKET
    return math.ceil(math.log(min(value, VALUE_MAX)) * _PER_LOG)


def value_of(bucket: int) -> float:
    if bucket == _ZERO_BUCKET:
        return 0.0
    return 2 * math.exp(bucket / _PER_LOG) / (_GAMMA + 1)


def quantiles(buckets: Iterable[dict[int, int]], asked: Sequence[float]) -> list[float]:
    """Each asked quantile (0..1) by nearest rank, within `RELATIVE_ERROR`; zeros where nothing was seen."""
    merged: dict[int, int] = {}
    for one in buckets:
        for bucket, count in one.items():
            merged[bucket] = merged.get(bucket, 0) + count
    total = sum(merged.values())
    if not total:
        return [0.0] * len(asked)
    ranks = sorted((max(1, math.ceil(q * total)), at) for at, q in enumerate(asked))
    answers = [0.0] * len(asked)
    ordered = iter(sorted(merged.items()))
    seen, bucket = 0, 0
    for rank, at in ranks:
        while seen < rank:
            bucket, count = next(ordered)
            seen += count
        answers[at] = value_of(bucket)
    return answers
