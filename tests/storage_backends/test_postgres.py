"""`postgres` against a real server: the contract, retries, a server that goes and comes, one writer only."""

import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio

from supervm.contracts.storage import (
    DeleteRange,
    Durability,
    KeyValueStore,
    Put,
    RemoteUnavailable,
    StorageError,
    StoreCorrupt,
    StoreFailed,
    StoreTooNew,
)
from supervm.plugins.storage.cached import CachedConfig, cached
from supervm.plugins.storage.postgres import PostgresConfig, PostgresEngine
from supervm.plugins.storage.scan import Span
from supervm.testing.conformance.component import refused
from supervm.testing.conformance.storage import StorageConformance
from supervm.testing.context import opened
from tests.storage_backends import postgres_server
from tests.storage_backends.postgres_server import DSN, HereConfig, Server, here, name_of

psycopg = pytest.importorskip("psycopg", reason="the PostgreSQL binding is not installed")
pytestmark = pytest.mark.skipif(
    postgres_server.programs() is None and DSN not in os.environ, reason="no PostgreSQL server is installed"
)


@pytest.fixture(scope="module", autouse=True)
def server_of_all() -> Iterator[None]:
    """One server for what leaves it running."""
    if DSN in os.environ:
        yield
        return
    with postgres_server.folder_for_server() as folder, postgres_server.running(folder) as server:
        os.environ[DSN] = server.dsn
        try:
            yield
        finally:
            del os.environ[DSN]


@pytest.fixture(scope="module")
def spare_server() -> Iterator[Server]:
    """Another server, for tests that stop it."""
    if postgres_server.programs() is None:
        pytest.skip("no PostgreSQL server is installed")
    with postgres_server.folder_for_server() as folder, postgres_server.running(folder) as server:
        yield server


@pytest.fixture
def own_server(spare_server: Server) -> Server:
    """A server that runs, and that a test may stop."""
    if not spare_server.runs:
        spare_server.start()
    return spare_server


def asked(query: str, *parameters: Any) -> list[Any]:
    """Rows of a query by a connection of the test's own."""
    with psycopg.connect(os.environ[DSN], autocommit=True) as connection:
        cursor = connection.execute(query, parameters)
        return cursor.fetchall() if cursor.description else []


class TestPostgres(StorageConformance):
    component = here
    sources = tuple(
        f"supervm.plugins.storage.{name}" for name in ("postgres", "threaded", "scan", "latency", "runs")
    )
    kills: ClassVar[int] = 2
    examples: ClassVar[int] = 4


@asynccontextmanager
async def held(query: str, *parameters: Any) -> AsyncIterator[Any]:
    """A transaction of another client that has run a query and not ended."""
    connection = await trio.to_thread.run_sync(lambda: psycopg.connect(os.environ[DSN]))
    try:
        await trio.to_thread.run_sync(connection.execute, query, parameters)
        yield connection
    finally:
        await trio.to_thread.run_sync(connection.close)


async def waits_for_lock() -> None:
    """Until some client waits for a lock of another."""
    while not await trio.to_thread.run_sync(asked, "SELECT 1 FROM pg_locks WHERE NOT granted"):
        await trio.lowlevel.checkpoint()


async def test_a_transaction_given_up_for_another_is_tried_again(tmp_path: Path) -> None:
    async with opened(here, tmp_path) as store:
        await store.write([Put(b"a", b"1")])
        facts = f"{name_of(tmp_path)}_facts"
        async with held(f"UPDATE {facts} SET n = n WHERE id = 3") as other, trio.open_nursery() as nursery:
            nursery.start_soon(store.write, [Put(b"a", b"2"), Put(b"b", b"2")])
            await waits_for_lock()
            await trio.to_thread.run_sync(other.commit)
        assert await store.get_many([b"a", b"b"]) == [b"2", b"2"]
        assert (await store.stats()).extras["postgres_retries"] >= 1


async def test_reads_see_a_value_as_large_as_many_pages_and_a_page_stays_small(tmp_path: Path) -> None:
    async with opened(here, tmp_path) as store:
        await store.write([Put(b"%d" % i, bytes([i]) * 3_000_000) for i in range(6)])
        engine: PostgresEngine = store._engine
        view = engine.open_view()
        try:
            page = view.page(Span(b"", None))
            assert ([key for key, _ in page.rows], page.more) == ([b"0"], True)
        finally:
            view.close()


async def test_a_server_that_restarts_costs_time_and_no_rows(tmp_path: Path, own_server: Server) -> None:
    config = HereConfig(dsn=own_server.dsn)
    async with opened(here, tmp_path, config) as store:
        await store.write([Put(b"before", b"v")])
        assert await store.get(b"before") == b"v"
        await trio.to_thread.run_sync(own_server.stop, "immediate")
        with refused(RemoteUnavailable):
            await store.get(b"before")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.write, [Put(b"meanwhile", b"v")])
            await trio.to_thread.run_sync(own_server.start)
        assert await store.get_many([b"before", b"meanwhile"]) == [b"v", b"v"]
        assert (await store.health()).state == "ok"
        assert (await store.stats()).extras["postgres_reconnections"] >= 1


async def test_a_server_that_stays_away_ends_the_store(tmp_path: Path, own_server: Server) -> None:
    config = HereConfig(dsn=own_server.dsn, reconnect_s_max=0.0)
    async with opened(here, tmp_path, config) as store:
        await trio.to_thread.run_sync(own_server.stop, "immediate")
        with refused(StoreFailed):
            await store.write([Put(b"a", b"v")])
        with refused(StoreFailed):
            await store.get(b"a")
    with refused(RemoteUnavailable):
        async with opened(here, tmp_path, config):
            pass


def tell(pid: int, sent: signal.Signals) -> None:
    """Send a signal to a process of a server, unless its client has gone, and it with it."""
    with suppress(ProcessLookupError):
        os.kill(pid, sent)


def stop_clients(server: Server) -> list[int]:
    """Have the server's processes for the clients of a store say nothing any more; their ids."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'supervm' ORDER BY backend_start"
        found = [pid for (pid,) in connection.execute(query)]
    for pid in found:
        tell(pid, signal.SIGSTOP)
    return found


async def test_a_server_that_hangs_costs_time_and_no_rows(tmp_path: Path, own_server: Server) -> None:
    """Reads and a write wait for processes of the server that are stopped: only a deadline ends that."""
    config = HereConfig(dsn=own_server.dsn, answer_s_max=2.0, lease_s=60.0)
    stopped: list[int] = []
    late = threading.Event()

    def go_on() -> None:
        while stopped:
            tell(stopped.pop(), signal.SIGCONT)

    def rescue() -> None:
        late.set()
        go_on()

    timer = threading.Timer(60, rescue)
    timer.start()
    try:
        async with opened(here, tmp_path, config) as store:
            await store.write([Put(b"a", b"v")])
            assert await store.get(b"a") == b"v"
            stopped += await trio.to_thread.run_sync(stop_clients, own_server)
            assert len(stopped) >= 2
            assert await store.get(b"a") == b"v"
            await store.write([Put(b"a", b"w")])
            assert await store.get(b"a") == b"w"
            assert store._engine._deadlines.cut >= 2
            # Closing doesn't wait for good either.
            stopped += await trio.to_thread.run_sync(stop_clients, own_server)
        assert not late.is_set()
    finally:
        timer.cancel()
        go_on()
    async with opened(here, tmp_path, HereConfig(dsn=own_server.dsn)) as store:
        assert await store.get(b"a") == b"w"


async def test_of_two_who_make_the_tables_at_once_neither_fails(tmp_path: Path) -> None:
    made = f"CREATE TABLE {name_of(tmp_path)}_rows (k bytea PRIMARY KEY, v bytea NOT NULL)"
    async with held(made) as other, trio.open_nursery() as nursery:

        async def opens() -> None:
            async with opened(here, tmp_path) as store:
                await store.write([Put(b"a", b"v")])

        nursery.start_soon(opens)
        await waits_for_lock()
        await trio.to_thread.run_sync(other.commit)
    async with opened(here, tmp_path) as store:
        assert await store.get(b"a") == b"v"


class Breaking:
    """A connection that breaks at COMMIT: before the server has it, or after."""

    def __init__(self, connection: Any, after: bool) -> None:
        self._connection = connection
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, query: str, *arguments: Any, **options: Any) -> Any:
        if query != "COMMIT":
            return self._connection.execute(query, *arguments, **options)
        if self._after:
            self._connection.execute(query)
        self._connection.close()
        raise psycopg.OperationalError("the connection is lost")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_connection_lost_in_a_commit_neither_loses_nor_repeats_the_batch(
    tmp_path: Path, after: bool
) -> None:
    async with opened(here, tmp_path) as store:
        engine: PostgresEngine = store._engine
        await store.write([Put(b"a", b"1")])
        engine._writer = Breaking(engine._writer, after)
        counted: list[int] = []
        write = engine._write
        engine._write = lambda operations: (counted.append(1), write(operations))[1]  # type: ignore[method-assign]
        await store.write([DeleteRange(b"", None), Put(b"b", b"2")])
        assert [row async for row in store.scan()] == [(b"b", b"2")]
        assert len(counted) == (1 if after else 2)
        writes = await trio.to_thread.run_sync(asked, f"SELECT n FROM {name_of(tmp_path)}_facts WHERE id = 3")
        assert writes == [(2,)]
        await store.write([Put(b"c", b"3")])
        assert len([row async for row in store.scan()]) == 2


async def test_who_was_taken_over_can_not_write_any_more(tmp_path: Path) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with opened(here, tmp_path, HereConfig(lease_s=60.0)) as store:
            await store.write([Put(b"a", b"1")])
            facts = f"{name_of(tmp_path)}_facts"
            await trio.to_thread.run_sync(
                asked, f"UPDATE {facts} SET owner = 'another', n = n + 1 WHERE id IN (2, 3)"
            )
            with refused(StoreFailed) as caught:
                await store.write([Put(b"a", b"2")])
            assert "taken the store over" in str(caught[0])
            store.raise_failure()
    assert raised.group_contains(StoreFailed)
    rows = await trio.to_thread.run_sync(asked, f"SELECT v FROM {name_of(tmp_path)}_rows")
    assert rows == [(b"1",)]


async def test_the_lease_of_one_who_died_is_taken_over_after_its_time(tmp_path: Path) -> None:
    async with opened(here, tmp_path) as store:
        await store.write([Put(b"a", b"1")])
    facts = f"{name_of(tmp_path)}_facts"
    await trio.to_thread.run_sync(asked, f"UPDATE {facts} SET owner = 'the dead' WHERE id IN (2, 3)")
    began = trio.current_time()
    async with opened(here, tmp_path) as store:
        assert trio.current_time() - began >= HereConfig().lease_s
        assert await store.get(b"a") == b"1"
        await store.write([Put(b"a", b"2")])


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("UPDATE {0}_facts SET n = 2 WHERE id = 1", StoreTooNew),
        ("ALTER TABLE {0}_rows RENAME COLUMN v TO w", StoreCorrupt),
        ("ALTER TABLE {0}_facts RENAME COLUMN n TO m", StoreCorrupt),
    ],
)
async def test_tables_that_are_no_store_of_this_format_are_refused(
    tmp_path: Path, query: str, error: type[StorageError]
) -> None:
    async with opened(here, tmp_path):
        pass
    await trio.to_thread.run_sync(asked, query.format(name_of(tmp_path)))
    with refused(error):
        async with opened(here, tmp_path):
            pass


async def test_a_server_that_may_lose_what_it_acknowledged_is_refused(
    own_server: Server, tmp_path: Path
) -> None:
    config = HereConfig(dsn=own_server.dsn)

    def alter(how: str) -> None:
        with psycopg.connect(own_server.dsn, autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM {how}")
        own_server.stop()
        own_server.start()

    await trio.to_thread.run_sync(alter, "SET fsync = off")
    with refused(StorageError) as caught:
        async with opened(here, tmp_path, config):
            pass
    assert "fsync" in str(caught[0])
    await trio.to_thread.run_sync(alter, "RESET fsync")
    async with opened(here, tmp_path, config) as store:
        await store.write([Put(b"a", b"v")])


async def test_a_commit_is_synced_though_the_role_says_otherwise(tmp_path: Path) -> None:
    dsn = os.environ[DSN] + " options='-c synchronous_commit=off'"
    async with opened(here, tmp_path, HereConfig(dsn=dsn)) as store:
        engine: PostgresEngine = store._engine
        assert engine._writer.execute("SHOW synchronous_commit").fetchone() == ("on",)
        assert store.gives[Durability.MEMORY] is Durability.DURABLE


@pytest.mark.parametrize("dsn", ["host=/nowhere", "host=127.0.0.1 port=1"])
async def test_a_database_that_does_not_answer_is_named(tmp_path: Path, dsn: str) -> None:
    with refused(RemoteUnavailable) as caught:
        async with opened(here, tmp_path, HereConfig(dsn=dsn)):
            pass
    assert "See that the database runs" in str(caught[0])


@pytest.mark.parametrize("name", ["", "Upper", "a b", "x;drop table y", "1a", "a" * 41])
def test_a_name_that_is_no_plain_identifier_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        PostgresConfig(name=name)


def test_a_password_is_not_in_what_the_options_show() -> None:
    assert "secret" not in repr(PostgresConfig(dsn="password=secret"))


async def test_a_cache_over_it_answers_without_the_server(tmp_path: Path, own_server: Server) -> None:
    config = CachedConfig(over="postgres", options={"dsn": own_server.dsn, "lease_s": 0.8})
    async with opened(cached, tmp_path, config) as store:
        assert isinstance(store, KeyValueStore)
        assert "checkpoint" not in store.capabilities
        await store.write([Put(b"a", b"1")])
        await trio.to_thread.run_sync(own_server.stop, "immediate")
        assert await store.get(b"a") == b"1"
        with refused(RemoteUnavailable):
            await store.get(b"b")
