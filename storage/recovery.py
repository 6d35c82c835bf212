"""Opening a store that may hold anything: a good ledger, none, a foreign one, a newer one, a torn one.

Every commit is one batch (STO-31), so a good store stands exactly at its commit marker, and all that the
marker names is there. Whatever differs is reported with the key it is under, and nothing is repaired by
guessing (STO-40, STO-41). What is dropped is work under a marker of its own that was never acknowledged
(STO-71): a genesis that was not finished, which is made again from the genesis file, and rows written ahead
of a commit that never happened. The cost does not grow with the chain.
"""

from collections.abc import Mapping, Sequence

from supervm.contracts.storage import (
    Delete,
    DeleteRange,
    Durability,
    KeyValueStore,
    Reader,
    StoreTooNew,
)
from supervm.storage.errors import ForeignChain, Unfinished
from supervm.storage.pages import PageInvalid, page_key
from supervm.storage.records import first_key, need_row, read_block, read_header, read_receipts
from supervm.storage.spaces import (
    ASIDE,
    BODIES,
    BULK_KEY,
    CERTIFICATES,
    CHAIN_KEY,
    COMMIT_KEY,
    HEADERS,
    LEDGER_END,
    META_KEYS,
    MIGRATE_KEY,
    RECEIPTS,
    RESTORE_KEY,
    SCHEMA,
    SCHEMA_KEY,
    STALE,
    STATE,
    CommitMarker,
    certificate_key,
    corrupt,
    decode_place,
    describe,
    header_key,
    height_bytes,
    index_key,
    receipts_key,
    unseal,
    unseal_page,
)
from supervm.storage.spill import drop_spilled
from supervm.storage.tree import read_pages
from supervm.types import merkle
from supervm.types.block import BlockHeader


async def recover(store: KeyValueStore, chain_id: bytes) -> tuple[CommitMarker, BlockHeader] | None:
    """Where a store stands, once all of it that a node relies on has been checked; None if it is empty.

    Drops unfinished bulk work. Raises `StoreTooNew`, `ForeignChain` or `StoreCorrupt`.
    """
    stored = dict(zip(META_KEYS, await store.get_many(META_KEYS), strict=True))
    schema, chain, commit, bulk = (stored[key] for key in (SCHEMA_KEY, CHAIN_KEY, COMMIT_KEY, BULK_KEY))
    if schema is None:
        await _check_empty(store, stored)
        return None
    _check_schema(unseal(SCHEMA_KEY, schema))
    if chain is None:
        raise corrupt(CHAIN_KEY, "it is missing")
    found = unseal(CHAIN_KEY, chain)
    if found != chain_id:
        raise ForeignChain(found, chain_id)
    if commit is None:
        _check_finished(stored)
        if bulk is None:
            raise corrupt(COMMIT_KEY, "it is missing")
        await _drop_unfinished(store)
        return None
    for key in (BULK_KEY, RESTORE_KEY, MIGRATE_KEY):
        if stored[key] is not None:
            raise corrupt(key, "it stands beside a commit marker, and one batch sets that and clears this")
    marker = CommitMarker.decode(unseal(COMMIT_KEY, commit))
    await drop_spilled(store, marker.height)
    async with store.snapshot() as view:
        header = await _check_tip(view, marker, chain_id)
        await _check_nothing_above(view, marker.height)
    return marker, header


def _check_finished(stored: Mapping[bytes, bytes | None]) -> None:
    """Work that an operator began is an operator's to finish: only a genesis is made again from nothing."""
    for key, verb in ((RESTORE_KEY, "snapshot restore"), (MIGRATE_KEY, "migrate")):
        if stored[key] is not None:
            raise Unfinished(
                f"the store is an unfinished {verb.split()[-1]}",
                describe(key),
                f"Go on with it: supervm {verb}. Or begin with an empty folder.",
            )


async def _check_empty(store: KeyValueStore, meta: Mapping[bytes, bytes | None]) -> None:
    """A store without a schema number is new, so it must hold nothing of a ledger."""
    for key, stored in meta.items():
        if stored is not None:
            raise corrupt(SCHEMA_KEY, f"it is missing, and the {describe(key)} is there")
    found = await first_key(store, STATE, LEDGER_END)
    if found is not None:
        raise corrupt(SCHEMA_KEY, f"it is missing, and there is a {describe(found)}")


def _check_schema(data: bytes) -> None:
    schema = int.from_bytes(data, "little")
    if schema > SCHEMA:
        raise StoreTooNew(
            f"the store has ledger schema {schema}, this release reads up to {SCHEMA}",
            describe(SCHEMA_KEY),
            "Use a newer release, or another data folder.",
        )
    if schema != SCHEMA or len(data) != 4:
        raise corrupt(SCHEMA_KEY, f"schema {schema} never was")


async def _drop_unfinished(store: KeyValueStore) -> None:
    """Remove what an interrupted genesis wrote; the marker goes last, with the rest of the metadata."""
    await drop_ledger(store)


async def drop_ledger(store: KeyValueStore) -> None:
    """Remove every row of the ledger, its metadata last: to be called only where there is no ledger yet."""
    notes = DeleteRange(ASIDE, ASIDE + b"\xff")
    await store.write([DeleteRange(STATE, LEDGER_END), notes], Durability.DURABLE)
    await store.write([Delete(key) for key in META_KEYS], Durability.DURABLE)


async def _check_tip(view: Reader, marker: CommitMarker, chain_id: bytes) -> BlockHeader:
    """The tip's header, once block, receipts, certificate, index and root page agree with the marker."""
    height = marker.height
    if marker.schema != SCHEMA:
        raise corrupt(COMMIT_KEY, f"it has schema {marker.schema}, the store {SCHEMA}")
    header = await read_header(view, height)
    if header is None:
        raise corrupt(header_key(height), "it is missing, and the commit marker names it")
    if header.digest() != marker.block_digest:
        raise corrupt(
            header_key(height),
            f"its digest is 0x{header.digest().hex()}, the commit marker says 0x{marker.block_digest.hex()}",
        )
    if header.chain_id != chain_id:
        raise corrupt(header_key(height), f"it is of chain 0x{header.chain_id.hex()}")
    if header.root_height == height and header.state_root != marker.state_root:
        raise corrupt(COMMIT_KEY, f"its state root is not 0x{header.state_root.hex()}, as its header says")
    await read_block(view, height)
    await need_row(view, certificate_key(height))
    entry = index_key(marker.block_digest)
    if decode_place(entry, await need_row(view, entry)) != height:
        raise corrupt(entry, f"it doesn't lead to height {height}")
    receipts = await read_receipts(view, height)
    if merkle.root([receipt.encode() for receipt in receipts]) != marker.receipts_root:
        raise corrupt(receipts_key(height, 0), "they don't have the receipts root of the commit marker")
    await _check_root_page(view, marker)
    return header


async def _check_root_page(view: Reader, marker: CommitMarker) -> None:
    key = page_key(b"", 0, marker.height)
    stored = await view.get(key)

    def read(keys: Sequence[bytes]) -> list[bytes | None]:
        return [None if stored is None else unseal_page(key, stored) for key in keys]

    try:
        read_pages(read, {key: marker.state_root})
    except PageInvalid as error:
        raise corrupt(error.key, error.why) from error


async def _check_nothing_above(view: Reader, height: int) -> None:
    """No block, receipt, certificate, stale entry or root page above the marker (STO-41)."""
    above = height_bytes(height + 1)
    spaces = [(space + above, bytes([space[0] + 1])) for space in (HEADERS, BODIES, RECEIPTS, CERTIFICATES)]
    spaces.append((STALE + above, HEADERS))
    root = page_key(b"", 0, height + 1)
    spaces.append((root, root[:1] + b"\x01"))
    for start, end in spaces:
        key = await first_key(view, start, end)
        if key is not None:
            raise corrupt(key, f"it is above height {height}, where the commit marker stands")
