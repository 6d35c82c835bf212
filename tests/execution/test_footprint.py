"""What a transaction can touch, spend and lock, from its bytes (EXEC-4, CONS-10)."""

import pytest

from supervm.execution import (
    GAS_STATE_KEY,
    Fetched,
    block_keys,
    execute_block,
    locks_of,
    max_spend,
    touched_keys,
)
from supervm.execution.footprint import nonce_lock, object_lock, sponsor_nonce_lock
from supervm.types.codec import U128_MAX
from supervm.types.operations import (
    Burn,
    Mint,
    ObjectCreate,
    ObjectMutate,
    ObjectTransfer,
    Output,
    TokenCreate,
    Transfer,
)
from supervm.types.state import (
    NATIVE_TOKEN,
    OwnerKind,
    account_key,
    balance_key,
    object_id,
    object_key,
    token_id,
    token_key,
)
from supervm.types.transaction import Access, Input

from .builders import (
    ALICE,
    BOB,
    CAROL,
    COLLECTOR,
    FLAT,
    block_of,
    immutable,
    owned,
    pay,
    shared,
    state_of,
    transaction,
)

ID, OTHER, THIRD = b"a" * 32, b"b" * 32, b"c" * 32
GOLD, PEARL = b"g" * 32, b"p" * 32


def test_touched_keys_by_hand() -> None:
    one = transaction(
        Transfer(GOLD, (Output(BOB, 1), Output(CAROL, 2))),
        TokenCreate(b"T", 0, 1, False),
        Mint(PEARL, CAROL, 1),
        Burn(NATIVE_TOKEN, 1),
        ObjectMutate(ID, b""),
        ObjectCreate(1, OwnerKind.SHARED, bytes(32), b""),
        ObjectTransfer(OTHER, BOB),
        ObjectCreate(1, OwnerKind.SHARED, bytes(32), b""),
        fee_payer=BOB,
        gas_token=GOLD,
        inputs=[Input(ID, 1, Access.WRITE), Input(OTHER, 1, Access.TRANSFER)],
    )
    made = token_id(one.digest, 1)
    assert touched_keys(one) == {
        account_key(ALICE),
        account_key(BOB),
        balance_key(ALICE, GOLD),
        balance_key(BOB, GOLD),
        balance_key(CAROL, GOLD),
        balance_key(ALICE, made),
        token_key(made),
        balance_key(CAROL, PEARL),
        token_key(PEARL),
        token_key(NATIVE_TOKEN),
        object_key(ID),
        object_key(OTHER),
        object_key(object_id(one.digest, 0)),
        object_key(object_id(one.digest, 1)),
    }


def test_a_block_also_touches_the_policy_its_payees_and_the_supply_of_what_pays() -> None:
    state = state_of()
    one = pay(CAROL, 1)
    keys = block_keys([one], FLAT, state[GAS_STATE_KEY])
    assert keys - touched_keys(one) == {GAS_STATE_KEY, token_key(NATIVE_TOKEN), account_key(COLLECTOR)}


def test_reading_a_key_that_was_not_fetched_is_a_bug_not_an_absent_entry() -> None:
    state = state_of()
    block = block_of([pay(CAROL, 1)])
    keys = block_keys(block.transactions, FLAT, state[GAS_STATE_KEY])
    fetched = {key: state.get(key) for key in keys}
    assert execute_block(Fetched(fetched), block, FLAT) == execute_block(state, block, FLAT)
    for missing in (account_key(CAROL), account_key(ALICE), account_key(COLLECTOR), GAS_STATE_KEY):
        left = {key: value for key, value in fetched.items() if key != missing}
        with pytest.raises(AssertionError, match="was not fetched"):
            execute_block(Fetched(left), block, FLAT)


def test_max_spend_adds_what_is_named_to_the_reserve() -> None:
    transfers = (
        Transfer(NATIVE_TOKEN, (Output(BOB, 5), Output(ALICE, 7))),
        Transfer(GOLD, (Output(BOB, 3),)),
    )
    burns = (Burn(GOLD, 4), Burn(NATIVE_TOKEN, 11), Mint(GOLD, ALICE, 1_000))
    one = transaction(*transfers, *burns, gas_limit=1_000_001, max_price=10_000)
    assert max_spend(one) == {(ALICE, NATIVE_TOKEN): 5 + 7 + 11 + 10_001, (ALICE, GOLD): 7}


def test_max_spend_counts_the_reserve_for_who_pays_it() -> None:
    one = transaction(Transfer(GOLD, (Output(BOB, 3),)), fee_payer=BOB, gas_token=PEARL, max_fee=77)
    assert max_spend(one) == {(ALICE, GOLD): 3, (BOB, PEARL): 77}


def test_max_spend_leaves_zeros_out_and_never_wraps() -> None:
    assert max_spend(pay(BOB, 0, max_price=0)) == {}
    twice = Transfer(NATIVE_TOKEN, (Output(BOB, U128_MAX), Output(BOB, U128_MAX)))
    assert max_spend(transaction(twice, max_price=0)) == {(ALICE, NATIVE_TOKEN): 2 * U128_MAX}


def test_locks_are_the_nonces_and_the_owned_versions() -> None:
    inputs = [Input(ID, 4, Access.READ), Input(OTHER, 2, Access.WRITE), Input(THIRD, 1, Access.READ)]
    objects = {ID: owned(ALICE, version=4), OTHER: shared(version=9, initial=2), THIRD: immutable()}
    plain = transaction(ObjectMutate(OTHER, b""), nonce=3, inputs=inputs)
    assert locks_of(plain, objects) == (nonce_lock(ALICE, 3), object_lock(ID, 4))
    sponsored = pay(BOB, 1, nonce=3, fee_payer=BOB, sponsor_nonce=3)
    assert locks_of(sponsored, {}) == (nonce_lock(ALICE, 3), sponsor_nonce_lock(BOB, 3))


def test_no_two_kinds_of_lock_are_the_same_bytes() -> None:
    assert len({nonce_lock(ID, 1), sponsor_nonce_lock(ID, 1), object_lock(ID, 1)}) == 3
    assert nonce_lock(ID, 1) != nonce_lock(ID, 2)
