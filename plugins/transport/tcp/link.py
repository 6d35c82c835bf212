"""A link: all that two nodes have in common while they are connected. Three connections, one a priority.

Votes have a connection of their own, and so have dissemination and bulk (CONS-39): bytes of one never wait
behind bytes of another, neither in our queues nor in the kernel's. What is asked on a connection is
answered on it. The link is up while all three are.

Nothing that a peer sends makes us wait for it: its requests are answered by tasks, at most 64 on a
connection; its broadcasts go to bounded queues; its streams have credit. So reading never depends on
writing, and two nodes that send each other all they can don't block one another.
"""

from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import attrs
import trio

from supervm.api import Context
from supervm.contracts.transport import (
    LIMITS,
    DeadlineExceeded,
    ErrorCode,
    Overloaded,
    PeerInfo,
    Priority,
    Refusal,
    Unreachable,
)
from supervm.plugins.transport.registry import Registry, count_dropped
from supervm.plugins.transport.tcp.certificates import Incarnation
from supervm.plugins.transport.tcp.frames import (
    Kind,
    Malformed,
    Message,
    error_payload,
    read_broadcast,
    read_error,
    read_protocol,
    read_window,
)
from supervm.plugins.transport.tcp.lane import Lane, LinkEnded
from supervm.plugins.transport.tcp.streams import Growth, TcpStream
from supervm.plugins.transport.tcp.tls import Insecure

DEADLINE_MS_MAX: Final = 2**32 - 1
HANDLERS_MAX: Final = 2 * LIMITS.requests_max
"""Handlers that run on a connection, with those that were cancelled and haven't noticed."""
HEARING_S: Final = 30.0
"""How long a handler may take for what it was told."""
RTT_SHARE: Final = 0.125
"""The weight of a new round trip in the mean, as RFC 6298 has it."""
BLAMED: Final = "blamed"
"""How a link ends whose peer a component cuts off."""
AT_FAULT: Final = frozenset({"malformed", "insecure", "flood", BLAMED})
"""Endings for which a peer is cut off: banned for a while, and named."""


@attrs.define(eq=False)
class Asked:
    """A request or an opening stream that waits for its answer."""

    answer: bytes | Exception | None = None
    done: trio.Event = attrs.Factory(trio.Event)

    def settle(self, answer: bytes | Exception) -> None:
        self.answer = answer
        self.done.set()


@attrs.frozen(kw_only=True)
class Watch:
    """When a silent peer is pinged, and when it is given up, in seconds."""

    ping_s: float
    silence_s: float


@attrs.define(eq=False)
class Link:
    """A peer, connected. `dialed`: by us; that side's numbers are even, the other's odd.

    `left(link)` is called when it has ended, before anybody who waits for the peer is told, and
    `broke(link, error)` of an error that is a bug of ours.
    """

    peer: bytes
    address: str
    dialed: bool
    lanes: Mapping[Priority, Lane]
    registry: Registry
    ctx: Context
    watch: Watch
    left: Callable[["Link"], None]
    broke: Callable[["Link", Exception], None]
    up_at: float = attrs.field(init=False)
    rtt_ms: float | None = None
    over: trio.Event = attrs.Factory(trio.Event)
    ending: LinkEnded | None = None
    _scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _nursery: trio.Nursery | None = None
    _next_id: int = attrs.field(init=False)
    _asked: dict[int, Asked] = attrs.Factory(dict)
    _requests: int = 0
    _answering: dict[tuple[Priority, int], trio.CancelScope] = attrs.Factory(dict)
    _handlers: Counter[Priority] = attrs.Factory(Counter)
    _streams: dict[int, TcpStream] = attrs.Factory(dict)
    _highest_stream: int = -1
    _growth: Growth = attrs.Factory(Growth)
    _pinged_at: tuple[int, float] | None = None

    def __attrs_post_init__(self) -> None:
        self.up_at = self.ctx.clock.monotonic()
        self._next_id = 0 if self.dialed else 1

    @property
    def incarnation(self) -> Incarnation:
        """Which run of the peer this link is with."""
        return self.lanes[Priority.HIGH].stream.incarnation

    @property
    def is_lively(self) -> bool:
        """Whether the peer answered the last ping or the one before."""
        heard_s = self.ctx.clock.monotonic() - self.lanes[Priority.HIGH].heard_at
        return heard_s <= 2 * self.watch.ping_s

    @property
    def info(self) -> PeerInfo:
        return PeerInfo(node_id=self.peer, address=self.address, rtt_ms=self.rtt_ms)

    # -- its life

    async def run(self) -> LinkEnded:
        """Carry messages until the link ends; how it ended. Its connections are closed then."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    for lane in self.lanes.values():
                        nursery.start_soon(self._guarded, lane.write())
                        nursery.start_soon(self._guarded, lane.read(self._receive))
                    nursery.start_soon(self._guarded, self._keep_alive())
        finally:
            self._nursery = None
            ending = self.ending or LinkEnded("closed", "this node closed the connection")
            self.ending = ending
            self._let_go(ending)
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    for lane in self.lanes.values():
                        nursery.start_soon(lane.stream.aclose)
        return ending

    def end(self, ending: LinkEnded) -> None:
        """End the link; the first cause given is the cause."""
        self.ending = self.ending or ending
        self._scope.cancel()

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Nothing that a peer makes fail fails more than its link."""
        try:
            await work
        except LinkEnded as ending:
            self.end(ending)
        except Malformed as error:
            self.end(LinkEnded("malformed", str(error)))
        except Insecure as error:
            self.end(LinkEnded("insecure", str(error)))
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            self.end(LinkEnded("lost", str(error)))
        except Exception as error:
            self.broke(self, error)
            self.end(LinkEnded("failed", f"a bug of this node: {type(error).__name__}"))

    def _let_go(self, ending: LinkEnded) -> None:
        """Tell everybody who waits for the peer."""
        self.left(self)
        for asked in list(self._asked.values()):
            asked.settle(Unreachable(f"the connection ended: {ending}", self.peer))
        for stream in list(self._streams.values()):
            stream.broke(f"the connection ended: {ending}")
        for lane in self.lanes.values():
            lane.out.close()
        self.over.set()

    async def _keep_alive(self) -> None:
        """Ping, measure round trips, and give up a peer that is silent."""
        clock, ping_s = self.ctx.clock, self.watch.ping_s
        votes = self.lanes[Priority.HIGH]
        while True:
            asleep_at = clock.monotonic()
            if self._pinged_at is None:
                self._pinged_at = (self._next_id, asleep_at)
                votes.out.put_answer(Message(Kind.PING, self._next_id))
                self._next_id += 2
            await clock.sleep(ping_s)
            now = clock.monotonic()
            if now - asleep_at > 2 * ping_s:
                continue  # this process stood still: what came meanwhile isn't read yet
            for lane in self.lanes.values():
                silent_s = now - lane.heard_at
                if silent_s > self.watch.silence_s:
                    raise LinkEnded("silent", f"nothing came for {silent_s:.1f} s")
                if silent_s > ping_s / 2 and lane is not votes:
                    lane.out.put_answer(Message(Kind.PING, 0))

    # -- what we ask

    async def request(self, method: int, payload: bytes, timeout_s: float, priority: Priority) -> bytes:
        """As `Transport.request`."""
        if self._requests >= LIMITS.requests_max:
            raise Overloaded(f"{LIMITS.requests_max} requests are under way", self.peer, "wait for one")
        deadline_ms = max(1, min(DEADLINE_MS_MAX, int(timeout_s * 1000)))
        self._requests += 1
        try:
            message = Message(Kind.REQUEST, self._take_id(), payload, method, deadline_ms)
            with trio.move_on_after(timeout_s):
                return await self._ask(self.lanes[priority], message)
            raise DeadlineExceeded(f"no answer within {timeout_s:g} s", self.peer)
        finally:
            self._requests -= 1

    async def tell(self, method: int, payload: bytes, priority: Priority) -> None:
        """As `Transport.tell`."""
        try:
            await self.lanes[priority].out.put(Message(Kind.TELL, 0, payload, method))
        except trio.ClosedResourceError:
            raise Unreachable("the connection ended", self.peer) from None

    async def open_stream(self, protocol: str) -> TcpStream:
        """As `Transport.open_stream`. Streams are bulk."""
        mine = sum(1 for id in self._streams if id % 2 == self._next_id % 2)
        if mine >= LIMITS.streams_max:
            raise Overloaded(f"{LIMITS.streams_max} streams are open", self.peer, "close one")
        lane = self.lanes[Priority.BULK]
        stream = self._new_stream(self._take_id(), lane)
        accepted = False
        try:
            await self._ask(lane, Message(Kind.OPEN, stream.id, protocol.encode()))
            accepted = True
        finally:
            if not accepted:
                self._streams.pop(stream.id, None)
        return stream

    async def _ask(self, lane: Lane, message: Message) -> bytes:
        """Send what wants an answer, and wait for it. Raises what the answer is, or `Unreachable`."""
        asked = self._asked[message.id] = Asked()
        queued = False
        try:
            await lane.out.put(message)
            queued = True
            await asked.done.wait()
        except trio.ClosedResourceError:
            raise Unreachable("the connection ended", self.peer) from None
        finally:
            del self._asked[message.id]
            if queued and not asked.done.is_set() and not self.over.is_set():
                lane.out.abandon(message)
        if isinstance(asked.answer, bytes):
            return asked.answer
        assert asked.answer is not None, "settled with nothing"
        raise asked.answer

    def broadcast(self, message: Message, priority: Priority) -> bool:
        """Queue a broadcast; whether there was room."""
        return self.lanes[priority].out.put_nowait(message)

    def _take_id(self) -> int:
        self._next_id += 2
        return self._next_id - 2

    # -- what the peer sends

    def _receive(self, lane: Lane, message: Message) -> None:
        """Raises `Malformed`. Doesn't wait."""
        receive = _RECEIVERS.get(message.kind)
        if receive is None:
            raise Malformed(f"{message.kind.name} out of place")
        receive(self, lane, message)

    def _on_request(self, lane: Lane, message: Message) -> None:
        key = (lane.priority, message.id)
        if self._is_ours(message.id) or key in self._answering:
            raise Malformed("a request with a number that isn't its to use")
        waiting = sum(1 for priority, _ in self._answering if priority is lane.priority)
        if waiting >= LIMITS.requests_max or self._handlers[lane.priority] >= HANDLERS_MAX:
            text = f"{LIMITS.requests_max} requests are under way"
            lane.out.put_answer(Message(Kind.ERROR, message.id, error_payload(ErrorCode.OVERLOADED, text)))
            return
        reply = self.registry.answer_now(self.peer, message.method, message.payload)
        if reply == b"" and lane.out.put_late(Message(Kind.RESPONSE, message.id)):
            return
        if reply is not None and lane.out.put_nowait(_as_message(message.id, reply)):
            return
        self._answering[key] = trio.CancelScope()
        self._handlers[lane.priority] += 1
        self._start(self._answer(lane, message, self._answering[key], reply))

    def _on_tell(self, lane: Lane, message: Message) -> None:
        """What would be one more than `HANDLERS_MAX` handlers of a connection is dropped and counted."""
        if message.id:
            raise Malformed("what is told has no number")
        if self.registry.answer_now(self.peer, message.method, message.payload) is not None:
            return
        if self._handlers[lane.priority] >= HANDLERS_MAX:
            count_dropped(self.ctx)
            return
        self._handlers[lane.priority] += 1
        self._start(self._hear(lane, message))

    async def _hear(self, lane: Lane, message: Message) -> None:
        try:
            with trio.move_on_after(HEARING_S):
                await self.registry.answer(self.peer, message.method, message.payload)
        finally:
            self._handlers[lane.priority] -= 1

    async def _answer(
        self, lane: Lane, message: Message, scope: trio.CancelScope, reply: bytes | Refusal | None
    ) -> None:
        key = (lane.priority, message.id)
        try:
            with scope, trio.move_on_after(message.deadline_ms / 1000):
                if reply is None:
                    reply = await self.registry.answer(self.peer, message.method, message.payload)
                await lane.out.put(_as_message(message.id, reply))
        finally:
            self._handlers[lane.priority] -= 1
            # One that was cancelled gave up its place at once, and a later request may have it.
            if self._answering.get(key) is scope:
                del self._answering[key]

    def _on_cancel(self, lane: Lane, message: Message) -> None:
        scope = self._answering.pop((lane.priority, message.id), None)
        if scope is not None:
            scope.cancel()

    def _on_response(self, lane: Lane, message: Message) -> None:
        asked = self._asked.get(message.id)
        if asked is not None:
            asked.settle(message.payload)
        else:
            self._check_was_ours(message)

    def _on_error(self, lane: Lane, message: Message) -> None:
        code, text, retry_after_ms = read_error(message.payload)
        asked = self._asked.get(message.id)
        if asked is not None:
            asked.settle(Refusal(code, text, retry_after_ms=retry_after_ms, peer=self.peer))
        else:
            self._check_was_ours(message)

    def _on_broadcast(self, lane: Lane, message: Message) -> None:
        topic, payload = read_broadcast(message.payload)
        self.registry.deliver(self.peer, topic, payload)

    def _on_ping(self, lane: Lane, message: Message) -> None:
        lane.out.put_answer(Message(Kind.PONG, message.id))

    def _on_pong(self, lane: Lane, message: Message) -> None:
        if lane.priority is Priority.HIGH and self._pinged_at and self._pinged_at[0] == message.id:
            rtt_ms = (self.ctx.clock.monotonic() - self._pinged_at[1]) * 1000
            self._pinged_at = None
            before = rtt_ms if self.rtt_ms is None else self.rtt_ms
            self.rtt_ms = before + RTT_SHARE * (rtt_ms - before)

    def _on_open(self, lane: Lane, message: Message) -> None:
        if (
            lane.priority is not Priority.BULK
            or self._is_ours(message.id)
            or message.id <= self._highest_stream
        ):
            raise Malformed("a stream with a number or a place that isn't its to use")
        protocol = read_protocol(message.payload)
        self._highest_stream = message.id
        theirs = sum(1 for id in self._streams if not self._is_ours(id))
        stream = self._new_stream(message.id, lane)
        if theirs >= LIMITS.streams_max:
            refusal: Refusal | None = Refusal(ErrorCode.OVERLOADED, f"{LIMITS.streams_max} streams are open")
        else:
            refusal = self.registry.accept(self.peer, protocol, stream)
        if refusal is not None:
            del self._streams[message.id]
        lane.out.put_answer(_as_message(message.id, b"" if refusal is None else refusal))

    def _on_stream(self, lane: Lane, message: Message) -> None:
        stream = self._streams.get(message.id)
        if stream is None:
            # One that we have closed, and the peer doesn't know yet.
            if self._is_ours(message.id):
                self._check_was_ours(message)
            elif message.id > self._highest_stream:
                raise Malformed(f"{message.kind.name} of a stream that was never opened")
        elif message.kind is Kind.DATA:
            stream.arrived(message.payload)
        elif message.kind is Kind.WINDOW:
            stream.granted(read_window(message.payload))
        elif message.kind is Kind.END:
            stream.ended()
        else:
            stream.broke("the peer has closed its end")

    # -- inside

    def _is_ours(self, id: int) -> bool:
        return id % 2 == self._next_id % 2

    def _check_was_ours(self, message: Message) -> None:
        """A late answer to what we no longer wait for is fine. Raises `Malformed` for anything else."""
        if not self._is_ours(message.id) or message.id >= self._next_id:
            raise Malformed(f"{message.kind.name} to what was never asked")

    def _new_stream(self, id: int, lane: Lane) -> TcpStream:
        stream = TcpStream(id, lane.out, self._growth, self._forget)
        self._streams[id] = stream
        return stream

    def _forget(self, stream: TcpStream) -> None:
        self._streams.pop(stream.id, None)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._nursery is not None, "messages are received by its tasks"
        self._nursery.start_soon(self._guarded, work)


_RECEIVERS: dict[Kind, Callable[[Link, Lane, Message], None]] = {
    Kind.REQUEST: Link._on_request,
    Kind.TELL: Link._on_tell,
    Kind.RESPONSE: Link._on_response,
    Kind.ERROR: Link._on_error,
    Kind.ONE_WAY: Link._on_broadcast,
    Kind.CANCEL: Link._on_cancel,
    Kind.PING: Link._on_ping,
    Kind.PONG: Link._on_pong,
    Kind.OPEN: Link._on_open,
    Kind.DATA: Link._on_stream,
    Kind.WINDOW: Link._on_stream,
    Kind.END: Link._on_stream,
    Kind.RESET: Link._on_stream,
}


def _as_message(id: int, reply: bytes | Refusal) -> Message:
    if isinstance(reply, Refusal):
        return Message(Kind.ERROR, id, error_payload(reply.code, reply.text, reply.retry_after_ms))
    return Message(Kind.RESPONSE, id, reply)
