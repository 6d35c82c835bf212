"""The timers of the machines: by name, one at a time, on the clock of the context."""

from collections.abc import Callable

import trio

from supervm.api import Context

SOON_S = 3600.0


class Timers:
    """Named timers. One that is set again is replaced; one that was cancelled never fires."""

    def __init__(self, ctx: Context, fire: Callable[[str], None]) -> None:
        self._ctx = ctx
        self._fire = fire
        self._due_s: dict[str, float] = {}
        self._sleep: trio.CancelScope | None = None
        self._wakes_s = 0.0

    def set(self, name: str, delay_us: int) -> None:
        due_s = self._ctx.clock.monotonic() + delay_us / 1_000_000
        self._due_s[name] = due_s
        if self._sleep is not None and due_s < self._wakes_s:
            self._sleep.cancel()

    def cancel(self, name: str) -> None:
        self._due_s.pop(name, None)

    async def run(self) -> None:
        while True:
            now_s = self._ctx.clock.monotonic()
            for name in [name for name, due_s in self._due_s.items() if due_s <= now_s]:
                # An earlier one of them may have cancelled or replaced it.
                if self._due_s.get(name, now_s + 1) <= now_s:
                    del self._due_s[name]
                    self._fire(name)
            self._wakes_s = min(self._due_s.values(), default=now_s + SOON_S)
            with trio.CancelScope() as self._sleep:
                await self._ctx.clock.sleep(max(0.0, self._wakes_s - self._ctx.clock.monotonic()))
            self._sleep = None
