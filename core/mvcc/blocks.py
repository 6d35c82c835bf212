"""The store of a node: block commits alone write, everybody else reads snapshots (EXEC-41)."""

from collections.abc import Mapping
from typing import Any, NoReturn

from supervm.mvcc.errors import BadOperand, ReadOnlyStore
from supervm.mvcc.pruning import PruneRules
from supervm.mvcc.store import UNPRUNED_MAX, MvccStore


class BlockStore(MvccStore):
    """Each block is installed as a whole, at its height. `begin` raises `ReadOnlyStore`.

    To simulate a transaction, read in a `begin_read_only()` and keep the writes to yourself.
    """

    def __init__(self, *, rules: PruneRules | None = None, unpruned_max: int = UNPRUNED_MAX) -> None:
        super().__init__(rules=rules, unpruned_max=unpruned_max)
        self._settles = self._is_complete = False
        self._remembers = True
        self._log_max = 0  # heights may leave gaps, which a log of several blocks couldn't tell
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
        writes: dict[bytes, Any] = dict(changes)
        with self._lock:
            if ts <= self._published:
                mend = f"the newest is {self._published}"
                raise BadOperand("a block is installed above those before", ts, mend, "ts")
            assert self._check_writes(writes, ts - 1) is None, "versions of a key rise (I2)"
            self._fold()  # of a block whose installation was interrupted
            if writes:
                self._log_base = ts - 1
                self._install(writes, ts, None)
            else:
                self._published = self._log_base = ts
            self._blocks += 1
