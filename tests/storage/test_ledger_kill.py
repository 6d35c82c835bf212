"""A process that commits blocks, killed for real: nothing it acknowledged is lost (STO-44)."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from supervm.storage.verify import verify_tree
from tests.storage.ledger_support import add_block, ledger_on, opened_store, set_balance

ROOT = Path(__file__).parents[2]
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


def commit_until_killed(backend, path, commits):
    """Run the process, kill it some time after its n-th commit; the last height it acknowledged."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMIT_UNTIL_KILLED, backend, str(path)],
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
    for _ in range(3):
        acknowledged = await trio.to_thread.run_sync(
            commit_until_killed, backend, tmp_path, dice.randint(1, 8)
        )
        async with opened_store(backend, tmp_path) as store, ledger_on(store) as ledger:
            # The last block may be durable without its acknowledgement having been seen.
            assert acknowledged <= ledger.tip.height <= acknowledged + 1
            await verify_tree(ledger)
            height = ledger.tip.height + 1
            await add_block(ledger, [set_balance(number, height) for number in range(50)])
