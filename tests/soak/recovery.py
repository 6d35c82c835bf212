"""How soon a killed ledger opens: `python -m tests.soak.recovery [--accounts N] [--kills K] [NAME ...]`.

Makes a ledger of N accounts (a million), lets a process commit blocks to it and kills it, K times (5); opens
it each time in another new process, with the files out of the system's cache. The clock runs from opening the
store to a ledger that answers: imports are out of it, recovery of the backend and all our checks are in it.
Ends with 1 where an acknowledged block is gone, the tree is another at the end, or opening took 2 s or more.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import trio

from supervm.storage.verify import verify_tree
from tests.storage.ledger_support import add_block, ledger_on, make_block, opened_store, set_balance

BACKENDS = ("rocksdb", "sqlite", "lmdb")
AT_ONCE = 100_000
OPEN_S_MAX = 2.0
BLOCK = 1_000
"""Transactions of each block that is committed until the kill."""


async def make(backend: str, path: Path, accounts: int) -> None:
    """A ledger of so many accounts, in a few blocks."""
    async with opened_store(backend, path) as store, ledger_on(store) as ledger:
        for first in range(0, accounts, AT_ONCE):
            height = ledger.tip.height + 1
            entries = [
                set_balance(number, 1 + number) for number in range(first, min(first + AT_ONCE, accounts))
            ]
            staged = await ledger.stage({entry[:33]: entry[33:] for entry in entries}, height)
            await ledger.commit(make_block(ledger.tip_header, staged.root, [], []), [], b"final", staged)


async def commit_blocks(backend: str, path: Path, accounts: int) -> None:
    """Commit until killed; a line says each height once it is durable."""
    async with opened_store(backend, path) as store, ledger_on(store) as ledger:
        dice = random.Random(ledger.tip.height)
        while True:
            height = ledger.tip.height + 1
            payees = dice.sample(range(accounts), min(BLOCK, accounts))
            await add_block(ledger, [set_balance(number, height << 32 | number) for number in payees])
            os.write(1, b"%d\n" % height)


async def open_once(backend: str, path: Path, accounts: int) -> None:
    """Print the seconds until the store was open, until all was, those of the processor, and the height."""
    began, began_cpu = time.perf_counter(), time.process_time()
    async with opened_store(backend, path) as store:
        opened = time.perf_counter()
        async with ledger_on(store) as ledger:
            await ledger.get_state([set_balance(0, 1)[:33]])
            done, done_cpu = time.perf_counter(), time.process_time()
            print(opened - began, done - began, done_cpu - began_cpu, ledger.tip.height)


async def check(backend: str, path: Path, accounts: int) -> None:
    async with opened_store(backend, path) as store, ledger_on(store) as ledger:
        print(await verify_tree(ledger))


PARTS = {"make": make, "commit": commit_blocks, "open": open_once, "check": check}


def part(name: str, backend: str, path: Path, accounts: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        "tests.soak.recovery",
        backend,
        f"--part={name}",
        f"--path={path}",
        f"--accounts={accounts}",
    ]


def told(*arguments: str) -> list[str]:
    return subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True).stdout.split()


def kill_after(command: list[str], blocks: int) -> int:
    """Let it commit so many blocks and more; the last height that it acknowledged before it died."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(blocks)]
        child.kill()
        rest = child.stdout.read()
    whole = "".join(lines) + rest
    return int(whole[: whole.rindex("\n")].split("\n")[-1])


def forget(path: Path) -> None:
    """Out of the system's cache, so that opening reads the disk."""
    for each in path.rglob("*"):
        if each.is_file():
            handle = os.open(each, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def measure(backend: str, path: Path, accounts: int, kills: int) -> bool:
    """Print a line for the backend; whether all was well."""
    began = time.perf_counter()
    told(*part("make", backend, path, accounts))
    made_s = time.perf_counter() - began
    dice = random.Random(backend)
    seconds, of_store, of_processor, lost = [], [], [], 0
    for _ in range(kills):
        acknowledged = kill_after(part("commit", backend, path, accounts), dice.randint(3, 12))
        forget(path)
        store_s, all_s, cpu_s, height = map(float, told(*part("open", backend, path, accounts)))
        seconds.append(all_s)
        of_processor.append(cpu_s)
        of_store.append(store_s)
        lost += height not in (acknowledged, acknowledged + 1)
    entries = int(told(*part("check", backend, path, accounts))[0])
    size_bytes = sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    print(
        f"{backend:8} {entries:>9,} entries, {size_bytes >> 20} MiB, made in {made_s:.0f} s;"
        f" {kills} kills, {lost} lost; opened in {median(seconds):.3f} s, at most {max(seconds):.3f} s"
        f" (the store {median(of_store):.3f} s; {median(of_processor):.3f} s of the processor)",
        flush=True,
    )
    return not lost and entries >= accounts and max(seconds) < OPEN_S_MAX


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backends", nargs="*", metavar="BACKEND", help=", ".join(BACKENDS))
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--path", type=Path)
    parser.add_argument("--part", choices=PARTS)
    asked = parser.parse_args()
    if asked.part:
        trio.run(PARTS[asked.part], asked.backends[0], asked.path, asked.accounts)
        return 0
    well = True
    with tempfile.TemporaryDirectory(prefix="recovery-", dir=asked.path) as folder:
        for backend in asked.backends or BACKENDS:
            path = Path(folder, backend)
            path.mkdir()
            well &= measure(backend, path, asked.accounts, asked.kills)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
