"""Messages 2, 3, 7 to 15, 20 and 21 of CONS-38: what one validator says to others.

Each value has `write`, the fields of its frame after the kind, and `read`, which raises `DecodeError` for
anything but the one encoding of a value. Who may say it, and whether it is signed, isn't looked at here.
"""

from typing import ClassVar

import attrs

from supervm.types.batch import read_signature
from supervm.types.block import Block
from supervm.types.certificate import (
    NO_DIGEST,
    Certificate,
    VoteKind,
    read_signatures,
    vote_message,
    write_signatures,
)
from supervm.types.codec import Reader, Writer, check_ascending
from supervm.types.digests import Digest
from supervm.types.errors import DecodeError
from supervm.types.limits import DEFAULT_LIMITS
from supervm.types.validators import VALIDATORS_MAX

BLOCK_BYTES_MAX = 8 * 1024 * 1024
"""An encoded block, of a proposal or in an answer (chosen; the text bounds only its parts)."""

CERTIFICATE_BYTES_MAX = 1024 * 1024
CODE_BYTES_MAX = 32
MISSED_MAX = 256
REFUSALS_MAX = 4096

_CODE_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def write_code(writer: Writer, code: str) -> None:
    writer.byte_string(code.encode("ascii"), "code")


def read_code(reader: Reader, field: str) -> str:
    """Read a code by its name: at most 32 ASCII letters, digits, `_` and `-`; may be empty."""
    data = reader.byte_string(field, CODE_BYTES_MAX)
    if not _CODE_BYTES.issuperset(data):
        raise DecodeError("NonCanonical", field, data, "ASCII letters, digits, _ and -")
    return data.decode("ascii")


def read_validator(reader: Reader, field: str) -> int:
    number = reader.u16(field)
    if number >= VALIDATORS_MAX:
        raise DecodeError("OutOfRange", field, number, f"below {VALIDATORS_MAX}")
    return number


@attrs.frozen
class Accept:
    """A validator holds a batch, durably, with the locks of each of its transactions (CONS-3, CONS-10)."""

    KIND: ClassVar[int] = 2
    epoch: int
    batch: Digest
    validator: int
    signature: bytes

    def write(self, writer: Writer) -> None:
        writer.u64(self.epoch, "epoch").bytes32(self.batch, "batch").u16(self.validator, "validator")
        writer.byte_string(self.signature, "signature")

    @classmethod
    def read(cls, reader: Reader) -> "Accept":
        return cls(
            reader.u64("accept.epoch"),
            reader.bytes32("accept.batch"),
            read_validator(reader, "accept.validator"),
            read_signature(reader, "accept.signature"),
        )

    def message(self, chain_id: bytes) -> bytes:
        return vote_message(chain_id, self.epoch, VoteKind.ACCEPT, 0, self.batch)


@attrs.frozen
class Refusal:
    """One transaction of a batch that a validator refuses. `other`: the signed one that it conflicts with."""

    index: int
    code: str
    other: bytes = b""


@attrs.frozen
class Refuse:
    """Why a validator doesn't accept a batch: a code for all of it (or empty), or refused transactions.

    `missed`: digests of the past that it lacks (`PastMissing`). `refusals` ascend by index.
    """

    KIND: ClassVar[int] = 3
    epoch: int
    batch: Digest
    validator: int
    code: str = ""
    missed: tuple[Digest, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    def write(self, writer: Writer) -> None:
        writer.u64(self.epoch, "epoch").bytes32(self.batch, "batch").u16(self.validator, "validator")
        write_code(writer, self.code)
        writer.count(len(self.missed), "missed")
        for each in self.missed:
            writer.bytes32(each, "missed")
        writer.count(len(self.refusals), "refusals")
        for refusal in self.refusals:
            writer.u16(refusal.index, "index")
            write_code(writer, refusal.code)
            writer.byte_string(refusal.other, "other transaction")

    @classmethod
    def read(cls, reader: Reader) -> "Refuse":
        epoch = reader.u64("refuse.epoch")
        batch = reader.bytes32("refuse.batch")
        validator = read_validator(reader, "refuse.validator")
        code = read_code(reader, "refuse.code")
        count = reader.count("refuse.missed", MISSED_MAX, item_bytes_min=32)
        missed = tuple(reader.bytes32("refuse.missed") for _ in range(count))
        check_ascending(missed, "refuse.missed")
        count = reader.count("refuse.refusals", REFUSALS_MAX, item_bytes_min=10)
        refusals: list[Refusal] = []
        for _ in range(count):
            index = reader.u16("refuse.index")
            if refusals and index <= refusals[-1].index:
                raise DecodeError("NonCanonical", "refuse.index", index, "strictly ascending")
            why = read_code(reader, "refuse.refusal code")
            other = reader.byte_string("refuse.other", DEFAULT_LIMITS.transaction_bytes_max)
            refusals.append(Refusal(index, why, other))
        return cls(epoch, batch, validator, code, missed, tuple(refusals))


@attrs.frozen
class Proposal:
    """A leader's block for a view, or an epoch's last block again with its own notarisation (CONS-55)."""

    KIND: ClassVar[int] = 7
    epoch: int
    view: int
    block: Block
    notarisation: Certificate | None
    signature: bytes

    def write(self, writer: Writer) -> None:
        writer.u64(self.epoch, "epoch").u64(self.view, "view").byte_string(self.block.encode(), "block")
        writer.byte_string(b"" if self.notarisation is None else self.notarisation.encode(), "notarisation")
        writer.byte_string(self.signature, "signature")

    @classmethod
    def read(cls, reader: Reader) -> "Proposal":
        epoch = reader.u64("proposal.epoch")
        view = reader.u64("proposal.view")
        block = Block.decode(reader.byte_string("proposal.block", BLOCK_BYTES_MAX))
        encoded = reader.byte_string("proposal.notarisation", CERTIFICATE_BYTES_MAX)
        notarisation = Certificate.decode(encoded) if encoded else None
        if notarisation is not None and notarisation.kind != VoteKind.NOTARIZE:
            raise DecodeError("NonCanonical", "proposal.notarisation", notarisation.kind, "a notarisation")
        return cls(epoch, view, block, notarisation, read_signature(reader, "proposal.signature"))

    def message(self, chain_id: bytes) -> bytes:
        return vote_message(chain_id, self.epoch, VoteKind.PROPOSAL, self.view, self.block.digest())


@attrs.frozen
class ViewVote:
    """A vote of a view: notarize, nullify or finalize (frames 8, 9, 10); nullify names no block.

    With kind PROPOSAL it stands in evidence for what a leader signed of a proposal; it is no frame.
    """

    kind: VoteKind
    epoch: int
    view: int
    digest: Digest
    validator: int
    signature: bytes

    def write(self, writer: Writer) -> None:
        assert (self.kind == VoteKind.NULLIFY) == (self.digest == NO_DIGEST), "nullify names no block"
        writer.u64(self.epoch, "epoch").u64(self.view, "view")
        if self.kind != VoteKind.NULLIFY:
            writer.bytes32(self.digest, "block")
        writer.u16(self.validator, "validator").byte_string(self.signature, "signature")

    @classmethod
    def read(cls, reader: Reader, kind: VoteKind) -> "ViewVote":
        epoch = reader.u64("vote.epoch")
        view = reader.u64("vote.view")
        digest = NO_DIGEST if kind == VoteKind.NULLIFY else read_block_digest(reader, "vote.block")
        validator = read_validator(reader, "vote.validator")
        return cls(kind, epoch, view, digest, validator, read_signature(reader, "vote.signature"))

    def message(self, chain_id: bytes) -> bytes:
        return vote_message(chain_id, self.epoch, self.kind, self.view, self.digest)


def read_block_digest(reader: Reader, field: str) -> Digest:
    """Read a digest that isn't the one that stands for none."""
    digest = reader.bytes32(field)
    if digest == NO_DIGEST:
        raise DecodeError("NonCanonical", field, digest, "a block's digest")
    return digest


def write_view_certificate(writer: Writer, certificate: Certificate) -> None:
    """Write a notarisation, nullification or finalisation: frames 11, 12, 13."""
    writer.u64(certificate.epoch, "epoch").u64(certificate.view, "view")
    if certificate.kind != VoteKind.NULLIFY:
        writer.bytes32(certificate.digest, "block")
    write_signatures(writer, certificate.bitmap, certificate.signatures)


def read_view_certificate(reader: Reader, kind: VoteKind) -> Certificate:
    epoch = reader.u64("certificate.epoch")
    view = reader.u64("certificate.view")
    digest = NO_DIGEST if kind == VoteKind.NULLIFY else read_block_digest(reader, "certificate.block")
    bitmap, signatures = read_signatures(reader, "certificate")
    return Certificate(kind, epoch, view, digest, bitmap, signatures)


@attrs.frozen
class EpochDone:
    """Every certificate that this validator held when duties ended is in a final block (CONS-51)."""

    KIND: ClassVar[int] = 14
    epoch: int
    validator: int
    signature: bytes

    def write(self, writer: Writer) -> None:
        writer.u64(self.epoch, "epoch").u16(self.validator, "validator")
        writer.byte_string(self.signature, "signature")

    @classmethod
    def read(cls, reader: Reader) -> "EpochDone":
        return cls(
            reader.u64("epoch done.epoch"),
            read_validator(reader, "epoch done.validator"),
            read_signature(reader, "epoch done.signature"),
        )

    def message(self, chain_id: bytes) -> bytes:
        return vote_message(chain_id, self.epoch, VoteKind.EPOCH_DONE)


@attrs.frozen
class EndEpoch:
    """A quorum wants the epoch to close early (CONS-50)."""

    KIND: ClassVar[int] = 15
    epoch: int
    bitmap: bytes
    signatures: tuple[bytes, ...]

    def write(self, writer: Writer) -> None:
        writer.u64(self.epoch, "epoch")
        write_signatures(writer, self.bitmap, self.signatures)

    @classmethod
    def read(cls, reader: Reader) -> "EndEpoch":
        epoch = reader.u64("end epoch.epoch")
        return cls(epoch, *read_signatures(reader, "end epoch"))

    def message(self, chain_id: bytes) -> bytes:
        return vote_message(chain_id, self.epoch, VoteKind.END_EPOCH)


@attrs.frozen
class AskEpoch:
    """Which epoch are you in? From a validator that lost its log (CONS-67)."""

    KIND: ClassVar[int] = 20
    challenge: bytes

    def write(self, writer: Writer) -> None:
        writer.bytes32(self.challenge, "challenge")

    @classmethod
    def read(cls, reader: Reader) -> "AskEpoch":
        return cls(reader.bytes32("ask epoch.challenge"))


@attrs.frozen
class TellEpoch:
    """The epoch in which a validator votes, signed for one challenge."""

    KIND: ClassVar[int] = 21
    challenge: bytes
    epoch: int
    validator: int
    signature: bytes

    def write(self, writer: Writer) -> None:
        writer.bytes32(self.challenge, "challenge").u64(self.epoch, "epoch")
        writer.u16(self.validator, "validator").byte_string(self.signature, "signature")

    @classmethod
    def read(cls, reader: Reader) -> "TellEpoch":
        return cls(
            reader.bytes32("tell epoch.challenge"),
            reader.u64("tell epoch.epoch"),
            read_validator(reader, "tell epoch.validator"),
            read_signature(reader, "tell epoch.signature"),
        )

    def message(self, chain_id: bytes) -> bytes:
        return vote_message(chain_id, self.epoch, VoteKind.TELL_EPOCH, 0, self.challenge)
