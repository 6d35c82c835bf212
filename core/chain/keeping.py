"""What a running node does about what its chain takes: prune what needn't be kept, and count the rest."""

from typing import Any

import attrs
import trio

from supervm.chain.room import Room, Step
from supervm.contracts.storage import PASSING, DiskFull, KeyValueStore
from supervm.kernel.component import Context, Metrics
from supervm.storage.errors import RowDamaged
from supervm.storage.ledger import Ledger
from supervm.storage.pace import Calm, Pace
from supervm.storage.pruning import Keep, Removed, Sweeper, cleared_ranges, horizon_for
from supervm.storage.usage import PURPOSES, Part, survey

PRUNE_EVERY_BLOCKS = 32
FULL_RETRY_S = 10.0
SCARCE_SHARE = 0.5
"""Of its time that pruning takes at least while the disk is tight."""
SURVEY_AFTER_S = 60.0
SURVEY_SHARE = 0.02


@attrs.define
class PruneFigures:
    """The horizon and what went, as metrics; all there from the start, at 0 (OBS-5)."""

    _below: Any
    _waiting: Any
    _pages: Any
    _blocks: Any
    _pauses: Any

    @classmethod
    def declare(cls, metrics: Metrics) -> "PruneFigures":
        counter, gauge = metrics.counter, metrics.gauge
        return cls(
            gauge("supervm_storage_pruned_below", "Bodies and receipts of lower blocks are pruned"),
            gauge("supervm_storage_prune_waiting", "Blocks below the horizon whose rows are not yet removed"),
            counter("supervm_storage_pruned_versions_total", "Pages of old state trees removed"),
            counter("supervm_storage_pruned_blocks_total", "Blocks whose body and receipts were removed"),
            counter("supervm_storage_prune_pauses_total", "Times that pruning let waiting writes go first"),
        )

    def refresh(self, ledger: Ledger, sweeper: Sweeper | None) -> None:
        horizon = ledger.horizon.blocks
        self._below.set(horizon)
        self._waiting.set(horizon - sweeper.cleared.blocks if sweeper is not None else 0)

    def removed(self, gone: Removed) -> None:
        self._pages.inc(gone.pages)
        self._blocks.inc(gone.blocks)

    def paused(self) -> None:
        self._pauses.inc()


@attrs.define
class Pruning:
    """Follows the tip with the horizon, and removes what is below it, a `share` of its time (STO-62).

    While the disk is tight it begins at once and takes half of its time, and what bodies and receipts leave
    behind is given back to the disk where the backend can. While writes wait because the backend is behind,
    it stops.
    """

    ctx: Context
    store: KeyValueStore
    ledger: Ledger
    keep: Keep
    share: float
    room: Room
    figures: PruneFigures
    _waiting: bool = attrs.field(default=False, init=False)
    _given_back: int = attrs.field(default=0, init=False)

    async def run(self) -> None:
        """Every 32 blocks, and whenever the disk becomes tight; where a node before this one was stopped.

        A full disk only makes it wait, and so do a store that can't be read for now and a damaged row until
        it is back (STO-43). Raises `StoreCorrupt` where no row is to blame.
        """
        pace = Pace(self.ctx.clock, self.share)
        calm = Calm(self.store, self.ctx.clock, self.figures.paused)
        sweeper = Sweeper(self.ledger, pace, calm=calm.wait)
        while True:
            height, scarce = self.ledger.tip.height, self.room.step is not Step.ROOM
            pace.share = max(self.share, SCARCE_SHARE) if scarce else self.share
            try:
                await self._sweep(sweeper, scarce)
            except DiskFull as error:
                if not self._waiting:
                    self.ctx.log.warning("pruning_waits_for_room", cause=str(error))
                self._waiting = True
                await self.ctx.clock.sleep(FULL_RETRY_S)
                continue
            except (*PASSING, RowDamaged) as error:
                if isinstance(error, RowDamaged):
                    self.ledger.aside.notice(error)
                    if error.key not in self.ledger.aside:
                        raise
                self.ctx.log.warning("pruning_waits", cause=str(error))
                await self.ctx.clock.sleep(FULL_RETRY_S)
                continue
            self._waiting = False
            await self._until_due(height + PRUNE_EVERY_BLOCKS - 1, scarce)

    async def _sweep(self, sweeper: Sweeper, scarce: bool) -> None:
        ledger = self.ledger

        def tell(gone: Removed) -> None:
            self.figures.removed(gone)
            self.figures.refresh(ledger, sweeper)

        await ledger.raise_horizon(await horizon_for(ledger, self.keep, self.ctx.clock.wall_ms()))
        total = await sweeper.sweep(tell)
        self.figures.refresh(ledger, sweeper)
        if total != Removed():
            self.ctx.log.debug("pruned", below=ledger.horizon.blocks, blocks=total.blocks, pages=total.pages)
        cleared = ledger.horizon.blocks
        if scarce and cleared > self._given_back and "compaction" in self.store.capabilities:
            # What went before the disk was tight is still there, too.
            for start, end in cleared_ranges(self._given_back, cleared):
                await self.store.compact(start, end)
            self._given_back = cleared

    async def _until_due(self, height: int, scarce: bool) -> None:
        """Wait until the tip is above `height`, or the disk has become tight."""
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await self.room.wait_scarce()
                nursery.cancel_scope.cancel()

            if not scarce:
                nursery.start_soon(watch)
            await self.ledger.wait_above(height)
            nursery.cancel_scope.cancel()


@attrs.define
class UsageFigures:
    """What the store's rows are for, as metrics; all there from the start, at 0 (OBS-5)."""

    _bytes: Any
    _rows: Any

    @classmethod
    def declare(cls, metrics: Metrics) -> "UsageFigures":
        purpose = ("purpose",)
        made = cls(
            metrics.gauge("supervm_storage_purpose_bytes", "Bytes of keys and values, by their use", purpose),
            metrics.gauge("supervm_storage_purpose_rows", "Rows, by their use", purpose),
        )
        for name in PURPOSES:
            made.found(name, Part())
        return made

    def found(self, name: str, part: Part) -> None:
        self._bytes.set(part.size_bytes, purpose=name)
        self._rows.set(part.rows, purpose=name)


async def keep_counted(ctx: Context, store: KeyValueStore, every_s: float, figures: UsageFigures) -> None:
    """Count what the store's rows are for, a minute after the start and then every so often.

    It reads the whole store at a fiftieth of its time, so on a large one the figures are hours old. A store
    that can't be read for now is counted the next time.
    """
    await ctx.clock.sleep(SURVEY_AFTER_S)
    while True:
        try:
            found = await survey(store, Pace(ctx.clock, SURVEY_SHARE))
        except PASSING as error:
            ctx.log.warning("usage_not_counted", cause=str(error))
        else:
            for name, part in found.items():
                figures.found(name, part)
        await ctx.clock.sleep(every_s)
