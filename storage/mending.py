"""Finding again what belongs where a row of the ledger is damaged (STO-43).

A ledger knows much of itself twice. A header is named by the one above it, a body by its header, a batch by
its body, receipts by a root in a header, a state entry by the tree, a page of the tree by its parent; and a
page and an entry of the index can be made anew. So whatever comes from elsewhere is judged by what is here,
and nothing is believed. What can't be judged stays aside, such as the metadata.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import cast

import attrs

from supervm.contracts.storage import Operation, Put, Reader, StoreCorrupt
from supervm.storage.errors import Pruned
from supervm.storage.ledger import Ledger
from supervm.storage.missing import check_receipts
from supervm.storage.pages import (
    CHILD_BYTES,
    EMPTY,
    HASH_BYTES,
    SLOTS,
    PageInvalid,
    child,
    child_height,
    decode_page,
    encode_page,
    fold,
    nibble,
    node_hash,
    page_key,
)
from supervm.storage.records import (
    RECEIPT_BYTES_MAX,
    RECEIPTS_CHUNK,
    block_rows,
    read_body,
    read_header,
    read_located,
    read_receipts,
)
from supervm.storage.spaces import (
    BODIES,
    CERTIFICATES,
    HEADERS,
    INDEX,
    RECEIPTS,
    STALE,
    STATE,
    TREE,
    CommitMarker,
    body_key,
    decode_place,
    height_bytes,
    receipts_key,
    stale_page,
    unseal,
    unseal_page,
)
from supervm.storage.tree import find
from supervm.types import merkle, smt
from supervm.types.batch import BATCH_BYTES_MAX, BATCH_TRANSACTIONS_MAX
from supervm.types.block import BlockBody, BlockHeader
from supervm.types.codec import unpack_transactions
from supervm.types.errors import InvalidInput
from supervm.types.packed_receipts import PackedReceipts
from supervm.types.receipt import Receipt

HELD_MAX = 64
"""Chunks of receipts that wait for others of their block: they make a root only together."""
CHUNKS_MAX = 4_096
"""More than any block has: 200,000 receipts are 782 at 256 each, and they are never so large."""
HEADERS_AT_ONCE = 1_000
OF_PEERS = frozenset({STATE, HEADERS, BODIES, RECEIPTS, CERTIFICATES})
"""Spaces whose rows are the same on every node, and judged by what is around them."""

Prove = Callable[[BlockHeader, bytes], None]
"""Raises `InvalidInput` where a certificate doesn't prove the block of this header final."""


@attrs.define
class Mender:
    """Brings rows of one ledger back. `held` are receipts that came and can't be judged alone."""

    ledger: Ledger
    _held: dict[bytes, bytes] = attrs.field(factory=dict, init=False)

    async def at_hand(self, key: bytes) -> bool:
        """Mend a row from what is here, or see that it is good after all; whether it is served again.

        A page of the tree costs a pass over the state, an entry of the index one over the blocks.
        """
        try:
            return await self._at_hand(key)
        except StoreCorrupt:
            return False  # another row that this needs is damaged too, and comes first

    async def _at_hand(self, key: bytes) -> bool:
        if await self._is_needless(key) or await self._is_good(key):
            return await self.ledger.put_back({}, [key])
        match key[:1]:
            case b"\x01":
                remembered = self.ledger.remembered_state(key[1:])
                if remembered is not None and await self._put_state(key, remembered):
                    return True
                _, expected = await self._leaf(key)
                return expected is None and await self._put_state(key, None)
            case b"\x03":
                page = await self._rebuilt(key)
                return page is not None and await self.ledger.put_back({key: page}, [key])
            case b"\x04":
                # A page that nothing needs may stay for good then; no page that is needed goes.
                return await self.ledger.put_back({key: None}, [key])
            case b"\x09":
                entry = await self._indexed(key)
                return entry is not None and await self.ledger.put_back({key: entry}, [key])
        return False

    async def wanted(self, key: bytes) -> tuple[bytes, ...]:
        """The rows that another node should be asked for, to mend this one; none where none could help."""
        if key[:1] not in OF_PEERS:
            return ()
        if key[:1] != RECEIPTS:
            return (key,)
        # Which chunk is wrong, or whether the last is missing, their root doesn't say. Of very many only the
        # likely ones are asked for: this one, the one after the last, and the first.
        height = _height(key)
        there = await self.ledger.rows(receipts_key(height, 0), receipts_key(height + 1, 0), CHUNKS_MAX)
        likely = (key, receipts_key(height, len(there)))
        first = [receipts_key(height, number) for number in range(len(there))]
        return tuple(dict.fromkeys((*likely, *first[: HELD_MAX - len(likely)])))

    async def given(self, key: bytes, value: bytes, prove: Prove) -> bool:
        """A row's value as somebody gave it; whether it is what belongs there, and is served again."""
        try:
            return await self._given(key, value, prove)
        except StoreCorrupt:
            return False

    async def _given(self, key: bytes, value: bytes, prove: Prove) -> bool:
        if key[:1] == RECEIPTS:
            return await self._given_receipts(key, value)
        if key not in self.ledger.aside or key[:1] not in OF_PEERS:
            return False
        if key[:1] == STATE:
            return await self._put_state(key, value)
        async with self.ledger.view() as (view, marker, _):
            if not await self._fits(view, marker, key, value, prove):
                return False
        return await self.ledger.put_back({key: value}, [key])

    # Judging

    async def _is_needless(self, key: bytes) -> bool:
        """Whether it is pruned, or is a page that a later block has replaced."""
        if key[:1] != TREE:
            return key[:1] in (BODIES, RECEIPTS) and _height(key) < self.ledger.horizon.blocks
        async with self.ledger.view() as (view, marker, _):
            try:
                return await self._named(view, marker, key) is None
            except (StoreCorrupt, PageInvalid):
                return False

    async def _is_good(self, key: bytes) -> bool:
        """Whether reading the row again gives what belongs there: then a read was at fault, and no row."""
        async with self.ledger.view() as (view, marker, _):
            stored = await view.get(key)
            if stored is None:
                return False
            try:
                if key[:1] == STALE:
                    stale_page(key, stored)
                    return True
                if key[:1] == TREE:
                    named = await self._named(view, marker, key)
                    slots = decode_page(key, unseal_page(key, stored))
                    return named is None or node_hash(fold(slots)) == named
                value = unseal(key, stored)
                if key[:1] == STATE:
                    return (await self._leaf(key))[1] == smt.value_hash(value)
                if key[:1] == INDEX:
                    return await self._leads(view, marker, key, value)
                if key[:1] == RECEIPTS:
                    await self._check_receipts(view, marker, _height(key), {})
                    return True
                return await self._fits(view, marker, key, value, _unproven)
            except (StoreCorrupt, PageInvalid, Pruned):
                return False

    async def _fits(self, view: Reader, marker: CommitMarker, key: bytes, value: bytes, prove: Prove) -> bool:
        """Whether a header, body, batch or certificate is that of its height."""
        height = _height(key)
        try:
            if key[:1] == HEADERS:
                header = BlockHeader.decode(value)
                return header.height == height and header.digest() == await _digest_at(view, marker, height)
            found = await read_header(view, height)
            if found is None:
                return False
            if key[:1] == CERTIFICATES:
                prove(found, value)
            elif key == body_key(height):
                return BlockBody.decode(value).digest() == found.body_digest
            else:
                body = await read_body(view, found)
                number = int.from_bytes(key[9:], "big")
                if len(key) != 11 or number >= len(body.certificates):
                    return False
                packed = unpack_transactions(value, BATCH_TRANSACTIONS_MAX, BATCH_BYTES_MAX)
                return merkle.root(packed) == body.certificates[number].header.transactions_root
        except (InvalidInput, StoreCorrupt):
            return False
        return True

    async def _given_receipts(self, key: bytes, value: bytes) -> bool:
        height = _height(key)
        mine = [each.key for each in self.ledger.aside.rows if _is_of(each.key, RECEIPTS, height)]
        if not mine or len(key) != 13:
            return False
        if key not in self._held and len(self._held) >= HELD_MAX:
            self._held.clear()
        self._held[key] = value
        of_block = {each: held for each, held in self._held.items() if _is_of(each, RECEIPTS, height)}
        async with self.ledger.view() as (view, marker, _):
            try:
                if not await self._check_receipts(view, marker, height, of_block):
                    return False
            except (InvalidInput, StoreCorrupt):
                return False
        for each in of_block:
            del self._held[each]
        return await self.ledger.put_back(of_block, mine)

    async def _check_receipts(
        self, view: Reader, marker: CommitMarker, height: int, given: dict[bytes, bytes]
    ) -> bool:
        """Whether a block's receipts, those given in their places, make the root that is shown for them.

        Raises `StoreCorrupt` and `InvalidInput`. Where no header shows them yet, nothing can be said.
        """
        rows = dict(await self.ledger.rows(receipts_key(height, 0), receipts_key(height + 1, 0), CHUNKS_MAX))
        held = {key: unseal(key, stored) for key, stored in rows.items() if key not in given}
        receipts: list[Receipt] = []
        for number, (key, value) in enumerate(sorted({**held, **given}.items())):
            if key != receipts_key(height, number):
                return False
            receipts += map(Receipt.decode, unpack_transactions(value, RECEIPTS_CHUNK, RECEIPT_BYTES_MAX))

        async def header_at(each: int) -> BlockHeader | None:
            return await read_header(view, each)

        async def receipts_at(each: int) -> Sequence[Receipt]:
            return await read_receipts(view, each)

        oldest = self.ledger.horizon.blocks
        shown = await check_receipts(height, receipts, marker, oldest, header_at, receipts_at)
        return shown or not given

    # The state and its tree

    async def _leaf(self, key: bytes) -> tuple[CommitMarker, bytes | None]:
        """The hash of the value that the tree has for a state row's key, None for none; and of which tip."""
        path = smt.key_hash(key[1:])
        async with self.ledger.view() as (view, marker, _):
            end = find(await self.ledger.load_pages(marker, [path], view), marker.height, path).end
        return marker, end[HASH_BYTES:] if end[:HASH_BYTES] == path else None

    async def _put_state(self, key: bytes, value: bytes | None) -> bool:
        marker, expected = await self._leaf(key)
        fits = expected == (None if value is None else smt.value_hash(value))
        return fits and await self.ledger.put_back({key: value}, [key], marker)

    async def _named(self, view: Reader, marker: CommitMarker, key: bytes) -> bytes | None:
        """The hash that the tip's tree names for a page; None where that tree has no such page."""
        depth, path = key[1], key[2:-8].ljust(HASH_BYTES, b"\x00")
        expected, at = marker.state_root, page_key(b"", 0, marker.height)
        for above in range(depth):
            slots = decode_page(at, unseal_page(at, await view.get(at) or b""))
            if node_hash(fold(slots)) != expected:
                raise PageInvalid(at, "it isn't the page that its parent names")
            slot = slots[nibble(path, above)]
            if len(slot) != CHILD_BYTES:
                return None
            expected, at = slot[:HASH_BYTES], page_key(path, above + 1, child_height(slot))
        return expected if at == key else None

    async def _rebuilt(self, key: bytes) -> bytes | None:
        """A page of the tip's tree, made from the state and the pages below it; None where it can't be."""
        depth, path = key[1], key[2:-8].ljust(HASH_BYTES, b"\x00")
        counts, leaves = [0] * SLOTS, [EMPTY] * SLOTS
        try:
            async with self.ledger.view() as (view, marker, _):
                named = await self._named(view, marker, key)
                if named is None:
                    return None
                rows = cast("AsyncGenerator[tuple[bytes, bytes], None]", view.scan(STATE, STATE_END))
                async with aclosing(rows) as found:
                    async for row, stored in found:
                        hashed = smt.key_hash(row[1:])
                        if all(nibble(hashed, each) == nibble(path, each) for each in range(depth)):
                            here = nibble(hashed, depth)
                            counts[here] += 1
                            if counts[here] == 1:
                                leaves[here] = hashed + smt.value_hash(unseal(row, stored))
                for here, count in enumerate(counts):
                    if count > 1:
                        leaves[here] = await _newest_child(view, marker, leaves[here], depth + 1)
        except (StoreCorrupt, PageInvalid):
            return None
        return encode_page(leaves) if node_hash(fold(leaves)) == named else None

    # The index

    async def _leads(self, view: Reader, marker: CommitMarker, key: bytes, value: bytes) -> bool:
        place = decode_place(key, value)
        if isinstance(place, int):
            header = await read_header(view, place) if place <= marker.height else None
            return header is not None and header.digest() == key[1:]
        if place.height > marker.height:
            return False
        if place.height >= self.ledger.horizon.blocks:
            await read_located(view, key[1:], place)
        return True

    async def _indexed(self, key: bytes) -> bytes | None:
        """The entry of the block or transaction with this digest, found by looking at all that is kept."""
        ledger, tip = self.ledger, self.ledger.tip.height
        for first in range(0, tip + 1, HEADERS_AT_ONCE):
            for header in await ledger.headers(first, HEADERS_AT_ONCE):
                if header.digest() == key[1:]:
                    return await self._entry(key, header.height)
        for height in range(ledger.horizon.blocks, tip + 1):
            receipts = await ledger.receipts(height) or []
            if any(receipt.digest == key[1:] for receipt in receipts):
                return await self._entry(key, height)
        return None

    async def _entry(self, key: bytes, height: int) -> bytes | None:
        block, receipts = await self.ledger.block(height), await self.ledger.receipts(height)
        assert block is not None and receipts is not None, height
        rows: list[Operation] = block_rows(block, PackedReceipts.of(receipts), b"")
        found = [row.value for row in rows if isinstance(row, Put) and row.key == key]
        return unseal(key, found[0]) if found else None


STATE_END = bytes((STATE[0] + 1,))


async def _newest_child(view: Reader, marker: CommitMarker, leaf: bytes, depth: int) -> bytes:
    """The slot of the page below at this depth that the tip's tree has: the newest there is."""
    first = page_key(leaf, depth, 0)
    end = page_key(leaf, depth, marker.height + 1)
    async for key, stored in view.scan(first, end, reverse=True, limit=1):
        slots = decode_page(key, unseal_page(key, stored))
        return child(fold(slots), int.from_bytes(key[-8:], "big"))
    raise PageInvalid(first, "no page of any height is there")


async def _digest_at(view: Reader, marker: CommitMarker, height: int) -> bytes | None:
    if height == marker.height:
        return marker.block_digest
    above = await read_header(view, height + 1)
    return None if above is None else above.parent


def _height(key: bytes) -> int:
    return int.from_bytes(key[1:9], "big")


def _is_of(key: bytes, space: bytes, height: int) -> bool:
    return key.startswith(space + height_bytes(height))


def _unproven(header: BlockHeader, certificate: bytes) -> None:
    """A seal that holds is all that is known of a certificate here."""
