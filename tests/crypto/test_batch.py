"""Many signatures at once get the answers that each gets alone, on any library and number of threads."""

import ctypes
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervm.crypto import batch, crypto_mb, keys, secp256k1_check
from supervm.crypto.batch import ONE_BY_ONE, batch_facts, verify_many
from supervm.crypto.crypto_mb import CryptoMb, CryptoMbMissing
from supervm.crypto.keys import KeyPair
from supervm.crypto.secp256k1 import Secp256k1
from supervm.crypto.suites import SUITE_NAMES, SignatureItem, verify
from tests import needs
from tests.crypto.drivers import DRIVERS

needs_driver = needs.c_library
ROOT = Path(__file__).parents[2]
CHANCE = random.Random(11)
KEYS: list[KeyPair] = [
    keys.generate(name, random.Random(seed).randbytes)
    for seed, name in enumerate(["ed25519"] * 5 + ["secp256k1"] * 3 + ["sm2"])
]
SECP256K1 = [
    *[driver.verify_many for driver in DRIVERS.values() if driver.able(2)],
    lambda items: [Secp256k1().verify(*item[1:]) for item in items],
]


def signed(key: KeyPair, message: bytes) -> SignatureItem:
    return key.suite, key.public_key, message, key.sign(message)


def spoiled(item: SignatureItem, chance: random.Random) -> SignatureItem:
    parts = [bytearray(part) for part in item[1:]]
    part = chance.choice(parts)
    part[chance.randrange(len(part))] ^= 1 << chance.randrange(8)
    return item[0], *map(bytes, parts)  # type: ignore[return-value]


GOOD = [signed(key, CHANCE.randbytes(32)) for key in KEYS for _ in range(4)]
BAD = [spoiled(item, CHANCE) for item in GOOD]
ODD: list[SignatureItem] = [
    (0, b"", b"", b""),
    (9, KEYS[0].public_key, bytes(32), bytes(64)),
    (1, KEYS[0].public_key, bytes(32), bytes(63)),
    (1, KEYS[0].public_key[:-1], bytes(32), bytes(64)),
    (1, KEYS[5].public_key, bytes(32), bytes(64)),
    (2, KEYS[5].public_key, bytes(31), bytes(64)),
    (2, KEYS[5].public_key, bytes(33), GOOD[20][3]),
    (3, KEYS[8].public_key, b"", bytes(64)),
    signed(KEYS[0], b""),
    signed(KEYS[1], b"x" * 33),
    signed(KEYS[2], b"y" * 1024),
    signed(KEYS[2], b"z" * 1025),
    signed(KEYS[3], b"w" * 100_000),
    signed(KEYS[8], b"v" * 300),
]
ANY = GOOD + BAD + ODD


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_a_batch_of_everything_is_answered_as_each_alone_and_in_order(threads: int) -> None:
    shuffled = random.Random(threads).sample(ANY, len(ANY))
    assert verify_many(shuffled, threads=threads) == [verify(*item) for item in shuffled]
    assert verify_many(GOOD, threads=threads) == [True] * len(GOOD)


def test_nothing_is_answered_with_nothing() -> None:
    assert verify_many([]) == verify_many(iter([]), threads=4) == []


@pytest.mark.parametrize("size", range(1, 20))
def test_every_number_of_signatures_fills_the_lanes_rightly(size: int) -> None:
    for wrong in range(size):
        items = [GOOD[at % 20] for at in range(size)]
        items[wrong] = BAD[wrong % 20]
        assert verify_many(items) == [at != wrong for at in range(size)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.booleans()), max_size=40), st.integers(1, 4))
def test_any_mixture_is_answered_as_each_alone(picks: list[tuple[int, bool]], threads: int) -> None:
    items = [(GOOD if right else BAD)[at] for at, right in picks]
    assert verify_many(items, threads=threads) == [verify(*item) for item in items]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_way_to_libsecp256k1_gives_one_answer(data: st.DataObject) -> None:
    chance = random.Random(data.draw(st.integers(0, 2**32)))
    item = data.draw(st.sampled_from(GOOD[20:32]))
    for _ in range(data.draw(st.integers(0, 2))):
        item = spoiled(item, chance)
    assert len({answers([item])[0] for answers in SECP256K1}) == 1


def test_every_way_to_libsecp256k1_keeps_the_rule() -> None:
    questions = secp256k1_check.QUESTIONS
    items = [(2, each.public_key, each.message, each.signature) for each in questions]
    for answers in SECP256K1:
        assert answers(items) == [each.right for each in questions]


def test_a_batch_larger_than_one_call_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "DRIVER_CALL_MAX", 7)
    assert verify_many(ANY, threads=2) == [verify(*item) for item in ANY]


def test_many_threads_may_ask_at_once() -> None:
    items = ANY * 3
    right = [verify(*item) for item in items]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda threads: verify_many(items, threads=threads), [1, 2, 3, 4] * 3))
    assert answers == [right] * 12


@pytest.fixture
def chosen_anew() -> Iterator[None]:
    """The choice of libraries is made once; these tests make it again, and leave none of theirs behind."""
    batch.chosen.cache_clear()
    yield
    batch.chosen.cache_clear()


def test_the_facts_name_what_serves_each_suite() -> None:
    facts = batch_facts()
    assert facts.keys() == SUITE_NAMES.keys()
    assert all(each.batch and each.reason for each in facts.values())


def test_without_the_c_library_each_is_asked_alone_and_the_facts_say_so() -> None:
    program = (
        "from supervm.crypto.batch import batch_facts, verify_many\n"
        "import tests.crypto.test_batch as cases\n"
        "from supervm.crypto.suites import verify\n"
        "assert verify_many(cases.ANY, threads=2) == [verify(*item) for item in cases.ANY]\n"
        "print(batch_facts()['ed25519'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "SUPERVM_NATIVE": "off", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "libsodium (PyNaCl)" in done.stdout
    assert "SUPERVM_NATIVE is off" in done.stdout


LANES_TYPE = ctypes.CFUNCTYPE(ctypes.c_uint32, *[ctypes.c_void_p] * 5)


def lanes_that_say(answer: int) -> tuple[CryptoMb, object]:
    """A library whose every answer is this one, and what keeps it alive."""
    function = LANES_TYPE(lambda *_: answer)
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return CryptoMb("a broken library", address, None), function


@needs_driver
@pytest.mark.usefixtures("chosen_anew")
@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (0, "a broken library accepts a signature of another message"),
        (0xFFFFFFFF, "a broken library refuses a plain signature"),
        (0xF0000000, "a broken library accepts"),
        (0x0000000F, "a broken library"),
    ],
)
def test_a_library_that_fails_its_questions_is_left_out_and_named(
    answer: int, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from supervm.crypto import driver

    broken, keep = lanes_that_say(answer)
    monkeypatch.setattr(driver, "_open_lanes", lambda: broken)
    facts = batch_facts()["ed25519"]
    assert facts.batch == "libsodium"
    assert facts.reason.startswith(what)
    assert batch.chosen().unfit == (facts.reason,)
    assert verify_many(ANY) == [verify(*item) for item in ANY]
    del keep


@needs_driver
def test_what_the_lanes_refuse_is_asked_again_so_a_slip_of_theirs_refuses_nobody() -> None:
    from supervm.crypto import driver

    broken, keep = lanes_that_say(0xFFFFFFFF)
    addresses = driver.sodium_addresses() | {"ed25519_verify_mb8": broken.verify_ed25519}
    both = driver.make_driver(addresses)
    questions = list(driver.ed25519_check.QUESTIONS)
    assert driver._through(both, 1)(questions) == [each.right for each in questions]
    del keep


@needs_driver
@pytest.mark.usefixtures("chosen_anew")
def test_without_crypto_mb_libsodium_serves_and_the_reason_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from supervm.crypto import driver

    def none() -> CryptoMb:
        raise CryptoMbMissing("looked everywhere")

    monkeypatch.setattr(driver, "_open_lanes", none)
    facts = batch_facts()["ed25519"]
    assert (facts.batch, facts.reason) == ("libsodium", "looked everywhere")
    assert batch.chosen().unfit == (), "what isn't there isn't unfit"
    assert verify_many(ANY) == [verify(*item) for item in ANY]


@needs_driver
@pytest.mark.usefixtures("chosen_anew")
def test_a_binding_that_shows_no_addresses_leaves_its_suite_to_the_provider(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from supervm.crypto import driver

    def hidden(*_: object, **__: object) -> dict[str, int]:
        raise driver.FunctionMissing("not to be seen")

    monkeypatch.setattr(driver, "_addresses", hidden)
    assert {(each.batch != ONE_BY_ONE, each.reason) for each in batch_facts().values()} >= {
        (True, "not to be seen")
    }
    assert verify_many(ANY, threads=2) == [verify(*item) for item in ANY]


@needs.c_library  # without it nothing is chosen
def test_on_a_processor_without_the_registers_the_library_is_not_even_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from supervm.crypto import driver

    monkeypatch.setattr(driver.fastpath, "cpu_features", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(driver, "open_crypto_mb", lambda: pytest.fail("opened"))
    with pytest.raises(CryptoMbMissing, match="no AVX-512"):
        driver._open_lanes()


def test_a_machine_without_crypto_mb_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crypto_mb, "_SYSTEM_NAMES", ("libcrypto_mb.so.none",))
    monkeypatch.setattr(crypto_mb, "_files", lambda package: [])
    with pytest.raises(CryptoMbMissing, match="not"):
        crypto_mb.open_crypto_mb()
    monkeypatch.undo()
    assert crypto_mb._files("no-such-package-is-installed") == []
