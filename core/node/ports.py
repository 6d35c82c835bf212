"""Ports on loopback for nodes of one machine that are told their addresses before they listen.

A port that the system picks is one that any connection of any process may be given a moment later. These are
below the range that systems take such ports from (from 32,768 on Linux, from 49,152 elsewhere), and each
process begins in a part of that range of its own: two that look at the same time don't find the same.
"""

import itertools
import os
import socket

LOOPBACK = "127.0.0.1"
FIRST, LAST = 10_000, 32_767
EACH = 64
"""Ports between where two processes with neighbouring numbers begin."""

_tried = itertools.count()


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on now, none given out before by this process unless all were.

    Where another process takes one first, the node that was to have it says so. Raises OSError where none is
    left.
    """
    found: list[int] = []
    size = LAST - FIRST + 1
    for _ in range(size):
        port = FIRST + (os.getpid() * EACH + next(_tried)) % size
        if port not in found and _is_free(port):
            found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"there are no {count} free ports on {LOOPBACK} from {FIRST} to {LAST}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
