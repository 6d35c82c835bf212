"""Blocks: a header that the digest covers, and a body that it names (CONS-30)."""

import attrs

from supervm.types import digests, merkle
from supervm.types.batch import Batch
from supervm.types.certificate import BatchCertificate
from supervm.types.codec import Reader, Writer
from supervm.types.digests import Digest, digest
from supervm.types.errors import DecodeError

HEADER_FORMAT = 1
BODY_FORMAT = 1
HEADER_BYTES = 329
BLOCK_BATCHES_MAX = 1024
SYSTEM_OPERATIONS_BYTES_MAX = 1024 * 1024
JUSTIFICATION_BYTES_MAX = 1024 * 1024
ZERO = bytes(32)


ORDERING_OPERATIONS = (b"\x0e", b"\x0f")
"""First bytes of the system operations that concern ordering alone, epoch-done and end-epoch: executing them
changes nothing."""


@attrs.frozen(kw_only=True)
class BlockHeader:
    """A block's header. `timestamp_ms` is UTC milliseconds; `base_price` micro base units per gas.

    (root_height, state_root, receipts_root) are of the block at `root_height`, which may be this one.
    `next_validators_digest` is zeros but in an epoch's last block.
    """

    chain_id: bytes
    epoch: int
    height: int
    parent: Digest
    proposer: bytes
    timestamp_ms: int
    root_height: int
    state_root: Digest
    receipts_root: Digest
    base_price: int
    transactions_root: Digest
    body_digest: Digest
    validators_digest: Digest
    next_validators_digest: Digest = ZERO

    def encode(self) -> bytes:
        """Return the header's 329 bytes."""
        return (
            Writer()
            .u8(HEADER_FORMAT)
            .bytes32(self.chain_id, "chain_id")
            .u64(self.epoch, "epoch")
            .u64(self.height, "height")
            .bytes32(self.parent, "parent")
            .bytes32(self.proposer, "proposer")
            .u64(self.timestamp_ms, "timestamp_ms")
            .u64(self.root_height, "root_height")
            .bytes32(self.state_root, "state_root")
            .bytes32(self.receipts_root, "receipts_root")
            .u64(self.base_price, "base_price")
            .bytes32(self.transactions_root, "transactions_root")
            .bytes32(self.body_digest, "body_digest")
            .bytes32(self.validators_digest, "validators_digest")
            .bytes32(self.next_validators_digest, "next_validators_digest")
            .done()
        )

    def digest(self) -> Digest:
        """Return the block's name: digest("supervm/block/v1", header)."""
        return digest(digests.BLOCK, self.encode())

    @classmethod
    def decode(cls, data: bytes) -> "BlockHeader":
        reader = Reader(data)
        reader.format_byte("header.format", HEADER_FORMAT)
        header = cls(
            chain_id=reader.bytes32("header.chain_id"),
            epoch=reader.u64("header.epoch"),
            height=reader.u64("header.height"),
            parent=reader.bytes32("header.parent"),
            proposer=reader.bytes32("header.proposer"),
            timestamp_ms=reader.u64("header.timestamp_ms"),
            root_height=reader.u64("header.root_height"),
            state_root=reader.bytes32("header.state_root"),
            receipts_root=reader.bytes32("header.receipts_root"),
            base_price=reader.u64("header.base_price"),
            transactions_root=reader.bytes32("header.transactions_root"),
            body_digest=reader.bytes32("header.body_digest"),
            validators_digest=reader.bytes32("header.validators_digest"),
            next_validators_digest=reader.bytes32("header.next_validators_digest"),
        )
        reader.finish("header")
        if header.root_height > header.height:
            raise DecodeError("OutOfRange", "header.root_height", header.root_height, "at most the height")
        return header


@attrs.frozen
class BlockBody:
    """The parent's certificate (encoded, or empty), system operations, and certified batches in order."""

    justification: bytes = b""
    system_operations: tuple[bytes, ...] = ()
    certificates: tuple[BatchCertificate, ...] = ()

    def encode(self) -> bytes:
        writer = Writer().u8(BODY_FORMAT).byte_string(self.justification, "justification")
        writer.count(len(self.system_operations), "system operations")
        for operation in self.system_operations:
            writer.byte_string(operation, "system operation")
        writer.count(len(self.certificates), "batch certificates")
        for certificate in self.certificates:
            certificate.write(writer)
        return writer.done()

    def digest(self) -> Digest:
        return digest(digests.BODY, self.encode())

    def transactions_root(self) -> Digest:
        """Return the Merkle root over the batch digests, in order."""
        return merkle.root([certificate.header.digest() for certificate in self.certificates])

    @classmethod
    def decode(cls, data: bytes) -> "BlockBody":
        reader = Reader(data)
        reader.format_byte("body.format", BODY_FORMAT)
        justification = reader.byte_string("body.justification", JUSTIFICATION_BYTES_MAX)
        count = reader.count("body.system_operations", item_bytes_min=4)
        left = SYSTEM_OPERATIONS_BYTES_MAX
        operations: list[bytes] = []
        for _ in range(count):
            operations.append(reader.byte_string("body.system_operation", left))
            left -= len(operations[-1])
        count = reader.count("body.certificates", BLOCK_BATCHES_MAX, item_bytes_min=100)
        certificates = tuple(BatchCertificate.read(reader) for _ in range(count))
        reader.finish("body")
        return cls(justification, tuple(operations), certificates)


@attrs.frozen
class Block:
    """A header and its body, with the batches of the body's certificates where the holder has them.

    The batches are in the order of the certificates and are no part of the block's own encoding: they
    travel and are stored on their own.
    """

    header: BlockHeader
    body: BlockBody
    batches: tuple[Batch, ...] = ()

    def digest(self) -> Digest:
        return self.header.digest()

    @property
    def transactions(self) -> tuple[bytes, ...]:
        """The block's transactions in order: those of its batches, one batch after the other."""
        return tuple(data for batch in self.batches for data in batch.transactions)

    def encode(self) -> bytes:
        """Return header and body, each as a byte string."""
        return Writer().byte_string(self.header.encode()).byte_string(self.body.encode()).done()

    @classmethod
    def decode(cls, data: bytes, batches: tuple[Batch, ...] = ()) -> "Block":
        """Read a block whose header names its body; else `DecodeError`."""
        reader = Reader(data)
        header = BlockHeader.decode(reader.byte_string("block.header", HEADER_BYTES))
        body = BlockBody.decode(reader.byte_string("block.body"))
        reader.finish("block")
        block = cls(header, body, batches)
        block.check()
        return block

    def check(self) -> None:
        """Refuse a block whose header, body and batches do not belong together."""
        header = self.header
        if self.body.digest() != header.body_digest:
            raise DecodeError("NonCanonical", "header.body_digest", header.body_digest, "the body's digest")
        if self.body.transactions_root() != header.transactions_root:
            mend = "the root over the batch digests"
            raise DecodeError("NonCanonical", "header.transactions_root", header.transactions_root, mend)
        if self.batches and tuple(batch.header for batch in self.batches) != tuple(
            certificate.header for certificate in self.body.certificates
        ):
            raise DecodeError("NonCanonical", "block.batches", len(self.batches), "those of the certificates")
