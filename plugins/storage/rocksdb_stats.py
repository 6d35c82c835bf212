"""RocksDB's own counters as the metrics of OBS-14."""

import re
from collections.abc import Mapping

from supervm.api import Context
from supervm.contracts.storage import StoreStats

# Ours -> (RocksDB's ticker or histogram, which of its numbers).
COUNTED = {
    "cache_hit": ("rocksdb.block.cache.hit", "COUNT"),
    "cache_miss": ("rocksdb.block.cache.miss", "COUNT"),
    "compaction_cpu_micros": ("rocksdb.compaction.times.cpu_micros", "SUM"),
    "compaction_write_bytes": ("rocksdb.compact.write.bytes", "COUNT"),
    "flush_write_bytes": ("rocksdb.flush.write.bytes", "COUNT"),
    "wal_syncs": ("rocksdb.wal.synced", "COUNT"),
    "wal_bytes": ("rocksdb.wal.bytes", "COUNT"),
    "bytes_written": ("rocksdb.bytes.written", "COUNT"),
}

GAUGES = {
    "estimate_num_keys": "Keys, as RocksDB estimates them",
    "total_sst_size_bytes": "Bytes of all table files",
    "compaction_pending": "1 while a compaction waits",
    "num_files_level0": "Table files at level 0",
    "num_immutable_mem_table": "Memtables that wait to be flushed",
}


def parse_statistics(text: str) -> dict[str, float]:
    """The counters of `COUNTED` from RocksDB's statistics text; 0 where it doesn't name one."""
    lines: dict[str, str] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        lines[name] = rest
    found = {}
    for ours, (theirs, field) in COUNTED.items():
        match = re.search(rf"\b{field} : (\d+)", lines.get(theirs, ""))
        found[ours] = float(match[1]) if match else 0.0
    return found


class RocksdbMetrics:
    """Sets `rocksdb_*` from each `StoreStats`; counters advance by what was added since the last one."""

    def __init__(self, ctx: Context) -> None:
        metrics = ctx.metrics
        self._gauges = {name: metrics.gauge(f"rocksdb_{name}", help) for name, help in GAUGES.items()}
        self._counters = {
            "cache_hit": metrics.counter("rocksdb_cache_hit_total", "Blocks found in the cache"),
            "cache_miss": metrics.counter("rocksdb_cache_miss_total", "Blocks read from files"),
            "compaction_cpu_micros": metrics.counter(
                "rocksdb_compaction_cpu_micros", "Processor time of compactions"
            ),
            "compaction_write_bytes": metrics.counter(
                "rocksdb_compaction_write_bytes", "Bytes that compactions wrote"
            ),
            "write_stall_micros": metrics.counter(
                "rocksdb_write_stall_micros", "Time that writes waited for flushes or compactions"
            ),
        }
        self._stalled_s = metrics.counter(
            "rocksdb_write_stall_seconds", "The same as rocksdb_write_stall_micros, in seconds"
        )
        self._hit_rates = (
            metrics.gauge("rocksdb_cache_hit_rate", "Hits over hits and misses"),
            metrics.gauge("rocksdb_block_cache_hit_rate", "The same as rocksdb_cache_hit_rate"),
        )
        self._last = dict.fromkeys(self._counters, 0.0)

    def report(self, stats: StoreStats) -> None:
        """Take over one reading."""
        extras: Mapping[str, float] = stats.extras
        for name, gauge in self._gauges.items():
            gauge.set(extras[name])
        for name, counter in self._counters.items():
            added = max(extras[name] - self._last[name], 0.0)
            counter.inc(added)
            if name == "write_stall_micros":
                self._stalled_s.inc(added / 1e6)
            self._last[name] = extras[name]
        asked = stats.cache_hits + stats.cache_misses
        for hit_rate in self._hit_rates:
            hit_rate.set(stats.cache_hits / asked if asked else 0.0)
