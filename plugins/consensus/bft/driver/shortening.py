"""Which records of the log nothing rests on any more, so that it doesn't grow with the chain.

Ordering: whatever is of a view below the last committed block's. Batches: all of a batch but its locks go
with the block that holds it. A record of locks is written anew when half of its slots are used up, without
the transactions that hold none any more, and goes with the last; who was proven to equivocate stays. Of an
executed block's slots and transactions its record names those that stood in records that are still there:
mostly none, so a lock that is never used up keeps little more than itself. Which batches a block held stays
until the epoch ends.

In the log a record goes before what later ones say of it, so a crash between the two leaves too much at most.
"""

from collections.abc import Callable, Container, Iterable, Sequence

import attrs

from supervm.plugins.consensus.bft.batch_records import (
    NOTHING,
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
from supervm.types.digests import ZERO, Digest


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

    `standing`: how many of its slots no block used up, of as many as are `written`. `transactions`: those
    written, at `places` among its `count`; None for all of them. `locks`: a record of locks, without its
    claims; others outlive their slots. `blocks`: rows of executed blocks that say something of it.
    """

    standing: int
    written: int
    transactions: tuple[Digest, ...]
    places: tuple[int, ...] | None
    count: int
    locks: Locked | None
    blocks: list[int] = attrs.Factory(list)

    @property
    def rest(self) -> Locked | None:
        """What has to stay of a record of locks when all its slots are used up."""
        if self.locks is None or not self.locks.equivocators:
            return None
        return attrs.evolve(self.locks, accepted=False)


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

    def keep(self, row: int, slots: Container[bytes], transactions: Container[Digest]) -> None:
        """Of this record no more than these are there."""
        said = self.said[row]
        self.needed -= len(said)
        said.slots = [each for each in said.slots if each in slots]
        said.transactions = [each for each in said.transactions if each in transactions]
        self.needed += len(said)
        if not said:
            del self.said[row]

    def record(self) -> UsedUp:
        slots = dict.fromkeys(slot for said in self.said.values() for slot in said.slots)
        names = dict.fromkeys(name for said in self.said.values() for name in said.transactions)
        return UsedUp(self.height, self.batches, tuple(slots), tuple(names))


class LockRows:
    """The rows of the voter's journal, by batch, by slot and by transaction.

    `claim`: what a transaction that holds a lock claims.
    """

    def __init__(self, journal: Journal, claim: Callable[[Digest], Claim | None]) -> None:
        self._journal = journal
        self._claim = claim
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
                self._claims(row, claims, locks=None)
            case SignedEffects(effects):
                self._batches.setdefault(effects.batch, []).append(row)
            case Locked(digest, builder, accepted, claims, equivocators):
                if any(claim.slots for claim in claims):
                    self._claims(row, claims, locks=Locked(digest, builder, accepted, (), equivocators))
            case UsedUp():
                self._executed(row, record)

    def _claims(self, row: int, claims: Sequence[Claim], *, locks: Locked | None) -> None:
        slots = dict.fromkeys(slot for claim in claims for slot in claim.slots)
        for slot in slots:
            rows = self._slots.get(slot)
            if rows is None:
                self._slots[slot] = row
            elif isinstance(rows, int):
                self._slots[slot] = [rows, row]
            else:
                rows.append(row)
        placed = {each.transaction: at for at, each in enumerate(claims) if each.transaction != ZERO}
        names = tuple(self._name(row, each) for each in placed)
        places = None if len(placed) == len(claims) else tuple(placed.values())
        self._claiming[row] = _Claiming(len(slots), len(slots), names, places, len(claims), locks)

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
            if not claiming.standing and claiming.locks is not None:
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
        touched = dict.fromkeys((*self._end(ended), row))
        for each in list(still):
            touched.update(dict.fromkeys(self._thin(each)))
        self._shorten(touched)

    def _thin(self, row: int) -> Iterable[int]:
        """Write a record of locks anew where at most half of its slots stand: only with the transactions that
        still hold one. Returns the blocks that said something of it."""
        claiming = self._claiming[row]
        if claiming.locks is None or 2 * claiming.standing > claiming.written:
            return ()
        claiming.written = claiming.standing
        kept = self._standing(row, claiming)
        slots = frozenset(slot for each in kept.values() for slot in each.slots)
        if sum(self._stands(slot, row) for slot in slots) != claiming.standing:
            # What they claim isn't known as it was written.
            return ()
        claims = tuple(kept.get(at, NOTHING) for at in range(claiming.count))
        self._journal.replace(row, attrs.evolve(claiming.locks, claims=claims))
        names = dict.fromkeys(each.transaction for each in kept.values())
        for name in claiming.transactions:
            if name not in names:
                self._unname(name, row)
        claiming.transactions = tuple(each for each in claiming.transactions if each in names)
        claiming.places, claiming.written = tuple(kept), len(slots)
        said = claiming.blocks
        for each in said:
            self._blocks[each].keep(row, slots, names)
        claiming.blocks = [each for each in said if row in self._blocks[each].said]
        return said

    def _standing(self, row: int, claiming: _Claiming) -> dict[int, Claim]:
        """The claims of a record that hold a slot still, by place."""
        places = range(claiming.count) if claiming.places is None else claiming.places
        found = zip(places, map(self._claim, claiming.transactions), strict=True)
        return {
            place: claim
            for place, claim in found
            if claim is not None and any(self._stands(slot, row) for slot in claim.slots)
        }

    def _stands(self, slot: bytes, row: int) -> bool:
        """Whether a record names a slot that isn't used up."""
        rows = self._slots.get(slot)
        return rows == row if rows is None or isinstance(rows, int) else row in rows

    def _unname(self, name: Digest, row: int) -> None:
        """A transaction stands in this record no more."""
        named = self._transactions[name]
        if not isinstance(named, int):
            named.rows.remove(row)
            named.live -= 1
        if isinstance(named, int) or not named.live:
            del self._transactions[name]

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
