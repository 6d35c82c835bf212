"""Time as components see it: the machine's, or a virtual one in a simulation."""

import time

import attrs
import trio


@attrs.frozen
class SystemClock:
    """The machine's clocks: Trio's for intervals, the system's for dates (which may jump)."""

    def monotonic(self) -> float:
        return trio.current_time()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


@attrs.frozen
class TrioClock(SystemClock):
    """Dates that advance with Trio's clock, so that a mock clock drives both."""

    _origin_ms: int = 1_700_000_000_000
    _started: float = attrs.field(factory=trio.current_time)

    def wall_ms(self) -> int:
        return self._origin_ms + round((trio.current_time() - self._started) * 1000)
