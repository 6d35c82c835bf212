"""Storage `cached`: a bounded cache in memory over another backend, for nodes whose backend is far or slow.

Everything is in the backend below; the cache only saves ways to it (STO-18). Single keys are answered from
memory, without a thread. Scans and snapshots go below.

What a read gives is still one consistent view. A write takes its keys out of the cache before it goes below,
and what was read below while a write began or ended is neither mixed with what the cache had nor kept.

Reads that miss the same key at the same time share one fetch (STO-83). While a write is on its way each
fetches what it misses, in one view.

An entry goes after `ttl_s`: where the store below is shared with other writers, that bounds how old an answer
may be; alone on its store, the cache is never stale. Hot keys are fetched ahead before they would be missed.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from supervm.api import Component, Context, Health, Role
from supervm.contracts.storage import (
    PASSING,
    Delete,
    DeleteRange,
    Durability,
    KeyValueStore,
    Operation,
    Put,
    Reader,
    StorageError,
    StoreCorrupt,
    StoreFailed,
    StoreStats,
    Unsupported,
    WriteBatch,
    check_batch,
    check_keys,
)
from supervm.plugins.storage.below import backend_below
from supervm.plugins.storage.lru import HotKeys, RowCache, covering, within
from supervm.plugins.storage.reads import Reads
from supervm.plugins.storage.scan import Row

OVER = ("sqlite", "rocksdb", "lmdb", "postgres")
FEATURES = frozenset({"persistent", "checkpoint", "delete_range_native", "online_prune"})
PREFETCH_ROUNDS_POOR_MAX = 10
PREFETCH_USEFUL_MIN = 0.2
SLICE = 1_000


@attrs.frozen(kw_only=True)
class CachedConfig:
    """`over`: the backend below, with `options` of its own. `path`: its folder ("": the component's own).

    `ttl_s`: age at which an entry goes. `prefetch`: every `prefetch_every_s` the `prefetch_keys_max` hottest
    keys that would be missed are fetched; it ends by itself where fewer than a fifth of them are asked for.
    """

    over: str = attrs.field(default="sqlite", validator=attrs.validators.in_(OVER))
    path: str = ""
    options: dict[str, Any] = attrs.field(factory=dict)
    bytes_max: int = attrs.field(default=256 * 2**20, validator=attrs.validators.ge(2**10))
    entries_max: int = attrs.field(default=100_000, validator=attrs.validators.ge(1))
    ttl_s: float = attrs.field(default=3600.0, validator=attrs.validators.gt(0))
    prefetch: bool = True
    prefetch_keys_max: int = attrs.field(default=1_000, validator=attrs.validators.ge(1))
    prefetch_every_s: float = attrs.field(default=60.0, validator=attrs.validators.gt(0))


@attrs.define(eq=False)
class _Writing:
    """A write on its way: what it touches, and whether another was on its way meanwhile.

    A batch may have a million ranges: the one that covers them all stands for them.
    """

    keys: frozenset[bytes]
    span: DeleteRange | None
    alone: bool

    def touches(self, key: bytes) -> bool:
        return key in self.keys or (self.span is not None and within(key, self.span))


@attrs.define(eq=False)
class _Fetch:
    """A read below that others may wait for; `values` stays None where it came to nothing."""

    done: trio.Event = attrs.Factory(trio.Event)
    values: dict[bytes, bytes | None] | None = None


class CachedStore(Reads):
    """A `KeyValueStore` over another."""

    def __init__(self, ctx: Context, config: CachedConfig, below: KeyValueStore) -> None:
        self._clock = ctx.clock
        self._log = ctx.log
        self._config = config
        self._below = below
        self._cache = RowCache(entries_max=config.entries_max, bytes_max=config.bytes_max, ttl_s=config.ttl_s)
        self._hot = HotKeys(config.entries_max)
        self._writing: list[_Writing] = []
        # By key, those that began since the last write; as many as the reads on their way miss.
        self._fetches: dict[bytes, _Fetch] = {}
        # Moves whenever a write begins or ends.
        self._moves = 0
        self._failure: StorageError | None = None
        self._prefetching = config.prefetch
        self._poor_rounds = 0
        self._metrics = _Metrics(ctx)

    @property
    def capabilities(self) -> frozenset[str]:
        return self._below.capabilities & FEATURES

    @property
    def gives(self) -> Mapping[Durability, Durability]:
        return self._below.gives

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        wanted = list(keys)
        check_keys(wanted)
        self._refuse_if_ended()
        if len(wanted) > SLICE:
            # So many would hold up the event loop, and push out all that is hot.
            return await self._fetch_whole(wanted)
        # One piece without a checkpoint: what the cache gives is of one moment.
        known: dict[bytes, bytes | None] = {}
        missed: dict[bytes, None] = {}
        now_s = self._clock.monotonic()
        for key in wanted:
            if key in known or key in missed:
                continue
            if self._prefetching:
                self._hot.count(key)
            found, value = self._cache.look(key, now_s)
            if found:
                known[key] = value
            else:
                missed[key] = None
        if not missed:
            await trio.lowlevel.checkpoint()
            return [known[key] for key in wanted]
        moves = self._moves
        shared = {key: fetch for key in missed if (fetch := self._fetches.get(key)) is not None}
        own = [key for key in missed if key not in shared]
        fetched = await self._fetch(own) if own else {}
        for fetch in dict.fromkeys(shared.values()):
            await fetch.done.wait()
        failed = any(fetch.values is None for fetch in shared.values())
        if failed or (moves != self._moves and (known or shared)):
            # A write came between what the cache, or another's fetch, had and what the store below has now.
            return await self._fetch_whole(wanted)
        known.update(fetched)
        known.update((key, fetch.values[key]) for key, fetch in shared.items() if fetch.values is not None)
        return [known[key] for key in wanted]

    def _range(self, start: bytes, end: bytes | None, reverse: bool, limit: int | None) -> AsyncIterator[Row]:
        return self._below.scan(start, end, reverse=reverse, limit=limit)

    def snapshot(self) -> AbstractAsyncContextManager[Reader]:
        return self._below.snapshot()

    async def write(self, batch: WriteBatch, durability: Durability = Durability.DURABLE) -> None:
        operations = tuple(batch)
        self._refuse_if_ended()
        if len(operations) <= SLICE:
            keys, span = _touched(operations)
        else:
            # Before anything of it is forgotten, and not in the event loop.
            keys, span = await trio.to_thread.run_sync(_touched, operations)
        writing = _Writing(keys, span, not self._writing)
        for other in self._writing:
            other.alone = False
        self._writing.append(writing)
        self._moves += 1
        self._fetches.clear()
        self._cache.forget(keys, span)
        written = False
        try:
            await self._below.write(operations, durability)
            written = True
        except StoreFailed as failure:
            self._failure = failure
            raise
        finally:
            self._writing.remove(writing)
            self._moves += 1
            # What others read below meanwhile was not kept; of a write alone we know what is there now.
            if written and writing.alone and span is None:
                now_s = self._clock.monotonic()
                for each in operations[-SLICE:]:
                    assert not isinstance(each, DeleteRange)
                    self._cache.put(each.key, each.value if isinstance(each, Put) else None, now_s)

    async def checkpoint(self, path: Path) -> None:
        await self._below.checkpoint(path)

    async def compact(self, start: bytes = b"", end: bytes | None = None) -> None:
        await trio.lowlevel.checkpoint()
        raise Unsupported("this backend can't", "compaction", "Ask `capabilities` first.")

    async def get_property(self, name: str) -> str | None:
        await trio.lowlevel.checkpoint()
        raise Unsupported("this backend can't", "properties", "Ask `capabilities` first.")

    async def stats(self) -> StoreStats:
        below, counts = await self._below.stats(), self._cache.counts
        return attrs.evolve(
            below,
            cache_hits=counts.hits,
            cache_misses=counts.misses,
            extras={
                **below.extras,
                "cached_entries": float(len(self._cache)),
                "cached_bytes": float(self._cache.bytes),
                "cached_evicted": float(counts.evicted),
                "cached_expired": float(counts.expired),
                "cached_prefetched": float(counts.prefetched),
                "cached_prefetched_useful": float(counts.useful),
            },
        )

    async def health(self) -> Health:
        return await self._below.health()

    async def prefetch_round(self) -> int:
        """Fetch the hottest keys that would be missed before the next round; how many that were."""
        until_s = self._clock.monotonic() + self._config.prefetch_every_s
        # In a thread, since there may be many; what is asked for meanwhile isn't counted.
        counted = self._hot.copy()
        hot = await trio.to_thread.run_sync(counted.hottest, self._config.prefetch_keys_max)
        await trio.to_thread.run_sync(counted.age)
        self._hot = counted
        wanted = [key for key in hot if key not in self._fetches and not self._cache.stays(key, until_s)]
        if wanted:
            await self._fetch(wanted, prefetched=True)
        return len(wanted)

    async def keep_warm(self) -> None:
        """Report, and fetch ahead for as long as that pays (STO-82)."""
        fetched = useful = 0
        while True:
            await self._clock.sleep(self._config.prefetch_every_s)
            try:
                self._metrics.report(await self.stats())
                if self._prefetching:
                    self._judge(fetched, self._cache.counts.useful - useful)
                    useful, fetched = self._cache.counts.useful, 0
                    fetched = await self.prefetch_round()
            except (StoreCorrupt, *PASSING) as error:
                # Whoever reads or writes meanwhile decides what it means; here it costs a round.
                self._log.warning("cached_round_missed", cause=str(error))

    def end(self) -> None:
        """Refuse every call from now on."""
        if self._failure is None:
            self._failure = StoreFailed("the store is closed", "", "Open it again.")
        self._cache.clear()

    def _judge(self, fetched: int, useful: int) -> None:
        """End prefetching after ten rounds in a row of which less than a fifth was asked for."""
        if fetched:
            self._poor_rounds = self._poor_rounds + 1 if useful < PREFETCH_USEFUL_MIN * fetched else 0
        if self._poor_rounds >= PREFETCH_ROUNDS_POOR_MAX:
            self._prefetching = False
            self._log.info("prefetch_ended", rounds=self._poor_rounds, fetched=fetched, useful=useful)

    async def _fetch(self, keys: list[bytes], *, prefetched: bool = False) -> dict[bytes, bytes | None]:
        """Read below, in one view, and keep what no write has touched meanwhile."""
        moves, fetch = self._moves, _Fetch()
        if not self._writing:
            self._fetches.update(dict.fromkeys(keys, fetch))
        try:
            values = fetch.values = dict(zip(keys, await self._fetch_whole(keys), strict=True))
        finally:
            for key in keys:
                if self._fetches.get(key) is fetch:
                    del self._fetches[key]
            fetch.done.set()
        if moves == self._moves:
            now_s = self._clock.monotonic()
            for key, value in values.items():
                if not any(writing.touches(key) for writing in self._writing):
                    self._cache.put(key, value, now_s, prefetched=prefetched)
        return values

    async def _fetch_whole(self, keys: list[bytes]) -> list[bytes | None]:
        try:
            return await self._below.get_many(keys)
        except StoreFailed as failure:
            self._failure = failure
            raise

    def _refuse_if_ended(self) -> None:
        if self._failure is not None:
            raise type(self._failure)(self._failure.problem, self._failure.subject, self._failure.mend)


def _touched(operations: Sequence[Operation]) -> tuple[frozenset[bytes], DeleteRange | None]:
    """Check a batch as any store does; the keys that it touches, and a range that covers its ranges."""
    check_batch(operations)
    keys = frozenset(each.key for each in operations if isinstance(each, Put | Delete))
    return keys, covering([each for each in operations if isinstance(each, DeleteRange)])


class _Metrics:
    """Sets `cached_*` from each `StoreStats`."""

    def __init__(self, ctx: Context) -> None:
        gauge = ctx.metrics.gauge
        self._gauges = {
            "cached_entries": gauge("cached_entries", "Entries of the cache over the store"),
            "cached_bytes": gauge("cached_bytes", "Bytes of the cache over the store"),
            "cached_evicted": gauge("cached_evicted", "Entries that went for want of room, since opening"),
            "cached_expired": gauge("cached_expired", "Entries that went by age, since opening"),
            "cached_prefetched": gauge("cached_prefetched", "Entries fetched ahead, since opening"),
            "cached_prefetched_useful": gauge(
                "cached_prefetched_useful", "Those of them that were asked for"
            ),
        }
        self._hit_rate = gauge("cached_hit_rate", "Keys answered from the cache over keys asked")

    def report(self, stats: StoreStats) -> None:
        for name, series in self._gauges.items():
            series.set(stats.extras[name])
        asked = stats.cache_hits + stats.cache_misses
        self._hit_rate.set(stats.cache_hits / asked if asked else 0.0)


@asynccontextmanager
async def open_cached(ctx: Context, config: CachedConfig) -> AsyncIterator[CachedStore]:
    """Open the backend below and the cache over it. Raises what that one raises.

    `StorageError` where this machine can't run it, or where `options` has one that it does not know, or not a
    value it takes.
    """
    options = {**config.options, **({"path": config.path} if config.path else {})}
    component, given = await trio.to_thread.run_sync(
        backend_below, config.over, options, "the store below", "storage.cached."
    )
    async with component.open(ctx, given) as below:
        store = CachedStore(ctx, config, below)
        scope = trio.CancelScope()

        async def keep_warm() -> None:
            with scope:
                await store.keep_warm()

        ctx.nursery.start_soon(keep_warm)
        try:
            yield store
        finally:
            scope.cancel()
            store.end()


cached = Component(
    role=Role.STORAGE,
    name="cached",
    open=open_cached,
    config=CachedConfig,
    features=FEATURES,
    description="A bounded cache over another backend, with a time to live; fetches hot keys ahead.",
)
