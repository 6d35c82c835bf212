"""The pages about plugins say what the code does."""

import json
import re
import tomllib
from pathlib import Path
from types import ModuleType

import click
import jsonschema  # type: ignore[import-untyped]
import pytest

import supervm.api
import supervm.testing
from supervm.cli.main import main
from supervm.cli.main import supervm as verbs
from supervm.cli.manifest_page import page, schema
from supervm.cli.scaffold import ROLES as SCAFFOLDED
from supervm.kernel.lifecycle import State
from supervm.kernel.manifest import ManifestInvalid, read_manifest
from tests.thirdparty.conftest import COFFER

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    "plugins/writing-a-plugin.md",
    *sorted(f"hooks/{path.name}" for path in (DOCS / "hooks").glob("*.md")),
]
MANIFESTS = [*sorted((ROOT / "plugins").glob("*/plugin.toml")), *COFFER.rglob("plugin.toml")]
WRITING = (DOCS / "plugins/writing-a-plugin.md").read_text(encoding="utf-8")


def test_the_manifest_page_and_its_schema_are_what_the_classes_say() -> None:
    made = "run: python -m supervm.cli.manifest_page [--schema] > docs/plugins/..."
    assert (DOCS / "plugins/manifest.md").read_text(encoding="utf-8") == page(), made
    kept = json.loads((DOCS / "plugins/plugin-manifest.schema.json").read_text(encoding="utf-8"))
    assert kept == schema(), made


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.parent.name)
def test_the_schema_takes_every_manifest_that_ships(path: Path) -> None:
    jsonschema.validate(tomllib.loads(path.read_text(encoding="utf-8")), schema())


def test_the_example_manifest_of_the_page_is_one() -> None:
    text = page().partition("```toml\n")[2].partition("```")[0]
    jsonschema.validate(tomllib.loads(text), schema())


@pytest.mark.parametrize(
    "change",
    [
        {"manifest": 2},
        {"id": "No Good"},
        {"api": "1"},
        {"api": 1.0},
        {"run": "container"},
        {"colour": "red"},
        {"components": [{"role": "storage"}]},
        {"components": [{"role": "storage", "name": "x-y", "more": 1}]},
    ],
)
def test_the_schema_and_a_node_refuse_the_same_manifests(change: dict[str, object], tmp_path: Path) -> None:
    good: dict[str, object] = {"manifest": 1, "id": "a-b", "version": "1", "api": "1.0", "entry": "a_b"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(good | change, schema())
    path = tmp_path / "plugin.toml"
    path.write_text(_toml(good))
    assert read_manifest(path).id == "a-b"
    path.write_text(_toml(good | change))
    with pytest.raises(ManifestInvalid, match=re.escape(str(path))):
        read_manifest(path)


def _toml(values: dict[str, object]) -> str:
    from supervm.config import toml_value

    return "".join(f"{key} = {_inline(value, toml_value)}\n" for key, value in values.items())


def _inline(value: object, plain: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_inline(each, plain) for each in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_inline(each, plain)}" for key, each in value.items()) + "}"
    return json.dumps(value)


def test_the_table_of_files_is_what_the_verb_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plugins", "new", "my-store", "--role", "storage", "--in", str(tmp_path), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["files"]
    table = re.findall(r"^\| `([^`]+)` \|", WRITING.partition("## 2.")[0], re.MULTILINE)
    assert sorted(table) == sorted(made)
    for path in (tmp_path / "my-store").rglob("*.py"):
        ours = re.findall(r"^from (supervm\S*)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert all(name == "supervm.api" or name.startswith("supervm.testing") for name in ours), path
    roles = re.search(r"projects to start from for (.*?)\.", WRITING, re.DOTALL)
    assert roles is not None
    assert sorted(re.findall(r"`(\w+)`", roles[1])) == sorted(SCAFFOLDED)


@pytest.mark.parametrize(
    "file", ["plugins/writing-a-plugin.md", *(f"hooks/{p.name}" for p in (DOCS / "hooks").glob("*.md"))]
)
def test_every_command_on_the_pages_exists(file: str) -> None:
    text = (DOCS / file).read_text(encoding="utf-8")
    lines = re.findall(r"^    (?:SUPERVM_\S+ )?supervm (.*)$", text, re.MULTILINE)
    assert lines or file.endswith("index.md")
    for line in lines:
        context: click.Context = click.Context(verbs, info_name="supervm")
        command: click.Command = verbs
        words = line.partition("#")[0].split()
        while isinstance(command, click.Group) and words and words[0] not in ("hello-verbs", "checksum"):
            found = command.get_command(context, words.pop(0))
            assert found is not None, line
            command = found
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


def test_the_kernels_page_names_every_state_and_module() -> None:
    text = (DOCS / "explanation/kernel.md").read_text(encoding="utf-8")
    assert [state for state in State if f"`{state}`" not in text] == []
    modules = {path.name for path in (ROOT / "core/kernel").glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"`(\w+\.py)`", text)) >= modules - {"context.py", "errors.py", "figures.py"}


@pytest.mark.parametrize("module", [supervm.api, supervm.testing])
def test_the_public_surface_is_sorted_whole_and_says_what_each_thing_is(module: ModuleType) -> None:
    names = list(module.__all__)
    assert sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name)) == names
    for name in names:
        value = getattr(module, name)
        assert not callable(value) or value.__doc__, name
