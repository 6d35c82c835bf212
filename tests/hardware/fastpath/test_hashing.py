"""BLAKE3 in C gives what the blake3 package gives, side by side and alone, at every width."""

import random

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from supervm.hardware import fastpath
from supervm.types import merkle
from tests import needs

pytestmark = needs.c_engine
if fastpath.NATIVE:
    from supervm.hardware.fastpath import hashing

WIDTHS = (1, 4, 8, 16)


@pytest.fixture(params=WIDTHS, autouse=True)
def width(request: pytest.FixtureRequest) -> object:
    """Each width that this processor has; a wider one than it has is the widest it has."""
    before = hashing.lanes()
    yield hashing.lanes(request.param)
    hashing.lanes(before)


def plain(inputs: list[bytes]) -> bytes:
    return b"".join([blake3(each).digest() for each in inputs])


def test_every_size_up_to_five_chunks_is_hashed_right() -> None:
    data = random.Random(1).randbytes(5_000)
    inputs = [data[size % 7 :][:size] for size in (*range(0, 1_200), *range(1_200, 5_000, 13))]
    assert hashing.hash_many(inputs) == plain(inputs)
    assert b"".join(map(hashing.hash_one, inputs[::17])) == plain(inputs[::17])


def test_large_inputs_are_hashed_right() -> None:
    data = random.Random(2).randbytes(400_000)
    inputs = [data[:size] for size in (16_384, 16_385, 32_768, 65_537, 131_072, 262_145, 400_000)]
    assert hashing.hash_many(inputs) == plain(inputs)


def test_an_input_in_two_places_is_hashed_like_one_in_one() -> None:
    most = hashing.lib.SVM_BLAKE3_SPLIT_MAX
    data = random.Random(3).randbytes(most)
    sizes = [*range(0, 1_100, 50), *range(1_000, 1_100), *range(2_040, 2_060), *range(3_060, 9_000, 517)]
    inputs = [data[size % 5 :][:size] for size in (*sizes, 100_001, most - 1)] + [data]
    assert hashing.hash_many_split(inputs) == plain(inputs)
    assert hashing.hash_many_split([]) == b""


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=400), max_size=60))
def test_any_mix_of_inputs_keeps_its_order(inputs: list[bytes]) -> None:
    assert hashing.hash_many(inputs) == plain(inputs)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 100])
def test_nodes_and_roots_are_those_of_the_trees(count: int) -> None:
    chance = random.Random(count)
    pairs = chance.randbytes(64 * count)
    wanted = [merkle.node(pairs[at : at + 32], pairs[at + 32 : at + 64]) for at in range(0, 64 * count, 64)]
    assert hashing.hash_nodes(1, pairs) == b"".join(wanted)
    items = [chance.randbytes(9) for _ in range(count)]
    assert hashing.merkle_root(b"".join(map(merkle.leaf, items))) == merkle.plain_root(items)
    assert hashing.list_root(items) == merkle.root(items) == merkle.plain_root(items)


def test_lists_take_their_roots_from_c() -> None:
    items = [bytes(each) for each in range(300)]
    assert merkle.root(items) == merkle.plain_root(items)
    assert merkle._root is hashing.list_root


@settings(max_examples=40)
@given(st.lists(st.binary(max_size=200), max_size=70))
def test_the_root_of_any_list_is_the_plain_one(items: list[bytes]) -> None:
    assert hashing.list_root(items) == merkle.plain_root(items)


def test_the_check_at_import_sees_a_wrong_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hashing.self_check() == ""
    monkeypatch.setattr(hashing, "hash_many", lambda inputs: bytes(32 * len(inputs)))
    assert "differs" in hashing.self_check()
