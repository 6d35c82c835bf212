"""What the transport `tcp` does between two processes on loopback, beside a bare Trio TCP echo, in turns.

    python -m tests.transport.tcp_speed [--seconds 2] [--turns 3]

One line for each measure: the median of the turns. A request is 100 bytes there and back.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import structlog
import trio

from supervm.contracts.transport import Priority, Transport
from supervm.crypto.keyfile import write_key_file
from supervm.crypto.keys import KeyPair
from supervm.plugins.transport.tcp.component import TCP
from supervm.plugins.transport.tcp.config import TcpTransportConfig
from supervm.testing.context import opened
from supervm.types.address import Suite

ECHO, SINK, STREAM = 0x8001, 0x8002, "sink/1"
SMALL, LARGE = bytes(100), bytes(2**20)
KEYS = [KeyPair(Suite.ED25519, bytes((number,)) * 32) for number in (1, 2)]


@asynccontextmanager
async def node(folder: Path, number: int, **options: Any) -> Any:
    path = folder / f"key{number}.json"
    if not await trio.Path(path).exists():
        write_key_file(path, KEYS[number], None)
    config = TcpTransportConfig(
        identity_file=str(path),
        admitted=tuple(key.node_id.hex() for key in KEYS),
        peer_frames_per_s=1e9,
        peer_bytes_per_s=1e12,
        **options,
    )
    async with opened(TCP, folder / str(number), config, seed=number) as transport:
        yield transport


async def serve(folder: Path) -> None:
    """The other process: a bare echo and a node, until its input ends."""

    async def bare(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async def bare_sink(stream: trio.SocketStream) -> None:
        async for _ in stream:
            pass
        await stream.send_all(b"!")

    async def echo(peer: bytes, payload: bytes) -> bytes:
        return payload

    async def sink(peer: bytes, payload: bytes) -> bytes:
        return b""

    async def take(transport: Transport) -> None:
        async with transport.listen(STREAM) as incoming:
            async for each in incoming:
                while await each.stream.receive_some():
                    pass
                await each.stream.send_all(b"!")
                await each.stream.aclose()

    async with node(folder, 1) as transport, trio.open_nursery() as nursery:
        places = []
        for handler in (bare, bare_sink):
            listeners = await nursery.start(trio.serve_tcp, handler, 0)
            places.append(str(listeners[0].socket.getsockname()[1]))
        nursery.start_soon(take, transport)
        with transport.serve(ECHO, echo), transport.serve(SINK, sink):
            print(*places, transport.addresses[0], flush=True)
            await trio.to_thread.run_sync(sys.stdin.read)
            nursery.cancel_scope.cancel()


async def _rate(
    seconds: float, together: int, call: Callable[[], Awaitable[Any]]
) -> tuple[float, list[float]]:
    """Calls a second by so many tasks, and how long each took, in ms."""
    times: list[float] = []
    until = trio.current_time() + seconds

    async def again() -> None:
        while (before := trio.current_time()) < until:
            await call()
            times.append((trio.current_time() - before) * 1000)

    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(together):
            nursery.start_soon(again)
    return len(times) / (trio.current_time() - started), times


async def _bare_echo(port: int, seconds: float) -> float:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:

        async def call() -> None:
            await stream.send_all(SMALL)
            left = len(SMALL)
            while left:
                left -= len(await stream.receive_some(left))

        return (await _rate(seconds, 1, call))[0]


async def _bare_bytes(port: int, seconds: float) -> float:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        started, sent = trio.current_time(), 0
        while trio.current_time() - started < seconds:
            await stream.send_all(LARGE)
            sent += len(LARGE)
        await stream.send_eof()
        await stream.receive_some(1)
        return sent / (trio.current_time() - started) / 1e6


async def _stream_bytes(transport: Transport, peer: bytes, seconds: float) -> float:
    stream = await transport.open_stream(peer, STREAM)
    started, sent = trio.current_time(), 0
    while trio.current_time() - started < seconds:
        await stream.send_all(LARGE)
        sent += len(LARGE)
    await stream.send_eof()
    await stream.receive_some(1)
    await stream.aclose()
    return sent / (trio.current_time() - started) / 1e6


async def _votes_beside(transport: Transport, peer: bytes, bulk: Priority, seconds: float) -> list[float]:
    """Round trips of single votes while four requests of 1 MiB are always under way at `bulk`."""
    times: list[float] = []
    async with trio.open_nursery() as nursery:

        async def press() -> None:
            while True:
                await transport.request(peer, SINK, LARGE, timeout_s=30, priority=bulk)

        for _ in range(4):
            nursery.start_soon(press)
        _, times = await _rate(
            seconds,
            1,
            lambda: transport.request(peer, ECHO, SMALL, timeout_s=30, priority=Priority.HIGH),
        )
        nursery.cancel_scope.cancel()
    return times


async def measure(seconds: float, turns: int, folder: Path) -> None:
    command = [sys.executable, "-m", "tests.transport.tcp_speed", "--serve", str(folder)]
    found: dict[str, list[float]] = {}
    with subprocess.Popen(  # noqa: ASYNC220 - nothing else runs yet
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None and child.stdin is not None
        line = await trio.to_thread.run_sync(child.stdout.readline)
        echo_port, sink_port, address = line.split()
        peer = KEYS[1].node_id
        async with node(folder, 0, peers=(f"{peer.hex()}@{address}",), connect_wait_ms=5_000) as transport:

            async def ask(size: bytes, method: int) -> bytes:
                return await transport.request(peer, method, size, timeout_s=30)

            def note(name: str, value: float) -> None:
                found.setdefault(name, []).append(value)

            for _ in range(turns):
                note("bare echo, round trips/s", await _bare_echo(int(echo_port), seconds))
                note(
                    "tcp, one request at a time, round trips/s",
                    (await _rate(seconds, 1, lambda: ask(SMALL, ECHO)))[0],
                )
                note(
                    "tcp, 32 requests at a time, round trips/s",
                    (await _rate(seconds, 32, lambda: ask(SMALL, ECHO)))[0],
                )
                note("bare TCP, MB/s", await _bare_bytes(int(sink_port), seconds))
                rate, _ = await _rate(seconds, 4, lambda: ask(LARGE, SINK))
                note("tcp, requests of 1 MiB, MB/s", rate * len(LARGE) / 1e6)
                note("tcp, one stream, MB/s", await _stream_bytes(transport, peer, seconds))
                for name, times in (
                    (
                        "votes alone",
                        (
                            await _rate(
                                seconds,
                                1,
                                lambda: transport.request(
                                    peer, ECHO, SMALL, timeout_s=30, priority=Priority.HIGH
                                ),
                            )
                        )[1],
                    ),
                    ("votes beside bulk", await _votes_beside(transport, peer, Priority.BULK, seconds)),
                    (
                        "votes, bulk on their connection",
                        await _votes_beside(transport, peer, Priority.HIGH, seconds),
                    ),
                ):
                    times.sort()
                    note(f"{name}, p50 ms", times[len(times) // 2])
                    note(f"{name}, p99 ms", times[len(times) * 99 // 100])
        child.stdin.close()
    for name, values in found.items():
        print(f"{name:44} {statistics.median(values):10.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--serve", type=Path, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    if given.serve is not None:
        trio.run(serve, given.serve)
        return
    with TemporaryDirectory() as folder:
        trio.run(measure, given.seconds, given.turns, Path(folder))


if __name__ == "__main__":
    main()
