"""The state of any size into an empty store, in bounded memory: entries as they come, then their tree.

Entries come in whatever order; the tree wants them in the order of their hashes. So each leaves a row
`02 || kh -> blake3(value)`, sealed, beside its own, and these are read one slice of the tree, a 256th, after
the other. They go with the batch that makes a ledger of it all.
"""

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import cast

import trio

from supervm.contracts.storage import DeleteRange, Durability, KeyValueStore, Operation, prefix_end
from supervm.storage.records import sealed
from supervm.storage.rows import page_rows
from supervm.storage.spaces import HISTORY, STATE, unseal
from supervm.storage.tree import SLICES, Change, build_crown, build_slice
from supervm.types import smt

Progress = Callable[[int, int], None]
"""Called with (done, of how many) now and then during long work; must return at once."""

LEAVES = HISTORY
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
    slices: list[bytes] = []
    for first in range(SLICES):
        leaves = await _leaves(store, first)
        slot, pages = await trio.to_thread.run_sync(build_slice, leaves, height)
        slices.append(slot)
        for batch in _batches(pages):
            await store.write(batch, Durability.BUFFERED)
        if progress is not None:
            progress(first + 1, SLICES)
    root, crown = build_crown(slices, height)
    return root, page_rows(crown.items())


def forget_leaves() -> DeleteRange:
    """For the last batch."""
    return DeleteRange(LEAVES, prefix_end(LEAVES))


async def _leaves(store: KeyValueStore, first: int) -> list[Change]:
    prefix = LEAVES + bytes((first,))
    scan = cast("AsyncGenerator[tuple[bytes, bytes], None]", store.scan_prefix(prefix))
    async with aclosing(scan) as rows:
        return [(key[1:], key[1:] + unseal(key, stored)) async for key, stored in rows]


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
