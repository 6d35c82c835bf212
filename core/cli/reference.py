"""The reference page of the command line, made from the commands themselves so that it can't drift.

python -m supervm.cli.reference > docs/reference/cli.md
"""

import inspect
from collections.abc import Iterator

import click

from supervm.cli.main import VERBS, supervm

HEAD = """\
# Command line

`python -m supervm` is also installed as `supervm`. Without a verb it runs a node. Exit codes: 0 done,
1 could not, 2 asked wrongly. An error is one line on stderr that names the value and the mend; `--debug` on
any verb shows the traceback. Long work shows its progress on a terminal and stays quiet in a pipe. `--json`
prints one JSON document.

This page is made by `python -m supervm.cli.reference`.
"""


def reference() -> str:
    """The page, in Markdown. The verbs of plugins aren't in it: they differ from node to node."""
    parts = [HEAD]
    context = click.Context(supervm, info_name="supervm")
    for verb in VERBS:
        if verb != "x":
            command = supervm.get_command(context, verb)
            assert command is not None
            parts += _pages(command, click.Context(command, info_name=f"supervm {verb}"), 2)
    return "\n".join(parts).rstrip() + "\n"


def _pages(command: click.Command, context: click.Context, level: int) -> Iterator[str]:
    text, _, example = inspect.cleandoc(command.help or "").partition("\b\nExample:\n")
    yield f"{'#' * level} `{context.info_name}`\n"
    yield text.strip() + "\n"
    yield f"```\n{_usage(command, context)}\n```\n"
    options = [row for row in (_row(parameter) for parameter in command.params) if row]
    if options:
        yield "| option | meaning |\n|---|---|\n" + "\n".join(options) + "\n"
    yield "Example:\n\n```\n" + inspect.cleandoc(example) + "\n```\n"
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            child = command.commands[name]
            path = f"{context.info_name} {name}"
            yield from _pages(child, click.Context(child, info_name=path), min(level + 1, 4))


def _usage(command: click.Command, context: click.Context) -> str:
    pieces = command.collect_usage_pieces(context)
    return " ".join([str(context.info_name), *pieces])


def _row(parameter: click.Parameter) -> str:
    if not isinstance(parameter, click.Option):
        return ""
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    metavar = "" if parameter.is_flag else f" `{parameter.make_metavar(click.Context(click.Command('x')))}`"
    described = (parameter.help or "").strip()
    default = parameter.default
    if parameter.show_default and default not in (None, ()) and not parameter.is_flag:
        described = f"{described} Default: `{default}`.".strip()
    return f"| {names}{metavar} | {described.replace('|', chr(92) + '|')} |".replace(
        "  [default", " [default"
    )


if __name__ == "__main__":
    click.echo(reference(), nl=False)
