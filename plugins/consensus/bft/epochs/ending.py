"""Gathering the signatures that close an epoch early (CONS-50). A machine without I/O.

Each validator whose operator asks signs for itself and tells all; whoever has the signatures of a quorum has
the operation. To ask is no vote (CONS-38): it isn't logged, a restart forgets it, and to take it back one
restarts before a quorum has asked. While it isn't in a block it is told to the leaders of each view.
"""

from collections.abc import Callable, Iterable

from supervm.plugins.consensus.bft.events import ALL, Send, Stream
from supervm.plugins.consensus.bft.messages import EndEpoch
from supervm.types.certificate import VoteKind, bitmap_of, numbers_of, vote_message
from supervm.types.validators import ValidatorSet


class Ending:
    """Of one epoch, at one validator; `own` is its number."""

    def __init__(
        self,
        chain_id: bytes,
        epoch: int,
        validators: ValidatorSet,
        own: int,
        sign: Callable[[bytes], bytes],
    ) -> None:
        self._message = vote_message(chain_id, epoch, VoteKind.END_EPOCH)
        self._epoch = epoch
        self._validators = validators
        self._own = own
        self._sign = sign
        self._signatures: dict[int, bytes] = {}

    @property
    def asked(self) -> bool:
        """Whether this validator's operator wants it."""
        return self._own in self._signatures

    @property
    def weight(self) -> int:
        """Of those who want it, as far as this validator knows."""
        return sum(self._validators.members[number].weight for number in self._signatures)

    @property
    def gathered(self) -> EndEpoch | None:
        """What was signed so far; nothing where nobody did. It stands in a block once a quorum has."""
        if not self._signatures:
            return None
        numbers = sorted(self._signatures)
        bitmap = bitmap_of(numbers, len(self._validators.members))
        return EndEpoch(self._epoch, bitmap, tuple(self._signatures[number] for number in numbers))

    @property
    def is_complete(self) -> bool:
        return self._validators.is_quorum(self.weight)

    def ask(self) -> list[Send]:
        """The operator wants the epoch to end. Again: told to all again."""
        self._signatures.setdefault(self._own, self._sign(self._message))
        return self._say(ALL)

    def take(self, message: EndEpoch) -> bool:
        """Verified signatures of some; whether one of them was new."""
        before = len(self._signatures)
        if message.epoch == self._epoch:
            for number, signature in zip(numbers_of(message.bitmap), message.signatures, strict=True):
                self._signatures.setdefault(number, signature)
        return len(self._signatures) > before

    def remind(self, leaders: Iterable[bytes]) -> list[Send]:
        """A view begins, and no block holds it: its leaders hear of it if this validator asked."""
        return self._say(tuple(leaders)) if self.asked else []

    def _say(self, to: object) -> list[Send]:
        gathered = self.gathered
        assert gathered is not None, "the own signature is there"
        return [Send(to, gathered, Stream.VOTES)]  # type: ignore[arg-type]
