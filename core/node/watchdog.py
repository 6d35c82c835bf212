"""Notice when the event loop stops turning, and say what stands in its way.

A component that blocks the loop can't be stopped from inside the process, but it can be named: which
ones are opening, and where the loop's thread stands.
"""

import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic

import attrs
import trio

from supervm.kernel.component import Log, Metrics

STALLED_S = 5.0
BEAT_S = 1.0
FRAMES_MAX = 6


@attrs.define
class _Pulse:
    at: float = attrs.field(factory=monotonic)
    told: bool = False


@asynccontextmanager
async def watchdog(
    log: Log, metrics: Metrics, busy: Callable[[], tuple[str, ...]], stalled_s: float = STALLED_S
) -> AsyncIterator[None]:
    """Watch the loop for the length of the block; `busy` names what is being opened just now."""
    stalls = metrics.counter("supervm_plugin_loop_stalls_total", "Times that the event loop was blocked")
    pulse, stop, loop_thread = _Pulse(), threading.Event(), threading.get_ident()

    def watch() -> None:
        while not stop.wait(stalled_s / 4):
            late_s = monotonic() - pulse.at
            if late_s > stalled_s and not pulse.told:
                pulse.told = True
                stalls.inc()
                frame = sys._current_frames().get(loop_thread)
                stack = traceback.extract_stack(frame)[-FRAMES_MAX:] if frame else []
                where = " < ".join(f"{each.filename}:{each.lineno} {each.name}" for each in reversed(stack))
                log.error("event_loop_stalled", seconds=round(late_s, 1), opening=list(busy()), where=where)

    thread = threading.Thread(target=watch, name="supervm-watchdog", daemon=True)
    async with trio.open_nursery() as nursery:

        async def beat() -> None:
            while True:
                pulse.at, pulse.told = monotonic(), False
                await trio.sleep(BEAT_S)

        nursery.start_soon(beat)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            nursery.cancel_scope.cancel()
