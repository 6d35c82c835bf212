"""`bench replay`: a real Bitcoin block through a real node, checked against the file itself.

The node is a process with a data folder of its own, the sender another. With `kills` the whole is run
twice, first in peace; then the node is killed by SIGKILL at random moments while the sender repeats what
it has no answer for, and both runs must end in the same state.

Inside the clock: posting over HTTP, decoding, signature, nonce and balance checks, execution, receipts,
root, and the durable write of the block; from a transaction's first post until a block that holds it can
be read. Signing is done before.
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from supervm.bench.bitcoin import read_block
from supervm.bench.checks import check_acknowledged, check_balances, check_outcomes
from supervm.bench.node import NodeCommand, RunningNode, free_address, run_command, running_node
from supervm.bench.report import BenchResult, percentile
from supervm.bench.workload import Workload, account_key, genesis_of, sign_all, workload_of
from supervm.client.http import NodeClient
from supervm.crypto.keyfile import write_key_file
from supervm.node.chain import IDENTITY
from supervm.types.codec import pack_transactions
from supervm.types.genesis_json import dump_genesis
from supervm.types.validators import Validator, ValidatorSet

FILE_BYTES_MAX = 4_000_000
CALM_WINDOW = 4096
# With few transactions under way the kills fall all through the run, not into one big block.
KILL_WINDOW = 48
KILL_BATCH = 16
KILL_JITTER_S = 0.1
IN_MEMORY = "memory"
"""The storage that leaves nothing behind, so there is nothing to verify and nothing to restart from."""
IN_OPENING_SHARE = 0.25
"""Of the kills, how many come while the node is opening from the last one."""

VALIDATOR = account_key(b"supervm/bench/replay/", b"validator")
"""A key that everyone knows, so that every run is the same chain."""

Progress = Callable[[str, int], AbstractContextManager[Any]]


class ReplayFailed(Exception):
    """The replay could not be finished. The message says what stopped it."""


@attrs.frozen(kw_only=True)
class ReplayPlan:
    """What to do. `folder` keeps data folders and logs; `api` is a node that runs already, else None."""

    block: Path
    folder: Path
    storage: str = "rocksdb"
    kills: int = 0
    seed: int = 1
    api: str | None = None
    settings: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class RunFacts:
    """What one run gave. `problems` is empty when every check held; `verify` None where it wasn't run."""

    sent: dict[str, Any]
    state_root: str
    tier: str
    height: int
    failed: int
    kills: int
    problems: tuple[str, ...]
    verify: str | None = None


def validator_set() -> ValidatorSet:
    """The chain's one validator."""
    return ValidatorSet((Validator(VALIDATOR.node_id, VALIDATOR.public_key, 1),))


async def replay(plan: ReplayPlan, progress: Progress) -> BenchResult:
    """Run the plan. Raises BlockInvalid, ReplayFailed, NodeDied, ClientError."""
    data = await trio.to_thread.run_sync(_read, plan.block)
    workload = workload_of(read_block(data))
    genesis = genesis_of(workload, validator_set())
    prepare_folder(plan.folder, workload, progress)
    if plan.api is not None:
        runs = [await _run_there(plan, plan.api, f"0x{genesis.chain_id.hex()}", data, progress)]
    else:
        runs = [await _run_here(plan, "calm", 0, data, progress)]
        if plan.kills:
            runs.append(await _run_here(plan, "killed", plan.kills, data, progress))
    problems = [problem for run in runs for problem in run.problems]
    if len({run.state_root for run in runs}) > 1:
        problems.append(f"the state roots differ: {runs[0].state_root} calm, {runs[-1].state_root} killed")
    return _result(plan, workload, runs, problems)


def prepare_folder(folder: Path, workload: Workload, progress: Progress) -> None:
    """Write the genesis, the validator's identity and the signed transactions, for node and sender."""
    genesis = genesis_of(workload, validator_set())
    (folder / "genesis.json").write_bytes(dump_genesis(genesis))
    with progress("signing", len(workload.spenders)) as bar:
        signed = sign_all(workload, genesis.chain_id, bar.update)
    (folder / "transactions.bin").write_bytes(pack_transactions(signed))
    write_key_file(folder / IDENTITY, VALIDATOR, None)


async def _run_here(plan: ReplayPlan, name: str, kills: int, block: bytes, progress: Progress) -> RunFacts:
    """Start a node, send to it, kill it as often as asked, check it, stop it, verify its folder."""
    folder = plan.folder / name
    folder.mkdir(mode=0o700)
    shutil.copy(plan.folder / IDENTITY, folder / IDENTITY)
    settings = (f"storage.use={plan.storage}", "logs.level=warning", *plan.settings)
    flags = ["--genesis", str(plan.folder / "genesis.json")]
    flags += [flag for setting in settings for flag in ("--set", setting)]
    command = NodeCommand(data=folder, listen=free_address(), flags=tuple(flags))
    log = plan.folder / f"{name}.blocks"
    async with running_node(command) as node:
        sent = await _send(plan, node.command.url, log, kills, node, progress)
        await node.wait_ready()
        facts = await trio.to_thread.run_sync(_check, node.client, sent, log, node.kills, block, progress)
        await node.stop()
    if plan.storage == IN_MEMORY:
        return facts
    code, found, said = await run_command(["verify", *flags, "--data", str(folder), "--json"])
    problem = f"verify: {said.strip()}" if code != 0 else ""
    if code == 0 and (root := json.loads(found)["state_root"]) != facts.state_root:
        problem = f"verify: the stored chain ends in {root}, the node showed {facts.state_root}"
    return attrs.evolve(facts, verify=problem or "ok", problems=(*facts.problems, *filter(None, [problem])))


async def _run_there(plan: ReplayPlan, api: str, chain_id: str, block: bytes, progress: Progress) -> RunFacts:
    """Send to a node that runs already and check it. Its folder is its operator's to verify."""
    with NodeClient(api) as client:
        found = (await trio.to_thread.run_sync(client.status))["chain_id"]
        if found != chain_id:
            raise ReplayFailed(
                f"{api} is on chain {found}, the replay's is {chain_id}; with --keep DIR, copy "
                f"DIR/{IDENTITY} into a new data folder and start its node with --genesis DIR/genesis.json"
            )
        log = plan.folder / "there.blocks"
        sent = await _send(plan, api, log, 0, None, progress)
        return await trio.to_thread.run_sync(_check, client, sent, log, 0, block, progress)


async def _send(
    plan: ReplayPlan, url: str, log: Path, kills: int, node: RunningNode | None, progress: Progress
) -> dict[str, Any]:
    """Run the sender to its end, killing the node meanwhile; gives the sender's last word."""
    total = len(read_block(_read(plan.block)).payments)
    arguments = ["--api", url, "--transactions", str(plan.folder / "transactions.bin"), "--log", str(log)]
    if kills:
        arguments += ["--window", str(KILL_WINDOW), "--batch", str(KILL_BATCH)]
    else:
        arguments += ["--window", str(CALM_WINDOW)]
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "supervm.bench.sender", *arguments], stdout=subprocess.PIPE
    )
    last: dict[str, Any] = {}
    chance = random.Random(plan.seed)
    moments = sorted(chance.sample(range(total), kills))
    try:
        with progress("replaying" if not kills else f"replaying with {kills} kills", total) as bar:
            done = 0
            async for line in _lines(process):
                last = json.loads(line)
                if "error" in last:
                    raise ReplayFailed(f"the sender gave up: {last['error']}")
                bar.update(last["committed"] - done)
                done = last["committed"]
                while node is not None and moments and last["posted"] > moments[0]:
                    moments.pop(0)
                    await _kill(node, chance)
    finally:
        if process.poll() is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
    if process.returncode != 0 or "latency_ms" not in last:
        raise ReplayFailed(f"the sender ended with {process.returncode} and said {last}")
    if moments:
        raise ReplayFailed(f"{len(moments)} of {kills} kills were left when everything was committed")
    return last


async def _kill(node: RunningNode, chance: random.Random) -> None:
    """Kill the node a random moment from now: most often while it serves, sometimes while it opens."""
    if chance.random() > IN_OPENING_SHARE:
        await node.wait_ready()
    await trio.sleep(chance.uniform(0, KILL_JITTER_S))
    await node.kill_and_restart()


def _check(
    client: NodeClient, sent: dict[str, Any], log: Path, kills: int, block: bytes, progress: Progress
) -> RunFacts:
    status = client.status()
    problems = check_balances(client, block, progress)
    problems += check_acknowledged(client, log, progress)
    failed, found = check_outcomes(client, log, progress)
    return RunFacts(
        sent=sent,
        state_root=status["state_root"],
        tier=status["tier"],
        height=int(status["height"]),
        failed=failed,
        kills=kills,
        problems=(*problems, *found),
    )


def _result(plan: ReplayPlan, workload: Workload, runs: list[RunFacts], problems: list[str]) -> BenchResult:
    first, last = runs[0], runs[-1]
    latencies = first.sent["latency_ms"]
    committed = len(workload.spenders) - first.failed
    return BenchResult(
        name="replay",
        parameters={
            "file": plan.block.name,
            "storage": plan.storage if plan.api is None else None,
            "kills": plan.kills,
            "seed": plan.seed,
            "window": CALM_WINDOW,
        },
        goodput=round(committed / first.sent["seconds"], 1),
        attempts=len(workload.spenders),
        failed=first.failed,
        latency_ms={"p50": percentile(latencies, 0.50) or 0.0, "p99": percentile(latencies, 0.99) or 0.0},
        oracle="ok" if not problems else "; ".join(problems),
        tier=first.tier,
        extra={
            "committed": committed,
            "satoshi": sum(payment.total for payment in workload.block.payments),
            "blocks": first.height,
            "state_root": first.state_root,
            "verify": last.verify,
            "killed": {
                "kills": last.kills,
                "posts": last.sent["posts"],
                "losses": last.sent["losses"],
                "blocks": last.height,
                "state_root": last.state_root,
                "seconds": round(last.sent["seconds"], 3),
            }
            if plan.kills
            else None,
        },
    )


async def _lines(process: trio.Process) -> Any:
    assert process.stdout is not None
    buffer = b""
    async for piece in process.stdout:
        *lines, buffer = (buffer + piece).split(b"\n")
        for line in lines:
            yield line


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(FILE_BYTES_MAX + 1)


@contextmanager
def working_folder(kept: Path | None) -> Iterator[Path]:
    """`kept`, which must be new or empty, or a temporary folder that goes away."""
    if kept is None:
        with tempfile.TemporaryDirectory(prefix="supervm-replay-") as folder:
            yield Path(folder)
        return
    kept.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(kept.iterdir()):
        raise ReplayFailed(f"{kept} isn't empty; name a new folder")
    yield kept
