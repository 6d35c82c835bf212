"""How long `devnet up` serves."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from supervm.cli import devnet


def network(folder: Path) -> tuple[Any, list[Any]]:
    """What was made, and a process of it that goes on."""
    member = SimpleNamespace(name="node-0", api="127.0.0.1:1", peer="127.0.0.1:2", node_id=bytes(32))
    process = SimpleNamespace(poll=lambda: None, pid=1, returncode=None)
    made = SimpleNamespace(folder=folder, chain_id=bytes(32), key=folder / "key", members=(member,))
    return made, [SimpleNamespace(member=member, process=process)]


@pytest.mark.parametrize("ready", [True, False])
async def test_it_serves_until_told_once_all_are_ready_and_waits_for_that_no_longer_than_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, ready: bool
) -> None:
    async def answer(check: object, api: str) -> bool:
        await trio.lowlevel.checkpoint()
        return ready

    monkeypatch.setattr(trio.to_thread, "run_sync", answer)
    made, running = network(tmp_path)
    stop = trio.Event()
    served: list[str] = []
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            served.append(await devnet._serve(made, running, stop, None, True))

        nursery.start_soon(serve)
        await trio.sleep(2 * devnet.READY_S_MAX)
        if ready:
            assert served == []
        else:
            assert served == [f"not all nodes were ready within 120 s; see {tmp_path}"]
        stop.set()
    assert served[0] == "" or not ready
