"""The state tree `smt-blake3-v1`: root, proofs, and their verification (STO-34, STO-35).

A binary sparse Merkle tree over kh = blake3(state key), most significant bit first. The empty subtree is
32 zero bytes; a subtree with one leaf is that leaf; leaf = blake3(00 || kh || blake3(value)); node =
blake3(01 || left || right). These are the reference functions over a whole mapping, for tests, genesis
and clients; the node's own tree is `supervm.storage.tree` and must agree with them.
"""

from collections.abc import Mapping, Sequence

import attrs
from blake3 import blake3

from supervm.types.codec import U32_MAX, Reader, Writer
from supervm.types.digests import Digest
from supervm.types.errors import DecodeError, ProofInvalid

TREE_NAME = "smt-blake3-v1"
EMPTY = bytes(32)
DEPTH_MAX = 256
KEY_BYTES_MAX = 128

_ABSENT_EMPTY, _PRESENT, _ABSENT_OTHER = 0, 1, 2


def key_hash(key: bytes) -> Digest:
    """Return kh, the place of a state key in the tree."""
    return blake3(key).digest()


def value_hash(value: bytes) -> Digest:
    return blake3(value).digest()


def leaf(kh: Digest, hashed_value: Digest) -> Digest:
    return blake3(b"\x00" + kh + hashed_value).digest()


def node(left: Digest, right: Digest) -> Digest:
    """Return the digest of an inner node; the caller sees to the rule of one leaf."""
    return blake3(b"\x01" + left + right).digest()


def bit(kh: Digest, depth: int) -> int:
    """Return the bit that decides at `depth`: 0 goes left, 1 right."""
    return kh[depth >> 3] >> (7 - (depth & 7)) & 1


Leaves = list[tuple[Digest, Digest]]
"""(kh, blake3(value)) in ascending order of kh."""


def leaves_of(state: Mapping[bytes, bytes]) -> Leaves:
    return sorted((key_hash(key), value_hash(value)) for key, value in state.items())


def root_of(state: Mapping[bytes, bytes]) -> Digest:
    """Return the root of a whole state, state key to value."""
    leaves = leaves_of(state)
    return _subtree(leaves, 0, len(leaves), 0)


def _subtree(leaves: Leaves, start: int, end: int, depth: int) -> Digest:
    """Return the digest of the subtree at `depth` that holds leaves[start:end]."""
    if start == end:
        return EMPTY
    if end - start == 1:
        return leaf(*leaves[start])
    assert depth < DEPTH_MAX, "two leaves with one kh"
    middle = _split(leaves, start, end, depth)
    return node(
        _subtree(leaves, start, middle, depth + 1),
        _subtree(leaves, middle, end, depth + 1),
    )


def _split(leaves: Leaves, start: int, end: int, depth: int) -> int:
    """Return the first place in leaves[start:end] whose kh has bit `depth` set."""
    while start < end:
        middle = (start + end) // 2
        if bit(leaves[middle][0], depth):
            end = middle
        else:
            start = middle + 1
    return start


@attrs.frozen
class Proof:
    """That a key has `value`, or (None) is absent, under a root.

    Absence shows the empty slot on the key's path, or in `other` the (kh, blake3(value)) of the one leaf
    that stands there. `siblings` are from the bottom; their number is the depth of the slot.
    """

    key: bytes
    value: bytes | None
    other: tuple[Digest, Digest] | None
    siblings: tuple[Digest, ...]

    def encode(self) -> bytes:
        writer = Writer().byte_string(self.key, "key")
        if self.value is not None:
            writer.u8(_PRESENT).byte_string(self.value, "value")
        elif self.other is not None:
            writer.u8(_ABSENT_OTHER).bytes32(self.other[0]).bytes32(self.other[1])
        else:
            writer.u8(_ABSENT_EMPTY)
        return writer.raw(encode_siblings(self.siblings)).done()

    @classmethod
    def decode(cls, data: bytes) -> "Proof":
        """Read a proof; anything but its one encoding raises `DecodeError`."""
        reader = Reader(data)
        key = reader.byte_string("proof.key", KEY_BYTES_MAX)
        kind = reader.u8("proof.kind", _ABSENT_OTHER)
        value = reader.byte_string("proof.value", U32_MAX) if kind == _PRESENT else None
        other = None
        if kind == _ABSENT_OTHER:
            other = (reader.bytes32("proof.other"), reader.bytes32("proof.other"))
        siblings = _read_siblings(reader)
        reader.finish("proof")
        proof = cls(key, value, other, siblings)
        proof.check()
        return proof

    def check(self) -> None:
        """Refuse what no proof of a well-formed tree looks like; raises `DecodeError`."""
        depth = len(self.siblings)
        if depth > DEPTH_MAX:
            raise DecodeError("TooMany", "proof.siblings", depth, f"at most {DEPTH_MAX}")
        if self.siblings and self.siblings[0] == EMPTY:
            # One leaf, or none, beside nothing is not a node: it would stand higher.
            raise DecodeError("NonCanonical", "proof.siblings", EMPTY, "the lowest sibling is not empty")
        if self.other is not None:
            kh, found = key_hash(self.key), self.other[0]
            if self.value is not None or found == kh or not _share_path(kh, found, depth):
                mend = "another leaf on the path of an absent key"
                raise DecodeError("NonCanonical", "proof.other", found, mend)


def encode_siblings(siblings: Sequence[Digest]) -> bytes:
    """Return u16 depth || bitmap of empty siblings || the others, from the bottom (STO-35).

    Bit i % 8 (from the lowest) of byte i // 8 of the bitmap stands for sibling i.
    """
    depth = len(siblings)
    bitmap = bytearray((depth + 7) // 8)
    for at, sibling in enumerate(siblings):
        if sibling == EMPTY:
            bitmap[at // 8] |= 1 << at % 8
    shown = b"".join(sibling for sibling in siblings if sibling != EMPTY)
    return depth.to_bytes(2, "little") + bytes(bitmap) + shown


def _read_siblings(reader: Reader) -> tuple[Digest, ...]:
    depth = reader.u16("proof.depth")
    if depth > DEPTH_MAX:
        raise DecodeError("TooMany", "proof.depth", depth, f"at most {DEPTH_MAX}")
    bitmap = int.from_bytes(reader.fixed((depth + 7) // 8, "proof.bitmap"), "little")
    if bitmap >> depth:
        raise DecodeError("NonCanonical", "proof.bitmap", bitmap, "no bits beyond the depth")
    siblings: list[Digest] = []
    for at in range(depth):
        if bitmap >> at & 1:
            siblings.append(EMPTY)
            continue
        sibling = reader.bytes32("proof.sibling")
        if sibling == EMPTY:
            raise DecodeError("NonCanonical", "proof.sibling", sibling, "an empty one is in the bitmap")
        siblings.append(sibling)
    return tuple(siblings)


def _share_path(kh: Digest, other: Digest, depth: int) -> bool:
    """Whether two hashes have their first `depth` bits in common."""
    difference = int.from_bytes(kh, "big") ^ int.from_bytes(other, "big")
    return difference >> (DEPTH_MAX - depth) == 0


def prove(state: Mapping[bytes, bytes], key: bytes) -> Proof:
    """Return the proof of a key's value or absence in a whole state."""
    leaves = leaves_of(state)
    kh = key_hash(key)
    start, end, depth = 0, len(leaves), 0
    siblings: list[Digest] = []
    while end - start > 1:
        middle = _split(leaves, start, end, depth)
        depth += 1
        if bit(kh, depth - 1):
            siblings.append(_subtree(leaves, start, middle, depth))
            start = middle
        else:
            siblings.append(_subtree(leaves, middle, end, depth))
            end = middle
    siblings.reverse()
    other = None
    if end - start == 1 and leaves[start][0] != kh:
        other = leaves[start]
    return Proof(key, state.get(key), other, tuple(siblings))


def verify(root: Digest, proof: Proof) -> None:
    """Check a proof against a root; raises `ProofInvalid` (or `DecodeError` where it isn't canonical)."""
    proof.check()
    kh = key_hash(proof.key)
    if proof.value is not None:
        found = leaf(kh, value_hash(proof.value))
    elif proof.other is not None:
        found = leaf(*proof.other)
    else:
        found = EMPTY
    depth = len(proof.siblings)
    for sibling in proof.siblings:
        depth -= 1
        found = node(sibling, found) if bit(kh, depth) else node(found, sibling)
    if found != root:
        raise ProofInvalid("ProofInvalid", "the proof does not lead to the root", found, f"0x{root.hex()}")
