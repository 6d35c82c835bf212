"""Removing what a node needn't keep, while blocks go on (STO-60 to STO-66).

First the horizon is made durable; from then on whoever asks for something below it is told `Pruned`. Then
what is below goes, in short pieces: of bodies and receipts at most 10,000 rows and about 2 MiB, so that of a
large block a piece takes a part; of the state tree at most 5,000 pages, by the stale index, which names each
with the height from which no root needs it. A page and its entry go in one batch, so a crash leaves both or
none, and the next sweep begins at the lowest row there is.

Never removed: state, headers, certificates, the index, and the tree of every height from the horizon up. The
index stays because a transaction that comes again must be known again on every node alike (CONS-40).
"""

from collections.abc import Awaitable, Callable

import attrs

from supervm.contracts.storage import Delete, DeleteRange
from supervm.storage.ledger import Ledger
from supervm.storage.pace import Pace, PieceSize
from supervm.storage.spaces import (
    BODIES,
    RECEIPTS,
    STALE,
    Horizon,
    body_key,
    receipts_key,
    stale_key,
    stale_page,
)

KEPT_MIN = 256
"""The least blocks and roots that any policy leaves (STO-61)."""
DELETES_MAX = 10_000
PIECE_BYTES = 2 * 2**20
ROWS_LEAST = 64
PAGES_LEAST = 256
"""Few milliseconds on any backend, and still more than a busy chain adds on a disk whose syncs are slow."""
SINGLY_MAX = 32
"""So few rows are deleted one by one: engines are slower to read where many ranges were deleted."""

PruneProgress = Callable[["Removed"], None]
"""Called after each piece with what it removed; must return at once."""


@attrs.frozen(kw_only=True)
class Keep:
    """What a node keeps: of the newest blocks the bodies and receipts, of the newest roots the whole trees.

    0 is all. `seconds` keeps blocks younger than that too; where both are given the more is kept.
    """

    blocks: int = 0
    roots: int = 0
    seconds: int = 0

    def __attrs_post_init__(self) -> None:
        for count in (self.blocks, self.roots):
            assert count == 0 or count >= KEPT_MIN, f"{count}: 0, or at least {KEPT_MIN}"

    @property
    def everything(self) -> bool:
        return not (self.blocks or self.roots or self.seconds)


@attrs.frozen
class Removed:
    """Blocks whose bodies went, tree pages that did, and rows of bodies and receipts."""

    blocks: int = 0
    pages: int = 0
    rows: int = attrs.field(default=0, eq=False)

    def __add__(self, other: "Removed") -> "Removed":
        return Removed(self.blocks + other.blocks, self.pages + other.pages, self.rows + other.rows)


async def horizon_for(ledger: Ledger, keep: Keep, now_ms: int) -> Horizon:
    """Where the horizon may rise to by now; never into the last 256 blocks, nor below its own."""
    tip, now = ledger.tip.height, ledger.horizon
    wanted = []
    if keep.blocks:
        wanted.append(tip - keep.blocks + 1)
    if keep.seconds:
        wanted.append(min(await _first_since(ledger, now_ms - keep.seconds * 1_000), tip - KEPT_MIN + 1))
    return Horizon(
        max(now.blocks, min(wanted, default=0)),
        max(now.roots, tip - keep.roots + 1 if keep.roots else 0),
    )


async def _first_since(ledger: Ledger, since_ms: int) -> int:
    """The lowest kept height with a block of this time or later; times never fall along a chain."""
    low, high = ledger.horizon.blocks, ledger.tip.height
    while low < high:
        middle = (low + high) // 2
        header = await ledger.header(middle)
        assert header is not None, middle
        if header.timestamp_ms < since_ms:
            low = middle + 1
        else:
            high = middle
    return low


@attrs.define
class Sweeper:
    """Removes what lies below a ledger's horizon, and remembers how far it came. One task at a time.

    `cleared` is the horizon below which nothing is left, as far as this sweeper knows. `calm`, if given, is
    awaited before each piece: it returns once more work may be asked of the store.
    """

    ledger: Ledger
    pace: Pace
    cleared: Horizon = Horizon()
    calm: Callable[[], Awaitable[None]] | None = None
    _rows: PieceSize = attrs.field(factory=lambda: PieceSize(DELETES_MAX, ROWS_LEAST), init=False)
    _pages: PieceSize = attrs.field(factory=lambda: PieceSize(DELETES_MAX // 2, PAGES_LEAST), init=False)
    # By space, where what is left begins.
    _from: dict[bytes, bytes] = attrs.field(factory=lambda: {BODIES: BODIES, RECEIPTS: RECEIPTS}, init=False)
    _stale_from: bytes = attrs.field(default=STALE, init=False)

    async def sweep(self, progress: PruneProgress | None = None) -> Removed:
        """Remove all of it; what went. Cancelled, it stops between two pieces.

        Raises `DiskFull` where the backend needs room even to delete, and `StoreCorrupt` for an entry of
        the stale index that no commit wrote; what went before stays gone, and the next sweep goes on.
        """
        target = self.ledger.horizon
        total = Removed()
        for piece, size in ((self._clear_blocks, self._rows), (self._clear_pages, self._pages)):
            while True:
                if self.calm is not None:
                    await self.calm()
                began_s = self.pace.busy_s
                with self.pace.working():
                    gone = await piece(target)
                if gone is None:
                    break
                size.took(self.pace.busy_s - began_s, gone.rows + gone.pages)
                total += gone
                if progress is not None:
                    progress(gone)
                await self.pace.rest()
        return total

    async def _clear_blocks(self, target: Horizon) -> Removed | None:
        """Some of the lowest rows of bodies or of receipts, whichever lie behind."""
        ends = dict(
            zip((BODIES, RECEIPTS), (end for _, end in cleared_ranges(0, target.blocks)), strict=True)
        )
        left = [space for space, end in ends.items() if self._from[space] < end]
        if not left:
            self.cleared = attrs.evolve(self.cleared, blocks=max(target.blocks, self.cleared.blocks))
            return None
        space = min(left, key=lambda one: self._from[one][1:])
        rows, after = await self.ledger.page(self._from[space], ends[space], self._rows.size, PIECE_BYTES)
        if rows:
            keys = [key for key, _ in rows]
            singly = len(keys) <= SINGLY_MAX
            await self.ledger.discard(map(Delete, keys) if singly else [DeleteRange(keys[0], after)])
        self._from[space] = after
        # All lower rows of both spaces are gone.
        height = min(int.from_bytes(each[1:9], "big") for each in self._from.values())
        self.cleared = attrs.evolve(self.cleared, blocks=max(height, self.cleared.blocks))
        return Removed(blocks=sum(len(key) == len(body_key(0)) for key, _ in rows), rows=len(rows))

    async def _clear_pages(self, target: Horizon) -> Removed | None:
        entries = await self.ledger.rows(self._stale_from, stale_end(target), self._pages.size)
        if entries:
            pages = [stale_page(*entry) for entry in entries]
            await self.ledger.discard([*map(Delete, pages), *(Delete(key) for key, _ in entries)])
            self._stale_from = entries[-1][0]
            return Removed(pages=len(pages))
        self.cleared = attrs.evolve(self.cleared, roots=target.roots)
        return None


def cleared_ranges(low: int, high: int) -> list[tuple[bytes, bytes]]:
    """Where the bodies and receipts of the blocks from `low` to below `high` lie."""
    return [(body_key(low), body_key(high)), (receipts_key(low, 0), receipts_key(high, 0))]


async def lowest_block(ledger: Ledger, target: Horizon) -> int:
    """The lowest height below the target that has its body still; the target where none has."""
    found = await ledger.rows(BODIES, body_key(target.blocks), 1)
    return int.from_bytes(found[0][0][1:9], "big") if found else target.blocks


def stale_end(horizon: Horizon) -> bytes:
    """Where the entries end of pages that no root from the horizon up needs."""
    return stale_key(horizon.roots + 1, b"")


async def would_remove(ledger: Ledger, target: Horizon) -> Removed:
    """What a sweep would remove were the horizon at `target`. Reads the whole stale index below it."""
    pages, start, end = 0, STALE, stale_end(target)
    while entries := await ledger.rows(start, end, DELETES_MAX):
        pages += len([stale_page(*entry) for entry in entries])
        start = entries[-1][0] + b"\x00"
    return Removed(target.blocks - await lowest_block(ledger, target), pages)
