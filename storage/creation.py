"""Height 0: the first state, its tree, the genesis block and the commit marker.

A small genesis is one durable batch. One that is larger than a batch should be is written in chunks under
a marker (STO-71), and the last batch, with the genesis block and the commit marker, clears it: until that
one is durable the store holds no ledger, and `recover` drops what there is.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

import trio

from supervm.contracts.storage import Delete, Durability, KeyValueStore, Operation, Put
from supervm.storage.loading import Progress, entry_rows, forget_leaves, load_tree
from supervm.storage.records import block_rows, sealed
from supervm.storage.rows import page_rows
from supervm.storage.spaces import (
    BULK_KEY,
    CHAIN_KEY,
    COMMIT_KEY,
    SCHEMA,
    SCHEMA_KEY,
    CommitMarker,
    state_key,
)
from supervm.storage.tree import SLICES, Change, build_crown, build_slice
from supervm.types import merkle, smt
from supervm.types.block import BlockHeader
from supervm.types.genesis import Genesis, genesis_block, genesis_state
from supervm.types.packed_receipts import PackedReceipts
from supervm.types.state import system_key

GAS_KEY = system_key(b"gas")
CHUNK_OPERATIONS = 50_000
CHUNK_BYTES = 8 * 2**20


def first_state(genesis: Genesis, gas_state: bytes) -> dict[bytes, bytes]:
    """The whole state of height 0: what the genesis funds, and the gas policy's own."""
    return {**genesis_state(genesis), GAS_KEY: gas_state}


async def create_ledger(
    store: KeyValueStore,
    genesis: Genesis,
    gas_state: bytes,
    base_price: int,
    progress: Progress | None = None,
) -> tuple[CommitMarker, BlockHeader]:
    """Write height 0 into a store that holds no ledger; durable when it returns.

    Interrupted anywhere, it leaves a store in which the next opening starts again.
    """
    state = await trio.to_thread.run_sync(first_state, genesis, gas_state)
    writer = _ChunkWriter(store, [*_identity(genesis.chain_id)])
    slices: list[bytes] = []
    rows = _slices(state)
    for first in range(SLICES):
        slot, operations = await trio.to_thread.run_sync(next, rows)
        slices.append(slot)
        await writer.add(operations)
        if progress is not None:
            progress(first + 1, SLICES)
    root, pages = build_crown(slices, 0)
    block = genesis_block(genesis, root, base_price)
    marker = CommitMarker(0, block.digest(), root, merkle.EMPTY_ROOT)
    crown = page_rows(pages.items())
    await writer.finish(
        [*crown, *block_rows(block, PackedReceipts(()), b""), sealed(COMMIT_KEY, marker.encode())]
    )
    return marker, block.header


async def create_from_entries(
    store: KeyValueStore,
    genesis: Genesis,
    entries: AsyncIterator[Sequence[tuple[bytes, bytes]]],
    base_price: int,
    progress: Progress | None = None,
) -> tuple[CommitMarker, BlockHeader]:
    """Write height 0 with a state that the genesis doesn't name, and that nobody holds in memory.

    For chains made to be measured: `entries` are all of the state, some at a time, and no key comes twice.
    The store must be empty. Interrupted anywhere, it leaves a store that the next opening finds empty.
    """
    await store.write([*_identity(genesis.chain_id), sealed(BULK_KEY, b"genesis")], Durability.DURABLE)
    async for some in entries:
        await store.write(await trio.to_thread.run_sync(entry_rows, some), Durability.BUFFERED)
    root, crown = await load_tree(store, 0, progress)
    block = genesis_block(genesis, root, base_price)
    marker = CommitMarker(0, block.digest(), root, merkle.EMPTY_ROOT)
    rows = [*block_rows(block, PackedReceipts(()), b""), sealed(COMMIT_KEY, marker.encode())]
    await store.write([*crown, forget_leaves(), *rows, Delete(BULK_KEY)], Durability.DURABLE)
    return marker, block.header


def _identity(chain_id: bytes) -> tuple[Put, Put]:
    return sealed(SCHEMA_KEY, SCHEMA.to_bytes(4, "little")), sealed(CHAIN_KEY, chain_id)


def _slices(state: Mapping[bytes, bytes]) -> Iterator[tuple[bytes, list[Operation]]]:
    """For each first byte of kh in order: the tree's slot at depth 2, and the rows below it."""
    buckets: list[list[tuple[bytes, bytes]]] = [[] for _ in range(SLICES)]
    for key in state:
        path = smt.key_hash(key)
        buckets[path[0]].append((path, key))
    for bucket in buckets:
        bucket.sort()
        leaves: list[Change] = [(path, path + smt.value_hash(state[key])) for path, key in bucket]
        slot, pages = build_slice(leaves, 0)
        operations: list[Operation] = [sealed(state_key(key), state[key]) for _, key in bucket]
        operations.extend(page_rows(pages.items()))
        yield slot, operations


class _ChunkWriter:
    """Gathers rows into one durable batch, or into chunks under the bulk marker once they are many.

    Chunks need no sync of their own: batches become durable in order (STO-5), and the last one is.
    """

    def __init__(self, store: KeyValueStore, identity: list[Put]) -> None:
        self._store = store
        self._identity = identity
        self._pending: list[Operation] = []
        self._bytes = 0
        self._bulk = False

    async def add(self, operations: list[Operation]) -> None:
        for operation in operations:
            assert isinstance(operation, Put)
            size_bytes = len(operation.key) + len(operation.value)
            if len(self._pending) >= CHUNK_OPERATIONS or self._bytes + size_bytes > CHUNK_BYTES:
                await self._flush()
            self._pending.append(operation)
            self._bytes += size_bytes

    async def _flush(self) -> None:
        if not self._bulk:
            marker = sealed(BULK_KEY, b"genesis")
            await self._store.write([*self._identity, marker], Durability.DURABLE)
            self._bulk = True
        await self._store.write(self._pending, Durability.BUFFERED)
        self._pending, self._bytes = [], 0

    async def finish(self, last: list[Operation]) -> None:
        batch = [*self._pending, *last, *([Delete(BULK_KEY)] if self._bulk else self._identity)]
        await self._store.write(batch, Durability.DURABLE)
