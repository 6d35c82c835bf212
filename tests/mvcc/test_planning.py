"""Hot keys, density, groups: how a batch is cut into lanes (EXEC-57, 58, 60, 61)."""

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervm.mvcc.dependencies import Access
from supervm.mvcc.hot_keys import HotKeyTracker, Tier
from supervm.mvcc.planning import Plan, PlanRules, density, partition_of, plan_batch


def writes(*keys: bytes) -> Access:
    return Access(keys, keys)


def every_place(plan: Plan) -> list[int]:
    lanes = [plan.extreme, plan.direct, *plan.medium, *plan.batch_hot, *plan.partitions, *plan.groups]
    return sorted(at for lane in lanes for at in lane)


def test_counts_fade_and_what_is_rare_is_forgotten() -> None:
    tracker = HotKeyTracker(medium=4, high=8, decay_period=2, decay_factor=0.5)
    tracker.next_batch()
    tracker.record([[b"a"]] * 8 + [[b"b"]] * 4 + [[b"c"]])
    assert [tracker.tier(key) for key in (b"a", b"b", b"c", b"x")] == [
        Tier.EXTREME,
        Tier.MEDIUM,
        Tier.COLD,
        Tier.COLD,
    ]
    tracker.next_batch()
    assert [tracker.count(key) for key in (b"a", b"b", b"c")] == [4, 2, 0] and len(tracker) == 2
    tracker.next_batch()
    assert tracker.count(b"a") == 4, "it fades every second batch"
    assert tracker.hottest(1) == [(b"a", 4)]


def test_no_more_keys_are_remembered_than_the_bound_and_the_most_frequent_stay() -> None:
    tracker = HotKeyTracker(entries_max=100)
    tracker.record([[b"hot"]] * 50)
    for at in range(20):
        tracker.record([[b"%d/%d" % (at, key)] for key in range(50)])
        assert len(tracker) <= 100
    assert tracker.count(b"hot") == 50


def test_a_key_that_many_touch_and_one_writes_has_a_lane_of_its_own() -> None:
    batch: list[Access | None] = [writes(b"hot") for _ in range(5)]
    batch += [Access([b"read"]) for _ in range(9)]
    batch += [writes(b"c%d" % at) for at in range(3)]
    plan = plan_batch(batch, PlanRules(hot_key_threshold=5))
    assert plan.batch_hot == ((0, 1, 2, 3, 4),)
    assert plan.groups == (tuple(range(5, 17)),), "what is only read is not hot"


def test_tiers_come_from_the_tracker_and_extreme_keys_share_one_lane() -> None:
    tracker = HotKeyTracker(medium=20, high=50)
    tracker.record([[b"x1"]] * 50 + [[b"x2"]] * 60 + [[b"m1"]] * 20 + [[b"m2"]] * 30)
    batch = [
        writes(b"x1"),
        writes(b"m1"),
        writes(b"x2", b"m2"),
        writes(b"m2"),
        writes(b"m2", b"m1"),
        writes(b"c"),
    ]
    plan = plan_batch(batch, PlanRules(), tracker)
    assert plan.extreme == (0, 2)
    assert sorted(plan.medium) == [(1, 4), (3,)], "of two hot keys the lowest one's lane"
    assert plan.groups == ((5,),)


def test_without_isolation_no_key_is_hot() -> None:
    batch = [writes(b"hot") for _ in range(10)]
    plan = plan_batch(batch, PlanRules(hot_key_isolation=False))
    assert plan.direct == tuple(range(10)) and plan.density == 1.0


def test_what_lies_in_one_shard_goes_to_its_lane() -> None:
    keys = [b"k%d" % at for at in range(40)]
    by_shard: dict[int, list[bytes]] = {}
    for key in keys:
        by_shard.setdefault(partition_of(key, 8), []).append(key)
    one, other, *_ = by_shard.values()
    batch = [writes(one[0], one[1]), writes(other[0]), writes(one[2], other[1]), writes(one[0])]
    plan = plan_batch(batch, PlanRules(owner_sharding=True, num_shards=8))
    assert set(plan.partitions) == {(0, 3), (1,)} and plan.groups == ((2,),)
    assert plan_batch(batch, PlanRules(owner_sharding=False)).partitions == ()


def test_a_shard_is_the_first_eight_bytes_of_the_key_s_hash() -> None:
    """So that it is the same in every process and on every machine (EXEC-70)."""
    # BLAKE3 of nothing begins with af1349b9f5f9a1a6, as its paper says.
    assert partition_of(b"", 1_000) == int.from_bytes(bytes.fromhex("af1349b9f5f9a1a6"), "little") % 1_000


def test_what_declares_nothing_runs_as_it_comes() -> None:
    plan = plan_batch([None, writes(b"a"), None], PlanRules())
    assert plan.direct == (0, 2) and plan.groups == ((1,),)


def test_a_dense_batch_isn_t_grouped_and_the_threshold_decides() -> None:
    # 40 transactions, 8 of them in pairs: 4 of 780 pairs conflict, which is half a percent.
    sparse: list[Access | None] = [writes(b"p%d" % (at // 2)) for at in range(8)]
    sparse += [writes(b"k%d" % at) for at in range(32)]
    plan = plan_batch(sparse, PlanRules(density_fallback_threshold=0.05))
    assert plan.density == pytest.approx(4 / 780) and len(plan.groups) == 2 and plan.direct == ()
    dense = [writes(b"p%d" % (at % 10)) for at in range(40)]
    plan = plan_batch(dense, PlanRules(density_fallback_threshold=0.05))
    assert plan.density == pytest.approx(10 * 6 / 780) and plan.groups == () and len(plan.direct) == 40
    assert plan_batch(sparse, PlanRules(key_index_grouping=False)).direct == tuple(range(40))


def test_density_counts_writers_with_writers_and_with_readers() -> None:
    assert density([]) == density([writes(b"a")]) == 0
    assert density([writes(b"a"), Access([b"a"]), Access([b"a"])]) == pytest.approx(2 / 3)
    assert density([Access([b"a"])] * 9) == 0
    assert density([writes(b"a", b"b"), writes(b"a", b"b")]) == 1.0


@given(st.integers(0, 10_000), st.integers(0, 40), st.integers(2, 12))
def test_a_plan_is_a_partition_of_the_batch_and_groups_hold_no_conflict(
    seed: int, size: int, keys: int
) -> None:
    chance = random.Random(seed)
    names = [b"%02d" % at for at in range(keys)]
    tracker = HotKeyTracker(medium=3, high=6)
    tracker.record([[chance.choice(names)] for _ in range(20)])

    def access() -> Access | None:
        if chance.random() < 0.1:
            return None
        ranges = ((chance.choice(names), chance.choice([None, *names])),) if chance.random() < 0.1 else ()
        return Access(
            chance.sample(names, min(keys, chance.randint(0, 2))),
            chance.sample(names, min(keys, chance.randint(0, 2))),
            ranges,
        )

    batch = [access() for _ in range(size)]
    rules = PlanRules(
        hot_key_isolation=chance.random() < 0.7,
        owner_sharding=chance.random() < 0.3,
        num_shards=4,
        hot_key_threshold=4,
        density_fallback_threshold=0.10,
    )
    plan = plan_batch(batch, rules, chance.choice([tracker, None]))
    assert every_place(plan) == list(range(size))
    lanes = (plan.extreme, *plan.medium, *plan.batch_hot, *plan.partitions, plan.direct)
    assert all(list(lane) == sorted(lane) for lane in lanes), "a lane keeps the order of the batch"
    for group in plan.groups:
        for one, other in combinations(group, 2):
            first, second = batch[one], batch[other]
            assert first is not None and second is not None and not first.conflicts_with(second)


@pytest.mark.parametrize(
    "wrong",
    [{"hot_key_threshold": 1}, {"num_shards": 65}, {"density_fallback_threshold": 0.2}],
)
def test_rules_out_of_their_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        PlanRules(**wrong)  # type: ignore[arg-type]
