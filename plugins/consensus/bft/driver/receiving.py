"""What peers send, as far as its bytes say: decoded, bounded, in turns by peer.

Validators are heard, and guests: nodes that are none and ask for blocks, a few at a time; of those whom this
node asked itself, answers too. Each has a bounded share of each stream's queue; beyond it the sender is told
that this node is overloaded, and what it sent is gone: the machines of both sides say again what is needed.
Who sends what doesn't decode or isn't signed is counted, and after too much of it not heard for a while and
cut off, so that what it sends isn't even read; so is who lies to block sync. What is counted is of the peer
alone that sent it: an honest one passes nothing on that it hasn't verified.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from types import MappingProxyType

import attrs
import trio

from supervm.api import Context
from supervm.contracts.transport import ErrorCode, Handler, Refusal, Transport
from supervm.plugins.consensus.bft import messages
from supervm.plugins.consensus.bft.driver.posting import METHODS, unpack
from supervm.plugins.consensus.bft.events import Stream
from supervm.plugins.consensus.bft.messages import Message
from supervm.types.errors import InvalidInput

_DISSEMINATED = frozenset(range(messages.BATCH, messages.PROPOSAL)) | {messages.GET}
_VOTED = frozenset(range(messages.PROPOSAL, messages.GET)) | {messages.ASK_EPOCH, messages.TELL_EPOCH}
KINDS: Mapping[Stream, frozenset[int]] = MappingProxyType(
    {
        Stream.VOTES: _VOTED,
        Stream.DISSEMINATION: _DISSEMINATED,
        Stream.BULK: frozenset({messages.GET, messages.GOT}),
    }
)
SHARE_MESSAGES_MAX = 2_048
SHARE_BYTES_MAX = 16 * 2**20
GUESTS_MAX = 64
GUEST_MESSAGES_MAX = 8
FAULTS_MAX = 64
"""So many bad messages, and a peer is cut off, and not heard for `DEAF_S`."""
FAULT_HEALS_S = 60.0
"""A bad message is forgotten after so long (chosen, as NET-116 lets a score heal)."""
DEAF_S = 60.0
"""How long at least. Its transports cut it off for longer, each time that it comes to this."""


@attrs.frozen
class Incoming:
    """A decoded message whose signatures are still to be verified. `size_bytes`: of its frame."""

    peer: bytes
    message: Message
    size_bytes: int


@attrs.define
class _Share:
    messages_max: int
    waiting: deque[Incoming] = attrs.Factory(deque)
    size_bytes: int = 0


@attrs.define
class _Standing:
    """How a peer behaves. `faults` that haven't healed, as of `at_s`."""

    faults: float = 0.0
    at_s: float = 0.0
    deaf_until_s: float = 0.0

    def fault(self, now_s: float) -> bool:
        """Count one more; whether it is one too many, and then all are forgotten."""
        self.faults = max(0.0, self.faults - (now_s - self.at_s) / FAULT_HEALS_S) + 1
        self.at_s = now_s
        # Half a one is what has healed while the last few came.
        is_too_many = self.faults > FAULTS_MAX - 0.5
        if is_too_many:
            self.faults = 0.0
        return is_too_many


class Inbox:
    """What waits on one stream, by peer; taken in turns."""

    def __init__(self, peers: Iterable[bytes], share_messages_max: int) -> None:
        self._shares = {peer: _Share(share_messages_max) for peer in peers}
        self._turns = deque(self._shares)
        self._some = trio.Event()

    def admit(self, guest: bytes) -> None:
        """Give a node that is no validator a small share."""
        self._shares[guest] = _Share(GUEST_MESSAGES_MAX)
        self._turns.append(guest)

    def leave(self, guest: bytes) -> None:
        """What waits of a guest is dropped."""
        del self._shares[guest]
        self._turns.remove(guest)

    def has_room(self, peer: bytes, count: int, size_bytes: int) -> bool:
        """Whether a peer may leave so much. One parcel always has room where nothing waits."""
        share = self._shares[peer]
        if not share.waiting:
            return True
        return (
            len(share.waiting) + count <= share.messages_max
            and share.size_bytes + size_bytes <= SHARE_BYTES_MAX
        )

    def put(self, incoming: Incoming) -> None:
        share = self._shares[incoming.peer]
        share.waiting.append(incoming)
        share.size_bytes += incoming.size_bytes
        self._some.set()

    async def take(self, count_max: int, bytes_max: int) -> list[Incoming]:
        """Wait for messages; give some of each peer in turn."""
        while True:
            await self._some.wait()
            taken = self._take(count_max, bytes_max)
            if taken:
                return taken
            self._some = trio.Event()

    def _take(self, count_max: int, bytes_max: int) -> list[Incoming]:
        taken: list[Incoming] = []
        size_bytes = idle = 0
        while idle < len(self._turns) and len(taken) < count_max and size_bytes < bytes_max:
            share = self._shares[self._turns[0]]
            self._turns.rotate(-1)
            if not share.waiting:
                idle += 1
                continue
            idle = 0
            taken.append(share.waiting.popleft())
            share.size_bytes -= taken[-1].size_bytes
            size_bytes += taken[-1].size_bytes
        return taken


class Reception:
    """Serves the three methods on every transport, and keeps how peers behave."""

    def __init__(self, ctx: Context, peers: tuple[bytes, ...]) -> None:
        self._ctx = ctx
        self.guests: dict[bytes, None] = {}
        self.asked: frozenset[bytes] = frozenset()
        """Guests that this node asks, whose answers are heard: a few, since answers are large."""
        self.inboxes = {stream: Inbox(peers, SHARE_MESSAGES_MAX) for stream in Stream}
        self._standing = {peer: _Standing() for peer in peers}
        self._transports: tuple[Transport, ...] = ()
        self._faults = ctx.metrics.counter(
            "supervm_consensus_bad_messages_total", "Messages of validators that were dropped", ("code",)
        )
        self._received = ctx.metrics.counter(
            "supervm_consensus_messages_received_total", "Messages received, by stream", ("stream",)
        )

    def serving(self, transports: Iterable[Transport]) -> AbstractContextManager[object]:
        """Hear peers for the length of a `with`."""
        stack = ExitStack()
        self._transports = tuple(transports)
        for transport in self._transports:
            for stream, method in METHODS.items():
                stack.enter_context(transport.serve(method, self._handler(stream)))
        return stack

    def come(self, guest: bytes) -> bool:
        """Hear a node that is no validator from now on; False where there are too many."""
        if len(self.guests) >= GUESTS_MAX:
            return False
        self.guests[guest] = None
        self._standing[guest] = _Standing()
        self.inboxes[Stream.BULK].admit(guest)
        return True

    def leave(self, guest: bytes) -> None:
        """It isn't connected any more."""
        del self.guests[guest]
        del self._standing[guest]
        self.inboxes[Stream.BULK].leave(guest)

    def silence(self, peer: bytes, reason: str) -> None:
        """A peer gave what no honest one gives: it isn't heard for a while."""
        self._faults.inc(code="Lied")
        standing = self._standing.get(peer)
        if standing is not None:
            self._ctx.log.warning("peer_lied", peer=peer.hex(), seconds=DEAF_S, reason=reason)
            self._cut_off(peer, standing, f"it lied: {reason}")

    def blame(self, peer: bytes, code: str) -> None:
        """A peer sent what no honest one sends."""
        self._faults.inc(code=code)
        standing = self._standing.get(peer)
        if standing is None:
            # A guest that has gone meanwhile.
            return
        now_s = self._ctx.clock.monotonic()
        # What had come before it was cut off has been answered for.
        if standing.deaf_until_s <= now_s and standing.fault(now_s):
            self._ctx.log.warning("peer_not_heard", peer=peer.hex(), seconds=DEAF_S, last_fault=code)
            self._cut_off(peer, standing, f"{FAULTS_MAX} bad messages, the last {code}")

    def _cut_off(self, peer: bytes, standing: _Standing, reason: str) -> None:
        standing.deaf_until_s = self._ctx.clock.monotonic() + DEAF_S
        for transport in self._transports:
            transport.cut_off(peer, reason)

    def _handler(self, stream: Stream) -> Handler:
        inbox = self.inboxes[stream]

        async def take(peer: bytes, payload: bytes) -> bytes:
            standing = self._standing.get(peer)
            if standing is None or (stream is not Stream.BULK and peer in self.guests):
                raise Refusal(ErrorCode.UNAUTHORIZED, "only validators are heard, and guests of this node")
            if standing.deaf_until_s > self._ctx.clock.monotonic():
                raise Refusal(ErrorCode.POLICY_REFUSED, "too much of what came from you was bad")
            try:
                frames = unpack(payload)
                if not inbox.has_room(peer, len(frames), len(payload)):
                    raise Refusal(ErrorCode.OVERLOADED, "too much waits", retry_after_ms=100)
                found = [self._read(peer, stream, frame) for frame in frames]
            except InvalidInput as error:
                self.blame(peer, error.code)
                raise Refusal(ErrorCode.BAD_REQUEST, str(error)[:200]) from None
            for each in found:
                inbox.put(each)
            self._received.inc(len(found), stream=stream.name.lower())
            return b""

        take.never_waits = True  # type: ignore[attr-defined]
        return take

    def _read(self, peer: bytes, stream: Stream, frame: bytes) -> Incoming:
        message = messages.decode(frame)
        if messages.kind_of(message) not in KINDS[stream]:
            raise InvalidInput("WrongStream", "a message on another stream", messages.kind_of(message))
        if peer in self.guests and not self._is_of_guest(peer, message):
            raise InvalidInput("NoValidator", "a guest asks, and says nothing", messages.kind_of(message))
        return Incoming(peer, message, len(frame))

    def _is_of_guest(self, guest: bytes, message: Message) -> bool:
        return isinstance(message, messages.Get) or (
            isinstance(message, messages.Got) and guest in self.asked
        )
