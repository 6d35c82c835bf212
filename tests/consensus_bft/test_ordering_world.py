"""Ordering under faults and hostile validators: runs of seeds, judged after every event (CONS-90..95)."""

import pytest

from tests.consensus_bft.sim.plan import PROFILES, SECOND, Fault, Mishap, Plan, draw_plan
from tests.consensus_bft.sim.search import run_plan


@pytest.mark.parametrize("count", [4, 7])
@pytest.mark.parametrize("profile", PROFILES)
def test_no_seed_violates_an_oracle_and_all_go_on_after_healing(profile: str, count: int) -> None:
    for seed in range(25):
        outcome = run_plan(draw_plan(seed, profile, count))
        assert outcome.oracle == "", f"{profile} {count} seed {seed}: {outcome.problem}"


@pytest.mark.parametrize("profile", PROFILES)
def test_the_same_seed_gives_the_same_trace_byte_for_byte(profile: str) -> None:
    traces = {run_plan(draw_plan(5, profile, 4)).trace for _ in range(2)}
    assert len(traces) == 1
    assert run_plan(draw_plan(6, profile, 4)).trace not in traces


def test_one_validator_alone_makes_its_blocks_final() -> None:
    outcome = run_plan(Plan(seed=1, weights=(5,), skews_ms=(0,), work_us=(0, 300_000)))
    assert outcome.oracle == "" and outcome.height >= 3


def test_idle_for_an_hour_and_then_work_is_final_within_10_delays() -> None:
    plan = Plan(seed=1, weights=(1, 1, 1, 1), skews_ms=(0,) * 4, heal_us=3_600 * SECOND)
    outcome = run_plan(plan)
    assert outcome.oracle == ""
    assert outcome.healed_in_us < 10 * outcome.delay_us
    # An empty block every 5 s, and the time that it takes.
    assert 600 < outcome.height <= 721


def test_without_a_quorum_nothing_is_final_and_with_one_it_goes_on_by_itself() -> None:
    def plan(until_us: int) -> Plan:
        away = Mishap(Fault.CRASH, 1 * SECOND, until_us, (2, 3))
        work = (0, 2 * SECOND)
        weights, skews = (1,) * 4, (0,) * 4
        return Plan(
            seed=3, weights=weights, skews_ms=skews, work_us=work, mishaps=(away,), heal_us=20 * SECOND
        )

    assert run_plan(plan(100 * SECOND)).oracle == "liveness"
    assert run_plan(plan(20 * SECOND)).oracle == ""
