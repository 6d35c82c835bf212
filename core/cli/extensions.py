"""`supervm x PLUGIN-ID ...`: the verbs that plugins add. Ours may add them to `supervm` itself."""

from collections.abc import Callable

import click

from supervm.cli.errors import Misuse


class PluginVerbs(click.Group):
    """One subgroup a plugin that has the hook `supervm_cli`, filled by that hook when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_extending())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        extending = _extending()
        if cmd_name not in extending:
            return None
        group = click.Group(cmd_name, help=f"Verbs of the plugin {cmd_name}.")
        try:
            extending[cmd_name](group)
        except (Exception, SystemExit) as error:
            raise Misuse(
                f"plugin {cmd_name} gave no verbs: {type(error).__name__}: {error}; mend it"
            ) from error
        return group


def _extending() -> dict[str, Callable[[click.Group], object]]:
    from supervm.cli.plugins import read

    return {plugin.id: hook for plugin, hook in read(None, ()).extensions("supervm_cli")}


@click.group(cls=PluginVerbs)
def extensions() -> None:
    """Verbs of plugins.

    \b
    Example:
      supervm x my-plugin hello
    """
