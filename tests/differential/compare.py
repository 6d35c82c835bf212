"""Runs blocks by the specification and by C in every way, and compares all that comes out.

    python -m tests.differential.compare --blocks 10000 --seed 1

Where they differ, the blocks are made as small as they may be and written down in Python, to be run again.
"""

import argparse
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence

import attrs

from supervm.execution import BlockInput, execute_block, recorded_supply, supply
from supervm.types.receipt import Status
from tests.differential.case import Case, case_of, difference
from tests.differential.generate import World, world
from tests.differential.reduce import literal, reduce_case
from tests.differential.ways import WAYS, EngineError, Unequal, Way, start

BLOCKS_A_WORLD = 12
TOLD_EVERY = 1_200
"""Blocks after which the program says how far it is."""
SAID_MAX = 4_000


@attrs.define
class Tally:
    """What was compared: blocks, what became of transactions, and what the engines did, by way."""

    blocks: int = 0
    outcomes: Counter[str] = attrs.Factory(Counter)
    done: Counter[str] = attrs.Factory(Counter)


class Found(Exception):
    """A difference: the way in which it shows, and the blocks up to it."""

    def __init__(self, seed: int, way: Way, case: Case, said: str) -> None:
        super().__init__(f"seed {seed}, block {len(case.blocks) - 1}, {way}: {said[:SAID_MAX]}")
        self.way = way
        self.case = case


def compare_world(
    seed: int, count: int, tally: Tally, *, ways: Sequence[Way] = WAYS, of: World | None = None
) -> None:
    """`count` blocks of the world of a seed, by every way. Raises `Found`."""
    of = world(seed) if of is None else of
    began = dict(of.state)
    blocks: list[BlockInput] = []
    runners = {way: start(way, of.state, random.Random(seed)) for way in ways}
    for _ in range(count):
        block = of.block()
        blocks.append(block)
        wanted = execute_block(of.state, block, of.gas)
        for way, runner in runners.items():
            try:
                runner.run(block, of.gas, of.state, wanted)
            except (Unequal, EngineError) as error:
                raise Found(seed, way, case_of(of.gas, of.limits, began, blocks, seed), str(error)) from error
        tally.blocks += 1
        tally.outcomes.update(receipt.code or Status(receipt.status).name for receipt in wanted.receipts)
        tally.outcomes["SKIPPED"] += len(block.transactions) - len(wanted.receipts)
        of.follow(block, wanted.changes)
        for runner in runners.values():
            runner.follow(wanted.changes)
        if supply(of.state) != recorded_supply(of.state):
            raise AssertionError(f"seed {seed}, block {len(blocks) - 1}: value was made or lost")
    for runner in runners.values():
        tally.done.update(runner.seen)


def reduced(found: Found) -> str:
    """The smallest blocks that show a difference, in Python; empty where they alone don't show it."""
    ways = (found.way,)
    if not difference(found.case, ways):
        return ""
    return literal(reduce_case(found.case, lambda case: bool(difference(case, ways))))


def report(tally: Tally) -> str:
    """What was compared, in lines."""
    lines = [f"{tally.blocks} blocks by the specification and by C in {len(WAYS)} ways: all equal"]
    for title, counter in (("transactions", tally.outcomes), ("engines", tally.done)):
        lines.append(title)
        lines += [f"  {name:24} {times}" for name, times in counter.most_common()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    bound = int(os.environ.get("DIFFERENTIAL_BLOCKS", "10000"))
    first = int(os.environ.get("DIFFERENTIAL_SEED", "1"))
    parser.add_argument("--blocks", type=int, default=bound, help="DIFFERENTIAL_BLOCKS, or 10000")
    parser.add_argument("--seed", type=int, default=first, help="of the first world; the next ones count on")
    parser.add_argument("--whole", action="store_true", help="leave a difference as it is found")
    asked = parser.parse_args()
    tally = Tally()
    began = time.monotonic()
    worlds = -(-asked.blocks // BLOCKS_A_WORLD)
    last = asked.seed + worlds - 1
    print(f"{asked.blocks} blocks from seed {asked.seed} to {last}, {BLOCKS_A_WORLD} a seed", flush=True)
    try:
        for number in range(worlds):
            compare_world(asked.seed + number, BLOCKS_A_WORLD, tally)
            if tally.blocks % TOLD_EVERY == 0:
                now = f"{tally.blocks} blocks, up to seed {asked.seed + number}"
                print(f"{now}, in {time.monotonic() - began:.0f} s, all equal", flush=True)
    except Found as found:
        print(f"after {tally.blocks} equal blocks: {found}", flush=True)
        if not asked.whole:
            print(reduced(found) or "these blocks alone don't show it: run the seed again")
        return os.EX_DATAERR
    print(report(tally))
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
