"""Bugs planted in locks, batches and effects (CONS-98). Tests only: each is a patch of one function."""

from collections.abc import Callable, Iterable

import attrs
import pytest

from supervm.execution.footprint import NONCE_LOCK
from supervm.plugins.consensus.bft import locks
from supervm.plugins.consensus.bft.batch_records import BatchRecord, Locked
from supervm.plugins.consensus.bft.batches import BatchVoter
from supervm.plugins.consensus.bft.claims import IMAGE_LOCK, Claim, Examined
from supervm.plugins.consensus.bft.events import Send, Stream
from supervm.plugins.consensus.bft.messages import Message
from supervm.plugins.consensus.bft.outbox import Outbox
from supervm.types.batch import Batch
from supervm.types.digests import plain_digest

from . import batch_world
from .batch_world import App, Book, Move

Patch = pytest.MonkeyPatch


def _only(patch: Patch, keep: Callable[[bytes], bool]) -> None:
    """Validators lock only some of a transaction's slots."""
    real = App.examine

    def examine(self: App, batch: Batch, past: Iterable[bytes]) -> Examined:
        found = real(self, batch, tuple(past))

        def less(claim: Claim) -> Claim:
            return attrs.evolve(claim, slots=tuple(filter(keep, claim.slots)))

        return attrs.evolve(found, claims=tuple(map(less, found.claims)))

    patch.setattr(App, "examine", examine)


def lock_only_sender(patch: Patch) -> None:
    _only(patch, lambda slot: slot[:1] == NONCE_LOCK)


def key_image_not_locked(patch: Patch) -> None:
    _only(patch, lambda slot: slot[:1] != IMAGE_LOCK)


def accept_without_predecessors(patch: Patch) -> None:
    patch.setattr(locks._Judging, "_known_up_to", lambda self, chain, base: base + 64)


def predecessor_locked_but_not_certified(patch: Patch) -> None:
    def is_known(self: locks._Judging, slot: bytes) -> bool:
        return slot in self._taken or self._table.counted(slot) is not None

    patch.setattr(locks._Judging, "_is_known", is_known)


def credit_gas_by_existence(patch: Patch) -> None:
    def effects_of(move: Move, book: Book) -> bytes:
        exists = (move.to, batch_world.TOKEN) in book.balances
        return plain_digest(b"effects" + move.data + bytes([exists]))

    patch.setattr(batch_world, "effects_of", effects_of)


def release_locks_at_restart(patch: Patch) -> None:
    real = BatchVoter.restore

    def restore(self: BatchVoter, records: Iterable[BatchRecord]) -> object:
        return real(self, [each for each in records if not isinstance(each, Locked)])

    patch.setattr(BatchVoter, "restore", restore)


def vote_before_log(patch: Patch) -> None:
    def vote(self: Outbox[Send], to: tuple[bytes, ...], message: Message) -> None:
        self.put(Send(to, message, Stream.DISSEMINATION))

    patch.setattr(Outbox, "vote", vote)


def effects_applied_twice(patch: Patch) -> None:
    def fold(self: App) -> None:
        self.overlay = self.book.copy()
        for move in self.applied.values():
            self.overlay.do(move)

    patch.setattr(App, "fold", fold)


def debits_not_counted(patch: Patch) -> None:
    """Not in the list of CONS-98: the balance alone decides."""
    patch.setattr(locks.LockTable, "debits", lambda self, account, but=None: 0)


def facts_and_locks_of_different_heights(patch: Patch) -> None:
    """Not in the list: a block is executed while a batch is examined, and nobody asks again."""
    real = BatchVoter._examined

    def examined(self: BatchVoter, digest: bytes, found: Examined, now_s: float) -> None:
        facts = attrs.evolve(found.facts, height=self._executed_height)
        real(self, digest, attrs.evolve(found, facts=facts), now_s)

    patch.setattr(BatchVoter, "_examined", examined)


PLANTED = (
    lock_only_sender,
    key_image_not_locked,
    accept_without_predecessors,
    predecessor_locked_but_not_certified,
    credit_gas_by_existence,
    release_locks_at_restart,
    vote_before_log,
    effects_applied_twice,
    debits_not_counted,
    facts_and_locks_of_different_heights,
)
