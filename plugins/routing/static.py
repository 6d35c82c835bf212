"""A routing table of the nodes that the operator names, ordered by what this node sees of them.

The table (`Table`) is a plain value store without I/O; `open_static` fills it from the configuration.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import attrs

from supervm.api import Context
from supervm.contracts.routing import (
    ANSWER_MAX,
    TIERS,
    BadQuery,
    BadRecord,
    NodeEntry,
    NodeFilter,
    NodeRecord,
    UnknownNode,
)

ADDRESSES_MAX = 8
LOAD_UNKNOWN = 50
LATENCY_UNKNOWN_MS = 100.0
"""The prior of NET-22 between regions that aren't known."""
FAILURES_DEMOTE = 3


def _node(text: str, tier: str) -> NodeRecord:
    """Parse `NODEID@HOST:PORT`. Raises ValueError with the mend."""
    identity, at, address = text.partition("@")
    host, colon, port = address.rpartition(":")
    try:
        node_id = bytes.fromhex(identity.removeprefix("0x"))
    except ValueError:
        node_id = b""
    if (
        len(node_id) != 32
        or not at
        or not host
        or not colon
        or not port.isdecimal()
        or not 0 < int(port) < 65536
    ):
        raise ValueError(f"{text!r} isn't NODEID@HOST:PORT; a node id is 64 hex digits")
    return NodeRecord(node_id=node_id, tier=tier, addresses=(address,))


def _nodes(instance: object, attribute: "attrs.Attribute[list[str]]", value: list[str]) -> None:
    for text in value:
        _node(text, "L1")


@attrs.frozen(kw_only=True)
class StaticConfig:
    """`peers_l1` .. `peers_l4`: nodes of each tier, `NODEID@HOST:PORT`. `table_max` bounds the table."""

    peers_l1: list[str] = attrs.field(factory=list, validator=_nodes)
    peers_l2: list[str] = attrs.field(factory=list, validator=_nodes)
    peers_l3: list[str] = attrs.field(factory=list, validator=_nodes)
    peers_l4: list[str] = attrs.field(factory=list, validator=_nodes)
    table_max: int = attrs.field(default=10_000, validator=attrs.validators.ge(1))

    def records(self) -> Iterable[NodeRecord]:
        peers = (self.peers_l1, self.peers_l2, self.peers_l3, self.peers_l4)
        for tier, named in zip(TIERS, peers, strict=True):
            for text in named:
                yield _node(text, tier)


@attrs.define
class Table:
    """Nodes by id, at most `table_max`; a full table takes no new node."""

    table_max: int = 10_000
    _entries: dict[bytes, NodeEntry] = attrs.field(factory=dict, init=False)

    def register(self, record: NodeRecord) -> bool:
        _check(record)
        known = self._entries.get(record.node_id)
        if known is None:
            if len(self._entries) >= self.table_max:
                raise BadRecord("the table is full", self.table_max, "raise routing.static.table_max")
            self._entries[record.node_id] = NodeEntry(record=record)
            return True
        if record.sequence <= known.record.sequence:
            return False
        self._entries[record.node_id] = attrs.evolve(known, record=record)
        return True

    def lookup(self, node_id: bytes) -> NodeEntry:
        entry = self._entries.get(node_id)
        if entry is None:
            mend = "name it under routing.static.peers_l1 .. peers_l4"
            raise UnknownNode("no such node in the table", node_id.hex(), mend)
        return entry

    def find_nodes(self, wanted: NodeFilter) -> tuple[NodeEntry, ...]:
        if wanted.tier is not None and wanted.tier not in TIERS:
            raise BadQuery("unknown tier", wanted.tier, f"use {', '.join(TIERS)}")
        if not 1 <= wanted.limit <= ANSWER_MAX:
            raise BadQuery("limit out of range", wanted.limit, f"use 1 to {ANSWER_MAX}")
        fitting = [entry for entry in self._entries.values() if _fits(entry, wanted)]
        return tuple(sorted(fitting, key=_rank)[: wanted.limit])

    def heartbeat(self, node_id: bytes, load: int, now_ms: int) -> None:
        if not 0 <= load <= 100:
            raise BadRecord("load out of range", load, "a load is 0 to 100")
        entry = self.lookup(node_id)
        self._entries[node_id] = attrs.evolve(entry, load=load, last_seen_ms=now_ms, failures=0)

    def observe(self, node_id: bytes, rtt_ms: float | None, now_ms: int) -> None:
        entry = self.lookup(node_id)
        if rtt_ms is None:
            entry = attrs.evolve(entry, failures=entry.failures + 1)
        else:
            smoothed = rtt_ms if entry.rtt_ms is None else entry.rtt_ms + (rtt_ms - entry.rtt_ms) / 8
            entry = attrs.evolve(entry, rtt_ms=smoothed, last_seen_ms=now_ms, failures=0)
        self._entries[node_id] = entry

    def remove(self, node_id: bytes) -> bool:
        return self._entries.pop(node_id, None) is not None

    def size(self) -> int:
        return len(self._entries)


def _check(record: NodeRecord) -> None:
    if len(record.node_id) != 32:
        raise BadRecord("a node id is 32 bytes", record.node_id.hex())
    if record.tier not in TIERS:
        raise BadRecord("unknown tier", record.tier, f"use {', '.join(TIERS)}")
    if len(record.addresses) > ADDRESSES_MAX:
        raise BadRecord("too many addresses", len(record.addresses), f"at most {ADDRESSES_MAX}")


def _latency_ms(entry: NodeEntry) -> float:
    return LATENCY_UNKNOWN_MS if entry.rtt_ms is None else entry.rtt_ms


def _load(entry: NodeEntry) -> int:
    return LOAD_UNKNOWN if entry.load is None else entry.load


def _fits(entry: NodeEntry, wanted: NodeFilter) -> bool:
    """NET-42: every condition given must hold."""
    record = entry.record
    return (
        (wanted.tier is None or record.tier == wanted.tier)
        and (wanted.region is None or record.region == wanted.region)
        and (wanted.max_latency_ms is None or _latency_ms(entry) <= wanted.max_latency_ms)
        and (wanted.max_load is None or _load(entry) <= wanted.max_load)
        and record.services & wanted.services == wanted.services
    )


def _rank(entry: NodeEntry) -> tuple[bool, int, bytes]:
    """NET-45 without the parts nobody measures yet: best first; three failures in a row go last (NET-36)."""
    score = max(0, 1000 - round(_latency_ms(entry)) - 5 * _load(entry))
    return (entry.failures >= FAILURES_DEMOTE, -score, entry.record.node_id)


@asynccontextmanager
async def open_static(ctx: Context, config: StaticConfig) -> AsyncIterator[Table]:
    table = Table(config.table_max)
    for record in config.records():
        table.register(record)
    ctx.metrics.gauge("routing_table_records", "Nodes in the routing table").set(table.size())
    yield table
