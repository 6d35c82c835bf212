"""A call that waits too long is cut; one that doesn't is left alone."""

import socket
from collections.abc import Iterator

import pytest

from supervm.plugins.storage.deadlines import Deadlines


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        # So that a call which is not cut fails, and doesn't hang.
        ours.settimeout(60)
        yield ours, theirs


def test_a_call_that_waits_too_long_is_cut_and_fails_at_once(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, _ = ends
    deadlines = Deadlines(0.02)
    try:
        with deadlines.waiting(ours.fileno()):
            assert ours.recv(1) == b""
        assert deadlines.cut == 1
    finally:
        deadlines.end()


def test_a_call_that_is_over_and_one_in_time_are_left_alone(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    other, silent = socket.socketpair()
    deadlines = Deadlines(3600.0)
    patient = Deadlines(3600.0)
    try:
        with other, silent:
            other.settimeout(60)
            with deadlines.waiting(ours.fileno()):
                pass
            deadlines.hurry(0.02)
            with patient.waiting(ours.fileno()), deadlines.waiting(other.fileno()):
                assert other.recv(1) == b"", "the watch of one goes round at least once"
        assert (deadlines.cut, patient.cut) == (1, 0)
        theirs.send(b"x")
        assert ours.recv(1) == b"x"
    finally:
        deadlines.end()
        patient.end()


def test_calls_under_way_can_be_hurried(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = ends
    deadlines = Deadlines(3600.0)
    try:
        with deadlines.waiting(ours.fileno()):
            deadlines.hurry(0.02)
            assert ours.recv(1) == b""
        assert deadlines.cut == 1
    finally:
        deadlines.end()
