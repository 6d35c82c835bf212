"""A light client's checks: sets from hand-over to hand-over, headers by certificates, state by headers.

Pure functions over what a node gave; its word is taken for nothing (CONS-71..74). One certificate is verified
a header that the client cares about, and one an epoch that it goes through. Whatever is wrong raises
`ProofInvalid`.
"""

from collections.abc import Iterable, Sequence

import attrs

from supervm.crypto.votes import verify_certificate
from supervm.types import merkle, smt
from supervm.types.block import BlockHeader
from supervm.types.certificate import Certificate, VoteKind
from supervm.types.digests import ZERO, Digest
from supervm.types.errors import ProofInvalid
from supervm.types.finality import FinalityProof
from supervm.types.genesis import Genesis
from supervm.types.handover import Checkpoint, HandOver
from supervm.types.validators import ValidatorSet

UNBONDING_MS = 21 * 24 * 3_600_000
"""How long a set that left can still be punished (chosen). What is older proves nothing by itself."""


@attrs.frozen(kw_only=True)
class Trusted:
    """The set of an epoch that a client believes, and the block from which it has it.

    `height`, `timestamp_ms`, `digest`: of the last block of the epoch before, or of the checkpoint; genesis
    at first, without a digest.
    """

    chain_id: bytes
    epoch: int
    validators: ValidatorSet
    height: int
    timestamp_ms: int
    digest: Digest | None = None


def from_genesis(genesis: Genesis) -> Trusted:
    return Trusted(
        chain_id=genesis.chain_id,
        epoch=1,
        validators=genesis.validators,
        height=0,
        timestamp_ms=genesis.created_ms,
    )


def from_checkpoint(checkpoint: Checkpoint) -> Trusted:
    return Trusted(
        chain_id=checkpoint.chain_id,
        epoch=checkpoint.epoch,
        validators=checkpoint.validators,
        height=checkpoint.height,
        timestamp_ms=checkpoint.timestamp_ms,
        digest=checkpoint.digest,
    )


def begin(genesis: Genesis | None, checkpoint: Checkpoint | None, now_ms: int) -> Trusted:
    """Where a client begins: at the checkpoint where there is one, else at genesis; one of them is given.

    Raises `ProofInvalid` where that is too old (`check_age`), or the checkpoint is of another chain.
    """
    if checkpoint is None:
        assert genesis is not None, "a client begins somewhere"
        trusted = from_genesis(genesis)
    else:
        trusted = from_checkpoint(checkpoint)
        if genesis is not None and checkpoint.chain_id != genesis.chain_id:
            raise ProofInvalid(
                "ProofInvalid",
                "the checkpoint is of another chain than the genesis",
                checkpoint.chain_id,
                f"0x{genesis.chain_id.hex()}",
            )
    check_age(trusted, now_ms)
    return trusted


def epoch_after(header: BlockHeader) -> int:
    """The epoch of the block that follows this one."""
    return header.epoch + (header.next_validators_digest != ZERO)


def checkpoint_at(
    genesis: Genesis, handovers: Sequence[HandOver], header: BlockHeader, proof: FinalityProof
) -> Checkpoint:
    """A checkpoint of a final block, proven from genesis through the hand-overs to `epoch_after(header)`.

    The age of genesis isn't judged: that this history is the one everybody has is its maker's word. Raises
    `ProofInvalid`.
    """
    trusted = follow_all(from_genesis(genesis), handovers)
    check_header(trusted, header, proof)
    if trusted.epoch != epoch_after(header):
        raise ProofInvalid(
            "ProofInvalid", "hand-overs to another epoch", trusted.epoch, f"{epoch_after(header)}"
        )
    return Checkpoint(
        chain_id=trusted.chain_id,
        height=header.height,
        digest=header.digest(),
        epoch=trusted.epoch,
        timestamp_ms=header.timestamp_ms,
        validators=trusted.validators,
    )


def check_age(trusted: Trusted, now_ms: int, unbonding_ms: int = UNBONDING_MS) -> None:
    """Refuse to begin from what is older than the unbonding time: validators that left since could have
    signed another history at no cost (CONS-73). `now_ms` is UTC milliseconds."""
    age_ms = now_ms - trusted.timestamp_ms
    if age_ms > unbonding_ms:
        raise ProofInvalid(
            "TooOld",
            "what this client trusts is older than the unbonding time",
            f"{age_ms} ms",
            "give a younger checkpoint from a source that you trust, such as your own node: "
            "supervm query checkpoint makes one",
        )


def follow(trusted: Trusted, handover: HandOver) -> Trusted:
    """The next epoch's set, proven by the one that is trusted (CONS-54)."""
    header = handover.header
    _check_header_of(trusted, header)
    if header.next_validators_digest != handover.validators.digest():
        raise ProofInvalid(
            "ProofInvalid",
            "another set than the header names (zeros: it ends no epoch)",
            handover.validators.digest(),
            f"0x{header.next_validators_digest.hex()}",
        )
    _check_finalisation(trusted, handover.finalisation, header.digest())
    return Trusted(
        chain_id=trusted.chain_id,
        epoch=trusted.epoch + 1,
        validators=handover.validators,
        height=header.height,
        timestamp_ms=header.timestamp_ms,
        digest=header.digest(),
    )


def follow_all(trusted: Trusted, handovers: Iterable[HandOver]) -> Trusted:
    """As `follow`, one epoch after the other."""
    for handover in handovers:
        trusted = follow(trusted, handover)
    return trusted


class EpochFinality:
    """Judges the certificates of a chain's blocks by the sets that hand-overs from genesis lead to.

    A block of an epoch above those is judged by the last of these sets, and refused where it names another.
    """

    def __init__(self, genesis: Genesis, handovers: Iterable[HandOver] = ()) -> None:
        """Raises `ProofInvalid` where one of them doesn't hold."""
        self._trusted = {1: from_genesis(genesis)}
        for epoch, handover in enumerate(handovers, 1):
            self._trusted[epoch + 1] = follow(self._trusted[epoch], handover)

    def check(self, header: BlockHeader, certificate: bytes) -> None:
        """Refuse a block whose certificate doesn't prove it final. Raises `InvalidInput`."""
        newest = self._trusted[len(self._trusted)]
        above = attrs.evolve(newest, epoch=max(header.epoch, newest.epoch))
        trusted = self._trusted.get(header.epoch, above)
        check_header(trusted, header, FinalityProof.decode(certificate))


def check_header(trusted: Trusted, header: BlockHeader, proof: FinalityProof) -> None:
    """Refuse a header of the trusted epoch that isn't final: by its finalisation, or by the headers from it
    up to one that has one (CONS-72). The trusted block itself needs no proof."""
    if (header.chain_id, header.digest()) == (trusted.chain_id, trusted.digest):
        return
    _check_header_of(trusted, header)
    height = header.height
    for above in proof.headers:
        _check_header_of(trusted, above)
        height += 1
        if above.height != height:
            raise ProofInvalid("ProofInvalid", "a header of another height", above.height, f"{height}")
    proof.check_of(header.digest())
    _check_finalisation(trusted, proof.finalisation, proof.finalisation.digest)


def check_batch(header: BlockHeader, batch: Digest, index: int, count: int, path: Sequence[Digest]) -> None:
    """Refuse a batch that isn't number `index` of the `count` that a header orders (CONS-71)."""
    merkle.verify(header.transactions_root, batch, index, count, path)


def check_state(header: BlockHeader, height: int, proof: smt.Proof) -> bytes | None:
    """The value of the proof's key after the block at `height`, None where it has none (CONS-74).

    `header` is a checked one whose root is of that height, which is below its own.
    """
    if header.root_height != height:
        raise ProofInvalid(
            "ProofInvalid", "the header shows the root of another height", header.root_height, f"{height}"
        )
    smt.verify(header.state_root, proof)
    return proof.value


def _check_header_of(trusted: Trusted, header: BlockHeader) -> None:
    for name, found, expected in (
        ("chain", header.chain_id, trusted.chain_id),
        ("epoch", header.epoch, trusted.epoch),
        ("validator set", header.validators_digest, trusted.validators.digest()),
    ):
        if found != expected:
            raise ProofInvalid("ProofInvalid", f"the header is of another {name}", found, f"{expected!r}")
    if header.height <= trusted.height:
        raise ProofInvalid(
            "ProofInvalid", "a header not above what is trusted", header.height, f"above {trusted.height}"
        )
    if header.timestamp_ms < trusted.timestamp_ms:
        raise ProofInvalid("ProofInvalid", "a header before what is trusted", header.timestamp_ms)


def _check_finalisation(trusted: Trusted, certificate: Certificate, digest: Digest) -> None:
    named = (certificate.kind, certificate.epoch, certificate.digest)
    if named != (VoteKind.FINALIZE, trusted.epoch, digest):
        raise ProofInvalid("ProofInvalid", "the certificate is of something else", certificate.digest)
    verify_certificate(certificate, trusted.chain_id, trusted.validators)
