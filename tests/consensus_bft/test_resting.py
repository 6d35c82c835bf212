"""Between two blocks ordering rests for a while, and no leader is given up for it (CONS-31, 37)."""

from supervm.plugins.consensus.bft.simplex import Settings
from tests.consensus_bft.sim.plan import SECOND, Plan
from tests.consensus_bft.sim.world import World

REST_US = SECOND
UNDER_WAY = 2


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
