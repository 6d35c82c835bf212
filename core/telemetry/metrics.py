"""The node's metrics: one registry, counters, gauges and summaries, and their text form.

    committed = ctx.metrics.counter("mvcc_txn_committed_total", "Transactions committed")
    committed.inc()
    refused = ctx.metrics.counter("supervm_mempool_refused_total", "Refused, by reason", ("reason",))
    refused.inc(reason="nonce_too_low")

Recording takes no lock and does no I/O: each thread adds to a cell of its own, and a scrape sums them
(OBS-4). A hot path keeps the series: `committed = family.series(reason="full")`, then `committed.inc()`.
Labels are bounded: 64 values a label, 256 series a family; more go to the value `other` (OBS-2).
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import get_ident
from time import monotonic
from typing import Generic, TypeVar

import attrs

from supervm.telemetry.quantiles import WindowHistogram, quantiles

LABEL_VALUES_MAX = 64
SERIES_MAX = 256
FAMILIES_MAX = 1024
WINDOW_S = 60.0
QUANTILES = (0.5, 0.9, 0.99, 0.999)
OTHER = "other"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_FAMILY_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

Labels = Sequence[str] | Mapping[str, Sequence[str]]


class MetricError(ValueError):
    """A family was declared or used wrongly: a fault in our own code or in a plugin's."""


class Counter:
    """A number that only rises."""

    __slots__ = ("_cells",)

    def __init__(self) -> None:
        self._cells: dict[int, float] = {}

    def inc(self, n: float = 1) -> None:
        if n < 0:
            raise MetricError(f"a counter only rises: inc({n})")
        thread = get_ident()
        self._cells[thread] = self._cells.get(thread, 0) + n

    @property
    def value(self) -> float:
        return sum(self._cells.copy().values())


class Gauge:
    """A number that goes both ways. The last writer wins; `inc` and `dec` belong to one thread."""

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value: float | Callable[[], float] = 0.0

    def set(self, value: float) -> None:
        self._value = value

    def call(self, read: Callable[[], float]) -> None:
        """Ask `read` at every scrape instead. It must be quick and do no I/O that can wait."""
        self._value = read

    def inc(self, n: float = 1) -> None:
        self.set(self.value + n)

    def dec(self, n: float = 1) -> None:
        self.set(self.value - n)

    @property
    def value(self) -> float:
        return self._value() if callable(self._value) else self._value


class Summary:
    """Quantiles of the last 60 s, within 2 %, and the sum and count since the start."""

    __slots__ = ("_cells", "_now", "_window_s")

    def __init__(self, now: Callable[[], float], window_s: float) -> None:
        self._now = now
        self._window_s = window_s
        self._cells: dict[int, WindowHistogram] = {}

    def observe(self, value: float) -> None:
        thread = get_ident()
        cell = self._cells.get(thread)
        if cell is None:
            cell = self._cells[thread] = WindowHistogram(self._window_s)
        cell.observe(value, self._now())

    def quantiles(self, asked: Sequence[float] = QUANTILES) -> list[float]:
        now = self._now()
        return quantiles([cell.buckets(now) for cell in self._cells.copy().values()], asked)

    @property
    def count(self) -> int:
        return sum(cell.count for cell in self._cells.copy().values())

    @property
    def total(self) -> float:
        return sum(cell.total for cell in self._cells.copy().values())


S = TypeVar("S", Counter, Gauge, Summary)


@attrs.define(eq=False)
class Family(Generic[S]):
    """One name with its help, its label names and a series for each combination of label values."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    _new: Callable[[], S]
    _overflow: Callable[[str], None]
    _declared: dict[str, frozenset[str]] = attrs.field(factory=dict)
    _seen: dict[str, set[str]] = attrs.field(factory=dict)
    _series: dict[tuple[str, ...], S] = attrs.field(factory=dict)

    def series(self, **labels: object) -> S:
        """The series of these label values, made when it is new; `other` where a bound is reached."""
        try:
            key = tuple([str(labels[name]) for name in self.labels])
        except KeyError:
            key = ()
        if len(labels) != len(self.labels) or len(key) != len(self.labels):
            raise MetricError(f"{self.name} has the labels {self.labels}, not {tuple(labels)}")
        found = self._series.get(key)
        return found if found is not None else self._add(key)

    def items(self) -> list[tuple[tuple[str, ...], S]]:
        """Label values and series, in label order."""
        return sorted(self._series.copy().items())

    def _add(self, key: tuple[str, ...]) -> S:
        bounded = tuple(self._bounded(name, value) for name, value in zip(self.labels, key, strict=True))
        # The last place is kept for the series that takes what does not fit.
        if bounded not in self._series and len(self._series) >= SERIES_MAX - 1:
            bounded = (OTHER,) * len(key)
        if bounded != key:
            self._overflow(self.name)
        return self._series.setdefault(bounded, self._new())

    def _bounded(self, name: str, value: str) -> str:
        declared = self._declared.get(name)
        if declared is not None:
            return value if value in declared else OTHER
        seen = self._seen.setdefault(name, set())
        if value not in seen and value != OTHER:
            if len(seen) >= LABEL_VALUES_MAX - 1:
                return OTHER
            seen.add(value)
        return value


class CounterFamily(Family[Counter]):
    def inc(self, n: float = 1, **labels: object) -> None:
        self.series(**labels).inc(n)


class GaugeFamily(Family[Gauge]):
    def set(self, value: float, **labels: object) -> None:
        self.series(**labels).set(value)

    def inc(self, n: float = 1, **labels: object) -> None:
        self.series(**labels).inc(n)

    def dec(self, n: float = 1, **labels: object) -> None:
        self.series(**labels).dec(n)

    def call(self, read: Callable[[], float], **labels: object) -> None:
        self.series(**labels).call(read)


class SummaryFamily(Family[Summary]):
    def observe(self, value: float, **labels: object) -> None:
        self.series(**labels).observe(value)


F = TypeVar("F", bound=Family[Counter] | Family[Gauge] | Family[Summary])


class Registry:
    """All families of one node. `now` is monotonic seconds.

    Declaring a family again with the same kind and labels gives the same object; with others it is a
    `MetricError`. `labels` is the label names, or a mapping of each name to the values it can have:
    then every series is there from the start, at 0.
    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self.now = now
        self._families: dict[str, Family[Counter] | Family[Gauge] | Family[Summary]] = {}
        self._collectors: dict[Callable[[], None], None] = {}
        self._overflow = self.counter(
            "supervm_label_overflow_total",
            "Label values counted as `other`: the bound is reached",
            ("family",),
        )
        self._read_errors = self.counter(
            "supervm_metrics_read_errors_total",
            "Gauges whose reading raised; left out of that scrape",
            ("family",),
        )

    def counter(self, name: str, help: str, labels: Labels = ()) -> CounterFamily:
        return self._declare(CounterFamily, "counter", name, help, labels, Counter)

    def gauge(
        self, name: str, help: str, labels: Labels = (), call: Callable[[], float] | None = None
    ) -> GaugeFamily:
        family = self._declare(GaugeFamily, "gauge", name, help, labels, Gauge)
        if call is not None:
            family.call(call)
        return family

    def summary(self, name: str, help: str, labels: Labels = ()) -> SummaryFamily:
        return self._declare(
            SummaryFamily, "summary", name, help, labels, lambda: Summary(self.now, WINDOW_S)
        )

    def before_scrape(self, collect: Callable[[], None]) -> Callable[[], None]:
        """Call `collect` before each scrape, to set gauges that are read together. It must not wait.

        Gives the function that ends it: a component calls that when it closes.
        """
        if len(self._collectors) >= FAMILIES_MAX:
            raise MetricError(f"more than {FAMILIES_MAX} collectors: one of them is added again and again")
        self._collectors[collect] = None
        return lambda: self._collectors.pop(collect, None)

    def collect(self) -> None:
        for collector in list(self._collectors):
            try:
                collector()
            except Exception:
                # It belongs to a component; its failure may not take the scrape along.
                self.count_read_error(getattr(collector, "__qualname__", "collector"))

    def families(self) -> list[Family[Counter] | Family[Gauge] | Family[Summary]]:
        """Every family, by name."""
        return [family for _, family in sorted(self._families.copy().items())]

    def value(self, name: str, default: float | None = None, **labels: object) -> float:
        """What one counter or gauge says now; `default`, or else `KeyError`, where nobody declared it."""
        if default is not None and name not in self._families:
            return default
        series = self._families[name].series(**labels)
        assert not isinstance(series, Summary), f"{name} is a summary"
        return series.value

    def count_read_error(self, family: str) -> None:
        self._read_errors.inc(family=family)

    def _declare(
        self,
        cls: Callable[..., F],
        kind: str,
        name: str,
        help: str,
        labels: Labels,
        new: Callable[[], object],
    ) -> F:
        names = tuple(labels)
        found = self._families.get(name)
        if found is not None:
            if found.kind != kind or found.labels != names:
                raise MetricError(
                    f"{name} is already a {found.kind} with labels {found.labels}; "
                    f"it can't also be a {kind} with labels {names}"
                )
            return found  # type: ignore[return-value]
        _check_names(kind, name, names)
        if len(self._families) >= FAMILIES_MAX:
            raise MetricError(f"{name} would be family {FAMILIES_MAX + 1}; a node has at most {FAMILIES_MAX}")
        declared = {k: frozenset(v) for k, v in labels.items()} if isinstance(labels, Mapping) else {}
        family = cls(name, kind, " ".join(help.split()), names, new, self._count_overflow, declared)
        for key in _combinations([declared.get(label) for label in names]):
            family.series(**dict(zip(names, key, strict=True)))
        self._families[name] = family
        return family

    def _count_overflow(self, family: str) -> None:
        if family != "supervm_label_overflow_total":
            self._overflow.inc(family=family)


def _check_names(kind: str, name: str, labels: tuple[str, ...]) -> None:
    if not _FAMILY_NAME.fullmatch(name):
        raise MetricError(f"{name!r} is not a metric name: letters, digits, `_` and `:`")
    for label in labels:
        if not _LABEL_NAME.fullmatch(label) or label.startswith("__") or label in ("quantile", "le"):
            raise MetricError(f"{name}: {label!r} is not a label name that a {kind} may have")
    if len(set(labels)) != len(labels):
        raise MetricError(f"{name}: a label is named twice in {labels}")


def _combinations(values: Iterable[frozenset[str] | None]) -> list[tuple[str, ...]]:
    """Every combination of declared label values; none as soon as one label's values are open."""
    combinations: list[tuple[str, ...]] = [()]
    for options in values:
        if options is None:
            return []
        combinations = [(*one, value) for one in combinations for value in sorted(options)]
    return combinations


def exposition(registry: Registry) -> str:
    """Every family in the Prometheus text format 0.0.4: HELP and TYPE once, then its samples (OBS-9)."""
    registry.collect()
    lines: list[str] = []
    for family in registry.families():
        lines.append(f"# HELP {family.name} {_escape_help(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for key, series in family.items():
            pairs = list(zip(family.labels, key, strict=True))
            try:
                _render(lines, family.name, pairs, series)
            except Exception:
                # A reading belongs to a component; one that fails may not take the scrape along.
                registry.count_read_error(family.name)
    return "\n".join(lines) + "\n"


def _render(
    lines: list[str], name: str, pairs: list[tuple[str, str]], series: Counter | Gauge | Summary
) -> None:
    if isinstance(series, Summary):
        for quantile, value in zip(QUANTILES, series.quantiles(), strict=True):
            lines.append(_sample(name, [*pairs, ("quantile", str(quantile))], value))
        lines.append(_sample(f"{name}_sum", pairs, series.total))
        lines.append(_sample(f"{name}_count", pairs, series.count))
    else:
        lines.append(_sample(name, pairs, series.value))


def _sample(name: str, pairs: list[tuple[str, str]], value: float) -> str:
    labels = ",".join(f'{label}="{_escape(text)}"' for label, text in pairs)
    return f"{name}{{{labels}}} {_number(value)}" if labels else f"{name} {_number(value)}"


def _number(value: float) -> str:
    if isinstance(value, int):  # bool too
        return str(int(value))
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
