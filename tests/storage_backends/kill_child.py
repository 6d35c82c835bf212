"""A process of several writers that write to one store until it is killed: `kill_child.py NAME FOLDER SEED`.

Writer w's i-th batch sets its four counters to i, and adds a row of its own: a batch of which a part is
missing shows, and so does one that is missing before another. Once batch i is acknowledged, one line says
w, i and the level. Counters begin at 1, so that 0 is "nothing yet".
"""

import os
import random
import sys
from collections.abc import Mapping
from pathlib import Path

import trio

from supervm.contracts.storage import Delete, DeleteRange, Durability, KeyValueStore, Operation, Put
from supervm.plugins.storage.lmdb import LmdbConfig, lmdb
from supervm.plugins.storage.rocksdb import RocksdbConfig, rocksdb
from supervm.plugins.storage.sqlite import SqliteConfig, sqlite
from supervm.testing.context import opened
from tests.storage_backends.eager import EagerConfig, eager

WRITERS = 5
ROWS_KEPT = 40
# Small, so that flushes, compactions, checkpoints of the log and a growing map happen within a second.
BACKENDS = {
    "sqlite": (sqlite, SqliteConfig(checkpoint_pages=50)),
    "rocksdb": (rocksdb, RocksdbConfig(write_buffer_bytes=2**17, cache_bytes=2**20)),
    "lmdb": (lmdb, LmdbConfig(map_bytes=2**20)),
    # Its rows go from class to class all the while.
    "tiered": (
        eager,
        EagerConfig(hot_options={"checkpoint_pages": 50}, cold_options={"checkpoint_pages": 50}),
    ),
}
LEVELS = (Durability.DURABLE, Durability.DURABLE, Durability.BUFFERED, Durability.MEMORY)


def counter(writer: int, part: int) -> bytes:
    return b"counter/%d/%d" % (writer, part)


def row(writer: int, i: int) -> bytes:
    return b"row/%d/%012d" % (writer, i)


def value(writer: int, i: int) -> bytes:
    return random.Random(f"{writer}/{i}").randbytes((writer * 977 + i * 131) % 1_500)


def batch_of(writer: int, i: int) -> list[Operation]:
    """Counters at both ends of the keys and of the batch; the rows before the last 40 go."""
    oldest = i - ROWS_KEPT
    removal = (
        DeleteRange(row(writer, 0), row(writer, oldest + 1)) if i % 10 == 0 else Delete(row(writer, oldest))
    )
    return [
        Put(counter(writer, 0), b"%d" % i),
        Put(counter(writer, 1), b"%d" % i),
        *([removal] if oldest > 0 else []),
        Put(row(writer, i), value(writer, i)),
        Put(b"\x00" + counter(writer, 2), b"%d" % i),
        Put(b"\xff" + counter(writer, 3), b"%d" % i),
    ]


async def stands_at(store: KeyValueStore) -> dict[int, int]:
    """The last batch of each writer in a store that was reopened. Asserts that none is torn or missing."""
    rows = {key: found async for key, found in store.scan()}
    stands = {}
    for writer in range(WRITERS):
        names = [
            counter(writer, 0),
            counter(writer, 1),
            b"\x00" + counter(writer, 2),
            b"\xff" + counter(writer, 3),
        ]
        counters = {rows.pop(name, b"0") for name in names}
        assert len(counters) == 1, f"writer {writer}'s last batch is torn: {counters}"
        stands[writer] = int(counters.pop())
        under = b"row/%d/" % writer
        left = {key: rows.pop(key) for key in [key for key in rows if key.startswith(under)]}
        oldest = max(1, stands[writer] - ROWS_KEPT + 1)
        wanted = {row(writer, i): value(writer, i) for i in range(oldest, stands[writer] + 1)}
        assert left == wanted, f"writer {writer}'s rows are not those of its {stands[writer]} batches"
    assert not rows, f"rows that nobody wrote: {list(rows)[:3]}"
    return stands


def is_lost(stands: Mapping[int, int], acknowledged: Mapping[int, int]) -> list[str]:
    """Acknowledged batches that are gone, in words."""
    return [
        f"writer {writer}: {i} was acknowledged, the store stands at {stands[writer]}"
        for writer, i in acknowledged.items()
        if stands[writer] < i
    ]


async def write(store: KeyValueStore, writer: int, i: int, seed: int) -> None:
    chance = random.Random(f"{seed}/{writer}/{i}")
    while True:
        i += 1
        level = chance.choice(LEVELS)
        await store.write(batch_of(writer, i), level)
        # One call and less than a pipe's unit, so that a kill leaves a whole line or none.
        os.write(1, b"%d %d %d\n" % (writer, i, level))


async def main(backend: str, folder: Path, seed: int) -> None:
    component, config = BACKENDS[backend]
    async with opened(component, folder, config) as store, trio.open_nursery() as nursery:
        stands = await stands_at(store)
        os.write(1, b"open\n")
        for writer, i in stands.items():
            nursery.start_soon(write, store, writer, i, seed)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
