"""The routing role: which node to ask, and how it may be reached (NET-30, NET-40..49).

A component yields a `Routing`. Its answers are hints: they order candidates and never grant anything,
and whoever uses one checks who answers (NET-36).

What it keeps
    Calls are synchronous, do no I/O, and never wait; the table is bounded and says what it drops.
    Determinism: the same table, observations and time give the same answer in the same order.
    Durability: none promised; what is lost is learned again.
"""

from enum import IntFlag
from typing import Protocol, runtime_checkable

import attrs

ANSWER_MAX = 10
"""Nodes in an answer, at most (NET-43)."""

TIERS = ("L1", "L2", "L3", "L4")


class Service(IntFlag):
    """What a node offers (NET-26)."""

    RELAY = 1 << 0
    NAT_ASSIST = 1 << 1
    ROUTE_RELAY = 1 << 2
    STATE_QUERY = 1 << 3
    BLOCKS = 1 << 4
    ARCHIVE = 1 << 5
    SNAPSHOT = 1 << 6
    BOOTSTRAP = 1 << 7


class RoutingError(Exception):
    """Base of all that routing raises. `value` is what was wrong with the question, `mend` what is right."""

    def __init__(self, problem: str, value: object = "", mend: str = "") -> None:
        self.value, self.mend = value, mend
        text = f"{problem}: {value}" if value != "" else problem
        super().__init__(f"{text}; {mend}" if mend else text)


class UnknownNode(RoutingError):
    """No node of that id is in the table."""


class BadRecord(RoutingError):
    """A record that can't enter the table."""


class BadQuery(RoutingError):
    """A filter that can't hold for any node, or names what doesn't exist."""


@attrs.frozen(kw_only=True)
class NodeRecord:
    """A node as it describes itself: a claim, but for its id.

    `node_id` is 32 bytes, `addresses` at most 8 of `HOST:PORT`, `tier` one of L1..L4.
    """

    node_id: bytes
    tier: str
    region: str = "Other"
    addresses: tuple[str, ...] = ()
    services: Service = Service(0)
    sequence: int = 0


@attrs.frozen(kw_only=True)
class NodeEntry:
    """A record with what we saw ourselves. Unknown is None, never 0; `failures` counts those in a row."""

    record: NodeRecord
    load: int | None = None
    rtt_ms: float | None = None
    last_seen_ms: int | None = None
    failures: int = 0


@attrs.frozen(kw_only=True)
class NodeFilter:
    """What must hold for a node to be in an answer; None is anything (NET-42).

    Unknown load counts as 50, unknown latency as the table's prior.
    """

    tier: str | None = None
    region: str | None = None
    max_latency_ms: float | None = None
    max_load: int | None = None
    services: Service = Service(0)
    limit: int = ANSWER_MAX


@runtime_checkable
class Routing(Protocol):
    """A table of nodes. See the module for what it keeps."""

    def register(self, record: NodeRecord) -> bool:
        """Enter or renew a node; False for a record that is not newer. Raises `BadRecord`."""

    def lookup(self, node_id: bytes) -> NodeEntry:
        """One node. Raises `UnknownNode`."""

    def find_nodes(self, wanted: NodeFilter) -> tuple[NodeEntry, ...]:
        """At most `limit` nodes that fit, best first (NET-45), ties by node id. Raises `BadQuery`."""

    def heartbeat(self, node_id: bytes, load: int, now_ms: int) -> None:
        """A node said that it lives and how loaded (0..100) it is. Raises `UnknownNode`, `BadRecord`."""

    def observe(self, node_id: bytes, rtt_ms: float | None, now_ms: int) -> None:
        """We contacted a node: its round trip, or None for a failure. Raises `UnknownNode`."""

    def remove(self, node_id: bytes) -> bool:
        """Forget a node; False if it wasn't there."""

    def size(self) -> int:
        """Nodes in the table."""
