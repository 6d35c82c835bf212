"""Which lines and branches of the C sources a module's run reaches.

    python -m tests.sanitizers.coverage [--file NAME...] MODULE [ARGUMENT...]

Runs the module with a counted build of the library, then prints of each file what part was reached and the
lines and branches that were not.
"""

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

from tests.sanitizers.building import COUNTED, CannotBuild, build_library

ENGINE = tuple(
    f"svm_{name}"
    for name in (
        "decode.c",
        "state.c",
        "execute.c",
        "execute_body.h",
        "stm.c",
        "stm.h",
        "parallel.c",
        "receipt.c",
        "engine.c",
        "scan.c",
        "pool.c",
    )
)


@attrs.define
class Counts:
    """How often each line of a file ran, and each way out of it was taken. A line that is compiled more than
    once, a template's, counts where it ran least: each use of the template must be reached."""

    lines: dict[tuple[str, int], int] = attrs.Factory(dict)
    branches: dict[tuple[str, int, int], int] = attrs.Factory(dict)


def count(module: Sequence[str]) -> dict[str, Counts]:
    """Run a module and count, by file name."""
    if shutil.which("gcov") is None:
        raise CannotBuild("gcov is not on the path")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = build_library(COUNTED, folder)
        command = [sys.executable, "-m", "tests.sanitizers.library", str(library), *module]
        subprocess.run(command, check=True)
        notes = sorted(folder.glob("svm_*.gcda"))
        subprocess.run(
            ["gcov", "--json-format", "--branch-probabilities", *map(str, notes)],
            cwd=folder,
            check=True,
            capture_output=True,
        )
        reports = [json.loads(gzip.decompress(each.read_bytes())) for each in folder.glob("*.gcov.json.gz")]
    return merged(file for report in reports for file in report["files"])


def merged(files: Iterable[dict[str, object]]) -> dict[str, Counts]:
    found: dict[str, Counts] = defaultdict(Counts)
    for file in files:
        counts = found[Path(str(file["file"])).name]
        for line in file["lines"]:  # type: ignore[attr-defined]
            place = (line.get("function_name", ""), line["line_number"])
            counts.lines[place] = counts.lines.get(place, 0) + line["count"]
            for number, branch in enumerate(line["branches"]):
                way = (*place, number)
                counts.branches[way] = counts.branches.get(way, 0) + branch["count"]
    return dict(found)


def report(counts: dict[str, Counts], files: Sequence[str], source: Path) -> Iterable[str]:
    """What was reached of each file, and what was not."""
    for name in files:
        of = counts.get(name)
        if of is None:
            yield f"{name}: not run at all"
            continue
        text = (source / name).read_text("utf-8").splitlines()
        missed = sorted(place for place, times in of.lines.items() if times == 0)
        unused = sorted(
            way for way, times in of.branches.items() if times == 0 and of.lines[way[0], way[1]] > 0
        )
        lines = f"{len(of.lines) - len(missed)} of {len(of.lines)} lines"
        branches = f"{len(of.branches) - sum(t == 0 for t in of.branches.values())} of {len(of.branches)}"
        yield f"{name}: {lines}, {branches} branches"
        for function, number in missed:
            yield f"  never    {name}:{number} {function}: {text[number - 1].strip()}"
        for function, number, way in unused:
            yield f"  one way  {name}:{number} {function} ({way}): {text[number - 1].strip()}"


def main() -> int:
    from tests.sanitizers.building import SOURCES

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", action="append", help="only this file; the engine's unless given")
    parser.add_argument("module", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    try:
        counts = count(asked.module)
    except CannotBuild as error:
        print(f"skipped: {error}", file=sys.stderr)
        return 77
    print("\n".join(report(counts, asked.file or ENGINE, SOURCES)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
