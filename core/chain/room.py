"""Room on the store's disk: looked at now and then, judged in steps, told at each change (STO-11, TIER-51).

The store reports what is free and refuses, with `DiskFull`, what would leave too little; a chain that only
waited for that would take transactions which no block can hold. So it steps back before, in two steps, and
forward again by itself: a step is left only once an eighth more is free than what led to it, so that a disk
at the border is no flood of messages.
"""

from enum import IntEnum
from typing import Any

import attrs
import trio

from supervm.contracts.application import Refused
from supervm.contracts.storage import PASSING, DiskFull, KeyValueStore, StoreStats
from supervm.kernel.component import Context

TIGHT_SHARE = 0.10
FULL_SHARE = 0.05
KEPT_MARGIN_BYTES = 16 * 2**20
"""Above what the store keeps free: about what a block or two and a compaction of them take."""
LEAVE = 9 / 8
RETRY_AFTER_S = 30.0


class Step(IntEnum):
    """ROOM: all is well. TIGHT: pruned at once, no snapshots. FULL: no transactions are taken."""

    ROOM = 0
    TIGHT = 1
    FULL = 2


@attrs.frozen(kw_only=True)
class RoomRules:
    """The bounds in bytes of the two steps, 0 for none.

    On a disk so small that this is more than a tenth, or a twentieth, of it, that share counts instead.
    """

    tight_bytes: int
    full_bytes: int

    def bounds(self, stats: StoreStats) -> dict[Step, int]:
        """Below which free bytes each step begins on this store's disk."""
        assert stats.disk_bytes is not None
        kept_bytes = stats.disk_kept_bytes + KEPT_MARGIN_BYTES if stats.disk_kept_bytes else 0
        full = min(self.full_bytes, int(stats.disk_bytes * FULL_SHARE))
        tight = min(self.tight_bytes, int(stats.disk_bytes * TIGHT_SHARE))
        return {
            Step.FULL: max(full, kept_bytes) if self.full_bytes else 0,
            Step.TIGHT: max(tight, kept_bytes) if self.tight_bytes else 0,
        }


def step_of(now: Step, stats: StoreStats, rules: RoomRules) -> Step:
    """The step that follows `now` with so much free. ROOM for a store that is on no disk."""
    if stats.disk_free_bytes is None or stats.disk_bytes is None:
        return Step.ROOM
    for step, bound in rules.bounds(stats).items():
        if stats.disk_free_bytes < bound * (LEAVE if now >= step else 1):
            return step
    return Step.ROOM


def check_bulk(stats: StoreStats, rules: RoomRules, wanted_bytes: int, what: str) -> None:
    """Raise `DiskFull` where the store's disk is tight, or would be with so many bytes more (STO-11)."""
    if stats.disk_free_bytes is None:
        return
    left = attrs.evolve(stats, disk_free_bytes=max(0, stats.disk_free_bytes - wanted_bytes))
    if step_of(Step.ROOM, left, rules) is not Step.ROOM:
        raise DiskFull(
            f"no room for {what}: about {wanted_bytes} bytes are wanted, {stats.disk_free_bytes} are free",
            "application.ledger.disk_tight_bytes",
            "Free some, name a larger disk, or lower that bound.",
        )


class Room:
    """The step that a chain is at. `watch` moves it, and so does a block that the disk refused."""

    def __init__(self, ctx: Context, store: KeyValueStore, rules: RoomRules, every_s: float) -> None:
        self._ctx = ctx
        self._store = store
        self._rules = rules
        self._every_s = every_s
        self._by_disk = Step.ROOM
        self._refusal = ""
        self._free_bytes: int | None = None
        self._changed = trio.Event()
        self._gauge = ctx.metrics.gauge(
            "supervm_storage_disk_step", "Room on the store's disk: 0 enough, 1 tight, 2 full"
        )
        self._gauge.set(Step.ROOM)

    @property
    def step(self) -> Step:
        return Step.FULL if self._refusal else self._by_disk

    @property
    def reason(self) -> str:
        """Why nothing is taken, with the bytes and the mend; empty below FULL."""
        if self.step is not Step.FULL:
            return ""
        cause = self._refusal or f"the disk is nearly full: {self._free_bytes} bytes free"
        return f"{cause}. No transactions are taken; it goes on by itself once there is room"

    async def watch(self) -> None:
        """Look every so often, for as long as the chain runs."""
        while True:
            await self._ctx.clock.sleep(self._every_s)
            await self.look()

    async def look(self) -> None:
        """Look once."""
        try:
            stats = await self._store.stats()
        except PASSING:
            # Whoever reads or writes decides what that means; about the disk it says nothing.
            return
        before = self.step
        self._free_bytes = stats.disk_free_bytes
        self._by_disk = step_of(self._by_disk, stats, self._rules)
        self._tell(before)

    def refused(self, error: DiskFull) -> None:
        """A block could not be written. That one tells better than any bound that the disk is full."""
        before = self.step
        self._refusal = f"the disk is full, no block can be written: {error}"
        self._tell(before)

    def wrote(self) -> None:
        """A block was written."""
        before = self.step
        self._refusal = ""
        self._tell(before)

    def closed(self) -> Refused | None:
        """What every transaction is answered now, if none is taken."""
        if self.step is not Step.FULL:
            return None
        return Refused(
            code="DiskNearlyFull",
            field="node",
            value="full" if self._refusal else f"{self._free_bytes} bytes free",
            mend="the node's disk is nearly full; send the same bytes later, or to another node",
            retry_after_s=RETRY_AFTER_S,
        )

    def refuse_bulk(self, what: str) -> None:
        """Raise `DiskFull` from the first step on, for work that takes much room and can wait (STO-11)."""
        if self.step is not Step.ROOM:
            raise DiskFull(
                f"{what} waits for room on the node's disk",
                f"{self._free_bytes} bytes free",
                "Free some; what is due is done by itself then.",
            )

    async def wait_scarce(self) -> None:
        """Return once the step is TIGHT or FULL."""
        while self.step is Step.ROOM:
            await self._changed.wait()
        await trio.lowlevel.checkpoint()

    def _tell(self, before: Step) -> None:
        """Say so, once, where the step is another one now."""
        now = self.step
        if now is before:
            return
        self._gauge.set(now)
        facts: dict[str, Any] = {"before": before.name.lower(), "free_bytes": self._free_bytes}
        match now:
            case Step.ROOM:
                self._ctx.log.info("disk_has_room", **facts)
            case Step.TIGHT:
                self._ctx.log.warning("disk_tight", **facts)
            case Step.FULL:
                self._ctx.log.error("disk_full", cause=self.reason, **facts)
        self._ctx.publish(
            "mode_changed",
            component=f"{self._ctx.role}.{self._ctx.name}",
            old=before.name.lower(),
            new=now.name.lower(),
            cause=self.reason or f"{self._free_bytes} bytes free on the disk",
        )
        changed, self._changed = self._changed, trio.Event()
        changed.set()
