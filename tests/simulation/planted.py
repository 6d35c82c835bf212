"""Bugs planted in the real code (CONS-98), each a patch, with a seed that finds it. Tests only."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import attrs
import pytest

from supervm.chain import application
from supervm.chain.application import Chain
from supervm.chain.component import LedgerOptions
from supervm.chain.overlay import Overlay
from supervm.execution import block
from supervm.execution.footprint import NONCE_LOCK
from supervm.plugins.consensus.bft import locks, proposals, rebuilding, simplex, verifying
from supervm.plugins.consensus.bft.batch_events import EpochCloses
from supervm.plugins.consensus.bft.batch_records import Locked
from supervm.plugins.consensus.bft.batches import BatchVoter
from supervm.plugins.consensus.bft.branches import Branch
from supervm.plugins.consensus.bft.claims import Claim, Examined
from supervm.plugins.consensus.bft.driver import checking, founding
from supervm.plugins.consensus.bft.driver.core import _Gate
from supervm.plugins.consensus.bft.epochs.closing import Closing
from supervm.plugins.consensus.bft.records import Finalized, Nullified
from supervm.plugins.consensus.bft.simplex import Ordering
from supervm.plugins.consensus.bft.votes import Proposal
from supervm.plugins.consensus.simulation import node
from supervm.plugins.consensus.simulation.attacks import Attack
from supervm.plugins.consensus.simulation.plan import (
    USERS,
    Ask,
    Fault,
    Mishap,
    Plan,
    Request,
    draw_plan,
)
from supervm.types.certificate import VoteKind
from supervm.types.digests import plain_digest
from supervm.types.operations import Transfer
from supervm.types.validators import ValidatorSet

Patch = pytest.MonkeyPatch


def _crashes(*nodes: int, times: int = 12) -> tuple[Mishap, ...]:
    """Short crashes of some validators, in turn, from half a second on."""
    return tuple(
        Mishap(
            Fault.CRASH,
            round(0.6 + 0.137 * each, 6),
            round(0.65 + 0.137 * each, 6),
            (nodes[each % len(nodes)],),
        )
        for each in range(times)
    )


def _asks(ask: Ask, every_s: float) -> tuple[Request, ...]:
    """All users ask, each of the first two validators."""
    return tuple(Request(round(0.55 + every_s * each, 6), each % USERS, ask, (0, 1)) for each in range(USERS))


def _many(ask: Ask) -> tuple[Request, ...]:
    """Two users, or four who sign twice, ask often, each turn of other validators."""
    users = 2 if ask is Ask.TRANSFER else 4
    return tuple(
        Request(round(0.55 + 0.03 * each, 6), each % users, ask, (each // 2 % 3, 3))
        for each in range(3 * USERS)
    )


def _at_once(ask: Ask) -> tuple[Request, ...]:
    """All users, each of another validator."""
    return tuple(Request(0.55, each, ask, (each % 4, 3)) for each in range(USERS))


def _objects_twice() -> tuple[Request, ...]:
    """Three users make objects, and later change them twice; the others keep validator 1 building."""
    made = tuple(Request(round(0.3 + 0.01 * each, 6), each, Ask.OBJECT, (0, 1)) for each in range(3))
    twice = tuple(Request(round(1.8 + 0.2 * each, 6), each, Ask.OBJECT_TWICE, (1, 0)) for each in range(3))
    busy = tuple(
        Request(round(1.8 + 0.025 * each, 6), 3 + each % 3, Ask.TRANSFER, (1, 0)) for each in range(30)
    )
    return made + twice + busy


@attrs.frozen(kw_only=True)
class Planted:
    """A bug, the run that finds it, a seed's with these changes, and what must find it."""

    plant: Callable[[Patch], None]
    seed: int = 0
    profile: str = "calm"
    changes: dict[str, Any] = attrs.Factory(dict)
    oracles: frozenset[str]

    def plan(self, seed: int | None = None) -> Plan:
        drawn = draw_plan(self.seed if seed is None else seed, self.profile, 4)
        return attrs.evolve(drawn, **({"weights": (1, 1, 1, 1)} | self.changes))


def vote_before_log(patch: Patch) -> None:
    patch.setattr(_Gate, "passes", lambda self, send: True)


def release_locks_at_restart(patch: Patch) -> None:
    real = BatchVoter.recall

    def recall(self: BatchVoter, record: Any) -> None:
        if not isinstance(record, Locked):
            real(self, record)

    patch.setattr(BatchVoter, "recall", recall)


def nothing_is_locked(patch: Patch) -> None:
    """Not in the list: no conflict is ever seen."""
    patch.setattr(locks.LockTable, "holder", lambda self, slot: None)


def lock_only_sender(patch: Patch) -> None:
    real = application.examine_transactions

    def examine(*arguments: Any, **options: Any) -> Examined:
        found = real(*arguments, **options)

        def less(claim: Claim) -> Claim:
            return attrs.evolve(claim, slots=tuple(each for each in claim.slots if each[:1] == NONCE_LOCK))

        return attrs.evolve(found, claims=tuple(map(less, found.claims)))

    patch.setattr(application, "examine_transactions", examine)


def quorum_by_count(patch: Patch) -> None:
    real = application.Chain.validators

    def validators(self: Chain, epoch: int) -> ValidatorSet:
        members = real(self, epoch).members
        return ValidatorSet(tuple(attrs.evolve(each, weight=1) for each in members))

    patch.setattr(application.Chain, "validators", validators)


def accept_without_predecessors(patch: Patch) -> None:
    patch.setattr(locks._Judging, "_known_up_to", lambda self, chain, base: base + 64)


def predecessor_locked_but_not_certified(patch: Patch) -> None:
    def is_known(self: locks._Judging, slot: bytes) -> bool:
        return slot in self._taken or self._table.counted(slot) is not None

    patch.setattr(locks._Judging, "_is_known", is_known)


def credit_gas_by_existence(patch: Patch) -> None:
    """A transfer to an account that isn't there yet costs more."""
    real = block.OPERATIONS[Transfer]

    def transfer(turn: Any, operation: Transfer, index: int) -> None:
        for output in operation.outputs:
            if not turn.state.balance(output.to, operation.token):
                turn.use_entry()
        real(turn, operation, index)

    patch.setitem(block.OPERATIONS, Transfer, transfer)  # type: ignore[arg-type]
    patch.setattr(node, "LedgerOptions", partial(LedgerOptions, execution="python"))


def debits_not_counted(patch: Patch) -> None:
    """Not in the list: the balance alone decides."""
    patch.setattr(locks.LockTable, "debits", lambda self, account, but=None: 0)


def effects_applied_twice(patch: Patch) -> None:
    """What a block folded stays in the overlay, and counts again."""

    def folded(self: Overlay, digests: Iterable[bytes]) -> None:
        gone = frozenset(digests)
        self.waiting = [each for each in self.waiting if each.transaction.digest not in gone]

    def view_of(self: Overlay, state: Any, transactions: Iterable[bytes]) -> Any:
        return real(self, state, dict.fromkeys((*transactions, *self._effects)))

    real = Overlay.view_of
    patch.setattr(Overlay, "folded", folded)
    patch.setattr(Overlay, "view_of", view_of)


def signatures_remembered_by_text(patch: Patch) -> None:
    patch.setattr(checking, "_key", lambda claim: plain_digest(claim[1]))


def parent_notarisation_unchecked(patch: Patch) -> None:
    """By whoever looks at it: the machine, and who verifies signatures before it."""
    real = verifying._claims_of_proposal

    def claims(proposal: Proposal, *rest: Any) -> Any:
        body = attrs.evolve(proposal.block.body, justification=b"")
        bare = attrs.evolve(proposal, block=attrs.evolve(proposal.block, body=body))
        text = proposal.message(rest[0].chain_id)
        return [(key, text, signature) for key, _, signature in real(bare, *rest)[:1]]

    patch.setattr(verifying, "_claims_of_proposal", claims)
    patch.setattr(proposals, "_check_notarisation", lambda *_: None)


def root_not_computed(patch: Patch) -> None:
    real = proposals._check_root

    def check(asked: Any, epoch: Any, branch: Any, known: Any) -> None:
        if known.roots.get(asked.block.header.root_height) is not None:
            real(asked, epoch, branch, known)

    patch.setattr(proposals, "_check_root", check)


def certificates_kept(patch: Patch) -> None:
    patch.setattr(Ordering, "_pass_on", lambda self, certificate: None)


def nullify_after_finalize(patch: Patch) -> None:
    """While stuck it gives up the last notarised view, too."""
    real = Ordering._say_again

    def say_again(self: Ordering) -> None:
        real(self)
        highest = self._views.highest
        if highest is not None and highest.number > self.final_view and highest.nullified is None:
            highest.nullified = vote = self._say_as.vote(VoteKind.NULLIFY, highest.number)
            self._say(vote, Nullified(vote))

    patch.setattr(Ordering, "_say_again", say_again)


def finalize_logged_alone(patch: Patch) -> None:
    real = rebuilding.put_back

    def put_back(record: Any, views: Any, branches: Any) -> None:
        if not isinstance(record, Finalized):
            real(record, views, branches)
            return
        view = views.from_log(record.vote.view)
        if view is not None:
            view.finalized = record.vote
            view.add(record.vote)

    patch.setattr(simplex, "put_back", put_back)


def timestamp_unchecked(patch: Patch) -> None:
    patch.setattr(proposals, "TIMESTAMP_AHEAD_MS", 10**15)


def batches_in_any_order(patch: Patch) -> None:
    patch.setattr(proposals, "_check_order", lambda *_: None)


def log_forgotten(patch: Patch) -> None:
    patch.setattr(Ordering, "_replay", lambda self, record: None)


def nullify_and_finalize(patch: Patch) -> None:
    patch.setattr(Ordering, "_may_finalize", lambda self, view: view.finalized is None)


def epoch_done_before_inclusion(patch: Patch) -> None:
    real = Closing._decide

    def decide(self: Closing) -> None:
        if self._owed is not None:
            self._owed.clear()
        real(self)

    patch.setattr(Closing, "_decide", decide)


def effects_after_epoch_done(patch: Patch) -> None:
    """They are signed until the epoch ends."""
    real = Closing._closes

    def closes(self: Closing, start: int, height: int) -> None:
        real(self, start, height)
        if EpochCloses(last_effects=True) in self._out:
            self._out.remove(EpochCloses(last_effects=True))
            self._owed = dict.fromkeys(self._duties())

    patch.setattr(Closing, "_closes", closes)


def last_block_extended(patch: Patch) -> None:
    patch.setattr(Branch, "is_closed", property(lambda self: False))


def votes_after_a_lost_disk(patch: Patch) -> None:
    """Not in the list: an empty log is taken for a new one (CONS-67)."""

    async def read_standing(*_: Any, **__: Any) -> founding.Standing:
        return founding.WHOLE

    patch.setattr(founding, "read_standing", read_standing)


_CLOSING = {
    "epoch_blocks": 9,
    "attacks": ((1, Attack.LATE), (1, Attack.CENSOR)),
    "requests": tuple(
        Request(round(0.3 + 0.07 * each, 6), each % USERS, Ask.TRANSFER, (each % 4, 3)) for each in range(40)
    ),
}
_SPLIT_NONCES = {"requests": _asks(Ask.TWICE, 0.0), "mishaps": _crashes(3, 2, times=4)}
_WORK = {"requests": _asks(Ask.TRANSFER, 0.25), "mishaps": _crashes(0, 1, 2, 3, times=20)}

BUGS = {
    "vote before log": Planted(
        plant=vote_before_log,
        seed=25,
        changes=_WORK | {"sync_ms": (50.0, 300.0)},
        oracles=frozenset({"contradiction", "lock"}),
    ),
    "release locks at restart": Planted(
        plant=release_locks_at_restart, seed=2, changes=_SPLIT_NONCES, oracles=frozenset({"lock", "failed"})
    ),
    "nothing is locked": Planted(
        plant=nothing_is_locked,
        changes={"requests": _asks(Ask.TWICE, 0.0)},
        oracles=frozenset({"lock", "certificates", "failed"}),
    ),
    "lock only sender": Planted(
        plant=lock_only_sender,
        changes={"attacks": ((1, Attack.STUFF),), "requests": _objects_twice()},
        oracles=frozenset({"lock", "certificates", "final", "outcome", "failed"}),
    ),
    "quorum by count": Planted(
        plant=quorum_by_count,
        changes={"weights": (1, 1, 1, 5), "requests": _asks(Ask.TRANSFER, 0.25)},
        oracles=frozenset({"proof"}),
    ),
    "accept without predecessors": Planted(
        plant=accept_without_predecessors,
        changes={"attacks": ((1, Attack.STUFF),), "requests": _many(Ask.TRANSFER)},
        seed=1,
        oracles=frozenset({"outcome", "failed"}),
    ),
    "predecessor locked but not certified": Planted(
        plant=predecessor_locked_but_not_certified,
        changes={"attacks": ((1, Attack.STUFF),), "requests": _many(Ask.TWICE) + _asks(Ask.TRANSFER, 0.1)},
        oracles=frozenset({"outcome"}),
    ),
    "credit gas by existence": Planted(
        plant=credit_gas_by_existence,
        changes={"requests": _at_once(Ask.TRANSFER)},
        oracles=frozenset({"effects", "roots", "failed"}),
    ),
    "debits not counted": Planted(
        plant=debits_not_counted,
        changes={"attacks": ((1, Attack.STUFF),), "requests": _asks(Ask.OVERSPEND, 0.25)},
        oracles=frozenset({"outcome"}),
    ),
    "effects applied twice": Planted(
        plant=effects_applied_twice,
        changes={"requests": _asks(Ask.OVERSPEND, 0.25)},
        oracles=frozenset({"outcome"}),
    ),
    "certificate cache keyed by body only": Planted(
        plant=signatures_remembered_by_text,
        changes={"attacks": ((1, Attack.FORGE),), "requests": _asks(Ask.TRANSFER, 0.25)},
        oracles=frozenset({"proof"}),
    ),
    "missing check of parent notarisation": Planted(
        plant=parent_notarisation_unchecked,
        changes={"attacks": ((1, Attack.ORPHAN),), "requests": _asks(Ask.TRANSFER, 0.25)},
        oracles=frozenset({"proof"}),
    ),
    "vote for a root not computed": Planted(
        plant=root_not_computed,
        changes={"work_ms": (1.0, 100.0), "requests": _many(Ask.TRANSFER)},
        oracles=frozenset({"root"}),
    ),
    "certificate received but not passed on": Planted(
        plant=certificates_kept,
        changes={"requests": _asks(Ask.TRANSFER, 0.25)},
        oracles=frozenset({"spread"}),
    ),
    "nullify after finalize": Planted(
        plant=nullify_after_finalize,
        profile="storm",
        changes={"delay_ms": (0.5, 400.0), "loss": 0.2, "requests": _asks(Ask.TRANSFER, 0.25)},
        oracles=frozenset({"contradiction"}),
    ),
    "finalize logged without its notarisation": Planted(
        plant=finalize_logged_alone,
        profile="crash",
        changes=_WORK,
        oracles=frozenset({"contradiction", "stalled", "undone", "failed"}),
    ),
    "epoch-done before inclusion": Planted(
        plant=epoch_done_before_inclusion,
        changes=_CLOSING,
        seed=24,
        oracles=frozenset({"undone"}),
    ),
    "effects after epoch-done": Planted(
        plant=effects_after_epoch_done,
        changes=_CLOSING,
        oracles=frozenset({"undone"}),
    ),
    "last block extended by another": Planted(
        plant=last_block_extended,
        profile="storm",
        changes=_CLOSING | {"attacks": (), "loss": 0.2},
        seed=21,
        oracles=frozenset({"agreement", "epoch", "failed", "stalled"}),
    ),
    "votes at once after a lost disk": Planted(
        plant=votes_after_a_lost_disk,
        changes={
            "mishaps": tuple(Mishap(Fault.DISK_LOST, 0.6 + each, 0.65 + each, (0,)) for each in range(3)),
            "requests": _asks(Ask.TRANSFER, 0.25),
        },
        oracles=frozenset({"contradiction", "lock"}),
    ),
    "timestamp unchecked": Planted(
        plant=timestamp_unchecked,
        changes={"attacks": ((1, Attack.FUTURE),)},
        oracles=frozenset({"time"}),
    ),
    "leader may order a batch before its past": Planted(
        plant=batches_in_any_order,
        changes={"attacks": ((1, Attack.DISORDER),), "requests": _asks(Ask.TRANSFER, 0.25)},
        oracles=frozenset({"order", "failed"}),
    ),
    "log forgotten at a restart": Planted(
        plant=log_forgotten, changes=_WORK, oracles=frozenset({"contradiction", "failed"})
    ),
    "finalize after nullify": Planted(
        plant=nullify_and_finalize,
        profile="storm",
        changes={"delay_ms": (0.5, 400.0), "requests": _asks(Ask.TRANSFER, 0.25)},
        oracles=frozenset({"contradiction"}),
    ),
}
