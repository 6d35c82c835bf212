"""Storage in a database that speaks PostgreSQL's wire protocol, through `psycopg`.

Two tables hold a store: `NAME_rows` its rows, `NAME_facts` three rows about it: format, lease, writes. Only
what PostgreSQL and the databases compatible with it share is asked for: tables, `bytea`, transactions,
upserts.

**One writer.** Whoever opens the store takes its lease, and renews it. Another opener watches the lease for
`lease_s`: if it moved, the store is open elsewhere; if it didn't, it is taken over. No clocks are compared.
Each write transaction asks whether the lease is still ours, so that one who was taken over while he slept
can't write.

**A lost connection.** The same transaction counts the writes. So after the connection broke in the middle of
a commit, the count says whether it was done, and it is neither lost nor done twice.

A transaction that the database gives up for the sake of another (SQLSTATE class 40) is tried again.

**Silence.** Each answer is waited for at most `answer_s_max`; then the connection counts as lost.
"""

import itertools
import os
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

import attrs
import trio

from supervm.api import Component, Context, Role
from supervm.contracts.storage import (
    FORMAT,
    PAGE_BYTES_MAX,
    PAGE_ROWS_MAX,
    SNAPSHOT_AGE_S_MAX,
    DeleteRange,
    DiskFull,
    Durability,
    Operation,
    Put,
    ReadOnly,
    RemoteUnavailable,
    SnapshotExpired,
    StorageError,
    StoreCorrupt,
    StoreFailed,
    StoreLocked,
    StoreStats,
    StoreTooNew,
)
from supervm.plugins.storage.binding import Binding
from supervm.plugins.storage.deadlines import Deadlines, patient_connection
from supervm.plugins.storage.runs import Deletes, Puts, runs_of
from supervm.plugins.storage.scan import Page, PageBuilder, Span
from supervm.plugins.storage.threaded import READERS, Stalled, ThreadedStore, served

BINDING = Binding("psycopg", extra="postgres", database="PostgreSQL")
NAME = re.compile(r"[a-z_][a-z0-9_]{0,39}")
# Rows of one statement, and their bytes: far below the 65,535 parameters that the protocol has.
STATEMENT_ROWS_MAX = 500
STATEMENT_BYTES_MAX = 4 * 2**20
READ_KEYS_MAX = 10_000
COUNTED_ROWS_MAX = 100_000
RECONNECT_WAIT_S = 0.5
CLOSE_S_MAX = 5.0
T = TypeVar("T")
_openings = itertools.count()
FACT_FORMAT, FACT_LEASE, FACT_WRITES = 1, 2, 3

TRY_AGAIN = frozenset({"40001", "40P01", "40000", "40002"})
# "Statement completion unknown": a distributed database may say so of a commit.
UNKNOWN = "40003"
NO_SPACE = frozenset({"53100"})
DENIED = frozenset({"42501", "25006", "28000", "28P01"})
MISSING = frozenset({"42P01", "42703"})
# What `CREATE TABLE IF NOT EXISTS` says where another made the table in the same moment.
MADE_BY_ANOTHER = frozenset({"23505", "42P07", *TRY_AGAIN})


@attrs.frozen(kw_only=True)
class PostgresConfig:
    """`dsn`: a libpq connection string or URI; "" takes what the environment says (PGHOST, PGUSER, ...).

    `name`: first part of the store's tables. `lease_s`: how long an opener watches the lease of another.
    `reconnect_s_max`: how long a write waits for a database that doesn't answer before the store fails.
    `answer_s_max`: how long one answer is waited for before its connection counts as lost; the longest is
    that to the removal of a large range.
    """

    dsn: str = attrs.field(default="", repr=False)
    name: str = attrs.field(default="supervm", validator=attrs.validators.matches_re(NAME))
    lease_s: float = attrs.field(default=5.0, validator=attrs.validators.ge(0.1))
    connect_s_max: int = attrs.field(default=10, validator=attrs.validators.ge(1))
    reconnect_s_max: float = attrs.field(default=60.0, validator=attrs.validators.ge(0))
    answer_s_max: float = attrs.field(default=120.0, validator=attrs.validators.ge(0.1))
    snapshot_age_s_max: float = attrs.field(default=SNAPSHOT_AGE_S_MAX, validator=attrs.validators.gt(0))
    snapshots_max: int = attrs.field(default=32, validator=attrs.validators.ge(1))


@attrs.frozen
class Lease:
    """Who has the store, and how often he has said so."""

    owner: str
    beat: int


class PostgresEngine:
    """An `Engine` over one store of a database, which this process has taken by `claim`."""

    capabilities = frozenset({"persistent", "delete_range_native", "online_prune"})
    gives: Mapping[Durability, Durability] = dict.fromkeys(Durability, Durability.DURABLE)

    def __init__(self, config: PostgresConfig, owner: str) -> None:
        import psycopg

        self._psycopg = psycopg
        self._deadlines = Deadlines(config.answer_s_max)
        self._connection = patient_connection(psycopg.Connection, self._deadlines)
        self._config = config
        self._rows = f"{config.name}_rows"
        self._facts = f"{config.name}_facts"
        self._owner = owner
        self._writes = 0
        # The count of writes after the one whose fate is unknown; 0 where every fate is known.
        self._unsure = 0
        self._waited_s = 0.0
        self._writer: Any = None
        self._beater: Any = None
        self._readers: list[Any] = []
        self._readers_lock = threading.Lock()
        self._closing = threading.Event()
        self.retries = 0
        self.reconnections = 0

    def prepare(self) -> None:
        """Make the tables where they are missing, and see that they are a store of a known format."""
        with self._errors():
            self._writer = self._connect_writer()
            self._check_synced()
            # Most databases run no two of these in one transaction, and each may be run again.
            self._make_table(f"{self._rows} (k bytea PRIMARY KEY, v bytea NOT NULL)")
            self._make_table(f"{self._facts} (id bigint PRIMARY KEY, owner text NOT NULL, n bigint NOT NULL)")
            for fact, n in ((FACT_FORMAT, FORMAT), (FACT_LEASE, 0), (FACT_WRITES, 0)):
                self._writer.execute(
                    f"INSERT INTO {self._facts} (id, owner, n) VALUES (%s, '', %s)"
                    " ON CONFLICT (id) DO NOTHING",
                    (fact, n),
                )
            found = self._fact(self._writer, FACT_FORMAT)
            self._writer.execute(f"SELECT k, v FROM {self._rows} LIMIT 1").fetchone()
        if found.beat > FORMAT:
            raise StoreTooNew(
                f"format {found.beat} is newer than {FORMAT}", self._facts, "Run a newer program."
            )

    def _make_table(self, table: str) -> None:
        query = f"CREATE TABLE IF NOT EXISTS {table}"
        try:
            self._writer.execute(query)
        except self._psycopg.Error as error:
            if error.sqlstate not in MADE_BY_ANOTHER:
                raise
            self._writer.execute(query)

    def claim(self, seen: Lease | None) -> Lease | None:
        """Take the lease where it is free, or still as it was `seen`. None once taken, else how it is now."""
        with self._errors():
            found = self._fact(self._writer, FACT_LEASE)
            if found.owner and found != seen:
                return found
            with self._writer.transaction():
                taken = self._writer.execute(
                    f"UPDATE {self._facts} SET owner = %s, n = n + 1 WHERE id = %s AND owner = %s AND n = %s",
                    (self._owner, FACT_LEASE, found.owner, found.beat),
                )
                if taken.rowcount != 1:
                    return self._fact(self._writer, FACT_LEASE)
                self._writer.execute(
                    f"UPDATE {self._facts} SET owner = %s WHERE id = %s", (self._owner, FACT_WRITES)
                )
            self._writes = self._fact(self._writer, FACT_WRITES).beat
        return None

    def beat(self) -> None:
        """Say that the store is open. Raises `StoreFailed` where another has taken it over."""
        try:
            if self._beater is None or self._beater.closed:
                self._beater = self._connect()
            renewed = self._beater.execute(
                f"UPDATE {self._facts} SET n = n + 1 WHERE id = %s AND owner = %s", (FACT_LEASE, self._owner)
            )
        except self._psycopg.Error:
            # A database that is away is told by those who need it; the fence keeps the store safe.
            self._drop(self._beater)
            self._beater = None
            return
        if renewed.rowcount != 1 and not self._closing.is_set():
            raise self._taken_over()

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._read(lambda connection: self._get_many(connection, keys))

    def open_view(self) -> "PostgresView":
        with self._errors():
            connection = self._take_reader()
            try:
                _begin_view(connection)
                # The view begins with the first read, not with BEGIN.
                connection.execute(f"SELECT 1 FROM {self._rows} LIMIT 1").fetchone()
            except BaseException:
                self._drop(connection)
                raise
            return PostgresView(self, connection)

    def apply(self, operations: Sequence[Operation], durability: Durability) -> None:
        """The whole transaction, commit included. `Stalled` where it was not done and may be tried again."""
        try:
            if self._writer is None or self._writer.closed:
                self._reconnect()
            if self._unsure and self._was_done():
                return
            self._write(operations)
        except self._psycopg.Error as error:
            if error.sqlstate in TRY_AGAIN or error.sqlstate == UNKNOWN:
                self.retries += 1
                raise Stalled from None
            if self._is_lost(error):
                self._wait(error)
                raise Stalled from None
            raise self._translate(error) from error
        self._waited_s = 0.0

    def settle(self, durability: Durability) -> None:
        """Nothing is left: a commit returns once the database has it."""

    def checkpoint(self, path: Any) -> None:
        raise AssertionError("not a capability of this engine")

    def compact(self, start: bytes, end: bytes | None) -> None:
        raise AssertionError("not a capability of this engine")

    def get_property(self, name: str) -> str | None:
        raise AssertionError("not a capability of this engine")

    def stats(self) -> StoreStats:
        return self._read(self._stats)

    def _stats(self, connection: Any) -> StoreStats:
        counted = connection.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM {self._rows} LIMIT {COUNTED_ROWS_MAX + 1}) AS counted"
        ).fetchone()[0]
        keys, size_bytes = counted, 0
        if counted > COUNTED_ROWS_MAX:
            estimated = self._ask(
                connection, "SELECT reltuples FROM pg_class WHERE relname = %s", (self._rows,)
            )
            keys = max(counted, int(estimated or 0))
        known_bytes = self._ask(connection, "SELECT pg_total_relation_size(%s::regclass)", (self._rows,))
        if known_bytes is None:
            mean = connection.execute(
                f"SELECT avg(octet_length(k) + octet_length(v))"
                f" FROM (SELECT k, v FROM {self._rows} LIMIT 1000) AS some_rows"
            ).fetchone()[0]
            known_bytes = float(mean or 0) * keys
        size_bytes = int(known_bytes)
        return StoreStats(
            keys_estimate=keys,
            bytes=size_bytes,
            extras={
                "postgres_writes": float(self._writes),
                "postgres_retries": float(self.retries),
                "postgres_reconnections": float(self.reconnections),
            },
        )

    def close(self) -> None:
        """Give the lease back, unless the database doesn't answer, and close every connection."""
        self._closing.set()
        self._deadlines.hurry(CLOSE_S_MAX)
        with suppress(self._psycopg.Error):
            if self._writer is not None and not self._writer.closed:
                self._writer.execute(
                    f"UPDATE {self._facts} SET owner = '', n = n + 1 WHERE id = %s AND owner = %s",
                    (FACT_LEASE, self._owner),
                )
        with self._readers_lock:
            connections, self._readers = [*self._readers, self._writer, self._beater], []
        for connection in connections:
            self._drop(connection)
        self._deadlines.end()

    def select_page(self, connection: Any, span: Span) -> Page:
        """One page: which keys fit is asked first, so that a thousand large values are never sent."""
        page = PageBuilder(span)
        where, bounds = _where(span)
        order = "DESC" if span.reverse else "ASC"
        rows_max = min(span.rows_max, PAGE_ROWS_MAX)
        sizes = connection.execute(
            f"SELECT k, octet_length(v) FROM {self._rows} WHERE {where} ORDER BY k {order} LIMIT {rows_max}",
            bounds,
            binary=True,
        ).fetchall()
        taken = 0
        left = PAGE_BYTES_MAX
        while taken < len(sizes) and (left > 0 or not taken):
            left -= len(sizes[taken][0]) + sizes[taken][1]
            taken += 1
        if not taken:
            return Page(page.rows, False)
        ends = sorted((sizes[0][0], sizes[taken - 1][0]))
        rows = connection.execute(
            f"SELECT k, v FROM {self._rows} WHERE k >= %b AND k <= %b ORDER BY k {order}", ends, binary=True
        )
        for key, value in rows:
            if page.take(key, value):
                return Page(page.rows, True)
        return Page(page.rows, taken < len(sizes))

    def _get_many(self, connection: Any, keys: Sequence[bytes]) -> list[bytes | None]:
        if len(keys) <= READ_KEYS_MAX:
            return self._select(connection, keys)
        _begin_view(connection)
        try:
            return self._select(connection, keys)
        finally:
            _end_view(connection)

    def _select(self, connection: Any, keys: Sequence[bytes]) -> list[bytes | None]:
        found: dict[bytes, bytes] = {}
        for at in range(0, len(keys), READ_KEYS_MAX):
            found.update(
                connection.execute(
                    f"SELECT k, v FROM {self._rows} WHERE k = ANY(%b)",
                    (list(keys[at : at + READ_KEYS_MAX]),),
                    binary=True,
                ).fetchall()
            )
        return [found.get(key) for key in keys]

    def _write(self, operations: Sequence[Operation]) -> None:
        connection = self._writer
        connection.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        try:
            counted = connection.execute(
                f"UPDATE {self._facts} SET n = %s WHERE id = %s AND owner = %s",
                (self._writes + 1, FACT_WRITES, self._owner),
            )
            if counted.rowcount != 1:
                raise self._taken_over()
            for run in runs_of(operations):
                match run:
                    case Puts(rows):
                        self._put(connection, rows)
                    case Deletes(keys):
                        connection.execute(f"DELETE FROM {self._rows} WHERE k = ANY(%b)", (keys,))
                    case DeleteRange(start, end):
                        where, bounds = _where(Span(start, end))
                        connection.execute(f"DELETE FROM {self._rows} WHERE {where}", bounds)
        except BaseException:
            if not connection.closed:
                connection.execute("ROLLBACK")
            raise
        self._unsure = self._writes + 1
        # A refusal is an answer: then nothing was done. Only a connection that breaks leaves it open.
        try:
            connection.execute("COMMIT")
        except self._psycopg.Error as error:
            if not self._is_lost(error) and error.sqlstate != UNKNOWN:
                self._unsure = 0
                if not connection.closed and connection.info.transaction_status:
                    connection.execute("ROLLBACK")
            raise
        self._writes, self._unsure = self._unsure, 0

    def _put(self, connection: Any, rows: Sequence[Put]) -> None:
        # A statement may not touch a row twice: of puts of one key only the last counts.
        left = list({put.key: put.value for put in rows}.items())
        at = 0
        while at < len(left):
            parameters: list[bytes] = []
            size_bytes = 0
            while at < len(left) and len(parameters) < 2 * STATEMENT_ROWS_MAX:
                key, value = left[at]
                if parameters and size_bytes + len(value) > STATEMENT_BYTES_MAX:
                    break
                parameters += (key, value)
                size_bytes += len(key) + len(value)
                at += 1
            values = ", ".join(["(%b, %b)"] * (len(parameters) // 2))
            connection.execute(
                f"INSERT INTO {self._rows} (k, v) VALUES {values}"
                " ON CONFLICT (k) DO UPDATE SET v = excluded.v",
                parameters,
            )

    def _was_done(self) -> bool:
        """Whether the write whose connection broke in its commit was done; known for good after this."""
        count = self._fact(self._writer, FACT_WRITES)
        if count.owner != self._owner:
            raise self._taken_over()
        done = count.beat == self._unsure
        if done:
            self._writes = self._unsure
        self._unsure = 0
        return done

    def _reconnect(self) -> None:
        self._writer = self._connect_writer()
        self.reconnections += 1

    def _wait(self, error: Any) -> None:
        """Some time until the next try; `StoreFailed` where there were enough."""
        self._drop(self._writer)
        if self._closing.is_set() or self._waited_s >= self._config.reconnect_s_max:
            raise StoreFailed(
                f"the database does not answer: {_line(error)}", self._rows, "Start it, then the node."
            ) from error
        self._closing.wait(RECONNECT_WAIT_S)
        self._waited_s += RECONNECT_WAIT_S

    def _is_lost(self, error: Any) -> bool:
        """Whether a connection is gone, or can't be had now: nothing was said about the request."""
        if self._writer is not None and self._writer.closed:
            return True
        state = error.sqlstate or ""
        if state in DENIED or state[:2] in ("3D", "42"):
            return False
        return isinstance(error, self._psycopg.OperationalError) and (
            not state or state[:2] in ("08", "57") or state == "53300"
        )

    def _fact(self, connection: Any, fact: int) -> Lease:
        row = connection.execute(f"SELECT owner, n FROM {self._facts} WHERE id = %s", (fact,)).fetchone()
        if row is None:
            raise StoreCorrupt("a row of the store's facts is gone", self._facts, "Restore the database.")
        return Lease(*row)

    def _taken_over(self) -> StoreFailed:
        return StoreFailed(
            "another process has taken the store over", self._facts, "Stop one of the two; raise lease_s."
        )

    def _check_synced(self) -> None:
        """Refuse a server that is set to lose what it has acknowledged. One without these settings passes."""
        wrong = self._ask(
            self._writer,
            "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'",
            (),
        )
        if wrong is not None:
            raise StorageError(
                f"the server has {wrong} off and may lose what it acknowledged", self._rows, "Set it on."
            )

    def _connect_writer(self) -> Any:
        connection = self._connect()
        lowered = "SELECT setting FROM pg_settings WHERE name = 'synchronous_commit' AND setting = 'off'"
        if self._ask(connection, lowered, ()) is not None:
            connection.execute("SET synchronous_commit = 'on'")
        return connection

    def _ask(self, connection: Any, query: str, parameters: tuple[Any, ...]) -> Any:
        """The first value of something that not every compatible database knows; None where it doesn't."""
        try:
            row = connection.execute(query, parameters).fetchone()
        except (self._psycopg.ProgrammingError, self._psycopg.NotSupportedError):
            return None
        return None if row is None else row[0]

    def _connect(self) -> Any:
        # No prepared statements: a pooler between us and the database may not keep them.
        return self._connection.connect(
            self._config.dsn,
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=self._config.connect_s_max,
            application_name="supervm",
        )

    def _read(self, call: Callable[[Any], T]) -> T:
        """One read. Connections that waited here may have died meanwhile; a new one is asked once."""
        with self._errors():
            connection = self._take_reader()
            try:
                return call(connection)
            except self._psycopg.OperationalError:
                if not connection.closed:
                    raise
                self._drop_readers()
                connection = self._take_reader()
                return call(connection)
            finally:
                self.return_reader(connection)

    def _drop_readers(self) -> None:
        with self._readers_lock:
            connections, self._readers = self._readers, []
        for connection in connections:
            self._drop(connection)

    def _take_reader(self) -> Any:
        with self._readers_lock:
            while self._readers:
                connection = self._readers.pop()
                if not connection.closed:
                    return connection
        return self._connect()

    def return_reader(self, connection: Any) -> None:
        """Keep a connection for the next reader; one that is broken, in a transaction, or too many, goes."""
        with self._readers_lock:
            idle = not connection.closed and not connection.info.transaction_status
            if idle and len(self._readers) < READERS and not self._closing.is_set():
                self._readers.append(connection)
                return
        self._drop(connection)

    def _drop(self, connection: Any) -> None:
        if connection is not None:
            with suppress(self._psycopg.Error):
                connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """The database's errors as the contract's."""
        try:
            yield
        except self._psycopg.Error as error:
            raise self._translate(error) from error

    def _translate(self, error: Any) -> StorageError:
        state, text = error.sqlstate or "", _line(error)
        if state in NO_SPACE:
            return DiskFull(text, self._rows, "Free some space on the database's disk.")
        if state in DENIED:
            return ReadOnly(text, self._rows, "Let this user make and write the store's tables.")
        if state in MISSING:
            return StoreCorrupt(text, self._rows, "Restore the database.")
        if state[:2] == "XX":
            return StoreCorrupt(text, self._rows, "Restore the database; nothing is repaired by guessing.")
        if state in TRY_AGAIN or state == "72000":
            return SnapshotExpired(text, self._rows, "Take another.")
        if isinstance(error, self._psycopg.OperationalError):
            return RemoteUnavailable(text, self._rows, "See that the database runs and takes connections.")
        return StoreFailed(text, self._rows, "See the database's log.")


class PostgresView:
    """A read transaction that stays open, on a connection of its own."""

    def __init__(self, engine: PostgresEngine, connection: Any) -> None:
        self._engine = engine
        self._connection = connection
        # Tasks that share a snapshot read it in turns.
        self._lock = threading.Lock()

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._lock, self._engine._errors():
            return self._engine._select(self._connection, keys)

    def page(self, span: Span) -> Page:
        with self._lock, self._engine._errors():
            return self._engine.select_page(self._connection, span)

    def close(self) -> None:
        """Give the view up with its connection: nothing here waits for the database."""
        self._engine._drop(self._connection)


def _begin_view(connection: Any) -> None:
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")


def _end_view(connection: Any) -> None:
    if not connection.closed:
        connection.execute("ROLLBACK")


def _where(span: Span) -> tuple[str, tuple[bytes, ...]]:
    if span.end is None:
        return "k >= %b", (span.start,)
    return "k >= %b AND k < %b", (span.start, span.end)


def _line(error: Any) -> str:
    """The first line of what the database or libpq says, and its code."""
    text = str(error).strip().split("\n")[0] or type(error).__name__
    return f"{text} ({error.sqlstate})" if error.sqlstate else text


class PostgresMetrics:
    """Sets `postgres_*` from each `StoreStats`."""

    def __init__(self, ctx: Context) -> None:
        gauge = ctx.metrics.gauge
        self._gauges = {
            "postgres_retries": gauge(
                "postgres_retries", "Writes tried again after a conflict, since opening"
            ),
            "postgres_reconnections": gauge(
                "postgres_reconnections", "New connections of the writer, since opening"
            ),
        }

    def report(self, stats: StoreStats) -> None:
        """Take over one reading."""
        for name, series in self._gauges.items():
            series.set(stats.extras[name])


@asynccontextmanager
async def open_postgres(ctx: Context, config: PostgresConfig) -> AsyncIterator[ThreadedStore]:
    """Open the store, making its tables on first use. Waits up to `lease_s` for an opener that died.

    Raises `Unsupported` where the binding is not installed, `StoreLocked` where the store is open elsewhere,
    `RemoteUnavailable` where the database does not answer, and any `StorageError`.
    """
    await BINDING.load()
    # No other opener may have the same name, though a test gives both the same random numbers.
    owner = f"{ctx.random.randbytes(16).hex()}-{os.getpid()}-{next(_openings)}"
    engine = PostgresEngine(config, owner)
    try:
        await trio.to_thread.run_sync(engine.prepare)
        seen = await trio.to_thread.run_sync(engine.claim, None)
        if seen is not None:
            await ctx.clock.sleep(config.lease_s)
            now = await trio.to_thread.run_sync(engine.claim, seen)
            if now is not None:
                raise StoreLocked(
                    "the store is open elsewhere", config.name, "Stop that program, or choose another name."
                )
    except BaseException:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(engine.close)
        raise
    store = ThreadedStore(
        ctx, engine, snapshot_age_s_max=config.snapshot_age_s_max, snapshots_max=config.snapshots_max
    )
    scope = trio.CancelScope()

    async def renew() -> None:
        with scope:
            while True:
                await ctx.clock.sleep(config.lease_s / 4)
                await trio.to_thread.run_sync(engine.beat)

    ctx.nursery.start_soon(renew)
    try:
        async with served(ctx, store, PostgresMetrics(ctx).report):
            yield store
    finally:
        scope.cancel()


postgres = Component(
    role=Role.STORAGE,
    name="postgres",
    open=open_postgres,
    config=PostgresConfig,
    features=PostgresEngine.capabilities,
    available=BINDING.missing,
    description="A database that speaks PostgreSQL's wire protocol; needs the psycopg package.",
)
