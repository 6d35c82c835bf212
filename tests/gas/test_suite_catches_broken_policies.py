"""The conformance suite is worth something: each broken policy fails the test that names its fault."""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from supervm.api import Component, Context, Role
from supervm.contracts.gas import (
    BlockFacts,
    Charge,
    Credit,
    FeeTerms,
    GasError,
    GasSchedule,
    PriceTooLow,
    Quote,
    Settlement,
)
from supervm.plugins.gas.flat import FlatConfig, FlatPolicy, FlatState
from supervm.testing.conformance.component import only_error
from supervm.testing.conformance.gas import GasConformance
from supervm.types.state import NATIVE_TOKEN

STRANGER = b"\x66" * 32


class ChargesMoreThanTheReserve(FlatPolicy):
    def charge(self, quote: Quote, gas_used: int, refund_gas: int) -> Charge:
        charge = super().charge(quote, gas_used, refund_gas)
        return attrs.evolve(charge, fee=quote.reserve + 1, returned=-1)


class LosesTheRemainder(FlatPolicy):
    def charge(self, quote: Quote, gas_used: int, refund_gas: int) -> Charge:
        charge = super().charge(quote, gas_used, refund_gas)
        return attrs.evolve(charge, returned=max(0, charge.returned - 1))


class RoundsDown(FlatPolicy):
    def charge(self, quote: Quote, gas_used: int, refund_gas: int) -> Charge:
        charge = super().charge(quote, gas_used, refund_gas)
        fee = min(quote.reserve, charge.gas_paid * quote.price // 10**6)
        return attrs.evolve(charge, fee=fee, returned=quote.reserve - fee)


class RefundsWithoutACap(FlatPolicy):
    def charge(self, quote: Quote, gas_used: int, refund_gas: int) -> Charge:
        charge = super().charge(quote, gas_used, 0)
        return attrs.evolve(charge, gas_paid=max(0, gas_used - refund_gas))


class ReckonsInFloats(FlatPolicy):
    def charge(self, quote: Quote, gas_used: int, refund_gas: int) -> Charge:
        charge = super().charge(quote, gas_used, refund_gas)
        return attrs.evolve(charge, fee=float(charge.fee))  # type: ignore[arg-type]


class CheaperWithMoreGas(FlatPolicy):
    def charge(self, quote: Quote, gas_used: int, refund_gas: int) -> Charge:
        charge = super().charge(quote, gas_used, refund_gas)
        fee = quote.reserve - charge.fee
        return attrs.evolve(charge, fee=fee, returned=quote.reserve - fee)


class KeepsTheFees(FlatPolicy):
    def end_block(self, state: bytes, charges: Sequence[Charge], facts: BlockFacts) -> Settlement:
        return Settlement(super().end_block(state, charges, facts).state)


class ForgetsTheDust(FlatPolicy):
    """Pays by reserve less what returned, which is wrong of a charge that found too little money."""

    def end_block(self, state: bytes, charges: Sequence[Charge], facts: BlockFacts) -> Settlement:
        super().end_block(state, charges, facts)
        fees = sum(charge.quote.reserve - charge.returned for charge in charges)
        return Settlement(state, burned=((NATIVE_TOKEN, fees),))


class MakesMoney(FlatPolicy):
    def end_block(self, state: bytes, charges: Sequence[Charge], facts: BlockFacts) -> Settlement:
        settlement = super().end_block(state, charges, facts)
        return attrs.evolve(settlement, credits=(Credit(STRANGER, NATIVE_TOKEN, 1),))


class BurnsADebt(FlatPolicy):
    """Credits too much, and burns less than nothing for it."""

    def end_block(self, state: bytes, charges: Sequence[Charge], facts: BlockFacts) -> Settlement:
        fees = sum(charge.fee for charge in charges)
        super().end_block(state, charges, facts)
        return Settlement(state, (Credit(STRANGER, NATIVE_TOKEN, fees + 5),), ((NATIVE_TOKEN, -5),))

    def payees(self, state: bytes) -> frozenset[bytes]:
        return super().payees(state) | {STRANGER}


class PaysAStranger(FlatPolicy):
    def end_block(self, state: bytes, charges: Sequence[Charge], facts: BlockFacts) -> Settlement:
        super().end_block(state, charges, facts)
        return Settlement(state, (Credit(STRANGER, NATIVE_TOKEN, sum(charge.fee for charge in charges)),))


class LeavesAStateItCantRead(FlatPolicy):
    def end_block(self, state: bytes, charges: Sequence[Charge], facts: BlockFacts) -> Settlement:
        return attrs.evolve(super().end_block(state, charges, facts), state=state + b"\x00")


class ReservesByTheState(FlatPolicy):
    def quote(self, terms: FeeTerms, state: bytes) -> Quote:
        quote = super().quote(terms, state)
        return attrs.evolve(quote, reserve=terms.gas_limit * quote.price // 10**6)


class ChargesTheBasePriceWhateverWasOffered(FlatPolicy):
    def quote(self, terms: FeeTerms, state: bytes) -> Quote:
        return attrs.evolve(super().quote(terms, state), price=self.base_price(state))

    def end_block(self, state: bytes, charges: Sequence[Charge], facts: BlockFacts) -> Settlement:
        return dearer(super().end_block(state, charges, facts))


class JudgesAgainInTheBlock(FlatPolicy):
    """What was accepted at the old price is refused at the new one: a block could be made to fail."""

    def quote(self, terms: FeeTerms, state: bytes) -> Quote:
        if terms.max_price < self.base_price(state):
            raise PriceTooLow("max_price too low", terms.max_price, "offer more")
        return super().quote(terms, state)

    def end_block(self, state: bytes, charges: Sequence[Charge], facts: BlockFacts) -> Settlement:
        return dearer(super().end_block(state, charges, facts))


class AdmitsAnything(FlatPolicy):
    def admit(self, terms: FeeTerms, state: bytes) -> Quote:
        return self.quote(terms, state)


class TakesAnyToken(FlatPolicy):
    def admit(self, terms: FeeTerms, state: bytes) -> Quote:
        return super().admit(attrs.evolve(terms, gas_token=NATIVE_TOKEN, max_fee=0), state)


class AdmitsNothing(FlatPolicy):
    def admit(self, terms: FeeTerms, state: bytes) -> Quote:
        raise PriceTooLow("never enough", terms.max_price, "offer more")


class SaysNoMend(FlatPolicy):
    def admit(self, terms: FeeTerms, state: bytes) -> Quote:
        try:
            return super().admit(terms, state)
        except GasError as refused:
            raise type(refused)("no") from refused


class RaisesItsBugs(FlatPolicy):
    def base_price(self, state: bytes) -> int:
        return int(state[1:9].hex(), 16) if state else {}[state]  # type: ignore[index]


class DividesByThePrice(FlatPolicy):
    def quote(self, terms: FeeTerms, state: bytes) -> Quote:
        assert terms.gas_limit // terms.max_price >= 0
        return super().quote(terms, state)


class RemembersEarlierBlocks(FlatPolicy):
    blocks = itertools.count()

    def base_price(self, state: bytes) -> int:
        return super().base_price(state) + next(self.blocks)


class GoesByTheNodesFile(FlatPolicy):
    def base_price(self, state: bytes) -> int:
        return self.config.price

    def quote(self, terms: FeeTerms, state: bytes) -> Quote:
        return attrs.evolve(super().quote(terms, state), price=min(terms.max_price, self.config.price))


class MeasuresInFractions(FlatPolicy):
    def __init__(self, config: FlatConfig) -> None:
        super().__init__(config, GasSchedule(transaction=0.5))  # type: ignore[arg-type]


class HasAPriceOfItsOwnForBytes(FlatPolicy):
    def intrinsic(self, size_bytes: int, suites: Sequence[int]) -> int:
        return super().intrinsic(size_bytes // 2, suites)


def dearer(settlement: Settlement) -> Settlement:
    """The same, and the base price doubled."""
    state = FlatState.decode(settlement.state)
    return attrs.evolve(settlement, state=FlatState(2 * state.price, state.collector).encode())


CASES = [
    (ChargesMoreThanTheReserve, "test_a_charge_divides_the_reserve_to_the_unit"),
    (LosesTheRemainder, "test_a_charge_divides_the_reserve_to_the_unit"),
    (ReckonsInFloats, "test_a_charge_divides_the_reserve_to_the_unit"),
    (RoundsDown, "test_a_native_fee_is_gas_times_price_rounded_up"),
    (RefundsWithoutACap, "test_refunds_are_capped_at_a_fifth_of_the_gas_used"),
    (CheaperWithMoreGas, "test_more_gas_never_costs_less"),
    (KeepsTheFees, "test_the_end_of_a_block_places_every_unit_of_every_fee"),
    (ForgetsTheDust, "test_the_end_of_a_block_places_every_unit_of_every_fee"),
    (MakesMoney, "test_the_end_of_a_block_places_every_unit_of_every_fee"),
    (BurnsADebt, "test_the_end_of_a_block_places_every_unit_of_every_fee"),
    (PaysAStranger, "test_only_announced_payees_are_credited"),
    (LeavesAStateItCantRead, "test_each_block_leaves_a_state_that_can_be_read"),
    (ReservesByTheState, "test_the_reserve_follows_from_the_signed_bytes_alone"),
    (ChargesTheBasePriceWhateverWasOffered, "test_the_price_is_never_above_what_was_offered"),
    (JudgesAgainInTheBlock, "test_what_was_admitted_is_never_refused_in_a_later_block"),
    (AdmitsNothing, "test_good_terms_are_admitted_and_quoted_alike_in_the_block"),
    (AdmitsAnything, "test_a_gas_limit_out_of_bounds_is_refused"),
    (AdmitsAnything, "test_a_price_below_the_base_price_is_refused"),
    (TakesAnyToken, "test_a_token_nobody_knows_is_not_accepted"),
    (SaysNoMend, "test_a_price_below_the_base_price_is_refused"),
    (SaysNoMend, "test_nonsense_raises_only_gas_errors_that_say_the_mend"),
    (DividesByThePrice, "test_nonsense_raises_only_gas_errors_that_say_the_mend"),
    (RaisesItsBugs, "test_a_foreign_state_raises_only_gas_errors"),
    (RemembersEarlierBlocks, "test_equal_arguments_give_equal_results_whatever_came_before"),
    (GoesByTheNodesFile, "test_a_chain_is_ruled_by_its_state_not_by_a_nodes_file"),
    (MeasuresInFractions, "test_the_schedule_is_whole_numbers_and_gives_the_intrinsic_gas"),
    (HasAPriceOfItsOwnForBytes, "test_the_schedule_is_whole_numbers_and_gives_the_intrinsic_gas"),
]


def suite(kind: type[FlatPolicy]) -> GasConformance:
    @asynccontextmanager
    async def open_it(ctx: Context, config: Any) -> AsyncIterator[FlatPolicy]:
        yield kind(config)

    class Suite(GasConformance):
        component = Component(role=Role.GAS, name="broken", open=open_it, config=FlatConfig)
        other_options = {"price": 20_000}  # noqa: RUF012

    return Suite()


@pytest.mark.parametrize(("kind", "test"), CASES, ids=lambda case: getattr(case, "__name__", ""))
async def test_a_broken_policy_fails_the_test_that_names_its_fault(
    kind: type[FlatPolicy], test: str, tmp_path: Path
) -> None:
    await getattr(suite(FlatPolicy), test)(tmp_path)  # it passes with an honest policy
    with pytest.raises(BaseException) as failed:
        await getattr(suite(kind), test)(tmp_path)
    assert not isinstance(only_error(failed.value), KeyboardInterrupt)
