"""Work that must not be felt: short pieces, and after each a rest, so that it takes its share and no more."""

from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from supervm.kernel.component import Clock

REST_S_MAX = 5.0
PIECE_S = 0.01


@attrs.define
class Pace:
    """A share of the time, 0 < share <= 1, of one task. At 1 it never rests.

    Measured is the time that the pieces take, waiting for the disk included: on a busy node a piece takes
    longer, and so the next one comes later.
    """

    clock: Clock
    share: float = 1.0
    busy_s: float = attrs.field(default=0.0, init=False)
    _owed_s: float = attrs.field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        assert 0 < self.share <= 1, self.share

    @contextmanager
    def working(self) -> Iterator[None]:
        """One piece of work; `rest` afterwards."""
        began_s = self.clock.monotonic()
        try:
            yield
        finally:
            took_s = self.clock.monotonic() - began_s
            self.busy_s += took_s
            self._owed_s += took_s * (1 / self.share - 1)

    async def rest(self) -> None:
        """Sleep off what the last pieces cost, at most 5 s at a time."""
        owed_s, self._owed_s = min(self._owed_s, REST_S_MAX), 0.0
        await self.clock.sleep(owed_s)


@attrs.define
class PieceSize:
    """How much of a kind of work makes a piece of about 10 ms, found by doing: doubled or halved after each.

    Who shares the disk with this work waits for one piece at most.
    """

    most: int
    least: int = 1
    size: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        assert 1 <= self.least <= self.most, (self.least, self.most)
        self.size = self.least

    def took(self, seconds: float, done: int) -> None:
        """The last piece was `done` large and took so long."""
        if seconds > PIECE_S:
            self.size = max(self.least, self.size // 2)
        elif seconds < PIECE_S / 2 and done >= self.size:
            self.size = min(self.most, self.size * 2)
