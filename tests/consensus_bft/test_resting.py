"""Between two blocks ordering rests for a while, and no leader is given up for it (CONS-31, 37)."""

from pathlib import Path

from supervm.plugins.consensus.bft.driver.component import BftConfig
from supervm.plugins.consensus.bft.simplex import Settings
from supervm.types.transaction import Lane
from tests.consensus_bft.sim.plan import SECOND, Plan
from tests.consensus_bft.sim.world import World

from .network import network
from .test_effects_everywhere import certificate_of

REST_US = SECOND
UNDER_WAY = 2
TO = b"\x07" * 32


class Resting(World):
    """Something is always due, and a rest is ten times as long as a leader has."""

    settings = Settings(interval_min_us=REST_US, interval_max_us=1_000)


def resting(seconds: int) -> Resting:
    plan = Plan(
        seed=3,
        weights=(1,) * 4,
        skews_ms=(0,) * 4,
        delay_us=(1_000, 20_000),
        sync_us=(100, 2_000),
        execute_us=(100, 100),
        heal_us=seconds * SECOND,
    )
    world = Resting(plan)
    world.start()
    world.run(seconds * SECOND)
    return world


def test_blocks_follow_each_other_after_a_rest_and_no_view_is_lost_to_it() -> None:
    world = resting(60)
    ordering = world.nodes[0].ordering
    assert 2 * ordering.delay_us < REST_US // 2, "the rest is longer than leaders have"
    assert 50 <= world.height(0) <= 63
    assert ordering.view - world.height(0) <= UNDER_WAY, "each view made a block"


async def test_a_fast_batch_gets_a_block_after_a_pause_and_shares_the_next_one_else(tmp_path: Path) -> None:
    hour_ms = 3_600_000
    resting = BftConfig(block_interval_min_ms=0, block_interval_max_ms=hour_ms, fast_rest_ms=60_000)
    async with network(tmp_path, validators=1, config=resting) as net:
        chain = net.nodes[0].chain
        first, second = net.transfer(0, TO, 1), net.transfer(0, TO, 2)
        await chain.submit([first.data])
        before = await net.committed(0, first.digest)
        await chain.submit([second.data])
        await certificate_of(net, 0, second)
        ordered = net.transfer(1, TO, 3, lane=Lane.ORDERED)
        await chain.submit([ordered.data])
        height = await net.committed(0, ordered.digest)
        assert before < height == await net.committed(0, second.digest)
