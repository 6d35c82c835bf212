"""What hostile validators do. Each runs the honest machine, so that it keeps up, and lies beside it.

It signs with its own key only: whatever it says could be said by anybody with that key and the messages
that it got. Its honest machine's messages pass through here on their way out.
"""

from typing import TYPE_CHECKING

import attrs

from supervm.plugins.consensus.bft.fetching import GotBlock, Want, WantDigest
from supervm.plugins.consensus.bft.votes import Proposal, ViewVote
from supervm.types.block import Block
from supervm.types.certificate import NO_DIGEST, Certificate, VoteKind, bitmap_of, vote_message
from tests.consensus_bft.sim.plan import Trick

if TYPE_CHECKING:
    from tests.consensus_bft.sim.world import World


class Hostile:
    """One hostile validator's tongue."""

    def __init__(self, number: int, tricks: frozenset[Trick], world: "World") -> None:
        self.number = number
        self.tricks = tricks
        self.world = world
        self.blocks: dict[bytes, Block] = {}

    def send(self, message: object, targets: list[int]) -> None:
        """The honest machine of this node sends something; say that, less, more, or something else."""
        tricks, random = self.tricks, self.world.random
        if Trick.SILENT in tricks:
            return
        if Trick.EVERY_VOTE in tricks and isinstance(message, ViewVote):
            self._every_vote(message, targets)
        if Trick.NOISE in tricks and random.random() < 0.3:
            self._noise(targets)
        if isinstance(message, Proposal) and self._propose(message, targets):
            return
        if Trick.PARTIAL in tricks:
            targets = [target for target in targets if random.random() < 0.5]
        if Trick.HOARD in tricks and not isinstance(message, GotBlock):
            targets = targets[:1]
        for target in targets:
            self.world.post(self.number, target, message)

    def reply(self, want: Want, target: int) -> None:
        """Serve blocks that it made up; nothing else."""
        if isinstance(want, WantDigest) and want.digest in self.blocks:
            self.world.post(self.number, target, GotBlock(self.blocks[want.digest]))

    @property
    def epoch(self) -> int:
        """The epoch in which its honest machine is."""
        return self.world.nodes[self.number].ordering.epoch.number

    @property
    def members(self) -> int:
        return len(self.world.nodes[self.number].ordering.epoch.validators.members)

    def _sign(self, kind: VoteKind, view: int, digest: bytes, epoch: int | None = None) -> bytes:
        from tests.consensus_bft.sim.world import CHAIN, signature

        epoch = self.epoch if epoch is None else epoch
        return signature(self.number, vote_message(CHAIN, epoch, kind, view, digest))

    def _every_vote(self, message: ViewVote, targets: list[int]) -> None:
        for target in targets:
            kind = self.world.random.choice((VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE))
            digest = NO_DIGEST if kind == VoteKind.NULLIFY else self._some_digest(message.view)
            vote = ViewVote(
                kind, self.epoch, message.view, digest, self.number, self._sign(kind, message.view, digest)
            )
            self.world.post(self.number, target, vote)

    def _some_digest(self, number: int) -> bytes:
        """A block that is proposed in this view as this node's machine knows, else one of nowhere."""
        view = self.world.nodes[self.number].ordering._views.get(number)
        digests = {vote.digest for vote in view.votes[VoteKind.NOTARIZE].values()} if view else set()
        if view and view.proposal_digest:
            digests.add(view.proposal_digest)
        return self.world.random.choice(sorted(digests)) if digests else b"nowhere".ljust(32, b".")

    def _noise(self, targets: list[int]) -> None:
        random = self.world.random
        epoch = random.choice((0, 1, 1, 2, 2**63))
        view = random.choice((0, 1, 70, 500, 2**62))
        kind = random.choice((VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE))
        digest = NO_DIGEST if kind == VoteKind.NULLIFY else b"noise".ljust(32, b".")
        vote = ViewVote(kind, epoch, view, digest, self.number, self._sign(kind, view, digest, epoch))
        alone = Certificate(
            kind,
            self.epoch,
            max(view, 1),
            digest,
            bitmap_of([self.number], self.members),
            (self._sign(kind, view, digest),),
        )
        for target in targets:
            self.world.post(self.number, target, vote)
            self.world.post(self.number, target, alone)

    def _propose(self, proposal: Proposal, targets: list[int]) -> bool:
        """Propose something else, or different things; False: as the honest machine does."""
        random = self.world.random
        forgeries = [trick for trick in _FORGERIES if trick in self.tricks]
        if forgeries and proposal.notarisation is None:
            trick = forgeries[random.randrange(len(forgeries))]
            other = _FORGERIES[trick](self, proposal)
            if other is not None:
                for target in targets:
                    self.world.post(self.number, target, other)
                return True
        if Trick.SPLIT in self.tricks and proposal.notarisation is None:
            header = proposal.block.header
            twin = self._with_header(proposal, timestamp_ms=header.timestamp_ms + 1)
            for target in targets:
                self.world.post(self.number, target, random.choice((proposal, twin)))
                if random.random() < 0.2:
                    self.world.post(self.number, target, twin)
            return True
        return False

    def _signed(self, proposal: Proposal, block: Block) -> Proposal:
        signature = self._sign(VoteKind.PROPOSAL, proposal.view, block.digest())
        return Proposal(proposal.epoch, proposal.view, block, None, signature)

    def _with_header(self, proposal: Proposal, **changes: object) -> Proposal:
        block = proposal.block
        header = attrs.evolve(block.header, **changes)
        return self._signed(proposal, attrs.evolve(block, header=header))

    def _orphan(self, proposal: Proposal) -> Proposal:
        """On a parent that nobody notarised: the certificate in the body is this node's alone."""
        header = proposal.block.header
        parent_header = attrs.evolve(header, timestamp_ms=header.timestamp_ms + 1)
        parent = attrs.evolve(proposal.block, header=parent_header)
        digest = parent.digest()
        self.blocks[digest] = parent
        view = max(proposal.view - 1, 1)
        alone = Certificate(
            VoteKind.NOTARIZE,
            self.epoch,
            view,
            digest,
            bitmap_of([self.number], self.members),
            (self._sign(VoteKind.NOTARIZE, view, digest),),
        )
        body = attrs.evolve(proposal.block.body, justification=alone.encode(), certificates=())
        child = attrs.evolve(
            proposal.block,
            header=attrs.evolve(
                parent_header,
                height=header.height + 1,
                parent=digest,
                body_digest=body.digest(),
                transactions_root=body.transactions_root(),
            ),
            body=body,
        )
        return self._signed(proposal, child)

    def _wrong_root(self, proposal: Proposal) -> Proposal:
        """A root of a height that is final, but not yet executed by all, or a wrong one of a right height."""
        random = self.world.random
        header = proposal.block.header
        root_height = random.choice((header.root_height, max(header.height - 2, 0)))
        return self._with_header(proposal, root_height=root_height, state_root=b"wrong root".ljust(32, b"."))

    def _disorder(self, proposal: Proposal) -> Proposal | None:
        """A batch without its past, or twice on the branch."""
        known = self.world.nodes[self.number].pool.certificates
        wrong = [
            c for c in known.values() if c.header.after or c.header.digest() in self.world.oracles.batches
        ]
        if not wrong:
            return None
        block = proposal.block
        chosen = (wrong[self.world.random.randrange(len(wrong))],)
        body = attrs.evolve(block.body, certificates=chosen)
        changes = {"body_digest": body.digest(), "transactions_root": body.transactions_root()}
        return self._signed(
            proposal, attrs.evolve(block, header=attrs.evolve(block.header, **changes), body=body)
        )

    def _future(self, proposal: Proposal) -> Proposal:
        ahead = self.world.random.choice((600, 5_000, 3_600_000))
        return self._with_header(proposal, timestamp_ms=self.world.latest_honest_ms() + ahead)

    def _stale_parent(self, proposal: Proposal) -> Proposal | None:
        """Beside the parent that it should extend: on that one's own parent, with a true certificate."""
        parent = self.world.nodes[self.number].ordering.block(proposal.block.header.parent)
        if parent is None:
            return None
        own = proposal.block.header.proposer
        later_ms = parent.header.timestamp_ms + 1
        header = attrs.evolve(parent.header, proposer=own, timestamp_ms=later_ms)
        return self._signed(proposal, Block(header, parent.body))


_FORGERIES = {
    Trick.ORPHAN: Hostile._orphan,
    Trick.WRONG_ROOT: Hostile._wrong_root,
    Trick.DISORDER: Hostile._disorder,
    Trick.FUTURE: Hostile._future,
    Trick.STALE_PARENT: Hostile._stale_parent,
}
