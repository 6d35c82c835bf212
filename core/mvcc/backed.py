"""An MVCC store over a key-value backend, which may hold more than fits in memory (EXEC-41, EXEC-50).

Transactions do no I/O: `await txn.fetch(...)` brings what they will read into memory first, and reading
anything else raises `NotFetched`. What was fetched stays as long as its transaction.

Why a fetched value is the right one for every open transaction: a key that isn't in memory is as the
backend has it, since what is not flushed never leaves memory; and it was not written since the oldest open
transaction began, since a key leaves memory only when its head is not newer than that. So its value is
installed at the oldest open snapshot, and what was before is unknown. While something is fetched, nothing
leaves memory.
"""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Any, TypeVar, cast

import attrs
import trio
from attrs.validators import ge

from supervm.contracts.storage import (
    BATCH_BYTES_MAX,
    KEY_BYTES_MAX,
    VALUE_BYTES_MAX,
    KeyValueStore,
    StoreCorrupt,
    StoreTooNew,
    prefix_end,
)
from supervm.mvcc.errors import BadOperand, Busy, NotFetched, SnapshotTooOld, TransactionTooLarge
from supervm.mvcc.pruning import PruneRules
from supervm.mvcc.store import MvccStore
from supervm.mvcc.transaction import (
    CLOSED,
    ReadTransaction,
    Refusing,
    SnapshotTransaction,
    Span,
    Transaction,
)
from supervm.mvcc.versions import HOLE, UNKNOWN
from supervm.storage.spaces import SEAL_BYTES, seal, unseal

FORMAT = 2
ROW_BYTES = 64
"""Added for each row in reckoning the size of what is to be flushed."""
PAGE_ROWS = 1_000
EVICTION_LOOKS = 1_024
"""Keys looked at, beyond twice as many as must go, before memory counts as full."""

B = TypeVar("B", bound="_Backed")


@attrs.frozen(kw_only=True)
class BackedConfig:
    """Where a store lives in its backend, and its bounds.

    `prefix` begins every key of it there. `resident`: everything is loaded when it opens and stays, and
    nothing needs to be fetched; else at most `keys_max` keys are in memory. `dirty_bytes_max`: what waits
    to be flushed; at the bound commits raise `Busy`. A flush is one batch, so the backend's limit bounds it.
    """

    prefix: bytes = b"mvcc/"
    resident: bool = True
    keys_max: int = attrs.field(default=1_000_000, validator=ge(1))
    dirty_bytes_max: int = attrs.field(default=BATCH_BYTES_MAX // 2, validator=ge(1))

    @dirty_bytes_max.validator
    def _fits_a_batch(self, _: Any, value: int) -> None:
        if value > BATCH_BYTES_MAX // 2:
            raise ValueError(f"dirty_bytes_max is {value}; a batch takes {BATCH_BYTES_MAX // 2} at most")


def row_key(prefix: bytes, key: bytes) -> bytes:
    """Where the backend keeps `key`."""
    return prefix + b"k" + key


def marker_key(prefix: bytes) -> bytes:
    """Where the backend keeps the timestamp of the last flush."""
    return prefix + b"flushed"


def encode_marker(ts: int, key: bytes) -> bytes:
    """u8 format || u64 ts (little-endian) || seal, as of every row that is flushed."""
    return seal(key, bytes((FORMAT,)) + ts.to_bytes(8, "little"))


def decode_marker(stored: bytes, key: bytes) -> int:
    """The timestamp of a marker. Raises `StoreTooNew` or `StoreCorrupt`."""
    if len(stored) == 9 and stored[0] == 1:
        raise StoreCorrupt(
            "MVCC format 1, whose rows had no checksums", key.hex(), "Begin with another prefix."
        )
    data = unseal(key, stored)
    if data[:1] > bytes((FORMAT,)):
        raise StoreTooNew(f"MVCC format {data[0]}", key.hex(), f"This program knows {FORMAT}.")
    if len(data) != 9 or data[0] != FORMAT:
        raise StoreCorrupt("not a flush marker", key.hex(), "Restore the folder from a checkpoint.")
    return int.from_bytes(data[1:], "little")


class _Backed(Transaction):
    """What transactions over a backend add: fetching, and telling what was not fetched."""

    __slots__ = ("_fetched", "_pinned")

    _store: "BackedStore"
    _fetched: list[Span]
    _pinned: set[bytes]

    async def fetch(self, keys: Iterable[bytes] = (), *, prefix: bytes | None = None) -> None:
        """Bring `keys`, and every key that begins with `prefix`, into memory for this transaction.

        Raises `Busy` where memory is full of what others use, `SnapshotTooOld` where a key was written by
        others before it was fetched, and what the backend raises.
        """
        self._check_open()
        await self._store._fetch(self, list(keys))
        if prefix is not None:
            await self._store._fetch_prefix(self, prefix)

    def read(self, key: bytes) -> bytes | None:
        if self._store._missing is None or key.__class__ is not bytes:
            return super().read(key)
        if key in self._writes or key in self._pinned:
            return super().read(key)
        if not self._is_fetched(key, key + b"\0"):
            raise NotFetched(key)
        # It wasn't there when its range was fetched, and if it came since, this snapshot doesn't see it.
        self._reads[key] = None
        return None

    def write(self, key: bytes, value: bytes) -> None:
        self._check_row(key, value)
        super().write(key, value)

    def delete(self, key: bytes) -> None:
        self._check_row(key, b"")
        super().delete(key)

    def _check_row(self, key: bytes, value: bytes) -> None:
        """Refuse what the backend wouldn't take, and a flush could never write."""
        if key.__class__ is not bytes or value.__class__ is not bytes:
            return  # which the next step refuses
        if len(key) > self._store._key_bytes_max or len(value) > VALUE_BYTES_MAX - SEAL_BYTES:
            raise BadOperand(f"a row of {len(key)} and {len(value)} bytes", key, "hash or split it", "key")

    def _look(self, key: bytes) -> bytes | None:
        if self._store._missing is None or key in self._pinned:
            return super()._look(key)
        return None

    def _check_scan(self, start: bytes, end: bytes | None) -> None:
        self._check_open()
        if self._store._missing is UNKNOWN and not self._is_fetched(start, end):
            raise NotFetched(start)

    def _is_fetched(self, start: bytes, end: bytes | None) -> bool:
        return any(
            low <= start and (high is None or (end is not None and end <= high))
            for low, high in self._fetched
        )

    def commit(self) -> int:
        size = sum(ROW_BYTES + len(key) + len(value or b"") for key, value in self._writes.items())
        try:
            if size:
                self._store._make_room(size)
        except BaseException:
            self._close(aborted=True)
            raise
        try:
            return super().commit()
        finally:
            self._unpin()

    def _close(self, aborted: bool, instead: Refusing = CLOSED) -> None:
        self._unpin()
        super()._close(aborted, instead)

    def _unpin(self) -> None:
        pinned, self._pinned = self._pinned, set()
        if pinned:
            self._store._unpin(pinned)


class BackedTransaction(_Backed):
    """A serialisable transaction that fetches."""

    __slots__ = ()


class BackedSnapshotTransaction(_Backed, SnapshotTransaction):
    """A transaction that fetches, whose reads aren't validated."""

    __slots__ = ()


class BackedReadTransaction(_Backed, ReadTransaction):
    """A snapshot to fetch and read from."""

    __slots__ = ()


class BackedStore(MvccStore):
    """See the module; made by `open_backed`. `supervm.mvcc.flusher` writes it to the backend."""

    def __init__(
        self, backend: KeyValueStore, config: BackedConfig, published: int, rules: PruneRules | None = None
    ) -> None:
        super().__init__(rules=rules)
        self.backend = backend
        self.config = config
        self._missing = None if config.resident else UNKNOWN
        self._published = self._log_base = self._forgotten_ts = self._opened_ts = published
        self._settles = self._is_complete = False
        self._remembers = True  # the log tells what is to be flushed
        self._key_bytes_max = KEY_BYTES_MAX - len(row_key(config.prefix, b""))
        self._fetching = 0
        self._pins: dict[bytes, int] = {}
        self._order: dict[bytes, None] = {}  # keys in memory, the longest not fetched or written first
        self._dirty: set[bytes] = set()  # of the folded log; not of what is being flushed
        self._in_flush: frozenset[bytes] = frozenset()
        self._dirty_bytes = 0  # at most: a key written twice counts twice, and a conflict counts too
        self._flush_lock = trio.Lock()

    def begin(self) -> BackedTransaction:
        return self._begun_backed(BackedTransaction())

    def begin_snapshot(self) -> BackedSnapshotTransaction:
        return self._begun_backed(BackedSnapshotTransaction())

    def begin_read_only(self) -> BackedReadTransaction:
        return self._begun_backed(BackedReadTransaction())

    def _begun_backed(self, txn: B) -> B:
        txn._fetched = []
        txn._pinned = set()
        return self._begun(txn)

    def read_at(self, key: bytes, ts: int) -> bytes | None:
        if self._missing is UNKNOWN and key not in self._heads:
            raise NotFetched(key)
        return super().read_at(key, ts)

    def dirty_keys(self) -> int:
        """Keys that a flush would write now."""
        with self._lock:
            self._fold()
            return len(self._dirty)

    # -- fetching

    async def _fetch(self, txn: _Backed, keys: Sequence[bytes]) -> None:
        for key in keys:
            if key.__class__ is not bytes:
                raise BadOperand("a key must be bytes", type(key).__name__, "encode it first", "key")
        with self._lock:
            self._pin(txn, keys)
            wanted = [key for key in dict.fromkeys(keys) if key not in self._heads]
            self._fetching += 1
        try:
            for at in range(0, len(wanted), PAGE_ROWS):
                page = wanted[at : at + PAGE_ROWS]
                rows = [row_key(self.config.prefix, key) for key in page]
                stored = await self.backend.get_many(rows)
                values = [
                    None if data is None else unseal(row, data)
                    for row, data in zip(rows, stored, strict=True)
                ]
                self._take_in(txn, list(zip(page, values, strict=True)))
        finally:
            with self._lock:
                self._fetching -= 1
        with self._lock:
            self._check_readable(txn, keys)

    async def _fetch_prefix(self, txn: _Backed, prefix: bytes) -> None:
        self._make_index()
        begins = row_key(self.config.prefix, b"")
        with self._lock:
            self._fetching += 1
        try:
            page: list[tuple[bytes, bytes | None]] = []
            async with aclosing(_rows(self.backend, begins + prefix)) as rows:
                async for row, stored in rows:
                    page.append((row[len(begins) :], unseal(row, stored)))
                    if len(page) == PAGE_ROWS:
                        self._take_in_pinned(txn, page)
                        page = []
            self._take_in_pinned(txn, page)
            with self._lock:
                # What was committed and not flushed is in memory, and belongs to the range as well.
                self._follow_log()
                assert self._index is not None, "an index that was made stays"
                keys = list(self._index.every(prefix, prefix_end(prefix)))
                self._pin(txn, keys)
                self._check_readable(txn, keys)
                txn._fetched.append((prefix, prefix_end(prefix)))
        finally:
            with self._lock:
                self._fetching -= 1

    def _take_in_pinned(self, txn: _Backed, rows: Sequence[tuple[bytes, bytes | None]]) -> None:
        with self._lock:
            self._pin(txn, [key for key, _ in rows])
        self._take_in(txn, rows)

    def _take_in(self, txn: _Backed, rows: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Bring what the backend holds into memory, where it isn't there already."""
        with self._lock:
            self._check_active(txn)
            come = [(key, value) for key, value in rows if key not in self._heads]
            self._evict(len(come), is_needed=True)
            ts = self.oldest_active()
            for key, value in come:
                self._heads[key] = (ts, value)
            if self._index is not None:
                self._index.follow([key for key, _ in come], self._heads)
            elif self._unindexed is not None:
                self._unindexed += [key for key, _ in come]

    def _check_active(self, txn: _Backed) -> None:
        if txn not in self._active:
            raise SnapshotTooOld(txn.start_ts)

    def _check_readable(self, txn: _Backed, keys: Iterable[bytes]) -> None:
        """Under the lock: whether the transaction can read all of them in its snapshot."""
        self._check_active(txn)
        for key in keys:
            head = self._heads[key]
            if head[0] > txn.start_ts:
                version = self._version_at(key, txn.start_ts)
                if version is not None and version[1] is HOLE:
                    # Written unread by another one since, so that what was before is not known any more.
                    raise SnapshotTooOld(txn.start_ts)

    def _pin(self, txn: _Backed, keys: Iterable[bytes]) -> None:
        """Under the lock: keep the keys in memory while the transaction is open."""
        self._check_active(txn)
        for key in keys:
            if key not in txn._pinned:
                txn._pinned.add(key)
                self._pins[key] = self._pins.get(key, 0) + 1
            if self._missing is UNKNOWN:
                self._order.pop(key, None)
                self._order[key] = None
        if self._missing is UNKNOWN and len(self._pins) > self.config.keys_max:
            raise Busy(
                "open transactions fetched more keys than memory may hold",
                len(self._pins),
                f"fetch less at once; the limit is {self.config.keys_max}",
                "keys_max",
            )

    def _unpin(self, keys: Iterable[bytes]) -> None:
        with self._lock:
            for key in keys:
                left = self._pins[key] - 1
                if left:
                    self._pins[key] = left
                else:
                    del self._pins[key]

    def _evict(self, coming: int, is_needed: bool) -> None:
        """Under the lock: make room for so many keys; raises `Busy` where it is needed and can't be made."""
        over = len(self._heads) + coming - self.config.keys_max
        if self._missing is not UNKNOWN or over <= 0:
            return
        self._fold()
        oldest = self._set_horizon()[-1]
        for key in list(islice(self._order, 2 * over + EVICTION_LOOKS)):
            del self._order[key]
            if key not in self._heads:
                continue
            if key in self._pins or self._heads[key][0] > oldest or not self._is_flushed(key):
                self._order[key] = None
                continue
            self._drop_key(key)
            over -= 1
            if not over:
                return
        if is_needed:
            raise Busy("memory is full of keys in use", self.config.keys_max, "flush, or end transactions")

    def _is_flushed(self, key: bytes) -> bool:
        """Under the lock: whether the backend has what memory has, of keys that aren't in the log."""
        return key not in self._dirty and key not in self._in_flush

    def _may_drop(self, key: bytes, ts: int) -> bool:
        is_free = not self._fetching and key not in self._pins
        return is_free and self._is_flushed(key) and ts <= self._log_base

    def _end_log(self, upto: int) -> None:
        keys = self._log[:upto]
        self._dirty.update(keys)
        if self._missing is UNKNOWN:
            self._order.update(dict.fromkeys(keys))
        super()._end_log(upto)

    # -- what waits to be flushed

    def _make_room(self, size: int) -> None:
        """Reckon so many bytes more; raises `Busy` at the bound."""
        limit = self.config.dirty_bytes_max
        if size > limit:
            raise TransactionTooLarge(f"{size} bytes in one transaction", size, f"the limit is {limit}")
        with self._lock:
            if self._dirty_bytes + size > limit:
                self._fold()
                self._dirty_bytes = sum(self._row_bytes(key) for key in self._dirty)
            if self._dirty_bytes + size > limit:
                raise Busy("too much waits to be flushed", self._dirty_bytes, "flush, then try again")
            self._dirty_bytes += size

    def _row_bytes(self, key: bytes) -> int:
        return ROW_BYTES + len(key) + len(self._heads[key][1] or b"")


def _rows(backend: KeyValueStore, prefix: bytes) -> AsyncGenerator[tuple[bytes, bytes], None]:
    return cast(AsyncGenerator[tuple[bytes, bytes], None], backend.scan_prefix(prefix))


async def open_backed(
    backend: KeyValueStore, config: BackedConfig | None = None, *, rules: PruneRules | None = None
) -> BackedStore:
    """A store with what was flushed to `backend`, published at the last flush's timestamp.

    Raises `StoreCorrupt` for a damaged row, `StoreTooNew`, and what the backend raises.
    """
    chosen = BackedConfig() if config is None else config
    key = marker_key(chosen.prefix)
    marker = await backend.get(key)
    published = 0 if marker is None else decode_marker(marker, key)
    store = BackedStore(backend, chosen, published, rules)
    if chosen.resident:
        begins = row_key(chosen.prefix, b"")
        async with aclosing(_rows(backend, begins)) as rows:
            async for row, stored in rows:
                store._heads[row[len(begins) :]] = (published, unseal(row, stored))
    return store
