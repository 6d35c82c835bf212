"""What the state holds: keys, and the values under them, each with its one encoding.

Keys begin with a byte that says what they are: 01 account, 02 balance of another token than the native
one, 03 token, 04 object, 05 system value. Values begin with `u8 format = 1`. An account with both nonces
and the balance zero, and a balance of zero, have no entry (the caller deletes the key instead).
"""

import struct
from enum import IntEnum

import attrs

from supervm.types import digests
from supervm.types.address import Address
from supervm.types.codec import U32_MAX, Reader, Writer
from supervm.types.digests import Digest
from supervm.types.errors import DecodeError

NATIVE_TOKEN = bytes(32)
"""The id of the native token, in which fees are paid by default."""

ACCOUNT = b"\x01"
BALANCE = b"\x02"
TOKEN = b"\x03"
OBJECT = b"\x04"
SYSTEM = b"\x05"

SYMBOL_BYTES_MAX = 16
DECIMALS_MAX = 18
SYSTEM_NAME_BYTES_MAX = 64

_SYMBOL_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_ACCOUNT = struct.Struct("<BQQQQ")
_BALANCE = struct.Struct("<BQQ")
_LOW_64 = 2**64 - 1


class OwnerKind(IntEnum):
    """Who may use an object (EXEC-1)."""

    OWNED = 0
    SHARED = 1
    IMMUTABLE = 2


def account_key(address: Address) -> bytes:
    """Return 01 || address."""
    return ACCOUNT + _id(address)


def balance_key(address: Address, token: bytes) -> bytes:
    """Return 02 || address || token. The native balance lives in the account, so it has no such key."""
    assert token != NATIVE_TOKEN, "the native balance lives in the account"
    return BALANCE + _id(address) + _id(token)


def balance_prefix(address: Address) -> bytes:
    """Return the common prefix of an address's balance keys, for a scan; the token id follows."""
    return BALANCE + _id(address)


def token_key(token: bytes) -> bytes:
    """Return 03 || token."""
    return TOKEN + _id(token)


def object_key(object_id: bytes) -> bytes:
    """Return 04 || object id."""
    return OBJECT + _id(object_id)


def system_key(name: bytes) -> bytes:
    """Return 05 || name; names have 1 to 64 bytes."""
    assert 1 <= len(name) <= SYSTEM_NAME_BYTES_MAX, f"system name of {len(name)} bytes"
    return SYSTEM + name


def _id(value: bytes) -> bytes:
    assert len(value) == 32, f"an id has 32 bytes, this one {len(value)}"
    return value


def token_id(transaction_digest: Digest, operation_index: int) -> bytes:
    """Return the id of the token that a transaction's operation of that index creates."""
    return digests.digest(digests.TOKEN, transaction_digest, operation_index.to_bytes(4, "little"))


def object_id(transaction_digest: Digest, output_index: int) -> bytes:
    """Return the id of a transaction's object; the index counts its ObjectCreate operations (EXEC-2)."""
    return digests.digest(digests.OBJECT, transaction_digest, output_index.to_bytes(4, "little"))


@attrs.frozen
class Account:
    """An account: next nonce, next nonce as sponsor, and balance of the native token in base units."""

    nonce: int = 0
    sponsor_nonce: int = 0
    balance: int = 0

    @property
    def is_empty(self) -> bool:
        return not (self.nonce or self.sponsor_nonce or self.balance)

    def encode(self) -> bytes:
        balance = self.balance
        assert 0 <= balance < 1 << 128, f"balance {balance}"
        return _ACCOUNT.pack(1, self.nonce, self.sponsor_nonce, balance & _LOW_64, balance >> 64)

    @classmethod
    def decode(cls, data: bytes) -> "Account":
        """Read an entry of the state; an empty account has none, so its encoding is refused."""
        if len(data) != _ACCOUNT.size:
            raise _wrong_size("account", data, _ACCOUNT.size)
        form, nonce, sponsor_nonce, low, high = _ACCOUNT.unpack(data)
        _check_format(form, "account")
        if not (nonce or sponsor_nonce or low or high):
            raise DecodeError("NonCanonical", "account", data, "an empty account has no entry")
        return cls(nonce, sponsor_nonce, low | high << 64)


def encode_balance(amount: int) -> bytes:
    """Return the entry of a balance of another token: u8 format, u128 amount, above zero."""
    assert 0 < amount < 1 << 128, f"balance {amount}"
    return _BALANCE.pack(1, amount & _LOW_64, amount >> 64)


def decode_balance(data: bytes) -> int:
    if len(data) != _BALANCE.size:
        raise _wrong_size("balance", data, _BALANCE.size)
    form, low, high = _BALANCE.unpack(data)
    _check_format(form, "balance")
    amount: int = low | high << 64
    if amount == 0:
        raise DecodeError("NonCanonical", "balance", amount, "a balance of zero has no entry")
    return amount


@attrs.frozen
class Token:
    """A token: symbol (ASCII), decimals, who may mint, whether the supply is fixed, supply in base units."""

    symbol: bytes
    decimals: int
    minter: Address
    fixed: bool
    supply: int

    def encode(self) -> bytes:
        check_symbol(self.symbol, "token.symbol")
        return (
            Writer()
            .u8(1)
            .byte_string(self.symbol)
            .u8(self.decimals, "decimals")
            .bytes32(self.minter, "minter")
            .boolean(self.fixed)
            .u128(self.supply, "supply")
            .done()
        )

    @classmethod
    def decode(cls, data: bytes) -> "Token":
        reader = Reader(data)
        reader.format_byte("token.format")
        symbol = reader.byte_string("token.symbol", SYMBOL_BYTES_MAX)
        check_symbol(symbol, "token.symbol")
        token = cls(
            symbol=symbol,
            decimals=reader.u8("token.decimals", DECIMALS_MAX),
            minter=reader.bytes32("token.minter"),
            fixed=reader.boolean("token.fixed"),
            supply=reader.u128("token.supply"),
        )
        reader.finish("token")
        return token


@attrs.frozen
class Object:
    """An object (EXEC-1). `owner` is an address, or for SHARED the initial version (see
    `shared_owner`), or zeros for IMMUTABLE. A deleted object stays as a tombstone without data."""

    version: int
    owner_kind: OwnerKind
    owner: bytes
    type: int
    deleted: bool = False
    data: bytes = b""

    @property
    def initial_version(self) -> int:
        """The version at which a shared object became shared."""
        assert self.owner_kind is OwnerKind.SHARED, "only shared objects have an initial version"
        return int.from_bytes(self.owner[:8], "little")

    def encode(self) -> bytes:
        return (
            Writer()
            .u8(1)
            .u64(self.version, "version")
            .u8(self.owner_kind)
            .bytes32(self.owner, "owner")
            .u32(self.type, "type")
            .boolean(self.deleted)
            .byte_string(self.data)
            .done()
        )

    @classmethod
    def decode(cls, data: bytes, data_bytes_max: int = U32_MAX) -> "Object":
        reader = Reader(data)
        reader.format_byte("object.format")
        found = cls(
            version=reader.u64("object.version"),
            owner_kind=OwnerKind(reader.u8("object.owner_kind", 2)),
            owner=reader.bytes32("object.owner"),
            type=reader.u32("object.type"),
            deleted=reader.boolean("object.deleted"),
            data=reader.byte_string("object.data", data_bytes_max),
        )
        reader.finish("object")
        if found.deleted and found.data:
            raise DecodeError("NonCanonical", "object.data", found.data, "a tombstone has no data")
        if found.owner_kind is OwnerKind.IMMUTABLE and any(found.owner):
            raise DecodeError("NonCanonical", "object.owner", found.owner, "zeros, when immutable")
        if found.owner_kind is OwnerKind.SHARED and any(found.owner[8:]):
            raise DecodeError("NonCanonical", "object.owner", found.owner, "u64 and zeros, when shared")
        return found


def shared_owner(initial_version: int) -> bytes:
    """Return the owner field of a shared object: u64 initial version, then zeros."""
    return initial_version.to_bytes(8, "little") + bytes(24)


def check_symbol(symbol: bytes, field: str) -> None:
    """Refuse a token symbol that is not 1 to 16 of A-Z and 0-9."""
    if not 1 <= len(symbol) <= SYMBOL_BYTES_MAX or not _SYMBOL_BYTES.issuperset(symbol):
        raise DecodeError("OutOfRange", field, symbol, f"1 to {SYMBOL_BYTES_MAX} of A-Z and 0-9")


def _check_format(form: int, field: str) -> None:
    if form != 1:
        raise DecodeError("UnknownFormat", f"{field}.format", form, "this release reads format 1")


def _wrong_size(field: str, data: bytes, size: int) -> DecodeError:
    code = "Truncated" if len(data) < size else "TrailingBytes"
    return DecodeError(code, field, f"{len(data)} bytes", f"exactly {size} bytes")
