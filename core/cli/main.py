"""The entry point: find the verb, run it, turn what went wrong into one line and an exit code.

Exit codes: 0 done, 1 could not, 2 asked wrongly. `--debug` anywhere shows the traceback. Verbs are
imported when they are used, so that `--help` and the start of a node stay fast.
"""

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from supervm.cli.errors import ASKED_WRONGLY, COULD_NOT, explain

DEFAULT_VERB = "run"

# verb -> (module:command, what `--help` says). The list is here so that help imports nothing else.
VERBS = {
    "run": ("supervm.cli.run:run", "Compose a node by the hardware and serve until Ctrl-C (the default)."),
    "probe": ("supervm.cli.probe:probe", "Show the hardware facts, the tier, the profile, and why."),
    "plugins": (
        "supervm.cli.plugins:plugins",
        "List, show, check and make plugins; load them at a running node.",
    ),
    "keys": ("supervm.cli.keys:keys", "Make, list and show encrypted key files."),
    "tx": ("supervm.cli.tx:tx", "Build, sign, send and await transactions."),
    "query": ("supervm.cli.query:query", "Read from a node; proofs are checked on this side."),
    "genesis": ("supervm.cli.genesis:genesis", "Make or read a genesis file."),
    "devnet": ("supervm.cli.devnet:devnet", "Run a whole network on this machine."),
    "simulate": ("supervm.cli.simulate:simulate", "Run validators in the deterministic simulator."),
    "verify": ("supervm.cli.verify:verify", "Re-execute a stored chain and compare every root."),
    "snapshot": ("supervm.cli.snapshot:snapshot", "Take, list, check and restore snapshots of a chain."),
    "usage": ("supervm.cli.usage:usage", "Show what a stopped node's folder takes, by what it is for."),
    "temperature": (
        "supervm.cli.temperature:temperature",
        "Say what a tiered store would move between its classes, and why.",
    ),
    "epoch": ("supervm.cli.epoch:epoch", "Have the epoch end early."),
    "migrate": ("supervm.cli.migrate:migrate", "Move a stopped node to another storage backend."),
    "prune": ("supervm.cli.prune:prune", "Remove old blocks and old state trees of a stopped node."),
    "audit": ("supervm.cli.audit:audit", "Check the chain of a node's audit log."),
    "bench": ("supervm.cli.bench:bench", "Run a benchmark."),
    "x": ("supervm.cli.extensions:extensions", "Verbs of plugins, `x PLUGIN-ID ...`."),
}


class VerbGroup(click.Group):
    """A group whose commands are named in a table and imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS:
            close = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(VERBS)}"
            raise click.UsageError(f"unknown verb {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("--help", "-h", "--version")):
            args = [DEFAULT_VERB, *args]
        return super().parse_args(ctx, args)


def print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    """`SuperVM 0.1.0 (Pandora Core 1.0.0, plugin API 1.0)` (PLUG-26)."""
    if wanted and not ctx.resilient_parsing:
        from supervm import __version__, kernel
        from supervm.api import API_VERSION

        api = ".".join(str(part) for part in API_VERSION)
        click.echo(f"SuperVM {__version__} ({kernel.NAME} {kernel.VERSION}, plugin API {api})")
        ctx.exit()


@click.group(
    cls=VerbGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Add --debug to any verb to see the traceback of an error.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_version,
    help="Show versions.",
)
def supervm() -> None:
    """SuperVM: a blockchain node that composes itself to fit its machine.

    Without a verb it runs a node. The first run makes the data folder, the node's identity and, where no
    genesis is given, a development chain with a funded key.

    \b
    Example:
      supervm                             # run a node here
      supervm query status                # ask it how it is
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. Never raises."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        result = supervm.main(arguments, prog_name="supervm", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.Abort:
        return _fail("stopped by the user", COULD_NOT)
    except click.UsageError as error:
        return _fail(_usage(error), ASKED_WRONGLY)
    except click.ClickException as error:
        return _fail(error.format_message(), ASKED_WRONGLY)
    except BrokenPipeError:
        # The reader of our output left; the interpreter's own flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return COULD_NOT
    except KeyboardInterrupt:
        return _fail("stopped by the user", COULD_NOT)
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _fail(*explain(error))


def _usage(error: click.UsageError) -> str:
    message = " ".join(error.format_message().split())
    context: Any = error.ctx
    return f"{message.rstrip('.')}; see '{context.command_path} --help'" if context else message


def _fail(message: str, code: int) -> int:
    for line in message.splitlines() or [""]:
        click.echo(f"supervm: {line}", err=True)
    return code
