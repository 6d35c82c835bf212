"""`supervm bench light-client`."""

from typing import Any

import click

from supervm.cli.bench_options import count, seed
from supervm.cli.bench_result import measure
from supervm.cli.output import json_option, progress


@click.command("light-client")
@click.option(
    "--validators",
    type=click.IntRange(1, 1_000),
    multiple=True,
    default=(4, 7, 31, 100),
    show_default=True,
    help="Size of a set; may be given several times.",
)
@count("--accounts", 10_000, "Accounts in the state of which one is proven.")
@count("--turns", 50, "Times that each answer is checked.")
@seed("Of keys and accounts.")
@json_option
def light_client(as_json: bool, **asked: Any) -> None:
    """What believing a header, a validator set or an account costs a light client.

    For each size of the set: bytes to fetch and time to check, from bytes, on one thread. One answer in
    eight is wrong, and must be refused.

    \b
    Example:
      supervm bench light-client
      supervm bench light-client --validators 4 --validators 64 --json
    """
    from supervm.bench.light_client import LightPlan, run_light

    measure(lambda: run_light(LightPlan(**asked), progress), as_json)
