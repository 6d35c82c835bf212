"""Which validators each epoch has: what stakes elect, kept by height and by epoch (CONS-50, CONS-54).

The last block of an epoch names the set of the next one: that of the state at its root height. So a row is
kept of every block that changed whom the stakes elect, and one of every epoch that began. Rows are written
before their block is committed, in the same store: after a crash the store holds a prefix of what was
written, so a committed block has its rows; those above the tip say what the same block will say again.

A chain restored from a snapshot has the set of its state, and knows nothing of those before it. Where an
epoch's last block is above the snapshot, but the root that it shows is below, what it hands over to is known
by the hand-over that came with the snapshot, or is the set of before: the header names which.
"""

from bisect import bisect_right
from collections.abc import Sequence

from supervm.contracts.application import NotExecuted
from supervm.contracts.storage import Durability, KeyValueStore, Operation, Put
from supervm.execution.election import elect
from supervm.storage.ledger import Ledger
from supervm.storage.snapshot_restore import read_origin
from supervm.storage.spaces import seal, unseal
from supervm.types.block import BlockHeader
from supervm.types.codec import U64_MAX, Reader, Writer
from supervm.types.digests import ZERO
from supervm.types.finality import FinalityProof
from supervm.types.genesis import Genesis
from supervm.types.handover import HandOver
from supervm.types.stakes import STAKES_KEY, stakes_of
from supervm.types.validators import ValidatorSet

CHANGES = b"\x0ds"
EPOCHS = b"\x0dh"
CHANGES_KEPT = 256
"""Changes in memory: more than one a block from the root height of the tip on."""
EPOCHS_KEPT = 8


class ValidatorSets:
    """The sets of one chain. Made by `read_validator_sets`."""

    def __init__(
        self,
        store: KeyValueStore,
        genesis: Genesis,
        changes: list[tuple[int, ValidatorSet]],
        begun: dict[int, tuple[int, ValidatorSet]],
        shown: dict[int, ValidatorSet] | None = None,
    ) -> None:
        """`shown`: sets of epochs that begin above the tip, by rows."""
        self._store = store
        self._genesis = genesis
        self._changes = changes
        self._begun = begun
        self._shown = shown or {}
        self._executed: tuple[int, ValidatorSet] | None = None

    @property
    def granted(self) -> ValidatorSet:
        """The set of genesis."""
        return self._genesis.validators

    def executed(self, height: int, stakes: bytes | None) -> None:
        """A block that is not committed yet left this entry of the stakes, where it changed it."""
        found = elect(self.granted, stakes_of(stakes), self._genesis.native_decimals)
        self._executed = (height, found) if found.members else None

    def unchanged(self) -> None:
        """The block that is executed now changed no stakes."""
        self._executed = None

    def after(self, height: int) -> ValidatorSet:
        """The set that an epoch hands over to which ends on the state after a block."""
        if self._executed is not None and height >= self._executed[0]:
            return self._executed[1]
        at = bisect_right(self._changes, height, key=lambda each: each[0])
        assert at, f"the sets of height {height} are too old to be here"
        return self._changes[at - 1][1]

    def of_epoch(self, epoch: int) -> ValidatorSet:
        """The set of an epoch; of one that hasn't begun, the one it would have by what is executed.

        Raises `NotExecuted` for an epoch that is too old.
        """
        if epoch <= 1:
            return self.granted
        found = self._begun.get(epoch)
        if found is not None:
            return found[1]
        newest = max(self._begun, default=1)
        if epoch <= newest:
            raise NotExecuted("the validators of this epoch aren't here any more", epoch)
        return self.after(1 << 64)

    def handed_over(self, header: BlockHeader) -> ValidatorSet | None:
        """The set that an epoch's last block names; None where it is none that is known here."""
        known = [self.after(header.root_height), self.of_epoch(header.epoch)]
        if header.epoch + 1 in self._shown:
            known.append(self._shown[header.epoch + 1])
        return next((each for each in known if each.digest() == header.next_validators_digest), None)

    async def write(self, header: BlockHeader) -> None:
        """Before the block of this header is committed."""
        rows: list[Operation] = []
        if self._executed is not None and self._executed[0] == header.height:
            key = CHANGES + header.height.to_bytes(8, "big")
            rows.append(Put(key, seal(key, self._executed[1].encode())))
        if header.next_validators_digest != ZERO:
            key = EPOCHS + (header.epoch + 1).to_bytes(8, "big")
            following = self._named(header)
            row = Writer().u64(header.height, "height").raw(following.encode()).done()
            rows.append(Put(key, seal(key, row)))
        if rows:
            await self._store.write(rows, Durability.BUFFERED)

    def settle(self, header: BlockHeader) -> None:
        """The block of this header is committed. There is no checkpoint in here."""
        if header.next_validators_digest != ZERO:
            self._begun[header.epoch + 1] = (header.height, self._named(header))
            self._begun.pop(header.epoch + 1 - EPOCHS_KEPT, None)
            self._shown.pop(header.epoch + 1, None)
        if self._executed is not None and self._executed[0] == header.height:
            self._changes.append(self._executed)
            del self._changes[:-CHANGES_KEPT]
        self._executed = None

    def _named(self, header: BlockHeader) -> ValidatorSet:
        found = self.handed_over(header)
        assert found is not None, f"block {header.height} was checked before"
        return found

    async def handover(self, ledger: Ledger, epoch: int) -> HandOver | None:
        """What proves the set of the epoch after this one; None where this one hasn't ended, or isn't kept.

        Raises `StoreCorrupt`, `DecodeError`.
        """
        if epoch >= U64_MAX:
            return None
        stored = await self._store.get(EPOCHS + (epoch + 1).to_bytes(8, "big"))
        if stored is None:
            return None
        height, validators = _read_epoch(EPOCHS + (epoch + 1).to_bytes(8, "big"), stored)
        header, certificate = await ledger.header(height), await ledger.certificate(height)
        if header is None or not certificate or header.next_validators_digest != validators.digest():
            return None
        return HandOver(header, FinalityProof.decode(certificate).finalisation, validators)


async def write_handovers(store: KeyValueStore, handovers: Sequence[HandOver]) -> None:
    """Into a store that a snapshot is restored into: whom its epochs were handed over to. They are proven."""
    for first in range(0, len(handovers), 256):
        rows: list[Operation] = []
        for each in handovers[first : first + 256]:
            key = EPOCHS + (each.header.epoch + 1).to_bytes(8, "big")
            row = Writer().u64(each.header.height, "height").raw(each.validators.encode()).done()
            rows.append(Put(key, seal(key, row)))
        await store.write(rows, Durability.BUFFERED)


async def read_validator_sets(store: KeyValueStore, genesis: Genesis, ledger: Ledger) -> ValidatorSets:
    """The sets as the store has them. Raises `StoreCorrupt`, `DecodeError`."""
    tip = ledger.tip.height
    changes: list[tuple[int, ValidatorSet]] = []
    end = CHANGES + (tip + 1).to_bytes(8, "big")
    async for key, stored in store.scan(CHANGES, end, reverse=True, limit=CHANGES_KEPT):
        height = int.from_bytes(key[len(CHANGES) :], "big")
        changes.append((height, ValidatorSet.decode(unseal(key, stored))))
    changes.reverse()
    if len(changes) < CHANGES_KEPT:
        first = genesis.validators
        origin = await read_origin(store)
        if not changes:
            # After a restore from a snapshot the state is here, and not how it came about.
            entry = (await ledger.get_state([STAKES_KEY]))[STAKES_KEY]
            first = elect(genesis.validators, stakes_of(entry), genesis.native_decimals)
            if origin is not None:
                # Once stakes have changed the state doesn't tell it any more.
                key = CHANGES + origin[0].to_bytes(8, "big")
                await store.write([Put(key, seal(key, first.encode()))], Durability.BUFFERED)
        elif origin is not None and changes[0][0] == origin[0]:
            first = changes[0][1]
        changes.insert(0, (0, first))
    begun: dict[int, tuple[int, ValidatorSet]] = {}
    shown: dict[int, ValidatorSet] = {}
    async for key, stored in store.scan(EPOCHS, EPOCHS + b"\xff", reverse=True, limit=EPOCHS_KEPT + 1):
        height, validators = _read_epoch(key, stored)
        epoch = int.from_bytes(key[len(EPOCHS) :], "big")
        if height <= tip:
            begun[epoch] = (height, validators)
        else:
            shown[epoch] = validators
    return ValidatorSets(store, genesis, changes, dict(sorted(begun.items())), shown)


def _read_epoch(key: bytes, stored: bytes) -> tuple[int, ValidatorSet]:
    reader = Reader(unseal(key, stored))
    height = reader.u64("epoch.height")
    validators = ValidatorSet.read(reader)
    reader.finish("epoch")
    return height, validators


async def sets_by_digest(store: KeyValueStore) -> dict[bytes, ValidatorSet]:
    """All sets that the rows of epochs hold, by the digest that headers name. Raises `StoreCorrupt`,
    `DecodeError`."""
    found: dict[bytes, ValidatorSet] = {}
    async for key, stored in store.scan_prefix(EPOCHS):
        _, validators = _read_epoch(key, stored)
        found[validators.digest()] = validators
    return found
