"""What blocks say of wrongs, and what the state keeps of them (CONS-17, CONS-70, GAS-20).

Two kinds of system operations name somebody who said two things at once. Whoever votes for a block checks
that they prove it; execution looks only at who and what. So nothing but their outline is read here:

    0x10 evidence      || u8 offence || the votes, of which the first begins with u64 epoch,
                          [u64 view, of votes of a view] || bytes32 || u16 number of the validator
    0x11 equivocation  || two transactions || the lock, each a byte string
"""

from collections.abc import Sequence

import attrs

from supervm.types import digests
from supervm.types.address import Address
from supervm.types.claims import CHAIN_BYTES, SLOT_BYTES_MAX, chain_of
from supervm.types.codec import Reader, Writer
from supervm.types.errors import DecodeError
from supervm.types.limits import Limits
from supervm.types.state import system_key
from supervm.types.transaction import Transaction
from supervm.types.validators import ValidatorSet

EVIDENCE, EQUIVOCATION = b"\x10", b"\x11"
"""First bytes of the operations."""

OFFENCES_KEY = system_key(b"offences")
DOUBLES_KEY = system_key(b"equivocations")
RESERVE = digests.digest(digests.STAKE, b"reserve")
"""The account of what was taken from stakes: no key leads to this address."""

ACCEPTS, PROPOSALS, NOTARIZES, FINALIZE_AND_NULLIFY, EFFECTS = range(1, 6)
OFFENCES = {
    ACCEPTS: "accepts",
    PROPOSALS: "proposals",
    NOTARIZES: "notarizes",
    FINALIZE_AND_NULLIFY: "finalize_and_nullify",
    EFFECTS: "effects",
}
_OF_VIEWS = (PROPOSALS, NOTARIZES, FINALIZE_AND_NULLIFY)

OFFENCES_MAX = 16_384
"""Offences that the state remembers, of 14 epochs (chosen)."""
DOUBLES_MAX = 4_096
"""Locks of an epoch for which somebody signed two transactions (chosen)."""


@attrs.frozen
class Offence:
    """A validator, by its voting key, contradicted itself. `kind` is one of OFFENCES."""

    kind: int
    public_key: bytes


@attrs.frozen
class Double:
    """An account signed two transactions for one lock."""

    account: Address
    lock: bytes


@attrs.frozen(kw_only=True)
class Wrongs:
    """What a block says of wrongs. `owing`: accounts that pay at the block's end, since it ends an epoch,
    beside those whom the block itself names; None where it doesn't."""

    offences: tuple[Offence, ...] = ()
    doubles: tuple[Double, ...] = ()
    owing: tuple[Address, ...] | None = None

    @property
    def collects(self) -> bool:
        """Whether somebody may have to pay when the block has been executed."""
        return self.owing is not None and bool(self.doubles or self.owing)


NO_WRONGS = Wrongs()


def wrongs_in(
    operations: Sequence[bytes],
    validators: ValidatorSet,
    limits: Limits,
    owing: tuple[Address, ...] | None = None,
) -> Wrongs:
    """What the system operations of a block say of wrongs. `validators` are those of its epoch.

    Raises `InvalidInput` where one isn't what voters let pass.
    """
    offences: list[Offence] = []
    doubles: list[Double] = []
    for operation in operations:
        if operation[:1] == EVIDENCE:
            offences.append(_offence(operation, validators))
        elif operation[:1] == EQUIVOCATION:
            doubles.append(_double(operation, limits))
    return Wrongs(offences=tuple(offences), doubles=tuple(doubles), owing=owing)


def _offence(operation: bytes, validators: ValidatorSet) -> Offence:
    reader = Reader(operation[1:])
    kind = reader.u8("evidence.offence")
    if kind not in OFFENCES:
        raise DecodeError("UnknownFormat", "evidence.offence", kind, f"one of {sorted(OFFENCES)}")
    reader.u64("evidence.epoch")
    if kind in _OF_VIEWS:
        reader.u64("evidence.view")
    reader.bytes32("evidence.digest")
    number = reader.u16("evidence.validator")
    if number >= len(validators.members):
        raise DecodeError("OutOfRange", "evidence.validator", number, f"below {len(validators.members)}")
    return Offence(kind, validators.members[number].public_key)


def _double(operation: bytes, limits: Limits) -> Double:
    reader = Reader(operation[1:])
    first = reader.byte_string("equivocation.first", limits.transaction_bytes_max)
    reader.byte_string("equivocation.second", limits.transaction_bytes_max)
    lock = reader.byte_string("equivocation.lock", SLOT_BYTES_MAX)
    reader.finish("equivocation")
    if chain_of(lock) is not None:
        return Double(lock[1:CHAIN_BYTES], lock)
    return Double(Transaction.decode(first, limits).body.sender, lock)


@attrs.frozen
class Punished:
    """That a key was punished for an offence in an epoch: what it had at stake, and what was taken of it."""

    public_key: bytes
    kind: int
    epoch: int
    at_stake: int
    slashed: int


def encode_punished(records: Sequence[Punished]) -> bytes:
    """`u8 1 || list of (bytes32 public key, u8 offence, u64 epoch, u128 at stake, u128 slashed)`."""
    writer = Writer().u8(1).count(len(records), "offences")
    for each in records:
        writer.bytes32(each.public_key, "public_key").u8(each.kind, "kind").u64(each.epoch, "epoch")
        writer.u128(each.at_stake, "at_stake").u128(each.slashed, "slashed")
    return writer.done()


def decode_punished(data: bytes | None) -> tuple[Punished, ...]:
    """What the entry under `OFFENCES_KEY` says, oldest first; nothing where there is none."""
    if data is None:
        return ()
    reader = Reader(data)
    reader.format_byte("offences.format")
    records = tuple(
        Punished(
            reader.bytes32("offence.public_key"),
            reader.u8("offence.kind"),
            reader.u64("offence.epoch"),
            reader.u128("offence.at_stake"),
            reader.u128("offence.slashed"),
        )
        for _ in range(reader.count("offences", OFFENCES_MAX, item_bytes_min=73))
    )
    reader.finish("offences")
    return records


def encode_doubles(records: Sequence[Double]) -> bytes:
    """`u8 1 || list of (byte string lock, bytes32 account)`, as they came."""
    writer = Writer().u8(1).count(len(records), "equivocations")
    for each in records:
        writer.byte_string(each.lock, "lock").bytes32(each.account, "account")
    return writer.done()


def decode_doubles(data: bytes | None) -> tuple[Double, ...]:
    """What the entry under `DOUBLES_KEY` says; nothing where there is none."""
    if data is None:
        return ()
    reader = Reader(data)
    reader.format_byte("equivocations.format")
    records: list[Double] = []
    for _ in range(reader.count("equivocations", DOUBLES_MAX, item_bytes_min=36)):
        lock = reader.byte_string("equivocation.lock", SLOT_BYTES_MAX)
        records.append(Double(reader.bytes32("equivocation.account"), lock))
    reader.finish("equivocations")
    return tuple(records)
