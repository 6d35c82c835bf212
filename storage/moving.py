"""Moving a running node's store to another backend (STO-21): the node goes on, and both end the same.

From its beginning on every write goes to both. One pass in key order makes a piece of the target like the
same piece of the source, while no write goes on: when it is at the end the two are equal, and stay so. A
second pass compares, piece by piece. The metadata come last, for until they are there the target holds no
ledger. At the end the caller has the data folder opened with the target from the next start on; until then
the node reads the source and writes both.

A move that was interrupted is begun again by another: pieces that are equal are only read. A target that
fails ends the move and not the node.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from enum import StrEnum
from typing import Self, cast

import attrs
import trio

from supervm.contracts.storage import (
    Delete,
    DeleteRange,
    Durability,
    KeyValueStore,
    Operation,
    Put,
    Reader,
    StorageError,
    StoreFailed,
    WriteBatch,
)
from supervm.kernel.component import Clock
from supervm.storage.errors import MigrationFailed, MoveBusy, NotEmpty
from supervm.storage.migration import begun_mark
from supervm.storage.over import StoreOver
from supervm.storage.pace import Pace, PieceSize
from supervm.storage.records import first_key
from supervm.storage.spaces import CHAIN_KEY, META, MIGRATE_KEY, SCHEMA_KEY, STATE, describe

ROWS_MAX = 2_000
BYTES_MAX = 2**20
META_ROWS_MAX = 10_000

Rows = dict[bytes, bytes]
Change = Callable[[], Awaitable[None]]


class Phase(StrEnum):
    """How far a move is."""

    NONE = "none"
    COPYING = "copying"
    COMPARING = "comparing"
    DONE = "done"
    FAILED = "failed"


@attrs.define
class MoveFacts:
    """A move: where to, how far, and why it came to nothing.

    `rows` were looked at by the pass under way, of an estimate of `rows_of`; `changed` were written or
    removed by the first one.
    """

    to: str = ""
    phase: Phase = Phase.NONE
    rows: int = 0
    rows_of: int = 0
    changed: int = 0
    problem: str = ""

    @classmethod
    def failed(cls, to: str, problem: str) -> Self:
        """Of one that came to nothing before it began."""
        return cls(to=to, phase=Phase.FAILED, problem=problem)

    @property
    def running(self) -> bool:
        return self.phase in (Phase.COPYING, Phase.COMPARING)


@attrs.define(eq=False)
class _Mirror:
    """A target that gets every write: of the metadata only once it is `whole`, then as durably too."""

    target: KeyValueStore
    whole: bool = False

    def part(self, batch: WriteBatch) -> list[Operation]:
        """What of a batch the target is to have."""
        if self.whole:
            return list(batch)
        return [kept for each in batch if (kept := _above_metadata(each)) is not None]


def _above_metadata(operation: Operation) -> Operation | None:
    if not isinstance(operation, DeleteRange):
        return operation if operation.key >= STATE else None
    start = max(operation.start, STATE)
    return DeleteRange(start, operation.end) if operation.end is None or start < operation.end else None


# What a pass does with one range of keys, and the source's rows in it.
Piece = Callable[[_Mirror, bytes, bytes | None, Rows], Awaitable[None]]


class MovingStore(StoreOver):
    """The store of a running node: itself, until it is moved; a `KeyValueStore` all the time."""

    def __init__(self, store: KeyValueStore, clock: Clock, warn: Callable[..., None]) -> None:
        super().__init__(store)
        self._clock = clock
        self._warn = warn
        self._mirror: _Mirror | None = None
        self._switch_back: Change | None = None
        # Pieces of a pass and writes exclude each other; without a move, writes go together.
        self._turn = trio.Lock()
        self._passing = 0
        self._none_passes = trio.Event()
        self.facts = MoveFacts()

    async def write(self, batch: WriteBatch, durability: Durability = Durability.DURABLE) -> None:
        if self._mirror is None:
            self._passing += 1
            try:
                await self.below.write(batch, durability)
            finally:
                self._passing -= 1
                if not self._passing:
                    self._none_passes.set()
            return
        operations = tuple(batch)
        async with self._turn:
            # Cancelled in between, the one would have it and the other not.
            with trio.CancelScope(shield=True):
                await self.below.write(operations, durability)
                await self._repeat(operations, durability)

    async def _repeat(self, batch: WriteBatch, durability: Durability) -> None:
        """Give the target its part of what the source has."""
        mirror = self._mirror
        if mirror is None:
            return
        try:
            part = mirror.part(batch)
            if part or mirror.whole:
                await mirror.target.write(part, durability if mirror.whole else Durability.BUFFERED)
        except StorageError as error:
            await self._give_up(str(error))

    # Moving

    async def move(
        self,
        target: KeyValueStore,
        to: str,
        *,
        share: float,
        switch: Change,
        switch_back: Change,
    ) -> None:
        """Make `target`, named `to`, equal to this store and keep it so, taking `share` of the time.

        Returns once `switch` was called: it makes the node open the target from the next start on.
        `switch_back` undoes that, and is called should the target fail later, before the write on which it
        failed is acknowledged. The caller keeps the target open until this store is closed.

        Raises `MoveBusy` where one is under way or done, `NotEmpty` for a target that holds anything but an
        unfinished move, `MigrationFailed` where a row differs afterwards or the target failed. Cancelled or
        failed, the node goes on with the source alone, and the target holds no ledger.
        """
        if self.facts.running or self.facts.phase is Phase.DONE:
            raise MoveBusy(
                f"a move to {self.facts.to} is {self.facts.phase}", to, "Wait, or restart the node."
            )
        self.facts = MoveFacts(to=to, phase=Phase.COPYING)
        mirror = _Mirror(target)
        try:
            await self._begin(target)
            self.facts.rows_of = (await self.below.stats()).keys_estimate
            self._mirror = mirror
            while self._passing:
                self._none_passes = trio.Event()
                await self._none_passes.wait()
            await self._pass(mirror, Pace(self._clock, share), self._make_like)
            self.facts.phase, self.facts.rows = Phase.COMPARING, 0
            await self._pass(mirror, Pace(self._clock, share), self._compare)
            async with self._turn:
                self._still(mirror)
                self._switch_back = switch_back
                with trio.CancelScope(shield=True):
                    await self._finish(mirror, switch)
                self.facts.phase = Phase.DONE
        except StorageError as error:
            await self._give_up(str(error))
            raise
        finally:
            if self.facts.phase is not Phase.DONE:
                self._mirror = None
                if self.facts.running:
                    self.facts.phase, self.facts.problem = Phase.FAILED, "it was cancelled"

    async def _begin(self, target: KeyValueStore) -> None:
        if (
            await target.get(MIGRATE_KEY) is None
            and (found := await first_key(target, b"", None)) is not None
        ):
            raise NotEmpty(
                "the store to move to is not empty",
                describe(found),
                "Rename or remove its folder, or choose another backend.",
            )
        first: list[Operation] = [begun_mark()]
        for key in (SCHEMA_KEY, CHAIN_KEY):
            value = await self.below.get(key)
            assert value is not None, "a node runs on a ledger"
            first.append(Put(key, value))
        await target.write(first, Durability.DURABLE)

    async def _pass(
        self,
        mirror: _Mirror,
        pace: Pace,
        piece: Callable[[_Mirror, bytes, bytes | None, Rows], Awaitable[None]],
    ) -> None:
        """Do `piece` with the source's rows of one range after the other, from STATE to the end."""
        start: bytes | None = STATE
        size = PieceSize(most=ROWS_MAX, least=50)
        while start is not None:
            with pace.working():
                async with self._turn:
                    self._still(mirror)
                    began_s = self._clock.monotonic()
                    ours, end = await _rows(self.below, start, None, size.size)
                    with trio.CancelScope(shield=True):
                        await piece(mirror, start, end, ours)
                    size.took(self._clock.monotonic() - began_s, len(ours))
                    self.facts.rows += len(ours)
                    start = end
            await pace.rest()

    async def _make_like(self, mirror: _Mirror, start: bytes, end: bytes | None, ours: Rows) -> None:
        """Give the target our rows of a range, and no others."""
        theirs, rest = await _rows(mirror.target, start, end, 2 * ROWS_MAX)
        changes: list[Operation]
        if rest != end:
            changes = [DeleteRange(start, end), *(Put(*row) for row in ours.items())]
        else:
            changes = [Put(key, value) for key, value in ours.items() if theirs.get(key) != value]
            changes += [Delete(key) for key in theirs if key not in ours]
        if changes:
            self.facts.changed += len(changes)
            await mirror.target.write(changes, Durability.BUFFERED)

    async def _compare(self, mirror: _Mirror, start: bytes, end: bytes | None, ours: Rows) -> None:
        theirs, rest = await _rows(mirror.target, start, end, len(ours) + 1)
        if ours != theirs or rest != end:
            differing = [key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)]
            raise MigrationFailed(
                "a row of the new store differs from the old one's",
                describe(min(differing)) if differing else describe(start),
                "The old store is as it was, and in use. Check the new one's disk; remove its folder.",
            )

    async def _finish(self, mirror: _Mirror, switch: Change) -> None:
        metadata = [Put(*row) async for row in self.below.scan(META, STATE, limit=META_ROWS_MAX + 1)]
        assert len(metadata) <= META_ROWS_MAX, "metadata is one batch"
        # Durable with all before it (STO-5). Before the switch it is a ledger that nobody opens.
        await mirror.target.write([DeleteRange(META, STATE), *metadata], Durability.DURABLE)
        mirror.whole = True
        await switch()

    def _still(self, mirror: _Mirror) -> None:
        if self._mirror is not mirror:
            raise MigrationFailed("the new store failed", self.facts.problem, "Check its disk; try again.")

    async def _give_up(self, problem: str) -> None:
        """Go on with the source alone; where the folder was switched already, back first."""
        if self._mirror is None and self.facts.phase is Phase.FAILED:
            return
        self._mirror = None
        self.facts.phase, self.facts.problem = Phase.FAILED, problem
        self._warn("move_failed", to=self.facts.to, cause=problem)
        if (undo := self._switch_back) is not None:
            self._switch_back = None
            try:
                await undo()
            except StorageError as error:
                raise StoreFailed(
                    f"the new store failed ({problem}) and the folder could not be switched back: {error}",
                    self.facts.to,
                    "Write the old backend's name into folder.toml before the next start.",
                ) from error


async def _rows(reader: Reader, start: bytes, end: bytes | None, rows_max: int) -> tuple[Rows, bytes | None]:
    """Rows from `start`: at most `rows_max`, or about 1 MiB; and where the next begin, `end` if none do."""
    rows: Rows = {}
    size_bytes = 0
    scan = cast("AsyncGenerator[tuple[bytes, bytes], None]", reader.scan(start, end, limit=rows_max))
    async with aclosing(scan) as found:
        async for key, value in found:
            rows[key] = value
            size_bytes += len(key) + len(value)
            if size_bytes >= BYTES_MAX:
                return rows, key + b"\x00"
    return rows, max(rows) + b"\x00" if len(rows) == rows_max else end
