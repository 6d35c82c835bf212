"""The state while a block runs: decoded values over what was read, changes on top, one savepoint.

Every value is read before it is written, so that the block knows what each was before: the changes are
the difference, and conservation is checked on them (GAS-22).
"""

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from supervm.types.address import Address
from supervm.types.state import (
    ACCOUNT,
    BALANCE,
    NATIVE_TOKEN,
    OBJECT,
    SYSTEM,
    TOKEN,
    Account,
    Object,
    Token,
    decode_balance,
    encode_balance,
    system_key,
)

GAS_STATE_KEY = system_key(b"gas")
NO_ENTRY = Account()

Value: TypeAlias = Account | int | Token | Object | bytes | None


class StateReader(Protocol):
    """What a block is executed on: a dict of the whole state is one, and so is `Fetched`."""

    def get(self, key: bytes, /) -> bytes | None: ...


class Fetched:
    """State entries that were read beforehand: key to value, or to None where there is no entry.

    Asking for a key that was not fetched is a bug of the caller, never an absent entry.
    """

    def __init__(self, values: Mapping[bytes, bytes | None]) -> None:
        self._values = values

    def get(self, key: bytes, /) -> bytes | None:
        assert key in self._values, f"state key {key.hex()} was not fetched before execution"
        return self._values[key]


def read_account(state: StateReader, address: Address) -> Account:
    """The account of an address; a new one has no entry and all zeros."""
    data = state.get(ACCOUNT + address)
    return NO_ENTRY if data is None else Account.decode(data)


def read_balance(state: StateReader, address: Address, token: bytes) -> int:
    """Base units of a token on an account."""
    if token == NATIVE_TOKEN:
        return read_account(state, address).balance
    data = state.get(BALANCE + address + token)
    return 0 if data is None else decode_balance(data)


def read_object(state: StateReader, object_id: bytes) -> Object | None:
    """An object, a tombstone, or None where the id was never used."""
    data = state.get(OBJECT + object_id)
    return None if data is None else Object.decode(data)


class WorkingState:
    """State entries by key, as they stand at this point of the block."""

    def __init__(self, source: StateReader) -> None:
        self._source = source
        self._before: dict[bytes, Value] = {}
        self._now: dict[bytes, Value] = {}
        self._undo: dict[bytes, Value] = {}

    def read(self, key: bytes) -> Value:
        """The value now. An account and a balance always have one; the rest is None where absent."""
        try:
            return self._now[key]
        except KeyError:
            value = decode_value(key, self._source.get(key))
            self._before[key] = self._now[key] = value
            return value

    def write(self, key: bytes, value: Value) -> None:
        """Set the value of a key that was read."""
        if key not in self._undo:
            self._undo[key] = self._now[key]
        self._now[key] = value

    def savepoint(self) -> None:
        """Keep what was written so far, whatever happens after."""
        self._undo.clear()

    def rollback(self) -> None:
        """Undo everything since the savepoint."""
        self._now.update(self._undo)
        self._undo.clear()

    def account(self, address: Address) -> Account:
        value = self.read(ACCOUNT + address)
        assert type(value) is Account
        return value

    def balance(self, address: Address, token: bytes) -> int:
        if token == NATIVE_TOKEN:
            return self.account(address).balance
        value = self.read(BALANCE + address + token)
        assert type(value) is int
        return value

    def token(self, token: bytes) -> Token | None:
        value = self.read(TOKEN + token)
        assert value is None or type(value) is Token
        return value

    def object(self, object_id: bytes) -> Object | None:
        value = self.read(OBJECT + object_id)
        assert value is None or type(value) is Object
        return value

    def gas_state(self) -> bytes:
        value = self.read(GAS_STATE_KEY)
        assert type(value) is bytes, "the state holds no gas policy state: genesis puts it there"
        return value

    def add(self, address: Address, token: bytes, amount: int) -> None:
        """Change a balance by `amount`, which may be negative. It can't leave 0 to 2^128 - 1."""
        if token == NATIVE_TOKEN:
            account = self.account(address)
            balance = account.balance + amount
            assert 0 <= balance < 1 << 128, f"native balance of {address.hex()} would be {balance}"
            self.write(ACCOUNT + address, Account(account.nonce, account.sponsor_nonce, balance))
        elif amount:
            balance = self.balance(address, token) + amount
            assert 0 <= balance < 1 << 128, f"balance {token.hex()} of {address.hex()} would be {balance}"
            self.write(BALANCE + address + token, balance)

    def changed(self) -> list[tuple[bytes, Value, Value]]:
        """Every key whose value is another than before the block: (key, before, now), keys ascending."""
        before = self._before
        return [(key, before[key], now) for key, now in sorted(self._now.items()) if now != before[key]]


def decode_value(key: bytes, data: bytes | None) -> Value:
    """Read the entry under a state key; an absent account or balance is zero."""
    space = key[:1]
    if space == ACCOUNT:
        return NO_ENTRY if data is None else Account.decode(data)
    if space == BALANCE:
        return 0 if data is None else decode_balance(data)
    if data is None:
        return None
    if space == OBJECT:
        return Object.decode(data)
    if space == TOKEN:
        return Token.decode(data)
    assert space == SYSTEM, f"state key {key.hex()} has no known space"
    return data


def encode_value(value: Value) -> bytes | None:
    """The entry of a value, None where it has none: an empty account, a balance of zero."""
    match value:
        case Account():
            return None if value.is_empty else value.encode()
        case int():
            return encode_balance(value) if value else None
        case Token() | Object():
            return value.encode()
    return value
