"""Taking a snapshot of a ledger while blocks go on (STO-51): one frozen view, streamed into chunks.

What is in memory is a few pages of rows, one chunk, and one table of at most 65,536 chunks. A snapshot that
is not finished is no snapshot: its chunks are used by the next one, or swept.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import cast

import attrs
import trio

from supervm.contracts.application import NodeIdentity
from supervm.contracts.storage import DiskFull, Reader, SnapshotExpired
from supervm.kernel.component import Clock
from supervm.storage.errors import NotProvable, SnapshotRefused
from supervm.storage.ledger import Ledger
from supervm.storage.loading import Progress
from supervm.storage.pace import Pace
from supervm.storage.records import read_horizon
from supervm.storage.snapshot_chunks import (
    GENESIS,
    SECTIONS,
    TABLE_ENTRIES_MAX,
    Cutter,
    Entry,
    encode_table,
)
from supervm.storage.snapshot_folder import SnapshotFolder
from supervm.storage.snapshot_format import TABLES_MAX, Manifest, Section
from supervm.storage.spaces import (
    BODIES,
    RECEIPTS,
    CommitMarker,
    certificate_key,
    height_bytes,
    seal,
    split_seal,
)
from supervm.types.block import BlockHeader
from supervm.types.genesis import Genesis

ROWS_AT_ONCE = 1_000
BYTES_AT_ONCE = 2**20
ANCHOR_HEADERS_MAX = 1_000

Rows = list[tuple[bytes, bytes]]


@attrs.frozen(kw_only=True)
class Taking:
    """How a snapshot is taken. `share`: of the time, at most. `blocks`: how many of the newest with their
    bodies and receipts, 0 for all that are kept. `folder_bytes_max`: what all snapshots may take together.
    `disk_free_bytes_min`: what must stay free on their disk; 0 for neither is no bound.
    """

    share: float = 1.0
    blocks: int = 0
    folder_bytes_max: int = 0
    disk_free_bytes_min: int = 0


async def create_snapshot(
    ledger: Ledger,
    folder: SnapshotFolder,
    genesis: Genesis,
    identity: NodeIdentity,
    clock: Clock,
    *,
    backend: str = "",
    taking: Taking | None = None,
    progress: Progress | None = None,
) -> tuple[str, Manifest]:
    """Take a snapshot of the tip: its name and manifest, all of it synced.

    Blocks go on meanwhile. Where the tip's root isn't in a header yet, it waits for the block that shows
    it. `progress` counts rows, of about how many. Raises `SnapshotRefused` at height 0 or at a bound,
    `SnapshotBusy`, `DiskFull`, `SnapshotExpired` where it took longer than the backend's
    `snapshot_age_s_max`, and `StoreCorrupt` for a damaged row.
    """
    work = _Work(folder, taking or Taking(), clock, progress)
    with folder.writing():
        await work.begin()
        async with ledger.view() as (view, marker, header):
            if marker.height == 0:
                raise SnapshotRefused(
                    "there is no block yet", "height 0", "The genesis file is all there is."
                )
            first_block = await _first_block(view, marker.height, work.taking.blocks)
            try:
                sections = [
                    await work.section(number, _rows(view, number, first_block, genesis))
                    for number in SECTIONS
                ]
            except SnapshotExpired as error:
                raise SnapshotExpired(
                    "the snapshot took longer than the backend keeps a view",
                    error.subject,
                    "Give storage.NAME.snapshot_age_s_max more, or application.ledger.snapshot_share.",
                ) from error
        anchor, certificate = await _anchor(ledger, marker, header)
        manifest = Manifest(
            chain_id=header.chain_id,
            height=marker.height,
            block_digest=marker.block_digest,
            state_root=marker.state_root,
            receipts_root=marker.receipts_root,
            epoch=header.epoch,
            validators_digest=header.validators_digest,
            first_block=first_block,
            created_ms=clock.wall_ms(),
            backend=backend,
            anchor=anchor.encode(),
            anchor_certificate=certificate,
            sections=tuple(sections),
        ).signed(identity.public_key, identity.sign)
        with trio.CancelScope(shield=True):
            name = await trio.to_thread.run_sync(folder.publish, manifest)
    return name, manifest


async def _first_block(view: Reader, height: int, blocks: int) -> int:
    """The lowest height whose body and receipts go along."""
    kept = (await read_horizon(view)).blocks
    return max(kept, height - blocks + 1) if blocks else kept


async def _rows(view: Reader, section: int, first_block: int, genesis: Genesis) -> AsyncGenerator[Rows, None]:
    """The stored rows of a section in key order, some at a time."""
    space = bytes((section,))
    if section == GENESIS:
        encoded = await trio.to_thread.run_sync(genesis.encode)
        yield [(space, seal(space, encoded))]
        return
    start = space + (height_bytes(first_block) if space in (BODIES, RECEIPTS) else b"")
    rows: Rows = []
    size_bytes = 0
    scan = cast("AsyncGenerator[tuple[bytes, bytes], None]", view.scan(start, bytes((section + 1,))))
    async with aclosing(scan) as found:
        async for row in found:
            rows.append(row)
            size_bytes += len(row[1])
            if len(rows) == ROWS_AT_ONCE or size_bytes >= BYTES_AT_ONCE:
                yield rows
                rows, size_bytes = [], 0
    if rows:
        yield rows


async def _anchor(ledger: Ledger, marker: CommitMarker, header: BlockHeader) -> tuple[BlockHeader, bytes]:
    """The final header that shows the root of `marker`, with its certificate; waits until there is one."""
    height = marker.height
    while header.root_height < marker.height:
        if height == ledger.tip.height:
            await ledger.wait_above(height)
        for header in await ledger.headers(height + 1, ANCHOR_HEADERS_MAX):
            height = header.height
            if header.root_height >= marker.height:
                break
    if header.root_height != marker.height or header.state_root != marker.state_root:
        raise NotProvable(
            "no header shows the root of the snapshot's height",
            f"{marker.height}; block {header.height} shows that of {header.root_height}",
            "Take the snapshot again at another height.",
        )
    certificate = await ledger.certificate(header.height)
    assert certificate is not None, certificate_key(header.height)
    return header, certificate


@attrs.define
class _Work:
    """Turns rows into chunks in the folder, at the pace and within the bounds asked."""

    folder: SnapshotFolder
    taking: Taking
    clock: Clock
    progress: Progress | None
    pace: Pace = attrs.field(init=False)
    rows: int = 0
    folder_bytes: int = 0

    def __attrs_post_init__(self) -> None:
        self.pace = Pace(self.clock, self.taking.share)

    async def begin(self) -> None:
        self.folder_bytes = await trio.to_thread.run_sync(self.folder.bytes_used)

    async def section(self, number: int, rows: AsyncGenerator[Rows, None]) -> Section:
        """Keep one section's rows as chunks, and the tables that list them."""
        cutter, tables = Cutter(number), _Tables(self)
        async with aclosing(rows) as pages:
            while True:
                with self.pace.working():
                    page = await anext(pages, None)
                    if page is None:
                        break
                    await trio.to_thread.run_sync(self._keep, cutter, page, tables)
                await self.pace.rest()
                self.rows += len(page)
                if self.progress is not None:
                    self.progress(self.rows, 0)
        return await trio.to_thread.run_sync(
            lambda: tables.section(number, [self._put(*each) for each in cutter.done()])
        )

    def _keep(self, cutter: Cutter, page: Rows, tables: "_Tables") -> None:
        for key, stored in page:
            value, sealed = split_seal(key, stored)
            for chunk, rows in cutter.add(key[1:], value, sealed):
                tables.add([self._put(chunk, rows)])

    def put_table(self, entries: Sequence[Entry]) -> bytes:
        return self._put(encode_table(entries), 0).digest

    def _put(self, blob: bytes, rows: int) -> Entry:
        digest, grown_bytes = self.folder.put(blob)
        self.folder_bytes += grown_bytes
        if grown_bytes:
            self._check_room()
        return Entry(digest, len(blob), rows)

    def _check_room(self) -> None:
        most = self.taking.folder_bytes_max
        if most and self.folder_bytes > most:
            raise SnapshotRefused(
                "snapshots would take more than they may",
                f"{self.folder_bytes} bytes, {most} are allowed",
                "Raise application.ledger.snapshot_bytes_max, or remove some: supervm snapshot remove.",
            )
        least = self.taking.disk_free_bytes_min
        if least and (free := self.folder.free_bytes()) < least:
            raise DiskFull(
                "the disk of the snapshots is nearly full",
                f"{free} bytes are free, {least} must stay",
                "Free some, or set application.ledger.snapshot_path to another disk.",
            )


@attrs.define
class _Tables:
    """The tables of a section: one is kept as soon as it is full, so that no more than one is in memory."""

    work: _Work
    _pending: list[Entry] = attrs.field(factory=list, init=False)
    _done: list[bytes] = attrs.field(factory=list, init=False)
    _rows: int = attrs.field(default=0, init=False)
    _bytes: int = attrs.field(default=0, init=False)
    _chunks: int = attrs.field(default=0, init=False)

    def add(self, entries: Sequence[Entry]) -> None:
        self._pending += entries
        self._rows += sum(one.rows for one in entries)
        self._bytes += sum(one.size_bytes for one in entries)
        self._chunks += len(entries)
        while len(self._pending) >= TABLE_ENTRIES_MAX:
            self._keep(TABLE_ENTRIES_MAX)

    def section(self, number: int, last: Sequence[Entry]) -> Section:
        """All of it, with the entries that come last."""
        self.add(last)
        if self._pending:
            self._keep(len(self._pending))
        return Section(number, self._rows, self._bytes, self._chunks, tuple(self._done))

    def _keep(self, count: int) -> None:
        if len(self._done) == TABLES_MAX:
            raise SnapshotRefused(
                "the ledger is too large for one snapshot", f"{self._chunks} chunks", "Prune it first."
            )
        self._done.append(self.work.put_table(self._pending[:count]))
        del self._pending[:count]
