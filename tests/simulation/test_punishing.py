"""In the simulator who contradicts itself is punished within the run, and nobody honest ever is (CONS-70)."""

import attrs
import pytest

from supervm.plugins.consensus.bft.effects_messages import Effects
from supervm.plugins.consensus.bft.epochs import evidence
from supervm.plugins.consensus.bft.messages import decode
from supervm.plugins.consensus.simulation.attacks import Attack, Tongue
from supervm.plugins.consensus.simulation.plan import Ask, Plan, Request, draw_plan
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


def test_who_accepts_two_transactions_on_one_lock_loses_its_place() -> None:
    """The builders of both see it: by the accept of the one that they got, and by the other's certificate."""
    twice = tuple(Request(0.3 + 0.15 * at, at % 6, Ask.TWICE, (2, 3)) for at in range(6))
    plan = hostile(2, Attack.ACCEPT_ALL)
    outcome = run_plan(attrs.evolve(plan, requests=twice, weights=(1,) * 4, epoch_blocks=3_600))
    assert not outcome.oracle, f"{outcome.oracle}: {outcome.problem}"
    assert outcome.punished == (1,)


@pytest.mark.parametrize("seed", range(2))
def test_true_votes_that_contradict_nothing_cost_nobody_anything(seed: int) -> None:
    outcome = run_plan(hostile(seed, Attack.SLANDER))
    assert not outcome.oracle, f"{outcome.oracle}: {outcome.problem}"
    assert outcome.punished == ()


@pytest.mark.parametrize("seed", range(2))
def test_made_up_effects_and_those_of_others_cost_nobody_anything(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Effects] = []
    real = Tongue._inventions

    def noted(tongue: Tongue, frame: bytes) -> list[bytes]:
        frames = real(tongue, frame)
        said.extend(each for each in map(decode, frames) if isinstance(each, Effects))
        return frames

    monkeypatch.setattr(Tongue, "_inventions", noted)
    asked = tuple(Request(0.3 + 0.2 * at, at, Ask.TRANSFER, (1, 2)) for at in range(6))
    outcome = run_plan(attrs.evolve(hostile(seed, Attack.INVENT), requests=asked))
    assert not outcome.oracle, f"{outcome.oracle}: {outcome.problem}"
    assert outcome.punished == ()
    assert len({each.validator for each in said}) > 1, "its own, and others'"


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
