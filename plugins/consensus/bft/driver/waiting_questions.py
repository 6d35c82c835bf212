"""Questions of peers that wait to be answered: bounded by peer, and served in turns between peers.

Reading a range of blocks costs thousands of times what asking for it costs, so whoever asks much waits behind
itself alone. All guests together have one validator's turn: there may be more of them than validators.
"""

from collections import deque
from collections.abc import Collection

import attrs
import trio

from supervm.plugins.consensus.bft.fetching import Want, WantDigest, WantViews

MEMBER_WAITING_MAX = 64
GUEST_WAITING_MAX = 3
"""Of blocks, of a snapshot and of a damaged row."""

_GUESTS = b""
"""Whose turn that of all guests is; no node has this id."""

Wants = tuple[Want, ...]


@attrs.define
class _Share:
    """Of one peer. `young`: what consensus waits for now; it comes before `old`, which is history."""

    young: deque[Wants] = attrs.Factory(deque)
    old: deque[Wants] = attrs.Factory(deque)

    def __len__(self) -> int:
        return len(self.young) + len(self.old)

    def add(self, wants: Wants, waiting_max: int) -> None:
        is_young = all(isinstance(want, WantDigest | WantViews) for want in wants)
        (self.young if is_young else self.old).append(wants)
        if len(self) > waiting_max:
            (self.old or self.young).popleft()

    def take(self) -> Wants:
        return (self.young or self.old).popleft()


class WaitingQuestions:
    """Holds nothing of a peer of whom nothing waits."""

    def __init__(self) -> None:
        self._shares: dict[bytes, _Share] = {}
        self._turns: dict[bytes, None] = {}
        self._guests: dict[bytes, None] = {}
        self._some = trio.Event()

    def __len__(self) -> int:
        return sum(map(len, self._shares.values()))

    def put(self, peer: bytes, wants: Wants, is_guest: bool = False) -> None:
        """Beyond a peer's share its oldest question is dropped, of history first: whoever still wants that
        asks again, and by now others may have told it."""
        share = self._shares.setdefault(peer, _Share())
        share.add(wants, GUEST_WAITING_MAX if is_guest else MEMBER_WAITING_MAX)
        if is_guest:
            self._guests.setdefault(peer)
        self._turns.setdefault(_GUESTS if is_guest else peer)
        self._some.set()

    def keep_guests(self, guests: Collection[bytes]) -> None:
        """What waits of guests that have gone is dropped."""
        for gone in [each for each in self._guests if each not in guests]:
            del self._shares[gone], self._guests[gone]

    async def take(self) -> tuple[bytes, Wants]:
        """Wait for a question: one of each peer in turn."""
        while True:
            await self._some.wait()
            while self._turns:
                holder = next(iter(self._turns))
                del self._turns[holder]
                if holder != _GUESTS:
                    return self._take_of(holder, self._turns)
                if self._guests:
                    peer = next(iter(self._guests))
                    del self._guests[peer]
                    taken = self._take_of(peer, self._guests)
                    if self._guests:
                        self._turns[_GUESTS] = None
                    return taken
            self._some = trio.Event()

    def _take_of(self, peer: bytes, turns: dict[bytes, None]) -> tuple[bytes, Wants]:
        """Its next question; who has more comes last in its turns."""
        share = self._shares[peer]
        wants = share.take()
        if len(share):
            turns[peer] = None
        else:
            del self._shares[peer]
        return peer, wants
