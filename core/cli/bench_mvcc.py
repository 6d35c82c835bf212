"""The verbs of `supervm bench` that run interactive transactions."""

from typing import Any

import click

from supervm.cli.bench_options import count, growth, pairs, peers, seed
from supervm.cli.bench_result import measure
from supervm.cli.output import json_option, progress


@click.command("txn-2r2w")
@count("--accounts", 10_000, "Rows.", least=2)
@count("--transactions", 50_000, "Transactions of a turn.")
@pairs
@seed("Of who pays whom.")
@growth("numbers of rows")
@peers
@json_option
def txn_2r2w(growth: int | None, as_json: bool, **asked: Any) -> None:
    """Two reads, two writes, a commit: the MVCC store from Python, beside LMDB and SQLite.

    All three are serialisable, on one thread, and sync nothing. With the store's own ten versions of a key
    it is measured as well.

    \b
    Example:
      supervm bench txn-2r2w
      supervm bench txn-2r2w --accounts 1000000 --growth 4 --pairs 9 --json
    """
    from supervm.bench.txn_2r2w import TxnPlan, run_txn_2r2w

    plan = TxnPlan(growth=growth or 0, **asked)
    measure(lambda: run_txn_2r2w(plan, progress), as_json)


@click.command("hot-5")
@count("--accounts", 10_000, "Rows.", least=2)
@count("--transactions", 20_000, "Transactions of a turn.")
@count("--waiting", 1_000, "Transactions of a turn that wait; 0: none.", least=0)
@count("--wait-us", 200, "Microseconds that each of those waits.")
@pairs
@seed("Of who pays whom.")
@json_option
def hot_5(as_json: bool, **asked: int) -> None:
    """Batches in which 80 % of the transactions want one of 5 rows: the scheduler and the plain loop.

    No transaction is lost: each ends committed, and every balance is compared with the books.

    \b
    Example:
      supervm bench hot-5
      supervm bench hot-5 --waiting 5000 --wait-us 500 --json
    """
    from supervm.bench.hot_5 import HotPlan, run_hot_5

    measure(lambda: run_hot_5(HotPlan(**asked), progress), as_json)
