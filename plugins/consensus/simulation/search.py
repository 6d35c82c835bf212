"""Trying seeds, and making a failing plan small."""

from collections.abc import Callable, Iterator
from typing import Any, TextIO

import attrs

from supervm.plugins.consensus.simulation.plan import Plan, draw_plan
from supervm.plugins.consensus.simulation.watchdog import ends_within
from supervm.plugins.consensus.simulation.world import Outcome, leaves, run_plan

TRIES_MAX = 100
SHORT_S = 0.5
RUN_S = 1_200.0
"""Of real time, for one run; it takes some seconds, or a minute where there are many validators."""


def shrink(plan: Plan, oracle: str, tries_max: int = TRIES_MAX) -> tuple[Plan, int]:
    """The smallest plan found that violates the same oracle, and how many were tried.

    Fewer faults, attacks and requests, a calmer network, a shorter run; each step keeps what still fails.
    """
    tries = 0
    smaller = True
    while smaller:
        smaller = False
        for candidate in _simpler(plan):
            if tries >= tries_max:
                return plan, tries
            tries += 1
            if outcome_of(candidate).oracle == oracle:
                plan, smaller = candidate, True
                break
    return plan, tries


def _simpler(plan: Plan) -> Iterator[Plan]:
    """Plans with a little less in them, the greatest cuts first."""
    for name in ("mishaps", "attacks", "requests"):
        items = getattr(plan, name)
        if len(items) > 2:
            half = len(items) // 2
            yield _with(plan, name, items[:half])
            yield _with(plan, name, items[half:])
        for at in range(len(items)):
            yield _with(plan, name, items[:at] + items[at + 1 :])
    calm: dict[str, Any] = {
        "loss": 0.0,
        "duplicates": 0.0,
        "skews_ms": (),
        "delay_ms": (1.0, 20.0),
        "sync_ms": (0.2, 5.0),
        "work_ms": (0.0, 2.0),
        "weights": (1,) * plan.count,
        "epoch_blocks": 3_600,
    }
    for name, value in calm.items():
        if getattr(plan, name) != value:
            yield _with(plan, name, value)
    last_s = max([each.until_s for each in plan.mishaps] + [each.at_s for each in plan.requests], default=0.0)
    if plan.heal_s > last_s + SHORT_S:
        yield attrs.evolve(plan, heal_s=round(last_s + SHORT_S / 2, 6))


def _with(plan: Plan, name: str, value: Any) -> Plan:
    changed: dict[str, Any] = {name: value}
    return attrs.evolve(plan, **changed)


@attrs.define
class Tally:
    """What `supervm simulate --json` prints (MEASURES)."""

    seeds: int = 0
    violations: int = 0
    stalled: int = 0
    first_failing_seed: int | None = None

    def count(self, seed: int, outcome: Outcome) -> None:
        self.seeds += 1
        if outcome.oracle == "stalled":
            self.stalled += 1
        elif outcome.oracle:
            self.violations += 1
        if outcome.oracle and self.first_failing_seed is None:
            self.first_failing_seed = seed


def watched_run(plan: Plan, out: TextIO | None = None) -> Outcome:
    """As `run_plan`; a run of more than `RUN_S` ends the process, and its seed is named."""
    seed = f"seed {plan.seed} of {plan.profile} with {plan.count} validators"
    with ends_within(RUN_S, seed):
        return run_plan(plan, out)


def outcome_of(plan: Plan) -> Outcome:
    """As `watched_run`; a run that breaks off is `aborted`: its seed is named, and the others go on."""
    try:
        return watched_run(plan)
    except Exception as error:
        problem = "; ".join(f"{type(each).__name__}: {each}"[:300] for each in leaves(error))
        return Outcome("aborted", problem, "", 0, 0, 0.0, 0)


def search(seeds: range, profile: str, count: int, told: Callable[[int, Plan, Outcome], None]) -> Tally:
    """Run the seeds in turn; `told` is called after each."""
    tally = Tally()
    for seed in seeds:
        plan = draw_plan(seed, profile, count)
        outcome = outcome_of(plan)
        tally.count(seed, outcome)
        told(seed, plan, outcome)
    return tally
