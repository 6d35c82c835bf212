"""Which epoch a node is in, and what its machines begin with (CONS-50..55): read from the chain."""

from collections.abc import Callable, Sequence

from supervm.contracts.application import CertifyingApplication, NotExecuted, Tip
from supervm.plugins.consensus.bft.branches import done_in
from supervm.plugins.consensus.bft.epochs.closing import ClosingFacts, ClosingState
from supervm.plugins.consensus.bft.epochs.evidence import epoch_of_evidence
from supervm.plugins.consensus.bft.epochs.operations import judge_operations
from supervm.plugins.consensus.bft.messages import (
    END_EPOCH,
    Accept,
    Batch,
    BatchCertificate,
    Effects,
    EndEpoch,
    EpochDone,
    Equivocation,
    Evidence,
    Message,
    Proposal,
    Refuse,
    ViewVote,
)
from supervm.plugins.consensus.bft.starting import Start
from supervm.types.certificate import Certificate
from supervm.types.digests import ZERO
from supervm.types.finality import FinalityProof
from supervm.types.validators import ValidatorSet

Operations = Sequence[tuple[int, tuple[bytes, ...]]]
"""The system operations of an epoch's committed blocks, by height."""


async def epoch_after(application: CertifyingApplication) -> int:
    """The epoch of the block that follows the tip."""
    tip = application.tip()
    if tip.height == 0:
        return 1
    block = await application.block(tip.height)
    assert block is not None, "the tip isn't pruned"
    return tip.epoch + (block.header.next_validators_digest != ZERO)


async def base_of(application: CertifyingApplication, number: int) -> Tip:
    """The last block of the epoch before: the tip, or where this node begins within an epoch, one below it.

    Epochs rise with heights, so it is found in a few steps. Raises `NotExecuted` where it was pruned.
    """
    tip = application.tip()
    if tip.epoch < number:
        return tip
    low, high = -1, tip.height
    while high - low > 1:
        middle = (low + high) // 2
        found = await application.block(middle)
        if found is not None and found.header.epoch >= number:
            high = middle
        else:
            low = middle
    for height in (high, low):
        block = await application.block(height)
        if block is not None and block.header.epoch < number:
            header = block.header
            return Tip(
                height=height,
                digest=block.digest(),
                epoch=header.epoch,
                timestamp_ms=header.timestamp_ms,
                root_height=header.root_height,
                state_root=header.state_root,
            )
    raise NotExecuted("the last block of the epoch before isn't here any more", low)


def lowest_recalled(application: CertifyingApplication) -> int:
    """The lowest height whose facts headers above the tip may still show, as far as they were ever here."""
    return max(application.tip().root_height, application.restored_height)


async def check_set(application: CertifyingApplication, height: int, validators: ValidatorSet) -> None:
    """An epoch's last block names the set of the next, and a quorum signed it: anything else is a bug."""
    block = await application.block(height) if height else None
    if block is not None:
        named = block.header.next_validators_digest
        assert named == validators.digest(), f"block {height} names another set than this node has"


async def finalisation_of(application: CertifyingApplication, height: int) -> Certificate | None:
    """Of an epoch's last block, which always has its own; genesis has none."""
    if height == 0:
        return None
    proof = FinalityProof.decode(await application.certificate(height))
    assert not proof.headers, f"the last block of an epoch, {height}, has its own finalisation"
    return proof.finalisation


def closing_facts(start: Start, epoch_blocks: int) -> ClosingFacts:
    """What closes the epoch of a machine that begins so."""
    return ClosingFacts(
        chain_id=start.epoch.chain_id,
        epoch=start.epoch.number,
        base_height=start.epoch.base.height,
        epoch_blocks=epoch_blocks,
        own=start.own,
    )


def closing_state(operations: Operations, final_height: int, own: int | None) -> ClosingState:
    """How far the epoch has closed, by its committed blocks."""
    ends = [height for height, held in operations if any(each[0] == END_EPOCH for each in held)]
    return ClosingState(
        final_height=final_height,
        end_epoch_height=min(ends, default=None),
        done=own is not None and own in done_of(operations),
    )


def done_of(operations: Operations) -> frozenset[int]:
    """Whose epoch-done these blocks hold."""
    return frozenset(number for _, held in operations for number in done_in(held))


def judged_operations(
    application: CertifyingApplication, number: int, validators: ValidatorSet
) -> Callable[[Sequence[bytes]], str]:
    """Why a block's operations aren't valid, or nothing. Signatures of validators are looked at elsewhere."""

    def doubts(proof: Equivocation) -> str:
        return application.doubts(proof.first, proof.second, proof.lock, number)

    def judge(operations: Sequence[bytes]) -> str:
        chain_id, locks_of = application.chain_id, application.locks_named
        return judge_operations(operations, chain_id, number, validators, locks_of, doubts)

    return judge


def epoch_of_message(message: Message) -> int | None:
    """The epoch that a message names; None for questions and answers."""
    match message:
        case Batch() | BatchCertificate():
            return message.header.epoch
        case ViewVote() | Certificate() | Proposal() | Accept() | Refuse() | Effects():
            return message.epoch
        case EpochDone() | EndEpoch():
            return message.epoch
        case Evidence():
            return epoch_of_evidence(message)
    return None
