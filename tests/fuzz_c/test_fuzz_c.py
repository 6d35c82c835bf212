"""Whatever bytes come, C and Python say the same of them (EXEC-33, EXEC-39, TIER-70).

A short slice without libFuzzer: the corpus that it left, what the generators make, and changes of both.
`python -m tests.fuzz_c` looks for more.
"""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz_c.__main__ import judged
from tests.fuzz_c.targets import INPUT_BYTES_MAX, TARGETS, Target, pack_inputs
from tests.sanitizers.building import ADDRESS, CannotBuild, planted, sources

CHANGED = 500
SEED = 1


def built(target: Target, folder: Path, changed: dict[str, str]) -> Path:
    try:
        return target.build(ADDRESS, folder, "replay.c", changed)
    except CannotBuild as error:
        pytest.skip(str(error))


def inputs_of(target: Target) -> list[bytes]:
    corpus = [*target.corpus, *target.beginnings()]
    chance = random.Random(SEED)
    changed = [target.change(chance, chance.choice(corpus))[:INPUT_BYTES_MAX] for _ in range(CHANGED)]
    return [*corpus, *changed]


@pytest.mark.parametrize("name", TARGETS)
def test_c_and_python_see_the_same_in_all_that_was_found(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    program = built(target, tmp_path, {})
    assert len(target.corpus) >= 10, "the corpus is missing"
    assert judged(target, program, inputs_of(target)) == 0


# Each stands for a kind of fault: a bound, a rule, a byte that isn't looked at.
FAULTS = {
    "decode": (
        "svm_decode.c",
        "return at == end && outputs <= facts->outputs_max;",
        "return outputs <= facts->outputs_max;",
    ),
    "tree": ("svm_tree_changes.c", "of.twice != 0 ? SVM_TREE_TWICE", "of.twice > 1 ? SVM_TREE_TWICE"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_planted_in_c_shows(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = TARGETS[name]
    file, right, wrong = FAULTS[name]
    program = built(target, tmp_path, {file: planted(sources()[file], right, wrong)})
    assert judged(target, program, inputs_of(target)) > 0
    assert name in capsys.readouterr().out


def test_the_corpus_is_small() -> None:
    files = [path for path in (Path(__file__).parent / "corpus").rglob("*") if path.is_file()]
    assert len(files) < 200
    assert sum(path.stat().st_size for path in files) < 200_000


def test_without_clang_the_fuzzer_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz_c", "--seconds", "1", "tree"],
        env={**os.environ, "CLANG": "no-such-clang"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 77
    assert "no-such-clang is not on the path" in done.stderr


def test_inputs_are_told_apart(tmp_path: Path) -> None:
    target = TARGETS["tree"]
    program = built(target, tmp_path, {})
    (tmp_path / "inputs").write_bytes(pack_inputs([b"", b"\x00\x01\x05\xff\x00", b"\x00\xff\x00"]))
    said = subprocess.run(
        [str(program), str(tmp_path / "inputs")], capture_output=True, text=True, timeout=240, check=True
    ).stdout.split("\n")
    assert said[0] == "" and said[2] == "00" * 32 + " " and len(said) == 4
