"""What a transaction can touch, spend and lock: pure functions of its signed bytes (EXEC-4, CONS-10)."""

from collections.abc import Iterable, Mapping

from supervm.contracts.gas import FeeTerms, GasPolicy, reserve_of
from supervm.execution.working import GAS_STATE_KEY
from supervm.types.address import Address
from supervm.types.claims import NONCE_LOCK as NONCE_LOCK
from supervm.types.claims import OBJECT_LOCK as OBJECT_LOCK
from supervm.types.claims import SPONSOR_NONCE_LOCK as SPONSOR_NONCE_LOCK
from supervm.types.claims import object_lock as object_lock
from supervm.types.operations import (
    STAKING,
    Burn,
    Mint,
    ObjectCreate,
    StakeAdd,
    TokenCreate,
    Transfer,
)
from supervm.types.stakes import ESCROW, STAKES_KEY
from supervm.types.state import (
    ACCOUNT,
    BALANCE,
    NATIVE_TOKEN,
    OBJECT,
    TOKEN,
    Object,
    OwnerKind,
    object_id,
    token_id,
)
from supervm.types.transaction import Lane, Transaction


def fee_terms(transaction: Transaction, lane: Lane) -> FeeTerms:
    """What the gas policy may know of a transaction; `lane` is the one it takes."""
    body = transaction.body
    return FeeTerms(
        len(transaction.data),
        tuple([authorization.suite for authorization in transaction.authorizations]),
        body.gas_limit,
        body.max_price,
        body.tip_price,
        body.gas_token,
        body.max_fee,
        body.sender,
        body.fee_payer,
        lane,
        body.relays,
    )


def entry_key(address: Address, token: bytes) -> bytes:
    """The state key of an account's balance: the native one is in the account's own entry."""
    return ACCOUNT + address if token == NATIVE_TOKEN else BALANCE + address + token


def touched_keys(transaction: Transaction) -> frozenset[bytes]:
    """Every state key that executing the transaction may read or write, the gas policy's left out."""
    body = transaction.body
    sender = body.sender
    keys = {ACCOUNT + sender, ACCOUNT + body.fee_payer, entry_key(body.fee_payer, body.gas_token)}
    keys.update(OBJECT + each.id for each in body.inputs)
    objects_created = 0
    for index, operation in enumerate(transaction.operations):
        match operation:
            case Transfer(token, outputs):
                keys.add(entry_key(sender, token))
                keys.update(entry_key(output.to, token) for output in outputs)
            case TokenCreate():
                created = token_id(transaction.digest, index)
                keys.update((TOKEN + created, entry_key(sender, created)))
            case Mint(token, to, _):
                keys.update((TOKEN + token, entry_key(to, token)))
            case Burn(token, _):
                keys.update((TOKEN + token, entry_key(sender, token)))
            case ObjectCreate():
                keys.add(OBJECT + object_id(transaction.digest, objects_created))
                objects_created += 1
            case _ if isinstance(operation, STAKING):
                keys.update((STAKES_KEY, ACCOUNT + ESCROW))
    return frozenset(keys)


def block_keys(transactions: Iterable[Transaction], gas: GasPolicy, gas_state: bytes) -> frozenset[bytes]:
    """Every state key that executing a block of these transactions may read or write.

    `gas_state` is the value under `GAS_STATE_KEY`, which the caller reads first.
    """
    keys = {GAS_STATE_KEY, TOKEN + NATIVE_TOKEN}
    tokens = {NATIVE_TOKEN}
    for transaction in transactions:
        keys |= touched_keys(transaction)
        tokens.add(transaction.body.gas_token)
    keys.update(TOKEN + token for token in tokens)
    keys.update(entry_key(payee, token) for payee in gas.payees(gas_state) for token in tokens)
    return frozenset(keys)


def max_spend(transaction: Transaction) -> dict[tuple[Address, bytes], int]:
    """The most that execution may debit, by (account, token), in base units; zeros left out (EXEC-4).

    The sums may exceed 128 bits: no balance covers them then.
    """
    body = transaction.body
    spend: dict[tuple[Address, bytes], int] = {}

    def count(address: Address, token: bytes, amount: int) -> None:
        if amount:
            spend[address, token] = spend.get((address, token), 0) + amount

    count(body.fee_payer, body.gas_token, reserve_of(body))
    for operation in transaction.operations:
        match operation:
            case Transfer(token, outputs):
                count(body.sender, token, sum([output.amount for output in outputs]))
            case Burn(token, amount):
                count(body.sender, token, amount)
            case StakeAdd(amount):
                count(body.sender, NATIVE_TOKEN, amount)
    return spend


def nonce_lock(sender: Address, nonce: int) -> bytes:
    return NONCE_LOCK + sender + nonce.to_bytes(8, "little")


def sponsor_nonce_lock(fee_payer: Address, nonce: int) -> bytes:
    return SPONSOR_NONCE_LOCK + fee_payer + nonce.to_bytes(8, "little")


def locks_of(transaction: Transaction, objects: Mapping[bytes, Object | None]) -> tuple[bytes, ...]:
    """What accepting the transaction locks to its digest (CONS-10), as opaque bytes.

    The sender's nonce, the sponsor's nonce if there is one, and each Owned input at its declared version.
    `objects` holds the inputs by id: the signed bytes don't say which of them are Owned.
    """
    body = transaction.body
    locks = [nonce_lock(body.sender, body.nonce)]
    if body.is_sponsored:
        locks.append(sponsor_nonce_lock(body.fee_payer, body.sponsor_nonce))
    for declared in body.inputs:
        found = objects[declared.id]
        if found is not None and found.owner_kind is OwnerKind.OWNED:
            locks.append(object_lock(declared.id, declared.version))
    return tuple(locks)
