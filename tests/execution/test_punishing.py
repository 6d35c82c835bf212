"""What evidence and proofs of equivocation cost (CONS-17, CONS-70, GAS-20, GAS-22)."""

import random
from collections.abc import Callable
from itertools import pairwise

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervm.contracts.gas import price_of
from supervm.execution import BlockResult, execute_block
from supervm.execution.election import MINIMUM_COINS, elect
from supervm.execution.engine import choose_engine
from supervm.execution.footprint import nonce_lock, object_lock, sponsor_nonce_lock
from supervm.execution.punishing import (
    EQUIVOCATION_GAS,
    LEAST_GAS,
    chargeable,
    not_punished,
    owing_in,
    part_of,
)
from supervm.execution.staking import UNBONDING_EPOCHS
from supervm.execution.supply import recorded_supply, supply
from supervm.types import wrongs
from supervm.types.address import Suite, node_id_of
from supervm.types.claims import IN_FLIGHT_MAX
from supervm.types.stakes import ESCROW, STAKES_KEY, Stake, Stakes, stakes_of
from supervm.types.state import ACCOUNT, Account, account_key
from supervm.types.transaction import Transaction
from supervm.types.validators import Validator, ValidatorSet
from supervm.types.wrongs import (
    DOUBLES_KEY,
    DOUBLES_MAX,
    OFFENCES_KEY,
    RESERVE,
    Double,
    Offence,
    Wrongs,
    decode_doubles,
    decode_punished,
    encode_doubles,
)
from tests import needs

from .builders import (
    ALICE,
    BOB,
    CAROL,
    COLLECTOR,
    FLAT,
    FUNDS,
    PRICE,
    State,
    apply,
    block_of,
    owned,
    pay,
    state_of,
)

COINS = MINIMUM_COINS * 10**9
KEYS = [bytes([at]) * 32 for at in range(1, 7)]
NAMED = ValidatorSet(
    tuple(
        sorted(
            (Validator(node_id_of(Suite.ED25519, key), key, 2) for key in KEYS[:2]),
            key=lambda each: each.node_id,
        )
    )
)
PROOF_PRICE = price_of(EQUIVOCATION_GAS, PRICE)


def staked(*amounts: int) -> State:
    """A state in which the keys after those of genesis have staked these amounts."""
    records = tuple(Stake(public_key=key, amount=each) for key, each in zip(KEYS[2:], amounts, strict=False))
    state = state_of({ALICE: FUNDS, BOB: FUNDS, ESCROW: sum(amounts)})
    return state | ({STAKES_KEY: Stakes(records).encode()} if records else {})


def run(state: State, said: Wrongs, *sent: Transaction, epoch: int = 1, height: int = 1) -> BlockResult:
    """Execute on the state, which follows; value is conserved, and escrow is what is at stake."""
    block = block_of(sent, height, epoch=epoch, granted=NAMED, wrongs=said)
    found = execute_block(state, block, FLAT)
    apply(state, found.changes)
    assert supply(state) == recorded_supply(state)
    assert balance(state, ESCROW) == sum(each.amount for each in stakes_of(state.get(STAKES_KEY)).records)
    return found


def balance(state: State, address: bytes) -> int:
    data = state.get(account_key(address))
    return Account.decode(data).balance if data else 0


def members(state: State) -> set[bytes]:
    return {each.public_key for each in elect(NAMED, stakes_of(state.get(STAKES_KEY)), 9).members}


def offence(number: int, kind: int = wrongs.NOTARIZES) -> Wrongs:
    return Wrongs(offences=(Offence(kind, KEYS[number]),))


def test_an_offender_loses_a_twentieth_of_its_stake_to_the_reserve_and_its_place() -> None:
    state = staked(10 * COINS, 2 * COINS)
    found = run(state, offence(2))
    assert balance(state, RESERVE) == COINS // 2
    assert stakes_of(state[STAKES_KEY]).of(KEYS[2]) == Stake(
        public_key=KEYS[2], amount=10 * COINS - COINS // 2, left_epoch=1
    )
    assert members(state) == {KEYS[0], KEYS[1], KEYS[3]}
    assert [(each.public_key, each.slashed) for each in found.punished] == [(KEYS[2], COINS // 2)]


def test_the_same_offence_has_no_second_effect_and_another_has() -> None:
    state = staked(10 * COINS, 2 * COINS)
    run(state, offence(2))
    before = dict(state)
    again = run(state, Wrongs(offences=offence(2).offences * 2), height=2)
    assert (state, again.punished) == (before, ())
    assert len(run(state, offence(2, wrongs.PROPOSALS), height=3).punished) == 1
    assert len(run(state, offence(2), epoch=2, height=4).punished) == 1


def test_evidence_again_leaves_a_block_to_c() -> None:
    state = staked(10 * COINS, 2 * COINS)
    known, fresh = Offence(wrongs.NOTARIZES, KEYS[2]), Offence(wrongs.NOTARIZES, KEYS[3])
    assert not_punished((known, known, fresh), None, 1) == (known, fresh)
    run(state, offence(2))
    entry = state[OFFENCES_KEY]
    assert not_punished((known, fresh, known), entry, 1) == (fresh,)
    assert not_punished((known,), entry, 2) == (known,)


def test_who_offends_with_others_loses_three_times_their_part() -> None:
    state = staked(10 * COINS, 10 * COINS, 20 * COINS)
    run(state, offence(2))
    run(state, offence(3))
    # The first had a quarter of all that was ever at stake in these epochs.
    lost = 10 * COINS - stakes_of(state[STAKES_KEY]).of(KEYS[3]).amount
    assert lost == 10 * COINS * 3 // 4
    run(state, offence(4, wrongs.ACCEPTS))
    assert stakes_of(state[STAKES_KEY]).of(KEYS[4]).amount == 19 * COINS
    run(state, offence(4))
    assert stakes_of(state[STAKES_KEY]).of(KEYS[4]) is None
    assert members(state) == {KEYS[0], KEYS[1]}


def test_offences_are_forgotten_with_the_unbonding_time() -> None:
    state = staked(10 * COINS, 10 * COINS)
    run(state, offence(2))
    run(state, offence(3), epoch=1 + UNBONDING_EPOCHS)
    assert stakes_of(state[STAKES_KEY]).of(KEYS[3]).amount == 10 * COINS - COINS // 2
    assert [each.public_key for each in decode_punished(state[OFFENCES_KEY])] == [KEYS[3]]


def test_a_member_of_genesis_without_a_stake_loses_its_place_unless_nobody_is_left() -> None:
    state = staked()
    run(state, offence(0))
    assert members(state) == {KEYS[1]}
    found = run(state, offence(1))
    assert members(state) == {KEYS[1]}
    assert [each.slashed for each in found.punished] == [0]
    assert balance(state, RESERVE) == 0


@given(amount=st.integers(0, 2**100), others=st.integers(0, 2**90), more=st.integers(0, 2**100))
def test_a_penalty_is_at_least_a_twentieth_and_never_more_than_there_is(
    amount: int, others: int, more: int
) -> None:
    lost = part_of(amount, others, others + more)
    assert 0 <= lost <= amount and 20 * lost >= amount
    assert lost <= part_of(amount, others + 1, others + 1 + more) or lost == amount


def test_signing_twice_costs_a_million_gas_at_the_end_of_the_epoch_once_a_lock() -> None:
    state = staked()
    double = Double(ALICE, nonce_lock(ALICE, 0))
    run(state, Wrongs(doubles=(double, double)))
    run(state, Wrongs(doubles=(double,)), height=2)
    assert balance(state, ALICE) == FUNDS
    assert owing_in(state[DOUBLES_KEY]) == (ALICE,)
    other = Double(ALICE, nonce_lock(ALICE, 1))
    last = run(state, Wrongs(doubles=(other,), owing=(ALICE,)), pay(BOB, 7), height=3)
    fee = last.receipts[0].fee
    assert balance(state, ALICE) == FUNDS - 7 - fee - 2 * PROOF_PRICE
    assert balance(state, COLLECTOR) == fee + 2 * PROOF_PRICE
    assert DOUBLES_KEY not in state


def test_it_costs_at_most_what_there_is_and_nothing_where_the_lock_hindered_nobody() -> None:
    state = state_of({CAROL: 150, ALICE: FUNDS})
    state[b"\x04" + bytes(32)] = owned(ALICE, version=3).encode()
    past = Double(ALICE, object_lock(bytes(32), 2))
    used = Double(ALICE, nonce_lock(ALICE, 0))
    run(state, Wrongs(), pay(BOB, 1))
    before = balance(state, ALICE)
    run(state, Wrongs(doubles=(past, used, Double(CAROL, nonce_lock(CAROL, 0)))), height=2)
    run(state, Wrongs(owing=owing_in(state[DOUBLES_KEY])), height=3)
    assert (balance(state, CAROL), balance(state, ALICE)) == (0, before)


def noted_of(state: State, *doubles: Double) -> list[Double]:
    """Which of a block's proofs the state remembers, beside those that it knew."""
    before = decode_doubles(state.get(DOUBLES_KEY))
    run(state, Wrongs(doubles=doubles))
    return [each for each in decode_doubles(state.get(DOUBLES_KEY)) if each not in before]


@pytest.mark.parametrize("lock", [nonce_lock, sponsor_nonce_lock])
def test_only_nonces_that_a_validator_may_lock_count(lock: Callable[[bytes, int], bytes]) -> None:
    state = state_of({ALICE: FUNDS})
    state[ACCOUNT + ALICE] = Account(3, 3, FUNDS).encode()
    doubles = [Double(ALICE, lock(ALICE, each)) for each in (2, 3, 2 + IN_FLIGHT_MAX, 3 + IN_FLIGHT_MAX)]
    assert noted_of(state, *doubles) == doubles[1:3]
    assert not noted_of(state, Double(ALICE, lock(ALICE, 2**64 - 1)))


def test_only_objects_at_their_version_count_against_their_owner() -> None:
    state = state_of({ALICE: FUNDS, BOB: FUNDS})
    names = [bytes([each]) * 32 for each in range(4)]
    deleted = attrs.evolve(owned(ALICE, 3, b""), deleted=True)
    things = (owned(ALICE, 3), owned(BOB, 3), deleted)
    for name, found in zip(names, things, strict=False):
        state[b"\x04" + name] = found.encode()
    doubles = [Double(ALICE, object_lock(name, 3)) for name in names]
    other = [Double(ALICE, object_lock(names[0], version)) for version in (2, 4)]
    assert noted_of(state, *doubles, *other) == doubles[:1]


def test_who_has_nothing_fills_nobodys_room() -> None:
    fresh = [each.to_bytes(32, "big") for each in range(1, DOUBLES_MAX + 1)]
    state = state_of({ALICE: FUNDS})
    for at in range(0, DOUBLES_MAX, 64):
        assert not noted_of(state, *(Double(each, nonce_lock(each, 0)) for each in fresh[at : at + 64]))
    double = Double(ALICE, nonce_lock(ALICE, 0))
    assert noted_of(state, double) == [double]


def test_each_lock_that_counts_needs_as_much_as_a_transaction_does() -> None:
    least = price_of(LEAST_GAS, PRICE)
    schedule = FLAT.schedule
    assert schedule.transaction + min(schedule.signature(suite) for suite in Suite) >= LEAST_GAS
    state = state_of({ALICE: FUNDS, BOB: least - 1, CAROL: 3 * least - 1})
    doubles = [Double(who, nonce_lock(who, each)) for who in (CAROL, BOB) for each in range(3)]
    assert noted_of(state, *doubles) == doubles[:2]
    assert not noted_of(state, doubles[2])
    fee = run(state, Wrongs(), pay(CAROL, 1)).receipts[0].fee
    assert noted_of(state, *doubles) == [doubles[2]]
    run(state, Wrongs(owing=owing_in(state[DOUBLES_KEY])), height=2)
    assert (balance(state, CAROL), balance(state, COLLECTOR)) == (0, fee + 3 * least)


def test_one_purse_that_is_handed_round_costs_more_than_each_lock_needs() -> None:
    least, fees = price_of(LEAST_GAS, PRICE), 0
    state = state_of({ALICE: FUNDS})
    holders = [ALICE, BOB, CAROL]
    for at, (holder, following) in enumerate(pairwise(holders)):
        double = Double(holder, nonce_lock(holder, 1))
        moves = pay(following, balance(state, holder) - 10_000, sender=holder)
        found = run(state, Wrongs(doubles=(double,)), moves, height=at + 1)
        assert found.receipts[0].code == "" and found.receipts[0].fee >= least
        fees += found.receipts[0].fee
    owing = owing_in(state[DOUBLES_KEY])
    assert owing == (ALICE, BOB)
    left = [balance(state, each) for each in owing]
    run(state, Wrongs(owing=owing), height=9)
    assert [balance(state, each) for each in owing] == [0, 0]
    assert balance(state, COLLECTOR) == fees + sum(left)


def test_those_that_would_count_are_told_who_pays_most_and_nearest_first() -> None:
    least, whole = price_of(LEAST_GAS, PRICE), PROOF_PRICE
    state = state_of({ALICE: whole - 1, BOB: 10 * whole, CAROL: 2 * least})
    doubles = [
        Double(CAROL, nonce_lock(CAROL, 1)),
        Double(ALICE, nonce_lock(ALICE, 0)),
        Double(CAROL, nonce_lock(CAROL, 2)),
        Double(CAROL, nonce_lock(CAROL, 0)),
        Double(BOB, nonce_lock(BOB, 70)),
        Double(BOB, sponsor_nonce_lock(BOB, 9)),
        Double(BOB, nonce_lock(BOB, 4)),
    ]
    assert chargeable(state, doubles, PRICE) == (6, 5, 1, 3, 0)
    noted = noted_of(state, doubles[6], doubles[3])
    assert noted and chargeable(state, doubles, PRICE) == (5, 1, 0)
    state[DOUBLES_KEY] = encode_doubles([noted[0]] * DOUBLES_MAX)
    assert not chargeable(state, doubles, PRICE)


@needs.c_engine
def test_the_engine_of_a_node_gives_what_the_specification_gives_of_wrongs() -> None:
    chance = random.Random(5)
    state = staked(*(chance.randrange(COINS, 9 * COINS) for _ in range(4)))
    state[b"\x04" + bytes(32)] = owned(ALICE).encode()
    noted: set[bytes] = set()
    engine = choose_engine(native=True, threads=1, bytes_max=1 << 20, seed=bytes(32))
    for height in range(1, 40):
        said = Wrongs(
            offences=tuple(
                Offence(chance.choice(list(wrongs.OFFENCES)), chance.choice(KEYS))
                for _ in range(chance.choice((0, 0, 1, 3)))
            ),
            doubles=tuple(
                chance.choice(
                    (
                        Double(who, nonce_lock(who, chance.randrange(80))),
                        Double(who, sponsor_nonce_lock(who, chance.randrange(80))),
                        Double(who, object_lock(bytes(32), chance.randrange(3))),
                    )
                )
                for who in chance.sample((ALICE, BOB, CAROL), chance.choice((0, 1, 2)))
            ),
            owing=owing_in(state.get(DOUBLES_KEY)) if height % 5 == 0 else None,
        )
        nonce = Account.decode(state[ACCOUNT + ALICE]).nonce
        block = block_of([pay(CAROL, 90, nonce=nonce)], height, granted=NAMED, wrongs=said)
        wanted = execute_block(state, block, FLAT)
        with engine.open_block(block, FLAT, FLAT.initial_state()) as opened:
            opened.supply([state.get(key) for key in opened.missing()])
            found = opened.execute()
        assert attrs.asdict(found, recurse=False) | {"changes": dict(found.changes)} == attrs.asdict(
            wanted, recurse=False
        ), height
        engine.follow(found.changes)
        apply(state, found.changes)
        noted |= {each.lock[:1] for each in decode_doubles(state.get(DOUBLES_KEY))}
        assert supply(state) == recorded_supply(state)
    assert noted == {b"\x01", b"\x02", b"\x03"}
