"""Which parts of a store are asked for: a score a part that halves with time, for so many parts and no more.

A part (*unit*) is the beginning of its rows' keys: of the ledger's spaces the space and the height, so that
the rows of a block are one. No I/O and no clock: whoever counts says what time it is. Time that the node is
off does not count.
"""

import random
import struct
from collections.abc import Iterator, Mapping
from typing import Self

import attrs
from blake3 import blake3

HALF_LIFE_S = 86_400.0
UNITS_MAX = 50_000
UNIT_BYTES_MAX = 64
SAMPLE = 8
HISTORY_MAX = 64
# From here on scores are brought down, so that floats never end.
WEIGHT_MAX = 2.0**200
HALVES_MAX = 500.0
FORMAT = 1
CHECKSUM_BYTES = 32

_HEAD = struct.Struct("<BIQI")
_ENTRY = struct.Struct("<BdB")


class Damaged(ValueError):
    """Bytes that are no table of scores, or not the one that was written."""


@attrs.define(eq=False)
class HeatTable:
    """Scores by unit: each access counts one, and halves in `half_life_s` (STO-90).

    At the bound the least asked of eight, taken by chance, makes room for a new one. `histories` has the
    ranks of the last windows by unit, the newest last, as bytes; `windows` is how many there were, and
    `units` how many units the store had when they were last counted (0: never). `asked` counts the accesses
    of the window that is under way; it is not kept on disk.
    """

    chance: random.Random
    units_max: int = UNITS_MAX
    half_life_s: float = HALF_LIFE_S
    histories: dict[bytes, bytes] = attrs.field(factory=dict)
    windows: int = 0
    units: int = 0
    dropped: int = 0
    asked: dict[bytes, int] = attrs.field(factory=dict)
    # What an access at `_since_s` counts is 1, later ones more: so that nothing but the newest is touched.
    _since_s: float = 0.0
    _scores: dict[bytes, float] = attrs.field(factory=dict)
    _order: list[bytes] = attrs.field(factory=list)
    _places: dict[bytes, int] = attrs.field(factory=dict)

    @classmethod
    def empty(cls, now_s: float, chance: random.Random, *, units_max: int, half_life_s: float) -> Self:
        """A table that begins now."""
        made = cls(chance, units_max, half_life_s)
        made._since_s = now_s
        return made

    def __len__(self) -> int:
        return len(self._scores)

    def __contains__(self, unit: bytes) -> bool:
        return unit in self._scores

    def count(self, unit: bytes, now_s: float) -> int:
        """One more access; how many there were in this window."""
        asked = self.asked[unit] = self.asked.get(unit, 0) + 1
        weight = self._weight(now_s)
        if weight > WEIGHT_MAX:
            self._scores = {unit: score / weight for unit, score in self._scores.items()}
            self._since_s, weight = now_s, 1.0
        score = self._scores.get(unit)
        if score is not None:
            self._scores[unit] = score + weight
            return asked
        if len(self._order) >= self.units_max:
            self._make_room()
        self._places[unit] = len(self._order)
        self._order.append(unit)
        self._scores[unit] = weight
        return asked

    def mean(self, unit: bytes, now_s: float, window_s: float) -> float:
        """A unit's accesses in a window of so long, in the mean of what it scored before this window.

        Of the same accesses in every window, n, a score comes to n / (1 - 2^(-window / half-life)).
        """
        before = self._scores.get(unit, 0.0) / self._weight(now_s) - self.asked.get(unit, 0)
        return float(max(0.0, before) * (1 - 2.0 ** (-window_s / self.half_life_s)))

    def scores(self, now_s: float) -> dict[bytes, float]:
        """By unit what it scores now; a copy. In any thread, whoever counts meanwhile."""
        copied, weight = self._scores.copy(), self._weight(now_s)
        return {unit: score / weight for unit, score in copied.items()}

    def remember(self, ranks: Mapping[bytes, int], most: int) -> None:
        """End a window: note what each unit ranked, of the last `most` windows (at most 64).

        It may be called in another thread than that which counts; one window at a time.
        """
        assert 0 < most <= HISTORY_MAX
        before = self.histories
        self.histories = {
            unit: (before.get(unit, b"") + bytes((rank,)))[-most:]
            for unit, rank in ranks.items()
            if unit in self._scores
        }
        self.asked = {}
        self.windows += 1

    def encode(self, now_s: float) -> bytes:
        """All of it, with a checksum at its end. In any thread, as `scores`."""
        scores = self.scores(now_s)
        parts = [_HEAD.pack(FORMAT, min(self.windows, 2**32 - 1), self.units, len(scores))]
        for unit, score in scores.items():
            history = self.histories.get(unit, b"")
            parts += (_ENTRY.pack(len(unit), score, len(history)), unit, history)
        data = b"".join(parts)
        return data + blake3(data).digest()

    @classmethod
    def decode(
        cls, data: bytes, now_s: float, chance: random.Random, *, units_max: int, half_life_s: float
    ) -> Self:
        """A table as it was; of more units than `units_max` the hottest. Raises `Damaged`."""
        body, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
        if len(body) < _HEAD.size or blake3(body).digest() != checksum:
            raise Damaged("its checksum does not fit")
        form, windows, units, count = _HEAD.unpack_from(body)
        if form != FORMAT:
            raise Damaged(f"format {form} is not {FORMAT}")
        made = cls.empty(now_s, chance, units_max=units_max, half_life_s=half_life_s)
        made.windows, made.units = windows, units
        entries = sorted(_entries(body, count), key=lambda each: (-each[1], each[0]))
        for unit, score, history in entries[:units_max]:
            made.count(unit, now_s)
            made._scores[unit] = score
            made.histories[unit] = history
        made.asked = {}
        return made

    def _weight(self, now_s: float) -> float:
        return float(2.0 ** min((now_s - self._since_s) / self.half_life_s, HALVES_MAX))

    def _make_room(self) -> None:
        places = [self.chance.randrange(len(self._order)) for _ in range(SAMPLE)]
        doomed = min((self._order[place] for place in places), key=self._scores.__getitem__)
        place, last = self._places.pop(doomed), self._order.pop()
        if last != doomed:
            self._order[place] = last
            self._places[last] = place
        del self._scores[doomed]
        self.asked.pop(doomed, None)
        self.histories.pop(doomed, None)
        self.dropped += 1


def _entries(body: bytes, count: int) -> Iterator[tuple[bytes, float, bytes]]:
    at = _HEAD.size
    for _ in range(count):
        unit_bytes, score, history_bytes = _ENTRY.unpack_from(body, at)
        at += _ENTRY.size
        yield body[at : at + unit_bytes], score, body[at + unit_bytes : at + unit_bytes + history_bytes]
        at += unit_bytes + history_bytes
