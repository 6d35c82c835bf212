"""What a PromQL query says of families: their names, and the labels and functions it uses on each.

Not a parser of the language: it finds every selector, the functions that take a range of it, and every
label that is named, and it refuses what it doesn't know rather than passing over it.
"""

import re
from collections.abc import Iterator

import attrs

AGGREGATIONS = frozenset({"sum", "min", "max", "avg", "count", "topk", "bottomk", "quantile", "stddev"})
RISING = frozenset({"rate", "irate", "increase"})
RANGED = frozenset({"delta", "deriv", "changes", "resets", "avg_over_time", "max_over_time", "min_over_time"})
INSTANT = frozenset(
    {"abs", "ceil", "floor", "round", "clamp_min", "clamp_max", "histogram_quantile", "absent"}
)
GROUPING = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
WORDS = frozenset({"and", "or", "unless", "bool", "offset"})

_TOKEN = re.compile(
    r"""\s+
    | (?P<text>"[^"]*")
    | (?P<range>\[[^]]*\])
    | (?P<duration>\d+(?:ms|[smhdwy])\b)
    | (?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?)
    | (?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
    | (?P<sign>=~|!~|!=|==|<=|>=|[-+*/%^<>=(){},])""",
    re.VERBOSE,
)


@attrs.frozen
class Use:
    """One selector: the family's name as it stands there, its matchers, and the function over its range."""

    name: str
    matchers: dict[str, str]
    function: str


@attrs.frozen
class Query:
    """All selectors of a query, and the labels that it groups or matches by."""

    uses: tuple[Use, ...]
    labels: frozenset[str]


def tokens(query: str) -> list[tuple[str, str]]:
    """Kind and text of each token. Raises `ValueError` where there is none."""
    found, at = [], 0
    while at < len(query):
        match = _TOKEN.match(query, at)
        if match is None:
            raise ValueError(f"{query!r}: nothing PromQL has at {query[at : at + 12]!r}")
        if match.lastgroup is not None:
            found.append((match.lastgroup, match[0]))
        at = match.end()
    return found


def read_query(query: str) -> Query:
    """The selectors and labels of a query. Raises `ValueError` for what it doesn't know."""
    waiting = iter([*tokens(query), ("end", "")])
    uses: list[Use] = []
    labels: set[str] = set()
    calls: list[str] = []
    kind, text = next(waiting)
    while kind != "end":
        following = next(waiting)
        if kind == "sign":
            if text == "(":
                calls.append("")
            elif text == ")":
                if not calls:
                    raise ValueError(f"{query!r}: one ) too many")
                calls.pop()
        elif kind == "name" and text in GROUPING:
            labels.update(_names(waiting, following))
            following = next(waiting)
        elif kind == "name" and following == ("sign", "("):
            if text not in AGGREGATIONS | RISING | RANGED | INSTANT:
                raise ValueError(f"{query!r}: {text} is no function that these queries may use")
            calls.append(text)
            following = next(waiting)
        elif kind == "name" and text not in WORDS | AGGREGATIONS:
            matchers: dict[str, str] = {}
            if following == ("sign", "{"):
                matchers = _matchers(waiting)
                following = next(waiting)
            function = ""
            if following[0] == "range":
                function = calls[-1] if calls else ""
                if function not in RISING | RANGED:
                    raise ValueError(f"{query!r}: a range of {text} that no function takes")
                following = next(waiting)
            elif calls and calls[-1] in RISING | RANGED:
                raise ValueError(f"{query!r}: {calls[-1]} of {text} needs a range")
            uses.append(Use(text, matchers, function))
        kind, text = following
    if calls:
        raise ValueError(f"{query!r}: a ( stays open")
    return Query(tuple(uses), frozenset(labels))


def _names(waiting: Iterator[tuple[str, str]], opening: tuple[str, str]) -> list[str]:
    assert opening == ("sign", "("), opening
    found: list[str] = []
    for kind, text in waiting:
        if text == ")":
            return found
        if kind == "name":
            found.append(text)
    raise ValueError("a list of labels stays open")


def _matchers(waiting: Iterator[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    label = ""
    for kind, text in waiting:
        if text == "}":
            return found
        if kind == "name":
            label = text
        elif kind == "text":
            found[label] = text[1:-1]
    raise ValueError("a { stays open")
