"""Storage in SQLite, used as a key-value file: one table, one writer, readers beside it (WAL mode).

A DURABLE batch is committed with synchronous FULL, so that the log is synced before the commit returns;
a BUFFERED one with NORMAL. MEMORY is served as BUFFERED: with synchronous OFF a checkpoint of the log
would write database pages ahead of the log, and power loss could then tear what was DURABLE before.
Memory: each connection has a page cache of its own, filled as it reads.
"""

import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import attrs

from supervm.api import Component, Context, Role
from supervm.contracts.storage import (
    FORMAT,
    SNAPSHOT_AGE_S_MAX,
    DeleteRange,
    DiskFull,
    Durability,
    Operation,
    ReadOnly,
    StorageError,
    StoreCorrupt,
    StoreFailed,
    StoreLocked,
    StoreStats,
    StoreTooNew,
)
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
from supervm.plugins.storage.runs import Deletes, Puts, Run, runs_of
from supervm.plugins.storage.scan import Page, PageBuilder, Span
from supervm.plugins.storage.threaded import READERS, ThreadedStore

FILE = "store.sqlite"
APPLICATION_ID = 0x53565031  # "SVP1", so that another program's database is never taken for a store
PAGE_BYTES = 4096
COUNTED_ROWS_MAX = 100_000
LOG_BYTES_KEPT = 64 * 2**20

SELECT = "SELECT v FROM kv WHERE k = ?"
UPSERT = "INSERT INTO kv (k, v) VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET v = excluded.v"


@attrs.frozen(kw_only=True)
class SqliteConfig:
    """`path`: folder ("": the component's own). `cache_bytes`: half the writer's, half the readers'.

    `checkpoint_pages`: length of the log at which its pages move to the database. `free_bytes_min`: a
    batch that would leave less is refused with `DiskFull` before anything is touched.
    """

    path: str = ""
    cache_bytes: int = attrs.field(default=100 * 2**20, validator=attrs.validators.ge(2**20))
    checkpoint_pages: int = attrs.field(default=1000, validator=attrs.validators.ge(1))
    busy_ms_max: int = attrs.field(default=5000, validator=attrs.validators.ge(0))
    free_bytes_min: int = attrs.field(default=64 * 2**20, validator=attrs.validators.ge(0))
    snapshot_age_s_max: float = attrs.field(default=SNAPSHOT_AGE_S_MAX, validator=attrs.validators.gt(0))
    snapshots_max: int = attrs.field(default=64, validator=attrs.validators.ge(1))


class SqliteEngine:
    """An `Engine` over one database file. The caller holds the folder's lock."""

    capabilities = frozenset({"persistent", "checkpoint", "delete_range_native", "online_prune"})
    gives: Mapping[Durability, Durability] = {
        Durability.MEMORY: Durability.BUFFERED,
        Durability.BUFFERED: Durability.BUFFERED,
        Durability.DURABLE: Durability.DURABLE,
    }

    def __init__(self, folder: Path, config: SqliteConfig) -> None:
        self._folder = folder
        self._file = folder / FILE
        self._config = config
        self._synchronous = ""
        self._readers: list[sqlite3.Connection] = []
        self._readers_lock = threading.Lock()
        made = check_marker(folder, "sqlite")
        if made and not self._file.exists():
            raise StoreCorrupt("the database file is gone", self._file, "Restore it from a checkpoint.")
        if self._file.is_dir():
            raise StoreCorrupt("the database file is a folder", self._file, "Restore it from a checkpoint.")
        with self._errors():
            self._writer = self._connect(config.cache_bytes // 2)
        try:
            with self._errors():
                self._prepare()
            if not made:
                write_marker(folder, "sqlite")
        except BaseException:
            self._writer.close()
            raise

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._errors():
            connection = self._take_reader()
            try:
                # One statement is one view; more need a transaction around them.
                if len(keys) > 1:
                    connection.execute("BEGIN")
                return _get_many(connection, keys)
            finally:
                self._return_reader(connection)

    def open_view(self) -> "SqliteView":
        with self._errors():
            connection = self._take_reader()
            try:
                connection.execute("BEGIN")
                # The view begins with the first read, not with BEGIN.
                connection.execute("SELECT 1 FROM kv LIMIT 1").fetchone()
            except BaseException:
                connection.close()
                raise
            return SqliteView(self, connection)

    def apply(self, operations: Sequence[Operation], durability: Durability) -> None:
        check_room(self._folder, self._config.free_bytes_min, operations)
        with self._errors():
            self._set_synchronous("FULL" if durability is Durability.DURABLE else "NORMAL")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                for run in runs_of(operations):
                    self._apply_run(run)
                if not operations:
                    # Committing nothing syncs nothing: write what is there already.
                    self._writer.execute(f"PRAGMA user_version = {FORMAT}")
            except BaseException:
                self._roll_back()
                raise

    def settle(self, durability: Durability) -> None:
        with self._errors():
            try:
                self._writer.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise

    def checkpoint(self, path: Path) -> None:
        path.mkdir(mode=0o700)
        with self._errors():
            source = self._take_reader()
            target = sqlite3.connect(path / FILE, isolation_level=None)
            try:
                # All pages at once, in one read transaction: slices would begin again after each write.
                source.backup(target)
            finally:
                target.close()
                self._return_reader(source)
        write_marker(path, "sqlite")

    def compact(self, start: bytes, end: bytes | None) -> None:
        # Unused pages are used again; the file doesn't shrink.
        raise AssertionError("not a capability of this engine")

    def get_property(self, name: str) -> str | None:
        raise AssertionError("not a capability of this engine")

    def stats(self) -> StoreStats:
        with self._errors():
            connection = self._take_reader()
            try:
                pages = connection.execute("PRAGMA page_count").fetchone()[0]
                unused = connection.execute("PRAGMA freelist_count").fetchone()[0]
                keys = _estimate_keys(connection, (pages - unused) * PAGE_BYTES)
            finally:
                self._return_reader(connection)
        return StoreStats(
            keys_estimate=keys,
            bytes=folder_bytes(self._folder),
            disk_free_bytes=free_bytes(self._folder),
            disk_bytes=disk_bytes(self._folder),
            disk_kept_bytes=self._config.free_bytes_min,
            extras={"sqlite_pages": pages, "sqlite_pages_unused": unused},
        )

    def close(self) -> None:
        """Close every connection; the last one moves the log into the database and removes it."""
        with self._readers_lock:
            for connection in self._readers:
                connection.close()
            self._readers.clear()
        self._writer.close()

    def _connect(self, cache_bytes: int) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._file,
            timeout=self._config.busy_ms_max / 1000,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=16,
        )
        connection.execute(f"PRAGMA cache_size = -{max(cache_bytes // 1024, 64)}")
        return connection

    def _prepare(self) -> None:
        """Check that the file is a store of a known format, or make it one."""
        writer = self._writer
        application = writer.execute("PRAGMA application_id").fetchone()[0]
        version = writer.execute("PRAGMA user_version").fetchone()[0]
        tables = writer.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if application != APPLICATION_ID and (tables or application):
            raise StoreCorrupt("another program's database", self._file, "Name another folder.")
        if version > FORMAT:
            raise StoreTooNew(f"format {version} is newer than {FORMAT}", self._file, "Run a newer program.")
        if not tables:
            writer.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        mode = writer.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StorageError(
                f"the file system can't keep SQLite's log (mode {mode})", self._folder, "Use a local disk."
            )
        writer.execute(f"PRAGMA wal_autocheckpoint = {self._config.checkpoint_pages}")
        writer.execute(f"PRAGMA journal_size_limit = {LOG_BYTES_KEPT}")
        self._set_synchronous("FULL")
        if not tables:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("CREATE TABLE kv (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID")
            writer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            writer.execute(f"PRAGMA user_version = {FORMAT}")
            writer.execute("COMMIT")
        writer.execute("SELECT k, v FROM kv LIMIT 1").fetchone()

    def _set_synchronous(self, level: str) -> None:
        if level != self._synchronous:
            self._writer.execute(f"PRAGMA synchronous = {level}")
            self._synchronous = level

    def _apply_run(self, run: Run) -> None:
        """Operations of one kind, so that one statement serves them all."""
        match run:
            case Puts(rows):
                # A put is the two parameters.
                self._writer.executemany(UPSERT, rows)
            case Deletes(keys):
                self._writer.executemany("DELETE FROM kv WHERE k = ?", ((key,) for key in keys))
            case DeleteRange(start, end):
                where, bounds = _where(Span(start, end))
                self._writer.execute(f"DELETE FROM kv WHERE {where}", bounds)

    def _roll_back(self) -> None:
        # SQLite rolls back by itself after some errors, a full disk among them.
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    def _take_reader(self) -> sqlite3.Connection:
        with self._readers_lock:
            if self._readers:
                return self._readers.pop()
        connection = self._connect(self._config.cache_bytes // 2 // READERS)
        connection.execute("PRAGMA query_only = ON")
        return connection

    def _return_reader(self, connection: sqlite3.Connection) -> None:
        """End the connection's transaction and keep it for the next reader; close it where enough wait."""
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        with self._readers_lock:
            if len(self._readers) < READERS:
                self._readers.append(connection)
                return
        connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors as the contract's."""
        try:
            yield
        except sqlite3.Error as error:
            raise _translate(error, self._file) from error
        except OSError as error:
            raise os_error(error, self._file) from error


class SqliteView:
    """A read transaction that stays open, on a connection of its own."""

    def __init__(self, engine: SqliteEngine, connection: sqlite3.Connection) -> None:
        self._engine = engine
        self._connection = connection
        # Tasks that share a snapshot read it in turns.
        self._lock = threading.Lock()

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._lock, self._engine._errors():
            return _get_many(self._connection, keys)

    def page(self, span: Span) -> Page:
        where, bounds = _where(span)
        order = "DESC" if span.reverse else "ASC"
        page = PageBuilder(span)
        with self._lock, self._engine._errors():
            cursor = self._connection.execute(f"SELECT k, v FROM kv WHERE {where} ORDER BY k {order}", bounds)
            try:
                for key, value in cursor:
                    if page.take(key, value):
                        return Page(page.rows, True)
            finally:
                cursor.close()
        return Page(page.rows, False)

    def close(self) -> None:
        """End the transaction, so that the log may be reused."""
        with self._engine._errors():
            self._engine._return_reader(self._connection)


def _get_many(connection: sqlite3.Connection, keys: Sequence[bytes]) -> list[bytes | None]:
    values: list[bytes | None] = []
    for key in keys:
        row = connection.execute(SELECT, (key,)).fetchone()
        values.append(None if row is None else row[0])
    return values


def _where(span: Span) -> tuple[str, tuple[bytes, ...]]:
    if span.end is None:
        return "k >= ?", (span.start,)
    return "k >= ? AND k < ?", (span.start, span.end)


def _estimate_keys(connection: sqlite3.Connection, used_bytes: int) -> int:
    """The exact number up to 100,000; above, the used bytes over the mean of the first 1,000 rows."""
    counted: int = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM kv LIMIT ?)", (COUNTED_ROWS_MAX + 1,)
    ).fetchone()[0]
    if counted <= COUNTED_ROWS_MAX:
        return counted
    mean = connection.execute(
        "SELECT avg(length(k) + length(v)) FROM (SELECT k, v FROM kv LIMIT 1000)"
    ).fetchone()[0]
    return max(counted, int(used_bytes / (mean + 8)))


def _translate(error: sqlite3.Error, file: Path) -> StorageError:
    name = getattr(error, "sqlite_errorname", "") or ""
    shown = f"{error} ({name})" if name else str(error)
    if name == "SQLITE_FULL":
        return DiskFull("no space left", file, "Free some, or move the store to a larger disk.")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or name == "SQLITE_IOERR_SHORT_READ":
        return StoreCorrupt(shown, file, "Restore it from a checkpoint; nothing is repaired by guessing.")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return ReadOnly(shown, file, "Make the file and its folder writable for this user.")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreLocked(shown, file, "Another program has the database open: stop it.")
    return StoreFailed(shown, file, "Check the disk.")


@asynccontextmanager
async def open_sqlite(ctx: Context, config: SqliteConfig) -> AsyncIterator[ThreadedStore]:
    """Open the store in its folder, making it on first use. Raises any `StorageError`."""
    async with opened_in_folder(ctx, config, SqliteEngine) as (store, _):
        yield store


sqlite = Component(
    role=Role.STORAGE,
    name="sqlite",
    open=open_sqlite,
    config=SqliteConfig,
    features=SqliteEngine.capabilities,
    description="One SQLite file in WAL mode; in Python's standard library, so it runs everywhere.",
)
