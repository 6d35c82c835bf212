"""What is the cache's own: its bounds, the time to live, prefetch, and one view though two stores answer."""

import threading
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from supervm.contracts.storage import (
    PASSING,
    Delete,
    DeleteRange,
    DiskFull,
    Durability,
    Put,
    StorageError,
    StoreCorrupt,
    StoreFailed,
)
from supervm.plugins.storage import cached as module
from supervm.plugins.storage.cached import CachedConfig, CachedStore, cached
from supervm.plugins.storage.lru import ENTRY_BYTES, HotKeys, RowCache, covering, within
from supervm.plugins.storage.memory import memory
from supervm.testing.conformance.component import refused
from supervm.testing.context import component_context, opened


class Below:
    """A store that counts what is asked of it, and holds or fails it as it is told."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.asked: list[list[bytes]] = []
        self.reads_may_begin = trio.Event()
        self.reads_may_end = trio.Event()
        self.writes_may_end = trio.Event()
        self.reads_may_begin.set()
        self.reads_may_end.set()
        self.writes_may_end.set()
        self.errors: list[Exception] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        self.asked.append(list(keys))
        if self.errors:
            raise self.errors.pop()
        begin, end = self.reads_may_begin, self.reads_may_end
        await begin.wait()
        values = await self._store.get_many(keys)
        await end.wait()
        return values

    async def write(self, batch: Any, durability: Durability = Durability.DURABLE) -> None:
        if self.errors:
            raise self.errors.pop()
        await self._store.write(batch, durability)
        await self.writes_may_end.wait()


@pytest.fixture
async def below(tmp_path: Path) -> Any:
    async with opened(memory, tmp_path / "below") as store:
        await store.write([Put(b"%d" % i, b"old") for i in range(10)])
        yield Below(store)


async def over(ctx: Any, below: Below, **options: Any) -> CachedStore:
    return CachedStore(ctx, CachedConfig(**options), below)  # type: ignore[arg-type]


async def test_a_row_is_asked_for_once_and_so_is_one_that_is_not_there(tmp_path: Path, below: Below) -> None:
    async with component_context(tmp_path) as ctx:
        store = await over(ctx, below)
        for _ in range(3):
            assert await store.get_many([b"1", b"absent", b"1"]) == [b"old", None, b"old"]
        assert below.asked == [[b"1", b"absent"]]
        stats = await store.stats()
        assert (stats.cache_hits, stats.cache_misses) == (4, 2)
        assert stats.extras["cached_entries"] == 2


async def test_what_was_written_is_known_without_asking(tmp_path: Path, below: Below) -> None:
    async with component_context(tmp_path) as ctx:
        store = await over(ctx, below)
        await store.get_many([b"1", b"2", b"3"])
        await store.write([Put(b"1", b"new"), Delete(b"2"), Put(b"11", b"new")])
        assert await store.get_many([b"1", b"2", b"3", b"11"]) == [b"new", None, b"old", b"new"]
        assert len(below.asked) == 1
        await store.write([DeleteRange(b"1", b"2"), Put(b"1", b"last")])
        assert await store.get_many([b"1", b"11", b"3"]) == [b"last", None, b"old"]
        assert below.asked[1:] == [[b"1", b"11"]]


async def test_reads_that_miss_the_same_keys_at_the_same_time_share_one_fetch(
    tmp_path: Path, below: Below
) -> None:
    async with component_context(tmp_path) as ctx:
        store = await over(ctx, below)
        below.reads_may_end = trio.Event()
        found: list[list[bytes | None]] = []

        async def read(*keys: bytes) -> None:
            found.append(await store.get_many(keys))

        async with trio.open_nursery() as nursery:
            for keys in ((b"1", b"2"), (b"1",), (b"2", b"1"), (b"2", b"3")):
                nursery.start_soon(read, *keys)
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(store.prefetch_round)
            await trio.testing.wait_all_tasks_blocked()
            below.reads_may_end.set()
        assert sorted(map(len, found)) == [1, 2, 2, 2]
        assert {value for values in found for value in values} == {b"old"}
        assert below.asked == [[b"1", b"2"], [b"3"]]
        assert not store._fetches


@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_a_read_whose_shared_fetch_comes_to_nothing_reads_by_itself(
    tmp_path: Path, below: Below, how: str
) -> None:
    async with component_context(tmp_path) as ctx, trio.open_nursery() as nursery:
        store = await over(ctx, below)
        below.reads_may_end = trio.Event()
        scope, found = trio.CancelScope(), list[bytes | None]()
        first = below._store.get_many

        async def breaks(keys: list[bytes]) -> list[bytes | None]:
            below._store.get_many = first
            await below.reads_may_begin.wait()
            raise DiskFull("injected")

        async def begins() -> None:
            with scope:
                if how == "failed":
                    with refused(DiskFull):
                        await store.get(b"1")
                else:
                    await store.get(b"1")

        async def joins() -> None:
            found.append(await store.get(b"1"))

        if how == "failed":
            below.reads_may_begin = trio.Event()
            below._store.get_many = breaks
        nursery.start_soon(begins)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(joins)
        await trio.testing.wait_all_tasks_blocked()
        assert below.asked == [[b"1"]]
        scope.cancel() if how == "cancelled" else below.reads_may_begin.set()
        below.reads_may_end.set()
        await trio.testing.wait_all_tasks_blocked()
        assert found == [b"old"]
        assert below.asked == [[b"1"], [b"1"]]
        assert not store._fetches


async def test_a_fetch_is_not_shared_with_a_read_that_began_after_a_write(
    tmp_path: Path, below: Below
) -> None:
    """The one before the write has the value of then on its way still."""
    async with component_context(tmp_path) as ctx, trio.open_nursery() as nursery:
        store = await over(ctx, below)
        below.reads_may_end = held = trio.Event()
        before: list[bytes | None] = []

        async def read() -> None:
            before.append(await store.get(b"1"))

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await store.write([Put(b"1", b"new"), DeleteRange(b"2", b"3")])
        below.reads_may_end = trio.Event()
        below.reads_may_end.set()
        with trio.fail_after(60):
            assert await store.get_many([b"1", b"2"]) == [b"new", None]
        held.set()
        await trio.testing.wait_all_tasks_blocked()
        assert before in ([b"old"], [b"new"])


@pytest.mark.parametrize("first", ["reads_may_begin", "reads_may_end"])
@pytest.mark.parametrize("second", ["reads_may_begin", "reads_may_end"])
@pytest.mark.parametrize("ends", [True, False])
async def test_a_read_that_shares_a_fetch_and_meets_a_write_gives_one_view(
    tmp_path: Path, below: Below, first: str, second: str, ends: bool
) -> None:
    """`1` is on its way for another, `2` is asked for beside it, and both are written meanwhile."""
    async with component_context(tmp_path) as ctx, trio.open_nursery() as nursery:
        store = await over(ctx, below)
        if not ends:
            below.writes_may_end = trio.Event()
        gates = []
        found: list[list[bytes | None]] = []

        async def read(*keys: bytes) -> None:
            found.append(await store.get_many(keys))

        for held, keys in ((first, (b"1",)), (second, (b"1", b"2"))):
            gates.append(trio.Event())
            open_gate = trio.Event()
            open_gate.set()
            below.reads_may_begin = below.reads_may_end = open_gate
            setattr(below, held, gates[-1])
            nursery.start_soon(read, *keys)
            await trio.testing.wait_all_tasks_blocked()
        assert below.asked == [[b"1"], [b"2"]]
        nursery.start_soon(store.write, [Put(b"1", b"new"), Put(b"2", b"new")])
        await trio.testing.wait_all_tasks_blocked()
        for gate in gates:
            gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert len(found) == 2
        for values in found:
            assert len(set(values)) == 1, values
        below.writes_may_end.set()
        await trio.testing.wait_all_tasks_blocked()
        assert await store.get_many([b"1", b"2"]) == [b"new", b"new"]


@pytest.mark.parametrize("held", ["reads_may_begin", "reads_may_end"])
async def test_a_read_that_meets_a_write_gives_one_view(tmp_path: Path, below: Below, held: str) -> None:
    """`1` is in the cache and `2` is not; both are written while `2` is on its way."""
    async with component_context(tmp_path) as ctx, trio.open_nursery() as nursery:
        store = await over(ctx, below)
        await store.get(b"1")
        setattr(below, held, trio.Event())
        found: list[list[bytes | None]] = []

        async def read() -> None:
            found.append(await store.get_many([b"1", b"2"]))

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await store.write([Put(b"1", b"new"), Put(b"2", b"new")])
        getattr(below, held).set()
        await trio.testing.wait_all_tasks_blocked()
        assert found in ([[b"old", b"old"]], [[b"new", b"new"]])
        # What was read before the write is not what later reads get.
        assert await store.get_many([b"1", b"2"]) == [b"new", b"new"]


@pytest.mark.parametrize("batch", [[Put(b"1", b"new")], [DeleteRange(b"1", b"2")]], ids=["put", "range"])
async def test_what_is_read_while_a_write_is_on_its_way_is_not_kept(
    tmp_path: Path, below: Below, batch: Any
) -> None:
    async with component_context(tmp_path) as ctx, trio.open_nursery() as nursery:
        store = await over(ctx, below)
        below.writes_may_end = trio.Event()
        nursery.start_soon(store.write, batch)
        await trio.testing.wait_all_tasks_blocked()
        await store.get_many([b"1", b"5"])
        assert below.asked == [[b"1", b"5"]]
        await store.get_many([b"1", b"5"])
        assert below.asked[1:] == [[b"1"]]
        below.writes_may_end.set()


async def test_of_two_writes_at_once_the_store_below_says_which_was_last(
    tmp_path: Path, below: Below
) -> None:
    async with component_context(tmp_path) as ctx:
        store = await over(ctx, below)
        async with trio.open_nursery() as nursery:
            below.writes_may_end = trio.Event()
            for value in (b"a", b"b"):
                nursery.start_soon(store.write, [Put(b"1", value)])
            await trio.testing.wait_all_tasks_blocked()
            below.writes_may_end.set()
        assert await store.get(b"1") == (await below.get_many([b"1"]))[0]
        assert len(below.asked) == 2


async def test_a_write_that_is_refused_or_cancelled_leaves_the_cache_right(
    tmp_path: Path, below: Below
) -> None:
    async with component_context(tmp_path) as ctx:
        store = await over(ctx, below)
        await store.get(b"1")
        below.errors = [DiskFull("no space left", "here")]
        with refused(DiskFull):
            await store.write([Put(b"1", b"new")])
        assert await store.get(b"1") == b"old"
        below.writes_may_end = trio.Event()
        with trio.move_on_after(0) as scope:
            await store.write([Put(b"1", b"new")])
        assert scope.cancelled_caught
        assert await store.get(b"1") == (await below.get_many([b"1"]))[0]


async def test_a_store_below_that_failed_ends_the_cache_too(tmp_path: Path, below: Below) -> None:
    async with component_context(tmp_path) as ctx:
        store = await over(ctx, below)
        await store.get(b"1")
        below.errors = [StoreFailed("i/o error", "disk")]
        with refused(StoreFailed):
            await store.get(b"2")
        for _ in range(2):
            with refused(StoreFailed):
                await store.get(b"1")


async def test_an_entry_goes_after_its_time(
    tmp_path: Path, below: Below, mock_clock: trio.testing.MockClock
) -> None:
    async with component_context(tmp_path) as ctx:
        store = await over(ctx, below, ttl_s=10)
        await store.get(b"1")
        mock_clock.jump(9)
        await store.get(b"1")
        assert len(below.asked) == 1
        await below._store.write([Put(b"1", b"by another")])
        mock_clock.jump(2)
        assert await store.get(b"1") == b"by another"
        assert (await store.stats()).extras["cached_expired"] == 1


async def test_hot_keys_are_fetched_before_they_are_missed(
    tmp_path: Path, below: Below, mock_clock: trio.testing.MockClock
) -> None:
    async with component_context(tmp_path) as ctx:
        store = await over(ctx, below, ttl_s=100, prefetch_every_s=60, prefetch_keys_max=2)
        for key, times in ((b"1", 5), (b"2", 4), (b"3", 3), (b"4", 1)):
            for _ in range(times):
                await store.get(key)
        below.asked.clear()
        mock_clock.jump(30)
        assert await store.prefetch_round() == 0
        mock_clock.jump(30)
        # The two hottest would be gone before the next round; the others are left to be missed.
        assert await store.prefetch_round() == 2
        assert below.asked == [[b"1", b"2"]]
        mock_clock.jump(60)
        await store.get_many([b"1", b"2"])
        assert len(below.asked) == 1
        assert (await store.stats()).extras["cached_prefetched_useful"] == 2


async def test_hot_keys_are_looked_through_in_another_thread(
    tmp_path: Path, below: Below, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be 100,000, and the event loop is everybody's."""
    threads: list[int] = []
    for name in ("hottest", "age"):
        good = getattr(HotKeys, name)

        def noting(hot: HotKeys, *given: Any, good: Any = good) -> Any:
            threads.append(threading.get_ident())
            return good(hot, *given)

        monkeypatch.setattr(HotKeys, name, noting)
    async with component_context(tmp_path) as ctx:
        store = await over(ctx, below)
        for _ in range(3):
            await store.get(b"1")
        store._cache.clear()
        assert await store.prefetch_round() == 1
    assert len(threads) == 2
    assert threading.get_ident() not in threads


async def test_prefetching_ends_where_it_does_not_pay(tmp_path: Path, below: Below) -> None:
    async with component_context(tmp_path) as ctx:
        store = await over(ctx, below)
        for _ in range(module.PREFETCH_ROUNDS_POOR_MAX - 1):
            store._judge(100, 19)
        store._judge(100, 20)
        for _ in range(module.PREFETCH_ROUNDS_POOR_MAX):
            store._judge(0, 0)
        assert store._prefetching
        for _ in range(module.PREFETCH_ROUNDS_POOR_MAX):
            assert store._prefetching
            store._judge(100, 19)
        assert not store._prefetching


async def test_rounds_come_by_themselves_and_report(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    config = CachedConfig(ttl_s=100.0)
    async with component_context(tmp_path) as ctx, cached.open(ctx, config) as store:
        await store.write([Put(b"a", b"v")])
        for fetched in range(4):
            await trio.testing.wait_all_tasks_blocked()
            await store.get_many([b"a"])
            await store.get_many([b"a"])
            mock_clock.jump(60)
            while (await store.stats()).extras["cached_prefetched"] <= fetched:
                await trio.lowlevel.checkpoint()
        assert (await store.stats()).extras["cached_prefetched_useful"] == 3
        assert (await store.stats()).cache_misses == 0
        assert ctx.metrics.families["cached_hit_rate"].records[-1][1] == 1


@pytest.mark.parametrize("error", [*PASSING, StoreCorrupt])
@pytest.mark.parametrize("call", ["stats", "get_many"])
async def test_a_round_that_the_store_below_can_not_serve_is_missed_and_the_next_one_comes(
    tmp_path: Path, below: Below, autojump_clock: trio.testing.MockClock, call: str, error: Any
) -> None:
    async with component_context(tmp_path) as ctx, trio.open_nursery() as nursery:
        store = await over(ctx, below, prefetch_every_s=60, ttl_s=90)
        for _ in range(9):
            await store.get(b"1")
        failed: list[str] = []
        good = getattr(below, call)

        async def fails(*given: Any) -> Any:
            if failed:
                return await good(*given)
            failed.append(call)
            raise error("injected")

        setattr(below, call, fails)
        nursery.start_soon(store.keep_warm)
        while not store._cache.counts.prefetched:
            await ctx.clock.sleep(1)
        assert failed == [call]
        nursery.cancel_scope.cancel()


async def test_a_large_read_leaves_the_cache_as_it_is(tmp_path: Path, below: Below) -> None:
    async with component_context(tmp_path) as ctx:
        store = await over(ctx, below)
        keys = [b"%d" % (i % 20) for i in range(module.SLICE + 1)]
        assert await store.get_many(keys) == [b"old" if key < b"1" or len(key) == 1 else None for key in keys]
        assert (await store.stats()).extras["cached_entries"] == 0


@pytest.mark.parametrize("backend", ["sqlite", "rocksdb", "lmdb"])
async def test_it_opens_over_each_backend_with_its_options(tmp_path: Path, backend: str) -> None:
    if backend != "sqlite":
        pytest.importorskip({"rocksdb": "rocksdict"}.get(backend, backend))
    config = CachedConfig(over=backend, options={"snapshots_max": 1})
    async with opened(cached, tmp_path, config) as store:
        await store.write([Put(b"a", b"v")])
        async with store.snapshot():
            with refused(StorageError):
                async with store.snapshot():
                    pass
    async with opened(cached, tmp_path, CachedConfig(over=backend)) as store:
        assert await store.get(b"a") == b"v"


async def test_options_that_the_store_below_does_not_know_are_refused(tmp_path: Path) -> None:
    with refused(StorageError) as caught:
        async with opened(cached, tmp_path, CachedConfig(options={"cache_byts": 1})):
            pass
    assert "cache_byts" in str(caught[0])
    with pytest.raises(ValueError, match="over"):
        CachedConfig(over="memory")


spans = st.builds(DeleteRange, st.binary(max_size=2), st.one_of(st.none(), st.binary(min_size=1, max_size=2)))


@settings(deadline=None)
@given(st.lists(spans, max_size=6), st.lists(st.binary(min_size=1, max_size=2), max_size=20))
def test_what_any_of_many_ranges_holds_is_forgotten(ranges: list[DeleteRange], keys: list[bytes]) -> None:
    cache = RowCache(entries_max=100, bytes_max=2**20, ttl_s=5)
    for key in keys:
        cache.put(key, b"v", 0)
    span = covering(ranges)
    cache.forget(frozenset(), span)
    for key in keys:
        held = any(within(key, each) for each in ranges)
        assert cache.stays(key, 1) is (span is None or not within(key, span))
        assert not (held and cache.stays(key, 1))


rows = st.lists(
    st.tuples(
        st.binary(min_size=1, max_size=2), st.one_of(st.none(), st.binary(max_size=300)), st.booleans()
    ),
    max_size=60,
)


@settings(deadline=None)
@given(rows, st.integers(1, 8), st.integers(300, 3_000))
def test_the_cache_never_passes_its_bounds_and_never_gives_another_value(
    history: Any, entries_max: int, bytes_max: int
) -> None:
    cache = RowCache(entries_max=entries_max, bytes_max=bytes_max, ttl_s=5)
    model: dict[bytes, tuple[bytes | None, int]] = {}
    for now, (key, value, looks) in enumerate(history):
        if looks:
            found, known = cache.look(key, now)
            if found:
                assert model[key][0] == known
                assert now < model[key][1] + 5
        else:
            cache.put(key, value, now)
            model[key] = (value, now)
        assert len(cache) <= entries_max
        assert cache.bytes <= bytes_max
        assert cache.bytes >= len(cache) * ENTRY_BYTES


def test_what_was_used_least_recently_goes_first() -> None:
    cache = RowCache(entries_max=3, bytes_max=10_000, ttl_s=5)
    for key in (b"a", b"b", b"c"):
        cache.put(key, b"", 0)
    cache.look(b"a", 1)
    cache.put(b"d", b"", 1)
    assert [cache.stays(key, 1) for key in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    assert cache.counts.evicted == 1
    cache.put(b"huge", bytes(10_000), 1)
    assert len(cache) == 3


def test_a_key_that_was_hot_cools_and_the_table_is_bounded() -> None:
    hot = HotKeys(3)
    for key in (b"a", b"a", b"a", b"a", b"b", b"b", b"c", b"d"):
        hot.count(key)
    assert hot.hottest(5) == [b"a", b"b"]
    assert hot.hottest(1) == [b"a"]
    assert len(hot) == 3
    hot.age()
    assert hot.hottest(5) == [b"a"]
    for _ in range(3):
        hot.age()
    assert len(hot) == 0


def test_a_batch_of_more_keys_than_the_cache_has_forgets_those_it_names_and_no_others() -> None:
    for others in (0, 5, 5_000):
        cache = RowCache(entries_max=100, bytes_max=2**20, ttl_s=5)
        for i in range(20):
            cache.put(b"%d" % i, b"v", 0.0)
        named = frozenset({b"3", b"7", *(b"other%d" % i for i in range(others))})
        cache.forget(named)
        assert [cache.look(b"%d" % i, 0.0)[0] for i in range(20)] == [i not in (3, 7) for i in range(20)]
        assert len(cache) == 18
