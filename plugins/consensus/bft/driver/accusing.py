"""What peers say of others: evidence and proofs of equivocation, judged apart from votes (CONS-38, CONS-70).

Two transactions have to be read and their signatures verified, which anybody can have done as often as he
likes for nothing. So few of a peer wait, they are judged one after the other in a thread, in turns by peer,
and what the bytes alone show to be false is counted against its sender. Nobody is blamed for what depends on
the state: the lock of an object shows only there, and the sender may have seen it.
"""

from collections.abc import Callable, Sequence
from enum import Enum, auto

import attrs
import trio

from supervm.contracts.application import CertifyingApplication
from supervm.plugins.consensus.bft.driver.checking import Checker
from supervm.plugins.consensus.bft.driver.receiving import Inbox, Incoming
from supervm.plugins.consensus.bft.messages import Equivocation, Evidence, Message, encode

Accusation = Evidence | Equivocation

WAITING_MAX = 256
"""Of a peer (chosen)."""


class Verdict(Enum):
    """What an accusation is worth. `DOUBTED`: it proves nothing here, and may be meant well."""

    PROVEN = auto()
    DOUBTED = auto()
    FALSE = auto()


def judge_accusation(
    application: CertifyingApplication, judge: Callable[[Sequence[bytes]], str], message: Accusation
) -> Verdict:
    """By the bytes of the message; the signatures of validators are looked at elsewhere. For any thread.

    `judge` says why system operations aren't valid, as for a block. Whatever evidence says is in its bytes.
    """
    if not judge([encode(message)]):
        return Verdict.PROVEN
    if isinstance(message, Evidence) or application.forged(message.first, message.second, message.lock):
        return Verdict.FALSE
    return Verdict.DOUBTED


@attrs.frozen
class Hands:
    """`is_of_use`: whether a machine could do anything with it. `blame` names a peer and what for."""

    is_of_use: Callable[[Accusation], bool]
    blame: Callable[[bytes, str], None]
    deliver: Callable[[bytes, Message], None]


class Accusations:
    """What waits of `peers`, and the judging of it, by `judge` and by the checker of signatures."""

    def __init__(
        self, peers: Sequence[bytes], checker: Checker, judge: Callable[[Accusation], Verdict], hands: Hands
    ) -> None:
        self._waiting = Inbox(peers, WAITING_MAX)
        self._checker = checker
        self._judge = judge
        self._hands = hands
        self._limiter = trio.CapacityLimiter(1)

    def put(self, peer: bytes, message: Accusation) -> None:
        """Judge it some time; beyond a peer's share it is dropped, and others say it too."""
        size_bytes = len(encode(message))
        if self._waiting.has_room(peer, 1, size_bytes):
            self._waiting.put(Incoming(peer, message, size_bytes))

    async def run(self) -> None:
        while True:
            for incoming in await self._waiting.take(1, 1):
                message = incoming.message
                assert isinstance(message, Accusation), "only those are put"
                if self._hands.is_of_use(message):
                    await self._judge_one(incoming.peer, message)

    async def _judge_one(self, peer: bytes, message: Accusation) -> None:
        (code,) = await self._checker.judge([message])
        if not code:
            verdict = await trio.to_thread.run_sync(self._judge, message, limiter=self._limiter)
            if verdict is Verdict.PROVEN:
                self._hands.deliver(peer, message)
            code = "ProofInvalid" if verdict is Verdict.FALSE else ""
        if code:
            self._hands.blame(peer, code)
