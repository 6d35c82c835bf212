"""Who is measured beside our MVCC store: LMDB without sync and SQLite in memory, each in its fastest form."""

import gc
import sqlite3
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from supervm.bench.pairs import Clock, Turn
from supervm.bench.race import Done
from supervm.bench.rows import AMOUNT, Moves, encode, wrong_balances


class Lmdb:
    """LMDB through its binding: no sync, a writable map, no lock file, so that only memory is written.

    Raises ImportError where the binding isn't there.
    """

    def __init__(self, balances: Mapping[bytes, int], folder: Path) -> None:
        import lmdb

        self._env: Any = lmdb.open(
            str(folder),
            map_size=max(2**28, 512 * len(balances)),
            sync=False,
            metasync=False,
            writemap=True,
            map_async=True,
            lock=False,
        )
        with self._env.begin(write=True) as txn:
            for key, balance in balances.items():
                txn.put(key, encode(balance))
        library = ".".join(map(str, lmdb.version()))
        try:
            self.version = f"{version('lmdb')}, LMDB {library}"
        except PackageNotFoundError:
            self.version = f"LMDB {library}"

    def take(self, work: Moves) -> Done:
        begin = self._env.begin
        from_bytes = int.from_bytes
        failed = 0
        gc.collect()
        with Clock() as clock:
            for payer, payee in work.moves:
                txn = begin(write=True)
                left = from_bytes(txn.get(payer), "little") - AMOUNT
                got = from_bytes(txn.get(payee), "little") + AMOUNT
                if left < 0:
                    txn.abort()
                    failed += 1
                    continue
                txn.put(payer, left.to_bytes(8, "little"))
                txn.put(payee, got.to_bytes(8, "little"))
                txn.commit()
        with self._env.begin() as txn:
            found = _balances(txn.cursor())
        return judged("lmdb", work, failed, clock, found)

    def close(self) -> None:
        self._env.close()


class Sqlite:
    """SQLite in memory: one connection, statements prepared once by its cache."""

    version = sqlite3.sqlite_version

    def __init__(self, balances: Mapping[bytes, int]) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.execute("create table rows (k blob primary key, v blob) without rowid")
        self._connection.execute("begin")
        rows = ((key, encode(balance)) for key, balance in balances.items())
        self._connection.executemany("insert into rows values (?, ?)", rows)
        self._connection.execute("commit")

    def take(self, work: Moves) -> Done:
        execute = self._connection.execute
        from_bytes = int.from_bytes
        read, write = "select v from rows where k = ?", "update rows set v = ? where k = ?"
        failed = 0
        gc.collect()
        with Clock() as clock:
            for payer, payee in work.moves:
                execute("begin")
                left = from_bytes(execute(read, (payer,)).fetchone()[0], "little") - AMOUNT
                got = from_bytes(execute(read, (payee,)).fetchone()[0], "little") + AMOUNT
                if left < 0:
                    execute("rollback")
                    failed += 1
                    continue
                execute(write, (left.to_bytes(8, "little"), payer))
                execute(write, (got.to_bytes(8, "little"), payee))
                execute("commit")
        found = _balances(execute("select k, v from rows"))
        return judged("sqlite", work, failed, clock, found)

    def close(self) -> None:
        self._connection.close()


def _balances(rows: Iterable[tuple[bytes, bytes]]) -> dict[bytes, int]:
    return {key: int.from_bytes(value, "little") for key, value in rows}


def judged(
    label: str,
    work: Moves,
    failed: int,
    clock: Clock,
    found: Mapping[bytes, int],
    facts: Mapping[str, Any] | None = None,
) -> Done:
    """A turn, its balances compared with the books. Whoever can't pay counts as failed."""
    turn = Turn(len(work.moves), failed, clock.seconds, clock.cpu_seconds)
    return Done({label: turn}, wrong_balances(found, work.balances), facts or {})
