"""Who depends on whom: what transactions touch, and the order that this leaves open (EXEC-53, EXEC-54)."""

from bisect import bisect_left
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import attrs

from supervm.mvcc.errors import BadOperand
from supervm.mvcc.transaction import Span, Transaction

Node = TypeVar("Node", bound=Hashable)


def _keys(keys: Iterable[bytes]) -> frozenset[bytes]:
    return frozenset(keys)


@attrs.frozen
class Access:
    """What a transaction reads, writes and scans, declared beforehand or recorded. A written key need not
    be among the reads; `ranges` are (start, end) with start <= key < end, an end of None the end of all.
    """

    reads: frozenset[bytes] = attrs.field(default=frozenset(), converter=_keys)
    writes: frozenset[bytes] = attrs.field(default=frozenset(), converter=_keys)
    ranges: tuple[Span, ...] = ()

    def conflicts_with(self, other: "Access") -> bool:
        """Whether a key written by one is read or written by the other. Read with read never conflicts."""
        return bool(
            self.writes & other.writes
            or self.writes & other.reads
            or self.reads & other.writes
            or _scans(self.ranges, other.writes)
            or _scans(other.ranges, self.writes)
        )


def access_of(txn: Transaction) -> Access:
    """What an open transaction has touched so far, as the store recorded it."""
    return Access(txn.read_set(), txn.write_set(), txn.read_ranges())


def _scans(ranges: Iterable[Span], keys: Iterable[bytes]) -> bool:
    return any(low <= key and (high is None or key < high) for low, high in ranges for key in keys)


class DependencyGraph(Generic[Node]):
    """Transactions, and for each those that must be done before it."""

    def __init__(self) -> None:
        self._on: dict[Node, set[Node]] = {}

    def add(self, tx: Node, on: Iterable[Node] = ()) -> None:
        """Add `tx`, or more of what it depends on. What isn't known yet is added with it."""
        wanted = set(on)
        if tx in wanted:
            raise BadOperand("a transaction can't depend on itself", tx, "leave it out")
        self._on.setdefault(tx, set()).update(wanted)
        for other in wanted:
            self._on.setdefault(other, set())

    def ready(self, completed: Collection[Node]) -> list[Node]:
        """Those all of whose predecessors are completed, and they themselves not; in the order added."""
        done = completed if isinstance(completed, set | frozenset) else set(completed)
        return [tx for tx, on in self._on.items() if tx not in done and on <= done]

    def waves(self) -> Iterator[list[Node]]:
        """All, in batches: each batch depends on earlier ones only. Raises `BadOperand` for a cycle.

        Costs the number of transactions and edges.
        """
        waiting = {tx: len(on) for tx, on in self._on.items()}
        after: dict[Node, list[Node]] = {tx: [] for tx in self._on}
        for tx, on in self._on.items():
            for other in on:
                after[other].append(tx)
        wave = [tx for tx, count in waiting.items() if not count]
        left = len(waiting)
        while wave:
            yield wave
            left -= len(wave)
            following: list[Node] = []
            for done in wave:
                for tx in after[done]:
                    waiting[tx] -= 1
                    if not waiting[tx]:
                        following.append(tx)
            wave = following
        if left:
            stuck = [tx for tx, count in waiting.items() if count]
            raise BadOperand("dependencies form a cycle", stuck[:5], "remove one of them")

    def __len__(self) -> int:
        return len(self._on)


def graph_of(accesses: Sequence[Access]) -> DependencyGraph[int]:
    """The graph of transactions in their order: each depends on the earlier ones that it conflicts with.

    Edges that follow from others are left out. Built from an index of keys, never pair by pair: costs the
    number of touched keys, of keys within scanned ranges, and of edges.
    """
    graph: DependencyGraph[int] = DependencyGraph()
    written = sorted({key for access in accesses for key in access.writes})
    last_writer: dict[bytes, int] = {}
    readers: dict[bytes, list[int]] = {}
    for at, access in enumerate(accesses):
        on: set[int] = set()
        read = set(access.reads)
        for low, high in access.ranges:
            end = len(written) if high is None else bisect_left(written, high)
            read.update(written[bisect_left(written, low) : end])
        for key in read:
            if key in last_writer:
                on.add(last_writer[key])
        for key in access.writes:
            if key in last_writer:
                on.add(last_writer[key])
            on.update(readers.pop(key, ()))
            last_writer[key] = at
        for key in read - access.writes:
            readers.setdefault(key, []).append(at)
        on.discard(at)
        graph.add(at, on)
    return graph
