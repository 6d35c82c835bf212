"""Open components, keep them alive as their policies say, and close them in reverse.

Each component has one supervising task and one nursery for its own tasks, which lives in a task of its
own: a crash there ends that nursery alone, and the component is then closed in the ordinary way, not
cancelled in the middle of releasing what it holds. What decides is `lifecycle.step`; this file performs.
"""

import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path
from typing import Any

import attrs
import trio

from supervm.kernel.component import (
    Clock,
    Context,
    Health,
    HealthState,
    Log,
    Metrics,
    RoleSpec,
    Supervision,
)
from supervm.kernel.compose import Planned
from supervm.kernel.errors import (
    HotPlugRefused,
    RoleUnavailable,
    StartFailed,
    UndeclaredRequirement,
    contained,
    describe,
    leaf,
)
from supervm.kernel.figures import KernelFigures
from supervm.kernel.lifecycle import Event, Life, State, step
from supervm.kernel.observe import Observers


@attrs.frozen(kw_only=True)
class Timing:
    """Bounds on what the kernel waits for, in seconds (PLUG-9, PLUG-27)."""

    open_timeout_s: float = 30.0
    drain_timeout_s: float = 30.0
    close_timeout_s: float = 10.0
    shutdown_timeout_s: float = 60.0
    health_interval_s: float = 5.0
    health_timeout_s: float = 2.0


@attrs.frozen(kw_only=True)
class Environment:
    """What the node gives the kernel to hand on. `log_for` and `random_for` give a component its own."""

    data_dir: Path
    tier: str
    hardware: Any
    clock: Clock
    metrics: Metrics
    log_for: Callable[[str], Log]
    random_for: Callable[[str], random.Random] = lambda name: random.SystemRandom()
    timing: Timing = Timing()


@attrs.frozen(kw_only=True)
class Status:
    """A snapshot of one component, for people and for the API. Times are monotonic seconds."""

    role: str
    name: str
    plugin: str
    source: str
    origin: str
    state: str
    since: float
    restarts: int
    causes: tuple[str, ...]
    health: Health
    contract: tuple[int, int]
    trial_in_s: float | None = None


@attrs.define(eq=False)
class Slot:
    """One composed component while the node runs."""

    planned: Planned
    policy: Supervision
    random: random.Random
    needs: tuple["Slot", ...] = ()
    scope: trio.CancelScope | None = None
    life: Life = Life()
    served: Any = None
    health: Health = Health()
    leave: trio.Event = attrs.Factory(trio.Event)
    crash: BaseException | None = None
    leaving: bool = False
    deadline: float = inf
    opened: trio.Event = attrs.Factory(trio.Event)
    ended: trio.Event = attrs.Factory(trio.Event)
    reset: trio.Event = attrs.Factory(trio.Event)

    @property
    def key(self) -> tuple[str, str]:
        return self.planned.key

    @property
    def label(self) -> str:
        return ".".join(self.key)


class Reference:
    """The component of a role, whichever life it is in: a call while it is away raises."""

    def __init__(self, find: Callable[[], Any]) -> None:
        self.__find = find

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__find(), name)


@attrs.define(eq=False)
class Kernel:
    """A running composition. Made by `open_kernel`; every method is for the event loop only."""

    roles: Mapping[str, RoleSpec]
    environment: Environment
    observers: Observers
    nursery: trio.Nursery
    _slots: dict[tuple[str, str], Slot] = attrs.Factory(dict)
    _fatal: trio.Event = attrs.Factory(trio.Event)
    fatal_cause: str = ""
    log: Log = attrs.field(init=False)
    _figures: KernelFigures = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.log = self.environment.log_for("kernel")
        self._figures = KernelFigures.declare(self.environment.metrics)

    # -- what others ask

    def status(self) -> tuple[Status, ...]:
        return tuple(self._status(slot) for slot in self._slots.values())

    def require(self, role: str) -> Any:
        """A reference to the component of a `one` role, good across its restarts."""
        return Reference(lambda: self._serving(role))

    def all(self, role: str) -> tuple[Any, ...]:
        """Every serving object of a role, in name order."""
        slots = sorted((slot for slot in self._slots.values() if slot.key[0] == role), key=lambda s: s.key)
        return tuple(slot.served for slot in slots if slot.life.serves)

    def opening(self) -> tuple[str, ...]:
        """The components that are opening right now, for whoever asks what takes so long."""
        return tuple(slot.label for slot in self._slots.values() if slot.life.state is State.OPENING)

    async def wait_opened(self, role: str) -> tuple[Status, ...]:
        """Wait until each component of a role serves or has failed for the first time; how they are."""
        slots = [slot for slot in self._slots.values() if slot.key[0] == role]
        for slot in slots:
            await slot.opened.wait()
        return tuple(self._status(slot) for slot in slots)

    async def wait_fatal(self) -> str:
        """Return, with its cause, when a component failed whose policy says that the node must stop."""
        await self._fatal.wait()
        return self.fatal_cause

    # -- what the node does

    async def start(self, planned: Sequence[Planned]) -> None:
        """Open everything, each component after those it needs; return when the `one` roles have opened.

        Raises `StartFailed` when one with a fatal policy doesn't open. Any other failure is contained: it
        is retried as its policy says, and one of a `many` role that hangs holds up nobody else.
        """
        for one in planned:
            self._launch(one)
        for slot in list(self._slots.values()):
            if slot.policy.fatal or not self.roles[slot.key[0]].many:
                await slot.opened.wait()
            if slot.policy.fatal and slot.crash is not None:
                raise StartFailed(*slot.key, leaf(slot.crash))

    async def load(self, planned: Planned) -> Status:
        """Hot-plug a component of a `many` role. Raises `HotPlugRefused`, or `StartFailed` and unloads it."""
        role, name = planned.key
        if not self.roles[role].many:
            raise HotPlugRefused(f"role {role} takes one component; change the composition and restart")
        if planned.key in self._slots:
            raise HotPlugRefused(f"{role} {name} is loaded already; unload it first")
        slot = self._launch(planned)
        await slot.opened.wait()
        if slot.crash is not None:
            cause = leaf(slot.crash)
            await self.unload(role, name)
            raise StartFailed(role, name, cause)
        return self._status(slot)

    async def unload(self, role: str, name: str) -> None:
        """Drain, close and forget a component of a `many` role. Raises `HotPlugRefused`."""
        slot = self._slots.get((role, name))
        if slot is None:
            raise HotPlugRefused(f"{role} {name} is not loaded")
        if not self.roles[role].many:
            raise HotPlugRefused(f"role {role} needs its component; change the composition and restart")
        await self._stop(slot, inf)
        # Two may unload it at the same time: the first forgets it.
        if self._slots.get(slot.key) is slot:
            self._step(slot, Event.UNLOAD)
            del self._slots[slot.key]

    def reset(self, role: str, name: str) -> bool:
        """Try a waiting or broken component again now; False when it is neither."""
        slot = self._slots.get((role, name))
        if slot is None or slot.life.state not in (State.BACKOFF, State.BROKEN):
            return False
        slot.reset.set()
        return True

    async def drain(self) -> None:
        """Drain and close everything in reverse order, under one deadline."""
        deadline = self.environment.clock.monotonic() + self.environment.timing.shutdown_timeout_s
        for slot in reversed(list(self._slots.values())):
            await self._stop(slot, deadline)

    # -- how

    def _status(self, slot: Slot) -> Status:
        planned, life = slot.planned, slot.life
        waits = life.state in (State.BACKOFF, State.BROKEN)
        trial_at = life.since + life.delay_s
        return Status(
            role=planned.component.role,
            name=planned.component.name,
            plugin=planned.plugin,
            source=planned.source,
            origin=planned.origin,
            state=life.state,
            since=life.since,
            restarts=life.restarts,
            causes=life.causes,
            health=slot.health,
            contract=planned.component.contract,
            trial_in_s=max(0.0, trial_at - self.environment.clock.monotonic()) if waits else None,
        )

    def _serving(self, role: str) -> Any:
        cause = "not composed"
        for slot in self._slots.values():
            if slot.key[0] == role:
                if slot.life.serves:
                    return slot.served
                cause = slot.life.causes[-1] if slot.life.causes else str(slot.life.state)
        raise RoleUnavailable(role, cause)

    def _step(self, slot: Slot, event: Event, cause: str = "") -> None:
        old = slot.life
        slot.life = step(old, event, self.environment.clock.monotonic(), slot.policy, cause)
        new = slot.life.state
        if new is old.state:
            return
        # A crash is told where it is noticed, with its cause, once (OBS-40).
        failed = new in (State.FAILED, State.BROKEN) and event is not Event.CRASHED
        tell = self.log.error if failed else self.log.debug
        tell("component_state", subject=slot.label, old=old.state, new=new, cause=cause)
        self._figures.changed(*slot.key, old, slot.life)
        self.observers.publish("health_changed", component=slot.label, old=old.state, new=new, cause=cause)

    def _launch(self, planned: Planned) -> Slot:
        """Start supervising a component; it opens when those it needs have opened or failed."""
        component = planned.component
        # What it merely wants of a `many` role may come later: one that hangs there holds up nobody.
        single = {role for role in component.wants if not self.roles[role].many}
        wanted = {*component.requires, *single} - {component.role}
        slot = Slot(
            planned,
            component.supervision or self.roles[component.role].supervision,
            self.environment.random_for(".".join(planned.key)),
            tuple(other for other in self._slots.values() if other.key[0] in wanted),
        )
        self._slots[slot.key] = slot
        self._figures.known(*slot.key)
        self.nursery.start_soon(self._supervise, slot, name=f"supervise {slot.label}")
        return slot

    async def _stop(self, slot: Slot, deadline: float) -> None:
        slot.leaving = True
        slot.deadline = deadline
        slot.leave.set()
        slot.reset.set()
        if slot.life.state is State.OPENING and slot.scope is not None:
            slot.scope.cancel()
        await slot.ended.wait()

    async def _supervise(self, slot: Slot) -> None:
        """Life after life, until it is told to leave or its policy says that the node must stop."""
        try:
            for other in slot.needs:
                await other.opened.wait()
            # Nothing opens, or opens again, in a node that is going to stop.
            while not slot.leaving and not self._fatal.is_set():
                self._begin(slot)
                await self._live(slot)
                slot.opened.set()
                if slot.life.state is State.CLOSED:
                    return
                if slot.policy.fatal or getattr(slot.crash and leaf(slot.crash), "must_stop", False):
                    self._stop_node(slot)
                    return
                with trio.move_on_after(self._jittered(slot)):
                    await slot.reset.wait()
            if slot.life.state is not State.CLOSED:
                self._step(slot, Event.DRAIN)
        finally:
            slot.opened.set()
            slot.ended.set()

    def _begin(self, slot: Slot) -> None:
        if slot.life.state is State.REGISTERED:
            self._step(slot, Event.OPEN)
        else:
            self._step(slot, Event.RESET if slot.reset.is_set() else Event.DELAY_OVER)
            self._figures.restarts.inc(role=slot.key[0], component=slot.key[1])
        slot.crash, slot.leave, slot.reset = None, trio.Event(), trio.Event()

    def _stop_node(self, slot: Slot) -> None:
        self.fatal_cause = f"{slot.label} failed: {slot.life.causes[-1]}"
        self.log.error("node_must_stop", component=slot.label)
        self._step(slot, Event.DRAIN)
        self._fatal.set()

    def _jittered(self, slot: Slot) -> float:
        jitter = slot.policy.backoff.jitter
        return slot.life.delay_s * (1 + slot.random.uniform(-jitter, jitter))

    async def _live(self, slot: Slot) -> None:
        """One life: from OPENING to CLOSED, BACKOFF or BROKEN. Never raises what the component raised."""
        timing, planned = self.environment.timing, slot.planned
        try:
            async with self._own_nursery(slot) as nursery:
                # Who is told to leave before there is anything to cancel has no time to open.
                with trio.move_on_after(0 if slot.leaving else timing.open_timeout_s) as scope:
                    slot.scope = scope
                    context = self._context(slot, nursery)
                    async with planned.component.open(context, planned.config) as served:
                        scope.deadline = inf
                        await self._serve(slot, served, scope)
                given_up = slot.leaving and slot.life.state is State.OPENING
                if scope.cancelled_caught and slot.crash is None and not given_up:
                    slot.crash = TimeoutError(self._overdue(slot))
        except BaseException as error:
            if not contained(error):
                raise
            slot.crash = slot.crash or error
        slot.served = slot.scope = None
        self._end(slot)

    def _end(self, slot: Slot) -> None:
        """Name how a life ended: asked to leave, or failed."""
        if slot.life.state in (State.OPENING, State.SERVING, State.DEGRADED):
            if slot.leaving and slot.crash is None:
                self._step(slot, Event.DRAIN)
            else:
                slot.crash = slot.crash or RuntimeError("left its scope without being asked")
                self._crashed(slot)
        elif slot.crash is not None and slot.life.state is not State.FAILED:
            self.log.error("component_close", subject=slot.label, cause=describe(slot.crash))
        if slot.life.state is State.FAILED:
            self._step(slot, Event.CLOSE)
        elif slot.life.state is State.DRAINING:
            self._step(slot, Event.DRAINED)
        self._step(slot, Event.CLOSED)

    def _overdue(self, slot: Slot) -> str:
        timing = self.environment.timing
        if slot.life.state is State.OPENING:
            return f"did not open within {timing.open_timeout_s:g} s"
        return f"did not close within {timing.close_timeout_s:g} s"

    def _crashed(self, slot: Slot) -> None:
        assert slot.crash is not None
        error, cause = leaf(slot.crash), describe(slot.crash)
        if hasattr(error, "mend"):
            # An error that names its mend says enough; any other is a bug, and where it was is worth knowing.
            self.log.error("component_failed", subject=slot.label, cause=cause)
        else:
            self.log.error("component_crashed", subject=slot.label, exc_info=error)
        # Its health may have failed it while a task of it crashed: then it fails once, and both are told.
        if slot.life.state is not State.FAILED:
            self._step(slot, Event.CRASHED, cause)

    @asynccontextmanager
    async def _own_nursery(self, slot: Slot) -> AsyncIterator[trio.Nursery]:
        """A nursery for the component's tasks, in a task of its own: its crash is noticed here, no more."""
        ended = trio.Event()

        async def hold(task_status: trio.TaskStatus[trio.Nursery]) -> None:
            try:
                async with trio.open_nursery() as nursery:
                    task_status.started(nursery)
                    await trio.sleep_forever()
            except BaseException as error:
                if not contained(error):
                    raise
                slot.crash = slot.crash or error
                slot.leave.set()
                if slot.life.state is State.OPENING and slot.scope is not None:
                    slot.scope.cancel()
            finally:
                ended.set()

        nursery: trio.Nursery = await self.nursery.start(hold)
        try:
            yield nursery
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await ended.wait()

    async def _serve(self, slot: Slot, served: Any, scope: trio.CancelScope) -> None:
        slot.served = served
        self._step(slot, Event.YIELDED)
        slot.opened.set()
        timing = self.environment.timing
        while not slot.leave.is_set():
            with trio.move_on_after(timing.health_interval_s):
                await slot.leave.wait()
            if not slot.leave.is_set():
                await self._ask_health(slot, served)
        if slot.crash is not None:
            self._crashed(slot)
        elif slot.life.state is not State.FAILED:
            await self._drain(slot, served)
        scope.deadline = trio.current_time() + timing.close_timeout_s

    async def _ask_health(self, slot: Slot, served: Any) -> None:
        ask = getattr(served, "health", None)
        if ask is None:
            return
        health = Health(HealthState.FAILING, "did not answer in time")
        try:
            with trio.move_on_after(self.environment.timing.health_timeout_s):
                health = await ask()
        except Exception as error:
            health = Health(HealthState.FAILING, describe(error))
        slot.health = health
        self._step(slot, Event(f"health {health.state}"), health.detail)
        if slot.life.state is State.FAILED:
            slot.leave.set()

    async def _drain(self, slot: Slot, served: Any) -> None:
        self._step(slot, Event.DRAIN)
        drain = getattr(served, "drain", None)
        if drain is not None:
            deadline = min(slot.deadline, trio.current_time() + self.environment.timing.drain_timeout_s)
            try:
                with trio.fail_at(deadline):
                    await drain(deadline)
            except Exception as error:
                self.log.error("component_drain", subject=slot.label, cause=describe(error))
        self._step(slot, Event.DRAINED)

    def _context(self, slot: Slot, nursery: trio.Nursery) -> Context:
        environment, component = self.environment, slot.planned.component
        folder = environment.data_dir / component.role / component.name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        declared = {*component.requires, *component.wants}

        def ask(role: str, answer: Callable[[str], Any]) -> Any:
            if role not in declared:
                raise UndeclaredRequirement(slot.label, role)
            return answer(role)

        return Context(
            role=component.role,
            name=component.name,
            data_dir=folder,
            clock=environment.clock,
            random=environment.random_for(slot.label),
            metrics=environment.metrics,
            log=environment.log_for(slot.label),
            tier=environment.tier,
            hardware=environment.hardware,
            nursery=nursery,
            publish=self.observers.publish,
            require=lambda role: ask(role, self.require),
            all=lambda role: ask(role, self.all),
        )


@asynccontextmanager
async def open_kernel(
    roles: Mapping[str, RoleSpec],
    environment: Environment,
    observers: Observers,
    planned: Iterable[Planned] = (),
) -> AsyncIterator[Kernel]:
    """Run a composition for the length of the block; drain and close it in reverse at the end.

    Raises `StartFailed` when a component with a fatal policy doesn't open. An exception in the block
    still drains; cancellation closes without draining.
    """
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        kernel = Kernel(roles, environment, observers, nursery)
        observers.watch(nursery)
        try:
            await kernel.start(tuple(planned))
            yield kernel
        except Exception as raised:
            error = raised
        finally:
            await kernel.drain()
            nursery.cancel_scope.cancel()
    if error is not None:
        raise error
