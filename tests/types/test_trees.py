"""The Merkle list and the state tree: roots, proofs of presence and absence, and forgeries refused."""

import attrs
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from supervm.types import merkle, smt
from supervm.types.errors import DecodeError, InvalidInput, ProofInvalid
from supervm.types.smt import EMPTY, Proof

states = st.dictionaries(st.binary(min_size=1, max_size=9), st.binary(max_size=9), max_size=24)
keys = st.binary(min_size=1, max_size=9)


def test_the_root_of_an_empty_list_is_zero_and_of_one_item_its_leaf() -> None:
    assert merkle.root([]) == bytes(32)
    assert merkle.root([b"x"]) == blake3(b"\x00x").digest()


def test_an_odd_node_goes_up_unchanged() -> None:
    a, b, c = (merkle.leaf(item) for item in (b"a", b"b", b"c"))
    assert merkle.root([b"a", b"b", b"c"]) == merkle.node(merkle.node(a, b), c)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=4), min_size=1, max_size=40), st.data())
def test_a_path_proves_its_item_at_its_place_and_no_other(items: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(items) - 1))
    root, siblings = merkle.root(items), merkle.path(items, index)
    merkle.verify(root, items[index], index, len(items), siblings)
    with pytest.raises(ProofInvalid):
        merkle.verify(root, items[index] + b"!", index, len(items), siblings)
    with pytest.raises(ProofInvalid):
        merkle.verify(root, items[index], index, len(items), (*siblings, bytes(32)))
    with pytest.raises(ProofInvalid):
        merkle.verify(root, items[index], len(items), len(items), siblings)
    if siblings:
        with pytest.raises(ProofInvalid):
            merkle.verify(root, items[index], index, len(items), siblings[:-1])


def test_an_inner_node_does_not_pass_for_an_item() -> None:
    items = [b"a", b"b", b"c", b"d"]
    left = merkle.leaf(b"a") + merkle.leaf(b"b")
    with pytest.raises(ProofInvalid):
        merkle.verify(merkle.root(items), left, 0, 2, [merkle.node(merkle.leaf(b"c"), merkle.leaf(b"d"))])


def naive_root(state: dict[bytes, bytes]) -> bytes:
    """The tree as STO-34 words it, by filtering bit strings: slow, and written apart from the code."""
    leaves = {
        f"{int.from_bytes(blake3(key).digest(), 'big'):0256b}": blake3(
            b"\x00" + blake3(key).digest() + blake3(value).digest()
        ).digest()
        for key, value in state.items()
    }

    def subtree(prefix: str) -> bytes:
        inside = [path for path in leaves if path.startswith(prefix)]
        if not inside:
            return bytes(32)
        if len(inside) == 1:
            return leaves[inside[0]]
        return blake3(b"\x01" + subtree(prefix + "0") + subtree(prefix + "1")).digest()

    return subtree("")


@settings(max_examples=60, deadline=None)
@given(states)
def test_the_root_is_that_of_the_tree_as_the_specification_words_it(state: dict[bytes, bytes]) -> None:
    assert smt.root_of(state) == naive_root(state)


def test_the_root_does_not_depend_on_the_order_of_insertion() -> None:
    state = {bytes((at,)): bytes((at, at)) for at in range(200)}
    assert smt.root_of(dict(reversed(state.items()))) == smt.root_of(state)


@settings(max_examples=150, deadline=None)
@given(states, keys)
def test_every_key_is_proven_present_or_absent_and_survives_encoding(
    state: dict[bytes, bytes], key: bytes
) -> None:
    root = smt.root_of(state)
    for asked in (key, *list(state)[:3]):
        proof = smt.prove(state, asked)
        assert proof.value == state.get(asked)
        smt.verify(root, proof)
        assert Proof.decode(proof.encode()) == proof


@settings(max_examples=150, deadline=None)
@given(states, keys, st.data())
def test_a_changed_proof_that_still_verifies_tells_the_truth(
    state: dict[bytes, bytes], key: bytes, data: st.DataObject
) -> None:
    """A flip in the key may name another absent key of the same slot; nothing else gets through."""
    root = smt.root_of(state)
    good = smt.prove(state, key).encode()
    at = data.draw(st.integers(0, len(good) - 1))
    changed = good[:at] + bytes((good[at] ^ data.draw(st.integers(1, 255)),)) + good[at + 1 :]
    try:
        proof = Proof.decode(changed)
        smt.verify(root, proof)
    except InvalidInput:
        return
    assert proof.encode() == changed
    assert proof.key != key
    assert proof.value is None
    assert proof.key not in state


@settings(max_examples=80, deadline=None)
@given(states.filter(bool), st.data())
def test_a_present_key_cannot_be_proven_absent_nor_with_another_value(
    state: dict[bytes, bytes], data: st.DataObject
) -> None:
    root = smt.root_of(state)
    key = data.draw(st.sampled_from(sorted(state)))
    proof = smt.prove(state, key)
    for forged in (
        attrs.evolve(proof, value=None),
        attrs.evolve(proof, value=state[key] + b"!"),
        attrs.evolve(proof, value=None, other=(smt.key_hash(key), smt.value_hash(state[key]))),
        attrs.evolve(proof, value=None, siblings=()),
        attrs.evolve(proof, value=None, other=(bytes(32), bytes(32)), siblings=()),
    ):
        with pytest.raises(InvalidInput):
            smt.verify(root, forged)


def test_a_proof_from_an_empty_state_shows_absence() -> None:
    proof = smt.prove({}, b"k")
    assert proof == Proof(b"k", None, None, ())
    smt.verify(EMPTY, proof)
    with pytest.raises(ProofInvalid):
        smt.verify(smt.root_of({b"k": b"v"}), proof)


def test_a_proof_of_256_levels_is_the_deepest_that_is_read() -> None:
    deep = Proof(b"k", b"v", None, (b"s" * 32,) + (EMPTY,) * 255)
    assert Proof.decode(deep.encode()) == deep
    with pytest.raises(DecodeError, match=r"proof\.depth"):
        Proof.decode(attrs.evolve(deep, siblings=(b"s" * 32,) * 257).encode())


HEAD = (1).to_bytes(4, "little") + b"k" + b"\x01" + (1).to_bytes(4, "little") + b"v"


@pytest.mark.parametrize(
    ("tail", "says"),
    [
        (b"\x01\x00\x00" + bytes(32), "an empty one is in the bitmap"),
        (b"\x01\x00\x01", "the lowest sibling is not empty"),
        (b"\x01\x00\x02" + b"s" * 32, "no bits beyond the depth"),
        (b"\x00\x00" + b"s", "send exactly one value"),
        (b"\x02\x00\x02" + b"s" * 31, "32 bytes are needed"),
    ],
)
def test_a_proof_in_another_form_is_refused(tail: bytes, says: str) -> None:
    with pytest.raises(DecodeError, match=says):
        Proof.decode(HEAD + tail)


def test_absence_by_another_leaf_needs_one_on_the_same_path() -> None:
    kh = smt.key_hash(b"k")
    elsewhere = bytes((kh[0] ^ 0x80,)) + kh[1:]
    with pytest.raises(DecodeError, match="another leaf on the path"):
        Proof.decode(Proof(b"k", None, (elsewhere, bytes(32)), (b"s" * 32,)).encode())
    with pytest.raises(DecodeError, match="another leaf on the path"):
        Proof.decode(Proof(b"k", None, (kh, bytes(32)), ()).encode())
