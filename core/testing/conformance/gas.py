"""What every gas policy keeps, as tests (supervm.contracts.gas): integers, no memory, not a unit lost."""

import itertools
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from supervm.contracts.gas import (
    BlockFacts,
    Charge,
    FeeTerms,
    GasError,
    GasLimitTooHigh,
    GasLimitTooLow,
    GasPolicy,
    PriceTooLow,
    Quote,
    Settlement,
    TokenNotAccepted,
    intrinsic_gas,
    paid_gas,
    price_of,
    reserve_of,
)
from supervm.testing.conformance.component import ComponentConformance
from supervm.types.address import Suite
from supervm.types.codec import U64_MAX, U128_MAX
from supervm.types.state import NATIVE_TOKEN

SENDER = b"\x51" * 32
SIZE_BYTES = 350
FAST, ORDERED = 1, 2
BLOCKS = 12
STATE_BYTES_MAX = 2**20
GARBAGE = (b"", b"\x00", b"\xff" * 32, b"\x01" * 7, bytes(4_096), bytes(range(256)) * 16)


@pytest.mark.trio
class GasConformance(ComponentConformance):
    """Subclass it and name `component`.

    `options` configure the policy under test. `other_options` are another chain's: with them, the suite
    also tests that a chain's rules are in its state and not in a node's file. `good_terms` gives terms
    that the policy admits in a state; override it where native fees at the base price are not among them.
    """

    options: ClassVar[Mapping[str, Any]] = {}
    other_options: ClassVar[Mapping[str, Any]] = {}

    def good_terms(self, policy: GasPolicy, state: bytes) -> Sequence[FeeTerms]:
        """Terms that `admit` takes in this state: exact and generous, every suite, both public lanes."""
        base = policy.base_price(state)
        found = []
        for suite, lane, slack in itertools.product(Suite, (FAST, ORDERED), (1, 3)):
            limit = slack * policy.intrinsic(SIZE_BYTES, (suite,))
            found.append(
                FeeTerms(
                    size_bytes=SIZE_BYTES,
                    suites=(suite,),
                    gas_limit=limit,
                    max_price=slack * base,
                    tip_price=0,
                    gas_token=NATIVE_TOKEN,
                    max_fee=0,
                    sender=SENDER,
                    fee_payer=SENDER,
                    lane=lane,
                )
            )
        return found

    @asynccontextmanager
    async def policy(self, folder: Path, **options: Any) -> AsyncIterator[GasPolicy]:
        async with self.opened(folder, **{**self.options, **options}) as policy:
            assert isinstance(policy, GasPolicy)
            yield policy

    async def test_the_schedule_is_whole_numbers_and_gives_the_intrinsic_gas(self, tmp_path: Path) -> None:
        async with self.policy(tmp_path) as policy:
            for name, value in attrs.asdict(policy.schedule).items():
                assert type(value) is int and value >= 0, f"schedule.{name} is {value!r}"
            for suites in ((), (1,), (2,), (3,), (1, 3)):
                for size_bytes in (0, 1, 150, 262_144):
                    expected = intrinsic_gas(policy.schedule, size_bytes, suites)
                    assert policy.intrinsic(size_bytes, suites) == expected
            with pytest.raises(GasError):
                policy.intrinsic(150, (0,))

    async def test_good_terms_are_admitted_and_quoted_alike_in_the_block(self, tmp_path: Path) -> None:
        async with self.policy(tmp_path) as policy:
            state = policy.initial_state()
            assert self.good_terms(policy, state)
            for terms in self.good_terms(policy, state):
                assert policy.admit(terms, state) == policy.quote(terms, state)

    async def test_the_reserve_follows_from_the_signed_bytes_alone(self, tmp_path: Path) -> None:
        async with self.policy(tmp_path) as policy:
            for state, terms in self._turns(policy):
                quote = policy.quote(terms, state)
                assert quote.reserve == reserve_of(terms)
                assert quote.token == terms.gas_token and quote.terms == terms

    async def test_the_price_is_never_above_what_was_offered(self, tmp_path: Path) -> None:
        async with self.policy(tmp_path) as policy:
            for state, terms in self._turns(policy):
                price = policy.quote(terms, state).price
                assert type(price) is int and 0 <= price <= terms.max_price

    async def test_what_was_admitted_is_never_refused_in_a_later_block(self, tmp_path: Path) -> None:
        async with self.policy(tmp_path) as policy:
            for state, terms in self._turns(policy):
                policy.quote(terms, state)

    async def test_a_charge_divides_the_reserve_to_the_unit(self, tmp_path: Path) -> None:
        async with self.policy(tmp_path) as policy:
            for quote, gas_used, refund in self._works(policy):
                charge = policy.charge(quote, gas_used, refund)
                assert type(charge.fee) is int and type(charge.returned) is int
                assert 0 <= charge.fee <= quote.reserve
                assert charge.fee + charge.returned == quote.reserve
                assert charge.quote == quote and charge.gas_used == gas_used

    async def test_refunds_are_capped_at_a_fifth_of_the_gas_used(self, tmp_path: Path) -> None:
        async with self.policy(tmp_path) as policy:
            for quote, gas_used, refund in self._works(policy):
                assert policy.charge(quote, gas_used, refund).gas_paid == paid_gas(gas_used, refund)

    async def test_a_native_fee_is_gas_times_price_rounded_up(self, tmp_path: Path) -> None:
        async with self.policy(tmp_path) as policy:
            for quote, gas_used, refund in self._works(policy):
                if quote.token == NATIVE_TOKEN:
                    fee = price_of(paid_gas(gas_used, refund), quote.price)
                    assert policy.charge(quote, gas_used, refund).fee == min(quote.reserve, fee)

    async def test_more_gas_never_costs_less(self, tmp_path: Path) -> None:
        async with self.policy(tmp_path) as policy:
            state = policy.initial_state()
            for terms in self.good_terms(policy, state):
                quote = policy.quote(terms, state)
                fees = [policy.charge(quote, gas, 0).fee for gas in self._gas_up_to(terms.gas_limit)]
                assert fees == sorted(fees)

    async def test_the_end_of_a_block_places_every_unit_of_every_fee(self, tmp_path: Path) -> None:
        async with self.policy(tmp_path) as policy:
            state = policy.initial_state()
            for charges in self._blocks(policy, state):
                settlement = policy.end_block(state, charges, _facts(1))
                assert _placed(settlement) == _charged(charges)
                amounts = [each.amount for each in settlement.credits]
                amounts += [amount for _, amount in settlement.burned]
                assert all(type(amount) is int and amount >= 0 for amount in amounts)

    async def test_only_announced_payees_are_credited(self, tmp_path: Path) -> None:
        async with self.policy(tmp_path) as policy:
            state = policy.initial_state()
            for charges in self._blocks(policy, state):
                settlement = policy.end_block(state, charges, _facts(1))
                assert {each.address for each in settlement.credits} <= policy.payees(state)

    async def test_each_block_leaves_a_state_that_can_be_read(self, tmp_path: Path) -> None:
        async with self.policy(tmp_path) as policy:
            for state in self._states(policy):
                assert type(state) is bytes and len(state) <= STATE_BYTES_MAX
                price = policy.base_price(state)
                assert type(price) is int and 0 <= price <= U64_MAX

    async def test_equal_arguments_give_equal_results_whatever_came_before(self, tmp_path: Path) -> None:
        async with self.policy(tmp_path / "one") as one, self.policy(tmp_path / "two") as two:
            first = self._everything(one)
            assert self._everything(one) == first, "it remembers earlier calls"
            assert self._everything(two) == first, "two nodes disagree"

    async def test_a_chain_is_ruled_by_its_state_not_by_a_nodes_file(self, tmp_path: Path) -> None:
        if not self.other_options:
            pytest.skip("no other_options: the policy has nothing to configure")
        async with (
            self.policy(tmp_path / "ours") as ours,
            self.policy(tmp_path / "theirs", **self.other_options) as theirs,
        ):
            state = ours.initial_state()
            assert theirs.initial_state() != state, "other_options must make another chain"
            assert self._everything(theirs, state) == self._everything(ours, state)

    async def test_a_gas_limit_out_of_bounds_is_refused(self, tmp_path: Path) -> None:
        async with self.policy(tmp_path) as policy:
            state = policy.initial_state()
            for terms in self.good_terms(policy, state):
                low = policy.intrinsic(terms.size_bytes, terms.suites) - 1
                for gas_limit in (0, low):
                    _refuses(policy, attrs.evolve(terms, gas_limit=gas_limit), state, GasLimitTooLow)
                for gas_limit in (policy.schedule.transaction_gas_max + 1, U64_MAX):
                    high = attrs.evolve(terms, gas_limit=gas_limit)
                    _refuses(policy, high, state, GasLimitTooHigh)

    async def test_a_price_below_the_base_price_is_refused(self, tmp_path: Path) -> None:
        async with self.policy(tmp_path) as policy:
            state = policy.initial_state()
            base = policy.base_price(state)
            if base == 0:
                pytest.skip("nothing is below a base price of zero")
            for terms in self.good_terms(policy, state):
                for price in (0, base - 1):
                    _refuses(policy, attrs.evolve(terms, max_price=price), state, PriceTooLow)

    async def test_a_token_nobody_knows_is_not_accepted(self, tmp_path: Path) -> None:
        async with self.policy(tmp_path) as policy:
            state = policy.initial_state()
            for terms in self.good_terms(policy, state):
                odd = attrs.evolve(terms, gas_token=b"\xee" * 32, max_fee=U128_MAX)
                _refuses(policy, odd, state, TokenNotAccepted)

    async def test_nonsense_raises_only_gas_errors_that_say_the_mend(self, tmp_path: Path) -> None:
        async with self.policy(tmp_path) as policy:
            state = policy.initial_state()
            chance = random.Random(1)
            extremes = (0, 1, U64_MAX)
            for terms in self.good_terms(policy, state):
                for _ in range(64):
                    odd = attrs.evolve(
                        terms,
                        gas_limit=chance.choice(extremes),
                        max_price=chance.choice(extremes),
                        tip_price=chance.choice(extremes),
                        max_fee=chance.choice((0, 1, U128_MAX)),
                        gas_token=chance.choice((NATIVE_TOKEN, b"\xee" * 32)),
                        fee_payer=chance.choice((SENDER, b"\x52" * 32)),
                        relays=chance.choice(((), (b"\x53" * 32,) * 2)),
                    )
                    for judge in (policy.admit, policy.quote):
                        _answers(judge, odd, state)

    async def test_a_foreign_state_raises_only_gas_errors(self, tmp_path: Path) -> None:
        async with self.policy(tmp_path) as policy:
            (terms, *_) = self.good_terms(policy, policy.initial_state())
            for state in (*GARBAGE, policy.initial_state()[:-1], policy.initial_state() + b"\x00"):
                for use in (
                    policy.base_price,
                    policy.payees,
                    lambda state: policy.admit(terms, state),
                    lambda state: policy.end_block(state, (), _facts(1)),
                ):
                    with pytest.raises(GasError) as refused:
                        use(state)
                    assert refused.value.code and refused.value.mend

    def _states(self, policy: GasPolicy) -> list[bytes]:
        """The states of a chain whose blocks are by turns full and empty."""
        states = [policy.initial_state()]
        for height in range(1, BLOCKS):
            charges = self._full_block(policy, states[-1]) if height % 3 else []
            states.append(policy.end_block(states[-1], charges, _facts(height)).state)
        return states

    def _turns(self, policy: GasPolicy) -> list[tuple[bytes, FeeTerms]]:
        """Terms that were admitted in the first state, at their turn in each later one."""
        states = self._states(policy)
        admitted = self.good_terms(policy, states[0])
        for terms in admitted:
            policy.admit(terms, states[0])
        return [(state, terms) for state in states for terms in admitted]

    def _works(self, policy: GasPolicy) -> list[tuple[Quote, int, int]]:
        """Quotes with the gas that was used and what deletions give back."""
        state = policy.initial_state()
        return [
            (policy.quote(terms, state), gas_used, refund)
            for terms in self.good_terms(policy, state)
            for gas_used in self._gas_up_to(terms.gas_limit)
            for refund in (0, 1, 4_000, 10**9)
        ]

    def _gas_up_to(self, limit: int) -> list[int]:
        chance = random.Random(limit)
        return sorted(
            {0, 1, 4, 5, limit // 2, limit - 1, limit, *(chance.randint(0, limit) for _ in range(9))}
        )

    def _full_block(self, policy: GasPolicy, state: bytes) -> list[Charge]:
        """Charges that fill a block with gas, as far as its state admits any."""
        found: list[Charge] = []
        room = policy.schedule.block_gas_limit
        for terms in self.good_terms(policy, state):
            full = attrs.evolve(terms, gas_limit=policy.schedule.transaction_gas_max)
            quote = policy.admit(full, state)
            gas = min(room, full.gas_limit)
            found.append(policy.charge(quote, gas, 0))
            room -= gas
        return found

    def _blocks(self, policy: GasPolicy, state: bytes) -> list[list[Charge]]:
        """No charge, each alone, many, and one that found less money than its reserve (GAS-7)."""
        many = [policy.charge(quote, gas, refund) for quote, gas, refund in self._works(policy)]
        short = attrs.evolve(many[-1], fee=many[-1].fee // 3, returned=0)
        return [[], *([each] for each in many[:8]), many, self._full_block(policy, state), [short, *many[:3]]]

    def _everything(self, policy: GasPolicy, start: bytes | None = None) -> list[object]:
        """What the policy answers to a fixed list of questions."""
        state = policy.initial_state() if start is None else start
        answers: list[object] = [policy.intrinsic(150, (1,)), attrs.asdict(policy.schedule)]
        if start is None:
            answers.append(policy.initial_state())
        for height in range(1, BLOCKS):
            quotes = [policy.admit(terms, state) for terms in self.good_terms(policy, state)]
            charges = [policy.charge(quote, quote.terms.gas_limit, 0) for quote in quotes]
            settlement = policy.end_block(state, charges, _facts(height))
            answers += [policy.base_price(state), policy.payees(state), quotes, charges, settlement]
            state = settlement.state
        return answers


def _facts(height: int) -> BlockFacts:
    return BlockFacts(height=height, epoch=height // 4, timestamp_ms=1_700_000_000_000 + height)


def _charged(charges: Sequence[Charge]) -> dict[bytes, int]:
    """Fees by token, zeros left out."""
    return _sums((charge.token, charge.fee) for charge in charges)


def _placed(settlement: Settlement) -> dict[bytes, int]:
    """Credits and burns by token, zeros left out."""
    credited = ((each.token, each.amount) for each in settlement.credits)
    return _sums(itertools.chain(credited, settlement.burned))


def _sums(amounts: Any) -> dict[bytes, int]:
    sums: dict[bytes, int] = {}
    for token, amount in amounts:
        sums[token] = sums.get(token, 0) + amount
    return {token: amount for token, amount in sums.items() if amount}


def _refuses(policy: GasPolicy, terms: FeeTerms, state: bytes, error: type[GasError]) -> None:
    with pytest.raises(error) as refused:
        policy.admit(terms, state)
    assert refused.value.code == error.__name__
    assert refused.value.value and refused.value.mend, "an error names the value and the mend"


def _answers(judge: Callable[[FeeTerms, bytes], Quote], terms: FeeTerms, state: bytes) -> None:
    try:
        quote = judge(terms, state)
    except GasError as refused:
        assert refused.code and refused.mend, "an error names its code and the mend"
        return
    assert quote.reserve == reserve_of(terms)
