"""What every backend measures (OBS-14): how long reads, writes and syncs took, bytes, free space."""

from collections.abc import Iterator
from contextlib import contextmanager

from supervm.api import Context
from supervm.contracts.storage import Durability, StoreStats


class Latency:
    """The metric families of `supervm_storage_*`, in milliseconds by the context's clock."""

    def __init__(self, ctx: Context) -> None:
        self._now = ctx.clock.monotonic
        metrics = ctx.metrics
        self._write = metrics.summary(
            "supervm_storage_write_ms", "Milliseconds until a batch was acknowledged", ("durability",)
        )
        self._sync = metrics.summary(
            "supervm_storage_sync_ms", "Milliseconds in which a group of batches was applied and synced"
        )
        self._read = metrics.summary("supervm_storage_read_ms", "Milliseconds of one read or page")
        self._bytes = metrics.gauge("supervm_storage_bytes", "Bytes that the store takes")
        self._corruptions = metrics.counter(
            "supervm_storage_corruptions_total", "Reads that met damaged data"
        )
        self._free = metrics.gauge("supervm_storage_disk_free_bytes", "Bytes free on the store's disk")
        self._snapshots = metrics.gauge("supervm_storage_snapshots", "Snapshots and scans that are open")

    @contextmanager
    def read(self) -> Iterator[None]:
        """Measure one read that succeeds."""
        began = self._now()
        yield
        self._read.observe((self._now() - began) * 1000)

    @contextmanager
    def write(self, durability: Durability) -> Iterator[None]:
        """Measure one batch that is acknowledged."""
        began = self._now()
        yield
        self._write.observe((self._now() - began) * 1000, durability=durability.name.lower())

    def synced(self, seconds: float) -> None:
        """Record one group that was applied and synced."""
        self._sync.observe(seconds * 1000)

    def corrupted(self) -> None:
        """Count one read that met damaged data."""
        self._corruptions.inc()

    def record(self, stats: StoreStats) -> None:
        """Set the gauges that any backend has."""
        self._bytes.set(stats.bytes)
        self._snapshots.set(stats.snapshots_open)
        if stats.disk_free_bytes is not None:
            self._free.set(stats.disk_free_bytes)
