"""The paged state tree against the reference over a plain mapping (STO-34, STO-35)."""

from collections.abc import Sequence

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervm.storage import tree
from supervm.storage.pages import PageInvalid, decode_page, encode_page, node_hash, page_key, slot_node
from supervm.types import smt
from supervm.types.errors import InvalidInput

# Few prefixes, so that paths part late, pages nest deep, and deletions collapse several pages at once.
paths = st.builds(
    lambda head, tail, last: (head + tail).ljust(31, b"\x00")[:31] + last,
    st.sampled_from([b"", b"\x00" * 4, b"\x00" * 31, b"\xff" * 9, b"\x0f" * 30, b"\x10"]),
    st.binary(max_size=2),
    st.sampled_from([b"\x00", b"\x01", b"\x80", b"\x81", b"\xf0"]),
)
hashes = st.integers(0, 255).map(lambda n: bytes([n]) * 32)
batches = st.lists(st.dictionaries(paths, st.none() | hashes, max_size=12), min_size=1, max_size=8)


@attrs.define
class Grown:
    """A tree and the plain mapping of kh to value hash that it stands for."""

    pages: dict[bytes, bytes] = attrs.Factory(dict)
    leaves: dict[bytes, bytes] = attrs.Factory(dict)
    height: int = -1
    root: bytes = bytes(32)
    stale: dict[bytes, int] = attrs.Factory(dict)

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.pages.get(key) for key in keys]

    def apply(self, batch: dict[bytes, bytes | None]) -> None:
        changes = sorted((path, path + value if value else b"") for path, value in batch.items())
        before = self.height if self.height >= 0 else None
        wanted = [path for path, _ in changes]
        pages = {} if before is None else tree.load(self.root, before, wanted, self.read)
        self.height += 1
        update = tree.update(pages, before, changes, self.height)
        for path, value in batch.items():
            if value is None:
                self.leaves.pop(path, None)
            else:
                self.leaves[path] = value
        assert not update.written.keys() & self.pages.keys(), "a page was written twice"
        assert update.stale == [key for key in update.stale if key in self.pages], "stale, never written"
        self.pages.update(update.written)
        self.stale.update(dict.fromkeys(update.stale, self.height))
        self.root = update.root

    def reference(self) -> bytes:
        leaves = sorted(self.leaves.items())
        return smt._subtree(leaves, 0, len(leaves), 0)

    def reachable(self) -> set[bytes]:
        """The keys of all pages of the newest tree."""
        return set(tree.load(self.root, self.height, sorted(self.leaves), self.read))


@given(batches)
@settings(max_examples=200, deadline=None)
def test_any_sequence_of_batches_gives_the_root_of_the_reference(sequence):
    grown = Grown()
    for batch in sequence:
        grown.apply(batch)
        assert grown.root == grown.reference()


@given(batches)
@settings(max_examples=100, deadline=None)
def test_what_is_not_stale_is_exactly_the_newest_tree(sequence):
    grown = Grown()
    for batch in sequence:
        grown.apply(batch)
    assert grown.pages.keys() - grown.stale.keys() == grown.reachable() | {page_key(b"", 0, grown.height)}


@given(batches, st.lists(paths, min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_the_way_to_any_key_at_any_kept_height_leads_to_that_heights_root(sequence, asked):
    grown, history = Grown(), []
    for batch in sequence:
        grown.apply(batch)
        history.append((grown.height, grown.root, dict(grown.leaves)))
    for height, root, leaves in history:
        for path in {*asked, *leaves}:
            pages = tree.load(root, height, [path], grown.read)
            way = tree.find(pages, height, path)
            here = leaves.get(path)
            if here is not None:
                assert way.end == path + here
            else:
                assert way.end[:32] != path
            assert _climb(way, path) == root


def _climb(way: tree.Path, path: bytes) -> bytes:
    found, depth = node_hash(way.end), len(way.siblings)
    for sibling in way.siblings:
        depth -= 1
        found = smt.node(sibling, found) if smt.bit(path, depth) else smt.node(found, sibling)
    return found


def nibbles(path, depth):
    return path.hex()[:depth]


@given(st.dictionaries(paths, hashes, max_size=40))
@settings(max_examples=100, deadline=None)
def test_building_by_slices_gives_the_pages_that_one_update_gives(leaves):
    changes = sorted((path, path + value) for path, value in leaves.items())
    at_once = tree.update({}, None, changes, 7)
    slots, pages = [], {}
    for first in range(tree.SLICES):
        slot, written = tree.build_slice([change for change in changes if change[0][0] == first], 7)
        slots.append(slot)
        pages.update(written)
    root, crown = tree.build_crown(slots, 7)
    assert root == at_once.root
    assert {**pages, **crown} == at_once.written
    for first in {path[0] for path in leaves} | {0, 255}:
        loaded = tree.load(
            root, 7, [bytes([first]) + bytes(31)], lambda keys: [at_once.written[k] for k in keys]
        )
        assert tree.node_at(loaded, 7, bytes([first]), 2) == slot_node(slots[first])
    for path in leaves:
        loaded = tree.load(root, 7, [path], lambda keys: [at_once.written[k] for k in keys])
        for depth in (1, 3, 5):
            below = [change for change in changes if nibbles(change[0], depth) == nibbles(path, depth)]
            slot, _ = tree.build_slice(below, 7, depth)
            assert tree.node_at(loaded, 7, path, depth) == slot_node(slot)


@given(
    st.dictionaries(st.binary(min_size=1, max_size=40), st.binary(max_size=40), max_size=30),
    st.binary(min_size=1, max_size=40),
)
@settings(max_examples=100, deadline=None)
def test_the_tree_proves_what_the_reference_proves(state, key):
    changes = sorted(
        (smt.key_hash(each), smt.key_hash(each) + smt.value_hash(value)) for each, value in state.items()
    )
    update = tree.update({}, None, changes, 0)
    path = smt.key_hash(key)
    pages = tree.load(update.root, 0, [path], lambda keys: [update.written[k] for k in keys])
    way = tree.find(pages, 0, path)
    expected = smt.prove(state, key)
    assert way.siblings == expected.siblings
    if expected.other is not None:
        assert way.end == expected.other[0] + expected.other[1]


@given(st.dictionaries(paths, hashes, min_size=1, max_size=20), st.data())
@settings(max_examples=100, deadline=None)
def test_a_page_with_any_bit_flipped_is_refused_by_name(leaves, data):
    changes = sorted((path, path + value) for path, value in leaves.items())
    update = tree.update({}, None, changes, 3)
    key = data.draw(st.sampled_from(sorted(update.written)))
    page = bytearray(update.written[key])
    page[data.draw(st.integers(0, len(page) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    pages = {**update.written, key: bytes(page)}
    with pytest.raises(PageInvalid) as caught:
        tree.load(update.root, 3, [path for path, _ in changes], lambda keys: [pages.get(k) for k in keys])
    # A flipped height of a child leads to a page that is not there: the child is named, not the parent.
    assert caught.value.key == key or caught.value.key not in update.written


def test_a_missing_page_is_named():
    changes = sorted((bytes([n]) * 32, bytes([n]) * 64) for n in range(200))
    update = tree.update({}, None, changes, 0)
    gone = max(update.written)
    with pytest.raises(PageInvalid, match="missing") as caught:
        tree.load(
            update.root,
            0,
            [path for path, _ in changes],
            lambda keys: [None if key == gone else update.written[key] for key in keys],
        )
    assert caught.value.key == gone


def test_pages_for_a_thousand_keys_come_in_one_read_a_level():
    changes = sorted((smt.key_hash(bytes([n >> 8, n & 255])), bytes(64)) for n in range(3000))
    changes = [(path, path + bytes(32)) for path, _ in changes]
    update = tree.update({}, None, changes, 0)
    reads = []

    def read(keys):
        reads.append(len(keys))
        return [update.written[key] for key in keys]

    pages = tree.load(update.root, 0, [path for path, _ in changes][::3], read)
    assert len(pages) == sum(reads) > 300
    assert len(reads) <= 6


def test_the_empty_tree_has_the_zero_root_and_a_root_page():
    update = tree.update({}, None, [], 0)
    assert update.root == bytes(32)
    assert list(update.written) == [page_key(b"", 0, 0)]


@given(st.binary(max_size=200))
def test_any_bytes_decode_to_the_page_that_encodes_to_them_or_are_refused(data):
    try:
        slots = decode_page(b"key", data)
    except PageInvalid:
        return
    assert encode_page(slots) == data


def test_a_wrong_value_under_a_right_path_is_no_proof():
    state = {bytes([n]): bytes([n]) for n in range(20)}
    changes = sorted(
        (smt.key_hash(key), smt.key_hash(key) + smt.value_hash(value)) for key, value in state.items()
    )
    update = tree.update({}, None, changes, 0)
    path = smt.key_hash(b"\x05")
    way = tree.find(
        tree.load(update.root, 0, [path], lambda keys: [update.written[k] for k in keys]), 0, path
    )
    smt.verify(update.root, smt.Proof(b"\x05", b"\x05", None, way.siblings))
    for wrong in (
        smt.Proof(b"\x05", b"\x06", None, way.siblings),
        smt.Proof(b"\x05", None, None, way.siblings),
        smt.Proof(b"\x06", b"\x06", None, way.siblings),
        smt.Proof(b"\x05", b"\x05", None, way.siblings[1:]),
    ):
        with pytest.raises(InvalidInput):
            smt.verify(update.root, wrong)
