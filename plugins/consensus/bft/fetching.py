"""Messages 18 and 19 of CONS-38: asking for what one misses, and the answer.

An answer names what was asked for by its own content (digest, epoch and view, height), so no request has a
number; what wasn't asked for is dropped by whoever gets it.
"""

from enum import IntEnum
from typing import ClassVar

import attrs

from supervm.plugins.consensus.bft.effects_messages import Effects, EffectsCertificate
from supervm.plugins.consensus.bft.votes import (
    BLOCK_BYTES_MAX,
    CERTIFICATE_BYTES_MAX,
    read_view_certificate,
    write_view_certificate,
)
from supervm.storage.snapshot_format import MANIFEST_BYTES_MAX
from supervm.types.batch import Batch
from supervm.types.block import Block
from supervm.types.certificate import BatchCertificate, Certificate, VoteKind
from supervm.types.codec import Reader, Writer
from supervm.types.digests import Digest
from supervm.types.errors import DecodeError
from supervm.types.handover import HandOver

ITEMS_MAX = 256
ANSWER_BYTES_MAX = 4 * 1024 * 1024
"""An answer holds at most this much, but always one item."""

VIEWS_MAX = 256
HEIGHTS_MAX = 256


class What(IntEnum):
    """What is asked for by digest."""

    BATCH = 1
    BATCH_CERTIFICATE = 2
    EFFECTS = 3
    BLOCK = 4


_VIEWS, _HEIGHTS, _ROW, _HANDOVERS, _SNAPSHOT, _PART = 5, 6, 7, 8, 9, 10
HANDOVERS_MAX = 64
HANDOVER_BYTES_MAX = CERTIFICATE_BYTES_MAX + 2**17
PART_BYTES = 2**20
"""Of a chunk; the last part is what is left."""
ROW_KEY_BYTES = range(9, 129)
"""Of a row of the ledger that peers may be asked for: its space and at least a height."""
ROW_BYTES_MAX = ANSWER_BYTES_MAX
_BY_DIGEST = frozenset(int(each) for each in What)


@attrs.frozen
class WantDigest:
    """A batch, its certificate, effects of a transaction, or a block, by digest."""

    what: What
    digest: Digest

    def write(self, writer: Writer) -> None:
        writer.u8(self.what).bytes32(self.digest, "digest")


@attrs.frozen
class WantViews:
    """View certificates of an epoch, from `first` to `last` view, at most 256."""

    epoch: int
    first: int
    last: int

    def write(self, writer: Writer) -> None:
        writer.u8(_VIEWS).u64(self.epoch, "epoch").u64(self.first, "first").u64(self.last, "last")


@attrs.frozen
class WantBlocks:
    """Final blocks from a height on, 1 to 256."""

    height: int
    count: int

    def write(self, writer: Writer) -> None:
        writer.u8(_HEIGHTS).u64(self.height, "height").u16(self.count, "count")


@attrs.frozen
class WantRow:
    """A row of the ledger by its key, which is damaged where it is asked for (STO-43).

    `height`: where the asking node stands. A state entry is meant as it is there.
    """

    key: bytes
    height: int

    def write(self, writer: Writer) -> None:
        writer.u8(_ROW).byte_string(self.key, "key").u64(self.height, "height")


@attrs.frozen
class WantHandovers:
    """Hand-overs of epochs from `epoch` on, 1 to 64: each proves the set of the epoch after it (CONS-54)."""

    epoch: int
    count: int

    def write(self, writer: Writer) -> None:
        writer.u8(_HANDOVERS).u64(self.epoch, "epoch").u16(self.count, "count")


@attrs.frozen
class WantSnapshot:
    """The manifest of the newest snapshot that the asked node made itself, of a height above `above`."""

    above: int

    def write(self, writer: Writer) -> None:
        writer.u8(_SNAPSHOT).u64(self.above, "above")


@attrs.frozen
class WantPart:
    """A part of a chunk or table of a snapshot, by its digest: 1 MiB from an offset on, or what is left."""

    digest: Digest
    offset: int

    def write(self, writer: Writer) -> None:
        writer.u8(_PART).bytes32(self.digest, "digest").u32(self.offset, "offset")


Want = WantDigest | WantViews | WantBlocks | WantRow | WantHandovers | WantSnapshot | WantPart


def read_want(reader: Reader) -> Want:
    """Read what is asked for; raises `DecodeError`."""
    tag = reader.u8("get.what")
    if tag in _BY_DIGEST:
        return WantDigest(What(tag), reader.bytes32("get.digest"))
    if tag == _VIEWS:
        epoch, first, last = reader.u64("get.epoch"), reader.u64("get.from"), reader.u64("get.to")
        if not first <= last < first + VIEWS_MAX:
            raise DecodeError("OutOfRange", "get.to", last, f"from, and less than {VIEWS_MAX} above it")
        return WantViews(epoch, first, last)
    if tag == _HEIGHTS:
        height, count = reader.u64("get.height"), reader.u16("get.count")
        if not 1 <= count <= HEIGHTS_MAX:
            raise DecodeError("OutOfRange", "get.count", count, f"1 to {HEIGHTS_MAX}")
        return WantBlocks(height, count)
    if tag == _ROW:
        return WantRow(_read_key(reader, "get.key"), reader.u64("get.height"))
    if tag == _HANDOVERS:
        epoch, count = reader.u64("get.epoch"), reader.u16("get.count")
        if not 1 <= count <= HANDOVERS_MAX:
            raise DecodeError("OutOfRange", "get.count", count, f"1 to {HANDOVERS_MAX}")
        return WantHandovers(epoch, count)
    if tag == _SNAPSHOT:
        return WantSnapshot(reader.u64("get.above"))
    if tag == _PART:
        return WantPart(reader.bytes32("get.digest"), reader.u32("get.offset"))
    raise DecodeError("UnknownFormat", "get.what", tag, "1 to 10")


def _read_key(reader: Reader, field: str) -> bytes:
    key = reader.byte_string(field, ROW_KEY_BYTES[-1])
    if len(key) not in ROW_KEY_BYTES:
        raise DecodeError("OutOfRange", field, key, f"{ROW_KEY_BYTES[0]} to {ROW_KEY_BYTES[-1]} bytes")
    return key


@attrs.frozen
class Get:
    """A question: at least one want, at most 256."""

    KIND: ClassVar[int] = 18
    wants: tuple[Want, ...]

    def write(self, writer: Writer) -> None:
        writer.count(len(self.wants), "wants")
        for want in self.wants:
            want.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> "Get":
        count = reader.count("get.wants", ITEMS_MAX, item_bytes_min=9)
        if count == 0:
            raise DecodeError("OutOfRange", "get.wants", 0, "at least one")
        return cls(tuple(read_want(reader) for _ in range(count)))


@attrs.frozen
class GotBlock:
    """A block. Asked for by height, with its finalisation where the sender has that of this block itself."""

    block: Block
    finalisation: Certificate | None = None


@attrs.frozen
class Absent:
    """The sender hasn't what was asked for."""

    want: Want


@attrs.frozen
class OldestHeld:
    """The range was pruned; the oldest height that the sender holds (CONS-64)."""

    height: int


@attrs.frozen
class GotRow:
    """The value of a row as the sender's ledger has it."""

    key: bytes
    value: bytes


@attrs.frozen
class GotHandover:
    """What proves the set of the next epoch."""

    handover: HandOver


@attrs.frozen
class GotManifest:
    """The manifest of a snapshot, as it was signed."""

    manifest: bytes


@attrs.frozen
class GotPart:
    """A part of a chunk or table. `size_bytes`: of the whole."""

    digest: Digest
    offset: int
    size_bytes: int
    data: bytes


Item = (
    Batch
    | BatchCertificate
    | Effects
    | EffectsCertificate
    | Certificate
    | GotBlock
    | Absent
    | OldestHeld
    | GotRow
    | GotHandover
    | GotManifest
    | GotPart
)

_BATCH, _BATCH_CERTIFICATE, _EFFECTS, _EFFECTS_CERTIFICATE = 1, 4, 5, 6
_CERTIFICATES = {11: VoteKind.NOTARIZE, 12: VoteKind.NULLIFY, 13: VoteKind.FINALIZE}
_CERTIFICATE_TAGS = {kind: tag for tag, kind in _CERTIFICATES.items()}
_GOT_BLOCK, _ABSENT, _OLDEST_HELD, _GOT_ROW = 128, 129, 130, 131
_GOT_HANDOVER, _GOT_MANIFEST, _GOT_PART = 132, 133, 134


def write_item(writer: Writer, item: Item) -> None:
    """Write one item of an answer: its tag, which is its frame's kind where it has one, and its fields."""
    match item:
        case Batch():
            writer.u8(_BATCH).raw(item.encode())
        case BatchCertificate():
            item.write(writer.u8(_BATCH_CERTIFICATE))
        case Effects():
            item.write(writer.u8(_EFFECTS))
        case EffectsCertificate():
            item.write(writer.u8(_EFFECTS_CERTIFICATE))
        case Certificate():
            write_view_certificate(writer.u8(_CERTIFICATE_TAGS[item.kind]), item)
        case GotBlock(block, finalisation):
            writer.u8(_GOT_BLOCK).byte_string(block.encode(), "block")
            writer.byte_string(b"" if finalisation is None else finalisation.encode(), "finalisation")
        case Absent(want):
            want.write(writer.u8(_ABSENT))
        case OldestHeld(height):
            writer.u8(_OLDEST_HELD).u64(height, "height")
        case GotRow(key, value):
            writer.u8(_GOT_ROW).byte_string(key, "key").byte_string(value, "value")
        case GotHandover(handover):
            writer.u8(_GOT_HANDOVER).byte_string(handover.encode(), "handover")
        case GotManifest(manifest):
            writer.u8(_GOT_MANIFEST).byte_string(manifest, "manifest")
        case GotPart(digest, offset, size_bytes, data):
            writer.u8(_GOT_PART).bytes32(digest, "digest").u32(offset, "offset").u32(size_bytes, "size")
            writer.byte_string(data, "data")


def encode_item(item: Item) -> bytes:
    writer = Writer()
    write_item(writer, item)
    return writer.done()


def decode_item(data: bytes) -> Item:
    """Read one item of an answer; raises `DecodeError`."""
    reader = Reader(data)
    tag = reader.u8("got.item")
    if tag == _BATCH:
        return Batch.decode(data[1:])
    item = _read_item(reader, tag)
    reader.finish("got.item")
    return item


def _read_item(reader: Reader, tag: int) -> Item:
    if tag == _BATCH_CERTIFICATE:
        return BatchCertificate.read(reader)
    if tag == _EFFECTS:
        return Effects.read(reader)
    if tag == _EFFECTS_CERTIFICATE:
        return EffectsCertificate.read(reader)
    if tag in _CERTIFICATES:
        return read_view_certificate(reader, _CERTIFICATES[tag])
    if tag == _GOT_BLOCK:
        return _read_block(reader)
    if tag == _ABSENT:
        return Absent(read_want(reader))
    if tag == _OLDEST_HELD:
        return OldestHeld(reader.u64("got.height"))
    if tag == _GOT_ROW:
        return GotRow(_read_key(reader, "got.key"), reader.byte_string("got.value", ROW_BYTES_MAX))
    if tag == _GOT_HANDOVER:
        return GotHandover(HandOver.decode(reader.byte_string("got.handover", HANDOVER_BYTES_MAX)))
    if tag == _GOT_MANIFEST:
        return GotManifest(reader.byte_string("got.manifest", MANIFEST_BYTES_MAX))
    if tag == _GOT_PART:
        digest, offset, size_bytes = (
            reader.bytes32("got.digest"),
            reader.u32("got.offset"),
            reader.u32("got.size"),
        )
        return GotPart(digest, offset, size_bytes, reader.byte_string("got.data", PART_BYTES))
    raise DecodeError("UnknownFormat", "got.item", tag, "an item of an answer")


def _read_block(reader: Reader) -> GotBlock:
    block = Block.decode(reader.byte_string("got.block", BLOCK_BYTES_MAX))
    encoded = reader.byte_string("got.finalisation", CERTIFICATE_BYTES_MAX)
    finalisation = Certificate.decode(encoded) if encoded else None
    if finalisation is not None and finalisation.kind != VoteKind.FINALIZE:
        raise DecodeError("NonCanonical", "got.finalisation", finalisation.kind, "a finalisation")
    return GotBlock(block, finalisation)


@attrs.frozen
class Got:
    """An answer: at least one item, at most 256 and 4 MiB of them, though one may be larger alone."""

    KIND: ClassVar[int] = 19
    items: tuple[Item, ...]

    def write(self, writer: Writer) -> None:
        writer.count(len(self.items), "items")
        for item in self.items:
            writer.byte_string(encode_item(item), "item")

    @classmethod
    def read(cls, reader: Reader) -> "Got":
        count = reader.count("got.items", ITEMS_MAX, item_bytes_min=5)
        if count == 0:
            raise DecodeError("OutOfRange", "got.items", 0, "at least one")
        encoded = [reader.byte_string("got.item") for _ in range(count)]
        size_bytes = sum(map(len, encoded))
        if count > 1 and size_bytes > ANSWER_BYTES_MAX:
            raise DecodeError("TooLarge", "got.items", size_bytes, f"at most {ANSWER_BYTES_MAX} of several")
        return cls(tuple(decode_item(each) for each in encoded))
