"""`supervm x coffer inspect DIR`: what is in a log that no node holds."""

import json
from pathlib import Path

import click

from supervm.api import storage


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def inspect(folder: Path, as_json: bool) -> None:
    """Count the batches and keys of the log in FOLDER.

    \b
    Example:
      supervm x coffer inspect DATA/storage/coffer
    """
    from supervm_coffer.log import FILE
    from supervm_coffer.store import open_log

    if not (folder / FILE).exists():
        raise click.ClickException(f"no {FILE} in {folder}; name the folder of a store")
    try:
        log, index = open_log(folder)
    except storage.StorageError as error:
        raise click.ClickException(str(error)) from error
    facts = {"batches": log.number, "keys": index.live, "bytes": log.end}
    log.close()
    click.echo(json.dumps(facts) if as_json else "\n".join(f"{name} {n}" for name, n in facts.items()))
