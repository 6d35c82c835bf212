"""A validator whose log is lost or damaged: silent for as long as it may have voted (CONS-67). No I/O.

It asks the validators of the newest epoch that it can verify for the epoch in which each votes. A quorum's
answers have an honest one in common with the quorum that ended any epoch before one in which this validator
voted, so it can't have voted later than in the epoch after the highest of them: it votes again from the
second after. Any quorum will do, so the one whose highest is lowest is taken: a hostile validator that names
an epoch far away keeps nobody silent where a quorum of others answers.
The answer goes to the log before anything else does, so that a restart doesn't ask again, or forget.

A node that keeps no log yet is one that lost it, unless its key was made here: whoever makes a validator's
key founds its log, and a log that was founded and holds nothing says that nothing was said.
"""

from collections.abc import Callable

import attrs

from supervm.plugins.consensus.bft.events import (
    ALL,
    CancelTimer,
    Log,
    Logged,
    Now,
    Received,
    Send,
    SetTimer,
    Stream,
    TimedOut,
)
from supervm.plugins.consensus.bft.messages import AskEpoch, TellEpoch
from supervm.plugins.consensus.bft.records import SilentBefore
from supervm.types.certificate import VoteKind, vote_message
from supervm.types.validators import ValidatorSet

ASK = "ask epoch"
AGAIN_US = 2_000_000


@attrs.frozen
class EpochsFollow:
    """The node's newest verified epoch, and its set: told again whenever it moves on."""

    epoch: int
    validators: ValidatorSet


@attrs.frozen
class VotesFrom:
    """Durably decided: this validator votes from this epoch on."""

    epoch: int


@attrs.frozen
class CatchUp:
    """An answer names an epoch that this node hasn't verified: it catches up there, and asks again."""

    epoch: int


RejoinEvent = Received | TimedOut | Logged | EpochsFollow
RejoinOutput = Log | Send | SetTimer | CancelTimer | VotesFrom | CatchUp


class Rejoin:
    """Asking, until a quorum has answered. `challenge`: 32 random bytes, new in each life of the node.

    `Received` messages are verified against the set of the epoch last told.
    """

    def __init__(self, newest: EpochsFollow, node_id: bytes, challenge: bytes) -> None:
        assert len(challenge) == 32, f"a challenge of {len(challenge)} bytes"
        self._newest = newest
        self._node_id = node_id
        self._challenge = challenge
        self._told: dict[int, int] = {}
        self._decided = 0
        self._out: list[RejoinOutput] = []

    def start(self) -> list[RejoinOutput]:
        self._out = []
        self._ask()
        return self._out

    def step(self, event: RejoinEvent, now: Now) -> list[RejoinOutput]:
        self._out = []
        match event:
            case Logged():
                if self._decided:
                    self._out.append(VotesFrom(self._decided))
            case _ if self._decided:
                pass
            case TimedOut(name) if name == ASK:
                self._ask()
            case EpochsFollow():
                if event.epoch > self._newest.epoch:
                    self._newest = event
                    self._told.clear()
                    self._ask()
            case Received(peer, TellEpoch() as told):
                self._on_told(peer, told)
        return self._out

    def _ask(self) -> None:
        self._out.append(Send(ALL, AskEpoch(self._challenge), Stream.VOTES))
        self._out.append(SetTimer(ASK, AGAIN_US))

    def _on_told(self, peer: bytes, told: TellEpoch) -> None:
        """One answer a validator counts, its highest: another one can only lengthen the silence."""
        validators = self._newest.validators
        if told.challenge != self._challenge or told.validator >= len(validators.members):
            return
        if validators.members[told.validator].node_id == self._node_id:
            return
        self._told[told.validator] = max(told.epoch, self._told.get(told.validator, 0))
        highest = self._highest_of_a_quorum()
        if highest is None:
            return
        if highest > self._newest.epoch:
            self._out.append(CatchUp(highest))
            return
        self._decided = highest + 2
        self._out.append(Log(1, SilentBefore(self._decided)))
        self._out.append(CancelTimer(ASK))

    def _highest_of_a_quorum(self) -> int | None:
        """The lowest epoch that a quorum's answers don't pass; None while no quorum has answered."""
        validators = self._newest.validators
        weight = 0
        for epoch, number in sorted((epoch, number) for number, epoch in self._told.items()):
            weight += validators.members[number].weight
            if validators.is_quorum(weight):
                return epoch
        return None


def tell_epoch(
    ask: AskEpoch,
    chain_id: bytes,
    epoch: int,
    own: int,
    votes_from: int,
    sign: Callable[[bytes], bytes],
) -> TellEpoch | None:
    """The answer of validator number `own`, which is in `epoch`; None while it is silent itself: what it
    said before it lost its log it no longer knows."""
    if epoch < votes_from:
        return None
    message = vote_message(chain_id, epoch, VoteKind.TELL_EPOCH, 0, ask.challenge)
    return TellEpoch(ask.challenge, epoch, own, sign(message))
