"""`supervm bench`: benchmarks, each with its oracle."""

from pathlib import Path
from typing import Any

import click
import trio

from supervm.cli.bench_execution import EXECUTION
from supervm.cli.bench_kv import kv_batch
from supervm.cli.bench_light import light_client
from supervm.cli.bench_mvcc import hot_5, txn_2r2w
from supervm.cli.bench_network import fast_4, net_4
from supervm.cli.bench_options import count, seed
from supervm.cli.bench_result import finish, measure
from supervm.cli.bench_storage import growth, pruning
from supervm.cli.errors import Failure
from supervm.cli.output import json_option, note, progress


class Benchmarks(click.Group):
    """Ours, and those that plugins give by the hook `supervm_benchmarks`. Ours can't be replaced."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_given()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or _given().get(cmd_name)


def _given() -> dict[str, click.Command]:
    """The benchmarks of plugins; the first of a name counts, and a plugin that fails is told on stderr."""
    from supervm.cli.plugins import read
    from supervm.kernel.errors import describe

    found: dict[str, click.Command] = {}
    for plugin, hook in read(None, ()).extensions("supervm_benchmarks"):
        try:
            given = {str(name): command for name, command in hook().items()}
            wrong = [name for name, command in given.items() if not isinstance(command, click.Command)]
            if wrong:
                raise TypeError(f"{wrong[0]} is not a click.Command")
        except (Exception, SystemExit) as error:
            note(f"plugin {plugin.id} gave no benchmarks: {describe(error)}")
            continue
        found = {**given, **found}
    return found


@click.group(cls=Benchmarks)
def bench() -> None:
    """Run a benchmark. Each ends with its oracle, and exits 1 if that doesn't hold.

    \b
    Example:
      supervm bench transfers-50
      supervm bench verify --json
    """


@bench.command()
@click.option(
    "--file",
    "block",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    required=True,
    help="One raw Bitcoin block.",
)
@click.option("--storage", default="rocksdb", show_default=True, help="Storage component of the node.")
@click.option(
    "--kills", type=click.IntRange(0, 1000), default=0, show_default=True, help="Times to SIGKILL the node."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the moments of the kills.")
@click.option("--api", metavar="URL", help="Send to this node instead of starting one.")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Keep folders and logs here.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Configuration of the node.")
@json_option
def replay(
    block: Path,
    storage: str,
    kills: int,
    seed: int,
    api: str | None,
    keep: Path | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Replay a real Bitcoin block: fund, sign, send from another process, check every balance.

    With --kills it runs twice, and the second time the node is killed at random moments while the sender
    retries; both runs must end in the same state.

    \b
    Example:
      supervm bench replay --file block.blk
      supervm bench replay --file block.blk --kills 20 --json
    """
    from supervm.bench.node import NodeDied
    from supervm.bench.replay import ReplayFailed, ReplayPlan, working_folder
    from supervm.bench.replay import replay as run_replay

    if api is not None and kills:
        raise click.UsageError(
            "--api and --kills exclude each other: a node that runs elsewhere isn't ours to kill"
        )
    if kills and storage == "memory":
        raise click.UsageError("--kills needs a storage that survives them; give --storage rocksdb or sqlite")
    try:
        with working_folder(keep) as folder:
            plan = ReplayPlan(
                block=block,
                folder=folder,
                storage=storage,
                kills=kills,
                seed=seed,
                api=api,
                settings=settings,
            )
            result = trio.run(run_replay, plan, progress)
    except (ReplayFailed, NodeDied) as error:
        raise Failure(str(error)) from error
    finish(result, as_json)


@bench.command()
@click.option(
    "--suite",
    "suites",
    multiple=True,
    type=click.Choice(["ed25519", "secp256k1", "sm2"]),
    help="Only this suite; may be given again.",
)
@click.option(
    "--pairs", type=click.IntRange(5, 1000), default=5, show_default=True, help="Turns of each library."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.01, 60),
    default=0.4,
    show_default=True,
    help="Length of a turn.",
)
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="Threads of the second run.  [default: all cores]"
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the keys and messages.")
@json_option
def verify(
    suites: tuple[str, ...], pairs: int, seconds: float, threads: int | None, seed: int, as_json: bool
) -> None:
    """Check signatures of each suite, on one thread and on all, beside other libraries.

    Right and wrong signatures in turns of equal time; every answer is compared. PyNaCl and coincurve
    have the libraries that our own checks ask, unless `supervm probe` names a faster one.

    \b
    Example:
      supervm bench verify
      supervm bench verify --suite sm2 --seconds 1 --json
    """
    from supervm.bench.verify import ALL_SUITES, VerifyPlan, run_verify, usable_cores

    plan = VerifyPlan(
        suites=tuple(dict.fromkeys(suites)) or ALL_SUITES,
        pairs=pairs,
        seconds=seconds,
        threads=threads or usable_cores(),
        seed=seed,
    )
    finish(run_verify(plan, progress), as_json)


@bench.command("block-commit")
@click.option("--storage", default="rocksdb", show_default=True, help="Storage component.")
@count("--accounts", 20_000, "Accounts.", least=2)
@count("--block", 5_000, "Transactions of a block.")
@click.option("--pairs", type=click.IntRange(5, 1000), default=5, show_default=True, help="Turns of each.")
@click.option(
    "--page-cache-bytes",
    type=click.IntRange(0),
    default=32 * 2**20,
    show_default=True,
    help="Bound on the tree's pages in memory.",
)
@seed("Of the accounts and transfers.")
@json_option
def block_commit(as_json: bool, **asked: Any) -> None:
    """Stage and commit executed blocks of transfers: the state tree in C, and in Python.

    Each in a store of its own, durably; execution is outside the clock. Every balance is read back.

    \b
    Example:
      supervm bench block-commit
      supervm bench block-commit --storage sqlite --block 1000 --json
    """
    from supervm.bench.commits import CommitPlan, run_commits

    measure(lambda: trio.run(run_commits, CommitPlan(**asked), progress), as_json)


for _each in (net_4, fast_4, light_client, *EXECUTION, txn_2r2w, hot_5, kv_batch, pruning, growth):
    bench.add_command(_each)
