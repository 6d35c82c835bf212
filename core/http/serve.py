"""Sockets, and Hypercorn's Trio worker on them.

We open the socket ourselves, so that a port in use is an error that names it. We accept connections
ourselves too, and give each to Hypercorn's connection class: `hypercorn.trio.serve` has no bound for
connections, and writes under a shield, where a client that stops reading would hold a task for ever and
the node's shutdown with it. `BoundedStream` gives every write a deadline.
"""

import errno
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from starlette.types import ASGIApp

from supervm.http.config import HttpConfig, ListenError, PortInUse, parse_listen
from supervm.kernel.component import Log, Metrics

BACKLOG = 256
HEADER_BYTES_MAX = 16 * 1024
GRACE_S = 3.0


def open_socket(listen: str) -> socket.socket:
    """A listening TCP socket. Raises `PortInUse` or `ListenError`, naming the address."""
    host, port = parse_listen(listen)
    sock: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        # Only for a port whose last owner is gone; a live listener still wins.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        if sock is not None:
            sock.close()
        if error.errno == errno.EADDRINUSE:
            mend = f"stop the program that listens on port {port}, or set another port (0 takes any free one)"
            raise PortInUse("the port is in use", listen, mend) from None
        raise ListenError("can't listen", listen, error.strerror or str(error)) from None
    return sock


def address_of(sock: socket.socket) -> str:
    """HOST:PORT as it really is, where port 0 was asked."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class BoundedStream:
    """A connection whose every write ends: a client that reads nothing for `send_timeout_s` is cut off.

    `connection` is the scope of all that is done for it. A failed write cancels it: Hypercorn's reader may
    wait for the end of an answer that can't be given any more.
    """

    def __init__(
        self, stream: trio.SocketStream, send_timeout_s: float, connection: trio.CancelScope
    ) -> None:
        self._stream = stream
        self._send_timeout_s = send_timeout_s
        self._connection = connection
        self.socket = stream.socket

    async def send_all(self, data: bytes) -> None:
        try:
            with trio.fail_after(self._send_timeout_s):
                await self._stream.send_all(data)
        except (trio.TooSlowError, trio.BrokenResourceError, trio.BusyResourceError) as error:
            # Half a message may be out; nothing that follows would make sense to the client.
            self._connection.cancel()
            await trio.aclose_forcefully(self._stream)
            raise trio.BrokenResourceError("the client is gone") from error

    async def receive_some(self, max_bytes: int) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Connection(TCPServer):
    """One connection. When the client is gone it ends at once.

    Hypercorn's own waits for its idle timer first, and would hold the place of each short connection for
    all that time.
    """

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()


@attrs.define
class Connections:
    """Connections now, and those closed at once because the bound was reached."""

    limit: int
    _depth: Any
    _refused: Any
    open: int = 0

    @classmethod
    def counted(cls, limit: int, metrics: Metrics) -> "Connections":
        refused = metrics.counter("supervm_http_connections_refused_total", "Connections closed at the bound")
        depth = metrics.gauge("supervm_http_connections_depth", "HTTP connections now")
        metrics.gauge("supervm_http_connections_limit", "Most HTTP connections at a time").set(limit)
        return cls(limit, depth, refused)

    def enter(self) -> bool:
        """Take a place; False where there is none."""
        if self.open >= self.limit:
            self._refused.inc()
            return False
        self.open += 1
        self._depth.set(self.open)
        return True

    def leave(self) -> None:
        self.open -= 1
        self._depth.set(self.open)


@asynccontextmanager
async def serving(
    app: ASGIApp, sock: socket.socket, config: HttpConfig, connections: Connections, log: Log
) -> AsyncIterator[str]:
    """Serve `app` while the scope lasts; gives HOST:PORT. At its end requests have 3 s to finish."""
    worker = WorkerContext(None)
    hypercorn = _hypercorn_config(config, log)

    async def connection(stream: trio.SocketStream) -> None:
        if not connections.enter():
            await trio.aclose_forcefully(stream)
            return
        try:
            with trio.CancelScope() as scope:
                bounded = BoundedStream(stream, config.send_timeout_s, scope)
                await Connection(ASGIWrapper(app), hypercorn, worker, {}, bounded)  # type: ignore[arg-type]
        except Exception as error:
            # One connection's failure, in the server's own code, is not the node's.
            log.error("connection_failed", exc_info=error)
        finally:
            connections.leave()

    address = address_of(sock)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    async with trio.open_nursery() as connected, listener, trio.open_nursery() as accepting:
        accepting.start_soon(partial(trio.serve_listeners, connection, [listener], handler_nursery=connected))
        try:
            yield address
        finally:
            accepting.cancel_scope.cancel()
            await worker.terminated.set()
            connected.cancel_scope.deadline = trio.current_time() + GRACE_S


def _hypercorn_config(config: HttpConfig, log: Log) -> Config:
    hypercorn = Config()
    hypercorn.accesslog = None
    hypercorn.errorlog = None
    hypercorn.logger_class = partial(_HypercornLog, log)  # type: ignore[assignment]
    hypercorn.include_server_header = False
    hypercorn.h11_max_incomplete_size = HEADER_BYTES_MAX
    hypercorn.h2_max_concurrent_streams = 16
    hypercorn.keep_alive_timeout = config.idle_timeout_s
    return hypercorn


class _HypercornLog:
    """Hypercorn's messages as events of ours. Its access log stays off: metrics count requests."""

    def __init__(self, log: Log, _config: object = None) -> None:
        self._log = log

    async def access(self, *_: object) -> None:
        return

    async def exception(self, message: str, *_: object) -> None:
        self._log.error("server_failed", message=message, exc_info=True)

    async def _quiet(self, message: str, *_: object) -> None:
        self._log.debug("server_message", message=message)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self._quiet
