"""Work on a faulty file system: the data folder's and a store's marker, snapshots, a checkpoint's file, and
what a store of classes writes of itself.
"""

import random
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs

from supervm.contracts.storage import DiskFull, Put, StorageError, StoreCorrupt
from supervm.plugins.storage import folder as stores
from supervm.plugins.storage import memory, tiered
from supervm.plugins.storage.class_folders import read_store, write_whole
from supervm.plugins.storage.tiered import TieredConfig
from supervm.storage.folder import open_folder, read_marker, switch_backend
from supervm.storage.heat import Damaged, HeatTable
from supervm.storage.snapshot_create import create_snapshot
from supervm.storage.snapshot_folder import SnapshotFolder
from supervm.storage.snapshot_restore import FolderSource, restore_snapshot
from supervm.testing.conformance.component import only_error
from supervm.testing.context import opened
from tests.faults.chain import CLOCK, GENESIS, ask_everything, grow
from tests.faults.files import AT_REST, FaultyFiles, FileFault, faulty_files
from tests.faults.store import NEVER, PowerLost, faulty_disk
from tests.faults.work import on, trust
from tests.storage.snapshot_support import IDENTITY

BACKENDS = ("sqlite", "rocksdb")
ROWS = [Put(b"row %d" % number, b"value %d" % number) for number in range(40)]


@attrs.define
class Outcome:
    """What one fault did; as of `tests.faults.work`."""

    kind: FileFault
    work: str
    at: int
    injected: str = ""
    stopped: str = ""
    noticed: list[str] = attrs.Factory(list)
    named: bool = True
    wrong: list[str] = attrs.Factory(list)
    right: int = 0
    recovered: bool = False


@attrs.define
class World:
    """A folder on the faulty disk, and what the work was told is there."""

    root: Path
    ledger: Any  # a good one, to take snapshots of
    told: list[str] = attrs.Factory(list)
    may: list[str] = attrs.Factory(list)  # what may be there as well
    scored: int = 0  # units whose scores are on disk
    gone: set[str] = attrs.Factory(set)  # snapshots that it began to remove

    @property
    def snapshots(self) -> SnapshotFolder:
        return SnapshotFolder(self.root / "snapshots")


async def mark_data_folder(world: World) -> None:
    """A new folder, then switched to another backend."""
    path = world.root / "data"
    for backend in BACKENDS:
        world.may = [backend]
        if world.told:
            with open_folder(path, world.told[0]):
                switch_backend(path, backend)
        else:
            with open_folder(path, backend):
                stores.open_folder(path / "storage")
        world.told = [backend]


async def judge_data_folder(world: World) -> int:
    found = read_marker(world.root / "data")
    if found not in {*world.told, *world.may, *([None] if not world.told else [])}:
        raise AssertionError(f"it is marked {found}, told was {world.told}")
    with open_folder(world.root / "data", found or BACKENDS[0]):
        return 1


async def mark_store(world: World) -> None:
    """A store's folder, made and marked."""
    path = world.root / "store"
    stores.open_folder(path)
    with stores.locked_folder(path):
        if not stores.check_marker(path, "lmdb"):
            stores.write_marker(path, "lmdb")
        world.told = ["lmdb"]


async def judge_store(world: World) -> int:
    path = world.root / "store"
    if not world.told and not path.exists():
        return 1
    with stores.locked_folder(path):
        if not stores.check_marker(path, "lmdb") and world.told:
            raise AssertionError("the store's marker is gone")
    return 1


async def keep_snapshots(world: World) -> None:
    """Two snapshots, the first pinned; and what no snapshot names swept."""
    for _ in range(2):
        await grow(world.ledger)
        name, _ = await create_snapshot(world.ledger, world.snapshots, GENESIS, IDENTITY, CLOCK)
        world.told.append(name)
        with world.snapshots.writing():
            world.snapshots.pin(world.told[0])
            old = world.snapshots.listed()[:-1]
            world.gone.update(one.name for one in old if not one.pinned)
            world.snapshots.remove_old(1)
            world.snapshots.sweep()


async def judge_snapshots(world: World) -> int:
    """Each one that was told is there, and restores to the ledger that it is of."""
    there = [one.name for one in world.snapshots.listed()]
    lost = set(world.told) - set(there) - world.gone
    if lost:
        raise AssertionError(f"snapshots are gone: {lost}")
    right = 0
    for name in there:
        with world.snapshots.reading(name) as manifest:
            async with faulty_disk(world.root / "unused") as disk:
                async with disk.opened() as store:
                    await restore_snapshot(store, FolderSource(world.snapshots), manifest, trust())
                async with on(disk) as ledger:
                    answers = await ask_everything(ledger)
                    if answers.wrong or answers.refused or answers.lacking:
                        raise AssertionError(f"a restored ledger answered {answers}")
                    right += answers.right
    return right


async def write_checkpoint(world: World) -> None:
    """The file of a memory store's rows."""
    async with one_memory(world.root.parent / "memory", "") as store:
        await store.write(ROWS)
        await store.checkpoint(world.root / "copy")
        world.told = ["copy"]


async def judge_checkpoint(world: World) -> int:
    path = world.root / "copy"
    if not path.exists():
        if world.told:
            raise AssertionError("the checkpoint is gone")
        return 1
    async with one_memory(world.root.parent / "again", str(path)) as store:
        found = [Put(*row) async for row in store.scan()]
        if found != sorted(ROWS):
            raise AssertionError(f"a checkpoint of {len(found)} other rows")
    return 1


async def give_classes(world: World) -> None:
    """A store of two classes, then of three; and its scores, twice."""
    path = world.root / "tiered"
    stores.open_folder(path)
    for warm, asked in (("", 3), ("sqlite", 8)):
        known = read_store(path)
        if known is not None and len(known.classes) == 3:
            warm = "sqlite"  # it was given before
        places = TieredConfig(warm_over=warm).places(path)
        facts = tiered.claimed(path, places, random.Random(asked))
        world.told = [facts.mark.hex(), *(one.word for one in facts.classes)]
        world.may.append(str(asked))
        write_whole(path / tiered.HEAT_FILE, scores(asked))
        world.scored = asked


async def judge_classes(world: World) -> int:
    path = world.root / "tiered"
    if not world.told and not path.exists():
        return 1
    # As at the next start: with another mark, if it were to draw one.
    facts = tiered.claimed(path, TieredConfig(warm_over="sqlite").places(path), random.Random(99))
    if world.told and (facts.mark.hex() != world.told[0] or len(facts.classes) != 3):
        raise AssertionError(f"the store's facts are {facts}")
    heat = path / tiered.HEAT_FILE
    if heat.exists():
        try:
            table = HeatTable.decode(heat.read_bytes(), 0.0, random.Random(1), units_max=50, half_life_s=1e9)
        except Damaged as damage:
            # They are forgotten then: `supervm.plugins.storage.tiered` goes on without.
            raise StoreCorrupt("damaged scores", heat) from damage
        except OSError as error:
            raise stores.os_error(error, heat) from error
        if str(len(table)) not in world.may or len(table) < world.scored:
            raise AssertionError(f"scores of {len(table)} units")
    elif world.scored:
        raise AssertionError("the scores are gone")
    return 1


def scores(units: int) -> bytes:
    table = HeatTable.empty(0.0, random.Random(1), units_max=50, half_life_s=1e9)
    for number in range(units):
        table.count(b"unit %d" % number, 0.0)
    return table.encode(0.0)


@asynccontextmanager
async def one_memory(data: Path, path: str) -> Any:
    try:
        async with opened(memory.memory, data, memory.MemoryConfig(path=path)) as store:
            yield store
    except BaseExceptionGroup as group:
        raise only_error(group) from None


Step = Callable[[World], Awaitable[Any]]
WORKS: dict[str, tuple[Step, Step]] = {
    "data folder": (mark_data_folder, judge_data_folder),
    "store marker": (mark_store, judge_store),
    "snapshots": (keep_snapshots, judge_snapshots),
    "checkpoint": (write_checkpoint, judge_checkpoint),
    "classes": (give_classes, judge_classes),
}


@asynccontextmanager
async def world_at(path: Path) -> Any:
    root = path / "disk"
    root.mkdir(parents=True)
    async with faulty_disk(path / "ledger") as disk, on(disk) as ledger:
        yield World(root, ledger)


async def count_calls(name: str, kind: FileFault, path: Path) -> int:
    """How many calls of this work, or for a fault of reading of its judgement, the fault could come at."""
    work, judge = WORKS[name]
    async with world_at(path) as world:
        if _reads(kind):
            await work(world)
        with faulty_files(world.root, kind, at=NEVER) as files:
            await (judge if _reads(kind) else work)(world)
    return files.calls


def _reads(kind: FileFault) -> bool:
    return kind in (FileFault.READ_ERROR, FileFault.FLIP_ON_READ)


async def inject(name: str, kind: FileFault, at: int, path: Path, seed: object = 0) -> Outcome:
    """Do the work, or its judgement where that reads, with the fault at the `at`-th call; then judge."""
    outcome = Outcome(kind, name, at)
    work, judge = WORKS[name]
    async with world_at(path) as world:
        if kind in AT_REST or _reads(kind):
            await work(world)
        with faulty_files(world.root, kind, at, seed) as files:
            if kind in AT_REST:
                files.damage()
            else:
                await _attempt(judge if _reads(kind) else work, world, outcome)
        outcome.injected = files.injected
        if files.left is not None:
            files.come_back()
        if kind is FileFault.SHORT_WRITE and outcome.stopped:
            outcome.wrong.append(f"a short write goes on, and it ended with {outcome.stopped}")
        if not outcome.wrong:
            await _judge(judge, world, files, outcome)
        if not outcome.wrong and kind not in AT_REST:
            await _once_more(work, judge, world, outcome)
    return outcome


async def _attempt(step: Step, world: World, outcome: Outcome) -> None:
    try:
        await step(world)
    except StorageError as error:
        outcome.stopped = type(error).__name__
        outcome.noticed.append(outcome.stopped)
        if isinstance(error, DiskFull) and outcome.kind is not FileFault.DISK_FULL:
            outcome.wrong.append(f"it was stopped by {error}")
    except PowerLost:
        outcome.stopped = "power lost"
    except Exception as error:
        outcome.wrong.append(f"it ended with {type(error).__name__}: {error}")


async def _judge(judge: Step, world: World, files: FaultyFiles, outcome: Outcome) -> None:
    try:
        outcome.right += await judge(world)
    except StorageError as error:
        outcome.noticed.append(type(error).__name__)
        if outcome.kind not in AT_REST:
            outcome.wrong.append(f"the disk is good again, and it gave {type(error).__name__}: {error}")
        what = Path(files.injected)
        outcome.named = what.name in str(error) or (what.suffix == ".manifest" and "manifest" in str(error))
    except Exception as error:
        outcome.wrong.append(f"it was judged {type(error).__name__}: {error}")
    else:
        outcome.recovered = True


async def _once_more(work: Step, judge: Step, world: World, outcome: Outcome) -> None:
    """The same work again on the good disk: nothing half done stands in its way."""
    if (outcome.work == "data folder" and world.told) or (world.root / "copy").exists():
        return
    try:
        await work(world)
        outcome.right += await judge(world)
    except Exception as error:
        outcome.wrong.append(f"the work can't be done again: {type(error).__name__}: {error}")
