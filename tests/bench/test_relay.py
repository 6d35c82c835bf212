"""Links with a delay carry everything, in order and when it is due; what ends or breaks, ends for both."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from supervm.bench.relay import ON_THE_WAY_MAX, Link, Way
from supervm.bench.validators import free_address

Ends = tuple[Link, socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A link, and the sockets of the two whom it joins."""
    (near, client), (far, server) = socket.socketpair(), socket.socketpair()
    for each in (near, far, client, server):
        each.setblocking(False)
    yield Link((Way(client, server), Way(server, client))), near, far
    for each in (near, far, client, server):
        each.close()


def carry(link: Link, now_s: float, *ways: int) -> bool:
    """At a moment at which the sources of these ways have something, with a delay of 20 ms."""
    return link.carry(frozenset(link.ways[way].source for way in ways), now_s, now_s + 0.02)


def test_each_piece_comes_when_it_is_due_and_not_before(ends: Ends) -> None:
    link, near, far = ends
    near.send(b"one")
    assert carry(link, 0.0, 0)
    near.send(b"two")
    assert carry(link, 0.005, 0)
    assert carry(link, 0.019)
    with pytest.raises(BlockingIOError):
        far.recv(100)
    assert link.ways[0].next_s == 0.02
    assert carry(link, 0.02)
    assert far.recv(100) == b"one"
    assert carry(link, 0.025)
    assert far.recv(100) == b"two"


def test_what_the_target_doesnt_take_waits_and_nothing_is_lost(ends: Ends) -> None:
    link, near, far = ends
    sent = bytes(range(256)) * 4096
    left, found, now_s, waited = sent, b"", 0.0, False
    while len(found) < len(sent):
        assert now_s < 1_000
        now_s += 0.02
        with suppress(BlockingIOError):
            left = left[near.send(left) :]
        assert carry(link, now_s, *([0] if link.ways[0].reads else []))
        waited |= bool(link.ways[0].rest)
        if now_s > 1:
            # The receiver was slow to begin.
            with suppress(BlockingIOError):
                found += far.recv(1 << 20)
    assert found == sent and waited


def test_a_source_isnt_read_while_too_much_is_on_its_way(ends: Ends) -> None:
    link, near, _ = ends
    for _ in range(ON_THE_WAY_MAX):
        assert link.ways[0].reads
        near.send(b"x")
        carry(link, 0.0, 0)
    assert not link.ways[0].reads


def test_one_side_may_end_and_still_hear(ends: Ends) -> None:
    link, near, far = ends
    near.send(b"last")
    assert carry(link, 0.0, 0)
    near.shutdown(socket.SHUT_WR)
    assert carry(link, 0.0, 0)
    assert carry(link, 0.02)
    assert far.recv(100) == b"last" and far.recv(100) == b""
    far.send(b"answer")
    assert carry(link, 0.03, 1)
    assert carry(link, 0.05)
    assert near.recv(100) == b"answer"
    far.shutdown(socket.SHUT_WR)
    assert carry(link, 0.06, 1)
    assert not carry(link, 0.08), "both have ended: the link is gone"
    assert near.recv(100) == b""


def test_a_broken_connection_breaks_for_both(ends: Ends) -> None:
    link, near, far = ends
    far.close()
    near.send(b"lost")
    assert carry(link, 0.0, 0)
    assert not carry(link, 0.02)
    assert near.recv(100) == b""


def test_as_a_process_it_joins_whoever_comes_with_the_target() -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        target.settimeout(60)
        via, gone = free_address(), free_address()
        links = [f"{via}=127.0.0.1:{target.getsockname()[1]}", f"{gone}={free_address()}"]
        command = [sys.executable, "-m", "supervm.bench.relay", "--delay-ms", "1", *links]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                host, _, port = via.rpartition(":")
                with socket.create_connection((host, int(port)), timeout=60) as client:
                    server, _ = target.accept()
                    server.settimeout(60)
                    client.sendall(b"there")
                    assert server.recv(100) == b"there"
                    server.sendall(b"back")
                    assert client.recv(100) == b"back"
                    server.close()
                    assert client.recv(100) == b""
                host, _, port = gone.rpartition(":")
                with socket.create_connection((host, int(port)), timeout=60) as client:
                    assert client.recv(100) == b"", "nobody listens at the target"
            finally:
                process.kill()
