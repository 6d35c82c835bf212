"""What two signed transactions prove of who signed them (CONS-17, CONS-70)."""

from typing import Any

import attrs
import pytest

from supervm.chain.doubling import doubts, forged, locks_named
from supervm.chain.examine import ChainRules
from supervm.crypto.keys import KeyPair
from supervm.crypto.remembered import RememberedSignatures
from supervm.execution.footprint import nonce_lock, object_lock
from supervm.types.address import Suite
from supervm.types.limits import DEFAULT_LIMITS
from supervm.types.operations import ObjectMutate, Operation, Output, Transfer, encode_operations
from supervm.types.state import NATIVE_TOKEN
from supervm.types.transaction import Access, Authorization, Body, Input, Lane, build, encode_transaction

CHAIN = b"chain".ljust(32, b".")
ALICE, BOB = (KeyPair(Suite.ED25519, bytes([each]) * 32) for each in (1, 2))
THING = b"thing".ljust(32, b".")
RULES = ChainRules(chain_id=CHAIN, epoch=3, limits=DEFAULT_LIMITS)


def body(amount: int = 1, who: KeyPair = ALICE, **fields: Any) -> Body:
    operation: Operation = Transfer(NATIVE_TOKEN, (Output(b"to".ljust(32, b"."), amount),))
    given = {
        "chain_id": CHAIN,
        "sender": who.address,
        "nonce": 7,
        "gas_limit": 100_000,
        "max_price": 10_000,
        "max_fee": 0,
        "payload": encode_operations((operation,)),
    }
    return Body(**{**given, **fields})


def signed(amount: int = 1, who: KeyPair = ALICE, **fields: Any) -> bytes:
    data: bytes = build(body(amount, who, **fields), [who]).data
    return data


def using(access: Access, nonce: int, who: KeyPair = ALICE, **fields: Any) -> bytes:
    """A transaction that names an object, of one nonce or another."""
    payload = encode_operations((ObjectMutate(THING, nonce.to_bytes(1, "big")),))
    return signed(who=who, nonce=nonce, inputs=(Input(THING, 4, access),), payload=payload, **fields)


def doubt(first: bytes, second: bytes, lock: bytes | None = None) -> str:
    lock = nonce_lock(ALICE.address, 7) if lock is None else lock
    return doubts(first, second, lock, RULES, RememberedSignatures(16))


def test_two_transactions_of_one_nonce_prove_that_their_sender_signed_both() -> None:
    assert doubt(signed(1), signed(2)) == ""
    assert doubt(signed(1), signed(2, expiry_epoch=3)) == ""


def wrongly_signed() -> bytes:
    said = body(2)
    return encode_transaction(said.encode(), [Authorization(Suite.ED25519, ALICE.public_key, bytes(64))])


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (signed(1), "one transaction"),
        (signed(2, nonce=8), "don't both hold"),
        (signed(2, who=BOB), "don't both hold"),
        (signed(2, expiry_epoch=2), "isn't in order: Expired"),
        (signed(2, chain_id=bytes(32)), "isn't in order: WrongChain"),
        (wrongly_signed(), "isn't in order: BadSignature"),
        (b"rubbish", "isn't in order"),
    ],
)
def test_anything_else_proves_nothing_of_it(second: bytes, why: str) -> None:
    assert why in doubt(signed(1), second)
    assert why in doubt(second, signed(1))


def test_a_lock_on_an_object_counts_where_the_bytes_show_that_it_is_owned() -> None:
    lock = object_lock(THING, 4)
    assert doubt(using(Access.TRANSFER, 1), using(Access.DELETE, 2), lock) == ""
    assert doubt(using(Access.WRITE, 1, lane=Lane.FAST), using(Access.SHARE, 2), lock) == ""
    # Anybody may write a Shared object at its first version, as often as he likes.
    assert "don't both hold" in doubt(using(Access.WRITE, 1), using(Access.WRITE, 2), lock)
    assert "don't both hold" in doubt(using(Access.READ, 1, lane=Lane.FAST), using(Access.SHARE, 2), lock)
    assert "two senders" in doubt(using(Access.SHARE, 1), using(Access.SHARE, 2, BOB), lock)


def false(first: bytes, second: bytes, lock: bytes) -> str:
    return forged(first, second, lock, RULES, RememberedSignatures(16))


@pytest.mark.parametrize("second", [signed(2), signed(2, expiry_epoch=2)])
def test_a_proof_in_any_epoch_is_no_lie(second: bytes) -> None:
    assert false(signed(1), second, nonce_lock(ALICE.address, 7)) == ""


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (signed(1), "one transaction"),
        (signed(2, nonce=8), "don't both name"),
        (signed(2, who=BOB), "don't both name"),
        (signed(2, chain_id=bytes(32)), "isn't in order: WrongChain"),
        (wrongly_signed(), "isn't in order: BadSignature"),
        (b"rubbish", "isn't in order"),
    ],
)
def test_what_no_state_makes_a_proof_is_a_lie(second: bytes, why: str) -> None:
    lock = nonce_lock(ALICE.address, 7)
    assert why in false(signed(1), second, lock)
    assert why in false(second, signed(1), lock)


def test_whoever_knows_the_state_may_see_a_lock_where_the_bytes_show_none() -> None:
    lock = object_lock(THING, 4)
    written = using(Access.WRITE, 1), using(Access.WRITE, 2)
    assert doubt(*written, lock) and false(*written, lock) == ""
    given = using(Access.SHARE, 1), using(Access.SHARE, 2, BOB)
    assert doubt(*given, lock) and false(*given, lock) == ""
    assert "don't both name" in false(*written, object_lock(THING, 5))
    # Nor is a node that knows more kinds of payload a liar.
    unknown = signed(2, payload_kind=77)
    assert doubt(signed(1), unknown) and false(signed(1), unknown, nonce_lock(ALICE.address, 7)) == ""


def test_what_a_transaction_locks_is_told_of_this_chain_alone() -> None:
    found = locks_named(signed(1), CHAIN, DEFAULT_LIMITS)
    assert found is not None and found[1] == {nonce_lock(ALICE.address, 7)}
    again = attrs.evolve(body(1), chain_id=bytes(32))
    assert locks_named(build(again, [ALICE]).data, CHAIN, DEFAULT_LIMITS) is None
    assert locks_named(b"rubbish", CHAIN, DEFAULT_LIMITS) is None
