"""Tiny builders: people, a first state, unsigned transactions, blocks.

Execution doesn't verify signatures, so these transactions carry an empty one of the right form.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from supervm.contracts.gas import GasPolicy
from supervm.execution import GAS_STATE_KEY, BlockInput, BlockResult, execute_block
from supervm.plugins.gas.flat import FlatConfig, FlatPolicy
from supervm.types.limits import DEFAULT_LIMITS
from supervm.types.operations import Operation, Output, Transfer, encode_operations
from supervm.types.receipt import Receipt
from supervm.types.state import (
    ACCOUNT,
    NATIVE_TOKEN,
    Account,
    Object,
    OwnerKind,
    Token,
    account_key,
    balance_key,
    decode_balance,
    encode_balance,
    object_key,
    shared_owner,
    token_key,
)
from supervm.types.transaction import Authorization, Body, Transaction, encode_transaction

CHAIN = b"chain".ljust(32, b"\x00")
PRICE = 10_000
FUNDS = 10**12
GAS_LIMIT = 1_000_000
COLLECTOR = b"\xcc" * 32
FLAT = FlatPolicy(FlatConfig(price=PRICE, collector=f"0x{COLLECTOR.hex()}"))
BURNING = FlatPolicy(FlatConfig(price=PRICE))

State = dict[bytes, bytes]


def who(name: str) -> bytes:
    """The address of a person."""
    return name.encode().ljust(32, b"\x00")


ALICE, BOB, CAROL = who("alice"), who("bob"), who("carol")


def state_of(
    balances: Mapping[bytes, int] | None = None,
    *,
    tokens: Mapping[bytes, Mapping[bytes, int]] | None = None,
    minter: bytes = ALICE,
    fixed: bool = False,
    objects: Mapping[bytes, Object] | None = None,
    gas: GasPolicy = FLAT,
) -> State:
    """A state in which supplies are right: native balances, tokens by id, objects by id."""
    balances = {ALICE: FUNDS, BOB: FUNDS} if balances is None else balances
    native = Token(b"SVM", 9, bytes(32), True, sum(balances.values()))
    state = {GAS_STATE_KEY: gas.initial_state(), token_key(NATIVE_TOKEN): native.encode()}
    state.update(
        (account_key(each), Account(balance=held).encode()) for each, held in balances.items() if held
    )
    for token, held in (tokens or {}).items():
        state[token_key(token)] = Token(b"TOK", 0, minter, fixed, sum(held.values())).encode()
        state.update(
            (balance_key(each, token), encode_balance(amount)) for each, amount in held.items() if amount
        )
    state.update((object_key(each), found.encode()) for each, found in (objects or {}).items())
    return state


def owned(by: bytes, version: int = 1, data: bytes = b"data") -> Object:
    return Object(version, OwnerKind.OWNED, by, 7, False, data)


def shared(version: int = 1, initial: int = 1, data: bytes = b"data") -> Object:
    return Object(version, OwnerKind.SHARED, shared_owner(initial), 7, False, data)


def immutable(version: int = 1, data: bytes = b"data") -> Object:
    return Object(version, OwnerKind.IMMUTABLE, bytes(32), 7, False, data)


def transaction(*operations: Operation, sender: bytes = ALICE, nonce: int = 0, **fields: Any) -> Transaction:
    """An unsigned transaction of `sender`; `fields` are those of `Body`."""
    fields["inputs"] = tuple(sorted(fields.get("inputs", ()), key=lambda each: each.id))
    given = {
        "chain_id": CHAIN,
        "sender": sender,
        "nonce": nonce,
        "gas_limit": GAS_LIMIT,
        "max_price": PRICE,
        "max_fee": 0,
        "payload": encode_operations(operations),
    }
    body = Body(**{**given, **fields})
    unsigned = Authorization(1, bytes(32), bytes(64))
    return Transaction.decode(encode_transaction(body.encode(), [unsigned] * (2 if body.is_sponsored else 1)))


def pay(
    to: bytes, amount: int, token: bytes = NATIVE_TOKEN, sender: bytes = ALICE, nonce: int = 0, **fields: Any
) -> Transaction:
    """A transfer to one account."""
    return transaction(Transfer(token, (Output(to, amount),)), sender=sender, nonce=nonce, **fields)


def block_of(transactions: Sequence[Transaction], height: int = 1, **facts: Any) -> BlockInput:
    given: dict[str, Any] = {
        "height": height,
        "epoch": 1,
        "timestamp_ms": 1_700_000_000_000 + height,
        "chain_id": CHAIN,
        "limits": DEFAULT_LIMITS,
        "transactions": tuple(transactions),
    }
    return BlockInput(**{**given, **facts})


def apply(state: State, changes: Mapping[bytes, bytes | None]) -> None:
    """Put a block's changes into a state."""
    for key, value in changes.items():
        if value is None:
            del state[key]
        else:
            state[key] = value


def run(state: State, *transactions: Transaction, gas: GasPolicy = FLAT, **facts: Any) -> BlockResult:
    """Execute one block on a state and put its changes into it."""
    result = execute_block(state, block_of(transactions, **facts), gas)
    apply(state, result.changes)
    return result


def run_one(state: State, one: Transaction, gas: GasPolicy = FLAT, **facts: Any) -> Receipt:
    """Execute a block of one transaction on a state; its receipt."""
    (receipt,) = run(state, one, gas=gas, **facts).receipts
    return receipt


def account(state: Mapping[bytes, bytes], address: bytes) -> Account:
    data = state.get(account_key(address))
    return Account() if data is None else Account.decode(data)


def balance(state: Mapping[bytes, bytes], address: bytes, token: bytes = NATIVE_TOKEN) -> int:
    if token == NATIVE_TOKEN:
        return account(state, address).balance
    data = state.get(balance_key(address, token))
    return 0 if data is None else decode_balance(data)


def found(state: Mapping[bytes, bytes], object_id: bytes) -> Object:
    return Object.decode(state[object_key(object_id)])


def token_record(state: Mapping[bytes, bytes], token: bytes) -> Token:
    return Token.decode(state[token_key(token)])


def accounts_of(state: Mapping[bytes, bytes]) -> dict[bytes, Account]:
    return {key[1:]: Account.decode(data) for key, data in state.items() if key[:1] == ACCOUNT}
