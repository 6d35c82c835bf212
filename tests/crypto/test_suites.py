"""Each suite: published vectors, one canonical form, and an answer for any bytes at all."""

import hashlib
import random
import re
from types import SimpleNamespace

import coincurve
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervm.crypto import keys, secp256k1_rule, sm2_rule, suites
from supervm.crypto.batch import verify_many
from supervm.crypto.ed25519 import Ed25519, check_library
from supervm.crypto.ed25519_check import QUESTIONS
from supervm.crypto.keys import KeyPair
from supervm.crypto.provider import UnfitLibrary
from supervm.crypto.secp256k1 import Secp256k1
from supervm.crypto.sm2 import Sm2
from supervm.crypto.suites import suite, suite_named, verify
from supervm.types.errors import InvalidInput

FAST = ["ed25519", "secp256k1"]
NAMES = [*FAST, "sm2"]
DIGEST = bytes(range(32))


def key_of(name: str, seed: int = 1) -> KeyPair:
    source = random.Random(seed)
    return keys.generate(name, source.randbytes)


@pytest.mark.parametrize("name", NAMES)
def test_a_signature_verifies_under_its_key_and_message_only(name: str) -> None:
    key = key_of(name)
    signature = key.sign(DIGEST)
    assert len(signature) == 64
    assert key.verify(DIGEST, signature)
    assert not key.verify(DIGEST[::-1], signature)
    assert not key_of(name, 2).verify(DIGEST, signature)


@pytest.mark.parametrize("name", NAMES)
def test_a_provider_tells_its_sizes_truly(name: str) -> None:
    provider = suite_named(name)
    key = key_of(name)
    assert suite(provider.suite) is provider
    assert (provider.name, key.suite_name) == (name, name)
    assert len(key.secret) == provider.secret_key_bytes
    assert len(key.public_key) == provider.public_key_bytes
    assert provider.provider


@pytest.mark.parametrize("name", NAMES)
def test_any_flipped_bit_of_a_signature_is_refused(name: str) -> None:
    key = key_of(name)
    signature = key.sign(DIGEST)
    bits = range(512) if name in FAST else (0, 255, 256, 511)
    for bit in bits:
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not key.verify(DIGEST, bytes(flipped))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=70), st.binary(max_size=40), st.binary(max_size=70))
def test_garbage_is_answered_no_and_never_raises(
    name: str, public_key: bytes, message: bytes, signature: bytes
) -> None:
    assert suite_named(name).verify(public_key, message, signature) is False


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_garbage_of_the_right_lengths_is_answered_no(name: str, data: st.DataObject) -> None:
    provider = suite_named(name)
    size = provider.public_key_bytes
    key = data.draw(st.one_of(st.binary(min_size=size, max_size=size), st.just(key_of(name).public_key)))
    signature = data.draw(st.binary(min_size=64, max_size=64))
    assert provider.verify(key, DIGEST, signature) is False


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("secret", [b"", b"x" * 31, b"x" * 33])
def test_a_secret_of_wrong_length_is_refused_without_showing_it(name: str, secret: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        KeyPair(suite_named(name).suite, secret)
    assert caught.value.code == "BadSecretKey"
    assert secret.hex() not in str(caught.value) or not secret


def test_an_unknown_suite_is_named_or_answered_no() -> None:
    for number in (0, 4, 255):
        with pytest.raises(InvalidInput, match="unknown signature suite"):
            suite(number)
        assert verify(number, b"k" * 32, DIGEST, b"s" * 64) is False
    with pytest.raises(InvalidInput, match="rsa"):
        suite_named("rsa")


def test_many_signatures_are_answered_in_order() -> None:
    items = []
    for at in range(12):
        key = key_of(FAST[at % 2], at)
        signature = key.sign(DIGEST) if at % 3 else bytes(64)
        items.append((key.suite, key.public_key, DIGEST, signature))
    items.append((9, b"", b"", b""))
    assert verify_many(items) == [bool(at % 3) for at in range(12)] + [False]


def test_a_key_pair_keeps_its_secret_out_of_its_representation() -> None:
    key = key_of("ed25519")
    assert key.secret.hex() not in repr(key)
    assert str(key.secret) not in repr(key)


# RFC 8032, section 7.1, tests 1 to 3: secret, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("secret", "public_key", "message", "signature"), RFC_8032)
def test_ed25519_agrees_with_the_vectors_of_rfc_8032(
    secret: str, public_key: str, message: str, signature: str
) -> None:
    provider = Ed25519()
    assert provider.public_key(bytes.fromhex(secret)).hex() == public_key
    assert provider.sign(bytes.fromhex(secret), bytes.fromhex(message)).hex() == signature
    assert provider.verify(bytes.fromhex(public_key), bytes.fromhex(message), bytes.fromhex(signature))


def test_the_installed_ed25519_library_follows_the_consensus_rule() -> None:
    check_library(Ed25519())


@pytest.mark.parametrize("number", range(len(QUESTIONS)))
def test_a_library_that_breaks_one_rule_is_refused_by_its_name(number: int) -> None:
    broken = QUESTIONS[number]

    def other_answer(public_key: bytes, message: bytes, signature: bytes) -> bool:
        asked = (public_key, message, signature)
        return (asked == (broken.public_key, broken.message, broken.signature)) is not Ed25519().verify(
            *asked
        )

    with pytest.raises(UnfitLibrary, match=re.escape(broken.what)):
        check_library(SimpleNamespace(verify=other_answer))  # type: ignore[arg-type]


def test_secp256k1_agrees_with_a_published_deterministic_signature() -> None:
    """Secret key 1 over sha256("Satoshi Nakamoto"), a vector of RFC 6979 nonces widely published."""
    secret = (1).to_bytes(32, "big")
    message = hashlib.sha256(b"Satoshi Nakamoto").digest()
    signature = Secp256k1().sign(secret, message)
    assert signature.hex() == (
        "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8"
        "2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5"
    )
    generator = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    assert Secp256k1().public_key(secret).hex() == generator
    assert Secp256k1().verify(bytes.fromhex(generator), message, signature)


def test_secp256k1_refuses_the_high_s_twin_of_a_signature() -> None:
    key = key_of("secp256k1")
    signature = key.sign(DIGEST)
    s = int.from_bytes(signature[32:], "big")
    assert s <= secp256k1_rule.ORDER // 2
    twin = signature[:32] + (secp256k1_rule.ORDER - s).to_bytes(32, "big")
    assert not key.verify(DIGEST, twin)


def test_secp256k1_refuses_r_and_s_out_of_range() -> None:
    key = key_of("secp256k1")
    good = key.sign(DIGEST)
    for wrong in (bytes(32), secp256k1_rule.ORDER.to_bytes(32, "big"), b"\xff" * 32):
        assert not key.verify(DIGEST, wrong + good[32:])
        assert not key.verify(DIGEST, good[:32] + wrong)


def test_secp256k1_takes_the_compressed_form_of_a_key_only() -> None:
    key = key_of("secp256k1")
    signature = key.sign(DIGEST)
    whole = coincurve.PublicKey(key.public_key).format(compressed=False)
    hybrid = bytes((6 + (whole[-1] & 1),)) + whole[1:]
    off_curve = b"\x02" + (5).to_bytes(32, "big")
    too_large = b"\x02" + b"\xff" * 32
    for other in (whole, hybrid, off_curve, too_large, b"\x04" + key.public_key[1:]):
        assert not Secp256k1().verify(other, DIGEST, signature)


def test_secp256k1_signatures_of_any_length_of_r_and_s_pass_the_library() -> None:
    """r and s with leading zero bytes and with a high first bit take other DER lengths."""
    for seed in range(300):
        key = key_of("secp256k1", seed)
        message = random.Random(seed).randbytes(32)
        assert key.verify(message, key.sign(message))


@pytest.mark.parametrize("secret", [0, secp256k1_rule.ORDER, secp256k1_rule.ORDER + 1, 2**256 - 1])
def test_secp256k1_secrets_out_of_range_are_refused(secret: int) -> None:
    with pytest.raises(InvalidInput):
        Secp256k1().public_key(secret.to_bytes(32, "big"))


@pytest.mark.parametrize(
    ("provider", "bound"), [(Sm2(), sm2_rule.ORDER - 2), (Secp256k1(), secp256k1_rule.ORDER - 1)]
)
def test_keys_are_drawn_by_rejection(provider: Sm2 | Secp256k1, bound: int) -> None:
    drawn = iter([b"\xff" * 32, bytes(32), (bound + 1).to_bytes(32, "big"), bound.to_bytes(32, "big")])
    assert int.from_bytes(provider.generate(lambda size: next(drawn)), "big") == bound


@pytest.mark.parametrize("provider", [Sm2(), Secp256k1()])
def test_a_broken_random_source_is_found_out_instead_of_looping(provider: Sm2 | Secp256k1) -> None:
    with pytest.raises(AssertionError, match="random source"):
        provider.generate(bytes)


def test_the_suites_load_their_library_when_first_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "_providers", {})
    suite(1)
    assert set(suites._providers) == {1}
