"""Making a Trio run repeatable: the order of tasks, the clock, the threads, the collection of garbage.

Everything that a run draws on beside its seed is closed off here, in one place and for the length of a
`with`: it changes the whole process, so one run is made at a time, and nothing else runs beside it.
"""

import gc
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar
from unittest import mock

import trio
from trio.testing import MockClock

T = TypeVar("T")

WORK: ContextVar[Callable[[], float] | None] = ContextVar("WORK", default=None)
"""How many seconds of the virtual clock the next call in a thread takes, as this task's node draws it."""


def run(main: Callable[[], Awaitable[T]], seed: str) -> T:
    """Run `main` in Trio, on a clock that jumps when nothing can go on, in an order that `seed` decides.

    Raises what `main` raises; Ctrl-C is a bare `KeyboardInterrupt`, from however deep a nursery.
    """
    with _repeatable(seed):
        try:
            return trio.run(main, clock=MockClock(autojump_threshold=0))
        except BaseExceptionGroup as group:
            if group.subgroup(KeyboardInterrupt) is not None:
                raise KeyboardInterrupt from group
            raise


@contextmanager
def _repeatable(seed: str) -> Iterator[None]:
    # Trio sorts the tasks of a turn before it shuffles them if told so, as it does for hypothesis.
    scheduler: Any = trio._core._run
    collecting = gc.isenabled()
    drawn = scheduler._r.getstate()
    try:
        with (
            mock.patch.object(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
            # A thread's end comes when the machine pleases, so the work is done in the turn of its task.
            mock.patch.object(trio.to_thread, "run_sync", _in_turn),
            mock.patch.object(trio.from_thread, "run", _at_once),
        ):
            scheduler._r.seed(seed)
            # What the collector finds first (an async generator, say) would decide which task runs next.
            gc.disable()
            yield
    finally:
        scheduler._r.setstate(drawn)
        gc.collect()
        if collecting:
            gc.enable()


async def _in_turn(
    function: Callable[..., T],
    *arguments: Any,
    thread_name: str | None = None,
    abandon_on_cancel: bool = False,
    limiter: trio.CapacityLimiter | None = None,
) -> T:
    """As `trio.to_thread.run_sync`, without a thread: after the time that the call takes on this node."""
    await trio.lowlevel.checkpoint_if_cancelled()
    borrower = object()
    if limiter is not None:
        await limiter.acquire_on_behalf_of(borrower)
    try:
        draw = WORK.get()
        with trio.CancelScope(shield=not abandon_on_cancel):
            await trio.sleep(draw() if draw is not None else 0.0)
        return function(*arguments)
    finally:
        if limiter is not None:
            limiter.release_on_behalf_of(borrower)


class _Back:
    """What the loop gives a task that comes back from a checkpoint."""

    def unwrap(self) -> None:
        return


_BACK = _Back()


def _at_once(function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """As `trio.from_thread.run`, from work that is done in a task's turn: it may yield, and not wait."""
    steps: Any = function(*arguments)
    with trio.CancelScope(shield=True):  # noqa: ASYNC100 - `steps` has the checkpoints
        try:
            asked = steps.send(None)
            while True:
                # A checkpoint asks the loop to come back later; whoever waits for something asks for more.
                assert getattr(asked, "__name__", "") == "CancelShieldedCheckpoint", f"it waits: {asked!r}"
                asked = steps.send(_BACK)
        except StopIteration as end:
            result: T = end.value
    return result


def drawing(rng: random.Random, low_ms: float, high_ms: float) -> Callable[[], float]:
    """A function that draws seconds between two bounds in milliseconds."""
    return lambda: rng.uniform(low_ms, high_ms) / 1000
