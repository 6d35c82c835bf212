"""Who leads a view: smooth weighted round robin over the epoch's set (CONS-30)."""

from array import array

from supervm.types import digests
from supervm.types.digests import digest
from supervm.types.validators import ValidatorSet


class Leaders:
    """Leaders of one epoch's views 1, 2, ... as validators' numbers.

    A view costs the size of the set once and two bytes from then on, so whoever asks for a view that no
    quorum has come near bounds it first.
    """

    def __init__(self, validators: ValidatorSet, chain_id: bytes, epoch: int) -> None:
        self._weights = [each.weight for each in validators.members]
        self._total = validators.total_weight
        self._priorities = [
            _first_priority(chain_id, epoch, each.node_id) % each.weight for each in validators.members
        ]
        self._leaders = array("H")

    def of(self, view: int) -> int:
        assert view >= 1, f"view {view} has no leader"
        while len(self._leaders) < view:
            self._leaders.append(self._next())
        return self._leaders[view - 1]

    def _next(self) -> int:
        priorities = [p + w for p, w in zip(self._priorities, self._weights, strict=True)]
        leader = max(range(len(priorities)), key=lambda number: (priorities[number], -number))
        priorities[leader] -= self._total
        self._priorities = priorities
        return leader


def _first_priority(chain_id: bytes, epoch: int, node_id: bytes) -> int:
    seed = digest(digests.LEADER, chain_id, epoch.to_bytes(8, "little"), node_id)
    return int.from_bytes(seed[:8], "little")
