"""The storage role: ordered byte keys, snapshot reads, atomic batches with a stated durability.

A component yields a `KeyValueStore`; its lifetime is the context manager. Every call is async and may be
cancelled: a read stops, a write has happened fully or not at all. What the backend can't promise is said
by `capabilities` and `gives`, and the caller adapts by those, never by type. Each method either does what
it says or raises a `StorageError`; none swallows one.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import IntEnum
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias, cast, runtime_checkable

import attrs

from supervm.kernel.component import Health

# The limits of every backend, so that a store can be moved to another. LMDB's keys end at 511 bytes.
KEY_BYTES_MAX = 480
VALUE_BYTES_MAX = 16 * 2**20
BATCH_BYTES_MAX = 64 * 2**20
BATCH_OPERATIONS_MAX = 1_000_000
READ_KEYS_MAX = 1_000_000
PAGE_ROWS_MAX = 1_000
PAGE_BYTES_MAX = 2**20
SNAPSHOT_AGE_S_MAX = 600.0
FORMAT = 1

CAPABILITIES = frozenset(
    {
        "persistent",
        "checkpoint",
        "compaction",
        "properties",
        "delete_range_native",
        "online_prune",
        "multi_process",
    }
)


class Durability(IntEnum):
    """What an acknowledged batch survives. A higher level includes the lower ones.

    MEMORY: nothing. BUFFERED: the process dying; after power loss the store holds a prefix of the
    batches. DURABLE: power loss.
    """

    MEMORY = 0
    BUFFERED = 1
    DURABLE = 2


class Put(NamedTuple):
    """Set `key` (1..480 bytes) to `value` (0..16 MiB).

    A tuple, because it is also the row that most engines' own calls take, and batches have a million.
    """

    key: bytes
    value: bytes


def puts_of(rows: Iterable[tuple[bytes, bytes]]) -> list[Put]:
    """A `Put` of each (key, value), sooner than by calling it for each. Raises `BadKey` for another shape."""
    puts = list(map(partial(tuple.__new__, Put), rows))
    if not set(map(len, puts)) <= {2}:
        raise BadKey("a row is a key and a value", "", "Give pairs of bytes.")
    return puts


@attrs.frozen
class Delete:
    """Remove `key`. Removing an absent one is not an error."""

    key: bytes


@attrs.frozen
class DeleteRange:
    """Remove every key k with start <= k < end; `end` None is the end of the store.

    It acts at its place in the batch: on what earlier operations put, not on what later ones put.
    """

    start: bytes
    end: bytes | None


Operation: TypeAlias = Put | Delete | DeleteRange
WriteBatch: TypeAlias = Sequence[Operation]


@attrs.frozen(kw_only=True)
class StoreStats:
    """Counts at one moment. `extras` are the backend's own, by the names of its metrics.

    `disk_free_bytes` and `disk_bytes`, the size of that disk, are None where the store is not on one.
    `disk_kept_bytes`: a batch that would leave less free is refused with `DiskFull`; 0 where the disk itself
    decides. `stalled_s`: how long writes have waited because the engine was behind. Counts are since open.
    """

    keys_estimate: int
    bytes: int
    cache_hits: int = 0
    cache_misses: int = 0
    disk_free_bytes: int | None = None
    disk_bytes: int | None = None
    disk_kept_bytes: int = 0
    stalled_s: float = 0.0
    snapshots_open: int = 0
    extras: Mapping[str, float] = attrs.field(factory=dict)


class StorageError(Exception):
    """Base of all that a store may raise. `subject` is the path or the key's first bytes in hex."""

    def __init__(self, problem: str, subject: object = "", mend: str = "") -> None:
        self.problem = problem
        self.subject = str(subject)
        self.mend = mend
        text = f"{problem}: {self.subject}" if self.subject else problem
        super().__init__(f"{text}. {mend}" if mend else text)


class TooLarge(StorageError):
    """A key, value, batch or read is over its limit; nothing was written."""


class BadKey(StorageError):
    """A key is empty, or a key, bound or value is not bytes; nothing was written."""


class StoreLocked(StorageError):
    """Another opener, in this process or another, has the store."""


class StoreTooNew(StorageError):
    """The store was written by a newer format than this program knows."""


class StoreCorrupt(StorageError):
    """What is on the disk is not what was written, or is not a store at all."""


class StoreFailed(StorageError):
    """A write or sync failed with an I/O error: what is durable is unknown, and the store refuses all."""


class DiskFull(StorageError):
    """No space for the batch: nothing of it was applied, and the store goes on serving reads."""


class SnapshotExpired(StorageError):
    """The snapshot is older than `snapshot_age_s_max`, or was closed."""


class SnapshotsExhausted(StorageError):
    """As many snapshots and unfinished scans are open as the store allows."""


class Unsupported(StorageError):
    """The backend lacks the capability."""


class ReadOnly(StorageError):
    """The folder or file can't be written."""


class RemoteUnavailable(StorageError):
    """No other node answered (remote stores)."""


class RemoteUnproven(StorageError):
    """Another node's answer came without a valid proof (remote stores)."""


PASSING = (SnapshotExpired, SnapshotsExhausted, RemoteUnavailable)
"""What may be right again by itself: work that can wait tries again later."""


class Reader(Protocol):
    """Reads. On a store each call sees the newest committed data; on a snapshot always the same."""

    async def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None where there is none. An empty value is b"", not None.

        Raises `BadKey`, `TooLarge`, `StoreFailed`, `StoreCorrupt`, `SnapshotExpired`.
        """

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of up to 1,000,000 keys from one consistent view, in the order of `keys`.

        A key may appear twice. Raises as `get` does.
        """

    def scan(
        self,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        """Rows with start <= key < end in bytewise order, or its reverse; at most `limit` of them.

        An async generator over one consistent view, taken at the first step and unaffected by later
        writes. Rows are read in pages of at most 1,000 rows or 1 MiB (one larger row is a page). Close
        it (`contextlib.aclosing`) when leaving early: an open one counts as a snapshot, and expires as
        one does. Raises as `get` does, and `SnapshotsExhausted`.
        """

    def scan_prefix(
        self, prefix: bytes, *, reverse: bool = False, limit: int | None = None
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        """`scan` over the keys that begin with `prefix`; b"" is the whole store."""


@runtime_checkable
class KeyValueStore(Reader, Protocol):
    """An open store. Safe for many tasks at once; all methods are checkpoints."""

    @property
    def capabilities(self) -> frozenset[str]:
        """What this backend can do, of `CAPABILITIES`."""

    @property
    def gives(self) -> Mapping[Durability, Durability]:
        """For each level asked, the level that is given: never less, except where not `persistent`."""

    def snapshot(self) -> AbstractAsyncContextManager[Reader]:
        """A frozen view of the newest committed data, unaffected by later writes.

        Expires after `snapshot_age_s_max` seconds; reading it then, or after leaving the context,
        raises `SnapshotExpired`. Raises `SnapshotsExhausted` where too many are open.
        """

    async def write(self, batch: WriteBatch, durability: Durability = Durability.DURABLE) -> None:
        """Apply a batch: all of it or nothing, visible to all readers at once, in order, last wins.

        Returns when the batch survives what `durability` names. Batches become durable in the order
        they were applied, so that after a crash the store holds a prefix of them. Concurrent callers
        may share one sync. An empty batch changes nothing; a DURABLE one still waits for a sync of all
        before it. Cancelled: applied fully or not at all; a write already begun is finished first.

        Raises `TooLarge`, `BadKey` or `DiskFull` with nothing applied; `StoreFailed` where it is
        unknown what is on the disk, and from then on for every call.
        """

    async def checkpoint(self, path: Path) -> None:
        """Write a consistent copy of the store to `path`, which must not exist, while serving.

        It is made at `path` + ".tmp", synced and renamed, so a partial one never has the name; an
        older ".tmp" is replaced. A component of the same name opens it as its folder. Raises
        `Unsupported` without the capability, `ReadOnly`, `DiskFull`, or `StorageError` if `path` exists.
        """

    async def compact(self, start: bytes = b"", end: bytes | None = None) -> None:
        """Give back the space of what was overwritten or deleted. `Unsupported` without `compaction`."""

    async def get_property(self, name: str) -> str | None:
        """A property of the engine by its own name, or None. `Unsupported` without `properties`."""

    async def stats(self) -> StoreStats:
        """Statistics now; also what the component's metrics are set from."""

    async def health(self) -> Health:
        """`failing` once the store has failed, `degraded` where the disk is full, else `ok`. No I/O."""


@attrs.frozen(kw_only=True)
class ClassFacts:
    """A class of a store that has several: `rows` that lie in it, of those that may move, and their bytes."""

    name: str
    over: str
    path: str
    rows: int
    bytes: int


@attrs.frozen(kw_only=True)
class PlannedMove:
    """What belongs into another class, and why: `units` are parts that move as one."""

    source: str
    target: str
    trigger: str
    why: str
    units: int
    rows: int
    bytes: int


@attrs.frozen(kw_only=True)
class TemperatureReport:
    """What lies where by how it is asked for, and what would move.

    Of the last time it was all looked through; `complete` is False until that has been once. `units` are
    the parts there are, `counted` those whose accesses are, over `windows` windows. Moved rows and bytes
    are since opening. A `dry_run` moves nothing.
    """

    classes: tuple[ClassFacts, ...]
    moves: tuple[PlannedMove, ...]
    thresholds: Mapping[str, float]
    units: int
    counted: int
    windows: int
    moved_rows: int
    moved_bytes: int
    dry_run: bool
    complete: bool


@runtime_checkable
class Tempered(Protocol):
    """A store that moves rows between classes of its own by how they are asked for (STO-90)."""

    async def temperature(self, *, look: bool = False) -> TemperatureReport:
        """What lies where and would move; with `look` everything is looked through first, at once."""


def prefix_end(prefix: bytes) -> bytes | None:
    """The first key after all that begin with `prefix`; None where there is none (b"", or all ff)."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None


def check_key(key: bytes) -> None:
    """Refuse what no backend may store: raises `BadKey` or `TooLarge`."""
    if type(key) is not bytes:
        raise BadKey("a key must be bytes", type(key).__name__, "Encode it first.")
    if not key:
        raise BadKey("a key must have at least one byte", "''", "Give it a prefix.")
    if len(key) > KEY_BYTES_MAX:
        raise TooLarge(f"a key of {len(key)} bytes", _shown(key), f"The limit is {KEY_BYTES_MAX}: hash it.")


def check_keys(keys: Sequence[bytes]) -> None:
    """`check_key` for each key of one read, and their number."""
    if len(keys) > READ_KEYS_MAX:
        raise TooLarge(f"a read of {len(keys)} keys", "", f"The limit is {READ_KEYS_MAX}: split it.")
    for key in keys:
        if type(key) is not bytes or not 0 < len(key) <= KEY_BYTES_MAX:
            check_key(key)


def check_bound(bound: bytes | None) -> None:
    """A bound may be empty, and one byte longer than a key: the successor of the longest key."""
    if bound is None:
        return
    if type(bound) is not bytes:
        raise BadKey("a bound must be bytes", type(bound).__name__, "Encode it first.")
    if len(bound) > KEY_BYTES_MAX + 1:
        raise TooLarge(f"a bound of {len(bound)} bytes", _shown(bound), f"The limit is {KEY_BYTES_MAX + 1}.")


def check_operation(operation: Operation) -> int:
    """The bytes that one operation counts for in its batch; raises `BadKey` or `TooLarge`."""
    match operation:
        case Put(key, value):
            check_key(key)
            if type(value) is not bytes:
                raise BadKey("a value must be bytes", type(value).__name__, "Encode it first.")
            if len(value) > VALUE_BYTES_MAX:
                raise TooLarge(
                    f"a value of {len(value)} bytes",
                    _shown(key),
                    f"The limit is {VALUE_BYTES_MAX}: split it.",
                )
            return len(key) + len(value)
        case Delete(key):
            check_key(key)
            return len(key)
        case DeleteRange(start, end):
            if type(start) is not bytes:
                raise BadKey("a bound must be bytes", type(start).__name__, "Encode it first.")
            check_bound(start)
            check_bound(end)
            return len(start) + len(end or b"")
    raise BadKey("not an operation", type(operation).__name__, "Use Put, Delete or DeleteRange.")


def check_batch_size(operations: int, size_bytes: int) -> None:
    """Refuse a batch over its limits with `TooLarge`."""
    if operations > BATCH_OPERATIONS_MAX:
        raise TooLarge(
            f"a batch of {operations} operations", "", f"The limit is {BATCH_OPERATIONS_MAX}: split it."
        )
    if size_bytes > BATCH_BYTES_MAX:
        raise TooLarge(f"a batch of {size_bytes} bytes", "", f"The limit is {BATCH_BYTES_MAX}: split it.")


def check_batch(batch: WriteBatch) -> int:
    """The bytes of a batch. Raises `BadKey` or `TooLarge`: to be called before anything is written."""
    check_batch_size(len(batch), 0)
    puts = batch if set(map(type, batch)) == {Put} else [each for each in batch if type(each) is Put]
    puts_bytes = _bytes_of_good(cast(Sequence[Put], puts))
    if puts_bytes is None:
        # Find the first bad one, and say what is wrong with it.
        size_bytes = sum(map(check_operation, batch))
    elif len(puts) < len(batch):
        size_bytes = puts_bytes + sum(check_operation(each) for each in batch if type(each) is not Put)
    else:
        size_bytes = puts_bytes
    check_batch_size(len(batch), size_bytes)
    return size_bytes


def _bytes_of_good(puts: Sequence[Put]) -> int | None:
    """The bytes of puts that `check_operation` would pass, None where it would refuse one.

    A batch may have a million, so these loops are not Python's.
    """
    items = list(chain.from_iterable(puts))
    if not items:
        return 0
    if set(map(type, items)) != {bytes}:
        return None
    sizes = list(map(len, items))
    keys, values = sizes[::2], sizes[1::2]
    if min(keys) == 0 or max(keys) > KEY_BYTES_MAX or max(values) > VALUE_BYTES_MAX:
        return None
    return sum(sizes)


def check_limit(limit: int | None) -> None:
    """A scan's limit is None or not negative."""
    if limit is not None and limit < 0:
        raise StorageError("a scan's limit is negative", limit, "Use None for no limit.")


def _shown(key: bytes) -> str:
    return key[:32].hex() + ("..." if len(key) > 32 else "")
