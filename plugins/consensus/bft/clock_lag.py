"""Whether this validator's clock is behind the others', from the timestamps of their proposals. Pure.

A validator whose clock is more than 500 ms slow votes for no proposal in time (CONS-30) and for none at all
once views pass without it: that has to be told (CONS-66). A leader may lie about the time. Where proposals in
a row came too early, of leaders who have more than a third of the weight, one of these is honest.
"""

from supervm.plugins.consensus.bft.proposals import TIMESTAMP_AHEAD_MS
from supervm.types.validators import ValidatorSet


class ClockLag:
    """What the timestamps of others' proposals say of the own clock, as they come."""

    def __init__(self, validators: ValidatorSet) -> None:
        self._validators = validators
        self._early: dict[int, int] = {}
        self.ahead_ms = 0
        """How far the last proposal's timestamp was ahead of the own clock; below 0: behind it."""

    def proposed(self, leader: int, timestamp_ms: int, wall_ms: int) -> None:
        """A leader's proposal came, for the first time, at this moment of the own clock (UTC)."""
        self.ahead_ms = timestamp_ms - wall_ms
        if self.ahead_ms > TIMESTAMP_AHEAD_MS:
            self._early[leader] = self.ahead_ms
        else:
            self._early.clear()

    @property
    def behind_ms(self) -> int:
        """How far this clock is behind at least; 0 where that isn't known of it."""
        weight = sum(self._validators.members[leader].weight for leader in self._early)
        return min(self._early.values()) if 3 * weight > self._validators.total_weight else 0
