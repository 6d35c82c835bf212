"""Beginning with a snapshot that came from peers: a new store is made of it, and takes the old one's place.

The old store is touched only when all of the new one has checked, and then set aside, not removed: a
validator's log lies in it. It says nothing from then on until the others have told it since when it may
(CONS-67). A snapshot that contradicts itself is removed, and its maker's are not taken again; one that was
spoilt here is removed, and fetched again.

A process killed at any call leaves one of these, and each is gone on from at the next start:

    a snapshot is whole                    the store that is made of it is gone on with, or is made again
    READY is there, its store in incoming  it takes the old one's place, which may be set aside already
    READY is there, its store isn't        it has taken its place
"""

import time
from collections.abc import Callable
from pathlib import Path

import pluggy
import trio

from supervm.chain.incoming import INCOMING, Incoming, restore_incoming
from supervm.contracts.roles import ROLES, Role
from supervm.contracts.storage import StorageError, StoreCorrupt
from supervm.kernel.component import Log
from supervm.kernel.compose import Planned
from supervm.kernel.context import SystemClock
from supervm.kernel.errors import StartFailed
from supervm.kernel.observe import Observers
from supervm.kernel.supervise import Environment, open_kernel
from supervm.node.compose import Prepared
from supervm.storage.errors import LedgerError
from supervm.storage.folder import ASIDE, STORE_NAME, make_folder, sync_path, write_synced
from supervm.telemetry.logs import Logs
from supervm.telemetry.metrics import Registry
from supervm.types.errors import InvalidInput
from supervm.types.genesis import Genesis

READY = "restored"
"""A file in the folder of what came: its store is whole, and only has to take its place."""
MEND = "restore one by hand: supervm snapshot restore"


def is_here(data: Path) -> bool:
    """Whether a whole snapshot of peers waits in a data folder."""
    incoming = Incoming(data / INCOMING)
    return (incoming.path / READY).exists() or incoming.is_whole()


def takes_snapshots(prepared: Prepared) -> bool:
    """Whether a node so prepared can begin with one: its store lies in its data folder."""
    return _planned(prepared) is not None


async def adopt(prepared: Prepared, data: Path, genesis: Genesis, logs: Logs, log: Log) -> None:
    """Begin with the snapshot that waits in the data folder, if one does; the caller holds the folder.

    Interrupted it goes on at the next start. Raises `StorageError` for a disk that fails or is full.
    """
    incoming = Incoming(data / INCOMING)
    await trio.to_thread.run_sync(_called, incoming.path, incoming.finish_clearing)
    if not is_here(data):
        return
    if not (incoming.path / READY).exists():
        planned = _planned(prepared)
        if planned is None:
            log.error("snapshot_not_taken", cause="the store doesn't lie in the data folder", mend=MEND)
            await _clear(incoming)
            return
        if not await _made(prepared, planned, incoming, genesis, logs, log):
            return
    await trio.to_thread.run_sync(_called, incoming.path, _take_place, data, incoming, prepared.storage)
    log.info("begins_with_snapshot", data=str(data))


async def _made(
    prepared: Prepared, planned: Planned, incoming: Incoming, genesis: Genesis, logs: Logs, log: Log
) -> bool:
    """Make a store of the snapshot that is whole. False where none can be made: nothing of it stays."""
    try:
        manifest = await trio.to_thread.run_sync(incoming.whole)
        assert manifest is not None, "one is whole"
        if manifest.node_id in await trio.to_thread.run_sync(incoming.refused):
            await _clear(incoming)
            return False
        log.info("snapshot_restoring", height=manifest.height, chunks=manifest.chunks)
        wrong = await _restore(prepared, planned, incoming, genesis, logs)
    except (StoreCorrupt, StartFailed) as error:
        log.error("snapshot_lost", cause=str(error), mend="nothing: it is fetched again; check the disk")
        await _clear(incoming)
        return False
    if wrong is not None:
        log.error("snapshot_refused", maker=manifest.node_id.hex(), cause=str(wrong))
        await trio.to_thread.run_sync(_called, incoming.path, incoming.refuse, manifest.node_id)
        return False
    await trio.to_thread.run_sync(_called, incoming.path, _mark_ready, incoming)
    log.info("snapshot_restored", height=manifest.height)
    return True


async def _clear(incoming: Incoming) -> None:
    await trio.to_thread.run_sync(_called, incoming.path, incoming.clear)


def _planned(prepared: Prepared) -> Planned | None:
    """The folder's storage component, where it takes its place from the folder it is given."""
    component = prepared.catalogue.named(Role.STORAGE)[prepared.storage].component
    config = prepared.effective.options[Role.STORAGE, prepared.storage]
    if "persistent" not in component.features or getattr(config, "path", None) != "":
        return None
    return Planned(component=component, config=config)


async def _restore(
    prepared: Prepared, planned: Planned, incoming: Incoming, genesis: Genesis, logs: Logs
) -> LedgerError | InvalidInput | None:
    """Make a store of it, or go on with the one that was begun. Gives what is wrong with the snapshot."""
    clock, metrics = SystemClock(), Registry()
    environment = Environment(
        data_dir=incoming.path,
        tier=prepared.machine.decision.tier,
        hardware=prepared.machine.facts,
        clock=clock,
        metrics=metrics,
        log_for=logs.logger,
    )
    observers = Observers(pluggy.PluginManager("supervm"), (), clock, logs.logger("observers"), metrics, 1)
    roles = {str(Role.STORAGE): ROLES[Role.STORAGE]}
    async with open_kernel(roles, environment, observers, (planned,)) as kernel:
        try:
            await restore_incoming(kernel.require(Role.STORAGE), incoming, genesis)
        except (LedgerError, InvalidInput) as error:
            return error
    return None


def _mark_ready(incoming: Incoming) -> None:
    sync_path(incoming.path / STORE_NAME)
    write_synced(incoming.path / READY, b"")


def _take_place(data: Path, incoming: Incoming, backend: str) -> None:
    new, old = incoming.path / STORE_NAME / backend, data / STORE_NAME / backend
    if new.exists():
        if old.exists():
            old.rename(_aside(old, int(time.time())))
        make_folder(old.parent)
        new.rename(old)
        sync_path(old.parent)
        sync_path(new.parent)
    incoming.clear()


def _aside(store: Path, stamp: int) -> Path:
    """A name that no other store has that was set aside."""
    while (aside := store.with_name(f"{store.name}{ASIDE}{stamp}")).exists():
        stamp += 1
    return aside


def _called(where: Path, call: Callable[..., None], *args: object) -> None:
    """Raises `StorageError` for what the disk refuses."""
    try:
        call(*args)
    except OSError as error:
        raise StorageError(
            f"a snapshot of peers can't be begun with: {error.strerror}",
            error.filename or where,
            "Give this user the right, or check the disk.",
        ) from error
