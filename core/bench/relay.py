"""Links with a delay: a process that carries bytes between pairs of addresses, each way so much later.

    python -m supervm.bench.relay --delay-ms 20 LISTEN=TARGET LISTEN=TARGET ...

All addresses are HOST:PORT. It says `ready` on stdout once it listens, and runs until it is told to stop.
What is on its way on a connection is bounded, as a link's bandwidth and delay bound it.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from functools import partial

import trio

PIECE_BYTES = 64 * 1024
ON_THE_WAY_MAX = 1_024
"""Pieces on their way on one connection, each way; beyond them the sender isn't read."""


async def carry(source: trio.abc.ReceiveStream, target: trio.SocketStream, delay_s: float) -> None:
    """Everything from `source` to `target`, in order, each piece `delay_s` after it came."""
    send, receive = trio.open_memory_channel[tuple[float, bytes]](ON_THE_WAY_MAX)

    async def read() -> None:
        async with send:
            while piece := await source.receive_some(PIECE_BYTES):
                await send.send((trio.current_time() + delay_s, bytes(piece)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        async for due_s, piece in receive:
            await trio.sleep_until(due_s)
            await target.send_all(piece)
        await target.send_eof()


async def link(target: tuple[str, int], delay_s: float, client: trio.SocketStream) -> None:
    """One connection, until either side breaks it off."""
    try:
        async with await trio.open_tcp_stream(*target) as server, trio.open_nursery() as nursery:
            nursery.start_soon(carry, client, server, delay_s)
            nursery.start_soon(carry, server, client, delay_s)
    except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        # The link is down: both ends see their connection closed.
        await trio.aclose_forcefully(client)


async def relay(pairs: Sequence[tuple[tuple[str, int], tuple[str, int]]], delay_s: float) -> None:
    async with trio.open_nursery() as nursery:
        for (host, port), target in pairs:
            await nursery.start(partial(trio.serve_tcp, partial(link, target, delay_s), port, host=host))
        print("ready", flush=True)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="supervm.bench.relay", description=__doc__)
    parser.add_argument("--delay-ms", type=float, required=True)
    parser.add_argument("links", nargs="+")
    asked = parser.parse_args(argv)
    assert 0 <= asked.delay_ms < math.inf
    pairs = [each.partition("=")[::2] for each in asked.links]
    trio.run(relay, [(_address(listen), _address(target)) for listen, target in pairs], asked.delay_ms / 1000)
    return 0


if __name__ == "__main__":
    sys.exit(main())
