"""The reference pages are what the commands and options say of themselves."""

import re
from pathlib import Path

import click

from supervm.cli.configuration_page import page
from supervm.cli.main import supervm
from supervm.cli.reference import reference

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def test_the_reference_page_is_what_the_commands_say() -> None:
    made = reference()
    assert (REFERENCE / "cli.md").read_text() == made, (
        "run: python -m supervm.cli.reference > docs/reference/cli.md"
    )


def test_the_page_has_every_verb_and_an_example_for_each() -> None:
    page = reference()
    for path in ("run", "tx object create", "query proof", "bench replay", "plugins new"):
        assert f"`supervm {path}`" in page
    assert page.count("Example:") == page.count("\n## ") + page.count("\n### ") + page.count("\n#### ")


def test_the_configuration_page_is_what_the_options_say() -> None:
    remedy = "run: python -m supervm.cli.configuration_page > docs/reference/configuration.md"
    assert (REFERENCE / "configuration.md").read_text() == page(), remedy


def test_every_command_of_the_tutorial_exists() -> None:
    text = (REFERENCE.parent / "tutorial.md").read_text()
    commands = re.findall(r"^    (?:supervm|pkill .*; supervm)(.*)$", text, re.MULTILINE)
    assert len(commands) > 15
    for line in commands:
        context: click.Context = click.Context(supervm, info_name="supervm")
        command: click.Command = supervm
        words = line.partition(">")[0].split()
        while isinstance(command, click.Group) and words:
            found = command.get_command(context, words.pop(0))
            assert found is not None, line
            command = found
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line
