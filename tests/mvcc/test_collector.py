"""The pruning task: when it runs, how it adapts, and that it ends at once (EXEC-86 to EXEC-89)."""

import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from supervm.kernel.context import TrioClock
from supervm.mvcc import MvccStore, SnapshotTooOld, batch_write
from supervm.mvcc.collector import Collector, Effective, collecting
from supervm.mvcc.schedule import (
    PROFILES,
    CycleFacts,
    GcConfig,
    Schedule,
    first_schedule,
    gc_health,
    next_schedule,
)

PATIENCE_S = 120.0
"""How long a slow machine may take for what must happen; no test takes it."""


@pytest.fixture
def store() -> MvccStore:
    return MvccStore(unpruned_max=0)


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    mock_clock.autojump_threshold = 0
    return mock_clock


@asynccontextmanager
async def running(store: MvccStore, config: GcConfig, log: Any = None) -> AsyncIterator[Collector]:
    async with (
        trio.open_nursery() as nursery,
        collecting(store, config, TrioClock(), nursery, log) as collector,
    ):
        yield collector


def grow(store: MvccStore, versions: int, keys: int = 1) -> None:
    for at in range(versions):
        batch_write(store, {b"k%d" % (at % keys): b"%d" % at})


async def test_auto_gc_periodic(store: MvccStore, clock: MockClock) -> None:
    config = GcConfig(interval_s=60, version_threshold=0, max_versions_per_key=3)
    async with running(store, config) as collector:
        grow(store, 20)
        await trio.sleep(59.5)
        assert collector.stats().runs == 0
        await trio.sleep(2)
        assert (collector.stats().runs, collector.stats().versions_cleaned) == (1, 17)
        await trio.sleep(600)
        assert collector.stats().runs == 11
    assert store.stats().versions == 3


async def test_auto_gc_threshold(store: MvccStore, clock: MockClock) -> None:
    async with running(store, GcConfig(interval_s=3_600, version_threshold=100)) as collector:
        grow(store, 99)
        await trio.sleep(10)
        assert collector.stats().runs == 0
        grow(store, 1)
        await trio.sleep(1.5)
        assert collector.stats().runs == 1
        await trio.sleep(10)
        assert collector.stats().runs == 1


async def test_auto_gc_run_on_start(store: MvccStore, clock: MockClock) -> None:
    grow(store, 50)
    async with running(store, GcConfig(run_on_start=True)) as collector:
        await trio.testing.wait_all_tasks_blocked()
        assert collector.stats().runs == 1
    async with running(store, GcConfig()) as collector:
        await trio.testing.wait_all_tasks_blocked()
        assert collector.stats().runs == 0


async def test_auto_gc_start_stop(store: MvccStore) -> None:
    """It ends in the midst of a cycle, and the store is as good as before."""
    batch_write(store, {b"k%06d" % at: b"1" for at in range(40_000)})
    for _ in range(2):
        batch_write(store, {b"k%06d" % at: b"2" for at in range(40_000)})
    config = GcConfig(run_on_start=True, max_versions_per_key=1, pause_ms_max=1)
    async with trio.open_nursery() as nursery, collecting(store, config, TrioClock(), nursery) as collector:
        while store.stats().versions_cleaned == 0:
            await trio.lowlevel.checkpoint()
    assert collector.stats().runs == 0, "the cycle had ended before it was stopped"
    assert len(store.begin_read_only().scan()) == 40_000


async def test_auto_gc_concurrent_safety(store: MvccStore) -> None:
    """Threads write and read while the task prunes."""
    batch_write(store, {b"k%d" % at: b"0" for at in range(50)})

    def work(seed: int) -> None:
        chance, at, until = random.Random(seed), 0, monotonic() + PATIENCE_S
        # Until it has pruned twice meanwhile: which thread has the processor when is the system's to say.
        while at < 300 or (collector._runs < 2 and monotonic() < until):
            at += 1
            with store.begin_read_only() as txn:
                first = txn.scan(b"k")
                batch_write(
                    store, {b"k%d" % (seed * 10 + chance.randrange(10)): b"%d" % chance.randrange(99)}
                )
                assert txn.scan(b"k") == first

    async with (
        running(store, GcConfig(interval_s=0.01, version_threshold=1, max_versions_per_key=2)) as collector,
        trio.open_nursery() as nursery,
    ):
        for seed in range(5):
            nursery.start_soon(trio.to_thread.run_sync, work, seed)
    await collector.collect()
    assert collector.stats().runs >= 2 and collector.stats().versions_cleaned > 100
    assert store.stats().versions <= 50 * 2


async def test_memory_growth_control(store: MvccStore, clock: MockClock) -> None:
    """50 keys, 20 rounds, at most 10 versions, every 2 s or 500 versions."""
    config = GcConfig(max_versions_per_key=10, interval_s=2, version_threshold=500)
    written = 0
    async with running(store, config) as collector:
        for round_ in range(20):
            batch_write(store, {b"k%d" % key: b"%d" % round_ for key in range(50)})
            written += 50
            await trio.sleep(0.5)
        await trio.sleep(2)
        stats = collector.stats()
    assert stats.runs >= 2
    assert stats.versions_cleaned > written * 0.1
    assert store.stats().versions <= 50 * 10


async def test_adaptive_gc(store: MvccStore, clock: MockClock) -> None:
    """Under load the interval shrinks to its least, at rest it grows to its most, by the stated steps."""
    changes: list[dict[str, Any]] = []

    class Log:
        def info(self, name: str, **facts: Any) -> None:
            assert name == "mvcc_gc_schedule"
            changes.append(facts)

    config = GcConfig(adaptive=True, max_versions_per_key=2, version_threshold=1_000)
    async with running(store, config, Log()) as collector:
        assert collector.effective == Effective(True, 60.0, 1_000)
        seen = []
        for _ in range(4):
            grow(store, 1_200)
            await trio.sleep(1.5)
            seen.append((collector.effective.interval_s, collector.effective.version_threshold))
        assert seen == [(30.0, 750), (15.0, 562), (10.0, 500), (10.0, 500)]
        assert len(changes) == 3 and changes[0]["before"]["interval_s"] == 60.0
        await trio.sleep(3_000)
        assert (collector.effective.interval_s, collector.effective.version_threshold) == (300.0, 5_000)


def test_a_schedule_that_doesn_t_adapt_stays() -> None:
    config = GcConfig(interval_s=7, version_threshold=3)
    busy = CycleFacts(commits=10**6, growth=10**6, cleaned=0, versions=1)
    assert next_schedule(config, first_schedule(config), busy) == Schedule(7, 3)


def test_the_adaptive_rules_one_by_one() -> None:
    config = GcConfig(adaptive=True)
    now = Schedule(100.0, 2_000)

    def after(**facts: int) -> tuple[float, int]:
        defaults = {"commits": 500, "growth": 1_000, "cleaned": 500, "versions": 1_000}
        found = next_schedule(config, now, CycleFacts(**{**defaults, **facts}))
        return found.interval_s, found.version_threshold

    assert after(commits=1_001) == (50.0, 1_500)
    assert after(growth=5_001) == (50.0, 1_500)
    assert after(commits=1_000, growth=5_000) == (96.0, 1_900)
    assert after(commits=99, growth=499, cleaned=99) == (150.0, 2_500)
    assert after(commits=99, growth=499, cleaned=100) == (96.0, 1_900)
    assert after(commits=100, growth=499, cleaned=99) == (96.0, 1_900)


def test_three_cycles_that_clean_little_count_as_low_whatever_the_load() -> None:
    config = GcConfig(adaptive=True)
    busy = CycleFacts(commits=5_000, growth=9_000, cleaned=99, versions=1_000)
    now = Schedule(100.0, 2_000)
    intervals = []
    for _ in range(4):
        now = next_schedule(config, now, busy)
        intervals.append(now.interval_s)
    assert intervals == [50.0, 25.0, 37.5, 56.25]
    fruitful = next_schedule(
        config, now, CycleFacts(commits=5_000, growth=9_000, cleaned=500, versions=1_000)
    )
    assert fruitful.idle_cycles == 0 and fruitful.interval_s < now.interval_s


async def test_versions_older_than_their_time_go(store: MvccStore, clock: MockClock) -> None:
    config = GcConfig(time_based=True, version_ttl_s=100, interval_s=10, version_threshold=0)
    async with running(store, config):
        grow(store, 5)
        await trio.sleep(50)
        assert store.stats().versions == 5
        grow(store, 2)
        await trio.sleep(65)
        assert store.stats().versions == 2, "the newest of the first five was displaced, and expired"
        await trio.sleep(100)
        assert store.stats().versions == 1


async def test_who_is_open_for_too_long_is_aborted_if_it_writes_and_told_if_it_reads(
    store: MvccStore, clock: MockClock
) -> None:
    told: list[dict[str, Any]] = []

    class Log:
        def warning(self, name: str, **facts: Any) -> None:
            told.append({"name": name, **facts})

    grow(store, 1)
    async with running(store, GcConfig(interval_s=10, max_versions_per_key=1), Log()) as collector:
        writer, reader = store.begin(), store.begin_read_only()
        writer.write(b"mine", b"1")
        await trio.sleep(590)
        young = store.begin()
        assert writer.read(b"k0") == b"0"
        await trio.sleep(20)
        for call in (lambda: writer.read(b"k0"), lambda: writer.write(b"x", b""), writer.commit):
            with pytest.raises(SnapshotTooOld) as caught:
                call()
            assert caught.value.start_ts == 1 and caught.value.retryable
        assert young.read(b"k0") == reader.read(b"k0") == b"0"
        assert collector.stats().too_old_aborted == 1 and collector.stats().too_old_readers == 1
        assert [(one["name"], one["start_ts"]) for one in told] == [("mvcc_reader_too_old", 1)]
        reader.commit()
        await trio.sleep(5)
        assert collector.stats().too_old_readers == 0
    assert store.begin().read(b"mine") is None


def test_a_commit_that_loses_the_race_with_being_given_up_installs_nothing(store: MvccStore) -> None:
    txn = store.begin()
    txn.write(b"k", b"1")
    inside, go_on = threading.Event(), threading.Event()

    class Lock:
        """Holds the committing thread at the door of the critical section."""

        def __init__(self, lock: Any) -> None:
            self.lock = lock

        def __enter__(self) -> None:
            if threading.current_thread() is committer:
                inside.set()
                go_on.wait(PATIENCE_S)
            self.lock.__enter__()

        def __exit__(self, *error: object) -> None:
            self.lock.__exit__(*error)

    errors: list[BaseException] = []

    def commit() -> None:
        try:
            txn.commit()
        except SnapshotTooOld as error:
            errors.append(error)

    committer = threading.Thread(target=commit)
    store._lock = Lock(store._lock)  # type: ignore[assignment]
    committer.start()
    assert inside.wait(PATIENCE_S)
    assert store.give_up(txn) and not store.give_up(txn)
    go_on.set()
    committer.join(PATIENCE_S)
    assert len(errors) == 1 and store.published == 0


def test_health_tells_what_grows_too_large() -> None:
    assert gc_health(keys=10, versions=20, longest=5, runs_a_minute=1, versions_max=10).warnings == ()
    assert gc_health(keys=0, versions=0, longest=0, runs_a_minute=0, versions_max=10).warnings == ()
    bad = gc_health(keys=10, versions=600, longest=300, runs_a_minute=11, versions_max=10)
    assert len(bad.warnings) == 5 and bad.alarms == ()
    assert len(gc_health(keys=1, versions=1, longest=1, runs_a_minute=21, versions_max=10).alarms) == 1


def test_profiles_are_configurations() -> None:
    assert {name: profile.max_versions_per_key for name, profile in PROFILES.items()} == {
        "high_throughput": 30,
        "memory_tight": 10,
        "high_conflict": 50,
        "long_transactions": 100,
        "tail_latency": 15,
    }
    assert not PROFILES["long_transactions"].adaptive
    for wrong in ({"interval_s": 0}, {"max_versions_per_key": 0}, {"version_threshold": -1}):
        with pytest.raises(ValueError):
            GcConfig(**wrong)  # type: ignore[arg-type]
