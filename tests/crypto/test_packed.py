"""Packed transactions get the verdicts of decoded ones, from the C driver and from its twin alike."""

import random
from array import array
from itertools import accumulate

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervm.crypto import keys, packed
from supervm.crypto.driver import Chosen
from supervm.crypto.keys import KeyPair
from supervm.crypto.packed import Verdict, Verified, verify_packed, verify_scanned
from supervm.crypto.remembered import RememberedSignatures
from supervm.crypto.transactions import verify_transactions
from supervm.hardware import fastpath
from supervm.types.digests import ZERO, plain_digest
from supervm.types.errors import InvalidInput
from supervm.types.operations import Output, Transfer, encode_operations
from supervm.types.transaction import (
    NO_ACCOUNT,
    Authorization,
    Body,
    Lane,
    Transaction,
    encode_transaction,
    signing_digest,
)
from tests import needs

SUITES = ["ed25519"] * 4 + ["secp256k1"] * 2 + ["sm2"]
KEYS = [keys.generate(name, random.Random(seed).randbytes) for seed, name in enumerate(SUITES)]
CHANCE = random.Random(77)
WORDS = {
    ("WrongSigner", "sender"): Verdict.SENDER_KEY,
    ("WrongSigner", "fee_payer"): Verdict.PAYER_KEY,
    ("BadSignature", "sender"): Verdict.SENDER_SIGNATURE,
    ("BadSignature", "fee_payer"): Verdict.PAYER_SIGNATURE,
}


def body(sender: bytes, payer: bytes, nonce: int, payload: bytes = b"", kind: int = 1) -> Body:
    transfer = encode_operations([Transfer(bytes(32), (Output(b"t" * 32, 5),))])
    return Body(
        chain_id=b"c" * 32,
        sender=sender,
        fee_payer=payer,
        nonce=nonce,
        gas_limit=1,
        max_price=1,
        max_fee=1,
        payload=payload or transfer,
        payload_kind=kind,
    )


def authorize(key: KeyPair, digest: bytes) -> Authorization:
    return Authorization(key.suite, key.public_key, key.sign(digest))


def spoiled(one: Authorization) -> Authorization:
    at = CHANCE.randrange(64)
    wrong = bytes((one.signature[at] ^ 1 << CHANCE.randrange(8),))
    return attrs.evolve(one, signature=one.signature[:at] + wrong + one.signature[at + 1 :])


def made(sender: KeyPair, payer: KeyPair | None, wrong: str, payload: bytes = b"") -> bytes:
    """A transaction in which one thing is wrong, or none."""
    nonce = CHANCE.randrange(2**32)
    kind = 9 if payload else 1
    raw = body(sender.address, (payer or sender).address, nonce, payload, kind).encode()
    signers = [sender] if payer is None else [sender, payer]
    found = [authorize(key, signing_digest(raw)) for key in signers]
    if wrong == "sender signature":
        found[0] = spoiled(found[0])
    elif wrong == "last signature":
        found[-1] = spoiled(found[-1])
    elif wrong == "both signatures":
        found = [spoiled(one) for one in found]
    elif wrong == "another's key":
        found[-1] = authorize(keys.generate("ed25519", CHANCE.randbytes), signing_digest(raw))
    elif wrong == "keys exchanged":
        found.reverse()
    elif wrong == "trailing byte":
        return encode_transaction(raw, found) + b"x"
    elif wrong == "cut":
        return encode_transaction(raw, found)[:-1]
    return encode_transaction(raw, found)


WRONGS = [
    "nothing",
    "sender signature",
    "last signature",
    "both signatures",
    "another's key",
    "keys exchanged",
    "trailing byte",
    "cut",
]
PRIVATE = encode_transaction(
    attrs.evolve(body(NO_ACCOUNT, NO_ACCOUNT, 0, b"proof", 9), lane=Lane.PRIVATE).encode(), []
)
POOL = [
    *[
        made(sender, payer, wrong)
        for sender in KEYS
        for payer in (None, KEYS[0], KEYS[4])
        if payer is not sender
        for wrong in WRONGS
    ],
    PRIVATE,
    b"",
    b"\1",
    *[made(KEYS[at % 3], None, "nothing", bytes(size)) for at, size in enumerate([60_000, 70_000, 131_072])],
]


def offsets_of(transactions: list[bytes]) -> "array[int]":
    return array("Q", [0, *accumulate(map(len, transactions))])


def expected(data: bytes) -> Verdict:
    try:
        decoded = Transaction.decode(data)
    except InvalidInput:
        return Verdict.NOT_CANONICAL
    (wrong,) = verify_transactions([decoded])
    return Verdict.SIGNED if wrong is None else WORDS[wrong.code, str(wrong).split(":")[0]]


def digest_of(data: bytes) -> bytes:
    try:
        return Transaction.decode(data).digest
    except InvalidInput:
        return ZERO


EXPECTED = {data: (expected(data), digest_of(data)) for data in POOL}


def check(transactions: list[bytes], **more: object) -> Verified:
    found = verify_packed(b"".join(transactions), offsets_of(transactions), **more)  # type: ignore[arg-type]
    assert [Verdict(each) for each in found.verdicts] == [EXPECTED[data][0] for data in transactions]
    assert found.digests == b"".join(EXPECTED[data][1] for data in transactions)
    assert found.all_signed is all(EXPECTED[data][0] is Verdict.SIGNED for data in transactions)
    return found


@pytest.fixture(params=["as chosen", "the twin"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "the twin":
        nobody = Chosen(None, frozenset(), {}, "a test")
        monkeypatch.setattr(packed, "chosen", lambda: nobody)
    return str(request.param)


def test_the_pool_has_every_verdict() -> None:
    assert {verdict for verdict, _ in EXPECTED.values()} == set(Verdict) - {Verdict.OTHER_SUITE}


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.usefixtures("path")
def test_verdicts_are_those_of_decoded_transactions_in_order(threads: int) -> None:
    check(random.Random(threads).sample(POOL, len(POOL)), threads=threads)


@pytest.mark.usefixtures("path")
def test_no_transactions_have_no_verdicts() -> None:
    assert verify_packed(b"", [0]) == Verified(b"", b"")
    assert verify_packed(b"", [0]).all_signed


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(POOL), max_size=150), st.integers(1, 4))
def test_any_selection_gets_its_verdicts_on_any_number_of_threads(
    transactions: list[bytes], threads: int
) -> None:
    check(transactions, threads=threads)


@pytest.mark.usefixtures("path")
def test_given_digests_are_what_signatures_are_held_to() -> None:
    transactions = [data for data in POOL if EXPECTED[data][0] is Verdict.SIGNED]
    digests = b"".join(EXPECTED[data][1] for data in transactions)
    assert check(transactions, digests=digests).digests == digests
    turned = digests[32:] + digests[:32]
    found = verify_packed(b"".join(transactions), offsets_of(transactions), digests=turned)
    assert found.digests == turned
    signed = [data for data, verdict in zip(transactions, found.verdicts, strict=True) if verdict == 1]
    assert signed == [PRIVATE], "it has nothing to hold to"


@pytest.mark.usefixtures("path")
def test_a_scanned_batch_gets_the_same_verdicts() -> None:
    data = len(POOL).to_bytes(2, "little") + b"".join(len(one).to_bytes(4, "little") + one for one in POOL)
    scan = fastpath.scan_transactions(data)
    found = verify_scanned(data, scan, threads=2)
    assert list(found.verdicts) == [EXPECTED[one][0] for one in POOL]


@pytest.mark.usefixtures("path")
def test_limits_are_the_callers() -> None:
    tight = attrs.evolve(packed.DEFAULT_LIMITS, payload_bytes_max=10)
    found = verify_packed(POOL[0], [0, len(POOL[0])], limits=tight)
    assert found.verdicts == bytes((Verdict.NOT_CANONICAL,))


@needs.c_library  # without it a slice ends where the bytes do
def test_a_transaction_beyond_the_bytes_is_our_bug_and_found() -> None:
    for offsets in ([0, len(POOL[0]) + 1], [5, 3], [0, 2**63]):
        with pytest.raises(AssertionError, match="beyond the bytes"):
            verify_packed(POOL[0], offsets)


@pytest.mark.usefixtures("path")
def test_what_is_remembered_is_not_verified_again_and_only_what_is_right_is_remembered() -> None:
    memory = RememberedSignatures(1_000)
    check(POOL, remembered=memory)
    right = {plain_digest(data) for data in POOL if EXPECTED[data][0] is Verdict.SIGNED}
    assert len(memory) == len(right)
    assert all(each in memory for each in right)
    check(POOL, remembered=memory)
    # Proof that it is asked: a lie in it is believed.
    wrong = next(data for data in POOL if EXPECTED[data][0] is Verdict.SENDER_SIGNATURE)
    memory.add(plain_digest(wrong))
    assert verify_packed(wrong, [0, len(wrong)], remembered=memory).all_signed


@pytest.mark.usefixtures("path")
def test_a_forged_signature_does_not_ride_on_a_remembered_body() -> None:
    memory = RememberedSignatures(8)
    good = made(KEYS[0], None, "nothing")
    assert verify_packed(good, [0, len(good)], remembered=memory).all_signed
    forged = good[:-1] + bytes((good[-1] ^ 1,))
    assert Transaction.decode(forged).digest == Transaction.decode(good).digest
    assert not verify_packed(forged, [0, len(forged)], remembered=memory).all_signed


def test_the_memory_is_bounded_and_the_oldest_goes_first() -> None:
    memory = RememberedSignatures(3)
    names = [bytes((number,)) * 32 for number in range(6)]
    for name in names[:3]:
        memory.add(name)
    memory.add(names[0])
    assert len(memory) == memory.entries_max == 3
    memory.update(names[3:5])
    assert [name in memory for name in names] == [False, False, True, True, True, False]
    memory.update([name[::-1] + b"" for name in names])
    assert len(memory) == 3


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 20), max_size=12), max_size=10), st.integers(1, 6))
def test_the_memory_holds_the_last_that_were_new(rounds: list[list[int]], entries_max: int) -> None:
    memory, model = RememberedSignatures(entries_max), []
    for numbers in rounds:
        memory.update([bytes((number,)) * 32 for number in numbers])
        model += [number for number in dict.fromkeys(numbers) if number not in model]
        model = model[-entries_max:]
        assert [number for number in range(21) if bytes((number,)) * 32 in memory] == sorted(model)


@needs.c_library
def test_the_verdicts_are_those_of_the_c_code() -> None:
    from supervm.hardware._fastpath import lib

    assert {name: int(value) for name, value in Verdict.__members__.items()} == {
        name: getattr(lib, f"SVM_{name}") for name in Verdict.__members__
    }
