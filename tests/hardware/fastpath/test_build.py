"""How the C code is built: without warnings or undefined behaviour, and not at all where it can't be."""

import importlib.util
import os
import random
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from supervm.hardware import fastpath
from supervm.hardware.fastpath import ScanLimits, twin
from tests import needs

from .transactions import packed, transaction

ROOT = Path(__file__).parents[3]
SOURCES = [ROOT / "hardware/fastpath/svm_scan.c", ROOT / "hardware/fastpath/svm_cpu.c"]
WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wpedantic", "-Werror"]

needs_compiler = needs.c_compiler


def compile(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [needs.COMPILER, *map(str, arguments)], capture_output=True, text=True, timeout=240, check=False
    )


@needs_compiler
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_the_c_code_compiles_without_a_warning(source, tmp_path):
    done = compile(*WARNINGS, "-O2", "-c", source, "-o", tmp_path / "out.o")
    assert done.returncode == 0, done.stderr


def inputs(seed: int) -> list[bytes]:
    """Batches and their mutations, by a seed; at most 40 transactions each."""
    chance = random.Random(seed)
    found = [b"", b"\x01", packed([]), packed([transaction()] * 40)]
    ids = [bytes([n]) * 32 for n in range(1, 6)]
    for _ in range(3000):
        whole = packed(
            [
                transaction(
                    relays=chance.randrange(4),
                    lane=chance.randrange(5),
                    inputs=tuple(
                        (id, 1, chance.randrange(7)) for id in sorted(chance.sample(ids, chance.randrange(5)))
                    ),
                    payload=chance.randbytes(chance.randrange(40)),
                )
                for _ in range(chance.randrange(3))
            ]
        )
        data = bytearray(whole)
        for _ in range(chance.randrange(4)):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 2, 127, 128, 255, chance.randrange(256)))
        found.append(bytes(data[: chance.choice((len(data), chance.randrange(len(data) + 1)))]))
    return found


def expected(data: bytes) -> str:
    scan = twin.scan_transactions(data, ScanLimits())
    total = 0
    for record in scan.records():
        total = (total * 31 + record.error) % 2**32
        total = (total * 31 + record.body_end) % 2**32
    return f"{int(scan.error)} {scan.count} {total}"


@needs_compiler
def test_sanitizers_find_nothing_on_mutated_input_and_the_answers_are_the_twins(tmp_path):
    flags = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    program = tmp_path / "driver"
    built = compile(
        *WARNINGS,
        *flags,
        f"-I{SOURCES[0].parent}",
        Path(__file__).parent / "driver.c",
        *SOURCES,
        "-o",
        program,
    )
    if built.returncode and ("fsanitize" in built.stderr or "libasan" in built.stderr):
        pytest.skip(f"the compiler has no sanitizers: {built.stderr.splitlines()[-1]}")
    assert built.returncode == 0, built.stderr
    # Beyond RECORDS_MAX of the driver the C code stops and the twin does not.
    cases = [data for data in inputs(seed=1) if twin.scan_transactions(data, ScanLimits()).count <= 64]
    (tmp_path / "inputs").write_bytes(b"".join(struct.pack("<I", len(data)) + data for data in cases))
    done = subprocess.run(
        [str(program), str(tmp_path / "inputs")], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [expected(data) for data in cases]


def wheel(tmp_path: Path, **environment: str) -> list[str]:
    """Build a wheel from a copy of the sources and give the compiled libraries in it."""
    source = tmp_path / "source"
    for name in ("core", "plugins", "hardware", "storage"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "_fastpath.c")
        )
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    (source / "README.md").touch()
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)],
        cwd=source,
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        timeout=240,
    )
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as names:
        return [name for name in names.namelist() if name.startswith("supervm/hardware/_fastpath.")]


needs_setuptools = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("setuptools", "cffi", "pip")),
    reason="building a wheel needs pip, setuptools and cffi here",
)


@pytest.mark.slow
@needs_setuptools
def test_a_wheel_builds_without_a_compiler_and_holds_no_library(tmp_path):
    assert wheel(tmp_path, CC="/bin/false") == []


@pytest.mark.slow
@needs_setuptools
@needs_compiler
def test_a_wheel_built_with_a_compiler_holds_the_library(tmp_path):
    assert len(wheel(tmp_path, SUPERVM_BUILD_NATIVE="on")) == 1


def in_new_python(code: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        text=True,
        timeout=240,
    ).stdout.strip()


def test_switching_native_off_runs_the_twin_and_says_so():
    code = (
        "from supervm.hardware import fastpath as f;"
        "r = f.report()['scan_transactions']; print(r.path, r.reason, f.cpu_features(), sep='|')"
    )
    assert in_new_python(code, SUPERVM_NATIVE="OFF") == "python|SUPERVM_NATIVE is off|None"


def test_a_missing_library_runs_the_twin_and_names_the_cause():
    code = (
        "import sys; sys.modules['supervm.hardware._fastpath'] = None;"
        "from supervm.hardware import fastpath as f;"
        "r = f.report()['scan_transactions']; print(r.path, r.reason, sep='|')"
    )
    path, reason = in_new_python(code, SUPERVM_NATIVE="on").split("|")
    assert path == "python"
    assert reason.startswith("the C library is not installed (")


@needs.c_library
def test_the_library_sees_no_feature_that_the_kernel_does_not():
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        pytest.skip("no /proc/cpuinfo to compare with")
    flags = set(cpuinfo.read_text().split())
    x86 = {"sse4_2", "avx2", "avx512f", "sha_ni", "aes", "bmi2"}
    assert fastpath.cpu_features() & x86 <= flags
