"""What ordering writes to the log before it speaks (CONS-60), and the reading of it.

A record is `u8 kind || fields`. Kinds 1 to 15 are of ordering, 16 to 31 of batches, locks and effects.
"""

from collections.abc import Callable
from typing import ClassVar

import attrs

from supervm.plugins.consensus.bft.batch_records import BATCH_RECORDS
from supervm.plugins.consensus.bft.events import Record
from supervm.plugins.consensus.bft.votes import (
    BLOCK_BYTES_MAX,
    CERTIFICATE_BYTES_MAX,
    EpochDone,
    Proposal,
    ViewVote,
)
from supervm.types.block import Block
from supervm.types.certificate import Certificate, VoteKind
from supervm.types.codec import Reader, Writer
from supervm.types.errors import DecodeError


def _write_certificate(writer: Writer, certificate: Certificate) -> None:
    writer.byte_string(certificate.encode(), "certificate")


def _read_certificate(reader: Reader) -> Certificate:
    return Certificate.decode(reader.byte_string("record.certificate", CERTIFICATE_BYTES_MAX))


@attrs.frozen
class Entered:
    """The certificate that moved this validator to the view after its own, or a finalisation it acted on."""

    RECORD: ClassVar[int] = 1
    certificate: Certificate

    def write(self, writer: Writer) -> None:
        _write_certificate(writer, self.certificate)

    @classmethod
    def read(cls, reader: Reader) -> "Entered":
        return cls(_read_certificate(reader))


@attrs.frozen
class Proposed:
    """A proposal of this validator."""

    RECORD: ClassVar[int] = 2
    proposal: Proposal

    def write(self, writer: Writer) -> None:
        self.proposal.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> "Proposed":
        return cls(Proposal.read(reader))


@attrs.frozen
class Notarized:
    """A notarize vote, with the block, so that whoever voted can serve it."""

    RECORD: ClassVar[int] = 3
    vote: ViewVote
    block: Block

    def write(self, writer: Writer) -> None:
        self.vote.write(writer)
        writer.byte_string(self.block.encode(), "block")

    @classmethod
    def read(cls, reader: Reader) -> "Notarized":
        vote = ViewVote.read(reader, VoteKind.NOTARIZE)
        return cls(vote, Block.decode(reader.byte_string("record.block", BLOCK_BYTES_MAX)))


@attrs.frozen
class Finalized:
    """A finalize vote, with the notarisation that it rests on, which moved this validator on, too."""

    RECORD: ClassVar[int] = 4
    vote: ViewVote
    notarisation: Certificate

    def write(self, writer: Writer) -> None:
        self.vote.write(writer)
        _write_certificate(writer, self.notarisation)

    @classmethod
    def read(cls, reader: Reader) -> "Finalized":
        return cls(ViewVote.read(reader, VoteKind.FINALIZE), _read_certificate(reader))


@attrs.frozen
class Nullified:
    """A nullify vote."""

    RECORD: ClassVar[int] = 5
    vote: ViewVote

    def write(self, writer: Writer) -> None:
        self.vote.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> "Nullified":
        return cls(ViewVote.read(reader, VoteKind.NULLIFY))


@attrs.frozen
class DidEpoch:
    """An epoch-done."""

    RECORD: ClassVar[int] = 6
    vote: EpochDone

    def write(self, writer: Writer) -> None:
        self.vote.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> "DidEpoch":
        return cls(EpochDone.read(reader))


@attrs.frozen
class SilentBefore:
    """This validator votes in no epoch below this one (0: the log was founded, nothing was ever said)."""

    RECORD: ClassVar[int] = 7
    epoch: int

    def write(self, writer: Writer) -> None:
        writer.u64(self.epoch, "epoch")

    @classmethod
    def read(cls, reader: Reader) -> "SilentBefore":
        return cls(reader.u64("record.epoch"))


_READ: dict[int, Callable[[Reader], Record]] = {
    each.RECORD: each.read
    for each in (Entered, Proposed, Notarized, Finalized, Nullified, DidEpoch, SilentBefore)
} | BATCH_RECORDS


def encode_record(record: Record) -> bytes:
    writer = Writer().u8(record.RECORD)
    record.write(writer)
    return writer.done()


def decode_record(data: bytes) -> Record:
    """The record of these bytes; raises `DecodeError`."""
    reader = Reader(data)
    kind = reader.u8("record.kind")
    read = _READ.get(kind)
    if read is None:
        raise DecodeError("UnknownFormat", "record.kind", kind, f"one of {sorted(_READ)}")
    record = read(reader)
    reader.finish("record")
    return record
