"""Facts -> tier: every vector of the specification, caps, override, and the words."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervm.hardware.facts import Battery, HardwareFacts
from supervm.hardware.tiers import ROWS, TIERS, UnknownTier, decide, parse_tier, unmet

GB = 10**9


def facts(cores=None, memory_gb=None, disk_gb=None, **more) -> HardwareFacts:
    return HardwareFacts(
        cpu_cores_usable=cores,
        memory_limit_bytes=None if memory_gb is None else round(memory_gb * GB),
        disk_capacity_bytes=None if disk_gb is None else round(disk_gb * GB),
        **more,
    )


@pytest.mark.parametrize(
    ("cores", "memory_gb", "disk_gb", "more", "tier"),
    [
        (32, 128, 2000, {}, "L1"),
        (32, 134.9, 1967, {}, "L1"),
        (32, 128, 1800, {}, "L2"),
        (64, 120, 10000, {}, "L2"),
        (192, 2000, 499, {}, "L2"),
        (192, 2000, 400, {}, "L3"),
        (31, 128, 2000, {}, "L2"),
        (15, 256, 4000, {}, "L3"),
        (4, 8, 100, {}, "L3"),
        (8, 7.61, 256, {}, "L3"),
        (3, 64, 1000, {}, "L4"),
        (64, 512, 10000, {"battery": Battery(percent=80, charging=True)}, "L3"),
        (16, 64, 1000, {"network_kind": "cellular"}, "L4"),
        (None, 64, 1000, {}, "L4"),
    ],
)
def test_every_vector_of_the_specification_holds(cores, memory_gb, disk_gb, more, tier):
    assert decide(facts(cores, memory_gb, disk_gb, **more)).tier == tier


@pytest.mark.parametrize("row", ROWS[:3], ids=lambda row: row.tier)
@pytest.mark.parametrize("fact", ["cpu_cores_usable", "memory_limit_bytes", "disk_capacity_bytes"])
def test_a_row_holds_exactly_at_its_minimum_and_fails_one_below(row, fact):
    least = HardwareFacts(
        cpu_cores_usable=row.cores,
        memory_limit_bytes=row.memory_gb * GB * 95 // 100,
        disk_capacity_bytes=row.disk_gb * GB * 95 // 100,
    )
    assert decide(least).tier == row.tier
    below = attrs.evolve(least, **{fact: getattr(least, fact) - 1})
    assert decide(below).tier > row.tier
    unknown = attrs.evolve(least, **{fact: None})
    assert decide(unknown).tier == "L4"


@pytest.mark.parametrize(
    ("more", "tier", "reason"),
    [
        ({"network_kind": "cellular"}, "L4", "the network is cellular: at most L4"),
        ({"network_metered": True}, "L4", "the network is metered: at most L4"),
        ({"network_link_mbps": 99}, "L4", "the link is 99 Mbit/s: at most L4"),
        ({"address_bits": 32}, "L4", "the address space is 32 bits: at most L4"),
        ({"battery": Battery()}, "L3", "runs from a battery: at most L3"),
    ],
)
def test_each_cap_holds_and_is_told(more, tier, reason):
    decision = decide(facts(64, 512, 10000, **more))
    assert decision.tier == tier
    assert decision.matched.tier == "L1"
    assert [str(cap) for cap in decision.caps] == [reason]


def test_a_link_of_100_mbit_is_no_cap_but_a_warning_above_l3():
    decision = decide(facts(64, 512, 10000, network_link_mbps=100))
    assert decision.tier == "L1"
    assert decision.warnings == ("the link is 100 Mbit/s; L1 should have 10000",)
    assert decide(facts(4, 8, 100, network_link_mbps=100)).warnings == ()


def test_a_rotating_disk_and_a_slow_sync_only_warn():
    decision = decide(facts(32, 128, 2000, disk_kind="hdd", disk_fsync_us=20_001))
    assert decision.tier == "L1"
    assert len(decision.warnings) == 2
    assert decide(facts(32, 128, 2000, disk_fsync_us=20_000)).warnings == ()


def test_the_failing_value_is_told_for_every_better_row():
    decision = decide(facts(16, 67, 512))
    assert [str(each) for each in decision.failed] == ["L1 needs 32 cores, has 16"]
    decision = decide(facts(16, None, 512))
    assert [str(each) for each in decision.failed] == [
        "L1 needs 32 cores, has 16",
        "L2 needs 64 GB memory, has unknown",
        "L3 needs 8 GB memory, has unknown",
    ]
    assert decide(facts(32, 128, 2000)).next_better is None


@pytest.mark.parametrize(
    ("name", "tier"),
    [
        ("auto", "auto"),
        ("L1", "L1"),
        ("l1", "L1"),
        ("supernode", "L1"),
        ("Miner", "L2"),
        ("l2", "L2"),
        ("EDGE", "L3"),
        ("l3", "L3"),
        ("mobile", "L4"),
        (" l4 ", "L4"),
    ],
)
def test_every_name_of_a_tier_is_accepted_in_any_case(name, tier):
    assert parse_tier(name) == tier


@pytest.mark.parametrize("name", ["", "L5", "l0", "server", "1", "autos"])
def test_any_other_name_is_refused_with_the_names_there_are(name):
    with pytest.raises(UnknownTier) as error:
        decide(facts(), override=name)
    assert str(error.value) == (
        f"unknown tier '{name}'; use auto, l1 (supernode), l2 (miner), l3 (edge) or l4 (mobile)"
    )


def test_an_override_upwards_is_obeyed_with_each_unmet_minimum():
    decision = decide(facts(8, 16, 256, battery=Battery()), override="supernode")
    assert (decision.tier, decision.by_hardware) == ("L1", "L3")
    assert decision.warnings == (
        "tier L1 was asked for, though L1 needs 32 cores, has 8",
        "tier L1 was asked for, though L1 needs 128 GB memory, has 16 GB",
        "tier L1 was asked for, though L1 needs 2000 GB disk, has 256 GB",
        "tier L1 was asked for, though runs from a battery: at most L3",
    )


def test_an_override_downwards_is_obeyed_without_a_word():
    decision = decide(facts(64, 512, 10000), override="l4")
    assert (decision.tier, decision.by_hardware, decision.warnings) == ("L4", "L1", ())


sizes = st.one_of(st.none(), st.integers(1, 10**14))
any_facts = st.builds(
    HardwareFacts,
    cpu_cores_usable=st.one_of(st.none(), st.integers(1, 512)),
    memory_limit_bytes=sizes,
    disk_capacity_bytes=sizes,
    network_link_mbps=st.one_of(st.none(), st.integers(1, 10**6)),
    network_kind=st.sampled_from([None, "ethernet", "wifi", "cellular"]),
    network_metered=st.sampled_from([None, True, False]),
    battery=st.sampled_from([None, Battery(percent=50)]),
    address_bits=st.sampled_from([None, 32, 64]),
)


@given(any_facts)
def test_any_facts_give_exactly_one_tier_that_they_meet(found):
    decision = decide(found)
    assert decision.tier in TIERS
    assert decision.tier >= decision.matched.tier
    assert unmet(decision.matched, found) == []
    assert [each.tier for each in decision.failed] == [t for t in TIERS if t < decision.matched.tier]
    assert (decision.tier == decision.matched.tier) == (decision.caps == ())


@given(any_facts)
def test_more_of_anything_never_lowers_the_tier(found):
    more = attrs.evolve(
        found,
        cpu_cores_usable=(found.cpu_cores_usable or 0) + 1,
        memory_limit_bytes=(found.memory_limit_bytes or 0) + GB,
        disk_capacity_bytes=(found.disk_capacity_bytes or 0) + GB,
    )
    assert decide(more).tier <= decide(found).tier


@given(any_facts, st.sampled_from(TIERS))
def test_an_override_is_always_obeyed(found, tier):
    assert decide(found, tier.lower()).tier == tier
