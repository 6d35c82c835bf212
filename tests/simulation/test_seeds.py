"""Whole validators under faults: a seed of each profile and size, SIM_SEEDS in `tox -e simulate`."""

import os
from collections.abc import Sequence

import pytest

from supervm.plugins.consensus.bft.driver import receiving
from supervm.plugins.consensus.bft.driver.checking import Checker
from supervm.plugins.consensus.bft.messages import Message
from supervm.plugins.consensus.simulation.oracles import Oracles
from supervm.plugins.consensus.simulation.plan import PROFILES, draw_plan
from supervm.plugins.consensus.simulation.trace import Trace
from supervm.plugins.consensus.simulation.world import World, run_plan

SEEDS = int(os.environ.get("SIM_SEEDS", "1"))
FIRST = int(os.environ.get("SIM_FIRST", "100"))


@pytest.mark.parametrize("count", [4, 7])
@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_is_violated_and_all_is_final_after_healing(profile: str, count: int) -> None:
    for seed in range(FIRST, FIRST + SEEDS):
        outcome = run_plan(draw_plan(seed, profile, count))
        assert not outcome.oracle, f"{profile} {count} seed {seed}: {outcome.oracle}: {outcome.problem}"
        assert outcome.height > 0


def test_what_is_no_parcel_is_held_against_honest_validators_alone() -> None:
    violated: list[str] = []
    validators = World(draw_plan(2, "calm", 4), Trace(None)).validators
    oracles = Oracles(b"", validators, lambda number: number != 3, lambda oracle, _: violated.append(oracle))
    oracles.on_sent(3, 0, b"\0\0\0\1")
    assert not violated
    oracles.on_sent(0, 1, b"\0\0\0\1")
    assert violated == ["garbage"]


def test_an_honest_validator_that_cuts_off_another_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the first signature that comes is held to be wrong, and one is enough."""
    monkeypatch.setattr(receiving, "FAULTS_MAX", 1)
    real = Checker.judge

    async def judge(checker: Checker, messages: Sequence[Message]) -> list[str]:
        return [code or "BadSignature" for code in await real(checker, messages)]

    monkeypatch.setattr(Checker, "judge", judge)
    outcome = run_plan(draw_plan(2, "calm", 4))
    assert outcome.oracle == "cut_off" and "BadSignature" in outcome.problem
