"""The task that prunes a store while it is used (EXEC-86 to EXEC-88)."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from supervm.kernel.component import Clock
from supervm.mvcc.pruning import PruneRules
from supervm.mvcc.schedule import CycleFacts, GcConfig, Schedule, first_schedule, next_schedule
from supervm.mvcc.store import MvccStore
from supervm.mvcc.tasks import in_task
from supervm.mvcc.transaction import Transaction

LOOK_S = 1.0
"""How often it looks whether there is something to do, and who is open for too long."""
TIMES_MAX = 64
RUNS_MAX = 64


@attrs.frozen
class Effective:
    """The schedule in force."""

    adaptive: bool
    interval_s: float
    version_threshold: int


@attrs.frozen(kw_only=True)
class CollectorStats:
    """Since it began. `pause_ms_max` is the longest that one slice held the store.

    `too_old_aborted` counts transactions given up for their age; `too_old_readers` are open now.
    """

    runs: int
    versions_cleaned: int
    keys_cleaned: int
    pause_ms_max: float
    runs_a_minute: float
    too_old_aborted: int
    too_old_readers: int


class Collector:
    """Prunes by time or by the number of versions, whichever comes first, in slices; made by `collecting`."""

    def __init__(self, store: MvccStore, config: GcConfig, clock: Clock, log: Any = None) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self._log = log
        self._schedule = first_schedule(config)
        self._last_s = clock.monotonic()
        self._commits = store.stats().commits
        self._runs_s: deque[float] = deque(maxlen=RUNS_MAX)
        self._times: deque[tuple[float, int]] = deque(maxlen=TIMES_MAX)  # when `published` was what
        self._first_seen: dict[Transaction, float] = {}
        self._told: set[Transaction] = set()
        self._runs = self._versions_cleaned = self._keys_cleaned = self._aborted = 0
        self._pause_s_max = 0.0

    @property
    def effective(self) -> Effective:
        """What is followed now; it changes only where the configuration says `adaptive`."""
        now = self._schedule
        return Effective(self._config.adaptive, now.interval_s, now.version_threshold)

    def stats(self) -> CollectorStats:
        """The counts now."""
        now = self._clock.monotonic()
        return CollectorStats(
            runs=self._runs,
            versions_cleaned=self._versions_cleaned,
            keys_cleaned=self._keys_cleaned,
            pause_ms_max=self._pause_s_max * 1_000,
            runs_a_minute=float(sum(now - at < 60 for at in self._runs_s)),
            too_old_aborted=self._aborted,
            too_old_readers=len(self._told),
        )

    async def run(self) -> None:
        """Look, prune, and wait, until cancelled; that takes effect within a slice."""
        if self._config.run_on_start:
            await self.collect()
        while True:
            await self._clock.sleep(min(LOOK_S, self._schedule.interval_s))
            if self._is_due():
                await self.collect()
            # After pruning, so that who is given up has let go of its snapshot before the next time.
            self._give_up_the_old()

    async def collect(self) -> int:
        """One cycle now; returns how many versions went."""
        before = self._store.stats()
        rules = PruneRules(
            versions_max=self._config.max_versions_per_key, expired_ts=self._expired_ts(before.published)
        )
        cycle = self._store.gc_cycle(rules)
        while not cycle.done:
            begun = self._clock.monotonic()
            cycle.slice(self._clock.monotonic, self._config.pause_ms_max / 1_000)
            self._pause_s_max = max(self._pause_s_max, self._clock.monotonic() - begun)
            await trio.lowlevel.checkpoint()
        self._runs += 1
        self._versions_cleaned += cycle.versions_cleaned
        self._keys_cleaned += cycle.keys_cleaned
        self._follow(before.commits, before.versions_added, cycle.versions_cleaned, before.versions)
        return cycle.versions_cleaned

    def _follow(self, commits: int, growth: int, cleaned: int, versions: int) -> None:
        facts = CycleFacts(commits=commits - self._commits, growth=growth, cleaned=cleaned, versions=versions)
        was: Schedule = self._schedule
        self._schedule = next_schedule(self._config, was, facts)
        self._commits = commits
        self._last_s = self._clock.monotonic()
        self._runs_s.append(self._last_s)
        changed = self._schedule.interval_s, self._schedule.version_threshold
        if self._log is not None and changed != (was.interval_s, was.version_threshold):
            self._log.info("mvcc_gc_schedule", before=attrs.asdict(was), after=attrs.asdict(self._schedule))

    def _is_due(self) -> bool:
        threshold = self._schedule.version_threshold
        if self._clock.monotonic() - self._last_s >= self._schedule.interval_s:
            return True
        return bool(threshold) and self._store.versions_added() >= threshold

    def _expired_ts(self, published: int) -> int | None:
        """The newest timestamp known to be as old as versions may get, at least 0; None where that is off."""
        if not self._config.time_based:
            return None
        now, ttl = self._clock.monotonic(), self._config.version_ttl_s
        if not self._times or now - self._times[-1][0] >= ttl / TIMES_MAX:
            self._times.append((now, published))
        return max((ts for at, ts in self._times if now - at >= ttl), default=0)

    def _give_up_the_old(self) -> None:
        """Abort writers that are open for too long, and tell of readers."""
        now = self._clock.monotonic()
        active = self._store.open_transactions()
        self._first_seen = {txn: self._first_seen.get(txn, now) for txn in active}
        self._told &= self._first_seen.keys()
        for txn, seen in self._first_seen.items():
            if now - seen < self._config.snapshot_age_s_max:
                continue
            if not txn.is_read_only():
                self._aborted += self._store.give_up(txn)
            elif txn not in self._told:
                self._told.add(txn)
                if self._log is not None:
                    self._log.warning("mvcc_reader_too_old", start_ts=txn.start_ts, age_s=round(now - seen))


@asynccontextmanager
async def collecting(
    store: MvccStore, config: GcConfig, clock: Clock, nursery: trio.Nursery, log: Any = None
) -> AsyncIterator[Collector]:
    """Prune `store` in a task of `nursery` for the length of the block; it ends with it, within a slice."""
    collector = Collector(store, config, clock, log)
    async with in_task(nursery, collector.run, "mvcc collector"):
        yield collector
