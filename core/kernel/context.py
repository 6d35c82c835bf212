"""Time as components see it."""

import time

import attrs
import trio


@attrs.frozen
class TrioClock:
    """Trio's clock for intervals, so that a mock clock drives them; the system clock for dates.

    The date is read once and advanced by Trio's clock: it never jumps while a node runs.
    """

    _started_wall_ms: int = attrs.field(factory=lambda: time.time_ns() // 1_000_000)
    _started_monotonic: float = attrs.field(factory=trio.current_time)

    def monotonic(self) -> float:
        return trio.current_time()

    def wall_ms(self) -> int:
        return self._started_wall_ms + int((trio.current_time() - self._started_monotonic) * 1000)

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)
