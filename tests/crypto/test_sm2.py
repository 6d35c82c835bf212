"""SM2 keeps one rule, whichever library does the arithmetic (NET-11)."""

import re

import attrs
import pytest

from supervm.crypto import sm2_check, sm2_rule
from supervm.crypto.keys import KeyPair
from supervm.crypto.provider import SignatureProvider, UnfitLibrary
from supervm.crypto.sm2 import Sm2
from supervm.crypto.sm2_check import check_library
from supervm.types.errors import InvalidInput
from tests.crypto.sm2_cases import MESSAGE, NONCE, PORTABLE, PROVIDERS, SECRET, SIGNATURE

DIGEST = bytes(range(32))

each_provider = pytest.mark.parametrize("provider", PROVIDERS, ids=lambda each: each.provider.split()[0])


def test_gmssl_agrees_with_the_published_vector_and_nonce() -> None:
    provider = Sm2(nonces=lambda size: NONCE)
    assert provider.sign(SECRET, MESSAGE) == SIGNATURE


@each_provider
def test_the_published_signature_is_right(provider: SignatureProvider) -> None:
    assert provider.verify(provider.public_key(SECRET), MESSAGE, SIGNATURE)


@each_provider
def test_each_provider_keeps_the_rule(provider: SignatureProvider) -> None:
    check_library(provider)


def sm2_secret(matches: str) -> bytes:
    """Return the first small secret whose public key's X begins with these hex digits."""
    # Doubling chains are cheap: k -> k + 1 is a point addition away, so search with own arithmetic.
    generator = _point(1)
    point, secret = generator, 1
    while not f"{point[0]:064x}".startswith(matches):
        point = _add(point, generator)
        secret += 1
    return secret.to_bytes(32, "big")


def _point(secret: int) -> tuple[int, int]:
    public_key = PORTABLE.public_key(secret.to_bytes(32, "big"))
    return int.from_bytes(public_key[1:33], "big"), int.from_bytes(public_key[33:], "big")


def _add(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    p = sm2_rule.FIELD
    if one == other:
        slope = (3 * one[0] * one[0] + sm2_rule.CURVE_A) * pow(2 * one[1], -1, p) % p
    else:
        slope = (other[1] - one[1]) * pow(other[0] - one[0], -1, p) % p
    x = (slope * slope - one[0] - other[0]) % p
    return x, (slope * (one[0] - x) - one[1]) % p


@pytest.mark.parametrize("digits", ["0", "4", "04", "00", "44"])
def test_keys_that_begin_with_the_digits_0_and_4_survive(digits: str) -> None:
    key = KeyPair(3, sm2_secret(digits))
    assert key.public_key[1:].hex().startswith(digits)
    for signer in PROVIDERS:
        assert signer.public_key(key.secret) == key.public_key
        signature = signer.sign(key.secret, DIGEST)
        for checker in PROVIDERS:
            assert checker.verify(key.public_key, DIGEST, signature)
            assert not checker.verify(key.public_key, DIGEST[::-1], signature)


@each_provider
def test_r_and_s_out_of_range_are_refused(provider: SignatureProvider) -> None:
    public_key = provider.public_key(SECRET)
    r, s = SIGNATURE[:32], SIGNATURE[32:]
    for wrong in (bytes(32), sm2_rule.ORDER.to_bytes(32, "big"), b"\xff" * 32):
        assert not provider.verify(public_key, MESSAGE, wrong + s)
        assert not provider.verify(public_key, MESSAGE, r + wrong)
    opposite = (sm2_rule.ORDER - int.from_bytes(r, "big")).to_bytes(32, "big")
    assert not provider.verify(public_key, MESSAGE, r + opposite)


@each_provider
def test_a_signature_whose_point_is_infinity_is_refused(provider: SignatureProvider) -> None:
    """The owner of a key can choose s = -t d, so that s G + t P vanishes; gmssl alone would raise."""
    d = int.from_bytes(SECRET, "big")
    for t in (1, 2, 12345, sm2_rule.ORDER - 1):
        s = -t * d % sm2_rule.ORDER
        r = (t - s) % sm2_rule.ORDER
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        assert provider.verify(provider.public_key(SECRET), DIGEST, signature) is False


@each_provider
def test_keys_off_the_curve_or_in_another_form_are_refused(provider: SignatureProvider) -> None:
    public_key = provider.public_key(SECRET)
    beyond = (int.from_bytes(public_key[1:33], "big") + sm2_rule.FIELD) % 2**256
    for wrong in (
        public_key[:-1] + bytes((public_key[-1] ^ 1,)),
        b"\x04" + bytes(64),
        b"\x06" + public_key[1:],
        b"\x07" + public_key[1:],
        b"\x03" + public_key[1:33],
        b"\x00",
        public_key[1:],
        b"\x04" + beyond.to_bytes(32, "big") + public_key[33:],
    ):
        assert not sm2_rule.is_point(wrong)
        assert not provider.verify(wrong, MESSAGE, SIGNATURE)


@each_provider
@pytest.mark.parametrize("secret", [0, sm2_rule.ORDER - 1, sm2_rule.ORDER, 2**256 - 1])
def test_secrets_out_of_range_are_refused(provider: SignatureProvider, secret: int) -> None:
    for use in (provider.public_key, lambda refused: provider.sign(refused, DIGEST)):
        with pytest.raises(InvalidInput, match="not an sm2 secret key"):
            use(secret.to_bytes(32, "big"))


@each_provider
@pytest.mark.parametrize("secret", [1, 2, 255, 2**128, sm2_rule.ORDER - 3, sm2_rule.ORDER - 2])
def test_secrets_at_the_ends_of_the_range_work(provider: SignatureProvider, secret: int) -> None:
    raw = secret.to_bytes(32, "big")
    public_key = provider.public_key(raw)
    assert public_key == PORTABLE.public_key(raw)
    assert all(each.verify(public_key, DIGEST, provider.sign(raw, DIGEST)) for each in PROVIDERS)


@each_provider
def test_keys_are_drawn_by_rejection(provider: SignatureProvider) -> None:
    bound = sm2_rule.ORDER - 2
    drawn = iter([b"\xff" * 32, bytes(32), (bound + 1).to_bytes(32, "big"), bound.to_bytes(32, "big")])
    assert int.from_bytes(provider.generate(lambda size: next(drawn)), "big") == bound


@each_provider
def test_a_broken_random_source_is_found_out_instead_of_looping(provider: SignatureProvider) -> None:
    with pytest.raises(AssertionError, match="random source"):
        provider.generate(bytes)


@each_provider
def test_a_nonce_is_fresh_for_every_signature(provider: SignatureProvider) -> None:
    assert len({provider.sign(SECRET, DIGEST) for _ in range(5)}) == 5


def test_gmssl_gets_only_nonces_in_range() -> None:
    drawn = iter([b"\xff" * 32, bytes(32), NONCE])
    provider = attrs.evolve(Sm2(), nonces=lambda size: next(drawn))
    assert provider.sign(SECRET, MESSAGE) == SIGNATURE


@attrs.frozen
class Liar:
    """Answers as the provider behind it does, but for one question, or signs or derives otherwise."""

    behind: SignatureProvider = PROVIDERS[-1]
    asked: tuple[bytes, bytes, bytes] = (b"", b"", b"")
    forged: bytes | None = None
    derived: bytes | None = None
    provider: str = "a liar"

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        answer = self.behind.verify(public_key, message, signature)
        return answer is not ((public_key, message, signature) == self.asked)

    def public_key(self, secret: bytes) -> bytes:
        return self.derived or self.behind.public_key(secret)

    def sign(self, secret: bytes, message: bytes) -> bytes:
        return self.forged or self.behind.sign(secret, message)


@pytest.mark.parametrize("rule", sm2_check._RULES, ids=lambda rule: rule[0])
def test_a_library_that_breaks_one_rule_is_refused_by_its_name(
    rule: tuple[str, bool, bytes, bytes, bytes],
) -> None:
    what, _, *asked = rule
    with pytest.raises(UnfitLibrary, match=re.escape(what)):
        check_library(Liar(asked=tuple(asked)))  # type: ignore[arg-type]


def test_a_library_that_derives_or_signs_otherwise_is_refused() -> None:
    for liar, says in (
        (Liar(derived=b"\x04" + bytes(64)), "another public key"),
        (Liar(forged=SIGNATURE), "its own signature"),
        (Liar(forged=PORTABLE.sign(SECRET, DIGEST)), "same nonce"),
    ):
        with pytest.raises(UnfitLibrary, match=says):
            check_library(liar)  # type: ignore[arg-type]
