"""Plugins that misbehave at a real node: each is contained and named, the node goes on (PLUG-4, PLUG-10)."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Node, Wallet, dev_key, refused, started, until, verb, wait_ready

ROGUES = Path(__file__).with_name("rogues")
SOMEBODY = b"\x0b" * 32
SQLITE = ("--set", "storage.use=sqlite")
MANIFEST = 'manifest = 1\nid = "{id}"\nversion = "1"\napi = "1.0"\nentry = "{module}"\n'


def with_plugins(*modules: str) -> tuple[str, ...]:
    return tuple(part for module in modules for part in ("--plugin", module))


def plugin(node: Node, id_: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = node.client.get("/v1/plugins")["plugins"]
    return next(row for row in found if row["id"] == id_)


def component(node: Node, id_: str) -> dict[str, Any]:
    (only,) = plugin(node, id_)["components"]
    return dict(only)


def pay(node: Node, wallet: Wallet, times: int) -> None:
    """Commit that many transfers, each in a block of its own."""
    for _ in range(times):
        node.commit(wallet.pay((SOMEBODY, 1)))


def metric(node: Node, series: str) -> float:
    lines = node.get("/metrics").text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(series + " ")), 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A `plugins` folder that holds the modules which can't be loaded, each with its manifest."""
    for module in ("breaks_at_import", "exits_at_import", "exits_declaring"):
        place = tmp_path / "plugins" / module
        place.mkdir(parents=True)
        shutil.copy(ROGUES / f"{module}.py", place)
        (place / "plugin.toml").write_text(MANIFEST.format(id=module.replace("_", "-"), module=module))
    return tmp_path / "plugins"


def test_plugins_that_fail_or_exit_at_import_are_refused_by_name_and_the_node_serves(
    folder: Path, tmp_path: Path
) -> None:
    paths = f"plugins.paths={json.dumps([str(folder)])}"
    with started(tmp_path / "data", *SQLITE, "--set", paths) as node:
        wait_ready(node)
        with node.client:
            breaks, exits = plugin(node, "breaks-at-import"), plugin(node, "exits-at-import")
            assert breaks["trust"] == "refused: RuntimeError: no luck at import"
            assert exits["trust"] == "refused: SystemExit: 3"
            assert plugin(node, "exits-declaring")["trust"] == "refused: SystemExit: 3"
            assert breaks["components"] == exits["components"] == []
            assert breaks["source"] == f"folder {folder / 'breaks_at_import'}"
            pay(node, Wallet.at(node, dev_key(node.data)), 1)
            node.stop()


@pytest.mark.parametrize(
    ("module", "cause"),
    [("breaks_at_import", "RuntimeError: no luck at import"), ("exits_at_import", "SystemExit: 3")],
)
def test_one_that_was_asked_for_by_name_and_fails_at_import_stops_the_start_with_its_cause(
    module: str, cause: str, tmp_path: Path
) -> None:
    flags = ("run", "--data", tmp_path / "data", "--once", "--plugin", module)
    said = refused(2, *flags, PYTHONPATH=str(ROGUES))
    assert said.startswith(f"ImportFailed: plugin {module.replace('_', '-')}: {cause}")
    assert not (tmp_path / "data").exists()


def test_a_component_that_hangs_in_open_is_timed_out_and_tried_again_while_the_node_serves(
    tmp_path: Path,
) -> None:
    flags = ("--set", 'transport.use=["hanging"]', *with_plugins("hangs_in_open"))
    # What doesn't hang opens within five seconds on a slow machine too.
    timing = ("--set", "plugins.open_timeout_s=5", "--set", "plugins.backoff_initial_s=0.05")
    with started(tmp_path / "data", *SQLITE, *flags, *timing, PYTHONPATH=str(ROGUES)) as node:
        until(lambda: "API http" in node.out.read_text(), "the API listens beside a hanging transport")
        address = next(line for line in node.out.read_text().splitlines() if line.startswith("API "))
        node.url = address.removeprefix("API ")
        # Every transport is down, so the node isn't ready, and says which component is why.
        answer = until(lambda: node.get("/readyz"), "an answer")
        assert answer.status_code == 503
        assert "every transport is down" in answer.json()["detail"]
        found = until(
            lambda: next(
                (
                    one
                    for row in node.get("/v1/plugins").json()["plugins"]
                    if row["id"] == "hangs-in-open"
                    for one in row["components"]
                    if one["restarts"] >= 1
                ),
                None,
            ),
            "it was tried again",
        )
        assert found["detail"] == "TimeoutError: did not open within 5 s"
        assert found["health"] == "failing"
        assert node.get("/v1/status").json()["height"] is not None
        node.stop()


def test_observers_that_stall_raise_or_exit_lose_their_own_events_and_blocks_go_on(tmp_path: Path) -> None:
    bad = ("stalls_observing", "raises_observing", "exits_observing")
    flags = (*with_plugins(*bad), "--set", "plugins.observer_queue=4")
    with started(tmp_path / "data", *SQLITE, *flags, PYTHONPATH=str(ROGUES)) as node:
        wait_ready(node)
        with node.client:
            wallet = Wallet.at(node, dev_key(node.data))
            dropped = 'supervm_plugin_observer_dropped_total{plugin="stalls-observing"}'
            raised = 'supervm_plugin_observer_raised_total{plugin="raises-observing"}'
            for times in range(1, 6):
                pay(node, wallet, 1)
                # One after the other, so that neither of them loses an event before it is muted.
                for series in (raised, raised.replace("raises", "exits")):
                    until(lambda name=series, so=times: metric(node, name) == so, f"{series} is {times}")
            pay(node, wallet, 7)
            assert metric(node, raised) == 5, "the raising one was muted at the fifth time"
            assert metric(node, raised.replace("raises", "exits")) == 5, "so was the one that exits"
            until(lambda: metric(node, dropped) >= 12 - 4 - 1, "the stalled one lost its oldest events")
            assert metric(node, dropped.replace("stalls", "raises")) == 0
            said = node.err.read_text()
            assert "observer_stalled plugin=stalls-observing" in said
            assert "observer_muted" in said
            assert "block 1 is not to my taste" in said
            pay(node, wallet, 1)
            assert node.balance(SOMEBODY) == 13
            assert node.client.ready()
            node.stop()


@pytest.mark.parametrize(
    ("module", "name", "cause"),
    [
        ("crashes_again", "crashing", "RuntimeError: crashed once more"),
        ("exits_again", "exiting", "SystemExit: 3"),
    ],
)
def test_a_component_that_fails_again_and_again_has_its_circuit_opened_and_the_node_serves(
    module: str, name: str, cause: str, tmp_path: Path
) -> None:
    flags = ("--set", f'chain.use=["{name}"]', *with_plugins(module))
    timing = ("--set", "plugins.backoff_initial_s=0.01", "--set", "plugins.breaker_failures=3")
    with started(tmp_path / "data", *SQLITE, *flags, *timing, PYTHONPATH=str(ROGUES)) as node:
        wait_ready(node)
        with node.client:
            id_ = module.replace("_", "-")
            until(lambda: component(node, id_)["breaker"] == "open", "its circuit is open")
            found = component(node, id_)
            assert (found["state"], found["restarts"], found["detail"]) == ("broken", 2, cause)
            pay(node, Wallet.at(node, dev_key(node.data)), 1)
            assert node.client.ready()
            assert f"chain.{name}" in node.err.read_text()
            node.stop()


def test_extensions_that_raise_are_told_by_name_and_take_nothing_else_with_them(tmp_path: Path) -> None:
    data, flags = tmp_path / "data", with_plugins("raises_extending")
    with started(data, *SQLITE, *flags, PYTHONPATH=str(ROGUES)) as node:
        wait_ready(node)
        with node.client:
            said = node.said()
            assert "plugin raises-extending gave no probes: SystemExit: no probes today" in said
            assert "RuntimeError: no routes today" in said
            assert node.get("/x/raises-extending/anything").status_code == 404
            node.stop()
    ended = verb(
        "x",
        "raises-extending",
        "--help",
        PYTHONPATH=str(ROGUES),
        SUPERVM_PLUGINS__LOAD='["raises_extending"]',
    )
    assert ended.code == 2
    assert "plugin raises-extending gave no verbs: RuntimeError: no verbs today" in ended.errors[0]
