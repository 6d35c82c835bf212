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

Patch = pytest.MonkeyPatch


@attrs.frozen(kw_only=True)
class Planted:
    """A bug, and the seed and profile that find it by one of these oracles."""

    plant: Callable[[Patch], None]
    profile: str
    seed: int
    oracles: frozenset[str]
    count: int = 4


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


def any_root(patch: Patch) -> None:
    real = proposals._check_root

    def check(node: Any, epoch: Any, branch: Any, known: Any) -> None:
        if known.roots.get(node.block.header.root_height) is not None:
            real(node, epoch, branch, known)

    patch.setattr(proposals, "_check_root", check)


def parent_unchecked(patch: Patch) -> None:
    patch.setattr(proposals, "_check_notarisation", lambda *_: None)


def batches_in_any_order(patch: Patch) -> None:
    patch.setattr(proposals, "_check_order", lambda *_: None)


def log_forgotten(patch: Patch) -> None:
    patch.setattr(Ordering, "_replay", lambda self, record: None)


def certificates_kept(patch: Patch) -> None:
    patch.setattr(Ordering, "_pass_on", lambda self, certificate: None)


def nullify_and_finalize(patch: Patch) -> None:
    patch.setattr(Ordering, "_may_finalize", lambda self, view: view.finalized is None)
