"""Making a ledger of a snapshot, in an empty store of any backend (STO-54).

Each chunk must have the digest that its table says, and each table that of the manifest; the tree is built
anew from the state, and its root must be the one that a final header shows; every header must follow the one
before and be proven final; every block that came along must be that of its header. Only then is the commit
marker written, in one durable batch; before that there is no ledger. Believed is one thing: which
transactions blocks had whose bodies did not come along. Nothing in a chain of headers tells that.

The last batch of each chunk has the count of those done, so a restore that broke goes on behind its last
chunk. What is found wrong in a snapshot whose chunks are all as named is the maker's doing: nothing of
it stays.

Memory is bounded whatever the state's size: one chunk, one table of 65,536, and a part of the tree, see
`supervm.storage.loading`.

`ChunkSource` says where chunks are from: a folder here, and whoever has them later.
"""

import struct
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

import attrs
import trio

from supervm.contracts.storage import (
    Delete,
    Durability,
    KeyValueStore,
    Operation,
    Put,
    StoreCorrupt,
)
from supervm.storage.errors import (
    ChainMismatch,
    ForeignChain,
    NotEmpty,
    SealBroken,
    SnapshotDamaged,
    SnapshotUntrusted,
    WrongRoot,
)
from supervm.storage.loading import Progress, entry_rows, forget_leaves, load_tree
from supervm.storage.missing import check_index
from supervm.storage.records import (
    check_block_places,
    first_key,
    leads_within,
    read_block,
    read_header,
    read_headers,
    read_receipts,
    read_row,
    sealed,
)
from supervm.storage.recovery import drop_ledger
from supervm.storage.snapshot_chunks import (
    GENESIS,
    Entry,
    Row,
    check_blob,
    damaged,
    decode_chunk,
    decode_table,
)
from supervm.storage.snapshot_folder import SnapshotFolder
from supervm.storage.snapshot_format import Manifest, Section, VerifySignature
from supervm.storage.spaces import (
    BODIES,
    CERTIFICATES,
    CHAIN_KEY,
    COMMIT_KEY,
    HEADERS,
    INDEX,
    LEDGER_END,
    META_KEYS,
    PRUNED_KEY,
    RECEIPTS,
    RESTORE_KEY,
    RESTORED_KEY,
    SCHEMA,
    SCHEMA_KEY,
    STATE,
    CommitMarker,
    Horizon,
    certificate_key,
    corrupt,
    unseal,
)
from supervm.storage.verify import verify_kept
from supervm.types.block import Block, BlockHeader
from supervm.types.errors import InvalidInput
from supervm.types.genesis import Genesis
from supervm.types.receipt import Receipt

BATCH_ROWS = 5_000
READ_AHEAD = 256

_PROGRESS = struct.Struct("<B32sQ")
_ORIGIN = struct.Struct("<BQ32s")

CheckCertificate = Callable[[BlockHeader, bytes], None]
"""(header, certificate): raises `InvalidInput` where it doesn't prove the block final. Runs in a thread."""


class ChunkSource(Protocol):
    """Where the bytes of chunks and tables come from, by their digest. What it gives is checked."""

    async def blob(self, digest: bytes) -> bytes:
        """Raises `ChunkMissing`, or another `SnapshotError`."""


@attrs.frozen
class FolderSource:
    """The chunks of a folder of snapshots."""

    folder: SnapshotFolder

    async def blob(self, digest: bytes) -> bytes:
        return await trio.to_thread.run_sync(self.folder.blob, digest)


@attrs.frozen(kw_only=True)
class Trust:
    """What a snapshot must prove: it is of this chain, its maker signed it, and its blocks are final."""

    chain_id: bytes
    verify_signature: VerifySignature
    check_certificate: CheckCertificate


async def check_manifest(manifest: Manifest, trust: Trust) -> None:
    """Raises `ForeignChain` or `SnapshotUntrusted`, before a chunk is asked for."""
    if manifest.chain_id != trust.chain_id:
        raise ForeignChain(manifest.chain_id, trust.chain_id, "snapshot")
    manifest.check_signature(trust.verify_signature)
    await _check_final(manifest.anchor_header, manifest.anchor_certificate, trust)


async def _check_final(header: BlockHeader, certificate: bytes, trust: Trust) -> None:
    try:
        await trio.to_thread.run_sync(trust.check_certificate, header, certificate)
    except InvalidInput as error:
        raise SnapshotUntrusted(
            f"nothing proves that block {header.height} is final", error, "Take a snapshot of another node."
        ) from error


async def read_genesis(manifest: Manifest, source: ChunkSource) -> Genesis:
    """The genesis that a snapshot brings, which makes the manifest's chain id. Raises `SnapshotError`s."""
    section = manifest.sections[0]
    async with aclosing(_entries(section, source)) as entries:
        async for entry in entries:
            for _, value in await _rows(section, entry, source):
                try:
                    genesis = Genesis.decode(value)
                except InvalidInput as error:
                    raise damaged(entry.digest, f"it holds no genesis: {error}") from error
                if genesis.chain_id != manifest.chain_id:
                    raise damaged(entry.digest, f"its genesis makes chain 0x{genesis.chain_id.hex()}")
                return genesis
    raise damaged(manifest.digest, "it has no genesis")


async def check_chunks(manifest: Manifest, source: ChunkSource, progress: Progress | None = None) -> None:
    """Read every chunk once and check it against tables and manifest; no store is needed."""
    done = 0
    for section in manifest.sections:
        async with aclosing(_entries(section, source)) as entries:
            async for entry in entries:
                await _rows(section, entry, source)
                done += 1
                if progress is not None:
                    progress(done, manifest.chunks)


async def restore_snapshot(
    store: KeyValueStore,
    source: ChunkSource,
    manifest: Manifest,
    trust: Trust,
    progress: Progress | None = None,
) -> CommitMarker:
    """Make the ledger of a snapshot in a store that holds none, or go on with it; where it stands then.

    Called again after anything that stopped it, it goes on. `progress` counts chunks, then slices of the
    tree.
    Raises `ForeignChain`, `SnapshotUntrusted`, `SnapshotTooNew`; `NotEmpty` for a store that holds something
    else; `ChunkMissing` and `SnapshotDamaged`, after which it can be called again with a better source;
    `WrongRoot` and `SnapshotUntrusted` for a snapshot that contradicts itself, of which nothing is left then.
    """
    await check_manifest(manifest, trust)
    work = _Restore(store, source, manifest, trust, progress)
    done = await work.begin()
    await work.write_chunks(done)
    try:
        root, crown = await load_tree(store, manifest.height, progress)
        if root != manifest.state_root:
            raise WrongRoot(root, manifest.state_root)
        await work.check_blocks()
    except (WrongRoot, SnapshotUntrusted, ForeignChain):
        await drop_ledger(store)
        raise
    return await work.finish(crown)


@attrs.define
class _Restore:
    store: KeyValueStore
    source: ChunkSource
    manifest: Manifest
    trust: Trust
    progress: Progress | None

    async def begin(self) -> int:
        """How many chunks a restore before this one has written."""
        stored = dict(zip(META_KEYS, await self.store.get_many(META_KEYS), strict=True))
        marker = stored[RESTORE_KEY]
        if marker is not None and stored[COMMIT_KEY] is None:
            digest, done = _decode_progress(unseal(RESTORE_KEY, marker))
            if digest != self.manifest.digest:
                raise NotEmpty(
                    "the store holds an unfinished restore of another snapshot",
                    f"manifest 0x{digest.hex()}, not 0x{self.manifest.digest.hex()}",
                    "Go on with that one, or begin with an empty folder: --replace.",
                )
            return done
        found = await first_key(self.store, STATE, LEDGER_END)
        if found is not None or any(data is not None for data in stored.values()):
            raise NotEmpty(
                "the store holds a ledger already",
                f"key {(found or COMMIT_KEY).hex()}",
                "Restore into an empty folder, or set this one aside: --replace.",
            )
        await self.store.write(
            [
                sealed(SCHEMA_KEY, SCHEMA.to_bytes(4, "little")),
                sealed(CHAIN_KEY, self.manifest.chain_id),
                self._progress(0),
            ],
            Durability.DURABLE,
        )
        return 0

    def _progress(self, done: int) -> Put:
        return sealed(RESTORE_KEY, _PROGRESS.pack(1, self.manifest.digest, done))

    async def write_chunks(self, done: int) -> None:
        """Write every chunk from number `done` on, in batches whose last has the count.

        Small ones, since the rows of hashes lie all over the store: an engine with pages has as many dirty
        ones in memory as a batch has rows. Of a chunk that was begun all is written again.
        """
        number = 0
        for section in self.manifest.sections:
            async with aclosing(_entries(section, self.source)) as entries:
                async for entry in entries:
                    number += 1
                    if number <= done:
                        continue
                    rows = await _rows(section, entry, self.source)
                    await trio.to_thread.run_sync(self._check, section, entry, rows)
                    for at in range(0, len(rows), BATCH_ROWS):
                        some = rows[at : at + BATCH_ROWS]
                        batch = await trio.to_thread.run_sync(self._batch, section, some)
                        if at + BATCH_ROWS >= len(rows):
                            batch.append(self._progress(number))
                        await self.store.write(batch, Durability.BUFFERED)
                    self._tell(number, self.manifest.chunks)

    def _check(self, section: Section, entry: Entry, rows: Sequence[Row]) -> None:
        """Raise `SnapshotDamaged` for a row that no ledger of this height has; none is written then."""
        space = bytes((section.section,))
        if section.section == GENESIS:
            return
        for key, value in rows:
            if not _fits(space, key, self.manifest):
                raise damaged(entry.digest, f"no {section.name} row has key {key.hex() or 'none'}")
            if space == INDEX and not leads_within(key, value, self.manifest.height):
                raise damaged(entry.digest, f"index row {key.hex()} leads to no place of this chain")

    def _batch(self, section: Section, rows: Sequence[Row]) -> list[Operation]:
        space = bytes((section.section,))
        if section.section == GENESIS:
            return []
        return entry_rows(rows) if space == STATE else [sealed(space + key, value) for key, value in rows]

    async def check_blocks(self) -> None:
        """Headers from genesis up with their certificates, and every block and receipt that came along."""
        manifest, stored = self.manifest, _StoredBlocks(self.store)
        try:
            final = self.trust.check_certificate
            bare: list[int] = []
            async with aclosing(verify_kept(stored, self._marker(), manifest.first_block, final)) as steps:
                async for step in steps:
                    if step.height >= manifest.first_block:
                        await self._check_index(step.height)
                        continue
                    bare.append(step.height)
                    if len(bare) == READ_AHEAD:
                        await check_block_places(self.store, bare)
                        bare = []
            await check_block_places(self.store, bare)
            header = await stored.header(manifest.height)
            assert header is not None, "verify_kept ends there"
            if (header.epoch, header.validators_digest) != (manifest.epoch, manifest.validators_digest):
                raise SnapshotUntrusted(
                    "the snapshot names another epoch or validator set than its tip",
                    f"epoch {manifest.epoch}, the tip's is {header.epoch}",
                    "Nothing of it was kept. Take one of another node.",
                )
            if header.chain_id != self.trust.chain_id:
                raise ForeignChain(header.chain_id, self.trust.chain_id, "snapshot")
            await _check_final(header, await stored.certificate(manifest.height) or b"", self.trust)
        except SealBroken:
            raise  # a row as it was sealed here is not as it was written: the store's doing
        except (StoreCorrupt, ChainMismatch) as error:
            raise SnapshotUntrusted(
                "the snapshot contradicts itself", error, "Nothing of it was kept. Take one of another node."
            ) from error

    async def _check_index(self, height: int) -> None:
        header = await read_header(self.store, height)
        assert header is not None, height
        await check_index(self.store, header, await read_receipts(self.store, height))

    def _marker(self) -> CommitMarker:
        manifest = self.manifest
        return CommitMarker(
            manifest.height, manifest.block_digest, manifest.state_root, manifest.receipts_root
        )

    async def finish(self, crown: Sequence[Operation]) -> CommitMarker:
        """The batch that makes it a ledger."""
        manifest, marker = self.manifest, self._marker()
        await self.store.write(
            [
                *crown,
                forget_leaves(),
                sealed(PRUNED_KEY, Horizon(manifest.first_block, manifest.height).encode()),
                sealed(RESTORED_KEY, _ORIGIN.pack(1, manifest.height, manifest.digest)),
                sealed(COMMIT_KEY, marker.encode()),
                Delete(RESTORE_KEY),
            ],
            Durability.DURABLE,
        )
        return marker

    def _tell(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(done, total)


@attrs.define
class _StoredBlocks:
    """The blocks in a store that holds no ledger yet; headers and certificates are read ahead."""

    store: KeyValueStore
    _headers: dict[int, BlockHeader | None] = attrs.field(factory=dict, init=False)
    _certificates: dict[int, bytes | None] = attrs.field(factory=dict, init=False)

    async def header(self, height: int) -> BlockHeader | None:
        if height not in self._headers:
            heights = range(height, height + READ_AHEAD)
            self._headers = dict(zip(heights, await read_headers(self.store, heights), strict=True))
        return self._headers[height]

    async def certificate(self, height: int) -> bytes | None:
        if height not in self._certificates:
            heights = range(height, height + READ_AHEAD)
            stored = await self.store.get_many([certificate_key(each) for each in heights])
            self._certificates = dict(zip(heights, stored, strict=True))
        data = self._certificates[height]
        return None if data is None else unseal(certificate_key(height), data)

    async def block(self, which: int) -> Block | None:
        return await read_block(self.store, which)

    async def stored_receipts(self, height: int) -> list[Receipt] | None:
        return await read_receipts(self.store, height)


async def read_origin(store: KeyValueStore) -> tuple[int, bytes] | None:
    """Height and manifest digest of the snapshot that a ledger was restored from; None where it wasn't."""
    data = await read_row(store, RESTORED_KEY)
    if data is None:
        return None
    if len(data) != _ORIGIN.size or data[0] != 1:
        raise corrupt(RESTORED_KEY, "not a note of format 1")
    _, height, digest = _ORIGIN.unpack(data)
    return height, digest


async def _entries(section: Section, source: ChunkSource) -> AsyncGenerator[Entry, None]:
    """The chunks of a section, in order, as its tables list them: one table is in memory at a time.

    Before the first is given, all tables were added up.
    """
    entries: list[Entry] = []
    rows = size_bytes = chunks = 0
    for table in section.tables:
        entries = await _table(table, source)
        rows += sum(one.rows for one in entries)
        size_bytes += sum(one.size_bytes for one in entries)
        chunks += len(entries)
    if (rows, size_bytes, chunks) != (section.rows, section.size_bytes, section.chunks):
        raise SnapshotDamaged(
            f"the tables of section {section.name} don't add up to what the manifest says",
            f"rows, bytes and chunks are {(rows, size_bytes, chunks)}",
            "Take the snapshot again from where it is from, or another one.",
        )
    for table in section.tables:
        if len(section.tables) > 1:
            entries = await _table(table, source)
        for entry in entries:
            yield entry


async def _table(digest: bytes, source: ChunkSource) -> list[Entry]:
    blob = check_blob(digest, await source.blob(digest))
    return await trio.to_thread.run_sync(decode_table, digest, blob)


async def _rows(section: Section, entry: Entry, source: ChunkSource) -> list[Row]:
    """The rows of a chunk, checked against its entry."""
    blob = await source.blob(entry.digest)
    return await trio.to_thread.run_sync(_decode, section, entry, blob)


def _decode(section: Section, entry: Entry, blob: bytes) -> list[Row]:
    rows = decode_chunk(entry.digest, check_blob(entry.digest, blob), section.section)
    if (len(blob), len(rows)) != (entry.size_bytes, entry.rows):
        raise damaged(entry.digest, f"{len(blob)} bytes and {len(rows)} rows, its table says otherwise")
    return rows


def _fits(space: bytes, key: bytes, manifest: Manifest) -> bool:
    """Whether a row of a section may have this key: what commits make, and none above the tip."""
    if space == STATE:
        return bool(key)
    if space == INDEX:
        return len(key) == 32
    height = int.from_bytes(key[:8], "big")
    if space in (HEADERS, CERTIFICATES):
        return len(key) == 8 and height <= manifest.height
    lengths = (8, 10) if space == BODIES else (12,)
    assert space in (BODIES, RECEIPTS), space
    return len(key) in lengths and manifest.first_block <= height <= manifest.height


def _decode_progress(data: bytes) -> tuple[bytes, int]:
    if len(data) != _PROGRESS.size or data[0] != 1:
        raise corrupt(RESTORE_KEY, "not a restore's progress of format 1")
    _, digest, done = _PROGRESS.unpack(data)
    return digest, done
