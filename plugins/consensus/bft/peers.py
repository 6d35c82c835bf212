"""What ordering keeps of its peers: whom it answered, who is ahead, what it asked for. All bounded."""

from collections.abc import Iterable, Sequence

from supervm.plugins.consensus.bft.events import Behind, Fetch, Output, Send, Stream
from supervm.plugins.consensus.bft.fetching import VIEWS_MAX, Want, WantViews
from supervm.plugins.consensus.bft.pacing import Pacing
from supervm.plugins.consensus.bft.proposals import Epoch
from supervm.plugins.consensus.bft.votes import ViewVote
from supervm.types.certificate import Certificate, numbers_of
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


class Peers:
    """Who is behind is told where this node is; who is ahead is asked for what this node lacks (CONS-34)."""

    def __init__(self, epoch: Epoch, own: int | None, pacing: Pacing) -> None:
        self._epoch = epoch
        self._own = own
        self._pacing = pacing
        self._members = epoch.validators.members
        self._answered = Answered()
        self._ahead = Ahead(epoch.validators)
        self._questions = Questions()

    def tell(self, peer: bytes, certificates: Sequence[Certificate], now_us: int) -> list[Output]:
        """Send certificates to a peer that lacks them, once a D a peer."""
        if not certificates or not self._answered.is_due(peer, now_us, self._pacing.delay_us):
            return []
        self._answered.answered(peer, now_us)
        return [Send((peer,), certificate, Stream.VOTES) for certificate in dict.fromkeys(certificates)]

    def told_all(self, now_us: int) -> None:
        """All were sent what is newest: who votes late has it on its way."""
        for member in self._members:
            self._answered.answered(member.node_id, now_us)

    def of_other_epoch(self, peer: bytes, vote: ViewVote, now_us: int) -> list[Output]:
        """A vote of another epoch: help whoever is behind, notice that this node is."""
        if vote.epoch < self._epoch.number:
            base = self._epoch.base_finalisation
            return [] if base is None else self.tell(peer, [base], now_us)
        # The set of a later epoch isn't known here: whoever is of this one and votes there counts.
        number = self._epoch.validators.number_of(peer)
        if number is None:
            return []
        self._ahead.in_epoch(number, vote.epoch)
        later = self._ahead.in_later_epochs()
        if not later:
            return []
        there = tuple(self._members[n].node_id for n in later)
        return self._ask(WantViews(vote.epoch, 0, 0), Behind(vote.epoch, there), now_us)

    def ahead(self, vote: ViewVote, now_us: int) -> list[Output]:
        """Votes too far ahead aren't kept; of some-honest weight they say that certificates are missed."""
        self._ahead.in_view(vote.validator, vote.view)
        found = self._ahead.lowest_view()
        if found is None:
            return []
        lowest, there = found
        want = WantViews(self._epoch.number, lowest - 1, lowest + VIEWS_MAX - 2)
        return self.fetch(want, now_us, tuple(self._members[number].node_id for number in there))

    def entered(self, view: int) -> None:
        self._ahead.forget_upto(view)

    def signers(self, certificate: Certificate) -> tuple[bytes, ...]:
        """Who signed a certificate, but for this node."""
        numbers = numbers_of(certificate.bitmap)
        return tuple(self._members[number].node_id for number in numbers if number != self._own)

    def fetch(self, want: Want, now_us: int, peers: tuple[bytes, ...] = ()) -> list[Output]:
        """Ask, unless the same was asked for less than 2D ago (CONS-63)."""
        return self._ask(want, Fetch(want, peers), now_us)

    def _ask(self, want: Want, output: Output, now_us: int) -> list[Output]:
        return [output] if self._questions.is_due(want, now_us, self._pacing.leader_us) else []

    def came(self, want: Want) -> bool:
        """What was asked for is here: whether it was."""
        return self._questions.take(want)

    def ask_anew(self) -> None:
        self._questions.forget()
