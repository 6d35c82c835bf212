"""Blocks whose commit is larger than a batch may be: what goes ahead, and how it is taken back.

A block within the chain's limits can touch so many keys that its tree pages alone pass the limits of a
batch (STO-3), and a block that can't be committed would stop the chain. Then the rows that only its height
can have (tree pages, stale entries, transactions, receipts) are written ahead, in chunks. Nothing refers to
them until the commit marker does, and state, index and marker still change in one durable batch. Each
chunk carries, in the same batch, the list of its keys; the commit's batch clears the lists. A list that is
found on opening is of a commit that never happened, and its rows are removed (STO-71).
"""

from collections.abc import Iterable, Iterator, Sequence

from supervm.contracts.storage import (
    BATCH_BYTES_MAX,
    BATCH_OPERATIONS_MAX,
    Delete,
    DeleteRange,
    Durability,
    KeyValueStore,
    Operation,
    Put,
    prefix_end,
)
from supervm.storage.records import sealed
from supervm.storage.spaces import BODIES, META, RECEIPTS, STALE, TREE, corrupt, unseal
from supervm.types.codec import pack_transactions, unpack_transactions
from supervm.types.errors import InvalidInput

AHEAD = frozenset({TREE, STALE, BODIES, RECEIPTS})
SPILL_PREFIX = META + b"bulk/commit/"
COMMIT_BYTES_MAX = BATCH_BYTES_MAX * 3 // 4
COMMIT_OPERATIONS_MAX = BATCH_OPERATIONS_MAX * 3 // 4
CHUNK_OPERATIONS = 50_000
CHUNK_BYTES = 8 * 2**20
KEY_BYTES_MAX = 64


def split(batch: Sequence[Operation]) -> tuple[list[list[Operation]], list[Operation]]:
    """The batches to write ahead of a commit, each with its list, and the commit's own. Usually none."""
    if len(batch) <= COMMIT_OPERATIONS_MAX and sum(map(_size, batch)) <= COMMIT_BYTES_MAX:
        return [], list(batch)
    ahead = [each for each in batch if isinstance(each, Put) and each.key[:1] in AHEAD]
    last = [each for each in batch if not (isinstance(each, Put) and each.key[:1] in AHEAD)]
    chunks: list[list[Operation]] = []
    for number, chunk in enumerate(_chunks(ahead)):
        key = SPILL_PREFIX + number.to_bytes(4, "big")
        chunks.append([*chunk, sealed(key, pack_transactions(each.key for each in chunk))])
    return chunks, [*last, DeleteRange(SPILL_PREFIX, prefix_end(SPILL_PREFIX))]


def _chunks(rows: Iterable[Put]) -> Iterator[list[Put]]:
    chunk: list[Put] = []
    size_bytes = 0
    for row in rows:
        if chunk and (len(chunk) == CHUNK_OPERATIONS or size_bytes + _size(row) > CHUNK_BYTES):
            yield chunk
            chunk, size_bytes = [], 0
        chunk.append(row)
        size_bytes += _size(row)
    if chunk:
        yield chunk


def _size(operation: Operation) -> int:
    return len(operation.key) + len(operation.value) if isinstance(operation, Put) else 0


async def drop_spilled(store: KeyValueStore, height: int) -> None:
    """Remove what was written ahead of a commit above `height` that never happened.

    Raises `StoreCorrupt` for a list that names anything but rows of the next height.
    """
    lists = [row async for row in store.scan(SPILL_PREFIX, prefix_end(SPILL_PREFIX))]
    for key, stored in lists:
        try:
            rows = unpack_transactions(unseal(key, stored), CHUNK_OPERATIONS, KEY_BYTES_MAX)
        except InvalidInput as error:
            raise corrupt(key, str(error)) from error
        for row in rows:
            if row[:1] not in AHEAD or _height(row) != height + 1:
                raise corrupt(key, f"it lists {row.hex()}, which is not of height {height + 1}")
        # Rows and their list go together, so that a kill in between leaves the lists of what is left.
        await store.write([*map(Delete, rows), Delete(key)], Durability.DURABLE)


def _height(row: bytes) -> int:
    return int.from_bytes(row[-8:] if row[:1] == TREE else row[1:9], "big")
