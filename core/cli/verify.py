"""`supervm verify`: re-execute a stored chain and compare every root, receipt and certificate."""

import os
from pathlib import Path

import click
import trio

from supervm.cli.output import json_option, print_facts, progress


@click.command()
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="Data folder.")
@click.option(
    "--config", "file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="TOML file."
)
@click.option("--genesis", type=click.Path(path_type=Path), help="Genesis that the chain must begin with.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of the configuration.")
@json_option
def verify(
    data: Path | None, file: Path | None, genesis: Path | None, settings: tuple[str, ...], as_json: bool
) -> None:
    """Execute the chain of a data folder again from genesis; compare every root, receipt and certificate.

    The node of the folder must not run. Nothing in the folder is changed. The first difference is named
    with its height, what differs and both values. A chain whose first blocks are pruned can't be executed
    again: its headers, certificates, kept blocks, receipts and state are checked then.

    \b
    Example:
      supervm verify
      supervm verify --data /srv/node --genesis chain.json
    """
    from supervm.cli.verifying import verify_folder
    from supervm.node.options import NodeOptions

    options = NodeOptions(data=data, config=file, settings=settings, environ=os.environ)
    print_facts(trio.run(verify_folder, options, genesis, progress), as_json)
