"""Validators with a slow disk or a slow processor of their own, for a spell (CONS-95)."""

import random

import attrs
import pytest
import trio

from supervm.plugins.consensus.simulation import plan as plans
from supervm.plugins.consensus.simulation import turns
from supervm.plugins.consensus.simulation.node import Life
from supervm.plugins.consensus.simulation.plan import Ask, Fault, Mishap, Plan, Request, draw_plan
from supervm.plugins.consensus.simulation.slowness import Slowness
from supervm.plugins.consensus.simulation.trace import Trace
from supervm.plugins.consensus.simulation.world import World
from supervm.types.block import Block

SLOW = 3
FROM_S, UNTIL_S = 0.5, 3.5
BUSY = attrs.evolve(
    draw_plan(3, "calm", 4),
    weights=(1,) * 4,
    skews_ms=(0,) * 4,
    heal_s=4.0,
    epoch_blocks=3_600,
    requests=tuple(Request(round(0.2 + 0.1 * each, 6), each % 6, Ask.TRANSFER, (0, 1)) for each in range(35)),
)


class Followed(World):
    """Knows how far each validator was when the spell ended."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, Trace())
        self.heights = [0] * plan.count

    def _committed(self, life: Life, block: Block) -> None:
        super()._committed(life, block)
        if trio.current_time() < UNTIL_S:
            self.heights[life.number] = block.header.height


@pytest.mark.parametrize(("fault", "by_ms"), [(Fault.SLOW_DISK, 2_000.0), (Fault.SLOW_CPU, 400.0)])
def test_one_slow_machine_falls_behind_alone_and_catches_up(fault: Fault, by_ms: float) -> None:
    plan = attrs.evolve(BUSY, mishaps=(Mishap(fault, FROM_S, UNTIL_S, (SLOW,), by_ms),))
    world = Followed(plan)
    turns.run(world.main, "slow")
    assert not world.violated, f"{world.violated}: {world.problem}"
    others = world.heights[:SLOW]
    assert min(others) >= 10, "three go on without it"
    assert world.heights[SLOW] < min(others) // 2
    assert world.healed_in_s < 10.0


def test_one_that_loses_its_disk_while_it_starts_from_a_slow_one_has_not_begun() -> None:
    """It is counted from where it begins again, not from the chain that its lost disk had."""
    mishaps = (
        Mishap(Fault.SLOW_DISK, 0.9, 2.5, (SLOW,), 1_000.0),
        Mishap(Fault.CRASH, 0.9, 1.0, (SLOW,)),
        Mishap(Fault.DISK_LOST, 1.2, 1.4, (SLOW,)),
    )
    plan = attrs.evolve(BUSY, heal_s=2.5, requests=BUSY.requests[:8], mishaps=mishaps)
    for order in range(4):
        # Whether it is known to have settled before its disk is lost, or after, is drawn.
        world = World(plan, Trace())
        turns.run(world.main, f"slow/{order}")
        assert not world.violated, f"{world.violated}: {world.problem}"


def test_slowness_takes_half_to_one_and_a_half_times_what_it_says_and_draws_nothing_else() -> None:
    slow = Slowness(random.Random(1))
    before = slow.rng.getstate()
    assert slow.extra_s() == 0.0
    assert slow.rng.getstate() == before
    slow.by_ms = 100.0
    taken = [slow.extra_s() for _ in range(100)]
    assert 0.05 <= min(taken) < 0.07 < 0.13 < max(taken) <= 0.15


SPELLS = (Fault.SLOW_DISK, Fault.SLOW_CPU)


@pytest.mark.parametrize("profile", plans.PROFILES)
def test_storms_and_crashes_have_slow_machines_and_nothing_else_of_a_seed_moves(
    profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [draw_plan(seed, profile, 4) for seed in range(100)]
    spells = {each.fault for plan in drawn for each in plan.mishaps if each.fault in SPELLS}
    assert spells == (set(SPELLS) if profile in ("storm", "crash") else set())
    assert all(
        each.until_s <= plan.heal_s and each.by_ms > 0
        for plan in drawn
        for each in plan.mishaps
        if each.fault in SPELLS
    )
    monkeypatch.setattr(plans, "_slow_machines", lambda plan: ())
    for plan in drawn:
        kept = tuple(each for each in plan.mishaps if each.fault not in SPELLS)
        assert attrs.evolve(plan, mishaps=kept) == draw_plan(plan.seed, profile, 4)
