"""Fills a small disk of its own with a store: `full_disk_child.py BACKEND LIMIT FOLDER`, in a new process.

LIMIT `mount`: a 24 MiB tmpfs, mounted in namespaces of this process (no root needed where the kernel
allows it). LIMIT `rlimit`: files of at most 4 MiB, by the operating system's limit. Prints what it saw
as one line of JSON.
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import trio

from supervm.contracts.storage import DiskFull, Durability, Put, StorageError, StoreFailed
from supervm.plugins.storage.lmdb import LmdbConfig, lmdb
from supervm.plugins.storage.rocksdb import RocksdbConfig, rocksdb
from supervm.plugins.storage.sqlite import SqliteConfig, sqlite
from supervm.testing.conformance.component import only_error
from supervm.testing.context import opened

BATCH = 200_000
BACKENDS = {
    "sqlite": (sqlite, SqliteConfig(free_bytes_min=0)),
    "rocksdb": (rocksdb, RocksdbConfig(free_bytes_min=0)),
    "lmdb": (lmdb, LmdbConfig(free_bytes_min=0)),
}


def pair(i: int) -> list[Put]:
    """A batch of two rows, so that half a batch would show."""
    return [Put(b"a%04d" % i, os.urandom(BATCH)), Put(b"b%04d" % i, b"second half")]


async def fill(backend: str, folder: Path, seen: dict[str, Any]) -> None:
    component, config = BACKENDS[backend]
    async with opened(component, folder, config) as store:
        i = 0
        try:
            while i < 1000:
                await store.write(pair(i), Durability.DURABLE)
                i += 1
        except StorageError as error:
            seen["error"] = type(error).__name__
            seen["text"] = str(error)
        seen["acknowledged"] = i
        seen["health"] = (await store.health()).state
        try:
            held = await store.get_many([b"a%04d" % j for j in range(i + 1)])
            seen["readable"] = sum(value is not None for value in held)
            seen["rows"] = len([row async for row in store.scan()])
        except StoreFailed:
            seen["readable"] = "refused"
        try:
            await store.write(pair(i))
            seen["second"] = "written"
        except (DiskFull, StoreFailed) as error:
            seen["second"] = type(error).__name__


async def reopen(backend: str, folder: Path, seen: dict[str, Any]) -> None:
    component, config = BACKENDS[backend]
    async with opened(component, folder, config) as store:
        rows = [key async for key, _ in store.scan()]
        seen["after"] = len([key for key in rows if key.startswith(b"a")])
        seen["halves"] = len([key for key in rows if key.startswith(b"b")])
        await store.write([Put(b"z", b"room again")])
        seen["room"] = (await store.get(b"z")) == b"room again"


def main() -> None:
    backend, limit, name = sys.argv[1:]
    folder, seen = Path(name), dict[str, Any]()
    if limit == "mount":
        options = ["-t", "tmpfs", "-o", "size=24m"]
        subprocess.run(["mount", *options, "tmpfs", str(folder)], check=True)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 * 2**20, resource.RLIM_INFINITY))
    try:
        trio.run(fill, backend, folder / "store", seen)
    except BaseException as error:
        # The component itself may have failed meanwhile, as it must once its store has.
        seen["component"] = type(only_error(error)).__name__
    if limit == "mount":
        subprocess.run(["mount", "-o", "remount,size=96m", str(folder)], check=True)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    trio.run(reopen, backend, folder / "store", seen)
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
