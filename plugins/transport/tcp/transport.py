"""The transport `tcp` itself: its links, who may have one, and the contract's calls on them."""

import errno
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, suppress
from pathlib import Path
from socket import socket as StdlibSocket

import attrs
import trio
from OpenSSL import SSL

from supervm.api import Context, Health, Role
from supervm.contracts.application import Application
from supervm.contracts.transport import (
    LIMITS,
    Broadcast,
    Handler,
    IdentityInUse,
    IncomingStream,
    Medium,
    MessageTooLarge,
    PeerInfo,
    Priority,
    Unreachable,
)
from supervm.crypto.keyfile import read_key_file, write_key_file
from supervm.crypto.keys import KeyPair, generate
from supervm.plugins.transport.bans import Bans
from supervm.plugins.transport.registry import Registry
from supervm.plugins.transport.tcp.accepting import Acceptor, Lanes
from supervm.plugins.transport.tcp.certificates import Identity, Incarnation
from supervm.plugins.transport.tcp.config import Endpoint, TcpTransportConfig, read_listen, read_node_id
from supervm.plugins.transport.tcp.dialing import Backoff, Dialer, DialFailed
from supervm.plugins.transport.tcp.figures import Figures
from supervm.plugins.transport.tcp.frames import PROTOCOL_BYTES_MAX, Kind, Message, broadcast_payload
from supervm.plugins.transport.tcp.hello import NO_CHAIN, Hello, Verdict, Welcome
from supervm.plugins.transport.tcp.lane import Lane, LinkEnded, is_worth_waiting, quota_of
from supervm.plugins.transport.tcp.link import AT_FAULT, BLAMED, Link, Watch
from supervm.plugins.transport.tcp.outgoing import Outgoing
from supervm.plugins.transport.tcp.quotas import Pending, Rates, is_public, network_of
from supervm.plugins.transport.tcp.tls import make_context
from supervm.types.address import Suite

KEY_FILE = "identity.json"
BACKLOG = 256
ACCEPT_AGAIN_S = 0.1
DRAIN_STEP_S = 0.01
"""How often it is looked whether peers have taken what waited for them."""
NAMED_MAX = 4
"""Peers that are cut off, as health names them: the latest."""
_NO_MORE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
SHARES = {Priority.HIGH: 1 / 8, Priority.NORMAL: 3 / 8, Priority.BULK: 1 / 2}
"""How the send queue of a peer is divided among its connections."""


@attrs.define(eq=False)
class TcpTransport:
    """One node's transport. `addresses`: where it really listens, `HOST:PORT`."""

    ctx: Context
    config: TcpTransportConfig
    identity: Identity
    chain_id: bytes
    tls: SSL.Context
    node_id: bytes = attrs.field(init=False)
    medium: Medium = Medium(name="internet")
    addresses: tuple[str, ...] = ()
    _links: dict[bytes, Link] = attrs.Factory(dict)
    _registry: Registry = attrs.field(init=False)
    _figures: Figures = attrs.field(init=False)
    _bans: Bans = attrs.field(init=False)
    _configured: dict[bytes, tuple[Endpoint, ...]] = attrs.field(init=False)
    _admitted: frozenset[bytes] = attrs.field(init=False)
    _hosts: frozenset[str] = attrs.field(init=False)
    _seen_at: dict[bytes, str] = attrs.Factory(dict)
    _dialing: dict[bytes, trio.CancelScope] = attrs.Factory(dict)
    _shaking: set[bytes] = attrs.Factory(set)
    _told_in_use: set[bytes] = attrs.Factory(set)
    _nursery: trio.Nursery | None = None
    _draining: bool = False
    _listening: trio.CancelScope = attrs.Factory(trio.CancelScope)

    def __attrs_post_init__(self) -> None:
        self.node_id = self.identity.node_id
        self._registry = Registry(self.ctx)
        self._figures = Figures.declare(self.ctx)
        self._bans = Bans(self.config.ban_s)
        self._configured = self.config.endpoints()
        if self.node_id in self._configured:
            # One list of peers may serve every node of a network.
            del self._configured[self.node_id]
        self._admitted = frozenset(read_node_id(text) for text in self.config.admitted)
        self._hosts = frozenset(each.host for all in self._configured.values() for each in all)

    # -- the contract

    def peers(self) -> tuple[PeerInfo, ...]:
        return tuple(self._links[node_id].info for node_id in sorted(self._links))

    def cut_off(self, peer: bytes, reason: str) -> float:
        banned_s = self._bans.ban(peer, self.ctx.clock.monotonic())
        if peer in self._dialing:
            self._dialing[peer].cancel()
        link = self._links.get(peer)
        if link is not None:
            link.end(LinkEnded(BLAMED, reason))
            # It is nobody's peer any more, while its task still has to close its connections.
            self._left(link)
        return banned_s

    def serve(self, method: int, handler: Handler) -> AbstractContextManager[None]:
        return self._registry.serve(method, handler)

    async def request(
        self,
        peer: bytes,
        method: int,
        payload: bytes,
        *,
        timeout_s: float,
        priority: Priority = Priority.NORMAL,
    ) -> bytes:
        _check_size(payload, LIMITS.request_bytes_max, peer)
        return await self._link(peer).request(method, payload, timeout_s, priority)

    async def tell(
        self, peer: bytes, method: int, payload: bytes, *, priority: Priority = Priority.NORMAL
    ) -> None:
        _check_size(payload, LIMITS.request_bytes_max, peer)
        await self._link(peer).tell(method, payload, priority)

    async def broadcast(self, topic: str, payload: bytes, *, priority: Priority = Priority.NORMAL) -> None:
        _check_size(payload, LIMITS.broadcast_bytes_max, b"")
        message = Message(Kind.ONE_WAY, 0, broadcast_payload(topic, payload))
        await trio.lowlevel.checkpoint()
        for link in list(self._links.values()):
            if not link.broadcast(message, priority):
                self._figures.broadcast_dropped()

    def subscribe(
        self, topic: str, *, queue_max: int = 256
    ) -> AbstractContextManager[trio.MemoryReceiveChannel[Broadcast]]:
        return self._registry.subscribe(topic, queue_max)

    async def open_stream(self, peer: bytes, protocol: str) -> trio.abc.HalfCloseableStream:
        if len(protocol.encode()) > PROTOCOL_BYTES_MAX:
            raise ValueError(f"a protocol's name has at most {PROTOCOL_BYTES_MAX} bytes")
        return await self._link(peer).open_stream(protocol)

    def listen(self, protocol: str) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[IncomingStream]]:
        return self._registry.listen(protocol)

    async def health(self) -> Health:
        """Well, whatever peers do; the detail names who is cut off."""
        banned = self._bans.now_banned(self.ctx.clock.monotonic())
        named = ", ".join(peer.hex()[:16] for peer in banned[-NAMED_MAX:])
        return Health(detail=f"{len(banned)} peers are cut off: {named}" if banned else "")

    async def drain(self, deadline: float) -> None:
        """Take no more peers, and give those that are there what waits for them, until `deadline` (monotonic
        seconds) at most. Whoever takes it too slowly is given no more than it has taken."""
        self._draining = True
        self._listening.cancel()
        held: dict[Lane, int] = {}
        passed_s = 0.0
        now = self.ctx.clock.monotonic()
        while now < deadline and self._are_emptying(held, passed_s):
            await self.ctx.clock.sleep(DRAIN_STEP_S)
            before, now = now, self.ctx.clock.monotonic()
            # Time in which this process stood still is no peer's fault.
            passed_s += min(now - before, 2 * DRAIN_STEP_S)

    def _are_emptying(self, held: dict[Lane, int], passed_s: float) -> bool:
        """Whether anything waits for a peer that takes it. `held`: what each connection held at first."""
        waiting = [lane for link in self._links.values() for lane in link.lanes.values() if lane.out]
        for lane in waiting:
            held.setdefault(lane, lane.out.bytes_waiting)
        return any(is_worth_waiting(held[lane], lane.out.bytes_waiting, passed_s) for lane in waiting)

    # -- its life

    async def run(self, listeners: list[trio.SocketListener], started: Callable[[], None]) -> None:
        """Listen, dial and carry until cancelled. `started` is called when peers had time to connect."""
        acceptor = Acceptor(
            ctx=self.ctx,
            tls=self.tls,
            chain_id=self.chain_id,
            handshake_s=self.config.handshake_ms_max / 1000,
            arrivals=Rates(self.config.arrivals_per_s, self.config.arrivals_burst),
            of_networks=Rates(self.config.network_arrivals_per_s, self.config.network_arrivals_burst),
            pending=Pending(self.config.handshakes_max),
            is_known=self._is_known,
            is_banned=lambda peer: self._bans.remaining_s(peer, self.ctx.clock.monotonic()) > 0,
            judge=self._judge,
            join=self._accepted,
            failed=self._figures.handshake_failed,
            broke=self._figures.handshake_broke,
        )
        dialer = Dialer(
            ctx=self.ctx,
            tls=self.tls,
            chain_id=self.chain_id,
            handshake_s=self.config.handshake_ms_max / 1000,
        )
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._listen, listeners, acceptor)
            first = {peer: trio.Event() for peer in self._configured}
            for peer, endpoints in self._configured.items():
                nursery.start_soon(self._keep, dialer, peer, endpoints, first[peer])
            with trio.move_on_after(self.config.connect_wait_ms / 1000):
                for tried in first.values():
                    await tried.wait()
            started()

    async def _listen(self, listeners: list[trio.SocketListener], acceptor: Acceptor) -> None:
        with self._listening:
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    nursery.start_soon(self._accept, listener, acceptor)
        # Draining: whoever dials now shall see that nobody listens.
        for listener in listeners:
            await listener.aclose()

    async def _accept(self, listener: trio.SocketListener, acceptor: Acceptor) -> None:
        while True:
            try:
                plain = await listener.accept()
            except OSError as error:
                if error.errno not in _NO_MORE:
                    raise
                # Those that wait in the kernel's queue may have more luck later.
                self._figures.handshake_failed("exhausted", "", str(error))
                await self.ctx.clock.sleep(ACCEPT_AGAIN_S)
            else:
                assert self._nursery is not None, "we run in it"
                self._nursery.start_soon(acceptor.accept, plain)

    async def _keep(
        self, dialer: Dialer, peer: bytes, endpoints: tuple[Endpoint, ...], linked: trio.Event
    ) -> None:
        """Be connected to a configured peer, for good."""
        backoff = Backoff(self.ctx, self.config.reconnect_ms_min / 1000, self.config.reconnect_ms_max / 1000)
        turn = 0
        while not self._draining:
            link = self._links.get(peer)
            if link is not None:
                linked.set()
                await link.over.wait()
                # One that ends at once, again and again, is no reason to hurry.
                if self.ctx.clock.monotonic() - link.up_at > self.config.reconnect_ms_max / 1000:
                    backoff.reset()
                await self.ctx.clock.sleep(backoff.next_s())
            retry_after_s = self._bans.remaining_s(peer, self.ctx.clock.monotonic())
            if not retry_after_s and peer not in self._links:
                retry_after_s = await self._dial(dialer, peer, endpoints[turn % len(endpoints)])
                turn += 1
                if peer in self._links:
                    continue
            await self.ctx.clock.sleep(backoff.next_s(retry_after_s))

    async def _dial(self, dialer: Dialer, peer: bytes, endpoint: Endpoint) -> float:
        """Try once; at least how many seconds to wait for the next time."""
        scope = self._dialing[peer] = trio.CancelScope()
        try:
            with scope:
                dialed = await dialer.dial(peer, endpoint, lambda: self._shaking.add(peer))
                self._figures.dialed("linked")
                self._note_in_use(peer, False)
                self._join(peer, dialed.address, dialed.lanes, dialed=True)
        except DialFailed as error:
            self._figures.dial_failed(peer, str(endpoint), error)
            self._note_in_use(peer, error.outcome == Verdict.IN_USE.name.lower())
            return error.retry_after_s
        finally:
            del self._dialing[peer]
            self._shaking.discard(peer)
        return 0.0

    def _note_in_use(self, peer: bytes, is_told: bool) -> None:
        """A configured peer has, or hasn't, said that a later run of our identity has its link.

        Raises `IdentityInUse` once so many say it that one of them is honest: more than a third, and two.
        """
        if not is_told:
            self._told_in_use.discard(peer)
            return
        self._told_in_use.add(peer)
        needed = max(len(self._configured) // 3 + 1, min(2, len(self._configured)))
        if len(self._told_in_use) >= needed:
            raise IdentityInUse(
                f"another running node has this node's identity, {len(self._told_in_use)} peers say",
                self.node_id,
                "run a data folder on one machine alone",
            )

    # -- who may have a link

    def _is_known(self, address: str) -> bool:
        """Whether a configured peer has this address, or had it when it last dialed us."""
        return address in self._hosts or address in self._seen_at.values()

    def _judge(
        self, peer: bytes, hello: Hello, address: str, incarnation: Incarnation
    ) -> tuple[Verdict, float]:
        """Whether a peer that dials us may have a link."""
        banned_s = self._bans.remaining_s(peer, self.ctx.clock.monotonic())
        if banned_s:
            return Verdict.BANNED, banned_s
        if hello.chain_id != self.chain_id:
            return Verdict.WRONG_NETWORK, 0.0
        link = self._links.get(peer)
        if link is not None and incarnation < link.incarnation and link.is_lively:
            return Verdict.IN_USE, 0.0
        if self._draining:
            return Verdict.LEAVING, 0.0
        if self._is_listed(peer):
            return (Verdict.DUPLICATE if self._is_duplicate(peer) else Verdict.WELCOME), 0.0
        if self.config.admit != "any" or peer == self.node_id:
            return Verdict.NOT_ADMITTED, 0.0
        # Whom we know always has room, connected or not.
        reserved = sum(1 for known in self._configured if known not in self._links)
        if peer not in self._links and len(self._links) + reserved >= self.config.links_max:
            return Verdict.FULL, 0.0
        return (Verdict.FULL if self._is_crowded(peer, address) else Verdict.WELCOME), 0.0

    def _is_listed(self, peer: bytes) -> bool:
        return peer in self._configured or peer in self._admitted

    def _is_crowded(self, peer: bytes, address: str) -> bool:
        """Whether others of the same network that aren't listed have all links that it may (NET-110)."""
        if not is_public(address) or self._is_known(address):
            return False
        network = network_of(address)
        there = sum(
            1
            for other, link in self._links.items()
            if other != peer and not self._is_listed(other) and network_of(link.address) == network
        )
        return there >= self.config.network_links_max

    def _is_duplicate(self, peer: bytes) -> bool:
        """Whether ours is the link that stays when both sides dial: the one dialed by the smaller id.

        A peer dials only while it knows of no link, so an older link of ours is one that it has lost.
        """
        if self.node_id > peer:
            return False
        link = self._links.get(peer)
        if link is None:
            return peer in self._shaking
        age_s = self.ctx.clock.monotonic() - link.up_at
        return link.dialed and age_s < self.config.handshake_ms_max / 1000

    def _accepted(self, peer: bytes, address: str, lanes: Lanes) -> None:
        self._figures.handshake_done()
        if peer in self._dialing:
            self._dialing[peer].cancel()
        self._join(peer, address, lanes, dialed=False)

    def _join(self, peer: bytes, address: str, lanes: Lanes, *, dialed: bool) -> None:
        """A peer is connected, from now on."""
        before = self._links.pop(peer, None)
        if before is not None:
            before.end(LinkEnded("replaced", "the peer connected again"))
        known = self._is_listed(peer)
        if peer in self._configured and not dialed:
            self._seen_at[peer] = address
        welcome = b"" if dialed else Welcome(chain_id=self.chain_id, verdict=Verdict.WELCOME).encode()
        link = Link(
            peer,
            address,
            dialed,
            {
                priority: Lane(
                    priority=priority,
                    stream=stream,
                    out=Outgoing(int(self.config.send_queue_bytes_max * SHARES[priority])),
                    quota=quota_of(self.config, priority, known=known),
                    ctx=self.ctx,
                    stall_s=self.config.stall_ms_max / 1000,
                    moved=self._figures.moved,
                    preface=welcome,
                    received=received,
                )
                for priority, (stream, received) in sorted(lanes.items())
            },
            self._registry,
            self.ctx,
            self._watch(known),
            self._left,
            self._figures.link_broke,
        )
        self._links[peer] = link
        self._figures.linked(self._links.values(), link)
        assert self._nursery is not None, "links are made by its tasks"
        self._nursery.start_soon(self._carry, link)
        self.ctx.publish("peer_seen", peer=link.info)

    async def _carry(self, link: Link) -> None:
        """Run a link to its end, and say how it ended."""
        ending = await link.run()
        banned_s = 0.0
        if ending.kind in AT_FAULT:
            banned_s = self._bans.ban(link.peer, self.ctx.clock.monotonic())
        self._figures.ended(self._links.values(), link, ending, banned_s)

    def _left(self, link: Link) -> None:
        if self._links.get(link.peer) is link:
            del self._links[link.peer]

    def _link(self, peer: bytes) -> Link:
        link = self._links.get(peer)
        if link is None:
            raise Unreachable("the peer isn't connected", peer)
        return link

    def _watch(self, known: bool) -> Watch:
        config = self.config
        ping_ms = config.ping_ms if known else config.stranger_ping_ms
        silence_ms = config.silence_ms_max if known else config.stranger_silence_ms_max
        return Watch(ping_s=ping_ms / 1000, silence_s=silence_ms / 1000)


def _check_size(payload: bytes, most: int, peer: bytes) -> None:
    if len(payload) > most:
        raise MessageTooLarge(f"{len(payload)} bytes, at most {most}", peer, "send it in parts")


@asynccontextmanager
async def open_tcp(ctx: Context, config: TcpTransportConfig) -> AsyncIterator[TcpTransport]:
    """Listen, and be connected to the configured peers. Raises OSError where an address can't be had,
    `KeyFileError` for the identity."""
    identity, chain_id = await _who(ctx, config)
    tls = make_context(identity, ctx.random.randbytes(32), max(1, ctx.clock.wall_ms()))
    transport = TcpTransport(ctx, config, identity, chain_id, tls)
    async with _listening(config) as listeners:
        transport.addresses = tuple(_address(listener) for listener in listeners)
        ended = trio.Event()
        scope = trio.CancelScope()

        async def run(task_status: trio.TaskStatus[None]) -> None:
            try:
                with scope:
                    await transport.run(listeners, task_status.started)
            finally:
                ended.set()

        try:
            await ctx.nursery.start(run)
            ctx.log.info("listening", addresses=transport.addresses, node_id=transport.node_id.hex())
            yield transport
        finally:
            scope.cancel()
            with trio.CancelScope(shield=True):
                await ended.wait()


async def _who(ctx: Context, config: TcpTransportConfig) -> tuple[Identity, bytes]:
    """Our identity and our chain."""
    served = ctx.all(Role.APPLICATION)
    application: Application | None = served[0] if served else None
    chain_id = application.chain_id if application is not None else NO_CHAIN
    if application is not None and not config.identity_file:
        own = application.identity
        return Identity(suite=Suite.ED25519, public_key=own.public_key, sign=own.sign), chain_id
    key = await trio.to_thread.run_sync(_key, config.identity_file, ctx.data_dir / KEY_FILE, ctx)
    return Identity(suite=key.suite, public_key=key.public_key, sign=key.sign), chain_id


def _key(named: str, own: Path, ctx: Context) -> KeyPair:
    if named:
        return read_key_file(Path(named).expanduser())
    if not own.exists():
        write_key_file(own, generate("ed25519", ctx.random.randbytes), None, name="transport")
    return read_key_file(own)


@asynccontextmanager
async def _listening(config: TcpTransportConfig) -> AsyncIterator[list[trio.SocketListener]]:
    listeners: list[trio.SocketListener] = []
    try:
        for text in config.listen:
            place = read_listen(text)
            if isinstance(place, Endpoint):
                opened = await trio.open_tcp_listeners(place.port, host=place.host, backlog=BACKLOG)
                listeners.extend(opened)
            else:
                # A copy of ours, so that the transport can be opened again.
                inherited = StdlibSocket(fileno=place)
                try:
                    copy = inherited.dup()
                finally:
                    inherited.detach()
                copy.setblocking(False)
                listeners.append(trio.SocketListener(trio.socket.from_stdlib_socket(copy)))
        yield listeners
    finally:
        with trio.CancelScope(shield=True):
            for listener in listeners:
                with suppress(OSError):
                    await listener.aclose()


def _address(listener: trio.SocketListener) -> str:
    host, port = listener.socket.getsockname()[:2]
    return str(Endpoint(host, port))
