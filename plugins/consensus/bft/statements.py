"""What this validator says: signed, numbered for the log, and counted at home once the log holds it."""

from collections.abc import Callable

from supervm.plugins.consensus.bft.events import Log, Record
from supervm.plugins.consensus.bft.votes import Proposal, ViewVote
from supervm.types.block import Block
from supervm.types.certificate import NO_DIGEST, Certificate, VoteKind, vote_message
from supervm.types.digests import Digest


class Statements:
    """Votes and proposals of one validator in one epoch, and which of them aren't durable yet."""

    def __init__(self, chain_id: bytes, epoch: int, own: int | None, sign: Callable[[bytes], bytes]) -> None:
        self._chain_id = chain_id
        self._epoch = epoch
        self._own = own
        self._sign = sign
        self._unlogged: list[tuple[int, ViewVote]] = []
        self.last_number = 0

    def vote(self, kind: VoteKind, view: int, digest: Digest = NO_DIGEST) -> ViewVote:
        assert self._own is not None, "who only follows says nothing"
        message = vote_message(self._chain_id, self._epoch, kind, view, digest)
        return ViewVote(kind, self._epoch, view, digest, self._own, self._sign(message))

    def proposal(self, view: int, block: Block, digest: Digest, notarisation: Certificate | None) -> Proposal:
        assert self._own is not None, "who only follows says nothing"
        message = vote_message(self._chain_id, self._epoch, VoteKind.PROPOSAL, view, digest)
        return Proposal(self._epoch, view, block, notarisation, self._sign(message))

    def log(self, record: Record) -> Log:
        self.last_number += 1
        return Log(self.last_number, record)

    def waits_for_log(self, vote: ViewVote) -> None:
        """The record just logged is this vote's."""
        self._unlogged.append((self.last_number, vote))

    def after(self, vote: ViewVote) -> int:
        """The record that must be durable before this vote leaves; 0 if it is."""
        return next((number for number, each in self._unlogged if each is vote), 0)

    def made_durable(self, number: int) -> list[ViewVote]:
        """Votes that became durable with the records up to this one."""
        durable = [vote for at, vote in self._unlogged if at <= number]
        self._unlogged = [(at, vote) for at, vote in self._unlogged if at > number]
        return durable
