"""One run of an execution benchmark: turns over the same work, and a judge after every turn.

A contestant's turn gives one or more labelled `Turn`s: ours tells its time with and without the state root.
The first turn of everybody warms up and doesn't count; it is judged like the others.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from statistics import median
from typing import Any, Generic, Protocol, TypeVar

import attrs

from supervm.bench.errors import CantMeasure
from supervm.bench.growth import growth
from supervm.bench.pairs import PAIRS_MIN, Turn, rates, ratio, turns

W = TypeVar("W")
W_contra = TypeVar("W_contra", contravariant=True)
Progress = Callable[[str, int], AbstractContextManager[Any]]
WARM_UP = 1


@attrs.frozen
class Done:
    """A turn as it was judged. `wrong`: what the oracle found, None where it found nothing."""

    turns: Mapping[str, Turn]
    wrong: str | None = None
    facts: Mapping[str, Any] = attrs.Factory(dict)


class Contestant(Protocol[W_contra]):
    """Somebody who does the work of a turn. `version` is for the report."""

    @property
    def version(self) -> str: ...

    def take(self, work: W_contra) -> Done:
        """Do a turn's work and be judged. Blocks."""
        ...


@attrs.define
class Race(Generic[W]):
    """What came of a run: turns by label, facts of everybody's last turn, and what was wrong."""

    taken: dict[str, list[Turn]] = attrs.Factory(dict)
    facts: dict[str, Mapping[str, Any]] = attrs.Factory(dict)
    problems: list[str] = attrs.Factory(list)

    @property
    def oracle(self) -> str:
        return "; ".join(self.problems) or "ok"

    def ratio(self, ours: str, theirs: str) -> dict[str, Any]:
        """Of two labels."""
        return ratio(self.taken[ours], self.taken[theirs])

    def rates(self) -> dict[str, Any]:
        """By label."""
        return {label: rates(each) for label, each in self.taken.items()}


def run_race(
    next_work: Callable[[], W],
    contestants: Mapping[str, Contestant[W]],
    pairs: int = PAIRS_MIN,
    progress: Progress | None = None,
) -> "Race[W]":
    """Let all take `pairs` turns and one to warm up, in turned order. Stops at the first that is wrong."""
    race: Race[W] = Race()
    if progress is None:
        return _run(race, next_work, contestants, pairs, lambda _: None)
    with progress(", ".join(contestants), (pairs + WARM_UP) * len(contestants)) as bar:
        return _run(race, next_work, contestants, pairs, bar.update)


def _run(
    race: "Race[W]",
    next_work: Callable[[], W],
    contestants: Mapping[str, Contestant[W]],
    pairs: int,
    told: Callable[[int], object],
) -> "Race[W]":
    order: Sequence[tuple[int, str]] = [
        *((-1, name) for name in contestants),
        *turns(list(contestants), pairs),
    ]
    now, work = None, None
    for pair, name in order:
        if pair != now:
            now, work = pair, next_work()
        assert work is not None
        done = contestants[name].take(work)
        if done.wrong is not None:
            race.problems.append(f"{name}: {done.wrong}")
            return race
        race.facts[name] = done.facts
        for label, turn in done.turns.items():
            if pair >= 0:
                race.taken.setdefault(label, []).append(turn)
        told(1)
    return race


def measure_growth(
    of: str,
    unit: str,
    sizes: Sequence[int],
    entered: Callable[[int], tuple[Callable[[], W], Contestant[W]]],
    pairs: int,
) -> list[dict[str, Any]]:
    """Nanoseconds of a unit at each size, for every label; `execution` says how the last turn went there.

    `entered` gives what makes the work of a size, and who does it. Raises CantMeasure where it is wrong.
    """
    costs: dict[str, list[float]] = {}
    execution = []
    for size in sizes:
        next_work, contestant = entered(size)
        race = run_race(next_work, {of: contestant}, pairs)
        if race.problems:
            raise CantMeasure(f"with {size} {of}: {race.oracle}")
        execution.append({"size": size, **race.facts[of]})
        for label, taken in race.taken.items():
            costs.setdefault(label, []).append(1e9 / median([turn.rate for turn in taken]))
    return [
        {"who": who, **growth(of, sizes, each, f"ns a {unit}"), "execution": execution}
        for who, each in costs.items()
    ]
