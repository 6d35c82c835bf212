"""A routing table of whatever is registered, nearest first. Put your own order into `_rank`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs

from supervm.api import Component, Context, Role, routing

ADDRESSES_MAX = 8
LOAD_UNKNOWN = 50
LATENCY_UNKNOWN_MS = 100.0
FAILURES_DEMOTE = 3


@attrs.frozen(kw_only=True)
class ExampleConfig:
    """`table_max`: nodes held; a full table takes no new one."""

    table_max: int = attrs.field(default=10_000, validator=attrs.validators.ge(1))


@attrs.define
class ExampleTable:
    """A `Routing` without I/O."""

    table_max: int
    _entries: dict[bytes, routing.NodeEntry] = attrs.field(factory=dict, init=False)

    def register(self, record: routing.NodeRecord) -> bool:
        if len(record.node_id) != 32:
            raise routing.BadRecord("a node id is 32 bytes", record.node_id.hex())
        if record.tier not in routing.TIERS:
            raise routing.BadRecord("unknown tier", record.tier, f"use {', '.join(routing.TIERS)}")
        if len(record.addresses) > ADDRESSES_MAX:
            raise routing.BadRecord("too many addresses", len(record.addresses), f"at most {ADDRESSES_MAX}")
        known = self._entries.get(record.node_id)
        if known is not None and record.sequence <= known.record.sequence:
            return False
        if known is None and len(self._entries) >= self.table_max:
            raise routing.BadRecord("the table is full", self.table_max, "raise table_max")
        seen = known if known is not None else routing.NodeEntry(record=record)
        self._entries[record.node_id] = attrs.evolve(seen, record=record)
        return True

    def lookup(self, node_id: bytes) -> routing.NodeEntry:
        entry = self._entries.get(node_id)
        if entry is None:
            raise routing.UnknownNode("no such node in the table", node_id.hex(), "register it first")
        return entry

    def find_nodes(self, wanted: routing.NodeFilter) -> tuple[routing.NodeEntry, ...]:
        if wanted.tier is not None and wanted.tier not in routing.TIERS:
            raise routing.BadQuery("unknown tier", wanted.tier, f"use {', '.join(routing.TIERS)}")
        if not 1 <= wanted.limit <= routing.ANSWER_MAX:
            raise routing.BadQuery("limit out of range", wanted.limit, f"use 1 to {routing.ANSWER_MAX}")
        fitting = [entry for entry in self._entries.values() if _fits(entry, wanted)]
        return tuple(sorted(fitting, key=_rank)[: wanted.limit])

    def heartbeat(self, node_id: bytes, load: int, now_ms: int) -> None:
        if not 0 <= load <= 100:
            raise routing.BadRecord("load out of range", load, "a load is 0 to 100")
        entry = self.lookup(node_id)
        self._entries[node_id] = attrs.evolve(entry, load=load, last_seen_ms=now_ms, failures=0)

    def observe(self, node_id: bytes, rtt_ms: float | None, now_ms: int) -> None:
        entry = self.lookup(node_id)
        if rtt_ms is None:
            self._entries[node_id] = attrs.evolve(entry, failures=entry.failures + 1)
        else:
            self._entries[node_id] = attrs.evolve(entry, rtt_ms=rtt_ms, last_seen_ms=now_ms, failures=0)

    def remove(self, node_id: bytes) -> bool:
        return self._entries.pop(node_id, None) is not None

    def size(self) -> int:
        return len(self._entries)


def _latency_ms(entry: routing.NodeEntry) -> float:
    return LATENCY_UNKNOWN_MS if entry.rtt_ms is None else entry.rtt_ms


def _load(entry: routing.NodeEntry) -> int:
    return LOAD_UNKNOWN if entry.load is None else entry.load


def _fits(entry: routing.NodeEntry, wanted: routing.NodeFilter) -> bool:
    record = entry.record
    return (
        (wanted.tier is None or record.tier == wanted.tier)
        and (wanted.region is None or record.region == wanted.region)
        and (wanted.max_latency_ms is None or _latency_ms(entry) <= wanted.max_latency_ms)
        and (wanted.max_load is None or _load(entry) <= wanted.max_load)
        and record.services & wanted.services == wanted.services
    )


def _rank(entry: routing.NodeEntry) -> tuple[bool, float, bytes]:
    """Those that answer before those that don't, then near and idle, then by id."""
    cost = _latency_ms(entry) + 5 * _load(entry)
    return (entry.failures >= FAILURES_DEMOTE, cost, entry.record.node_id)


@asynccontextmanager
async def open_example(ctx: Context, config: ExampleConfig) -> AsyncIterator[ExampleTable]:
    """Open an empty table."""
    yield ExampleTable(config.table_max)


component = Component(role=Role.ROUTING, name="example", open=open_example, config=ExampleConfig)
