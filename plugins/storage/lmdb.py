"""Storage in LMDB, a B+tree in one memory-mapped file, through the `lmdb` binding.

Every batch is one transaction whose commit syncs the file, whatever level is asked: LMDB's unsynced modes
may leave a torn tree after power loss, which would take with it what was DURABLE before (STO-17).

A write transaction belongs to the thread that began it. So `apply` only keeps a batch, and `settle` writes
and commits it in one call.

The file is mapped whole. The map is as large as `map_bytes` at first, which costs address space and nothing
else, and doubles once it is 80 % full. LMDB can't move a map while a view of it is open: the map then grows
after the next write without one, and a map that is full before that refuses writes with `DiskFull`.
"""

import errno
import mmap
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

from supervm.api import Component, Context, Role
from supervm.contracts.storage import (
    FORMAT,
    SNAPSHOT_AGE_S_MAX,
    DeleteRange,
    DiskFull,
    Durability,
    Operation,
    StorageError,
    StoreCorrupt,
    StoreFailed,
    StoreLocked,
    StoreStats,
    StoreTooNew,
)
from supervm.plugins.storage.binding import Binding
from supervm.plugins.storage.folder import (
    check_marker,
    check_room,
    disk_bytes,
    folder_bytes,
    free_bytes,
    os_error,
    write_marker,
)
from supervm.plugins.storage.opening import opened_in_folder
from supervm.plugins.storage.runs import Deletes, Puts, runs_of
from supervm.plugins.storage.scan import Page, PageBuilder, Span
from supervm.plugins.storage.threaded import READERS, ThreadedStore

BINDING = Binding("lmdb", extra="lmdb", database="LMDB")
FILE = "data.mdb"
ROWS = b"rows"
# In the nameless database, beside the entry of `rows`: what tells our store from another program's.
MARK = b"supervm store"
MAP_BYTES_LIMIT = 2**46
FULL_SHARE = 0.8
GROW_WAIT_S = 5.0
# LMDB flushes at most 64 pages by one call.
WRITTEN_AT_ONCE = 2**20


@attrs.frozen(kw_only=True)
class LmdbConfig:
    """`path`: folder ("": the component's own). `map_bytes`: address space to begin with, in whole pages.

    The map grows up to `map_bytes_max`. `readers_max`: slots for views, of which reads take 8.
    `free_bytes_min`: a batch that would leave less is refused with `DiskFull` before anything is touched.
    """

    path: str = ""
    map_bytes: int = attrs.field(
        default=64 * 2**30,
        validator=[attrs.validators.ge(2**20), attrs.validators.le(MAP_BYTES_LIMIT)],
    )
    map_bytes_max: int = attrs.field(
        default=MAP_BYTES_LIMIT,
        validator=[attrs.validators.ge(2**20), attrs.validators.le(MAP_BYTES_LIMIT)],
    )
    readers_max: int = attrs.field(
        default=126, validator=[attrs.validators.gt(READERS), attrs.validators.le(4096)]
    )
    free_bytes_min: int = attrs.field(default=64 * 2**20, validator=attrs.validators.ge(0))
    snapshot_age_s_max: float = attrs.field(default=SNAPSHOT_AGE_S_MAX, validator=attrs.validators.gt(0))
    snapshots_max: int = attrs.field(default=64, validator=attrs.validators.ge(1))

    def __attrs_post_init__(self) -> None:
        if self.snapshots_max + READERS > self.readers_max:
            raise ValueError(
                f"snapshots_max and {READERS} reads do not fit in readers_max {self.readers_max}"
            )
        if self.map_bytes % mmap.PAGESIZE or self.map_bytes > self.map_bytes_max:
            raise ValueError(f"map_bytes is a multiple of {mmap.PAGESIZE}, at most map_bytes_max")


class LmdbEngine:
    """An `Engine` over one environment folder. The caller holds the folder's lock."""

    capabilities = frozenset({"persistent", "checkpoint", "delete_range_native", "online_prune"})
    gives: Mapping[Durability, Durability] = dict.fromkeys(Durability, Durability.DURABLE)

    def __init__(self, folder: Path, config: LmdbConfig) -> None:
        import lmdb

        self._lmdb = lmdb
        self._folder = folder
        self._file = folder / FILE
        self._config = config
        self._pending: Sequence[Operation] = ()
        self._changed = threading.Condition()
        self._reads = 0
        self._views = 0
        self._growing = False
        self._patience_s = GROW_WAIT_S
        self.growths = 0
        made = check_marker(folder, "lmdb")
        if made and not self._file.exists():
            raise StoreCorrupt("the database file is gone", self._file, "Restore it from a checkpoint.")
        if self._file.exists() and (self._file.is_dir() or (made and not self._file.stat().st_size)):
            raise StoreCorrupt("this is no database file", self._file, "Restore it from a checkpoint.")
        with self._errors():
            self._environment = self._open()
        try:
            with self._errors():
                self._check_length()
                self._rows = self._prepare()
                # Whoever held a slot before us is dead: the folder is ours alone.
                self._environment.reader_check()
            if not made:
                write_marker(folder, "lmdb")
        except BaseException:
            self._environment.close()
            raise

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._errors(), self._reading(), self._environment.begin(db=self._rows) as transaction:
            return list(map(transaction.get, keys))

    def open_view(self) -> "LmdbView":
        with self._errors():
            self._begin_view()
            try:
                return LmdbView(self, self._environment.begin(db=self._rows))
            except BaseException:
                self._end_view()
                raise

    def apply(self, operations: Sequence[Operation], durability: Durability) -> None:
        check_room(self._folder, self._config.free_bytes_min, operations)
        self._pending = operations

    def settle(self, durability: Durability) -> None:
        operations, self._pending = self._pending, ()
        if not operations:
            return  # every batch before this one was synced by its own commit
        if self._used_bytes() > FULL_SHARE * self._map_bytes():
            with suppress(MapFull):
                self._grow(wait_s=0.0)
        while True:
            try:
                with self._errors():
                    self._write(operations)
                return
            except MapFull:
                if not self._grow(wait_s=self._patience_s):
                    raise
            except DiskFull:
                # The meta page is written last. Should it have been that one, nothing can begin any more.
                with self._errors():
                    self._environment.begin(write=True).abort()
                raise

    def checkpoint(self, path: Path) -> None:
        path.mkdir(mode=0o700)
        with self._errors():
            # As long as the copy is made, it is a view like another.
            self._begin_view()
            try:
                # Without the free pages, which makes the copy smaller than the file.
                self._environment.copy(str(path), compact=True)
            finally:
                self._end_view()
        write_marker(path, "lmdb")

    def compact(self, start: bytes, end: bytes | None) -> None:
        # Free pages are used again; the file doesn't shrink.
        raise AssertionError("not a capability of this engine")

    def get_property(self, name: str) -> str | None:
        raise AssertionError("not a capability of this engine")

    def stats(self) -> StoreStats:
        with self._errors(), self._reading(), self._environment.begin(db=self._rows) as transaction:
            tree = transaction.stat(self._rows)
            readers = self._environment.info()["num_readers"]
        return StoreStats(
            keys_estimate=tree["entries"],
            bytes=folder_bytes(self._folder),
            disk_free_bytes=free_bytes(self._folder),
            disk_bytes=disk_bytes(self._folder),
            disk_kept_bytes=self._config.free_bytes_min,
            extras={
                "lmdb_map_bytes": float(self._map_bytes()),
                "lmdb_used_bytes": float(self._used_bytes()),
                "lmdb_map_growths": float(self.growths),
                "lmdb_readers": float(readers),
                "lmdb_depth": float(tree["depth"]),
                "lmdb_pages": float(tree["branch_pages"] + tree["leaf_pages"] + tree["overflow_pages"]),
            },
        )

    def close(self) -> None:
        """Close the environment; every commit was synced."""
        self._environment.close()

    def _open(self) -> Any:
        config = self._config
        return self._lmdb.open(
            str(self._folder),
            map_size=config.map_bytes,
            mode=0o600,
            create=True,
            max_dbs=1,
            max_readers=config.readers_max,
            max_spare_txns=READERS,
            # Said here though they are the defaults: our promises stand on them.
            sync=True,
            metasync=True,
            writemap=False,
            lock=True,
        )

    def _check_length(self) -> None:
        """A page beyond the end of the file would end the process, not the call, when it is read."""
        length = self._file.stat().st_size
        if length < self._used_bytes():
            raise StoreCorrupt(
                f"the file has {length} bytes of {self._used_bytes()}",
                self._file,
                "Restore it from a checkpoint.",
            )

    def _prepare(self) -> Any:
        """Check that the environment is a store of a known format, or make it one; the rows' handle."""
        environment = self._environment
        with environment.begin() as transaction:
            mark = transaction.get(MARK)
            entries = transaction.stat()["entries"]
        if mark is None and entries:
            raise StoreCorrupt("another program's database", self._file, "Name another folder.")
        if mark is not None and int.from_bytes(mark, "little") > FORMAT:
            raise StoreTooNew(
                f"format {int.from_bytes(mark, 'little')} is newer than {FORMAT}",
                self._file,
                "Run a newer program.",
            )
        if mark is None:
            with environment.begin(write=True) as transaction:
                environment.open_db(ROWS, txn=transaction, create=True)
                transaction.put(MARK, FORMAT.to_bytes(4, "little"))
        try:
            return environment.open_db(ROWS, create=False)
        except self._lmdb.NotFoundError:
            raise StoreCorrupt("the rows are gone", self._file, "Restore it from a checkpoint.") from None

    def _write(self, operations: Sequence[Operation]) -> None:
        """One transaction; leaving it by an error takes it back."""
        with self._environment.begin(write=True, db=self._rows) as transaction:
            for run in runs_of(operations):
                match run:
                    case Puts(rows):
                        # So that the loop over the rows is not ours. It takes tuples, and no heirs of them.
                        transaction.cursor().putmulti([(key, value) for key, value in rows])
                    case Deletes(keys):
                        for key in keys:
                            transaction.delete(key)
                    case DeleteRange():
                        self._delete_range(transaction, run)

    def _delete_range(self, transaction: Any, span: DeleteRange) -> None:
        start, end = span.start, span.end
        if not start and end is None:
            transaction.drop(self._rows, delete=False)
            return
        cursor = transaction.cursor()
        found = cursor.set_range(start) if start else cursor.first()
        while found and (end is None or cursor.key() < end):
            # Leaves the cursor at the row after, and says whether there was one to delete.
            cursor.delete()
            found = bool(cursor.key())

    def _grow(self, wait_s: float) -> bool:
        """Double the map, if no view is open or the last is closed within `wait_s`; whether it was done.

        Raises `MapFull` where the limit, or the machine's address space, is met.
        """
        old = self._map_bytes()
        wanted = min(2 * old, self._config.map_bytes_max)
        if wanted <= old or not _fits(wanted):
            raise MapFull(
                f"the map of {old} bytes is full, and can't grow",
                self._file,
                "Delete rows, raise map_bytes_max, or let this process have more address space.",
            )
        with self._changed:
            # Views may take minutes, and whoever opens one need not wait for those of others.
            if not self._changed.wait_for(lambda: not self._views, timeout=wait_s):
                # Whoever writes next is told at once, until the views are gone.
                self._patience_s = 0.0
                return False
            # Reads are over in a moment, so that new ones, and new views, wait for those under way.
            self._growing = True
            self._changed.wait_for(lambda: not self._reads)
        try:
            with self._errors():
                self._environment.set_mapsize(wanted)
        finally:
            with self._changed:
                self._growing = False
                self._changed.notify_all()
        self.growths += 1
        return True

    def _begin_view(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._growing)
            self._views += 1

    def _end_view(self) -> None:
        with self._changed:
            self._views -= 1
            if not self._views:
                self._patience_s = GROW_WAIT_S
                self._changed.notify_all()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._growing)
            self._reads += 1
        try:
            yield
        finally:
            with self._changed:
                self._reads -= 1
                if not self._reads:
                    self._changed.notify_all()

    def _map_bytes(self) -> int:
        return int(self._environment.info()["map_size"])

    def _used_bytes(self) -> int:
        """Up to the last page that was ever used; free ones within count."""
        return (int(self._environment.info()["last_pgno"]) + 1) * int(self._environment.stat()["psize"])

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """LMDB's errors as the contract's."""
        try:
            yield
        except self._lmdb.Error as error:
            raise self._translate(error) from error
        except OSError as error:
            raise os_error(error, self._file) from error

    def _translate(self, error: Any) -> StorageError:
        lmdb, code = self._lmdb, getattr(error, "code", 0) or 0
        if isinstance(error, lmdb.MapFullError):
            return MapFull(
                f"the map of {self._map_bytes()} bytes is full under {self._views} open views",
                self._file,
                "Close snapshots and scans, or begin with a larger map_bytes.",
            )
        if isinstance(error, lmdb.VersionMismatchError):
            return StoreTooNew(str(error), self._file, "Run a newer program.")
        if isinstance(error, lmdb.InvalidError | lmdb.CorruptedError | lmdb.PageNotFoundError):
            return StoreCorrupt(
                str(error), self._file, "Restore it from a checkpoint; nothing is repaired by guessing."
            )
        if code == errno.EIO and free_bytes(self._folder) < WRITTEN_AT_ONCE:
            # What LMDB says when the disk took a part of a write. No transaction is there to be undone:
            # the meta page, which makes one visible, is only written after everything else.
            code = errno.ENOSPC
        if code == errno.ENOMEM:
            return StorageError(
                f"{error}: the map can't be had", self._file, "Lower map_bytes to what this process may map."
            )
        if code in (errno.EAGAIN, errno.EBUSY):
            return StoreLocked(str(error), self._file, "Stop the program that has it open.")
        if code > 0:
            return os_error(OSError(code, str(error)), self._file)
        return StoreFailed(str(error), self._file, "Check the disk.")


class MapFull(DiskFull):
    """The map has no room for a batch, which was taken back whole."""


class LmdbView:
    """A read transaction that stays open. What it sees stays in the file until it is closed."""

    def __init__(self, engine: LmdbEngine, transaction: Any) -> None:
        self._engine = engine
        self._transaction = transaction
        # Tasks that share a snapshot read it in turns.
        self._lock = threading.Lock()

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._lock, self._engine._errors():
            return list(map(self._transaction.get, keys))

    def page(self, span: Span) -> Page:
        page = PageBuilder(span)
        with self._lock, self._engine._errors(), self._transaction.cursor() as cursor:
            if not _seek(cursor, span):
                return Page(page.rows, False)
            rows = cursor.iterprev() if span.reverse else cursor.iternext()
            for key, value in rows:
                if key < span.start if span.reverse else span.end is not None and key >= span.end:
                    return Page(page.rows, False)
                if page.take(key, value):
                    return Page(page.rows, True)
        return Page(page.rows, False)

    def close(self) -> None:
        """End the transaction, so that pages may be used again and the map may grow."""
        self._transaction.abort()
        self._engine._end_view()


def _seek(cursor: Any, span: Span) -> bool:
    """To the first row of the span, from its own side; whether there is one on that side."""
    if not span.reverse:
        return bool(cursor.set_range(span.start) if span.start else cursor.first())
    if span.end is None:
        return bool(cursor.last())
    if not span.end:
        return False
    return bool(cursor.prev() if cursor.set_range(span.end) else cursor.last())


def _fits(map_bytes: int) -> bool:
    """Whether this process may map so much. LMDB gives up the old map before it asks for the new one."""
    try:
        mmap.mmap(-1, map_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE, prot=0).close()
    except (OSError, OverflowError, ValueError):
        return False
    return True


NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0)


class LmdbMetrics:
    """Sets `lmdb_*` from each `StoreStats`."""

    def __init__(self, ctx: Context) -> None:
        gauge = ctx.metrics.gauge
        self._gauges = {
            "lmdb_map_bytes": gauge("lmdb_map_bytes", "Bytes of address space that the map takes"),
            "lmdb_used_bytes": gauge("lmdb_used_bytes", "Bytes of the map that were ever used"),
            "lmdb_map_growths": gauge("lmdb_map_growths", "How often the map was doubled since opening"),
            "lmdb_readers": gauge("lmdb_readers", "Slots of the reader table that were ever used"),
            "lmdb_pages": gauge("lmdb_pages", "Pages of the tree of rows"),
        }

    def report(self, stats: StoreStats) -> None:
        """Take over one reading."""
        for name, series in self._gauges.items():
            series.set(stats.extras[name])


@asynccontextmanager
async def open_lmdb(ctx: Context, config: LmdbConfig) -> AsyncIterator[ThreadedStore]:
    """Open the store in its folder, making it on first use.

    Raises `Unsupported` where the binding is not installed, and any `StorageError`.
    """
    await BINDING.load()
    async with opened_in_folder(ctx, config, LmdbEngine, LmdbMetrics(ctx).report) as (store, _):
        yield store


lmdb = Component(
    role=Role.STORAGE,
    name="lmdb",
    open=open_lmdb,
    config=LmdbConfig,
    features=LmdbEngine.capabilities,
    available=BINDING.missing,
    description="A memory-mapped B+tree: reads without copies of pages, one writer; needs the lmdb package.",
)
