"""Transactions: what a caller holds between begin and commit (EXEC-41 to EXEC-47).

A transaction belongs to one thread at a time; different transactions may run in different threads. It
buffers its writes, remembers what it read, and is checked and installed in one critical section:

    validate   of every key read or written, and in every range scanned, no version is newer than start_ts
    install    all versions get the timestamp published + 1, by one call that can't fail half-way
    publish    published rises to it; from here on others may see them

This code is the hot path of interactive work, so it is written for what CPython does fast: slots, dicts,
no layers. A closed transaction pays for the check that it is closed, an open one doesn't: its containers
are exchanged for one that refuses every use.
"""

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from supervm.contracts.storage import prefix_end
from supervm.mvcc.errors import (
    BadOperand,
    Conflict,
    MvccError,
    NoSavepoint,
    RangeConflict,
    ReadOnlyTransaction,
    ReadWriteConflict,
    SnapshotTooOld,
    TooManySavepoints,
    TransactionClosed,
    TransactionTooLarge,
    WriteWriteConflict,
)

if TYPE_CHECKING:
    from supervm.mvcc.store import MvccStore

SAVEPOINTS_MAX = 1_024
WRITES_MAX = 500_000
"""Keys that one transaction may write: a flush writes them in one batch, which holds 1,000,000."""
PAGE = 256

Span = tuple[bytes, bytes | None]
"""Keys k with start <= k < end; an end of None is the end of all keys."""


class Refusing(dict[bytes, Any]):
    """Stands where the containers of a closed transaction were, and raises for whatever is done to it."""

    def __init__(self, error: Callable[[], MvccError]) -> None:
        self.error = error

    def refuse(self, *_: object) -> NoReturn:
        raise self.error()

    __bool__ = __contains__ = __getitem__ = __iter__ = __len__ = __setitem__ = refuse
    get = items = keys = refuse


CLOSED = Refusing(TransactionClosed)


class Transaction:
    """A serialisable transaction; made by `MvccStore.begin()`. A context manager: leaving it without a
    commit aborts.

    Keys and values are `bytes`; a value of None is no value. Every call but `events` raises
    `TransactionClosed` after `commit` or `abort`, and `SnapshotTooOld` once the store has aborted it for
    its age.
    """

    __slots__ = (
        "_deleted",
        "_events",
        "_heads",
        "_marks",
        "_ranges",
        "_reads",
        "_store",
        "_undo",
        "_writes",
        "start_ts",
    )

    start_ts: int
    """The snapshot: what was published when the transaction began."""
    _store: "MvccStore"
    _heads: dict[bytes, Any]
    _reads: dict[bytes, None]
    _writes: dict[bytes, Any]
    _deleted: list[bytes] | None
    _ranges: list[Span] | None
    _events: list[object] | None
    _undo: list[tuple[bytes, bool, bytes | None]] | None  # None until the first savepoint
    _marks: list[tuple[int, int]]  # of each savepoint, how long the undo log and the events were

    # -- reading

    def read(self, key: bytes) -> bytes | None:
        """Its own write, else the value in its snapshot; None where there is none. The key is recorded."""
        if key.__class__ is not bytes:
            raise _bad_key(key)
        writes = self._writes
        if writes and key in writes:
            return writes[key]  # type: ignore[no-any-return]
        self._reads[key] = None
        heads = self._heads
        head = heads.get(key)
        if head.__class__ is tuple:
            if head[0] > self.start_ts:
                return self._store._older(self, key)
            return head[1]  # type: ignore[no-any-return]
        if self._heads is not heads:
            len(self._heads)  # which raises: it was given up meanwhile
        return head

    def read_many(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """The values of many keys, in their order. Each is recorded."""
        read = self.read
        return [read(key) for key in keys]

    def scan(self, prefix: bytes = b"", limit: int | None = None) -> list[tuple[bytes, bytes]]:
        """The rows whose keys begin with `prefix`, in bytewise order, its own writes among them.

        At most `limit` of them. The range that was looked at is recorded: the whole prefix, or up to the
        last row where the limit ended it.
        """
        if prefix.__class__ is not bytes:
            raise _bad_key(prefix)
        return self.scan_range(prefix, prefix_end(prefix), limit)

    def scan_range(
        self, start: bytes, end: bytes | None = None, limit: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """As `scan`, of the rows with start <= key < end; an end of None is the end of all."""
        if start.__class__ is not bytes or (end is not None and end.__class__ is not bytes):
            raise BadOperand("a bound must be bytes", (start, end), "encode it first", "range")
        if limit is not None and limit < 0:
            raise BadOperand("a limit is negative", limit, "use None for no limit", "limit")
        self._check_scan(start, end)
        rows: list[tuple[bytes, bytes]] = []
        if limit == 0 or (end is not None and end <= start):
            return rows
        for key, value in self._rows(start, end):
            rows.append((key, value))
            if len(rows) == limit:
                end = key + b"\0"
                break
        if self._ranges is None:
            self._ranges = []
        self._ranges.append((start, end))
        return rows

    def _rows(self, start: bytes, end: bytes | None) -> Iterable[tuple[bytes, bytes]]:
        """What is there for this transaction, in order, in pages so that no commit waits for long."""
        own = sorted(key for key in self._writes if start <= key and (end is None or key < end))
        at = 0
        while True:
            page = self._store._keys_within(start, end, PAGE)
            last = page[-1] if len(page) == PAGE else None
            upto = at
            while upto < len(own) and (last is None or own[upto] <= last):
                upto += 1
            for key in sorted({*page, *own[at:upto]}):
                value = self._writes[key] if key in self._writes else self._look(key)
                if value is not None:
                    yield key, value
            if last is None:
                return
            at = upto
            start = last + b"\0"

    def _look(self, key: bytes) -> bytes | None:
        """The value in the snapshot, without recording: the range is recorded instead."""
        heads = self._heads
        head = heads.get(key)
        if head.__class__ is tuple:
            if head[0] > self.start_ts:
                return self._store._older(self, key)
            return head[1]  # type: ignore[no-any-return]
        if self._heads is not heads:
            len(self._heads)
        return head

    def _check_scan(self, start: bytes, end: bytes | None) -> None:
        """A place for stores that don't hold every key in memory."""
        self._check_open()

    # -- writing

    def write(self, key: bytes, value: bytes) -> None:
        """Set the value of a key, seen by this transaction alone until it commits."""
        if key.__class__ is not bytes or value.__class__ is not bytes:
            raise _bad_key(key) if key.__class__ is not bytes else _bad_value(key, value)
        if self._undo is not None:
            self._undo.append((key, key in self._writes, self._writes.get(key)))
        self._writes[key] = value

    def delete(self, key: bytes) -> None:
        """Remove a key. Removing an absent one is not an error."""
        if key.__class__ is not bytes:
            raise _bad_key(key)
        if self._undo is not None:
            self._undo.append((key, key in self._writes, self._writes.get(key)))
        self._writes[key] = None
        if self._deleted is None:
            self._deleted = []
        self._deleted.append(key)

    def emit(self, event: object) -> None:
        """Add an event; it counts only if the transaction commits. Give a value that doesn't change."""
        self._check_open()
        if self._events is None:
            self._events = []
        self._events.append(event)

    def events(self) -> tuple[object, ...]:
        """The events so far, in order; those of a committed transaction stay readable. None of an aborted."""
        return tuple(self._events or ())

    # -- what it touched

    def read_set(self) -> frozenset[bytes]:
        """The keys that were looked up in the snapshot."""
        return frozenset(self._reads.keys())

    def read_ranges(self) -> tuple[Span, ...]:
        """The ranges that were scanned."""
        self._check_open()
        return tuple(self._ranges or ())

    def write_set(self) -> frozenset[bytes]:
        """The keys that were written or deleted."""
        return frozenset(self._writes.keys())

    def is_read_only(self) -> bool:
        """Whether writing is refused."""
        return False

    # -- savepoints (EXEC-47)

    def savepoint(self) -> int:
        """Remember where the writes and events stand; returns the new depth. At most 1,024 at once."""
        self._check_open()
        if self._undo is None:
            self._undo = []
            self._marks = []
        if len(self._marks) >= SAVEPOINTS_MAX:
            raise TooManySavepoints(
                "too many savepoints", len(self._marks), f"release some; the limit is {SAVEPOINTS_MAX}"
            )
        self._marks.append((len(self._undo), len(self._events or ())))
        return len(self._marks)

    def rollback(self) -> None:
        """Put writes and events back as they were at the last savepoint, and forget it.

        What was read since stays in the read set: the caller may have decided by it.
        """
        undone, events = self._pop("rollback()")
        writes, undo = self._writes, self._undo
        assert undo is not None, "a savepoint makes an undo log"
        while len(undo) > undone:
            key, was_there, value = undo.pop()
            if was_there:
                writes[key] = value
            else:
                del writes[key]
        if self._events is not None:
            del self._events[events:]
        if not self._marks:
            self._undo = None

    def release(self) -> None:
        """Keep what was done since the last savepoint, and forget it."""
        self._pop("release()")
        if not self._marks:
            self._undo = None

    def depth(self) -> int:
        """How many savepoints there are."""
        self._check_open()
        return 0 if self._undo is None else len(self._marks)

    def _pop(self, call: str) -> tuple[int, int]:
        self._check_open()
        if self._undo is None or not self._marks:
            raise NoSavepoint(call)
        return self._marks.pop()

    # -- the end

    def commit(self) -> int:
        """Validate, install and publish; returns the commit timestamp.

        With nothing written nothing happens, and it returns `start_ts`: what was read was true then. A
        `Conflict` closes the transaction with nothing installed.
        """
        writes = self._writes
        store = self._store
        if not writes:
            try:
                del store._active[self]
            except KeyError:
                raise SnapshotTooOld(self.start_ts) from None
            self._writes = self._reads = self._heads = CLOSED
            return self.start_ts
        start = self.start_ts
        try:
            if len(writes) > WRITES_MAX:
                raise _too_large(len(writes))
            with store._lock:
                try:
                    del store._active[self]
                except KeyError:
                    raise SnapshotTooOld(start) from None
                ts = store._published
                if ts != start:
                    self._validate(start)
                    key = store._check_writes(writes, start)
                    if key is not None:
                        raise self._conflict(WriteWriteConflict, key, store._heads[key][0])
                ts += 1
                if store._remembers or not store._settles or self._deleted is not None:
                    store._install(writes, ts, self._deleted)
                else:
                    # `_install` once more, of what is most often so: for small transactions a call costs.
                    store._horizon = ts
                    if store._active or store._log or store._chains:
                        store._install(writes, ts, None)
                    else:
                        try:
                            # One call into C, in which no signal handler runs: all is installed or nothing.
                            store._heads.update(writes)
                        finally:
                            store._published = store._log_base = store._settled_ts = store._forgotten_ts = ts
                        if store._index is not None and store._index.size != len(store._heads):
                            store._index.follow(writes, store._heads)
        except BaseException:
            self._close(aborted=True)
            raise
        self._writes = self._reads = self._heads = CLOSED
        return ts

    def abort(self) -> None:
        """Forget everything."""
        self._check_open()
        self._close(aborted=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writes.__class__ is dict:
            self._close(aborted=True)

    def _check_open(self) -> None:
        len(self._writes)  # which raises once closed

    def _validate(self, start: int) -> None:
        """Called under the lock where others have committed since; raises a `Conflict`."""
        heads = self._heads
        for key in self._reads:
            head = heads.get(key)
            if head.__class__ is tuple and head[0] > start:
                kind = WriteWriteConflict if key in self._writes else ReadWriteConflict
                raise self._conflict(kind, key, head[0])
        if self._ranges is not None:
            found = self._store._newer_within(self._ranges, start)
            if found is not None:
                raise self._conflict(RangeConflict, *found)

    def _conflict(self, kind: type[Conflict], key: bytes, conflicting_ts: int) -> Conflict:
        self._store._count_conflict(kind)
        return kind(key, self.start_ts, conflicting_ts)

    def _close(self, aborted: bool, instead: Refusing = CLOSED) -> None:
        """Let go of everything, and of the snapshot."""
        self._writes = self._reads = self._heads = instead
        if aborted:
            self._events = None
            self._store._forget(self)


class SnapshotTransaction(Transaction):
    """Isolation level `snapshot`: reads aren't validated, so write skew is possible (EXEC-45).

    For reports that write their own results; never in a block.
    """

    __slots__ = ()

    def _validate(self, start: int) -> None:
        """Only written keys count, and `commit` looks at those itself."""


class ReadTransaction(Transaction):
    """A snapshot to read from; made by `begin_read_only()`. Writing raises `ReadOnlyTransaction`."""

    __slots__ = ()

    def write(self, key: bytes, value: bytes) -> None:
        self._check_open()
        raise ReadOnlyTransaction("write()")

    def delete(self, key: bytes) -> None:
        self._check_open()
        raise ReadOnlyTransaction("delete()")

    def emit(self, event: object) -> None:
        self._check_open()
        raise ReadOnlyTransaction("emit()")

    def is_read_only(self) -> bool:
        return True


def _bad_key(key: object) -> BadOperand:
    return BadOperand("a key must be bytes", type(key).__name__, "encode it first", "key")


def _bad_value(key: bytes, value: object) -> BadOperand:
    mend = "use delete() to remove a key" if value is None else "encode it first"
    return BadOperand(f"the value of {key!r} must be bytes", type(value).__name__, mend, "value")


def _too_large(writes: int) -> TransactionTooLarge:
    return TransactionTooLarge(
        "the transaction writes too many keys", writes, f"split it; the limit is {WRITES_MAX}", "writes"
    )
