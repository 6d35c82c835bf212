"""Answering what peers miss: from the machines what is young, from the ledger what is committed.

An answer is bounded; what has no room in it is asked for again. Questions wait in turns between peers, few of
each (`waiting_questions`).
"""

from collections.abc import Awaitable, Callable, Collection, Iterable

from supervm.contracts.application import CertifyingApplication, Mendable
from supervm.contracts.storage import StoreCorrupt
from supervm.plugins.consensus.bft.driver.kept import KeptBlocks
from supervm.plugins.consensus.bft.driver.waiting_questions import WaitingQuestions
from supervm.plugins.consensus.bft.fetching import (
    ITEMS_MAX,
    PART_BYTES,
    ROW_BYTES_MAX,
    Absent,
    Got,
    GotBlock,
    GotHandover,
    GotManifest,
    GotPart,
    GotRow,
    Item,
    OldestHeld,
    Want,
    WantBlocks,
    WantDigest,
    WantHandovers,
    WantPart,
    WantRow,
    WantSnapshot,
    WantViews,
    What,
    encode_item,
)
from supervm.types.batch import Batch
from supervm.types.block import Block
from supervm.types.certificate import BatchCertificate, Certificate
from supervm.types.digests import Digest
from supervm.types.finality import FinalityProof

ANSWER_BYTES = 2 * 2**20
READ_TOGETHER = 16

Young = Callable[[Want], Iterable[Item]]
"""What the machines hold of it now; nothing where they don't."""
Logged = Callable[[Digest], Awaitable[Batch | None]]
"""A batch that only a validator's log has."""


class Answers:
    """Questions of peers, answered one after the other. `send(peer, got)` carries an answer."""

    def __init__(
        self,
        application: CertifyingApplication,
        kept: KeptBlocks,
        young: Young,
        send: Callable[[bytes, Got], None],
        logged: Logged | None = None,
    ) -> None:
        self._application = application
        self._kept = kept
        self._young = young
        self._answer = send
        self._logged = logged
        self._waiting = WaitingQuestions()

    def put(self, peer: bytes, wants: tuple[Want, ...], is_guest: bool = False) -> None:
        """Answer some time, unless too much of this peer waits (`WaitingQuestions.put`)."""
        self._waiting.put(peer, wants, is_guest)

    def keep_guests(self, guests: Collection[bytes]) -> None:
        """Nothing is read for guests that have gone."""
        self._waiting.keep_guests(guests)

    async def run(self) -> None:
        while True:
            peer, wants = await self._waiting.take()
            self._answer(peer, Got(tuple(await self._all_items(wants))))

    async def _all_items(self, wants: tuple[Want, ...]) -> list[Item]:
        """As far as an answer has room, always one. Nothing is looked for once it is full."""
        items: list[Item] = []
        size_bytes = 0
        for want in wants:
            for item in await self._items_or_absent(want):
                size_bytes += len(encode_item(item))
                if items and (size_bytes > ANSWER_BYTES or len(items) == ITEMS_MAX):
                    return items
                items.append(item)
        return items

    async def _items_or_absent(self, want: Want) -> list[Item]:
        """What is damaged here isn't here: the ledger has set it aside, and says so."""
        try:
            return await self._items(want)
        except StoreCorrupt:
            return [Absent(want)]

    async def _items(self, want: Want) -> list[Item]:
        young = list(self._young(want))
        if young and not isinstance(want, WantViews):
            return young
        old = young
        match want:
            case WantDigest(What.BLOCK, digest):
                block = await self._application.block(digest)
                if block is not None:
                    old.append(GotBlock(_bare(block), await self._finalisation(block.header.height)))
            case WantDigest(What.BATCH, digest):
                young_batch = None if self._logged is None else await self._logged(digest)
                batch = young_batch or await self._batch(digest, lambda block, index: block.batches[index])
                old += [] if batch is None else [batch]
            case WantDigest(What.BATCH_CERTIFICATE, digest):
                found = await self._batch(digest, lambda block, index: block.body.certificates[index])
                old += [] if found is None else [found]
            case WantRow(key, at) if isinstance(self._application, Mendable):
                value = await self._application.row(key, at)
                if value is not None and len(value) <= ROW_BYTES_MAX:
                    old.append(GotRow(key, value))
            case WantBlocks(height, count):
                old += await self._blocks(height, count)
            case WantHandovers(epoch, count):
                old += [GotHandover(each) for each in await self._application.handovers(epoch, count)]
            case WantSnapshot(above) if (exchange := self._application.exchange) is not None:
                manifest = await exchange.offered(above)
                old += [] if manifest is None else [GotManifest(manifest)]
            case WantPart(digest, offset) if (exchange := self._application.exchange) is not None:
                blob = await exchange.blob(digest)
                if blob is not None and offset < len(blob):
                    part = blob[offset : offset + PART_BYTES]
                    old.append(GotPart(digest, offset, len(blob), part))
            case WantViews():
                tip = self._application.tip().height
                finalisation = await self._finalisation(tip) if tip else None
                old += [] if finalisation is None else [finalisation]
        return old or [Absent(want)]

    async def _batch(
        self, digest: Digest, part: Callable[[Block, int], Batch | BatchCertificate]
    ) -> Batch | BatchCertificate | None:
        place = await self._kept.place(digest)
        if place is None:
            return None
        height, index = place
        block = await self._application.block(height)
        if block is None or index >= len(block.batches):
            return None
        found = part(block, index)
        # A row of a block that was never committed may name another block's place.
        return found if found.header.digest() == digest else None

    async def _blocks(self, height: int, count: int) -> list[Item]:
        """Blocks from a height on, up to the last that has its own finalisation; where this node pruned
        the first, the oldest that it holds (CONS-64)."""
        oldest = self._application.oldest_block
        if height < oldest:
            return [OldestHeld(oldest)]
        found: list[Item] = []
        size_bytes = proven = 0
        for first in range(height, height + count, READ_TOGETHER):
            asked = min(READ_TOGETHER, height + count - first)
            read = await self._application.bare_blocks(first, asked)
            for block, proof in read:
                got = GotBlock(block, _own_finalisation(proof))
                size_bytes += len(encode_item(got))
                if found and size_bytes > ANSWER_BYTES:
                    return found[:proven] or found
                found.append(got)
                if got.finalisation is not None:
                    proven = len(found)
            if len(read) < asked:
                break
        return found[:proven] or found

    async def _finalisation(self, height: int) -> Certificate | None:
        """Of the block itself, where it has its own."""
        return _own_finalisation(await self._application.certificate(height))


def _own_finalisation(encoded: bytes) -> Certificate | None:
    """What a block's certificate proves it by, where that is a finalisation of it and not of a later one."""
    if not encoded:
        return None
    proof = FinalityProof.decode(encoded)
    return None if proof.headers else proof.finalisation


def _bare(block: Block) -> Block:
    return Block(block.header, block.body)
