"""Dialing: three connections to one peer, each proven, and again with backoff when they are lost."""

from collections.abc import Callable

import attrs
import trio
from OpenSSL import SSL

from supervm.api import Context
from supervm.contracts.transport import Priority
from supervm.plugins.transport.tcp.config import Endpoint
from supervm.plugins.transport.tcp.frames import Malformed
from supervm.plugins.transport.tcp.hello import (
    SESSION_BYTES,
    WELCOME_BYTES,
    Hello,
    Verdict,
    Welcome,
    read_welcome,
)
from supervm.plugins.transport.tcp.tls import Insecure, SecureStream

JITTER = 0.2
FAILED = "failed"
"""The outcome of a dial that has met a bug of ours."""


class DialFailed(Exception):
    """A peer could not be connected to. `outcome` is a word for the metric."""

    def __init__(self, outcome: str, cause: str, retry_after_s: float = 0.0) -> None:
        self.outcome, self.retry_after_s = outcome, retry_after_s
        super().__init__(cause)


@attrs.define(eq=False)
class Dialed:
    """Connections that a peer has welcomed: for each lane the stream, and what came after the welcome."""

    address: str
    lanes: dict[Priority, tuple[SecureStream, bytes]] = attrs.Factory(dict)

    async def aclose(self) -> None:
        for stream, _ in self.lanes.values():
            await stream.aclose()


async def receive_exactly(stream: SecureStream, count: int) -> tuple[bytes, bytes]:
    """`count` bytes, and what came with them. Raises `Malformed` when the peer ends before."""
    data = b""
    while len(data) < count:
        more = await stream.receive()
        if not more:
            raise Malformed(f"the peer left after {len(data)} of {count} bytes")
        data += more
    return data[:count], data[count:]


@attrs.frozen(kw_only=True)
class Dialer:
    """What is the same for every peer."""

    ctx: Context
    tls: SSL.Context
    chain_id: bytes
    handshake_s: float

    async def dial(self, peer: bytes, endpoint: Endpoint, on_connected: Callable[[], None]) -> Dialed:
        """Connect to a peer. `on_connected` is called once the first connection stands, before TLS.

        Raises `DialFailed`; whatever was opened is closed then.
        """
        dialed = Dialed(str(endpoint))
        opened: list[SecureStream] = []
        failures: list[DialFailed] = []
        session = self.ctx.random.randbytes(SESSION_BYTES)

        async def one(lane: Priority, nursery: trio.Nursery) -> None:
            try:
                plain = await trio.open_tcp_stream(endpoint.host, endpoint.port)
                on_connected()
                stream = SecureStream.over(plain, self.tls, dialing=True)
                opened.append(stream)
                dialed.lanes[lane] = (stream, await self._shake(stream, peer, lane, session))
            except Exception as error:
                # Whatever a peer has brought about, it has brought about for itself alone.
                failures.append(_failure(error))
                nursery.cancel_scope.cancel()

        try:
            with trio.move_on_after(self.handshake_s) as scope:
                async with trio.open_nursery() as nursery:
                    for lane in Priority:
                        nursery.start_soon(one, lane, nursery)
            if failures:
                raise failures[0]
            if scope.cancelled_caught or len(dialed.lanes) < len(Priority):
                raise DialFailed("timeout", f"no link within {self.handshake_s:g} s")
        except BaseException:
            with trio.CancelScope(shield=True):
                for stream in opened:
                    await stream.aclose()
            raise
        return dialed

    async def _shake(self, stream: SecureStream, peer: bytes, lane: Priority, session: bytes) -> bytes:
        """Prove both sides and be welcomed; what came after the welcome."""
        found = await stream.handshake()
        if found != peer:
            # NET-13: it is never told what it would be used for.
            raise DialFailed("wrong_identity", f"node {found.hex()[:16]} answers there")
        await stream.send(Hello(chain_id=self.chain_id, lane=lane, session=session).encode())
        data, rest = await receive_exactly(stream, WELCOME_BYTES)
        self._check(read_welcome(data))
        return rest

    def _check(self, welcome: Welcome) -> None:
        retry_after_s = welcome.retry_after_ms / 1000
        if welcome.verdict is not Verdict.WELCOME:
            name = welcome.verdict.name.lower()
            raise DialFailed(name, f"it refused: {name.replace('_', ' ')}", retry_after_s)
        if welcome.chain_id != self.chain_id:
            raise DialFailed("wrong_network", f"it is on chain {welcome.chain_id.hex()[:16]}")


def _failure(error: Exception) -> DialFailed:
    """What a dial failed of. What none of the steps is known to raise is a bug: `failed`, and its cause."""
    if isinstance(error, DialFailed):
        return error
    if isinstance(error, Insecure):
        return DialFailed("insecure", str(error))
    if isinstance(error, Malformed):
        return DialFailed("malformed", str(error))
    # UnicodeError: a host's name that can't be looked up.
    if isinstance(error, OSError | trio.BrokenResourceError | UnicodeError):
        return DialFailed("unreachable", str(error))
    failure = DialFailed(FAILED, f"a bug of this node: {type(error).__name__}")
    failure.__cause__ = error
    return failure


@attrs.define
class Backoff:
    """Seconds to wait before each try: doubling from `least_s` to `most_s`, with jitter (NET-114)."""

    ctx: Context
    least_s: float
    most_s: float
    _tries: int = 0

    def next_s(self, at_least_s: float = 0.0) -> float:
        wait_s = min(self.most_s, self.least_s * 2 ** min(self._tries, 32))
        self._tries += 1
        return float(max(at_least_s, wait_s * self.ctx.random.uniform(1 - JITTER, 1 + JITTER)))

    def reset(self) -> None:
        self._tries = 0
