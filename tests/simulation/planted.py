"""Bugs planted in the real code (CONS-98), each a patch, with a seed that finds it. Tests only."""

from collections.abc import Callable, Iterable
from typing import Any

import attrs
import pytest

from supervm.plugins.consensus.bft import locks, proposals
from supervm.plugins.consensus.bft.batch_records import Locked
from supervm.plugins.consensus.bft.batches import BatchVoter
from supervm.plugins.consensus.bft.driver.core import _Gate
from supervm.plugins.consensus.bft.simplex import Ordering
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
        return attrs.evolve(drawn, weights=(1, 1, 1, 1), **self.changes)


def vote_before_log(patch: Patch) -> None:
    patch.setattr(_Gate, "passes", lambda self, send: True)


def release_locks_at_restart(patch: Patch) -> None:
    real = BatchVoter.restore

    def restore(self: BatchVoter, records: Iterable[Any]) -> object:
        return real(self, [each for each in records if not isinstance(each, Locked)])

    patch.setattr(BatchVoter, "restore", restore)


def nothing_is_locked(patch: Patch) -> None:
    """Lock only sender, and worse: no conflict is ever seen."""
    patch.setattr(locks.LockTable, "holder", lambda self, slot: None)


def timestamp_unchecked(patch: Patch) -> None:
    patch.setattr(proposals, "TIMESTAMP_AHEAD_MS", 10**15)


def batches_in_any_order(patch: Patch) -> None:
    patch.setattr(proposals, "_check_order", lambda *_: None)


def log_forgotten(patch: Patch) -> None:
    patch.setattr(Ordering, "_replay", lambda self, record: None)


def nullify_and_finalize(patch: Patch) -> None:
    patch.setattr(Ordering, "_may_finalize", lambda self, view: view.finalized is None)


_SPLIT_NONCES = {"requests": _asks(Ask.TWICE, 0.0), "mishaps": _crashes(3, 2, times=4)}
_WORK = {"requests": _asks(Ask.TRANSFER, 0.25), "mishaps": _crashes(0, 1, 2, 3, times=20)}

BUGS = {
    "vote before log": Planted(
        plant=vote_before_log,
        seed=1,
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
        seed=3,
        profile="storm",
        changes={"delay_ms": (0.5, 400.0), "requests": _asks(Ask.TRANSFER, 0.25)},
        oracles=frozenset({"contradiction"}),
    ),
}
