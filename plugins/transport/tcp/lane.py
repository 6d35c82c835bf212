"""One connection of a link: writes what is queued, reads messages as fast as the peer's quota allows."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs
import trio

from supervm.api import Context
from supervm.contracts.transport import LIMITS, Priority
from supervm.plugins.transport.tcp.config import TcpTransportConfig
from supervm.plugins.transport.tcp.frames import FrameReader, Message
from supervm.plugins.transport.tcp.outgoing import Outgoing
from supervm.plugins.transport.tcp.quotas import Bucket
from supervm.plugins.transport.tcp.tls import SecureStream

MESSAGES_IN_A_ROW = 32
"""After so many from one peer, other tasks run."""
FRAMES_BURST_S = 5.0
BYTE_SHARES: Mapping[Priority, float] = MappingProxyType(
    {Priority.HIGH: 1 / 12, Priority.NORMAL: 1 / 4, Priority.BULK: 2 / 3}
)
"""How the bytes that a peer may send a second are divided among its connections (chosen): what floods one
doesn't use up what the others may have."""
BYTES_BURST_MIN = 2 * LIMITS.request_bytes_max
"""So many bytes always come at once: the longest message, and one more."""
LATE_S = 0.05
"""How long an answer of a handler that never waits, if it is empty, waits for something to travel with."""

DRAIN_GRACE_S = 1.0
"""How long whoever takes nothing is waited for when this node leaves."""
DRAIN_S = 8.0
"""In how much longer a peer must take all that waits for it."""


def is_worth_waiting(held: int, left: int, passed_s: float) -> bool:
    """Whether a queue empties fast enough to be waited for when a node leaves: it held `held` bytes
    `passed_s` ago, and now `left`. Evenly, it is empty `DRAIN_S` after `DRAIN_GRACE_S`."""
    still_s = DRAIN_GRACE_S + DRAIN_S - passed_s
    return still_s > 0 and left * DRAIN_S <= held * still_s if passed_s > DRAIN_GRACE_S else True


class LinkEnded(Exception):
    """A link is over. `kind` is one of the endings that the operator page lists."""

    def __init__(self, kind: str, cause: str) -> None:
        self.kind = kind
        super().__init__(cause)


@attrs.frozen(kw_only=True)
class Quota:
    """What a peer may send on one connection. Beyond it we read slower; after `flood_s` of too many
    frames without a pause, we stop."""

    frames_per_s: float
    frames_burst: float
    bytes_per_s: float
    bytes_burst: float
    flood_s: float


def quota_of(config: TcpTransportConfig, priority: Priority, *, known: bool) -> Quota:
    """What a peer may send on its connection of a priority. `known`: it is configured or admitted."""
    frames_per_s = config.peer_frames_per_s if known else config.stranger_frames_per_s
    bytes_per_s = config.peer_bytes_per_s if known else config.stranger_bytes_per_s
    share_per_s = bytes_per_s * BYTE_SHARES[priority]
    return Quota(
        frames_per_s=frames_per_s,
        frames_burst=FRAMES_BURST_S * frames_per_s,
        bytes_per_s=share_per_s,
        bytes_burst=max(share_per_s, BYTES_BURST_MIN),
        flood_s=config.flood_s,
    )


@attrs.define(eq=False)
class Lane:
    """A connection with its queue. `preface` is written first; `received` came with the handshake.

    `moved(direction, bytes)` is told of traffic: of the wire where it comes in, before TLS where it leaves.
    """

    priority: Priority
    stream: SecureStream
    out: Outgoing
    quota: Quota
    ctx: Context
    stall_s: float
    moved: Callable[[str, int], None]
    preface: bytes = b""
    received: bytes = b""
    heard_at: float = attrs.field(init=False)
    reader: FrameReader = attrs.Factory(FrameReader)
    _frames: Bucket = attrs.field(init=False)
    _bytes: Bucket = attrs.field(init=False)
    _over_since: float | None = None

    def __attrs_post_init__(self) -> None:
        quota = self.quota
        self._frames = Bucket(quota.frames_per_s, quota.frames_burst)
        self._bytes = Bucket(quota.bytes_per_s, quota.bytes_burst)
        self.heard_at = self.ctx.clock.monotonic()

    async def write(self) -> None:
        """Write until cancelled. Raises `LinkEnded` for a peer that doesn't read."""
        data = self.preface
        while True:
            if data:
                with trio.move_on_after(self.stall_s) as scope:
                    await self.stream.send(data)
                self.moved("out", len(data))
                if scope.cancelled_caught:
                    raise LinkEnded("stalled", f"it read nothing for {self.stall_s:g} s")
            elif not self.out:
                await self._wait_for_some()
            data = self.out.take()

    async def _wait_for_some(self) -> None:
        """Wait until something is to be sent. What is late waits `LATE_S` for company, at most."""
        while not self.out:
            if not self.out.has_late:
                await self.out.wake.wait()
                continue
            self.out.rest()
            with trio.move_on_after(LATE_S):
                await self.out.wake.wait()
            if not self.out:
                self.out.hurry()

    async def read(self, receive: Callable[["Lane", Message], None]) -> None:
        """Give each message to `receive` until cancelled. Raises `LinkEnded`, `Malformed`, `Insecure`."""
        data = self.received
        self.received = b""
        clock = self.ctx.clock
        while True:
            frames_before = self.reader.frames
            for number, message in enumerate(self.reader.feed(data), 1):
                receive(self, message)
                if number % MESSAGES_IN_A_ROW == 0:
                    await trio.lowlevel.checkpoint()
            await self._keep_to_quota(self.reader.frames - frames_before)
            bytes_before = self.stream.bytes_in
            data = await self.stream.receive()
            self.heard_at = clock.monotonic()
            size = self.stream.bytes_in - bytes_before
            self.moved("in", size)
            self._bytes.take(size, self.heard_at)
            if not data:
                raise LinkEnded("left", "the peer ended the connection")

    async def _keep_to_quota(self, frames: int) -> None:
        """Wait until the peer is within its quota again. Raises `LinkEnded` for a flood of frames.

        Many bytes are only slowed, since an honest peer may have much to send; but its frames are few.
        """
        now = self.ctx.clock.monotonic()
        frames_wait_s = self._frames.take(frames, now)
        if not frames_wait_s:
            self._over_since = None
        elif self._over_since is None:
            self._over_since = now
        elif now - self._over_since > self.quota.flood_s:
            raise LinkEnded(
                "flood", f"more than {self.quota.frames_per_s:g} frames/s for {self.quota.flood_s:g} s"
            )
        wait_s = max(frames_wait_s, self._bytes.take(0, now))
        if wait_s:
            throttled = self.ctx.metrics.counter(
                "transport_throttled_seconds_total", "Time that peers over their quota were not read"
            )
            throttled.inc(wait_s)
            await self.ctx.clock.sleep(wait_s)
            self.heard_at = self.ctx.clock.monotonic()
