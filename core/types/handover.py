"""From one validator set to the next: what proves it, and where a light client may begin (CONS-54, 72, 73).

The last block of an epoch names the digest of the next set in its header and is finalised by its own epoch's.
Whoever trusts one set and sees such a header, its finalisation and the members trusts the next.
"""

import attrs

from supervm.types.block import HEADER_BYTES, BlockHeader
from supervm.types.certificate import Certificate
from supervm.types.codec import Reader, Writer
from supervm.types.digests import Digest
from supervm.types.validators import ValidatorSet

HANDOVER_FORMAT = 1
CHECKPOINT_FORMAT = 1
CERTIFICATE_BYTES_MAX = 1024 * 1024


@attrs.frozen
class HandOver:
    """The header of an epoch's last block, its own finalisation, and the set that it names."""

    header: BlockHeader
    finalisation: Certificate
    validators: ValidatorSet

    def encode(self) -> bytes:
        """`u8 1 || header || byte string finalisation || validators`."""
        writer = Writer().u8(HANDOVER_FORMAT).raw(self.header.encode())
        writer.byte_string(self.finalisation.encode(), "finalisation")
        return writer.raw(self.validators.encode()).done()

    @classmethod
    def decode(cls, data: bytes) -> "HandOver":
        """Raises `DecodeError`; nothing is proven yet."""
        reader = Reader(data)
        reader.format_byte("handover.format", HANDOVER_FORMAT)
        header = BlockHeader.decode(reader.fixed(HEADER_BYTES, "handover.header"))
        encoded = reader.byte_string("handover.finalisation", CERTIFICATE_BYTES_MAX)
        finalisation = Certificate.decode(encoded)
        validators = ValidatorSet.read(reader)
        reader.finish("handover")
        return cls(header, finalisation, validators)


@attrs.frozen(kw_only=True)
class Checkpoint:
    """What an operator gives to a light client from elsewhere: a final block, and the set of the epoch that
    follows it where it is an epoch's last, else of its own. `timestamp_ms` is the block's."""

    chain_id: bytes
    height: int
    digest: Digest
    epoch: int
    timestamp_ms: int
    validators: ValidatorSet

    def encode(self) -> bytes:
        writer = Writer().u8(CHECKPOINT_FORMAT).bytes32(self.chain_id, "chain_id").u64(self.height, "height")
        writer.bytes32(self.digest, "digest").u64(self.epoch, "epoch").u64(self.timestamp_ms, "timestamp_ms")
        return writer.raw(self.validators.encode()).done()

    @classmethod
    def decode(cls, data: bytes) -> "Checkpoint":
        reader = Reader(data)
        reader.format_byte("checkpoint.format", CHECKPOINT_FORMAT)
        found = cls(
            chain_id=reader.bytes32("checkpoint.chain_id"),
            height=reader.u64("checkpoint.height"),
            digest=reader.bytes32("checkpoint.digest"),
            epoch=reader.u64("checkpoint.epoch"),
            timestamp_ms=reader.u64("checkpoint.timestamp_ms"),
            validators=ValidatorSet.read(reader),
        )
        reader.finish("checkpoint")
        return found
