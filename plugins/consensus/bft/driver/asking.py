"""Asking peers for what is missed, again and again while it is wanted (CONS-2, CONS-61, CONS-63).

Each question goes to one peer at a time, those who must have it first. Bounded: beyond `QUESTIONS_MAX` the
oldest is forgotten; whoever needs it asks anew.
"""

from collections.abc import Callable

import attrs
import trio

from supervm.api import Context
from supervm.plugins.consensus.bft.fetching import ITEMS_MAX, Get, Want

QUESTIONS_MAX = 4_096
AGAIN_S = 0.4
TICK_S = 0.1


@attrs.define
class _Question:
    peers: tuple[bytes, ...]
    wanted: Callable[[], bool]
    due_s: float
    tries: int = 0


class Questions:
    """What is asked for. `send(peer, get)` carries a question; `peers` are all who might know."""

    def __init__(self, ctx: Context, peers: tuple[bytes, ...], send: Callable[[bytes, Get], None]) -> None:
        self._ctx = ctx
        self._peers = peers
        self._send = send
        self._open: dict[Want, _Question] = {}
        self._turn = 0
        self._wake = trio.Event()

    def __len__(self) -> int:
        return len(self._open)

    def ask_once(self, want: Want, peers: tuple[bytes, ...]) -> None:
        """For whoever asks again by itself; each time another peer gets the question."""
        choice = [each for each in peers if each in self._peers] or list(self._peers)
        if choice:
            self._turn += 1
            self._send(choice[self._turn % len(choice)], Get((want,)))

    def keep_asking(self, want: Want, peers: tuple[bytes, ...], wanted: Callable[[], bool]) -> None:
        """Ask until `wanted` says no. The same question again changes nothing."""
        if want in self._open:
            return
        if len(self._open) >= QUESTIONS_MAX:
            del self._open[next(iter(self._open))]
        self._open[want] = _Question(peers, wanted, self._ctx.clock.monotonic())
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._ask_due()
            if not self._open:
                self._wake = trio.Event()
            await self._ctx.clock.sleep(TICK_S)

    def _ask_due(self) -> None:
        now_s = self._ctx.clock.monotonic()
        asked: dict[bytes, list[Want]] = {}
        for want, question in list(self._open.items()):
            if not question.wanted():
                del self._open[want]
            elif question.due_s <= now_s:
                likely = [each for each in question.peers if each in self._peers]
                # Who must have it may be away: every third time anyone is asked.
                choice = likely if likely and question.tries % 3 != 2 else list(self._peers)
                if choice:
                    asked.setdefault(choice[question.tries % len(choice)], []).append(want)
                question.tries += 1
                question.due_s = now_s + AGAIN_S
        for peer, wants in asked.items():
            for first in range(0, len(wants), ITEMS_MAX):
                self._send(peer, Get(tuple(wants[first : first + ITEMS_MAX])))
