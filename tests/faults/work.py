"""Work on a faulty disk, and the judgement of what came of it: nothing acknowledged lost, nothing wrong told.

Each kind of work is cut off by its fault wherever that comes. Then the machine starts again, the ledger is
opened as a node would, asked everything, made to go on, pruned, and asked again. What is wrong is in words.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from supervm.contracts.storage import DeleteRange, DiskFull, StorageError
from supervm.storage import creation, migration
from supervm.storage.bulk import BulkMark, unfinished, write_chunked
from supervm.storage.errors import NotEmpty, Unfinished
from supervm.storage.ledger import Ledger
from supervm.storage.migration import migrate
from supervm.storage.pace import Pace
from supervm.storage.pruning import Sweeper
from supervm.storage.snapshot_create import create_snapshot
from supervm.storage.snapshot_folder import SnapshotFolder
from supervm.storage.snapshot_restore import FolderSource, restore_snapshot
from supervm.storage.spaces import INDEX, Horizon
from tests.faults.chain import CLOCK, GENESIS, ask_everything, grow, state_at, verified
from tests.faults.classes import TieredDisk
from tests.faults.store import AT_REST, LASTING, NEVER, Fault, FaultyDisk, PowerLost, faulty_disk
from tests.storage.ledger_support import ledger_on
from tests.storage.snapshot_support import IDENTITY, TRUST

BLOCKS = 7
BULK_SPACE = b"\x13bulk/"
BULK_ROWS = [(BULK_SPACE + number.to_bytes(4, "big"), b"row %d" % number) for number in range(60)]


@attrs.define
class Outcome:
    """What one fault did. `stopped`: the error that ended the work; `refused`: that of opening afterwards."""

    kind: Fault
    work: str
    at: int
    injected: str = ""
    stopped: str = ""
    refused: str = ""
    told: int = 0  # questions that were answered with an error
    lacking: int = 0  # searches that found too little, and `verify` tells that
    unfound: int = 0  # of those, where not even `verify` does: index entries of what is pruned
    right: int = 0
    noticed: list[str] = attrs.Factory(list)  # names of the errors, in order
    named: bool = True
    wrong: list[str] = attrs.Factory(list)
    recovered: bool = False


@attrs.define
class Acknowledged:
    """What the work was told is durable: the tip's height and the horizon; and how far it may have come."""

    height: int = -1
    pruned: int = 0
    bulk: int = -1  # rows


Disk: TypeAlias = FaultyDisk | TieredDisk
Disks = Callable[..., AbstractAsyncContextManager[Disk]]
Work = Callable[[Disk, Path, Acknowledged], Awaitable[None]]


@asynccontextmanager
async def on(disk: Disk) -> Any:
    """A ledger on the disk, as one process has it."""
    async with disk.opened() as store, ledger_on(store, genesis=GENESIS) as ledger:
        yield ledger


async def prune(ledger: Ledger, keep: int, told: Acknowledged) -> None:
    height = ledger.tip.height
    target = Horizon(max(0, height - keep), max(0, height - 1))
    told.pruned = max(told.pruned, target.blocks)
    await ledger.raise_horizon(target)
    await Sweeper(ledger, Pace(CLOCK)).sweep()


async def commit_blocks(disk: Disk, path: Path, told: Acknowledged) -> None:
    """Open, commit, ask, close, open again; prune on the way."""
    for blocks in (3, BLOCKS - 3):
        async with on(disk) as ledger:
            told.height = max(told.height, ledger.tip.height)
            for _ in range(blocks):
                told.height = await grow(ledger)
                found = await ledger.get_state(list(state_at(told.height)))
                assert found == state_at(told.height), "a wrong state was told"
            await prune(ledger, 4, told)


async def make_genesis_in_chunks(disk: Disk, path: Path, told: Acknowledged) -> None:
    """A first state that takes many batches."""
    with replaced(creation, CHUNK_OPERATIONS=9):
        async with on(disk) as ledger:
            told.height = ledger.tip.height
            told.height = await grow(ledger)


async def take_snapshot(disk: Disk, path: Path, told: Acknowledged) -> None:
    """A snapshot of it, which must then restore to the same rows."""
    async with on(disk) as ledger:
        for _ in range(4):
            told.height = await grow(ledger)
        folder = SnapshotFolder(path / "snapshots")
        _, manifest = await create_snapshot(ledger, folder, GENESIS, IDENTITY, CLOCK)
    async with faulty_disk(path / "restored") as fresh:
        async with fresh.opened() as store:
            await restore_snapshot(store, FolderSource(folder), manifest, trust())
        async with on(fresh) as restored:
            answers = await ask_everything(restored)
            assert not answers.wrong + answers.refused, answers.wrong


async def restore(disk: Disk, path: Path, told: Acknowledged) -> None:
    """A ledger made of a snapshot that is on a good disk."""
    folder = SnapshotFolder(path / "snapshots")
    async with faulty_disk(path / "source") as good, on(good) as ledger:
        for _ in range(4):
            await grow(ledger)
        _, manifest = await create_snapshot(ledger, folder, GENESIS, IDENTITY, CLOCK)
    while told.height < 4:
        async with disk.opened() as store:
            await restore_snapshot(store, FolderSource(folder), manifest, trust())
        told.height = 4


async def migrate_to(disk: Disk, path: Path, told: Acknowledged) -> None:
    """The rows of a good store onto it."""
    with replaced(migration, ROWS_MAX=40):
        async with faulty_disk(path / "source") as good:
            async with on(good) as ledger:
                for _ in range(3):
                    await grow(ledger)
            async with good.opened() as source, disk.opened() as target:
                await migrate(source, target)
            told.height = 3


async def migrate_from(disk: Disk, path: Path, told: Acknowledged) -> None:
    """Its rows onto a good store, which must then be the same ledger."""
    async with on(disk) as ledger:
        for _ in range(3):
            told.height = await grow(ledger)
    with replaced(migration, ROWS_MAX=40):
        async with faulty_disk(path / "target") as good:
            async with disk.opened() as source, good.opened() as target:
                await migrate(source, target)
            async with on(good) as moved:
                answers = await ask_everything(moved)
                # What was damaged before is copied as it is, and as surely found.
                assert not answers.wrong, answers.wrong
                assert disk.damaged or not answers.refused, answers.refused


async def import_rows(disk: Disk, path: Path, told: Acknowledged) -> None:
    """Rows written in chunks under a mark, gone on with from where the mark stands."""
    async with on(disk) as ledger:
        told.height = await grow(ledger)
    async with disk.opened() as store:
        found = await unfinished(store, b"import")
        mark = found or BulkMark(b"import", BULK_SPACE)
        rows = [row for row in BULK_ROWS if row[0] > mark.progress]
        await write_chunked(store, rows, mark, CLOCK, chunk_size=7)
        told.bulk = len(BULK_ROWS)


WORKS: dict[str, Work] = {
    "commit and prune": commit_blocks,
    "genesis": make_genesis_in_chunks,
    "take a snapshot": take_snapshot,
    "restore": restore,
    "migrate to": migrate_to,
    "migrate from": migrate_from,
    "bulk import": import_rows,
}


def trust() -> Any:
    return attrs.evolve(TRUST, chain_id=GENESIS.chain_id)


@contextmanager
def replaced(module: Any, **values: Any) -> Iterator[None]:
    """Other values of a module's constants for a while."""
    before = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


async def count_operations(name: str, kind: Fault, path: Path, disks: Disks = faulty_disk) -> int:
    """How many operations of this work the fault could come at."""
    async with disks(path, kind, NEVER) as disk:
        await WORKS[name](disk, path, Acknowledged())
        return disk.due.operations


async def inject(
    name: str, kind: Fault, at: int, path: Path, seed: object = 0, disks: Disks = faulty_disk
) -> Outcome:
    """Do the work with the fault at its `at`-th operation; then start again and judge."""
    outcome = Outcome(kind, name, at)
    told = Acknowledged()
    async with disks(path / "disk", kind, at, seed) as disk:
        await _work(name, disk, path, told, outcome)
        outcome.noticed += disk.noticed
        outcome.injected = disk.due.injected
        if not outcome.wrong:
            await _start_again(name, disk, path, told, outcome)
    return outcome


async def _work(name: str, disk: Disk, path: Path, told: Acknowledged, outcome: Outcome) -> None:
    try:
        await WORKS[name](disk, path, told)
    except StorageError as error:
        outcome.stopped = type(error).__name__
        outcome.noticed.append(outcome.stopped)
        _check_named(disk, error, outcome)
        if isinstance(error, DiskFull) and disk.kind is not Fault.DISK_FULL:
            outcome.wrong.append(f"the work was stopped by {error}")
    except PowerLost:
        outcome.stopped = "power lost"
    except Exception as error:
        outcome.wrong.append(f"the work ended with {type(error).__name__}: {error}")
    if disk.kind in (Fault.POWER_LOSS, Fault.SYNC_ERROR):
        await disk.lose_power()
    disk.disarm()
    await disk.restart()


async def _start_again(name: str, disk: Disk, path: Path, told: Acknowledged, outcome: Outcome) -> None:
    """Open what is there as a node would; judge all it says, twice, with blocks and pruning in between."""
    try:
        try:
            async with on(disk) as ledger:
                await _judge(ledger, disk, told, outcome)
        except Unfinished:
            # A restore or migration that broke: it is the operator's to go on with, and must come to its end.
            if told.height >= 0 or name not in ("restore", "migrate to"):
                outcome.wrong.append("an acknowledged ledger is said to be unfinished")
                return
            await _go_on(name, disk, path, told, outcome)
    except StorageError as error:
        outcome.refused = type(error).__name__
        outcome.noticed.append(outcome.refused)
        if disk.kind not in LASTING:
            outcome.wrong.append(f"the disk is good again, and opening gave {type(error).__name__}: {error}")
        _check_named(disk, error, outcome)
    except Exception as error:
        outcome.wrong.append(f"opening ended with {type(error).__name__}: {error}")
    else:
        outcome.recovered = not outcome.wrong


async def _go_on(name: str, disk: Disk, path: Path, told: Acknowledged, outcome: Outcome) -> None:
    try:
        await WORKS[name](disk, path / "again", told)
    except NotEmpty:
        # The snapshot or source that was made anew is another one: as a node's operator would, from nothing.
        async with disk.opened() as store:
            await store.write([DeleteRange(b"", None)])
        await WORKS[name](disk, path / "anew", told)
    async with on(disk) as ledger:
        await _judge(ledger, disk, told, outcome)


async def _ask(ledger: Ledger, told: Acknowledged, outcome: Outcome, damaged: bytes) -> None:
    answers = await ask_everything(ledger, told.pruned)
    outcome.right += answers.right
    outcome.told += len(answers.refused)
    outcome.lacking += len(answers.lacking)
    outcome.noticed += [type(error).__name__ for error in answers.refused]
    outcome.wrong += answers.wrong
    if answers.lacking and (outcome.kind not in AT_REST or await verified(ledger)):
        if damaged[:1] == INDEX and ledger.horizon.blocks:
            outcome.unfound += len(answers.lacking)
        else:
            outcome.wrong += [f"{what}: not found, and nothing tells why" for what in answers.lacking]


async def _judge(ledger: Ledger, disk: Disk, told: Acknowledged, outcome: Outcome) -> None:
    damaged = disk.damaged[0] if disk.damaged else b""
    tip = ledger.tip.height
    if not told.height <= tip <= told.height + (1 if told.height >= 0 else BLOCKS):
        outcome.wrong.append(f"height {told.height} was acknowledged, the ledger stands at {tip}")
        return
    await _ask(ledger, told, outcome, damaged)
    if outcome.wrong:
        return
    lasting = outcome.kind in LASTING
    try:
        for _ in range(2):
            await grow(ledger)
        await prune(ledger, 3, told)
    except StorageError as error:
        outcome.noticed.append(type(error).__name__)
        if not lasting:
            outcome.wrong.append(f"it doesn't go on: {error}")
        return
    await _ask(ledger, told, outcome, damaged)
    if not lasting and outcome.told:
        outcome.wrong.append(f"the disk is good again, and {outcome.noticed[-1]} was answered")
    if not lasting and not await verified(ledger):
        outcome.wrong.append("the tree is not that of the state")


def _check_named(disk: Disk, error: StorageError, outcome: Outcome) -> None:
    names = [key.hex() for key in disk.damaged]
    if disk.kind in AT_REST and names and not any(name in str(error) for name in names):
        outcome.named = False
