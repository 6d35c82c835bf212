"""What is wrong with a configuration: every problem at once, each with its value, place and mend."""

import difflib
from collections.abc import Iterable, Sequence

import attrs


@attrs.frozen
class ConfigProblem:
    """One mistake. `place` is file:key, environment variable or flag; `mend` says what to write instead."""

    place: str
    problem: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}" + (f"; {self.mend}" if self.mend else "")


class ConfigErrors(Exception):
    """A configuration that can't be used. `problems` holds every mistake found, in reading order."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        assert problems, "an error without a problem"
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` for the closest of `known`, else the list of what there is."""
    names = sorted(str(name) for name in known)  # a StrEnum is no name to show
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known here: {', '.join(names)}" if names else "nothing can be set here"
