"""Faults by the hundred, and what came of them: `python -m tests.faults.figures [--faults N] [--seed S]`.

N faults of each kind, spread over all work, beneath the ledger's rows, beneath one class of a tiered store
while rows move between them, and beneath the files that are written here; a tenth of N beneath each engine,
whose every fault is two processes. `--only` rows, classes, files or engines.
Prints a line a kind and ends with 1 where anything was lost, told wrong, or ended in anything but an error of
the storage contract or the process. The same seed has the same faults.

Columns. noticed: an error or the process's end told of the fault; one that nobody noticed did no harm, as in
a row that was removed before anyone read it. reopened: the ledger opened again. lacking: a search didn't find
an index entry of a pruned block, or blocks went with the damaged end of an engine's log: nothing that is left
tells. wrong: must be 0.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import attrs
import trio

from tests.faults import backends, classes, files, folders, store, work

ROWS_ON: dict[Literal["rows", "classes"], work.Disks] = {
    "rows": store.faulty_disk,
    "classes": classes.tiered_disk,
}


@attrs.define
class Figures:
    """One kind of fault over all its work."""

    layer: str
    kind: str
    injected: int = 0
    stopped: int = 0  # the work ended with an error, or the process
    told: int = 0  # the work or what followed noticed
    reopened: int = 0  # opened again, with all that was acknowledged
    lacking: int = 0
    unnamed: int = 0
    errors: Counter[str] = attrs.Factory(Counter)
    wrong: list[str] = attrs.Factory(list)

    def take(self, outcome: Any) -> None:
        if not outcome.injected:
            return
        self.injected += 1
        self.stopped += bool(outcome.stopped)
        self.told += bool(outcome.noticed or outcome.stopped)
        self.reopened += outcome.recovered
        self.lacking += bool(getattr(outcome, "unfound", 0) or getattr(outcome, "earlier", 0))
        self.unnamed += not outcome.named
        self.errors.update(set(outcome.noticed) - {"power lost"})
        at = f"{outcome.work}, at {outcome.at}, {outcome.injected}"
        self.wrong += [f"{self.kind}: {at}: {each}" for each in outcome.wrong]


async def of_rows(
    kind: store.Fault, faults: int, seed: int, path: Path, layer: Literal["rows", "classes"] = "rows"
) -> Figures:
    """Faults beneath the ledger, in turns over its work: of its store, or of one class of a tiered one."""
    made, disks = Figures(layer, kind), ROWS_ON[layer]
    calls: dict[str, int] = {}
    for number, name in _turns(list(work.WORKS), store.Fault, kind, faults):
        if name not in calls:
            calls[name] = await work.count_operations(name, kind, path / f"{name}-count", disks)
        at = random.Random(f"{seed}/{kind}/{number}").randint(1, calls[name])
        made.take(await work.inject(name, kind, at, path / str(number), f"{seed}/{number}", disks))
    return made


async def of_files(kind: files.FileFault, faults: int, seed: int, path: Path) -> Figures:
    """Faults beneath the files that are written in Python, in turns over what writes them."""
    made = Figures("files", kind)
    calls: dict[str, int] = {}
    for number, name in _turns(list(folders.WORKS), files.FileFault, kind, faults):
        if name not in calls:
            at_rest = kind in files.AT_REST
            calls[name] = 1 if at_rest else await folders.count_calls(name, kind, path / f"{name}-count")
        at = random.Random(f"{seed}/{kind}/{number}").randint(1, calls[name])
        made.take(await folders.inject(name, kind, at, path / str(number), f"{seed}/{number}"))
    return made


def of_engine(backend: str, kind: backends.DiskFault, faults: int, seed: int, path: Path) -> Figures:
    """Faults beneath an engine: its calls, or its files at rest. None where it makes no such calls."""
    made = Figures(backend, kind.replace("-", " "))
    path.mkdir(parents=True)
    if kind in backends.AT_REST:
        good = backends.make_good(backend, path)
        for number in range(faults):
            made.take(backends.damage_files(backend, kind, number, good, path / str(number), seed))
        return made
    library = backends.compiled(path)
    calls = 0 if library is None else backends.count_calls(backend, kind, library, path / "count")
    for number in range(faults if calls else 0):
        assert library is not None
        at = random.Random(f"{seed}/{backend}/{kind}/{number}").randint(1, calls)
        made.take(backends.fail_call(backend, kind, at, library, path / str(number)))
    return made


def _turns(names: list[str], kinds: type[StrEnum], kind: StrEnum, faults: int) -> Iterator[tuple[int, str]]:
    """Numbers and names in turns. Each kind begins at another, so that few faults of each are of all work."""
    first = faults * list(kinds).index(kind)
    return ((number, names[(first + number) % len(names)]) for number in range(faults))


HEAD = (
    f"{'beneath':8}{'kind':26}{'injected':>9}{'noticed':>9}{'reopened':>10}{'lacking':>8}{'wrong':>7}  errors"
)


def line(made: Figures) -> str:
    errors = ", ".join(f"{name} {count}" for name, count in made.errors.most_common())
    return (
        f"{made.layer:8}{made.kind:26}{made.injected:9}{made.told:9}{made.reopened:10}{made.lacking:8}"
        f"{len(made.wrong):7}  {errors}"
    )


async def run(faults: int, seed: int, only: str, path: Path) -> list[Figures]:
    """All kinds; prints each as it is done."""
    found: list[Figures] = []

    def tell(made: Figures) -> None:
        found.append(made)
        print(line(made), flush=True)

    print(f"seed {seed}, {faults} faults of each kind\n\n{HEAD}", flush=True)
    for layer in ROWS_ON:
        if only in ("", layer):
            for kind in store.Fault:
                tell(await of_rows(kind, faults, seed, path / f"{layer}-{kind.name}", layer))
    if only in ("", "files"):
        for file_kind in files.FileFault:
            tell(await of_files(file_kind, faults, seed, path / f"files-{file_kind.name}"))
    if only in ("", "engines"):
        for name in backends.BACKENDS:
            for disk_kind in backends.DiskFault:
                of_each = max(1, faults // 10)
                tell(of_engine(name, disk_kind, of_each, seed, path / f"{name}-{disk_kind.name}"))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=100, help="of each kind (100)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("rows", "classes", "files", "engines"), default="")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults-") as path:
        found = trio.run(run, asked.faults, asked.seed, asked.only, Path(path))
    wrong = [each for made in found for each in made.wrong]
    print(f"\n{sum(made.injected for made in found)} faults, {len(wrong)} wrong answers")
    for each in wrong:
        print(each[:1_000])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
