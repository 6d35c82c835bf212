"""`supervm simulate`: the deterministic simulator, which the plugin of the consensus engines gives."""

import click

from supervm.cli.errors import Failure


def __getattr__(name: str) -> click.Command:
    """The command `simulate`, found when it is used: core knows plugins by their hooks only."""
    if name != "simulate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from supervm.cli.plugins import read

    for plugin, hook in read(None, ()).extensions("supervm_cli"):
        if plugin.source.kind == "shipped":
            group = click.Group(plugin.id)
            hook(group)
            if name in group.commands:
                return group.commands[name]
    raise Failure("no shipped plugin gives the simulator; see `supervm plugins list` for what was refused")
