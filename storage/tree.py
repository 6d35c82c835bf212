"""The state tree as pages: read what a set of keys touches, apply changes in one pass, prove. Pure.

`load` walks the tree level by level, so that the pages on the way to any number of keys cost a few batched
reads, not one read a node. `update` then rebuilds exactly those pages from the bottom up. Both are plain
functions: where pages come from is the caller's `Read`, and what is written is in the answer. The root is
that of `supervm.types.smt.root_of` over the same mapping (STO-34, STO-35).

The root page of every height is written, changed or not, so a state root is found by its height alone.
Cost of n changed keys among N: about n * log16(N) pages of at most 1,029 bytes and 31 hashes each.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

import attrs

from supervm.storage.pages import (
    CHILD_BYTES,
    DEPTH_MAX,
    EMPTY,
    HASH_BYTES,
    LEAF_BYTES,
    SLOTS,
    PageInvalid,
    Slots,
    child,
    child_height,
    decode_page,
    encode_page,
    fold,
    levels,
    nibble,
    node_hash,
    page_key,
)

READ_BATCH = 4096  # pages asked for at once
SLICE_DEPTH = 2
SLICES = SLOTS**SLICE_DEPTH  # subtrees at that depth, one for each first byte of kh
NO_SLOTS: Slots = (EMPTY,) * SLOTS

Change = tuple[bytes, bytes]  # kh, and its new leaf; EMPTY removes it
Read = Callable[[Sequence[bytes]], Sequence[bytes | None]]


@attrs.frozen
class Update:
    """What a batch of changes makes of a tree: its root, pages to write, keys of pages now stale."""

    root: bytes
    written: dict[bytes, bytes]
    stale: list[bytes]


@attrs.frozen
class Path:
    """The way to a kh: where it ends (EMPTY or a leaf) and the sibling hashes, from the bottom."""

    end: bytes
    siblings: tuple[bytes, ...]


def read_pages(read: Read, wanted: Mapping[bytes, bytes]) -> dict[bytes, Slots]:
    """Read and check pages. `wanted` is storage key -> the hash the page must have.

    Raises `PageInvalid` for one that is absent, malformed, or hashes to something else.
    """
    keys = list(wanted)
    pages = {}
    for start in range(0, len(keys), READ_BATCH):
        batch = keys[start : start + READ_BATCH]
        for key, data in zip(batch, read(batch), strict=True):
            if data is None:
                raise PageInvalid(key, "the page is missing")
            slots = decode_page(key, data)
            found = node_hash(fold(slots))
            if found != wanted[key]:
                raise PageInvalid(key, f"it hashes to {found.hex()}, its parent says {wanted[key].hex()}")
            pages[key] = slots
    return pages


def load(
    root: bytes,
    height: int,
    paths: Sequence[bytes],
    read: Read,
    known: Callable[[bytes], Slots | None] = lambda key: None,
) -> dict[bytes, Slots]:
    """Every page on the way to the sorted `paths`, in the tree that `height` left with this `root`.

    `known` answers pages that were checked before, or None; all others are read and checked against
    their parent's hash, level by level up to `root`.
    """
    pages: dict[bytes, Slots] = {}
    level = [(page_key(b"", 0, height), root, 0, len(paths))]
    for depth in range(DEPTH_MAX + 1):
        wanted = {}
        for key, expected, _, _ in level:
            slots = known(key)
            if slots is None:
                wanted[key] = expected
            else:
                pages[key] = slots
        pages.update(read_pages(read, wanted))
        level = [step for key, _, lo, hi in level for step in _below(pages[key], depth, paths, lo, hi)]
        if not level:
            break
    return pages


def _below(
    slots: Slots, depth: int, paths: Sequence[bytes], lo: int, hi: int
) -> Iterator[tuple[bytes, bytes, int, int]]:
    """The children of a page that paths[lo:hi] go through: key, hash, and which paths."""
    while lo < hi:
        here = nibble(paths[lo], depth)
        end = lo + 1
        while end < hi and nibble(paths[end], depth) == here:
            end += 1
        slot = slots[here]
        if len(slot) == CHILD_BYTES:
            key = page_key(paths[lo], depth + 1, child_height(slot))
            yield key, slot[:HASH_BYTES], lo, end
        lo = end


@attrs.define
class _Growth:
    """One pass over the tree at `height`: pages read, pages written, pages left behind."""

    pages: Mapping[bytes, Slots]
    height: int
    written: dict[bytes, bytes] = attrs.Factory(dict)
    stale: list[bytes] = attrs.Factory(list)

    def page(self, slots: Slots, depth: int, changes: Sequence[Change]) -> Slots:
        fresh = list(slots)
        for here, group in groupby(changes, key=lambda change: nibble(change[0], depth)):
            fresh[here] = self.slot(slots[here], depth + 1, list(group))
        return tuple(fresh)

    def slot(self, slot: bytes, depth: int, changes: list[Change]) -> bytes:
        """What the subtree at `depth` becomes. All changes lie in it, sorted by kh, one a kh."""
        if len(slot) == CHILD_BYTES:
            key = page_key(changes[0][0], depth, child_height(slot))
            before = self.pages[key]
            after = self.page(before, depth, changes)
            if after == before:
                return slot
            self.stale.append(key)
            return self.settle(after, depth, changes[0][0])
        if slot:
            changes = _with_leaf(slot, changes)
        leaves = [change for change in changes if change[1]]
        if len(leaves) < 2:
            return leaves[0][1] if leaves else EMPTY
        assert depth <= DEPTH_MAX, "two changes of one kh"
        return self.settle(self.page(NO_SLOTS, depth, leaves), depth, leaves[0][0])

    def settle(self, slots: Slots, depth: int, path: bytes) -> bytes:
        """A finished page as its parent's slot: written, unless it holds one leaf or nothing."""
        node = fold(slots)
        if len(node) != HASH_BYTES:
            return node
        self.written[page_key(path, depth, self.height)] = encode_page(slots)
        return child(node, self.height)

    def crown(self, slots: Slots) -> bytes:
        """Write the root page, whatever it holds; the state root."""
        self.written[page_key(b"", 0, self.height)] = encode_page(slots)
        return node_hash(fold(slots))


def _with_leaf(slot: bytes, changes: list[Change]) -> list[Change]:
    """The changes with a leaf that stood there before, unless they change it themselves."""
    path = slot[:HASH_BYTES]
    if any(change[0] == path for change in changes):
        return changes
    return sorted([*changes, (path, slot)])


def update(
    pages: Mapping[bytes, Slots], before: int | None, changes: Sequence[Change], height: int
) -> Update:
    """Apply `changes` (sorted by kh, one a kh) to the tree of height `before`; None is the empty tree.

    `pages` holds what `load` gave for their paths. The new tree is that of `height`, later than `before`.
    """
    growth = _Growth(pages, height)
    slots = NO_SLOTS
    if before is not None:
        assert before < height, (before, height)
        key = page_key(b"", 0, before)
        slots = pages[key]
        growth.stale.append(key)
    root = growth.crown(growth.page(slots, 0, changes))
    return Update(root, growth.written, growth.stale)


def build_slice(
    leaves: list[Change], height: int, depth: int = SLICE_DEPTH
) -> tuple[bytes, dict[bytes, bytes]]:
    """The subtree of kh that share their first `depth` nibbles, a byte if not said, from nothing: its slot
    there, and its pages. `leaves` are sorted by kh.
    """
    growth = _Growth({}, height)
    return growth.slot(EMPTY, depth, leaves), growth.written


def join_slices(
    slots: Sequence[bytes], path: bytes, depth: int, height: int
) -> tuple[bytes, dict[bytes, bytes]]:
    """The subtree at `depth` on the way to `path`, of its 16 parts in order: its slot, and the page of it."""
    assert len(slots) == SLOTS
    growth = _Growth({}, height)
    return growth.settle(tuple(slots), depth, path), growth.written


def build_crown(slices: Sequence[bytes], height: int) -> tuple[bytes, dict[bytes, bytes]]:
    """The top of a tree from its 256 slices in order: the state root, and the pages above them."""
    assert len(slices) == SLICES
    growth = _Growth({}, height)
    tops = tuple(
        growth.settle(tuple(slices[i * SLOTS : (i + 1) * SLOTS]), 1, bytes((i * SLOTS,)))
        for i in range(SLOTS)
    )
    return growth.crown(tops), growth.written


def slice_node(pages: Mapping[bytes, Slots], height: int, first: int) -> bytes:
    """The node at depth 2 over the kh that begin with the byte `first`: empty, a leaf, or a hash.

    `pages` holds what `load` gave for a path that begins with `first`.
    """
    path = bytes((first,))
    slot = pages[page_key(b"", 0, height)][nibble(path, 0)]
    if len(slot) == CHILD_BYTES:
        slot = pages[page_key(path, 1, child_height(slot))][nibble(path, 1)]
    elif len(slot) == LEAF_BYTES and slot[0] != first:
        slot = EMPTY
    return slot[:HASH_BYTES] if len(slot) == CHILD_BYTES else slot


def find(pages: Mapping[bytes, Slots], height: int, path: bytes) -> Path:
    """The way to `path` in the tree of `height`, from the pages that `load` gave for it."""
    siblings: list[bytes] = []
    key = page_key(b"", 0, height)
    for depth in range(DEPTH_MAX + 1):
        slots = pages[key]
        rows = levels(slots)  # rows[4] is the page's one node, rows[0] its 16 slots
        here = nibble(path, depth)
        for row in range(len(rows) - 1, -1, -1):
            node = rows[row][here >> row]
            if len(node) != HASH_BYTES:
                return Path(node, tuple(reversed(siblings)))
            if row:
                siblings.append(node_hash(rows[row - 1][here >> (row - 1) ^ 1]))
        key = page_key(path, depth + 1, child_height(slots[here]))
    raise PageInvalid(key, "the tree is deeper than its keys")
