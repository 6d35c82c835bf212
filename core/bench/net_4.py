"""`bench net-4`: validators in processes of their own, over tcp, and clients in others that send transfers.

Inside the clock: posting over HTTP, decoding, signature, nonce and balance checks on every validator,
batches, votes and blocks between them, execution, receipts, roots, and what each validator syncs to disk;
from a transaction's first post until a client reads it in a final block of the node that it sent to.
Signing is done before.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import attrs
import trio

from supervm.bench.net_checks import check_balances, check_objects, check_once, check_seen, read_chain
from supervm.bench.net_objects import (
    expected_owners,
    mutations_due,
    objects_of,
    sign_creations,
    sign_mutations,
)
from supervm.bench.net_work import FUNDS, Payment, expected, keys_of, payments_of, sign_payments
from supervm.bench.node import RunningNode
from supervm.bench.report import BenchResult, percentile
from supervm.bench.validators import Reading, delayed, read_figures, running_validators, verify_folder
from supervm.client.http import NodeClient
from supervm.kernel.errors import leaf
from supervm.node.devnet import Devnet, make_devnet
from supervm.types.codec import pack_transactions
from supervm.types.transaction import Lane, Transaction

SETTLED_S_MAX = 60.0
POLL_S = 0.1
PATIENCE_S = 60.0
PREPARING = 200
"""Transactions under way, at least, while objects are made for the ones that are measured."""

Progress = Callable[[str, int], AbstractContextManager[Any]]

PHASES = (
    ("http", "supervm_http_request_ms_sum"),
    ("execute", "supervm_exec_block_ms_sum"),
    ("storage_write", "supervm_storage_write_ms_sum"),
    ("storage_read", "supervm_storage_read_ms_sum"),
)
"""Summaries of a node that say how long it was busy with a part of its work, by the clock on the wall."""
COUNTS = (
    ("blocks", "supervm_consensus_block_interval_ms_count"),
    ("log_syncs", "supervm_consensus_log_syncs_total"),
    ("messages_sent", "supervm_consensus_messages_sent_total"),
    ("sent_bytes", "supervm_consensus_sent_bytes_total"),
    ("batches_certified", "supervm_consensus_batches_certified_total"),
    ("view_changes", "supervm_consensus_view_changes_total"),
    ("sends_dropped", "supervm_consensus_sends_dropped_total"),
    ("transactions_refused", "supervm_consensus_batch_refused_total"),
)


class NetFailed(Exception):
    """The run could not be finished. The message says what stopped it."""


@attrs.frozen
class Load:
    """Transactions that clients send. `first`: the place of the first of them among all that are measured."""

    name: str
    signed: Sequence[bytes]
    clients: int
    window: int
    first: int = 0


@attrs.frozen(kw_only=True)
class NetPlan:
    """What to do. `window`: transactions that all clients together have under way. `folder` is empty.

    `objects`: mutations of owned objects, not transfers. `round_trip_ms`: between any two validators.
    `alone`: how many of the transactions go first, each when the one before it is final.
    """

    folder: Path
    validators: int = 4
    transactions: int = 20_000
    accounts: int = 1_000
    clients: int = 4
    window: int = 1_000
    batch: int = 256
    lane: Lane = Lane.ORDERED
    storage: str = "rocksdb"
    seed: int = 1
    settings: tuple[str, ...] = ()
    objects: bool = False
    round_trip_ms: float = 0.0
    alone: int = 0

    @property
    def node_settings(self) -> tuple[str, ...]:
        return (f"storage.use={self.storage}", "logs.level=warning", *self.settings)


async def run_net(plan: NetPlan, progress: Progress) -> BenchResult:
    """Run the plan. Raises NetFailed, NodeDied, ClientError."""
    keys = keys_of(plan.accounts)
    addresses = [key.address for key in keys]
    payments = [] if plan.objects else payments_of(plan.accounts, plan.transactions, plan.seed)
    made = await trio.to_thread.run_sync(
        lambda: make_devnet(
            plan.folder, plan.validators, accounts=[(address, FUNDS) for address in addresses]
        )
    )
    creations = sign_creations(keys, made.chain_id) if plan.objects else []
    with progress("signing", plan.transactions) as bar:
        signed = await trio.to_thread.run_sync(
            lambda: (
                sign_mutations(keys, objects_of(creations), plan.transactions, made.chain_id, bar.update)
                if plan.objects
                else sign_payments(payments, keys, made.chain_id, plan.lane, bar.update)
            )
        )
    flags = [flag for setting in plan.node_settings for flag in ("--set", setting)]
    async with (
        delayed(made, plan.round_trip_ms) as links,
        running_validators(made, [*flags, *links]) as nodes,
    ):
        prepared = [each.data for each in creations]
        if prepared:
            # What is measured keeps to the window; what is made beforehand may be quicker.
            window = max(plan.window, PREPARING)
            await _send(plan, nodes, Load("prepare", prepared, plan.clients, window), progress)
        lone = []
        if plan.alone:
            lone = await _send(plan, nodes, Load("alone", signed[: plan.alone], 1, 1), progress)
        before = await _readings(nodes)
        rest = Load("send", signed[plan.alone :], plan.clients, plan.window, plan.alone)
        sent = await _send(plan, nodes, rest, progress)
        after = await _readings(nodes)
        problems, tip = await _judge(plan, nodes, addresses, payments, prepared, signed)
        tier = str((await trio.to_thread.run_sync(nodes[0].client.status))["tier"])
        for node in nodes:
            await node.stop()
    problems += await _verify(plan, made)
    return _result(plan, sent, lone, before, after, problems, tip, tier)


async def _readings(nodes: Sequence[RunningNode]) -> list[Reading]:
    return [await trio.to_thread.run_sync(read_figures, node) for node in nodes]


def log_of(plan: NetPlan, part: str, client: int) -> Path:
    return plan.folder / f"{part}-{client}.blocks"


async def _send(
    plan: NetPlan, nodes: Sequence[RunningNode], load: Load, progress: Progress
) -> list[dict[str, Any]]:
    """Run the clients to their end, each beside one node; gives the last word of each.

    Accounts have their turns in `load.signed`, and all of one account's go by one client.
    """
    last: list[dict[str, Any]] = [{} for _ in range(load.clients)]
    done = [0] * load.clients
    with progress(load.name, len(load.signed)) as bar:

        async def one(client: int) -> None:
            mine = [
                data
                for at, data in enumerate(load.signed, load.first)
                if at % plan.accounts % load.clients == client
            ]
            path = plan.folder / f"{load.name}-{client}.transactions"
            path.write_bytes(pack_transactions(mine))
            arguments = ["--api", nodes[client % len(nodes)].command.url, "--transactions", str(path)]
            arguments += ["--log", str(log_of(plan, load.name, client))]
            arguments += ["--window", str(load.window // load.clients), "--batch", str(plan.batch)]
            arguments += ["--patience", str(PATIENCE_S), "--events"]
            async for said in _client(arguments):
                if "error" in said:
                    raise NetFailed(f"client {client} gave up: {said['error']}")
                last[client] = said
                bar.update(said["committed"] - done[client])
                done[client] = said["committed"]

        try:
            async with trio.open_nursery() as nursery:
                for client in range(load.clients):
                    nursery.start_soon(one, client)
        except BaseExceptionGroup as group:
            raise leaf(group) from group
    for client, said in enumerate(last):
        if "latency_ms" not in said:
            raise NetFailed(f"client {client} ended early and said {said}")
    return last


async def _client(arguments: Sequence[str]) -> Any:
    """What a client process says, line by line; it is gone when this ends."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "supervm.bench.sender", *arguments], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        buffer = b""
        async for piece in process.stdout:
            *lines, buffer = (buffer + piece).split(b"\n")
            for line in lines:
                yield json.loads(line)
    finally:
        if process.poll() is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def _judge(
    plan: NetPlan,
    nodes: Sequence[RunningNode],
    addresses: Sequence[bytes],
    payments: Sequence[Payment],
    prepared: Sequence[bytes],
    signed: Sequence[bytes],
) -> tuple[list[str], dict[str, Any]]:
    """(problems, the header under which all nodes agree on the state after the last transaction)."""
    logs = [log_of(plan, "send", client) for client in range(plan.clients)]
    logs += [log_of(plan, "alone", 0)] if plan.alone else []
    last = max(int(json.loads(log.read_text().splitlines()[-1])["height"]) for log in logs)
    shown = [await _shows(node, last) for node in nodes]
    problems = []
    if len(roots := {header["state_root"] for header in shown}) > 1:
        problems.append(f"the state roots differ: {' '.join(sorted(roots))}")
    chains = {
        node.command.data.name: await trio.to_thread.run_sync(read_chain, node.client, last) for node in nodes
    }
    decoded = [Transaction.decode(data) for data in (*prepared, *signed)]
    problems += check_once(chains, [f"0x{each.digest.hex()}" for each in decoded])
    problems += check_seen(next(iter(chains.values())), logs)
    client = nodes[-1].client
    fee = await _fee(client, decoded[-1])
    if plan.objects:
        create_fee = await _fee(client, decoded[0])
        due = expected_owners(plan.accounts, plan.transactions, create_fee, fee)
        fees = create_fee * len(prepared) + fee * len(signed)
        times = mutations_due(plan.accounts, plan.transactions)
        ids = objects_of(decoded[: len(prepared)])
        versions = {each: 1 + count for each, count in zip(ids, times, strict=True)}
        problems += await trio.to_thread.run_sync(check_objects, client, versions)
    else:
        due, fees = expected(payments, plan.accounts, fee), fee * len(signed)
    problems += await trio.to_thread.run_sync(check_balances, client, addresses, due, fees)
    return problems, shown[0]


async def _fee(client: NodeClient, transaction: Transaction) -> int:
    """What it paid, as its receipt says; all of its kind pay the same."""
    found = await trio.to_thread.run_sync(client.transaction, f"0x{transaction.digest.hex()}")
    return int(found["receipt"]["fee"])


async def _shows(node: RunningNode, height: int) -> dict[str, Any]:
    """The first header of a node that shows the state root of this height or a later one."""
    at = height
    with trio.fail_after(SETTLED_S_MAX):
        while True:
            blocks = await trio.to_thread.run_sync(_blocks, node.client, at)
            if not blocks:
                await trio.sleep(POLL_S)
            elif int((header := blocks[0]["header"])["root_height"]) >= height:
                return dict(header)
            else:
                at += 1


def _blocks(client: NodeClient, height: int) -> list[Any]:
    blocks: list[Any] = client.get("/v1/blocks", **{"from": height, "limit": 1})["blocks"]
    return blocks


async def _verify(plan: NetPlan, made: Devnet) -> list[str]:
    if plan.storage == "memory":
        return []
    found = [await verify_folder(member, plan.node_settings) for member in made.members]
    return [problem for problem in found if problem]


def _result(
    plan: NetPlan,
    sent: Sequence[dict[str, Any]],
    lone: Sequence[dict[str, Any]],
    before: Sequence[Reading],
    after: Sequence[Reading],
    problems: Sequence[str],
    tip: dict[str, Any],
    tier: str,
) -> BenchResult:
    seconds = max(each["ended_s"] for each in sent) - min(each["began_s"] for each in sent)
    latency, latency_alone = _latency(sent), _latency(lone)
    count = plan.transactions - plan.alone
    return BenchResult(
        name=f"{'fast' if plan.objects else 'net'}-4",
        parameters={
            "validators": plan.validators,
            "transactions": plan.transactions,
            "alone": plan.alone,
            "accounts": plan.accounts,
            "clients": plan.clients,
            "window": plan.window,
            "batch": plan.batch,
            "lane": plan.lane.name.lower(),
            "storage": plan.storage,
            "settings": list(plan.settings),
            "seed": plan.seed,
            "round_trip_ms": plan.round_trip_ms,
        },
        goodput=round(count / seconds, 1),
        attempts=sum(each["posts"] for each in sent),
        failed=0,
        latency_ms=latency,
        oracle="ok" if not problems else "; ".join(problems),
        tier=tier,
        extra={
            "committed": plan.transactions,
            "final_before_their_block": sum(each["before_block"] for each in sent),
            "round_trips": _round_trips(plan, latency),
            "latency_ms_alone": latency_alone if lone else None,
            "round_trips_alone": _round_trips(plan, latency_alone) if lone else None,
            "seconds": round(seconds, 3),
            "state_root": tip["state_root"],
            "verify": "ok" if plan.storage != "memory" else None,
            "cpu_us_a_transaction": {
                **{
                    f"node-{at}": _cpu(new, old, count)
                    for at, (old, new) in enumerate(zip(before, after, strict=True))
                },
                "clients": round(sum(each["cpu_s"] for each in sent) * 1e6 / count, 1),
            },
            "wall_us_a_transaction": {
                f"node-{at}": {
                    name: round(new.since(old, family) * 1e3 / count, 1) for name, family in PHASES
                }
                for at, (old, new) in enumerate(zip(before, after, strict=True))
            },
            "counts": {
                f"node-{at}": {name: round(new.since(old, family)) for name, family in COUNTS}
                for at, (old, new) in enumerate(zip(before, after, strict=True))
            },
        },
    )


def _latency(sent: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds from a transaction's first post until its client knew it as final."""
    latencies = sorted(latency for each in sent for latency in each["latency_ms"])
    return {"p50": percentile(latencies, 0.50) or 0.0, "p99": percentile(latencies, 0.99) or 0.0}


def _round_trips(plan: NetPlan, latency: dict[str, float]) -> dict[str, float] | None:
    """The same in round trips between validators; None where none is emulated."""
    if not plan.round_trip_ms:
        return None
    return {name: round(each / plan.round_trip_ms, 2) for name, each in latency.items()}


def _cpu(new: Reading, old: Reading, count: int) -> dict[str, float | None]:
    """Microseconds of CPU a transaction: all threads, and the one that runs the event loop."""
    whole = new.since(old, "process_cpu_seconds_total")
    loop = None
    if new.loop_cpu_s is not None and old.loop_cpu_s is not None:
        loop = round((new.loop_cpu_s - old.loop_cpu_s) * 1e6 / count, 1)
    return {"all": round(whole * 1e6 / count, 1), "event_loop": loop}
