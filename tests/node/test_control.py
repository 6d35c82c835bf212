"""PLUG-12: plugins come and go at a running node, and leave nothing behind."""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from supervm.config import PluginsConfig
from supervm.contracts.roles import ROLES
from supervm.kernel.context import SystemClock
from supervm.kernel.errors import HotPlugRefused, PluginUnknown, StartFailed
from supervm.kernel.observe import Observers
from supervm.kernel.supervise import Environment, open_kernel
from supervm.node.catalogue import OBSERVED, read_catalogue
from supervm.node.control import Control
from supervm.node.facts import Facts
from supervm.telemetry.logs import LogConfig, open_logs
from supervm.telemetry.metrics import Registry

MANIFEST = """
manifest = 1
id = "{id}"
version = "0.1"
api = "1.0"
entry = "{module}"
components = [{{ role = "{role}", name = "watcher" }}]
"""
CODE = """
from contextlib import asynccontextmanager
import trio
from supervm.api import Component, hookimpl

lives, seen = [], []

class Watcher:
    pass

@asynccontextmanager
async def open_watcher(ctx, config):
    if {fails}:
        raise ValueError("won't open")
    lives.append("opened")
    ctx.nursery.start_soon(trio.sleep_forever)
    yield Watcher()
    lives.append("closed")

@hookimpl
def supervm_components():
    yield Component(role="{role}", name="watcher", open=open_watcher)

@hookimpl
def supervm_health_changed(component, new):
    seen.append((component, new))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(folder: Path, module: str, role: str = "chain", fails: bool = False) -> None:
    place = folder / "plugins" / module.replace("_", "-")
    place.mkdir(parents=True)
    (place / f"{module}.py").write_text(CODE.format(role=role, fails=fails))
    manifest = MANIFEST.format(id=module.replace("_", "-"), module=module, role=role)
    (place / "plugin.toml").write_text(manifest)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Control]:
    config = PluginsConfig(paths=[str(folder / "plugins")])
    metrics, clock = Registry(), SystemClock()
    with open_logs(LogConfig(level="error")) as logs:
        environment = Environment(
            data_dir=folder / "data",
            tier="L4",
            hardware=None,
            clock=clock,
            metrics=metrics,
            log_for=logs.logger,
        )
        catalogue = read_catalogue(PluginsConfig())
        observers = Observers(catalogue.manager, OBSERVED, clock, logs.logger("observers"), metrics)
        async with open_kernel(ROLES, environment, observers) as kernel:
            yield Control(kernel, Facts(catalogue, metrics, "L4", kernel=kernel), config)


def tasks() -> int:
    task = trio.lowlevel.current_task()
    nurseries, count = [*task.child_nurseries], 0
    while nurseries:
        for child in nurseries.pop().child_tasks:
            count += 1
            nurseries += child.child_nurseries
    return count


async def test_a_plugin_is_loaded_and_unloaded_and_leaves_no_hook_or_task(folder: Path) -> None:
    write(folder, "late_one")
    async with running(folder) as control:
        before = tasks()
        (status,) = await control.load("late-one")
        module = sys.modules["late_one"]
        assert status.state == "serving" and module.lives == ["opened"]
        assert "late-one" in [plugin.id for plugin in control.facts.plugins()]
        assert control.facts.composition()["chain"] == ["watcher"]
        await control.unload("late-one")
        assert module.lives == ["opened", "closed"]
        assert not control.facts.catalogue.manager.has_plugin("late-one")
        assert "late-one" not in [plugin.id for plugin in control.facts.plugins()]
        await trio.testing.wait_all_tasks_blocked()
        assert tasks() == before
        heard = len(module.seen)
        control.kernel.observers.publish("health_changed", component="x.y", old="", new="", cause="")
        await trio.testing.wait_all_tasks_blocked()
        assert len(module.seen) == heard


async def test_a_plugin_can_come_back_after_it_was_unloaded(folder: Path) -> None:
    write(folder, "late_one")
    async with running(folder) as control:
        for _ in range(3):
            await control.load("late-one")
            await control.unload("late-one")
        assert sys.modules["late_one"].lives == ["opened", "closed"] * 3


async def test_a_plugin_that_does_not_open_leaves_nothing(folder: Path) -> None:
    write(folder, "bad_one", fails=True)
    async with running(folder) as control:
        with pytest.raises(StartFailed, match="won't open"):
            await control.load("bad-one")
        assert control.kernel.status() == ()
        assert not control.facts.catalogue.manager.has_plugin("bad-one")


async def test_what_cannot_be_done_is_refused_with_the_reason(folder: Path) -> None:
    write(folder, "late_one")
    async with running(folder) as control:
        with pytest.raises(PluginUnknown, match="did you mean late-one"):
            await control.load("late-oen")
        await control.load("late-one")
        with pytest.raises(HotPlugRefused, match="loaded already"):
            await control.load("late-one")
        with pytest.raises(PluginUnknown, match="no plugin 'other' is loaded"):
            await control.unload("other")
        assert await control.reset("late-one") == ()


async def test_a_component_of_a_one_role_is_left_to_the_next_start(folder: Path) -> None:
    write(folder, "store_one", role="storage")
    async with running(folder) as control:
        assert await control.load("store-one") == ()
        assert control.kernel.status() == ()
        await control.unload("store-one")


async def test_a_plugin_has_the_id_of_its_manifest_whatever_its_folder_is_called(folder: Path) -> None:
    write(folder, "late_one")
    (folder / "plugins" / "late-one").rename(folder / "plugins" / "late-one-0.1")
    async with running(folder) as control:
        await control.load("late-one")
        for name in ("late-one", "late-one-0.1"):
            with pytest.raises(HotPlugRefused, match=r"loaded already|is installed; did you mean late-one"):
                await control.load(name)
        assert sys.modules["late_one"].lives == ["opened"]
        assert control.facts.catalogue.manager.has_plugin("late-one")


async def test_options_without_a_default_are_left_to_the_next_start(folder: Path) -> None:
    write(folder, "picky_one")
    module = folder / "plugins" / "picky-one" / "picky_one.py"
    wanted = "import attrs\n@attrs.frozen\nclass Wanted:\n    key: str\n"
    code = module.read_text().replace("open=open_watcher)", "open=open_watcher, config=Wanted)")
    module.write_text(wanted + code)
    async with running(folder) as control:
        with pytest.raises(HotPlugRefused, match=r"watcher has no default options .*'key'"):
            await control.load("picky-one")
        assert not control.facts.catalogue.manager.has_plugin("picky-one")


async def test_nothing_is_loaded_while_the_node_drains(folder: Path) -> None:
    write(folder, "late_one")
    async with running(folder) as control:
        control.facts.draining = True
        with pytest.raises(HotPlugRefused, match="draining"):
            await control.load("late-one")
