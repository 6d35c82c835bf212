"""PLUG-13: an observer that raises or stalls loses only its own events."""

import threading
from types import SimpleNamespace
from typing import Any

import attrs
import pluggy
import pytest
import trio
import trio.testing

from supervm import hookspecs
from supervm.hookspecs import hookimpl
from supervm.kernel.context import SystemClock
from supervm.kernel.observe import RAISES_MAX, Observers
from supervm.testing.context import RecordedMetrics


class Silent:
    def debug(self, event: str, **fields: Any) -> None: ...

    info = warning = error = debug


def plugin(function: Any) -> SimpleNamespace:
    return SimpleNamespace(supervm_peer_seen=hookimpl(function))


def observers(manager: pluggy.PluginManager, queue_max: int = 4) -> Observers:
    return Observers(manager, ("peer_seen",), SystemClock(), Silent(), RecordedMetrics(), queue_max)


def manager_with(**plugins: Any) -> pluggy.PluginManager:
    manager = pluggy.PluginManager("supervm")
    manager.add_hookspecs(hookspecs.Observe)
    for name, module in plugins.items():
        manager.register(module, name=name)
    return manager


@attrs.define
class Seen:
    """What an observer's thread has seen, and a way for the loop to wait until it has seen so much."""

    values: list[Any] = attrs.Factory(list)
    _more: trio.Event = attrs.Factory(trio.Event)

    def add(self, value: Any) -> None:
        trio.from_thread.run_sync(self._add, value)

    def _add(self, value: Any) -> None:
        self.values.append(value)
        self._more.set()
        self._more = trio.Event()

    async def wait(self, count: int) -> None:
        with trio.fail_after(120):
            while len(self.values) < count:
                await self._more.wait()


async def test_an_observer_that_stalls_for_ever_loses_only_its_own_events() -> None:
    release, seen, stuck = threading.Event(), Seen(), Seen()

    def stall(peer: Any) -> None:
        stuck.add(peer)
        release.wait()

    told = observers(manager_with(stuck=plugin(stall), good=plugin(lambda peer: seen.add(peer))))
    async with trio.open_nursery() as nursery:
        told.watch(nursery)
        for number in range(50):
            told.publish("peer_seen", peer=number)
            await seen.wait(number + 1)
            await stuck.wait(1)
        assert seen.values == list(range(50))
        assert told.dropped() == {"stuck": 50 - 1 - 4, "good": 0}
        nursery.cancel_scope.cancel()
    release.set()


async def test_an_observer_that_keeps_raising_is_muted() -> None:
    calls = Seen()

    def bad(peer: Any) -> None:
        calls.add(peer)
        raise ValueError("mine")

    told = observers(manager_with(bad=plugin(bad)), queue_max=64)
    async with trio.open_nursery() as nursery:
        told.watch(nursery)
        for number in range(20):
            told.publish("peer_seen", peer=number)
        await calls.wait(RAISES_MAX)
        while told.waiting("bad"):
            await trio.lowlevel.checkpoint()
        assert calls.values == list(range(RAISES_MAX))
        nursery.cancel_scope.cancel()


class Foreign(BaseException):
    """As another event loop's cancellation is: no `Exception`."""


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), Foreign()])
async def test_an_observer_that_raises_what_no_except_exception_catches_hurts_nobody(
    error: BaseException,
) -> None:
    seen = Seen()

    def bad(peer: Any) -> None:
        raise error

    told = observers(manager_with(bad=plugin(bad), good=plugin(lambda peer: seen.add(peer))))
    async with trio.open_nursery() as nursery:
        told.watch(nursery)
        for number in range(3):
            told.publish("peer_seen", peer=number)
            await seen.wait(number + 1)
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_a_forgotten_observer_is_told_nothing_more() -> None:
    gone, stays = Seen(), Seen()
    manager = manager_with(
        gone=plugin(lambda peer: gone.add(peer)), stays=plugin(lambda peer: stays.add(peer))
    )
    told = observers(manager)
    async with trio.open_nursery() as nursery:
        told.watch(nursery)
        told.publish("peer_seen", peer=1)
        await gone.wait(1)
        told.forget("gone")
        for number in (2, 3, 4):
            told.publish("peer_seen", peer=number)
        await stays.wait(4)
        assert gone.values == [1]
        nursery.cancel_scope.cancel()


async def test_a_hook_is_given_only_the_arguments_it_names() -> None:
    seen = Seen()

    class Brief:
        @hookimpl
        def supervm_health_changed(self, component: str, new: str) -> None:
            seen.add(f"{component} {new}")

    manager = manager_with(brief=Brief())
    told = Observers(manager, ("health_changed",), SystemClock(), Silent(), RecordedMetrics())
    async with trio.open_nursery() as nursery:
        told.watch(nursery)
        told.publish("health_changed", component="storage.memory", old="opening", new="serving", cause="")
        await seen.wait(1)
        assert seen.values == ["storage.memory serving"]
        nursery.cancel_scope.cancel()
