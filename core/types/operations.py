"""Native operations: what a transaction of payload kind 1 does, all or nothing.

A payload is a list (u16 count, 1 to 64) of operations, each a tag byte and its fields. The decoder is
written for the common case, one transfer to one account; the others take the general reader.
"""

import struct
from collections.abc import Callable, Sequence
from typing import ClassVar

import attrs

from supervm.types.address import Address
from supervm.types.codec import U16_MAX, Reader, Writer
from supervm.types.errors import DecodeError
from supervm.types.limits import DEFAULT_LIMITS, OPERATIONS_MAX, Limits
from supervm.types.state import DECIMALS_MAX, SYMBOL_BYTES_MAX, OwnerKind, check_symbol

_OUTPUT = struct.Struct("<32sQQ")
_ONE_TRANSFER = struct.Struct("<HB32sH32sQQ")
_ZERO = bytes(32)


@attrs.frozen
class Output:
    """An amount in base units credited to an address. Zero is legal and credits nothing."""

    to: Address
    amount: int


@attrs.frozen
class Transfer:
    """Debit the sender by the outputs' sum, credit each of them. 1 to 256 outputs."""

    TAG: ClassVar[int] = 0
    token: bytes
    outputs: tuple[Output, ...]


@attrs.frozen
class TokenCreate:
    """Make a token whose supply goes to the sender, who is its minter. `fixed`: never minted again."""

    TAG: ClassVar[int] = 1
    symbol: bytes
    decimals: int
    supply: int
    fixed: bool


@attrs.frozen
class Mint:
    """Raise a token's supply and credit it; only its minter may, and only where it isn't fixed."""

    TAG: ClassVar[int] = 2
    token: bytes
    to: Address
    amount: int


@attrs.frozen
class Burn:
    """Debit the sender and lower the token's supply."""

    TAG: ClassVar[int] = 3
    token: bytes
    amount: int


@attrs.frozen
class ObjectCreate:
    """Make an object at version 1. `owner` is an address when owned, zeros otherwise."""

    TAG: ClassVar[int] = 4
    type: int
    owner_kind: OwnerKind
    owner: bytes
    data: bytes


@attrs.frozen
class ObjectMutate:
    """Replace an object's data; its input is declared with WRITE or a stronger access."""

    TAG: ClassVar[int] = 5
    id: bytes
    data: bytes


@attrs.frozen
class ObjectTransfer:
    """Give an owned object to another owner."""

    TAG: ClassVar[int] = 6
    id: bytes
    to: Address


@attrs.frozen
class ObjectShare:
    """Make an owned object shared, for good."""

    TAG: ClassVar[int] = 7
    id: bytes


@attrs.frozen
class ObjectFreeze:
    """Make an owned object immutable, for good."""

    TAG: ClassVar[int] = 8
    id: bytes


@attrs.frozen
class ObjectDelete:
    """Delete an owned object; a tombstone stays, and its id is never used again."""

    TAG: ClassVar[int] = 9
    id: bytes


@attrs.frozen
class StakeAdd:
    """Put coins of the sender at stake: his key, an ed25519 one, is a validator's from the next epoch on."""

    TAG: ClassVar[int] = 16
    amount: int


@attrs.frozen
class StakeLeave:
    """Ask to be in no set from the next epoch on. The coins stay for the unbonding time."""

    TAG: ClassVar[int] = 17


@attrs.frozen
class StakeWithdraw:
    """Get the coins back, after the unbonding time."""

    TAG: ClassVar[int] = 18


Operation = (
    Transfer
    | TokenCreate
    | Mint
    | Burn
    | ObjectCreate
    | ObjectMutate
    | ObjectTransfer
    | ObjectShare
    | ObjectFreeze
    | ObjectDelete
    | StakeAdd
    | StakeLeave
    | StakeWithdraw
)

STAKING = (StakeAdd, StakeLeave, StakeWithdraw)


def encode_operations(operations: Sequence[Operation]) -> bytes:
    """Return the payload of these operations. A value that does not fit its field is `InvalidInput`."""
    writer = Writer().count(len(operations), "operations")
    for operation in operations:
        writer.u8(operation.TAG)
        _write(writer, operation)
    return writer.done()


def _write(writer: Writer, operation: Operation) -> None:
    match operation:
        case Transfer(token=token, outputs=outputs):
            writer.bytes32(token, "token").count(len(outputs), "outputs")
            for output in outputs:
                writer.bytes32(output.to, "to").u128(output.amount, "amount")
        case TokenCreate():
            writer.byte_string(operation.symbol, "symbol").u8(operation.decimals, "decimals")
            writer.u128(operation.supply, "supply").boolean(operation.fixed)
        case Mint():
            writer.bytes32(operation.token, "token").bytes32(operation.to, "to")
            writer.u128(operation.amount, "amount")
        case Burn():
            writer.bytes32(operation.token, "token").u128(operation.amount, "amount")
        case ObjectCreate():
            writer.u32(operation.type, "type").u8(operation.owner_kind, "owner kind")
            writer.bytes32(operation.owner, "owner").byte_string(operation.data, "data")
        case ObjectMutate():
            writer.bytes32(operation.id, "id").byte_string(operation.data, "data")
        case ObjectTransfer():
            writer.bytes32(operation.id, "id").bytes32(operation.to, "to")
        case ObjectShare() | ObjectFreeze() | ObjectDelete():
            writer.bytes32(operation.id, "id")
        case StakeAdd():
            writer.u128(operation.amount, "amount")


def decode_operations(payload: bytes, limits: Limits = DEFAULT_LIMITS) -> tuple[Operation, ...]:
    """Read a native payload; raises `DecodeError` for anything but its one encoding."""
    # One transfer to one account is most of the traffic: a single unpack reads it.
    if len(payload) == 85 and payload[:3] == b"\x01\x00\x00":
        _, _, token, count, to, low, high = _ONE_TRANSFER.unpack(payload)
        if count == 1:
            return (Transfer(token, (Output(to, low | high << 64),)),)
    reader = Reader(payload)
    count = reader.count("operations", OPERATIONS_MAX)
    if count == 0:
        raise DecodeError("OutOfRange", "operations", 0, f"1 to {OPERATIONS_MAX}")
    operations = tuple(_read(reader, limits) for _ in range(count))
    reader.finish("operations")
    outputs = sum(len(each.outputs) for each in operations if isinstance(each, Transfer))
    if outputs > limits.outputs_max:
        raise DecodeError("TooMany", "outputs", outputs, f"at most {limits.outputs_max} a transaction")
    return operations


def _read(reader: Reader, limits: Limits) -> Operation:
    tag = reader.u8("operation tag")
    read = _READERS.get(tag)
    if read is None:
        raise DecodeError("UnknownFormat", "operation tag", tag, "0 to 9, or 16 to 18")
    return read(reader, limits)


def _read_transfer(reader: Reader, limits: Limits) -> Transfer:
    token = reader.bytes32("transfer.token")
    count = reader.count("transfer.outputs", min(limits.outputs_max, U16_MAX), item_bytes_min=48)
    if count == 0:
        raise DecodeError("OutOfRange", "transfer.outputs", 0, f"1 to {limits.outputs_max}")
    data = reader.fixed(count * 48, "transfer.outputs")
    return Transfer(token, tuple(Output(to, low | high << 64) for to, low, high in _OUTPUT.iter_unpack(data)))


def _read_token_create(reader: Reader, limits: Limits) -> TokenCreate:
    symbol = reader.byte_string("token_create.symbol", SYMBOL_BYTES_MAX)
    check_symbol(symbol, "token_create.symbol")
    return TokenCreate(
        symbol=symbol,
        decimals=reader.u8("token_create.decimals", DECIMALS_MAX),
        supply=reader.u128("token_create.supply"),
        fixed=reader.boolean("token_create.fixed"),
    )


def _read_mint(reader: Reader, limits: Limits) -> Mint:
    return Mint(reader.bytes32("mint.token"), reader.bytes32("mint.to"), reader.u128("mint.amount"))


def _read_burn(reader: Reader, limits: Limits) -> Burn:
    return Burn(reader.bytes32("burn.token"), reader.u128("burn.amount"))


def _read_object_create(reader: Reader, limits: Limits) -> ObjectCreate:
    created = ObjectCreate(
        type=reader.u32("object_create.type"),
        owner_kind=OwnerKind(reader.u8("object_create.owner_kind", 2)),
        owner=reader.bytes32("object_create.owner"),
        data=reader.byte_string("object_create.data", limits.object_bytes_max),
    )
    if created.owner_kind is not OwnerKind.OWNED and created.owner != _ZERO:
        raise DecodeError("NonCanonical", "object_create.owner", created.owner, "zeros unless owned")
    return created


def _read_object_mutate(reader: Reader, limits: Limits) -> ObjectMutate:
    return ObjectMutate(
        reader.bytes32("object_mutate.id"),
        reader.byte_string("object_mutate.data", limits.object_bytes_max),
    )


def _read_object_transfer(reader: Reader, limits: Limits) -> ObjectTransfer:
    return ObjectTransfer(reader.bytes32("object_transfer.id"), reader.bytes32("object_transfer.to"))


def _read_object_share(reader: Reader, limits: Limits) -> ObjectShare:
    return ObjectShare(reader.bytes32("object_share.id"))


def _read_object_freeze(reader: Reader, limits: Limits) -> ObjectFreeze:
    return ObjectFreeze(reader.bytes32("object_freeze.id"))


def _read_object_delete(reader: Reader, limits: Limits) -> ObjectDelete:
    return ObjectDelete(reader.bytes32("object_delete.id"))


def _read_stake_add(reader: Reader, limits: Limits) -> StakeAdd:
    return StakeAdd(reader.u128("stake_add.amount"))


_READERS: dict[int, Callable[[Reader, Limits], Operation]] = {
    0: _read_transfer,
    1: _read_token_create,
    2: _read_mint,
    3: _read_burn,
    4: _read_object_create,
    5: _read_object_mutate,
    6: _read_object_transfer,
    7: _read_object_share,
    8: _read_object_freeze,
    9: _read_object_delete,
    StakeAdd.TAG: _read_stake_add,
    StakeLeave.TAG: lambda reader, limits: StakeLeave(),
    StakeWithdraw.TAG: lambda reader, limits: StakeWithdraw(),
}
