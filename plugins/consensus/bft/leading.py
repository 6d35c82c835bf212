"""A leader's turn: whether there is work, what its block extends, and what it puts into it (CONS-30, 37)."""

from typing import Protocol

import attrs

from supervm.contracts.application import Tip
from supervm.plugins.consensus.bft.branches import Branch, ForksFinal, Unlinked, closes, done_in
from supervm.plugins.consensus.bft.fetching import VIEWS_MAX, WantViews
from supervm.plugins.consensus.bft.finality import Finality
from supervm.plugins.consensus.bft.proposals import Epoch, Knowledge, Waits
from supervm.plugins.consensus.bft.roots import Roots, takes_batches
from supervm.plugins.consensus.bft.statements import Statements
from supervm.plugins.consensus.bft.views import Views
from supervm.plugins.consensus.bft.votes import Proposal
from supervm.types.block import Block, BlockBody, BlockHeader
from supervm.types.certificate import BatchCertificate
from supervm.types.digests import ZERO


@attrs.frozen
class Content:
    """What a leader places in a block: system operations, and batch certificates in an order that holds."""

    operations: tuple[bytes, ...] = ()
    certificates: tuple[BatchCertificate, ...] = ()


class Pool(Protocol):
    """What waits to be placed: held certificates, system operations, epoch-dones. Asked, never told."""

    def waits(self, branch: Branch, batches: bool) -> bool:
        """Whether anything isn't on this branch, or the epoch closes. `batches` False: they don't count."""

    def pick(self, branch: Branch, batches: bool) -> Content:
        """What the next block on this branch holds, within the bounds of a block."""


def build_block(
    epoch: Epoch,
    branch: Branch,
    content: Content,
    roots: Roots,
    *,
    root_height: int,
    justification: bytes,
    proposer: bytes,
    wall_ms: int,
) -> Block:
    """The block that follows a branch. `root_height` is one that `Roots.height_after` gave."""
    facts = roots.get(root_height)
    assert facts is not None, f"the root of height {root_height} isn't known"
    head = branch.head
    body = BlockBody(justification, content.operations, content.certificates)
    last = closes(branch, done_in(content.operations), epoch.validators)
    header = BlockHeader(
        chain_id=epoch.chain_id,
        epoch=epoch.number,
        height=head.height + 1,
        parent=head.digest,
        proposer=proposer,
        timestamp_ms=max(head.timestamp_ms, wall_ms),
        root_height=root_height,
        state_root=facts.state_root,
        receipts_root=roots.receipts_root(head.root_height, root_height),
        base_price=facts.base_price,
        transactions_root=body.transactions_root(),
        body_digest=body.digest(),
        validators_digest=epoch.validators_digest,
        next_validators_digest=facts.next_validators if last else ZERO,
    )
    return Block(header, body)


@attrs.frozen
class Leading:
    """What a validator proposes, as its leader. `own`: its number, None for one that only follows."""

    epoch: Epoch
    own: int | None
    pool: Pool
    say_as: Statements
    views: Views
    finality: Finality

    def has_work(self, unfinal_is_work: bool) -> bool:
        """Whether something isn't on the branch that the next block extends (CONS-31).

        `unfinal_is_work`: a block with content that isn't final yet counts, too.
        """
        highest = self.views.highest
        branches = self.finality.branches
        try:
            digest = (
                highest.notarisation.digest if highest and highest.notarisation else self.epoch.base.digest
            )
            branch = branches.branch(digest)
        except (Unlinked, ForksFinal):
            branch = branches.branch(branches.tip.digest)
        if unfinal_is_work and branch.holds_content:
            return True
        return branch.is_closed or self.pool.waits(branch, self._takes_batches(branch.head))

    def propose(self, view: int, known: Knowledge, wall_ms: int) -> Proposal:
        """The proposal of a view, signed. Raises `Waits` while something that it rests on isn't here."""
        highest = self.views.highest
        if highest is None and self.finality.branches.tip.digest != self.epoch.base.digest:
            want = WantViews(self.epoch.number, self.finality.view, self.finality.view)
            raise Waits("the last final block's notarisation isn't here", want)
        parent_view = 0 if highest is None else highest.number
        gap = known.first_not_nullified(parent_view + 1, view - 1)
        if gap is not None:
            last = min(view - 1, gap + VIEWS_MAX - 1)
            raise Waits(f"view {gap} isn't nullified", WantViews(self.epoch.number, gap, last))
        certificate = self.epoch.base_finalisation if highest is None else highest.notarisation
        digest = self.epoch.base.digest if highest is None or certificate is None else certificate.digest
        branch = known.branch(digest)
        if branch.is_closed:
            assert branch.path and certificate is not None, "the epoch has ended"
            closing = branch.path[0]
            return self.say_as.proposal(view, closing.block, closing.digest, certificate)
        block = self._build(branch, b"" if certificate is None else certificate.encode(), wall_ms)
        return self.say_as.proposal(view, block, block.digest(), None)

    def _build(self, branch: Branch, justification: bytes, wall_ms: int) -> Block:
        root_height = self.finality.roots.height_after(branch.head)
        if root_height is None:
            raise Waits("this node hasn't executed the parent's root height")
        assert self.own is not None, "who only follows leads no view"
        return build_block(
            self.epoch,
            branch,
            self.pool.pick(branch, self._takes_batches(branch.head)),
            self.finality.roots,
            root_height=root_height,
            justification=justification,
            proposer=self.epoch.validators.members[self.own].node_id,
            wall_ms=wall_ms,
        )

    def _takes_batches(self, head: Tip) -> bool:
        root_height = self.finality.roots.height_after(head)
        return root_height is None or takes_batches(head.height + 1, root_height)
