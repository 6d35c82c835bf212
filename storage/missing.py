"""Rows that are gone: a seal can't tell, so what else says that they were there does.

A row whose key was damaged, or that a backend lost, reads as if it had never been written. Headers, bodies
and certificates must be there below the tip. A state entry is in the tree. A block's receipts make the root
that a header shows. Only of the index nothing says what isn't there: an absent entry is "not known here", and
`check_index`, which has the block, finds it.
"""

from collections.abc import Awaitable, Callable, Sequence

from supervm.contracts.storage import Reader
from supervm.storage.pages import HASH_BYTES
from supervm.storage.spaces import (
    CommitMarker,
    corrupt,
    decode_place,
    index_key,
    receipts_key,
    state_key,
    unseal,
)
from supervm.storage.state_tree import At, CachedPages
from supervm.storage.tree import Read
from supervm.types import merkle, smt
from supervm.types.block import BlockHeader
from supervm.types.receipt import Receipt

SHOWN_WITHIN_MAX = 64
"""How many headers after a block may pass until its receipts are shown, and how many one may show at once."""

HeaderAt = Callable[[int], Awaitable[BlockHeader | None]]
ReceiptsAt = Callable[[int], Awaitable[Sequence[Receipt]]]


def check_lacking(pages: CachedPages, at: At, keys: Sequence[bytes], read: Read) -> None:
    """Raises `StoreCorrupt` where the tree has an entry for one of these state keys; and `PageInvalid`."""
    paths = {smt.key_hash(key): key for key in keys}
    for path, way in pages.ways(at, sorted(paths), read).items():
        if way.end[:HASH_BYTES] == path:
            shown = way.end[HASH_BYTES:].hex()
            raise corrupt(state_key(paths[path]), f"it is missing, and the state tree has 0x{shown} for it")


def receipts_root(receipts: Sequence[Receipt]) -> bytes:
    return merkle.root([receipt.encode() for receipt in receipts])


async def check_receipts(
    height: int,
    receipts: Sequence[Receipt],
    tip: CommitMarker,
    oldest: int,
    header_at: HeaderAt,
    receipts_at: ReceiptsAt,
) -> bool:
    """Raises `StoreCorrupt` where a block's receipts aren't those that a header, or the marker, shows.

    False where nothing is known: of a height above 0 that no header shows yet, and that isn't the tip; and
    where a header shows a height below `oldest` along with it, or more than `SHOWN_WITHIN_MAX`.
    """
    if height == tip.height or height == 0:
        expected = tip.receipts_root if height else merkle.EMPTY_ROOT
        found = receipts_root(receipts)
    else:
        shown = await _first_showing(height, tip.height, header_at)
        if shown is None or shown[1].start < oldest:
            return False
        header, covered = shown
        expected = header.receipts_root
        found = merkle.root(
            [receipts_root(receipts if each == height else await receipts_at(each)) for each in covered]
        )
    if found != expected:
        raise corrupt(
            receipts_key(height, 0), f"they make the root 0x{found.hex()}, shown is 0x{expected.hex()}"
        )
    return True


async def _first_showing(height: int, tip: int, header_at: HeaderAt) -> tuple[BlockHeader, range] | None:
    """The first header that shows what came of a height, and all the heights that it shows."""
    before = await header_at(height - 1)
    for each in range(height, min(tip, height + SHOWN_WITHIN_MAX) + 1):
        header = await header_at(each)
        assert before is not None and header is not None, "headers are there up to the tip"
        if header.root_height >= height:
            covered = range(before.root_height + 1, header.root_height + 1)
            return (header, covered) if len(covered) <= SHOWN_WITHIN_MAX else None
        before = header
    return None


async def check_index(reader: Reader, header: BlockHeader, receipts: Sequence[Receipt]) -> None:
    """Raises `StoreCorrupt` where a block's digest doesn't lead to it, or a transaction's to none."""
    keys = [index_key(header.digest()), *(index_key(receipt.digest) for receipt in receipts)]
    for key, found in zip(keys, await reader.get_many(keys), strict=True):
        place = None if found is None else decode_place(key, unseal(key, found))
        if key == keys[0]:
            good = place == header.height
        else:
            good = not isinstance(place, int | None) and place.height <= header.height
        if not good:
            raise corrupt(key, f"it doesn't lead to block {header.height}")
