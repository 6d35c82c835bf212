"""The block's own check of conservation stops what makes or loses money (GAS-22)."""

from typing import Any

import pytest

from supervm.execution import block, recorded_supply, supply
from supervm.execution.supply import check_conservation
from supervm.execution.turn import Turn
from supervm.execution.working import Value
from supervm.types.operations import Operation, Transfer
from supervm.types.state import NATIVE_TOKEN, Account, Token, account_key, balance_key, object_key, token_key

from .builders import ALICE, BOB, CAROL, FUNDS, owned, pay, run, state_of

GOLD = b"g" * 32


@pytest.mark.parametrize("amount", [1, -1])
@pytest.mark.parametrize("token", [NATIVE_TOKEN, GOLD])
def test_an_operation_that_makes_or_loses_a_unit_stops_the_block(
    token: bytes, amount: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong_transfer(turn: Turn, operation: Any, index: int) -> None:
        turn.state.add(BOB, token, amount)

    state = state_of(tokens={GOLD: {BOB: 10}})
    before = dict(state)
    monkeypatch.setitem(block.OPERATIONS, Transfer, wrong_transfer)
    with pytest.raises(AssertionError, match=f"changed apart.*{token.hex()}"):
        run(state, pay(CAROL, 1))
    assert state == before


@pytest.mark.parametrize("amount", [-FUNDS - 1, 2**128])
def test_a_balance_never_leaves_its_bounds(amount: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_transfer(turn: Turn, operation: Any, index: int) -> None:
        turn.state.add(BOB, NATIVE_TOKEN, amount)

    monkeypatch.setitem(block.OPERATIONS, Transfer, wrong_transfer)
    with pytest.raises(AssertionError, match="native balance"):
        run(state_of(), pay(CAROL, 1))


def test_the_check_weighs_balances_against_supplies() -> None:
    record = Token(b"GOLD", 0, ALICE, False, 100)
    minted = Token(b"GOLD", 0, ALICE, False, 107)
    credit = (balance_key(BOB, GOLD), 0, 7)
    check_conservation([])
    check_conservation([credit, (token_key(GOLD), record, minted)])
    check_conservation([(account_key(BOB), Account(0, 0, 5), Account(1, 2, 5))])
    check_conservation([(object_key(GOLD), None, owned(ALICE))])
    broken: list[list[tuple[bytes, Value, Value]]] = [
        [credit],
        [(token_key(GOLD), record, minted)],
        [(token_key(GOLD), None, record)],
        [credit, (token_key(b"p" * 32), record, minted)],
        [(account_key(BOB), Account(0, 0, 5), Account(0, 0, 6))],
    ]
    for wrong in broken:
        with pytest.raises(AssertionError):
            check_conservation(wrong)


def test_supply_adds_up_a_whole_state() -> None:
    state = state_of({ALICE: 5, BOB: 7}, tokens={GOLD: {ALICE: 3, CAROL: 2}, b"p" * 32: {}})
    assert supply(state) == recorded_supply(state) == {NATIVE_TOKEN: 12, GOLD: 5}


def test_the_operations_of_the_chain_are_all_known_to_execution() -> None:
    assert set(block.OPERATIONS) == set(Operation.__args__)
