"""Sizes and profiles: formulas at their edges, caches that fit, components in their order of fallback."""

import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervm.hardware.explain import explain, one_line, report_json
from supervm.hardware.facts import FACT_NAMES, HardwareFacts
from supervm.hardware.probing import ProbeReport
from supervm.hardware.profiles import ComponentUnavailable, choose, make_profile
from supervm.hardware.sizing import (
    CACHES,
    CACHES_SHARE_PERCENT,
    MIB,
    SizeTooLarge,
    check_asked,
    compute_sizes,
    cpu_workers,
    mvcc_shards,
)
from supervm.hardware.survey import conclude
from supervm.hardware.tiers import TIERS

GB = 10**9


def sized(memory, cores=4, tier="L3", **more):
    return compute_sizes(HardwareFacts(memory_limit_bytes=memory, cpu_cores_usable=cores), tier, **more)


def caches(sizes) -> int:
    return sum(sizes[key] * times for key, times in CACHES.items())


@pytest.mark.parametrize(
    ("cores", "workers"), [(1, 1), (2, 2), (3, 3), (4, 3), (7, 6), (8, 6), (32, 30), (256, 254)]
)
def test_workers_leave_cores_for_the_loop_and_for_io(cores, workers):
    assert cpu_workers(cores) == workers
    assert sized(8 * GB, cores)["workers.cpu"] == workers


@pytest.mark.parametrize(("cores", "shards"), [(1, 128), (16, 128), (17, 256), (63, 256), (64, 4096)])
def test_shards_step_at_their_core_counts(cores, shards):
    assert mvcc_shards(cores) == shards


@pytest.mark.parametrize(
    ("cores", "io", "jobs"), [(1, 2, 2), (4, 8, 8), (8, 16, 16), (64, 128, 16), (256, 256, 16)]
)
def test_threads_and_background_jobs_are_bounded(cores, io, jobs):
    sizes = sized(64 * GB, cores)
    assert (sizes["workers.io"], sizes["storage.background_jobs"]) == (io, jobs)


def test_python_under_the_global_lock_executes_with_one_worker_and_c_with_all():
    assert sized(8 * GB, 16)["execution.workers"] == 1
    assert sized(8 * GB, 16, is_native=True)["execution.workers"] == 14


@pytest.mark.parametrize(
    ("tier", "memory", "cache"),
    [
        ("L1", 512 * GB, 64 * GB),
        ("L2", 128 * GB, 16 * GB),
        ("L3", 16 * GB, 4 * GB),
        ("L4", 4 * GB, 100 * 10**6),
        ("L4", 512 * MIB, 16 * MIB),
    ],
)
def test_the_storage_cache_is_its_tiers_fraction_of_memory(tier, memory, cache):
    assert sized(memory, tier=tier)["storage.cache_bytes"] == cache


def test_a_tier_asked_for_on_a_small_machine_keeps_small_sizes():
    sizes = sized(8 * GB, tier="L1")
    assert sizes["storage.cache_bytes"] == GB
    assert caches(sizes) <= 4 * GB


@given(st.integers(64 * MIB, 2**50), st.sampled_from(TIERS), st.sampled_from([None, 0.1, 0.5]))
def test_all_caches_together_keep_to_their_share_of_memory(memory, tier, fraction):
    sizes = sized(memory, tier=tier, cache_fraction=fraction)
    assert caches(sizes) <= memory * CACHES_SHARE_PERCENT[tier] // 100
    assert all(size.value >= 1 for size in sizes.by_key.values())


def test_floors_that_do_not_fit_are_cut_and_say_so():
    sizes = sized(128 * MIB, tier="L4")
    assert sizes["storage.cache_bytes"] < 16 * MIB
    assert "cut so that all caches fit" in sizes.by_key["storage.cache_bytes"].formula


def test_unknown_memory_and_cores_give_every_floor():
    sizes = compute_sizes(HardwareFacts(), "L1")
    assert sizes["storage.cache_bytes"] == sizes["mempool.bytes_max"] == 16 * MIB
    assert sizes["workers.cpu"] == 1
    assert sizes["routing.table_max"] == 50


@pytest.mark.parametrize(
    ("mib", "records"), [(512, 50), (513, 100), (1024, 100), (2048, 200), (4096, 300), (4097, 500)]
)
def test_the_address_table_steps_with_memory(mib, records):
    assert sized(mib * MIB)["routing.table_max"] == records


@pytest.mark.parametrize("fraction", [0, -0.1, 0.51, 1])
def test_a_cache_fraction_outside_its_bounds_is_refused(fraction):
    with pytest.raises(ValueError, match=r"storage\.cache_fraction is .*at most 0\.5"):
        sized(GB, cache_fraction=fraction)


def test_a_size_above_memory_is_refused_with_both_numbers():
    facts = HardwareFacts(memory_limit_bytes=GB)
    check_asked({"storage.rocksdb.cache_bytes": GB}, facts)
    with pytest.raises(
        SizeTooLarge, match=r"storage\.rocksdb\.cache_bytes is 1000000001 bytes.* 1000000000 bytes"
    ):
        check_asked({"storage.rocksdb.cache_bytes": GB + 1}, facts)
    check_asked({"storage.rocksdb.cache_bytes": 2**50}, HardwareFacts())


@pytest.mark.parametrize(
    ("tier", "is_validator", "storage"),
    [
        ("L1", False, ("rocksdb", "sqlite")),
        ("L3", False, ("rocksdb", "sqlite")),
        ("L4", False, ("sqlite",)),
        ("L4", True, ("rocksdb", "sqlite")),
    ],
)
def test_storage_falls_back_in_the_documented_order(tier, is_validator, storage):
    profile = make_profile(tier, sized(8 * GB, tier=tier), is_validator=is_validator)
    assert profile.fallback["storage"] == storage
    assert profile.values["storage.use"] == storage[0]
    assert profile.origin == f"profile {tier}"


@pytest.mark.parametrize("tier", TIERS)
def test_a_profile_as_tables_has_each_value_and_each_value_a_reason(tier):
    profile = make_profile(tier, sized(8 * GB, tier=tier), is_validator=True)
    table = profile.table()
    for key, value in profile.values.items():
        found = table
        for word in key.split("."):
            found = found[word]
        assert found == value
        assert profile.reasons[key]


def test_every_key_of_a_profile_is_one_that_a_component_reads():
    from supervm.chain.component import LedgerOptions
    from supervm.plugins.storage.rocksdb import RocksdbConfig
    from supervm.plugins.storage.sqlite import SqliteConfig

    kinds = {
        "storage.rocksdb": RocksdbConfig,
        "storage.sqlite": SqliteConfig,
        "application.ledger": LedgerOptions,
    }
    profile = make_profile("L2", sized(8 * GB, tier="L2"), is_validator=True)
    for key in profile.values:
        section, _, option = key.rpartition(".")
        assert option == "use" or option in {field.name for field in attrs.fields(kinds[section])}, key


@pytest.mark.parametrize("memory", [64 * MIB, 512 * MIB, 8 * GB, 2**41])
@pytest.mark.parametrize("tier", TIERS)
def test_every_size_of_a_profile_is_one_that_its_component_accepts(memory, tier):
    from supervm.chain.component import LedgerOptions
    from supervm.plugins.storage.rocksdb import RocksdbConfig
    from supervm.plugins.storage.sqlite import SqliteConfig

    table = make_profile(tier, sized(memory, tier=tier), is_validator=True).table()
    RocksdbConfig(**table["storage"]["rocksdb"])
    SqliteConfig(**table["storage"]["sqlite"])
    LedgerOptions(**table["application"]["ledger"])


def test_the_first_component_without_an_obstacle_is_taken_and_the_others_named():
    choice = choose("storage", ("rocksdb", "sqlite"), {"rocksdb": "rocksdict is not installed"}.get)
    assert choice.name == "sqlite"
    assert choice.passed_over == (("rocksdb", "rocksdict is not installed"),)


def test_no_component_left_is_an_error_that_names_every_obstacle():
    with pytest.raises(
        ComponentUnavailable, match=r"rocksdb: gone; sqlite: gone; .*choose with storage\.use"
    ):
        choose("storage", ("rocksdb", "sqlite"), lambda name: "gone")


FACTS = HardwareFacts(
    cpu_cores_usable=16, memory_limit_bytes=67 * GB, disk_capacity_bytes=512 * GB, gpus=(), media=frozenset()
)


def report(facts=FACTS, **more):
    known = {name: "a test" for name in FACT_NAMES if getattr(facts, name) is not None}
    return ProbeReport(
        facts=facts,
        sources=known,
        unknown={name: "not looked for" for name in FACT_NAMES if name not in known},
        **more,
    )


@pytest.mark.parametrize(
    ("tier", "blocks", "roots"),
    [("L1", 0, 0), ("L2", 10_000, 1_000), ("L3", 1_000, 1_000), ("L4", 1_000, 1_000)],
)
def test_l1_prunes_nothing_and_the_others_keep_what_their_tier_keeps(tier: str, blocks: int, roots: int):
    keeps = {"prune_keep_blocks": blocks, "prune_keep_roots": roots}
    profile = conclude(report(), tier=tier, is_validator=False).profile
    for name, count in keeps.items():
        assert profile.values[f"application.ledger.{name}"] == count
        assert ("last" in profile.reasons[f"application.ledger.{name}"]) is (count > 0)


@pytest.mark.parametrize(("tier", "blocks"), [("L1", 1_000), ("L2", 1_000), ("L3", 0), ("L4", 0)])
def test_l1_and_l2_take_snapshots_by_height_and_the_others_none(tier: str, blocks: int):
    values = conclude(report(), tier=tier, is_validator=False).profile.values
    assert values["application.ledger.snapshot_blocks"] == blocks
    assert (values["application.ledger.snapshot_s"] > 0) is (blocks > 0)


def test_one_line_tells_tier_facts_and_what_the_next_tier_needs():
    found = conclude(report(), is_validator=True)
    assert one_line(found) == "tier L2: 16 cores, 67 GB, 512 GB disk (L1 needs 32 cores)"


def test_one_line_tells_an_override():
    found = conclude(report(), tier="edge", is_validator=True)
    assert one_line(found) == "tier L3: 16 cores, 67 GB, 512 GB disk (asked for; by hardware L2)"


def test_one_line_of_unknown_facts_says_unknown():
    found = conclude(report(HardwareFacts()), is_validator=True)
    assert one_line(found) == "tier L4: unknown cores, unknown, unknown disk (L3 needs 4 cores)"


def test_the_whole_explanation_names_every_fact_choice_and_fast_path():
    found = conclude(report(failures={"fan": "no answer"}), tier="l1", is_validator=True)
    text = "\n".join(explain(found))
    for name in (*FACT_NAMES, *found.profile.values, *found.sizes.by_key, "scan_transactions"):
        assert name in text
    assert "not L1: L1 needs 32 cores, has 16" in text
    assert "warning: tier L1 was asked for, though L1 needs 64" not in text
    assert "warning: tier L1 was asked for, though L1 needs 128 GB memory, has 67 GB" in text
    assert "fan: no answer" in text


def test_the_json_report_is_complete_and_stable():
    found = report_json(conclude(report(extra={"fans": 2}), is_validator=True))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert sorted(found) == [
        "capability",
        "extra",
        "facts",
        "fast_paths",
        "format",
        "probes",
        "profile",
        "sizes",
        "summary",
        "tier",
    ]
    assert list(found["facts"]) == list(FACT_NAMES)
    assert found["facts"]["cpu_cores_usable"] == {"value": 16, "source": "a test", "unknown": None}
    assert found["facts"]["battery"] == {"value": None, "source": None, "unknown": "not looked for"}
    assert found["tier"]["failed"][0]["text"] == "L1 needs 32 cores, has 16"
    assert found["capability"] == {
        "cpu_cores": 16,
        "memory_gb": 67,
        "disk_gb": 512,
        "network_mbps": None,
        "gpu_count": 0,
        "gpu_memory_gb": None,
        "arch": None,
    }
