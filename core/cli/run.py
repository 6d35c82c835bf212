"""`supervm run`: compose a node by the hardware and serve until it is told to stop."""

import os
from pathlib import Path

import click


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, readable=False),
    metavar="DIR",
    help="Data folder.  [default: ~/.supervm/data]",
)
@click.option(
    "--config", "file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="TOML file."
)
@click.option(
    "--genesis", metavar="FILE", help="Genesis of the chain to join; checked against the data folder."
)
@click.option("--tier", metavar="TIER", help="auto, l1, l2, l3 or l4.  [default: auto]")
@click.option("--api", metavar="HOST:PORT", help="Where the API listens.  [default: 127.0.0.1:8645]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of the configuration.")
@click.option("--plugin", "plugins", multiple=True, metavar="MODULE", help="Load this plugin module too.")
@click.option("--once", is_flag=True, help="Open, pass the self-check, close, exit.")
@click.option("--print-config", is_flag=True, help="Print the effective configuration and where it is from.")
def run(
    data: Path | None,
    file: Path | None,
    genesis: str | None,
    tier: str | None,
    api: str | None,
    settings: tuple[str, ...],
    plugins: tuple[str, ...],
    once: bool,
    print_config: bool,
) -> int:
    """Compose a node by the hardware, open it, and serve until Ctrl-C or SIGTERM; then drain.

    The first run makes the data folder, the node's identity and, where no genesis is given, a
    one-validator development chain with a funded key. Later values win: built-in, tier profile, file,
    SUPERVM_SECTION__KEY environment, command line.

    \b
    Example:
      supervm run
      supervm run --data /srv/node --tier l3 --set storage.use=sqlite
      supervm run --tier l2 --print-config > l2.toml
    """
    from supervm.node.main import run as run_node
    from supervm.node.options import NodeOptions

    options = NodeOptions(
        data=data,
        config=file,
        tier=tier,
        api=api,
        settings=(*settings, *((f"node.genesis={genesis}",) if genesis else ())),
        plugins=plugins,
        environ=os.environ,
    )
    return run_node(options, once=once, print_config=print_config)
