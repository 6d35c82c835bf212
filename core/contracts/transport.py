"""The transport role: authenticated messages between node ids, whatever they carry (NET-1..7).

Any number of transports may be open; each yields a `Transport`. A peer is its 32-byte node id, and the
transport vouches for it: a handler's `peer` is who really sent.

What a transport keeps
    Requests: one answer or one error for each; at most once, so never retried by the transport. No order
    between two of them.
    What is told: best effort, at most once, to the handler of a method, whose reply goes nowhere. No order.
    Broadcast: best effort. Some peers may not get it; nobody gets it twice; the sender doesn't.
    Streams: ordered and reliable until they break; a break is an error on both sides, never silence.
    Bounds: `LIMITS` unless stated; over them a typed error before anything is sent, or the sender waits.
    Cancellation: a cancelled request may have reached the peer; what it answers is dropped.
    Failure: what a peer sends can't hurt the node: a handler that raises answers `REMOTE_FAILED`, and
    garbage ends the connection it came from.
    Cutting off: who is cut off isn't connected, and can't connect, until its time is over; then it may.
    Identity: of two running nodes of one identity, one ends with `IdentityInUse`, as soon as it finds out.
    Durability: none.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from enum import IntEnum
from typing import Protocol, runtime_checkable

import attrs
import trio

Handler = Callable[[bytes, bytes], Awaitable[bytes]]
"""`await handler(peer, payload) -> reply`. Raise `Refusal` to answer with an error.

One that never waits for anything may say so by an attribute `never_waits = True`: a transport may then call
it where it reads the request, without a task, and an empty reply of it may come up to 100 ms late.
"""


class Priority(IntEnum):
    """Votes go before dissemination, and that before bulk (CONS-39)."""

    HIGH = 0
    NORMAL = 1
    BULK = 2


@attrs.frozen(kw_only=True)
class TransportLimits:
    """Bounds of NET-6. Bytes are of a payload, counts are for each peer."""

    request_bytes_max: int = 4 * 2**20
    broadcast_bytes_max: int = 2**20
    requests_max: int = 64
    streams_max: int = 256
    send_queue_bytes_max: int = 8 * 2**20
    error_text_bytes_max: int = 256


LIMITS = TransportLimits()


class TransportError(Exception):
    """Base of all that a transport raises. `peer` is the node id concerned, empty where there is none."""

    def __init__(self, problem: str, peer: bytes = b"", mend: str = "") -> None:
        self.peer = peer
        text = f"{problem} (peer {peer.hex()[:16]})" if peer else problem
        super().__init__(f"{text}; {mend}" if mend else text)


class Unreachable(TransportError):
    """The peer isn't known, isn't connected, or the connection broke."""


class DeadlineExceeded(TransportError):
    """No answer within the time given."""


class MessageTooLarge(TransportError):
    """A payload over its bound; nothing was sent."""


class Overloaded(TransportError):
    """Too many requests or streams to this peer are under way."""


class IdentityInUse(TransportError):
    """Another running node has this identity, and peers have it as this node: a data folder was copied
    (NET-15). It ends the transport, and the node with it."""

    must_stop = True


class ErrorCode(IntEnum):
    """How a peer answers what it doesn't serve (NET-7)."""

    BAD_REQUEST = 1
    UNKNOWN_METHOD = 2
    NOT_FOUND = 3
    OVERLOADED = 4
    RATE_LIMITED = 5
    UNAUTHORIZED = 6
    TOO_LARGE = 7
    TIMEOUT = 8
    WRONG_NETWORK = 9
    POLICY_REFUSED = 10
    REMOTE_FAILED = 11


class Refusal(TransportError):
    """The peer's answer is an error. A handler raises it to give one."""

    def __init__(
        self, code: ErrorCode, text: str = "", *, retry_after_ms: int = 0, peer: bytes = b""
    ) -> None:
        self.code, self.text, self.retry_after_ms = code, text, retry_after_ms
        super().__init__(f"{code.name}: {text}" if text else code.name, peer)


@attrs.frozen(kw_only=True)
class Medium:
    """What the transport runs over, for whoever chooses among several."""

    name: str
    metered: bool = False


@attrs.frozen(kw_only=True)
class PeerInfo:
    """A peer this transport can reach now. `rtt_ms` is measured, None before the first answer."""

    node_id: bytes
    address: str
    rtt_ms: float | None = None


@attrs.frozen(kw_only=True)
class IncomingStream:
    """A stream that a peer opened."""

    peer: bytes
    stream: trio.abc.HalfCloseableStream


@attrs.frozen(kw_only=True)
class Broadcast:
    """A message that a peer sent to all."""

    peer: bytes
    payload: bytes


@runtime_checkable
class Transport(Protocol):
    """A running transport. See the module for what it keeps."""

    @property
    def node_id(self) -> bytes:
        """Our own, 32 bytes."""

    @property
    def medium(self) -> Medium:
        """What it runs over."""

    def peers(self) -> tuple[PeerInfo, ...]:
        """Who can be reached now, in order of node id."""

    def cut_off(self, peer: bytes, reason: str) -> float:
        """End the link to a peer for what it sent, and have none with it for a time, in seconds that this
        returns: longer each time it is cut off again, and no longer while it is. Log and metrics name it
        and the reason. What is under way with it ends as with any link that breaks. Returns at once.

        For what the peer itself did, since the transport vouches for who sent it, and not for what it passed
        on that it could not judge. Any task may call it, a handler too.
        """

    def serve(self, method: int, handler: Handler) -> AbstractContextManager[None]:
        """Answer requests of a method (u16) for the length of a `with`. Raises ValueError for a second
        handler of one method. Handlers run in the transport's tasks, each under the request's deadline."""

    async def request(
        self,
        peer: bytes,
        method: int,
        payload: bytes,
        *,
        timeout_s: float,
        priority: Priority = Priority.NORMAL,
    ) -> bytes:
        """Ask a peer.

        Raises `Unreachable`, `DeadlineExceeded`, `MessageTooLarge`, `Overloaded`, `Refusal`.
        """

    async def tell(
        self, peer: bytes, method: int, payload: bytes, *, priority: Priority = Priority.NORMAL
    ) -> None:
        """Give a peer's handler what needs no answer, of at most `request_bytes_max`. Returns once queued,
        and waits while there is no room. Raises `Unreachable`, `MessageTooLarge`."""

    async def broadcast(self, topic: str, payload: bytes, *, priority: Priority = Priority.NORMAL) -> None:
        """Tell every reachable peer. Returns once queued. Raises `MessageTooLarge`."""

    def subscribe(
        self, topic: str, *, queue_max: int = 256
    ) -> AbstractContextManager[trio.MemoryReceiveChannel[Broadcast]]:
        """Receive a topic's broadcasts for the length of a `with`; at `queue_max` waiting, the newest is
        dropped and counted."""

    async def open_stream(self, peer: bytes, protocol: str) -> trio.abc.HalfCloseableStream:
        """A stream to a peer that listens for `protocol`. Raises `Unreachable`, `Overloaded`, `Refusal`."""

    def listen(self, protocol: str) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[IncomingStream]]:
        """Accept streams of a protocol for the length of an `async with`; 16 wait at most, then refused."""
