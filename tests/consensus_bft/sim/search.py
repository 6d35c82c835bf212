"""Running plans, judging their liveness, and making a failing one small.

`python -m tests.consensus_bft.sim.search storm 4 0 1000` runs seeds 0 to 999 and prints what failed; `all`
runs each seed in every profile. "worst": the longest healing, in D of its moment.
"""

import sys
import time
from typing import Any

import attrs

from supervm.plugins.consensus.bft.simplex import Ordering
from tests.consensus_bft.sim.oracles import Violation
from tests.consensus_bft.sim.plan import PROFILES, SECOND, Plan, draw_plan
from tests.consensus_bft.sim.world import Machine, World

HEALED_DELAYS = 10
"""After healing a new block is final within 10 D (CONS-92)."""


@attrs.frozen
class Outcome:
    """How a run ended. `oracle` is empty when nothing was violated."""

    oracle: str
    problem: str
    trace: str
    height: int
    events: int
    virtual_us: int
    healed_in_us: int = 0
    delay_us: int = 0


def run_plan(plan: Plan, machine: Machine = Ordering, on_wire: bool = False) -> Outcome:
    """Run a plan to its end: faults, healing, and the wait for new final blocks everywhere."""
    world = World(plan, machine, on_wire=on_wire)
    healed_in = delay = 0
    try:
        world.start()
        world.run(plan.heal_us)
        healed_in, delay = _wait_for_progress(world)
        _check_caught_up(world)
        oracle = problem = ""
    except Violation as violation:
        oracle, problem = violation.oracle, str(violation)
    height = max(world.height(number) for number in world.honest)
    return Outcome(oracle, problem, world.trace, height, world.events, world.now_us, healed_in, delay)


def _wait_for_progress(world: World) -> tuple[int, int]:
    """With work after healing, a new block is final at every honest validator in a bounded time."""
    plan = world.plan
    goal = max(world.height(number) for number in world.honest) + 1
    delay_us = max(world.nodes[number].ordering.delay_us for number in world.honest)
    world._give_work(200)
    bound_us = HEALED_DELAYS * delay_us + plan_slack_us(plan)

    def reached() -> bool:
        return all(
            world.height(number) >= goal or world.nodes[number].ended is not None for number in world.honest
        )

    world.run(plan.heal_us + bound_us, reached)
    if not reached():
        heights = [world.height(number) for number in range(plan.count)]
        raise Violation("liveness", f"heights {heights} {bound_us} us after healing, D was {delay_us} us")
    return world.now_us - plan.heal_us, delay_us


def plan_slack_us(plan: Plan) -> int:
    """Sync, execution and the catching up of who was away, which D doesn't measure."""
    return 2 * SECOND


def _check_caught_up(world: World) -> None:
    """All that was given is in the chain soon after, unless the epoch ended before."""
    goal = set(world.nodes[world.honest[0]].pool.certificates)
    for number in world.honest:
        goal |= set(world.nodes[number].pool.certificates)

    def placed() -> bool:
        ended = any(world.nodes[number].ended is not None for number in world.honest)
        return ended or goal <= set(world.oracles.batches)

    world.run(world.now_us + 60 * SECOND, placed)
    if not placed():
        raise Violation("inclusion", f"{len(goal - set(world.oracles.batches))} batches never became final")


def shrink(plan: Plan, machine: Machine = Ordering, tries_max: int = 200) -> Plan:
    """The smallest plan found that violates the same oracle: fewer mishaps, tricks, less loss."""
    wanted = run_plan(plan, machine).oracle
    assert wanted, "this plan violates nothing"
    tries = 0
    smaller = True
    while smaller and tries < tries_max:
        smaller = False
        for candidate in _simpler(plan):
            tries += 1
            if run_plan(candidate, machine).oracle == wanted:
                plan, smaller = candidate, True
                break
    return plan


def _simpler(plan: Plan) -> list[Plan]:
    found = [attrs.evolve(plan, mishaps=_without(plan.mishaps, at)) for at in range(len(plan.mishaps))]
    found += [attrs.evolve(plan, tricks=_without(plan.tricks, at)) for at in range(len(plan.tricks))]
    found += [attrs.evolve(plan, work_us=_without(plan.work_us, at)) for at in range(len(plan.work_us))]
    zero = tuple(0 for _ in plan.weights)
    for changes in (
        {"loss": 0.0},
        {"duplicates": 0.0},
        {"close_us": 0},
        {"crash_at_record": None},
        {"skews_ms": zero},
        {"delay_us": (1_000, 20_000)},
    ):
        candidate = attrs.evolve(plan, **changes)  # type: ignore[arg-type]
        if candidate != plan:
            found.append(candidate)
    return found


def _without(items: tuple[Any, ...], at: int) -> tuple[Any, ...]:
    return items[:at] + items[at + 1 :]


def main(arguments: list[str]) -> int:
    profile, count, first, last = arguments[0], int(arguments[1]), int(arguments[2]), int(arguments[3])
    profiles = PROFILES if profile == "all" else (profile,)
    began = time.process_time()
    failed = events = runs = 0
    worst = 0.0
    for seed in range(first, last):
        for name in profiles:
            outcome = run_plan(draw_plan(seed, name, count))
            runs += 1
            events += outcome.events
            if outcome.delay_us:
                worst = max(worst, outcome.healed_in_us / outcome.delay_us)
            if outcome.oracle:
                failed += 1
                print(f"{name} {count} seed {seed}: {outcome.problem}", flush=True)
    seconds = time.process_time() - began
    rate = 60 * runs / seconds
    print(f"{runs} runs, {failed} failed, {events} events, {rate:.0f} a minute of CPU, worst {worst:.1f} D")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
