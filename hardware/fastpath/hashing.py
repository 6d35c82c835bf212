"""BLAKE3 of many inputs in one call, through cffi. Importing this raises ImportError where it was not built.

C hashes several short inputs side by side, which the blake3 package can't; that is its judge, and at import
known answers of every size class are compared. Nodes and roots are those of `supervm.types.merkle`.
"""

from collections.abc import Sequence

from blake3 import blake3

from supervm.hardware._fastpath import ffi, lib
from supervm.types import merkle
from supervm.types.digests import Digest

LIST_MIN = 8
"""Shorter lists are hashed faster than C is called."""
SIZES = (
    0,
    1,
    31,
    32,
    33,
    63,
    64,
    65,
    127,
    128,
    129,
    228,
    512,
    1023,
    1024,
    1025,
    2048,
    2049,
    3072,
    5000,
    33_000,
)


def hash_many(inputs: Sequence[bytes]) -> bytes:
    """The 32-byte blake3 of each input, one after the other."""
    out = ffi.new("uint8_t[]", 32 * len(inputs) + 1)
    held = [ffi.from_buffer(each) for each in inputs]
    lib.svm_blake3_many(
        ffi.new("uint8_t *[]", held) if held else ffi.NULL, list(map(len, inputs)), len(inputs), out
    )
    return bytes(ffi.buffer(out, 32 * len(inputs)))


def hash_many_split(inputs: Sequence[bytes]) -> bytes:
    """The same; the first 1,024 bytes of each lie apart from those that follow."""
    chunk = lib.SVM_BLAKE3_CHUNK
    firsts, rests = [each[:chunk] for each in inputs], [each[chunk:] for each in inputs]
    assert max(map(len, inputs), default=0) <= lib.SVM_BLAKE3_SPLIT_MAX
    out = ffi.new("uint8_t[]", 32 * len(inputs) + 1)
    held = [[ffi.from_buffer(each) for each in parts] for parts in (firsts, rests)]
    pointers = [ffi.new("uint8_t *[]", each) if each else ffi.NULL for each in held]
    lib.svm_blake3_many_split(*pointers, list(map(len, inputs)), len(inputs), out)
    return bytes(ffi.buffer(out, 32 * len(inputs)))


def hash_one(data: bytes) -> bytes:
    """blake3(data), 32 bytes."""
    out = ffi.new("uint8_t[32]")
    lib.svm_blake3(ffi.from_buffer(data), len(data), out)
    return bytes(ffi.buffer(out))


def hash_nodes(prefix: int, pairs: bytes) -> bytes:
    """blake3(u8 prefix || pair) of each 64 bytes of `pairs`."""
    count, left = divmod(len(pairs), 64)
    assert left == 0, len(pairs)
    out = ffi.new("uint8_t[]", 32 * count + 1)
    lib.svm_blake3_nodes(prefix, ffi.from_buffer(pairs), count, out)
    return bytes(ffi.buffer(out, 32 * count))


def merkle_root(leaves: bytes) -> bytes:
    """The root of the tree over leaves of 32 bytes each."""
    held, out = ffi.new("uint8_t[]", leaves or b"\0"), ffi.new("uint8_t[32]")
    lib.svm_merkle_root(held, len(leaves) // 32, out)
    return bytes(ffi.buffer(out))


def list_root(items: Sequence[bytes]) -> Digest:
    """As `supervm.types.merkle.root`, of which this is the twin in C."""
    if len(items) < LIST_MIN:
        return merkle.plain_root(items)
    return merkle_root(hash_many([b"\0" + item for item in items]))


def lanes(most: int = 0) -> int:
    """How many inputs are hashed side by side at most; `most` above 0 lowers it for the whole process."""
    return int(lib.svm_blake3_lanes(most))


def self_check() -> str:
    """What is wrong with this machine's build; "" where every known answer is right."""
    inputs = [bytes(i * 7 % 251 for i in range(size)) for size in SIZES for _ in range(3)]
    wanted = b"".join([blake3(each).digest() for each in inputs])
    if not wanted == hash_many(inputs) == hash_many_split(inputs) == b"".join(map(hash_one, inputs)):
        return "BLAKE3 in C differs from the blake3 package"
    pairs = bytes(i * 11 % 253 for i in range(64 * 39))
    nodes = b"".join([blake3(b"\1" + pairs[at : at + 64]).digest() for at in range(0, len(pairs), 64)])
    if hash_nodes(1, pairs) != nodes:
        return "tree nodes in C differ from the blake3 package"
    right = all(list_root(inputs[:count]) == merkle.plain_root(inputs[:count]) for count in (8, 21, 63))
    return "" if right else "roots of lists in C differ from those of the blake3 package"
