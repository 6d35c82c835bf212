"""The engines beneath our storage backends, each driven from Python as its own manual says.

One thread, no contract: no checks of a batch, no order of its own, no health, no limits. Writes take pairs as
they are; a read by list is the fastest way that the engine has for many keys.
"""

import importlib
import sqlite3
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import attrs

Rows = Sequence[tuple[bytes, bytes]]
SQLITE_CACHE_KIB = 102_400
LMDB_MAP_BYTES = 64 * 2**30


class Direct(Protocol):
    """An engine that is open. `write` is one atomic batch; synced when it returns, if it was opened so."""

    def write(self, rows: Rows) -> None: ...
    def get_one(self, key: bytes) -> bytes | None: ...
    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]: ...
    def close(self) -> None: ...


class DirectRocksdb:
    """`rocksdict`: a write batch a batch; a list of keys is one call."""

    def __init__(self, folder: Path, synced: bool) -> None:
        rocksdict = importlib.import_module("rocksdict")
        self._batch: Callable[..., Any] = rocksdict.WriteBatch
        self._database: Any = rocksdict.Rdict(str(folder), rocksdict.Options(raw_mode=True))
        self._options: Any = rocksdict.WriteOptions()
        self._options.sync = synced

    def write(self, rows: Rows) -> None:
        batch = self._batch(raw_mode=True)
        for key, value in rows:
            batch.put(key, value)
        self._database.write(batch, self._options)

    def get_one(self, key: bytes) -> bytes | None:
        value: bytes | None = self._database.get(key)
        return value

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        values: list[bytes | None] = self._database.get(list(keys))
        return values

    def close(self) -> None:
        self._database.close()


class DirectSqlite:
    """`sqlite3`, with the table and cache of ours: a transaction and `executemany` a batch."""

    def __init__(self, folder: Path, synced: bool) -> None:
        self._connection = sqlite3.connect(folder / "direct.sqlite", isolation_level=None)
        execute = self._connection.execute
        execute("PRAGMA journal_mode = WAL")
        execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
        execute(f"PRAGMA cache_size = -{SQLITE_CACHE_KIB}")
        execute("CREATE TABLE kv (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID")

    def write(self, rows: Rows) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("INSERT OR REPLACE INTO kv (k, v) VALUES (?, ?)", rows)
        self._connection.execute("COMMIT")

    def get_one(self, key: bytes) -> bytes | None:
        row = self._connection.execute("SELECT v FROM kv WHERE k = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        # A statement a key is faster than one with a list of 1,000, whose rows come in another order.
        execute = self._connection.execute
        rows = [execute("SELECT v FROM kv WHERE k = ?", (key,)).fetchone() for key in keys]
        return [None if row is None else row[0] for row in rows]

    def close(self) -> None:
        self._connection.close()


class DirectLmdb:
    """`lmdb`: a transaction and `putmulti` a batch; reads of a list share a transaction."""

    def __init__(self, folder: Path, synced: bool) -> None:
        lmdb = importlib.import_module("lmdb")
        self._environment: Any = lmdb.open(str(folder), map_size=LMDB_MAP_BYTES, sync=synced, metasync=synced)

    def write(self, rows: Rows) -> None:
        with self._environment.begin(write=True) as transaction:
            transaction.cursor().putmulti(rows)

    def get_one(self, key: bytes) -> bytes | None:
        with self._environment.begin() as transaction:
            value: bytes | None = transaction.get(key)
            return value

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._environment.begin() as transaction:
            return list(map(transaction.get, keys))

    def close(self) -> None:
        self._environment.close()


@attrs.frozen(kw_only=True)
class Engine:
    """An engine beneath the backend `name`. `module` is what it is imported as, `package` who brings it."""

    name: str
    module: str
    package: str
    open: Callable[[Path, bool], Direct]

    def version(self) -> str:
        """Of the binding, and of SQLite where the binding is Python's own."""
        return (
            f"{self.module} {version(self.package)}" if self.package else f"SQLite {sqlite3.sqlite_version}"
        )


ENGINES = {
    engine.name: engine
    for engine in (
        Engine(name="rocksdb", module="rocksdict", package="rocksdict", open=DirectRocksdb),
        Engine(name="sqlite", module="sqlite3", package="", open=DirectSqlite),
        Engine(name="lmdb", module="lmdb", package="lmdb", open=DirectLmdb),
    )
}
