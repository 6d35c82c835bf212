"""What validators show against a builder's transactions (CONS-16), judged apart from votes.

Two transactions have to be read and their signatures verified, and a refusal holds up to a MiB of them. So
few of a validator wait, they are judged one after the other in a thread, in turns by validator, and what the
bytes alone show to be a lie is counted against it. What finds no room is dropped: it is for clients who ask,
and no batch depends on it.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from supervm.plugins.consensus.bft.batch_events import Contested

WAITING_MAX = 64
WAITING_BYTES_MAX = 2 * 2**20
"""Of a validator (chosen): about two refusals full of proofs. One always has room where nothing waits."""


@attrs.define
class _Share:
    waiting: deque[Contested] = attrs.Factory(deque)
    size_bytes: int = 0

    def has_room(self, size_bytes: int) -> bool:
        is_within = self.size_bytes + size_bytes <= WAITING_BYTES_MAX
        return not self.waiting or (len(self.waiting) < WAITING_MAX and is_within)


class Contests:
    """What waits of `members`. `judge(transaction, other)` gives why `other` is a lie, or nothing; `blame`
    names a peer and what for."""

    def __init__(
        self,
        members: Sequence[bytes],
        judge: Callable[[bytes, bytes], Awaitable[str]],
        blame: Callable[[bytes, str], None],
    ) -> None:
        self._shares = {each: _Share() for each in members}
        self._turns = deque(members)
        self._judge = judge
        self._blame = blame
        self._some = trio.Event()

    def put(self, contested: Contested) -> None:
        """Judge it some time, unless too much of its validator waits."""
        share, size_bytes = self._shares[contested.by], len(contested.data) + len(contested.other)
        if share.has_room(size_bytes):
            share.waiting.append(contested)
            share.size_bytes += size_bytes
            self._some.set()

    async def run(self) -> None:
        while True:
            await self._some.wait()
            while (contested := self._next()) is not None:
                if await self._judge(contested.data, contested.other):
                    self._blame(contested.by, "ProofInvalid")
            self._some = trio.Event()

    def _next(self) -> Contested | None:
        for _ in range(len(self._turns)):
            share = self._shares[self._turns[0]]
            self._turns.rotate(-1)
            if share.waiting:
                contested = share.waiting.popleft()
                share.size_bytes -= len(contested.data) + len(contested.other)
                return contested
        return None
