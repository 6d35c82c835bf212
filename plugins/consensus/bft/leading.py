"""What a leader puts into a block (CONS-30, 37)."""

from typing import Protocol

import attrs

from supervm.plugins.consensus.bft.branches import Branch, closes, done_in
from supervm.plugins.consensus.bft.proposals import Epoch
from supervm.plugins.consensus.bft.roots import Roots
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
