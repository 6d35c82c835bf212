"""`supervm bench net-4`."""

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
@count("--window", 1_000, "Transfers under way, all clients together.")
@count("--batch", 64, "Most transfers of one request.")
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
      supervm bench net-4 --transactions 60000 --window 2000 --json
    """
    from supervm.bench.net_4 import NetFailed, NetPlan, run_net
    from supervm.bench.node import NodeDied
    from supervm.bench.replay import ReplayFailed, working_folder
    from supervm.types.transaction import Lane

    if asked["clients"] > min(asked["accounts"], asked["window"]):
        raise Misuse("--clients: each needs an account and a place in the window of its own")
    try:
        with working_folder(keep) as folder:
            plan = NetPlan(folder=folder.resolve(), lane=Lane[lane.upper()], **asked)
            result = trio.run(run_net, plan, progress)
    except (ReplayFailed, NetFailed, NodeDied) as error:
        raise Failure(str(error)) from error
    finish(result, as_json)
