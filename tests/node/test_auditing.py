"""OBS-42: a node that is told to keeps an audit log of its starts, stops and operators."""

import io
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from supervm.cli.main import main
from supervm.kernel.errors import HotPlugRefused
from supervm.node.assembly import INSIDE, Node, open_node
from supervm.node.auditing import Audited
from supervm.node.compose import prepare
from supervm.node.options import NodeOptions
from supervm.telemetry.audit import AuditBroken, open_audit, verify
from supervm.telemetry.logs import LogConfig, open_logs
from tests.http.doubles import ControlDouble, LogDouble


@asynccontextmanager
async def node(folder: Path, *settings: str) -> AsyncIterator[Node]:
    plugins = folder / "plugins"
    settings = (f"plugins.paths={plugins}", "storage.use=sqlite", *settings)
    options = NodeOptions(data=folder / "data", api="127.0.0.1:0", settings=settings)
    prepared = await prepare(options, inside=INSIDE)
    with open_logs(LogConfig(level="error"), io.StringIO()) as logs:
        async with open_node(prepared, logs) as opened:
            yield opened


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


async def test_starts_stops_refusals_and_what_operators_do_are_kept_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "plugins" / "bad-one"
    place.mkdir(parents=True)
    (place / "plugin.toml").write_text('manifest = 2\nid = "bad-one"\n')
    path = tmp_path / "data" / "audit.log"
    async with node(tmp_path, "observability.audit_log=true") as opened:
        assert opened.facts.control is not None
        with pytest.raises(HotPlugRefused):
            await opened.facts.control.load("no-such-plugin")
        await opened.facts.control.reset("storage-backends")
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with node(tmp_path, "observability.audit_log=true", "node.region=Mars"):
            raise ZeroDivisionError("a bug")
    written = entries(path)
    assert [(each["action"], each.get("plugin"), each.get("outcome")) for each in written] == [
        ("node_started", None, None),
        ("plugin_refused", "bad-one", None),
        ("plugin_load", "no-such-plugin", "asked"),
        ("plugin_load", "no-such-plugin", "failed"),
        ("plugin_reset", "storage-backends", "asked"),
        ("plugin_reset", "storage-backends", "done"),
        ("node_stopped", None, None),
        ("node_started", None, None),
        ("plugin_refused", "bad-one", None),
        ("node_stopped", None, None),
    ]
    assert "storage.sqlite" in written[0]["components"]
    assert "is installed" in written[3]["cause"]
    assert (written[6]["cause"], written[9]["cause"]) == ("", "ZeroDivisionError: a bug")
    assert written[0]["configuration"] != written[7]["configuration"]
    assert main(["audit", "--data", str(tmp_path / "data"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["lines"], found["last"]) == (10, verify(path).last)
    path.write_bytes(path.read_bytes().replace(b"Mars", b"Moon").replace(b'"asked"', b'"taken"'))
    assert main(["audit", "--data", str(tmp_path / "data")]) == 1
    assert "line 4: it doesn't follow from the line before it" in capsys.readouterr().err


async def test_no_log_is_kept_unless_asked_for(tmp_path: Path) -> None:
    async with node(tmp_path):
        pass
    assert not (tmp_path / "data" / "audit.log").exists()


async def test_a_node_that_must_keep_a_log_does_not_start_without_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "audit.log").write_bytes(b"x" * 70_000)
    with pytest.raises(AuditBroken):
        async with node(tmp_path, "observability.audit_log=true"):
            pytest.fail("started")


class Full:
    """An audit log on a disk that is full after so many lines."""

    def __init__(self, room: int) -> None:
        self.room = room

    def append(self, action: str, **facts: Any) -> None:
        if self.room == 0:
            raise OSError(28, "No space left on device")
        self.room -= 1


@pytest.mark.parametrize(("room", "asked"), [(0, []), (1, [("unload", "late-one")])])
async def test_what_can_not_be_written_down_is_not_done(room: int, asked: Sequence[Any]) -> None:
    control, log = ControlDouble(), LogDouble()
    audited = Audited(control, Full(room), log)  # type: ignore[arg-type]
    if room == 0:
        with pytest.raises(HotPlugRefused, match="No space left"):
            await audited.unload("late-one")
    else:
        assert len(await audited.unload("late-one")) == 1
    assert control.asked == asked
    assert [event for _, event, _ in log.errors] == ["audit_not_written"]


async def test_a_change_that_is_cancelled_is_told_as_failed(tmp_path: Path) -> None:
    control = ControlDouble()
    control.takes_s = 60
    path = tmp_path / "audit.log"
    with open_audit(path, lambda: 0) as audit:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Audited(control, audit, LogDouble()).load, "slow-one")
            while not control.asked:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert [each["outcome"] for each in entries(path)] == ["asked", "failed"]
    assert entries(path)[1]["cause"].startswith("Cancelled")
