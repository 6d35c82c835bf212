"""A node in a process of its own, as a benchmark starts, kills and starts it again."""

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from supervm.client.http import NodeClient
from supervm.node.ports import LOOPBACK, free_ports

READY_POLL_S = 0.02
STOP_S = 90.0
TAIL_CHARS = 600


class NodeDied(Exception):
    """The node ended by itself, or never got ready. The message has the end of what it said."""


@attrs.frozen(kw_only=True)
class NodeCommand:
    """How to start it: the data folder, the address of its API, and more flags of `supervm run`."""

    data: Path
    listen: str
    flags: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return f"http://{self.listen}"

    @property
    def log(self) -> Path:
        return self.data.with_name(self.data.name + ".log")

    def arguments(self) -> list[str]:
        run = [sys.executable, "-m", "supervm", "run", "--data", str(self.data), "--api", self.listen]
        return [*run, *self.flags]


def free_address() -> str:
    """An address on loopback that nobody listens on now."""
    return f"{LOOPBACK}:{free_ports(1)[0]}"


@attrs.define(eq=False)
class RunningNode:
    """A started node; `process` is the current one. Killed ones are counted."""

    command: NodeCommand
    client: NodeClient
    process: trio.Process
    kills: int = 0

    async def wait_ready(self, limit_s: float = 60.0) -> None:
        """Return when `/readyz` says yes. Raises NodeDied if it ends first or takes longer."""
        with trio.move_on_after(limit_s):
            while self.process.poll() is None:
                if await trio.to_thread.run_sync(self.client.ready):
                    return
                await trio.sleep(READY_POLL_S)
            raise NodeDied(f"the node ended with {self.process.returncode}: {self.tail()}")
        raise NodeDied(f"the node was not ready within {limit_s:g} s: {self.tail()}")

    async def kill_and_restart(self) -> None:
        """SIGKILL, then start it again; returns without waiting for it to be ready."""
        self.process.kill()
        await self.process.wait()
        self.kills += 1
        self.process = await _start(self.command)

    async def stop(self) -> None:
        """SIGTERM, and wait for its end. Raises NodeDied unless it drained and exited with 0."""
        if self.process.poll() is None:
            self.process.terminate()
        with trio.move_on_after(STOP_S):
            await self.process.wait()
        if self.process.returncode != 0:
            raise NodeDied(f"the node didn't stop well ({self.process.returncode}): {self.tail()}")

    def tail(self) -> str:
        """The end of what the node wrote."""
        return self.command.log.read_text(errors="replace")[-TAIL_CHARS:].strip()


@asynccontextmanager
async def running_node(command: NodeCommand) -> AsyncIterator[RunningNode]:
    """Start a node and wait until it is ready; whatever happens, no process is left behind."""
    async with starting_node(command) as node:
        await node.wait_ready()
        yield node


@asynccontextmanager
async def starting_node(command: NodeCommand) -> AsyncIterator[RunningNode]:
    """Start a node without waiting for it; whatever happens, no process is left behind."""
    with NodeClient(command.url) as client:
        node = RunningNode(command, client, await _start(command))
        try:
            yield node
        finally:
            if node.process.poll() is None:
                node.process.kill()
                with trio.CancelScope(shield=True):
                    await node.process.wait()


async def _start(command: NodeCommand) -> trio.Process:
    with command.log.open("ab") as log:
        return await trio.lowlevel.open_process(
            command.arguments(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


async def run_command(arguments: Sequence[str]) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of one `supervm` verb in a process of its own."""
    done = await trio.run_process(
        [sys.executable, "-m", "supervm", *arguments],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert done.stdout is not None
    return done.returncode, done.stdout.decode(), (done.stderr or b"").decode()
