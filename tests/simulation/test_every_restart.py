"""Whole validators that crash at each write to their disk, one at a time and all at once (CONS-60, CONS-94).

A crash comes with the write, or `SOON_S` later on a disk that is slow meanwhile: always before it is synced,
and the second kind after what waited for no log has left. Whatever rests on the write must not have been
said. What is written and not synced is lost but for some first part, another one for each place. Among
ordinary tests a few places are tried; `SIM_RESTARTS=all`, as in `tox -e simulate`, tries every one, in both
ways.
"""

import os
from functools import partial
from itertools import cycle

import attrs
import pytest

from supervm.contracts.storage import Operation
from supervm.plugins.consensus.simulation import turns
from supervm.plugins.consensus.simulation.disk import VirtualDisk
from supervm.plugins.consensus.simulation.plan import Ask, Plan, Request, draw_plan
from supervm.plugins.consensus.simulation.sharing import shared_work
from supervm.plugins.consensus.simulation.trace import Trace
from supervm.plugins.consensus.simulation.world import World

from .planted import BUGS

FEW = 5
SOON_S = 0.001
PLAN = attrs.evolve(
    draw_plan(4, "calm", 4),
    weights=(1,) * 4,
    skews_ms=(0,) * 4,
    heal_s=1.6,
    epoch_blocks=9,
    requests=tuple(
        Request(round(0.2 + 0.12 * each, 6), each % 6, ask, (each % 4, (each + 1) % 4))
        for each, ask in enumerate((Ask.TRANSFER, Ask.OBJECT, Ask.TRANSFER, Ask.TWICE, Ask.TRANSFER) * 2)
    ),
)


@attrs.define(eq=False)
class CountingDisk(VirtualDisk):
    """Counts writes, and calls `at_write` with the number of each, from 1, when it is taken."""

    writes: int = 0
    world: "RestartingWorld | None" = None

    def write(self, operations: tuple[Operation, ...]) -> int:
        number = super().write(operations)
        self.writes += 1
        if self.world is not None:
            self.world.written(self.writes)
        return number


class RestartingWorld(World):
    """Crashes a validator, or all, `after_s` from write `place` of that validator's disk on; 0: never.

    Until then nothing that is written from that place on is synced: a slow disk takes twice as long at least.
    """

    def __init__(self, plan: Plan, number: int, place: int, everyone: bool, after_s: float) -> None:
        super().__init__(plan, Trace())
        self._crash_at = place
        self._after_s = after_s
        self._crashing = range(plan.count) if everyone else (number,)
        self.disk = CountingDisk(world=self)
        self._places[number] = attrs.evolve(self._places[number], disk=self.disk)
        self.crashes = 0

    def written(self, count: int) -> None:
        if count != self._crash_at:
            return
        if not self._after_s:
            self._crash_now()
            return
        self._slow_disks(4_000 * self._after_s)
        self._nursery.start_soon(self._crash_soon)

    def _slow_disks(self, by_ms: float) -> None:
        for number in self._crashing:
            self._places[number].slow_disk.by_ms = by_ms

    async def _crash_soon(self) -> None:
        await turns.sleep(self._after_s)
        self._slow_disks(0.0)
        self._crash_now()

    def _crash_now(self) -> None:
        for number in self._crashing:
            life = self._lives.get(number)
            if life is not None:
                life.crash()
                self.crashes += 1
                self._nursery.start_soon(self._restart, number)

    async def _restart(self, number: int) -> None:
        await self._stop(number)
        await self._start(number)


def run_with(number: int, place: int, everyone: bool, after_s: float = 0.0) -> RestartingWorld:
    with shared_work():
        world = RestartingWorld(PLAN, number, place, everyone, after_s)
        # One name: up to the crash it is the run in which writes were counted.
        turns.run(world.main, "restart")
    return world


@pytest.fixture(scope="module")
def writes() -> list[int]:
    """How often each validator writes in a run without crashes."""
    worlds = [run_with(number, 0, everyone=False) for number in range(PLAN.count)]
    assert not any(world.violated or world.crashes for world in worlds)
    assert all(max(world.oracles.bases) >= 2 for world in worlds), "no epoch ended in it"
    return [world.disk.writes for world in worlds]


def some(count: int) -> list[tuple[int, float]]:
    """Places, and how long after each the crash comes."""
    if os.environ.get("SIM_RESTARTS") == "all":
        return [(place, after_s) for place in range(1, count + 1) for after_s in (0.0, SOON_S)]
    places = range(1, count + 1, max(1, count // FEW))
    return list(zip(places, cycle((SOON_S, 0.0)), strict=False))


@pytest.mark.parametrize("everyone", [False, True], ids=["one", "all at once"])
@pytest.mark.parametrize("number", range(PLAN.count))
def test_a_crash_at_any_write_contradicts_nothing_and_all_goes_on(
    writes: list[int], number: int, everyone: bool
) -> None:
    assert writes[number] >= 100
    wrong = partial("validator {}, {} s after write {}: {}: {}".format, number)
    for place, after_s in some(writes[number]):
        world = run_with(number, place, everyone, after_s)
        assert not world.violated, wrong(after_s, place, world.violated, world.problem)
        assert world.crashes == (PLAN.count if everyone else 1), wrong(
            after_s, place, world.crashes, "crashes"
        )


@pytest.mark.parametrize(
    ("name", "after_s", "step"), [("vote before log", SOON_S, 1), ("log forgotten at a restart", 0.0, 4)]
)
def test_what_isnt_in_the_log_is_contradicted_after_some_crash(
    name: str, after_s: float, step: int, writes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test before this one can fail: each fifteenth place shows the first, each tenth the second."""
    BUGS[name].plant(monkeypatch)
    places = range(writes[0] // 3, writes[0], step)
    assert any(run_with(0, place, False, after_s).violated == "contradiction" for place in places)
