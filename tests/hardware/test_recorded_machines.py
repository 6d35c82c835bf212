"""The probes and the decision on recorded machines of all four tiers."""

import pytest

from supervm.hardware.explain import one_line
from supervm.hardware.facts import FACT_NAMES, Battery, Gpu
from supervm.hardware.probes import BUILTIN
from supervm.hardware.probing import probe
from supervm.hardware.survey import conclude

from .trees import NAMES


async def survey(tree, **changes):
    return conclude(await probe(BUILTIN, tree.context(**changes)), is_validator=True)


@pytest.mark.parametrize("name", NAMES)
async def test_a_recorded_machine_gives_the_facts_and_the_tier_written_beside_it(machine, name):
    tree = machine(name)
    found = await survey(tree)
    assert found.report.failures == {}
    expected = dict(tree.expected)
    assert found.decision.tier == expected.pop("tier")
    for fact, value in expected.items():
        told = getattr(found.facts, fact)
        assert (sorted(told) if isinstance(told, frozenset) else told) == value, fact


@pytest.mark.parametrize("name", NAMES)
async def test_every_fact_has_a_source_or_a_reason_for_being_unknown(machine, name):
    report = (await survey(machine(name))).report
    for fact in FACT_NAMES:
        assert (fact in report.sources) != (fact in report.unknown), fact
        assert fact in report.sources or getattr(report.facts, fact) is None


async def test_the_four_tiers_are_all_recorded(machine):
    tiers = {machine(name).expected["tier"] for name in NAMES}
    assert tiers == {"L1", "L2", "L3", "L4"}


async def test_a_driver_tells_model_memory_and_tensor_cores_of_its_gpu(machine):
    found = await survey(machine("epyc-2-socket"))
    assert found.facts.gpus == (
        Gpu(
            vendor="nvidia",
            model="NVIDIA A100 80GB PCIe",
            memory_bytes=81920 * 2**20,
            compute_capability=(8, 0),
            tensor_cores=True,
        ),
    )


async def test_gpus_of_two_vendors_are_both_found_and_a_management_screen_is_not(machine):
    gpus = (await survey(machine("workstation"))).facts.gpus
    assert [(gpu.vendor, gpu.memory_bytes) for gpu in gpus] == [
        ("amd", 536870912),
        ("nvidia", 24564 * 2**20),
    ]


async def test_a_silent_driver_leaves_the_gpu_with_what_the_bus_tells(machine):
    tree = machine("epyc-2-socket")
    tree.facts["commands"].clear()
    found = await survey(tree)
    assert found.facts.gpus == (Gpu(vendor="nvidia", model="pci 10de:20b5"),)
    assert "nvidia-smi is not installed" in found.report.sources["gpus"]


async def test_a_mouse_battery_does_not_make_a_mobile_machine(machine):
    found = await survey(machine("workstation"))
    assert found.facts.battery is None
    assert found.report.sources["battery"].startswith("no battery in ")


async def test_a_laptop_is_capped_by_its_battery_and_says_so(machine):
    found = await survey(machine("laptop"))
    assert found.facts.battery == Battery(percent=93, charging=True)
    assert found.decision.matched.tier == "L2"
    assert one_line(found) == "tier L3: 20 cores, 67 GB, 640 GB disk (runs from a battery: at most L3)"


async def test_a_phone_that_leaves_wifi_for_its_modem_is_cellular(machine):
    tree = machine("phone")
    tree.path("sys/class/net/wlan0/operstate").write_text("down\n")
    tree.path("proc/net/route").write_text(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"
        "rmnet_data2\t00000000\t00000000\t0001\t0\t0\t400\t00000000\t0\t0\t0\n"
    )
    tree.facts["free_bytes"] = 200_000_000_000
    found = await survey(tree)
    assert found.facts.network_kind == "cellular"
    assert found.decision.matched.tier == "L3"
    assert found.decision.tier == "L4"
    assert "the network is cellular: at most L4" in [str(cap) for cap in found.decision.caps]


async def test_a_container_sees_its_own_limits_and_not_the_hosts(machine):
    found = await survey(machine("container-cgroup2"))
    assert one_line(found) == "tier L4: 2 cores, 1.1 GB, 1900 GB disk (L3 needs 4 cores)"


async def test_a_virtual_adapters_constant_speed_is_not_believed(machine):
    found = await survey(machine("container-cgroup2"))
    assert found.facts.network_link_mbps is None
    assert "no real adapter is up" in found.report.unknown["network_link_mbps"]


async def test_an_overlay_does_not_tell_its_disk(machine):
    found = await survey(machine("container-cgroup2"))
    assert found.facts.disk_kind is None
    assert "overlay, which doesn't tell the disk under it" in found.report.unknown["disk_kind"]


async def test_a_virtual_disk_that_says_it_rotates_is_unknown(machine):
    found = await survey(machine("virtual-machine"))
    assert found.facts.disk_kind is None
    assert "virtual disk" in found.report.unknown["disk_kind"]


async def test_a_volume_over_several_disks_is_as_slow_as_its_slowest(machine):
    tree = machine("epyc-2-socket")
    disk = tree.path("sys/devices/pci0000:40/0000:40:03.1/ata1/host0/block/sdb")
    (disk / "queue").mkdir(parents=True)
    (disk / "queue/rotational").write_text("1\n")
    tree.path("sys/devices/virtual/block/md0/slaves/sdb").symlink_to(disk)
    found = await survey(tree)
    assert found.facts.disk_kind == "hdd"
    assert any("rotates" in warning for warning in found.decision.warnings)


async def test_a_metered_network_makes_an_l4(machine):
    tree = machine("workstation")
    tree.facts["commands"]["nmcli"] = "yes (guessed)"
    found = await survey(tree)
    assert found.facts.network_metered is True
    assert found.decision.tier == "L4"


async def test_bytes_of_the_data_folder_count_as_capacity(machine):
    tree = machine("raspberry-pi-5")
    tree.facts["free_bytes"] = 94_900_000_000
    assert (await survey(tree)).decision.tier == "L4"
    (tree.path("data") / "store").write_bytes(b"x" * 200_000_000)
    found = await survey(tree)
    assert found.facts.disk_free_bytes == 94_900_000_000
    assert found.facts.disk_capacity_bytes >= 95_100_000_000
    assert found.decision.tier == "L3"


async def test_macos_is_asked_through_sysctl(machine):
    tree = machine("laptop")
    answers = {
        "hw.logicalcpu": "10\n",
        "machdep.cpu.brand_string": "Apple M1 Pro\n",
        "hw.memsize": "17179869184\n",
    }
    found = await survey(
        tree,
        platform="darwin",
        machine="arm64",
        command=lambda arguments, timeout_s=0: answers[arguments[-1]],
    )
    assert found.facts.cpu_cores_total == 10
    assert found.facts.cpu_model == "Apple M1 Pro"
    assert found.facts.cpu_arch == "arm64"
    assert found.facts.memory_limit_bytes == 17179869184
    assert found.decision.tier == "L3"
