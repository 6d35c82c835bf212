"""D, the adaptive bound on message delay, and what leader and advance timers are made of (CONS-31).

A local matter: no message holds it and nothing's safety rests on it. Integers of microseconds throughout,
so that a run is repeated exactly.
"""

DELAY_FIRST_US = 250_000
DELAY_MIN_US = 50_000
DELAY_MAX_US = 10_000_000
SILENT_VIEWS = 3

_GROWTHS_MAX = 32


class Pacing:
    """The delay bound of one validator, from how long quorums of votes took to come."""

    def __init__(self) -> None:
        self._mean_us = DELAY_FIRST_US // 2
        self._nullified_in_a_row = 0

    @property
    def delay_us(self) -> int:
        """D: twice the mean time to a quorum, times 1.5 a nullified view in a row; 50 ms to 10 s."""
        delay = min(max(2 * self._mean_us, DELAY_MIN_US), DELAY_MAX_US)
        for _ in range(self._nullified_in_a_row):
            delay += delay // 2
        return min(delay, DELAY_MAX_US)

    @property
    def leader_us(self) -> int:
        return 2 * self.delay_us

    @property
    def advance_us(self) -> int:
        return 3 * self.delay_us

    def quorum_came(self, after_us: int) -> None:
        """Notarize votes of a quorum were here this long after the proposal."""
        self._mean_us += (min(after_us, DELAY_MAX_US) - self._mean_us) // 8

    def nullified(self) -> None:
        # Twice 25 ms grows past 10 s in 14 steps; the count itself must stay small, too.
        self._nullified_in_a_row = min(self._nullified_in_a_row + 1, _GROWTHS_MAX)

    def finalised(self) -> None:
        self._nullified_in_a_row = 0


class Silence:
    """Which leaders nobody hears: no vote of any kind during their last 3 views, while a quorum voted."""

    def __init__(self, count: int) -> None:
        self._missed = [0] * count

    def heard(self, validator: int) -> None:
        self._missed[validator] = 0

    def left_view(self, leader: int, heard_leader: bool, heard_quorum: bool) -> None:
        """A view is over in which `leader` led."""
        if heard_leader:
            self._missed[leader] = 0
        elif heard_quorum:
            self._missed[leader] = min(self._missed[leader] + 1, SILENT_VIEWS)

    def is_silent(self, leader: int) -> bool:
        return self._missed[leader] >= SILENT_VIEWS
