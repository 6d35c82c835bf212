"""Shrinking, and what the verb prints and returns."""

import json

import pytest

from supervm.cli.main import main
from supervm.plugins.consensus.simulation import search
from supervm.plugins.consensus.simulation.plan import Fault, Plan, draw_plan
from supervm.plugins.consensus.simulation.world import Outcome


def outcome(oracle: str) -> Outcome:
    return Outcome(oracle, "because", "00" * 32, 3, 10, 0.5, 1)


def fails_by_a_cut(plan: Plan, out: object = None) -> Outcome:
    return outcome("agreement" if any(each.fault is Fault.CUT for each in plan.mishaps) else "")


def plan_with_a_cut() -> Plan:
    plans = (draw_plan(seed, "storm", 4) for seed in range(100))
    return next(each for each in plans if len(each.mishaps) > 3 and fails_by_a_cut(each).oracle)


def test_a_failing_plan_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "run_plan", fails_by_a_cut)
    plan = plan_with_a_cut()
    small, tries = search.shrink(plan, "agreement")
    assert [each.fault for each in small.mishaps] == [Fault.CUT]
    assert small.requests == ()
    assert (small.loss, small.skews_ms, small.delay_ms) == (0.0, (), (1.0, 20.0))
    assert small.heal_s < plan.heal_s
    assert tries <= search.TRIES_MAX


def test_making_a_plan_small_is_bounded_and_keeps_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Plan] = []

    def run(plan: Plan, out: object = None) -> Outcome:
        tried.append(plan)
        return outcome("stalled")

    monkeypatch.setattr(search, "run_plan", run)
    plan = plan_with_a_cut()
    assert search.shrink(plan, "agreement", 20) == (plan, 20)
    assert len(tried) == 20


def test_the_verb_prints_what_failed_and_how_to_run_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = iter(("", "stalled", "agreement"))
    monkeypatch.setattr(search, "run_plan", lambda plan, out: outcome(next(seeds)))
    command = ["simulate", "--seeds", "5..7", "--profile", "storm", "--json", "--no-shrink"]
    assert main(command) == 1
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert {name: facts[name] for name in ("seeds", "violations", "stalled", "first_failing_seed")} == {
        "seeds": 3,
        "violations": 1,
        "stalled": 1,
        "first_failing_seed": 6,
    }
    assert "supervm simulate --seeds 6 --profile storm --validators 4" in printed.err


def test_a_run_that_breaks_off_is_named_and_the_next_seeds_are_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(plan: Plan, out: object = None) -> Outcome:
        if plan.seed == 6:
            raise ExceptionGroup("in a nursery", [RuntimeError("as nobody thought")])
        return outcome("")

    monkeypatch.setattr(search, "run_plan", run)
    assert main(["simulate", "--seeds", "5..7", "--json", "--no-shrink"]) == 1
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert (facts["seeds"], facts["violations"], facts["first_failing_seed"]) == (3, 1, 6)
    assert "RuntimeError: as nobody thought" in printed.err


def test_the_verb_succeeds_where_nothing_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search, "run_plan", lambda plan, out: outcome(""))
    assert main(["simulate", "--seeds", "5", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["seeds"], facts["first_failing_seed"]) == (1, None)
    assert facts["seeds_per_minute"] > 0


@pytest.mark.parametrize("seeds", ["x", "5..4", "-1..3", "0..99999999"])
def test_seeds_that_are_no_range_are_asked_wrongly(seeds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", f"--seeds={seeds}"]) == 2
    said = capsys.readouterr().err
    assert "isn't A..B" in said or "B from A on" in said
