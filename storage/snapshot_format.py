"""The manifest of a snapshot: what it holds, of which chain and height, and who says so. Pure.

    u8 format 1 || u32 schema || chain id || u64 height || block digest || state root || receipts root
    || u64 epoch || validators digest || u64 first block || u64 created_ms || backend
    || anchor header || anchor certificate || u16 sections || sections || public key || signature

`backend`, anchor header and certificate are `u32 length || bytes`. A section is `u8 section || u64 rows ||
u64 bytes || u64 chunks || u16 tables || digests of the tables`. The signature is ed25519, over
`blake3("supervm/snapshot/v1" || all before the public key)`.

The anchor is the final header that shows the state root of `height`: the block's own where a chain shows
roots at once, a later one where it shows them late. The signature says whose work this is; that the state is
the chain's is proven by the anchor's certificate and the root alone (CONS-62).
"""

from collections.abc import Callable
from functools import cached_property
from typing import Self

import attrs
from blake3 import blake3

from supervm.storage.errors import SnapshotDamaged, SnapshotTooNew, SnapshotUntrusted
from supervm.storage.snapshot_chunks import NAMES, SECTIONS, TABLE_ENTRIES_MAX
from supervm.storage.spaces import SCHEMA
from supervm.types.address import Suite, node_id_of
from supervm.types.block import BlockHeader
from supervm.types.codec import Reader, Writer
from supervm.types.errors import InvalidInput

SNAPSHOT_FORMAT = 1
DOMAIN = b"supervm/snapshot/v1"
MANIFEST_BYTES_MAX = 2**20
HEADER_BYTES_MAX = 2**16
CERTIFICATE_BYTES_MAX = 2**19
BACKEND_BYTES_MAX = 64
TABLES_MAX = 4_096

VerifySignature = Callable[[bytes, bytes, bytes], bool]
"""(ed25519 public key, message, signature): whether it is one."""


@attrs.frozen
class Section:
    """One space of the store: rows and bytes of all its chunks, and the tables that list them in order."""

    section: int
    rows: int
    size_bytes: int
    chunks: int
    tables: tuple[bytes, ...]

    @property
    def name(self) -> str:
        return NAMES[self.section]


@attrs.frozen(kw_only=True, slots=False)
class Manifest:
    """See the module. `created_ms` is UTC; `first_block` is the lowest height with body and receipts."""

    chain_id: bytes
    height: int
    block_digest: bytes
    state_root: bytes
    receipts_root: bytes
    epoch: int
    validators_digest: bytes
    first_block: int
    created_ms: int
    backend: str
    anchor: bytes
    anchor_certificate: bytes
    sections: tuple[Section, ...]
    schema: int = SCHEMA
    public_key: bytes = b""
    signature: bytes = b""

    @cached_property
    def digest(self) -> bytes:
        """blake3 of the whole encoding: the name of this very manifest."""
        return blake3(self.encode()).digest()

    @property
    def node_id(self) -> bytes:
        """Who signed it."""
        return node_id_of(Suite.ED25519, self.public_key)

    @cached_property
    def anchor_header(self) -> BlockHeader:
        return BlockHeader.decode(self.anchor)

    @property
    def rows(self) -> int:
        return sum(one.rows for one in self.sections)

    @property
    def size_bytes(self) -> int:
        """Of all chunks together, without tables and manifest."""
        return sum(one.size_bytes for one in self.sections)

    @property
    def chunks(self) -> int:
        return sum(one.chunks for one in self.sections)

    def message(self) -> bytes:
        """What is signed."""
        return blake3(DOMAIN + self._signed()).digest()

    def signed(self, public_key: bytes, sign: Callable[[bytes], bytes]) -> "Manifest":
        """This manifest with the word of the node that has the key."""
        return attrs.evolve(self, public_key=public_key, signature=sign(self.message()))

    def encode(self) -> bytes:
        return self._signed() + Writer().fixed(self.public_key, 32).fixed(self.signature, 64).done()

    def _signed(self) -> bytes:
        writer = (
            Writer()
            .u8(SNAPSHOT_FORMAT)
            .u32(self.schema, "schema")
            .bytes32(self.chain_id, "chain_id")
            .u64(self.height, "height")
            .bytes32(self.block_digest, "block_digest")
            .bytes32(self.state_root, "state_root")
            .bytes32(self.receipts_root, "receipts_root")
            .u64(self.epoch, "epoch")
            .bytes32(self.validators_digest, "validators_digest")
            .u64(self.first_block, "first_block")
            .u64(self.created_ms, "created_ms")
            .byte_string(self.backend.encode("ascii"), "backend")
            .byte_string(self.anchor, "anchor")
            .byte_string(self.anchor_certificate, "anchor_certificate")
            .count(len(self.sections), "sections")
        )
        for one in self.sections:
            writer.u8(one.section).u64(one.rows).u64(one.size_bytes).u64(one.chunks)
            writer.count(len(one.tables), "tables")
            for table in one.tables:
                writer.bytes32(table, "table")
        return writer.done()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """A manifest whose parts fit together. Raises `SnapshotTooNew` or `SnapshotDamaged`.

        Nothing is proven yet: see `check_signature` and `supervm.storage.snapshot_restore`.
        """
        if data[:1] and data[0] > SNAPSHOT_FORMAT:
            raise SnapshotTooNew(
                f"the snapshot has format {data[0]}, this release reads {SNAPSHOT_FORMAT}",
                "manifest",
                "Use a newer release.",
            )
        try:
            if len(data) > MANIFEST_BYTES_MAX:
                raise InvalidInput(
                    "TooLarge", "manifest: too large", len(data), f"{MANIFEST_BYTES_MAX} bytes"
                )
            manifest = cls._read(data)
            header = manifest.anchor_header
        except (InvalidInput, UnicodeDecodeError) as error:
            raise _not_a_manifest(str(error)) from error
        if manifest.schema > SCHEMA:
            raise SnapshotTooNew(
                f"the snapshot is of ledger schema {manifest.schema}, this release reads {SCHEMA}",
                "manifest",
                "Use a newer release.",
            )
        manifest._check(header)
        return manifest

    @classmethod
    def _read(cls, data: bytes) -> Self:
        reader = Reader(data)
        reader.format_byte("manifest.format", SNAPSHOT_FORMAT)
        made = cls(
            schema=reader.u32("schema"),
            chain_id=reader.bytes32("chain_id"),
            height=reader.u64("height"),
            block_digest=reader.bytes32("block_digest"),
            state_root=reader.bytes32("state_root"),
            receipts_root=reader.bytes32("receipts_root"),
            epoch=reader.u64("epoch"),
            validators_digest=reader.bytes32("validators_digest"),
            first_block=reader.u64("first_block"),
            created_ms=reader.u64("created_ms"),
            backend=reader.byte_string("backend", BACKEND_BYTES_MAX).decode("ascii"),
            anchor=reader.byte_string("anchor", HEADER_BYTES_MAX),
            anchor_certificate=reader.byte_string("anchor_certificate", CERTIFICATE_BYTES_MAX),
            sections=tuple(
                Section(
                    reader.u8("section"),
                    reader.u64("rows"),
                    reader.u64("bytes"),
                    reader.u64("chunks"),
                    tuple(
                        reader.bytes32("table")
                        for _ in range(reader.count("tables", TABLES_MAX, item_bytes_min=32))
                    ),
                )
                for _ in range(reader.count("sections", len(SECTIONS)))
            ),
            public_key=reader.fixed(32, "public_key"),
            signature=reader.fixed(64, "signature"),
        )
        reader.finish("manifest")
        return made

    def _check(self, anchor: BlockHeader) -> None:
        """That it doesn't contradict itself."""
        if tuple(one.section for one in self.sections) != SECTIONS:
            raise _not_a_manifest("its sections are not those of format 1")
        for one in self.sections:
            tables = -(-one.chunks // TABLE_ENTRIES_MAX)
            if len(one.tables) != tables or not one.chunks <= one.rows <= one.size_bytes:
                raise _not_a_manifest(f"section {one.name} doesn't add up")
        if self.sections[0].rows != 1:
            raise _not_a_manifest("it has no genesis")
        if self.height < 1 or not 0 <= self.first_block <= self.height:
            raise _not_a_manifest(f"height {self.height}, first block {self.first_block}")
        rooted = anchor.root_height == self.height and anchor.state_root == self.state_root
        same = anchor.height > self.height or anchor.digest() == self.block_digest
        if not rooted or anchor.height < self.height or not same or anchor.chain_id != self.chain_id:
            raise _not_a_manifest("its anchor is of another state")

    def check_signature(self, verify: VerifySignature) -> None:
        """Raises `SnapshotUntrusted` where the key that it names didn't sign it."""
        if not verify(self.public_key, self.message(), self.signature):
            raise SnapshotUntrusted(
                "the manifest's signature is wrong",
                f"node 0x{self.node_id.hex()}",
                "Take the snapshot again from where it is from, or another one.",
            )


def _not_a_manifest(why: str) -> SnapshotDamaged:
    return SnapshotDamaged(
        "this is no manifest of a snapshot", why, "Take it again from where it is from, or another one."
    )
