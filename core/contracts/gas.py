"""The gas role: the price of work, which tokens pay it, and who is paid.

A component yields a `GasPolicy`: pure functions over integers and an opaque state, which is part of the
chain's state. No clock, randomness, floats, I/O or memory of earlier calls: equal arguments give equal
results on every machine, since fees are part of what nodes agree on (GAS-5, GAS-22). What a chain's
genesis fixed about the policy is in that state, never in the configuration of one node.

Units (GAS-1): gas is work, u64. A price is micro base units (10^-6) of the native token per gas, u64. An
amount is base units of its token, u128. Money moves so: the reserve leaves the payer before a
transaction runs; afterwards a charge divides it into the fee and what returns; when the block ends, a
settlement divides the block's fees into credits and what is burned.
"""

from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import attrs

from supervm.types.address import Address, Suite
from supervm.types.errors import InvalidInput
from supervm.types.state import NATIVE_TOKEN
from supervm.types.transaction import Body

TokenId: TypeAlias = bytes

NO_NODE = bytes(32)

MICRO = 1_000_000
REFUND_DIVISOR = 5


class GasError(InvalidInput):
    """Base of all that a gas policy refuses. `code` is the name of the class."""

    def __init__(self, message: str, value: object = "", mend: str = "") -> None:
        super().__init__(type(self).__name__, message, value, mend)


class PriceTooLow(GasError):
    """`max_price` is below the base price of the lane. It may be high enough later."""


class TokenNotAccepted(GasError):
    """Fees can't be paid in this token."""


class TokenUnpriced(GasError):
    """The token has no price now. It may have one later."""


class FeeCapTooLow(GasError):
    """`max_fee` doesn't cover the gas limit at the current price of the token."""


class FeeFieldInvalid(GasError):
    """The fee fields contradict each other or the policy: a tip above the price, a cap where none is."""


class GasLimitTooLow(GasError):
    """`gas_limit` is below the intrinsic gas."""


class GasLimitTooHigh(GasError):
    """`gas_limit` is above what one transaction may use."""


class AmountOverflow(GasError):
    """The reserve doesn't fit 128 bits."""


class SponsorRefused(GasError):
    """The policy doesn't let this account pay for another."""


class SuiteUnpriced(GasError):
    """The schedule has no price for this signature suite."""


class GasStateUnreadable(GasError):
    """The state was not written by this policy."""


@attrs.frozen(kw_only=True)
class GasSchedule:
    """What each piece of work costs, in gas (GAS-2, GAS-3, GAS-7). The table is the rule, not the clock.

    `*_byte` are for each byte. `entry_write` is an existing state entry, `entry_new` and `entry_new_byte`
    come on top of it where the entry is new. `credit` is a credit to an account or balance, all in, new or
    not. `refund_delete` is given back for each object deleted, together at most a fifth of the gas used.
    """

    version: int = 1
    transaction: int = 5_000
    transaction_byte: int = 10
    signature_ed25519: int = 5_000
    signature_secp256k1: int = 5_000
    signature_sm2: int = 10_000
    entry_read: int = 200
    entry_write: int = 1_000
    entry_write_byte: int = 5
    entry_new: int = 5_000
    entry_new_byte: int = 20
    entry_delete: int = 500
    credit: int = 2_400
    object_mutate: int = 1_000
    object_transfer: int = 1_000
    object_share: int = 3_000
    object_freeze: int = 1_000
    event: int = 100
    event_byte: int = 5
    hash: int = 50
    hash_8_bytes: int = 1
    fold_batch: int = 1_000
    refund_delete: int = 4_000
    transaction_gas_max: int = 100_000_000
    block_gas_limit: int = 1_000_000_000
    block_gas_target: int = 500_000_000

    def signature(self, suite: int) -> int:
        """The gas of checking one signature. Raises `SuiteUnpriced`."""
        if suite == Suite.ED25519:
            return self.signature_ed25519
        if suite == Suite.SECP256K1:
            return self.signature_secp256k1
        if suite == Suite.SM2:
            return self.signature_sm2
        raise SuiteUnpriced("signature suite without a price", suite, "1 ed25519, 2 secp256k1, 3 sm2")


@attrs.frozen
class FeeTerms:
    """What a transaction's signed bytes, and their size, say about its fee (GAS-4).

    `suites` are the suites of its signatures, in order. `lane` is the lane it takes (FAST 1, ORDERED 2,
    PRIVATE 3), never AUTO. `relays` are node ids.
    """

    size_bytes: int
    suites: tuple[int, ...]
    gas_limit: int
    max_price: int
    tip_price: int
    gas_token: TokenId
    max_fee: int
    sender: Address
    fee_payer: Address
    lane: int
    relays: tuple[bytes, ...] = ()


@attrs.frozen
class Quote:
    """What is taken before execution: `reserve` base units of `token`, and the `price` that will count."""

    terms: FeeTerms
    reserve: int
    token: TokenId
    price: int


@attrs.frozen
class Charge:
    """How a reserve ended: `fee + returned = quote.reserve`, and `gas_paid <= gas_used` (after refunds)."""

    quote: Quote
    gas_used: int
    gas_paid: int
    fee: int
    returned: int

    @property
    def token(self) -> TokenId:
        return self.quote.token


@attrs.frozen
class BlockFacts:
    """What a policy may know of the block it settles. Times are UTC milliseconds, from the header."""

    height: int
    epoch: int
    timestamp_ms: int
    proposer: bytes = NO_NODE


@attrs.frozen
class Credit:
    """`amount` base units of `token` for an account, out of the block's fees."""

    address: Address
    token: TokenId
    amount: int


@attrs.frozen
class Settlement:
    """The end of a block: the next state, and where each base unit of the fees went (GAS-22).

    For each token, the credits and what is burned add up to the fees charged. Burning lowers the supply.
    A policy that gathers fees for later keeps them on accounts of its own, by credits.
    """

    state: bytes
    credits: tuple[Credit, ...] = ()
    burned: tuple[tuple[TokenId, int], ...] = ()


@runtime_checkable
class GasPolicy(Protocol):
    """The rules of fees of one chain. Every method is pure, total but for its errors, and does no I/O."""

    @property
    def schedule(self) -> GasSchedule:
        """The gas table. It is the same for the life of the chain, or of a schedule version."""

    def intrinsic(self, size_bytes: int, suites: Sequence[int]) -> int:
        """Gas known before execution: base, bytes and signatures. Raises `SuiteUnpriced`."""

    def initial_state(self) -> bytes:
        """The state for genesis, from this component's configuration: the only use of it."""

    def base_price(self, state: bytes) -> int:
        """Micro base units per gas that the next block asks at least. Raises `GasStateUnreadable`."""

    def payees(self, state: bytes) -> frozenset[Address]:
        """Accounts that `end_block` may credit, so that their entries can be read before the block runs."""

    def admit(self, terms: FeeTerms, state: bytes) -> Quote:
        """Judge the terms of a transaction that is not accepted yet (GAS-4), and quote them.

        Judged at admission and at the accept, never again in a block. Raises a `GasError` with the
        offending value and the mend.
        """

    def quote(self, terms: FeeTerms, state: bytes) -> Quote:
        """The reserve and price of a transaction whose turn has come in a block.

        `Quote.reserve` is `reserve_of(terms)`: a function of the signed bytes alone, so that wallets and
        validators reckon it alike. The price follows the state, and is never above `max_price`. Terms
        that `admit` has ever passed are never refused here (CONS-45); others may raise `GasError`.
        """

    def charge(self, quote: Quote, gas_used: int, refund_gas: int) -> Charge:
        """Divide the reserve (GAS-7). `0 <= gas_used`, and `refund_gas` is before its cap."""

    def end_block(self, state: bytes, charges: Sequence[Charge], facts: BlockFacts) -> Settlement:
        """Divide the block's fees, given in block order, and make the next state."""


@attrs.frozen
class FixedRule:
    """A policy's rule for one block, where it is this simple, so that C can follow it (EXEC-34).

    Fees are in the native token alone: other tokens are `TokenNotAccepted`, and nothing else is refused in a
    block. A gas costs min(max_price, `price`) micro base units. What the block's fees add up to goes to
    `collector`, or is burned where that is None. The state stays as it is.
    """

    price: int
    collector: Address | None


@runtime_checkable
class FixedRulePolicy(Protocol):
    """What a `GasPolicy` also has where its rule may be a `FixedRule`. Others are executed in Python."""

    def fixed_rule(self, state: bytes) -> FixedRule | None:
        """The rule of the block that starts with this state, None where it is not that simple.

        It must say the same as `quote`, `charge` and `end_block`; the conformance suite compares them.
        """


def reserve_of(terms: FeeTerms | Body) -> int:
    """Base units of `gas_token` that leave the payer before execution (GAS-7). May exceed 128 bits.

    A body has all the fields that count here, so the terms need not be gathered for it.
    """
    if terms.gas_token == NATIVE_TOKEN:
        return price_of(terms.gas_limit, terms.max_price)
    return terms.max_fee


def price_of(gas: int, price: int) -> int:
    """Native base units for `gas` at `price` micro base units per gas, rounded up."""
    return -(-gas * price // MICRO)


def paid_gas(gas_used: int, refund_gas: int) -> int:
    """Gas that is paid: what was used less the refund, which is at most a fifth of it (GAS-7)."""
    return gas_used - min(refund_gas, gas_used // REFUND_DIVISOR)


def intrinsic_gas(schedule: GasSchedule, size_bytes: int, suites: Sequence[int]) -> int:
    """Base, bytes and signatures by a schedule (GAS-2). Raises `SuiteUnpriced`."""
    signatures = sum(schedule.signature(suite) for suite in suites)
    return schedule.transaction + schedule.transaction_byte * size_bytes + signatures
