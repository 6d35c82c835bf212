"""A process that writes to a store until it is killed: `python storage_child.py MODULE NAME FOLDER SEED`.

Every batch `i` is a function of the seed and i, so that whoever reopens the store knows what each prefix
of them holds. A line with i and the level is printed once batch i is acknowledged.
"""

import importlib
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio

from supervm.contracts.storage import Delete, DeleteRange, Durability, Operation, Put
from supervm.kernel.component import Component
from supervm.testing.context import opened

COUNT = b"count"
LEVELS = (Durability.DURABLE, Durability.DURABLE, Durability.BUFFERED, Durability.MEMORY)


def batch_of(seed: int, i: int) -> tuple[list[Operation], Durability]:
    """Batch `i`: some rows, some removed, and always the count of batches, i + 1."""
    chance = random.Random(f"{seed}/{i}")
    batch: list[Operation] = [Put(COUNT, b"%d" % (i + 1))]
    for _ in range(chance.randrange(1, 40)):
        key = b"row/%03d" % chance.randrange(300)
        match chance.randrange(8):
            case 0:
                batch.append(Delete(key))
            case 1:
                batch.append(DeleteRange(key, b"row/%03d" % chance.randrange(300)))
            case _:
                batch.append(Put(key, b"%d/" % i + chance.randbytes(chance.randrange(400))))
    return batch, chance.choice(LEVELS)


def apply(rows: dict[bytes, bytes], batch: list[Operation]) -> None:
    """What a batch does, on a dictionary."""
    for operation in batch:
        match operation:
            case Put(key, value):
                rows[key] = value
            case Delete(key):
                rows.pop(key, None)
            case DeleteRange(start, end):
                for key in [k for k in rows if k >= start and (end is None or k < end)]:
                    del rows[key]


def find_component(module: str, name: str) -> Component:
    """The storage component `name` that a module defines."""
    found = vars(importlib.import_module(module)).values()
    return next(value for value in found if isinstance(value, Component) and value.name == name)


async def write_until_killed(
    component: Component, folder: Path, seed: int, options: Mapping[str, Any]
) -> None:
    """Go on from the batch that the store stands at."""
    async with opened(component, folder, component.config(**options)) as store:
        i = int(await store.get(COUNT) or 0)
        print("open", i, flush=True)
        while True:
            batch, level = batch_of(seed, i)
            await store.write(batch, level)
            print(i, int(level), flush=True)
            i += 1


if __name__ == "__main__":
    module, name, folder, seed = sys.argv[1:]
    trio.run(write_until_killed, find_component(module, name), Path(folder), int(seed), {})
