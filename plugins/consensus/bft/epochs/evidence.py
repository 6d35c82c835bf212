"""Evidence: what proves that a validator contradicted itself, and how it gets into a block (CONS-70)."""

from collections.abc import Callable, Collection

import attrs

from supervm.plugins.consensus.bft.effects_messages import Effects
from supervm.plugins.consensus.bft.events import ALL, Send, Stream
from supervm.plugins.consensus.bft.messages import Evidence, Offence
from supervm.plugins.consensus.bft.offences import AcceptedTransaction, Statement
from supervm.plugins.consensus.bft.votes import Accept, ViewVote
from supervm.types import merkle
from supervm.types.digests import Digest
from supervm.types.errors import ProofInvalid
from supervm.types.validators import ValidatorSet

Claim = tuple[bytes, bytes, bytes]
"""(public key, signed bytes, signature)"""

LocksOf = Callable[[bytes], tuple[Digest, Collection[bytes]] | None]
"""A transaction's digest, and what it locks as far as its bytes tell; None for bytes that are none."""


@attrs.frozen
class Proven:
    """Who is guilty if the signatures hold. At most one offence of a kind is punished in an epoch."""

    validator: int
    offence: Offence
    claims: tuple[Claim, ...]


def check_evidence(
    evidence: Evidence, chain_id: bytes, epoch: int, validators: ValidatorSet, locks_of: LocksOf
) -> Proven:
    """What evidence proves of a validator of this epoch's set. Raises `ProofInvalid`: it proves nothing."""
    claims = claims_of_evidence(evidence, chain_id, epoch, validators)
    _check_conflict(evidence, locks_of)
    return Proven(validator_of(evidence), evidence.offence, claims)


def claims_of_evidence(
    evidence: Evidence, chain_id: bytes, epoch: int, validators: ValidatorSet
) -> tuple[Claim, ...]:
    """The signatures that must hold, both of one validator of this epoch's set; else `ProofInvalid`."""
    votes = [_vote_of(evidence.first), _vote_of(evidence.second)]
    number = validator_of(evidence)
    if votes[1].validator != number:
        raise ProofInvalid("ProofInvalid", "two statements of two validators", votes[1].validator)
    if number >= len(validators.members):
        raise ProofInvalid("NoValidator", "of nobody in the set", number)
    for vote in votes:
        if vote.epoch != epoch:
            raise ProofInvalid("WrongEpoch", "of another epoch", vote.epoch, f"epoch {epoch}")
    key = validators.members[number].public_key
    return tuple((key, vote.message(chain_id), vote.signature) for vote in votes)


def validator_of(evidence: Evidence) -> int:
    """The number of whoever made the first statement."""
    return _vote_of(evidence.first).validator


def epoch_of_evidence(evidence: Evidence) -> int:
    """The epoch of the first statement."""
    return _vote_of(evidence.first).epoch


def _check_conflict(evidence: Evidence, locks_of: LocksOf) -> None:
    first, second = evidence.first, evidence.second
    match first, second:
        case ViewVote(), ViewVote():
            said = {(each.kind, each.digest) for each in (first, second)}
            conflicts = first.view == second.view and len(said) == 2
        case Effects(), Effects():
            effects = {each.transaction: each.effects for each in first.effects}
            conflicts = any(
                each.effects != effects.get(each.transaction, each.effects) for each in second.effects
            )
        case AcceptedTransaction(), AcceptedTransaction():
            for each in (first, second):
                if each.accept.batch != each.header.digest():
                    raise ProofInvalid("ProofInvalid", "an accept of another batch", each.accept.batch)
                merkle.verify(
                    each.header.transactions_root, each.transaction, each.index, each.header.count, each.path
                )
            conflicts = _contend(locks_of(first.transaction), locks_of(second.transaction))
        case _:
            conflicts = False
    if not conflicts:
        raise ProofInvalid("ProofInvalid", "statements that don't contradict each other", evidence.offence)


def _contend(
    first: tuple[Digest, Collection[bytes]] | None, second: tuple[Digest, Collection[bytes]] | None
) -> bool:
    """Whether two transactions hold one lock. Signed again, one is the same transaction (EXEC-6)."""
    if first is None or second is None or first[0] == second[0]:
        return False
    return not frozenset(first[1]).isdisjoint(second[1])


def _vote_of(statement: Statement) -> Accept | ViewVote | Effects:
    return statement.accept if isinstance(statement, AcceptedTransaction) else statement


class EvidenceBook:
    """Passes evidence on, one a validator and offence in an epoch, so bounded by the set (CONS-70).

    What is received was verified and checked by `check_evidence`.
    """

    def __init__(self, validators: ValidatorSet) -> None:
        self._validators = validators
        self.known: dict[tuple[int, Offence], Evidence] = {}

    def knows(self, evidence: Evidence) -> bool:
        """Whether this offence of this validator is proven already."""
        return (validator_of(evidence), evidence.offence) in self.known

    def take(self, evidence: Evidence) -> list[Send]:
        """New evidence goes to all, once; its place in a block is the leaders' (`SystemOperations`)."""
        key = (validator_of(evidence), evidence.offence)
        if key in self.known or key[0] >= len(self._validators.members):
            return []
        self.known[key] = evidence
        return [Send(ALL, evidence, Stream.VOTES)]
