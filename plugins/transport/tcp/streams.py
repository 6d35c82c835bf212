"""Streams within a link: bytes both ways under credit, so that one that isn't read holds up nothing else.

A sender may send what the receiver has granted: 64 KiB at first, and as much again as was read. A stream
that is read is granted more and more, up to 1 MiB, as long as all streams of the link stay within 16 MiB
beyond their first 64 KiB. A peer that sends more than it was granted is malformed.
"""

from collections.abc import Callable

import attrs
import trio

from supervm.plugins.transport.tcp.frames import Kind, Malformed, Message, window_payload
from supervm.plugins.transport.tcp.outgoing import Outgoing

WINDOW_BYTES = 64 * 1024
WINDOW_BYTES_MAX = 1024 * 1024
GROWTH_BYTES_MAX = 16 * 1024 * 1024
PIECE_BYTES = 64 * 1024
CREDIT_MAX = 2**31


@attrs.define
class Growth:
    """How much more than their first windows the streams of a link have been granted."""

    left: int = GROWTH_BYTES_MAX

    def take(self, wanted: int) -> int:
        taken = min(wanted, self.left)
        self.left -= taken
        return taken


@attrs.define(eq=False)
class TcpStream(trio.abc.HalfCloseableStream):
    """One end. `_forget` tells the link that this end needs nothing more of it."""

    id: int
    _out: Outgoing
    _growth: Growth
    _forget: Callable[["TcpStream"], None]
    _credit: int = WINDOW_BYTES
    _granted: int = WINDOW_BYTES
    _window: int = WINDOW_BYTES
    _taken: int = 0
    _buffer: bytearray = attrs.Factory(bytearray)
    _changed: trio.Event = attrs.Factory(trio.Event)
    _sent_end: bool = False
    _ended: bool = False
    _closed: bool = False
    _broken: str = ""
    _sending: trio.StrictFIFOLock = attrs.Factory(trio.StrictFIFOLock)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._check_may_send()
        if self._sending.locked():
            raise trio.BusyResourceError("another task is sending")
        async with self._sending:
            view = memoryview(bytes(data))
            while view:
                self._check_may_send()
                if not self._credit:
                    await self._change()
                    continue
                piece = view[: min(self._credit, PIECE_BYTES)]
                self._credit -= len(piece)
                await self._put(Message(Kind.DATA, self.id, bytes(piece)))
                view = view[len(piece) :]

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._credit and not self._closed and not self._broken:
            await self._change()

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError("this end of the stream is closed")
        if not self._sent_end:
            if self._sending.locked():
                raise trio.BusyResourceError("another task is sending")
            self._check_may_send()
            self._end()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        await trio.lowlevel.checkpoint()
        while True:
            if self._closed:
                raise trio.ClosedResourceError("this end of the stream is closed")
            if self._buffer:
                return self._take(max_bytes)
            if self._ended:
                return b""
            if self._broken:
                raise trio.BrokenResourceError(self._broken)
            await self._change()

    async def aclose(self) -> None:
        if not self._closed:
            if not self._broken:
                if not self._sent_end:
                    self._end()
                if not self._ended:
                    self._out.put_always(Message(Kind.RESET, self.id))
            self._closed = True
            self._buffer = bytearray()
            self._leave()
        await trio.lowlevel.checkpoint()

    # -- what the peer does, called by the link

    def arrived(self, data: bytes) -> None:
        """Bytes came. Raises `Malformed` where they weren't granted."""
        if self._ended or not data or len(data) > self._granted:
            raise Malformed("stream bytes that were not granted, or none")
        self._granted -= len(data)
        self._buffer += data
        self._signal()

    def granted(self, count: int) -> None:
        """The peer takes more. Raises `Malformed` where that makes no sense."""
        self._credit += count
        if not count or self._credit > CREDIT_MAX:
            raise Malformed("a window out of range")
        self._signal()

    def ended(self) -> None:
        """The peer sends no more. Raises `Malformed` the second time."""
        if self._ended:
            raise Malformed("a stream ended twice")
        self._ended = True
        self._signal()

    def broke(self, cause: str) -> None:
        """The peer or the link is gone: no more is sent, and what is held can still be read."""
        self._broken = cause
        self._growth.left += self._window - WINDOW_BYTES
        self._window = WINDOW_BYTES
        self._signal()

    # -- inside

    def _check_may_send(self) -> None:
        if self._closed or self._sent_end:
            raise trio.ClosedResourceError("this end of the stream is closed")
        if self._broken:
            raise trio.BrokenResourceError(self._broken)

    async def _put(self, message: Message) -> None:
        try:
            await self._out.put(message)
        except trio.ClosedResourceError:
            raise trio.BrokenResourceError("the connection ended") from None
        await trio.lowlevel.checkpoint()

    def _end(self) -> None:
        self._sent_end = True
        self._out.put_always(Message(Kind.END, self.id))

    def _take(self, max_bytes: int | None) -> bytes:
        taken = bytes(self._buffer[:max_bytes])
        del self._buffer[: len(taken)]
        self._taken += len(taken)
        if not self._broken and not self._ended and self._taken >= self._window // 2:
            more = self._growth.take(min(self._window, WINDOW_BYTES_MAX - self._window))
            self._window += more
            grant = self._taken + more
            self._taken = 0
            self._granted += grant
            self._out.put_urgent(Message(Kind.WINDOW, self.id, window_payload(grant)))
        return taken

    async def _change(self) -> None:
        await self._changed.wait()

    def _signal(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _leave(self) -> None:
        if not self._broken:
            self.broke("this end of the stream is closed")
        self._signal()
        self._forget(self)
