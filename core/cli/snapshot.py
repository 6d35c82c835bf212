"""`supervm snapshot`: take, list, check and restore snapshots of a chain, and choose which are kept."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import trio

from supervm.cli.output import json_option, print_facts, print_table

F = TypeVar("F", bound=Callable[..., Any])


def folder_options(command: F) -> F:
    """Which data folder, by which configuration."""
    for option in (
        click.option(
            "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of the configuration."
        ),
        click.option(
            "--config",
            "file",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="TOML file.",
        ),
        click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="Data folder."),
    ):
        command = option(command)
    return command


def from_option(command: F) -> F:
    """Which folder of snapshots."""
    return click.option(
        "--from",
        "snapshots",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Folder of the snapshots. [default: the one of the configuration]",
    )(command)


def handovers_option(command: F) -> F:
    """Who tells how validators changed."""
    return click.option(
        "--handovers",
        metavar="URL",
        help="A node that tells how validators changed since genesis; it is checked. [default: they didn't]",
    )(command)


def node_options(data: Path | None, file: Path | None, settings: tuple[str, ...]) -> Any:
    from supervm.node.options import NodeOptions

    return NodeOptions(data=data, config=file, settings=settings, environ=os.environ)


@click.group()
def snapshot() -> None:
    """Take, list, check and restore snapshots of a chain.

    A snapshot is the whole ledger at one height, in chunks named by their digest, under a manifest that its
    node signed. A running node takes them by itself where its configuration says so.

    \b
    Example:
      supervm snapshot create
      supervm snapshot list
      supervm snapshot restore --from /backup/snapshots --data /srv/node
    """


@snapshot.command()
@click.option(
    "--to", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Folder of the snapshots."
)
@click.option("--blocks", type=click.IntRange(min=0), metavar="N", help="The last N blocks whole; 0: all.")
@click.option("--api", metavar="URL", help="Have the running node there take one, into its own folder.")
@folder_options
@json_option
def create(
    to: Path | None,
    blocks: int | None,
    api: str | None,
    data: Path | None,
    file: Path | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Take a snapshot of a stopped node's chain, or have a running node take one while blocks go on.

    Headers, certificates, the index and the state always go along whole. A running node takes it where and
    with as many blocks as its configuration says; its token is taken from SUPERVM_API_TOKEN.

    \b
    Example:
      supervm snapshot create --to /backup/snapshots --blocks 0
      supervm snapshot create --api http://127.0.0.1:8645
    """
    from supervm.cli.errors import Misuse
    from supervm.cli.snapshots import create_at, create_one

    if api is not None:
        if to is not None or blocks is not None or data is not None:
            raise Misuse("--api: a running node has --data, --to and --blocks by its configuration")
        print_facts(trio.run(create_at, api), as_json)
        return
    print_facts(trio.run(create_one, node_options(data, file, settings), to, blocks), as_json)


@snapshot.command("list")
@from_option
@folder_options
@json_option
def list_(
    snapshots: Path | None, data: Path | None, file: Path | None, settings: tuple[str, ...], as_json: bool
) -> None:
    """List the snapshots of a folder, the lowest height first; of one that can't be read, why.

    \b
    Example:
      supervm snapshot list --from /backup/snapshots
    """
    from supervm.cli.snapshots import list_all

    rows = trio.run(list_all, node_options(data, file, settings), snapshots)
    columns = ("name", "height", "first_block", "created", "bytes", "pinned")
    more = ("unreadable",) if any("unreadable" in row for row in rows) else ()
    print_table(rows, (*columns, *more), as_json)


@snapshot.command()
@click.argument("name", default="", required=False)
@from_option
@click.option("--quick", is_flag=True, help="Check signature, certificate and chunks; restore nothing.")
@handovers_option
@folder_options
@json_option
def verify(
    name: str,
    snapshots: Path | None,
    quick: bool,
    handovers: str | None,
    data: Path | None,
    file: Path | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Check a snapshot, the newest unless one is named, by restoring it into a folder that goes afterwards.

    \b
    Example:
      supervm snapshot verify
      supervm snapshot verify --from /backup/snapshots --quick
    """
    from supervm.cli.snapshots import verify_one

    options = node_options(data, file, settings)
    print_facts(trio.run(verify_one, options, snapshots, name, quick, handovers), as_json)


@snapshot.command()
@click.argument("name", default="", required=False)
@from_option
@click.option("--genesis", type=click.Path(path_type=Path), help="Genesis that the chain must begin with.")
@click.option("--replace", is_flag=True, help="Set aside the store that is there, under another name.")
@handovers_option
@folder_options
@json_option
def restore(
    name: str,
    snapshots: Path | None,
    genesis: Path | None,
    replace: bool,
    handovers: str | None,
    data: Path | None,
    file: Path | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make the ledger of a data folder from a snapshot, the newest unless one is named.

    Everything is checked: chunks, headers, certificate, blocks, and the state against its root. Whatever the
    snapshot was taken from, the folder gets the storage that is configured. Interrupted, it goes on when it
    is run again, without --replace. Where the folder has no genesis and none is given, the snapshot's is
    taken: look at the chain id that is printed.

    \b
    Example:
      supervm snapshot restore --from /backup/snapshots --data /srv/node
      supervm snapshot restore --from /backup/snapshots --data /srv/node --replace --set storage.use=sqlite
    """
    from supervm.cli.snapshots import restore_one

    options = node_options(data, file, settings)
    print_facts(trio.run(restore_one, options, snapshots, name, genesis, replace, handovers), as_json)


@snapshot.command()
@click.argument("name")
@from_option
@click.option("--off", is_flag=True, help="Let it go again when it is old.")
@folder_options
@json_option
def pin(
    name: str,
    snapshots: Path | None,
    off: bool,
    data: Path | None,
    file: Path | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Keep a snapshot whatever its age.

    \b
    Example:
      supervm snapshot pin snapshot-000000001000-1700000000
      supervm snapshot pin snapshot-000000001000-1700000000 --off
    """
    from supervm.cli.snapshots import pin_one

    print_facts(trio.run(pin_one, node_options(data, file, settings), snapshots, name, not off), as_json)


@snapshot.command()
@click.argument("name")
@from_option
@folder_options
@json_option
def remove(
    name: str,
    snapshots: Path | None,
    data: Path | None,
    file: Path | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Remove a snapshot, and every chunk that no other one needs.

    \b
    Example:
      supervm snapshot remove snapshot-000000001000-1700000000
    """
    from supervm.cli.snapshots import remove_one

    print_facts(trio.run(remove_one, node_options(data, file, settings), snapshots, name), as_json)
