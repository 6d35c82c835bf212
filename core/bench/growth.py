"""How a cost grows with a size: measured at sizes a factor of ten apart, with the fitted exponent."""

import math
from collections.abc import Collection, Sequence
from typing import Any

from supervm.bench.errors import CantMeasure
from supervm.bench.pairs import short

FACTOR = 10
SIZES_MIN = 3


def sizes_up_to(largest: int, count: int = SIZES_MIN) -> list[int]:
    """`count` sizes a factor of ten apart, ascending, the last being `largest`. Raises CantMeasure."""
    smallest = largest // FACTOR ** (count - 1)
    if smallest < 1:
        raise CantMeasure(f"{largest} can't be divided by {FACTOR} {count - 1} times: give a larger size")
    return [largest // FACTOR**at for at in reversed(range(count))]


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of log(cost) over log(size), by least squares: 0 where a cost stays, 1 where it is linear."""
    assert len(sizes) == len(costs) >= 2, "a slope needs two points"
    across = [math.log(size) for size in sizes]
    up = [math.log(cost) for cost in costs]
    middle, height = sum(across) / len(across), sum(up) / len(up)
    above = sum((x - middle) * (y - height) for x, y in zip(across, up, strict=True))
    return above / sum((x - middle) ** 2 for x in across)


def growth(of: str, sizes: Collection[int], costs: Sequence[float], unit: str) -> dict[str, Any]:
    """Costs at sizes, with the exponent. `of` says what the sizes count, `unit` what a cost is in."""
    return {
        "of": of,
        "unit": unit,
        "sizes": list(sizes),
        "costs": [short(each) for each in costs],
        "exponent": round(exponent(list(sizes), costs), 3),
    }
