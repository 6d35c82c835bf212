"""Whom a node asks for blocks: members of the set that it knows, and other nodes where those don't help.

Block sync believes proofs, so whoever is connected may be asked. Members come first, since they have the
blocks, and since anyone can be many other nodes: of those a few are asked at a time, in turns.
"""

from math import inf

import attrs

from supervm.plugins.consensus.bft.driver.vouching import Vouched

GUESTS_ASKED_MAX = 8
TURN_S = 10.0
"""Where no block comes for so long other nodes are asked beside members, and then others of them."""


@attrs.define
class Hints:
    """What a node's lives leave to each other. `ahead`: who showed, or gave, blocks above the tip.
    `believed_s`: when a peer was last believed that there are some, without a proof. `vouched`: effects that
    blocks must fold so."""

    ahead: tuple[bytes, ...] = ()
    believed_s: float = -inf
    vouched: Vouched = attrs.Factory(Vouched)


class Sources:
    """Who is asked among those who are connected: all members, and of the guests at most 8."""

    def __init__(self, hints: Hints) -> None:
        self._hints = hints
        self.members: tuple[bytes, ...] = ()
        self._connected: tuple[bytes, ...] = ()
        self._first: int | None = None

    def now(self, members: tuple[bytes, ...], guests: tuple[bytes, ...]) -> None:
        """These are connected."""
        self.members, self._connected = members, guests

    def turn(self) -> None:
        """Nobody helps: ask guests too, and other ones if they are asked already."""
        room = GUESTS_ASKED_MAX - len(self._ahead)
        self._first = 0 if self._first is None else self._first + room

    @property
    def _ahead(self) -> tuple[bytes, ...]:
        return tuple(each for each in self._connected if each in self._hints.ahead)[:GUESTS_ASKED_MAX]

    @property
    def guests(self) -> tuple[bytes, ...]:
        """Those who are known to be ahead, and others where members don't help or there are none."""
        ahead = self._ahead
        others = [each for each in self._connected if each not in ahead]
        if not others or (self._first is None and self.members):
            return ahead
        first = (self._first or 0) % len(others)
        return (*ahead, *others[first:], *others[:first])[:GUESTS_ASKED_MAX]
