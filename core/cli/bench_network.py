"""`supervm bench net-4` and `supervm bench fast-4`."""

from pathlib import Path
from typing import Any

import click
import trio

from supervm.cli.bench_options import count, seed
from supervm.cli.bench_result import finish
from supervm.cli.errors import Failure, Misuse
from supervm.cli.output import json_option, progress

VALIDATORS_MAX = 64


@click.command("net-4")
@click.option(
    "--validators",
    type=click.IntRange(1, VALIDATORS_MAX),
    default=4,
    show_default=True,
    help="How many vote.",
)
@count("--transactions", 20_000, "Transfers, all clients together.")
@count("--accounts", 1_000, "Accounts that pay each other.", least=2)
@count("--clients", 4, "Processes that send, each to one validator.")
@count("--window", 1_600, "Transfers under way, all clients together.")
@count("--batch", 400, "Most transfers of one request.")
@click.option(
    "--lane",
    type=click.Choice(["auto", "ordered"]),
    default="ordered",
    show_default=True,
    help="Of transfers.",
)
@click.option("--storage", default="rocksdb", show_default=True, help="Storage component of the nodes.")
@seed("Of the payments.")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Keep folders and logs here.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Configuration of the nodes.")
@json_option
def net_4(as_json: bool, keep: Path | None, lane: str, **asked: Any) -> None:
    """Transfers through four validators, each a process, over real sockets and synced storage.

    Finality is what a client sees: from its post to its reading of a final block with the transfer in it.
    At the end all nodes must hold the same blocks, each transfer once, and every balance must be right.

    \b
    Example:
      supervm bench net-4
      supervm bench net-4 --transactions 60000 --window 1000 --json
    """
    _run(as_json, keep, lane=lane, **asked)


@click.command("fast-4")
@count("--transactions", 4_000, "Mutations, all clients together.")
@count("--accounts", 1_000, "Accounts, each with an object of its own.", least=2)
@count("--alone", 100, "Mutations of these sent first, each when the one before it is final.", least=0)
@count("--clients", 4, "Processes that send, each to one validator.")
@count("--window", 240, "Mutations under way, all clients together.")
@count("--batch", 128, "Most mutations of one request.")
@click.option(
    "--round-trip-ms",
    type=click.FloatRange(0, 10_000),
    default=40.0,
    show_default=True,
    help="Emulated, between any two validators.",
)
@click.option("--storage", default="rocksdb", show_default=True, help="Storage component of the nodes.")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Keep folders and logs here.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Configuration of the nodes.")
@json_option
def fast_4(as_json: bool, keep: Path | None, **asked: Any) -> None:
    """Owned objects through the FAST lane of four validators, with a delay between them.

    Finality is what a client sees: from its post until the node says that a quorum signed the effects. First
    one mutation after the other is sent, to see what an idle network takes; then many at once. At the end
    every mutation must also be in a block, once, and every version and balance must be right.

    \b
    Example:
      supervm bench fast-4
      supervm bench fast-4 --round-trip-ms 100 --window 800 --json
    """
    _run(as_json, keep, lane="fast", objects=True, **asked)


def _run(as_json: bool, keep: Path | None, *, lane: str, **asked: Any) -> None:
    from supervm.bench.net_4 import NetFailed, NetPlan, run_net
    from supervm.bench.node import NodeDied
    from supervm.bench.replay import ReplayFailed, working_folder
    from supervm.types.transaction import Lane

    if asked.get("alone", 0) >= asked["transactions"]:
        raise Misuse("--alone: fewer than --transactions, all of which are sent")
    if asked["clients"] > min(asked["accounts"], asked["window"]):
        raise Misuse("--clients: each needs an account and a place in the window of its own")
    try:
        with working_folder(keep) as folder:
            plan = NetPlan(folder=folder.resolve(), lane=Lane[lane.upper()], **asked)
            result = trio.run(run_net, plan, progress)
    except (ReplayFailed, NetFailed, NodeDied) as error:
        raise Failure(str(error)) from error
    finish(result, as_json)
