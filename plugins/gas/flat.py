"""Gas policy `flat`: one fixed price for the life of the chain, in the native token; no tips, no sponsors.

Fees go to one account, or are burned where none is named. The configuration counts once, at genesis;
after that the price and the account are in the chain's state and nothing in a node's file changes them.

State: u8 format = 1, u64 LE price, u8 1 if there is a collector, its 32-byte address or zeros.
"""

import re
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs

from supervm.api import Context
from supervm.contracts.gas import (
    AmountOverflow,
    BlockFacts,
    Charge,
    Credit,
    FeeFieldInvalid,
    FeeTerms,
    FixedRule,
    GasLimitTooHigh,
    GasLimitTooLow,
    GasSchedule,
    GasStateUnreadable,
    PriceTooLow,
    Quote,
    Settlement,
    SponsorRefused,
    TokenNotAccepted,
    intrinsic_gas,
    paid_gas,
    price_of,
    reserve_of,
)
from supervm.types.address import Address
from supervm.types.codec import U64_MAX, U128_MAX
from supervm.types.state import NATIVE_TOKEN

FORMAT = 1
STATE = struct.Struct("<BQB32s")


def _is_price(_: object, field: "attrs.Attribute[int]", value: int) -> None:
    if not 0 <= value <= U64_MAX:
        raise ValueError(f"{field.name} is {value}: give 0 to {U64_MAX} micro base units per gas")


def _is_collector(_: object, field: "attrs.Attribute[str]", value: str) -> None:
    if value and not re.fullmatch(r"0x[0-9a-f]{64}", value):
        raise ValueError(f"{field.name} is {value!r}: give 0x and 64 hex digits, or '' to burn the fees")


@attrs.frozen(kw_only=True)
class FlatConfig:
    """`price`: micro base units per gas. `collector`: the address fees go to; empty burns them."""

    price: int = attrs.field(default=10_000, validator=_is_price)
    collector: str = attrs.field(default="", validator=_is_collector)


@attrs.frozen
class FlatState:
    price: int
    collector: Address | None

    def encode(self) -> bytes:
        return STATE.pack(FORMAT, self.price, self.collector is not None, self.collector or bytes(32))

    @classmethod
    def decode(cls, state: bytes) -> "FlatState":
        """Raises `GasStateUnreadable` for bytes that `encode` doesn't make."""
        if len(state) == STATE.size:
            form, price, collects, collector = STATE.unpack(state)
            if form == FORMAT and (collects == 1 or (collects == 0 and not any(collector))):
                return cls(price, collector if collects else None)
        raise GasStateUnreadable(
            "not a state of the gas policy flat", state, "use the gas component that the genesis names"
        )


@attrs.frozen
class FlatPolicy:
    """`GasPolicy` with a constant price. `config` is read by `initial_state` alone."""

    config: FlatConfig = FlatConfig()
    schedule: GasSchedule = GasSchedule()

    def intrinsic(self, size_bytes: int, suites: Sequence[int]) -> int:
        return intrinsic_gas(self.schedule, size_bytes, suites)

    def initial_state(self) -> bytes:
        collector = bytes.fromhex(self.config.collector[2:]) if self.config.collector else None
        return FlatState(self.config.price, collector).encode()

    def base_price(self, state: bytes) -> int:
        return FlatState.decode(state).price

    def payees(self, state: bytes) -> frozenset[Address]:
        collector = FlatState.decode(state).collector
        return frozenset() if collector is None else frozenset({collector})

    def admit(self, terms: FeeTerms, state: bytes) -> Quote:
        base = self.base_price(state)
        quote = self._quote_at(base, terms)
        self._admit_fields(terms)
        intrinsic = self.intrinsic(terms.size_bytes, terms.suites)
        if terms.gas_limit < intrinsic:
            raise GasLimitTooLow("gas_limit too low", terms.gas_limit, f"at least {intrinsic}")
        limit = self.schedule.transaction_gas_max
        if terms.gas_limit > limit:
            raise GasLimitTooHigh("gas_limit too high", terms.gas_limit, f"at most {limit}")
        if terms.max_price < base:
            raise PriceTooLow("max_price too low", terms.max_price, f"at least {base}")
        if quote.reserve > U128_MAX:
            raise AmountOverflow(
                "gas_limit x max_price is beyond 128 bits", quote.reserve, "lower one of them"
            )
        return quote

    def _admit_fields(self, terms: FeeTerms) -> None:
        if terms.fee_payer != terms.sender:
            raise SponsorRefused(
                "another account pays the fee", terms.fee_payer, "the sender pays on this chain"
            )
        if terms.max_fee != 0:
            raise FeeFieldInvalid("max_fee given", terms.max_fee, "0: gas_limit x max_price is the cap")
        if terms.tip_price != 0:
            raise FeeFieldInvalid("tip_price given", terms.tip_price, "0: this chain takes no tips")

    def quote(self, terms: FeeTerms, state: bytes) -> Quote:
        return self._quote_at(self.base_price(state), terms)

    def _quote_at(self, base: int, terms: FeeTerms) -> Quote:
        if terms.gas_token != NATIVE_TOKEN:
            raise TokenNotAccepted(
                "fees can't be paid in this token",
                terms.gas_token,
                f"the native token, 0x{NATIVE_TOKEN.hex()}",
            )
        return Quote(terms, reserve_of(terms), NATIVE_TOKEN, min(terms.max_price, base))

    def charge(self, quote: Quote, gas_used: int, refund_gas: int) -> Charge:
        gas_paid = paid_gas(gas_used, refund_gas)
        fee = min(quote.reserve, price_of(gas_paid, quote.price))
        return Charge(quote, gas_used, gas_paid, fee, quote.reserve - fee)

    def fixed_rule(self, state: bytes) -> FixedRule:
        found = FlatState.decode(state)
        return FixedRule(found.price, found.collector)

    def end_block(self, state: bytes, charges: Sequence[Charge], facts: BlockFacts) -> Settlement:
        fees = sum(charge.fee for charge in charges)
        collector = FlatState.decode(state).collector
        if fees == 0:
            return Settlement(state)
        if collector is None:
            return Settlement(state, burned=((NATIVE_TOKEN, fees),))
        return Settlement(state, credits=(Credit(collector, NATIVE_TOKEN, fees),))


@asynccontextmanager
async def open_flat(ctx: Context, config: FlatConfig) -> AsyncIterator[FlatPolicy]:
    """Open the policy. It holds nothing to close."""
    yield FlatPolicy(config)
