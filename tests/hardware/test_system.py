"""What probes ask of the running system: programs with a time limit, volumes, measurements, this machine."""

import os
import subprocess
import sys

import pytest

from supervm.hardware import system
from supervm.hardware.facts import ProbeContext
from supervm.hardware.probes import BUILTIN, deep, gpu
from supervm.hardware.probing import probe
from tests import needs


def test_a_program_that_does_not_end_is_stopped_and_named():
    with pytest.raises(system.CommandFailed, match=r"gave no answer within 0\.2 s"):
        system.command(
            [sys.executable, "-c", "input() if 0 else __import__('threading').Event().wait()"], 0.2
        )


def test_a_program_that_fails_or_is_missing_is_named():
    with pytest.raises(system.CommandFailed, match="ended with exit code 3"):
        system.command([sys.executable, "-c", "raise SystemExit(3)"], 20)
    with pytest.raises(system.CommandFailed, match="no-such-program is not installed"):
        system.command(["no-such-program"])


def test_a_programs_output_is_cut_at_its_bound():
    text = system.command([sys.executable, "-c", f"print('x' * {system.COMMAND_BYTES_MAX * 2})"], 20)
    assert len(text) == system.COMMAND_BYTES_MAX


def test_the_volume_of_a_folder_that_does_not_exist_yet_is_its_parents(tmp_path):
    volume = system.volume(tmp_path / "not" / "yet")
    assert volume.path == tmp_path
    assert volume.free_bytes == os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize


FAKE_LIBCUDA = """
#include <stddef.h>
#include <string.h>
int cuInit(unsigned flags) { return (int)flags; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
    strncpy(name, device ? "GeForce GTX 1660" : "H200", (size_t)size); return 0;
}
int cuDeviceTotalMem_v2(size_t *total, int device) { *total = (size_t)(device ? 6 : 140) << 30; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? (device ? 7 : 9) : (device ? 5 : 0); return 0;
}
"""


@needs.c_compiler
@needs.linux
def test_the_drivers_library_is_asked_where_its_program_is_missing(tmp_path, machine):
    (tmp_path / "cuda.c").write_text(FAKE_LIBCUDA)
    library = tmp_path / "libcuda.so.1"
    subprocess.run(
        [needs.COMPILER, "-shared", "-fPIC", str(tmp_path / "cuda.c"), "-o", str(library)], check=True
    )

    def command(arguments, timeout_s):
        if arguments[0] == "nvidia-smi":
            raise system.CommandFailed("nvidia-smi is not installed")
        return subprocess.run(
            arguments, env={"LD_LIBRARY_PATH": str(tmp_path)}, check=True, capture_output=True, text=True
        ).stdout

    found = gpu.read(machine("epyc-2-socket").context(command=command))["gpus"]
    assert found.source.endswith("libcuda.so.1")
    assert [
        (each.model, each.memory_bytes, each.compute_capability, each.tensor_cores) for each in found.value
    ] == [
        ("H200", 140 * 2**30, (9, 0), True),
        ("GeForce GTX 1660", 6 * 2**30, (7, 5), False),
    ]


async def test_a_deep_probe_measures_and_leaves_nothing_behind(tmp_path):
    report = await probe(deep.PROBES, ProbeContext(data_dir=tmp_path, deep=True))
    assert report.failures == {}
    assert report.facts.disk_fsync_us > 0
    assert all(report.extra[name] > 0 for name in deep.RATES)
    assert list(tmp_path.iterdir()) == []


async def test_without_deep_nothing_is_measured_or_written(tmp_path):
    report = await probe(deep.PROBES, ProbeContext(data_dir=tmp_path))
    assert report.extra == {}
    assert report.unknown["disk_fsync_us"] == "measured by probe --deep only"
    assert tmp_path.stat().st_mtime_ns == tmp_path.stat().st_ctime_ns


async def test_a_deep_probe_does_not_make_the_data_folder(tmp_path):
    report = await probe(deep.PROBES, ProbeContext(data_dir=tmp_path / "none", deep=True))
    assert "doesn't exist yet" in report.unknown["disk_fsync_us"]
    assert list(tmp_path.iterdir()) == []


async def test_this_machine_can_be_probed(tmp_path):
    report = await probe(BUILTIN, ProbeContext(data_dir=tmp_path))
    assert report.failures == {}
    assert 1 <= report.facts.cpu_cores_usable <= os.cpu_count()
    assert report.facts.memory_limit_bytes > 0
    assert report.facts.disk_capacity_bytes > 0
