"""Who is compared takes turns in one run, in an order turned every other time; rates and ratios of the turns.

Machines are shared and noisy, so only a ratio of medians over at least five pairs of turns is a claim about
speed. The least and the most of a pair say how much the machine wandered.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from time import get_clock_info, perf_counter, process_time
from typing import Any

import attrs

PAIRS_MIN = 5


@attrs.frozen
class Turn:
    """One turn of one contestant: what it did, wrong answers or failures among it, how long it took.

    `cpu_seconds` are of all its threads, and leave out what other processes took of the cores meanwhile.
    """

    done: int
    wrong: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """How much right it did a second."""
        return (self.done - self.wrong) / self.seconds

    @property
    def cpu_rate(self) -> float:
        """How much right it did a second of CPU time."""
        return (self.done - self.wrong) / self.cpu_seconds


@attrs.define
class Clock:
    """Measures the code inside `with`, by the wall clock and by the CPU time of all threads."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    _began: tuple[float, float] = (0.0, 0.0)

    def __enter__(self) -> "Clock":
        self._began = perf_counter(), process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall, cpu = perf_counter(), process_time()
        self.seconds += max(wall - self._began[0], get_clock_info("perf_counter").resolution)
        self.cpu_seconds += max(cpu - self._began[1], get_clock_info("process_time").resolution)


def turns(names: Sequence[str], pairs: int) -> Iterator[tuple[int, str]]:
    """Give (pair, whose turn it is): all in their order, then all in reverse, `pairs` times in total."""
    assert pairs >= PAIRS_MIN, f"a ratio stands on {PAIRS_MIN} pairs at least"
    for pair in range(pairs):
        for name in list(names)[:: -1 if pair % 2 else 1]:
            yield pair, name


def rates(taken: Sequence[Turn]) -> dict[str, Any]:
    """How much was done a second, and a second of CPU time."""
    return {
        "a_second": spread([turn.rate for turn in taken]),
        "a_cpu_second": spread([turn.cpu_rate for turn in taken]),
    }


def ratio(ours: Sequence[Turn], theirs: Sequence[Turn]) -> dict[str, Any]:
    """Ours over theirs: the ratio of medians, with least and most of a pair; and that of CPU time."""
    pairs = [quotient(one.rate, other.rate) for one, other in zip(ours, theirs, strict=True)]
    whole = quotient(median(turn.rate for turn in ours), median(turn.rate for turn in theirs))
    cpu = quotient(median(turn.cpu_rate for turn in ours), median(turn.cpu_rate for turn in theirs))
    return {
        "ratio": {"median": short(whole), "min": short(min(pairs)), "max": short(max(pairs))},
        "cpu_ratio": short(cpu),
    }


def compare(taken: Mapping[str, Sequence[Turn]], ours: str) -> dict[str, Any]:
    """The rates of `ours`, and under `peers` those of everybody else with the ratio of ours to theirs."""
    facts: dict[str, Any] = {**rates(taken[ours]), "peers": {}}
    for name, their_turns in taken.items():
        if name != ours:
            facts["peers"][name] = {**rates(their_turns), **ratio(taken[ours], their_turns)}
    return facts


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most, to a tenth."""
    return {
        "median": round(median(values), 1),
        "min": round(min(values), 1),
        "max": round(max(values), 1),
    }


def quotient(one: float, other: float) -> float:
    """one / other; 0 where there is nothing to divide by, since a claim can't stand on it."""
    return one / other if other > 0 else 0.0


def short(number: float) -> float:
    """Three digits that count."""
    return round(number, 2 - math.floor(math.log10(number))) if number > 0 else 0.0
