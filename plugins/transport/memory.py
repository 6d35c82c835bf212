"""A transport between nodes of one process, for tests, simulations and a node that is alone."""

from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)

import attrs
import trio

from supervm.api import Context
from supervm.contracts.transport import (
    LIMITS,
    Broadcast,
    DeadlineExceeded,
    Handler,
    IncomingStream,
    Medium,
    MessageTooLarge,
    Overloaded,
    PeerInfo,
    Priority,
    Refusal,
    TransportLimits,
    Unreachable,
)
from supervm.plugins.transport.bans import Bans
from supervm.plugins.transport.network import MemoryNetwork, network
from supervm.plugins.transport.registry import Registry, count_cut_off, count_dropped
from supervm.plugins.transport.streams import StreamPair

BROADCASTS_IN_FLIGHT_MAX = 512
TOLD_IN_FLIGHT_MAX = 4_096


def _node_id(instance: object, attribute: "attrs.Attribute[str]", value: str) -> None:
    try:
        size = len(bytes.fromhex(value.removeprefix("0x")))
    except ValueError:
        size = -1
    if value and size != 32:
        raise ValueError(f"node_id {value!r} isn't 64 hex digits; leave it empty to draw one")


@attrs.frozen(kw_only=True)
class MemoryTransportConfig:
    """Nodes of one process and one `network` name reach each other. `node_id` empty: drawn at random.

    Latency (milliseconds, one way) and loss (share of messages) are the network's; the node that opens
    last sets them, and `supervm.plugins.transport.network.network(name)` changes them while it runs.
    """

    network: str = "default"
    node_id: str = attrs.field(default="", validator=_node_id)
    latency_ms_min: float = attrs.field(default=0.0, validator=attrs.validators.ge(0))
    latency_ms_max: float = attrs.field(default=0.0, validator=attrs.validators.ge(0))
    loss: float = attrs.field(default=0.0, validator=[attrs.validators.ge(0), attrs.validators.le(1)])


@attrs.define(eq=False)
class MemoryTransport:
    """One node's end of a `MemoryNetwork`."""

    node_id: bytes
    network: MemoryNetwork
    ctx: Context
    limits: TransportLimits = LIMITS
    medium: Medium = Medium(name="memory")
    _served: Registry = attrs.field(init=False)
    _under_way: dict[bytes, int] = attrs.Factory(dict)
    _rtt_ms: dict[bytes, float] = attrs.Factory(dict)
    _broadcasts_in_flight: int = 0
    _told_in_flight: int = 0
    _streams: dict[bytes, set[StreamPair]] = attrs.Factory(dict)
    _bans: Bans = attrs.Factory(Bans)
    _carried: dict[bytes, set[trio.CancelScope]] = attrs.Factory(dict)
    """What runs here for requests of peers."""

    def __attrs_post_init__(self) -> None:
        self._served = Registry(self.ctx)

    def peers(self) -> tuple[PeerInfo, ...]:
        return tuple(
            PeerInfo(node_id=other.node_id, address="memory", rtt_ms=self._rtt_ms.get(other.node_id))
            for other in self.network.others(self.node_id)
            if not self._is_apart(other)
        )

    def cut_off(self, peer: bytes, reason: str) -> float:
        now = self.ctx.clock.monotonic()
        was_cut_off = self._shuns(peer)
        banned_s = self._bans.ban(peer, now)
        if not was_cut_off:
            count_cut_off(self.ctx)
            told = {"peer": peer.hex(), "kind": "blamed", "cause": reason}
            self.ctx.log.warning("peer_cut_off", banned_s=banned_s, **told)
            self._end_with(peer)
            other = self.network.nodes.get(peer)
            if other is not None:
                other._end_with(self.node_id)
        return banned_s

    def serve(self, method: int, handler: Handler) -> AbstractContextManager[None]:
        return self._served.serve(method, handler)

    async def request(
        self,
        peer: bytes,
        method: int,
        payload: bytes,
        *,
        timeout_s: float,
        priority: Priority = Priority.NORMAL,
    ) -> bytes:
        self._check_size(payload, self.limits.request_bytes_max, peer)
        target = self._target(peer)
        if self._under_way.get(peer, 0) >= self.limits.requests_max:
            raise Overloaded(f"{self.limits.requests_max} requests are under way", peer, "wait for one")
        self._under_way[peer] = self._under_way.get(peer, 0) + 1
        started = self.ctx.clock.monotonic()
        try:
            with trio.move_on_after(timeout_s):
                reply = await self._ask(target, method, payload, timeout_s)
                self._rtt_ms[peer] = (self.ctx.clock.monotonic() - started) * 1000
                return reply
            raise DeadlineExceeded(f"no answer within {timeout_s:g} s", peer)
        finally:
            self._under_way[peer] -= 1
            if not self._under_way[peer]:
                del self._under_way[peer]

    async def tell(
        self, peer: bytes, method: int, payload: bytes, *, priority: Priority = Priority.NORMAL
    ) -> None:
        self._check_size(payload, self.limits.request_bytes_max, peer)
        await trio.lowlevel.checkpoint()
        # Looked up last: who has left has no tasks any more.
        target = self._target(peer)
        delay_s = self.network.delay_s(self.node_id, peer)
        if delay_s is not None:
            target.hear(self.node_id, method, payload, delay_s)

    async def broadcast(self, topic: str, payload: bytes, *, priority: Priority = Priority.NORMAL) -> None:
        self._check_size(payload, self.limits.broadcast_bytes_max, b"")
        await trio.lowlevel.checkpoint()
        for target in self.network.others(self.node_id):
            if self._is_apart(target):
                continue
            delay_s = self.network.delay_s(self.node_id, target.node_id)
            if delay_s is not None:
                target.receive(Broadcast(peer=self.node_id, payload=payload), topic, delay_s)

    def subscribe(
        self, topic: str, *, queue_max: int = 256
    ) -> AbstractContextManager[trio.MemoryReceiveChannel[Broadcast]]:
        return self._served.subscribe(topic, queue_max)

    async def open_stream(self, peer: bytes, protocol: str) -> trio.abc.HalfCloseableStream:
        target = self._target(peer)
        delay_s = self.network.delay_s(self.node_id, peer)
        if delay_s is None:
            raise Unreachable("the connection could not be made", peer, "try again")
        await self.ctx.clock.sleep(delay_s)
        pair = StreamPair(self.network, self.ctx.clock, self.node_id, peer)
        open_now = {known for known in self._streams.get(peer, set()) if known.is_open()}
        if len(open_now) >= self.limits.streams_max:
            raise Overloaded(f"{self.limits.streams_max} streams are open", peer, "close one")
        target.accept(self.node_id, protocol, pair)
        self._streams[peer] = open_now | {pair}
        return pair.near

    def listen(self, protocol: str) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[IncomingStream]]:
        return self._served.listen(protocol)

    # -- the far side of the calls above, called by another node's transport

    def receive(self, message: Broadcast, topic: str, delay_s: float) -> None:
        """Deliver a broadcast after its delay; over the bound of messages on their way it is dropped."""
        if self._broadcasts_in_flight >= BROADCASTS_IN_FLIGHT_MAX:
            count_dropped(self.ctx)
            return
        self._broadcasts_in_flight += 1

        async def deliver() -> None:
            try:
                await self.ctx.clock.sleep(delay_s)
            finally:
                self._broadcasts_in_flight -= 1
            if not self._shuns(message.peer):
                self._served.deliver(message.peer, topic, message.payload)

        self.ctx.nursery.start_soon(deliver)

    def hear(self, peer: bytes, method: int, payload: bytes, delay_s: float) -> None:
        """Give a handler what it is told, after its delay; over the bound it is dropped."""
        if self._told_in_flight >= TOLD_IN_FLIGHT_MAX:
            count_dropped(self.ctx)
            return
        self._told_in_flight += 1

        async def deliver() -> None:
            try:
                await self.ctx.clock.sleep(delay_s)
                if not self._shuns(peer):
                    await self.answer(peer, method, payload)
            finally:
                self._told_in_flight -= 1

        self.ctx.nursery.start_soon(deliver)

    def accept(self, peer: bytes, protocol: str, pair: StreamPair) -> None:
        refusal = self._served.accept(peer, protocol, pair.far)
        if refusal is not None:
            raise self._own(refusal)

    async def answer(self, peer: bytes, method: int, payload: bytes) -> bytes | Refusal:
        """What this node replies to a request. Never raises what its handler raised."""
        reply = await self._served.answer(peer, method, payload)
        return self._own(reply) if isinstance(reply, Refusal) else reply

    def _own(self, refusal: Refusal) -> Refusal:
        """A refusal as the peer that gets it sees it: by this node, its text within bounds."""
        text = refusal.text.encode()[: self.limits.error_text_bytes_max].decode(errors="ignore")
        return Refusal(refusal.code, text, retry_after_ms=refusal.retry_after_ms, peer=self.node_id)

    async def _ask(self, target: "MemoryTransport", method: int, payload: bytes, timeout_s: float) -> bytes:
        sender, receiver = trio.open_memory_channel[bytes | Refusal](1)

        async def carry() -> None:
            with sender, target._carrying(self.node_id), trio.move_on_after(timeout_s):
                there_s = self.network.delay_s(self.node_id, target.node_id)
                await self._travel(there_s)
                reply = await target.answer(self.node_id, method, payload)
                back_s = self.network.delay_s(target.node_id, self.node_id)
                await self._travel(back_s)
                sender.send_nowait(reply)

        # The work runs in the answering node's tasks: it ends with that node, not with the asking one.
        target.ctx.nursery.start_soon(carry)
        try:
            reply = await receiver.receive()
        except trio.EndOfChannel:
            if target.node_id in self.network.nodes and not self._is_apart(target):
                await trio.sleep_forever()
            raise Unreachable("the connection ended", target.node_id) from None
        if isinstance(reply, Refusal):
            raise reply
        return reply

    async def _travel(self, delay_s: float | None) -> None:
        """Be on the way for so long; for ever if the message is lost."""
        if delay_s is None:
            await trio.sleep_forever()
        else:
            await self.ctx.clock.sleep(delay_s)

    def _target(self, peer: bytes) -> "MemoryTransport":
        target = self.network.nodes.get(peer)
        if target is None or peer == self.node_id:
            raise Unreachable("no such peer in this network", peer)
        if self._is_apart(target):
            raise Unreachable("one of the two has cut the other off", peer)
        return target

    def _shuns(self, peer: bytes) -> bool:
        return self._bans.remaining_s(peer, self.ctx.clock.monotonic()) > 0

    def _is_apart(self, other: "MemoryTransport") -> bool:
        """Whether one of the two has cut the other off."""
        return self._shuns(other.node_id) or other._shuns(self.node_id)

    @contextmanager
    def _carrying(self, peer: bytes) -> Iterator[None]:
        """Until the end of the `with`, or until the peer is cut off."""
        scope = trio.CancelScope()
        scopes = self._carried.setdefault(peer, set())
        scopes.add(scope)
        try:
            with scope:
                yield
        finally:
            scopes.discard(scope)
            if not scopes and self._carried.get(peer) is scopes:
                del self._carried[peer]

    def _end_with(self, peer: bytes) -> None:
        """End this node's part in what is under way with a peer."""
        for scope in self._carried.pop(peer, ()):
            scope.cancel()
        for pair in self._streams.pop(peer, ()):
            pair.break_off()

    @staticmethod
    def _check_size(payload: bytes, most: int, peer: bytes) -> None:
        if len(payload) > most:
            raise MessageTooLarge(f"{len(payload)} bytes, at most {most}", peer, "send it in parts")


@asynccontextmanager
async def open_memory_transport(
    ctx: Context, config: MemoryTransportConfig
) -> AsyncIterator[MemoryTransport]:
    joined = network(config.network)
    joined.conditions.latency_ms_min = config.latency_ms_min
    joined.conditions.latency_ms_max = max(config.latency_ms_min, config.latency_ms_max)
    joined.conditions.loss = config.loss
    node_id = bytes.fromhex(config.node_id.removeprefix("0x")) if config.node_id else ctx.random.randbytes(32)
    node = MemoryTransport(node_id, joined, ctx)
    with joined.joined(node):
        yield node
