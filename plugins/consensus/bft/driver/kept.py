"""What a validator keeps of committed blocks beside the ledger, in space 0d: facts that no header shows yet,
views, finalisations, in which block a batch lies, and which blocks hold system operations.

A row of a block is written before its commit, in the same store: after a crash the store holds a prefix of
what was written, so a committed block has its row. A row without its block is written over.

The rows of a batch are two: by its digest, for peers that ask for it, and by the height of its block, for
what the epoch has ordered and for removing both. They go when their block is pruned and their epoch has
ended.
"""

import attrs

from supervm.contracts.application import ExecutedFacts, Tip
from supervm.contracts.storage import (
    Delete,
    DeleteRange,
    Durability,
    KeyValueStore,
    Operation,
    Put,
    SnapshotsExhausted,
    StoreCorrupt,
)
from supervm.plugins.consensus.bft.driver.journal import ORDERING, cause_of
from supervm.plugins.consensus.bft.events import Final
from supervm.storage.spaces import seal, unseal
from supervm.types.certificate import Certificate
from supervm.types.codec import Reader, Writer
from supervm.types.digests import ZERO, Digest
from supervm.types.errors import DecodeError

BLOCKS = ORDERING + b"f"
BATCHES = ORDERING + b"b"
BATCHES_AT = ORDERING + b"p"
"""By height and digest; `BATCHES_INDEXED` is there when every row of `BATCHES` has its own of these. In the
same space the chain keeps `h` and `s`, its sets of validators."""
BATCHES_INDEXED = ORDERING + b"i"
ENDED = ORDERING + b"n"
"""The height of the last block of the newest epoch that ended here."""
EPOCHS = ORDERING + b"e"
LIVES = ORDERING + b"l"
OPERATIONS = ORDERING + b"o"
FACTS_KEPT = 2_048
"""Rows of blocks kept below the tip: more than execution may be behind, by far."""
REMOVED_MIN = 64
"""With a block the rows of at most so many batches are removed, or of twice as many as it adds."""
INDEXED_TOGETHER = 1_000
MEND = "take the store away and keep the key: the node gets the chain from the others"
"""Never a copy of the folder: a validator's older log contradicts what it said since."""


@attrs.frozen
class Kept:
    """A committed block: the view in which it was proposed, what was executed, and its finalisation if it
    has one of its own."""

    view: int
    facts: ExecutedFacts
    finalisation: Certificate | None

    def encode(self) -> bytes:
        facts = self.facts
        writer = Writer().u8(1).u64(self.view, "view").u64(facts.height, "height")
        writer.bytes32(facts.state_root).bytes32(facts.receipts_root).u64(facts.base_price, "base_price")
        writer.byte_string(b"" if self.finalisation is None else self.finalisation.encode())
        return writer.done()

    @classmethod
    def decode(cls, data: bytes) -> "Kept":
        reader = Reader(data)
        reader.format_byte("kept.format", 1)
        view, height = reader.u64("kept.view"), reader.u64("kept.height")
        state_root, receipts_root = reader.bytes32("kept.state_root"), reader.bytes32("kept.receipts_root")
        base_price = reader.u64("kept.base_price")
        encoded = reader.byte_string("kept.finalisation")
        reader.finish("kept")
        facts = ExecutedFacts(
            height=height, state_root=state_root, receipts_root=receipts_root, base_price=base_price
        )
        return cls(view, facts, Certificate.decode(encoded) if encoded else None)


class KeptBlocks:
    """The rows, by height and by batch."""

    def __init__(self, store: KeyValueStore) -> None:
        self._store = store
        self._ended: int | None = None
        self._removed_below = 0

    async def put(self, final: Final, facts: ExecutedFacts, *, oldest: int = 0, durable: bool = True) -> None:
        """Before the commit of this block, which makes it as durable as itself.

        `oldest`: the lowest block that the ledger keeps.
        """
        height, header = facts.height, final.block.header
        key = _height_key(height)
        row = Kept(final.view, facts, final.certificate).encode()
        operations: list[Operation] = [Put(key, seal(key, row))]
        for index, certificate in enumerate(final.block.body.certificates):
            digest = certificate.header.digest()
            place = BATCHES + digest
            value = height.to_bytes(8, "big") + index.to_bytes(2, "big")
            operations += [Put(place, seal(place, value)), _put_at(height, digest)]
        held = final.block.body.system_operations
        if held:
            place = OPERATIONS + height.to_bytes(8, "big")
            writer = Writer().count(len(held), "operations")
            for operation in held:
                writer.byte_string(operation, "operation")
            operations.append(Put(place, seal(place, writer.done())))
        if height > FACTS_KEPT:
            operations.append(Delete(_height_key(height - FACTS_KEPT)))
        removals, removed_below = await self._removals(height, oldest, len(final.block.body.certificates))
        operations += removals
        if header.next_validators_digest != ZERO:
            operations.append(Put(ENDED, seal(ENDED, height.to_bytes(8, "big"))))
            self._ended = height
        await self._store.write(operations, Durability.BUFFERED if durable else Durability.MEMORY)
        self._removed_below = removed_below

    async def _removals(self, height: int, oldest: int, added: int) -> tuple[list[Operation], int]:
        """What goes with the block of this height, which adds so many batches: some rows of batches in pruned
        blocks of ended epochs, and the operations of the epoch before; and below which height none is left.
        """
        ended = await self._ended_height()
        if ended >= height:
            # A crash came before the commit of an epoch's last block: the epoch goes on.
            return [], self._removed_below
        removals: list[Operation] = []
        if ended and height == ended + 1:
            removals.append(DeleteRange(OPERATIONS, OPERATIONS + height.to_bytes(8, "big")))
        below, most = min(oldest, ended + 1), max(2 * added, REMOVED_MIN)
        if below <= self._removed_below:
            return removals, self._removed_below
        try:
            keys = [key async for key, _ in self._store.scan(BATCHES_AT, _at_height(below), limit=most)]
        except SnapshotsExhausted:
            # Another block removes them.
            return removals, self._removed_below
        for key in keys:
            removals += [Delete(key), Delete(BATCHES + _digest_at(key))]
        return removals, below if len(keys) < most else self._removed_below

    async def _ended_height(self) -> int:
        """0 where no epoch has ended here."""
        if self._ended is None:
            stored = await self._store.get(ENDED)
            try:
                self._ended = 0 if stored is None else int.from_bytes(unseal(ENDED, stored), "big")
            except StoreCorrupt:
                # Nothing is removed until the next one ends.
                self._ended = 0
        return self._ended

    async def begin(self, base: Tip, facts: ExecutedFacts | None) -> None:
        """The block that an epoch starts from, durably, before anything else is kept of the epoch.

        `facts`: of that block, for a row of its own where it has none.
        """
        writer = Writer().u8(1).u64(base.height, "height").bytes32(base.digest).u64(base.epoch, "epoch")
        writer.u64(base.timestamp_ms, "timestamp_ms").u64(base.root_height, "root_height")
        row = writer.bytes32(base.state_root).done()
        key, block = _epoch_key(base.epoch + 1), _height_key(base.height)
        operations: list[Operation] = [Put(key, seal(key, row))]
        if facts is not None and await self._store.get(block) is None:
            operations.append(Put(block, seal(block, Kept(0, facts, None).encode())))
        await self._store.write(operations, Durability.DURABLE)

    async def found(self) -> None:
        """This folder's log begins with its chain: nothing that this node ever said is missing."""
        key = _epoch_key(0)
        await self._store.write([Put(key, seal(key, b""))], Durability.DURABLE)

    async def is_founded(self) -> bool:
        """Whether the log of before the tip is here."""
        async for _ in self._store.scan_prefix(EPOCHS, limit=1):
            return True
        return False

    async def begin_block(self, facts: ExecutedFacts) -> None:
        """The row of a block that was never committed here, genesis: written where there is none."""
        key = _height_key(facts.height)
        if await self._store.get(key) is None:
            await self._store.write([Put(key, seal(key, Kept(0, facts, None).encode()))], Durability.DURABLE)

    async def base(self, epoch: int) -> Tip | None:
        """The block that an epoch starts from; None where this node hasn't begun it."""
        key = _epoch_key(epoch)
        stored = await self._store.get(key)
        if stored is None:
            return None
        reader = Reader(unseal(key, stored))
        reader.format_byte("base.format", 1)
        found = Tip(
            height=reader.u64("base.height"),
            digest=reader.bytes32("base.digest"),
            epoch=reader.u64("base.epoch"),
            timestamp_ms=reader.u64("base.timestamp_ms"),
            root_height=reader.u64("base.root_height"),
            state_root=reader.bytes32("base.state_root"),
        )
        reader.finish("base")
        return found

    async def get(self, height: int) -> Kept:
        """Of a committed block among the last ones. Raises `StoreCorrupt` where it is missing or damaged."""
        key = _height_key(height)
        stored = await self._store.get(key)
        if stored is None:
            raise StoreCorrupt("a committed block has no row of consensus", height, MEND)
        try:
            return Kept.decode(unseal(key, stored))
        except (StoreCorrupt, DecodeError) as error:
            raise StoreCorrupt("a committed block's row of consensus is damaged", height, MEND) from error

    async def remake(self, row: Kept) -> None:
        """Write a block's row again, durably."""
        key = _height_key(row.facts.height)
        await self._store.write([Put(key, seal(key, row.encode()))], Durability.DURABLE)

    async def facts_of(self, first: int, last: int) -> tuple[list[ExecutedFacts], dict[int, str]]:
        """The facts of committed blocks among the last ones; and of which heights they are lost, and why."""
        found: list[ExecutedFacts] = []
        lost: dict[int, str] = {}
        for height in range(first, last + 1):
            try:
                found.append((await self.get(height)).facts)
            except StoreCorrupt as error:
                lost[height] = cause_of(error)
        return found, lost

    async def place(self, batch: Digest) -> tuple[int, int] | None:
        """The height and index at which a committed block holds a batch."""
        key = BATCHES + batch
        stored = await self._store.get(key)
        if stored is None:
            return None
        value = unseal(key, stored)
        return int.from_bytes(value[:8], "big"), int.from_bytes(value[8:], "big")

    async def ordered(self, first: int, last: int) -> frozenset[Digest]:
        """The batches in committed blocks of these heights. Raises `StoreCorrupt`."""
        found: list[Digest] = []
        async for key, stored in self._store.scan(_at_height(first), _at_height(last + 1)):
            unseal(key, stored)
            found.append(_digest_at(key))
        return frozenset(found)

    async def is_indexed(self) -> bool:
        """Whether all batches have rows by height: stores of earlier versions had none."""
        return await self._store.get(BATCHES_INDEXED) is not None

    async def index_batches(self) -> str:
        """Give each row of `BATCHES` its own by height; why one can't be read, or nothing.

        Once in a store's life, and again after a crash. `indexed` is to follow.
        """
        damage, start, end = "", BATCHES, BATCHES[:-1] + bytes((BATCHES[-1] + 1,))
        while True:
            rows = [row async for row in self._store.scan(start, end, limit=INDEXED_TOGETHER)]
            operations: list[Operation] = []
            for key, stored in rows:
                try:
                    height = int.from_bytes(unseal(key, stored)[:8], "big")
                except StoreCorrupt as error:
                    damage = cause_of(error)
                else:
                    operations.append(_put_at(height, key[len(BATCHES) :]))
            if operations:
                await self._store.write(operations, Durability.BUFFERED)
            if len(rows) < INDEXED_TOGETHER:
                return damage
            start = rows[-1][0] + b"\x00"

    async def indexed(self) -> None:
        """All batches have rows by height, and what this said of damage is durable."""
        await self._store.write([Put(BATCHES_INDEXED, seal(BATCHES_INDEXED, b""))], Durability.DURABLE)

    async def operations(self, first: int, last: int) -> list[tuple[int, tuple[bytes, ...]]]:
        """The system operations of committed blocks of these heights that hold any, by height."""
        found: list[tuple[int, tuple[bytes, ...]]] = []
        start, end = (OPERATIONS + height.to_bytes(8, "big") for height in (first, last + 1))
        async for key, stored in self._store.scan(start, end):
            reader = Reader(unseal(key, stored))
            count = reader.count("kept.operations", item_bytes_min=4)
            held = tuple(reader.byte_string("kept.operation") for _ in range(count))
            reader.finish("kept.operations")
            found.append((int.from_bytes(key[len(OPERATIONS) :], "big"), held))
        return found

    async def forget_operations(self, upto: int) -> None:
        """Remove those of blocks up to a height: their epoch has ended."""
        start, end = (OPERATIONS + height.to_bytes(8, "big") for height in (0, upto + 1))
        await self._store.write([DeleteRange(start, end)], Durability.BUFFERED)

    async def damage(self, epoch: int, last: int) -> str:
        """Why what a validator begins this epoch with, up to a block, can't be read; empty where it can."""
        try:
            base = await self.base(epoch)
            ended = await self._ended_height() if base is None else base.height
            first = 1 + (ended if ended <= last else 0)
            await self.ordered(first, last)
            await self.operations(first, last)
            await self._lives()
        except (StoreCorrupt, DecodeError) as error:
            return cause_of(error)
        return ""

    async def forget_damaged_lives(self) -> None:
        """For a validator that says nothing in this epoch: its builder's numbers begin anew in a later."""
        try:
            await self._lives()
        except StoreCorrupt:
            await self._store.write([Delete(LIVES)], Durability.DURABLE)

    async def _lives(self) -> int:
        stored = await self._store.get(LIVES)
        return 0 if stored is None else int.from_bytes(unseal(LIVES, stored), "big")

    async def begin_life(self) -> int:
        """Count a start of this validator, durably: its builder's numbers begin above those before."""
        life = 1 + await self._lives()
        await self._store.write([Put(LIVES, seal(LIVES, life.to_bytes(8, "big")))], Durability.DURABLE)
        return life


def _at_height(height: int) -> bytes:
    return BATCHES_AT + height.to_bytes(8, "big")


def _put_at(height: int, digest: Digest) -> Put:
    key = _at_height(height) + digest
    return Put(key, seal(key, b""))


def _digest_at(key: bytes) -> Digest:
    return key[len(BATCHES_AT) + 8 :]


def _epoch_key(epoch: int) -> bytes:
    return EPOCHS + epoch.to_bytes(8, "big")


def _height_key(height: int) -> bytes:
    return BLOCKS + height.to_bytes(8, "big")
