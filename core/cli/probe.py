"""`supervm probe`: what machine this is, which tier that makes it, and why."""

import os
from pathlib import Path

import click
import trio

from supervm.cli.output import json_option, print_json


@click.command()
@click.option("--deep", is_flag=True, help="Measure too: sync time, memory, signatures, hashing.")
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="Data folder whose disk counts.")
@click.option(
    "--config", "file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="TOML file."
)
@click.option("--tier", metavar="TIER", help="auto, l1, l2, l3 or l4.  [default: auto]")
@json_option
def probe(deep: bool, data: Path | None, file: Path | None, tier: str | None, as_json: bool) -> None:
    """Show the hardware facts with their sources, the tier, the profile, and why each was chosen.

    \b
    Example:
      supervm probe
      supervm probe --tier l1 --json
    """
    from supervm.hardware.explain import explain, report_json
    from supervm.node.compose import prepare
    from supervm.node.options import NodeOptions

    options = NodeOptions(data=data, config=file, tier=tier, environ=os.environ)

    async def look() -> None:
        prepared = await prepare(options, deep=deep)
        signatures = await trio.to_thread.run_sync(_signatures)
        if as_json:
            report = report_json(prepared.machine)
            print_json({**report, "signatures": signatures, "notes": list(prepared.notes)})
        else:
            lines = ["", "signatures"]
            for name, facts in signatures.items():
                lines.append(f"  {name:28} {facts['provider']} ({facts['reason']})")
                lines.append(f"  {'':28} in batches: {facts['batch']} ({facts['batch_reason']})")
            click.echo("\n".join([*explain(prepared.machine), *lines, *prepared.notes]))

    trio.run(look)


def _signatures() -> dict[str, dict[str, str]]:
    """What checks the signatures of each suite here, one and many, and why. Opens the libraries."""
    from supervm.crypto.batch import batch_facts
    from supervm.crypto.suites import provider_facts

    found = {}
    for name, batch in batch_facts().items():
        one = provider_facts(name)
        found[name] = {
            "provider": one.provider,
            "reason": one.reason,
            "batch": batch.batch,
            "batch_reason": batch.reason,
        }
    return found
