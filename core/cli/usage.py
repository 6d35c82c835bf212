"""`supervm usage`: what a stopped node's data folder takes, by what it is for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import trio

from supervm.cli.output import json_option, print_facts
from supervm.cli.snapshot import folder_options, node_options


@click.command()
@folder_options
@json_option
def usage(data: Path | None, file: Path | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Show what a stopped node's data folder takes on the disk, and what the rows of its store are for.

    Bytes of rows are those of their keys and values; the backend packs them and keeps indexes of its own, so
    the files of the store take more or less than their sum. A running node has the same as metrics.

    \b
    Example:
      supervm usage
      supervm usage --data /srv/node --json
    """
    print_facts(trio.run(_usage, node_options(data, file, settings)), as_json)


async def _usage(options: Any) -> dict[str, Any]:
    from supervm.cli.folders import opened_folder, opened_ledger
    from supervm.storage.pace import Pace
    from supervm.storage.usage import survey

    async with opened_folder(options) as folder, opened_ledger(folder) as ledger:
        parts = await survey(folder.store, Pace(folder.clock))
        files = await trio.to_thread.run_sync(_on_disk, folder.path)
        snapshots = folder.options.snapshot_folder(folder.path)
        if snapshots.path.parent != folder.path:
            files["snapshots"] = await trio.to_thread.run_sync(snapshots.bytes_used)
        return {
            "height": str(ledger.tip.height),
            "disk": files,
            "rows": {name: {"rows": part.rows, "bytes": part.size_bytes} for name, part in parts.items()},
        }


def _on_disk(data: Path) -> dict[str, int]:
    """Bytes that the files take, by the first folder in the data folder, and for stores by their name."""
    taken: dict[str, int] = {}
    for path in _files(data):
        words = path.relative_to(data).parts
        name = "/".join(words[:2]) if words[0] == "storage" and len(words) > 2 else words[0]
        name = name if len(words) > 1 else "other files"
        taken[name] = taken.get(name, 0) + path.stat().st_blocks * 512
    return dict(sorted(taken.items()))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
