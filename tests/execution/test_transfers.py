"""Transfers, fees and gas (EXEC-4, GAS-2, GAS-7)."""

import pytest

from supervm.contracts.gas import GasSchedule, price_of
from supervm.execution import recorded_supply, supply
from supervm.types.codec import U128_MAX
from supervm.types.operations import Output, Transfer
from supervm.types.receipt import Status
from supervm.types.state import NATIVE_TOKEN, Account, account_key, balance_key

from .builders import (
    ALICE,
    BOB,
    BURNING,
    CAROL,
    COLLECTOR,
    FUNDS,
    PRICE,
    account,
    balance,
    pay,
    run,
    run_one,
    state_of,
    token_record,
    transaction,
    who,
)

GOLD = b"g" * 32


def fee_of(gas: int) -> int:
    return price_of(gas, PRICE)


def test_a_transfer_moves_the_amount_and_pays_the_fee() -> None:
    state = state_of()
    receipt = run_one(state, pay(CAROL, 500))
    assert (receipt.status, receipt.code) == (Status.COMMITTED, "")
    assert balance(state, CAROL) == 500
    assert balance(state, ALICE) == FUNDS - 500 - receipt.fee
    assert balance(state, COLLECTOR) == receipt.fee
    assert account(state, ALICE).nonce == 1


def test_gas_2_a_native_transfer_costs_3_600_over_its_intrinsic_gas() -> None:
    one = pay(CAROL, 500)
    receipt = run_one(state_of(), one)
    assert receipt.gas_used == 5_000 + 10 * one.size_bytes + 5_000 + 3_600
    assert receipt.gas_used - 10 * one.size_bytes + 1_500 == 15_100  # with the 150 bytes of GAS-2
    assert receipt.fee == fee_of(receipt.gas_used)


def test_gas_2_a_credit_costs_the_same_whether_or_not_it_makes_an_account() -> None:
    state = state_of()
    old = run_one(state, pay(BOB, 1, nonce=0))
    new = run_one(state, pay(who("new"), 1, nonce=1))
    assert old.gas_used == new.gas_used


def test_a_token_transfer_pays_for_the_balance_it_debits() -> None:
    state = state_of(tokens={GOLD: {ALICE: 10}})
    native = run_one(state, pay(BOB, 1, nonce=0))
    token = run_one(state, pay(BOB, 1, GOLD, nonce=1))
    assert token.gas_used - native.gas_used == 1_200


def test_many_outputs_cost_a_credit_each() -> None:
    outputs = tuple(Output(who(f"to {number}"), number) for number in range(256))
    state = state_of()
    one = transaction(Transfer(NATIVE_TOKEN, outputs))
    receipt = run_one(state, one)
    schedule = GasSchedule()
    assert receipt.gas_used == 10_000 + 10 * one.size_bytes + 1_200 + 256 * schedule.credit
    assert [balance(state, output.to) for output in outputs] == list(range(256))


def test_an_account_emptied_to_the_last_unit_keeps_its_nonce() -> None:
    state = state_of(gas=BURNING)
    used = run_one(state_of(gas=BURNING), pay(CAROL, 1), gas=BURNING).gas_used
    # With a gas limit of exactly what is used nothing returns, so the reserve is the fee.
    receipt = run_one(state, pay(CAROL, FUNDS - fee_of(used), gas_limit=used), gas=BURNING)
    assert receipt.status == Status.COMMITTED
    assert account(state, ALICE) == Account(nonce=1)


def test_sending_all_leaves_room_for_the_reserve_not_only_for_the_fee() -> None:
    one = pay(CAROL, 1)
    reserve = fee_of(one.body.gas_limit)
    state = state_of()
    assert run_one(state, pay(CAROL, FUNDS - reserve + 1)).code == "InsufficientFunds"
    state = state_of()
    receipt = run_one(state, pay(CAROL, FUNDS - reserve))
    assert receipt.status == Status.COMMITTED
    assert balance(state, ALICE) == reserve - receipt.fee


def test_fees_alone_empty_an_account() -> None:
    used = run_one(state_of(), pay(BOB, 0)).gas_used
    state = state_of({ALICE: fee_of(used)})
    assert run_one(state, pay(BOB, 0, gas_limit=used)).status == Status.COMMITTED
    assert balance(state, ALICE) == 0
    assert balance(state, COLLECTOR) == fee_of(used)


def test_burned_fees_lower_the_supply() -> None:
    state = state_of(gas=BURNING)
    receipt = run_one(state, pay(BOB, 7), gas=BURNING)
    assert token_record(state, NATIVE_TOKEN).supply == 2 * FUNDS - receipt.fee
    assert supply(state) == recorded_supply(state)


def test_a_transfer_to_oneself_changes_nothing_but_the_fee() -> None:
    state = state_of()
    receipt = run_one(state, pay(ALICE, 1_000))
    assert receipt.status == Status.COMMITTED
    assert balance(state, ALICE) == FUNDS - receipt.fee


def test_a_transfer_to_oneself_must_be_covered_all_the_same() -> None:
    state = state_of()
    assert run_one(state, pay(ALICE, FUNDS)).code == "InsufficientFunds"


def test_outputs_to_one_account_add_up() -> None:
    state = state_of()
    outputs = (Output(CAROL, 1), Output(ALICE, 5), Output(CAROL, 2), Output(CAROL, 2))
    receipt = run_one(state, transaction(Transfer(NATIVE_TOKEN, outputs)))
    assert balance(state, CAROL) == 5
    assert balance(state, ALICE) == FUNDS - 5 - receipt.fee


def test_a_zero_amount_makes_no_entry() -> None:
    state = state_of(tokens={GOLD: {ALICE: 10}})
    receipts = run(state, pay(CAROL, 0), pay(CAROL, 0, GOLD, nonce=1)).receipts
    assert [receipt.status for receipt in receipts] == [Status.COMMITTED] * 2
    assert account_key(CAROL) not in state
    assert balance_key(CAROL, GOLD) not in state


def test_the_zero_address_may_receive() -> None:
    state = state_of()
    assert run_one(state, pay(bytes(32), 5)).status == Status.COMMITTED
    assert balance(state, bytes(32)) == 5


def test_a_balance_that_is_spent_has_no_entry() -> None:
    state = state_of(tokens={GOLD: {ALICE: 10}})
    assert run_one(state, pay(BOB, 10, GOLD)).status == Status.COMMITTED
    assert balance_key(ALICE, GOLD) not in state
    assert balance(state, BOB, GOLD) == 10


def test_amounts_that_add_up_beyond_128_bits_fail_and_never_wrap() -> None:
    state = state_of()
    outputs = (Output(BOB, U128_MAX), Output(CAROL, 2))
    receipt = run_one(state, transaction(Transfer(NATIVE_TOKEN, outputs)))
    assert (receipt.status, receipt.code) == (Status.FAILED, "AmountOverflow")
    assert balance(state, CAROL) == 0
    assert run_one(state, pay(BOB, U128_MAX, nonce=1)).code == "InsufficientFunds"


def test_a_token_nobody_made_has_no_balance() -> None:
    state = state_of()
    assert run_one(state, pay(BOB, 1, GOLD)).code == "InsufficientFunds"
    assert run_one(state, pay(BOB, 0, GOLD, nonce=1)).status == Status.COMMITTED


def test_what_an_earlier_transaction_of_the_block_paid_can_be_spent() -> None:
    state = state_of({ALICE: FUNDS})
    result = run(state, pay(BOB, FUNDS // 2), pay(CAROL, 5, sender=BOB))
    assert [receipt.status for receipt in result.receipts] == [Status.COMMITTED] * 2
    assert balance(state, CAROL) == 5


def test_operations_of_one_transaction_see_each_other() -> None:
    state = state_of(tokens={GOLD: {ALICE: 10}})
    first, second = Transfer(GOLD, (Output(ALICE, 10),)), Transfer(GOLD, (Output(BOB, 10),))
    assert run_one(state, transaction(first, second)).status == Status.COMMITTED
    assert balance(state, BOB, GOLD) == 10


def test_all_operations_happen_or_none() -> None:
    state = state_of()
    good, bad = Transfer(NATIVE_TOKEN, (Output(CAROL, 5),)), Transfer(NATIVE_TOKEN, (Output(BOB, FUNDS),))
    receipt = run_one(state, transaction(good, bad))
    assert (receipt.status, receipt.code) == (Status.FAILED, "InsufficientFunds")
    assert balance(state, CAROL) == 0
    assert balance(state, ALICE) == FUNDS - receipt.fee


@pytest.mark.parametrize("payer_is_collector", [False, True])
def test_payer_and_payee_of_the_fee_may_be_one(payer_is_collector: bool) -> None:
    sender = COLLECTOR if payer_is_collector else ALICE
    state = state_of({sender: FUNDS})
    receipt = run_one(state, pay(BOB, 9, sender=sender))
    assert balance(state, COLLECTOR) == (FUNDS - 9 if payer_is_collector else receipt.fee)
    assert supply(state) == recorded_supply(state)


def test_the_greatest_supply_moves_without_an_overflow() -> None:
    state = state_of({ALICE: U128_MAX - FUNDS, BOB: FUNDS})
    receipt = run_one(state, pay(BOB, U128_MAX - 2 * FUNDS))
    assert receipt.status == Status.COMMITTED
    assert supply(state) == {NATIVE_TOKEN: U128_MAX}
