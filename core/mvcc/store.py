"""A versioned store in memory: snapshot reads without locks, serialisable commits (EXEC-40 to EXEC-46).

How it keeps its promises:

- A key maps to its head, the newest version. Reading takes no lock: a head is an immutable pair, and one
  whose timestamp is not above the snapshot is the newest of the snapshot. Only who finds a newer head
  looks among the older versions, under the lock.
- `published` is the largest timestamp all of whose versions are installed. One lock guards validating,
  installing and publishing, so it rises one by one, and nobody begins in the midst of a commit.
- A transaction registers itself without the lock: it reads `published`, enters `_active`, and looks whether
  a pruner has meanwhile set `_horizon` above it; if so it takes a newer snapshot. A pruner sets `_horizon`
  first and looks at `_active` second, so one of the two always sees the other, as in Dekker's algorithm.
- A commit adds its keys, and the heads that it displaced, to a log. A full log is emptied: what somebody
  may read moves into the pasts of the keys, the rest goes. Until then the log also tells which keys came
  after a snapshot, for scanned ranges to be validated.
- Where no past is kept and no other transaction is open, nobody can read what a commit displaces, and it
  goes without a log. Such a commit prunes, so it sets `_horizon` as a pruner does.

The invariants of EXEC-44 are asserted where they could break, in production too.
"""

import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import attrs

from supervm.mvcc.errors import BadOperand, Conflict, SnapshotTooOld, VersionPruned
from supervm.mvcc.index import KeyIndex
from supervm.mvcc.pruning import PruneCycle, PruneRules
from supervm.mvcc.transaction import ReadTransaction, Refusing, SnapshotTransaction, Span, Transaction
from supervm.mvcc.versions import ABSENT, HOLE, UNKNOWN, Version, count_versions, find

LOG_KEYS_MAX = 2_048
UNPRUNED_MAX = 100_000

T = TypeVar("T", bound=Transaction)


@attrs.frozen(kw_only=True)
class StoreStats:
    """A store at one moment. Counts are since it was made.

    `commits` counts transactions that wrote; `aborts` those that were given up, conflicts among them;
    `conflicts` by kind: `ww`, `rw`, `range`. `open` are transactions begun and not yet ended, `oldest_ts`
    the oldest snapshot among them, or `published` where there is none. `versions_added` counts since the
    last pruning cycle began, `gc_count` the cycles that ended; what a store without a past doesn't keep in
    the first place is not counted as cleaned.
    """

    published: int
    keys: int
    versions: int
    versions_added: int
    open: int
    oldest_ts: int
    commits: int
    aborts: int
    conflicts: Mapping[str, int]
    gc_count: int
    versions_cleaned: int
    keys_cleaned: int
    last_gc_ts: int


class MvccStore:
    """Byte keys with versions. Safe for many threads; no call does I/O.

    Committed transactions of `begin` have the effect of running one after the other in the order of their
    commit timestamps. An exception from outside in the midst of a commit (KeyboardInterrupt) leaves it
    installed as a whole or not at all.

    `rules` say how much of the past is kept. Somebody has to call `gc` now and then, as the collector does;
    where nobody has for `unpruned_max` versions, commits do it, a little each (0: never).
    """

    def __init__(self, *, rules: PruneRules | None = None, unpruned_max: int = UNPRUNED_MAX) -> None:
        self._rules = PruneRules() if rules is None else rules
        self._unpruned_max = unpruned_max
        self._lock = threading.Lock()
        self._heads: dict[bytes, Version] = {}
        self._missing: Version = ABSENT
        self._remembers = self._rules.versions_max > 1  # whether the log is kept even where nobody reads
        self._pasts: dict[bytes, list[Version]] = {}
        self._published = 0
        self._active: dict[Transaction, None] = {}
        self._horizon = 0
        self._forgotten_ts = 0  # what was before may be gone without a trace

        # Of the commits after _log_base: their keys, the heads these had before, where each commit ends.
        self._log: list[bytes] = []
        self._displaced: list[Version] = []
        self._ends: list[int] = []
        self._log_base = 0
        self._log_max = LOG_KEYS_MAX
        self._log_indexed = 0

        self._index: KeyIndex | None = None
        self._index_making = threading.Lock()
        self._unindexed: list[bytes] | None = None  # touched while the first index is being made

        self._candidates: set[bytes] = set()  # for the next pruning cycle
        self._cycle: PruneCycle | None = None  # of commits that prune
        self._past_versions = 0
        self._versions_added = 0  # since the last cycle began
        self._opened_ts = 0
        self._aborts = 0
        self._conflicts = {"ww": 0, "rw": 0, "range": 0}
        self._gc_count = self._versions_cleaned = self._keys_cleaned = self._last_gc_ts = 0

    # -- transactions

    def begin(self) -> Transaction:
        """A serialisable transaction on what is published now."""
        return self._begun(Transaction())

    def begin_snapshot(self) -> SnapshotTransaction:
        """A transaction whose reads aren't validated: isolation level `snapshot`, for reporting jobs."""
        return self._begun(SnapshotTransaction())

    def begin_read_only(self) -> ReadTransaction:
        """A snapshot to read from; it never conflicts."""
        return self._begun(ReadTransaction())

    def _begun(self, txn: T) -> T:
        txn._store = self
        txn._heads = self._heads
        txn._missing = self._missing
        txn._reads = {}
        txn._writes = {}
        txn._ranges = txn._events = txn._undo = txn._deleted = None
        txn.start_ts = start = self._published
        self._active[txn] = None
        if self._horizon > start:
            # A pruner went by between the last two steps, and may not have seen us. The next one will.
            with self._lock:
                txn.start_ts = self._published
        return txn

    def open_transactions(self) -> list[Transaction]:
        """Those that were begun and not yet ended, the oldest first."""
        return list(self._active)

    def give_up(self, txn: Transaction) -> bool:
        """Abort somebody else's transaction; all it does from now on raises `SnapshotTooOld`.

        Returns whether it was still open.
        """
        with self._lock:
            if txn not in self._active:
                return False
            del self._active[txn]
            self._aborts += 1
        start_ts = txn.start_ts
        txn._close(aborted=False, instead=Refusing(lambda: SnapshotTooOld(start_ts)))
        return True

    # -- looking at the store

    @property
    def published(self) -> int:
        """The timestamp of the newest commit; all of it, and all before it, is installed."""
        return self._published

    def read_at(self, key: bytes, ts: int) -> bytes | None:
        """What `key` held at `ts`; None where it wasn't there. Raises `VersionPruned` where that is gone."""
        if not 0 <= ts <= self._published:
            raise BadOperand("nothing is published at that timestamp", ts, f"0 to {self._published}", "ts")
        head = self._heads.get(key, self._missing)
        if head[0] > ts:
            with self._lock:
                head = self._version_at(key, ts)
        if head[1] is HOLE or (head is ABSENT and ts < self._forgotten_ts):
            raise VersionPruned(key, ts)
        return head[1]  # type: ignore[no-any-return]

    def oldest_active(self) -> int:
        """The oldest snapshot that somebody reads, or `published` where nobody does."""
        published = self._published
        return min((txn.start_ts for txn in list(self._active)), default=published)

    def total_keys(self) -> int:
        """Keys that have a version, tombstones among them."""
        return len(self._heads)

    def versions_added(self) -> int:
        """Versions that came since the last pruning cycle began."""
        return self._versions_added + len(self._log)

    def total_versions(self) -> int:
        """Versions of all keys, tombstones among them."""
        return self.stats().versions

    def stats(self) -> StoreStats:
        """Everything that is counted, from one moment."""
        with self._lock:
            self._fold()
            return StoreStats(
                published=self._published,
                keys=len(self._heads),
                versions=len(self._heads) + self._past_versions,
                versions_added=self._versions_added,
                open=len(self._active),
                oldest_ts=self.oldest_active(),
                commits=self._count_commits(),
                aborts=self._aborts,
                conflicts=MappingProxyType(dict(self._conflicts)),
                gc_count=self._gc_count,
                versions_cleaned=self._versions_cleaned,
                keys_cleaned=self._keys_cleaned,
                last_gc_ts=self._last_gc_ts,
            )

    # -- pruning

    def gc(self, rules: PruneRules | None = None) -> int:
        """Prune once, by the store's rules or others; returns how many versions went.

        Takes time by what was written since the last time. Others wait for a slice of it at most.
        """
        cycle = self.gc_cycle(rules)
        while not cycle.done:
            cycle.slice()
        return cycle.versions_cleaned

    def gc_cycle(self, rules: PruneRules | None = None) -> PruneCycle:
        """Begin a pruning cycle, to be driven slice by slice with `cycle.slice()` until `cycle.done`."""
        with self._lock:
            self._fold()
            if self._cycle is not None:
                # What commits have begun to prune goes on here.
                self._candidates.update(self._cycle.keys[self._cycle.at :])
                self._cycle = None
            return self._begin_cycle(self._rules if rules is None else rules)

    def _begin_cycle(self, rules: PruneRules) -> PruneCycle:
        cycle = PruneCycle(self, rules, tuple(self._candidates))
        self._candidates = set()
        self._versions_added = 0
        return cycle

    def _end_cycle(self) -> None:
        self._gc_count += 1
        self._last_gc_ts = self._published

    def _set_horizon(self) -> list[int]:
        """Under the lock: from now on nobody begins below `published`.

        Returns the snapshots in use, newest first, `published` among them.
        """
        published = self._published
        self._horizon = published
        return sorted({published, *(txn.start_ts for txn in list(self._active))}, reverse=True)

    def _may_drop(self, key: bytes, ts: int) -> bool:
        """Whether nothing but its tombstone at `ts` keeps a key in memory."""
        return True

    def _drop_key(self, key: bytes) -> None:
        """Under the lock: forget a key."""
        self._forgotten_ts = max(self._forgotten_ts, self._heads[key][0])  # first, for `read_at`
        self._pasts.pop(key, None)
        del self._heads[key]
        if self._index is not None:
            self._index.follow((key,), self._heads)
        elif self._unindexed is not None:
            self._unindexed.append(key)

    def _drop_past(self, key: bytes) -> None:
        """Under the lock: forget what a key held before."""
        self._forgotten_ts = self._published
        del self._pasts[key]

    # -- the log of commits

    def _count_commits(self) -> int:
        return self._published - self._opened_ts

    def _install_logged(
        self,
        writes: dict[bytes, Version],
        ts: int,
        displaced: list[Version],
        deleted: Sequence[bytes] | None,
    ) -> None:
        """Under the lock: install, publish, and put into the log what was before."""
        log = self._log
        end = len(log) + len(writes)
        try:
            # One call into C, in which no signal handler runs: all is installed or nothing.
            self._heads.update(writes)
        finally:
            self._published = ts
            log += writes  # its keys
            self._displaced += displaced
            self._ends.append(end)
        if deleted is not None:
            self._candidates.update(deleted)
        if end >= self._log_max:
            self._log_full()

    def _tidy(self, writes: Mapping[bytes, Version], deleted: Sequence[bytes] | None) -> None:
        """Under the lock: what a commit that went without the log has to tell nevertheless."""
        if self._index is not None and len(self._index) != len(self._heads):
            self._index.follow(writes, self._heads)
        if deleted is not None:
            self._candidates.update(deleted)
            self._versions_added += len(deleted)
            self._prune_meanwhile(len(deleted))

    def _position(self, ts: int) -> int:
        """Under the lock: where in the log the commits after `ts` begin."""
        if ts <= self._log_base:
            return 0
        assert len(self._ends) == self._published - self._log_base, "timestamps rise one by one (I3)"
        return self._ends[ts - self._log_base - 1]

    def _fold(self) -> None:
        """Under the lock: move the whole log into the pasts."""
        self._follow_log()
        self._take_log(len(self._log), kept=True)

    def _log_full(self) -> None:
        """Under the lock, in a commit: move the log into the pasts, or what of it is still needed."""
        added = len(self._log)
        self._follow_log()
        if self._rules.versions_max == 1:
            # What was displaced at or before the oldest snapshot can't be read any more.
            oldest = self._set_horizon()[-1]
            self._forgotten_ts = max(self._forgotten_ts, oldest)
            self._take_log(self._position(oldest), kept=False)
        if len(self._log) > self._log_max // 2:
            self._take_log(len(self._log), kept=True)
        self._prune_meanwhile(added)

    def _prune_meanwhile(self, added: int) -> None:
        """Under the lock: prune a little where nobody else does; `added` versions came."""
        if self._unpruned_max and self._cycle is None and self._versions_added >= self._unpruned_max:
            self._cycle = self._begin_cycle(self._rules)
        if self._cycle is not None:
            self._cycle.slice_locked(2 * added)  # twice as many as came, so that it ends
            if self._cycle.done:
                self._cycle = None

    def _take_log(self, count: int, kept: bool) -> None:
        """Under the lock: take `count` keys, of whole commits, off the log; `kept`: into the pasts."""
        if kept:
            self._keep(self._log[:count], self._displaced[:count])
        ends = [end - count for end in self._ends if end > count]
        base = self._published - len(ends)
        # Nothing here calls Python, so that no exception from outside leaves a part of it undone.
        del self._log[:count], self._displaced[:count]
        self._ends = ends
        self._log_base = base
        self._log_indexed -= count
        self._versions_added += count

    def _keep(self, keys: Sequence[bytes], displaced: Sequence[Version]) -> None:
        pasts, missing = self._pasts, self._missing
        moved = 0
        for key, version in zip(keys, displaced, strict=True):
            if version is missing:
                # The key is new, or new again: then its past is over, and forgotten.
                moved -= count_versions(pasts.pop(key, ()))
                if version is UNKNOWN:
                    pasts[key] = [UNKNOWN]
                continue
            past = pasts.get(key)
            if past is None:
                pasts[key] = [version]
            else:
                past.append(version)
            moved += 1
        self._past_versions += moved
        self._candidates.update(keys)

    def _version_at(self, key: bytes, ts: int) -> Version:
        """Under the lock: the version of `key` at `ts`, where its head is newer."""
        if ts >= self._log_base:
            # The first commit of the key after `ts` displaced what was there at `ts`.
            return self._displaced[self._log.index(key, self._position(ts))]
        if key in self._log:
            displaced = self._displaced[self._log.index(key)]
            if displaced[0] <= ts and displaced is not self._missing:
                return displaced
        found = find(self._pasts.get(key, ()), ts)
        return self._missing if found is None else found

    # -- for transactions

    def _older(self, txn: Transaction, key: bytes) -> bytes | None:
        """The value of a key in a snapshot, where its head is newer."""
        with self._lock:
            if txn not in self._active:
                raise SnapshotTooOld(txn.start_ts)
            version = self._version_at(key, txn.start_ts)
        assert version[1] is not HOLE, f"an active snapshot was pruned under (I6): {key!r}, {txn.start_ts}"
        return version[1]  # type: ignore[no-any-return]

    def _forget(self, txn: Transaction) -> None:
        """Of a transaction that was given up."""
        with self._lock:
            self._active.pop(txn, None)
            self._aborts += 1

    def _count_conflict(self, kind: type[Conflict]) -> None:
        """Under the lock."""
        self._conflicts[kind.short] += 1

    # -- the index

    def _keys_within(self, start: bytes, end: bytes | None, limit: int) -> list[bytes]:
        """The first keys of a range, also those that are there for some snapshots only."""
        if self._index is None:
            self._make_index()
        with self._lock:
            self._follow_log()
            assert self._index is not None, "an index that was made stays"
            return self._index.within(start, end, limit)

    def _newer_within(self, ranges: Sequence[Span], ts: int) -> tuple[bytes, int] | None:
        """Under the lock: a key in one of the ranges with a version after `ts`, and that version's."""
        heads = self._heads
        if ts >= self._log_base:
            for key in self._log[self._position(ts) :]:
                if any(low <= key and (high is None or key < high) for low, high in ranges):
                    return key, heads[key][0]
            return None
        self._follow_log()
        assert self._index is not None, "a range was scanned, so there is an index"
        for low, high in ranges:
            for key in self._index.every(low, high):
                if heads[key][0] > ts:
                    return key, heads[key][0]
        return None

    def _make_index(self) -> None:
        """Sort all keys, while commits go on."""
        with self._index_making:
            if self._index is not None:
                return
            with self._lock:
                self._unindexed = []
                self._log_indexed = len(self._log)
                keys = list(self._heads)
                remembered, self._remembers = self._remembers, True
            try:
                index = KeyIndex(keys)
                with self._lock:
                    self._follow_log()
                    index.follow(self._unindexed, self._heads)
                    self._index = index
            finally:
                self._unindexed = None
                self._remembers = remembered

    def _follow_log(self) -> None:
        """Under the lock: tell the index the keys that came with the log's newest entries."""
        newest = self._log[self._log_indexed :]
        self._log_indexed = len(self._log)
        if self._index is None:
            if self._unindexed is not None:
                self._unindexed += newest
        elif len(self._index) != len(self._heads):
            self._index.follow(newest, self._heads)
