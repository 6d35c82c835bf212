"""Votes and certificates: what is signed, and lists of signatures with a bitmap of who signed (CONS-38).

`supervm.crypto.votes` signs votes and verifies certificates; here are their values and encodings.
"""

from collections.abc import Iterable
from enum import IntEnum

import attrs

from supervm.types import digests
from supervm.types.batch import BatchHeader, read_signature
from supervm.types.codec import Reader, Writer
from supervm.types.digests import Digest
from supervm.types.errors import DecodeError, ProofInvalid
from supervm.types.validators import VALIDATORS_MAX, ValidatorSet

NO_DIGEST = bytes(32)


class VoteKind(IntEnum):
    """What a signature says, by the number of its message (CONS-38)."""

    BATCH = 1
    ACCEPT = 2
    EFFECTS = 5
    PROPOSAL = 7
    NOTARIZE = 8
    NULLIFY = 9
    FINALIZE = 10
    EPOCH_DONE = 14
    END_EPOCH = 15
    TELL_EPOCH = 21


def vote_message(chain_id: bytes, epoch: int, kind: int, view: int = 0, digest: Digest = NO_DIGEST) -> bytes:
    """Return the bytes that a vote signs: domain, chain id, epoch, kind, view, digest; absent ones zero."""
    return (
        Writer()
        .raw(digests.VOTE)
        .bytes32(chain_id, "chain_id")
        .u64(epoch, "epoch")
        .u8(kind, "kind")
        .u64(view, "view")
        .bytes32(digest, "digest")
        .done()
    )


def bitmap_of(numbers: Iterable[int], count: int) -> bytes:
    """Return the bitmap of validators' numbers: bit n % 8 (from the lowest) of byte n // 8."""
    bits = bytearray((count + 7) // 8)
    for number in numbers:
        assert 0 <= number < count, f"validator {number} of {count}"
        bits[number // 8] |= 1 << number % 8
    return bytes(bits)


def numbers_of(bitmap: bytes) -> list[int]:
    """Return the numbers that are set, ascending."""
    return [8 * at + bit for at, byte in enumerate(bitmap) if byte for bit in range(8) if byte >> bit & 1]


@attrs.frozen
class Certificate:
    """Votes of one kind for one thing. `signatures` are in the order of the numbers set in `bitmap`."""

    kind: VoteKind
    epoch: int
    view: int
    digest: Digest
    bitmap: bytes
    signatures: tuple[bytes, ...]

    def encode(self) -> bytes:
        writer = Writer().u8(self.kind).u64(self.epoch, "epoch").u64(self.view, "view")
        writer.bytes32(self.digest, "digest")
        write_signatures(writer, self.bitmap, self.signatures)
        return writer.done()

    @classmethod
    def decode(cls, data: bytes) -> "Certificate":
        reader = Reader(data)
        number = reader.u8("certificate.kind")
        if number not in _KINDS:
            raise DecodeError("UnknownFormat", "certificate.kind", number, f"one of {sorted(_KINDS)}")
        epoch = reader.u64("certificate.epoch")
        view = reader.u64("certificate.view")
        digest = reader.bytes32("certificate.digest")
        bitmap, signatures = read_signatures(reader, "certificate")
        reader.finish("certificate")
        return cls(VoteKind(number), epoch, view, digest, bitmap, signatures)

    def message(self, chain_id: bytes) -> bytes:
        """Return what each of its signatures signs."""
        return vote_message(chain_id, self.epoch, self.kind, self.view, self.digest)

    def signed(self, validators: ValidatorSet) -> list[tuple[bytes, bytes]]:
        """Return (public key, signature) of each vote, once the votes are a quorum of the set.

        Raises `ProofInvalid` where the bitmap is not one of this set or the weight falls short. The
        signatures are still to be verified.
        """
        return signed_by_quorum(self.bitmap, self.signatures, validators)


@attrs.frozen
class BatchCertificate:
    """Accepts of a quorum for a batch: proof that it is available and conflicts with nothing (CONS-4)."""

    header: BatchHeader
    signature: bytes
    bitmap: bytes
    signatures: tuple[bytes, ...]

    def write(self, writer: Writer) -> None:
        writer.raw(self.header.encode()).byte_string(self.signature)
        write_signatures(writer, self.bitmap, self.signatures)

    def encode(self) -> bytes:
        writer = Writer()
        self.write(writer)
        return writer.done()

    @classmethod
    def read(cls, reader: Reader) -> "BatchCertificate":
        header = BatchHeader.read(reader)
        signature = read_signature(reader, "batch certificate.builder signature")
        bitmap, signatures = read_signatures(reader, "batch certificate")
        return cls(header, signature, bitmap, signatures)

    @classmethod
    def decode(cls, data: bytes) -> "BatchCertificate":
        reader = Reader(data)
        certificate = cls.read(reader)
        reader.finish("batch certificate")
        return certificate

    def message(self, chain_id: bytes) -> bytes:
        """Return what each accept signs."""
        return vote_message(chain_id, self.header.epoch, VoteKind.ACCEPT, 0, self.header.digest())

    def signed(self, validators: ValidatorSet) -> list[tuple[bytes, bytes]]:
        """As `Certificate.signed`."""
        return signed_by_quorum(self.bitmap, self.signatures, validators)


_KINDS = frozenset(int(kind) for kind in VoteKind)


def write_signatures(writer: Writer, bitmap: bytes, signatures: tuple[bytes, ...]) -> None:
    writer.byte_string(bitmap, "bitmap").count(len(signatures), "signatures")
    for each in signatures:
        writer.byte_string(each, "signature")


def read_signatures(reader: Reader, field: str) -> tuple[bytes, tuple[bytes, ...]]:
    """Read a bitmap and as many signatures as it has bits."""
    bitmap = reader.byte_string(f"{field}.bitmap", VALIDATORS_MAX // 8)
    count = reader.count(f"{field}.signatures", VALIDATORS_MAX, item_bytes_min=68)
    if count != int.from_bytes(bitmap, "little").bit_count():
        mend = "one for each bit of the bitmap"
        raise DecodeError("NonCanonical", f"{field}.signatures", count, mend)
    return bitmap, tuple(read_signature(reader, f"{field}.signature") for _ in range(count))


def signed_by_quorum(
    bitmap: bytes, signatures: tuple[bytes, ...], validators: ValidatorSet
) -> list[tuple[bytes, bytes]]:
    """Return (public key, signature) of each signer of a bitmap that is a quorum; else `ProofInvalid`."""
    signed = signed_by_some(bitmap, signatures, validators)
    weight = sum(validators.members[number].weight for number in numbers_of(bitmap))
    if not validators.is_quorum(weight):
        mend = f"more than two thirds of {validators.total_weight}"
        raise ProofInvalid("NoQuorum", "the votes weigh too little", weight, mend)
    return signed


def signed_by_some(
    bitmap: bytes, signatures: tuple[bytes, ...], validators: ValidatorSet
) -> list[tuple[bytes, bytes]]:
    """As `signed_by_quorum`, whatever they weigh together."""
    numbers = numbers_of(bitmap)
    count = len(validators.members)
    if len(bitmap) != (count + 7) // 8 or (numbers and numbers[-1] >= count):
        raise ProofInvalid("ProofInvalid", "the bitmap is not of this validator set", bitmap, f"{count} bits")
    if len(numbers) != len(signatures):
        raise ProofInvalid("ProofInvalid", "bitmap and signatures differ", len(signatures), f"{len(numbers)}")
    keys = (validators.members[number].public_key for number in numbers)
    return list(zip(keys, signatures, strict=True))
