"""A process that commits blocks and prunes, killed for real: nothing it acknowledged is lost (STO-44)."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from supervm.kernel.context import SystemClock
from supervm.storage.pace import Pace
from supervm.storage.pruning import Sweeper
from supervm.storage.spaces import BODIES, STALE
from supervm.storage.verify import verify_tree
from tests.storage.ledger_support import add_block, ledger_on, opened_store, set_balance

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("SOAK_KILLS", "3"))
COMMIT_UNTIL_KILLED = """
import sys
from pathlib import Path
import trio
from tests.storage.ledger_support import add_block, ledger_on, opened_store, set_balance

async def main():
    async with opened_store(sys.argv[1], Path(sys.argv[2])) as store, ledger_on(store) as ledger:
        while True:
            height = ledger.tip.height + 1
            await add_block(ledger, [set_balance(number, height) for number in range(50)])
            print(height, flush=True)

trio.run(main)
"""

PRUNE_UNTIL_KILLED = """
import sys
from pathlib import Path
import trio
from supervm.kernel.context import SystemClock
from supervm.storage.pace import Pace
from supervm.storage.pruning import Sweeper
from supervm.storage.spaces import Horizon
from tests.storage.ledger_support import add_block, ledger_on, opened_store, set_balance

async def prune(ledger):
    sweeper = Sweeper(ledger, Pace(SystemClock(), 0.9))
    while True:
        height = ledger.tip.height
        await ledger.raise_horizon(Horizon(max(0, height - 3), max(0, height - 1)))
        await sweeper.sweep()
        await ledger.wait_above(height)

async def main():
    async with opened_store(sys.argv[1], Path(sys.argv[2])) as store, ledger_on(store) as ledger:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(prune, ledger)
            while True:
                height = ledger.tip.height + 1
                await add_block(ledger, [set_balance(number, height) for number in range(50)])
                print(height, flush=True)
                while ledger.horizon.blocks < height - 4:
                    await trio.lowlevel.checkpoint()

trio.run(main)
"""


def commit_until_killed(backend, path, commits, program=COMMIT_UNTIL_KILLED):
    """Run the process, kill it some time after its n-th commit; the last height it acknowledged."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, backend, str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    acknowledged = [process.stdout.readline() for _ in range(commits)]
    process.kill()
    rest, _ = process.communicate()
    whole = "".join(acknowledged) + rest
    return int(whole[: whole.rindex("\n")].split("\n")[-1])


@pytest.mark.parametrize("backend", ["sqlite", "rocksdb", "lmdb"])
async def test_a_killed_process_loses_nothing_it_acknowledged(tmp_path, backend):
    if binding := {"rocksdb": "rocksdict", "lmdb": "lmdb"}.get(backend):
        pytest.importorskip(binding)
    dice = random.Random(backend)
    for _ in range(KILLS):
        acknowledged = await trio.to_thread.run_sync(
            commit_until_killed, backend, tmp_path, dice.randint(1, 8)
        )
        async with opened_store(backend, tmp_path) as store, ledger_on(store) as ledger:
            # The last block may be durable without its acknowledgement having been seen.
            assert acknowledged <= ledger.tip.height <= acknowledged + 1
            await verify_tree(ledger)
            height = ledger.tip.height + 1
            await add_block(ledger, [set_balance(number, height) for number in range(50)])


@pytest.mark.parametrize("backend", ["sqlite", "rocksdb"])
async def test_a_process_killed_while_it_prunes_keeps_all_above_its_horizon_and_goes_on(tmp_path, backend):
    if backend == "rocksdb":
        pytest.importorskip("rocksdict")
    dice = random.Random(backend)
    for _ in range(KILLS):
        acknowledged = await trio.to_thread.run_sync(
            commit_until_killed, backend, tmp_path, dice.randint(5, 12), PRUNE_UNTIL_KILLED
        )
        async with opened_store(backend, tmp_path) as store, ledger_on(store) as ledger:
            tip, horizon = ledger.tip.height, ledger.horizon
            assert acknowledged <= tip <= acknowledged + 1
            assert tip - 5 <= horizon.blocks
            await verify_tree(ledger)
            for height in range(horizon.blocks, tip + 1):
                assert (await ledger.block(height)).header.height == height
                assert len(await ledger.receipts(height)) == (50 if height else 0)
            # What it had not yet deleted goes now, and nothing else.
            await Sweeper(ledger, Pace(SystemClock())).sweep()
            rows = [key async for key, _ in store.scan()]
            assert {int.from_bytes(key[1:9], "big") for key in rows if key[:1] == BODIES} == set(
                range(horizon.blocks, tip + 1)
            )
            assert all(int.from_bytes(key[1:9], "big") > horizon.roots for key in rows if key[:1] == STALE)
            await verify_tree(ledger)
