"""The ledger: state, blocks and receipts above a key-value store, one durable batch a block (STO-31).

Reads see whole blocks only. What a commit is writing is nobody's until the batch is durable; then tip,
header and caches change together, with no pause between. Reads that need several things to agree take a
snapshot in which they do.
"""

from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import attrs
import trio

from supervm.contracts.storage import (
    BadKey,
    Delete,
    DiskFull,
    Durability,
    KeyValueStore,
    Operation,
    Reader,
    ReadOnly,
    StoreCorrupt,
    TooLarge,
    prefix_end,
)
from supervm.storage.aside import ROWS_MAX, Aside, Damage, note_key
from supervm.storage.cache import MISSING, ByteCache, CacheStats, entries_bytes
from supervm.storage.creation import create_ledger
from supervm.storage.errors import LedgerStopped, NotProvable, Pruned, RowDamaged
from supervm.storage.loading import Progress
from supervm.storage.missing import check_index, check_lacking, check_receipts
from supervm.storage.pages import HASH_BYTES, PageInvalid, Slots
from supervm.storage.records import (
    Located,
    block_rows,
    read_bare_blocks,
    read_block,
    read_block_place,
    read_header,
    read_headers,
    read_horizon,
    read_located,
    read_place,
    read_receipts,
    read_row,
    sealed,
)
from supervm.storage.recovery import recover
from supervm.storage.rows import page_rows, sealed_rows, stale_rows
from supervm.storage.spaces import (
    ASIDE,
    COMMIT_KEY,
    PRUNED_KEY,
    STATE,
    CommitMarker,
    Horizon,
    Place,
    body_key,
    certificate_key,
    corrupt,
    decode_place,
    header_key,
    index_key,
    receipts_key,
    state_key,
    unseal,
    unseal_page,
)
from supervm.storage.spill import drop_spilled, split
from supervm.storage.state_tree import At, CachedPages, StateTree, choose_tree
from supervm.storage.tree import Read, find
from supervm.types import smt
from supervm.types.block import Block, BlockHeader
from supervm.types.changes import PackedChanges
from supervm.types.genesis import Genesis
from supervm.types.packed_receipts import PackedReceipts, heads_of
from supervm.types.receipt import Receipt

T = TypeVar("T")
P = ParamSpec("P")

PAGE_CACHE_BYTES = 32 * 2**20
STATE_CACHE_BYTES = 16 * 2**20
HEADERS_MAX = 1_000
BLOCKS_MAX = 64
SCAN_MAX = 1_000
SMALL_ROWS = 64
"""Work on so few rows takes less time than a thread takes to begin it."""
OLDER_BYTES_MAX = 4 * 2**20
"""Of state that the last blocks replaced and that was in memory: kept for who is a little behind."""

Changes = Mapping[bytes, bytes | None]
"""State key to its new value; None removes it."""

# With these, the store promises that nothing of the batch was applied.
_NOT_WRITTEN = (TooLarge, BadKey, DiskFull, ReadOnly)


@attrs.frozen
class Staged:
    """The state after a block, worked out and not yet written: its root, and the rows that make it so."""

    height: int
    parent: CommitMarker
    root: bytes
    changes: Changes
    operations: tuple[Operation, ...]
    replaced: Mapping[bytes, bytes]  # of what the changes replace, the values that were in memory
    replaced_bytes: int


@attrs.frozen
class LedgerStats:
    """What the caches hold and how often they answered."""

    height: int
    pages: CacheStats
    state: CacheStats


def _noticing(
    method: Callable[Concatenate["Ledger", P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["Ledger", P], Coroutine[Any, Any, T]]:
    """Set aside what a read finds damaged."""

    @wraps(method)
    async def read(self: "Ledger", /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(self, *args, **kwargs)
        except RowDamaged as error:
            self.aside.notice(error)
            raise

    return read


class Ledger:
    """An open ledger; `open_ledger` makes one. Any number of tasks may read, one commits.

    A row that a read finds damaged is in `aside` from then on, and isn't served (STO-43).
    """

    def __init__(
        self,
        store: KeyValueStore,
        marker: CommitMarker,
        header: BlockHeader,
        *,
        tree: StateTree,
        pages: CachedPages,
        state_cache_bytes: int,
        durability: Durability,
        horizon: Horizon,
        aside: Aside,
    ) -> None:
        self.aside = aside
        self._store = store
        self._marker = marker
        self._header = header
        self._tree = tree
        self._pages = pages
        self._horizon = horizon
        self._moved = trio.Event()
        self._state = ByteCache(state_cache_bytes)
        self._older: deque[tuple[int, Mapping[bytes, bytes]]] = deque()
        self._older_bytes = 0
        self._durability = durability
        self._writing = trio.Lock()
        self._growing = trio.Lock()
        self._cpu = trio.CapacityLimiter(2)
        self._stopped: BaseException | None = None
        self._ahead = False  # a commit was refused after a part of it had been written ahead

    @property
    def chain_id(self) -> bytes:
        return self._header.chain_id

    @property
    def tip(self) -> CommitMarker:
        """The last committed block; everything it names is durable."""
        return self._marker

    @property
    def tip_header(self) -> BlockHeader:
        return self._header

    @property
    def horizon(self) -> Horizon:
        """From where up things are kept; what is below is pruned, or was never here (STO-62)."""
        return self._horizon

    async def wait_above(self, height: int) -> CommitMarker:
        """Wait until the tip is above `height`; the tip."""
        while self._marker.height <= height:
            await self._moved.wait()
        await trio.lowlevel.checkpoint()
        return self._marker

    def stats(self) -> LedgerStats:
        tree, cached = self._tree.stats(), self._pages.cache.stats()
        pages = CacheStats(*map(sum, zip(attrs.astuple(tree), attrs.astuple(cached), strict=True)))
        return LedgerStats(self._marker.height, pages, self._state.stats())

    # Writing

    @_noticing
    async def stage(self, changes: Changes, height: int) -> Staged:
        """Work out the state after the block that follows the tip. Writes nothing; runs in a thread.

        `height` must be the tip's plus one. Changes that are packed go to the tree as they are. What is
        staged may be dropped, or staged again. Raises `StoreCorrupt` where the tree is damaged.
        """
        async with self._growing:
            parent = self._marker
            assert height == parent.height + 1, (height, parent.height)
            with _tree_errors():
                if len(changes) <= SMALL_ROWS:
                    await trio.lowlevel.checkpoint()
                    with suppress(_NotInMemory):
                        return self._stage(parent, changes, _in_memory)
                read = _through_the_loop(self._store)
                return await trio.to_thread.run_sync(self._stage, parent, changes, read, limiter=self._cpu)

    def _stage(self, parent: CommitMarker, changes: Changes, read: Read) -> Staged:
        height, packed = parent.height + 1, PackedChanges.of(changes)
        before = At(parent.state_root, parent.height)
        grown = self._tree.grow(before, packed, height, read)
        packed.unpack()  # here, and not where the event loop first looks into it
        replaced = self._state.get_all(packed)
        operations = sealed_rows(STATE, packed)
        operations.extend(page_rows(grown.written))
        operations.extend(stale_rows(height, grown.stale))
        return Staged(
            height, parent, grown.root, packed, tuple(operations), replaced, entries_bytes(replaced)
        )

    @_noticing
    async def load_pages(
        self, marker: CommitMarker, paths: Sequence[bytes], reader: Reader
    ) -> dict[bytes, Slots]:
        """The tree pages of a height on the way to sorted kh, checked up to its root; from `view`."""
        at, read = At(marker.state_root, marker.height), _through_the_loop(reader)
        with _tree_errors():
            return await trio.to_thread.run_sync(self._pages.load, at, paths, read, limiter=self._cpu)

    async def commit(
        self,
        block: Block,
        receipts: Sequence[Receipt],
        certificate: bytes,
        staged: Staged,
        *,
        durable: bool = True,
    ) -> None:
        """Make the block that follows the tip durable, with all that came of it, in one batch.

        One that is not `durable` may be gone after a crash, with all that follow it; the next durable write
        to the store makes it so, too.

        A digest leads to its first receipt for good, also where a block brings it again. Receipts that are
        packed (`PackedReceipts`) are stored as they are. A block too large for a batch is
        written ahead in part (`supervm.storage.spill`), no less atomic.

        `certificate` proves that it is final, empty where nothing does. A cancelled commit is finished
        first. A `StorageError` that says that nothing was written (`TooLarge`, `DiskFull`, `ReadOnly`)
        leaves the ledger as it was, and what was written ahead is removed before the next commit; after any
        other it refuses everything with `LedgerStopped`, since only reopening tells whether the block is in
        the chain.
        """
        known = await self.known([receipt.digest for receipt in heads_of(receipts)])
        marker, ahead, batch = await self._work(
            len(staged.operations), self._batch, block, receipts, certificate, staged, known
        )
        with trio.CancelScope(shield=True):
            async with self._writing:
                self._check_running()
                assert staged.parent == self._marker, "two commits at once"
                try:
                    if self._ahead:
                        await drop_spilled(self._store, self._marker.height)
                    self._ahead = bool(ahead)
                    for chunk in ahead:
                        await self._store.write(chunk, Durability.BUFFERED)
                    await self._store.write(batch, self._durability if durable else Durability.MEMORY)
                except BaseException as error:
                    if not isinstance(error, _NOT_WRITTEN):
                        self._stopped = error
                    raise
                self._ahead = False
                self._publish(marker, block.header, staged)
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._growing.locked():
            async with self._growing:
                at = At(marker.state_root, marker.height)
                await self._work(len(staged.operations), self._tree.settle, at)

    async def _work(self, rows: int, call: Callable[..., T], *args: object) -> T:
        """Call it off the event loop, unless it is sooner done than handed to a thread."""
        if rows > SMALL_ROWS:
            return await trio.to_thread.run_sync(call, *args, limiter=self._cpu)
        await trio.lowlevel.checkpoint()
        return call(*args)

    def _batch(
        self,
        block: Block,
        receipts: Sequence[Receipt],
        certificate: bytes,
        staged: Staged,
        known: Collection[bytes],
    ) -> tuple[CommitMarker, list[list[Operation]], list[Operation]]:
        header, parent = block.header, self._marker
        assert staged.parent == parent, "staged on another block"
        assert header.height == staged.height, (header.height, staged.height)
        assert header.chain_id == self.chain_id, "a block of another chain"
        assert header.parent == parent.block_digest, "the block doesn't follow the tip"
        assert header.root_height != header.height or header.state_root == staged.root, "another state root"
        block.check()
        packed = PackedReceipts.of(receipts)
        marker = CommitMarker(
            height=header.height,
            block_digest=block.digest(),
            state_root=staged.root,
            receipts_root=packed.root,
        )
        # The header first, the marker last: whatever part of a batch a broken backend leaves, it shows.
        rows = block_rows(block, packed, certificate, known)
        return marker, *split([*rows, *staged.operations, sealed(COMMIT_KEY, marker.encode())])

    def _publish(self, marker: CommitMarker, header: BlockHeader, staged: Staged) -> None:
        """The new tip, all at once: there is no checkpoint in here, and must be none."""
        self._state.put_many(staged.changes.items())
        self._older.append((header.height, staged.replaced))
        self._older_bytes += staged.replaced_bytes
        while self._older_bytes > OLDER_BYTES_MAX:
            self._older_bytes -= entries_bytes(self._older.popleft()[1])
        self._marker, self._header = marker, header
        moved, self._moved = self._moved, trio.Event()
        moved.set()

    async def raise_horizon(self, horizon: Horizon) -> None:
        """Make it durable that nothing below `horizon` is served any more; it never goes down.

        Only then may what is below be discarded. The tip and its tree stay served whatever is asked.
        """
        assert horizon.blocks <= self._marker.height >= horizon.roots, (horizon, self._marker.height)
        with trio.CancelScope(shield=True):
            async with self._writing:
                self._check_running()
                now = self._horizon
                raised = Horizon(max(now.blocks, horizon.blocks), max(now.roots, horizon.roots))
                if raised != now:
                    await self._store.write([sealed(PRUNED_KEY, raised.encode())], Durability.DURABLE)
                    self._horizon = raised
        await trio.lowlevel.checkpoint_if_cancelled()

    async def discard(self, deletes: Iterable[Operation]) -> None:
        """Delete rows that only heights below the horizon need. It is done again if a crash undoes it."""
        self._check_running()
        await self._store.write(list(deletes), Durability.BUFFERED)

    async def rows(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """The first `limit` rows of the store in a range, as they lie, for who counts or discards them."""
        self._check_running()
        rows = cast("AsyncGenerator[tuple[bytes, bytes], None]", self._store.scan(start, end, limit=limit))
        async with aclosing(rows) as found:
            return [row async for row in found]

    async def page(
        self, start: bytes, end: bytes, rows_max: int, bytes_max: int
    ) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """The first rows of a range, as they lie, and where the next ones begin: `end` where none are left.

        At most `rows_max`, and no more after those that have `bytes_max` together.
        """
        self._check_running()
        scan = cast("AsyncGenerator[tuple[bytes, bytes], None]", self._store.scan(start, end, limit=rows_max))
        rows: list[tuple[bytes, bytes]] = []
        size_bytes = 0
        async with aclosing(scan) as found:
            async for row in found:
                rows.append(row)
                size_bytes += len(row[1])
                if len(rows) == rows_max or size_bytes >= bytes_max:
                    return rows, row[0] + b"\x00"
        return rows, end

    async def note_aside(self) -> None:
        """Write down which rows are set aside, so that a restart knows it. Not synced: it is met again."""
        self._check_running()
        notes = [sealed(note_key(each.key), each.why.encode()) for each in self.aside.rows]
        await self._store.write(notes, Durability.BUFFERED)

    def remembered_state(self, key: bytes) -> bytes | None:
        """The value of a state key that is still in memory, whatever lies in its row; None if none is."""
        value = self._state.get(key)
        return None if value is MISSING or value is None else value

    async def put_back(
        self, rows: Mapping[bytes, bytes | None], released: Collection[bytes], tip: CommitMarker | None = None
    ) -> bool:
        """Write what belongs where rows are damaged, None where none does, and serve them again.

        The caller has checked the values, without their seals. False, with nothing written, where the tip
        isn't `tip` any more, if one is given.
        """
        with trio.CancelScope(shield=True):
            async with self._writing:
                self._check_running()
                if tip is not None and tip != self._marker:
                    return False
                changes: list[Operation] = [
                    Delete(key) if value is None else sealed(key, value) for key, value in rows.items()
                ]
                await self._store.write([*changes, *(Delete(note_key(key)) for key in released)])
                for key in rows:
                    if key[:1] == STATE:
                        self._state.drop(key[1:])
                self.aside.release(released)
        await trio.lowlevel.checkpoint_if_cancelled()
        return True

    def _check_running(self) -> None:
        if self._stopped is not None:
            raise LedgerStopped(
                "the ledger stopped, because a commit failed",
                f"{type(self._stopped).__name__}: {self._stopped}",
                "Restart the node: opening tells whether the block was written.",
            ) from self._stopped

    # Reading

    @asynccontextmanager
    async def view(self) -> AsyncIterator[tuple[Reader, CommitMarker, BlockHeader]]:
        """A snapshot of the store that stands at the tip, with that tip. Waits for a commit under way."""
        async with AsyncExitStack() as stack:
            async with self._writing:
                self._check_running()
                view = await stack.enter_async_context(self._store.snapshot())
                marker, header = self._marker, self._header
            try:
                yield view, marker, header
            except RowDamaged as error:
                self.aside.notice(error)
                raise

    @_noticing
    async def get_state(self, keys: Collection[bytes]) -> dict[bytes, bytes | None]:
        """The values of state keys at the tip, all of one height; None where there is no entry.

        That there is none is believed only when the state tree says so too: a row that was lost is not an
        empty account. Raises `StoreCorrupt`.
        """
        self._check_running()
        self.aside.check(map(state_key, keys))
        tip = self._marker
        found: dict[bytes, bytes | None] = {}
        absent = []
        for key in keys:
            value = self._state.get(key)
            if value is MISSING:
                absent.append(key)
            else:
                found[key] = value
        if not absent:
            return found
        if not self._writing.locked():
            values = await self._read_state(self._store, absent)
            if None in values.values():
                async with self.view() as (view, marker, _):
                    if marker is tip:
                        lacking = [key for key, value in values.items() if value is None]
                        await self._check_lacking(view, marker, lacking)
            if self._marker is tip and not self._writing.locked():
                for key, value in values.items():
                    self._state.put(key, value)
                return {**found, **values}
        # A commit came between: what the cache said and what the store says may be of two heights.
        async with self.view() as (view, marker, _):
            values = await self._read_state(view, list(keys))
            await self._check_lacking(view, marker, [key for key, value in values.items() if value is None])
            return values

    async def _check_lacking(self, view: Reader, marker: CommitMarker, keys: Sequence[bytes]) -> None:
        """Raises `StoreCorrupt` where the tree of `marker` has an entry for one of these state keys.

        The tree itself tells soonest. While it is at a block, and to name the key, pages are walked.
        """
        if not keys:
            return
        at, read = At(marker.state_root, marker.height), _through_the_loop(view)
        if not self._growing.locked():
            async with self._growing:
                with _tree_errors():
                    if await trio.to_thread.run_sync(self._tree.lacks, at, keys, read, limiter=self._cpu):
                        return
        with _tree_errors():
            await trio.to_thread.run_sync(check_lacking, self._pages, at, keys, read, limiter=self._cpu)

    async def _read_state(self, reader: Reader, keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        rows = [state_key(key) for key in keys]
        self.aside.check(rows)
        stored = await reader.get_many(rows)
        return {
            key: None if data is None else unseal(row, data)
            for key, row, data in zip(keys, rows, stored, strict=True)
        }

    @_noticing
    async def row(self, key: bytes) -> bytes | None:
        """The value of a row as it was written, None where there is none. Raises `RowDamaged`."""
        self._check_running()
        self.aside.check([key])
        return await read_row(self._store, key)

    async def state_at(self, key: bytes, height: int) -> bytes | None:
        """A state key's value after a height at or a little below the tip, as far as is known.

        None where there is none, or it isn't known; it may be a later one. Raises as `get_state` does.
        """
        if height > self._marker.height:
            return None
        for changed, replaced in self._older:
            if changed > height and key in replaced:
                return replaced[key]
        return (await self.get_state([key]))[key]

    @_noticing
    async def scan_state(
        self, prefix: bytes, limit: int = SCAN_MAX, after: bytes = b""
    ) -> list[tuple[bytes, bytes]]:
        """Up to `limit` (at most 1,000) state entries whose keys begin with `prefix`, in key order.

        `after`: only keys above this one, to go on where the last answer ended.
        """
        assert 0 < limit <= SCAN_MAX, limit
        start = state_key(after + b"\x00" if after >= prefix and after else prefix)
        async with self.view() as (view, _, _):
            rows = [row async for row in view.scan(start, prefix_end(state_key(prefix)), limit=limit)]
        self.aside.check(key for key, _ in rows)
        return [(key[1:], unseal(key, stored)) for key, stored in rows]

    @_noticing
    async def header(self, height: int) -> BlockHeader | None:
        """The header at a height, None above the tip."""
        self._check_running()
        if not 0 <= height <= self._marker.height:
            return None
        if height == self._marker.height:
            return self._header
        self.aside.check([header_key(height)])
        return _held(await read_header(self._store, height), header_key(height))

    @_noticing
    async def headers(self, first: int, limit: int) -> list[BlockHeader]:
        """Headers from height `first` up, at most `limit` (at most 1,000)."""
        assert 0 < limit <= HEADERS_MAX, limit
        self._check_running()
        last = min(first + limit - 1, self._marker.height)
        heights = range(max(first, 0), last + 1)
        self.aside.check(map(header_key, heights))
        found = await read_headers(self._store, heights)
        return [_held(header, header_key(height)) for height, header in zip(heights, found, strict=True)]

    @_noticing
    async def block(self, which: int | bytes) -> Block | None:
        """A whole block by height or digest, checked against its header; None where there is none.

        Raises `Pruned` below the horizon, as all do that need bodies or receipts.
        """
        self._check_running()
        height = await read_block_place(self._store, which) if isinstance(which, bytes) else which
        if height is None or not 0 <= height <= self._marker.height:
            return None
        with self._kept(height):
            self.aside.check([header_key(height), body_key(height)])
            return _held(await read_block(self._store, height), header_key(height))

    @_noticing
    async def bare_blocks(self, first: int, limit: int) -> list[tuple[Block, bytes]]:
        """Blocks from height `first` up without their batches, each with what `commit` was given for it.

        At most `limit` (at most 64), in one read. Raises `Pruned` below the horizon.
        """
        assert 0 < limit <= BLOCKS_MAX, limit
        self._check_running()
        heights = range(max(first, 0), min(first + limit - 1, self._marker.height) + 1)
        if not heights:
            return []
        with self._kept(heights[0]):
            self.aside.check([key(at) for key in (header_key, body_key, certificate_key) for at in heights])
            return await read_bare_blocks(self._store, heights)

    async def blocks(self, first: int, limit: int) -> list[Block]:
        """Whole blocks from height `first` up, at most `limit` (at most 64)."""
        assert 0 < limit <= BLOCKS_MAX, limit
        last = min(first + limit - 1, self._marker.height)
        return [
            _held(await self.block(height), header_key(height)) for height in range(max(first, 0), last + 1)
        ]

    async def each_block(self, first: int = 0) -> AsyncGenerator[Block, None]:
        """Every block from `first` to the tip as it stood at the start, one in memory at a time.

        Close it (`contextlib.aclosing`) when leaving early.
        """
        for height in range(first, self._marker.height + 1):
            yield _held(await self.block(height), header_key(height))

    @_noticing
    async def certificate(self, height: int) -> bytes | None:
        """What `commit` was given for the block at a height; None above the tip."""
        self._check_running()
        if not 0 <= height <= self._marker.height:
            return None
        self.aside.check([certificate_key(height)])
        return _held(await read_row(self._store, certificate_key(height)), certificate_key(height))

    @_noticing
    async def receipts(self, height: int) -> list[Receipt] | None:
        """The receipts of a block in order; None above the tip. Raises `Pruned` below the horizon.

        They are those whose root a header shows, once one does. Raises `StoreCorrupt`.
        """
        tip, found = self._marker, await self.stored_receipts(height)

        async def others(at: int) -> list[Receipt]:
            return await read_receipts(self._store, at)

        if found is not None:
            with self._kept(height):
                await check_receipts(height, found, tip, self._horizon.blocks, self.header, others)
        return found

    @_noticing
    async def stored_receipts(self, height: int) -> list[Receipt] | None:
        """As `receipts`, of which one may be missing: for who compares them with others."""
        self._check_running()
        if not 0 <= height <= self._marker.height:
            return None
        with self._kept(height):
            self.aside.check([receipts_key(height, 0)])
            found = await read_receipts(self._store, height)
        self._check_kept(height)
        return found

    @_noticing
    async def check_index(self, height: int) -> None:
        """That a block and its transactions are found by digest. Raises `StoreCorrupt` and `Pruned`."""
        header, receipts = await self.header(height), await self.receipts(height)
        assert header is not None and receipts is not None, height
        await check_index(self._store, header, receipts)

    @_noticing
    async def known(self, digests: Sequence[bytes]) -> set[bytes]:
        """Those of these transaction digests that a block of the chain has a receipt for (CONS-40)."""
        self._check_running()
        if not digests:
            return set()
        rows = [index_key(digest) for digest in digests]
        self.aside.check(rows)
        stored = await self._store.get_many(rows)
        found = set()
        for digest, row, data in zip(digests, rows, stored, strict=True):
            place = None if data is None else decode_place(row, unseal(row, data))
            if isinstance(place, Place) and place.height <= self._marker.height:
                found.add(digest)
        return found

    @_noticing
    async def transaction(self, digest: bytes) -> Located | None:
        """Where a transaction stands in the chain, its bytes and receipt; None if it doesn't.

        Raises `Pruned` for one that is in a block below the horizon.
        """
        self._check_running()
        self.aside.check([index_key(digest)])
        place = await read_place(self._store, digest)
        if place is None or place.height > self._marker.height:
            return None
        with self._kept(place.height):
            return await read_located(self._store, digest, place)

    @contextmanager
    def _kept(self, height: int) -> Iterator[None]:
        """Read what is pruned some day: a hole that pruning made meanwhile is no damage."""
        self._check_kept(height)
        try:
            yield
        except StoreCorrupt:
            self._check_kept(height)
            raise

    def _check_kept(self, height: int) -> None:
        if height < self._horizon.blocks:
            raise Pruned(height, self._horizon.blocks)

    @_noticing
    async def prove(self, key: bytes) -> tuple[BlockHeader, smt.Proof]:
        """A state key's value or absence, with the tip's header, to whose state root it leads.

        Value, path and header are of one snapshot. Where the header shows the root of a lower height
        (CONS-30), the value is of that height. Raises `NotProvable` for a key that a block above it changed:
        no header shows the new value yet, and the old one is gone. Raises `StoreCorrupt` where value and tree
        disagree.
        """
        async with self.view() as (view, marker, header):
            at = marker
            if header.root_height != marker.height:
                at = attrs.evolve(marker, height=header.root_height, state_root=header.state_root)
                if at.height < self.horizon.roots:
                    raise NotProvable("the tree of that height is pruned", at.height, "Ask again later.")
            value = (await self._read_state(view, [key]))[key]
            path = smt.key_hash(key)
            way = find(await self.load_pages(at, [path], view), at.height, path)
            if at is not marker and not _is_value(value, path, way.end):
                raise NotProvable(
                    "no header shows this value's root yet",
                    f"the tip is {marker.height}, its header shows {header.root_height}",
                    "Ask again after the next blocks.",
                )
        return header, _proof(key, value, path, way.end, way.siblings)


class _NotInMemory(Exception):
    """A page would have to be read from the store."""


def _in_memory(keys: Sequence[bytes]) -> list[bytes | None]:
    """Reading pages where nothing may wait."""
    if keys:
        raise _NotInMemory
    return []


def _through_the_loop(reader: Reader) -> Read:
    """Reading pages for a thread that the event loop started. Raises `SealBroken`."""

    def read(keys: Sequence[bytes]) -> list[bytes | None]:
        stored = trio.from_thread.run(reader.get_many, keys)
        return [
            None if data is None else unseal_page(key, data) for key, data in zip(keys, stored, strict=True)
        ]

    return read


def _proof(
    key: bytes, value: bytes | None, path: bytes, end: bytes, siblings: tuple[bytes, ...]
) -> smt.Proof:
    """The proof that the tree gives, once the flat state says the same."""
    other = None
    if end and end[:HASH_BYTES] != path:
        other, end = (end[:HASH_BYTES], end[HASH_BYTES:]), b""
    expected = b"" if value is None else path + smt.value_hash(value)
    if end != expected:
        says = f"has 0x{end[HASH_BYTES:].hex()}" if end else "has no entry"
        raise corrupt(state_key(key), f"for this key the state tree {says}")
    return smt.Proof(key, value, other, siblings)


def _is_value(value: bytes | None, path: bytes, end: bytes) -> bool:
    """Whether what stands at the end of a path is this value, or none where there is none."""
    if value is None:
        return end[:HASH_BYTES] != path
    return end == path + smt.value_hash(value)


def _held(found: T | None, key: bytes) -> T:
    """What must be there, since the tip is at or above its height."""
    if found is None:
        raise corrupt(key, "it is missing below the tip")
    return found


@contextmanager
def _tree_errors() -> Iterator[None]:
    try:
        yield
    except PageInvalid as error:
        raise corrupt(error.key, error.why) from error


async def _noted(store: KeyValueStore) -> list[Damage]:
    """The rows that were set aside when the store was last open; a damaged note says enough by its key."""
    notes = cast("AsyncGenerator[tuple[bytes, bytes], None]", store.scan_prefix(ASIDE, limit=ROWS_MAX))
    async with aclosing(notes) as found:
        return [Damage(key[len(ASIDE) :], _why(key, stored)) async for key, stored in found]


def _why(key: bytes, stored: bytes) -> str:
    try:
        return unseal(key, stored).decode()
    except RowDamaged as error:
        return str(error)


@asynccontextmanager
async def open_ledger(
    store: KeyValueStore,
    genesis: Genesis,
    gas_initial_state: bytes,
    base_price: int = 0,
    *,
    page_cache_bytes: int = PAGE_CACHE_BYTES,
    state_cache_bytes: int = STATE_CACHE_BYTES,
    native_tree: bool = True,
    tree_threads: int = 1,
    scratch: bool = False,
    progress: Progress | None = None,
) -> AsyncIterator[Ledger]:
    """Open the ledger in `store`, or make it from `genesis` where the store is empty.

    `gas_initial_state` and `base_price` (micro base units per gas) are the gas policy's for height 0, used
    only to make it. `native_tree` False keeps the state tree in Python also where C was built, with the same
    bytes; `tree_threads` are those of C. `scratch` commits without waiting for the disk: for a
    copy that nothing relies on.
    Raises `ForeignChain`, `StoreTooNew`, or `StoreCorrupt` for anything that no sequence of commits
    leaves; nothing is changed then.
    """
    found = await recover(store, genesis.chain_id)
    if found is None:
        found = await create_ledger(store, genesis, gas_initial_state, base_price, progress)
    marker, header = found
    tree, pages = choose_tree(page_cache_bytes, native=native_tree, threads=tree_threads)
    yield Ledger(
        store,
        marker,
        header,
        tree=tree,
        pages=pages,
        horizon=await read_horizon(store),
        aside=Aside(await _noted(store)),
        state_cache_bytes=state_cache_bytes,
        durability=Durability.BUFFERED if scratch else Durability.DURABLE,
    )
