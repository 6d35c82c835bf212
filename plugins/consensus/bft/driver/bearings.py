"""Whether a validator still hears its set, and how it finds out that the others went on without it (CONS-61).

A member that leaves the set and misses its epoch's last block gets no votes any more, and its own are
refused: it is a guest of the others. All that tells a validator that it is behind comes with votes, so one
that hears no quorum asks whoever is connected for the block after its last. A final block with its proof
shows that others are ahead, and it leaves voting for block sync. Where nobody has one the network has lost
its quorum, and it goes on voting, so that blocks are final again as soon as a quorum is back (CONS-65).
"""

from collections.abc import Mapping, Sequence

from supervm.api import Context
from supervm.plugins.consensus.bft.driver.sources import Hints
from supervm.plugins.consensus.bft.fetching import GotBlock, Item, OldestHeld
from supervm.plugins.consensus.bft.pacing import DELAY_MAX_US
from supervm.types.certificate import VoteKind
from supervm.types.validators import ValidatorSet

UNHEARD_S = 3 * DELAY_MAX_US / 1_000_000
"""No view takes longer where a quorum is there; who is stuck votes again more often."""
ASK_S = 5.0
ASKED_AT_ONCE = 4
BELIEVE_S = 600.0
"""So often at most a peer is believed without a proof: that it has pruned what comes next, say."""


class Bearings:
    """Of one validator in one epoch. `rest_s`: how long a healthy network without work may say nothing."""

    def __init__(
        self, ctx: Context, epoch: int, validators: ValidatorSet, own: bytes, rest_s: float, hints: Hints
    ) -> None:
        self._clock = ctx.clock
        self._epoch = epoch
        self._validators = validators
        self._weights: Mapping[bytes, int] = {each.node_id: each.weight for each in validators.members}
        self._own = own
        self._rest_s = rest_s
        self._hints = hints
        self._heard_s: dict[bytes, float] = {}
        self._moved_s = ctx.clock.monotonic()
        self._connected: tuple[bytes, ...] = ()
        self._turn = 0
        self.asked: tuple[bytes, ...] = ()

    def now(self, members: tuple[bytes, ...], guests: tuple[bytes, ...]) -> None:
        """These are connected."""
        self._connected = members + guests

    def heard(self, member: bytes) -> None:
        """A vote of this epoch came from it."""
        self._heard_s[member] = self._clock.monotonic()

    def moved(self) -> None:
        """A block was committed."""
        self._moved_s = self._clock.monotonic()

    def _hears_none_for(self, seconds: float) -> bool:
        """Whether no block and no votes of a quorum came for so long."""
        since_s = self._clock.monotonic() - seconds
        if self._moved_s >= since_s:
            return False
        heard = [each for each, at_s in self._heard_s.items() if at_s >= since_s and each != self._own]
        weight = self._weights[self._own] + sum(self._weights[each] for each in heard)
        return not self._validators.is_quorum(weight)

    @property
    def lost(self) -> str:
        """Why what it says makes nothing final; empty if it may."""
        if not self._hears_none_for(UNHEARD_S + self._rest_s):
            return ""
        return (
            f"no votes of a quorum of epoch {self._epoch} come: too few of its validators are here, or they "
            "went on without this one; it votes, and asks for what comes next"
        )

    def choose(self) -> tuple[bytes, ...]:
        """Whom to ask now for the block after the last: others each time, nobody where a quorum is heard."""
        self.asked = ()
        if self._connected and self._hears_none_for(UNHEARD_S):
            count = len(self._connected)
            places = range(self._turn, self._turn + min(ASKED_AT_ONCE, count))
            self.asked = tuple(self._connected[place % count] for place in places)
            self._turn += ASKED_AT_ONCE
        return self.asked

    def shows_more(self, peer: bytes, items: Sequence[Item], height: int) -> bool:
        """Whether who was asked shows that there are final blocks above a height. `items`: their signatures
        of this epoch were verified."""
        if peer not in self.asked:
            return False
        shown = any(self._is_proven(each, height) for each in items)
        if not shown and any(_is_claimed(each, height) for each in items):
            now_s = self._clock.monotonic()
            shown = now_s - self._hints.believed_s >= BELIEVE_S
            if shown:
                self._hints.believed_s = now_s
        if shown:
            self._hints.ahead = (peer,)
        return shown

    def _is_proven(self, item: Item, height: int) -> bool:
        if not isinstance(item, GotBlock) or item.finalisation is None:
            return False
        proof = item.finalisation
        named = (proof.kind, proof.epoch, proof.digest)
        is_final = named == (VoteKind.FINALIZE, self._epoch, item.block.digest())
        return is_final and item.block.header.height > height


def _is_claimed(item: Item, height: int) -> bool:
    match item:
        case GotBlock(block):
            return block.header.height > height
        case OldestHeld(oldest):
            return oldest > height + 1
    return False
