"""Check the voting rules exhaustively: `python -m tests.model [--views 3]`. Needs spin and a C compiler.

The right rules must hold in every reachable state, and each planted mistake must break them. One line a run;
exits with 1 where one came out otherwise.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import attrs

MODEL = Path(__file__).with_name("simplex.pml")
MISTAKES = (
    "NULLIFY_AFTER_FINALIZE",
    "FINALIZE_AFTER_NULLIFY",
    "GAP_UNCHECKED",
    "PARENT_UNCHECKED",
    "VOTE_TWICE",
    "SMALL_QUORUM",
)
STATES = re.compile(r"(\d+) states, stored")
ERRORS = re.compile(r"errors: (\d+)")


@attrs.frozen
class Found:
    """What a run found: states seen, and whether the property broke in one."""

    states: int
    broken: bool
    whole: bool


class CheckerFailed(Exception):
    """The model checker is missing, or said something that we can't read."""


def check(views: int, mistake: str = "", *, memory_mib: int = 8_192) -> Found:
    """Visit every reachable state of the model with so many views. Raises `CheckerFailed`."""
    spin, compiler = shutil.which("spin"), shutil.which("cc")
    if spin is None or compiler is None:
        raise CheckerFailed("needs spin and cc: install Debian's packages spin and gcc, or their like")
    flags = [f"-DVIEWS={views}", *([f"-D{mistake}"] if mistake else [])]
    with tempfile.TemporaryDirectory() as folder:
        _run([spin, *flags, "-a", str(MODEL)], folder)
        options = ["-DSAFETY", "-DCOLLAPSE", f"-DMEMLIM={memory_mib}"]
        _run([compiler, "-O2", "-w", *options, "-o", "checker", "pan.c"], folder)
        # A blocked choice is no deadlock here (-E), nor is code that never runs in a planted variant (-n).
        said = _run(["./checker", "-m1000000", "-E", "-n"], folder)
    states, errors = STATES.search(said), ERRORS.search(said)
    if states is None or errors is None:
        raise CheckerFailed(f"unexpected output: {said[-2_000:]}")
    return Found(int(states[1]), errors[1] != "0", "out of memory" not in said and "too small" not in said)


def _run(command: list[str], folder: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckerFailed(f"{command[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the voting rules exhaustively.")
    parser.add_argument("--views", type=int, default=2, help="views of the right rules (2)")
    asked = parser.parse_args()
    right = check(asked.views)
    print(f"rules, {asked.views} views: {right.states} states, {_word(right)}", flush=True)
    wrong = right.broken or not right.whole
    for mistake in MISTAKES:
        found = check(3 if mistake == "GAP_UNCHECKED" else 2, mistake)
        print(
            f"{mistake}: {'found' if found.broken else 'NOT FOUND'} after {found.states} states", flush=True
        )
        wrong = wrong or not found.broken
    return int(wrong)


def _word(found: Found) -> str:
    if found.broken:
        return "BROKEN"
    return "no violation" if found.whole else "NOT ALL SEEN: more memory is needed"


if __name__ == "__main__":
    sys.exit(main())
