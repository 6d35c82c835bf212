"""Roots of executed blocks: what this node computed, what headers may show, what final ones claim.

(root height, state root, receipts root) of a header are of a final block at least two below it (CONS-30); a
voter has computed them itself (CONS-43); one that finds another root final than its own stops.
"""

from collections.abc import Iterable

from supervm.contracts.application import Tip
from supervm.plugins.consensus.bft.events import ExecutedBlock
from supervm.types import merkle
from supervm.types.block import BlockHeader
from supervm.types.digests import Digest

ROOT_DISTANCE = 2
ROOT_STEP = 1_000
EXECUTION_LAG_MAX = 16


def next_step(root_height: int) -> int:
    """The highest root height that may follow: the next multiple of 1,000, on which a header must stand."""
    return (root_height // ROOT_STEP + 1) * ROOT_STEP


def takes_batches(height: int, root_height: int) -> bool:
    """Whether a block may hold batches: execution isn't far behind it (CONS-44)."""
    return height <= root_height + EXECUTION_LAG_MAX


class Roots:
    """Facts of the final blocks that this node executed, from the last final block's root height on.

    Bounded by how far execution may lag: headers of final blocks stay no longer than until it has caught up.
    `base_height`: of the last block of the epoch before, whose root may always be shown. `highest`: of the
    last block that this node executed.
    """

    def __init__(self, executed: Iterable[ExecutedBlock], base_height: int) -> None:
        self._facts = {each.height: each for each in executed}
        self.highest = max(self._facts)
        self._claims: dict[int, BlockHeader] = {}
        self._base_height = base_height

    def get(self, height: int) -> ExecutedBlock | None:
        return self._facts.get(height)

    def add(self, facts: ExecutedBlock) -> None:
        self._facts[facts.height] = facts
        self.highest = max(self.highest, facts.height)

    def highest_allowed(self, height: int) -> int:
        """The highest root height that a block of this height may show."""
        return max(height - ROOT_DISTANCE, self._base_height)

    def height_after(self, head: Tip) -> int | None:
        """The root height of a block on `head`; None while this node hasn't executed so far."""
        allowed = self.highest_allowed(head.height + 1)
        height = min(self.highest, allowed, next_step(head.root_height))
        return height if height >= head.root_height and height in self._facts else None

    def receipts_root(self, above: int, upto: int) -> Digest:
        """The Merkle root over the receipts roots of the blocks that a header newly covers; none: zeros."""
        return merkle.root([self._facts[height].receipts_root for height in range(above + 1, upto + 1)])

    def claim(self, header: BlockHeader) -> None:
        """A final header shows a root."""
        self._claims[header.root_height] = header

    def mismatch(self) -> str:
        """How a final header differs from what this node computed; empty if none does."""
        for height in sorted(self._claims):
            own, header = self._facts.get(height), self._claims[height]
            if own is None:
                continue
            if own.state_root != header.state_root or own.base_price != header.base_price:
                computed = f"computed here 0x{own.state_root.hex()}"
                shown = f"the final block {header.height} shows for height {height} the root"
                return f"{shown} 0x{header.state_root.hex()}, {computed}"
            del self._claims[height]
        return ""

    def forget_below(self, root_height: int) -> None:
        """Facts below the last final block's root height are never asked for again."""
        lowest = min(root_height, self.highest)
        self._facts = {height: facts for height, facts in self._facts.items() if height >= lowest}
