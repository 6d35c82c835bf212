"""Goodput: windows of whole seconds, and a peak of complete windows (OBS-6, OBS-7)."""

from hypothesis import given
from hypothesis import strategies as st

from supervm.chain.goodput import WINDOW_S, Goodput

STEPS = st.lists(st.tuples(st.one_of(st.floats(0, 3), st.floats(0, 40)), st.integers(0, 1_000)), max_size=30)


def in_window(events: list[tuple[int, int]], end: int) -> int:
    """How many of (second, count) fall in the ten whole seconds before `end`."""
    return sum(count for second, count in events if end - WINDOW_S <= second < end)


def test_the_window_counts_the_last_ten_whole_seconds() -> None:
    goodput = Goodput(0.0)
    for second in range(20):
        goodput.add(100, second + 0.5)
    assert goodput.window(20.0) == 100
    assert goodput.window(25.0) == 50
    assert goodput.window(40.0) == 0


def test_before_ten_seconds_the_window_is_what_there_was() -> None:
    goodput = Goodput(0.0)
    goodput.add(30, 0.5)
    assert goodput.window(0.9) == 0  # the second that runs is not counted
    assert goodput.window(3.0) == 10


def test_the_peak_is_the_best_complete_window() -> None:
    goodput = Goodput(0.0)
    goodput.add(1_000, 1.0)
    assert goodput.peak(9.9) == 0
    assert goodput.peak(10.0) == 100
    assert goodput.peak(100.0) == 100


def test_the_peak_has_a_burst_that_nobody_looked_at() -> None:
    goodput = Goodput(0.0)
    goodput.add(1, 20.0)
    goodput.add(1_000, 21.5)
    assert goodput.peak(500.0) == 100.1
    goodput.add(1_000, 600.0)
    goodput.add(1_000, 601.0)
    assert goodput.peak(10_000.0) == 200


@given(st.floats(0, 100), STEPS)
def test_window_and_peak_equal_a_count_over_all_that_happened(
    began: float, steps: list[tuple[float, int]]
) -> None:
    goodput, now, events = Goodput(began), began, []
    for pause, count in steps:
        now += pause
        goodput.add(count, now)
        events.append((int(now), count))
    now += 0.5
    first, end = int(began), int(now)
    complete = min(end - first, WINDOW_S)
    assert goodput.window(now) == (in_window(events, end) / complete if complete else 0)
    best = max((in_window(events, each) for each in range(first + WINDOW_S, end + 1)), default=0)
    assert goodput.peak(now) == best / WINDOW_S


@given(st.floats(0, 100), STEPS, st.floats(0, 60))
def test_looking_changes_nothing(began: float, steps: list[tuple[float, int]], after: float) -> None:
    seen, unseen, now = Goodput(began), Goodput(began), began
    for pause, count in steps:
        for part in (0.25, 0.5, 1):
            seen.peak(now + pause * part)
            seen.window(now + pause * part)
        now += pause
        for each in (seen, unseen):
            each.add(count, now)
    now += after
    assert (seen.window(now), seen.peak(now)) == (unseen.window(now), unseen.peak(now))


def test_overall_is_since_the_start() -> None:
    goodput = Goodput(100.0)
    goodput.add(50, 100.2)
    assert goodput.overall(100.5) == 50
    assert goodput.overall(110.0) == 5
