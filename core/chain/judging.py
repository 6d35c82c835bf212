"""Whether the state lets a transaction in: at admission (EXEC-8), and at the accept (CONS-10..14). Pure.

Both read state that was fetched beforehand and neither changes any. What admission leaves open, because
time may settle it (a nonce gap, a version not reached yet), the accept does not.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from supervm.contracts.gas import GasPolicy
from supervm.execution.errors import AcceptRefused, LaneRefused
from supervm.execution.footprint import entry_key, fee_terms, locks_of, max_spend, nonce_lock
from supervm.execution.lanes import classify
from supervm.execution.plain import fee_terms_of_plain, lane_of_plain, spend_of_plain
from supervm.types.address import Address
from supervm.types.errors import InvalidInput
from supervm.types.operations import Burn, Transfer
from supervm.types.plain import PlainTransaction
from supervm.types.state import ACCOUNT, NATIVE_TOKEN, OBJECT, Account, Object, OwnerKind, decode_balance
from supervm.types.transaction import Access, Lane, Transaction

State = Mapping[bytes, bytes | None]
Spending = Callable[[Address, bytes], int]
"""How much of a token an account is bound to spend already, in base units."""


@attrs.frozen
class Judged:
    """A transaction that the state lets in: its lane, what a unit of gas pays, its locks and spends."""

    lane: Lane
    price: int
    locks: tuple[bytes, ...]
    spends: Mapping[tuple[Address, bytes], int]


def admission_keys(transaction: Transaction) -> set[bytes]:
    """The state keys that judging a transaction reads: nonces, inputs, and what `max_spend` may name."""
    if isinstance(transaction, PlainTransaction):
        return {ACCOUNT + transaction.plain.sender}
    body = transaction.body
    sender = body.sender
    keys = {ACCOUNT + sender, ACCOUNT + body.fee_payer, entry_key(body.fee_payer, body.gas_token)}
    if body.inputs:
        keys.update([OBJECT + each.id for each in body.inputs])
    for operation in transaction.operations:
        match operation:
            case Transfer(token, _) | Burn(token, _):
                keys.add(entry_key(sender, token))
    return keys


def judge(
    transaction: Transaction,
    state: State,
    gas: GasPolicy,
    gas_state: bytes,
    spending: Spending,
    private_kinds: frozenset[int] = frozenset(),
) -> Judged:
    """Check fee fields, reserve and inputs, in this order. Raises `GasError` or `ExecutionError`.

    The nonce is the caller's to check: only it knows what else is pending.
    """
    if isinstance(transaction, PlainTransaction):
        return judge_plain(
            transaction,
            state_balance(state, transaction.plain.sender, NATIVE_TOKEN),
            gas,
            gas_state,
            spending,
        )
    objects = input_objects(transaction, state)
    lane, wrong = _lane(transaction, objects, private_kinds)
    quote = gas.admit(fee_terms(transaction, lane), gas_state)
    spends = max_spend(transaction)
    for (address, token), amount in spends.items():
        check_funds(address, token, amount, state_balance(state, address, token), spending(address, token))
    if wrong is not None:
        raise wrong
    check_inputs(transaction, objects)
    return Judged(lane, quote.price, locks_of(transaction, objects), spends)


def judge_plain(
    transaction: PlainTransaction, have: int, gas: GasPolicy, gas_state: bytes, spending: Spending
) -> Judged:
    """As `judge`, of a plain transfer whose sender has so much."""
    said = transaction.plain
    sender = said.sender
    lane = lane_of_plain(said)
    price = gas.admit(fee_terms_of_plain(said, lane), gas_state).price
    spend = spend_of_plain(said)
    check_funds(sender, NATIVE_TOKEN, spend, have, spending(sender, NATIVE_TOKEN))
    return Judged(
        lane, price, (nonce_lock(sender, said.nonce),), {(sender, NATIVE_TOKEN): spend} if spend else {}
    )


def check_funds(address: Address, token: bytes, amount: int, have: int, bound: int) -> None:
    """Refuse a debit of `amount` where an account has less, besides what is bound already."""
    if have < bound + amount:
        raise AcceptRefused(
            "InsufficientFunds",
            "balance",
            f"this needs {amount} of token 0x{token.hex()}, {bound} more are bound by what waits",
            have,
            f"bring the balance of 0x{address.hex()} to {bound + amount} first",
            retryable=True,
        )


def check_inputs(
    transaction: Transaction, objects: Mapping[bytes, Object | None], *, exact: bool = False
) -> None:
    """Refuse an input at a past version, or with an access that its owner class doesn't take (EXEC-3).

    `exact`: a version not reached yet is refused too (CONS-14). Ownership and existence are judged by
    `classify`, before.
    """
    for declared in transaction.body.inputs:
        found = objects[declared.id]
        assert found is not None, "classify refuses what isn't there"
        current = found.initial_version if found.owner_kind is OwnerKind.SHARED else found.version
        if declared.version < current or (
            declared.version > current and found.owner_kind is not OwnerKind.OWNED
        ):
            raise AcceptRefused(
                "VersionMismatch",
                "inputs",
                f"input 0x{declared.id.hex()} is declared at another version",
                declared.version,
                f"the version is {current}; read the object again and sign anew",
            )
        if exact and declared.version > current:
            raise AcceptRefused(
                "VersionBehind",
                "inputs",
                f"input 0x{declared.id.hex()} isn't at this version yet",
                declared.version,
                f"the version is {current}",
                retryable=True,
            )
        if found.owner_kind is OwnerKind.IMMUTABLE and declared.access is not Access.READ:
            raise AcceptRefused(
                "ImmutableObject", "inputs", "an immutable object is only read", declared.access.name, "READ"
            )
        if found.owner_kind is OwnerKind.SHARED and declared.access > Access.WRITE:
            raise AcceptRefused(
                "NotOwned",
                "inputs",
                "a shared object is read or written",
                declared.access.name,
                "READ, WRITE",
            )


def _lane(
    transaction: Transaction, objects: Mapping[bytes, Object | None], private_kinds: frozenset[int]
) -> tuple[Lane, LaneRefused | None]:
    """The lane; where none takes it, one for judging the fee, and why: the fee is judged before inputs."""
    try:
        return classify(transaction, objects, private_kinds), None
    except LaneRefused as wrong:
        asked = transaction.body.lane
        return (Lane.ORDERED if asked is Lane.AUTO else asked), wrong


def input_objects(transaction: Transaction, state: State) -> dict[bytes, Object | None]:
    """The inputs by id, as the state has them."""
    objects: dict[bytes, Object | None] = {}
    for declared in transaction.body.inputs:
        data = state[OBJECT + declared.id]
        objects[declared.id] = None if data is None else Object.decode(data)
    return objects


def state_balance(state: State, address: Address, token: bytes) -> int:
    """What an address has of a token, in base units."""
    data = state[entry_key(address, token)]
    if data is None:
        return 0
    return Account.decode(data).balance if token == NATIVE_TOKEN else decode_balance(data)


@attrs.frozen
class Checked:
    """A batch's verdict: locks to take, with their digests, and by index why others can't be accepted."""

    locks: Mapping[bytes, bytes]
    refused: Mapping[int, InvalidInput]


def check_batch(
    transactions: Sequence[Transaction],
    past: Iterable[Transaction],
    held: Mapping[bytes, bytes],
    state: State,
    gas: GasPolicy,
    gas_state: bytes,
    private_kinds: frozenset[int] = frozenset(),
) -> Checked:
    """Judge each transaction for an accept, in batch order, counting those before it and the past.

    `held`: the locks of this validator in this epoch, lock to digest. `state` holds `admission_keys` of
    all.
    """
    spent: dict[tuple[Address, bytes], int] = {}
    nonces: dict[Address, int] = {}
    locks: dict[bytes, bytes] = {}
    refused: dict[int, InvalidInput] = {}

    def next_nonce(sender: Address) -> int:
        if sender not in nonces:
            data = state[ACCOUNT + sender]
            nonces[sender] = 0 if data is None else Account.decode(data).nonce
        return nonces[sender]

    def accept(transaction: Transaction, spends: Mapping[tuple[Address, bytes], int]) -> None:
        body = transaction.body
        for account, amount in spends.items():
            spent[account] = spent.get(account, 0) + amount
        if body.nonce == next_nonce(body.sender):
            nonces[body.sender] += 1

    for transaction in past:
        accept(transaction, max_spend(transaction))
    for index, transaction in enumerate(transactions):
        try:
            _check_nonce(transaction, next_nonce(transaction.body.sender))
            found = judge(
                transaction,
                state,
                gas,
                gas_state,
                lambda address, token: spent.get((address, token), 0),
                private_kinds,
            )
            check_inputs(transaction, input_objects(transaction, state), exact=True)
            for lock in found.locks:
                _check_lock(transaction, lock, locks.get(lock, held.get(lock)))
        except InvalidInput as wrong:
            refused[index] = wrong
            continue
        accept(transaction, found.spends)
        locks.update((lock, transaction.digest) for lock in found.locks)
    return Checked(locks, refused)


def _check_nonce(transaction: Transaction, expected: int) -> None:
    nonce = transaction.body.nonce
    if nonce < expected:
        raise AcceptRefused("NonceUsed", "nonce", "the nonce is used", nonce, f"the next is {expected}")
    if nonce > expected:
        raise AcceptRefused(
            "NonceGap",
            "nonce",
            "nonces before it aren't certified",
            nonce,
            f"the next is {expected}",
            retryable=True,
        )


def _check_lock(transaction: Transaction, lock: bytes, holder: bytes | None) -> None:
    if holder is not None and holder != transaction.digest:
        field = "nonce" if lock == nonce_lock(transaction.body.sender, transaction.body.nonce) else "inputs"
        raise AcceptRefused(
            "LockBusy",
            field,
            "another transaction holds the lock",
            transaction.digest,
            f"0x{holder.hex()} was accepted first",
            retryable=True,
            conflict=holder,
        )
