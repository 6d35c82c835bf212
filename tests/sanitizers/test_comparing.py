"""A fault in C is found by comparing random blocks, made small, and written to be run again (EXEC-39)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sanitizers.__main__ import OPTIONS, runtime_path
from tests.sanitizers.building import ADDRESS, ROOT, CannotBuild, build_library, planted, sources


def test_a_fault_planted_in_the_engine_is_found_and_its_blocks_are_made_small(tmp_path: Path) -> None:
    """The price of one kind of signature."""
    pytest.importorskip(
        "supervm.hardware._fastpath", reason="the C library is not built", exc_type=ImportError
    )
    wrong = planted(
        sources()["svm_decode.c"], "? facts->gas.signature_secp256k1", "? 1 + facts->gas.signature_secp256k1"
    )
    try:
        library = build_library(ADDRESS, tmp_path, {"svm_decode.c": wrong})
        environment = {**os.environ, **OPTIONS, "LD_PRELOAD": runtime_path(ADDRESS.runtime)}
    except CannotBuild as error:
        pytest.skip(str(error))

    environment["PYTHONPATH"] = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tests.sanitizers.library", str(library), *arguments],
            env=environment, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False,
        )  # fmt: skip

    done = run("tests.differential.compare", "--blocks", "120", "--seed", "0")
    assert done.returncode == os.EX_DATAERR, done.stderr[-4_000:]
    first, small = done.stdout.split("from supervm.types.limits", 1)
    assert "seed " in first and "differ" in first
    assert small.count("Block(") == 1
    (tmp_path / "found_again.py").write_text(f"from supervm.types.limits{small}")
    again = run("found_again")
    assert "receipts differ" in again.stdout, again.stderr[-4_000:]
