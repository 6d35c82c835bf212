"""`supervm bench pruning` and `supervm bench growth`."""

from pathlib import Path
from typing import Any

import click
import trio

from supervm.cli.bench_result import finish
from supervm.cli.errors import Misuse
from supervm.cli.output import json_option, progress

folder_option = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True, writable=True),
    default=".",
    show_default=True,
    help="On the disk to be measured.",
)


@click.command()
@click.option("--storage", default="rocksdb", show_default=True, help="Storage component.")
@click.option(
    "--blocks", type=click.IntRange(1), default=100_000, show_default=True, help="Blocks to make and prune."
)
@click.option("--block", type=click.IntRange(1), default=4, show_default=True, help="Transfers of a block.")
@click.option("--accounts", type=click.IntRange(2), default=20_000, show_default=True, help="Accounts.")
@click.option("--window", type=click.IntRange(1), default=50, show_default=True, help="Blocks of a turn.")
@click.option(
    "--share",
    type=click.FloatRange(0.01, 1),
    default=0.2,
    show_default=True,
    help="Part of its time that pruning takes.",
)
@click.option(
    "--pace-ms", type=click.FloatRange(0), default=0.0, show_default=True, help="At most a block so often."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the accounts and transfers.")
@folder_option
@json_option
def pruning(as_json: bool, **asked: Any) -> None:
    """Commit blocks while everything below the newest 256 is pruned, and without, in turns.

    Blocks are made first, without waiting for the disk; those that are measured are durable. Every balance,
    the whole state tree and what is left below the horizon are checked at the end.

    \b
    Example:
      supervm bench pruning
      supervm bench pruning --storage sqlite --blocks 10000 --json
    """
    from supervm.bench.errors import CantMeasure
    from supervm.bench.pruning import PrunePlan, run_pruning

    try:
        result = trio.run(run_pruning, PrunePlan(**asked), progress)
    except CantMeasure as error:
        raise Misuse(str(error)) from error
    finish(result, as_json)


@click.command()
@click.option("--storage", default="rocksdb", show_default=True, help="Storage component.")
@click.option("--accounts", type=click.IntRange(2), default=1_000_000, show_default=True, help="Accounts.")
@click.option(
    "--blocks", type=click.IntRange(0), default=2_000, show_default=True, help="Blocks once they are there."
)
@click.option("--block", type=click.IntRange(1), default=100, show_default=True, help="Transfers of a block.")
@click.option(
    "--payers", type=click.IntRange(1), default=10_000, show_default=True, help="Accounts that pay."
)
@click.option(
    "--page-cache-bytes",
    type=click.IntRange(0),
    default=32 * 2**20,
    show_default=True,
    help="Bound on the tree's pages in memory.",
)
@click.option("--cache-bytes", type=click.IntRange(2**20), help="The store's cache.  [default: its own]")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the accounts and transfers.")
@folder_option
@json_option
def growth(as_json: bool, **asked: Any) -> None:
    """Load accounts into a ledger, then commit blocks, and look at the memory all the while.

    At the end every account is counted, what they hold together compared with what there was, and a part of
    the state tree, or all of it up to a million accounts, with its root.

    \b
    Example:
      supervm bench growth
      supervm bench growth --accounts 10000000 --blocks 10000 --json
    """
    from supervm.bench.account_growth import GrowthPlan, run_growth
    from supervm.bench.errors import CantMeasure

    try:
        result = trio.run(run_growth, GrowthPlan(**asked), progress)
    except CantMeasure as error:
        raise Misuse(str(error)) from error
    finish(result, as_json)
