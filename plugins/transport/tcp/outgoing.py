"""What waits to be sent on one connection: bounded, with short messages between the pieces of long ones.

Urgent messages (pongs, windows, refusals, the end of a message that is given up between its pieces) go
first. Then, in turns, up to 64 KiB of short messages and one piece of the longest-waiting long one, so that
neither holds up the other. Short ones keep their order, and so do long ones and the bytes of streams. Room
is counted in bytes of payload; a message longer than all of the room enters when nothing else waits.

Late messages, which nobody is in a hurry for, leave with the next that is sent, or when somebody says so.
"""

from collections import deque
from collections.abc import Iterator

import attrs
import trio

from supervm.plugins.transport.tcp.frames import PIECE_BYTES_MAX, Kind, Malformed, Message, frames_of

SHORT_BYTES_MAX = 16 * 1024
BURST_BYTES = 64 * 1024
URGENT_MAX = 1024
LATE_MAX = 64
OVERHEAD_BYTES = 64
"""Counted for each message besides its payload, so that empty ones are bounded too."""


_ENDINGS = {Kind.REQUEST: Kind.CANCEL, Kind.OPEN: Kind.RESET}
"""What may be abandoned, and what tells the peer. It is queued only when the other has left, so whichever
queues they are in, it comes after."""


@attrs.define(eq=False)
class _Waiting:
    """A sender that waits for room."""

    message: Message
    task: trio.lowlevel.Task


@attrs.define(eq=False)
class Outgoing:
    """The queue of one connection."""

    bytes_max: int
    bytes_waiting: int = 0
    wake: trio.Event = attrs.Factory(trio.Event)
    _urgent: deque[Message] = attrs.Factory(deque)
    _short: deque[Message] = attrs.Factory(deque)
    _long: deque[Message] = attrs.Factory(deque)
    _pieces: Iterator[bytes] | None = None
    _next_piece: bytes | None = None
    _turn_long: bool = False
    _late: list[Message] = attrs.Factory(list)
    _senders: deque[_Waiting] = attrs.Factory(deque)
    _closed: bool = False

    async def put(self, message: Message) -> None:
        """Queue a message; waits, in order of arrival, until there is room. Cancelled, it has queued nothing.

        Raises trio.ClosedResourceError once the queue is closed.
        """
        if self._closed:
            raise trio.ClosedResourceError("the connection has ended")
        if self.put_nowait(message):
            return
        waiting = _Waiting(message, trio.lowlevel.current_task())
        self._senders.append(waiting)

        def give_up(_: object) -> trio.lowlevel.Abort:
            # At once: an event would leave a moment in which who is cancelled could still be let in.
            self._senders.remove(waiting)
            self._let_in()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)
        if self._closed:
            raise trio.ClosedResourceError("the connection has ended")

    def close(self) -> None:
        """Take no more, and wake who waits."""
        self._closed = True
        while self._senders:
            trio.lowlevel.reschedule(self._senders.popleft().task)

    def put_nowait(self, message: Message) -> bool:
        """Queue a message if there is room, and say whether there was."""
        if self._closed or self._senders or self._full(message):
            return False
        self._add(message)
        return True

    def put_urgent(self, message: Message) -> None:
        """Queue a short message ahead of all else. The caller bounds how many there can be."""
        self._urgent.append(message)
        self.wake.set()

    def put_answer(self, message: Message) -> None:
        """Queue a short answer that the peer has made us give, ahead of all. Raises `Malformed` when too
        many wait: the peer asks and doesn't read."""
        if len(self._urgent) >= URGENT_MAX:
            raise Malformed(f"{URGENT_MAX} answers wait that it doesn't read")
        self.put_urgent(message)

    def put_late(self, message: Message) -> bool:
        """Queue a message without content, to leave with the next one; whether there was room."""
        assert not message.payload, "what has content waits for room"
        if self._closed or len(self._late) >= LATE_MAX:
            return False
        self._late.append(message)
        if len(self._late) == 1:
            self.wake.set()
        return True

    @property
    def has_late(self) -> bool:
        """Whether any message waits for company."""
        return bool(self._late)

    def hurry(self) -> None:
        """Late messages have waited long enough."""
        for message in self._late:
            self._add(message)
        self._late.clear()

    def rest(self) -> None:
        """Nothing but late messages waits: `wake` is set again by what comes next."""
        self.wake = trio.Event()

    def put_always(self, message: Message) -> None:
        """Queue a message without content in its order, whether or not there is room. The caller bounds
        how many there can be."""
        assert not message.payload, "what has content waits for room"
        self._add(message)

    def abandon(self, message: Message) -> None:
        """A request or an opening that was queued isn't wanted any more: never send it, or tell the peer."""
        ending = Message(_ENDINGS[message.kind], message.id)
        if self._pieces is not None and self._long[0] is message:
            self._pieces = self._next_piece = None
            self._free(self._long.popleft())
            # Until it has come the peer holds the pieces, and takes none of another message.
            self.put_urgent(ending)
        elif not self._withdraw(message):
            self.put_always(ending)
        self._let_in()
        self._rest_if_empty()

    def take(self) -> bytes:
        """The next frames to send, about 64 KiB; empty if nothing waits."""
        frames: list[bytes] = []
        if self:
            self.hurry()
        while self._urgent:
            frames.extend(frames_of(self._urgent.popleft()))
        if self._short and not (self._long and self._turn_long):
            self._take_short(frames)
            self._turn_long = True
        elif self._long:
            self._take_piece(frames)
            self._turn_long = False
        self._rest_if_empty()
        self._let_in()
        return b"".join(frames)

    def __bool__(self) -> bool:
        return bool(self._urgent or self._short or self._long)

    def _take_short(self, frames: list[bytes]) -> None:
        taken = 0
        while self._short and taken < BURST_BYTES:
            message = self._short.popleft()
            frames.extend(frames_of(message))
            self._free(message)
            taken += len(message.payload) + OVERHEAD_BYTES

    def _take_piece(self, frames: list[bytes]) -> None:
        if self._pieces is None:
            self._pieces = frames_of(self._long[0])
            self._next_piece = next(self._pieces)
        assert self._next_piece is not None, "a message that is all sent has left the queue"
        frames.append(self._next_piece)
        self._next_piece = next(self._pieces, None)
        if self._next_piece is None:
            self._pieces = None
            self._free(self._long.popleft())

    def _withdraw(self, message: Message) -> bool:
        """Take a message back of which nothing was sent; whether there was one."""
        for queue in (self._short, self._long):
            for place, each in enumerate(queue):
                if each is message:
                    del queue[place]
                    self._free(message)
                    return True
        return False

    def _rest_if_empty(self) -> None:
        if not self:
            self.wake = trio.Event()

    def _add(self, message: Message) -> None:
        ordered = message.kind in (Kind.DATA, Kind.END, Kind.RESET)
        short = len(message.payload) <= SHORT_BYTES_MAX and not ordered
        (self._short if short else self._long).append(message)
        self.bytes_waiting += _cost(message)
        self.wake.set()

    def _full(self, message: Message) -> bool:
        return bool(self.bytes_waiting) and self.bytes_waiting + _cost(message) > self.bytes_max

    def _free(self, message: Message) -> None:
        self.bytes_waiting -= _cost(message)
        assert self.bytes_waiting >= 0, self.bytes_waiting

    def _let_in(self) -> None:
        while self._senders and not self._full(self._senders[0].message):
            waiting = self._senders.popleft()
            self._add(waiting.message)
            trio.lowlevel.reschedule(waiting.task)


def _cost(message: Message) -> int:
    return len(message.payload) + OVERHEAD_BYTES


assert SHORT_BYTES_MAX <= PIECE_BYTES_MAX, "a short message is one frame"
