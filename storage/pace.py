"""Work that must not be felt: after a piece of it, rest so long that it takes a share of the time and no more."""

from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from supervm.kernel.component import Clock

REST_S_MAX = 5.0


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
