"""A port of our own, so that a node that is started again is where its clients look for it."""

import socket

import pytest


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
