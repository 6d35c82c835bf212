"""What this node serves: handlers of methods, subscribers of topics, listeners for streams."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import attrs
import trio

from supervm.api import Context
from supervm.contracts.transport import (
    LIMITS,
    Broadcast,
    ErrorCode,
    Handler,
    IncomingStream,
    Refusal,
)

ACCEPT_QUEUE_MAX = 16


@attrs.define(eq=False)
class Registry:
    """Who answers, as long as they do."""

    ctx: Context
    _handlers: dict[int, Handler] = attrs.Factory(dict)
    _topics: dict[str, list[trio.MemorySendChannel[Broadcast]]] = attrs.Factory(dict)
    _listeners: dict[str, trio.MemorySendChannel[IncomingStream]] = attrs.Factory(dict)

    @contextmanager
    def serve(self, method: int, handler: Handler) -> Iterator[None]:
        if method in self._handlers:
            raise ValueError(f"method {method:#06x} has a handler already")
        self._handlers[method] = handler
        try:
            yield
        finally:
            del self._handlers[method]

    @contextmanager
    def subscribe(self, topic: str, queue_max: int) -> Iterator[trio.MemoryReceiveChannel[Broadcast]]:
        sender, receiver = trio.open_memory_channel[Broadcast](queue_max)
        self._topics.setdefault(topic, []).append(sender)
        with sender, receiver:
            try:
                yield receiver
            finally:
                self._topics[topic].remove(sender)
                if not self._topics[topic]:
                    del self._topics[topic]

    @asynccontextmanager
    async def listen(self, protocol: str) -> AsyncIterator[trio.MemoryReceiveChannel[IncomingStream]]:
        if protocol in self._listeners:
            raise ValueError(f"protocol {protocol!r} has a listener already")
        sender, receiver = trio.open_memory_channel[IncomingStream](ACCEPT_QUEUE_MAX)
        self._listeners[protocol] = sender
        async with sender, receiver:
            try:
                yield receiver
            finally:
                del self._listeners[protocol]
                await _break_those_left(receiver)

    # -- what peers ask for

    def answer_now(self, peer: bytes, method: int, payload: bytes) -> bytes | Refusal | None:
        """The reply of a handler that is marked as one that never waits; None where it isn't."""
        handler = self._handlers.get(method)
        if handler is None or not getattr(handler, "never_waits", False):
            return None
        work = self.answer(peer, method, payload)
        try:
            work.send(None)
        except StopIteration as ended:
            reply: bytes | Refusal = ended.value
            return reply
        work.close()
        raise AssertionError(f"the handler of method {method:#06x} waits")

    async def answer(self, peer: bytes, method: int, payload: bytes) -> bytes | Refusal:
        """The reply to a request. Never raises what its handler raised."""
        handler = self._handlers.get(method)
        if handler is None:
            return Refusal(ErrorCode.UNKNOWN_METHOD, f"method {method:#06x}")
        try:
            reply = await handler(peer, payload)
        except Refusal as refusal:
            return refusal
        except Exception as error:
            self.ctx.log.error("handler_failed", method=method, exc_info=error)
            return Refusal(ErrorCode.REMOTE_FAILED, "the handler failed")
        if len(reply) > LIMITS.request_bytes_max:
            self.ctx.log.error("reply_too_large", method=method, size_bytes=len(reply))
            return Refusal(ErrorCode.TOO_LARGE, f"a reply of {len(reply)} bytes")
        return reply

    def deliver(self, peer: bytes, topic: str, payload: bytes) -> None:
        """Give a broadcast to its subscribers; one whose queue is full loses it."""
        for sender in self._topics.get(topic, ()):
            try:
                sender.send_nowait(Broadcast(peer=peer, payload=payload))
            except trio.WouldBlock:
                count_dropped(self.ctx)

    def accept(self, peer: bytes, protocol: str, stream: trio.abc.HalfCloseableStream) -> Refusal | None:
        """Give a stream to who listens for its protocol; a refusal if nobody does, or too many wait."""
        listener = self._listeners.get(protocol)
        if listener is None:
            return Refusal(ErrorCode.UNKNOWN_METHOD, "nobody listens for this protocol")
        try:
            listener.send_nowait(IncomingStream(peer=peer, stream=stream))
        except trio.WouldBlock:
            return Refusal(ErrorCode.OVERLOADED, "too many streams wait")
        return None


async def _break_those_left(receiver: trio.MemoryReceiveChannel[IncomingStream]) -> None:
    """Streams that nobody took: whoever opened them is told, and doesn't wait for ever."""
    while True:
        try:
            left = receiver.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            return
        await trio.aclose_forcefully(left.stream)


def count_cut_off(ctx: Context, kind: str = "blamed") -> None:
    """A peer was cut off; `kind` is one of the endings that the operator page lists."""
    ctx.metrics.counter("transport_cut_off_total", "Peers cut off and banned, by why", ("kind",)).inc(
        kind=kind
    )


def count_dropped(ctx: Context) -> None:
    """A broadcast, or what was told, reached nobody here, or no queue of a peer."""
    ctx.metrics.counter("transport_broadcasts_dropped_total", "Broadcasts dropped").inc()
