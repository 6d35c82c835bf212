"""Stakes: who validates next, as operations and the election give it (CONS-50, CONS-83, GAS-19)."""

from typing import Any

import pytest

from supervm.execution import BlockResult, execute_block
from supervm.execution.election import MINIMUM_COINS, elect
from supervm.execution.engine import NativeEngine
from supervm.execution.errors import LaneRefused
from supervm.execution.footprint import max_spend
from supervm.execution.lanes import classify
from supervm.execution.staking import UNBONDING_EPOCHS
from supervm.execution.supply import recorded_supply, supply
from supervm.types.address import Suite, address_of, node_id_of
from supervm.types.operations import Operation, StakeAdd, StakeLeave, StakeWithdraw, encode_operations
from supervm.types.receipt import Status
from supervm.types.stakes import ESCROW, STAKES_KEY, Stake, Stakes, stakes_of
from supervm.types.state import NATIVE_TOKEN, account_key
from supervm.types.transaction import Authorization, Body, Lane, Transaction, encode_transaction
from supervm.types.validators import Validator, ValidatorSet
from tests import needs

from .builders import ALICE, BURNING, CHAIN, PRICE, State, block_of, pay, state_of

COINS = MINIMUM_COINS * 10**9
RICH = 10 * COINS
KEYS = {name: bytes([at]) * 32 for at, name in enumerate(("genesis", "other", "joiner", "poor"), 1)}
NAMED = ValidatorSet(
    tuple(
        sorted(
            (
                Validator(node_id_of(Suite.ED25519, KEYS[name]), KEYS[name], 2)
                for name in ("genesis", "other")
            ),
            key=lambda each: each.node_id,
        )
    )
)


def account(name: str) -> bytes:
    return address_of(Suite.ED25519, KEYS[name])


def first_state() -> State:
    balances = {account(name): RICH for name in KEYS} | {account("poor"): COINS // 2, ALICE: RICH}
    return state_of(balances, gas=BURNING)


def signed(name: str, *operations: Operation, nonce: int = 0, **fields: Any) -> Transaction:
    body = Body(
        chain_id=CHAIN,
        sender=account(name),
        nonce=nonce,
        gas_limit=1_000_000,
        max_price=PRICE,
        max_fee=0,
        payload=encode_operations(operations),
        **fields,
    )
    return Transaction.decode(
        encode_transaction(body.encode(), [Authorization(Suite.ED25519, KEYS[name], bytes(64))])
    )


def run(state: State, *transactions: Transaction, epoch: int = 1) -> BlockResult:
    """Execute on the state, which follows."""
    found = execute_block(state, block_of(transactions, epoch=epoch, granted=NAMED), BURNING)
    for key, value in found.changes.items():
        if value is None:
            state.pop(key, None)
        else:
            state[key] = value
    assert supply(state) == recorded_supply(state)
    return found


def set_of(state: State) -> dict[str, int]:
    names = {node_id_of(Suite.ED25519, key): name for name, key in KEYS.items()}
    found = elect(NAMED, stakes_of(state.get(STAKES_KEY)), 9)
    return {names[each.node_id]: each.weight for each in found.members}


def code(found: BlockResult) -> str:
    return found.receipts[0].code


def test_whoever_stakes_enough_is_in_the_next_set_beside_the_members_of_genesis() -> None:
    state = first_state()
    assert set_of(state) == {"genesis": 2, "other": 2}
    assert code(run(state, signed("joiner", StakeAdd(3 * COINS)))) == ""
    assert set_of(state) == {"genesis": 2, "other": 2, "joiner": 3}
    assert code(run(state, signed("genesis", StakeAdd(COINS)))) == ""
    assert set_of(state) == {"genesis": 3, "other": 2, "joiner": 3}


def test_a_stake_below_the_minimum_or_the_balance_changes_nothing() -> None:
    state = first_state()
    assert code(run(state, signed("joiner", StakeAdd(COINS - 1)))) == "StakeTooLow"
    assert code(run(state, signed("poor", StakeAdd(COINS)))) == "InsufficientFunds"
    assert STAKES_KEY not in state and account_key(ESCROW) not in state
    assert set_of(state) == {"genesis": 2, "other": 2}


def test_who_leaves_is_in_no_set_and_gets_the_coins_back_after_the_unbonding_time() -> None:
    state = first_state()
    run(state, signed("joiner", StakeAdd(COINS)))
    left = run(state, signed("joiner", StakeWithdraw(), nonce=1))
    assert code(left) == "StakeBound"
    assert code(run(state, signed("joiner", StakeLeave(), nonce=2), epoch=3)) == ""
    assert set_of(state) == {"genesis": 2, "other": 2}
    again = run(state, signed("joiner", StakeLeave(), nonce=3), epoch=3)
    more = run(state, signed("joiner", StakeAdd(COINS), nonce=4), epoch=3)
    assert (code(again), code(more)) == ("StakeLeaving", "StakeLeaving")
    early = run(state, signed("joiner", StakeWithdraw(), nonce=5), epoch=2 + UNBONDING_EPOCHS)
    assert code(early) == "StakeBound"
    assert code(run(state, signed("joiner", StakeWithdraw(), nonce=6), epoch=3 + UNBONDING_EPOCHS)) == ""
    assert STAKES_KEY not in state and account_key(ESCROW) not in state


def test_a_member_of_genesis_leaves_for_good_and_comes_back_only_by_a_stake() -> None:
    state = first_state()
    run(state, signed("genesis", StakeAdd(COINS)))
    run(state, signed("genesis", StakeLeave(), nonce=1))
    assert set_of(state) == {"other": 2}
    late = 1 + UNBONDING_EPOCHS
    assert code(run(state, signed("genesis", StakeWithdraw(), nonce=2), epoch=late)) == ""
    assert set_of(state) == {"other": 2}
    assert code(run(state, signed("genesis", StakeAdd(COINS), nonce=3), epoch=late)) == ""
    assert set_of(state) == {"genesis": 1, "other": 2}


def test_the_last_validator_can_not_leave() -> None:
    state = first_state()
    assert code(run(state, signed("genesis", StakeLeave()))) == ""
    assert code(run(state, signed("other", StakeLeave()))) == "LastValidator"
    assert set_of(state) == {"other": 2}


def test_who_has_no_stake_can_neither_leave_nor_withdraw() -> None:
    state = first_state()
    for operation in (StakeLeave(), StakeWithdraw()):
        assert code(run(state, signed("joiner", operation), epoch=20)) == "StakeUnknown"
        state = first_state()


def test_staking_is_ordered_and_counts_as_spending() -> None:
    staking = signed("joiner", StakeAdd(COINS))
    assert classify(staking, {}) is Lane.ORDERED
    with pytest.raises(LaneRefused):
        classify(signed("joiner", StakeLeave(), lane=Lane.FAST), {})
    assert max_spend(staking)[account("joiner"), NATIVE_TOKEN] > COINS
    assert max_spend(signed("joiner", StakeLeave()))[account("joiner"), NATIVE_TOKEN] < COINS


def test_no_account_of_another_suite_stakes() -> None:
    state = first_state()
    other = Authorization(Suite.SECP256K1, b"\x02" * 33, bytes(64))
    body = signed("joiner", StakeAdd(COINS)).body
    found = run(state, Transaction.decode(encode_transaction(body.encode(), [other])))
    assert code(found) == "StakeKey"


def test_stakes_have_one_encoding() -> None:
    stakes = Stakes().put(Stake(public_key=KEYS["other"], amount=5, left_epoch=7, granted=True))
    stakes = stakes.put(Stake(public_key=KEYS["genesis"], amount=2**128 - 1))
    assert Stakes.decode(stakes.encode()) == stakes
    assert [each.public_key for each in stakes.records] == sorted([KEYS["other"], KEYS["genesis"]])
    assert stakes.without(KEYS["other"]).of(KEYS["other"]) is None


@needs.c_engine
def test_the_engine_in_c_executes_a_block_with_stakes_as_the_specification_does() -> None:
    engine = NativeEngine(threads=1, bytes_max=1 << 20, seed=bytes(32))
    gas_state = BURNING.initial_state()
    state, twin = first_state(), first_state()
    steps = (
        [pay(account("joiner"), 7), signed("joiner", StakeAdd(COINS))],
        [pay(account("joiner"), 8, nonce=1)],
    )
    for height, transactions in enumerate(steps, 1):
        block = block_of(transactions, height=height, granted=NAMED)
        with engine.open_block(block, BURNING, gas_state) as opened:
            opened.supply([state.get(key) for key in opened.missing()])
            found = opened.execute()
        expected = execute_block(twin, block, BURNING)
        assert engine.last is not None and engine.last.transactions == len(transactions)
        assert dict(found.changes) == expected.changes
        assert [each.status for each in expected.receipts] == [Status.COMMITTED] * len(transactions)
        for each in (state, twin):
            each.update({key: value for key, value in expected.changes.items() if value is not None})
        engine.follow(found.changes)
