"""Receipts: what a transaction did, in the form that the receipts root covers (EXEC-12)."""

from enum import IntEnum

import attrs

from supervm.types import digests
from supervm.types.codec import U16_MAX, Reader, Writer
from supervm.types.digests import Digest, digest
from supervm.types.errors import DecodeError
from supervm.types.transaction import Lane

RECEIPT_FORMAT = 1
CODE_BYTES_MAX = 64
EVENT_BYTES_MAX = 2**20
RETURN_BYTES_MAX = 2**20


class Status(IntEnum):
    """What became of a transaction. Only COMMITTED, FAILED and VOID stand in a block's receipts."""

    PENDING = 0
    APPLIED = 1
    CERTIFIED = 2
    COMMITTED = 3
    FAILED = 4
    VOID = 5
    UNKNOWN = 6


@attrs.frozen
class ObjectVersion:
    """An object at the version that the transaction gave it."""

    id: bytes
    version: int


@attrs.frozen
class Event:
    """What an emitter (an address, a token or an object) says happened."""

    emitter: bytes
    topic: bytes
    data: bytes = b""


@attrs.frozen(kw_only=True)
class Receipt:
    """The canonical part. `code` is the name of the error, empty on success; `fee` is in base units of
    `gas_token`; lists are in the order in which execution made the changes."""

    digest: Digest
    lane: Lane
    status: Status
    code: str = ""
    gas_used: int = 0
    fee: int = 0
    gas_token: bytes
    created: tuple[ObjectVersion, ...] = ()
    written: tuple[ObjectVersion, ...] = ()
    deleted: tuple[ObjectVersion, ...] = ()
    events: tuple[Event, ...] = ()
    return_value: bytes = b""
    height: int
    index: int

    def encode(self) -> bytes:
        return self._effects() + Writer().u64(self.height, "height").u32(self.index, "index").done()

    def effects_digest(self) -> Digest:
        """Return the digest of everything but height and index: what an effects quorum signs."""
        return digest(digests.EFFECTS, self._effects())

    @staticmethod
    def effects_digest_of(encoded: bytes) -> Digest:
        """The same of an encoded receipt, without decoding it: height and index are its last 12 bytes."""
        return digest(digests.EFFECTS, encoded[:-12])

    def _effects(self) -> bytes:
        writer = (
            Writer()
            .u8(RECEIPT_FORMAT)
            .bytes32(self.digest, "digest")
            .u8(self.lane, "lane")
            .u8(self.status, "status")
            .byte_string(self.code.encode("ascii"), "code")
            .u64(self.gas_used, "gas_used")
            .u128(self.fee, "fee")
            .bytes32(self.gas_token, "gas_token")
        )
        for versions in (self.created, self.written, self.deleted):
            writer.count(len(versions), "object versions")
            for each in versions:
                writer.bytes32(each.id, "id").u64(each.version, "version")
        writer.count(len(self.events), "events")
        for event in self.events:
            writer.bytes32(event.emitter, "emitter").byte_string(event.topic).byte_string(event.data)
        return writer.byte_string(self.return_value, "return_value").done()

    @classmethod
    def decode(cls, data: bytes) -> "Receipt":
        """Read a receipt; anything but its one encoding raises `DecodeError`."""
        reader = Reader(data)
        reader.format_byte("receipt.format", RECEIPT_FORMAT)
        receipt = cls(
            digest=reader.bytes32("receipt.digest"),
            lane=Lane(reader.u8("receipt.lane", 3)),
            status=Status(reader.u8("receipt.status", 6)),
            code=_read_code(reader),
            gas_used=reader.u64("receipt.gas_used"),
            fee=reader.u128("receipt.fee"),
            gas_token=reader.bytes32("receipt.gas_token"),
            created=_read_versions(reader, "receipt.created"),
            written=_read_versions(reader, "receipt.written"),
            deleted=_read_versions(reader, "receipt.deleted"),
            events=_read_events(reader),
            return_value=reader.byte_string("receipt.return_value", RETURN_BYTES_MAX),
            height=reader.u64("receipt.height"),
            index=reader.u32("receipt.index"),
        )
        reader.finish("receipt")
        return receipt


def _read_code(reader: Reader) -> str:
    code = reader.byte_string("receipt.code", CODE_BYTES_MAX)
    if code and not code.isalnum():
        raise DecodeError("NonCanonical", "receipt.code", code, "ASCII letters and digits")
    return code.decode("ascii")


def _read_versions(reader: Reader, field: str) -> tuple[ObjectVersion, ...]:
    count = reader.count(field, U16_MAX, item_bytes_min=40)
    return tuple(ObjectVersion(reader.bytes32(field), reader.u64(field)) for _ in range(count))


def _read_events(reader: Reader) -> tuple[Event, ...]:
    count = reader.count("receipt.events", U16_MAX, item_bytes_min=40)
    return tuple(
        Event(
            reader.bytes32("event.emitter"),
            reader.byte_string("event.topic", EVENT_BYTES_MAX),
            reader.byte_string("event.data", EVENT_BYTES_MAX),
        )
        for _ in range(count)
    )
