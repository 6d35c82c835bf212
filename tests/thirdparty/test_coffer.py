"""A stranger's distribution, from its wheel to a node that lives on it (PLUG-2, PLUG-12, PLUG-13)."""

import ast
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from supervm.config import PluginsConfig
from supervm.contracts.roles import ROLES
from supervm.kernel.context import SystemClock
from supervm.kernel.errors import HotPlugRefused
from supervm.kernel.observe import Observers
from supervm.kernel.supervise import Environment, open_kernel
from supervm.node.catalogue import OBSERVED, read_catalogue
from supervm.node.control import Control
from supervm.node.facts import Facts
from supervm.telemetry.logs import LogConfig, open_logs
from supervm.telemetry.metrics import Registry
from tests.e2e.harness import Wallet, dev_key, refused, running, until, verb
from tests.thirdparty.conftest import COFFER

SOMEBODY = b"\x0b" * 32
MAY_IMPORT = {"supervm_coffer", "trio", "attrs", "click", "starlette", *sys.stdlib_module_names}


def said(site: Path, *arguments: str | Path) -> Any:
    """The JSON that a verb prints where the distribution is installed."""
    ended = verb(*arguments, "--json", PYTHONPATH=str(site))
    assert ended.code == 0, ended
    return json.loads(ended.out)


def test_it_imports_nothing_of_ours_but_the_public_surface() -> None:
    for file in COFFER.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                ours = name in ("supervm.api", "supervm.testing") or name.startswith("supervm.testing.")
                assert ours or name.partition(".")[0] in MAY_IMPORT, f"{file.name} imports {name}"


def test_it_is_listed_with_where_it_is_from_and_how_far_it_is_trusted(coffer: Path) -> None:
    rows = {row["id"]: row for row in said(coffer, "plugins", "list")}
    assert rows["coffer"] == {
        "id": "coffer",
        "version": "0.3.0",
        "source": "entry point supervm-coffer",
        "trust": "community, unaudited",
        "offers": "storage coffer, chain coffer-journal",
    }
    shown = said(coffer, "plugins", "show", "storage.coffer")
    assert (shown["features"], shown["available"]) == (["persistent"], "yes")


def test_its_store_passes_the_whole_suite_as_the_verb_runs_it(coffer: Path) -> None:
    rows = said(coffer, "plugins", "check", "storage.coffer")
    assert {row["result"] for row in rows} == {"kept"}
    assert any("after a kill" in row["promise"] for row in rows)
    assert len(rows) > 30


def test_its_probe_adds_a_fact_with_its_source(coffer: Path) -> None:
    fact = said(coffer, "probe")["extra"]["filesystems"]
    assert (fact["source"], fact["unknown"]) == ("/proc/filesystems", None)
    assert "tmpfs" in fact["value"]


def test_a_node_lives_on_its_store_through_a_kill_and_every_extension_answers(
    coffer: Path, tmp_path: Path
) -> None:
    data, flags = tmp_path / "data", ("--set", "storage.use=coffer")
    with running(data, *flags, PYTHONPATH=str(coffer)) as node:
        wallet = Wallet.at(node, dev_key(data))
        node.commit(wallet.pay((SOMEBODY, 5)))
        status = node.client.status()
        assert status["composition"]["storage"] == ["coffer"]
        node.kill()
    with running(data, PYTHONPATH=str(coffer)) as node:
        assert node.client.status()["state_root"] == status["state_root"]
        assert node.balance(SOMEBODY) == 5
        height = int(node.client.status()["height"])
        node.commit(*(wallet.pay((SOMEBODY, 1)) for _ in range(3)))
        assert node.balance(SOMEBODY) == 8

        def seen() -> dict[str, int] | None:
            facts: dict[str, int] = node.get("/x/coffer/blocks").json()["seen"]
            return facts if facts["receipts"] == 3 else None

        facts = until(seen, "the observer is told of three receipts")
        assert facts["blocks"] >= 1
        assert facts["height"] > height
        assert node.get("/x/coffer/nothing").status_code == 404
        (row,) = [one for one in node.client.get("/v1/plugins")["plugins"] if one["id"] == "coffer"]
        assert row["trust"] == "community, unaudited"
        assert [(one["name"], one["state"]) for one in row["components"]] == [("coffer", "serving")]
    batches = said(coffer, "x", "coffer", "inspect", data / "storage" / "coffer")["batches"]
    assert batches >= 3
    assert said(coffer, "verify", "--data", data)["transactions"] == 4
    assert said(coffer, "x", "coffer", "inspect", data / "storage" / "coffer")["batches"] == batches


@pytest.fixture(scope="module")
def folder(coffer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that was made with the store of the plugin."""
    data = tmp_path_factory.mktemp("made") / "data"
    ended = verb("run", "--data", data, "--once", "--set", "storage.use=coffer", PYTHONPATH=str(coffer))
    assert ended.code == 0, ended
    return data


def test_without_the_distribution_its_data_folder_is_refused_by_name(folder: Path) -> None:
    said = refused(2, "run", "--data", folder, "--once")
    assert said.startswith(
        f"UnknownComponent: storage: no component 'coffer' is installed (data folder {folder})"
    )
    assert "'coffer'" in refused(1, "verify", "--data", folder)
    other = refused(1, "run", "--data", folder, "--once", "--set", "storage.use=sqlite")
    assert "was made with storage 'coffer', and 'sqlite' is asked for" in other


def test_a_denied_plugin_is_refused_by_policy_and_none_of_its_code_runs(coffer: Path, folder: Path) -> None:
    deny = ("--set", 'plugins.deny=["coffer"]')
    ended = verb("run", "--data", folder, "--once", *deny, PYTHONPATH=str(coffer))
    assert ended.code == 2
    assert any(line.startswith("supervm: PolicyRefused: plugin coffer:") for line in ended.errors)
    fresh = folder.with_name("fresh")
    with running(fresh, "--set", "storage.use=sqlite", *deny, PYTHONPATH=str(coffer)) as node:
        (row,) = [one for one in node.client.get("/v1/plugins")["plugins"] if one["id"] == "coffer"]
        assert row["trust"].startswith("refused: not allowed")
        assert row["components"] == []
        assert node.get("/x/coffer/blocks").status_code == 404


def test_damage_in_the_middle_of_its_log_stops_the_node_and_an_unfinished_end_does_not(
    coffer: Path, folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with running(data, "--set", "storage.use=coffer", PYTHONPATH=str(coffer)) as node:
        wallet = Wallet.at(node, dev_key(data))
        for _ in range(2):
            node.commit(wallet.pay((SOMEBODY, 1)))
        root = node.client.status()["state_root"]
    log = data / "storage" / "coffer" / "coffer.log"
    whole = log.read_bytes()
    log.write_bytes(whole + b"\x07\x00\x00")
    with running(data, PYTHONPATH=str(coffer)) as node:
        assert node.client.status()["state_root"] == root
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    log.write_bytes(damaged)
    ended = verb("run", "--data", data, "--once", PYTHONPATH=str(coffer))
    assert ended.code == 1
    assert len(ended.errors) == 1
    assert "damaged" in ended.errors[0]
    assert log.read_bytes() == damaged


# -- in this process: loaded into a running kernel, and gone again


@pytest.fixture
def importable(coffer: Path) -> Iterator[Path]:
    """The distribution can be imported and found here; afterwards nothing of it is left."""
    before, modules = list(sys.path), set(sys.modules)
    sys.path.append(str(coffer))
    yield coffer
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@asynccontextmanager
async def kernel_in(folder: Path) -> AsyncIterator[Control]:
    """A kernel without components, and what an operator may do to it."""
    metrics, clock, config = Registry(), SystemClock(), PluginsConfig(deny=["coffer"])
    with open_logs(LogConfig(level="error")) as logs:
        environment = Environment(
            data_dir=folder, tier="L4", hardware=None, clock=clock, metrics=metrics, log_for=logs.logger
        )
        catalogue = read_catalogue(config)
        observers = Observers(catalogue.manager, OBSERVED, clock, logs.logger("observers"), metrics)
        async with open_kernel(ROLES, environment, observers) as kernel:
            facts = Facts(catalogue, metrics, "L4", kernel=kernel)
            yield Control(kernel, facts, PluginsConfig())


def tasks() -> list[str]:
    """The names of all tasks below this one."""
    nurseries, names = list(trio.lowlevel.current_task().child_nurseries), []
    while nurseries:
        for child in nurseries.pop().child_tasks:
            names.append(child.name)
            nurseries += child.child_nurseries
    return sorted(names)


def files(folder: Path) -> list[str]:
    """The files below `folder` that this process holds open."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue  # the descriptor of this listing
        found += [target] if target.startswith(str(folder)) else []
    return found


async def test_unloading_at_a_running_kernel_leaves_no_hook_task_or_file(
    importable: Path, tmp_path: Path
) -> None:
    with trio.fail_after(120):
        async with kernel_in(tmp_path) as control:
            manager, kernel = control.facts.catalogue.manager, control.kernel
            before, hooks = tasks(), manager.get_plugins()
            for _ in range(2):
                (status,) = await control.load("coffer")
                assert (status.role, status.name, status.state) == ("chain", "coffer-journal", "serving")
                (journal,) = kernel.all("chain")
                await journal.first.wait()
                assert files(tmp_path)
                assert "observer coffer" in tasks()
                with pytest.raises(HotPlugRefused, match="loaded already"):
                    await control.load("coffer")
                await control.unload("coffer")
                await trio.testing.wait_all_tasks_blocked()
                assert tasks() == before
                assert files(tmp_path) == []
                assert manager.get_plugins() == hooks
                assert kernel.all("chain") == ()
            kernel.observers.publish("block_committed", block=None, receipts=())
            await trio.testing.wait_all_tasks_blocked()
            assert "supervm_coffer.routes" not in sys.modules, "its observer was called"
