"""Code that loops without end, at one moment of the clock or within one step, ends its run and is named."""

import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest
import trio

from supervm.plugins.consensus.simulation import node, turns
from supervm.plugins.consensus.simulation.plan import draw_plan
from supervm.plugins.consensus.simulation.world import run_plan

STEPS = 50_000


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "STEPS_MAX", STEPS)


async def forever() -> None:
    while True:
        await trio.lowlevel.checkpoint()


async def shielded() -> None:
    with trio.CancelScope(shield=True):
        await forever()


async def stubborn() -> None:
    while True:
        try:
            await forever()
        except Exception:
            continue


async def sleepy() -> None:
    while True:
        await turns.sleep(1e-12)


@pytest.mark.parametrize("spinning", [forever, shielded, stubborn, sleepy])
def test_a_task_that_spins_ends_the_run_and_is_named(spinning: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as outer, trio.open_nursery() as inner:
            outer.start_soon(trio.sleep_forever)
            await turns.sleep(2.5)
            turns.WHO.set("validator 2")
            inner.start_soon(spinning)

    with pytest.raises(
        turns.Spin, match=rf"50000 steps .* at 2\.50\d+ s.*validator 2: .*{spinning.__name__}"
    ):
        turns.run(main, "a")


def test_two_that_wake_each_other_are_both_named() -> None:
    async def ping(receive: trio.MemoryReceiveChannel[int], send: trio.MemorySendChannel[int]) -> None:
        async for each in receive:
            await send.send(each)

    async def pong(receive: trio.MemoryReceiveChannel[int], send: trio.MemorySendChannel[int]) -> None:
        await ping(receive, send)

    async def main() -> None:
        there, here = trio.open_memory_channel[int](1), trio.open_memory_channel[int](1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ping, there[1], here[0])
            nursery.start_soon(pong, here[1], there[0])
            await there[0].send(1)

    with pytest.raises(turns.Spin, match=r"ping \(\d+\).*pong \(\d+\)|pong \(\d+\).*ping \(\d+\)"):
        turns.run(main, "a")


def test_work_that_goes_on_is_no_spin() -> None:
    async def main() -> int:
        for _ in range(3):
            for _ in range(STEPS // 2):
                await trio.lowlevel.checkpoint()
            await turns.sleep(0.01)
        return 7

    assert turns.run(main, "a") == 7


def test_a_planted_spin_in_real_code_is_found_the_same_way_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sleep between two tries that is none."""

    async def sleep(self: node.NodeClock, seconds: float) -> None:
        await turns.sleep(0.0)

    monkeypatch.setattr(node.NodeClock, "sleep", sleep)
    first = run_plan(draw_plan(1, "calm", 4))
    assert first.oracle == "spin"
    assert "validator" in first.problem
    assert run_plan(draw_plan(1, "calm", 4)) == first


HANGS = """
from supervm.cli.main import main
from supervm.plugins.consensus.simulation import search, turns

async def never_yields():
    while True:
        pass

search.RUN_S = 2.0
search.run_plan = lambda plan, out: turns.run(never_yields, "a")
main(["simulate", "--seeds", "3..4", "--profile", "storm"])
"""


def test_a_step_that_never_ends_ends_the_command_with_its_seed_and_stack() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 1
    assert "seed 3 of storm with 4 validators: no end within 2 s" in done.stderr
    assert "never_yields" in done.stderr
