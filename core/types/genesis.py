"""Genesis: what a chain starts from, and so what it is. The chain id is the digest of its encoding."""

from functools import cached_property

import attrs

from supervm.types import digests, smt
from supervm.types.address import Address
from supervm.types.block import Block, BlockBody, BlockHeader
from supervm.types.codec import U128_MAX, Reader, Writer, check_ascending
from supervm.types.digests import Digest, digest
from supervm.types.errors import DecodeError, InvalidInput
from supervm.types.limits import DEFAULT_LIMITS, Limits
from supervm.types.state import (
    DECIMALS_MAX,
    NATIVE_TOKEN,
    SYMBOL_BYTES_MAX,
    Account,
    Token,
    account_key,
    balance_key,
    check_symbol,
    encode_balance,
    token_key,
)
from supervm.types.validators import ValidatorSet

GENESIS_FORMAT = 1
ENTRIES_MAX = 1_000_000
"""Accounts, and balances of each token, that a genesis may fund."""
TOKENS_MAX = 1024
NAME_BYTES_MAX = 64
PARAMETERS_MAX = 256
PARAMETER_BYTES_MAX = 4096
ZERO = bytes(32)
EPOCH_BLOCKS = 3_600
"""Blocks of an epoch unless the genesis says otherwise (CONS-50)."""

Entry = tuple[Address, int]
"""An address and what it holds, in base units, above zero."""


@attrs.frozen(kw_only=True)
class GenesisToken:
    """A token that exists from the start; its supply is the sum of its balances."""

    id: bytes
    symbol: bytes
    decimals: int
    minter: Address
    fixed: bool
    balances: tuple[Entry, ...] = ()


@attrs.frozen(kw_only=True)
class GenesisGas:
    """The gas component that the chain fixes, with its parameters, both as text."""

    component: str = "flat"
    parameters: tuple[tuple[str, str], ...] = ()
    """(name, value) strictly ascending by name."""


@attrs.frozen(kw_only=True, slots=False)
class Genesis:
    """A chain's start. `created_ms` is UTC milliseconds; lists are strictly ascending by their ids.

    `development` marks a chain whose keys are public knowledge. Wrong values raise `InvalidInput`.
    """

    name: str
    created_ms: int
    development: bool = False
    epoch_blocks: int = EPOCH_BLOCKS
    native_symbol: bytes = b"SVM"
    native_decimals: int = 9
    validators: ValidatorSet
    accounts: tuple[Entry, ...] = ()
    tokens: tuple[GenesisToken, ...] = ()
    gas: GenesisGas = GenesisGas()
    limits: Limits = DEFAULT_LIMITS
    state_tree: str = smt.TREE_NAME

    def __attrs_post_init__(self) -> None:
        _check(self)

    @cached_property
    def chain_id(self) -> Digest:
        """Return digest("supervm/genesis/v1", encoding)."""
        return digest(digests.GENESIS, self.encode())

    def encode(self) -> bytes:
        """Return the canonical encoding, which the chain id covers."""
        writer = (
            Writer()
            .u8(GENESIS_FORMAT)
            .byte_string(self.name.encode("ascii"), "name")
            .u64(self.created_ms, "created_ms")
            .boolean(self.development)
            .u64(self.epoch_blocks, "epoch_blocks")
            .byte_string(self.state_tree.encode("ascii"), "state_tree")
            .byte_string(self.native_symbol, "native_symbol")
            .u8(self.native_decimals, "native_decimals")
            .raw(self.validators.encode())
        )
        _write_entries(writer, self.accounts)
        writer.count(len(self.tokens), "tokens")
        for token in self.tokens:
            writer.bytes32(token.id, "token.id").byte_string(token.symbol).u8(token.decimals, "decimals")
            writer.bytes32(token.minter, "token.minter").boolean(token.fixed)
            _write_entries(writer, token.balances)
        writer.byte_string(self.gas.component.encode("ascii"), "gas.component")
        writer.count(len(self.gas.parameters), "gas.parameters")
        for name, value in self.gas.parameters:
            writer.byte_string(name.encode("ascii"), "parameter").byte_string(value.encode("ascii"), "value")
        return writer.raw(self.limits.encode()).done()

    @classmethod
    def decode(cls, data: bytes) -> "Genesis":
        """Read the canonical encoding; anything else raises `DecodeError` or `InvalidInput`."""
        reader = Reader(data)
        reader.format_byte("genesis.format", GENESIS_FORMAT)
        genesis = cls(
            name=_read_text(reader, "genesis.name", NAME_BYTES_MAX),
            created_ms=reader.u64("genesis.created_ms"),
            development=reader.boolean("genesis.development"),
            epoch_blocks=reader.u64("genesis.epoch_blocks"),
            state_tree=_read_text(reader, "genesis.state_tree", NAME_BYTES_MAX),
            native_symbol=reader.byte_string("genesis.native_symbol", SYMBOL_BYTES_MAX),
            native_decimals=reader.u8("genesis.native_decimals"),
            validators=ValidatorSet.read(reader),
            accounts=_read_entries(reader, "genesis.accounts"),
            tokens=_read_tokens(reader),
            gas=_read_gas(reader),
            limits=Limits.read(reader),
        )
        reader.finish("genesis")
        return genesis


def genesis_state(genesis: Genesis) -> dict[bytes, bytes]:
    """Return the first state, key to value, without the gas component's own (which its owner adds)."""
    state: dict[bytes, bytes] = {}
    native = Token(
        symbol=genesis.native_symbol,
        decimals=genesis.native_decimals,
        minter=ZERO,
        fixed=True,
        supply=sum(amount for _, amount in genesis.accounts),
    )
    state[token_key(NATIVE_TOKEN)] = native.encode()
    for address, amount in genesis.accounts:
        state[account_key(address)] = Account(balance=amount).encode()
    for each in genesis.tokens:
        token = Token(
            symbol=each.symbol,
            decimals=each.decimals,
            minter=each.minter,
            fixed=each.fixed,
            supply=sum(amount for _, amount in each.balances),
        )
        state[token_key(each.id)] = token.encode()
        for address, amount in each.balances:
            state[balance_key(address, each.id)] = encode_balance(amount)
    return state


def genesis_block(genesis: Genesis, state_root: Digest, base_price: int = 0) -> Block:
    """Return block 0: no transactions, no proposer, and the root of the first state."""
    body = BlockBody()
    header = BlockHeader(
        chain_id=genesis.chain_id,
        epoch=0,
        height=0,
        parent=ZERO,
        proposer=ZERO,
        timestamp_ms=genesis.created_ms,
        root_height=0,
        state_root=state_root,
        receipts_root=ZERO,
        base_price=base_price,
        transactions_root=body.transactions_root(),
        body_digest=body.digest(),
        validators_digest=genesis.validators.digest(),
        next_validators_digest=ZERO,
    )
    return Block(header, body)


def _check(genesis: Genesis) -> None:
    _check_text(genesis.name, "name", NAME_BYTES_MAX, 1)
    if genesis.state_tree != smt.TREE_NAME:
        raise InvalidInput("UnknownFormat", "state_tree: unknown", genesis.state_tree, smt.TREE_NAME)
    if not 0 <= genesis.created_ms < 1 << 64:
        raise InvalidInput("OutOfRange", "created_ms: out of range", genesis.created_ms, "a u64")
    if not 1 <= genesis.epoch_blocks < 1 << 64:
        raise InvalidInput("OutOfRange", "epoch_blocks: out of range", genesis.epoch_blocks, "at least 1")
    if not genesis.validators.members:
        raise InvalidInput("OutOfRange", "validators: empty", mend="at least one")
    _check_denomination(genesis.native_symbol, genesis.native_decimals, "native")
    _check_entries(genesis.accounts, "accounts")
    if len(genesis.tokens) > TOKENS_MAX:
        raise InvalidInput("TooMany", "tokens: too many", len(genesis.tokens), f"at most {TOKENS_MAX}")
    check_ascending([token.id for token in genesis.tokens], "tokens")
    for token in genesis.tokens:
        if token.id == NATIVE_TOKEN:
            raise InvalidInput("OutOfRange", "tokens: the native token's id", token.id, "another id")
        _check_denomination(token.symbol, token.decimals, "token")
        _check_entries(token.balances, "token.balances")
    _check_text(genesis.gas.component, "gas.component", NAME_BYTES_MAX, 1)
    if len(genesis.gas.parameters) > PARAMETERS_MAX:
        raise InvalidInput("TooMany", "gas.parameters: too many", len(genesis.gas.parameters))
    for name, value in genesis.gas.parameters:
        _check_text(name, "gas.parameters", NAME_BYTES_MAX, 1)
        _check_text(value, f"gas.parameters.{name}", PARAMETER_BYTES_MAX, 0)
    check_ascending([name.encode() for name, _ in genesis.gas.parameters], "gas.parameters")


def _check_denomination(symbol: bytes, decimals: int, field: str) -> None:
    check_symbol(symbol, f"{field}.symbol")
    if not 0 <= decimals <= DECIMALS_MAX:
        raise InvalidInput("OutOfRange", f"{field}.decimals: out of range", decimals, f"0 to {DECIMALS_MAX}")


def _check_entries(entries: tuple[Entry, ...], field: str) -> None:
    if len(entries) > ENTRIES_MAX:
        raise InvalidInput("TooMany", f"{field}: too many", len(entries), f"at most {ENTRIES_MAX}")
    check_ascending([address for address, _ in entries], field)
    total = 0
    for address, amount in entries:
        if not 0 < amount <= U128_MAX:
            raise InvalidInput("OutOfRange", f"{field} of 0x{address.hex()}", amount, "1 to 2^128 - 1")
        total += amount
    if total > U128_MAX:
        raise InvalidInput("OutOfRange", f"{field}: the sum is too large", total, "at most 2^128 - 1")


def _check_text(text: str, field: str, maximum: int, minimum: int) -> None:
    if not minimum <= len(text) <= maximum or not text.isascii() or not text.isprintable():
        mend = f"{minimum} to {maximum} printable ASCII characters"
        raise InvalidInput("OutOfRange", f"{field}: not fit", text, mend)


def _write_entries(writer: Writer, entries: tuple[Entry, ...]) -> None:
    writer.u32(len(entries), "entries")
    for address, amount in entries:
        writer.bytes32(address, "address").u128(amount, "amount")


def _read_entries(reader: Reader, field: str) -> tuple[Entry, ...]:
    count = reader.count32(field, ENTRIES_MAX, item_bytes_min=48)
    return tuple((reader.bytes32(field), reader.u128(field)) for _ in range(count))


def _read_tokens(reader: Reader) -> tuple[GenesisToken, ...]:
    count = reader.count("genesis.tokens", TOKENS_MAX, item_bytes_min=75)
    return tuple(
        GenesisToken(
            id=reader.bytes32("token.id"),
            symbol=reader.byte_string("token.symbol", SYMBOL_BYTES_MAX),
            decimals=reader.u8("token.decimals"),
            minter=reader.bytes32("token.minter"),
            fixed=reader.boolean("token.fixed"),
            balances=_read_entries(reader, "token.balances"),
        )
        for _ in range(count)
    )


def _read_gas(reader: Reader) -> GenesisGas:
    component = _read_text(reader, "gas.component", NAME_BYTES_MAX)
    count = reader.count("gas.parameters", PARAMETERS_MAX, item_bytes_min=9)
    parameters = tuple(
        (
            _read_text(reader, "gas.parameter", NAME_BYTES_MAX),
            _read_text(reader, "gas.parameter", PARAMETER_BYTES_MAX),
        )
        for _ in range(count)
    )
    return GenesisGas(component=component, parameters=parameters)


def _read_text(reader: Reader, field: str, maximum: int) -> str:
    data = reader.byte_string(field, maximum)
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise DecodeError("NonCanonical", field, data, "printable ASCII") from None
