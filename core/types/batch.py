"""Batches: transactions gathered for one vote, under a header that the builder signs (CONS-1)."""

from collections.abc import Sequence

import attrs

from supervm.types import digests, merkle
from supervm.types.codec import Reader, Writer, check_ascending
from supervm.types.digests import Digest, digest
from supervm.types.errors import DecodeError
from supervm.types.limits import DEFAULT_LIMITS

BATCH_BYTES_MAX = 1024 * 1024
BATCH_TRANSACTIONS_MAX = 4096
BATCH_AFTER_MAX = 64
BATCH_ATTEMPTS = 4
SIGNATURE_BYTES = 64


@attrs.frozen(kw_only=True)
class BatchHeader:
    """What accepts are for. `size_bytes`, `count` and `gas` are sums over the transactions."""

    chain_id: bytes
    epoch: int
    builder: bytes
    sequence: int
    attempt: int = 0
    after: tuple[Digest, ...] = ()
    size_bytes: int
    count: int
    gas: int
    transactions_root: Digest

    def encode(self) -> bytes:
        writer = (
            Writer()
            .bytes32(self.chain_id, "chain_id")
            .u64(self.epoch, "epoch")
            .bytes32(self.builder, "builder")
            .u64(self.sequence, "sequence")
            .u8(self.attempt, "attempt")
            .count(len(self.after), "after")
        )
        for each in self.after:
            writer.bytes32(each, "after")
        return (
            writer.u32(self.size_bytes, "bytes")
            .u16(self.count, "count")
            .u64(self.gas, "gas")
            .bytes32(self.transactions_root, "transactions_root")
            .done()
        )

    def digest(self) -> Digest:
        """Return the batch's name: digest("supervm/batch/v1", header)."""
        return digest(digests.BATCH, self.encode())

    @classmethod
    def read(cls, reader: Reader) -> "BatchHeader":
        """Read a header inside another value; raises `DecodeError`."""
        chain_id = reader.bytes32("batch.chain_id")
        epoch = reader.u64("batch.epoch")
        builder = reader.bytes32("batch.builder")
        sequence = reader.u64("batch.sequence")
        attempt = reader.u8("batch.attempt", BATCH_ATTEMPTS - 1)
        after_count = reader.count("batch.after", BATCH_AFTER_MAX, item_bytes_min=32)
        after = tuple(reader.bytes32("batch.after") for _ in range(after_count))
        check_ascending(after, "batch.after")
        size_bytes = reader.u32("batch.bytes")
        count = reader.u16("batch.count")
        header = cls(
            chain_id=chain_id,
            epoch=epoch,
            builder=builder,
            sequence=sequence,
            attempt=attempt,
            after=after,
            size_bytes=size_bytes,
            count=count,
            gas=reader.u64("batch.gas"),
            transactions_root=reader.bytes32("batch.transactions_root"),
        )
        if size_bytes > BATCH_BYTES_MAX:
            raise DecodeError("TooLarge", "batch.bytes", size_bytes, f"at most {BATCH_BYTES_MAX}")
        if not 1 <= count <= BATCH_TRANSACTIONS_MAX:
            raise DecodeError("OutOfRange", "batch.count", count, f"1 to {BATCH_TRANSACTIONS_MAX}")
        return header

    @classmethod
    def decode(cls, data: bytes) -> "BatchHeader":
        reader = Reader(data)
        header = cls.read(reader)
        reader.finish("batch header")
        return header


@attrs.frozen
class Batch:
    """A header, the builder's signature over its digest, and the transactions as canonical bytes."""

    header: BatchHeader
    signature: bytes
    transactions: tuple[bytes, ...]

    def encode(self) -> bytes:
        writer = Writer().raw(self.header.encode()).byte_string(self.signature, "signature")
        writer.count(len(self.transactions), "transactions")
        for each in self.transactions:
            writer.byte_string(each, "transaction")
        return writer.done()

    def digest(self) -> Digest:
        return self.header.digest()

    @classmethod
    def decode(cls, data: bytes) -> "Batch":
        """Read a batch whose header tells the truth about bytes, count and root; else `DecodeError`.

        `gas` and the transactions themselves are for whoever can price and decode them.
        """
        reader = Reader(data)
        header = BatchHeader.read(reader)
        signature = read_signature(reader, "batch.signature")
        count = reader.count("batch.transactions", BATCH_TRANSACTIONS_MAX, item_bytes_min=5)
        largest = DEFAULT_LIMITS.transaction_bytes_max
        transactions = tuple(reader.byte_string("batch.transaction", largest) for _ in range(count))
        reader.finish("batch")
        _check_sums(header, transactions)
        return cls(header, signature, transactions)


def batch_header(
    *,
    chain_id: bytes,
    epoch: int,
    builder: bytes,
    sequence: int,
    transactions: Sequence[bytes],
    gas: int,
    attempt: int = 0,
    after: Sequence[Digest] = (),
) -> BatchHeader:
    """Return the header of these transactions, with bytes, count and root computed."""
    size_bytes = sum(map(len, transactions))
    assert 1 <= len(transactions) <= BATCH_TRANSACTIONS_MAX, f"{len(transactions)} transactions"
    assert size_bytes <= BATCH_BYTES_MAX, f"{size_bytes} bytes"
    return BatchHeader(
        chain_id=chain_id,
        epoch=epoch,
        builder=builder,
        sequence=sequence,
        attempt=attempt,
        after=tuple(sorted(after)),
        size_bytes=size_bytes,
        count=len(transactions),
        gas=gas,
        transactions_root=merkle.root(transactions),
    )


def read_signature(reader: Reader, field: str) -> bytes:
    """Read a byte string of exactly 64 bytes."""
    signature = reader.byte_string(field, SIGNATURE_BYTES)
    if len(signature) != SIGNATURE_BYTES:
        raise DecodeError("NonCanonical", field, signature, f"exactly {SIGNATURE_BYTES} bytes")
    return signature


def _check_sums(header: BatchHeader, transactions: tuple[bytes, ...]) -> None:
    size_bytes = sum(map(len, transactions))
    if size_bytes != header.size_bytes:
        raise DecodeError("NonCanonical", "batch.bytes", header.size_bytes, f"the sum is {size_bytes}")
    if len(transactions) != header.count:
        raise DecodeError("NonCanonical", "batch.count", header.count, f"there are {len(transactions)}")
    if merkle.root(transactions) != header.transactions_root:
        raise DecodeError(
            "NonCanonical", "batch.transactions_root", header.transactions_root, "the root of its items"
        )
