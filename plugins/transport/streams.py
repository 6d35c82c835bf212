"""A pair of connected byte streams with the network's delay, bounded, breaking where the network is cut."""

import attrs
import trio

from supervm.kernel.component import Clock
from supervm.plugins.transport.network import MemoryNetwork

CHUNK_BYTES_MAX = 64 * 1024
CHUNKS_MAX = 128
"""Chunks on their way in one direction: 8 MiB, then the sender waits (NET-6)."""


@attrs.define(eq=False)
class _Way:
    """One direction: chunks with the time from which they are there. An empty chunk is its end."""

    network: MemoryNetwork
    clock: Clock
    source: bytes
    target: bytes
    sender: trio.MemorySendChannel[tuple[float, bytes]]
    receiver: trio.MemoryReceiveChannel[tuple[float, bytes]]
    arrives: float = 0.0

    @property
    def is_cut(self) -> bool:
        return self.network.is_cut(self.source, self.target)

    async def send(self, chunk: bytes) -> None:
        if self.is_cut:
            self.sender.close()
            raise trio.BrokenResourceError("the network is cut")
        # A lost packet is sent again by any real stream: it only takes longer.
        conditions = self.network.conditions
        delay_ms = self.network.random.uniform(conditions.latency_ms_min, conditions.latency_ms_max)
        if self.network.random.random() < conditions.loss:
            delay_ms += 2 * conditions.latency_ms_max
        self.arrives = max(self.arrives, self.clock.monotonic() + delay_ms / 1000)
        await self.sender.send((self.arrives, chunk))


@attrs.define(eq=False)
class MemoryStream(trio.abc.HalfCloseableStream):
    """One end."""

    _leaving: _Way
    _arriving: _Way
    _buffer: bytearray = attrs.Factory(bytearray)
    _ended: bool = False
    _sent_end: bool = False
    _closed: bool = False
    _sending: bool = False
    _broken: bool = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._closed or self._sent_end:
            raise trio.ClosedResourceError("this end of the stream is closed")
        if self._sending:
            raise trio.BusyResourceError("another task is sending")
        self._check_whole()
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            view = memoryview(bytes(data))
            for start in range(0, len(view), CHUNK_BYTES_MAX):
                await self._leaving.send(bytes(view[start : start + CHUNK_BYTES_MAX]))
        except trio.ClosedResourceError as error:
            self._check_whole()
            raise trio.ClosedResourceError("this end of the stream is closed") from error
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this end of the stream is closed")
        self._check_whole()
        if not self._sent_end:
            await self._leaving.send(b"")
            self._sent_end = True

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._closed:
            raise trio.ClosedResourceError("this end of the stream is closed")
        await trio.lowlevel.checkpoint()
        while not self._buffer and not self._ended:
            self._check_whole()
            try:
                arrives, chunk = await self._arriving.receiver.receive()
            except trio.EndOfChannel as error:
                raise trio.BrokenResourceError("the other end is gone") from error
            await self._arriving.clock.sleep(max(0.0, arrives - self._arriving.clock.monotonic()))
            self._buffer += chunk
            self._ended = not chunk
        taken = bytes(self._buffer[:max_bytes])
        del self._buffer[: len(taken)]
        return taken

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            if not self._sent_end and not self._leaving.network.is_cut(
                self._leaving.source, self._leaving.target
            ):
                try:
                    self._leaving.sender.send_nowait((self._leaving.arrives, b""))
                except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
                    self._ended = True
            self._leaving.sender.close()
            self._arriving.receiver.close()
        await trio.lowlevel.checkpoint()

    def break_off(self) -> None:
        """There is nobody at the other end any more: whoever uses this one is told."""
        self._broken = True
        self._leaving.sender.close()

    def _check_whole(self) -> None:
        if self._broken:
            raise trio.BrokenResourceError("the connection ended")

    @property
    def closed(self) -> bool:
        return self._closed


def _channel() -> tuple[
    trio.MemorySendChannel[tuple[float, bytes]], trio.MemoryReceiveChannel[tuple[float, bytes]]
]:
    return trio.open_memory_channel[tuple[float, bytes]](CHUNKS_MAX)


class StreamPair:
    """Two ends: `near` for who opened it, `far` for who accepts it."""

    def __init__(self, network: MemoryNetwork, clock: Clock, opener: bytes, accepter: bytes) -> None:
        there = _Way(
            network, clock, opener, accepter, *trio.open_memory_channel[tuple[float, bytes]](CHUNKS_MAX)
        )
        back = _Way(
            network, clock, accepter, opener, *trio.open_memory_channel[tuple[float, bytes]](CHUNKS_MAX)
        )
        self.near = MemoryStream(there, back)
        self.far = MemoryStream(back, there)

    def break_off(self) -> None:
        """Both ends find it broken, as when a link ends."""
        self.near.break_off()
        self.far.break_off()

    def is_open(self) -> bool:
        return not (self.near.closed and self.far.closed)
