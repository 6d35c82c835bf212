"""Beginning with a snapshot that came from peers: a new store is made of it, and takes the old one's place.

The old store is touched only when all of the new one has checked, and then set aside, not removed: a
validator's log lies in it. It says nothing from then on until the others have told it since when it may
(CONS-67). A snapshot that contradicts itself is removed, and its maker's are not taken again.
"""

import time
from pathlib import Path

import pluggy
import trio

from supervm.chain.incoming import INCOMING, Incoming, restore_incoming
from supervm.contracts.roles import ROLES, Role
from supervm.contracts.storage import StorageError
from supervm.kernel.component import Log
from supervm.kernel.compose import Planned
from supervm.kernel.context import SystemClock
from supervm.kernel.observe import Observers
from supervm.kernel.supervise import Environment, open_kernel
from supervm.node.compose import Prepared
from supervm.storage.errors import LedgerError, SnapshotError
from supervm.storage.folder import ASIDE, STORE_NAME, sync_path, write_synced
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
    return (incoming.path / READY).exists() or incoming.whole() is not None


async def adopt(prepared: Prepared, data: Path, genesis: Genesis, logs: Logs, log: Log) -> None:
    """Begin with the snapshot that waits in the data folder, if one does; the caller holds the folder.

    Interrupted it goes on at the next start. Raises `StorageError` for a disk that fails or is full.
    """
    incoming = Incoming(data / INCOMING)
    if not (incoming.path / READY).exists():
        manifest = await trio.to_thread.run_sync(incoming.whole)
        if manifest is None:
            return
        planned = _planned(prepared)
        if planned is None:
            log.error("snapshot_not_taken", cause="the store doesn't lie in the data folder", mend=MEND)
            await trio.to_thread.run_sync(incoming.clear)
            return
        log.info("snapshot_restoring", height=manifest.height, chunks=manifest.chunks)
        try:
            await _restore(prepared, planned, incoming, genesis, logs)
        except (SnapshotError, LedgerError, InvalidInput) as error:
            log.error("snapshot_refused", maker=manifest.node_id.hex(), cause=str(error))
            await trio.to_thread.run_sync(incoming.refuse, manifest.node_id)
            return
        write_synced(incoming.path / READY, b"")
        log.info("snapshot_restored", height=manifest.height)
    await trio.to_thread.run_sync(_take_place, data, incoming, prepared.storage)


def _planned(prepared: Prepared) -> Planned | None:
    """The folder's storage component, where it takes its place from the folder it is given."""
    component = prepared.catalogue.named(Role.STORAGE)[prepared.storage].component
    config = prepared.effective.options[Role.STORAGE, prepared.storage]
    if "persistent" not in component.features or getattr(config, "path", None) != "":
        return None
    return Planned(component=component, config=config)


async def _restore(
    prepared: Prepared, planned: Planned, incoming: Incoming, genesis: Genesis, logs: Logs
) -> None:
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
        await restore_incoming(kernel.require(Role.STORAGE), incoming, genesis)


def _take_place(data: Path, incoming: Incoming, backend: str) -> None:
    new, old = incoming.path / STORE_NAME / backend, data / STORE_NAME / backend
    try:
        if new.exists():
            if old.exists():
                old.rename(old.with_name(f"{backend}{ASIDE}{int(time.time())}"))
            old.parent.mkdir(mode=0o700, exist_ok=True)
            new.rename(old)
            sync_path(old.parent)
            sync_path(data)
    except OSError as error:
        raise StorageError(
            f"the restored store can't take its place: {error.strerror}", old, "Give this user the right."
        ) from error
    incoming.clear()
