"""Runs blocks by the specification and by C in every way, and compares all that comes out.

python -m tests.differential.compare --blocks 10000 --seed 1
"""

import argparse
import os
import sys
import time
from collections import Counter

import attrs

from supervm.execution import BlockInput, BlockResult, execute_block, recorded_supply, supply
from supervm.execution.engine import BlockEngine, NativeEngine
from supervm.execution.working import GAS_STATE_KEY
from supervm.types.receipt import Status
from tests.differential.generate import World, world

BLOCKS_A_WORLD = 12
WAYS = (
    (1, "serial"),
    (2, "partitioned"),
    (2, "block_stm"),
    (3, "auto"),
    (3, "block_stm"),
    (8, "block_stm"),
)
"""(threads, mode)"""


class Unequal(AssertionError):
    """An engine and the specification differ. `what` says in what, `where` names seed, block and way."""


def engines() -> dict[str, BlockEngine]:
    """One of each way; the odd ones forget most of the state between blocks."""
    made: dict[str, BlockEngine] = {}
    for at, (threads, mode) in enumerate(WAYS):
        bound = 40_000 if at % 2 else 0
        name = f"{mode} on {threads}"
        made[name] = NativeEngine(threads=threads, bytes_max=bound, seed=bytes(range(32)), mode=mode)
    return made


def run_engine(engine: BlockEngine, of: World, block: BlockInput) -> BlockResult:
    """One block by an engine that follows the world."""
    with engine.open_block(block, of.gas, of.state[GAS_STATE_KEY]) as run:
        run.supply([of.state.get(key) for key in run.missing()])
        return run.execute()


def check_equal(found: BlockResult, wanted: BlockResult, where: str) -> None:
    """Receipts, their root, changes and reasons, byte for byte. Raises `Unequal`."""
    for field in attrs.fields(BlockResult):
        mine, right = getattr(found, field.name), getattr(wanted, field.name)
        if mine != right:
            raise Unequal(f"{where}: {field.name} differ\n  found  {mine!r}\n  wanted {right!r}")


def check_conserved(of: World, where: str) -> None:
    if supply(of.state) != recorded_supply(of.state):
        raise Unequal(f"{where}: value was made or lost")


def compare_world(seed: int, count: int, seen: Counter[str]) -> None:
    """`count` blocks of the world of a seed, by every way; counts outcomes into `seen`."""
    of = world(seed)
    by_way = engines()
    for number in range(count):
        block = of.block()
        wanted = execute_block(of.state, block, of.gas)
        for way, engine in by_way.items():
            where = f"seed {seed}, block {number}, {way}"
            check_equal(run_engine(engine, of, block), wanted, where)
        seen.update(receipt.code or Status(receipt.status).name for receipt in wanted.receipts)
        seen["SKIPPED"] += len(block.transactions) - len(wanted.receipts)
        of.follow(block, wanted.changes)
        for engine in by_way.values():
            engine.follow(wanted.changes)
        check_conserved(of, f"seed {seed}, block {number}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    seen: Counter[str] = Counter()
    began = time.monotonic()
    worlds = -(-asked.blocks // BLOCKS_A_WORLD)
    for number in range(worlds):
        compare_world(asked.seed + number, BLOCKS_A_WORLD, seen)
        if number % 100 == 99:
            done = (number + 1) * BLOCKS_A_WORLD
            print(f"{done} blocks in {time.monotonic() - began:.0f} s, all equal", flush=True)
    print(f"{worlds * BLOCKS_A_WORLD} blocks by the specification and by C in {len(WAYS)} ways: all equal")
    for outcome, times in seen.most_common():
        print(f"  {outcome:20} {times}")
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
