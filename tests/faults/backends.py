"""Faults beneath the engines themselves: their system calls fail, and their files are damaged at rest.

A ledger is a process of its own here, since an engine may take the process with it: lmdb maps its file, and a
damaged map can end in a signal. That is a stop as well, and no answer.
`python -m tests.faults.backends commit NAME FOLDER` commits blocks and ends with the error's name; `ask` in
the place of `commit` opens and asks everything.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import attrs
import trio

from supervm.api import Component
from supervm.contracts.storage import StorageError
from supervm.plugins.storage.lmdb import LmdbConfig, lmdb
from supervm.plugins.storage.rocksdb import RocksdbConfig, rocksdb
from supervm.plugins.storage.sqlite import SqliteConfig, sqlite
from supervm.plugins.storage.tiered import TieredStore, tiered
from supervm.storage.temperature import Temperature
from supervm.testing.context import opened
from tests.faults.chain import GENESIS, ask_everything, grow, verified
from tests.faults.classes import CONFIG as MOVING
from tests.faults.store import flipped
from tests.storage.ledger_support import ledger_on

ROOT = Path(__file__).parents[2]
BLOCKS = 8
TOLD = "told "
SMALL = {"checkpoint_pages": 20, "cache_bytes": 2**20}
# Small, so that tables are written, logs move to the database and a map grows within a few blocks.
BACKENDS: dict[str, tuple[Component, Any]] = {
    "sqlite": (sqlite, SqliteConfig(**SMALL)),
    "rocksdb": (rocksdb, RocksdbConfig(write_buffer_bytes=2**16, cache_bytes=2**20)),
    "lmdb": (lmdb, LmdbConfig(map_bytes=2**20)),
    # Every row may move, whatever it is; a window ends and rows move after each block.
    "tiered": (
        tiered,
        attrs.evolve(MOVING, warm_over="sqlite", **{f"{one.word}_options": SMALL for one in Temperature}),
    ),
}


class DiskFault(StrEnum):
    """What happens beneath an engine; those with a dash are the preloaded library's."""

    WRITE_ERROR = "write-error"
    SHORT_WRITE = "short-write"
    DISK_FULL = "disk-full"
    SYNC_ERROR = "sync-error"
    READ_ERROR = "read-error"
    FLIP_ON_READ = "flip-on-read"
    FLIP_AT_REST = "bit flip at rest"
    CUT_AT_REST = "file cut short"


AT_REST = frozenset({DiskFault.FLIP_AT_REST, DiskFault.CUT_AT_REST})


@attrs.define
class Outcome:
    """What one fault did. `earlier`: acknowledged blocks that the engine dropped with the end of its log."""

    kind: DiskFault
    work: str
    at: int
    injected: str = ""
    stopped: str = ""
    noticed: list[str] = attrs.Factory(list)
    named: bool = True
    wrong: list[str] = attrs.Factory(list)
    recovered: bool = False
    earlier: int = 0


def compiled(folder: Path) -> Path | None:
    """The library that fails calls; None where there is no compiler, or no such library can be had."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    library = folder / "faulty_io.so"
    source = Path(__file__).with_name("faulty_io.c")
    subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"],
        check=True,
        capture_output=True,
    )
    return library


def process(part: str, backend: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, "-m", "tests.faults.backends", part, backend, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, **environ},
        capture_output=True,
        text=True,
        timeout=240,
    )


def facts_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What the process told: the last height, and the error it ended with, a signal's number among them."""
    facts: dict[str, Any] = {"height": -1, "error": ""}
    for line in done.stdout.splitlines():
        if line.startswith(TOLD):  # the node's log goes there too
            facts.update(json.loads(line.removeprefix(TOLD)))
    if done.returncode < 0:
        facts["error"] = f"signal {-done.returncode}"
    elif done.returncode:
        facts["unclean"] = done.stderr[-800:]
    return facts


def count_calls(backend: str, kind: DiskFault, library: Path, path: Path) -> int:
    """How many calls of its sort the commits make."""
    store = path / "store"
    store.mkdir(parents=True)
    done = process(
        "commit", backend, store, **_environ(library, kind, store, 0), FAULT_COUNT=str(path / "count")
    )
    assert facts_of(done) == {"height": BLOCKS, "error": ""}, done
    return int((path / "count").read_text())


def _environ(library: Path, kind: DiskFault, store: Path, at: int) -> dict[str, str]:
    return {
        "LD_PRELOAD": str(library),
        "FAULT_KIND": kind,
        "FAULT_STORE": str(store.resolve()),
        "FAULT_AT": str(at),
    }


def fail_call(backend: str, kind: DiskFault, at: int, library: Path, path: Path) -> Outcome:
    """Commit blocks until the `at`-th call fails; then open without it and ask everything."""
    outcome = Outcome(kind, backend, at, injected=f"call {at}")
    store = path / "store"
    store.mkdir(parents=True)
    before = facts_of(process("commit", backend, store, **_environ(library, kind, store, at)))
    _take(before, outcome)
    outcome.stopped = before["error"]
    after = facts_of(process("ask", backend, store))
    _take(after, outcome)
    # What an engine read damaged it may have written back, as a part of a page that it changed. And a store
    # that failed before it was made whole is refused: nothing of it was acknowledged, not even genesis.
    may_refuse = kind is DiskFault.FLIP_ON_READ or before["height"] < 0
    if (after["error"] or after.get("refused")) and not may_refuse:
        outcome.wrong.append(f"the disk is good again, and it gave {after}")
    # Where it opens, it stands where it was, also if it refuses a question.
    if not after["error"] and not before["height"] <= after["height"] <= before["height"] + 1:
        outcome.wrong.append(f"{before['height']} was acknowledged, it stands at {after['height']}")
    outcome.recovered = not outcome.wrong
    return outcome


def make_good(backend: str, path: Path) -> Path:
    """A ledger's folder as a killed process leaves it, to be copied and damaged."""
    store = path / "good"
    store.mkdir(parents=True)
    facts = facts_of(process("commit", backend, store, DIE="yes"))
    assert facts == {"height": BLOCKS, "error": "signal 9"}, facts
    return store


def damage_files(backend: str, kind: DiskFault, at: int, good: Path, path: Path, seed: object) -> Outcome:
    """Damage one of the engine's files; then open and ask everything."""
    outcome = Outcome(kind, backend, at)
    chance = random.Random(f"{seed}/{kind}/{at}")
    store = path / "store"
    shutil.copytree(good, store)
    files = sorted(each for each in store.rglob("*") if each.is_file() and each.stat().st_size)
    target = chance.choice(files)
    outcome.injected = target.name
    data = target.read_bytes()
    cut = kind is DiskFault.CUT_AT_REST
    target.write_bytes(data[: chance.randrange(len(data))] if cut else flipped(data, chance))
    after = facts_of(process("ask", backend, store))
    _take(after, outcome)
    if not after["error"]:
        outcome.recovered = True
        outcome.earlier = max(0, BLOCKS - after["height"])
    return outcome


def _take(facts: dict[str, Any], outcome: Outcome) -> None:
    if facts["error"]:
        outcome.noticed.append(facts["error"])
    outcome.noticed += facts.get("refused", [])
    outcome.wrong += facts.get("wrong", [])
    if "unclean" in facts:
        outcome.wrong.append(facts["unclean"])


# In the process


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors of a group, and of those in it."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from leaves(each)
    else:
        yield error


async def commit(backend: str, folder: Path) -> None:
    component, config = BACKENDS[backend]
    async with opened(component, folder, config) as store, ledger_on(store, genesis=GENESIS) as ledger:
        _tell(height=ledger.tip.height)
        while ledger.tip.height < BLOCKS:
            _tell(height=await grow(ledger))
            if isinstance(store, TieredStore):
                with store.moving._tolerant("round"):
                    await store.moving.end_window()
                    await store.moving.once()
        if "DIE" in os.environ:
            os.kill(os.getpid(), 9)


async def ask(backend: str, folder: Path) -> None:
    component, config = BACKENDS[backend]
    async with opened(component, folder, config) as store, ledger_on(store, genesis=GENESIS) as ledger:
        height = ledger.tip.height
        answers = await ask_everything(ledger)
        wrong = answers.wrong
        if answers.lacking and await verified(ledger):
            wrong += answers.lacking
        _tell(height=height, wrong=wrong, refused=[type(error).__name__ for error in answers.refused])


def _tell(**facts: Any) -> None:
    os.write(1, f"{TOLD}{json.dumps(facts)}\n".encode())


def main() -> int:
    part, backend, folder = sys.argv[1:]
    try:
        trio.run({"commit": commit, "ask": ask}[part], backend, Path(folder))
    except BaseException as group:
        # The store's own task may meet the fault at the same time.
        errors = list(leaves(group))
        if not all(isinstance(error, StorageError) for error in errors):
            raise
        _tell(error=type(errors[0]).__name__)
    return 0


if __name__ == "__main__":
    sys.exit(main())
