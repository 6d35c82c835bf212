"""What a validator knows of views: their leaders' proposals, votes, certificates, and what it said itself."""

from collections.abc import Iterable, Iterator

import attrs

from supervm.plugins.consensus.bft.branches import Node, node_of
from supervm.plugins.consensus.bft.offences import Evidence, Offence
from supervm.plugins.consensus.bft.votes import Proposal, ViewVote
from supervm.types.certificate import Certificate, VoteKind, bitmap_of, numbers_of
from supervm.types.digests import Digest
from supervm.types.validators import ValidatorSet


@attrs.define(eq=False)
class View:
    """One view. Of each validator one vote of each kind is kept, the first, so its size is bounded.

    `proposed`, `notarized`, `nullified`, `finalized` are this validator's own, from the moment at which it
    decides them (they reach the log before the network). `refused`: the proposal breaks a rule.
    """

    number: int
    proposal: Proposal | None = None
    proposal_digest: Digest = b""
    proposal_node: Node | None = None
    proposal_at_us: int = 0
    refused: bool = False
    proposed: Proposal | None = None
    notarized: ViewVote | None = None
    nullified: ViewVote | None = None
    finalized: ViewVote | None = None
    notarisation: Certificate | None = None
    nullification: Certificate | None = None
    finalisation: Certificate | None = None
    votes: dict[VoteKind, dict[int, ViewVote]] = attrs.field(
        factory=lambda: {VoteKind.NOTARIZE: {}, VoteKind.NULLIFY: {}, VoteKind.FINALIZE: {}}
    )
    offenders: set[int] = attrs.field(factory=set)

    def certificate(self, kind: VoteKind) -> Certificate | None:
        if kind == VoteKind.NOTARIZE:
            return self.notarisation
        return self.nullification if kind == VoteKind.NULLIFY else self.finalisation

    def certificates(self) -> list[Certificate]:
        """Those that are known, a notarisation first."""
        return [c for c in (self.notarisation, self.nullification, self.finalisation) if c is not None]

    def own_votes(self) -> list[ViewVote]:
        return [vote for vote in (self.notarized, self.nullified, self.finalized) if vote is not None]

    def keep(self, certificate: Certificate) -> None:
        if certificate.kind == VoteKind.NOTARIZE:
            self.notarisation = certificate
        elif certificate.kind == VoteKind.NULLIFY:
            self.nullification = certificate
        else:
            self.finalisation = certificate

    def impossible_with(self, certificate: Certificate) -> str:
        """Why more than f must be hostile, if a certificate and those of this view say so; else nothing."""
        if certificate.kind == VoteKind.NULLIFY:
            return f"view {self.number} is nullified and finalised" if self.finalisation is not None else ""
        if certificate.kind == VoteKind.FINALIZE and self.nullification is not None:
            return f"view {self.number} is nullified and finalised"
        other = self.notarisation or self.finalisation
        if other is not None and other.digest != certificate.digest:
            return f"view {self.number} has certificates of two blocks"
        return ""

    def voters(self) -> set[int]:
        """Numbers of validators of which any vote of the view is here."""
        return {number for votes in self.votes.values() for number in votes}

    def add(self, vote: ViewVote) -> bool:
        """Keep a vote unless its validator has one of this kind; whether it was kept."""
        kept = self.votes[vote.kind]
        if vote.validator in kept:
            return False
        kept[vote.validator] = vote
        return True

    def contradiction(self, vote: ViewVote) -> Evidence | None:
        """What this vote and an earlier one of its validator prove, once a validator (CONS-70)."""
        if vote.validator in self.offenders:
            return None
        evidence = self._contradiction(vote)
        if evidence is not None:
            self.offenders.add(vote.validator)
        return evidence

    def _contradiction(self, vote: ViewVote) -> Evidence | None:
        earlier = self.votes[vote.kind].get(vote.validator)
        if vote.kind == VoteKind.NOTARIZE and earlier is not None and earlier.digest != vote.digest:
            return Evidence(Offence.NOTARIZES, earlier, vote)
        if vote.kind == VoteKind.FINALIZE:
            nullify = self.votes[VoteKind.NULLIFY].get(vote.validator)
            if nullify is not None:
                return Evidence(Offence.FINALIZE_AND_NULLIFY, vote, nullify)
        if vote.kind == VoteKind.NULLIFY:
            finalize = self.votes[VoteKind.FINALIZE].get(vote.validator)
            if finalize is not None:
                return Evidence(Offence.FINALIZE_AND_NULLIFY, finalize, vote)
        return None

    def second_proposal(self, leader: int, proposal: Proposal, digest: Digest) -> Evidence | None:
        """What a proposal beside the first proves of its leader, once (CONS-70)."""
        assert self.proposal is not None, "there is a first proposal"
        if digest == self.proposal_digest or leader in self.offenders:
            return None
        self.offenders.add(leader)
        first, second = (
            ViewVote(VoteKind.PROPOSAL, each.epoch, each.view, name, leader, each.signature)
            for each, name in ((self.proposal, self.proposal_digest), (proposal, digest))
        )
        return Evidence(Offence.PROPOSALS, first, second)

    def node(self) -> Node:
        """The block that is proposed. Raises `DecodeError` where what it holds is malformed."""
        if self.proposal_node is None:
            assert self.proposal is not None, "a block is proposed"
            self.proposal_node = node_of(self.proposal.block, self.proposal_digest)
        return self.proposal_node

    def assemble(self, kind: VoteKind, digest: Digest, validators: ValidatorSet) -> Certificate | None:
        """The certificate of the votes of this kind for this digest, if they are a quorum's."""
        votes = {n: vote for n, vote in self.votes[kind].items() if vote.digest == digest}
        if not validators.is_quorum(weight_of(validators, votes)):
            return None
        numbers = sorted(votes)
        epoch = votes[numbers[0]].epoch
        bitmap = bitmap_of(numbers, len(validators.members))
        signatures = tuple(votes[number].signature for number in numbers)
        return Certificate(kind, epoch, self.number, digest, bitmap, signatures)


class Views:
    """The views from the last final block's on, by number. `highest`: the one with the highest notarisation
    known, unless that is below them."""

    def __init__(self, lowest: int) -> None:
        self._views: dict[int, View] = {}
        self._lowest = lowest
        self.highest: View | None = None

    def __len__(self) -> int:
        return len(self._views)

    def __iter__(self) -> Iterator[int]:
        """Their numbers, ascending."""
        return iter(sorted(self._views))

    def values(self) -> list[View]:
        """The views in their order."""
        return [self._views[number] for number in self]

    def get(self, number: int) -> View | None:
        return self._views.get(number)

    def at(self, number: int) -> View:
        """The view, made where nothing was known of it."""
        view = self._views.get(number)
        if view is None:
            view = self._views[number] = View(number)
        return view

    def from_log(self, number: int) -> View | None:
        """The view that a record of the log speaks of, unless it is below the last final block's."""
        return self.at(number) if number >= max(self._lowest, 1) else None

    def keep(self, view: View, certificate: Certificate) -> None:
        view.keep(certificate)
        if certificate.kind == VoteKind.NOTARIZE and (
            self.highest is None or self.highest.number < view.number
        ):
            self.highest = view

    def restore(self, certificate: Certificate) -> None:
        """Keep a certificate of the log."""
        view = self.from_log(certificate.view)
        if view is not None and view.certificate(certificate.kind) is None:
            self.keep(view, certificate)

    def certificates(self) -> list[Certificate]:
        """All that are known, in the order of their views."""
        return [each for view in self.values() for each in view.certificates()]

    def first_not_nullified(self, first: int, last: int) -> int | None:
        """The lowest of these views for which no nullification is held."""
        for number in range(first, last + 1):
            view = self._views.get(number)
            if view is None or view.nullification is None:
                return number
        return None

    def may_learn(self, certificate: Certificate) -> bool:
        """Whether it is lacked, and of a view that isn't over for good. The notarisation of the last final
        block counts: a leader must show it."""
        lowest = self._lowest if certificate.kind == VoteKind.NOTARIZE else self._lowest + 1
        if certificate.view < max(lowest, 1):
            return False
        view = self._views.get(certificate.view)
        return view is None or view.certificate(certificate.kind) is None

    def forget_below(self, lowest: int) -> None:
        """The last final block is of this view."""
        self._lowest = lowest
        self._views = {number: view for number, view in self._views.items() if number >= lowest}
        if self.highest is not None and self.highest.number < lowest:
            self.highest = None


def weight_of(validators: ValidatorSet, numbers: Iterable[int]) -> int:
    """The weight of some validators, by their numbers."""
    members = validators.members
    return sum(members[number].weight for number in numbers)


def is_of_quorum(certificate: Certificate, validators: ValidatorSet) -> bool:
    """Whether the bitmap is one of this set, and those that it names are a quorum by weight."""
    count = len(validators.members)
    numbers = numbers_of(certificate.bitmap)
    if len(certificate.bitmap) != (count + 7) // 8 or not numbers or numbers[-1] >= count:
        return False
    if len(numbers) != len(certificate.signatures):
        return False
    return validators.is_quorum(weight_of(validators, numbers))
