"""The registry, its bounds, and the text form, read back by the strict parser of prometheus_client."""

import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from supervm.telemetry.metrics import (
    LABEL_VALUES_MAX,
    SERIES_MAX,
    MetricError,
    Registry,
    exposition,
)
from supervm.telemetry.process import register_process


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(clock: Clock) -> Registry:
    return Registry(clock)


def samples(registry: Registry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition(registry))
        for sample in family.samples
    }


def test_every_family_is_exposed_at_zero_before_its_first_event(registry: Registry) -> None:
    registry.counter("a_total", "a")
    registry.gauge("b", "b")
    registry.summary("c_ms", "c")
    registry.counter("d_total", "d", {"lane": ("fast", "private")})
    got = samples(registry)
    assert got[("a_total", ())] == got[("b", ())] == got[("c_ms_count", ())] == 0
    assert got[("c_ms", (("quantile", "0.999"),))] == 0
    assert got[("d_total", (("lane", "fast"),))] == got[("d_total", (("lane", "private"),))] == 0


def test_help_and_type_are_printed_once_a_family(registry: Registry) -> None:
    family = registry.counter("a_total", "a", ("kind",))
    for kind in "xyz":
        family.inc(kind=kind)
    lines = exposition(registry).splitlines()
    assert lines.count("# HELP a_total a") == lines.count("# TYPE a_total counter") == 1
    at = lines.index("# TYPE a_total counter")
    assert lines[at + 1 : at + 4] == [f'a_total{{kind="{kind}"}} 1' for kind in "xyz"]


def test_declaring_the_same_family_again_gives_the_same_one(registry: Registry) -> None:
    first = registry.counter("a_total", "a", ("kind",))
    assert registry.counter("a_total", "other words", ("kind",)) is first


@pytest.mark.parametrize("declare", ["gauge", "summary"])
def test_declaring_a_family_as_another_kind_is_an_error(registry: Registry, declare: str) -> None:
    registry.counter("a_total", "a")
    with pytest.raises(MetricError, match="already a counter"):
        getattr(registry, declare)("a_total", "a")


def test_declaring_a_family_with_other_labels_is_an_error(registry: Registry) -> None:
    registry.gauge("a", "a", ("x",))
    with pytest.raises(MetricError, match="labels"):
        registry.gauge("a", "a", ("y",))


@pytest.mark.parametrize(
    ("name", "labels"),
    [("1a", ()), ("a b", ()), ("a", ("quantile",)), ("a", ("b", "b")), ("a", ("__x",)), ("", ())],
)
def test_a_name_that_prometheus_would_refuse_is_refused_here(
    registry: Registry, name: str, labels: tuple[str, ...]
) -> None:
    with pytest.raises(MetricError):
        registry.gauge(name, "a", labels)


def test_recording_with_a_missing_or_surplus_label_is_an_error(registry: Registry) -> None:
    family = registry.counter("a_total", "a", ("kind",))
    for wrong in ({}, {"kind": 1, "more": 2}, {"other_kind": 1}):
        with pytest.raises(MetricError, match="a_total"):
            family.inc(**wrong)


def test_a_counter_never_falls(registry: Registry) -> None:
    with pytest.raises(MetricError):
        registry.counter("a_total", "a").inc(-1)


def test_hostile_label_values_stay_within_the_bounds_and_the_rest_is_counted_as_other(
    registry: Registry,
) -> None:
    family = registry.counter("a_total", "a", ("peer",))
    for n in range(1000):
        family.inc(peer=f"peer-{n}")
    got = {
        dict(labels)["peer"]: value
        for (name, labels), value in samples(registry).items()
        if name == "a_total"
    }
    assert len(got) == LABEL_VALUES_MAX
    assert sum(got.values()) == 1000
    assert got["other"] == 1000 - (LABEL_VALUES_MAX - 1)
    assert registry.value("supervm_label_overflow_total", family="a_total") == got["other"]


def test_two_hostile_labels_together_stay_within_256_series(registry: Registry) -> None:
    family = registry.counter("a_total", "a", ("x", "y"))
    for x in range(60):
        for y in range(60):
            family.inc(x=x, y=y)
    assert len(family.items()) == SERIES_MAX
    assert sum(series.value for _, series in family.items()) == 3600


def test_too_many_families_overflowing_does_not_recurse(registry: Registry) -> None:
    for n in range(100):
        family = registry.counter(f"a{n}_total", "a", ("x",))
        for x in range(LABEL_VALUES_MAX + 1):
            family.inc(x=x)
    overflow = registry.counter("supervm_label_overflow_total", "", ("family",))
    assert len(overflow.items()) == LABEL_VALUES_MAX


def test_a_value_outside_the_declared_ones_is_other(registry: Registry) -> None:
    family = registry.counter("a_total", "a", {"lane": ("fast",)})
    family.inc(lane="0xdeadbeef")
    assert [key for key, _ in family.items()] == [("fast",), ("other",)]


def test_many_threads_lose_no_count(registry: Registry) -> None:
    counter = registry.counter("a_total", "a")
    summary = registry.summary("b_ms", "b")

    def work() -> None:
        for _ in range(2000):
            counter.inc()
            summary.observe(1.0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got = samples(registry)
    assert got[("a_total", ())] == got[("b_ms_count", ())] == got[("b_ms_sum", ())] == 16000


def test_a_reading_that_raises_costs_only_its_own_sample(registry: Registry) -> None:
    registry.gauge("bad", "b", call=lambda: 1 / 0)
    registry.gauge("good", "g").set(7)
    registry.before_scrape(lambda: [][0])
    got = samples(registry)
    assert got[("good", ())] == 7
    assert ("bad", ()) not in got
    assert sum(series.value for _, series in registry._read_errors.items()) == 2


def test_a_collector_that_ended_is_not_called_again(registry: Registry) -> None:
    calls: list[int] = []
    end = registry.before_scrape(lambda: calls.append(1))
    exposition(registry)
    end()
    exposition(registry)
    assert calls == [1]


@given(st.text(max_size=40), st.text(max_size=40), st.floats())
def test_any_help_label_value_and_number_survives_the_text_form(help: str, label: str, value: float) -> None:
    registry = Registry()
    registry.gauge("a", help, ("x",)).set(value, x=label)
    text = exposition(registry)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    (sample,) = families["a"].samples
    assert sample.value == value or math.isnan(value)
    assert sample.labels["x"] == label


@pytest.mark.parametrize("spread", ["uniform", "exponential", "tiny", "one value"])
def test_quantiles_are_within_two_percent_of_the_exact_ones(registry: Registry, spread: str) -> None:
    import random

    source = random.Random(spread)
    draw = {
        "uniform": lambda: source.uniform(1, 1000),
        "exponential": lambda: source.expovariate(0.1) + 1e-6,
        "tiny": lambda: source.uniform(1e-9, 1e-7),
        "one value": lambda: 42.0,
    }[spread]
    values = sorted(draw() for _ in range(5000))
    summary = registry.summary("a_ms", "a")
    for value in values:
        summary.observe(value)
    for quantile, got in zip((0.5, 0.9, 0.99, 0.999), summary.series().quantiles(), strict=True):
        exact = values[math.ceil(quantile * len(values)) - 1]
        assert abs(got - exact) <= 0.02 * exact * 1.0001


def test_what_is_older_than_the_window_leaves_the_quantiles_and_stays_in_the_count(
    registry: Registry, clock: Clock
) -> None:
    summary = registry.summary("a_ms", "a")
    summary.observe(1000)
    clock.now_s += 30
    summary.observe(10)
    assert summary.series().quantiles([1.0])[0] == pytest.approx(1000, rel=0.02)
    clock.now_s += 31
    assert summary.series().quantiles([1.0])[0] == pytest.approx(10, rel=0.02)
    clock.now_s += 3600
    assert summary.series().quantiles() == [0, 0, 0, 0]
    assert (summary.series().count, summary.series().total) == (2, 1010)


def test_a_summary_ignores_what_is_no_number_and_holds_zero(registry: Registry) -> None:
    summary = registry.summary("a_ms", "a")
    for value in (math.nan, math.inf, -math.inf):
        summary.observe(value)
    assert summary.series().count == 0
    summary.observe(0)
    assert summary.series().quantiles([0.5]) == [0.0]


def test_the_process_family_is_there_and_plausible(registry: Registry) -> None:
    register_process(registry, started_ms=1_700_000_000_123)
    got = samples(registry)
    assert got[("process_start_time_seconds", ())] == 1_700_000_000.123
    assert got[("process_resident_memory_bytes", ())] > 5e6
    assert got[("process_cpu_seconds_total", ())] > 0
    assert got[("process_open_fds", ())] >= 3
