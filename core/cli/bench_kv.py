"""`supervm bench kv-batch`."""

from pathlib import Path

import click

from supervm.cli.bench_result import finish
from supervm.cli.errors import Failure
from supervm.cli.output import json_option, progress


@click.command("kv-batch")
@click.option(
    "--storage",
    "storages",
    multiple=True,
    type=click.Choice(["rocksdb", "sqlite", "lmdb"]),
    help="Only this one; may be given again.",
)
@click.option("--rows", type=click.IntRange(1), default=200_000, show_default=True, help="Rows of a turn.")
@click.option(
    "--batch", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True, help="Rows of a batch."
)
@click.option(
    "--gets", type=click.IntRange(1), default=100_000, show_default=True, help="Keys read of a turn."
)
@click.option(
    "--get-many", type=click.IntRange(1, 1_000_000), default=1_000, show_default=True, help="Keys of a read."
)
@click.option(
    "--pairs", type=click.IntRange(5, 1000), default=5, show_default=True, help="Turns of everybody."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the rows and the keys read.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True, writable=True),
    default=".",
    show_default=True,
    help="On the disk to be measured.",
)
@json_option
def kv_batch(
    storages: tuple[str, ...],
    rows: int,
    batch: int,
    gets: int,
    get_many: int,
    pairs: int,
    seed: int,
    folder: Path,
    as_json: bool,
) -> None:
    """Write and read rows through the storage contract, and by the same engine driven directly.

    Batches synced and not, then random reads, in turns on the same disk. Every value read is compared, and a
    store that was closed must have every row when it is opened again.

    \b
    Example:
      supervm bench kv-batch
      supervm bench kv-batch --storage lmdb --pairs 9 --json
    """
    from supervm.bench.errors import CantMeasure
    from supervm.bench.kv_batch import KvPlan, run_kv_batch
    from supervm.bench.kv_direct import ENGINES
    from supervm.cli.plugins import read
    from supervm.contracts.roles import Role

    plan = KvPlan(
        storages=tuple(dict.fromkeys(storages)) or tuple(ENGINES),
        rows=rows,
        batch=batch,
        gets=gets,
        get_many=get_many,
        pairs=pairs,
        seed=seed,
        folder=folder,
    )
    components = {name: found.component for name, found in read(None, ()).named(Role.STORAGE).items()}
    try:
        result = run_kv_batch(plan, components, progress)
    except CantMeasure as error:
        raise Failure(str(error)) from error
    finish(result, as_json)
