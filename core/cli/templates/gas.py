"""A gas policy: one fixed price, and every fee burned. Change what `admit` asks and where fees go."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs

from supervm.api import NATIVE_TOKEN, Address, Component, Context, Role, gas

U128_MAX = 2**128 - 1

STATE_BYTES = 9


@attrs.frozen(kw_only=True)
class ExampleConfig:
    """`price`: micro base units per gas. It counts once, at genesis."""

    price: int = attrs.field(default=10_000, validator=[attrs.validators.ge(0), attrs.validators.lt(2**64)])


@attrs.frozen
class ExamplePolicy:
    """A `GasPolicy`. Its state is u8 format = 1 and the price as a u64."""

    config: ExampleConfig = ExampleConfig()
    schedule: gas.GasSchedule = gas.GasSchedule()

    def intrinsic(self, size_bytes: int, suites: Sequence[int]) -> int:
        return gas.intrinsic_gas(self.schedule, size_bytes, suites)

    def initial_state(self) -> bytes:
        return b"\x01" + self.config.price.to_bytes(8, "little")

    def base_price(self, state: bytes) -> int:
        if len(state) != STATE_BYTES or state[0] != 1:
            raise gas.GasStateUnreadable("not this policy's state", state, "use the genesis' gas component")
        return int.from_bytes(state[1:], "little")

    def payees(self, state: bytes) -> frozenset[Address]:
        self.base_price(state)
        return frozenset()

    def admit(self, terms: gas.FeeTerms, state: bytes) -> gas.Quote:
        quote = self.quote(terms, state)
        if terms.max_fee != 0:
            raise gas.FeeFieldInvalid("max_fee given", terms.max_fee, "0: gas_limit x max_price is the cap")
        if terms.tip_price != 0:
            raise gas.FeeFieldInvalid("tip_price given", terms.tip_price, "0: there are no tips")
        intrinsic = self.intrinsic(terms.size_bytes, terms.suites)
        if terms.gas_limit < intrinsic:
            raise gas.GasLimitTooLow("gas_limit too low", terms.gas_limit, f"at least {intrinsic}")
        if terms.gas_limit > self.schedule.transaction_gas_max:
            most = f"at most {self.schedule.transaction_gas_max}"
            raise gas.GasLimitTooHigh("gas_limit too high", terms.gas_limit, most)
        base = self.base_price(state)
        if terms.max_price < base:
            raise gas.PriceTooLow("max_price too low", terms.max_price, f"at least {base}")
        if quote.reserve > U128_MAX:
            raise gas.AmountOverflow("the reserve is beyond 128 bits", quote.reserve, "lower gas_limit")
        return quote

    def quote(self, terms: gas.FeeTerms, state: bytes) -> gas.Quote:
        price = min(terms.max_price, self.base_price(state))
        if terms.gas_token != NATIVE_TOKEN:
            raise gas.TokenNotAccepted("fees in this token", terms.gas_token, f"0x{NATIVE_TOKEN.hex()}")
        return gas.Quote(terms, gas.reserve_of(terms), NATIVE_TOKEN, price)

    def charge(self, quote: gas.Quote, gas_used: int, refund_gas: int) -> gas.Charge:
        gas_paid = gas.paid_gas(gas_used, refund_gas)
        fee = min(quote.reserve, gas.price_of(gas_paid, quote.price))
        return gas.Charge(quote, gas_used, gas_paid, fee, quote.reserve - fee)

    def end_block(self, state: bytes, charges: Sequence[gas.Charge], facts: gas.BlockFacts) -> gas.Settlement:
        self.base_price(state)
        fees = sum(charge.fee for charge in charges)
        return gas.Settlement(state, burned=((NATIVE_TOKEN, fees),) if fees else ())


@asynccontextmanager
async def open_example(ctx: Context, config: ExampleConfig) -> AsyncIterator[ExamplePolicy]:
    """Open the policy. It holds nothing to close."""
    yield ExamplePolicy(config)


component = Component(role=Role.GAS, name="example", open=open_example, config=ExampleConfig)
