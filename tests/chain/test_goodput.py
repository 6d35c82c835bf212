"""Goodput: windows of whole seconds, and a peak of complete windows (OBS-6, OBS-7)."""

from supervm.chain.figures import Goodput


def test_the_window_counts_the_last_ten_whole_seconds() -> None:
    goodput = Goodput(0.0)
    for second in range(20):
        goodput.add(100, second + 0.5)
    assert goodput.window(20.0) == 100
    assert goodput.window(25.0) == 50
    assert goodput.window(40.0) == 0


def test_the_peak_is_the_best_complete_window() -> None:
    goodput = Goodput(0.0)
    goodput.add(1_000, 1.0)
    assert goodput.peak == 0
    goodput.window(10.5)
    assert goodput.peak == 100
    goodput.window(100.0)
    assert goodput.peak == 100


def test_overall_is_since_the_start() -> None:
    goodput = Goodput(100.0)
    goodput.add(50, 100.2)
    assert goodput.overall(100.5) == 50
    assert goodput.overall(110.0) == 5
