"""Validators as processes, as `devnet up` makes them, for a benchmark to send to and to ask afterwards."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import httpx

from supervm.bench.node import NodeCommand, RunningNode, run_command, starting_node
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
