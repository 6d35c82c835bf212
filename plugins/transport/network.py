"""The network between nodes of one process: latency, loss and cuts.

Everything random is drawn from the network's own seeded generator, so a run can be repeated.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import attrs

from supervm.contracts.transport import IdentityInUse

if TYPE_CHECKING:
    from supervm.plugins.transport.memory import MemoryTransport


@attrs.define
class Conditions:
    """One-way delay, uniform between the two bounds in milliseconds, and the share of messages lost."""

    latency_ms_min: float = 0.0
    latency_ms_max: float = 0.0
    loss: float = 0.0


@attrs.define(eq=False)
class MemoryNetwork:
    """Who is there, and what lies between them. Nodes join while their component is open."""

    conditions: Conditions = attrs.Factory(Conditions)
    random: Random = attrs.field(factory=lambda: Random(0))
    nodes: dict[bytes, "MemoryTransport"] = attrs.Factory(dict)
    _cut: set[tuple[bytes, bytes]] = attrs.Factory(set)

    def delay_s(self, source: bytes, target: bytes) -> float | None:
        """How long the next message takes; None if it is lost or the way is cut."""
        if self.is_cut(source, target) or self.random.random() < self.conditions.loss:
            return None
        low, high = self.conditions.latency_ms_min, self.conditions.latency_ms_max
        return self.random.uniform(low, high) / 1000

    def is_cut(self, source: bytes, target: bytes) -> bool:
        return (source, target) in self._cut

    def cut(self, source: bytes, target: bytes, *, both_ways: bool = True) -> None:
        """Nothing passes from source to target any more; streams between them break."""
        self._cut.add((source, target))
        if both_ways:
            self._cut.add((target, source))

    def heal(self) -> None:
        """Remove every cut. What was lost stays lost."""
        self._cut.clear()

    @contextmanager
    def joined(self, node: "MemoryTransport") -> Iterator[None]:
        if node.node_id in self.nodes:
            raise IdentityInUse(
                "a node of this identity is in this network already", node.node_id, "use another node_id"
            )
        self.nodes[node.node_id] = node
        try:
            yield
        finally:
            del self.nodes[node.node_id]

    def others(self, node_id: bytes) -> Iterable["MemoryTransport"]:
        return [node for other, node in sorted(self.nodes.items()) if other != node_id]


_NETWORKS: WeakValueDictionary[str, MemoryNetwork] = WeakValueDictionary()


def network(name: str) -> MemoryNetwork:
    """The network of that name in this process; it lives while somebody holds it."""
    found = _NETWORKS.get(name)
    if found is None:
        found = _NETWORKS[name] = MemoryNetwork()
    return found
