"""Making a Trio run repeatable: the order of tasks, the clock, the threads, the collection of garbage.

Everything that a run draws on beside its seed is closed off here, in one place and for the length of a
`with`: it changes the whole process, so one run is made at a time, and nothing else runs beside it.
"""

import gc
import heapq
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar
from unittest import mock

import attrs
import trio

T = TypeVar("T")

WORK: ContextVar[Callable[[], float] | None] = ContextVar("WORK", default=None)
"""How many seconds of the virtual clock the next call in a thread takes, as this task's node draws it."""
WHO: ContextVar[str] = ContextVar("WHO", default="the run")
"""Whose task it is, or whose message the task handles now; for a `Spin`."""

WAKE_S = 1.0
STEPS_MAX = 1_000_000
"""Steps of tasks at one moment of the clock; thousand times what a run has, which is some hundreds."""
INSTANT_S = 0.001
"""Moments that are closer than this count as one: who sleeps for a nanosecond at a time spins, too."""
_LAST_STEPS = 1_000
_TASKS_NAMED = 5


class Spin(BaseException):
    """Tasks run on and on while the clock stands still; says when, and which.

    Not an `Exception`: code that catches each of those, and tries again, is what spins.
    """


@attrs.define(eq=False)
class _Sleeper:
    """A task that sleeps; none once it was woken before its time."""

    task: trio.lowlevel.Task | None


class JumpingClock(trio.abc.Clock):
    """A clock that stands still while a task can run, and then goes to the next moment at which one can.

    Trio asks a clock how long to wait when nothing can run; this one goes there, and says that it is time.
    Its sleepers are its own: Trio's way, a cancel scope each, takes a third of a run.
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        self._sleepers: list[tuple[float, int, _Sleeper]] = []
        self._count = 0
        self.steps = 0
        """Of tasks at this moment of the clock; who counts them is `_Pace`."""
        self._counted_from_s = 0.0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self._now_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        sleepers = self._sleepers
        while sleepers and sleepers[0][2].task is None:
            heapq.heappop(sleepers)
        due_s = min(deadline, sleepers[0][0]) if sleepers else deadline
        if due_s == math.inf:
            # Trio wakes itself through a socket when it begins and ends; nothing else comes from outside.
            return WAKE_S
        self._now_s = max(self._now_s, due_s)
        if self._now_s - self._counted_from_s >= INSTANT_S:
            self._counted_from_s, self.steps = self._now_s, 0
        while sleepers and sleepers[0][0] <= self._now_s:
            task = heapq.heappop(sleepers)[2].task
            if task is not None:
                trio.lowlevel.reschedule(task)
        return 0.0

    async def sleep_until(self, due_s: float) -> None:
        if due_s <= self._now_s:
            await trio.lowlevel.checkpoint()
            return
        self._count += 1
        sleeper = _Sleeper(trio.lowlevel.current_task())
        heapq.heappush(self._sleepers, (due_s, self._count, sleeper))

        def abort(_: object) -> trio.lowlevel.Abort:
            sleeper.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)


@attrs.define(eq=False)
class _Pace(trio.abc.Instrument):
    """Counts steps of tasks, and throws `Spin` into the one that takes the last that is allowed.

    However it shields itself: no scope is asked. Each of `STEPS_MAX` more steps throws again.
    """

    clock: JumpingClock
    _last: Counter[str] = attrs.Factory(Counter)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.clock.steps += 1
        if self.clock.steps > STEPS_MAX - _LAST_STEPS:
            self._look(task)

    def _look(self, task: trio.lowlevel.Task) -> None:
        self._last[f"{task.context.get(WHO, 'the run')}: {task.name}"] += 1
        if self.clock.steps < STEPS_MAX:
            return
        named = ", ".join(f"{name} ({count})" for name, count in self._last.most_common(_TASKS_NAMED))
        at_s = self.clock.current_time()
        stepping: Any = task
        stepping._next_send_fn = task.coro.throw
        stepping._next_send = Spin(f"{STEPS_MAX} steps of tasks at {at_s:.6f} s, the last: {named}")
        self.clock.steps = 0
        self._last.clear()


_CLOCK: ContextVar[JumpingClock | None] = ContextVar("_CLOCK", default=None)


async def sleep(seconds: float) -> None:
    """As `trio.sleep`, at less cost in a run."""
    clock = _CLOCK.get()
    if clock is None:
        await trio.sleep(seconds)
    else:
        await clock.sleep_until(clock.current_time() + seconds)


async def sleep_until(due_s: float) -> None:
    """As `trio.sleep_until`, at less cost in a run."""
    await sleep(due_s - trio.current_time())


def run(main: Callable[[], Awaitable[T]], seed: str) -> T:
    """Run `main` in Trio, on a clock that jumps when nothing can go on, in an order that `seed` decides.

    Raises what `main` raises; Ctrl-C is a bare `KeyboardInterrupt`, from however deep a nursery, and `Spin` a
    bare one, where tasks take `STEPS_MAX` steps without the clock moving. A step that never ends isn't seen.
    """
    clock = JumpingClock()

    async def timed() -> T:
        _CLOCK.set(clock)
        return await main()

    with _repeatable(seed):
        try:
            return trio.run(timed, clock=clock, instruments=[_Pace(clock)])
        except BaseExceptionGroup as group:
            if group.subgroup(KeyboardInterrupt) is not None:
                raise KeyboardInterrupt from group
            spins = group.subgroup(Spin)
            if spins is not None:
                raise Spin(*_first(spins).args) from group
            raise


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


@contextmanager
def _repeatable(seed: str) -> Iterator[None]:
    # Trio sorts the tasks of a turn before it shuffles them if told so, as it does for hypothesis.
    scheduler: Any = trio._core._run
    collecting = gc.isenabled()
    drawn = scheduler._r.getstate()
    # The run before has left whole nodes, which nothing holds any more.
    gc.collect()
    try:
        with (
            mock.patch.object(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
            # A thread's end comes when the machine pleases, so the work is done in the turn of its task.
            mock.patch.object(trio.to_thread, "run_sync", _in_turn),
            mock.patch.object(trio._path, "run_sync", _in_turn),
            mock.patch.object(trio.from_thread, "run", _at_once),
        ):
            scheduler._r.seed(seed)
            # What the collector finds first (an async generator, say) would decide which task runs next.
            gc.disable()
            yield
    finally:
        scheduler._r.setstate(drawn)
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
        try:
            limiter.acquire_on_behalf_of_nowait(borrower)
        except trio.WouldBlock:
            await limiter.acquire_on_behalf_of(borrower)
    try:
        draw = WORK.get()
        with trio.CancelScope(shield=not abandon_on_cancel):
            await sleep(draw() if draw is not None else 0.0)
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
            for _ in range(STEPS_MAX):
                # A checkpoint asks the loop to come back later; whoever waits for something asks for more.
                assert getattr(asked, "__name__", "") == "CancelShieldedCheckpoint", f"it waits: {asked!r}"
                asked = steps.send(_BACK)
            raise Spin(f"{STEPS_MAX} steps of {function.__qualname__} from a thread")
        except StopIteration as end:
            result: T = end.value
    return result


def drawing(rng: random.Random, low_ms: float, high_ms: float) -> Callable[[], float]:
    """A function that draws seconds between two bounds in milliseconds."""
    return lambda: rng.uniform(low_ms, high_ms) / 1000
