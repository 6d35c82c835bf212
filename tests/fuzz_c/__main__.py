"""Fuzzes the C code by its branches: libFuzzer changes inputs and keeps those that reach something new.

    python -m tests.fuzz_c [--seconds N] [TARGET...]
    python -m tests.fuzz_c --replay FILE TARGET
    python -m tests.fuzz_c --keep [TARGET...]

Each target gets N seconds (FUZZ_C_SECONDS, or 60). What reached something new is then judged by the Python
twins. An input that fails is left in build/fuzz_c, and --replay runs it again; once mended it belongs into
tests/fuzz_c/corpus. --keep takes into the corpus the smallest inputs that reach all that was reached.

Exit status 77: there is no clang with libFuzzer here.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from tests.fuzz_c.targets import HERE, INPUT_BYTES_MAX, TARGETS, Target, pack_inputs
from tests.sanitizers.building import ADDRESS, FUZZED, ROOT, BuildFailed, CannotBuild

SKIPPED = 77
FOUND = ROOT / "build/fuzz_c"
INPUT_SECONDS_MAX = 20
MEMORY_MB_MAX = 3_000
JUDGED_MAX = 4_000
KEPT_MAX = 24
KEPT_BYTES_MAX = 2_500
AFTER = 90
"""Seconds that a run may take beyond its own bound, to start and to end."""


def write_inputs(folder: Path, inputs: Sequence[bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for each in inputs:
        (folder / sha256(each).hexdigest()[:16]).write_bytes(each)


def run_fuzzer(program: Path, found: Path, seconds: int) -> int:
    """Fuzz, adding to the inputs in `found`; libFuzzer's own exit status."""
    failed = FOUND / program.stem
    failed.mkdir(parents=True, exist_ok=True)
    command = [
        str(program), str(found), f"-max_total_time={seconds}", f"-max_len={INPUT_BYTES_MAX}",
        f"-timeout={INPUT_SECONDS_MAX}", f"-rss_limit_mb={MEMORY_MB_MAX}", f"-artifact_prefix={failed}/",
        "-verbosity=1", "-print_final_stats=1", "-reload=0",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + AFTER, check=False)
    if done.returncode != 0:
        print(done.stderr[-8_000:], flush=True)
    else:
        lines = done.stderr.splitlines()
        reached = [line for line in lines if " cov: " in line][-1:]
        told = [line for line in lines if line.startswith("stat::")]
        print("\n".join([*reached, *told]), flush=True)
    return done.returncode


def judged(target: Target, replay: Path, inputs: Sequence[bytes]) -> int:
    """How many inputs C and Python see differently; each is told."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "inputs")
        file.write_bytes(pack_inputs(inputs))
        done = subprocess.run(
            [str(replay), str(file)], capture_output=True, text=True, timeout=600, check=False
        )
    lines = done.stdout.splitlines()
    wrong = 0
    for data, line in zip(inputs, lines, strict=False):
        said = target.judge(data)
        if said is not None and said != line:
            wrong += 1
            print(f"{target.name}: {data.hex()}\n  C      {line}\n  Python {said}")
    if done.returncode != 0 or len(lines) != len(inputs):
        at = inputs[len(lines)].hex() if len(lines) < len(inputs) else "the end"
        print(f"{target.name}: ended with {done.returncode} at {at}\n{done.stderr[-8_000:]}")
        wrong += 1
    return wrong


def fuzz(target: Target, seconds: int, folder: Path, keep: bool) -> bool:
    """Whether nothing was found. Raises `CannotBuild`."""
    program = target.build(FUZZED, folder / "covered", "covered.c")
    replay = target.build(ADDRESS, folder / "replay", "replay.c")
    found = folder / "found"
    write_inputs(found, [*target.beginnings(), *target.corpus])
    print(f"{target.name}: {seconds} s from {len(list(found.iterdir()))} inputs", flush=True)
    if run_fuzzer(program, found, seconds) != 0:
        print(
            f"{target.name}: failed; python -m tests.fuzz_c --replay {FOUND}/{target.name}/... {target.name}"
        )
        return False
    inputs = sorted((path.read_bytes() for path in found.iterdir()), key=len)[:JUDGED_MAX]
    wrong = judged(target, replay, inputs)
    print(f"{target.name}: Python sees {len(inputs) - wrong} of {len(inputs)} inputs alike", flush=True)
    if keep:
        take_smallest(target, program, found, folder / "smallest")
    return wrong == 0


def take_smallest(target: Target, program: Path, found: Path, smallest: Path) -> None:
    """Few inputs that together reach what all do, into the corpus."""
    smallest.mkdir()
    subprocess.run(
        [str(program), "-merge=1", str(smallest), str(found)], check=True, capture_output=True, timeout=600
    )
    kept = sorted((path.read_bytes() for path in smallest.iterdir()), key=len)
    kept = [each for each in kept if len(each) <= KEPT_BYTES_MAX]
    # From the short to the long, all along: the shortest alone would be the ones that are refused at once.
    write_inputs(HERE / "corpus" / target.name, kept[:: max(1, -(-len(kept) // KEPT_MAX))])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=int(os.environ.get("FUZZ_C_SECONDS", "60")))
    parser.add_argument("--replay", type=Path, help="run one input again")
    parser.add_argument("--keep", action="store_true", help="add to the corpus")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    asked = parser.parse_args()
    unknown = [name for name in asked.targets if name not in TARGETS]
    if unknown:
        parser.error(f"no target {unknown[0]}; there are {', '.join(TARGETS)}")
    chosen = [TARGETS[name] for name in asked.targets or TARGETS]
    folder = Path(tempfile.mkdtemp())
    try:
        if asked.replay is not None:
            data = asked.replay.read_bytes()
            programs = [(each, each.build(ADDRESS, folder / each.name, "replay.c")) for each in chosen]
            return int(sum([judged(target, program, [data]) for target, program in programs]) > 0)
        results = [fuzz(each, asked.seconds, folder / each.name, asked.keep) for each in chosen]
    except CannotBuild as error:
        print(f"skipped: {error}", file=sys.stderr)
        return SKIPPED
    except BuildFailed as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder)
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())
