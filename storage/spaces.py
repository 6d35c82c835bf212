"""Where everything lies in the store (STO-30), and the seal on every value.

A key begins with the byte of its space; heights are u64 big-endian, so that height order is key order.
Values carry a seal: the first 8 bytes of a blake3 over key and value, appended. A flipped bit, or a value
under another's key, is found when it is read.
"""

import struct

import attrs
from blake3 import blake3

from supervm.storage.errors import RowDamaged, SealBroken
from supervm.storage.pages import PAGE_SPACE, page_bytes

SCHEMA = 1
SEAL_BYTES = 8

META = b"\x00"
STATE = b"\x01"
HISTORY = b"\x02"  # kept free: older values by height
TREE = bytes((PAGE_SPACE,))
STALE = b"\x04"
HEADERS = b"\x05"
BODIES = b"\x06"
RECEIPTS = b"\x07"
CERTIFICATES = b"\x08"
INDEX = b"\x09"
LEDGER_END = b"\x0a"  # the ledger owns [STATE, LEDGER_END) and its keys of META

SCHEMA_KEY = META + b"schema"
CHAIN_KEY = META + b"chain_id"
COMMIT_KEY = META + b"commit"
BULK_KEY = META + b"bulk/genesis"
RESTORE_KEY = META + b"bulk/restore"
MIGRATE_KEY = META + b"bulk/migrate"
PRUNED_KEY = META + b"pruned"
RESTORED_KEY = META + b"restored"
ASIDE = META + b"aside/"  # notes of damaged rows, each behind the key of its row
STALE_VALUE = b"\x01"
META_KEYS = (
    SCHEMA_KEY,
    CHAIN_KEY,
    COMMIT_KEY,
    BULK_KEY,
    RESTORE_KEY,
    MIGRATE_KEY,
    PRUNED_KEY,
    RESTORED_KEY,
)

_MARKER = struct.Struct("<IQ32s32s32s")
_PLACE = struct.Struct("<BQHHIH")
_ENTRY = struct.Struct("<B32sI" + _PLACE.format[1:])
_BLOCK_PLACE = struct.Struct("<BQ")
_HORIZON = struct.Struct("<BQQ")
_IS_TRANSACTION = 0
_IS_BLOCK = 1


@attrs.frozen
class CommitMarker:
    """The only truth of where the store stands (STO-33): written in the batch that holds its block."""

    height: int
    block_digest: bytes
    state_root: bytes
    receipts_root: bytes
    schema: int = SCHEMA

    def encode(self) -> bytes:
        """u32 schema || u64 height || block digest || state root || receipts root (little-endian)."""
        return _MARKER.pack(self.schema, self.height, self.block_digest, self.state_root, self.receipts_root)

    @classmethod
    def decode(cls, data: bytes) -> "CommitMarker":
        """The marker of unsealed bytes; raises `StoreCorrupt` for any other length."""
        if len(data) != _MARKER.size:
            raise corrupt(COMMIT_KEY, f"a commit marker has {_MARKER.size} bytes, this one {len(data)}")
        schema, height, block_digest, state_root, receipts_root = _MARKER.unpack(data)
        return cls(height, block_digest, state_root, receipts_root, schema)


@attrs.frozen
class Horizon:
    """From where up things are kept: bodies and receipts from height `blocks`, whole trees from `roots`.

    0 is all. Headers, certificates and the index are kept always. It is durable before anything below it
    goes, so whoever misses something looks here first (STO-62).
    """

    blocks: int = 0
    roots: int = 0

    def encode(self) -> bytes:
        """u8 format 1 || u64 blocks || u64 roots (little-endian)."""
        return _HORIZON.pack(1, self.blocks, self.roots)

    @classmethod
    def decode(cls, data: bytes) -> "Horizon":
        """The horizon of unsealed bytes; raises `StoreCorrupt` for anything else."""
        if len(data) != _HORIZON.size or data[0] != 1:
            raise corrupt(PRUNED_KEY, f"not a horizon of format 1: 0x{data.hex()}")
        return cls(*_HORIZON.unpack(data)[1:])


@attrs.frozen
class Place:
    """Where a transaction lies: item of a batch of a block; and its receipt: a number within a chunk."""

    height: int
    batch: int
    item: int
    chunk: int
    receipt: int

    def encode(self) -> bytes:
        """u8 0 || u64 height || u16 batch || u16 item || u32 chunk || u16 receipt (little-endian)."""
        return _PLACE.pack(_IS_TRANSACTION, self.height, self.batch, self.item, self.chunk, self.receipt)


def pack_place(digest: bytes, place: tuple[int, int, int, int, int]) -> bytes:
    """A transaction's digest and the fields of its `Place`, as an entry of `PackedChanges`."""
    return _ENTRY.pack(32, digest, _PLACE.size, _IS_TRANSACTION, *place)


def encode_block_place(height: int) -> bytes:
    """u8 1 || u64 height: what a block's digest leads to in the index."""
    return _BLOCK_PLACE.pack(_IS_BLOCK, height)


def decode_place(key: bytes, data: bytes) -> Place | int:
    """An index entry: a transaction's place, or a block's height. Raises `StoreCorrupt`."""
    if len(data) == _PLACE.size and data[0] == _IS_TRANSACTION:
        return Place(*_PLACE.unpack(data)[1:])
    if len(data) == _BLOCK_PLACE.size and data[0] == _IS_BLOCK:
        height: int = _BLOCK_PLACE.unpack(data)[1]
        return height
    raise corrupt(key, "not an index entry")


def height_bytes(height: int) -> bytes:
    return height.to_bytes(8, "big")


def state_key(key: bytes) -> bytes:
    return STATE + key


def stale_key(height: int, page: bytes) -> bytes:
    """04 || height || the page's key: this page serves no root of `height` or later."""
    return STALE + height_bytes(height) + page


def stale_page(key: bytes, stored: bytes) -> bytes:
    """The key of the page that an entry of the stale index names. Raises `StoreCorrupt`.

    It must be older than what replaced it. Entries of before they were sealed are empty.
    """
    if stored and unseal(key, stored) != STALE_VALUE:
        raise corrupt(key, "not an entry of format 1")
    page = key[9:]
    if len(page) < 10 or page[:1] != TREE or page[-8:] >= key[1:9]:
        raise corrupt(key, "it names no page of an earlier height")
    return page


def header_key(height: int) -> bytes:
    return HEADERS + height_bytes(height)


def body_key(height: int) -> bytes:
    return BODIES + height_bytes(height)


def batch_key(height: int, batch: int) -> bytes:
    """A batch's packed transactions lie behind their block's body: 06 || height || u16 big-endian."""
    return BODIES + height_bytes(height) + batch.to_bytes(2, "big")


def receipts_key(height: int, chunk: int) -> bytes:
    """A block's receipts in chunks: 07 || height || u32 big-endian."""
    return RECEIPTS + height_bytes(height) + chunk.to_bytes(4, "big")


def certificate_key(height: int) -> bytes:
    return CERTIFICATES + height_bytes(height)


def index_key(digest: bytes) -> bytes:
    return INDEX + digest


def seal(key: bytes, value: bytes) -> bytes:
    """The value as it is stored: value || blake3(u16 key length || key || value)[:8]."""
    return value + _checksum(key, value)


def unseal(key: bytes, stored: bytes) -> bytes:
    """The value without its seal; raises `SealBroken`, naming key and both checksums."""
    return split_seal(key, stored)[0]


def split_seal(key: bytes, stored: bytes) -> tuple[bytes, bytes]:
    """The value, and the seal that fits it; raises as `unseal` does."""
    value, found = stored[:-SEAL_BYTES], stored[-SEAL_BYTES:]
    expected = _checksum(key, value)
    if found != expected:
        raise SealBroken(
            "damaged data",
            f"{describe(key)}: its checksum is {expected.hex()}, the stored one {found.hex() or 'missing'}",
            MEND_CORRUPT,
            key,
        )
    return value, found


def unseal_page(key: bytes, stored: bytes) -> bytes:
    """A page of the state tree without its seal, which older ones don't have; raises as `unseal` does."""
    return stored if len(stored) == page_bytes(stored) else unseal(key, stored)


def _checksum(key: bytes, value: bytes) -> bytes:
    return blake3(len(key).to_bytes(2, "little") + key + value).digest(SEAL_BYTES)


def describe(key: bytes) -> str:
    """A key in words, for messages."""
    if key.startswith(ASIDE):
        return f"note of a damaged row (key {key.hex()})"
    if key in _META_NAMES:
        return f"{_META_NAMES[key]} (key {key.hex()})"
    name = _SPACE_NAMES.get(key[:1], "unknown space")
    if key[:1] in _BY_HEIGHT and len(key) >= 9:
        return f"{name} of height {int.from_bytes(key[1:9], 'big')} (key {key.hex()})"
    return f"{name} (key {key.hex()})"


def corrupt(key: bytes, why: str) -> RowDamaged:
    """The error for something under `key` that can't be what was written."""
    return RowDamaged("damaged data", f"{describe(key)}: {why}", MEND_CORRUPT, key)


MEND_CORRUPT = (
    "Nothing was changed. Check the disk, keep the folder for inspection, and restore a copy of it "
    "or start from an empty folder."
)

_META_NAMES = {
    SCHEMA_KEY: "schema number",
    CHAIN_KEY: "chain id",
    COMMIT_KEY: "commit marker",
    BULK_KEY: "marker of an unfinished genesis",
    RESTORE_KEY: "marker of an unfinished restore",
    MIGRATE_KEY: "marker of an unfinished migration",
    PRUNED_KEY: "marker of what is pruned",
    RESTORED_KEY: "note of the snapshot restored from",
}
_SPACE_NAMES = {
    META: "metadata",
    STATE: "state entry",
    TREE: "tree page",
    STALE: "stale page entry",
    HEADERS: "header",
    BODIES: "body",
    RECEIPTS: "receipts",
    CERTIFICATES: "certificate",
    INDEX: "index entry",
}
_BY_HEIGHT = frozenset({STALE, HEADERS, BODIES, RECEIPTS, CERTIFICATES})
