"""In the simulator who contradicts itself is punished within the run, and nobody honest ever is (CONS-70)."""

import attrs
import pytest

from supervm.plugins.consensus.bft.epochs import evidence
from supervm.plugins.consensus.simulation.attacks import Attack
from supervm.plugins.consensus.simulation.plan import Plan, draw_plan
from supervm.plugins.consensus.simulation.world import run_plan
from supervm.types import wrongs
from supervm.types.validators import ValidatorSet

TRIES = 8


def hostile(seed: int, attack: Attack, count: int = 4) -> Plan:
    """A calm run in which validator 1 does this, with epochs of nine blocks."""
    plan = draw_plan(seed, "calm", count)
    return attrs.evolve(plan, attacks=((1, attack),), epoch_blocks=9, heal_s=2.0)


def test_who_votes_for_two_blocks_of_a_view_loses_its_place_and_the_others_go_on() -> None:
    outcome = run_plan(hostile(1, Attack.EVERY_VOTE))
    assert not outcome.oracle, f"{outcome.oracle}: {outcome.problem}"
    assert outcome.punished == (1,)
    assert outcome.epoch >= 2


@pytest.mark.parametrize("seed", range(2))
def test_true_votes_that_contradict_nothing_cost_nobody_anything(seed: int) -> None:
    outcome = run_plan(hostile(seed, Attack.SLANDER))
    assert not outcome.oracle, f"{outcome.oracle}: {outcome.problem}"
    assert outcome.punished == ()


def found(attack: Attack) -> str:
    for seed in range(TRIES):
        outcome = run_plan(hostile(seed, attack))
        if outcome.oracle in ("slander", "sets"):
            return outcome.oracle
    return ""


def test_evidence_whose_views_nobody_compares_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = evidence._check_conflict

    def unchecked(given: evidence.Evidence, locks_of: evidence.LocksOf) -> None:
        if not isinstance(given.first, evidence.ViewVote):
            real(given, locks_of)

    monkeypatch.setattr(evidence, "_check_conflict", unchecked)
    assert found(Attack.SLANDER)


def test_execution_that_punishes_the_wrong_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = wrongs._offence

    def another(operation: bytes, validators: ValidatorSet) -> wrongs.Offence:
        said = real(operation, validators)
        members = validators.members
        at = next(at for at, each in enumerate(members) if each.public_key == said.public_key)
        return attrs.evolve(said, public_key=members[at - 1].public_key)

    monkeypatch.setattr(wrongs, "_offence", another)
    assert found(Attack.EVERY_VOTE)
