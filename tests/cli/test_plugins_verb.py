"""`supervm plugins`: what is there, whether it keeps its promises, and a project to start from."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervm.cli.main import main
from supervm.cli.scaffold import ROLES
from supervm.cli.templates import gas, privacy, routing, storage
from supervm.testing.conformance.gas import GasConformance
from supervm.testing.conformance.privacy import PrivacyConformance
from supervm.testing.conformance.routing import RoutingConformance
from supervm.testing.conformance.storage import StorageConformance


class TestStorageTemplate(StorageConformance):
    component = storage.component


class TestRoutingTemplate(RoutingConformance):
    component = routing.component


class TestPrivacyTemplate(PrivacyConformance):
    component = privacy.component


class TestGasTemplate(GasConformance):
    component = gas.component


def test_the_list_has_what_ships_and_from_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "list", "--json"]) == 0
    rows = {row["id"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["storage-backends"]["trust"] == "shipped"
    assert "storage sqlite" in rows["storage-backends"]["offers"]


def test_a_plugin_that_was_refused_is_listed_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "breaks_at_import.py").write_text("raise RuntimeError('no such luck')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["plugins", "list", "--plugin", "breaks_at_import", "--json"]) == 0
    rows = {row["id"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["breaks-at-import"]["trust"] == "refused"
    assert "no such luck" in rows["breaks-at-import"]["offers"]


def test_a_component_is_shown_with_its_options_and_their_types(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "show", "gas.flat", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["options"]["price"] == "10000 (a whole number)"


def test_an_unknown_plugin_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "show", "storage.sqlight"]) == 2
    assert "did you mean 'storage.sqlite'?" in capsys.readouterr().err


@pytest.mark.parametrize("role", ROLES)
def test_a_new_project_passes_its_suite_untouched_and_is_found_as_a_plugin(
    role: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"tried-{role}"
    assert main(["plugins", "new", name, "--role", role, "--in", str(tmp_path), "--json"]) == 0
    project = Path(json.loads(capsys.readouterr().out)["project"])
    environment = os.environ | {"PYTHONPATH": str(project / "src")}
    command = [sys.executable, "-m", "supervm", "plugins", "check", f"{role}.{name}", "--json"]
    done = subprocess.run(
        [*command, "--plugin", f"tried_{role}"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) >= 5
    assert {row["result"] for row in rows} <= {"kept", "skipped"}


def test_a_component_that_breaks_a_promise_fails_the_check_by_name(tmp_path: Path) -> None:
    (tmp_path / "forgetful.py").write_text(
        "from supervm.api import hookimpl, Component\n"
        "from supervm.cli.templates import privacy\n"
        "import attrs\n"
        "from contextlib import asynccontextmanager\n"
        "class Yes(privacy.ExampleScheme):\n"
        "    async def verify(self, item):\n"
        "        return True\n"
        "@asynccontextmanager\n"
        "async def open_yes(ctx, config):\n"
        "    yield Yes()\n"
        "@hookimpl\n"
        "def supervm_components():\n"
        "    yield attrs.evolve(privacy.component, name='yes-man', open=open_yes)\n"
    )
    command = [
        sys.executable,
        "-m",
        "supervm",
        "plugins",
        "check",
        "privacy.yes-man",
        "--plugin",
        "forgetful",
    ]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "promises broken by privacy.yes-man" in done.stderr
    assert "broken" in done.stdout


@pytest.mark.parametrize(
    ("name", "role", "says"),
    [
        ("Bad", "storage", "no plugin name"),
        ("mine", "nothing", "no project to start from"),
        ("json", "storage", "installed already"),
    ],
)
def test_a_project_that_can_not_be_made_is_refused_by_value(
    name: str, role: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plugins", "new", name, "--role", role, "--in", str(tmp_path)]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
