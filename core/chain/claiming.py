"""What a certifying engine asks of a batch's transactions (CONS-10..14), and what a block used up. Pure.

Locks and funds are the engine's to judge: it knows which transactions are certified. All that doesn't rest
on locks is judged here: fee fields, inputs, lane; and the facts that the engine needs are looked up.
"""

from collections.abc import Mapping, Sequence

from supervm.chain.judging import State, check_inputs, input_objects, judge, state_balance
from supervm.contracts.gas import GasPolicy
from supervm.execution.claims import claim_of
from supervm.execution.footprint import nonce_lock, object_lock, sponsor_nonce_lock
from supervm.execution.lanes import lane_taken
from supervm.execution.plain import claim_of_plain, fee_terms_of_plain, lane_of_plain, spend_of_plain
from supervm.types.claims import NONCE_LOCK, SPONSOR_NONCE_LOCK, Account, Claim, Examined, Facts
from supervm.types.errors import InvalidInput
from supervm.types.plain import Plain, PlainTransaction
from supervm.types.state import ACCOUNT, NATIVE_TOKEN, OBJECT, Object, OwnerKind
from supervm.types.state import Account as AccountState
from supervm.types.transaction import Lane, Transaction


def examine_transactions(
    transactions: Sequence[Transaction],
    state: State,
    height: int,
    gas: GasPolicy,
    gas_state: bytes,
    *,
    wrong: Mapping[int, str],
    gas_sum: int,
    private_kinds: frozenset[int] = frozenset(),
) -> Examined:
    """Claims and facts of a batch's transactions, and which of them can't be accepted as they are.

    `state` holds `admission_keys` of all, as of the executed block of `height`. `wrong`: codes by index of
    those whose bytes or signatures aren't in order.
    """
    claims: list[Claim] = []
    refused = dict(wrong)
    nonces: dict[bytes, int] = {}
    balances: dict[Account, int] = {}
    lanes: set[Lane] = set()
    for index, transaction in enumerate(transactions):
        if isinstance(transaction, PlainTransaction):
            said = transaction.plain
            lane = lane_of_plain(said)
            claims.append(claim_of_plain(transaction, lane))
            lanes.add(lane)
            account = _account(state, said.sender)
            nonces[NONCE_LOCK + said.sender] = account.nonce
            balances[said.sender, NATIVE_TOKEN] = account.balance
            if index not in refused:
                code = _refusal_of_plain(said, lane, account, gas, gas_state)
                if code:
                    refused[index] = code
            continue
        objects = input_objects(transaction, state)
        lane = lane_taken(transaction, objects)
        lanes.add(lane)
        claim = claim_of(transaction, objects, lane)
        claims.append(claim)
        for each, _ in claim.spends:
            balances[each] = state_balance(state, *each)
        body = transaction.body
        sender = _account(state, body.sender)
        nonces[NONCE_LOCK + body.sender] = sender.nonce
        if body.is_sponsored:
            nonces[SPONSOR_NONCE_LOCK + body.fee_payer] = _account(state, body.fee_payer).sponsor_nonce
        if index in refused:
            continue
        if body.nonce < sender.nonce:
            refused[index] = "NonceUsed"
            continue
        if body.lane is Lane.PRIVATE:
            # No scheme says here which key images it reveals, and they would have to be locked (CONS-10).
            refused[index] = "VerifierUnavailable"
            continue
        try:
            judge(transaction, state, gas, gas_state, lambda address, token: 0, private_kinds)
            check_inputs(transaction, objects, exact=True)
        except InvalidInput as error:
            refused[index] = error.code
    all_fast = lanes == {Lane.FAST}
    return Examined(Facts(height, nonces, balances), tuple(claims), refused, gas_sum, all_fast=all_fast)


def _refusal_of_plain(
    said: Plain, lane: Lane, account: AccountState, gas: GasPolicy, gas_state: bytes
) -> str:
    """The code by which the state doesn't let a plain transfer in, as `judge_plain`; empty if it does."""
    if said.nonce < account.nonce:
        return "NonceUsed"
    try:
        gas.admit(fee_terms_of_plain(said, lane), gas_state)
    except InvalidInput as error:
        return error.code
    return "InsufficientFunds" if account.balance < spend_of_plain(said) else ""


def used_keys(transactions: Sequence[Transaction]) -> set[bytes]:
    """The state keys that `used_slots` reads."""
    keys: set[bytes] = set()
    for transaction in transactions:
        if isinstance(transaction, PlainTransaction):
            keys.add(ACCOUNT + transaction.plain.sender)
            continue
        body = transaction.body
        keys.update((ACCOUNT + body.sender, ACCOUNT + body.fee_payer))
        keys.update(OBJECT + each.id for each in body.inputs)
    return keys


def used_slots(transactions: Sequence[Transaction], state: State) -> tuple[bytes, ...]:
    """The slots of these transactions that the state has moved past, by whichever of them (CONS-15)."""
    used: dict[bytes, None] = {}
    for transaction in transactions:
        if isinstance(transaction, PlainTransaction):
            said = transaction.plain
            if said.nonce < _account(state, said.sender).nonce:
                used[nonce_lock(said.sender, said.nonce)] = None
            continue
        body = transaction.body
        if body.nonce < _account(state, body.sender).nonce:
            used[nonce_lock(body.sender, body.nonce)] = None
        if body.is_sponsored and body.sponsor_nonce < _account(state, body.fee_payer).sponsor_nonce:
            used[sponsor_nonce_lock(body.fee_payer, body.sponsor_nonce)] = None
        for declared in body.inputs:
            data = state[OBJECT + declared.id]
            found = None if data is None else Object.decode(data)
            if found is not None and _is_past(found, declared.version):
                used[object_lock(declared.id, declared.version)] = None
    return tuple(used)


def _is_past(found: Object, version: int) -> bool:
    """Whether nothing can use an owned object at this version any more."""
    return version < found.version or found.deleted or found.owner_kind is not OwnerKind.OWNED


def _account(state: State, address: bytes) -> AccountState:
    data = state[ACCOUNT + address]
    return AccountState() if data is None else AccountState.decode(data)
