"""Signing votes and verifying certificates (CONS-38). Votes are ed25519."""

from supervm.crypto.batch import verify_many
from supervm.crypto.keys import KeyPair
from supervm.crypto.suites import verify
from supervm.types.address import Suite
from supervm.types.batch import BatchHeader
from supervm.types.certificate import NO_DIGEST, BatchCertificate, Certificate, VoteKind, vote_message
from supervm.types.digests import Digest
from supervm.types.errors import ProofInvalid
from supervm.types.validators import ValidatorSet


def sign_vote(
    key: KeyPair, chain_id: bytes, epoch: int, kind: VoteKind, view: int = 0, digest: Digest = NO_DIGEST
) -> bytes:
    """Return an ed25519 signature over the vote's message."""
    assert key.suite == Suite.ED25519, "votes are signed with ed25519"
    return key.sign(vote_message(chain_id, epoch, kind, view, digest))


def verify_vote(
    public_key: bytes,
    signature: bytes,
    chain_id: bytes,
    epoch: int,
    kind: VoteKind,
    view: int = 0,
    digest: Digest = NO_DIGEST,
) -> bool:
    """Whether a vote is signed by this ed25519 key. Never raises on any key or signature."""
    return verify(Suite.ED25519, public_key, vote_message(chain_id, epoch, kind, view, digest), signature)


def verify_certificate(certificate: Certificate, chain_id: bytes, validators: ValidatorSet) -> None:
    """Check that a quorum of the set signed; raises `ProofInvalid`."""
    _verify_all(certificate.signed(validators), certificate.message(chain_id))


def verify_batch_certificate(
    certificate: BatchCertificate, chain_id: bytes, validators: ValidatorSet, builder_key: bytes
) -> None:
    """Check the builder's signature and the quorum of accepts; raises `ProofInvalid`."""
    if certificate.header.chain_id != chain_id:
        raise ProofInvalid("WrongChain", "the batch is of another chain", certificate.header.chain_id)
    if not verify_batch_signature(certificate.header, certificate.signature, builder_key):
        raise ProofInvalid("BadSignature", "the builder's signature is wrong", certificate.signature)
    _verify_all(certificate.signed(validators), certificate.message(chain_id))


def sign_batch(key: KeyPair, header: BatchHeader) -> bytes:
    """Return the builder's signature over its batch."""
    return sign_vote(key, header.chain_id, header.epoch, VoteKind.BATCH, 0, header.digest())


def verify_batch_signature(header: BatchHeader, signature: bytes, builder_key: bytes) -> bool:
    return verify_vote(
        builder_key, signature, header.chain_id, header.epoch, VoteKind.BATCH, 0, header.digest()
    )


def _verify_all(signed: list[tuple[bytes, bytes]], message: bytes) -> None:
    items = [(int(Suite.ED25519), public_key, message, signature) for public_key, signature in signed]
    for (public_key, signature), right in zip(signed, verify_many(items), strict=True):
        if not right:
            mend = f"the vote of the validator with key 0x{public_key.hex()}"
            raise ProofInvalid("BadSignature", "a vote's signature is wrong", signature, mend)
