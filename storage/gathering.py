"""A store that holds back what need not last yet, and writes it as one batch (STO-5).

A batch of level MEMORY promises nothing after a crash, so there is no reason to write each by itself: here
such batches wait in memory, read by everybody as if they were written, and go to the store below as one
batch: after `HELD_S`, where they become too many, and before anything that asks for more. So what lies on
the disk is a prefix of what was written, as ever, and the batches in between cost no call of the engine.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import cast

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
    WriteBatch,
    check_batch,
    check_keys,
)
from supervm.kernel.component import Clock
from supervm.storage.over import StoreOver

HELD_S = 0.25
HELD_BYTES_MAX = 8 * 2**20
HELD_ROWS_MAX = 50_000
RETRY_S = 1.0
READS_MAX = 3
"""So often a read is begun again, because held rows were written meanwhile, before it waits for its turn."""

_Held = dict[bytes, bytes | None]


class GatheringStore(StoreOver):
    """A `KeyValueStore` over another. `gathering` makes one, and keeps `run` going."""

    def __init__(self, store: KeyValueStore, clock: Clock, warn: Callable[..., None]) -> None:
        super().__init__(store)
        self._clock = clock
        self._warn = warn
        self._held: _Held = {}
        self._held_bytes = 0
        self._leaving: _Held = {}
        self._passed = 0
        self._some = trio.Event()
        self._turn = trio.Lock()

    @property
    def gives(self) -> Mapping[Durability, Durability]:
        return {**self.below.gives, Durability.MEMORY: Durability.MEMORY}

    @property
    def held_rows(self) -> int:
        """Rows that the store below doesn't have yet."""
        return len(self._held) + len(self._leaving)

    # Writing

    async def write(self, batch: WriteBatch, durability: Durability = Durability.DURABLE) -> None:
        """As the contract says; a `DiskFull` may be of what was held back, and of this batch nothing is
        applied then either."""
        operations = tuple(batch)
        if durability is Durability.MEMORY and not any(isinstance(each, DeleteRange) for each in operations):
            size_bytes = check_batch(operations)
            if len(operations) <= HELD_ROWS_MAX and size_bytes <= HELD_BYTES_MAX:
                await self._hold(operations, size_bytes)
                return
        if not self.held_rows:
            await self.below.write(operations, durability)
            return
        async with self._turn:
            await self._pass_on()
            await self.below.write(operations, durability)

    async def _hold(self, operations: Sequence[Operation], size_bytes: int) -> None:
        await trio.lowlevel.checkpoint()
        while self._held and (
            self._held_bytes + size_bytes > HELD_BYTES_MAX
            or len(self._held) + len(operations) > HELD_ROWS_MAX
        ):
            await self.settle()
        for each in operations:
            assert not isinstance(each, DeleteRange), "ranges aren't held back"
            self._held[each.key] = None if isinstance(each, Delete) else each.value
        self._held_bytes += size_bytes
        self._some.set()

    async def settle(self) -> None:
        """Write all that is held back, BUFFERED. Raises as a write does, and holds it still then."""
        async with self._turn:
            await self._pass_on()

    async def _pass_on(self) -> None:
        """The caller has the turn."""
        if not self._held:
            return
        self._leaving, leaving_bytes = self._held, self._held_bytes
        self._held, self._held_bytes = {}, 0
        self._passed += 1
        operations = [
            Delete(key) if value is None else Put(key, value) for key, value in self._leaving.items()
        ]
        try:
            with trio.CancelScope(shield=True):
                await self.below.write(operations, Durability.BUFFERED)
        except BaseException:
            self._held = {**self._leaving, **self._held}
            self._held_bytes += leaving_bytes
            raise
        finally:
            self._leaving = {}

    async def run(self) -> None:
        """Let nothing be held back for long, until cancelled. What can't be written is told, and tried
        again."""
        while True:
            await self._some.wait()
            self._some = trio.Event()
            await self._clock.sleep(HELD_S)
            try:
                await self.settle()
            except StorageError as error:
                self._warn("held_rows_not_written", rows=len(self._held), cause=str(error))
                self._some.set()
                await self._clock.sleep(RETRY_S)

    # Reading

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        wanted = list(keys)
        if not self.held_rows:
            passed = self._passed
            values = await self.below.get_many(wanted)
            if self._passed == passed:
                return values
        check_keys(wanted)
        for _ in range(READS_MAX):
            passed = self._passed
            held = {key: self._held[key] for key in wanted if key in self._held}
            leaving = self._leaving
            held.update((key, leaving[key]) for key in wanted if key in leaving and key not in held)
            absent = [key for key in dict.fromkeys(wanted) if key not in held]
            if absent:
                below = await self.below.get_many(absent)
                if self._passed != passed:
                    continue  # a part of what was held came to be below meanwhile, or all of it
                held.update(zip(absent, below, strict=True))
            else:
                await trio.lowlevel.checkpoint()
            return [held[key] for key in wanted]
        async with self._turn:
            await self._pass_on()
            return await self.below.get_many(wanted)

    async def scan(
        self,
        start: bytes = b"",
        end: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        if self.held_rows:
            await self.settle()
        rows = cast(
            "AsyncGenerator[tuple[bytes, bytes], None]",
            self.below.scan(start, end, reverse=reverse, limit=limit),
        )
        async with aclosing(rows) as found:
            async for row in found:
                yield row

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Reader]:
        async with AsyncExitStack() as stack:
            async with self._turn:
                await self._pass_on()
                view = await stack.enter_async_context(self.below.snapshot())
            yield view

    async def checkpoint(self, path: Path) -> None:
        await self.settle()
        await self.below.checkpoint(path)


@asynccontextmanager
async def gathering(
    store: KeyValueStore, clock: Clock, warn: Callable[..., None]
) -> AsyncIterator[GatheringStore]:
    """A gathering store over an open one, which has all rows at the end unless it can't be written."""
    gathered = GatheringStore(store, clock, warn)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gathered.run)
            yield gathered
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            try:
                await gathered.settle()
            except StorageError as error:
                warn("held_rows_not_written", rows=gathered.held_rows, cause=str(error))
