"""What one machine answers to single events (CONS-33, 34, 61, 63, 70)."""

import pytest

from supervm.plugins.consensus.bft.events import (
    ALL,
    Behind,
    Fetch,
    Now,
    Offended,
    Output,
    Received,
    Send,
    SetTimer,
    TimedOut,
)
from supervm.plugins.consensus.bft.fetching import WantViews
from supervm.plugins.consensus.bft.offences import Offence
from supervm.plugins.consensus.bft.simplex import Ordering
from supervm.plugins.consensus.bft.votes import ViewVote
from supervm.types.certificate import NO_DIGEST, Certificate, VoteKind, bitmap_of
from tests.consensus_bft.sim.plan import Plan
from tests.consensus_bft.sim.world import World, node_id

START = 1_700_000_000_000
BLOCK = b"b" * 32


def at(us: int) -> Now:
    return Now(us, START + us // 1000)


@pytest.fixture
def machine() -> Ordering:
    world = World(Plan(seed=0, weights=(1,) * 4, skews_ms=(0,) * 4))
    made = world.nodes[0].ordering
    made.start([], at(0))
    return made


def vote(kind: VoteKind, view: int, validator: int, digest: bytes = BLOCK, epoch: int = 1) -> Received:
    name = NO_DIGEST if kind == VoteKind.NULLIFY else digest
    return Received(node_id(validator), ViewVote(kind, epoch, view, name, validator, bytes(64)))


def nullification(view: int, numbers: tuple[int, ...] = (1, 2, 3)) -> Received:
    signatures = tuple(bytes(64) for _ in numbers)
    certificate = Certificate(VoteKind.NULLIFY, 1, view, NO_DIGEST, bitmap_of(numbers, 4), signatures)
    return Received(node_id(1), certificate)


def certificates_in(outputs: list[Output], to: object) -> list[Certificate]:
    sent = [each for each in outputs if isinstance(each, Send) and each.to == to]
    return [each.message for each in sent if isinstance(each.message, Certificate)]


def test_a_certificate_moves_on_and_is_passed_on_once(machine: Ordering) -> None:
    first = machine.step(nullification(7), at(1))
    assert machine.view == 8
    assert [each.view for each in certificates_in(first, ALL)] == [7]
    again = machine.step(nullification(7, (0, 1, 2)), at(2))
    assert machine.view == 8 and certificates_in(again, ALL) == []


def test_a_certificate_of_no_quorum_or_another_set_changes_nothing(machine: Ordering) -> None:
    assert machine.step(nullification(7, (1, 2)), at(1)) == []
    wide = Certificate(VoteKind.NULLIFY, 1, 7, NO_DIGEST, bitmap_of((1, 2, 9), 12), (bytes(64),) * 3)
    assert machine.step(Received(node_id(1), wide), at(2)) == []
    assert machine.view == 1


def test_votes_too_far_ahead_are_not_kept_but_of_some_honest_weight_make_it_ask(machine: Ordering) -> None:
    assert machine.step(vote(VoteKind.NULLIFY, 500, 1), at(1)) == []
    outputs = machine.step(vote(VoteKind.NULLIFY, 700, 2), at(2))
    assert [each.want for each in outputs if isinstance(each, Fetch)] == [WantViews(1, 499, 754)]
    assert set(machine._views) == {1}
    assert machine.step(vote(VoteKind.NULLIFY, 700, 3), at(3)) == [], "asked a moment ago"


def test_votes_of_a_later_epoch_of_some_honest_weight_say_that_it_is_behind(machine: Ordering) -> None:
    assert machine.step(vote(VoteKind.NULLIFY, 1, 1, epoch=3), at(1)) == []
    outputs = machine.step(vote(VoteKind.NULLIFY, 1, 2, epoch=2), at(2))
    assert [each for each in outputs if isinstance(each, Behind)] == [Behind(2, (node_id(1), node_id(2)))]


def test_a_vote_for_an_older_view_is_answered_with_the_entry_once_a_delay(machine: Ordering) -> None:
    # D is 250 ms, times 1.5 for a nullified view.
    machine.step(nullification(4), at(1))
    answers = [
        certificates_in(machine.step(vote(VoteKind.NULLIFY, 2, 3), at(us)), (node_id(3),))
        for us in (10, 300_000, 375_010)
    ]
    assert [[each.view for each in answer] for answer in answers] == [[], [], [4]], "all were sent it"


@pytest.mark.parametrize("kind", [VoteKind.NULLIFY, VoteKind.NOTARIZE])
def test_a_leader_has_longer_where_it_rests_and_nobody_rests_after_a_view_without_a_block(
    machine: Ordering, kind: VoteKind
) -> None:
    view = next(each for each in range(4, 9) if machine.leader_of(each + 1) != machine.own)
    digest = NO_DIGEST if kind is VoteKind.NULLIFY else BLOCK
    entry = Certificate(kind, 1, view, digest, bitmap_of((1, 2, 3), 4), (bytes(64),) * 3)
    machine.step(Received(node_id(1), entry), at(1_000))
    outputs = machine.step(TimedOut("empty"), at(11_000))
    given = {each.name: each.delay_us for each in outputs if isinstance(each, SetTimer)}
    rest_us = 0 if kind is VoteKind.NULLIFY else machine.settings.interval_min_us - 10_000
    assert given["leader"] == 2 * machine.delay_us + rest_us
    assert given["advance"] == 3 * machine.delay_us + rest_us


@pytest.mark.parametrize(
    ("first", "second", "offence"),
    [
        (VoteKind.NOTARIZE, VoteKind.NOTARIZE, Offence.NOTARIZES),
        (VoteKind.FINALIZE, VoteKind.NULLIFY, Offence.FINALIZE_AND_NULLIFY),
        (VoteKind.NULLIFY, VoteKind.FINALIZE, Offence.FINALIZE_AND_NULLIFY),
    ],
)
def test_two_votes_that_contradict_each_other_are_evidence_once(
    machine: Ordering, first: VoteKind, second: VoteKind, offence: Offence
) -> None:
    machine.step(vote(first, 1, 2), at(1))
    assert not any(isinstance(each, Offended) for each in machine.step(vote(first, 1, 2), at(2)))
    found = machine.step(vote(second, 1, 2, b"c" * 32), at(3))
    assert [each.evidence.offence for each in found if isinstance(each, Offended)] == [offence]
    assert machine.step(vote(second, 1, 2, b"d" * 32), at(4)) == []


def test_a_notarisation_of_a_later_view_is_followed_by_finalize_and_the_block_is_asked_for(
    machine: Ordering,
) -> None:
    machine.step(vote(VoteKind.NOTARIZE, 5, 1), at(1))
    machine.step(vote(VoteKind.NOTARIZE, 5, 2), at(2))
    outputs = machine.step(vote(VoteKind.NOTARIZE, 5, 3), at(3))
    sent = [each for each in outputs if isinstance(each, Send)]
    said = [(m.kind, m.view, each.after) for each in sent if isinstance(m := each.message, ViewVote)]
    assert said == [(VoteKind.FINALIZE, 5, 1)]
    fetched = [each for each in outputs if isinstance(each, Fetch)]
    assert fetched and fetched[0].peers == (node_id(1), node_id(2), node_id(3))
    assert machine.view == 6 and any(isinstance(each, SetTimer) for each in outputs)
