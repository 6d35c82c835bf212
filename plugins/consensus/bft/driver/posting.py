"""What a node sends: to each validator three queues, for votes, dissemination and bulk (CONS-39); to a guest,
which is no validator and asked for blocks, a short one for answers.

A parcel carries as many frames as wait. Votes and dissemination are told and never answered; bulk is
requested, so that its empty answers slow who sends much to one who reads slowly. Each queue is
bounded; at its bound the oldest message goes: what was said last says most, and the machines say again what
is still needed. So does what is meant for a peer that can't be reached now. What is late, since its receiver
most likely knows it already, waits up to `LATE_S` for something to travel with.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import attrs
import trio

from supervm.api import Context
from supervm.contracts.transport import LIMITS, Priority, Transport, TransportError, Unreachable
from supervm.plugins.consensus.bft.events import Stream
from supervm.types.codec import Reader, Writer

METHODS: Mapping[Stream, int] = MappingProxyType(
    {Stream.VOTES: 0x0310, Stream.DISSEMINATION: 0x0311, Stream.BULK: 0x0312}
)
PRIORITIES: Mapping[Stream, Priority] = MappingProxyType(
    {Stream.VOTES: Priority.HIGH, Stream.DISSEMINATION: Priority.NORMAL, Stream.BULK: Priority.BULK}
)
QUEUE_BYTES_MAX: Mapping[Stream, int] = MappingProxyType(
    {Stream.VOTES: 16 * 2**20, Stream.DISSEMINATION: 64 * 2**20, Stream.BULK: 32 * 2**20}
)
QUEUE_FRAMES_MAX = 8_192
UNDER_WAY_MAX = 8
GUEST_BYTES_MAX = 8 * 2**20
GUEST_UNDER_WAY_MAX = 2
PARCEL_BYTES = 512 * 1024
PARCEL_FRAMES_MAX = 1_024
FRAME_BYTES_MAX = LIMITS.request_bytes_max - 64
TIMEOUT_S = 10.0
UNREACHABLE_PAUSE_S = 0.05
LATE_S = 0.04


Carry = Callable[[bytes, Stream, bytes], Awaitable[None]]
"""To whom, on which stream, a parcel."""


def pack(frames: Sequence[bytes]) -> bytes:
    """A request's payload: a list of frames, each a byte string."""
    writer = Writer().count(len(frames), "frames")
    for frame in frames:
        writer.byte_string(frame, "frame")
    return writer.done()


def unpack(payload: bytes) -> list[bytes]:
    """The frames of a payload. Raises `DecodeError`."""
    reader = Reader(payload)
    count = reader.count("parcel.frames", PARCEL_FRAMES_MAX, item_bytes_min=5)
    frames = [reader.byte_string("parcel.frame", LIMITS.request_bytes_max) for _ in range(count)]
    reader.finish("parcel")
    return frames


@attrs.define
class _Queue:
    peer: bytes
    stream: Stream
    bytes_max: int
    free: trio.Semaphore
    frames: deque[bytes] = attrs.Factory(deque)
    size_bytes: int = 0
    wake: trio.Event = attrs.Factory(trio.Event)
    hurry: trio.Event = attrs.Factory(trio.Event)
    gone: trio.CancelScope = attrs.Factory(trio.CancelScope)


class Post:
    """Queues and their senders. The first of `transports` that reaches a peer takes what is for it."""

    def __init__(self, ctx: Context, peers: Iterable[bytes]) -> None:
        self._ctx = ctx
        self.transports: tuple[Transport, ...] = ()
        self._queues = {
            (peer, stream): _Queue(peer, stream, QUEUE_BYTES_MAX[stream], trio.Semaphore(UNDER_WAY_MAX))
            for peer in peers
            for stream in Stream
        }
        self._nursery: trio.Nursery | None = None
        self._dropped = ctx.metrics.counter(
            "supervm_consensus_sends_dropped_total", "Messages that weren't sent", ("stream", "reason")
        )
        self._sent = ctx.metrics.counter(
            "supervm_consensus_messages_sent_total", "Messages sent, by stream", ("stream",)
        )
        self._sent_bytes = ctx.metrics.counter(
            "supervm_consensus_sent_bytes_total", "Bytes of messages sent, by stream", ("stream",)
        )

    def put(self, peer: bytes, stream: Stream, frame: bytes, late: bool = False) -> None:
        """Send a frame some time; a late one with the next, or after `LATE_S`. Never blocks."""
        queue = self._queues.get((peer, stream))
        if queue is None:
            self._dropped.inc(stream=stream.name.lower(), reason="nobody")
            return
        if len(frame) > FRAME_BYTES_MAX:
            self._dropped.inc(stream=stream.name.lower(), reason="too_large")
            return
        queue.frames.append(frame)
        queue.size_bytes += len(frame)
        while len(queue.frames) > QUEUE_FRAMES_MAX or queue.size_bytes > queue.bytes_max:
            queue.size_bytes -= len(queue.frames.popleft())
            self._dropped.inc(stream=stream.name.lower(), reason="full")
        queue.wake.set()
        if not late:
            queue.hurry.set()

    def admit(self, guest: bytes) -> None:
        """Answers may be put for a node that is no validator."""
        free = trio.Semaphore(GUEST_UNDER_WAY_MAX)
        queue = self._queues[guest, Stream.BULK] = _Queue(guest, Stream.BULK, GUEST_BYTES_MAX, free)
        if self._nursery is not None:
            self._nursery.start_soon(self._serve, queue, self._nursery)

    def leave(self, guest: bytes) -> None:
        """What waits for a guest is dropped."""
        self._queues.pop((guest, Stream.BULK)).gone.cancel()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for queue in self._queues.values():
                nursery.start_soon(self._serve, queue, nursery)
            self._nursery = nursery
            # Guests come later, also where there is no other validator.
            await trio.sleep_forever()

    async def _serve(self, queue: _Queue, nursery: trio.Nursery) -> None:
        with queue.gone:
            await self._send_parcels(queue, nursery)

    async def _send_parcels(self, queue: _Queue, nursery: trio.Nursery) -> None:
        is_told = queue.stream is not Stream.BULK
        while True:
            await queue.wake.wait()
            if not queue.hurry.is_set():
                with trio.move_on_after(LATE_S):
                    await queue.hurry.wait()
            if is_told:
                await self._deliver(queue, self._next_parcel(queue), self._tell)
            else:
                await queue.free.acquire()
                nursery.start_soon(self._request_one, queue, self._next_parcel(queue))

    def _next_parcel(self, queue: _Queue) -> list[bytes]:
        parcel: list[bytes] = []
        size_bytes = 0
        while queue.frames and len(parcel) < PARCEL_FRAMES_MAX:
            if parcel and size_bytes + len(queue.frames[0]) > PARCEL_BYTES:
                break
            parcel.append(queue.frames.popleft())
            size_bytes += len(parcel[-1])
        queue.size_bytes -= size_bytes
        if not queue.frames:
            queue.wake, queue.hurry = trio.Event(), trio.Event()
        return parcel

    async def _request_one(self, queue: _Queue, parcel: list[bytes]) -> None:
        try:
            await self._deliver(queue, parcel, self._request)
        finally:
            queue.free.release()

    async def _deliver(self, queue: _Queue, parcel: list[bytes], carry: Carry) -> None:
        name = queue.stream.name.lower()
        try:
            await carry(queue.peer, queue.stream, pack(parcel))
        except Unreachable:
            self._dropped.inc(len(parcel), stream=name, reason="unreachable")
            await self._ctx.clock.sleep(UNREACHABLE_PAUSE_S)
        except TransportError as error:
            self._dropped.inc(len(parcel), stream=name, reason=type(error).__name__)
        else:
            self._sent.inc(len(parcel), stream=name)
            self._sent_bytes.inc(sum(map(len, parcel)), stream=name)

    async def _tell(self, peer: bytes, stream: Stream, payload: bytes) -> None:
        """By the first transport that reaches the peer."""
        for transport in self.transports:
            try:
                await transport.tell(peer, METHODS[stream], payload, priority=PRIORITIES[stream])
            except Unreachable:
                continue
            return
        raise Unreachable("no transport reaches it", peer)

    async def _request(self, peer: bytes, stream: Stream, payload: bytes) -> None:
        """By the first transport that reaches the peer."""
        for transport in self.transports:
            try:
                await transport.request(
                    peer, METHODS[stream], payload, timeout_s=TIMEOUT_S, priority=PRIORITIES[stream]
                )
            except Unreachable:
                continue
            return
        raise Unreachable("no transport reaches it", peer)
