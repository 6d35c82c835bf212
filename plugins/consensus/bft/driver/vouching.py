"""Effects that a block must fold exactly: what this node signed, or saw a quorum sign (CONS-41).

What was applied since the node started stands in the application's overlay. What was signed before stands in
the log alone until its batch is applied again; and what others signed may never be applied here at all.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import attrs

from supervm.types.digests import Digest

SEEN_MAX = 100_000
"""Effects that a quorum signed, of transactions that no block has folded; beyond it the oldest go."""

_NONE: Mapping[Digest, Digest] = MappingProxyType({})


@attrs.define(eq=False)
class Vouched:
    """Effects digests by transaction, of one epoch: what isn't in a block of it is void with it.

    It lasts from one life of a node to the next, and so for a validator that falls behind and only follows.
    """

    epoch: int = 0
    _signed: Mapping[Digest, Digest] = _NONE
    _seen: dict[Digest, Digest] = attrs.Factory(dict)

    def begin(self, epoch: int, signed: Mapping[Digest, Digest] | None = None) -> None:
        """A life begins in this epoch. `signed`: what its validator signs, as it changes."""
        if epoch != self.epoch:
            self.epoch, self._signed = epoch, _NONE
            self._seen.clear()
        if signed is not None:
            self._signed = signed

    def saw(self, transaction: Digest, effects: Digest) -> None:
        """A quorum signed these effects in the epoch."""
        self._seen[transaction] = effects
        if len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]

    def forget(self, transactions: Sequence[Digest]) -> None:
        """A block folded these."""
        for name in transactions:
            self._seen.pop(name, None)

    def of(self, epoch: int) -> Mapping[str, Mapping[Digest, Digest]]:
        """What blocks of an epoch must fold so: see `EffectsSource.vouched`."""
        return {"signed": self._signed, "certified": self._seen} if epoch == self.epoch else {}
