"""Messages 16 and 17 of CONS-38: two signed statements that one party must not both have made.

Evidence is a system operation, of which a block holds at most 1 MiB, while a proposal may hold 8 MiB. A
proposal's signature covers only view and block digest, so evidence holds those of it (a `ViewVote` of kind
PROPOSAL) and not the block: two votes prove as much as the two messages that the text names.
"""

from enum import IntEnum
from typing import ClassVar

import attrs

from supervm.plugins.consensus.bft.claims import chain_of
from supervm.plugins.consensus.bft.effects_messages import Effects
from supervm.plugins.consensus.bft.votes import Accept, ViewVote
from supervm.types.batch import BATCH_TRANSACTIONS_MAX, BatchHeader
from supervm.types.certificate import VoteKind
from supervm.types.codec import Reader, Writer
from supervm.types.digests import Digest
from supervm.types.errors import DecodeError
from supervm.types.limits import DEFAULT_LIMITS

PATH_MAX = 12
LOCK_BYTES_MAX = 128


class Offence(IntEnum):
    """What two votes contradict each other in (CONS-70)."""

    ACCEPTS = 1
    PROPOSALS = 2
    NOTARIZES = 3
    FINALIZE_AND_NULLIFY = 4
    EFFECTS = 5


_VOTES_OF = {
    Offence.PROPOSALS: (VoteKind.PROPOSAL, VoteKind.PROPOSAL),
    Offence.NOTARIZES: (VoteKind.NOTARIZE, VoteKind.NOTARIZE),
    Offence.FINALIZE_AND_NULLIFY: (VoteKind.FINALIZE, VoteKind.NULLIFY),
}


@attrs.frozen
class AcceptedTransaction:
    """An accept with the batch's header and one of its transactions, with its path to the header's root."""

    accept: Accept
    header: BatchHeader
    transaction: bytes
    index: int
    path: tuple[Digest, ...]

    def write(self, writer: Writer) -> None:
        self.accept.write(writer)
        writer.raw(self.header.encode()).byte_string(self.transaction, "transaction")
        writer.u16(self.index, "index").count(len(self.path), "path")
        for each in self.path:
            writer.bytes32(each, "path")

    @classmethod
    def read(cls, reader: Reader) -> "AcceptedTransaction":
        accept = Accept.read(reader)
        header = BatchHeader.read(reader)
        transaction = reader.byte_string("evidence.transaction", DEFAULT_LIMITS.transaction_bytes_max)
        index = reader.u16("evidence.index")
        if index >= BATCH_TRANSACTIONS_MAX:
            raise DecodeError("OutOfRange", "evidence.index", index, f"below {BATCH_TRANSACTIONS_MAX}")
        count = reader.count("evidence.path", PATH_MAX, item_bytes_min=32)
        path = tuple(reader.bytes32("evidence.path") for _ in range(count))
        return cls(accept, header, transaction, index, path)


Statement = AcceptedTransaction | ViewVote | Effects


@attrs.frozen
class Evidence:
    """Two conflicting votes of one validator in one epoch. Their kinds are those of the offence."""

    KIND: ClassVar[int] = 16
    offence: Offence
    first: Statement
    second: Statement

    def write(self, writer: Writer) -> None:
        writer.u8(self.offence, "offence")
        self.first.write(writer)
        self.second.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> "Evidence":
        number = reader.u8("evidence.offence")
        if number not in _OFFENCES:
            raise DecodeError("UnknownFormat", "evidence.offence", number, f"one of {sorted(_OFFENCES)}")
        offence = Offence(number)
        return cls(offence, _read_statement(reader, offence, 0), _read_statement(reader, offence, 1))


_OFFENCES = frozenset(int(each) for each in Offence)


def _read_statement(reader: Reader, offence: Offence, place: int) -> Statement:
    if offence == Offence.ACCEPTS:
        return AcceptedTransaction.read(reader)
    if offence == Offence.EFFECTS:
        return Effects.read(reader)
    return ViewVote.read(reader, _VOTES_OF[offence][place])


@attrs.frozen
class Equivocation:
    """Two signed transactions that hold one lock, as canonical bytes (CONS-17)."""

    KIND: ClassVar[int] = 17
    first: bytes
    second: bytes
    lock: bytes

    @property
    def account(self) -> bytes | None:
        """Who signed both, where the lock is on a nonce and says it; of an object they do."""
        place = chain_of(self.lock)
        return None if place is None else place[0][1:]

    def write(self, writer: Writer) -> None:
        writer.byte_string(self.first, "first").byte_string(self.second, "second")
        writer.byte_string(self.lock, "lock")

    @classmethod
    def read(cls, reader: Reader) -> "Equivocation":
        largest = DEFAULT_LIMITS.transaction_bytes_max
        first = reader.byte_string("equivocation.first", largest)
        second = reader.byte_string("equivocation.second", largest)
        if first >= second:
            mend = "two different transactions, the lower bytes first"
            raise DecodeError("NonCanonical", "equivocation.second", second, mend)
        return cls(first, second, reader.byte_string("equivocation.lock", LOCK_BYTES_MAX))
