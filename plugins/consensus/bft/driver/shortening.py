"""Which records of the log nothing rests on any more, so that it doesn't grow with the chain.

Ordering: whatever is of a view below the last committed block's. Batches: all of a batch but its locks go
with the block that holds it. A record of locks goes when all its slots are used up; who was proven to
equivocate stays. Of an executed block's slots and transactions its record names those that stood in records
that are still there: mostly none, so a lock that is never used up keeps no more than what stands beside it in
its own record. Which batches a block held stays until the epoch ends.

In the log a record goes before what later ones say of it, so a crash between the two leaves too much at most.
"""

from collections.abc import Iterable, Sequence

import attrs

from supervm.plugins.consensus.bft.batch_records import (
    CertifiedClaims,
    HeldBatch,
    HeldCertificate,
    Locked,
    SignedEffects,
    UsedUp,
)
from supervm.plugins.consensus.bft.claims import Claim
from supervm.plugins.consensus.bft.driver.journal import Journal
from supervm.plugins.consensus.bft.events import Record
from supervm.plugins.consensus.bft.records import DidEpoch, Entered, Finalized, Notarized, Nullified, Proposed
from supervm.types.digests import Digest


def view_of(record: Record) -> int | None:
    """The view of a record of ordering; None for one that holds for the whole epoch."""
    match record:
        case Entered(certificate):
            return certificate.view
        case Proposed(proposal):
            return proposal.view
        case Notarized(vote, _) | Finalized(vote, _) | Nullified(vote):
            return vote.view
    assert isinstance(record, DidEpoch), f"no record of ordering: {record!r}"
    return None


class OrderingRows:
    """The rows of ordering's journal, by view."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._views: dict[int, list[int]] = {}

    def logged(self, row: int, record: Record) -> None:
        view = view_of(record)
        if view is not None:
            self._views.setdefault(view, []).append(row)

    def committed(self, view: int) -> None:
        """The block proposed in this view is committed: what is older isn't read again."""
        past = [each for each in self._views if each < view]
        self._journal.drop([row for each in past for row in self._views.pop(each)])


@attrs.define
class _Claiming:
    """A record that puts transactions into slots.

    `standing`: how many of its slots no block used up. `lasts`: whether it outlives them. `rest`: what has to
    stay of it then. `blocks`: rows of executed blocks that say something of it.
    """

    standing: int
    transactions: tuple[Digest, ...]
    lasts: bool
    rest: Locked | None
    blocks: list[int] = attrs.Factory(list)


@attrs.define
class _Named:
    """A transaction in more records than one: its name, their rows, how many of these are still there."""

    name: Digest
    rows: list[int]
    live: int


@attrs.define
class _Said:
    """What a block says of one record: slots of it used up, transactions of it executed."""

    slots: list[bytes] = attrs.Factory(list)
    transactions: list[Digest] = attrs.Factory(list)

    def __len__(self) -> int:
        return len(self.slots) + len(self.transactions)


@attrs.define
class _Block:
    """An executed block that says something of records that are still there.

    `needed` and `written`: slots and transactions that have to stand in its record, and that do.
    """

    height: int
    batches: tuple[Digest, ...]
    said: dict[int, _Said]
    needed: int
    written: int

    def forget(self, row: int) -> None:
        """This record isn't there any more."""
        self.needed -= len(self.said.pop(row))

    def record(self) -> UsedUp:
        slots = dict.fromkeys(slot for said in self.said.values() for slot in said.slots)
        names = dict.fromkeys(name for said in self.said.values() for name in said.transactions)
        return UsedUp(self.height, self.batches, tuple(slots), tuple(names))


class LockRows:
    """The rows of the voter's journal, by batch, by slot and by transaction."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._batches: dict[Digest, list[int]] = {}
        self._contents: dict[Digest, int] = {}
        self._claiming: dict[int, _Claiming] = {}
        self._slots: dict[bytes, int | list[int]] = {}
        self._transactions: dict[Digest, int | _Named] = {}
        self._blocks: dict[int, _Block] = {}

    @property
    def size(self) -> int:
        """How many names of slots, transactions and blocks are kept, each as often as it is."""
        slots = sum(1 if isinstance(each, int) else len(each) for each in self._slots.values())
        names = sum(1 if isinstance(each, int) else len(each.rows) for each in self._transactions.values())
        return slots + names + sum(1 + block.needed for block in self._blocks.values())

    def content(self, batch: Digest) -> int | None:
        """The row of a batch that no executed block holds; None where there is none."""
        return self._contents.get(batch)

    def logged(self, row: int, record: Record) -> None:
        match record:
            case HeldBatch(batch):
                digest = batch.digest()
                before = self._contents.get(digest)
                if before is not None:
                    self._journal.drop([before])
                self._contents[digest] = row
            case HeldCertificate(certificate):
                self._batches.setdefault(certificate.header.digest(), []).append(row)
            case CertifiedClaims(digest, claims):
                self._batches.setdefault(digest, []).append(row)
                self._claims(row, claims, lasts=True, rest=None)
            case SignedEffects(effects):
                self._batches.setdefault(effects.batch, []).append(row)
            case Locked(digest, builder, _, claims, equivocators):
                rest = Locked(digest, builder, False, (), equivocators) if equivocators else None
                if any(claim.slots for claim in claims):
                    self._claims(row, claims, lasts=False, rest=rest)
            case UsedUp():
                self._executed(row, record)

    def _claims(self, row: int, claims: Sequence[Claim], *, lasts: bool, rest: Locked | None) -> None:
        slots = dict.fromkeys(slot for claim in claims for slot in claim.slots)
        for slot in slots:
            rows = self._slots.get(slot)
            if rows is None:
                self._slots[slot] = row
            elif isinstance(rows, int):
                self._slots[slot] = [rows, row]
            else:
                rows.append(row)
        names = tuple(self._name(row, each) for each in dict.fromkeys(claim.transaction for claim in claims))
        self._claiming[row] = _Claiming(len(slots), names, lasts, rest)

    def _name(self, row: int, transaction: Digest) -> Digest:
        """A transaction stands in this record, too. Returns its name as it is kept already."""
        named = self._transactions.get(transaction)
        if named is None:
            self._transactions[transaction] = row
        elif isinstance(named, int):
            self._transactions[transaction] = _Named(transaction, [named, row], 2)
        else:
            named.rows.append(row)
            named.live += 1
            return named.name
        return transaction

    def _executed(self, row: int, record: UsedUp) -> None:
        said = self._said_by(record)
        gone = [each for digest in record.batches for each in self._batches.pop(digest, ())]
        gone += [self._contents.pop(digest) for digest in record.batches if digest in self._contents]
        ended = dict.fromkeys(each for each in gone if each in self._claiming)
        for each in said:
            claiming = self._claiming[each]
            if not claiming.standing and not claiming.lasts:
                ended[each] = None
                if claiming.rest is None:
                    gone.append(each)
                else:
                    self._journal.replace(each, claiming.rest)
        self._journal.drop(gone)
        still = {each: found for each, found in said.items() if each not in ended}
        for each in still:
            self._claiming[each].blocks.append(row)
        needed = sum(map(len, still.values()))
        written = len(record.slots) + len(record.transactions)
        self._blocks[row] = _Block(record.height, record.batches, still, needed, written)
        self._shorten((*self._end(ended), row))

    def _said_by(self, record: UsedUp) -> dict[int, _Said]:
        """What a block says of records before it, by row. Its slots stand nowhere any more. A block names
        each nonce that it uses up, so none below is looked for."""
        said: dict[int, _Said] = {}
        for slot in record.slots:
            rows = self._slots.pop(slot, None)
            for each in () if rows is None else (rows,) if isinstance(rows, int) else rows:
                claiming = self._claiming.get(each)
                if claiming is not None:
                    claiming.standing -= 1
                    _of(each, said).slots.append(slot)
        for name in record.transactions:
            named = self._transactions.get(name)
            for each in () if named is None else (named,) if isinstance(named, int) else named.rows:
                if each in self._claiming:
                    _of(each, said).transactions.append(name)
        return said

    def _end(self, rows: Iterable[int]) -> Iterable[int]:
        """These records are gone. Returns the blocks that said something of them."""
        blocks: dict[int, None] = {}
        for row in rows:
            claiming = self._claiming.pop(row)
            for name in claiming.transactions:
                named = self._transactions[name]
                if not isinstance(named, int):
                    named.live -= 1
                if isinstance(named, int) or not named.live:
                    del self._transactions[name]
            for each in claiming.blocks:
                self._blocks[each].forget(row)
                blocks[each] = None
        return blocks

    def _shorten(self, rows: Iterable[int]) -> None:
        """Write these blocks' records anew where at most half of what they say is needed."""
        for row in rows:
            block = self._blocks[row]
            if block.written and 2 * block.needed <= block.written:
                record = block.record()
                self._journal.replace(row, record)
                block.written = len(record.slots) + len(record.transactions)
            if not block.said:
                del self._blocks[row]


def _of(row: int, said: dict[int, _Said]) -> _Said:
    found = said.get(row)
    if found is None:
        found = said[row] = _Said()
    return found
