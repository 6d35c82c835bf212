"""What a certifying engine is told of a batch's transactions, and of what a block used up (CONS-10..15)."""

from collections.abc import Mapping

import pytest

from supervm.chain.claiming import examine_transactions, used_keys, used_slots
from supervm.chain.judging import admission_keys
from supervm.execution import GAS_STATE_KEY
from supervm.execution.ahead import credits_of
from supervm.execution.claims import claim_of
from supervm.execution.footprint import fee_terms, nonce_lock, object_lock, sponsor_nonce_lock
from supervm.execution.lanes import lane_taken
from supervm.execution.plain import claim_of_plain, fee_terms_of_plain, lane_of_plain
from supervm.types.claims import NONCE_LOCK, SPONSOR_NONCE_LOCK, Examined
from supervm.types.operations import ObjectMutate
from supervm.types.plain import PlainTransaction, read_plain
from supervm.types.receipt import Status
from supervm.types.state import NATIVE_TOKEN
from supervm.types.transaction import Access, Input, Lane, Transaction
from tests.execution.builders import (
    ALICE,
    BOB,
    CAROL,
    FLAT,
    FUNDS,
    State,
    owned,
    pay,
    run,
    shared,
    state_of,
    transaction,
)

MINE, OURS = b"\x0b" * 32, b"\x0c" * 32


def touch(version: int, nonce: int = 0) -> Transaction:
    return transaction(ObjectMutate(MINE, b"x"), nonce=nonce, inputs=(Input(MINE, version, Access.WRITE),))


def examined(state: State, *given: Transaction, wrong: Mapping[int, str] | None = None) -> Examined:
    keys = {key for each in given for key in admission_keys(each)}
    return examine_transactions(
        given,
        {key: state.get(key) for key in keys},
        7,
        FLAT,
        state[GAS_STATE_KEY],
        wrong=wrong or {},
        gas_sum=5,
        private_kinds=frozenset({9}),
    )


def test_claims_and_facts_are_of_every_transaction_also_of_refused_ones() -> None:
    state = state_of()
    first, second = pay(BOB, 5), pay(CAROL, 6, nonce=1)
    found = examined(state, first, second, wrong={1: "BadSignature"})
    assert [claim.transaction for claim in found.claims] == [first.digest, second.digest]
    assert [claim.slots for claim in found.claims] == [(nonce_lock(ALICE, 0),), (nonce_lock(ALICE, 1),)]
    assert found.claims[0].fast
    assert dict(found.refused) == {1: "BadSignature"}
    assert (found.facts.height, found.gas) == (7, 5)
    assert found.facts.nonces == {NONCE_LOCK + ALICE: 0}
    assert found.facts.balances == {(ALICE, NATIVE_TOKEN): FUNDS}


@pytest.mark.parametrize("lane", [Lane.AUTO, Lane.FAST, Lane.ORDERED])
def test_a_plain_transfer_is_judged_by_its_fields_as_by_its_parts(lane: Lane) -> None:
    state = state_of({ALICE: FUNDS, BOB: 100})
    run(state, pay(CAROL, 1))
    given = [
        pay(CAROL, 1, lane=lane),  # its nonce is used
        pay(CAROL, 1, nonce=1, lane=lane),
        pay(BOB, 0, nonce=2, lane=lane, max_price=0, gas_limit=0),
        pay(CAROL, 1, nonce=3, lane=lane, max_price=1),
        pay(CAROL, FUNDS, nonce=4, lane=lane),
        pay(CAROL, 1, sender=BOB, lane=lane),
        pay(CAROL, 1, sender=CAROL, lane=lane),
        pay(CAROL, 1, nonce=5, lane=lane, tip_price=1),
    ]
    plain = []
    for each in given:
        said = read_plain(each.data)
        assert said is not None
        plain.append(PlainTransaction(each.data, each.digest, said))
    assert [admission_keys(each) for each in plain] == [admission_keys(each) for each in given]
    found, wanted = examined(state, *plain), examined(state, *given)
    assert found == wanted
    assert set(found.refused) == {0, 2, 3, 4, 5, 6, 7}
    for status in (Status.COMMITTED, Status.FAILED, Status.VOID):
        assert [credits_of(each, status) for each in plain] == [credits_of(each, status) for each in given]
    assert used_keys(plain) == used_keys(given)
    assert used_slots(plain, state) == used_slots(given, state) == (nonce_lock(ALICE, 0),)
    for one, other in zip(plain, given, strict=True):
        claim = claim_of(other, {}, lane_taken(other, {}))
        assert claim_of_plain(one, lane_of_plain(one.plain)) == claim
        assert fee_terms_of_plain(one.plain, lane_of_plain(one.plain)) == fee_terms(
            other, lane_taken(other, {})
        )


def test_what_the_state_itself_refuses_is_refused_and_nonces_ahead_are_left_to_the_locks() -> None:
    state = state_of({ALICE: FUNDS, BOB: 100}, objects={MINE: owned(ALICE), OURS: shared()})
    run(state, pay(CAROL, 1))
    found = examined(
        state,
        pay(CAROL, 1),
        pay(CAROL, 1, nonce=9),
        pay(CAROL, 1, sender=BOB),
        touch(1, nonce=1),
        touch(2, nonce=2),
        touch(0, nonce=3),
        pay(CAROL, 1, nonce=4, max_price=1),
        transaction(ObjectMutate(MINE, b"x"), nonce=5, lane=Lane.PRIVATE, payload_kind=9),
    )
    assert dict(found.refused) == {
        0: "NonceUsed",
        2: "InsufficientFunds",
        4: "VersionBehind",
        5: "VersionMismatch",
        6: "PriceTooLow",
        7: "VerifierUnavailable",
    }
    assert found.claims[3].slots == (nonce_lock(ALICE, 1), object_lock(MINE, 1))


def test_a_block_uses_up_nonces_and_versions_that_its_state_has_passed_and_no_others() -> None:
    state = state_of(objects={MINE: owned(ALICE)})
    paid = pay(CAROL, 1, nonce=1, fee_payer=BOB, sponsor_nonce=0)
    done = [touch(1), paid]
    ahead = [touch(2, nonce=2), pay(CAROL, 1, sender=BOB, nonce=3)]
    run(state, *done)

    def used(*given: Transaction) -> tuple[bytes, ...]:
        return used_slots(given, {key: state.get(key) for key in used_keys(given)})

    assert used(*ahead) == ()
    assert used(*done, *ahead) == (
        nonce_lock(ALICE, 0),
        object_lock(MINE, 1),
        nonce_lock(ALICE, 1),
        sponsor_nonce_lock(BOB, 0),
    )
    other = pay(CAROL, 2, nonce=1)
    assert used(other) == (nonce_lock(ALICE, 1),), "by whichever transaction"
    assert SPONSOR_NONCE_LOCK + BOB in examined(state, paid).facts.nonces
