"""Ordering doesn't run away from execution: what waits to be executed is bounded (CONS-44)."""

from pathlib import Path

import pytest
import trio

from supervm.plugins.consensus.bft.driver.following import Follower
from supervm.plugins.consensus.bft.driver.validator import UNEXECUTED_MAX, Validator
from supervm.plugins.consensus.bft.events import Final
from supervm.plugins.consensus.bft.simplex import Settings
from supervm.types.block import Block
from tests.consensus_bft.chains import true_chain
from tests.consensus_bft.sim.plan import SECOND, Plan
from tests.consensus_bft.sim.world import Node, World

from .lives import Lives
from .network import network

MOST = Settings().unexecuted_max
UNDER_WAY = 4
"""Blocks that were voted for before the last final one was seen to be too much."""


class Hasty(World):
    """Empty blocks follow each other at once; some validators execute slowly."""

    settings = Settings(interval_min_us=0, interval_max_us=1_000)
    slow: tuple[int, ...] = ()
    slow_us = 0
    furthest = 0
    _executes_slowly = False

    def between(self, bounds: tuple[int, int]) -> int:
        slowly = bounds is self.plan.execute_us and self._executes_slowly
        return self.slow_us if slowly else super().between(bounds)

    def _execute(self, node: Node) -> None:
        self.furthest = max(self.furthest, len(node.to_execute))
        self._executes_slowly = node.number in self.slow
        super()._execute(node)


def hasty(slow: tuple[int, ...], slow_us: int, seconds: int) -> Hasty:
    plan = Plan(
        seed=1,
        weights=(1,) * 4,
        skews_ms=(0,) * 4,
        delay_us=(100, 400),
        sync_us=(100, 200),
        execute_us=(100, 100),
        heal_us=seconds * SECOND,
    )
    world = Hasty(plan)
    world.slow, world.slow_us = slow, slow_us
    world.start()
    world.run(seconds * SECOND)
    return world


def test_where_execution_is_slow_everywhere_ordering_keeps_its_pace_and_no_view_is_lost() -> None:
    world = hasty((0, 1, 2, 3), 40_000, 6)
    executed = min(len(node.chain) for node in world.nodes)
    assert executed >= 6 * SECOND // world.slow_us - 2, "execution never waits"
    assert MOST < world.furthest <= MOST + UNDER_WAY
    # Every view but the ones under way made a final block.
    assert world.nodes[0].ordering.view - world.height(0) <= UNDER_WAY


def test_one_that_executes_slowly_stops_nobody() -> None:
    world = hasty((3,), 200_000, 4)
    executed = len(world.nodes[3].chain)
    assert executed >= 4 * SECOND // world.slow_us - 2
    assert world.height(0) > executed + MOST + UNDER_WAY


def test_one_that_is_a_quorum_alone_makes_final_after_a_crash_what_was_final_before() -> None:
    plan = Plan(
        seed=1, weights=(5,), skews_ms=(0,), sync_us=(100, 200), execute_us=(40_000, 40_000), heal_us=SECOND
    )
    world = Hasty(plan)
    world.start()
    world.run(SECOND)
    before = world.height(0)
    assert before > len(world.nodes[0].chain) + 2
    world._crash(world.nodes[0])
    # Nothing but what it said before, and no empty block to help.
    world.settings = Settings(interval_max_us=3_600 * SECOND)
    world._restart(world.nodes[0])
    world.run(3 * SECOND)
    assert world.height(0) >= before - 1


async def test_a_validator_with_too_much_to_execute_leaves_ordering_and_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = Lives(monkeypatch)
    truth = true_chain(0)
    async with network(tmp_path, begin=False) as net:
        # Alone among four it orders nothing: what is final comes from this test.
        node = await net.start(3)
        life = node.engine.life
        assert isinstance(life, Validator)
        stuck = trio.Event()

        async def held_up(block: Block) -> Block:
            stuck.set()
            return await trio.sleep_forever()  # type: ignore[return-value]

        monkeypatch.setattr(life._executor, "_with_batches", held_up)
        for _ in range(UNEXECUTED_MAX):
            life._final(Final(truth.block(1), 1, None))
        await stuck.wait()
        assert not life._behind.is_set()
        life._final(Final(truth.block(1), 1, None))
        await lives.wait_for(node.engine, Follower)
