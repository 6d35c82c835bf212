"""What a validator checks of a block before it votes for it (CONS-30, CONS-42). Pure.

Everything here is looked up in the block, its parent's facts and the epoch's set; never in transactions,
versions, balances or proofs. The roots are the application's to compare.
"""

from collections.abc import Container, Mapping

from supervm.contracts.application import BlockBounds, Tip
from supervm.contracts.consensus import CertificateInvalid, ConsensusError
from supervm.crypto.votes import verify_batch_certificate, verify_certificate
from supervm.types.block import Block
from supervm.types.certificate import Certificate, VoteKind
from supervm.types.digests import ZERO
from supervm.types.errors import InvalidInput
from supervm.types.validators import ValidatorSet


class BlockRefused(ConsensusError):
    """A block that no honest validator votes for. `rule` is the requirement that it breaks."""

    def __init__(self, rule: str, problem: str, subject: object = "") -> None:
        super().__init__(f"{rule}: {problem}", subject)
        self.rule = rule


def check_block(
    block: Block,
    *,
    chain_id: bytes,
    parent: Tip,
    epoch: int,
    last_of_epoch: bool,
    validators: ValidatorSet,
    next_validators: ValidatorSet,
    builders: Mapping[bytes, bytes],
    bounds: BlockBounds,
    ordered: Container[bytes] = (),
) -> None:
    """Refuse a block that doesn't follow `parent` by the rules. `ordered`: batches already on the branch.

    `builders`: the node id of each admitted builder with its ed25519 key.
    The justification, the parent's certificate, is checked by `check_justification`.
    """
    header = block.header
    try:
        block.check()
    except InvalidInput as error:
        raise BlockRefused("CONS-30", str(error), header.height) from error
    for rule, problem, found, expected in (
        ("CONS-30", "another chain", header.chain_id, chain_id),
        ("CONS-30", "the height doesn't follow the parent's", header.height, parent.height + 1),
        ("CONS-30", "another parent", header.parent, parent.digest),
        ("CONS-50", "another epoch", header.epoch, epoch),
        ("CONS-54", "another validator set", header.validators_digest, validators.digest()),
        (
            "CONS-54",
            "another next validator set",
            header.next_validators_digest,
            next_validators.digest() if last_of_epoch else ZERO,
        ),
    ):
        if found != expected:
            raise BlockRefused(rule, problem, found)
    if header.timestamp_ms < parent.timestamp_ms:
        raise BlockRefused("CONS-30", "the timestamp is before the parent's", header.timestamp_ms)
    if not parent.root_height <= header.root_height <= header.height:
        raise BlockRefused("CONS-30", "the root height goes back, or ahead", header.root_height)
    if validators.number_of(header.proposer) is None:
        raise BlockRefused("CONS-30", "the proposer is no validator", header.proposer)
    _check_bounds(block, bounds)
    _check_batches(block, chain_id, epoch, validators, builders, ordered)


def check_justification(
    justification: bytes,
    *,
    chain_id: bytes,
    parent: Tip,
    parent_view: int,
    first_of_epoch: bool,
    validators: ValidatorSet,
) -> None:
    """Refuse a block whose body doesn't prove its parent (CONS-30): by its notarisation, or the
    finalisation of the last block of the epoch before; genesis needs none. `validators` are the parent's.
    """
    if parent.height == 0:
        if justification:
            raise BlockRefused("CONS-30", "genesis needs no certificate", f"{len(justification)} bytes")
        return
    try:
        certificate = Certificate.decode(justification)
        check_certificate(
            certificate,
            kind=VoteKind.FINALIZE if first_of_epoch else VoteKind.NOTARIZE,
            chain_id=chain_id,
            epoch=parent.epoch,
            view=parent_view,
            digest=parent.digest,
            validators=validators,
        )
    except (InvalidInput, CertificateInvalid) as error:
        raise BlockRefused("CONS-32", f"the parent isn't proven: {error}", parent.height) from error


def check_certificate(
    certificate: Certificate,
    *,
    kind: VoteKind,
    chain_id: bytes,
    epoch: int,
    view: int,
    digest: bytes,
    validators: ValidatorSet,
) -> None:
    """Refuse a certificate of anything else than this, or that no quorum signed."""
    for name, found, expected in (
        ("kind", certificate.kind, kind),
        ("epoch", certificate.epoch, epoch),
        ("view", certificate.view, view),
        ("digest", certificate.digest, digest),
    ):
        if found != expected:
            raise CertificateInvalid(f"the certificate is of another {name}", found)
    try:
        verify_certificate(certificate, chain_id, validators)
    except InvalidInput as error:
        raise CertificateInvalid(str(error), digest.hex()) from error


def _check_bounds(block: Block, bounds: BlockBounds) -> None:
    headers = [certificate.header for certificate in block.body.certificates]
    for name, found, most in (
        ("gas", sum(header.gas for header in headers), bounds.gas_max),
        ("bytes", sum(header.size_bytes for header in headers), bounds.bytes_max),
        ("transactions", sum(header.count for header in headers), bounds.transactions_max),
        ("batches", len(headers), bounds.batches_max),
        ("operation bytes", sum(map(len, block.body.system_operations)), bounds.operations_bytes_max),
    ):
        if found > most:
            raise BlockRefused("CONS-30", f"more {name} than {most}", found)


def _check_batches(
    block: Block,
    chain_id: bytes,
    epoch: int,
    validators: ValidatorSet,
    builders: Mapping[bytes, bytes],
    ordered: Container[bytes],
) -> None:
    seen: set[bytes] = set()
    for certificate in block.body.certificates:
        header = certificate.header
        digest = header.digest()
        if digest in seen or digest in ordered:
            raise BlockRefused("CONS-42", "a batch stands twice on the branch", digest.hex())
        if header.epoch != epoch or header.chain_id != chain_id:
            raise BlockRefused("CONS-42", "a batch of another epoch or chain", digest.hex())
        for before in header.after:
            if before not in seen and before not in ordered:
                raise BlockRefused("CONS-42", "a batch stands before one of its past", digest.hex())
        builder_key = builders.get(header.builder)
        if builder_key is None:
            raise BlockRefused("CONS-1", "a batch of a builder that isn't admitted", header.builder.hex())
        try:
            verify_batch_certificate(certificate, chain_id, validators, builder_key)
        except InvalidInput as error:
            raise BlockRefused("CONS-4", str(error), digest.hex()) from error
        seen.add(digest)
