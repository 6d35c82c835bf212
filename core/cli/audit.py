"""`supervm audit`: check the chain of a node's audit log."""

from pathlib import Path

import click

from supervm.cli.output import json_option, print_facts


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("~/.supervm/data"),
    show_default=True,
    envvar="SUPERVM_NODE__DATA",
    metavar="DIR",
    help="Data folder.",
)
@click.option("--kept", default="", metavar="DIGEST", help="Digest of a line that must still be in it.")
@json_option
def audit(data: Path, kept: str, as_json: bool) -> None:
    """Check that no line of a node's audit log was changed, left out or put in.

    The digest of the last line is printed. Keep it elsewhere: with it, the next check also finds lines that
    were cut off at the end. The node may run meanwhile.

    \b
    Example:
      supervm audit --data /srv/node
    """
    from supervm.telemetry.audit import FILE_NAME, verify

    path = data.expanduser() / FILE_NAME
    found = verify(path, kept)
    print_facts({"file": str(path), "lines": found.lines, "last": found.last}, as_json)
