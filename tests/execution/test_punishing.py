"""What evidence and proofs of equivocation cost (CONS-17, CONS-70, GAS-20, GAS-22)."""

import random

import attrs
from hypothesis import given
from hypothesis import strategies as st

from supervm.contracts.gas import price_of
from supervm.execution import BlockResult, execute_block
from supervm.execution.election import MINIMUM_COINS, elect
from supervm.execution.engine import choose_engine
from supervm.execution.footprint import nonce_lock, object_lock
from supervm.execution.punishing import EQUIVOCATION_GAS, owing_in, part_of
from supervm.execution.staking import UNBONDING_EPOCHS
from supervm.execution.supply import recorded_supply, supply
from supervm.types import wrongs
from supervm.types.address import Suite, node_id_of
from supervm.types.stakes import ESCROW, STAKES_KEY, Stake, Stakes, stakes_of
from supervm.types.state import ACCOUNT, Account, account_key
from supervm.types.transaction import Transaction
from supervm.types.validators import Validator, ValidatorSet
from supervm.types.wrongs import DOUBLES_KEY, OFFENCES_KEY, RESERVE, Double, Offence, Wrongs, decode_punished
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
    state = state_of({CAROL: 5, ALICE: FUNDS})
    state[b"\x04" + bytes(32)] = owned(ALICE, version=3).encode()
    past = Double(ALICE, object_lock(bytes(32), 2))
    used = Double(ALICE, nonce_lock(ALICE, 0))
    run(state, Wrongs(), pay(BOB, 1))
    before = balance(state, ALICE)
    run(state, Wrongs(doubles=(past, used, Double(CAROL, nonce_lock(CAROL, 0)))), height=2)
    run(state, Wrongs(owing=owing_in(state[DOUBLES_KEY])), height=3)
    assert (balance(state, CAROL), balance(state, ALICE)) == (0, before)


@needs.c_engine
def test_the_engine_of_a_node_gives_what_the_specification_gives_of_wrongs() -> None:
    chance = random.Random(5)
    state = staked(*(chance.randrange(COINS, 9 * COINS) for _ in range(4)))
    engine = choose_engine(native=True, threads=1, bytes_max=1 << 20, seed=bytes(32))
    for height in range(1, 40):
        said = Wrongs(
            offences=tuple(
                Offence(chance.choice(list(wrongs.OFFENCES)), chance.choice(KEYS))
                for _ in range(chance.choice((0, 0, 1, 3)))
            ),
            doubles=tuple(
                Double(who, nonce_lock(who, chance.randrange(height)))
                for who in chance.sample((ALICE, BOB, CAROL), chance.choice((0, 1, 2)))
            ),
            owing=owing_in(state.get(DOUBLES_KEY)) if height % 5 == 0 else None,
        )
        nonce = Account.decode(state[ACCOUNT + ALICE]).nonce
        block = block_of([pay(BOB, 3, nonce=nonce)], height, granted=NAMED, wrongs=said)
        wanted = execute_block(state, block, FLAT)
        with engine.open_block(block, FLAT, FLAT.initial_state()) as opened:
            opened.supply([state.get(key) for key in opened.missing()])
            found = opened.execute()
        assert attrs.asdict(found, recurse=False) | {"changes": dict(found.changes)} == attrs.asdict(
            wanted, recurse=False
        ), height
        engine.follow(found.changes)
        apply(state, found.changes)
        assert supply(state) == recorded_supply(state)
