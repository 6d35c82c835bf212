"""The memory that restoring a snapshot takes: `python -m tests.soak.restoring [--accounts N ...] [NAME ...]`.

For each N (250,000 and a million) makes a ledger of so many accounts and a snapshot of it, and restores that
in a new process into each backend. Prints the most memory that it took, what it began with, and the seconds.
Counted is what is no page of a file, so that the map of lmdb isn't; caches of the backends are small. Ends
with 1 where the root is another.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import trio

from supervm.plugins.storage.lmdb import LmdbConfig, lmdb
from supervm.plugins.storage.rocksdb import RocksdbConfig, rocksdb
from supervm.plugins.storage.sqlite import SqliteConfig, sqlite
from supervm.storage.snapshot_restore import FolderSource, restore_snapshot
from supervm.testing.context import opened
from tests.soak.recovery import make
from tests.storage.ledger_support import ledger_on, opened_store
from tests.storage.snapshot_support import TRUST, folder_at, take

MIB = 2**20
STATUS = Path("/proc/self/status")
BACKENDS: dict[str, tuple[Any, Any]] = {
    "rocksdb": (rocksdb, RocksdbConfig(cache_bytes=32 * MIB, write_buffer_bytes=16 * MIB)),
    "sqlite": (sqlite, SqliteConfig(cache_bytes=32 * MIB)),
    "lmdb": (lmdb, LmdbConfig()),
}


def own_bytes() -> int:
    """Resident memory that is no page of a file."""
    found = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return 1024 * int(found["RssAnon"].split()[0])


async def make_snapshot(backend: str, path: Path, accounts: int) -> None:
    """Print the root of the snapshot's state."""
    await make("sqlite", path / "made", accounts)
    async with opened_store("sqlite", path / "made") as store, ledger_on(store) as ledger:
        _, manifest = await take(ledger, folder_at(path))
        print(manifest.state_root.hex())


async def restore(backend: str, path: Path, accounts: int) -> None:
    """Print MiB at the start and at most, seconds, and the root."""
    component, config = BACKENDS[backend]
    folder, most = folder_at(path), 0
    began_bytes, began_s = own_bytes(), time.perf_counter()

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, own_bytes())
            await trio.sleep(0.02)

    with folder.reading(folder.named("").name) as manifest:
        async with opened(component, path / backend, config) as store:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                await restore_snapshot(store, FolderSource(folder), manifest, TRUST)
                nursery.cancel_scope.cancel()
            async with ledger_on(store) as ledger:
                root = ledger.tip.state_root.hex()
    print(round(began_bytes / MIB), round(most / MIB), round(time.perf_counter() - began_s, 1), root)


PARTS = {"make": make_snapshot, "restore": restore}


def told(part: str, backend: str, path: Path, accounts: int) -> list[str]:
    command = [sys.executable, "-m", "tests.soak.restoring", backend, f"--part={part}"]
    command += [f"--path={path}", f"--accounts={accounts}"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backends", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--accounts", type=int, nargs="+", default=[250_000, 1_000_000])
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        trio.run(PARTS[asked.part], asked.backends[0], asked.path, asked.accounts[0])
        return 0
    good = True
    print(f"{'accounts':>10} {'backend':8} {'began':>6} {'most':>6} MiB {'seconds':>8}", flush=True)
    for accounts in asked.accounts:
        with tempfile.TemporaryDirectory(prefix="restoring-") as path:
            wanted = told("make", "sqlite", Path(path), accounts)[0]
            for backend in asked.backends or BACKENDS:
                began, most, seconds, root = told("restore", backend, Path(path), accounts)
                good &= root == wanted
                line = f"{accounts:10} {backend:8} {began:>6} {most:>6}     {seconds:>8}"
                print(line if root == wanted else f"{line} ANOTHER ROOT", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
