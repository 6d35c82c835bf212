"""Bugs planted in ordering are found, each with a seed that finds it (CONS-98)."""

import pytest

from tests.consensus_bft.planted import BUGS, patched
from tests.consensus_bft.sim.plan import draw_plan
from tests.consensus_bft.sim.search import run_plan, shrink

SEEDS_MAX = 400


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    bug = BUGS[name]
    with patched(*bug.patches):
        for seed in range(bug.seed, bug.seed + SEEDS_MAX):
            outcome = run_plan(bug.plan(seed), bug.machine)
            if outcome.oracle in bug.oracles:
                with capsys.disabled():
                    print(f"\n{name}: {bug.profile} {bug.count} seed {seed}: {outcome.problem}")
                break
        else:
            pytest.fail(f"{name} was not found in {SEEDS_MAX} seeds")
    assert run_plan(bug.plan(seed)).oracle == "", "without the bug nothing is wrong"


def test_a_failing_plan_shrinks_to_one_that_still_fails() -> None:
    bug = BUGS["log forgotten at a restart"]
    plan = next(
        plan
        for plan in (draw_plan(seed, bug.profile, 4) for seed in range(100))
        if len(plan.mishaps) > 2 and run_plan(plan, bug.machine).oracle in bug.oracles
    )
    small = shrink(plan, bug.machine)
    assert run_plan(small, bug.machine).oracle == run_plan(plan, bug.machine).oracle
    assert len(small.mishaps) == 1 and len(small.work_us) <= 1 and small.loss == 0.0
    assert run_plan(small).oracle == ""
