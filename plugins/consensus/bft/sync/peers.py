"""What block sync knows of each peer: what it was asked, what it lacks, how it behaved. Bounded by who is
connected."""

from collections.abc import Collection, Iterable

import attrs

from supervm.plugins.consensus.bft.fetching import WantBlocks
from supervm.types.digests import Digest

STRIKES_MAX = 3
RESTING_MAX = 1_024


@attrs.frozen
class Question:
    """What a peer was asked last: blocks, or batches."""

    want: WantBlocks | tuple[Digest, ...]
    at_us: int
    ticket: int = 0

    @property
    def is_blocks(self) -> bool:
        return isinstance(self.want, WantBlocks)


@attrs.define(eq=False)
class Peer:
    """`guest`: no member of the set. `absent_from`: the height from which on it has no block. `oldest`: it
    pruned what is below.

    `lacks`: batches that it said it hasn't. `silent`, `overtaken`: how often in a row it didn't answer in
    time, and how often another one answered first. `pace_us`: what a block of its answers took, smoothed.
    """

    node: bytes
    guest: bool = False
    question: Question | None = None
    absent_from: int | None = None
    oldest: int = 0
    lacks: set[Digest] = attrs.field(factory=set)
    silent: int = 0
    overtaken: int = 0
    pace_us: int = 0

    def may_have(self, height: int) -> bool:
        return self.oldest <= height and (self.absent_from is None or height < self.absent_from)

    def answered(self, items: int, now_us: int, late_us: int) -> None:
        """An answer came; one that took as long as `late_us` doesn't excuse having been overtaken."""
        assert self.question is not None, "it was asked"
        took_us = now_us - self.question.at_us
        self.pace_us += (took_us // max(items, 1) - self.pace_us) // 4
        self.silent = 0
        if took_us < late_us:
            self.overtaken = 0


class SyncPeers:
    """The peers that may be asked, and those that may not for a while."""

    def __init__(self, rest_us: int) -> None:
        self._rest_us = rest_us
        self._connected: dict[bytes, Peer] = {}
        self._resting: dict[bytes, tuple[int, bool]] = {}

    def now(self, nodes: Iterable[bytes], guests: Collection[bytes] = ()) -> None:
        """These may be asked. Who went is forgotten, but not that it rests."""
        self._connected = {
            node: self._connected.get(node) or Peer(node, node in guests)
            for node in sorted(dict.fromkeys(nodes))
        }

    def get(self, node: bytes) -> Peer | None:
        return self._connected.get(node) if node not in self._resting else None

    def usable(self) -> list[Peer]:
        """Who may be asked, by node id."""
        return [peer for node, peer in self._connected.items() if node not in self._resting]

    def rest(self, node: bytes, now_us: int, lied: bool) -> None:
        """Ask it no more for a while, ten times as long if it lied. Beyond 1,024 the longest ago goes."""
        self._resting.pop(node, None)
        self._resting[node] = (now_us + self._rest_us * (10 if lied else 1), lied)
        if len(self._resting) > RESTING_MAX:
            del self._resting[next(iter(self._resting))]
        if node in self._connected:
            self._connected[node] = Peer(node, self._connected[node].guest)

    def wake(self, now_us: int) -> None:
        """Who has rested long enough may be asked again; who was only slow also where nobody else is left."""
        alone = not self.usable()
        self._resting = {
            node: (until, lied)
            for node, (until, lied) in self._resting.items()
            if until > now_us and (lied or not alone)
        }

    def look_again(self) -> None:
        """What peers lacked they may have got."""
        for peer in self._connected.values():
            peer.absent_from = None
            peer.oldest = 0
            peer.lacks.clear()
