"""A versioned store in memory: snapshot reads without locks, serialisable commits (EXEC-40 to EXEC-46).

How it keeps its promises:

- A key maps to its head, the newest version. It is either stamped, a pair of timestamp and value, or the
  value alone: then everybody sees it who is here or begins from now on. Reading takes no lock: a head that
  is not newer than the snapshot is the newest of the snapshot. Only who finds a newer one looks into the
  key's chain of versions, under the lock.
- `published` is the largest timestamp all of whose versions are installed. One lock guards validating,
  installing and publishing, so it rises one by one, and nobody begins in the midst of a commit.
- A transaction registers itself without the lock: it reads `published`, enters `_active`, and looks whether
  a pruner has meanwhile set `_horizon` above it; if so it takes a newer snapshot. A pruner sets `_horizon`
  first and looks at `_active` second, so one of the two always sees the other, as in Dekker's algorithm.
- A commit sets `_horizon` as a pruner does, and then sees whether other transactions are open. Where none is,
  it installs bare values. Otherwise it stamps what it installs.
- The log holds what commits wrote, until it is folded into the chains: when it is full, or when somebody asks
  for something older. Ranges that were scanned are validated by it too.
- Where no past is kept and no other transaction is open, nobody can read what a commit displaces, and it goes
  without a log. Else the log tells what was displaced too, so that a key needs a chain only from then on.

The invariants of EXEC-44 are asserted where they could break, in production too.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count, repeat
from operator import sub
from types import MappingProxyType
from typing import Any, TypeVar

import attrs

from supervm.mvcc.errors import BadOperand, Conflict, SnapshotTooOld, VersionPruned
from supervm.mvcc.index import KeyIndex
from supervm.mvcc.pruning import PruneCycle, PruneRules
from supervm.mvcc.transaction import ReadTransaction, Refusing, SnapshotTransaction, Span, Transaction
from supervm.mvcc.versions import HOLE, Version, count_past, find

LOG_KEYS_MAX = 2_048
FORGET_MAX = 4 * LOG_KEYS_MAX
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
        self._heads: dict[bytes, Any] = {}
        self._missing: Version | None = None  # what stands for a key without a head; None: it isn't there
        self._chains: dict[bytes, list[Version]] = {}
        self._sparse: set[bytes] = set()  # keys of chains that have holes behind their first version
        self._published = 0
        self._active: dict[Transaction, None] = {}
        self._horizon = 0
        self._settled_ts = 0  # bare heads that are in no chain and not in the log are not newer
        self._forgotten_ts = 0  # what was before may be gone without a trace

        self._settles = True  # whether commits may install bare values
        self._is_complete = self._rules.versions_max > 1  # whether every version is in the log or a chain
        self._remembers = self._is_complete  # whether the log is kept even where nobody reads

        # Of the commits after _log_base, key by key: what they wrote, bare or stamped, and the heads that
        # these displaced, unless every version is in a chain anyway; and where each commit ends.
        self._log: list[bytes] = []
        self._log_values: list[Any] = []
        self._displaced: list[Any] = []
        self._ends: list[int] = []
        self._log_base = 0
        self._log_max = LOG_KEYS_MAX
        self._log_indexed = 0

        self._index: KeyIndex | None = None
        self._index_making = threading.Lock()
        self._unindexed: list[bytes] | None = None  # touched while the first index is being made

        self._candidates: set[bytes] = set()  # for the next pruning cycle
        self._cycle: PruneCycle | None = None  # of commits that prune
        self._past_versions = 0  # those in chains, heads left out
        self._is_counted = True  # unless somebody was interrupted in the midst of it
        self._versions_added = 0  # since the last cycle began
        self._opened_ts = 0
        self._aborts = 0
        self._conflicts = {"ww": 0, "rw": 0, "range": 0}
        self._gc_count = self._versions_cleaned = self._keys_cleaned = self._last_gc_ts = 0

    # -- transactions

    def begin(self) -> Transaction:
        """A serialisable transaction on what is published now."""
        # `_begun` once more: for small transactions a call costs.
        txn = Transaction()
        txn._store = self
        txn._heads = self._heads
        txn._reads = {}
        txn._writes = {}
        txn._ranges = txn._events = txn._undo = txn._deleted = None
        txn.start_ts = start = self._published
        self._active[txn] = None
        if self._horizon > start:
            with self._lock:
                txn.start_ts = self._published
        return txn

    def begin_snapshot(self) -> SnapshotTransaction:
        """A transaction whose reads aren't validated: isolation level `snapshot`, for reporting jobs."""
        return self._begun(SnapshotTransaction())

    def begin_read_only(self) -> ReadTransaction:
        """A snapshot to read from; it never conflicts."""
        return self._begun(ReadTransaction())

    def _begun(self, txn: T) -> T:
        txn._store = self
        txn._heads = self._heads
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
        start_ts = txn.start_ts
        instead = Refusing(lambda: SnapshotTooOld(start_ts))
        with self._lock:
            if txn not in self._active:
                return False
            # Before it goes, so that it takes nothing that is installed after for its snapshot.
            txn._heads = instead
            del self._active[txn]
            self._aborts += 1
        txn._close(aborted=False, instead=instead)
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
        head = self._heads.get(key)
        if head.__class__ is not tuple or head[0] > ts:
            with self._lock:
                return self._known_at(key, ts)
        if head[1] is HOLE:
            raise VersionPruned(key, ts)
        return head[1]  # type: ignore[no-any-return]

    def _known_at(self, key: bytes, ts: int) -> bytes | None:
        """Under the lock: as `read_at`."""
        self._fold()
        version = find(self._chains.get(key, ()), ts)
        if version is None:
            if key in self._heads:
                version = self._head_of(key)
            if version is None or version[0] > ts:
                version = self._missing
        if version is None:
            if ts < self._forgotten_ts:
                raise VersionPruned(key, ts)
            return None
        if version[1] is HOLE:
            raise VersionPruned(key, ts)
        return version[1]  # type: ignore[no-any-return]

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
            self._count_again()
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

    def _drop_key(self, key: bytes) -> int:
        """Under the lock, with an empty log: forget a key. Returns how long its past was."""
        self._forgotten_ts = max(self._forgotten_ts, self._head_of(key)[0])
        past = count_past(self._chains.pop(key, ()))
        self._past_versions -= past
        del self._heads[key]
        if self._index is not None:
            self._index.follow((key,), self._heads)
        elif self._unindexed is not None:
            self._unindexed.append(key)
        return past

    def _drop_past(self, key: bytes) -> None:
        """Under the lock, with an empty log: forget that a key held something before."""
        if not self._is_complete:
            if len(self._chains[key]) > 1:
                self._forgotten_ts = self._published
            del self._chains[key]

    def _head_of(self, key: bytes) -> Version:
        """Under the lock, with an empty log: the head of a key that has one; bare ones get a timestamp."""
        head = self._heads[key]
        if head.__class__ is tuple:
            return head
        versions = self._chains.get(key)
        return (self._settled_ts, head) if versions is None else versions[-1]

    # -- commits

    def _count_commits(self) -> int:
        return self._published - self._opened_ts

    def _check_writes(self, writes: Mapping[bytes, Any], start: int) -> bytes | None:
        """Under the lock: a key of `writes` that was written after `start`."""
        heads = self._heads
        for key in writes:
            head = heads.get(key)
            if head.__class__ is tuple and head[0] > start:
                return key
        return None

    def _install(self, writes: dict[bytes, Any], ts: int, deleted: Sequence[bytes] | None) -> None:
        """Under the lock: install what a transaction wrote, publish it, and keep what may still be read."""
        if deleted is not None:
            self._candidates.update(deleted)
        is_alone = False
        if self._settles:
            # As a pruner does: whoever isn't seen in `_active` now begins after this commit.
            self._horizon = ts
            is_alone = not self._active
        if is_alone and not self._remembers:
            if self._log or self._chains:
                self._forget_past()
            if not self._chains:
                self._install_alone(writes, ts, deleted)
                return
        displaced: list[Any] = []
        if not self._is_complete:
            head_of, missing = self._heads.get, self._missing
            for key, value in writes.items():
                displaced.append(head_of(key, missing))
                writes[key] = (ts, value)
        elif not is_alone:
            for key, value in writes.items():
                writes[key] = (ts, value)
        values = [*writes.values()]
        end = len(self._log) + len(values)
        try:
            # One call into C, in which no signal handler runs: all is installed or nothing.
            self._heads.update(writes)
        finally:
            # Nothing here calls, so that no signal handler runs in between.
            self._published = ts
            self._log += writes  # its keys
            self._log_values += values
            self._displaced += displaced
            self._ends += (end,)
        if end >= self._log_max:
            self._log_full()

    def _install_alone(self, writes: dict[bytes, Any], ts: int, deleted: Sequence[bytes] | None) -> None:
        """Under the lock: where nobody can read what was before."""
        try:
            # One call into C, in which no signal handler runs: all is installed or nothing.
            self._heads.update(writes)
        finally:
            self._published = self._log_base = self._settled_ts = self._forgotten_ts = ts
        if self._index is not None and self._index.size != len(self._heads):
            self._index.follow(writes, self._heads)
        if deleted is not None:
            self._versions_added += len(deleted)
            self._prune_meanwhile(len(deleted))

    # -- the log

    def _fold(self) -> None:
        """Under the lock: move the whole log into the chains."""
        if self._log:
            self._follow_log()
            try:
                self._chain_up()
                self._candidates.update(self._log)
                self._end_log(len(self._log))
            except BaseException:
                self._is_counted = False
                raise

    def _log_full(self) -> None:
        """Under the lock, in a commit: empty the log."""
        added = len(self._log)
        if self._rules.versions_max > 1:
            self._fold()
        else:
            try:
                self._thin_log()
            except BaseException:
                self._is_counted = False
                raise
        self._prune_meanwhile(added)

    def _prune_meanwhile(self, added: int) -> None:
        """Under the lock: prune a little where nobody else does; `added` versions came."""
        if self._unpruned_max and self._cycle is None and self._versions_added >= self._unpruned_max:
            self._cycle = self._begin_cycle(self._rules)
        if self._cycle is not None:
            self._cycle.slice_locked(2 * added)  # twice as many as came, so that it ends
            if self._cycle.done:
                self._cycle = None

    def _thin_log(self) -> None:
        """Under the lock, where no past is kept: drop what no snapshot can see; chain up the rest if much.

        Of the commits that the oldest snapshot sees, only the newest of each key can be read. It is the head,
        or what the first of the later ones displaced.
        """
        oldest = self._set_horizon()[-1]
        self._follow_log()
        seen = self._position(oldest)
        if seen:
            self._forgotten_ts = max(self._forgotten_ts, oldest)
            if self._chains:
                for key in self._chains.keys() & self._log[:seen]:
                    self._past_versions -= count_past(self._chains.pop(key))
            self._end_log(seen)
        if len(self._log) > self._log_max // 2:
            self._chain_up()
            self._candidates.update(self._log)
            self._end_log(len(self._log))

    def _position(self, ts: int) -> int:
        """Under the lock: where in the log the commits after `ts` begin."""
        if ts <= self._log_base:
            return 0
        assert len(self._ends) == self._published - self._log_base, "timestamps rise one by one (I3)"
        return self._ends[ts - self._log_base - 1]

    def _chain_up(self) -> None:
        """Under the lock: add the versions of the log to their keys' chains.

        Doing it again, after somebody was interrupted, adds nothing.
        """
        chains, is_careful = self._chains, not self._is_counted
        if self._is_complete and not is_careful:
            self._chain_up_all()
            return
        moved = 0
        displaced = self._displaced or repeat(None)
        for key, value, ts, head in zip(
            self._log, self._log_values, self._log_stamps(), displaced, strict=False
        ):
            version = value if value.__class__ is tuple else (ts, value)
            past = chains.get(key)
            if past is None:
                if head is None:
                    chains[key] = [version]
                    continue
                past = chains[key] = [head if head.__class__ is tuple else (self._settled_ts, head)]
                moved -= past[0][1] is HOLE
            elif is_careful and past[-1][0] >= version[0]:
                continue
            past.append(version)
            moved += 1
        self._past_versions += moved

    def _chain_up_all(self) -> None:
        """Under the lock: as `_chain_up`, where nobody was interrupted and chains lack nothing."""
        chains = self._chains
        come = 0
        for key, value, ts in zip(self._log, self._log_values, self._log_stamps(), strict=True):
            version = value if value.__class__ is tuple else (ts, value)
            try:
                chains[key].append(version)
            except KeyError:
                chains[key] = [version]
                come += 1
        self._past_versions += len(self._log) - come

    def _log_stamps(self) -> Iterator[int]:
        """Under the lock: of each key in the log, the timestamp of its commit."""
        counts = map(sub, self._ends, chain((0,), self._ends))
        return chain.from_iterable(map(repeat, count(self._log_base + 1), counts))

    def _end_log(self, upto: int) -> None:
        """Under the lock: drop the log up to a place where a commit ends; what it held is elsewhere."""
        ends = [end - upto for end in self._ends if end > upto]
        base = self._published - len(ends)
        # Nothing here calls, so that no exception from outside leaves a part of it undone.
        self._versions_added += upto
        del self._log[:upto], self._log_values[:upto], self._displaced[:upto]
        self._ends = ends
        self._log_base = base
        self._log_indexed -= upto

    def _forget_past(self) -> None:
        """Under the lock, where no past is kept and nobody reads: drop log and chains, if not too long."""
        if self._past_versions > FORGET_MAX:
            return
        chains: dict[bytes, list[Version]] = {}
        self._follow_log()
        self._forgotten_ts = self._published
        self._chains = chains
        self._past_versions = 0
        self._end_log(len(self._log))

    def _count_again(self) -> None:
        """Under the lock: where a count may be wrong."""
        if not self._is_counted:
            self._past_versions = sum(map(count_past, self._chains.values()))
            self._is_counted = True

    def _version_at(self, key: bytes, ts: int) -> Version | None:
        """Under the lock: the version of `key` at `ts`, where its head is newer."""
        self._fold()
        return find(self._chains.get(key, ()), ts) or self._missing

    # -- for transactions

    def _older(self, txn: Transaction, key: bytes) -> bytes | None:
        """The value of a key in a snapshot, where its head is newer."""
        with self._lock:
            if txn not in self._active:
                raise SnapshotTooOld(txn.start_ts)
            version = self._version_at(key, txn.start_ts)
        if version is None:
            return None
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
        if ts >= self._log_base:
            for key in self._log[self._position(ts) :]:
                if any(low <= key and (high is None or key < high) for low, high in ranges):
                    return key, self._heads[key][0]
            return None
        self._follow_log()
        assert self._index is not None, "a range was scanned, so there is an index"
        for low, high in ranges:
            for key in self._index.every(low, high):
                head = self._heads[key]
                if head.__class__ is tuple and head[0] > ts:
                    return key, head[0]
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
        elif self._index.size != len(self._heads):
            self._index.follow(newest, self._heads)
