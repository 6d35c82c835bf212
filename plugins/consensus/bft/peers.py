"""What ordering keeps of its peers: whom it answered, who is ahead, what it asked for. All bounded."""

from collections.abc import Iterable

from supervm.plugins.consensus.bft.fetching import Want
from supervm.types.validators import ValidatorSet

ANSWERED_MAX = 1_024
ASKED_MAX = 256


class Answered:
    """When peers that are behind were last told where this node is."""

    def __init__(self) -> None:
        self._at_us: dict[bytes, int] = {}

    def is_due(self, peer: bytes, now_us: int, every_us: int) -> bool:
        last = self._at_us.get(peer)
        return last is None or now_us - last >= every_us

    def answered(self, peer: bytes, now_us: int) -> None:
        if len(self._at_us) >= ANSWERED_MAX and peer not in self._at_us:
            del self._at_us[next(iter(self._at_us))]
        self._at_us[peer] = now_us


class Ahead:
    """Validators whose votes are too far ahead to be kept, by number: their highest view, their epoch."""

    def __init__(self, validators: ValidatorSet) -> None:
        self._validators = validators
        self._views: dict[int, int] = {}
        self._epochs: dict[int, int] = {}

    def in_view(self, number: int, view: int) -> None:
        self._views[number] = max(self._views.get(number, 0), view)

    def in_epoch(self, number: int, epoch: int) -> None:
        self._epochs[number] = epoch

    def forget_upto(self, view: int) -> None:
        self._views = {number: ahead for number, ahead in self._views.items() if ahead > view}

    def lowest_view(self) -> tuple[int, list[int]] | None:
        """The lowest of their views, and who they are, if they are of some-honest weight."""
        there = sorted(self._views)
        return (min(self._views.values()), there) if self._is_some_honest(there) else None

    def in_later_epochs(self) -> list[int]:
        """Who votes in later epochs, if they are of some-honest weight; else nobody."""
        there = sorted(self._epochs)
        return there if self._is_some_honest(there) else []

    def _is_some_honest(self, numbers: Iterable[int]) -> bool:
        weight = sum(self._validators.members[number].weight for number in numbers)
        return 3 * weight > self._validators.total_weight


class Questions:
    """What is asked for and hasn't come; the oldest gives way to a new one."""

    def __init__(self) -> None:
        self._at_us: dict[Want, int] = {}

    def is_due(self, want: Want, now_us: int, every_us: int) -> bool:
        """Whether to ask now; then it counts as asked."""
        asked = self._at_us.get(want)
        if asked is not None and now_us - asked < every_us:
            return False
        if asked is None and len(self._at_us) >= ASKED_MAX:
            del self._at_us[next(iter(self._at_us))]
        self._at_us[want] = now_us
        return True

    def take(self, want: Want) -> bool:
        """It came: whether it was asked for."""
        return self._at_us.pop(want, None) is not None

    def forget(self) -> None:
        """Ask for everything anew."""
        self._at_us.clear()
