"""A store of three classes, each on a disk of its own, one of which fails while rows move between them.

`TieredDisk` is to `tests.faults.work` what `FaultyDisk` is. After every second write a window ends, and a
round of moves and sweeps is made, as the store's own task would, but always at the same place: so a seed is
the same fault on any machine. Every row may move, also the ledger's own marks; what is asked for changes by
chance.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs

from supervm.contracts.storage import Durability, StorageError, WriteBatch
from supervm.plugins.storage import memory
from supervm.plugins.storage.class_folders import StoreFacts
from supervm.plugins.storage.pointers import MARK_BYTES
from supervm.plugins.storage.redistribution import Redistribution
from supervm.plugins.storage.shelves import Moved, Shelves, Spaces, Swept
from supervm.plugins.storage.tiered import TieredConfig, TieredStore
from supervm.storage.heat import HALF_LIFE_S, HeatTable
from supervm.storage.temperature import Temperature
from supervm.testing.conformance.component import only_error
from supervm.testing.context import component_context, opened
from tests.faults.chain import CLOCK
from tests.faults.store import NEVER, Due, Fault, FaultyDisk

WRITES_BETWEEN_ROUNDS = 2
ASKED_FOR = 12
CONFIG = TieredConfig(
    movable=[""],
    value_bytes_min=0,
    hot_share=0.2,
    warm_share=0.3,
    up_windows=1,
    down_windows=1,
    share=1.0,
    bytes_per_s_max=2**40,
    keep_copies_s=0,
)
MARK = bytes(range(MARK_BYTES))
T = TypeVar("T")


@attrs.define
class TieredDisk:
    """What is on the disks of the classes. The fault comes on one of them, whichever is due."""

    classes: dict[Temperature, FaultyDisk]
    due: Due
    chance: random.Random
    path: Path
    noticed: list[str] = attrs.Factory(list)
    moved_rows: int = 0
    removed_copies: int = 0

    @property
    def kind(self) -> Fault | None:
        return self.due.kind

    @property
    def damaged(self) -> tuple[bytes, ...]:
        return tuple(key for disk in self.classes.values() for key in disk.damaged)

    def disarm(self) -> None:
        self.due.at = NEVER

    async def restart(self) -> None:
        for disk in self.classes.values():
            await disk.restart()

    async def lose_power(self) -> None:
        """All of them at once; of what none has synced each keeps what it likes."""
        for disk in self.classes.values():
            await disk.lose_power()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["MovingStore"]:
        """The store as one process has it. No score outlives it: so all cools at first."""
        try:
            async with AsyncExitStack() as stack:
                context = component_context(self.path / "tiered", clock=CLOCK)
                ctx = await stack.enter_async_context(context)
                stores = {
                    one: await stack.enter_async_context(disk.opened()) for one, disk in self.classes.items()
                }
                heat = HeatTable.empty(0.0, ctx.random, units_max=1_000, half_life_s=HALF_LIFE_S)
                moving = Redistribution(ctx, heat, CONFIG.rules(), _keep_no_scores)
                shelves = NotingShelves(stores, MARK, Spaces([b""]), moving.accessed)
                shelves.disk = self
                moving.serve(shelves)
                yield MovingStore(shelves, moving, {}, StoreFacts(MARK))
        except BaseExceptionGroup as group:
            raise only_error(group) from None


async def _keep_no_scores(data: bytes) -> None:
    """Their file is on another disk, which `tests.faults.folders` has fail."""


class NotingShelves(Shelves):
    """Notes what goes wrong while rows move: the round goes on where it may."""

    disk: TieredDisk

    async def stored(self, *given: Any) -> Any:
        return await self._noting(super().stored(*given))

    async def move(self, keys: Sequence[bytes], to: Temperature) -> Moved:
        moved = await self._noting(super().move(keys, to))
        self.disk.moved_rows += moved.rows
        return moved

    async def sweep(self, temperature: Temperature, *given: Any) -> Swept:
        swept = await self._noting(super().sweep(temperature, *given))
        self.disk.removed_copies += swept.gone
        self.disk.noticed += ["StoreCorrupt"] * bool(swept.damaged)
        return swept

    async def _noting(self, call: Awaitable[T]) -> T:
        try:
            return await call
        except StorageError as error:
            self.disk.noticed.append(type(error).__name__)
            raise


class MovingStore(TieredStore):
    """Makes a round after every second write, where nobody reads: who reads would wait for itself."""

    _shelves: NotingShelves
    _writes = 0

    async def write(self, batch: WriteBatch, durability: Durability = Durability.DURABLE) -> None:
        await super().write(batch, durability)
        self._writes += 1
        if self._writes % WRITES_BETWEEN_ROUNDS == 0 and not self._shelves.readers:
            with self.moving._tolerant("round"):
                await self._round()

    async def _round(self) -> None:
        disk = self._shelves.disk
        names = sorted({key for one in disk.classes.values() for key, _ in await one.rows()})
        self.moving.accessed(disk.chance.choices(names, k=ASKED_FOR) if names else [])
        await self.moving.end_window()
        await self.moving.once()


@asynccontextmanager
async def tiered_disk(
    path: Path, kind: Fault | None = None, at: int = 1, seed: object = 0
) -> AsyncIterator[TieredDisk]:
    """Empty disks, of which one fails: so, at the `at`-th operation of all, of the sort `kind` is about."""
    due, chance = Due(kind, at), random.Random(f"{seed}/{kind}/{at}")
    try:
        async with AsyncExitStack() as stack:
            classes = {}
            for one in Temperature:
                store = await stack.enter_async_context(opened(memory.memory, path / one.word))
                classes[one] = FaultyDisk(store, due, chance)
            # What is asked for is the same whatever the fault: where it comes was counted in another run.
            yield TieredDisk(classes, due, random.Random("asked for"), path)
    except BaseExceptionGroup as group:
        raise only_error(group) from None
