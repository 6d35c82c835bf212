"""Which records of the log nothing rests on any more, so that it doesn't grow with the chain.

Ordering: whatever is of a view below the last committed block's. Batches: all of a batch but its locks go
with the block that holds it; a record of locks goes when all its slots are used up, and with it what later
records of executed blocks say of slots. What stays of those is which batches they held, until the epoch ends.
"""

import attrs

from supervm.plugins.consensus.bft.batch_records import (
    CertifiedClaims,
    HeldBatch,
    HeldCertificate,
    Locked,
    SignedEffects,
    UsedUp,
)
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
class _LockedRow:
    slots: set[bytes]
    forever: bool


class LockRows:
    """The rows of the voter's journal, by batch and by slot."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._batches: dict[Digest, list[int]] = {}
        self._locked: dict[int, _LockedRow] = {}
        self._slots: dict[bytes, list[int]] = {}
        self._whole: dict[int, UsedUp] = {}

    def logged(self, row: int, record: Record) -> None:
        match record:
            case HeldBatch(batch):
                self._batches.setdefault(batch.digest(), []).append(row)
            case HeldCertificate(certificate):
                self._batches.setdefault(certificate.header.digest(), []).append(row)
            case CertifiedClaims(digest, _):
                self._batches.setdefault(digest, []).append(row)
            case SignedEffects(effects):
                self._batches.setdefault(effects.batch, []).append(row)
            case Locked(_, _, _, claims, equivocators):
                slots = {slot for claim in claims for slot in claim.slots}
                self._locked[row] = _LockedRow(slots, bool(equivocators))
                for slot in slots:
                    self._slots.setdefault(slot, []).append(row)
            case UsedUp():
                self._used(row, record)

    def _used(self, row: int, record: UsedUp) -> None:
        gone: list[int] = []
        for digest in record.batches:
            gone += self._batches.pop(digest, [])
        for slot in record.slots:
            for each in self._slots.pop(slot, ()):
                locked = self._locked[each]
                locked.slots.discard(slot)
                if not locked.slots and not locked.forever:
                    del self._locked[each]
                    gone.append(each)
        self._journal.drop(gone)
        if record.slots or record.transactions:
            self._whole[row] = record
        oldest = next(iter(self._locked), row + 1)
        for each in [each for each in self._whole if each < oldest]:
            whole = self._whole.pop(each)
            self._journal.replace(each, UsedUp(whole.height, whole.batches, (), ()))
