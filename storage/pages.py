"""Pages of the state tree: what is stored, how it is hashed, how it is written down. Pure.

The state tree (STO-34) is a binary sparse Merkle tree over `kh = blake3(state key)`, most significant bit
first. It is stored as radix-16 pages: a page holds four binary levels, that is the 16 subtrees ("slots")
below one prefix of whole nibbles. A slot is a byte string, and its length says what it is:

    0   empty
    64  a leaf: kh || blake3(value), the only one of its subtree
    40  a child: the hash of a page below || the height (u64 little-endian) at which that page was written

A page is never changed: a commit writes new pages under its own height and notes the ones they replace
as stale, so that every height's tree stays readable until it is pruned. The height of a child is not
under the hash; it says only where to look, and what is found there must have the hash.

Between the slots and a page's hash stand "nodes", again told apart by length: empty (0), a leaf (64), or
the hash of a subtree with two leaves or more (32). A subtree with one leaf is that leaf.
"""

from collections.abc import Sequence

from blake3 import blake3

SLOTS = 16
DEPTH_MAX = 63  # nibbles; below depth 63 every slot is one whole kh
EMPTY = b""
EMPTY_HASH = bytes(32)
LEAF_BYTES = 64
CHILD_BYTES = 40
HASH_BYTES = 32

PAGE_SPACE = 0x03
PAGE_FORMAT = 1

Slots = tuple[bytes, ...]


class PageInvalid(Exception):
    """A page that is absent, malformed, or not the one its parent names. `key` is its storage key."""

    def __init__(self, key: bytes, why: str) -> None:
        super().__init__(f"tree page {key.hex()}: {why}")
        self.key = key
        self.why = why


def page_key(path: bytes, depth: int, height: int) -> bytes:
    """The storage key of a page: 03 || depth || packed nibbles || height big-endian.

    `path` is any kh below the page; `depth` counts nibbles, 0 for the root page.
    """
    whole, half = divmod(depth, 2)
    prefix = path[:whole]
    if half:
        prefix += bytes((path[whole] & 0xF0,))
    return bytes((PAGE_SPACE, depth)) + prefix + height.to_bytes(8, "big")


def nibble(path: bytes, depth: int) -> int:
    """The slot of the page at `depth` in which `path` lies."""
    byte = path[depth >> 1]
    return byte & 0x0F if depth & 1 else byte >> 4


def leaf(path: bytes, value_hash: bytes) -> bytes:
    return path + value_hash


def child(subtree_hash: bytes, height: int) -> bytes:
    return subtree_hash + height.to_bytes(8, "little")


def child_height(slot: bytes) -> int:
    return int.from_bytes(slot[HASH_BYTES:], "little")


def slot_node(slot: bytes) -> bytes:
    """A slot as a node: a child is its hash, a leaf and an empty slot are themselves."""
    return slot[:HASH_BYTES] if len(slot) == CHILD_BYTES else slot


def node_hash(node: bytes) -> bytes:
    """The hash of a node as its parent sees it (STO-34): 32 bytes."""
    if len(node) == HASH_BYTES:
        return node
    if len(node) == LEAF_BYTES:
        return blake3(b"\x00" + node).digest()
    return EMPTY_HASH


def join(left: bytes, right: bytes) -> bytes:
    """The node above two nodes. One leaf beside nothing is that leaf; nothing beside nothing is nothing."""
    if not right and len(left) != HASH_BYTES:
        return left
    if not left and len(right) == LEAF_BYTES:
        return right
    return blake3(b"\x01" + node_hash(left) + node_hash(right)).digest()


def levels(slots: Sequence[bytes]) -> list[list[bytes]]:
    """The five levels of nodes of a page: 16 slots, then 8, 4, 2 and 1."""
    rows = [[slot_node(slot) for slot in slots]]
    while len(rows[-1]) > 1:
        row = rows[-1]
        rows.append([join(row[i], row[i + 1]) for i in range(0, len(row), 2)])
    return rows


def fold(slots: Sequence[bytes]) -> bytes:
    """The node of a whole page: empty, a leaf (the page holds only that), or a hash."""
    return levels(slots)[-1][0]


def encode_page(slots: Sequence[bytes]) -> bytes:
    """u8 format || u16 which slots are leaves || u16 which are children || the slots (little-endian)."""
    leaves = children = 0
    for i, slot in enumerate(slots):
        if slot:
            if len(slot) == LEAF_BYTES:
                leaves |= 1 << i
            else:
                children |= 1 << i
    head = bytes((PAGE_FORMAT,)) + leaves.to_bytes(2, "little") + children.to_bytes(2, "little")
    return head + b"".join(slots)


def page_bytes(data: bytes) -> int:
    """The size of a page, as its first bytes say; 0 where they say nothing."""
    if len(data) < 5:
        return 0
    leaves = int.from_bytes(data[1:3], "little")
    children = int.from_bytes(data[3:5], "little")
    return 5 + LEAF_BYTES * leaves.bit_count() + CHILD_BYTES * children.bit_count()


def decode_page(key: bytes, data: bytes) -> Slots:
    """The 16 slots of a stored page. Raises `PageInvalid`, naming `key`, for anything malformed."""
    if len(data) < 5 or data[0] != PAGE_FORMAT:
        raise PageInvalid(key, f"not a page of format {PAGE_FORMAT}")
    leaves = int.from_bytes(data[1:3], "little")
    children = int.from_bytes(data[3:5], "little")
    length = 5 + LEAF_BYTES * leaves.bit_count() + CHILD_BYTES * children.bit_count()
    if leaves & children or len(data) != length:
        raise PageInvalid(key, "its length is not what its slots need")
    slots = [EMPTY] * SLOTS
    at = 5
    filled = leaves | children
    while filled:
        lowest = filled & -filled
        size = LEAF_BYTES if leaves & lowest else CHILD_BYTES
        slots[lowest.bit_length() - 1] = data[at : at + size]
        at += size
        filled ^= lowest
    return tuple(slots)
