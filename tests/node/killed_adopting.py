"""A program that begins with a snapshot again and again, killed before each of its steps in turn.

Each run is a process of its own, forked from this one, which opens nothing and starts no thread itself. A
step is a call that changes the disk: of a file, of a name, or of the store. Prints a line of JSON a kill.

    python -m tests.node.killed_adopting TEMPLATE WORK SEED
"""

import io
import json
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio
from blake3 import blake3

from supervm.chain.incoming import INCOMING, Incoming
from supervm.contracts.roles import Role
from supervm.crypto.keys import KeyPair
from supervm.node.adopting import adopt
from supervm.plugins.storage import supervm_components as stores
from supervm.plugins.storage.threaded import ThreadedStore
from supervm.storage.snapshot_restore import read_origin
from supervm.telemetry.logs import LogConfig, open_logs
from supervm.testing.context import opened
from supervm.types.address import Suite
from supervm.types.genesis import Genesis

BACKEND = "sqlite"
EVERY = "SUPERVM_KILL_AT_EVERY_STEP"
REMOVING = {"unlink", "rmdir"}
"""Of a long row of these, one in eight is enough, where EVERY isn't in the environment."""
Facts = dict[str, Any]


COMPONENT = next(each for each in stores() if each.name == BACKEND)
# What each process would import is imported before it is forked.
assert KeyPair(Suite.ED25519, (1).to_bytes(32, "big")).public_key


def prepared() -> Any:
    """As much of what a node prepares as this needs: nothing is probed."""
    known = COMPONENT
    return SimpleNamespace(
        storage=BACKEND,
        catalogue=SimpleNamespace(named=lambda role: {BACKEND: SimpleNamespace(component=known)}),
        effective=SimpleNamespace(options={(Role.STORAGE, BACKEND): known.config()}),
        machine=SimpleNamespace(decision=SimpleNamespace(tier="L1"), facts=None),
    )


class Steps:
    """Counts, and kills this very process before the step of a number."""

    def __init__(self, kill_at: int | None) -> None:
        self.kill_at = kill_at
        self.names: list[str] = []

    def next(self, name: str) -> None:
        if len(self.names) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.names.append(name)

    def watch(self) -> None:
        for module, name in (
            *((os, each) for each in ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync")),
            (io, "open"),
        ):
            setattr(module, name, self._counted(name, getattr(module, name)))
        write = ThreadedStore.write

        async def counted(store: ThreadedStore, *args: Any, **more: Any) -> None:
            self.next("write")
            await write(store, *args, **more)

        ThreadedStore.write = counted  # type: ignore[method-assign]

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **more: Any) -> Any:
            reads = name == "open" and "w" not in (args[1] if len(args) > 1 else more.get("mode", "r"))
            if not reads:
                self.next(name)
            # A kill loses nothing that was written: waiting for the disk would only take time.
            return None if name == "fsync" else call(*args, **more)

        return counted


async def begin(data: Path) -> list[str]:
    """What a node's start does with the snapshot that is there; what it logs."""
    genesis = Genesis.decode((data / "genesis").read_bytes())
    said = io.StringIO()
    with open_logs(LogConfig(format="json"), said) as logs:
        await adopt(prepared(), data, genesis, logs, logs.logger("node"))
    return [json.loads(line)["event"] for line in said.getvalue().splitlines()]


@asynccontextmanager
async def store_in(folder: Path) -> AsyncIterator[Any]:
    async with opened(COMPONENT, folder) as store:
        yield store


async def facts_of(data: Path) -> Facts:
    """Which store lies where, each by a digest of its rows; and what else is there."""
    here = data / "storage"
    found = {each.name: await _rows(each) for each in sorted(here.iterdir())}
    incoming = Incoming(data / INCOMING)
    return {
        "store": found.pop(BACKEND, None),
        "aside": list(found.values()),
        "left": left_in(data),
        "refused": [each.hex() for each in incoming.refused()],
    }


def left_in(data: Path) -> list[str]:
    """What is there of snapshots that came."""
    return sorted(each.name for each in data.glob(f"{INCOMING}*"))


async def _rows(folder: Path) -> Facts:
    async with store_in(folder) as store:
        made = blake3()
        async for key, value in store.scan():
            made.update(len(key).to_bytes(4, "big") + key + len(value).to_bytes(4, "big") + value)
        origin = await read_origin(store)
    return {"digest": made.hexdigest(), "height": 0 if origin is None else origin[0]}


def in_a_process(work: Callable[[], Any]) -> Any:
    """What it gives, by a process of its own; None where that was killed."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.close(out)
            with os.fdopen(into, "w") as file:
                json.dump(work(), file)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(into)
    with os.fdopen(out) as file:
        told = file.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    assert os.waitstatus_to_exitcode(status) == 0, status
    return json.loads(told)


def run(data: Path, kill_at: int | None) -> Any:
    """Begin in a folder; the steps and the log, None where it was killed."""

    def work() -> Facts:
        steps = Steps(kill_at)
        steps.watch()
        return {"log": trio.run(begin, data), "steps": steps.names}

    return in_a_process(work)


def look(data: Path) -> Any:
    return in_a_process(lambda: trio.run(facts_of, data))


def main(template: Path, work: Path, seed: str, every: bool) -> None:
    dice = random.Random(seed)

    def fresh() -> Path:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(template, work)
        return work

    whole = run(fresh(), None)
    print(json.dumps(whole | look(work)), flush=True)
    count = len(whole["steps"])
    for at in range(count):
        if not every and set(whole["steps"][at - 2 : at + 3]) <= REMOVING and at % 8:
            continue
        data = fresh()
        killed = run(data, at) is None
        found = look(data)
        # Killed again, anywhere or not at all, on the way on; then it may come to its end.
        again = run(data, dice.randrange(count)) or run(data, None)
        facts = {"at": at, "step": whole["steps"][at], "killed": killed, "found": found}
        print(json.dumps(facts | {"log": again["log"]} | look(data)), flush=True)
    shutil.rmtree(work)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], bool(os.environ.get("SUPERVM_KILL_AT_EVERY_STEP"))
    )
