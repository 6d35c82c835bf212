"""What is RocksDB's own: statistics that move, stalls, compression that isn't there, error texts."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import rocksdict
import trio

from supervm.contracts.storage import (
    DiskFull,
    Durability,
    Put,
    ReadOnly,
    SnapshotExpired,
    StorageError,
    StoreCorrupt,
    StoreFailed,
    StoreLocked,
)
from supervm.plugins.storage.rocksdb import RocksdbConfig, RocksdbEngine, _translate, rocksdb
from supervm.plugins.storage.rocksdb_stats import GAUGES, RocksdbMetrics, parse_statistics
from supervm.testing.conformance.component import refused
from supervm.testing.context import component_context, opened

# Small enough that a few megabytes are flushed, compacted, and read from files through the cache.
SMALL = RocksdbConfig(write_buffer_bytes=2**18, cache_bytes=2**20)


async def test_every_statistic_moves_with_the_work_it_counts(tmp_path: Path) -> None:
    async with opened(rocksdb, tmp_path, SMALL) as store:
        for round in range(12):
            await store.write([Put(b"%06d" % i, bytes([round]) * 200) for i in range(2_000)])
        await store.compact()
        for _ in range(2):
            assert len([row async for row in store.scan()]) == 2_000
            assert None not in await store.get_many([b"%06d" % i for i in range(2_000)])
        extras = (await store.stats()).extras
        for name in (
            "estimate_num_keys",
            "total_sst_size_bytes",
            "cache_hit",
            "cache_miss",
            "compaction_cpu_micros",
            "compaction_write_bytes",
            "wal_syncs",
        ):
            assert extras[name] > 0, name
        stats = await store.stats()
        assert stats.cache_hits > 0
        assert stats.disk_free_bytes is not None


async def test_level_zero_files_are_counted(tmp_path: Path) -> None:
    async with opened(rocksdb, tmp_path) as store:
        await store.write([Put(b"a", b"v")], Durability.MEMORY)
        await store.write([Put(b"b", b"v")], Durability.DURABLE)
        assert (await store.stats()).extras["num_files_level0"] == 1


async def test_the_metrics_have_the_documented_names(tmp_path: Path) -> None:
    async with opened(rocksdb, tmp_path / "store") as store, component_context(tmp_path / "ctx") as ctx:
        metrics = RocksdbMetrics(ctx)
        await store.write([Put(b"a", b"v")])
        metrics.report(await store.stats())
        metrics.report(await store.stats())
        families = set(ctx.metrics.families)
        assert {f"rocksdb_{name}" for name in GAUGES} <= families
        assert {
            "rocksdb_cache_hit_total",
            "rocksdb_cache_miss_total",
            "rocksdb_cache_hit_rate",
            "rocksdb_compaction_cpu_micros",
            "rocksdb_compaction_write_bytes",
            "rocksdb_write_stall_micros",
        } <= families


async def test_counters_advance_by_what_was_added(tmp_path: Path) -> None:
    async with opened(rocksdb, tmp_path / "store", SMALL) as store, component_context(tmp_path / "c") as ctx:
        metrics = RocksdbMetrics(ctx)
        for round in range(3):
            await store.write([Put(b"%06d" % i, bytes([round]) * 200) for i in range(3_000)])
            await store.compact()
            metrics.report(await store.stats())
        added = [value for _, value, _ in ctx.metrics.families["rocksdb_compaction_write_bytes"].records]
        assert sum(added) == (await store.stats()).extras["compaction_write_bytes"] > 0


def test_statistics_that_are_not_named_count_zero() -> None:
    assert set(parse_statistics("").values()) == {0.0}
    assert parse_statistics("rocksdb.block.cache.hit COUNT : 12\n")["cache_hit"] == 12


async def test_a_small_buffer_stalls_writes_and_loses_none(tmp_path: Path) -> None:
    async with opened(rocksdb, tmp_path, RocksdbConfig(write_buffer_bytes=2**16)) as store:
        for i in range(60):
            await store.write([Put(b"%04d" % i, bytes(60_000))], Durability.BUFFERED)
        assert len([row async for row in store.scan()]) == 60
        assert (await store.stats()).extras["write_stall_micros"] > 0


async def test_reopening_keeps_our_options(tmp_path: Path) -> None:
    for cache_bytes in (2**20, 2**22):
        async with opened(rocksdb, tmp_path, RocksdbConfig(cache_bytes=cache_bytes)) as store:
            await store.write([Put(b"a", b"v")])
            assert await store.get_property("rocksdb.block-cache-capacity") == str(cache_bytes)


@pytest.mark.parametrize("compression", ["snappy", "lz4", "lz4hc", "zstd", "bz2"])
async def test_each_compression_makes_tables_smaller(compression: str, tmp_path: Path) -> None:
    sizes = {}
    for name in ("none", compression):
        config = RocksdbConfig(compression=name)
        async with opened(rocksdb, tmp_path / name, config) as store:
            await store.write([Put(b"%05d" % i, b"the same text " * 20) for i in range(2_000)])
            await store.compact()
            sizes[name] = (await store.stats()).extras["total_sst_size_bytes"]
            assert await store.get(b"00001") == b"the same text " * 20
    assert sizes[compression] < sizes["none"] / 2


def test_a_compression_that_is_not_linked_is_replaced_by_none(tmp_path: Path) -> None:
    asked = []

    def opening(path: str, options: Any, **more: Any) -> Any:
        asked.append(path)
        if len(asked) == 1:
            raise Exception("Invalid argument: Compression type ZSTD is not linked with the binary.")
        return rocksdict.Rdict(path, options, **more)

    engine = RocksdbEngine(tmp_path, RocksdbConfig(compression="zstd"), opening)
    assert engine.compression == "none"
    assert len(asked) == 2
    engine.close()


def test_any_other_error_of_opening_stays_one(tmp_path: Path) -> None:
    def opening(path: str, options: Any, **more: Any) -> Any:
        raise Exception("IO error: While open a file: Input/output error")

    with refused(StoreFailed):
        RocksdbEngine(tmp_path, RocksdbConfig(compression="zstd"), opening)


STATUSES: list[tuple[str, type[StorageError]]] = [
    ("Corruption: block checksum mismatch", StoreCorrupt),
    ("IO error: No such file or directory: While open a file: /x/000009.sst", StoreCorrupt),
    ("IO error: No space left on device: While appending to file: /x/000004.log", DiskFull),
    ("IO error: While appending to file: /x/000004.log: Disk quota exceeded", DiskFull),
    ("IO error: While fdatasync: /x/000004.log: No space left on device", StoreFailed),
    ("IO error: While fsync: /x: Input/output error", StoreFailed),
    ("IO error: While lock file: /x/LOCK: Resource temporarily unavailable", StoreLocked),
    ("IO error: While open a file: /x/000004.log: Read-only file system", ReadOnly),
    ("something never seen before", StoreFailed),
]


@pytest.mark.parametrize(("status", "error"), STATUSES)
def test_a_status_is_told_as_the_contracts_error(status: str, error: type[StorageError]) -> None:
    told = _translate(status, Path("/x"))
    assert type(told) is error
    assert status in str(told)
    assert told.mend


async def test_opened_again_after_a_full_disk_it_shows_all_rows_to_those_who_read_meanwhile(
    tmp_path: Path,
) -> None:
    rows = {b"%03d" % number: b"v" * number for number in range(200)}
    seen = []

    async def read(store: Any) -> None:
        seen.extend([await store.get_many(list(rows)) for _ in range(40)])

    async with opened(rocksdb, tmp_path, SMALL) as store:
        await store.write([Put(key, value) for key, value in rows.items()])
        async with store.snapshot() as old, trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(read, store)
            for number in range(3):
                store._engine._full = True
                await store.write([Put(b"more", b"%d" % number)], Durability.BUFFERED)
                assert not store._engine._full
            with refused(SnapshotExpired):
                await old.get(b"001")
        assert seen == [list(rows.values())] * 160
        assert await store.get(b"more") == b"2"


async def test_rows_that_were_never_logged_keep_it_from_being_opened_again(tmp_path: Path) -> None:
    async with opened(rocksdb, tmp_path) as store:
        await store.write([Put(b"a", b"v")], Durability.MEMORY)
        store._engine._full = True
        with refused(DiskFull):
            await store.write([Put(b"b", b"v")])
        assert await store.get_many([b"a", b"b"]) == [b"v", None]


async def test_it_is_not_opened_again_before_the_disk_gives_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, start: int, size_bytes: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    async with opened(rocksdb, tmp_path) as store, store.snapshot() as view:
        store._engine._full = True
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", full)
            with refused(DiskFull):
                await store.write([Put(b"b", b"v")])
        assert await view.get(b"b") is None
        await store.write([Put(b"b", b"v")])


async def test_a_store_that_cannot_be_opened_again_has_failed_and_lost_nothing(tmp_path: Path) -> None:
    def opening(*_: Any, **__: Any) -> None:
        raise Exception("IO error: No space left on device: While appending")

    async with opened(rocksdb, tmp_path) as store:
        await store.write([Put(b"a", b"v")])
        store._engine._full, store._engine._opening = True, opening
        with refused(StoreFailed):
            await store.write([Put(b"b", b"v")])
        with refused(StoreFailed):
            await store.get(b"a")
    async with opened(rocksdb, tmp_path) as store:
        assert [row async for row in store.scan()] == [(b"a", b"v")]


class FailingLog:
    """The database, but its log can't be synced."""

    def __init__(self, database: Any) -> None:
        self._database = database

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def flush_wal(self, sync: bool) -> None:
        raise Exception("IO error: No space left on device: While syncing the log")


async def test_a_failed_sync_is_final_even_for_want_of_space(tmp_path: Path) -> None:
    async with opened(rocksdb, tmp_path) as store:
        await store.write([Put(b"a", b"v")])
        store._engine._database = FailingLog(store._engine._database)
        await store.write([Put(b"b", b"v")], Durability.BUFFERED)
        with refused(StoreFailed):
            await store.write([Put(b"c", b"v")])
        with refused(StoreFailed):
            await store.get(b"a")
