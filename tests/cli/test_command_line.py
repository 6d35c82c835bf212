"""What every verb keeps: help with an example, one line and an exit code for an error."""

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from supervm.cli.main import VERBS, main, supervm


def walk(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from walk(child, f"{path} {name}")


COMMANDS = [
    pair for verb in VERBS if verb != "x" for pair in walk(supervm.get_command(None, verb), f"supervm {verb}")
]  # type: ignore[arg-type]


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[path for path, _ in COMMANDS])
def test_every_verb_explains_itself_with_an_example(path: str, command: click.Command) -> None:
    assert command.help is not None
    assert f"Example:\n  {' '.join(path.split()[:2])}" in inspect.cleandoc(command.help)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help or parameter.name in ("suite", "type_", "storage", "key"), parameter.name


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["qurey"], "unknown verb 'qurey'; did you mean 'query'?"),
        (["keys"], "see 'supervm keys"),
        (["keys", "shwo"], "shwo"),
        (["tx", "transfer"], "TO=AMOUNT"),
        (["run", "--tier"], "--tier"),
        (["run", "--wrong"], "--wrong"),
        (["bench", "replay", "--file", "/nowhere/x.blk"], "/nowhere/x.blk"),
        (["query", "account", "0x12"], "0x and 64 hex digits: 0x12"),
        (["genesis", "new", "/tmp/never.json", "--name", "x", "--validator", "0xzz"], "0xzz"),
    ],
)
def test_asking_wrongly_is_one_line_and_exit_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1
    assert said.err.startswith("supervm: ")
    assert "Traceback" not in said.err
    wanted, _, value = says.partition(": ")
    assert wanted in said.err
    assert value in said.err


def test_a_node_that_nobody_runs_is_one_line_and_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", "status", "--api", "http://127.0.0.1:9"]) == 1
    said = capsys.readouterr().err
    assert "no answer from http://127.0.0.1:9" in said
    assert "supervm run" in said
    assert len(said.strip().splitlines()) == 1


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", "status", "--api", "http://127.0.0.1:9", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_the_version_names_product_kernel_and_plugin_api(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    pattern = r"SuperVM \d+\.\d+\.\d+ \(Pandora Core \d+\.\d+\.\d+, plugin API \d+\.\d+\)\n"
    assert re.fullmatch(pattern, capsys.readouterr().out)


def test_help_imports_neither_the_node_nor_its_libraries() -> None:
    heavy = (
        "trio httpx starlette hypercorn cattrs pluggy structlog nacl supervm.node supervm.kernel.component"
    )
    code = (
        "import sys; from supervm.cli.main import main; main(['--help']); "
        f"found = [name for name in {heavy.split()!r} if name in sys.modules]; "
        "sys.exit(f'imported {found}' if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Verbs:" in done.stdout


def test_the_module_and_the_command_are_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "supervm", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("SuperVM ")
