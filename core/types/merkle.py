"""The binary Merkle tree over a list (STO-36): receipts, a batch's transactions, a block's batches.

leaf = blake3(00 || bytes), node = blake3(01 || left || right); an odd node goes up unchanged. The root
of an empty list is 32 zero bytes. The count must be known from elsewhere for a position to be proven.

`root` is done by whatever `use` was given last: types stand alone, and C brings its own when it is loaded.
"""

from collections.abc import Callable, Sequence

from blake3 import blake3

from supervm.types.digests import Digest
from supervm.types.errors import ProofInvalid

EMPTY_ROOT = bytes(32)


def leaf(item: bytes) -> Digest:
    return blake3(b"\x00" + item).digest()


def node(left: Digest, right: Digest) -> Digest:
    return blake3(b"\x01" + left + right).digest()


def plain_root(items: Sequence[bytes]) -> Digest:
    """The root over items in their order: what every other way must give, too."""
    level = [leaf(item) for item in items]
    if not level:
        return EMPTY_ROOT
    while len(level) > 1:
        level = _up(level)
    return level[0]


Root = Callable[[Sequence[bytes]], Digest]
_root: Root = plain_root


def use(faster: Root) -> None:
    """Take roots from another function from now on. It gives what `plain_root` gives."""
    global _root
    _root = faster


def root(items: Sequence[bytes]) -> Digest:
    """Return the root over items in their order."""
    return _root(items)


def _up(level: list[Digest]) -> list[Digest]:
    above = [node(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
    if len(level) % 2:
        above.append(level[-1])
    return above


def path(items: Sequence[bytes], index: int) -> tuple[Digest, ...]:
    """Return the siblings of an item from the bottom; levels at which it goes up alone have none."""
    assert 0 <= index < len(items), f"index {index} of {len(items)}"
    level = [leaf(item) for item in items]
    siblings: list[Digest] = []
    while len(level) > 1:
        beside = index ^ 1
        if beside < len(level):
            siblings.append(level[beside])
        level = _up(level)
        index //= 2
    return tuple(siblings)


def verify(expected: Digest, item: bytes, index: int, count: int, siblings: Sequence[Digest]) -> None:
    """Check that `item` stands at `index` of the `count` items under a root; else `ProofInvalid`."""
    if not 0 <= index < count:
        raise ProofInvalid("ProofInvalid", "no such place in the list", index, f"0 to {count - 1}")
    # A list of 2^64 items has 64 levels; more siblings are never looked at.
    left = list(siblings[:65])
    found, size = leaf(item), count
    while size > 1:
        if index ^ 1 < size:
            if not left:
                raise ProofInvalid("ProofInvalid", "the path is too short", len(siblings))
            beside = left.pop(0)
            found = node(beside, found) if index % 2 else node(found, beside)
        index //= 2
        size = (size + 1) // 2
    if left:
        raise ProofInvalid("ProofInvalid", "the path is too long", len(siblings))
    if found != expected:
        raise ProofInvalid("ProofInvalid", "the path does not lead to the root", found)
