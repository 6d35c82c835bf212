"""PLUG-12, PLUG-23: a plugin folder put beside a running node, and the verbs that load and unload it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervm.cli.main import main
from tests.e2e.harness import Node, running

TOKEN = "a long enough token"
MANIFEST = """
manifest = 1
id = "{id}"
version = "0.1"
api = "1.0"
entry = "{module}"
components = [{{ role = "chain", name = "{id}" }}]
"""
CODE = """
from contextlib import asynccontextmanager
from pathlib import Path
from supervm.api import Component, hookimpl

class Watcher:
    pass

@asynccontextmanager
async def open_watcher(ctx, config):
    {first}
    life = Path(__file__).with_name("life")
    life.write_text("open")
    yield Watcher()
    life.write_text("closed")

@hookimpl
def supervm_components():
    yield Component(role="chain", name="{id}", open=open_watcher)
"""


def install(folder: Path, name: str, first: str = "") -> Path:
    place = folder / name
    place.mkdir(parents=True)
    module = name.replace("-", "_")
    (place / "plugin.toml").write_text(MANIFEST.format(id=name, module=module))
    (place / f"{module}.py").write_text(CODE.format(id=name, first=first or "pass"))
    return place / "life"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plugins")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Node]:
    """A node with a token, whose plugin folder is empty when it starts."""
    data = tmp_path_factory.mktemp("node") / "data"
    config = data.with_name("node.toml")
    config.write_text(f'[plugins]\npaths = ["{folder}"]\n[storage]\nuse = "sqlite"\n')
    with running(data, "--config", config, SUPERVM_API__TOKEN=TOKEN, SUPERVM_NATIVE="off") as started:
        yield started


def plugins(node: Node, *arguments: str) -> int:
    return main(["plugins", *arguments, "--api", node.url, "--json"])


def states(node: Node, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert plugins(node, "list") == 0
    rows = json.loads(capsys.readouterr().out)
    return {row["id"]: [one["state"] for one in row["components"]] for row in rows}


def test_a_plugin_comes_and_goes_at_a_running_node(
    node: Node, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SUPERVM_API_TOKEN", TOKEN)
    life = install(folder, "late-one")
    assert "late-one" not in states(node, capsys)
    assert plugins(node, "load", "late-one") == 0
    done = json.loads(capsys.readouterr().out)
    assert done == {"id": "late-one", "done": "loaded", "components": ["chain.late-one"]}
    assert (states(node, capsys)["late-one"], life.read_text()) == (["serving"], "open")
    assert plugins(node, "load", "late-one") == 1
    assert "loaded already" in capsys.readouterr().err
    assert plugins(node, "reset", "late-one") == 0
    assert json.loads(capsys.readouterr().out)["components"] == []
    assert plugins(node, "unload", "late-one") == 0
    assert life.read_text() == "closed"
    assert "late-one" not in states(node, capsys)


def test_what_can_not_be_done_is_one_line_with_the_reason(
    node: Node, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SUPERVM_API_TOKEN", TOKEN)
    install(folder, "bad-one", first='raise ValueError("no such wallet")')
    for arguments, says in (
        (("load", "bad-one"), "chain bad-one did not open: ValueError: no such wallet"),
        (("load", "bad-oen"), "did you mean bad-one"),
        (("unload", "bad-one"), "no plugin 'bad-one' is loaded"),
        (("unload", "storage-backends"), "storage sqlite; compose another and restart"),
        (("reset", "a b"), "letters, digits"),
    ):
        assert plugins(node, *arguments) == 1
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1, said
    assert "bad-one" not in states(node, capsys)
    monkeypatch.delenv("SUPERVM_API_TOKEN")
    assert plugins(node, "load", "bad-one") == 1
    assert "needs a token" in capsys.readouterr().err


def test_a_node_whose_fast_paths_are_off_says_so_once(node: Node) -> None:
    names = "scan_transactions, verify_signatures, execute_block"
    line = f"note: {names}: in Python, not compiled: SUPERVM_NATIVE is off"
    assert node.out.read_text().splitlines().count(line) == 1
    assert node.err.read_text().count(f"{names}: in Python") == 1
