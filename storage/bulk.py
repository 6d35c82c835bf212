"""Many rows into a store: as one batch made in parts, in chunks of one size, or in chunks that adapt.

One batch (`assembled`) is atomic, and everything in the ledger is written so. Chunks are not: each is, the
whole isn't. They are for what can be made again, an import or an index, and stand under a mark that is
durable before the first row and goes with the last (STO-71). Each chunk moves the mark in its own batch, so
after a crash the mark says exactly which rows are there: `unfinished` finds it, and the same call with the
rows after `progress` goes on.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from statistics import fmean, pstdev

import attrs
from attrs.validators import and_, ge, gt, le, lt

from supervm.contracts.storage import (
    BATCH_BYTES_MAX,
    Delete,
    DeleteRange,
    Durability,
    KeyValueStore,
    Operation,
    Put,
    Reader,
    StorageError,
    check_batch_size,
    check_operation,
    prefix_end,
)
from supervm.kernel.component import Clock
from supervm.storage.spaces import META, corrupt, seal, unseal

MARKS = META + b"bulk/"
CHUNK_BYTES_MAX = BATCH_BYTES_MAX // 2
CHUNK_ROWS_MAX = 500_000
SMALL_COUNT = 50_000
SMALL_CHUNK = 5_000
LARGE_COUNT = 80_000
# A chunk on a clock too coarse to see it still took some time.
SECONDS_MIN = 1e-9


class BulkError(StorageError):
    """Rows that can't be written in chunks: out of order, outside their space, or under another's mark."""


@attrs.define
class Assembly:
    """One batch in the making. What is not committed when its block ends is discarded."""

    _store: KeyValueStore
    _operations: list[Operation] = attrs.field(factory=list, init=False)
    _bytes: int = attrs.field(default=0, init=False)
    _ended: bool = attrs.field(default=False, init=False)

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key. Raises `BadKey` or `TooLarge` and leaves the batch as it was."""
        self._add(Put(key, value))

    def delete(self, key: bytes) -> None:
        """Remove a key; raises as `put` does."""
        self._add(Delete(key))

    def delete_range(self, start: bytes, end: bytes | None) -> None:
        """Remove what stands in [start, end) at this place of the batch; raises as `put` does."""
        self._add(DeleteRange(start, end))

    def __len__(self) -> int:
        return len(self._operations)

    async def commit(self, durability: Durability = Durability.DURABLE) -> None:
        """Write all of it as one batch, and begin anew. After `DiskFull` it may be tried again."""
        await self._store.write(tuple(self._operations), durability)
        self.rollback()

    def rollback(self) -> None:
        """Forget what was gathered."""
        self._operations.clear()
        self._bytes = 0

    def end(self) -> None:
        """Refuse everything from now on."""
        self.rollback()
        self._ended = True

    def _add(self, operation: Operation) -> None:
        assert not self._ended, "the batch's block has ended"
        size_bytes = self._bytes + check_operation(operation)
        check_batch_size(len(self._operations) + 1, size_bytes)
        self._operations.append(operation)
        self._bytes = size_bytes


@asynccontextmanager
async def assembled(store: KeyValueStore) -> AsyncIterator[Assembly]:
    """A batch to be filled in parts. Nothing is written before `commit`; leaving without it discards."""
    assembly = Assembly(store)
    try:
        yield assembly
    finally:
        assembly.end()


@attrs.frozen
class BulkMark:
    """That rows under `space` are being written by the work `name`, and are there up to key `progress`."""

    name: bytes
    space: bytes
    progress: bytes = b""

    def __attrs_post_init__(self) -> None:
        if not self.name or not self.space or self.space.startswith(META):
            raise BulkError(
                "a mark needs a name, and a space that isn't the metadata",
                f"{self.name!r}, {self.space.hex() or 'no space'}",
                "Give a prefix of the rows' keys.",
            )

    @property
    def key(self) -> bytes:
        return MARKS + self.name

    def encode(self) -> bytes:
        """u8 format 1 || u16 length of space (little-endian) || space || progress, sealed."""
        return seal(self.key, b"\x01" + len(self.space).to_bytes(2, "little") + self.space + self.progress)

    @classmethod
    def decode(cls, key: bytes, stored: bytes) -> "BulkMark":
        """The mark stored under a key. Raises `StoreCorrupt`."""
        data = unseal(key, stored)
        length = int.from_bytes(data[1:3], "little")
        if data[:1] != b"\x01" or len(data) < 3 + length:
            raise corrupt(key, f"not a bulk mark of format 1: 0x{data.hex()}")
        return cls(key[len(MARKS) :], data[3 : 3 + length], data[3 + length :])


async def unfinished(reader: Reader, name: bytes) -> BulkMark | None:
    """The mark of bulk work that was begun and not finished: resume it, or `discard` it."""
    key = MARKS + name
    stored = await reader.get(key)
    return BulkMark.decode(key, stored) if stored is not None else None


async def discard(store: KeyValueStore, mark: BulkMark) -> None:
    """Remove what unfinished work has written, and its mark, as one DURABLE batch."""
    await store.write([DeleteRange(mark.space, prefix_end(mark.space)), Delete(mark.key)], Durability.DURABLE)


@attrs.frozen(kw_only=True)
class AdaptiveConfig:
    """How chunks adapt (STO-72). Percentages are of the chunk, `target_rsd_pct` is of the mean rate.

    `init_chunk` None: an eighth of the rows, within [chunk_min, chunk_max]. A chunk is never outside of
    those, but for the last one.
    """

    init_chunk: int | None = attrs.field(default=None, validator=attrs.validators.optional(ge(1)))
    chunk_min: int = attrs.field(default=2_000, validator=ge(1))
    chunk_max: int = attrs.field(default=50_000, validator=le(CHUNK_ROWS_MAX))
    window: int = attrs.field(default=6, validator=and_(ge(2), le(1_000)))
    target_rsd_pct: float = attrs.field(default=8.0, validator=gt(0))
    grow_factor: float = attrs.field(default=0.75, validator=and_(gt(0), le(1)))
    adjust_up_pct: float = attrs.field(default=15.0, validator=and_(gt(0), le(100)))
    adjust_down_pct: float = attrs.field(default=30.0, validator=and_(gt(0), lt(100)))

    def __attrs_post_init__(self) -> None:
        if self.chunk_min > self.chunk_max:
            raise ValueError(f"chunk_min {self.chunk_min} is over chunk_max {self.chunk_max}")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "AdaptiveConfig":
        """The defaults, changed by `ADAPT_` and a field's name; `ADAPT_TARGET_RSD`, `ADAPT_UP_PCT` and
        `ADAPT_DOWN_PCT` are short for theirs. Raises ValueError naming the variable.
        """
        found: dict[str, float] = {}
        kinds = {field.name: float if field.type is float else int for field in attrs.fields(cls)}
        for name in environ:
            if not name.startswith("ADAPT_"):
                continue
            field = name.removeprefix("ADAPT_").lower()
            field = _SHORT.get(field, field)
            if field not in kinds:
                raise ValueError(f"{name} is no setting; use ADAPT_ and one of {', '.join(kinds).upper()}")
            try:
                found[field] = kinds[field](environ[name])
            except ValueError:
                raise ValueError(f"{name}={environ[name]!r} is not a number") from None
        return cls(**found)  # type: ignore[arg-type]

    @classmethod
    def advised(cls, count: int) -> "AdaptiveConfig":
        """For `count` rows: over 80,000 a longer window and a narrower target."""
        return cls(window=8, target_rsd_pct=6.0) if count > LARGE_COUNT else cls()


_SHORT = {"target_rsd": "target_rsd_pct", "up_pct": "adjust_up_pct", "down_pct": "adjust_down_pct"}


class ChunkController:
    """The size of the next chunk, from the rates of the last ones. No I/O, no clock.

    While the rates spread by more than the target, chunks shrink; while they spread by less than
    `grow_factor` of it, they grow; between, they stay.
    """

    def __init__(self, config: AdaptiveConfig, count: int) -> None:
        self._config = config
        self._rates: deque[float] = deque(maxlen=config.window)
        wanted = config.init_chunk if config.init_chunk is not None else count // 8
        self.chunk = self._clamped(wanted)
        self.best = 0.0

    @property
    def window_avg(self) -> float:
        """Mean rate of the window, rows a second; 0 before the first chunk."""
        return fmean(self._rates) if self._rates else 0.0

    @property
    def rsd_pct(self) -> float:
        """How much the rates of the window spread: 100 x standard deviation / mean."""
        return 100 * pstdev(self._rates) / self.window_avg if self._rates else 0.0

    def observe(self, rows: int, seconds: float) -> int:
        """Take note of a chunk; returns the size of the next one."""
        config, rate = self._config, rows / max(seconds, SECONDS_MIN)
        self._rates.append(rate)
        self.best = max(self.best, rate)
        if len(self._rates) == config.window:
            if self.rsd_pct > config.target_rsd_pct:
                self.chunk = self._clamped(self.chunk * (1 - config.adjust_down_pct / 100))
            elif self.rsd_pct < config.grow_factor * config.target_rsd_pct:
                self.chunk = self._clamped(self.chunk * (1 + config.adjust_up_pct / 100))
        return self.chunk

    def _clamped(self, rows: float) -> int:
        return min(max(round(rows), self._config.chunk_min), self._config.chunk_max)


@attrs.frozen(kw_only=True)
class BulkResult:
    """What was written, and how. Rates are rows a second; `rsd` is in percent, over the last window."""

    rows: int
    chunks: int
    final_chunk: int
    total_qps: float
    window_avg: float
    rsd: float
    best: float


async def write_chunked(
    store: KeyValueStore,
    rows: Iterable[tuple[bytes, bytes]],
    mark: BulkMark,
    clock: Clock,
    *,
    chunk_size: int = SMALL_CHUNK,
    durability: Durability = Durability.BUFFERED,
) -> BulkResult:
    """Write rows in chunks of one size. NOT atomic: each chunk is. See `write_adaptive`."""
    if not 0 < chunk_size <= CHUNK_ROWS_MAX:
        raise BulkError("a chunk's size is out of bounds", chunk_size, f"Use 1 to {CHUNK_ROWS_MAX:,} rows.")
    config = AdaptiveConfig(init_chunk=chunk_size, chunk_min=chunk_size, chunk_max=chunk_size)
    return await _write(store, rows, mark, clock, ChunkController(config, 0), durability)


async def write_adaptive(
    store: KeyValueStore,
    rows: Iterable[tuple[bytes, bytes]],
    mark: BulkMark,
    clock: Clock,
    *,
    count: int,
    config: AdaptiveConfig | None = None,
    durability: Durability = Durability.BUFFERED,
) -> BulkResult:
    """Write `count` rows or so in chunks that adapt to how steady the store is. NOT atomic: each chunk is.

    Rows come in ascending order of keys, within the mark's space and after its progress. The mark is
    DURABLE before the first row, moves with each chunk, and goes with the last, DURABLE too. `durability`
    is of the chunks. Raises `BulkError` with the chunks before the wrong row written, and any
    `StorageError`.
    """
    given = AdaptiveConfig.advised(count) if config is None else config
    return await _write(store, rows, mark, clock, ChunkController(given, count), durability)


async def _write(
    store: KeyValueStore,
    rows: Iterable[tuple[bytes, bytes]],
    mark: BulkMark,
    clock: Clock,
    controller: ChunkController,
    durability: Durability,
) -> BulkResult:
    found = await unfinished(store, mark.name)
    if found is not None and found != mark:
        raise BulkError(
            "other work under this name is unfinished",
            found.space.hex(),
            "Go on from its progress, or discard it.",
        )
    await store.write([Put(mark.key, mark.encode())], Durability.DURABLE)
    written = chunks = 0
    seconds = 0.0
    for chunk in _chunks(rows, mark, lambda: controller.chunk):
        mark = attrs.evolve(mark, progress=chunk[-1].key)
        began_s = clock.monotonic()
        await store.write([*chunk, Put(mark.key, mark.encode())], durability)
        took_s = clock.monotonic() - began_s
        seconds, written, chunks = seconds + took_s, written + len(chunk), chunks + 1
        controller.observe(len(chunk), took_s)
    await store.write([Delete(mark.key)], Durability.DURABLE)
    return BulkResult(
        rows=written,
        chunks=chunks,
        final_chunk=controller.chunk,
        total_qps=written / max(seconds, SECONDS_MIN) if written else 0.0,
        window_avg=controller.window_avg,
        rsd=controller.rsd_pct,
        best=controller.best,
    )


def _chunks(
    rows: Iterable[tuple[bytes, bytes]], mark: BulkMark, rows_max: Callable[[], int]
) -> Iterator[list[Put]]:
    """Rows as puts, so many at a time and never more bytes than a batch takes."""
    chunk: list[Put] = []
    size_bytes, last = 0, mark.progress
    for key, value in rows:
        if key <= last or not key.startswith(mark.space):
            raise BulkError(
                "a row is out of order or outside its space",
                key.hex(),
                f"Give keys that begin with {mark.space.hex()}, ascending, after {last.hex()}.",
            )
        if chunk and (len(chunk) >= rows_max() or size_bytes + len(key) + len(value) > CHUNK_BYTES_MAX):
            yield chunk
            chunk, size_bytes = [], 0
        chunk.append(Put(key, value))
        size_bytes += len(key) + len(value)
        last = key
    if chunk:
        yield chunk
