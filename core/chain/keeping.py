"""What a running node does about what its chain takes: prune what needn't be kept, and count the rest."""

from typing import Any

import attrs

from supervm.contracts.storage import DiskFull, KeyValueStore
from supervm.kernel.component import Context, Metrics
from supervm.storage.ledger import Ledger
from supervm.storage.pace import Pace
from supervm.storage.pruning import Keep, Removed, Sweeper, horizon_for
from supervm.storage.usage import PURPOSES, Part, survey

PRUNE_EVERY_BLOCKS = 32
FULL_RETRY_S = 10.0
SURVEY_AFTER_S = 60.0
SURVEY_SHARE = 0.02


@attrs.define
class PruneFigures:
    """The horizon and what went, as metrics; all there from the start, at 0 (OBS-5)."""

    _below: Any
    _waiting: Any
    _pages: Any
    _blocks: Any

    @classmethod
    def declare(cls, metrics: Metrics) -> "PruneFigures":
        counter, gauge = metrics.counter, metrics.gauge
        return cls(
            gauge("supervm_storage_pruned_below", "Bodies and receipts of lower blocks are pruned"),
            gauge("supervm_storage_prune_waiting", "Blocks below the horizon whose rows are not yet removed"),
            counter("supervm_storage_pruned_versions_total", "Pages of old state trees removed"),
            counter("supervm_storage_pruned_blocks_total", "Blocks whose body and receipts were removed"),
        )

    def refresh(self, ledger: Ledger, sweeper: Sweeper | None) -> None:
        horizon = ledger.horizon.blocks
        self._below.set(horizon)
        self._waiting.set(horizon - sweeper.cleared.blocks if sweeper is not None else 0)

    def removed(self, gone: Removed) -> None:
        self._pages.inc(gone.pages)
        self._blocks.inc(gone.blocks)


async def keep_pruned(ctx: Context, ledger: Ledger, keep: Keep, share: float, figures: PruneFigures) -> None:
    """Follow the tip with the horizon, every 32 blocks, and remove what is below, a `share` of the time.

    Goes on from where a node before this one was stopped. A full disk only makes it wait. Raises
    `StoreCorrupt` for a damaged stale index: the component fails then, as on any damage (STO-43).
    """
    sweeper = Sweeper(ledger, Pace(ctx.clock, share))

    def tell(gone: Removed) -> None:
        figures.removed(gone)
        figures.refresh(ledger, sweeper)

    while True:
        height = ledger.tip.height
        try:
            await ledger.raise_horizon(await horizon_for(ledger, keep, ctx.clock.wall_ms()))
            total = await sweeper.sweep(tell)
        except DiskFull as error:
            ctx.log.warning("pruning_waits_for_room", cause=str(error))
            await ctx.clock.sleep(FULL_RETRY_S)
            continue
        figures.refresh(ledger, sweeper)
        if total != Removed():
            ctx.log.debug("pruned", below=ledger.horizon.blocks, blocks=total.blocks, pages=total.pages)
        await ledger.wait_above(height + PRUNE_EVERY_BLOCKS - 1)


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

    It reads the whole store at a fiftieth of its time, so on a large one the figures are hours old.
    """
    await ctx.clock.sleep(SURVEY_AFTER_S)
    while True:
        for name, part in (await survey(store, Pace(ctx.clock, SURVEY_SHARE))).items():
            figures.found(name, part)
        await ctx.clock.sleep(every_s)
