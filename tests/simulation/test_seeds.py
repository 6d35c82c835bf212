"""Whole validators under faults: a seed of each profile, or SIM_SEEDS of each in `tox -e simulate`."""

import os

import pytest

from supervm.plugins.consensus.simulation.plan import PROFILES, draw_plan
from supervm.plugins.consensus.simulation.world import run_plan

SEEDS = int(os.environ.get("SIM_SEEDS", "0"))
FIRST = int(os.environ.get("SIM_FIRST", "0"))


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_is_violated_and_all_is_final_after_healing(profile: str) -> None:
    outcome = run_plan(draw_plan(100, profile, 4))
    assert not outcome.oracle, f"{profile} 4 seed 100: {outcome.oracle}: {outcome.problem}"
    assert outcome.height > 0


@pytest.mark.skipif(not SEEDS, reason="SIM_SEEDS says how many seeds of each profile and size to run")
@pytest.mark.parametrize("count", [4, 7])
@pytest.mark.parametrize("profile", PROFILES)
def test_no_oracle_is_violated_over_many_seeds(profile: str, count: int) -> None:
    for seed in range(FIRST, FIRST + SEEDS):
        outcome = run_plan(draw_plan(seed, profile, count))
        assert not outcome.oracle, f"{profile} {count} seed {seed}: {outcome.oracle}: {outcome.problem}"
