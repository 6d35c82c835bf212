"""Running probes: limits, failures and strangers. Nothing that a probe does can stop or hang the node."""

import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from supervm.hardware.facts import FACT_NAMES, Known, Probe, ProbeContext, Unknown
from supervm.hardware.probes import BUILTIN
from supervm.hardware.probing import PROBES_MAX, probe
from supervm.hardware.survey import conclude
from supervm.hardware.tiers import TIERS, decide
from tests import needs

from .trees import unpack


@pytest.fixture
def context(tmp_path):
    return ProbeContext(data_dir=tmp_path)


def gives(name: str = "mine", **facts) -> Probe:
    return Probe(name, tuple(facts), lambda context: facts)


async def test_a_plugins_probe_adds_facts_beside_ours(context):
    report = await probe([gives(fan_rpm=Known(1200, "the fan"), fans=2)], context)
    assert report.extra == {"fan_rpm": 1200, "fans": 2}
    assert report.sources["fan_rpm"] == "the fan"
    assert report.failures == {}


async def test_a_plugins_probe_cannot_overwrite_a_fact_of_ours(context):
    ours = gives("ours", cpu_cores_usable=4)
    thief = gives("thief", cpu_cores_usable=512, honest=1)
    report = await probe([thief, ours], context, ours=[ours])
    assert report.facts.cpu_cores_usable == 4
    assert report.extra == {"honest": 1}
    assert "cpu_cores_usable is a fact of the node's own" in report.failures["thief"]


async def test_a_copy_of_our_probe_by_a_stranger_is_still_a_stranger(context):
    ours = gives("ours", cpu_cores_usable=4)
    copy = Probe("ours", ours.facts, ours.read)
    report = await probe([copy], context, ours=[ours])
    assert report.facts.cpu_cores_usable is None


async def test_a_hanging_probe_costs_its_limit_and_is_named(context, autojump_clock):
    release = threading.Event()
    hanging = Probe("stuck", ("cpu_cores_usable",), lambda context: release.wait(60) and {})
    before = trio.current_time()
    try:
        report = await probe([hanging], context, ours=[hanging])
    finally:
        release.set()
    assert trio.current_time() - before == pytest.approx(2)
    assert report.seconds["stuck"] == pytest.approx(2)
    assert report.failures == {"stuck": "no answer within 2 s (or 5 s for all); abandoned"}
    assert "no answer within 2 s" in report.unknown["cpu_cores_usable"]


async def test_one_hanging_probe_does_not_take_the_others_with_it(context, mock_clock):
    release = threading.Event()
    hanging = Probe("stuck", ("slow",), lambda context: release.wait(60) and {})
    reports = []

    async def run(*, task_status):
        task_status.started(trio.lowlevel.current_task())
        reports.append(await probe([hanging, gives(quick=1)], context))

    try:
        async with trio.open_nursery() as nursery:
            task = await nursery.start(run)
            # Its time is over once the other one has answered, however long that takes.
            while not reports and [len(each.child_tasks) for each in task.child_nurseries] != [1]:
                await trio.lowlevel.checkpoint()
            mock_clock.jump(2.1)
    finally:
        release.set()
    (report,) = reports
    assert report.extra == {"quick": 1}
    assert set(report.failures) == {"stuck"}
    assert "no answer within 2 s" in report.failures["stuck"]


async def test_probes_that_run_alone_share_what_is_left_of_five_seconds(context, autojump_clock):
    release = threading.Event()
    probes = [
        Probe(f"alone-{n}", (f"fact_{n}",), lambda context: release.wait(60) and {}, alone=True)
        for n in range(6)
    ]
    before = trio.current_time()
    try:
        report = await probe(probes, context)
    finally:
        release.set()
    assert trio.current_time() - before == pytest.approx(5)
    assert len(report.failures) == 6


@pytest.mark.parametrize(
    "error", [RuntimeError("no\nfan"), SystemExit(3), KeyboardInterrupt(), MemoryError()]
)
async def test_whatever_a_probe_raises_is_a_reason_and_no_more(context, error):
    def read(context):
        raise error

    report = await probe([Probe("bad", ("fan_rpm",), read), gives(fine=1)], context)
    assert report.extra == {"fine": 1}
    assert report.failures["bad"].startswith(type(error).__name__)
    assert "\n" not in report.failures["bad"]
    assert "fan_rpm" in report.unknown


@pytest.mark.parametrize(
    ("fact", "nonsense"),
    [
        ("memory_total_bytes", 0),
        ("memory_limit_bytes", -1),
        ("memory_total_bytes", 2**70),
        ("memory_total_bytes", "16 GB"),
        ("cpu_cores_usable", 0),
        ("cpu_cores_usable", True),
        ("cpu_cores_usable", 2.5),
        ("cpu_cores_total", 10**9),
        ("network_link_mbps", -1),
        ("disk_free_bytes", -1),
        ("disk_kind", "floppy"),
        ("cpu_model", "\x00\x07"),
        ("cpu_features", frozenset({"mmx"})),
        ("cpu_features", ["avx2"]),
        ("gpus", ("a gpu",)),
        ("battery", 57),
    ],
)
async def test_nonsense_is_unknown_with_the_value_in_the_reason(context, fact, nonsense):
    ours = gives("ours", **{fact: nonsense})
    report = await probe([ours], context, ours=[ours])
    assert getattr(report.facts, fact) is None
    assert report.unknown[fact].startswith(f"nonsense: {fact} is ")
    assert report.failures["ours"] == report.unknown[fact]


@pytest.mark.parametrize("answer", [None, 7, ["cpu"], "cpu"])
async def test_an_answer_that_is_no_mapping_is_a_failure(context, answer):
    report = await probe([Probe("bad", ("fan_rpm",), lambda context: answer)], context)
    assert "not a mapping" in report.failures["bad"]


@pytest.mark.parametrize("value", [float("nan"), b"bytes", object(), "x" * 5000])
async def test_an_extra_fact_must_be_a_small_json_value(context, value):
    report = await probe([gives(fact=value)], context)
    assert report.extra == {}
    assert report.unknown["fact"].startswith("nonsense: ")


async def test_a_fact_that_was_not_declared_is_dropped_and_named(context):
    liar = Probe("liar", ("declared",), lambda context: {"declared": 1, "sneaked": 2})
    report = await probe([liar], context)
    assert report.extra == {"declared": 1}
    assert report.failures["liar"] == "gave facts that it didn't declare: sneaked"


async def test_the_first_giver_of_a_fact_keeps_it(context):
    report = await probe([gives("first", fans=1), gives("second", fans=2)], context)
    assert report.extra == {"fans": 1}
    assert report.failures == {"second": "another probe gives fans already"}


async def test_a_second_probe_of_a_name_is_refused(context):
    report = await probe([gives("same", a=1), gives("same", b=2)], context)
    assert report.extra == {"a": 1}
    assert report.failures == {"same": "another probe has this name; the first one counts"}


async def test_probes_beyond_the_bound_are_refused_by_name(context):
    probes = [gives(f"probe-{n}", **{f"fact_{n}": n}) for n in range(PROBES_MAX + 1)]
    report = await probe(probes, context)
    assert len(report.extra) == PROBES_MAX
    assert report.failures == {f"probe-{PROBES_MAX}": f"there are more than {PROBES_MAX} probes"}


async def test_an_unknown_fact_and_an_absent_thing_are_told_apart(context):
    ours = gives("ours", battery=Known(None, "looked"), disk_kind=Unknown("could not look"))
    report = await probe([ours], context, ours=[ours])
    assert report.sources == {"battery": "looked"}
    assert report.unknown["disk_kind"] == "could not look"
    assert "battery" not in report.unknown


async def test_no_probe_at_all_leaves_every_fact_unknown_and_an_l4(context):
    report = await probe([], context)
    assert set(report.unknown) == set(FACT_NAMES)
    assert decide(report.facts).tier == "L4"


async def test_cancelling_abandons_the_probes(context):
    release = threading.Event()
    hanging = Probe("stuck", ("slow",), lambda context: release.wait(60) and {})
    try:
        with trio.fail_after(120), trio.move_on_after(0.05) as scope:
            await probe([hanging], context)
    finally:
        release.set()
    assert scope.cancelled_caught


def test_our_probes_give_each_fact_once():
    given = [fact for each in BUILTIN for fact in each.facts]
    assert len(given) == len(set(given))
    assert set(FACT_NAMES) <= set(given)


def test_the_plugin_declares_our_probes():
    from supervm.plugins import probes

    assert tuple(probes.supervm_hardware_probes()) == BUILTIN


GARBAGE = bytes(range(256)) * 8


def breakages():
    """Ways in which every file of a machine can be bad."""
    return {
        "empty": lambda path: path.write_bytes(b""),
        "garbage": lambda path: path.write_bytes(GARBAGE),
        "negative": lambda path: path.write_text("-1\n"),
        "zero": lambda path: path.write_text("0\n"),
        "absurd": lambda path: path.write_text("9" * 400 + "\n"),
        "endless line": lambda path: path.write_text("x" * 100_000),
        "missing": lambda path: path.unlink(),
        "unreadable": lambda path: path.chmod(0),
        "a folder": lambda path: (path.unlink(), path.mkdir()),
        "a link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
        "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
        "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        "nothing but colons": lambda path: path.write_text(":\n: :\n - \n::: -\n"),
        "other numbers": lambda path: path.write_text("٣\n"),
    }


@pytest.mark.parametrize("broken", breakages())
@pytest.mark.parametrize("name", ["workstation", "container-cgroup1", "container-cgroup2", "phone"])
async def test_a_machine_whose_every_file_is_broken_is_still_surveyed(machine, name, broken):
    tree = machine(name)
    tree.facts["commands"] = dict.fromkeys(tree.facts.get("commands", {}), GARBAGE.decode("latin-1"))
    for folder in ("proc", "sys", "root"):
        for path in sorted(tree.path(folder).rglob("*")):
            if not path.is_symlink() and stat.S_ISREG(path.stat().st_mode):
                breakages()[broken](path)
    # One that hangs doesn't answer within a minute either.
    with trio.fail_after(200):
        found = conclude(await probe(BUILTIN, tree.context()), is_validator=True)
    assert not [reason for reason in found.report.failures.values() if "no answer" in reason]
    assert found.decision.tier in TIERS
    assert found.facts.memory_limit_bytes is None or found.facts.memory_limit_bytes > 0
    assert found.facts.cpu_cores_usable >= 1


@needs.root
@pytest.mark.parametrize("name", ["workstation", "phone"])
async def test_folders_that_are_closed_to_us_are_unknown(name):
    with tempfile.TemporaryDirectory() as folder:
        tree = unpack(name, Path(folder) / "machine")
        for path in (Path(folder), tree.root, tree.path("data")):
            path.chmod(0o755)
        for closed in ("proc", "sys", "root"):
            tree.path(closed).chmod(0)
        os.seteuid(65534)
        try:
            found = conclude(await probe(BUILTIN, tree.context()), is_validator=True)
        finally:
            os.seteuid(0)
    assert found.report.failures == {}
    assert "Permission denied" in found.report.unknown["memory_limit_bytes"]
    assert found.decision.tier == "L4"


async def test_a_machine_without_proc_and_sys_is_an_l4_with_every_reason(tmp_path):
    empty = ProbeContext(
        data_dir=tmp_path / "data",
        proc=tmp_path / "proc",
        sys=tmp_path / "sys",
        root=tmp_path / "root",
        platform="linux",
        environ={},
        affinity=lambda: None,
        volume=lambda path: (_ for _ in ()).throw(OSError(5, "Input/output error")),
        native=lambda: None,
    )
    found = conclude(await probe(BUILTIN, empty), is_validator=True)
    assert found.decision.tier == "L4"
    assert found.report.failures == {}
    assert "Input/output error" in found.report.unknown["disk_capacity_bytes"]
    assert str(tmp_path / "proc/meminfo") in found.report.unknown["memory_limit_bytes"]


async def test_a_truncated_cpuinfo_does_not_lose_cores(machine):
    tree = machine("epyc-2-socket")
    path = tree.path("proc/cpuinfo")
    path.write_bytes(path.read_bytes()[:5000])
    found = await probe(BUILTIN, tree.context())
    assert found.facts.cpu_cores_total == 256


async def test_cores_are_counted_in_cpuinfo_where_the_kernel_lists_none(machine):
    tree = machine("raspberry-pi-5")
    tree.path("sys/devices/system/cpu/online").write_text("0-70000\n")
    found = await probe(BUILTIN, tree.context())
    assert found.facts.cpu_cores_total == 4
    assert found.sources["cpu_cores_total"].endswith("cpuinfo")


async def test_stacked_devices_in_a_circle_are_unknown_not_endless(machine):
    tree = machine("workstation")
    slaves = tree.path("sys/devices/virtual/block/dm-0/slaves")
    (slaves / "nvme0n1p3").unlink()
    (slaves / "dm-1").symlink_to("../../dm-1")
    found = await probe(BUILTIN, tree.context())
    assert found.facts.disk_kind is None
    assert "more than 8 devices stacked" in found.unknown["disk_kind"]


async def test_a_group_path_that_climbs_out_of_the_mount_reads_the_mount_only(machine):
    tree = machine("container-cgroup2")
    tree.path("proc/self/cgroup").write_text("0::/../../etc\n")
    found = await probe(BUILTIN, tree.context())
    assert found.facts.memory_limit_bytes == 1_073_741_824


@pytest.mark.parametrize("text", ["-1", "garbage", "0", "\x00", "9" * 300])
async def test_a_group_limit_that_is_nonsense_is_told_beside_the_memory(machine, text):
    tree = machine("container-cgroup2")
    tree.path("sys/fs/cgroup/memory.max").write_text(text)
    found = await probe(BUILTIN, tree.context())
    assert found.facts.memory_limit_bytes == found.facts.memory_total_bytes
    assert "group limits unknown: " in found.sources["memory_limit_bytes"]


async def test_a_group_that_is_not_mounted_is_told_beside_the_memory(machine):
    tree = machine("container-cgroup2")
    tree.path("proc/self/mountinfo").write_text("")
    found = await probe(BUILTIN, tree.context())
    assert "version 2 groups of memory are not mounted" in found.sources["memory_limit_bytes"]


async def test_unreadable_quotas_are_told_beside_the_core_count(machine):
    tree = machine("workstation")
    tree.path("proc/self/cgroup").unlink()
    found = await probe(BUILTIN, tree.context())
    assert found.facts.cpu_cores_usable == 32
    assert "quotas unknown" in found.sources["cpu_cores_usable"]


async def test_a_quota_below_one_core_still_leaves_one(machine):
    tree = machine("container-cgroup2")
    tree.path("sys/fs/cgroup/cpu.max").write_text("5000 100000\n")
    assert (await probe(BUILTIN, tree.context())).facts.cpu_cores_usable == 1
