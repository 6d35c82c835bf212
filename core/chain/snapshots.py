"""A running node takes snapshots of its chain by height and time, and keeps the newest (STO-52)."""

from collections.abc import Callable
from typing import Any

import attrs
import trio

from supervm.chain.room import Room
from supervm.chain.views import SnapshotView
from supervm.contracts.application import NodeIdentity
from supervm.contracts.storage import DiskFull, SnapshotExpired, StorageError, StoreCorrupt
from supervm.kernel.component import Context, Metrics
from supervm.storage.errors import LedgerStopped, RowDamaged, SnapshotBusy, SnapshotError, SnapshotRefused
from supervm.storage.ledger import Ledger
from supervm.storage.snapshot_create import Taking, create_snapshot
from supervm.storage.snapshot_folder import SnapshotFolder
from supervm.types.genesis import Genesis

LOOK_S = 1.0
REST_S = 600.0
"""Between two snapshots, and after one that failed: reading the ledger is never all that a node does."""
SHARE_OF_DISK = 0.2


@attrs.frozen(kw_only=True)
class SnapshotRules:
    """When to take one: `blocks` or `seconds` since the last, 0 for never; `keep` of them stay.

    `share`: of its time. `body_blocks`: the newest blocks that go along whole, 0 for all. `bytes_max`: what
    all may take together, 0 for a fifth of the disk. `free_bytes_min`: what must stay free on their disk.
    """

    blocks: int = 0
    seconds: int = 0
    keep: int = 3
    share: float = 0.2
    body_blocks: int = 0
    bytes_max: int = 0
    free_bytes_min: int = 0

    @property
    def off(self) -> bool:
        return not (self.blocks or self.seconds)

    def due(self, height: int, now_s: float, last_height: int, last_s: float) -> bool:
        """Whether a chain at `height` wants one, the last being of `last_height` and made at `last_s`."""
        behind = height - last_height
        by_height = bool(self.blocks) and behind >= self.blocks
        by_time = bool(self.seconds) and behind > 0 and now_s - last_s >= self.seconds
        return by_height or by_time


@attrs.define
class SnapshotFigures:
    """What snapshots there are, as metrics; all there from the start, at 0 (OBS-5)."""

    _kept: Any
    _height: Any
    _bytes: Any
    _seconds: Any
    _taken: Any

    @classmethod
    def declare(cls, metrics: Metrics) -> "SnapshotFigures":
        gauge = metrics.gauge
        made = cls(
            gauge("supervm_snapshots_kept", "Snapshots of the chain that are there"),
            gauge("supervm_snapshots_height", "Height of the newest snapshot"),
            gauge("supervm_snapshots_bytes", "Bytes that all snapshots take together"),
            gauge("supervm_snapshots_last_seconds", "How long the last snapshot took"),
            metrics.counter("supervm_snapshots_taken_total", "Snapshots taken, by how it ended", ("result",)),
        )
        for result in ("done", "failed"):
            made._taken.inc(0, result=result)
        return made

    def done(self, seconds: float) -> None:
        self._seconds.set(seconds)
        self._taken.inc(result="done")

    def failed(self) -> None:
        self._taken.inc(result="failed")

    def refresh(self, kept: int, height: int, size_bytes: int) -> None:
        self._kept.set(kept)
        self._height.set(height)
        self._bytes.set(size_bytes)


@attrs.define
class SnapshotKeeper:
    """Takes them for one chain. `backend` is the storage component's name, for the manifest."""

    ctx: Context
    ledger: Ledger
    genesis: Genesis
    identity: NodeIdentity
    folder: SnapshotFolder
    rules: SnapshotRules
    figures: SnapshotFigures
    backend: str = ""
    room: Room | None = None
    taking: bool = attrs.field(default=False, init=False)
    last_failure: str = attrs.field(default="", init=False)
    _wanted: bool = attrs.field(default=False, init=False)
    _rest_until_s: float = attrs.field(default=0.0, init=False)
    _last_height: int = attrs.field(default=0, init=False)
    _last_s: float = attrs.field(default=0.0, init=False)
    _share: float = attrs.field(default=0.0, init=False)

    async def run(self) -> None:
        """Take one whenever it is asked for, or due and the last one ten minutes ago.

        What goes wrong is logged and tried again later, a damaged row that is set aside too, but for any
        other `StoreCorrupt`, which ends the component, as wherever it is met.
        """
        self._share = self.rules.share
        self._last_s = self.ctx.clock.wall_ms() / 1_000
        await self._look()
        while True:
            await self.ctx.clock.sleep(LOOK_S)
            if self._wanted or self._due():
                self._wanted, self.taking = False, True
                try:
                    await self._take()
                finally:
                    self.taking = False
                self._rest_until_s = self.ctx.clock.monotonic() + REST_S

    def _due(self) -> bool:
        height, now_s = self.ledger.tip.height, self.ctx.clock.wall_ms() / 1_000
        rested = self.ctx.clock.monotonic() >= self._rest_until_s
        return rested and self.rules.due(height, now_s, self._last_height, self._last_s)

    def ask(self) -> None:
        """Have one taken now, whatever the rules say.

        Raises `SnapshotBusy` where one is being taken, and `DiskFull` while the node's disk is tight.
        """
        if self.room is not None:
            self.room.refuse_bulk("a snapshot")
        if self.taking or self._wanted:
            raise SnapshotBusy("a snapshot is being taken", self.folder.path, "See when it is listed.")
        self._wanted, self.last_failure = True, ""

    async def listed(self) -> list[SnapshotView]:
        """Those there are, the lowest height first."""
        return await trio.to_thread.run_sync(self._listed)

    def _listed(self) -> list[SnapshotView]:
        found = []
        for one in self.folder.listed():
            try:
                manifest = self.folder.manifest(one.name)
            except SnapshotError as error:
                # Removed since, or damaged: told here, and not for long by who keeps them.
                self.ctx.log.warning("snapshot_unreadable", snapshot=one.name, cause=str(error))
                continue
            found.append(
                SnapshotView(
                    name=one.name,
                    height=manifest.height,
                    state_root=manifest.state_root,
                    first_block=manifest.first_block,
                    created_ms=manifest.created_ms,
                    size_bytes=manifest.size_bytes,
                    chunks=manifest.chunks,
                    digest=manifest.digest,
                    pinned=one.pinned,
                )
            )
        return found

    async def _look(self) -> None:
        """See what is there. Where the folder can't be read that is told, and no reason to end."""
        try:
            listed = await trio.to_thread.run_sync(self.folder.listed)
            size_bytes = await trio.to_thread.run_sync(self.folder.bytes_used)
        except StorageError as error:
            self.ctx.log.warning("snapshots_unreadable", cause=str(error))
            return
        if listed:
            self._last_height = min(listed[-1].height, self.ledger.tip.height)
            self._last_s = min(listed[-1].made_s, self._last_s)
        self.figures.refresh(len(listed), listed[-1].height if listed else 0, size_bytes)

    async def _take(self) -> None:
        began_s = self.ctx.clock.monotonic()
        try:
            if self.room is not None:
                self.room.refuse_bulk("a snapshot")
            taking = await trio.to_thread.run_sync(self._taking)
            name, manifest = await create_snapshot(
                self.ledger,
                self.folder,
                self.genesis,
                self.identity,
                self.ctx.clock,
                backend=self.backend,
                taking=taking,
            )
        except LedgerStopped:
            raise
        except StorageError as error:
            aside = isinstance(error, RowDamaged) and error.key in self.ledger.aside
            if isinstance(error, StoreCorrupt) and not aside:
                raise
            if isinstance(error, SnapshotExpired):
                # The backend doesn't keep a view for so long: be quicker the next time.
                self._share = min(1.0, self._share * 2)
            self.figures.failed()
            self.last_failure = str(error)
            self.ctx.log.warning("snapshot_failed", cause=str(error))
            if isinstance(error, SnapshotRefused | DiskFull):
                # Chunks of those that came to nothing may be what takes the room.
                await self._clean_up(self._sweep)
            return
        took_s = self.ctx.clock.monotonic() - began_s
        self._last_height, self._last_s = manifest.height, manifest.created_ms / 1_000
        self.figures.done(took_s)
        self.last_failure = ""
        removed = await self._clean_up(self._remove_old)
        await self._look()
        self.ctx.log.info(
            "snapshot_taken", snapshot=name, bytes=manifest.size_bytes, seconds=took_s, removed=removed
        )

    def _taking(self) -> Taking:
        bytes_max = self.rules.bytes_max or int(self.folder.disk_bytes() * SHARE_OF_DISK)
        return Taking(
            share=self._share,
            blocks=self.rules.body_blocks,
            folder_bytes_max=bytes_max,
            disk_free_bytes_min=self.rules.free_bytes_min,
        )

    async def _clean_up(self, how: Callable[[], list[str]]) -> list[str]:
        """Make room; the names of what went. What goes wrong is told, and is done the next time."""
        try:
            return await trio.to_thread.run_sync(how)
        except StorageError as error:
            self.ctx.log.warning("snapshots_not_cleaned_up", cause=str(error))
            return []

    def _remove_old(self) -> list[str]:
        with self.folder.writing():
            removed = self.folder.remove_old(self.rules.keep)
            self.folder.sweep()
        return removed

    def _sweep(self) -> list[str]:
        with self.folder.writing():
            self.folder.sweep()
        return []
