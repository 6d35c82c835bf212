"""A virtual network between validators: delay, loss, duplication, reordering, cuts in one way or both.

It offers what the transport contract promises to the engine, requests and their answers, and breaks them in
every way that the contract leaves open: a message may be late, be lost silently until its time-out, be
lost at once with an error, arrive although its sender got an error, and, which no transport of ours does,
arrive twice.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

import attrs
import trio

from supervm.contracts.transport import (
    LIMITS,
    Broadcast,
    DeadlineExceeded,
    ErrorCode,
    Handler,
    IncomingStream,
    Medium,
    MessageTooLarge,
    PeerInfo,
    Priority,
    Refusal,
    TransportError,
    TransportLimits,
    Unreachable,
)
from supervm.plugins.consensus.simulation import turns
from supervm.plugins.consensus.simulation.slowness import Slowness
from supervm.plugins.consensus.simulation.trace import Trace, brief
from supervm.plugins.transport.bans import Bans

RESET_S = 0.02
"""After so long who sends to a node that is down, or over a connection that broke, knows it."""
TOLD_S = 10.0
TOLD_MAX = 4_096
"""What a node told that is on its way; more is lost."""
POSTED_S = 10.0
LOSSY = 0.5
SLOW_MS = 400.0


@attrs.define(eq=False)
class Network:
    """What lies between the nodes. `links`: who is up, by node id. `cut_off(number, target, reason)` is told
    of each that a node cuts off."""

    random: random.Random
    trace: Trace
    nursery: trio.Nursery
    numbers: dict[bytes, int]
    delay_ms: tuple[float, float]
    loss: float = 0.0
    duplicates: float = 0.0
    links: dict[bytes, "Link"] = attrs.Factory(dict)
    watch: Callable[[int, int, bytes], None] = lambda number, target, payload: None
    cut_off: Callable[[int, int, str], None] = lambda number, target, reason: None
    _lossy: frozenset[int] = frozenset()
    _slow: frozenset[int] = frozenset()
    _cuts: frozenset[tuple[int, int]] = frozenset()
    _mended: trio.Event = attrs.Factory(trio.Event)

    def set(self, *, cuts: Iterable[tuple[int, int]], lossy: Iterable[int], slow: Iterable[int]) -> None:
        """From now on nothing passes from the first to the second of each pair; much from and to who is
        lossy is lost; what is from or to who is slow takes long."""
        self._cuts, self._lossy, self._slow = frozenset(cuts), frozenset(lossy), frozenset(slow)
        self._mended.set()
        self._mended = trio.Event()

    def heal(self) -> None:
        """Everything passes from now on, in the time that it takes."""
        self.loss = self.duplicates = 0.0
        self.set(cuts=(), lossy=(), slow=())

    def delay_s(self, source: int, target: int) -> float:
        low, high = self.delay_ms
        delay_ms = self.random.uniform(low, high)
        return (delay_ms + SLOW_MS * ((source in self._slow) + (target in self._slow))) / 1000

    def is_lost(self, source: int, target: int) -> bool:
        loss = LOSSY if source in self._lossy or target in self._lossy else self.loss
        return loss > 0 and self.random.random() < loss

    async def post(self, link: "Link", peer: bytes, method: int, payload: bytes) -> None:
        """Carry what nobody waits for; what is lost is lost."""
        try:
            await Link.request(link, peer, method, payload, timeout_s=POSTED_S)
        except TransportError:
            self.trace.note("gone", link.number, self.numbers[peer])

    async def pass_cut(self, source: int, target: int, due_s: float) -> bool:
        """Wait until the way is open; False where the message is lost or its connection breaks before.

        Raises `trio.TooSlowError` at `due_s`.
        """
        while (source, target) in self._cuts:
            fate = self.random.random()
            if fate < 0.4:
                return False
            with trio.fail_at(due_s):
                if fate < 0.6:
                    await trio.sleep_forever()
                await self._mended.wait()
            # What real streams send again comes a while after the way is open.
            await turns.sleep(self.random.uniform(0.0, 0.5))
        return True


@attrs.define(eq=False)
class Link:
    """One node's end, for one life of it: a `Transport` as far as requests go."""

    node_id: bytes
    number: int
    network: Network
    limits: TransportLimits = LIMITS
    medium: Medium = Medium(name="virtual")
    processor: Slowness = attrs.Factory(Slowness)
    dead: bool = False
    _told: int = 0
    _turn: trio.Lock = attrs.Factory(trio.Lock)
    _bans: Bans = attrs.Factory(Bans)
    _handlers: dict[int, Handler] = attrs.Factory(dict)

    def die(self) -> None:
        """Nothing comes from it or to it any more."""
        self.dead = True
        if self.network.links.get(self.node_id) is self:
            del self.network.links[self.node_id]

    def peers(self) -> tuple[PeerInfo, ...]:
        others = sorted(set(self.network.links) - {self.node_id})
        return tuple(
            PeerInfo(node_id=each, address="virtual")
            for each in others
            if not self._is_apart(self.network.links[each])
        )

    def cut_off(self, peer: bytes, reason: str) -> float:
        if not self._shuns(peer):
            self.network.trace.note("cut off", self.number, self.network.numbers[peer])
            self.network.cut_off(self.number, self.network.numbers[peer], reason)
        return self._bans.ban(peer, trio.current_time())

    def _shuns(self, peer: bytes) -> bool:
        return self._bans.remaining_s(peer, trio.current_time()) > 0

    def _is_apart(self, other: "Link") -> bool:
        """Whether one of the two has cut the other off."""
        return self._shuns(other.node_id) or other._shuns(self.node_id)

    @contextmanager
    def serve(self, method: int, handler: Handler) -> Iterator[None]:
        assert method not in self._handlers, f"method {method:#06x} has a handler already"
        self._handlers[method] = handler
        try:
            yield
        finally:
            del self._handlers[method]

    async def request(
        self,
        peer: bytes,
        method: int,
        payload: bytes,
        *,
        timeout_s: float,
        priority: Priority = Priority.NORMAL,
    ) -> bytes:
        if len(payload) > self.limits.request_bytes_max:
            raise MessageTooLarge(f"{len(payload)} bytes", peer, "send it in parts")
        if self.dead:
            raise Unreachable("the node has crashed", peer)
        due_s = trio.current_time() + timeout_s
        try:
            reply = await self._carry(peer, method, payload, due_s)
        except trio.TooSlowError:
            raise DeadlineExceeded(f"no answer within {timeout_s:g} s", peer) from None
        if isinstance(reply, Refusal):
            raise reply
        return reply

    async def tell(
        self, peer: bytes, method: int, payload: bytes, *, priority: Priority = Priority.NORMAL
    ) -> None:
        if len(payload) > self.limits.request_bytes_max:
            raise MessageTooLarge(f"{len(payload)} bytes", peer, "send it in parts")
        if self.dead:
            raise Unreachable("the node has crashed", peer)
        if self._told >= TOLD_MAX:
            self.network.trace.note("full", self.number, self.network.numbers[peer])
            return
        self._told += 1
        self.network.nursery.start_soon(self._tell, peer, method, payload)

    async def _tell(self, peer: bytes, method: int, payload: bytes) -> None:
        """On its way: what is lost is lost. A hostile node's `request` twists it."""
        try:
            await self.request(peer, method, payload, timeout_s=TOLD_S)
        except TransportError:
            self.network.trace.note("gone", self.number, self.network.numbers[peer])
        finally:
            self._told -= 1

    async def _carry(self, peer: bytes, method: int, payload: bytes, due_s: float) -> bytes | Refusal:
        """There and back. A scope for each would cost more than all else here: only what may take as long as
        the time-out looks at it."""
        network, target = self.network, self.network.numbers[peer]
        network.watch(self.number, target, payload)
        network.trace.note("send", self.number, target, f"{method:x}", len(payload), brief(payload))
        if not await network.pass_cut(self.number, target, due_s):
            await turns.sleep(RESET_S)
            raise Unreachable("the connection broke", peer)
        if network.is_lost(self.number, target):
            await self._lose(peer, due_s)
        await turns.sleep(network.delay_s(self.number, target))
        if network.duplicates and network.random.random() < network.duplicates:
            network.nursery.start_soon(self._again, peer, method, payload)
        reply = await self._deliver(peer, method, payload, due_s)
        if network.is_lost(target, self.number):
            await self._lose(peer, due_s)
        await turns.sleep(network.delay_s(target, self.number))
        if trio.current_time() > due_s:
            raise trio.TooSlowError
        return reply

    async def _lose(self, peer: bytes, due_s: float) -> None:
        """Silently, or as a connection that breaks."""
        if self.network.random.random() < 0.3:
            await turns.sleep_until(due_s)
            raise trio.TooSlowError
        await turns.sleep(RESET_S)
        raise Unreachable("the connection broke", peer)

    async def _deliver(self, peer: bytes, method: int, payload: bytes, due_s: float) -> bytes | Refusal:
        link = self.network.links.get(peer)
        if link is not None and link.is_busy:
            with trio.fail_at(due_s):
                await link.take_turn()
        if link is None or link.dead:
            await turns.sleep(RESET_S)
            raise Unreachable("the peer is down", peer)
        if self._is_apart(link):
            await turns.sleep(RESET_S)
            raise Unreachable("one of the two has cut the other off", peer)
        self.network.trace.note("take", self.number, link.number, f"{method:x}", brief(payload))
        before = turns.WHO.set(f"validator {link.number}")
        try:
            return await link.answer(self.node_id, method, payload)
        finally:
            turns.WHO.reset(before)

    @property
    def is_busy(self) -> bool:
        """Its processor is slow, or hasn't yet come to all that waited for it while it was."""
        return self.processor.by_ms > 0 or self._turn.locked()

    async def take_turn(self) -> None:
        """Wait until the processor has come to this message, after those before it, and has handled it."""
        async with self._turn:
            if not self.dead:
                await turns.sleep(self.processor.extra_s())

    async def _again(self, peer: bytes, method: int, payload: bytes) -> None:
        await turns.sleep(self.network.delay_s(self.number, self.network.numbers[peer]))
        try:
            await self._deliver(peer, method, payload, trio.current_time() + POSTED_S)
        except (Unreachable, trio.TooSlowError):
            self.network.trace.note("gone", self.number, self.network.numbers[peer])

    async def answer(self, peer: bytes, method: int, payload: bytes) -> bytes | Refusal:
        handler = self._handlers.get(method)
        if handler is None:
            return Refusal(ErrorCode.UNKNOWN_METHOD, f"method {method:#06x}", peer=self.node_id)
        try:
            return await handler(peer, payload)
        except Refusal as refusal:
            return Refusal(refusal.code, refusal.text, peer=self.node_id)

    # The engine asks for none of these; a node that did would be told so.

    async def broadcast(self, topic: str, payload: bytes, *, priority: Priority = Priority.NORMAL) -> None:
        raise Unreachable("the virtual network carries requests only")

    @contextmanager
    def subscribe(
        self, topic: str, *, queue_max: int = 256
    ) -> Iterator[trio.MemoryReceiveChannel[Broadcast]]:
        sender, receiver = trio.open_memory_channel[Broadcast](queue_max)
        with sender, receiver:
            yield receiver

    async def open_stream(self, peer: bytes, protocol: str) -> trio.abc.HalfCloseableStream:
        raise Unreachable("the virtual network carries requests only", peer)

    def listen(self, protocol: str) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[IncomingStream]]:
        raise Unreachable("the virtual network carries requests only")
