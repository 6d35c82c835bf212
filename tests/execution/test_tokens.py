"""Tokens: create, mint, burn, and their supply (GAS-22)."""

import pytest

from supervm.execution import recorded_supply, supply
from supervm.types.codec import U128_MAX
from supervm.types.operations import Burn, Mint, Output, TokenCreate, Transfer
from supervm.types.receipt import Status
from supervm.types.state import NATIVE_TOKEN, Token, balance_key, token_id, token_key

from .builders import (
    ALICE,
    BOB,
    CAROL,
    FUNDS,
    State,
    balance,
    pay,
    run,
    run_one,
    state_of,
    token_record,
    transaction,
)

GOLD = b"g" * 32


def gold(**fields: object) -> State:
    return state_of(tokens={GOLD: {ALICE: 100, BOB: 50}}, **fields)  # type: ignore[arg-type]


def test_a_created_token_is_named_after_its_operation_and_belongs_to_the_sender() -> None:
    state = state_of()
    one = transaction(
        Transfer(NATIVE_TOKEN, (Output(BOB, 1),)),
        TokenCreate(b"GOLD", 6, 1_000, False),
        TokenCreate(b"GOLD", 0, 0, True),
    )
    assert run_one(state, one).status == Status.COMMITTED
    first, second = token_id(one.digest, 1), token_id(one.digest, 2)
    assert token_record(state, first) == Token(b"GOLD", 6, ALICE, False, 1_000)
    assert token_record(state, second) == Token(b"GOLD", 0, ALICE, True, 0)
    assert balance(state, ALICE, first) == 1_000
    assert balance_key(ALICE, second) not in state


def test_a_token_of_a_failed_transaction_never_was() -> None:
    state = state_of()
    one = transaction(TokenCreate(b"GOLD", 6, 1_000, False), Burn(GOLD, 1))
    assert run_one(state, one).code == "TokenUnknown"
    assert token_key(token_id(one.digest, 0)) not in state


def test_the_greatest_supply_can_be_created_and_moved() -> None:
    state = state_of()
    one = transaction(TokenCreate(b"MAX", 0, U128_MAX, False))
    run_one(state, one)
    token = token_id(one.digest, 0)
    assert run_one(state, pay(BOB, U128_MAX, token, nonce=1)).status == Status.COMMITTED
    assert run_one(state, transaction(Mint(token, BOB, 1), nonce=2)).code == "SupplyOverflow"
    assert run_one(state, transaction(Mint(token, BOB, 0), nonce=3)).status == Status.COMMITTED


def test_the_minter_raises_the_supply_for_anybody() -> None:
    state = gold()
    assert run_one(state, transaction(Mint(GOLD, CAROL, 7))).status == Status.COMMITTED
    assert balance(state, CAROL, GOLD) == 7
    assert token_record(state, GOLD).supply == 157


def test_nobody_else_mints() -> None:
    state = gold()
    assert run_one(state, transaction(Mint(GOLD, BOB, 7), sender=BOB)).code == "NotMinter"
    assert token_record(state, GOLD).supply == 150


def test_a_fixed_supply_is_fixed_for_its_minter_too() -> None:
    assert run_one(gold(fixed=True), transaction(Mint(GOLD, ALICE, 0))).code == "SupplyFixed"


def test_the_native_token_is_never_minted() -> None:
    assert run_one(state_of(), transaction(Mint(NATIVE_TOKEN, ALICE, 1))).code == "SupplyFixed"


@pytest.mark.parametrize("amount", [1, U128_MAX])
def test_a_supply_beyond_128_bits_is_refused_and_changes_nothing(amount: int) -> None:
    state = state_of(tokens={GOLD: {ALICE: U128_MAX}})
    assert run_one(state, transaction(Mint(GOLD, BOB, amount))).code == "SupplyOverflow"
    assert token_record(state, GOLD).supply == U128_MAX
    assert balance(state, BOB, GOLD) == 0


@pytest.mark.parametrize("amount", [0, 1, 50])
def test_anybody_burns_what_he_has(amount: int) -> None:
    state = gold()
    assert run_one(state, transaction(Burn(GOLD, amount), sender=BOB)).status == Status.COMMITTED
    assert balance(state, BOB, GOLD) == 50 - amount
    assert token_record(state, GOLD).supply == 150 - amount


def test_nobody_burns_more_than_he_has() -> None:
    state = gold()
    assert run_one(state, transaction(Burn(GOLD, 51), sender=BOB)).code == "InsufficientFunds"
    assert token_record(state, GOLD).supply == 150


def test_the_native_token_can_be_burned() -> None:
    state = state_of()
    receipt = run_one(state, transaction(Burn(NATIVE_TOKEN, 1_000)))
    assert receipt.status == Status.COMMITTED
    assert token_record(state, NATIVE_TOKEN).supply == 2 * FUNDS - 1_000
    assert supply(state) == recorded_supply(state)


def test_what_is_minted_can_be_spent_and_burned_in_the_same_transaction() -> None:
    state = gold()
    one = transaction(
        Mint(GOLD, ALICE, 900), Transfer(GOLD, (Output(CAROL, 950),)), Burn(GOLD, 50), Mint(GOLD, BOB, 1)
    )
    assert run_one(state, one).status == Status.COMMITTED
    assert [balance(state, each, GOLD) for each in (ALICE, BOB, CAROL)] == [0, 51, 950]
    assert token_record(state, GOLD).supply == 1_001


@pytest.mark.parametrize("operation", [Mint(GOLD, ALICE, 1), Burn(GOLD, 0)])
def test_a_token_nobody_made_is_neither_minted_nor_burned(operation: Mint | Burn) -> None:
    assert run_one(state_of(), transaction(operation)).code == "TokenUnknown"


def test_supplies_follow_through_a_block_of_failures_and_successes() -> None:
    state = gold()
    run(
        state,
        transaction(Mint(GOLD, ALICE, 5), nonce=0),
        transaction(Mint(GOLD, ALICE, 5), Burn(GOLD, 10**6), nonce=1),
        transaction(Burn(GOLD, 105), nonce=2),
        transaction(Burn(GOLD, 1), nonce=3),
    )
    assert supply(state) == recorded_supply(state)
    assert token_record(state, GOLD).supply == 50


@pytest.mark.parametrize(
    ("operation", "gas"),
    [
        (TokenCreate(b"GOLD", 0, 5, False), 6_000 + 4 * 25 + 2_400 + 100 + 5 * (13 + 16)),
        (Mint(GOLD, BOB, 5), 1_200 + 2_400 + 100 + 5 * (12 + 48)),
        (Burn(GOLD, 5), 1_200 + 1_200 + 100 + 5 * (12 + 48)),
        (Burn(NATIVE_TOKEN, 5), 1_200 + 100 + 5 * (12 + 48)),
    ],
)
def test_gas_2_token_operations(operation: TokenCreate | Mint | Burn, gas: int) -> None:
    one = transaction(operation)
    assert run_one(gold(), one).gas_used == 10_000 + 10 * one.size_bytes + 1_200 + gas


def test_exec_12_a_receipt_tells_what_became_of_a_supply() -> None:
    created = run_one(gold(), transaction(TokenCreate(b"NEW", 0, 7, False)))
    assert [(event.topic, event.data) for event in created.events] == [
        (b"token.created", (7).to_bytes(16, "little"))
    ]
    both = run_one(gold(), transaction(Mint(GOLD, BOB, 5), Burn(GOLD, 2)))
    assert [(event.emitter, event.topic) for event in both.events] == [
        (GOLD, b"token.minted"),
        (GOLD, b"token.burned"),
    ]
    assert both.events[0].data == BOB + (5).to_bytes(16, "little")
    assert both.events[1].data[32:] == (2).to_bytes(16, "little")


def test_exec_12_a_failed_transaction_tells_nothing() -> None:
    failed = run_one(gold(), transaction(Mint(GOLD, BOB, 5), Burn(GOLD, 10**30)))
    assert failed.status is Status.FAILED and failed.events == ()
