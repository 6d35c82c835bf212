"""Validators as processes, as `devnet up` makes them, for a benchmark to send to and to ask afterwards."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import httpx
import trio

from supervm.bench.node import NodeCommand, NodeDied, RunningNode, free_address, run_command, starting_node
from supervm.node.devnet import Devnet, Member

LABELS = "{"


@attrs.frozen
class Reading:
    """What a node said of itself at one moment: each family's sum over its labels, and CPU seconds of the
    thread that runs its event loop (None where the system doesn't say)."""

    families: Mapping[str, float]
    loop_cpu_s: float | None

    def since(self, before: "Reading", family: str) -> float:
        return self.families.get(family, 0.0) - before.families.get(family, 0.0)


@asynccontextmanager
async def running_validators(made: Devnet, flags: Sequence[str] = ()) -> AsyncIterator[list[RunningNode]]:
    """Start every member and wait until all are ready; no process is left behind. Raises NodeDied.

    `flags` of `supervm run` are for every node.
    """
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(starting_node(_command(member, flags))) for member in made.members
        ]
        for node in nodes:
            await node.wait_ready()
        yield nodes


def _command(member: Member, flags: Sequence[str]) -> NodeCommand:
    return NodeCommand(data=member.data, listen=member.api, flags=("--config", str(member.config), *flags))


@asynccontextmanager
async def delayed(made: Devnet, round_trip_ms: float) -> AsyncIterator[list[str]]:
    """Links between the members with a delay, as long as the scope lasts; gives flags for nodes to use them.

    No flags where the delay is 0.
    """
    if not round_trip_ms:
        yield []
        return
    vias = [free_address() for _ in made.members]
    links = [f"{via}={member.peer}" for via, member in zip(vias, made.members, strict=True)]
    peers = [f"{member.node_id.hex()}@{via}" for via, member in zip(vias, made.members, strict=True)]
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "supervm.bench.relay", "--delay-ms", str(round_trip_ms / 2), *links],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        if (said := bytes(await process.stdout.receive_some()))[:5] != b"ready":
            raise NodeDied(f"the links with a delay could not be opened; they said {said!r}")
        yield ["--set", f"transport.tcp.peers={json.dumps(peers)}"]
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def read_figures(node: RunningNode) -> Reading:
    """Its metrics, and what the system says of its process. Blocks."""
    text = httpx.get(f"{node.command.url}/metrics", timeout=30.0, trust_env=False).text
    families: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#") and 'quantile="' not in line:
            name, value = line.rsplit(" ", 1)
            name = name.partition(LABELS)[0]
            families[name] = families.get(name, 0.0) + float(value)
    return Reading(families, _loop_cpu_s(node.process.pid))


def _loop_cpu_s(pid: int) -> float | None:
    """CPU seconds of a process's first thread (proc(5)); None without /proc."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text()
    except OSError:
        return None
    return int(text.split()[0]) / 1e9


async def verify_folder(member: Member, settings: Sequence[str]) -> str:
    """What is wrong with a stopped node's folder, as `supervm verify` sees it; empty if nothing is."""
    flags = [flag for setting in settings for flag in ("--set", setting)]
    code, found, said = await run_command(["verify", "--data", str(member.data), *flags, "--json"])
    if code == 0 and "state_root" in json.loads(found):
        return ""
    return f"verify of {member.name}: {said.strip() or found.strip()}"
