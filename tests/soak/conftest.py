"""A port of our own, so that a node that is started again is where its clients look for it."""

import pytest

from supervm.node.ports import free_ports


@pytest.fixture
def unused_port() -> int:
    return free_ports(1)[0]
