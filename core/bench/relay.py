"""Links with a delay: a process that carries bytes between pairs of addresses, each way so much later.

    python -m supervm.bench.relay --delay-ms 20 LISTEN=TARGET LISTEN=TARGET ...

All addresses are HOST:PORT. It says `ready` on stdout once it listens, and runs until it is told to stop.
What is on its way on a connection is bounded, as a link's bandwidth and delay bound it.

It stands for wires, so it has to cost next to nothing: one thread, plain sockets, no tasks. It waits by
`select`, whose time-out is of microseconds where epoll's is of whole milliseconds.
"""

import argparse
import math
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence

import attrs

PIECE_BYTES = 64 * 1024
ON_THE_WAY_MAX = 1_024
"""Pieces on their way on one connection, each way; beyond them the sender isn't read."""
CONNECTIONS_MAX = 400
"""`select` looks at no more than 1,024 files; beyond these whoever connects is turned away."""
CONNECT_S = 5.0

Address = tuple[str, int]


@attrs.define(eq=False)
class Way:
    """One direction of a connection: what `source` says `target` hears, in order, each piece when it is due.

    A piece is (when it is due, its bytes); an empty one says that the source has ended.
    """

    source: socket.socket
    target: socket.socket
    pieces: deque[tuple[float, bytes]] = attrs.Factory(deque)
    rest: bytes = b""
    """Of a piece that is due, what the target hasn't taken."""
    ended: bool = False
    told: bool = False
    """The target has heard all, and that it was all."""

    @property
    def reads(self) -> bool:
        """Whether the source is listened to now."""
        return not self.ended and len(self.pieces) < ON_THE_WAY_MAX

    @property
    def next_s(self) -> float:
        """When something is to be done by itself; infinite if the target has to take something first."""
        return math.inf if self.rest or not self.pieces else self.pieces[0][0]

    def read(self, due_s: float) -> None:
        """Take what came. Raises OSError where the connection broke."""
        try:
            data = self.source.recv(PIECE_BYTES)
        except BlockingIOError:
            return
        self.ended = not data
        self.pieces.append((due_s, data))

    def write(self, now_s: float) -> None:
        """Give on what is due, as far as the target takes it. Raises OSError where the connection broke."""
        while self.rest or self.next_s <= now_s:
            if not self.rest:
                self.rest = self.pieces.popleft()[1]
                if not self.rest:
                    self.target.shutdown(socket.SHUT_WR)
                    self.told = True
                    return
            try:
                self.rest = self.rest[self.target.send(self.rest) :]
            except BlockingIOError:
                return


@attrs.define(eq=False)
class Link:
    """A connection, both its ways."""

    ways: tuple[Way, Way]

    def carry(self, readable: frozenset[socket.socket], now_s: float, due_s: float) -> bool:
        """Do what can be done now. Returns whether the link is still up; if not, its ends are closed."""
        try:
            for way in self.ways:
                way.write(now_s)
                if way.source in readable:
                    way.read(due_s)
            is_up = not all(way.told for way in self.ways)
        except OSError:
            # It is down: both ends see their connection closed.
            is_up = False
        if not is_up:
            for way in self.ways:
                way.source.close()
        return is_up


class Relay:
    """Listens at the first address of each pair, and joins whoever comes with the second."""

    def __init__(self, pairs: Sequence[tuple[Address, Address]], delay_s: float) -> None:
        self._delay_s = delay_s
        self._links: list[Link] = []
        self._targets: dict[socket.socket, Address] = {}
        for address, target in pairs:
            listener = socket.create_server(address)
            listener.setblocking(False)
            self._targets[listener] = target

    def turn(self) -> None:
        """Wait for whatever comes first, and do it."""
        ways = [way for link in self._links for way in link.ways]
        next_s = min((way.next_s for way in ways), default=math.inf)
        timeout_s = None if next_s == math.inf else max(0.0, next_s - time.monotonic())
        sources = [way.source for way in ways if way.reads]
        targets = [way.target for way in ways if way.rest]
        readable = frozenset(select.select([*self._targets, *sources], targets, [], timeout_s)[0])
        now_s = time.monotonic()
        self._links = [link for link in self._links if link.carry(readable, now_s, now_s + self._delay_s)]
        for listener in readable & self._targets.keys():
            self._join(listener)

    def _join(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            # Whoever came has gone.
            return
        try:
            if len(self._links) >= CONNECTIONS_MAX:
                raise ConnectionError("too many connections")
            server = socket.create_connection(self._targets[listener], timeout=CONNECT_S)
        except OSError:
            # As if nobody listened there.
            client.close()
            return
        for each in (client, server):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._links.append(Link((Way(client, server), Way(server, client))))


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="supervm.bench.relay", description=__doc__)
    parser.add_argument("--delay-ms", type=float, required=True)
    parser.add_argument("links", nargs="+")
    asked = parser.parse_args(argv)
    assert 0 <= asked.delay_ms < math.inf
    pairs = [each.partition("=")[::2] for each in asked.links]
    relay = Relay([(_address(listen), _address(target)) for listen, target in pairs], asked.delay_ms / 1000)
    print("ready", flush=True)
    while True:
        relay.turn()


if __name__ == "__main__":
    sys.exit(main())
