"""Blocks as rows of the store, and back.

A block's header, body and certificate are one row each. Each batch's transactions are a row behind the
body, since a block may be larger than a value may be; receipts are rows of at most 256. Header, signature
and accepts of a batch stand in the body, so a batch's row holds its transactions and nothing twice.
"""

from collections.abc import Collection, Sequence

import attrs
import trio

from supervm.contracts.storage import Operation, Put, Reader, StoreCorrupt, prefix_end
from supervm.storage.rows import sealed_rows
from supervm.storage.spaces import (
    INDEX,
    PRUNED_KEY,
    RECEIPTS,
    Horizon,
    Place,
    batch_key,
    body_key,
    certificate_key,
    corrupt,
    decode_place,
    encode_block_place,
    header_key,
    height_bytes,
    index_key,
    pack_place,
    receipts_key,
    seal,
    unseal,
)
from supervm.types.batch import BATCH_BYTES_MAX, BATCH_TRANSACTIONS_MAX, Batch
from supervm.types.block import Block, BlockBody, BlockHeader
from supervm.types.certificate import BatchCertificate
from supervm.types.changes import PackedChanges
from supervm.types.codec import pack_transactions, unpack_transactions
from supervm.types.errors import InvalidInput
from supervm.types.packed_receipts import PackedReceipts, ReceiptHead
from supervm.types.receipt import Receipt

RECEIPTS_CHUNK = 256
RECEIPTS_CHUNK_BYTES = 2**20
RECEIPT_BYTES_MAX = 8 * 2**20


def sealed(key: bytes, value: bytes) -> Put:
    return Put(key, seal(key, value))


def block_rows(
    block: Block,
    receipts: PackedReceipts,
    certificate: bytes,
    known: Collection[bytes] = (),
) -> list[Operation]:
    """Every row that a block adds besides state, tree and marker. Pure; a thread's work for a full block.

    A receipt's `index` is its transaction's place in the block, counted through all batches. `known` are the
    digests that an earlier block has a receipt for: the index goes on leading there.
    """
    height = block.header.height
    certificates = block.body.certificates
    assert len(block.batches) == len(certificates), (len(block.batches), len(certificates))
    rows: list[Operation] = [
        sealed(header_key(height), block.header.encode()),
        sealed(body_key(height), block.body.encode()),
        sealed(certificate_key(height), certificate),
        sealed(index_key(block.digest()), encode_block_place(height)),
    ]
    items: list[tuple[int, int]] = []
    places: list[bytes] = []
    for number, batch in enumerate(block.batches):
        rows.append(sealed(batch_key(height, number), pack_transactions(batch.transactions)))
        items.extend((number, item) for item in range(len(batch.transactions)))
    for number, chunk in enumerate(_chunks(receipts)):
        rows.append(sealed(receipts_key(height, number), pack_transactions(data for _, data in chunk)))
        for at, (receipt, _) in enumerate(chunk):
            assert receipt.height == height, (receipt.height, height)
            if receipt.digest not in known:
                batch_number, item = items[receipt.index]
                places.append(pack_place(receipt.digest, (height, batch_number, item, number, at)))
    return [*rows, *sealed_rows(INDEX, PackedChanges(b"".join(places), len(places)))]


def _chunks(receipts: PackedReceipts) -> list[list[tuple[ReceiptHead, bytes]]]:
    """Heads of receipts and their encodings, in rows of at most 256 and about 1 MiB."""
    chunks: list[list[tuple[ReceiptHead, bytes]]] = []
    size_bytes = RECEIPTS_CHUNK_BYTES
    for receipt, data in zip(receipts.heads, receipts.encoded, strict=True):
        if size_bytes + len(data) > RECEIPTS_CHUNK_BYTES or len(chunks[-1]) == RECEIPTS_CHUNK:
            chunks.append([])
            size_bytes = 0
        chunks[-1].append((receipt, data))
        size_bytes += len(data)
    return chunks


@attrs.frozen
class Located:
    """A transaction in the chain: where, its canonical bytes, and its receipt."""

    height: int
    index: int
    data: bytes
    receipt: Receipt


async def read_row(reader: Reader, key: bytes) -> bytes | None:
    """The value of a row without its seal, or None where there is none. Raises `StoreCorrupt`."""
    stored = await reader.get(key)
    return None if stored is None else unseal(key, stored)


async def need_row(reader: Reader, key: bytes) -> bytes:
    """As `read_row`, where a row must be."""
    return _there(key, await reader.get(key))


def _there(key: bytes, stored: bytes | None) -> bytes:
    if stored is None:
        raise corrupt(key, "it is missing")
    return unseal(key, stored)


async def read_horizon(reader: Reader) -> Horizon:
    """From where up the ledger keeps things. Raises `StoreCorrupt`."""
    data = await read_row(reader, PRUNED_KEY)
    return Horizon() if data is None else Horizon.decode(data)


async def read_header(reader: Reader, height: int) -> BlockHeader | None:
    return (await read_headers(reader, [height]))[0]


async def read_headers(reader: Reader, heights: Sequence[int]) -> list[BlockHeader | None]:
    """The headers at these heights, in one read; None for one that is not there."""
    keys = [header_key(height) for height in heights]
    stored = await reader.get_many(keys)
    return [
        None if data is None else _header(height, key, data)
        for height, key, data in zip(heights, keys, stored, strict=True)
    ]


def _header(height: int, key: bytes, stored: bytes) -> BlockHeader:
    try:
        header = BlockHeader.decode(unseal(key, stored))
    except InvalidInput as error:
        raise corrupt(key, str(error)) from error
    if header.height != height:
        raise corrupt(key, f"it is the header of height {header.height}")
    return header


async def read_body(reader: Reader, header: BlockHeader) -> BlockBody:
    """The body that a header names. Raises `StoreCorrupt`."""
    return _body(header, await reader.get(body_key(header.height)))


def _body(header: BlockHeader, stored: bytes | None) -> BlockBody:
    key = body_key(header.height)
    try:
        body = BlockBody.decode(_there(key, stored))
    except InvalidInput as error:
        raise corrupt(key, str(error)) from error
    if body.digest() != header.body_digest:
        raise corrupt(key, f"its digest is not 0x{header.body_digest.hex()}, as the header says")
    return body


async def read_bare_blocks(reader: Reader, heights: Sequence[int]) -> list[tuple[Block, bytes]]:
    """The blocks at these heights without their batches, each with its certificate, in one read.

    Raises `StoreCorrupt`.
    """
    keys = [key(at) for at in heights for key in (header_key, body_key, certificate_key)]
    stored = await reader.get_many(keys)
    return await trio.to_thread.run_sync(_bare_blocks, heights, stored)


def _bare_blocks(heights: Sequence[int], stored: Sequence[bytes | None]) -> list[tuple[Block, bytes]]:
    found: list[tuple[Block, bytes]] = []
    for at, row in enumerate(range(0, len(stored), 3)):
        height = heights[at]
        key, data = header_key(height), stored[row]
        if data is None:
            raise corrupt(key, "it is missing below the tip")
        header = _header(height, key, data)
        block = Block(header, _body(header, stored[row + 1]))
        found.append((block, _there(certificate_key(height), stored[row + 2])))
    return found


async def read_block(reader: Reader, height: int) -> Block | None:
    """A whole block, its batches too, checked to belong together; None where there is none."""
    header = await read_header(reader, height)
    if header is None:
        return None
    body = _body(header, await reader.get(body_key(height)))
    keys = [batch_key(height, number) for number in range(len(body.certificates))]
    batches = []
    for key, stored, certificate in zip(keys, await reader.get_many(keys), body.certificates, strict=True):
        if stored is None:
            raise corrupt(key, "it is missing")
        batches.append(_batch(key, stored, certificate))
    block = Block(header, body, tuple(batches))
    try:
        block.check()
    except InvalidInput as error:
        raise corrupt(body_key(height), str(error)) from error
    return block


def _batch(key: bytes, stored: bytes, certificate: BatchCertificate) -> Batch:
    transactions = tuple(_unpack(key, unseal(key, stored), BATCH_TRANSACTIONS_MAX, BATCH_BYTES_MAX))
    if len(transactions) != certificate.header.count:
        raise corrupt(key, f"{len(transactions)} transactions, its header says {certificate.header.count}")
    return Batch(certificate.header, certificate.signature, transactions)


async def read_receipts(reader: Reader, height: int) -> list[Receipt]:
    """A block's receipts in order; none for a block without, or one that is not there."""
    prefix = RECEIPTS + height_bytes(height)
    rows = [row async for row in reader.scan(prefix, prefix_end(prefix))]
    receipts: list[Receipt] = []
    for number, (key, stored) in enumerate(rows):
        if key != receipts_key(height, number):
            raise corrupt(receipts_key(height, number), "it is missing")
        receipts.extend(_receipts(key, unseal(key, stored)))
    return receipts


async def first_key(reader: Reader, start: bytes, end: bytes | None) -> bytes | None:
    """The lowest key in a range, or None."""
    keys = [key async for key, _ in reader.scan(start, end, limit=1)]
    return keys[0] if keys else None


def leads_within(digest: bytes, value: bytes, tip: int) -> bool:
    """Whether an entry of the index is one, and leads to no height above the tip."""
    try:
        place = decode_place(index_key(digest), value)
    except StoreCorrupt:
        return False
    return (place if isinstance(place, int) else place.height) <= tip


async def read_block_place(reader: Reader, digest: bytes) -> int | None:
    """The height of the block with this digest, or None."""
    key = index_key(digest)
    data = await read_row(reader, key)
    place = None if data is None else decode_place(key, data)
    return place if isinstance(place, int) else None


async def check_block_places(reader: Reader, heights: Sequence[int]) -> None:
    """Raises `StoreCorrupt` where the digest of a header at these heights doesn't lead to it in the index."""
    headers = await read_headers(reader, heights)
    keys = [index_key(header.digest()) for header in headers if header is not None]
    assert len(keys) == len(heights), heights
    for height, key, data in zip(heights, keys, await reader.get_many(keys), strict=True):
        if data is None or decode_place(key, unseal(key, data)) != height:
            raise corrupt(header_key(height), "its digest in the index doesn't lead to it")


async def read_place(reader: Reader, digest: bytes) -> Place | None:
    """Where the transaction with this digest lies, or None."""
    key = index_key(digest)
    data = await read_row(reader, key)
    place = None if data is None else decode_place(key, data)
    return place if isinstance(place, Place) else None


async def read_located(reader: Reader, digest: bytes, place: Place) -> Located:
    """The transaction that `place` leads to, which must have this digest. Raises `StoreCorrupt`."""
    key = index_key(digest)
    batch, chunk = batch_key(place.height, place.batch), receipts_key(place.height, place.chunk)
    transactions = _unpack(batch, await need_row(reader, batch), BATCH_TRANSACTIONS_MAX, BATCH_BYTES_MAX)
    receipts = _receipts(chunk, await need_row(reader, chunk))
    if place.item >= len(transactions) or place.receipt >= len(receipts):
        raise corrupt(key, "it leads to a place that is not there")
    receipt = receipts[place.receipt]
    if receipt.digest != digest or receipt.height != place.height:
        raise corrupt(key, f"it leads to the receipt of 0x{receipt.digest.hex()}")
    return Located(place.height, receipt.index, transactions[place.item], receipt)


def _receipts(key: bytes, data: bytes) -> list[Receipt]:
    try:
        return [Receipt.decode(each) for each in _unpack(key, data, RECEIPTS_CHUNK, RECEIPT_BYTES_MAX)]
    except InvalidInput as error:
        raise corrupt(key, str(error)) from error


def _unpack(key: bytes, data: bytes, count_max: int, item_bytes_max: int) -> list[bytes]:
    try:
        return unpack_transactions(data, count_max, item_bytes_max)
    except InvalidInput as error:
        raise corrupt(key, str(error)) from error
