"""PLUG-9..12: what happens to components that crash, hang, raise or leave, and to everybody else."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pluggy
import pytest
import trio
from trio.testing import MockClock

from supervm import hookspecs
from supervm.kernel.component import Component, Context, Health, HealthState, RoleSpec, Supervision
from supervm.kernel.compose import Planned
from supervm.kernel.context import TrioClock
from supervm.kernel.errors import HotPlugRefused, RoleUnavailable, StartFailed, UndeclaredRequirement
from supervm.kernel.observe import Observers
from supervm.kernel.supervise import Environment, Kernel, open_kernel
from supervm.testing.context import RecordedMetrics

ROLES = {
    "base": RoleSpec(name="base", many=False, order=0, supervision=Supervision(fatal=True)),
    "one": RoleSpec(name="one", many=False, order=1),
    "many": RoleSpec(name="many", many=True, order=2, required=False),
}


@attrs.define
class Notes:
    """What happened, in order."""

    lines: list[str] = attrs.Factory(list)

    def log(self, event: str, **fields: Any) -> None:
        self.lines.append(" ".join([event, *(f"{key}={value}" for key, value in fields.items())]))

    debug = info = warning = error = log


@attrs.define
class Rig:
    notes: Notes
    folder: Path
    manager: pluggy.PluginManager

    @asynccontextmanager
    async def run(self, *components: Component) -> AsyncIterator[Kernel]:
        clock = TrioClock()
        metrics = RecordedMetrics()
        environment = Environment(
            data_dir=self.folder,
            tier="L4",
            hardware=None,
            clock=clock,
            metrics=metrics,
            log_for=lambda name: self.notes,
            random_for=lambda name: random.Random(1),
        )
        kinds = ("health_changed", "peer_seen")
        observers = Observers(self.manager, kinds, clock, self.notes, metrics)
        planned = [Planned(component=one, config=one.config(), plugin="test") for one in components]
        async with open_kernel(ROLES, environment, observers, planned) as kernel:
            yield kernel


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    manager = pluggy.PluginManager("supervm")
    for specs in (hookspecs.Declare, hookspecs.Extend, hookspecs.Observe):
        manager.add_hookspecs(specs)
    return Rig(Notes(), tmp_path, manager)


@attrs.define
class Echo:
    """A component's object that can be told how to behave."""

    ctx: Context
    answer: Callable[[], Awaitable[Health]] | None = None

    def say(self) -> str:
        return f"{self.ctx.role} {self.ctx.name}"

    async def health(self) -> Health:
        return await self.answer() if self.answer else Health()


def component(
    role: str, name: str, notes: Notes, act: Callable[[Context], Awaitable[Any]] | None = None, **more: Any
) -> Component:
    @asynccontextmanager
    async def open_it(ctx: Context, config: Any) -> AsyncIterator[Echo]:
        notes.log(f"opening {role}")
        echo = Echo(ctx)
        answer = await act(ctx) if act else None
        if callable(answer):
            echo.answer = answer
        try:
            yield echo
        finally:
            await trio.lowlevel.checkpoint_if_cancelled()
            notes.log(f"closed {role}")

    return Component(role=role, name=name, open=open_it, **more)


def state_of(kernel: Kernel, role: str) -> str:
    return next(status.state for status in kernel.status() if status.role == role)


async def fail_after(seconds: float, error: BaseException) -> None:
    await trio.sleep(seconds)
    raise error


async def test_components_close_in_the_exact_reverse_of_opening(rig: Rig, autojump_clock: MockClock) -> None:
    parts = [component("base", "bb", rig.notes), component("one", "oo", rig.notes, requires=("base",))]
    async with rig.run(*parts) as kernel:
        assert kernel.require("base").say() == "base bb"
    order = [line for line in rig.notes.lines if line.startswith(("opening", "closed"))]
    assert order == ["opening base", "opening one", "closed one", "closed base"]


async def test_a_crashing_task_fails_only_its_component_which_is_closed_and_restarted(
    rig: Rig, autojump_clock: MockClock
) -> None:
    lives: list[float] = []

    async def act(ctx: Context) -> None:
        lives.append(trio.current_time())
        if len(lives) == 1:
            ctx.nursery.start_soon(fail_after, 1.0, RuntimeError("broken pipe"))

    async with rig.run(component("base", "bb", rig.notes), component("one", "oo", rig.notes, act)) as kernel:
        one = kernel.require("one")
        assert one.say() == "one oo"
        await trio.sleep(1.1)
        with pytest.raises(RoleUnavailable, match="broken pipe"):
            one.say()
        assert kernel.require("base").say() == "base bb"
        await trio.sleep(5)
        assert one.say() == "one oo"
        status = next(status for status in kernel.status() if status.role == "one")
    assert status.restarts == 1 and status.causes == ("RuntimeError: broken pipe",)
    assert rig.notes.lines.index("closed one") < len(rig.notes.lines)
    assert 0.4 <= lives[1] - lives[0] - 1.0 <= 0.6  # 0.5 s, give or take a fifth


async def test_a_component_that_crashes_for_ever_is_broken_and_tried_less_and_less(
    rig: Rig, autojump_clock: MockClock
) -> None:
    tries: list[float] = []

    async def act(ctx: Context) -> None:
        tries.append(trio.current_time())
        raise ValueError("never")

    async with rig.run(component("base", "bb", rig.notes), component("one", "oo", rig.notes, act)) as kernel:
        await trio.sleep(30)
        assert state_of(kernel, "one") == "broken" and len(tries) == 5
        await trio.sleep(600)
        assert len(tries) <= 9
        assert state_of(kernel, "base") == "serving"


async def test_an_operator_can_try_a_broken_component_at_once(rig: Rig, autojump_clock: MockClock) -> None:
    mended = False

    async def act(ctx: Context) -> None:
        if not mended:
            raise ValueError("not yet")

    async with rig.run(component("base", "bb", rig.notes), component("one", "oo", rig.notes, act)) as kernel:
        await trio.sleep(30)
        assert not kernel.reset("base", "bb")
        mended = True
        assert kernel.reset("one", "oo")
        await trio.testing.wait_all_tasks_blocked()
        assert kernel.require("one").say() == "one oo"


async def test_a_component_that_hangs_in_open_is_given_up_and_named(
    rig: Rig, autojump_clock: MockClock
) -> None:
    async def act(ctx: Context) -> None:
        await trio.sleep_forever()

    parts = [component("base", "bb", rig.notes), component("many", "slow", rig.notes, act)]
    async with rig.run(*parts, component("one", "oo", rig.notes)) as kernel:
        assert trio.current_time() < 1, "nobody waits for a hanging component of a many role"
        assert kernel.opening() == ("many.slow",)
        await trio.sleep(30.1)
        status = next(status for status in kernel.status() if status.role == "many")
        assert status.causes == ("TimeoutError: did not open within 30 s",)
        assert kernel.all("many") == ()


async def test_closing_while_a_component_still_opens_does_not_wait_for_it(
    rig: Rig, autojump_clock: MockClock
) -> None:
    async def act(ctx: Context) -> None:
        await trio.sleep_forever()

    async with rig.run(component("base", "bb", rig.notes), component("many", "slow", rig.notes, act)):
        await trio.sleep(1)
    assert trio.current_time() < 2


async def test_a_fatal_failure_at_start_is_told_to_the_caller_by_name(
    rig: Rig, autojump_clock: MockClock
) -> None:
    async def act(ctx: Context) -> None:
        raise OSError("no space left on device")

    with pytest.raises(StartFailed, match="base bb did not open: OSError: no space left"):
        async with rig.run(component("base", "bb", rig.notes, act), component("one", "oo", rig.notes)):
            pytest.fail("a node never runs without it")


async def test_a_fatal_failure_while_running_tells_the_node_to_stop_with_the_cause(
    rig: Rig, autojump_clock: MockClock
) -> None:
    async def act(ctx: Context) -> None:
        ctx.nursery.start_soon(fail_after, 5.0, OSError("sync failed"))

    async with rig.run(component("base", "bb", rig.notes, act), component("one", "oo", rig.notes)) as kernel:
        assert await kernel.wait_fatal() == "base.bb failed: OSError: sync failed"
        with pytest.raises(RoleUnavailable):
            kernel.require("base").say()
        assert kernel.require("one").say() == "one oo"
    assert sum(line == "opening base" for line in rig.notes.lines) == 1, "storage is never restarted in place"


class MustStop(Exception):
    must_stop = True


async def test_a_component_whose_role_is_restarted_can_still_say_that_the_node_must_stop(
    rig: Rig, autojump_clock: MockClock
) -> None:
    async def act(ctx: Context) -> None:
        ctx.nursery.start_soon(fail_after, 5.0, MustStop("two final blocks"))

    async with rig.run(component("base", "bb", rig.notes), component("one", "oo", rig.notes, act)) as kernel:
        assert await kernel.wait_fatal() == "one.oo failed: MustStop: two final blocks"
    assert sum(line == "opening one" for line in rig.notes.lines) == 1


class Foreign(BaseException):
    """As another event loop's cancellation is: no `Exception`."""


@pytest.mark.parametrize("error", [SystemExit(3), Foreign()])
async def test_a_component_that_raises_what_no_except_exception_catches_only_fails_itself(
    error: BaseException, rig: Rig, autojump_clock: MockClock
) -> None:
    async def act(ctx: Context) -> None:
        raise error

    async with rig.run(component("base", "bb", rig.notes), component("one", "oo", rig.notes, act)) as kernel:
        status = next(status for status in kernel.status() if status.role == "one")
        assert status.causes[0].startswith(type(error).__name__)


async def test_a_component_that_leaves_its_scope_by_an_error_on_close_is_logged_and_closed(
    rig: Rig, autojump_clock: MockClock
) -> None:
    @asynccontextmanager
    async def open_it(ctx: Context, config: Any) -> AsyncIterator[object]:
        yield object()
        raise ValueError("on the way out")

    async with rig.run(
        component("base", "bb", rig.notes), Component(role="one", name="oo", open=open_it)
    ) as kernel:
        pass
    assert [status.state for status in kernel.status()] == ["closed", "closed"]
    assert any("on the way out" in line for line in rig.notes.lines)


async def test_a_component_that_hangs_on_close_is_cancelled_after_its_time(
    rig: Rig, autojump_clock: MockClock
) -> None:
    @asynccontextmanager
    async def open_it(ctx: Context, config: Any) -> AsyncIterator[object]:
        try:
            yield object()
        finally:
            await trio.sleep_forever()

    async with rig.run(component("base", "bb", rig.notes), Component(role="one", name="oo", open=open_it)):
        pass
    assert 10 <= trio.current_time() < 11
    assert any("did not close within 10 s" in line for line in rig.notes.lines)


async def test_failing_health_three_times_restarts_and_a_slow_answer_counts_as_failing(
    rig: Rig, autojump_clock: MockClock
) -> None:
    async def act(ctx: Context) -> Callable[[], Awaitable[Health]]:
        async def stuck() -> Health:
            await trio.sleep_forever()
            return Health()

        return stuck

    async with rig.run(component("base", "bb", rig.notes), component("one", "oo", rig.notes, act)) as kernel:
        await trio.sleep(20)
        assert state_of(kernel, "one") == "serving"
        await trio.sleep(2)
        status = next(status for status in kernel.status() if status.role == "one")
        assert status.causes == ("did not answer in time",)


async def test_a_component_whose_health_fails_while_a_task_of_it_crashes_is_closed_in_the_ordinary_way(
    rig: Rig, autojump_clock: MockClock
) -> None:
    ends: list[str] = []

    @asynccontextmanager
    async def open_it(ctx: Context, config: Any) -> AsyncIterator[Echo]:
        asked = 0

        async def answer() -> Health:
            nonlocal asked
            asked += 1
            if asked == 3:
                ctx.nursery.start_soon(fail_after, 0.1, ValueError("boom"))
                await trio.sleep(1)
            return Health(HealthState.FAILING, "bad")

        try:
            yield Echo(ctx, answer)
        except BaseException as error:
            ends.append(repr(error))
            raise
        ends.append("closed")

    async with rig.run(Component(role="one", name="oo", open=open_it)) as kernel:
        await trio.sleep(17)
        status = next(iter(kernel.status()))
        assert status.causes == ("bad",) and status.restarts == 1
    assert ends == ["closed", "closed"]
    assert any("boom" in line for line in rig.notes.lines)


async def test_degraded_health_is_shown_and_still_serves(rig: Rig, autojump_clock: MockClock) -> None:
    async def act(ctx: Context) -> Callable[[], Awaitable[Health]]:
        async def slow() -> Health:
            return Health(HealthState.DEGRADED, "twin instead of native")

        return slow

    async with rig.run(component("base", "bb", rig.notes), component("one", "oo", rig.notes, act)) as kernel:
        await trio.sleep(6)
        assert state_of(kernel, "one") == "degraded"
        assert kernel.require("one").say() == "one oo"


async def test_work_in_hand_is_drained_before_closing(rig: Rig, autojump_clock: MockClock) -> None:
    class Busy:
        async def drain(self, deadline: float) -> None:
            await trio.sleep(3)
            rig.notes.log("drained")

    @asynccontextmanager
    async def open_it(ctx: Context, config: Any) -> AsyncIterator[Busy]:
        yield Busy()
        rig.notes.log("closed busy")

    async with rig.run(component("base", "bb", rig.notes), Component(role="one", name="oo", open=open_it)):
        pass
    assert rig.notes.lines.index("drained") < rig.notes.lines.index("closed busy")


async def test_a_component_reaches_only_roles_that_it_declared(rig: Rig, autojump_clock: MockClock) -> None:
    contexts: list[Context] = []

    async def act(ctx: Context) -> None:
        contexts.append(ctx)

    parts = [component("base", "bb", rig.notes), component("one", "oo", rig.notes, act, requires=("base",))]
    async with rig.run(*parts):
        assert contexts[0].require("base").say() == "base bb"
        with pytest.raises(UndeclaredRequirement, match="many"):
            contexts[0].all("many")


async def test_components_of_many_roles_come_and_go_while_the_node_runs(
    rig: Rig, autojump_clock: MockClock
) -> None:
    late = component("many", "late", rig.notes)
    async with rig.run(component("base", "bb", rig.notes), component("one", "oo", rig.notes)) as kernel:
        assert kernel.all("many") == ()
        await kernel.load(Planned(component=late, config=None))
        assert [echo.say() for echo in kernel.all("many")] == ["many late"]
        with pytest.raises(HotPlugRefused, match="loaded already"):
            await kernel.load(Planned(component=late, config=None))
        with pytest.raises(HotPlugRefused, match="takes one component"):
            await kernel.load(Planned(component=component("one", "other", rig.notes), config=None))
        with pytest.raises(HotPlugRefused, match="needs its component"):
            await kernel.unload("one", "oo")
        await kernel.unload("many", "late")
        assert kernel.all("many") == () and len(kernel.status()) == 2
        assert rig.notes.lines.count("closed many") == 1


async def test_two_who_unload_one_component_at_the_same_time_both_succeed(
    rig: Rig, autojump_clock: MockClock
) -> None:
    async with rig.run() as kernel:
        await kernel.load(Planned(component=component("many", "late", rig.notes), config=None))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.unload, "many", "late")
            nursery.start_soon(kernel.unload, "many", "late")
        assert kernel.status() == () and rig.notes.lines.count("closed many") == 1


async def test_a_component_told_to_leave_at_the_moment_it_begins_to_open_does_not_open(
    rig: Rig, autojump_clock: MockClock
) -> None:
    async def hang(ctx: Context) -> None:
        await trio.sleep(29)

    async with rig.run() as kernel:
        began = trio.current_time()
        slow = Planned(component=component("many", "slow", rig.notes, hang), config=None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kernel.load, slow)
            while not kernel.opening():
                await trio.lowlevel.checkpoint()
            await kernel.unload("many", "slow")
        assert trio.current_time() - began < 1 and kernel.status() == ()


async def test_a_component_that_fails_to_load_leaves_nothing_behind(
    rig: Rig, autojump_clock: MockClock
) -> None:
    async def act(ctx: Context) -> None:
        raise ValueError("bad")

    async with rig.run(component("base", "bb", rig.notes), component("one", "oo", rig.notes)) as kernel:
        with pytest.raises(StartFailed, match="bad"):
            await kernel.load(Planned(component=component("many", "late", rig.notes, act), config=None))
        assert len(kernel.status()) == 2


async def test_an_error_in_the_body_still_closes_everything(rig: Rig, autojump_clock: MockClock) -> None:
    with pytest.raises(KeyError):
        async with rig.run(component("base", "bb", rig.notes), component("one", "oo", rig.notes)):
            raise KeyError("mine")
    assert "closed base" in rig.notes.lines and "closed one" in rig.notes.lines


async def test_the_kernel_opens_with_no_plugins(rig: Rig, autojump_clock: MockClock) -> None:
    async with rig.run() as kernel:
        assert kernel.status() == ()


async def test_after_one_that_the_node_must_have_nothing_else_is_opened(
    rig: Rig, autojump_clock: MockClock
) -> None:
    async def act(ctx: Context) -> None:
        raise OSError("no disk")

    parts = [
        component("base", "bb", rig.notes, act),
        component("one", "oo", rig.notes, requires=("base",)),
    ]
    with pytest.raises(StartFailed, match="no disk"):
        async with rig.run(*parts):
            pass
    assert "opening base" in rig.notes.lines and "opening one" not in rig.notes.lines


@attrs.define
class Errors(Notes):
    """Keeps what is told as an error."""

    def pass_over(self, event: str, **fields: Any) -> None:
        return None

    debug = info = warning = pass_over


class Refusal(Exception):
    mend = "use another"


@pytest.mark.parametrize(
    ("error", "told"), [(RuntimeError("broken"), "component_crashed"), (Refusal("full"), "component_failed")]
)
async def test_the_cause_of_a_failure_is_told_once(
    error: Exception, told: str, rig: Rig, autojump_clock: MockClock
) -> None:
    rig.notes = Errors()

    async def act(ctx: Context) -> None:
        ctx.nursery.start_soon(fail_after, 1.0, error)

    async with rig.run(component("base", "bb", Notes(), act)) as kernel:
        assert "base.bb failed" in await kernel.wait_fatal()
    assert [line.split()[0] for line in rig.notes.lines] == [told, "node_must_stop"]
    assert sum(str(error) in line for line in rig.notes.lines) == 1


async def test_a_drain_that_takes_too_long_is_cut_short_and_told(rig: Rig, autojump_clock: MockClock) -> None:
    @asynccontextmanager
    async def open_it(ctx: Context, config: Any) -> AsyncIterator[Any]:
        yield Slow()

    class Slow:
        async def drain(self, deadline: float) -> None:
            await trio.sleep_forever()

    began = trio.current_time()
    async with rig.run(Component(role="base", name="bb", open=open_it)):
        pass
    assert trio.current_time() - began == pytest.approx(30)
    assert "component_drain subject=base.bb cause=TooSlowError" in rig.notes.lines
