"""What one validator makes of an ordered list of transactions: votes, certificates, blocks. Pure.

With one validator every vote is its own quorum; the values are those that a quorum of many would make
(CONS-4, CONS-30, CONS-38), so whatever reads a chain of many reads this one.
"""

from collections.abc import Sequence

from supervm.contracts.application import HeaderFacts, NodeIdentity, Tip
from supervm.types.batch import Batch, batch_header
from supervm.types.block import Block, BlockBody, BlockHeader
from supervm.types.certificate import BatchCertificate, Certificate, VoteKind, bitmap_of, vote_message
from supervm.types.digests import ZERO

BATCHES_A_VIEW = 1_024


def epoch_of(height: int, epoch_blocks: int) -> int:
    """The epoch of a block. Epochs count from 1; genesis, at height 0, is the last block of epoch 0."""
    return (height - 1) // epoch_blocks + 1 if height else 0


def view_of(height: int, epoch_blocks: int) -> int:
    """The view in its epoch in which one validator proposes this height: 1, 2, ... (CONS-30)."""
    return (height - 1) % epoch_blocks + 1 if height else 0


def sequence_of(view: int, index: int) -> int:
    """The builder's number for the batch of this place: never used twice in an epoch, restarts included."""
    assert 0 <= index < BATCHES_A_VIEW
    return (view - 1) * BATCHES_A_VIEW + index


def seal_batch(
    identity: NodeIdentity,
    *,
    chain_id: bytes,
    epoch: int,
    sequence: int,
    attempt: int,
    after: Sequence[bytes],
    transactions: Sequence[bytes],
    gas: int,
) -> Batch:
    """A batch of these transactions, signed by its builder (CONS-1)."""
    header = batch_header(
        chain_id=chain_id,
        epoch=epoch,
        builder=identity.node_id,
        sequence=sequence,
        transactions=transactions,
        gas=gas,
        attempt=attempt,
        after=after,
    )
    message = vote_message(chain_id, epoch, VoteKind.BATCH, 0, header.digest())
    return Batch(header, identity.sign(message), tuple(transactions))


def certify(identity: NodeIdentity, number: int, validators: int, batch: Batch) -> BatchCertificate:
    """The batch's certificate: this validator's accept alone. `number` is its place in the set."""
    header = batch.header
    message = vote_message(header.chain_id, header.epoch, VoteKind.ACCEPT, 0, header.digest())
    return BatchCertificate(
        header, batch.signature, bitmap_of([number], validators), (identity.sign(message),)
    )


def vote(
    identity: NodeIdentity,
    number: int,
    validators: int,
    kind: VoteKind,
    *,
    chain_id: bytes,
    epoch: int,
    view: int,
    digest: bytes,
) -> Certificate:
    """A certificate of one vote of this kind for a block, which is a quorum of one."""
    signature = identity.sign(vote_message(chain_id, epoch, kind, view, digest))
    return Certificate(kind, epoch, view, digest, bitmap_of([number], validators), (signature,))


def seal_block(
    *,
    chain_id: bytes,
    epoch: int,
    parent: Tip,
    proposer: bytes,
    timestamp_ms: int,
    facts: HeaderFacts,
    last_of_epoch: bool,
    justification: bytes,
    operations: Sequence[bytes],
    certificates: Sequence[BatchCertificate],
    batches: Sequence[Batch],
) -> Block:
    """The block that follows `parent`, with its header's digests computed (CONS-30)."""
    body = BlockBody(justification, tuple(operations), tuple(certificates))
    header = BlockHeader(
        chain_id=chain_id,
        epoch=epoch,
        height=parent.height + 1,
        parent=parent.digest,
        proposer=proposer,
        timestamp_ms=timestamp_ms,
        root_height=facts.root_height,
        state_root=facts.state_root,
        receipts_root=facts.receipts_root,
        base_price=facts.base_price,
        transactions_root=body.transactions_root(),
        body_digest=body.digest(),
        validators_digest=facts.validators_digest,
        next_validators_digest=facts.next_validators_digest if last_of_epoch else ZERO,
    )
    return Block(header, body, tuple(batches))
