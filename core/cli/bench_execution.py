"""The verbs of `supervm bench` that execute blocks; their options are alike."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import click

from supervm.bench.shapes import SHAPES
from supervm.cli.bench_options import count, growth, pairs, peers, seed
from supervm.cli.bench_result import measure
from supervm.cli.output import json_option, progress

if TYPE_CHECKING:
    from supervm.bench.report import BenchResult

COMMON = (
    pairs,
    click.option(
        "--threads", type=click.IntRange(1, 64), help="Threads of our engine.  [default: all cores]"
    ),
    click.option(
        "--engine",
        type=click.Choice(["auto", "native", "twin"]),
        default="auto",
        show_default=True,
        help="C, its specification in Python, or C where it is.",
    ),
    seed("Of the accounts and transfers."),
    growth("sizes"),
    peers,
    json_option,
)


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every benchmark here."""
    for option in reversed(COMMON):
        command = option(command)
    return command


def payments(name: str) -> Callable[[Callable[[], None]], click.Command]:
    """The verb of a workload of transfers; its help is the docstring of what this decorates."""
    shape = SHAPES[name]

    @common
    @count("--blocks", shape.blocks, "Blocks of a turn.")
    @count("--block", shape.block, "Transactions of a block.")
    @count("--accounts", shape.accounts, "Accounts.", least=2)
    def run(accounts: int, block: int, as_json: bool, **asked: Any) -> None:
        from supervm.bench.payments import run_payments

        sized = attrs.evolve(shape, accounts=accounts, block=block)
        _measure(partial(run_payments, name, sized), as_json, **asked)

    return lambda described: click.command(name, help=described.__doc__)(run)


def _measure(
    run: "Callable[..., BenchResult]", as_json: bool, *, threads: int | None, growth: int | None, **asked: Any
) -> None:
    """Run with the options and the gas policy; what can't be is told as a misuse."""
    from supervm.bench.gas import with_gas
    from supervm.bench.options import Options
    from supervm.bench.verify import usable_cores

    def measured() -> "BenchResult":
        options = Options(threads=threads or usable_cores(), growth=growth or 0, **asked)
        return with_gas(lambda gas: run(options, gas, progress))

    measure(measured, as_json)


@payments("transfers-50")
def transfers_50() -> None:
    """Execute blocks of transfers among 50 accounts, beside revm.

    Everything but signatures is inside our clock. pyrevm makes the same transfers by message calls.

    \b
    Example:
      supervm bench transfers-50
      supervm bench transfers-50 --growth 3 --json
    """


@payments("transfers-5")
def transfers_5() -> None:
    """Execute blocks of transfers among 5 accounts, beside revm.

    \b
    Example:
      supervm bench transfers-5
      supervm bench transfers-5 --threads 1 --pairs 9 --json
    """


@payments("uniform-1m")
def uniform_1m() -> None:
    """Execute large blocks of transfers among a million accounts, beside revm.

    Ratios are given with the state root and without; --growth is over the number of accounts.

    \b
    Example:
      supervm bench uniform-1m
      supervm bench uniform-1m --accounts 10000000 --growth 4 --no-peers --json
    """


@payments("hot-5-blocks")
def hot_5_blocks() -> None:
    """Execute blocks in which 80 % of the transfers touch 5 accounts: ours chooses, serial, Block-STM.

    \b
    Example:
      supervm bench hot-5-blocks
      supervm bench hot-5-blocks --block 1000 --json
    """


@click.command()
@common
@count("--blocks", 32, "Blocks of a turn.")
@count("--block", 8_192, "Mutations of a block.")
@click.option(
    "--each",
    type=click.IntRange(1, 64),
    multiple=True,
    help="Mutations of a transaction; may be given again.  [default: 1, 16, 64]",
)
@count("--objects", 65_536, "Owned objects, mutated in turn.")
def owned(each: tuple[int, ...], objects: int, block: int, as_json: bool, **asked: Any) -> None:
    """Mutate owned objects of distinct owners, with all checks, on one thread and on all.

    What is counted are mutations. The signatures, and the network of the FAST lane, are left out.

    \b
    Example:
      supervm bench owned
      supervm bench owned --each 16 --objects 1048576 --json
    """
    from supervm.bench.mutations import EACH, run_owned

    _measure(partial(run_owned, each or EACH, objects, block), as_json, **asked)


@click.command("mixed-R")
@common
@count("--blocks", 10, "Blocks of a turn.")
@click.option(
    "--owned",
    "ratios",
    type=click.IntRange(0, 100),
    multiple=True,
    metavar="R",
    help="Percent on owned objects; may be given again.  [default: 0, 20, 50, 80, 100]",
)
@count("--block", 10_000, "Transactions of a block.")
@count("--shared", 1_000, "Shared objects.")
def mixed(ratios: tuple[int, ...], block: int, shared: int, as_json: bool, **asked: Any) -> None:
    """Mutate owned objects in R percent of the transactions, shared ones in the rest.

    Versions must rise by exactly the commits, and every receipt must name its lane.

    \b
    Example:
      supervm bench mixed-R
      supervm bench mixed-R --owned 50 --json
    """
    from supervm.bench.mutations import RATIOS, run_mixed

    _measure(partial(run_mixed, ratios or RATIOS, block, shared), as_json, **asked)


@click.command("signed-svm")
@common
@count("--blocks", 4, "Blocks of a turn.")
@count("--block", 2_000, "Transactions of a block.")
@count("--accounts", 1_000, "Accounts.", least=2)
def signed_svm(accounts: int, block: int, as_json: bool, **asked: Any) -> None:
    """Decode, verify and execute signed transfers in one process, beside Solana's LiteSVM.

    Signatures are verified on both sides; LiteSVM runs on one thread, ours on one and on all.

    \b
    Example:
      supervm bench signed-svm
      supervm bench signed-svm --block 10000 --pairs 9 --json
    """
    from supervm.bench.signed import run_signed

    _measure(partial(run_signed, accounts, block), as_json, **asked)


EXECUTION: tuple[click.Command, ...] = (
    transfers_50,
    transfers_5,
    uniform_1m,
    hot_5_blocks,
    owned,
    mixed,
    signed_svm,
)
