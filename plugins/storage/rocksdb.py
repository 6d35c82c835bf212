"""Storage in RocksDB, an LSM tree, through the `rocksdict` binding.

The binding holds Python's global lock while it writes, but not while it syncs the log. So a DURABLE batch
is written to the log without a sync, which costs microseconds, and the log is synced by a second call
with the event loop running; a reader may see the batch between the two, its writer returns after both.
For the same reason a write never waits inside RocksDB: where the engine would stall it, the write is
refused and tried again.

A MEMORY batch skips the log. The next batch that does not is preceded by a flush, so that a crash can't
lose the first and keep the second (STO-5).

A full disk leaves a torn record at the end of the log, of a batch that was never acknowledged, and the engine
refuses all writes until it is opened again. So that is what the next write does, once the disk has proved
that it gives room: everything acknowledged is in the log before the torn record, or in tables.
"""

import re
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs

from supervm.api import Component, Context, Role
from supervm.contracts.storage import (
    KEY_BYTES_MAX,
    SNAPSHOT_AGE_S_MAX,
    DeleteRange,
    DiskFull,
    Durability,
    Operation,
    ReadOnly,
    SnapshotExpired,
    StorageError,
    StoreCorrupt,
    StoreFailed,
    StoreLocked,
    StoreStats,
)
from supervm.plugins.storage.binding import Binding
from supervm.plugins.storage.folder import (
    check_free,
    check_marker,
    disk_bytes,
    folder_bytes,
    free_bytes,
    os_error,
    prove_room,
    write_marker,
)
from supervm.plugins.storage.opening import opened_in_folder
from supervm.plugins.storage.rocksdb_stats import RocksdbMetrics, parse_statistics
from supervm.plugins.storage.runs import Deletes, Puts, runs_of
from supervm.plugins.storage.scan import Page, PageBuilder, Span
from supervm.plugins.storage.threaded import Stalled, ThreadedStore

BINDING = Binding("rocksdict", extra="rocksdb", database="RocksDB")
# Not zlib: the binding takes it and compresses nothing.
COMPRESSIONS = ("none", "snappy", "lz4", "lz4hc", "zstd", "bz2")

# What opening again may write beyond the rows that were in memory: tables' indexes, and logs of its own.
REOPEN_BYTES = 16 * 2**20

# Above every key that may be stored: the end of the store, for a range that has none.
ABOVE_ALL = b"\xff" * (KEY_BYTES_MAX + 1)


@attrs.frozen(kw_only=True)
class RocksdbConfig:
    """`path`: folder ("": the component's own). Sizes are bounds: memory is taken as it is used.

    `cache_bytes`: blocks read. `write_buffer_bytes`: one memtable (two at most). `free_bytes_min`: a batch
    that would leave less is refused with `DiskFull` before anything is touched.
    """

    path: str = ""
    cache_bytes: int = attrs.field(default=512 * 2**20, validator=attrs.validators.ge(2**20))
    write_buffer_bytes: int = attrs.field(default=128 * 2**20, validator=attrs.validators.ge(2**16))
    background_jobs_max: int = attrs.field(default=4, validator=attrs.validators.ge(2))
    open_files_max: int = attrs.field(default=1024, validator=attrs.validators.ge(64))
    compression: str = attrs.field(default="none", validator=attrs.validators.in_(COMPRESSIONS))
    bloom_bits_per_key: int = attrs.field(default=10, validator=attrs.validators.ge(0))
    free_bytes_min: int = attrs.field(default=64 * 2**20, validator=attrs.validators.ge(0))
    snapshot_age_s_max: float = attrs.field(default=SNAPSHOT_AGE_S_MAX, validator=attrs.validators.gt(0))
    snapshots_max: int = attrs.field(default=256, validator=attrs.validators.ge(1))


class RocksdbEngine:
    """An `Engine` over one database folder. The caller holds the folder's lock.

    `compression` is what is in use, which is "none" where the asked one is not in this build (STO-16).
    """

    capabilities = frozenset(
        {"persistent", "checkpoint", "compaction", "properties", "delete_range_native", "online_prune"}
    )
    gives: Mapping[Durability, Durability] = {level: level for level in Durability}

    def __init__(
        self, folder: Path, config: RocksdbConfig, open_database: Callable[..., Any] | None = None
    ) -> None:
        import rocksdict

        self._rocksdict = rocksdict
        self._folder = folder
        self._config = config
        self._unlogged = False
        self._full = False
        self._views: weakref.WeakSet[RocksdbView] = weakref.WeakSet()
        self._use = _Use()
        self._opening = open_database or rocksdict.Rdict
        made = check_marker(folder, "rocksdb")
        if made and not (folder / "CURRENT").exists():
            raise StoreCorrupt("the database is gone", folder, "Restore it from a checkpoint.")
        self.compression = config.compression
        with self._errors():
            try:
                self._database, self._options = self._open(made)
            except Exception as error:
                if self.compression == "none" or "not linked" not in str(error):
                    raise
                self.compression = "none"
                self._database, self._options = self._open(made)
        try:
            if not made:
                write_marker(folder, "rocksdb")
            self._write_options = {level: self._options_of(level) for level in Durability}
        except BaseException:
            self._database.close()
            raise

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        # A list is read as one consistent view, and without Python's global lock.
        with self._errors(), self._use.shared():
            values: list[bytes | None] = self._database.get(list(keys))
            return values

    def open_view(self) -> "RocksdbView":
        with self._errors(), self._use.shared():
            view = RocksdbView(self, self._database.iter())
            self._views.add(view)
            return view

    def apply(self, operations: Sequence[Operation], durability: Durability) -> None:
        batch = self._rocksdict.WriteBatch(raw_mode=True)
        put = batch.put
        for run in runs_of(operations):
            match run:
                case Puts(rows):
                    for key, value in rows:
                        put(key, value)
                case Deletes(keys):
                    for key in keys:
                        batch.delete(key)
                case DeleteRange(start, end):
                    if end is None or start < end:
                        batch.delete_range(start, ABOVE_ALL if end is None else end)
        size_bytes = batch.size_in_bytes()
        if self._full:
            self._reopen(size_bytes)
        if operations:
            check_free(self._folder, self._config.free_bytes_min, size_bytes)
        with self._errors():
            if self._unlogged and durability is not Durability.MEMORY:
                self._database.flush()
                self._unlogged = False
            if operations:
                self._write(batch, durability)

    def settle(self, durability: Durability) -> None:
        if durability is Durability.DURABLE:
            try:
                with self._errors():
                    self._database.flush_wal(True)
            except StorageError as error:
                # The batch is already visible: even for want of space, this can't be undone.
                raise StoreFailed(error.problem, error.subject, error.mend) from error

    def checkpoint(self, path: Path) -> None:
        with self._errors(), self._use.shared():
            # What is still in memory is written here without the global lock, not by the next call with it.
            self._database.flush()
            self._rocksdict.Checkpoint(self._database).create_checkpoint(str(path))
        write_marker(path, "rocksdb")

    def compact(self, start: bytes, end: bytes | None) -> None:
        with self._errors(), self._use.shared():
            self._database.compact_range(start, end)

    def get_property(self, name: str) -> str | None:
        with self._errors(), self._use.shared():
            value: str | None = self._database.property_value(name)
            return value

    def stats(self) -> StoreStats:
        with self._errors(), self._use.shared():
            number = self._database.property_int_value
            counted = parse_statistics(self._options.get_statistics() or "")
            sst_bytes = number("rocksdb.total-sst-files-size") or 0
            extras = {
                "estimate_num_keys": float(number("rocksdb.estimate-num-keys") or 0),
                "total_sst_size_bytes": float(sst_bytes),
                "compaction_pending": float(number("rocksdb.compaction-pending") or 0),
                "num_files_level0": float(self._database.property_value("rocksdb.num-files-at-level0") or 0),
                "num_immutable_mem_table": float(number("rocksdb.num-immutable-mem-table") or 0),
                "memtable_bytes": float(number("rocksdb.cur-size-all-mem-tables") or 0),
                "block_cache_bytes": float(number("rocksdb.block-cache-usage") or 0),
                **counted,
            }
        return StoreStats(
            keys_estimate=int(extras["estimate_num_keys"]),
            bytes=folder_bytes(self._folder),
            cache_hits=int(counted["cache_hit"]),
            cache_misses=int(counted["cache_miss"]),
            disk_free_bytes=free_bytes(self._folder),
            disk_bytes=disk_bytes(self._folder),
            disk_kept_bytes=self._config.free_bytes_min,
            extras=extras,
        )

    def close(self) -> None:
        """Close the database. What could not be flushed is in the log and is read from there next time."""
        with self._errors():
            self._database.close()

    def _reopen(self, wanted_bytes: int) -> None:
        """Open the database again, which ends its refusal to write. Raises `DiskFull` while there is no room.

        Views don't outlive it. Nor would a MEMORY batch that is in no table yet, for which it stays shut.
        """
        if self._unlogged:
            raise DiskFull(
                "the disk was full, and rows that were never logged would be lost by opening the store again",
                self._folder,
                "Restart the node.",
            )
        in_memory = self._database.property_int_value("rocksdb.cur-size-all-mem-tables") or 0
        prove_room(self._folder, wanted_bytes + in_memory + REOPEN_BYTES + self._config.free_bytes_min)
        with self._use.alone():
            for view in tuple(self._views):
                view.expire()
            try:
                self._database.close()
            except Exception as error:
                # What could not be flushed now is in the log, from which opening takes it.
                if not any(text in str(error) for text in (*NO_SPACE, "Writer has previous error")):
                    raise StoreFailed(str(error), self._folder, "Check the disk.") from error
            try:
                self._database, self._options = self._open(made=True)
            except Exception as error:
                raise StoreFailed(
                    f"it could not be opened again after the disk was full: {error}",
                    self._folder,
                    "Free some of the disk and restart the node; nothing acknowledged is lost.",
                ) from error
        self._full = False

    def _open(self, made: bool) -> tuple[Any, Any]:
        options = self._database_options(made)
        # Named, because else the options stored with the database would replace ours when it is reopened.
        database = self._opening(str(self._folder), options, column_families={"default": options})
        return database, options

    def _database_options(self, made: bool) -> Any:
        binding, config = self._rocksdict, self._config
        options = binding.Options(raw_mode=True)
        # A folder that had a database once must have it still.
        options.create_if_missing(not made)
        options.enable_statistics()
        options.set_stats_dump_period_sec(0)
        options.set_stats_persist_period_sec(0)
        options.set_paranoid_checks(True)
        options.set_keep_log_file_num(4)
        options.set_max_log_file_size(2**20)
        options.set_max_open_files(config.open_files_max)
        options.set_max_background_jobs(config.background_jobs_max)
        options.set_write_buffer_size(config.write_buffer_bytes)
        options.set_max_write_buffer_number(2)
        options.set_bytes_per_sync(2**20)
        options.set_level_compaction_dynamic_level_bytes(True)
        options.set_compression_type(getattr(binding.DBCompressionType, self.compression)())
        table = binding.BlockBasedOptions()
        table.set_block_cache(binding.Cache(config.cache_bytes))
        # Indexes and filters count as cache, so that `cache_bytes` bounds them too.
        table.set_cache_index_and_filter_blocks(True)
        table.set_pin_l0_filter_and_index_blocks_in_cache(True)
        if config.bloom_bits_per_key:
            table.set_bloom_filter(config.bloom_bits_per_key, False)
        options.set_block_based_table_factory(table)
        return options

    def _options_of(self, durability: Durability) -> Any:
        options = self._rocksdict.WriteOptions()
        options.no_slowdown = True
        options.disable_wal = durability is Durability.MEMORY  # type: ignore[method-assign, assignment]
        return options

    def _write(self, batch: Any, durability: Durability) -> None:
        try:
            self._database.write(batch, self._write_options[durability])
        except Exception as error:
            if str(error).startswith(("Result incomplete", "Incomplete")):
                raise Stalled from None
            self._full = True
            raise
        if durability is Durability.MEMORY:
            self._unlogged = True

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """The binding raises bare `Exception` with RocksDB's status as text; this makes it the contract's."""
        try:
            yield
        except (StorageError, Stalled):
            raise
        except OSError as error:
            raise os_error(error, self._folder) from error
        except Exception as error:
            raise _translate(str(error), self._folder) from error


class _Use:
    """Any number of threads use the database, or one replaces it, who goes first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = 0
        self._replacing = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            while self._replacing:
                self._changed.wait()
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._replacing = True
            while self._users:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self._replacing = False
                self._changed.notify_all()


class RocksdbView:
    """One iterator, which keeps seeing the rows as they were when it was made.

    Not the binding's `Snapshot`: up to 0.3.29 its iterators ignore the snapshot and see later writes, and
    `ReadOptions` takes a lower bound for an upper one. So a view has no bounds either, and compares keys.
    An iterator keeps the database open: it must be closed before that.
    """

    def __init__(self, engine: RocksdbEngine, rows: Any) -> None:
        self._engine = engine
        self._rows = rows
        self._lock = threading.Lock()
        self._expired = False

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        values: list[bytes | None] = []
        with self._lock, self._engine._errors():
            rows = self._held()
            for key in keys:
                rows.seek(key)
                if rows.valid():
                    values.append(rows.value() if rows.key() == key else None)
                else:
                    rows.status()
                    values.append(None)
        return values

    def page(self, span: Span) -> Page:
        page = PageBuilder(span)
        with self._lock, self._engine._errors():
            rows = self._held()
            self._seek(span)
            step = rows.prev if span.reverse else rows.next
            while rows.valid():
                key = rows.key()
                if key < span.start if span.reverse else span.end is not None and key >= span.end:
                    return Page(page.rows, False)
                if page.take(key, rows.value()):
                    return Page(page.rows, True)
                step()
            # An iterator stops at a damaged block as it does at its end; only the status tells.
            rows.status()
        return Page(page.rows, False)

    def close(self) -> None:
        """Release what the view keeps from being deleted."""
        self._rows = None

    def expire(self) -> None:
        """Close it under whoever reads it, who is told so."""
        with self._lock:
            self._rows, self._expired = None, True

    def _held(self) -> Any:
        if self._expired:
            raise SnapshotExpired(
                "the store was opened again after its disk was full", self._engine._folder, "Take another."
            )
        return self._rows

    def _seek(self, span: Span) -> None:
        """To the first row of the span, from its own side."""
        rows = self._rows
        if not span.reverse:
            rows.seek(span.start)
        elif span.end is None:
            rows.seek_to_last()
        else:
            rows.seek_for_prev(span.end)
            if rows.valid() and rows.key() == span.end:
                rows.prev()


NO_SPACE = ("No space left on device", "File too large", "Disk quota exceeded", "NoSpace")
DENIED = ("Permission denied", "Read-only file system", "Operation not permitted")
GONE = ("No such file or directory", "does not exist", "file size mismatch")


def _translate(status: str, folder: Path) -> StorageError:
    """The contract's error for one of RocksDB's status texts."""
    if status.startswith("Corruption") or any(text in status for text in GONE):
        return StoreCorrupt(status, folder, "Restore it from a checkpoint; nothing is repaired by guessing.")
    if re.search(r"While f(data)?sync|While sync|While fallocate", status):
        return StoreFailed(status, folder, "Check the disk.")
    if any(text in status for text in NO_SPACE):
        return DiskFull(status, folder, "Free some: it goes on by itself once there is room.")
    if "No locks available" in status or "While lock file" in status:
        return StoreLocked(status, folder, "Stop the program that has it open.")
    if any(text in status for text in DENIED):
        return ReadOnly(status, folder, "Make the folder and its files writable for this user.")
    return StoreFailed(status, folder, "Check the disk.")


@asynccontextmanager
async def open_rocksdb(ctx: Context, config: RocksdbConfig) -> AsyncIterator[ThreadedStore]:
    """Open the store in its folder, making it on first use.

    Raises `Unsupported` where the binding is not installed, and any `StorageError`.
    """
    await BINDING.load()
    async with opened_in_folder(ctx, config, RocksdbEngine, RocksdbMetrics(ctx).report) as (store, engine):
        if (used := engine.compression) != config.compression:
            ctx.log.warning("compression_unavailable", asked=config.compression, used=used)
            ctx.publish(
                "mode_changed",
                component=f"{ctx.role}.{ctx.name}",
                old=config.compression,
                new=used,
                cause="this build has no such compressor",
            )
        yield store


rocksdb = Component(
    role=Role.STORAGE,
    name="rocksdb",
    open=open_rocksdb,
    config=RocksdbConfig,
    features=RocksdbEngine.capabilities,
    available=BINDING.missing,
    description="An LSM tree for nodes that keep much state; needs the rocksdict package.",
)
