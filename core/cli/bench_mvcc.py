"""The verbs of `supervm bench` that run interactive transactions."""

import click

from supervm.cli.bench_result import finish
from supervm.cli.errors import Misuse
from supervm.cli.output import json_option, progress


@click.command("txn-2r2w")
@click.option("--accounts", type=click.IntRange(2), default=10_000, show_default=True, help="Rows.")
@click.option(
    "--transactions",
    type=click.IntRange(1),
    default=50_000,
    show_default=True,
    help="Transactions of a turn.",
)
@click.option(
    "--pairs", type=click.IntRange(5, 1000), default=5, show_default=True, help="Turns of everybody."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of who pays whom.")
@click.option(
    "--growth",
    type=click.IntRange(3, 6),
    metavar="SIZES",
    help="Measure this many numbers of rows too, a factor of ten apart.  [default: none]",
)
@click.option("--peers/--no-peers", default=True, help="Let others compete.  [default: peers]")
@json_option
def txn_2r2w(
    accounts: int, transactions: int, pairs: int, seed: int, growth: int | None, peers: bool, as_json: bool
) -> None:
    """Two reads, two writes, a commit: the MVCC store from Python, beside LMDB and SQLite.

    All three are serialisable, on one thread, and sync nothing. With the store's own ten versions of a key
    it is measured as well.

    \b
    Example:
      supervm bench txn-2r2w
      supervm bench txn-2r2w --accounts 1000000 --growth 4 --pairs 9 --json
    """
    from supervm.bench.errors import CantMeasure
    from supervm.bench.txn_2r2w import TxnPlan, run_txn_2r2w

    plan = TxnPlan(
        accounts=accounts,
        transactions=transactions,
        pairs=pairs,
        seed=seed,
        growth=growth or 0,
        peers=peers,
    )
    try:
        result = run_txn_2r2w(plan, progress)
    except CantMeasure as error:
        raise Misuse(str(error)) from error
    finish(result, as_json)


@click.command("hot-5")
@click.option("--accounts", type=click.IntRange(2), default=10_000, show_default=True, help="Rows.")
@click.option(
    "--transactions",
    type=click.IntRange(1),
    default=20_000,
    show_default=True,
    help="Transactions of a turn.",
)
@click.option(
    "--waiting",
    type=click.IntRange(0),
    default=1_000,
    show_default=True,
    help="Transactions of a turn that wait; 0: none.",
)
@click.option(
    "--wait-us",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Microseconds that each of those waits.",
)
@click.option(
    "--pairs", type=click.IntRange(5, 1000), default=5, show_default=True, help="Turns of everybody."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of who pays whom.")
@json_option
def hot_5(as_json: bool, **asked: int) -> None:
    """Batches in which 80 % of the transactions want one of 5 rows: the scheduler and the plain loop.

    No transaction is lost: each ends committed, and every balance is compared with the books.

    \b
    Example:
      supervm bench hot-5
      supervm bench hot-5 --waiting 5000 --wait-us 500 --json
    """
    from supervm.bench.errors import CantMeasure
    from supervm.bench.hot_5 import HotPlan, run_hot_5

    try:
        result = run_hot_5(HotPlan(**asked), progress)
    except CantMeasure as error:
        raise Misuse(str(error)) from error
    finish(result, as_json)
