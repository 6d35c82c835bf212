"""What is hot, warm and cold by how it is asked for, in a table that never grows past its bound (STO-90)."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervm.storage.heat import HALF_LIFE_S, HALVES_MAX, Damaged, HeatTable
from supervm.storage.temperature import (
    Decision,
    Temperature,
    Thresholds,
    Trigger,
    decide,
    rank,
    rises,
    surges,
)

HOT, WARM, COLD = Temperature
ALL = (HOT, WARM, COLD)
GIVEN = Thresholds()


def table(units_max: int = 100) -> HeatTable:
    return HeatTable(random.Random(1), units_max)


def test_a_score_halves_in_a_day() -> None:
    heat = table()
    for _ in range(4):
        heat.count(b"a", 1_000.0)
    heat.count(b"b", 1_000.0 + HALF_LIFE_S)
    assert heat.scores(1_000.0 + HALF_LIFE_S) == pytest.approx({b"a": 2.0, b"b": 1.0})
    assert heat.scores(1_000.0 + 3 * HALF_LIFE_S) == pytest.approx({b"a": 0.5, b"b": 0.25})


def test_a_score_is_right_however_long_it_is_counted() -> None:
    heat = table()
    heat.count(b"once", 0.0)
    for day in range(2_000):
        heat.count(b"daily", day * HALF_LIFE_S)
    assert heat.scores(1_999 * HALF_LIFE_S)[b"daily"] == pytest.approx(2.0)
    far_s = 1_999 * HALF_LIFE_S + 10 * HALVES_MAX * HALF_LIFE_S
    heat.count(b"late", far_s)
    assert heat.scores(far_s)[b"late"] == 1.0
    assert heat.scores(far_s)[b"daily"] < 1e-50


def test_the_table_never_grows_past_its_bound_and_keeps_what_is_asked_for() -> None:
    heat = table(units_max=50)
    wanted = [b"wanted%d" % i for i in range(10)]
    for i in range(5_000):
        heat.count(b"once%d" % i, float(i))
        for unit in wanted:
            heat.count(unit, float(i))
        assert len(heat) <= 50
    assert set(wanted) <= set(heat.scores(5_000.0))
    assert heat.dropped == 5_000 + 10 - 50


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=12), st.floats(0, 1e7)), max_size=60))
def test_a_table_that_was_written_and_read_is_the_same(accesses: list[tuple[bytes, float]]) -> None:
    heat = table(units_max=20)
    for unit, at_s in accesses:
        heat.count(unit, at_s)
    heat.units = 77
    heat.remember(rank(heat.scores(1e7), 77, GIVEN), 6)
    heat.remember(rank(heat.scores(1e7), 77, GIVEN), 6)
    read = HeatTable.decode(heat.encode(1e7), 5.0, random.Random(2), units_max=20, half_life_s=HALF_LIFE_S)
    assert read.scores(5.0) == pytest.approx(heat.scores(1e7))
    assert (read.histories, read.windows, read.units) == (heat.histories, 2, 77)


def test_the_mean_of_a_unit_is_what_it_is_asked_for_in_a_window_without_this_one() -> None:
    heat, window_s = table(), 600.0
    for window in range(2_000):
        for _ in range(5):
            heat.count(b"steady", window * window_s)
        heat.remember({b"steady": 0}, 6)
    now_s = 2_000 * window_s
    assert heat.mean(b"steady", now_s, window_s) == pytest.approx(5.0, rel=0.01)
    assert [heat.count(b"steady", now_s) for _ in range(100)][-1] == 100
    assert heat.mean(b"steady", now_s, window_s) == pytest.approx(5.0, rel=0.01)
    assert heat.mean(b"never", now_s, window_s) == 0.0


def test_a_surge_is_many_questions_and_many_more_than_the_mean() -> None:
    few = Thresholds(surge_times=10.0, surge_accesses_min=100)
    assert surges(100, 0.0, few) and surges(100, 9.9, few)
    assert not surges(99, 0.0, few)
    assert not surges(100, 10.0, few) and surges(101, 10.0, few)
    for wrong in ({"surge_times": 0.5}, {"surge_accesses_min": 0}):
        with pytest.raises(ValueError):
            Thresholds(**wrong)


def test_the_window_under_way_is_counted_for_no_more_units_than_the_table_has() -> None:
    heat = table(units_max=20)
    for number in range(1_000):
        heat.count(b"%d" % number, 0.0)
        assert len(heat.asked) <= 20


def test_a_smaller_table_keeps_the_hottest_of_a_larger_one() -> None:
    heat = table()
    for i in range(10):
        for _ in range(i + 1):
            heat.count(b"%d" % i, 0.0)
    read = HeatTable.decode(heat.encode(0.0), 0.0, random.Random(2), units_max=3, half_life_s=1.0)
    assert read.scores(0.0) == {b"9": 10.0, b"8": 9.0, b"7": 8.0}


def test_a_damaged_table_is_refused_wherever_the_bit_is() -> None:
    heat = table()
    heat.count(b"unit", 0.0)
    data = heat.encode(0.0)
    for cut in (b"", data[:-1], data[:20]):
        with pytest.raises(Damaged):
            HeatTable.decode(cut, 0.0, random.Random(1), units_max=9, half_life_s=1.0)
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 4
        with pytest.raises(Damaged):
            HeatTable.decode(bytes(flipped), 0.0, random.Random(1), units_max=9, half_life_s=1.0)


def test_one_in_a_hundred_is_hot_nineteen_are_warm_and_what_is_not_counted_is_cold() -> None:
    scores = {b"%03d" % i: float(i) for i in range(300)}
    ranks = rank(scores, 1_000, GIVEN)
    assert {unit for unit, each in ranks.items() if each == HOT} == {b"%03d" % i for i in range(290, 300)}
    assert {unit for unit, each in ranks.items() if each == WARM} == {b"%03d" % i for i in range(100, 290)}
    assert all(ranks[b"%03d" % i] == COLD for i in range(100))


def test_of_equally_hot_units_the_later_is_the_hotter() -> None:
    ranks = rank({b"%d" % i: 1.0 for i in range(5)}, 5, Thresholds(hot_share=0.2, warm_share=0.4))
    assert [ranks[b"%d" % i] for i in range(5)] == [COLD, COLD, WARM, WARM, HOT]


def test_it_rises_after_two_windows_above_and_no_sooner() -> None:
    assert decide(COLD, bytes([WARM]), ALL, GIVEN) is None
    assert decide(COLD, bytes([WARM, COLD, WARM]), ALL, GIVEN) is None
    assert decide(COLD, bytes([COLD, WARM, WARM]), ALL, GIVEN) == Decision(WARM, Trigger.RANK)
    assert decide(COLD, bytes([HOT, WARM]), ALL, GIVEN) == Decision(WARM, Trigger.RANK)
    assert decide(COLD, bytes([HOT, HOT]), ALL, GIVEN) == Decision(HOT, Trigger.RANK)
    assert decide(WARM, bytes([HOT, HOT]), ALL, GIVEN) == Decision(HOT, Trigger.RANK)
    assert decide(HOT, bytes([HOT, HOT]), ALL, GIVEN) is None


def test_it_sinks_after_six_windows_below_and_no_sooner() -> None:
    assert decide(HOT, bytes([COLD] * 5), ALL, GIVEN) is None
    assert decide(HOT, bytes([HOT, *[COLD] * 5]), ALL, GIVEN) is None
    assert decide(HOT, bytes([COLD] * 6), ALL, GIVEN) == Decision(COLD, Trigger.RANK)
    assert decide(HOT, bytes([COLD] * 5 + [WARM]), ALL, GIVEN) == Decision(WARM, Trigger.RANK)
    assert decide(WARM, bytes([COLD] * 6), ALL, GIVEN) == Decision(COLD, Trigger.RANK)
    assert decide(COLD, bytes([COLD] * 6), ALL, GIVEN) is None


def test_a_class_that_is_not_there_is_stood_in_for_by_the_next_hotter() -> None:
    two = (HOT, COLD)
    assert decide(HOT, bytes([WARM] * 6), two, GIVEN) is None
    assert decide(HOT, bytes([COLD] * 6), two, GIVEN) == Decision(COLD, Trigger.RANK)
    assert decide(COLD, bytes([WARM] * 2), two, GIVEN) == Decision(HOT, Trigger.RANK)
    assert decide(HOT, bytes([COLD] * 6), (HOT, WARM), GIVEN) == Decision(WARM, Trigger.RANK)
    assert decide(HOT, bytes([COLD] * 6), (HOT,), GIVEN) is None


def test_a_tight_disk_sends_the_cold_away_at_once_and_nothing_else() -> None:
    assert decide(HOT, bytes([COLD]), ALL, GIVEN, disk_tight=True) == Decision(COLD, Trigger.DISK)
    assert decide(HOT, bytes([COLD, WARM]), ALL, GIVEN, disk_tight=True) is None
    assert decide(WARM, bytes([COLD]), ALL, GIVEN, disk_tight=True) is None
    assert decide(HOT, b"", ALL, GIVEN, disk_tight=True) is None
    assert decide(HOT, bytes([COLD]), (HOT,), GIVEN, disk_tight=True) is None


def test_it_is_told_in_the_window_in_which_it_rises_and_not_again() -> None:
    seen = []
    history = b""
    for each in (COLD, WARM, WARM, WARM, HOT, HOT, HOT):
        history += bytes([each])
        seen.append(rises(history, ALL, GIVEN))
    # From cold in the third window, from warm in the sixth.
    assert seen == [False, False, True, False, False, True, False]


def test_a_share_beyond_one_and_a_window_of_nothing_are_refused() -> None:
    for wrong in ({"hot_share": 1.5}, {"disk_use_max": -0.1}, {"up_windows": 0}, {"down_windows": 65}):
        with pytest.raises(ValueError):
            Thresholds(**wrong)  # type: ignore[arg-type]
