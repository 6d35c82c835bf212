"""One rule of ed25519, whoever does the arithmetic: signatures made to tell libraries apart, and fuzz."""

import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervm.crypto import ed25519_rule
from supervm.crypto.batch import verify_many
from supervm.crypto.ed25519 import Ed25519
from supervm.crypto.ed25519_check import QUESTIONS
from supervm.crypto.questions import Question
from tests.crypto import edwards
from tests.crypto.drivers import DRIVERS
from tests.crypto.edwards import BASE, FIELD, ORDER, TORSION

Verify = Callable[[bytes, bytes, bytes], bool]
Case = tuple[bytes, bytes, bytes]

PROVIDERS: dict[str, Verify] = {
    "PyNaCl": Ed25519().verify,
    "as chosen, in a batch": lambda key, message, signature: verify_many([(1, key, message, signature)] * 2)[
        1
    ],
    **{name: driver.verify_ed25519 for name, driver in DRIVERS.items() if driver.able(1)},
}
CHANCE = random.Random(8032)
A_SCALAR, R_SCALAR = CHANCE.randrange(1, ORDER), CHANCE.randrange(1, ORDER)
A, R = edwards.multiply(A_SCALAR, BASE), edwards.multiply(R_SCALAR, BASE)
KEY, R_BYTES = edwards.encode(A), edwards.encode(R)


def message() -> bytes:
    return CHANCE.randbytes(32)


def scaled_s() -> Iterator[Case]:
    """S plus every multiple of the order that fits in 32 bytes."""
    text = message()
    signature = edwards.forge(KEY, R_BYTES, R_SCALAR, A_SCALAR, text)
    s = int.from_bytes(signature[32:], "little")
    while s < 2**256:
        yield KEY, text, R_BYTES + s.to_bytes(32, "little")
        s += ORDER


def with_small_parts() -> Iterator[Case]:
    """Every part of small order on key and R: right, and right with the cofactor only, where both can be."""
    for key_part in TORSION:
        key = edwards.encode(edwards.add(A, key_part))
        for r_part in TORSION:
            r = edwards.encode(edwards.add(R, r_part))
            wanted = {True, False}
            for _ in range(64):
                text = message()
                case = (key, text, edwards.forge(key, r, R_SCALAR, A_SCALAR, text))
                rest = edwards.add(r_part, edwards.multiply(edwards.challenge(r, key, text), key_part))
                if (rest == edwards.NEUTRAL) in wanted:
                    wanted.discard(rest == edwards.NEUTRAL)
                    yield case


def of_small_order() -> Iterator[Case]:
    """Keys and R that are nothing but such a part, in every encoding."""
    for point in edwards.small_order_encodings():
        for _ in range(8):
            text = message()
            yield point, text, edwards.forge(point, R_BYTES, R_SCALAR, 0, text)
            key = edwards.encode(edwards.add(A, TORSION[1]))
            yield key, text, edwards.forge(key, point, 0, A_SCALAR, text)
        for other in edwards.small_order_encodings():
            yield other, message(), point + bytes(32)


def out_of_form() -> Iterator[Case]:
    """y beyond the field, and y that no point has."""
    for y in range(2, 19):
        for number in (y, y + FIELD):
            for sign in (0, 1):
                point, text = (number | sign << 255).to_bytes(32, "little"), message()
                yield point, text, edwards.forge(point, R_BYTES, R_SCALAR, 0, text)
                yield KEY, text, edwards.forge(KEY, point, 0, A_SCALAR, text)


def of_special_numbers() -> Iterator[Case]:
    """Scalars near the ends, so that sums and doublings meet equal, opposite and neutral points."""
    numbers = (1, 2, 3, 8, 15, 16, 2**128, ORDER // 2, ORDER - 2, ORDER - 1)
    for a in numbers:
        key = edwards.encode(edwards.multiply(a, BASE))
        for r in numbers:
            r_bytes, text = edwards.encode(edwards.multiply(r, BASE)), message()
            yield key, text, edwards.forge(key, r_bytes, r, a, text)


MADE = {made.__name__: tuple(made()) for made in (scaled_s, with_small_parts, of_small_order, out_of_form)}
MADE["of_special_numbers"] = tuple(of_special_numbers())
RIGHT = {name: [edwards.accepts(*case) for case in cases] for name, cases in MADE.items()}


def test_the_made_signatures_are_of_both_kinds() -> None:
    assert {name for name, right in RIGHT.items() if any(right)} == {
        "scaled_s",
        "with_small_parts",
        "of_special_numbers",
    }
    assert all(RIGHT["of_special_numbers"])
    assert sum(RIGHT["with_small_parts"]) > 32 < RIGHT["with_small_parts"].count(False)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_provider_answers_as_the_curve_in_plain_integers(provider: str, name: str) -> None:
    verify = PROVIDERS[provider]
    assert [verify(*case) for case in MADE[name]] == RIGHT[name]


@pytest.mark.parametrize("question", QUESTIONS, ids=[each.what[:60] for each in QUESTIONS])
def test_the_questions_put_to_libraries_have_the_right_answers(question: Question) -> None:
    asked = (question.public_key, question.message, question.signature)
    assert edwards.accepts(*asked) is question.right
    if "cofactor only" in question.what:
        assert edwards.holds(*asked, cofactor=8)
        assert not edwards.holds(*asked)
    if "small order" in question.what and "part" not in question.what:
        assert edwards.holds(*asked), "refused for its point alone"
    if "below the group order" in question.what:
        assert edwards.holds(*asked), "refused for its S alone"


def test_every_encoding_of_a_point_of_small_order_is_asked_of_libraries() -> None:
    small = set(edwards.small_order_encodings())
    assert len(small) == 14
    assert small <= {each.public_key for each in QUESTIONS}
    assert small <= {each.signature[:32] for each in QUESTIONS}


def test_the_rule_names_every_y_of_small_order_and_no_other() -> None:
    assert {point[1] for point in TORSION} == ed25519_rule.SMALL_ORDER_Y
    assert (ed25519_rule.FIELD, ed25519_rule.ORDER) == (FIELD, ORDER)


SECRETS = [CHANCE.randbytes(32) for _ in range(4)]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_signatures_keys_and_messages_get_one_answer_from_all(data: st.DataObject) -> None:
    secret = data.draw(st.sampled_from(SECRETS))
    text = data.draw(st.binary(min_size=32, max_size=32))
    parts = [Ed25519().public_key(secret), text, Ed25519().sign(secret, text)]
    for _ in range(data.draw(st.integers(0, 2))):
        part = data.draw(st.integers(0, 2))
        changed = bytearray(parts[part])
        if data.draw(st.booleans()):
            changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        else:
            at = data.draw(st.integers(0, len(changed) // 32 - 1)) * 32
            changed[at : at + 32] = data.draw(
                st.one_of(
                    st.binary(min_size=32, max_size=32),
                    st.sampled_from(edwards.small_order_encodings()),
                    st.sampled_from([0, 1, FIELD - 1, FIELD, FIELD + 1, ORDER - 1, ORDER, ORDER + 1]).map(
                        lambda number: number.to_bytes(32, "little")
                    ),
                )
            )
        parts[part] = bytes(changed)
    answers = {name: verify(*parts) for name, verify in PROVIDERS.items()}
    assert set(answers.values()) == {edwards.accepts(parts[0], parts[1], parts[2])}, answers
