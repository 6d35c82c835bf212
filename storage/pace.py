"""Work that must not be felt: short pieces, and after each a rest, so that it takes its share and no more."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

from supervm.contracts.storage import KeyValueStore
from supervm.kernel.component import Clock

REST_S_MAX = 5.0
OWED_S_MAX = 600.0
PIECE_S = 0.01
PIECES = 4
CALM_S = 1.0


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
        """Sleep off what the pieces before cost, at most 5 s at a time; the rest stays owed, up to 10 min."""
        sleeps_s = min(self._owed_s, REST_S_MAX)
        self._owed_s = min(self._owed_s - sleeps_s, OWED_S_MAX)
        await self.clock.sleep(sleeps_s)


@attrs.define
class PieceSize:
    """How much of a kind of work makes a piece of about 10 ms, found by doing: doubled or halved.

    Who shares the disk with this work waits for one piece at most. A piece also takes what it waits for
    others, a sync of theirs for example, which is no reason to do less at a time: the quickest of the last
    four counts.
    """

    most: int
    least: int = 1
    size: int = attrs.field(init=False)
    _took_s: deque[float] = attrs.field(factory=lambda: deque(maxlen=PIECES), init=False)

    def __attrs_post_init__(self) -> None:
        assert 1 <= self.least <= self.most, (self.least, self.most)
        self.size = self.least

    def took(self, seconds: float, done: int) -> None:
        """The last piece was `done` large and took so long."""
        self._took_s.append(seconds)
        if min(self._took_s) < PIECE_S / 2:
            if done >= self.size:
                self._resize(min(self.most, self.size * 2))
        elif len(self._took_s) == PIECES and min(self._took_s) > PIECE_S:
            self._resize(max(self.least, self.size // 2))

    def _resize(self, size: int) -> None:
        if size != self.size:
            self.size = size
            self._took_s.clear()


@attrs.define
class Calm:
    """Lets work that can wait stop while the store's writes wait because its engine is behind (STO-62).

    The store is asked once a second at most. `paused` is called at the beginning of each pause.
    """

    store: KeyValueStore
    clock: Clock
    paused: Callable[[], None] | None = None
    _stalled_s: float | None = attrs.field(default=None, init=False)
    _asked_s: float = attrs.field(default=float("-inf"), init=False)

    async def wait(self) -> None:
        """Return once no write has waited for the engine during the last second."""
        if self.clock.monotonic() - self._asked_s < CALM_S:
            return
        pausing = False
        while await self._stalling():
            if not pausing and self.paused is not None:
                self.paused()
            pausing = True
            await self.clock.sleep(CALM_S)

    async def _stalling(self) -> bool:
        """Whether writes have waited since this was asked last."""
        stats = await self.store.stats()
        before, self._stalled_s = self._stalled_s, stats.stalled_s
        self._asked_s = self.clock.monotonic()
        return before is not None and stats.stalled_s > before
