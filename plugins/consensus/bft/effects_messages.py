"""Messages 5 and 6 of CONS-38: effects that one validator signed, and effects that a quorum signed."""

from collections.abc import Sequence
from typing import ClassVar

import attrs

from supervm.types import merkle
from supervm.types.batch import BATCH_TRANSACTIONS_MAX, read_signature
from supervm.types.certificate import VoteKind, read_signatures, vote_message, write_signatures
from supervm.types.codec import Reader, Writer
from supervm.types.digests import Digest
from supervm.types.errors import DecodeError

PATH_MAX = 12
"""Levels of the tree over a batch's transactions: 2^12 = 4096."""

SHARES_MAX = 1024


@attrs.frozen
class Effect:
    """A transaction at its index in the batch, with the digest of its effects."""

    index: int
    transaction: Digest
    effects: Digest

    def leaf(self) -> bytes:
        """What the tree of a signature holds for it."""
        return self.transaction + self.effects


def effects_root(effects: Sequence[Effect]) -> Digest:
    """What one signature covers: the Merkle root over (transaction digest, effects digest), in order."""
    return merkle.root([each.leaf() for each in effects])


@attrs.frozen
class Effects:
    """Effects that a validator applied of one batch, with one signature (CONS-20). Indices ascend."""

    KIND: ClassVar[int] = 5
    epoch: int
    batch: Digest
    validator: int
    effects: tuple[Effect, ...]
    signature: bytes

    def write(self, writer: Writer) -> None:
        writer.u64(self.epoch, "epoch").bytes32(self.batch, "batch").u16(self.validator, "validator")
        writer.count(len(self.effects), "effects")
        for each in self.effects:
            writer.u16(each.index, "index").bytes32(each.transaction, "transaction")
            writer.bytes32(each.effects, "effects")
        writer.byte_string(self.signature, "signature")

    @classmethod
    def read(cls, reader: Reader) -> "Effects":
        epoch = reader.u64("effects.epoch")
        batch = reader.bytes32("effects.batch")
        validator = reader.u16("effects.validator")
        count = reader.count("effects.effects", BATCH_TRANSACTIONS_MAX, item_bytes_min=66)
        if count == 0:
            raise DecodeError("OutOfRange", "effects.effects", 0, "at least one")
        found: list[Effect] = []
        for _ in range(count):
            index = reader.u16("effects.index")
            if index >= BATCH_TRANSACTIONS_MAX or (found and index <= found[-1].index):
                mend = f"strictly ascending, below {BATCH_TRANSACTIONS_MAX}"
                raise DecodeError("NonCanonical", "effects.index", index, mend)
            transaction = reader.bytes32("effects.transaction")
            found.append(Effect(index, transaction, reader.bytes32("effects.effects")))
        return cls(epoch, batch, validator, tuple(found), read_signature(reader, "effects.signature"))

    def root(self) -> Digest:
        return effects_root(self.effects)

    def message(self, chain_id: bytes) -> bytes:
        return vote_message(chain_id, self.epoch, VoteKind.EFFECTS, 0, self.root())


@attrs.frozen
class EffectsShare:
    """Signatures over one root, and the path to it from a transaction at `index` of `count` leaves.

    The text names root and path; a path can only be checked with index and count, so they are here.
    """

    root: Digest
    index: int
    count: int
    path: tuple[Digest, ...]
    bitmap: bytes
    signatures: tuple[bytes, ...]

    def message(self, chain_id: bytes, epoch: int) -> bytes:
        return vote_message(chain_id, epoch, VoteKind.EFFECTS, 0, self.root)


@attrs.frozen
class EffectsCertificate:
    """Effects signatures of a quorum for the same effects of one transaction (CONS-21); roots ascend."""

    KIND: ClassVar[int] = 6
    epoch: int
    transaction: Digest
    effects: Digest
    shares: tuple[EffectsShare, ...]

    def write(self, writer: Writer) -> None:
        writer.u64(self.epoch, "epoch").bytes32(self.transaction, "transaction")
        writer.bytes32(self.effects, "effects").count(len(self.shares), "shares")
        for share in self.shares:
            writer.bytes32(share.root, "root").u16(share.index, "index").u16(share.count, "count")
            writer.count(len(share.path), "path")
            for each in share.path:
                writer.bytes32(each, "path")
            write_signatures(writer, share.bitmap, share.signatures)

    @classmethod
    def read(cls, reader: Reader) -> "EffectsCertificate":
        epoch = reader.u64("effects certificate.epoch")
        transaction = reader.bytes32("effects certificate.transaction")
        effects = reader.bytes32("effects certificate.effects")
        count = reader.count("effects certificate.shares", SHARES_MAX, item_bytes_min=44)
        shares: list[EffectsShare] = []
        for _ in range(count):
            share = _read_share(reader)
            if shares and share.root <= shares[-1].root:
                raise DecodeError("NonCanonical", "effects certificate.root", share.root, "ascending roots")
            shares.append(share)
        return cls(epoch, transaction, effects, tuple(shares))


def _read_share(reader: Reader) -> EffectsShare:
    root = reader.bytes32("effects certificate.root")
    index = reader.u16("effects certificate.index")
    leaves = reader.u16("effects certificate.count")
    if not index < leaves <= BATCH_TRANSACTIONS_MAX:
        raise DecodeError("OutOfRange", "effects certificate.index", index, f"below the count {leaves}")
    count = reader.count("effects certificate.path", PATH_MAX, item_bytes_min=32)
    path = tuple(reader.bytes32("effects certificate.path") for _ in range(count))
    return EffectsShare(root, index, leaves, path, *read_signatures(reader, "effects certificate"))
