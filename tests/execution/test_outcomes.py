"""Every transaction in a block has an outcome (CONS-45, EXEC-2, EXEC-5, GAS-7, GAS-21)."""

from typing import Any

import attrs
import pytest

from supervm.contracts.gas import GasSchedule, Quote, price_of, reserve_of
from supervm.execution import BlockResult, recorded_supply, supply
from supervm.plugins.gas.flat import FlatPolicy
from supervm.types import merkle
from supervm.types.codec import U64_MAX
from supervm.types.operations import ObjectMutate, Output, Transfer
from supervm.types.receipt import ObjectVersion, Receipt, Status
from supervm.types.state import NATIVE_TOKEN
from supervm.types.transaction import Access, Input, Lane, Transaction

from .builders import (
    ALICE,
    BOB,
    CAROL,
    COLLECTOR,
    FLAT,
    FUNDS,
    PRICE,
    account,
    balance,
    found,
    owned,
    pay,
    run,
    run_one,
    state_of,
    transaction,
)

ID = b"o" * 32
GOLD = b"g" * 32


def intrinsic(one: Transaction) -> int:
    return FLAT.intrinsic(one.size_bytes, (1,))


def test_exec_5_a_used_nonce_is_void_and_touches_nothing() -> None:
    state = state_of()
    run_one(state, pay(CAROL, 1))
    before = dict(state)
    receipt = run_one(state, pay(CAROL, 2, nonce=0))
    assert (receipt.status, receipt.code, receipt.fee, receipt.gas_used) == (Status.VOID, "NonceUsed", 0, 0)
    assert state == before


def test_exec_5_a_nonce_that_is_not_next_is_void_and_the_next_one_still_works() -> None:
    state = state_of()
    gap, good = run(state, pay(CAROL, 1, nonce=1), pay(CAROL, 2, nonce=0)).receipts
    assert (gap.status, gap.code) == (Status.VOID, "NonceGap")
    assert good.status == Status.COMMITTED
    assert balance(state, CAROL) == 2


def test_a_failed_transaction_keeps_only_nonce_and_fee() -> None:
    state = state_of()
    before = dict(state)
    result = run(state, pay(CAROL, FUNDS))
    (receipt,) = result.receipts
    assert (receipt.status, receipt.code) == (Status.FAILED, "InsufficientFunds")
    assert account(state, ALICE).nonce == 1
    assert balance(state, ALICE) == FUNDS - receipt.fee
    changed = {key for key in state if state[key] != before.get(key)}
    assert changed == set(result.changes) and len(changed) == 2  # the sender and who is paid the fee


def test_a_failed_transaction_pays_for_the_gas_up_to_the_failure() -> None:
    first, second = Transfer(NATIVE_TOKEN, (Output(BOB, FUNDS),)), Transfer(NATIVE_TOKEN, (Output(BOB, 1),))
    one = transaction(first, second)
    receipt = run_one(state_of(), one)
    assert receipt.gas_used == intrinsic(one) + 1_200 + 2_400
    assert receipt.fee == price_of(receipt.gas_used, PRICE)


def test_exec_2_a_failed_transaction_raises_the_versions_of_its_owned_inputs() -> None:
    state = state_of(objects={ID: owned(ALICE, version=4)})
    bad = Transfer(NATIVE_TOKEN, (Output(BOB, FUNDS),))
    receipt = run_one(state, transaction(ObjectMutate(ID, b"new"), bad, inputs=[Input(ID, 4, Access.WRITE)]))
    assert receipt.status == Status.FAILED
    assert receipt.written == (ObjectVersion(ID, 5),)
    assert found(state, ID) == owned(ALICE, version=5)


def test_gas_3_a_gas_limit_that_ends_mid_operations_costs_all_of_it_and_undoes_all() -> None:
    outputs = Transfer(NATIVE_TOKEN, (Output(CAROL, 5),))
    full = transaction(outputs, outputs, outputs)
    used = run_one(state_of(), full).gas_used
    for limit in (used - 1, used - 2_400, used - 2 * 2_400, intrinsic(full), intrinsic(full) + 1_199):
        state = state_of()
        receipt = run_one(state, transaction(outputs, outputs, outputs, gas_limit=limit))
        assert (receipt.status, receipt.code) == (Status.FAILED, "OutOfGas")
        assert (receipt.gas_used, receipt.fee) == (limit, price_of(limit, PRICE))
        assert balance(state, CAROL) == 0
    assert run_one(state_of(), transaction(outputs, outputs, outputs, gas_limit=used)).code == ""


@pytest.mark.parametrize("limit", [0, 1, 10_000])
def test_a_gas_limit_below_the_intrinsic_gas_fails_within_it(limit: int) -> None:
    receipt = run_one(state_of(), pay(CAROL, 5, gas_limit=limit))
    assert (receipt.status, receipt.code, receipt.gas_used) == (Status.FAILED, "OutOfGas", limit)


def test_gas_7_an_unfunded_fee_takes_what_is_there_and_uses_the_nonce() -> None:
    state = state_of({ALICE: 50, BOB: FUNDS})
    result = run(state, pay(CAROL, 1))
    (receipt,) = result.receipts
    assert (receipt.status, receipt.code, receipt.fee) == (Status.FAILED, "FeeUnfunded", 50)
    assert (account(state, ALICE).nonce, balance(state, ALICE)) == (1, 0)
    assert balance(state, COLLECTOR) == 50
    assert "reserve" in result.reasons[receipt.digest]


def test_gas_7_an_unfunded_fee_takes_at_most_that_of_the_intrinsic_gas() -> None:
    one = pay(CAROL, 1)
    state = state_of({ALICE: 9_999, BOB: FUNDS})
    receipt = run_one(state, one)
    assert receipt.gas_used == intrinsic(one)
    assert receipt.fee == price_of(intrinsic(one), PRICE)
    assert balance(state, ALICE) == 9_999 - receipt.fee


def test_an_account_that_never_was_can_fail_too() -> None:
    state = state_of()
    receipt = run_one(state, pay(BOB, 1, sender=CAROL))
    assert (receipt.code, receipt.fee) == ("FeeUnfunded", 0)
    assert account(state, CAROL).nonce == 1


def test_an_unfunded_transaction_raises_the_versions_of_its_owned_inputs_too() -> None:
    state = state_of({BOB: FUNDS}, objects={ID: owned(ALICE)})
    receipt = run_one(state, transaction(ObjectMutate(ID, b"x"), inputs=[Input(ID, 1, Access.WRITE)]))
    assert (receipt.code, receipt.written) == ("FeeUnfunded", (ObjectVersion(ID, 2),))
    assert found(state, ID) == owned(ALICE, version=2)


def test_a_price_risen_after_the_accept_never_stops_a_block() -> None:
    state = state_of()
    receipt = run_one(state, pay(CAROL, 5, max_price=PRICE // 2))
    assert receipt.status == Status.COMMITTED
    assert receipt.fee == price_of(receipt.gas_used, PRICE // 2)


def test_the_base_price_is_paid_where_more_was_offered() -> None:
    receipt = run_one(state_of(), pay(CAROL, 5, max_price=3 * PRICE))
    assert receipt.fee == price_of(receipt.gas_used, PRICE)


def test_a_reserve_beyond_all_money_is_unfunded() -> None:
    receipt = run_one(state_of(), pay(CAROL, 5, gas_limit=U64_MAX, max_price=U64_MAX))
    assert receipt.code == "FeeUnfunded"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"chain_id": b"other".ljust(32, b"\x00")}, "WrongChain"),
        ({"expiry_epoch": 6}, "Expired"),
        ({"payload_kind": 2, "payload": b"?"}, "PayloadUnknown"),
        ({"lane": Lane.PRIVATE}, "LaneMismatch"),
        ({"gas_token": GOLD, "max_fee": 100}, "TokenNotAccepted"),
        ({"fee_payer": BOB, "sponsor_nonce": 1}, "NonceGap"),
    ],
)
def test_what_no_honest_accept_lets_through_is_void(fields: dict[str, Any], code: str) -> None:
    state = state_of()
    before = dict(state)
    result = run(state, transaction(Transfer(NATIVE_TOKEN, (Output(CAROL, 5),)), **fields), epoch=7)
    (receipt,) = result.receipts
    assert (receipt.status, receipt.code, receipt.fee) == (Status.VOID, code, 0)
    assert result.reasons[receipt.digest]
    assert state == before


def test_a_transaction_still_counts_in_the_epoch_of_its_expiry() -> None:
    assert run_one(state_of(), pay(CAROL, 5, expiry_epoch=7), epoch=7).status == Status.COMMITTED


def test_cons_40_a_digest_twice_in_a_block_is_executed_once() -> None:
    state = state_of()
    one, two = pay(CAROL, 1), pay(CAROL, 2, nonce=1)
    result = run(state, one, one, two, one)
    assert [receipt.digest for receipt in result.receipts] == [one.digest, two.digest]
    assert [receipt.index for receipt in result.receipts] == [0, 2]
    assert balance(state, CAROL) == 3


def test_cons_40_a_digest_of_an_earlier_block_is_skipped_ahead_of_every_check() -> None:
    state = state_of()
    one = pay(CAROL, 1)
    run(state, one)
    before = dict(state)
    result = run(state, one, executed=frozenset({one.digest}))
    assert result.receipts == () and state == before
    assert result.receipts_root == merkle.EMPTY_ROOT


def test_exec_6_a_body_signed_anew_is_the_same_transaction() -> None:
    one = pay(CAROL, 1)
    other = Transaction.decode(one.data[:-1] + b"\x01")
    state = state_of()
    assert one.data != other.data
    assert len(run(state, one, other).receipts) == 1
    assert balance(state, CAROL) == 1


def test_a_sponsor_pays_by_its_own_chain_of_nonces() -> None:
    state = state_of()
    one = pay(CAROL, 5, fee_payer=BOB)
    receipt = run_one(state, one)
    assert receipt.status == Status.COMMITTED
    assert receipt.gas_used == 15_000 + 10 * one.size_bytes + 3_600 + 1_200
    assert balance(state, ALICE) == FUNDS - 5
    assert balance(state, BOB) == FUNDS - receipt.fee
    assert (account(state, ALICE).nonce, account(state, BOB).nonce) == (1, 0)
    assert account(state, BOB).sponsor_nonce == 1


def test_a_sponsored_transaction_cannot_be_replayed_on_the_sponsor() -> None:
    state = state_of()
    run(state, pay(CAROL, 5, fee_payer=BOB))
    receipt = run_one(state, pay(CAROL, 5, nonce=1, fee_payer=BOB, sponsor_nonce=0))
    assert (receipt.status, receipt.code) == (Status.VOID, "NonceUsed")


def test_a_failed_transaction_is_paid_by_its_sponsor() -> None:
    state = state_of({ALICE: 5, BOB: FUNDS})
    receipt = run_one(state, pay(CAROL, 6, fee_payer=BOB))
    assert (receipt.code, balance(state, ALICE)) == ("InsufficientFunds", 5)
    assert balance(state, BOB) == FUNDS - receipt.fee


class PaysInGold(FlatPolicy):
    """Gold is worth as much as the native token."""

    def quote(self, terms, state):  # type: ignore[no-untyped-def]
        return Quote(terms, reserve_of(terms), terms.gas_token, min(terms.max_price, self.base_price(state)))

    def end_block(self, state, charges, facts):  # type: ignore[no-untyped-def]
        settlement = super().end_block(state, charges, facts)
        credits = tuple(attrs.evolve(each, token=GOLD) for each in settlement.credits)
        return attrs.evolve(settlement, credits=credits)


def test_gas_11_one_token_is_enough_to_send_it_all() -> None:
    policy = PaysInGold(FLAT.config)
    state = state_of({}, tokens={GOLD: {ALICE: 10_000}})
    receipt = run_one(state, pay(BOB, 9_000, GOLD, gas_token=GOLD, max_fee=1_000), gas=policy)
    assert (receipt.status, receipt.gas_token) == (Status.COMMITTED, GOLD)
    assert balance(state, BOB, GOLD) == 9_000
    assert balance(state, ALICE, GOLD) == 1_000 - receipt.fee
    assert balance(state, COLLECTOR, GOLD) == receipt.fee
    assert supply(state) == recorded_supply(state)


def test_receipts_stand_in_block_order_under_their_root() -> None:
    state = state_of()
    result = run(state, pay(CAROL, 1), pay(CAROL, FUNDS, nonce=1), pay(CAROL, 1, nonce=9), height=77)
    assert [receipt.index for receipt in result.receipts] == [0, 1, 2]
    assert {receipt.height for receipt in result.receipts} == {77}
    encoded = [receipt.encode() for receipt in result.receipts]
    assert result.receipts_root == merkle.root(encoded)
    assert [Receipt.decode(data) for data in encoded] == list(result.receipts)


def test_an_empty_block_changes_nothing() -> None:
    result: BlockResult = run(state_of())
    assert (result.changes, result.receipts, result.receipts_root) == ({}, (), bytes(32))


class BreaksConservation(FlatPolicy):
    def end_block(self, state, charges, facts):  # type: ignore[no-untyped-def]
        return attrs.evolve(super().end_block(state, charges, facts), credits=())


class ChargesTooMuch(FlatPolicy):
    def charge(self, quote, gas_used, refund_gas):  # type: ignore[no-untyped-def]
        charge = super().charge(quote, gas_used, refund_gas)
        return attrs.evolve(charge, fee=quote.reserve + 1, returned=-1)


@pytest.mark.parametrize("broken", [BreaksConservation, ChargesTooMuch])
def test_gas_22_a_policy_that_loses_or_makes_money_stops_the_block(broken: type[FlatPolicy]) -> None:
    with pytest.raises(AssertionError):
        run(state_of(), pay(CAROL, 1), gas=broken(FLAT.config))


def test_the_schedule_of_the_policy_is_the_one_that_counts() -> None:
    dear = attrs.evolve(FLAT, schedule=GasSchedule(credit=10_000))
    assert (
        run_one(state_of(), pay(BOB, 1), gas=dear).gas_used - run_one(state_of(), pay(BOB, 1)).gas_used
        == 7_600
    )
