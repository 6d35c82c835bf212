"""`supervm temperature`: what of a `tiered` store lies in which class, and what would move and why."""

from pathlib import Path
from typing import Any

import click
import trio

from supervm.cli.output import json_option, print_facts
from supervm.cli.snapshot import folder_options, node_options


@click.command()
@click.option("--api", metavar="URL", help="Ask the running node there.")
@folder_options
@json_option
def temperature(
    api: str | None, data: Path | None, file: Path | None, settings: tuple[str, ...], as_json: bool
) -> None:
    """Say what would be moved between the classes of a tiered store, and why. Nothing is moved.

    A stopped node's store is looked through for it, by the scores that the node left. A running one tells
    what it found when it last looked everything through; what it moves since is among its metrics.

    \b
    Example:
      supervm temperature --set storage.use=tiered
      supervm temperature --api http://127.0.0.1:8645 --json
    """
    from supervm.cli.errors import Misuse

    if api is None:
        # The store is open for as long as it takes to look, and must not begin to move meanwhile.
        told = trio.run(_look, node_options(data, file, (*settings, "storage.tiered.dry_run=true")))
    elif data is not None:
        raise Misuse("--api: a running node has --data by its configuration")
    else:
        told = _ask(api)
    print_facts(told, as_json)


def _ask(api: str) -> dict[str, Any]:
    from supervm.cli.node_option import connect

    with connect(api) as client:
        found: dict[str, Any] = client.get("/v1/temperature")
        return found


async def _look(options: Any) -> dict[str, Any]:
    from supervm.cli.errors import Failure
    from supervm.cli.folders import opened_folder
    from supervm.http import views

    async with opened_folder(options) as folder:
        # The store is reached by a reference, which has what the store has.
        tell = getattr(folder.store, "temperature", None)
        if tell is None:
            name = folder.prepared.storage
            raise Failure(f"storage {name} has no classes to move rows between; it is storage.use = tiered")
        return dict(views.temperature(await tell(look=True)))
