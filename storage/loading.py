"""The state of any size into an empty store, in bounded memory: entries as they come, then their tree.

Entries come in whatever order; the tree wants them in the order of their hashes. So each leaves a row
`02 || kh -> blake3(value)`, sealed, beside its own, and these are read one slice of the tree, a 256th, after
the other; where a slice has more than 65,536 leaves, in parts that have not. They go with the batch that
makes a ledger of it all.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import cast

import attrs
import trio

from supervm.contracts.storage import DeleteRange, Durability, KeyValueStore, Operation, prefix_end
from supervm.storage.pages import HASH_BYTES, SLOTS
from supervm.storage.records import sealed
from supervm.storage.rows import page_rows
from supervm.storage.spaces import HISTORY, STATE, unseal
from supervm.storage.tree import SLICES, Change, build_crown, build_slice, join_slices
from supervm.types import smt

Progress = Callable[[int, int], None]
"""Called with (done, of how many) now and then during long work; must return at once."""

LEAVES = HISTORY
LEAVES_MAX = 65_536
BATCH_OPERATIONS = 50_000
BATCH_BYTES = 8 * 2**20


def entry_rows(entries: Iterable[tuple[bytes, bytes]]) -> list[Operation]:
    """Two rows for each (state key, value): its own, and its leaf. A thread's work for many."""
    rows: list[Operation] = []
    for key, value in entries:
        rows.append(sealed(STATE + key, value))
        rows.append(sealed(LEAVES + smt.key_hash(key), smt.value_hash(value)))
    return rows


async def load_tree(
    store: KeyValueStore, height: int, progress: Progress | None = None
) -> tuple[bytes, list[Operation]]:
    """Write the tree of the entries that were written, but for its top: the root, and the rows of the top.

    What stands in the store may be written again, so an interrupted one is done from the start.
    """
    builder = _Builder(store, height)
    slices: list[bytes] = []
    for first in range(SLICES):
        slices.append(await builder.slot(divmod(first, SLOTS)))
        if progress is not None:
            progress(first + 1, SLICES)
    root, crown = build_crown(slices, height)
    return root, page_rows(crown.items())


@attrs.define
class _Builder:
    """Builds subtrees and writes their pages. One of more leaves than may be in memory is built in parts."""

    store: KeyValueStore
    height: int

    async def slot(self, nibbles: tuple[int, ...]) -> bytes:
        """What stands in the page above for the subtree of kh that begin with these."""
        depth = len(nibbles)
        leaves = await self._leaves(nibbles)
        if leaves is not None:
            built = await trio.to_thread.run_sync(build_slice, leaves, self.height, depth)
        else:
            parts = [await self.slot((*nibbles, here)) for here in range(SLOTS)]
            path = _prefix(nibbles).ljust(HASH_BYTES, b"\x00")
            built = await trio.to_thread.run_sync(join_slices, parts, path, depth, self.height)
        slot, pages = built
        for batch in _batches(pages):
            await self.store.write(batch, Durability.BUFFERED)
        return slot

    async def _leaves(self, nibbles: tuple[int, ...]) -> list[Change] | None:
        """The leaves below, or None where there are more than LEAVES_MAX."""
        most = LEAVES_MAX
        start, end = LEAVES + _prefix(nibbles), _end(nibbles)
        scan = cast("AsyncGenerator[tuple[bytes, bytes], None]", self.store.scan(start, end, limit=most + 1))
        async with aclosing(scan) as rows:
            leaves = [(key[1:], key[1:] + unseal(key, stored)) async for key, stored in rows]
        return leaves if len(leaves) <= most else None


def _prefix(nibbles: Sequence[int]) -> bytes:
    """Nibbles as bytes; an odd one is the upper half of the last."""
    padded = [*nibbles, 0] if len(nibbles) % 2 else nibbles
    return bytes(padded[i] << 4 | padded[i + 1] for i in range(0, len(padded), 2))


def _end(nibbles: tuple[int, ...]) -> bytes | None:
    """The first key after the leaves that begin with these nibbles."""
    while nibbles and nibbles[-1] == SLOTS - 1:
        nibbles = nibbles[:-1]
    if not nibbles:
        return prefix_end(LEAVES)
    return LEAVES + _prefix((*nibbles[:-1], nibbles[-1] + 1))


def forget_leaves() -> DeleteRange:
    """For the last batch."""
    return DeleteRange(LEAVES, prefix_end(LEAVES))


def _batches(pages: dict[bytes, bytes]) -> Iterator[list[Operation]]:
    batch: list[tuple[bytes, bytes]] = []
    size_bytes = 0
    for key, data in pages.items():
        if batch and (len(batch) == BATCH_OPERATIONS or size_bytes + len(data) > BATCH_BYTES):
            yield page_rows(batch)
            batch, size_bytes = [], 0
        batch.append((key, data))
        size_bytes += len(key) + len(data)
    if batch:
        yield page_rows(batch)
