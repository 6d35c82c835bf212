"""Ports given out before anybody listens on them."""

import socket
from collections.abc import Iterator
from itertools import count

import pytest

from supervm.node import ports
from supervm.node.ports import EACH, FIRST, LAST, LOOPBACK, free_ports


def from_beginning(monkeypatch: pytest.MonkeyPatch, process: int) -> None:
    """Give out ports as a process of that number that gave out none yet."""
    tried: Iterator[int] = count()
    monkeypatch.setattr(ports, "_tried", tried)
    monkeypatch.setattr(ports.os, "getpid", lambda: process)


def test_ports_are_different_free_and_none_that_a_system_gives_to_a_connection() -> None:
    found = [*free_ports(8), *free_ports(8)]
    assert len(set(found)) == 16
    assert all(FIRST <= port <= LAST < 32_768 for port in found)
    for port in found:
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind((LOOPBACK, port))


def test_a_port_that_somebody_has_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from_beginning(monkeypatch, 4_711)
    (first,) = free_ports(1)
    with socket.create_server((LOOPBACK, first)):
        from_beginning(monkeypatch, 4_711)
        assert first not in free_ports(3)


def test_processes_that_look_at_the_same_time_find_different_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    for process in range(1_000, 1_008):
        from_beginning(monkeypatch, process)
        found += free_ports(EACH // 4)
    assert len(set(found)) == len(found)


def test_none_left_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_is_free", lambda port: False)
    with pytest.raises(OSError, match="no 1 free ports"):
        free_ports(1)
