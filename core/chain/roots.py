"""The receipts root that a header shows (CONS-30)."""

from collections.abc import Sequence

from supervm.types import merkle
from supervm.types.digests import ZERO


def covered_receipts_root(receipts_roots: Sequence[bytes]) -> bytes:
    """The Merkle root over the receipts roots of the blocks that a header newly covers, in order.

    Zeros where it covers none. So a header whose root height rises by one shows
    `merkle.leaf(receipts root of that block)`.
    """
    return merkle.root(receipts_roots) if receipts_roots else ZERO
