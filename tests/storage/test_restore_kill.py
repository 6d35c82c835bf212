"""A restore or a migration killed for real goes on where it was, and ends as one that wasn't (STO-44)."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from supervm.storage import snapshot_chunks
from supervm.storage.errors import Unfinished
from supervm.storage.migration import migrate
from supervm.storage.spaces import COMMIT_KEY
from supervm.storage.verify import verify_tree
from tests.storage.ledger_support import ledger_on, opened_store, rows_of
from tests.storage.snapshot_support import folder_at, restore, take
from tests.storage.test_pruning import grow

ROOT = Path(__file__).parents[2]
KILLS = 3
PROGRAM = """
import sys
from pathlib import Path
import trio
from supervm.storage import migration
from tests.storage.ledger_support import opened_store
from tests.storage.snapshot_support import folder_at, restore

def tell(done, of):
    print(done, of, flush=True)

async def main(work, backend, path):
    async with opened_store(backend, path / "target") as target:
        if work == "restore":
            await restore(target, folder_at(path), progress=tell)
        else:
            migration.ROWS_MAX = 20
            async with opened_store("sqlite", path / "source") as source:
                await migration.migrate(source, target, tell)

trio.run(main, sys.argv[1], sys.argv[2], Path(sys.argv[3]))
"""


def kill_after(work, backend, path, lines):
    """Run it until it has told so many steps, and kill it; whether it was still running."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, work, backend, str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    told = sum(1 for _ in zip(range(lines), process.stdout, strict=False))
    process.kill()
    process.communicate()
    return told == lines


@pytest.mark.parametrize("backend", ["sqlite", "rocksdb"])
@pytest.mark.parametrize("work", ["restore", "migrate"])
async def test_killed_at_any_step_it_goes_on_and_ends_as_if_it_had_not_been(
    tmp_path, monkeypatch, work, backend
):
    if backend == "rocksdb":
        pytest.importorskip("rocksdict")
    monkeypatch.setattr(snapshot_chunks, "CHUNK_BYTES_MIN", 256)
    monkeypatch.setattr(snapshot_chunks, "CHUNK_BYTES_MEAN", 512)
    folder, dice = folder_at(tmp_path), random.Random(work + backend)
    async with opened_store("sqlite", tmp_path / "source") as source:
        async with ledger_on(source) as ledger:
            await grow(ledger, 20)
            await take(ledger, folder)
            tip = ledger.tip
        expected = await rows_of(source)
    if work == "restore":
        async with opened_store("memory", tmp_path / "whole") as store:
            await restore(store, folder)
            expected = await rows_of(store)
    for _ in range(KILLS):
        if not await trio.to_thread.run_sync(kill_after, work, backend, tmp_path, dice.randint(1, 25)):
            break
        async with opened_store(backend, tmp_path / "target") as target:
            rows = await rows_of(target)
            if COMMIT_KEY in rows:
                break  # it came to its end before the kill did
            # Either nothing of it was durable yet, or it says what it is; it is never taken for a ledger.
            if rows:
                with pytest.raises(Unfinished):
                    async with ledger_on(target):
                        pass
    async with opened_store(backend, tmp_path / "target") as target:
        if COMMIT_KEY not in await rows_of(target):
            if work == "restore":
                await restore(target, folder)
            else:
                async with opened_store("sqlite", tmp_path / "source") as source:
                    await migrate(source, target)
        assert await rows_of(target) == expected
        async with ledger_on(target) as ledger:
            assert ledger.tip == tip
            await verify_tree(ledger)
