"""Accepting: connections that prove who they are, gathered by threes into links, each step bounded.

A connection costs us, before we know who it is: a slot (`handshakes_max`), at most 32 KiB of TLS, one
handshake's arithmetic, and `handshake_s`. Which addresses may cost that how often is bounded too.
"""

import math
import struct
from collections.abc import Callable
from contextlib import suppress

import attrs
import trio
from OpenSSL import SSL

from supervm.api import Context
from supervm.contracts.transport import Priority
from supervm.plugins.transport.tcp.certificates import Incarnation
from supervm.plugins.transport.tcp.dialing import receive_exactly
from supervm.plugins.transport.tcp.frames import Malformed
from supervm.plugins.transport.tcp.hello import HELLO_BYTES, Hello, Verdict, Welcome, read_hello
from supervm.plugins.transport.tcp.quotas import LastSeen, Pending, Rates, is_public, network_of
from supervm.plugins.transport.tcp.tls import Insecure, SecureStream

_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER for a connection that is refused: gone at once, without waiting for its end."""
KNOWN_SHARE = 10
BANNED_PER_S = 0.1
BANNED_BURST = 3.0
"""Connections of an address where the last that has proven itself is banned: one attempt at a link, and
another in half a minute."""


Lanes = dict[Priority, tuple[SecureStream, bytes]]
"""The connections of a link, and what each has received already."""
Judge = Callable[[bytes, Hello, str, Incarnation], tuple[Verdict, float]]
"""`judge(peer, hello, address, incarnation)`: whether the peer may have a link, and else in how many seconds
it may ask again."""
Join = Callable[[bytes, str, Lanes], None]
"""`join(peer, address, lanes)`: the link is there; its connections aren't ours any more."""


@attrs.define(eq=False)
class Newcomer:
    """A connection that hasn't become part of a link."""

    address: str
    scope: trio.CancelScope
    evicted: bool = False


@attrs.define(eq=False)
class Gathering:
    """The connections of one session of a peer that have come so far."""

    session: bytes
    lanes: Lanes = attrs.Factory(dict)
    decided: trio.Event = attrs.Factory(trio.Event)
    complete: bool = False


@attrs.define(eq=False)
class Acceptor:
    """Takes connections in. `is_known(address)`: of a configured peer; it may come `KNOWN_SHARE` times as
    often as `arrivals` lets others; of others, a network may come as often as `of_networks` lets it.
    `is_banned(peer)`. `failed(outcome, address, cause)` is told of each that
    comes to nothing, `broke(address, error)` of each that has met a bug of ours."""

    ctx: Context
    tls: SSL.Context
    chain_id: bytes
    handshake_s: float
    arrivals: Rates
    of_networks: Rates
    pending: Pending
    is_known: Callable[[str], bool]
    is_banned: Callable[[bytes], bool]
    judge: Judge
    join: Join
    failed: Callable[[str, str, str], None]
    broke: Callable[[str, Exception], None]
    _gatherings: dict[bytes, Gathering] = attrs.Factory(dict)
    _last_seen: LastSeen = attrs.Factory(LastSeen)
    _of_banned: Rates = attrs.Factory(lambda: Rates(BANNED_PER_S, BANNED_BURST))
    _of_known: Rates = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._of_known = Rates(KNOWN_SHARE * self.arrivals.per_s, KNOWN_SHARE * self.arrivals.burst)

    async def accept(self, plain: trio.SocketStream) -> None:
        """Take one connection to its link, or close it."""
        try:
            address = str(plain.socket.getpeername()[0])
        except OSError:
            await trio.aclose_forcefully(plain)
            return
        refusal = self._refusal(address)
        if refusal is not None:
            with suppress(OSError):
                plain.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, _AT_ONCE)
            await trio.aclose_forcefully(plain)
            self.failed(refusal[0], address, refusal[1])
            return
        stream = SecureStream.over(plain, self.tls, dialing=False)
        kept = False
        with trio.move_on_after(self.handshake_s) as scope:
            newcomer = Newcomer(address, scope)
            evicted = self.pending.add(network_of(address), newcomer)
            if isinstance(evicted, Newcomer):
                evicted.evicted = True
                evicted.scope.cancel()
            try:
                kept = await self._take(stream, address)
            except Insecure as error:
                self.failed("insecure", address, str(error))
            except Malformed as error:
                self.failed("malformed", address, str(error))
            except (OSError, trio.BrokenResourceError) as error:
                self.failed("lost", address, str(error))
            except Exception as error:
                self.broke(address, error)
            finally:
                self.pending.remove(network_of(address), newcomer)
                if not kept:
                    with trio.CancelScope(shield=True):
                        await stream.aclose()
        if scope.cancelled_caught and not kept:
            outcome = "evicted" if newcomer.evicted else "timeout"
            self.failed(outcome, address, f"no link after {stream.bytes_in} bytes")

    def _refusal(self, address: str) -> tuple[str, str] | None:
        """Why a connection of this address isn't worth its handshake, as (outcome, cause); None if it is."""
        now = self.ctx.clock.monotonic()
        too_many = ("rate", "too many connections a second from this address")
        if self.is_known(address):
            return None if self._of_known.allows(address, now) else too_many
        peer = self._last_seen.at(address)
        # A few still get in: to be told of the ban, and because others may share the address.
        if peer is not None and self.is_banned(peer) and not self._of_banned.allows(address, now):
            return "banned", f"node {peer.hex()[:16]}, last seen at this address, is banned"
        if not self.arrivals.allows(address, now):
            return too_many
        if is_public(address) and not self.of_networks.allows(network_of(address), now):
            return "rate", f"too many connections a second from {network_of(address)}"
        return None

    async def _take(self, stream: SecureStream, address: str) -> bool:
        """Whether the connection became part of a link. Raises `Insecure`, `Malformed`, OSError."""
        peer = await stream.handshake()
        self._last_seen.note(address, peer)
        data, rest = await receive_exactly(stream, HELLO_BYTES)
        hello = read_hello(data)
        verdict, retry_after_s = self.judge(peer, hello, address, stream.incarnation)
        if verdict is not Verdict.WELCOME:
            welcome = Welcome(
                chain_id=self.chain_id, verdict=verdict, retry_after_ms=math.ceil(retry_after_s * 1000)
            )
            await stream.send(welcome.encode())
            self.failed(verdict.name.lower(), address, f"node {peer.hex()[:16]} isn't let in")
            return False
        if rest:
            raise Malformed("it speaks before it is welcomed")
        return await self._gather(peer, address, hello, stream)

    async def _gather(self, peer: bytes, address: str, hello: Hello, stream: SecureStream) -> bool:
        gathering = self._gatherings.get(peer)
        if gathering is None or gathering.session != hello.session:
            if gathering is not None:
                gathering.decided.set()  # the peer has begun anew
            gathering = self._gatherings[peer] = Gathering(hello.session)
        if hello.lane in gathering.lanes:
            raise Malformed(f"two connections for {hello.lane.name}")
        gathering.lanes[hello.lane] = (stream, b"")
        if len(gathering.lanes) == len(Priority):
            gathering.complete = True
            gathering.decided.set()
            del self._gatherings[peer]
            self.join(peer, address, gathering.lanes)
            return True
        try:
            await gathering.decided.wait()
        finally:
            if not gathering.complete:
                gathering.decided.set()
                if self._gatherings.get(peer) is gathering:
                    del self._gatherings[peer]
        return gathering.complete
