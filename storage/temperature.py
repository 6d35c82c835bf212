"""Hot, warm or cold: what a part of the store is by how it is asked for, and where it belongs (STO-90 to 94).

Pure functions of counts. Every window each part gets a rank by its score. It is moved to a hotter class when
it ranked above its own for the last two windows, to a colder one after six below: so neither one question nor
one quiet hour moves anything. A full disk moves what is cold at once, and a surge of questions what is asked.
"""

import math
from collections.abc import Mapping, Sequence
from enum import IntEnum
from heapq import nlargest

import attrs

from supervm.storage.heat import HISTORY_MAX


class Temperature(IntEnum):
    """A class of storage, the hottest first. Its value is what is stored: it never changes."""

    HOT = 0
    WARM = 1
    COLD = 2

    @property
    def word(self) -> str:
        return self.name.lower()


class Trigger(IntEnum):
    """Why something is moved."""

    RANK = 0
    DISK = 1
    SURGE = 2

    @property
    def word(self) -> str:
        return self.name.lower()


def _share(instance: object, attribute: "attrs.Attribute[float]", value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{attribute.name} {value}: a share is from 0 to 1")


@attrs.frozen(kw_only=True)
class Thresholds:
    """Shares of all units that are hot and warm; windows before a move; disk use at which the cold goes;
    how many times its mean, and how often at least, a unit is asked for in a window when that is a surge.
    """

    hot_share: float = attrs.field(default=0.01, validator=_share)
    warm_share: float = attrs.field(default=0.19, validator=_share)
    up_windows: int = attrs.field(default=2, validator=attrs.validators.in_(range(1, HISTORY_MAX + 1)))
    down_windows: int = attrs.field(default=6, validator=attrs.validators.in_(range(1, HISTORY_MAX + 1)))
    disk_use_max: float = attrs.field(default=0.85, validator=_share)
    surge_times: float = attrs.field(default=10.0, validator=attrs.validators.ge(1))
    surge_accesses_min: int = attrs.field(default=1_000, validator=attrs.validators.ge(1))

    @property
    def windows(self) -> int:
        """As many ranks as a decision looks at."""
        return max(self.up_windows, self.down_windows)


@attrs.frozen
class Decision:
    """Move it there, for this reason."""

    to: Temperature
    trigger: Trigger


def rank(scores: Mapping[bytes, float], units: int, thresholds: Thresholds) -> dict[bytes, int]:
    """Each counted unit's class among `units` units; those that are not counted are cold.

    Of equal scores the later key is the hotter: keys rise with height.
    """
    units = max(units, len(scores))
    hot = _ceil(units * thresholds.hot_share)
    warm = _ceil(units * (thresholds.hot_share + thresholds.warm_share))
    ranks = dict.fromkeys(scores, int(Temperature.COLD))
    ordered = nlargest(warm, scores, key=lambda unit: (scores[unit], unit))
    for place, unit in enumerate(ordered):
        ranks[unit] = int(Temperature.HOT if place < hot else Temperature.WARM)
    return ranks


def there(classes: Sequence[Temperature], wanted: Temperature) -> Temperature:
    """The class that stands in for `wanted`: itself, or the next hotter one that there is."""
    return max(one for one in classes if one <= wanted)


def history_of(history: bytes | None, windows: int, thresholds: Thresholds) -> bytes:
    """A unit's ranks. One that is not counted was asked for less than any other: it was cold all the time."""
    if history is not None:
        return history
    return bytes((Temperature.COLD,)) * min(windows, thresholds.windows)


def decide(
    here: Temperature,
    history: bytes,
    classes: Sequence[Temperature],
    thresholds: Thresholds,
    *,
    disk_tight: bool = False,
) -> Decision | None:
    """Where what lies `here` belongs by its ranks, the newest last; None where it is.

    Of several classes on the way the one nearest to `here` that every rank passed.
    """
    ranks = [there(classes, Temperature(each)) for each in history]
    up, down = ranks[-thresholds.up_windows :], ranks[-thresholds.down_windows :]
    if len(up) == thresholds.up_windows and max(up) < here:
        return Decision(max(up), Trigger.RANK)
    if len(down) == thresholds.down_windows and min(down) > here:
        return Decision(min(down), Trigger.RANK)
    if disk_tight and here is Temperature.HOT and ranks and history[-1] == Temperature.COLD:
        return Decision(ranks[-1], Trigger.DISK) if ranks[-1] > here else None
    return None


def surges(asked: int, mean: float, thresholds: Thresholds) -> bool:
    """Whether `asked` accesses within a window are a surge, of what has `mean` in one (STO-91)."""
    return asked >= thresholds.surge_accesses_min and asked > mean * thresholds.surge_times


def rises(history: bytes, classes: Sequence[Temperature], thresholds: Thresholds) -> bool:
    """Whether the newest rank is what makes this unit rise, wherever it lies but in the hottest class."""
    below = [one for one in classes if one > Temperature.HOT]
    return any(
        _would_rise(here, history, classes, thresholds)
        and not _would_rise(here, history[:-1], classes, thresholds)
        for here in below
    )


def _would_rise(
    here: Temperature, history: bytes, classes: Sequence[Temperature], thresholds: Thresholds
) -> bool:
    decision = decide(here, history, classes, thresholds)
    return decision is not None and decision.to < here


def why(trigger: Trigger, here: Temperature, to: Temperature, thresholds: Thresholds) -> str:
    """A decision in words."""
    if trigger is Trigger.DISK:
        return f"cold, and the hot disk is more than {thresholds.disk_use_max:.0%} full"
    if trigger is Trigger.SURGE:
        times, least = thresholds.surge_times, thresholds.surge_accesses_min
        return f"asked for {least} times in a window or more, and over {times:g} times its mean"
    if to < here:
        return f"ranked above {here.word} for {thresholds.up_windows} windows"
    return f"ranked below {here.word} for {thresholds.down_windows} windows"


def _ceil(number: float) -> int:
    # Less than a float's error, so that a fifth of five is one.
    return math.ceil(number - 1e-6)
