"""What a validator logs of batches, locks and effects (CONS-10, CONS-60). Kinds 16 to 31 of the log."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import attrs

from supervm.plugins.consensus.bft.claims import Claim
from supervm.plugins.consensus.bft.effects_messages import Effects
from supervm.plugins.consensus.bft.events import Record
from supervm.types.batch import BATCH_TRANSACTIONS_MAX, Batch
from supervm.types.certificate import BatchCertificate
from supervm.types.codec import Reader, Writer
from supervm.types.digests import ZERO, Digest

BATCH_RECORD_BYTES_MAX = 2 * 1024 * 1024
USED_MAX = 2**24
NOTHING = Claim(ZERO, ())
"""Stands in a record of locks for a claim that holds none any more, so that the others keep their places."""


@attrs.frozen
class HeldBatch:
    """A batch that this validator promises to hold, or holds because it is certified."""

    RECORD: ClassVar[int] = 16
    batch: Batch

    def write(self, writer: Writer) -> None:
        writer.byte_string(self.batch.encode(), "batch")

    @classmethod
    def read(cls, reader: Reader) -> "HeldBatch":
        return cls(Batch.decode(reader.byte_string("record.batch", BATCH_RECORD_BYTES_MAX)))


@attrs.frozen
class Locked:
    """Locks taken for a batch, whether it was accepted, and who was proven to equivocate; of a proof that
    others showed, no more than that, and zeros."""

    RECORD: ClassVar[int] = 17
    batch: Digest
    builder: bytes
    accepted: bool
    claims: tuple[Claim, ...]
    equivocators: tuple[bytes, ...] = ()

    def write(self, writer: Writer) -> None:
        writer.bytes32(self.batch, "batch").bytes32(self.builder, "builder").boolean(self.accepted)
        _write_claims(writer, self.claims)
        _write_digests(writer, self.equivocators)

    @classmethod
    def read(cls, reader: Reader) -> "Locked":
        batch, builder = reader.bytes32("record.batch"), reader.bytes32("record.builder")
        accepted, claims = reader.boolean("record.accepted"), _read_claims(reader)
        return cls(batch, builder, accepted, claims, _read_digests(reader))


@attrs.frozen
class HeldCertificate:
    """A batch certificate: accepts may count it, and it must get into a block (CONS-12, CONS-23)."""

    RECORD: ClassVar[int] = 18
    certificate: BatchCertificate

    def write(self, writer: Writer) -> None:
        self.certificate.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> "HeldCertificate":
        return cls(BatchCertificate.read(reader))


@attrs.frozen
class CertifiedClaims:
    """What the transactions of a certified batch lock and spend, those executed before left out."""

    RECORD: ClassVar[int] = 19
    batch: Digest
    claims: tuple[Claim, ...]

    def write(self, writer: Writer) -> None:
        _write_claims(writer.bytes32(self.batch, "batch"), self.claims)

    @classmethod
    def read(cls, reader: Reader) -> "CertifiedClaims":
        return cls(reader.bytes32("record.batch"), _read_claims(reader))


@attrs.frozen
class UsedUp:
    """An executed block: what it holds, uses up and executes (CONS-15). Needs no sync: it comes again."""

    RECORD: ClassVar[int] = 20
    height: int
    batches: tuple[Digest, ...]
    slots: tuple[bytes, ...]
    transactions: tuple[Digest, ...]

    def write(self, writer: Writer) -> None:
        writer.u64(self.height, "height")
        _write_digests(writer, self.batches)
        writer.u32(len(self.slots), "slots")
        for slot in self.slots:
            writer.byte_string(slot, "slot")
        writer.u32(len(self.transactions), "transactions")
        for each in self.transactions:
            writer.bytes32(each, "transaction")

    @classmethod
    def read(cls, reader: Reader) -> "UsedUp":
        height, batches = reader.u64("record.height"), _read_digests(reader)
        count = reader.count32("record.slots", USED_MAX, item_bytes_min=4)
        slots = tuple(reader.byte_string("record.slot", 128) for _ in range(count))
        count = reader.count32("record.transactions", USED_MAX, item_bytes_min=32)
        return cls(height, batches, slots, tuple(reader.bytes32("record.transaction") for _ in range(count)))


@attrs.frozen
class SignedEffects:
    """Effects that this validator signs."""

    RECORD: ClassVar[int] = 21
    effects: Effects

    def write(self, writer: Writer) -> None:
        self.effects.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> "SignedEffects":
        return cls(Effects.read(reader))


BatchRecord = HeldBatch | Locked | HeldCertificate | CertifiedClaims | UsedUp | SignedEffects

BATCH_RECORDS: dict[int, Callable[[Reader], Record]] = {
    each.RECORD: each.read
    for each in (HeldBatch, Locked, HeldCertificate, CertifiedClaims, UsedUp, SignedEffects)
}
"""How a record of each kind is read, for `records.decode_record`."""


def _write_claims(writer: Writer, claims: Sequence[Claim]) -> None:
    writer.count(len(claims), "claims")
    for each in claims:
        each.write(writer)


def _read_claims(reader: Reader) -> tuple[Claim, ...]:
    count = reader.count("record.claims", BATCH_TRANSACTIONS_MAX, item_bytes_min=47)
    return tuple(Claim.read(reader) for _ in range(count))


def _write_digests(writer: Writer, digests: Sequence[Digest]) -> None:
    writer.count(len(digests), "digests")
    for each in digests:
        writer.bytes32(each, "digest")


def _read_digests(reader: Reader) -> tuple[Digest, ...]:
    count = reader.count("record.digests", item_bytes_min=32)
    return tuple(reader.bytes32("record.digest") for _ in range(count))
