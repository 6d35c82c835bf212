"""`supervm prune`: remove old blocks and old state trees from a stopped node's folder."""

import os
from pathlib import Path
from typing import Any

import attrs
import click
import trio

from supervm.cli.output import json_option, print_facts, progress


@click.command()
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="Data folder.")
@click.option(
    "--config", "file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="TOML file."
)
@click.option("--keep-blocks", type=int, metavar="N", help="Keep the last N blocks whole, at least 256.")
@click.option("--keep-roots", type=int, metavar="N", help="Keep the last N state trees whole, at least 256.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@click.option("--compact", is_flag=True, help="Give the space back to the disk, where the backend can.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of the configuration.")
@json_option
def prune(
    data: Path | None,
    file: Path | None,
    keep_blocks: int | None,
    keep_roots: int | None,
    dry_run: bool,
    compact: bool,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Remove the bodies and receipts of old blocks, and old state trees, for good.

    State, headers, certificates and the index of transactions always stay, and so do the last 256 blocks.
    What isn't given is as the configuration says. A running node prunes by itself, as it is configured; this
    verb is for one that is stopped. Interrupted, it goes on when it is run again.

    \b
    Example:
      supervm prune --keep-blocks 10000 --dry-run
      supervm prune --keep-blocks 10000 --compact
    """
    from supervm.cli.errors import Misuse
    from supervm.node.options import NodeOptions
    from supervm.storage.pruning import KEPT_MIN

    for name, count in (("--keep-blocks", keep_blocks), ("--keep-roots", keep_roots)):
        if count is not None and count < KEPT_MIN:
            raise Misuse(f"{name} {count}: the least is {KEPT_MIN}; without it the configuration decides")
    options = NodeOptions(data=data, config=file, settings=settings, environ=os.environ)
    print_facts(trio.run(_prune, options, keep_blocks, keep_roots, dry_run, compact), as_json)


async def _prune(
    options: Any, keep_blocks: int | None, keep_roots: int | None, dry_run: bool, compact: bool
) -> dict[str, Any]:
    from supervm.cli.folders import opened_folder, opened_ledger
    from supervm.storage.pace import Pace
    from supervm.storage.pruning import Sweeper, horizon_for, would_remove

    async with opened_folder(options) as folder, opened_ledger(folder) as ledger:
        keep = folder.options.keep
        if keep_blocks is not None:
            keep = attrs.evolve(keep, blocks=keep_blocks, seconds=0)
        if keep_roots is not None:
            keep = attrs.evolve(keep, roots=keep_roots)
        target = await horizon_for(ledger, keep, folder.clock.wall_ms())
        removed = await would_remove(ledger, target)
        if not dry_run:
            await ledger.raise_horizon(target)
            with progress("pruning", removed.blocks + removed.pages) as bar:
                sweeper = Sweeper(ledger, Pace(folder.clock))
                removed = await sweeper.sweep(lambda gone: bar.update(gone.blocks + gone.pages))
            if compact and "compaction" in folder.store.capabilities:
                await folder.store.compact()
        return {
            "dry_run": dry_run,
            "height": str(ledger.tip.height),
            "oldest_block": str(target.blocks),
            "oldest_root": str(target.roots),
            "blocks": removed.blocks,
            "tree_pages": removed.pages,
            "state_root": f"0x{ledger.tip.state_root.hex()}",
        }
