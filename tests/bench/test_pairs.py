"""Turns, ratios and growth: the arithmetic under every benchmark."""

import pytest

from supervm.bench.errors import CantMeasure
from supervm.bench.growth import exponent, growth, sizes_up_to
from supervm.bench.pairs import Clock, Turn, compare, ratio, short, turns


def test_ratios_are_medians_over_medians_and_spreads_are_of_pairs() -> None:
    taken = {
        "supervm": [Turn(100, 0, 1.0, 0.5), Turn(300, 0, 1.0, 1.0), Turn(200, 0, 1.0, 1.0)],
        "other": [Turn(50, 0, 1.0, 1.0), Turn(10, 0, 0.1, 0.1), Turn(10, 0, 1.0, 0.1)],
    }
    compared = compare(taken, "supervm")
    assert compared["a_second"] == {"median": 200, "min": 100, "max": 300}
    assert compared["a_cpu_second"] == {"median": 200, "min": 200, "max": 300}
    assert compared["peers"]["other"]["ratio"] == {"median": 4.0, "min": 2.0, "max": 20.0}
    assert compared["peers"]["other"]["cpu_ratio"] == 2.0


def test_what_failed_is_no_part_of_a_rate() -> None:
    assert Turn(100, 40, 2.0, 1.0).rate == 30
    assert Turn(100, 40, 2.0, 1.0).cpu_rate == 60


def test_a_contestant_that_did_nothing_right_gives_no_claim() -> None:
    nothing = [Turn(10, 10, 1.0, 1.0)] * 3
    compared = ratio([Turn(10, 0, 1.0, 1.0)] * 3, nothing)
    assert compared["ratio"] == {"median": 0.0, "min": 0.0, "max": 0.0}


def test_everybody_has_a_turn_in_every_pair_and_the_order_turns() -> None:
    taken = list(turns(["a", "b", "c"], 5))
    assert taken[:6] == [(0, "a"), (0, "b"), (0, "c"), (1, "c"), (1, "b"), (1, "a")]
    assert [name for _, name in taken].count("b") == 5


def test_fewer_than_five_pairs_are_refused() -> None:
    with pytest.raises(AssertionError, match="5 pairs"):
        list(turns(["a", "b"], 4))


def test_the_clock_adds_up_and_never_says_nothing() -> None:
    clock = Clock()
    for _ in range(2):
        before = clock.seconds, clock.cpu_seconds
        with clock:
            sum(range(1000))
        assert clock.seconds > before[0]
        assert clock.cpu_seconds > before[1]


@pytest.mark.parametrize(("number", "wanted"), [(1234.5, 1230.0), (0.012345, 0.0123), (9.999, 10.0), (0, 0)])
def test_three_digits_count(number: float, wanted: float) -> None:
    assert short(number) == wanted


def test_sizes_are_a_factor_of_ten_apart_and_end_at_the_largest() -> None:
    assert sizes_up_to(1_000_000) == [10_000, 100_000, 1_000_000]
    assert sizes_up_to(2_000, 4) == [2, 20, 200, 2_000]
    with pytest.raises(CantMeasure, match="larger"):
        sizes_up_to(99)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_that_power(power: float) -> None:
    sizes = [10, 100, 1000]
    assert exponent(sizes, [7 * size**power for size in sizes]) == pytest.approx(power)


def test_growth_tells_sizes_costs_and_exponent() -> None:
    assert growth("accounts", [10, 100, 1000], [20.0, 200.0, 2000.0], "ns a transaction") == {
        "of": "accounts",
        "unit": "ns a transaction",
        "sizes": [10, 100, 1000],
        "costs": [20.0, 200.0, 2000.0],
        "exponent": 1.0,
    }
