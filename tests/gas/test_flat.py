"""The gas policy `flat`: it passes the suite, and its numbers are those of GAS-2 and GAS-7."""

from typing import Any

import attrs
import pytest

from supervm.contracts.gas import (
    AmountOverflow,
    BlockFacts,
    Credit,
    FeeFieldInvalid,
    FeeTerms,
    GasSchedule,
    SponsorRefused,
)
from supervm.plugins.gas import supervm_components
from supervm.plugins.gas.flat import FlatConfig, FlatPolicy, FlatState
from supervm.testing.conformance.gas import GasConformance
from supervm.types.codec import U64_MAX
from supervm.types.state import NATIVE_TOKEN

(FLAT,) = supervm_components()
COLLECTOR = "0x" + "ab" * 32
ALICE, BOB = b"a" * 32, b"b" * 32
FACTS = BlockFacts(height=1, epoch=0, timestamp_ms=0)


class TestFlatBurning(GasConformance):
    component = FLAT
    other_options = {"price": 20_000, "collector": COLLECTOR}  # noqa: RUF012 - a class variable of the suite


class TestFlatCollecting(GasConformance):
    component = FLAT
    options = {"collector": COLLECTOR}  # noqa: RUF012
    other_options = {"collector": "0x" + "cd" * 32}  # noqa: RUF012


class TestFlatFree(GasConformance):
    component = FLAT
    options = {"price": 0}  # noqa: RUF012
    other_options = {"price": 1}  # noqa: RUF012


def terms(**fields: Any) -> FeeTerms:
    given = FeeTerms(
        size_bytes=350,
        suites=(1,),
        gas_limit=100_000,
        max_price=10_000,
        tip_price=0,
        gas_token=NATIVE_TOKEN,
        max_fee=0,
        sender=ALICE,
        fee_payer=ALICE,
        lane=2,
    )
    return attrs.evolve(given, **fields)


def test_gas_2_a_transfer_of_150_bytes_costs_15_100() -> None:
    schedule = GasSchedule()
    account = schedule.entry_read + schedule.entry_write
    assert FlatPolicy().intrinsic(150, (1,)) + account + schedule.credit == 15_100


@pytest.mark.parametrize(("suite", "gas"), [(1, 5_000), (2, 5_000), (3, 10_000)])
def test_gas_2_intrinsic_gas_is_base_bytes_and_signature(suite: int, gas: int) -> None:
    assert FlatPolicy().intrinsic(0, (suite,)) == 5_000 + gas
    assert FlatPolicy().intrinsic(7, (suite, 1)) == 5_000 + 70 + gas + 5_000


def test_gas_7_reserve_fee_and_return_by_hand() -> None:
    policy = FlatPolicy(FlatConfig(price=10_000))
    quote = policy.admit(terms(gas_limit=100_001, max_price=30_000), policy.initial_state())
    assert (quote.reserve, quote.price) == (3_001, 10_000)  # ceil(3000.03), the base price
    charge = policy.charge(quote, 15_100, 4_000)
    assert charge.gas_paid == 15_100 - 3_020  # the refund is capped at a fifth
    assert (charge.fee, charge.returned) == (121, 2_880)  # ceil(120.8)


def test_fees_go_to_the_collector_or_are_burned() -> None:
    for collector, credits, burned in (
        (COLLECTOR, (Credit(b"\xab" * 32, NATIVE_TOKEN, 302),), ()),
        ("", (), ((NATIVE_TOKEN, 302),)),
    ):
        policy = FlatPolicy(FlatConfig(collector=collector))
        state = policy.initial_state()
        charge = policy.charge(policy.quote(terms(), state), 15_100, 0)
        settlement = policy.end_block(state, [charge, charge], FACTS)
        assert (settlement.state, settlement.credits, settlement.burned) == (state, credits, burned)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"tip_price": 1, "max_price": 10_001}, FeeFieldInvalid),
        ({"max_fee": 1}, FeeFieldInvalid),
        ({"fee_payer": BOB}, SponsorRefused),
    ],
)
def test_tips_caps_and_sponsors_are_refused_at_admission_and_harmless_in_a_block(
    fields: dict[str, Any], error: type[Exception]
) -> None:
    policy = FlatPolicy()
    with pytest.raises(error):
        policy.admit(terms(**fields), policy.initial_state())
    assert policy.quote(terms(**fields), policy.initial_state()).price == 10_000


def test_a_reserve_beyond_128_bits_is_refused() -> None:
    policy = attrs.evolve(FlatPolicy(), schedule=GasSchedule(transaction_gas_max=U64_MAX))
    state = policy.initial_state()
    assert policy.admit(terms(gas_limit=U64_MAX, max_price=U64_MAX), state).reserve < 2**128
    # u64 x u64 / 10^6 always fits; only a policy with wider prices could pass the bound.
    wide = terms(gas_limit=U64_MAX, max_price=2**90)
    with pytest.raises(AmountOverflow):
        policy.admit(wide, state)


@pytest.mark.parametrize("price", [-1, U64_MAX + 1])
def test_a_price_outside_64_bits_is_refused(price: int) -> None:
    with pytest.raises(ValueError, match=f"price is {price}"):
        FlatConfig(price=price)


@pytest.mark.parametrize("collector", ["ab" * 32, "0x12", "0x" + "zz" * 32, "burn", "0x" + "AB" * 32])
def test_a_collector_that_is_no_address_is_refused(collector: str) -> None:
    with pytest.raises(ValueError, match="collector is"):
        FlatConfig(collector=collector)


def test_the_state_has_one_encoding() -> None:
    for state in (FlatState(0, None), FlatState(10_000, BOB), FlatState(U64_MAX, bytes(32))):
        assert FlatState.decode(state.encode()) == state
    assert FlatPolicy(FlatConfig(price=10_000)).initial_state().hex() == "01" + "1027000000000000" + "00" * 33
