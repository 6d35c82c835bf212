"""The store of a node: block commits alone write, everybody else reads snapshots (EXEC-41)."""

from collections.abc import Mapping
from typing import NoReturn

from supervm.mvcc.errors import BadOperand, ReadOnlyStore
from supervm.mvcc.pruning import PruneRules
from supervm.mvcc.store import UNPRUNED_MAX, MvccStore
from supervm.mvcc.versions import Version


class BlockStore(MvccStore):
    """Each block is installed as a whole, at its height. `begin` raises `ReadOnlyStore`.

    To simulate a transaction, read in a `begin_read_only()` and keep the writes to yourself.
    """

    def __init__(self, *, rules: PruneRules | None = None, unpruned_max: int = UNPRUNED_MAX) -> None:
        super().__init__(rules=rules, unpruned_max=unpruned_max)
        self._blocks = 0

    def _count_commits(self) -> int:
        return self._blocks

    def begin(self) -> NoReturn:
        raise ReadOnlyStore("begin()")

    def begin_snapshot(self) -> NoReturn:
        raise ReadOnlyStore("begin_snapshot()")

    def install(self, changes: Mapping[bytes, bytes | None], ts: int) -> None:
        """Install and publish what a block changed; None deletes. `ts`, its height, is above all before.

        Who began before goes on reading the state of then. `changes` is not kept.
        """
        for key, value in changes.items():
            if key.__class__ is not bytes or not (value is None or value.__class__ is bytes):
                raise BadOperand("a change maps bytes to bytes or None", (key, value), "encode it first")
        versions: dict[bytes, Version] = {key: (ts, value) for key, value in changes.items()}
        with self._lock:
            if ts <= self._published:
                mend = f"the newest is {self._published}"
                raise BadOperand("a block is installed above those before", ts, mend, "ts")
            heads, missing = self._heads, self._missing
            displaced = [heads.get(key, missing) for key in versions]
            assert all(head[0] < ts for head in displaced), "versions of a key rise (I2)"
            self._follow_log()
            try:
                heads.update(versions)
            finally:
                self._published = ts
            # Heights may leave gaps, so that a block goes straight into the pasts.
            self._keep(list(versions), displaced)
            self._log_base = ts
            self._blocks += 1
            self._versions_added += len(versions)
            if self._index is not None or self._unindexed is not None:
                self._log = list(versions)
                self._follow_log()
                self._log = []
                self._log_indexed = 0
            self._prune_meanwhile(len(versions))
