"""Writing an MVCC store to its backend: by hand, or in a task by time and blocks (STO-77, STO-78)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from attrs.validators import ge, gt

from supervm.contracts.storage import Delete, Durability, Operation, Put, StorageError, StoreFailed
from supervm.kernel.component import Clock, Health, HealthState
from supervm.mvcc.backed import PAGE_ROWS, BackedStore, encode_marker, marker_key, row_key
from supervm.mvcc.pruning import PruneRules
from supervm.mvcc.tasks import in_task
from supervm.storage.spaces import seal

LOOK_S = 1.0
FAILURES_MAX = 3
LAST_FLUSH_S = 2.0


@attrs.frozen
class Flushed:
    """One flush: keys written or deleted, bytes of the batch, the timestamp that the backend now holds."""

    keys: int
    bytes: int
    ts: int


async def flush(store: BackedStore, keep_recent_versions: int | None = None) -> Flushed:
    """Write all that is dirty, as of now, in one durable batch with the marker; then prune memory.

    `keep_recent_versions` is how many of each key stay (None: as the store's rules say). Raises what the
    backend raises; what was to be written stays dirty then. One flush at a time; others wait.
    """
    async with store._flush_lock:
        with store._lock:
            store._fold()
            keys, store._dirty = frozenset(store._dirty), set()
            store._in_flush = keys
            size, store._dirty_bytes = store._dirty_bytes, 0
            reader = store.begin_read_only() if keys else None
        try:
            done = Flushed(0, 0, store.published)
            if reader is not None:
                batch, done = await _batch(store, sorted(keys), reader.start_ts)
                await store.backend.write(batch, Durability.DURABLE)
        except BaseException:
            with store._lock:
                store._dirty |= keys
                store._dirty_bytes += size
            raise
        finally:
            with store._lock:
                store._in_flush = frozenset()
            if reader is not None:
                reader.commit()
        with store._lock:
            store._evict(0, is_needed=False)
    if keys:
        await _prune(store, keep_recent_versions)
    return done


async def _batch(store: BackedStore, keys: list[bytes], ts: int) -> tuple[list[Operation], Flushed]:
    """What the store holds of the keys at `ts`, and the marker, as one batch."""
    prefix = store.config.prefix
    batch: list[Operation] = []
    size = 0
    for at, key in enumerate(keys):
        if at % PAGE_ROWS == 0:
            await trio.lowlevel.checkpoint()
        value = store.read_at(key, ts)
        row = row_key(prefix, key)
        batch.append(Delete(row) if value is None else Put(row, seal(row, value)))
        size += len(row) + len(value or b"")
    marker = marker_key(prefix)
    batch.append(Put(marker, encode_marker(ts, marker)))
    return batch, Flushed(len(keys), size, ts)


async def _prune(store: BackedStore, keep_recent_versions: int | None) -> None:
    rules = None if keep_recent_versions is None else PruneRules(versions_max=keep_recent_versions)
    cycle = store.gc_cycle(rules)
    while not cycle.done:
        cycle.slice()
        await trio.lowlevel.checkpoint()


@attrs.frozen(kw_only=True)
class FlushConfig:
    """When to flush (`mvcc.flush.*`): by time or by blocks, whichever comes first."""

    interval_s: float = attrs.field(default=10.0, validator=gt(0))
    blocks_per_flush: int = attrs.field(default=100, validator=ge(1))
    keep_recent_versions: int = attrs.field(default=3, validator=ge(1))
    flush_on_start: bool = False


@attrs.frozen(kw_only=True)
class FlushStats:
    """Since it began. `last_block` is the block of the last flush; `failures` those in a row just now."""

    count: int = 0
    keys: int = 0
    bytes: int = 0
    last_block: int = 0
    failures: int = 0


class Flusher:
    """Flushes a store; made by `flushing`. The user tells it the blocks as they come."""

    def __init__(self, store: BackedStore, config: FlushConfig, clock: Clock, log: Any = None) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self._log = log
        self._block = 0
        self._last_s = clock.monotonic()
        self._stats = FlushStats()
        self._problem = ""

    @property
    def stats(self) -> FlushStats:
        """The counts now."""
        return self._stats

    @property
    def current_block(self) -> int:
        """The newest block that it was told of."""
        return self._block

    def set_current_block(self, height: int) -> None:
        """Tell it that a block came; every `blocks_per_flush` of them it flushes."""
        self._block = height

    def health(self) -> Health:
        """`degraded` while flushes fail: what was committed since the last one is in memory only."""
        if not self._stats.failures:
            return Health()
        state = HealthState.DEGRADED if self._stats.failures < FAILURES_MAX else HealthState.FAILING
        return Health(state, f"{self._stats.failures} flushes failed in a row: {self._problem}")

    async def run(self) -> None:
        """Flush when it is time, until cancelled. Raises `StoreFailed` after three failures in a row."""
        if self._config.flush_on_start:
            await self._attempt()
        while True:
            await self._clock.sleep(min(LOOK_S, self._config.interval_s))
            blocks = self._block - self._stats.last_block
            is_time = self._clock.monotonic() - self._last_s >= self._config.interval_s
            if is_time or blocks >= self._config.blocks_per_flush:
                await self._attempt()

    async def flush(self) -> Flushed:
        """Flush now. Raises what the backend raises."""
        block = self._block
        self._last_s = self._clock.monotonic()
        try:
            done = await flush(self._store, self._config.keep_recent_versions)
        except StorageError as error:
            self._problem = str(error)
            self._stats = attrs.evolve(self._stats, failures=self._stats.failures + 1)
            raise
        now = self._stats
        self._stats = FlushStats(
            count=now.count + 1, keys=now.keys + done.keys, bytes=now.bytes + done.bytes, last_block=block
        )
        return done

    async def _attempt(self) -> None:
        try:
            await self.flush()
        except StorageError as error:
            if self._log is not None:
                self._log.warning("mvcc_flush_failed", problem=str(error), failures=self._stats.failures)
            if self._stats.failures >= FAILURES_MAX:
                raise StoreFailed("flushes fail again and again", error, "Look at the backend.") from error


@asynccontextmanager
async def flushing(
    store: BackedStore, config: FlushConfig, clock: Clock, nursery: trio.Nursery, log: Any = None
) -> AsyncIterator[Flusher]:
    """Flush `store` in a task of `nursery` for the length of the block, and once more at its end.

    The last flush takes 2 seconds at most; what it couldn't write is in the log, and lost with the memory.
    """
    flusher = Flusher(store, config, clock, log)
    async with in_task(nursery, flusher.run, "mvcc flusher"):
        yield flusher
    with trio.move_on_after(LAST_FLUSH_S, shield=True) as scope:
        try:
            await flusher.flush()
        except StorageError as error:
            scope.cancel()
            if log is not None:
                log.error("mvcc_last_flush_failed", problem=str(error), dirty_keys=store.dirty_keys())
    if scope.cancelled_caught and log is not None:
        log.error("mvcc_last_flush_late", dirty_keys=store.dirty_keys())
