"""A validator that lost its log stays silent for as long as it may have voted (CONS-67)."""

from supervm.plugins.consensus.bft.events import ALL, CancelTimer, Log, Logged, Now, Received, Send, TimedOut
from supervm.plugins.consensus.bft.messages import AskEpoch, TellEpoch
from supervm.plugins.consensus.bft.records import SilentBefore
from supervm.plugins.consensus.bft.sync.rejoining import (
    ASK,
    CatchUp,
    EpochsFollow,
    Rejoin,
    RejoinOutput,
    VotesFrom,
    tell_epoch,
)
from supervm.types.certificate import VoteKind, vote_message
from tests.consensus_bft.chains import set_of
from tests.consensus_bft.sim.world import CHAIN, node_id, signature

CHALLENGE = b"challenge".ljust(32, b".")
NOW = Now(0, 0)
SET = set_of({0: 1, 1: 1, 2: 1, 3: 1})


def asking(epoch: int = 5, own: int = 0) -> Rejoin:
    return Rejoin(EpochsFollow(epoch, SET), node_id(own), CHALLENGE)


def told(rejoin: Rejoin, number: int, epoch: int, challenge: bytes = CHALLENGE) -> list[RejoinOutput]:
    return rejoin.step(Received(node_id(number), TellEpoch(challenge, epoch, number, bytes(64))), NOW)


def test_it_asks_all_until_a_quorum_of_others_answers_and_votes_again_two_epochs_later() -> None:
    rejoin = asking()
    (ask,) = [each for each in rejoin.start() if isinstance(each, Send)]
    assert (ask.to, ask.message) == (ALL, AskEpoch(CHALLENGE))
    assert any(isinstance(each, Send) for each in rejoin.step(TimedOut(ASK), NOW)), "again and again"
    assert told(rejoin, 1, 5) == told(rejoin, 2, 5) == []
    assert told(rejoin, 0, 5) == [], "its own answer counts for nothing"
    assert told(rejoin, 3, 5) == [Log(1, SilentBefore(7)), CancelTimer(ASK)]
    assert rejoin.step(TimedOut(ASK), NOW) == []
    assert rejoin.step(Logged(1), NOW) == [VotesFrom(7)], "once it is durable, and not before"


def test_an_answer_to_another_challenge_or_of_nobody_in_the_set_counts_for_nothing() -> None:
    rejoin = asking()
    rejoin.start()
    told(rejoin, 1, 5)
    told(rejoin, 2, 5)
    assert told(rejoin, 3, 5, challenge=bytes(32)) == []
    assert told(rejoin, 9, 5) == []
    assert told(rejoin, 2, 5) == [], "a validator counts once"
    assert told(rejoin, 3, 5) != []


def test_a_later_epoch_named_by_a_quorum_is_caught_up_with_and_asked_in_again() -> None:
    rejoin = asking()
    rejoin.start()
    told(rejoin, 1, 5)
    told(rejoin, 2, 9)
    assert told(rejoin, 3, 9) == [CatchUp(9)]
    out = rejoin.step(EpochsFollow(9, SET), NOW)
    assert any(isinstance(each, Send) for each in out)
    told(rejoin, 1, 9)
    told(rejoin, 2, 9)
    assert Log(1, SilentBefore(11)) in told(rejoin, 3, 9)


def test_one_that_names_an_epoch_far_away_keeps_nobody_silent_where_a_quorum_of_others_answers() -> None:
    validators = set_of(dict.fromkeys(range(7), 1))
    rejoin = Rejoin(EpochsFollow(5, validators), node_id(0), CHALLENGE)
    rejoin.start()
    assert told(rejoin, 1, 2**50) == []
    outputs = [told(rejoin, number, 5) for number in range(2, 7)]
    assert outputs[-1] == [Log(1, SilentBefore(7)), CancelTimer(ASK)]


def test_the_answer_is_signed_for_the_challenge_and_the_silent_give_none() -> None:
    ask = AskEpoch(CHALLENGE)
    answer = tell_epoch(ask, CHAIN, 6, 2, 0, lambda message: signature(2, message))
    message = vote_message(CHAIN, 6, VoteKind.TELL_EPOCH, 0, CHALLENGE)
    assert answer == TellEpoch(CHALLENGE, 6, 2, signature(2, message))
    assert answer is not None and answer.message(CHAIN) == message
    assert tell_epoch(ask, CHAIN, 6, 2, 7, lambda message: b"") is None
