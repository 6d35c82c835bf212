"""What the verbs of `supervm snapshot` do: folders opened, snapshots taken, checked and restored."""

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trio

from supervm.chain.component import LedgerOptions
from supervm.chain.room import check_bulk
from supervm.chain.validator_sets import write_handovers
from supervm.cli.errors import Failure
from supervm.cli.folders import (
    check_persistent,
    finality_of,
    opened_folder,
    opened_ledger,
    opened_storage,
    planned_storage,
    scratch_storage,
)
from supervm.cli.node_option import connect
from supervm.cli.output import progress
from supervm.contracts.roles import Role
from supervm.crypto.suites import verify
from supervm.kernel.compose import Planned
from supervm.node.assembly import INSIDE
from supervm.node.chain import GENESIS
from supervm.node.compose import Prepared, prepare
from supervm.node.options import NodeOptions
from supervm.storage.errors import ForeignChain, SnapshotError, SnapshotUntrusted, WrongRoot
from supervm.storage.folder import open_folder, read_marker, set_aside, write_synced
from supervm.storage.ledger import open_ledger
from supervm.storage.snapshot_create import Taking, create_snapshot
from supervm.storage.snapshot_folder import SnapshotFolder
from supervm.storage.snapshot_format import Manifest
from supervm.storage.snapshot_restore import (
    FolderSource,
    Trust,
    check_chunks,
    check_manifest,
    read_genesis,
    restore_snapshot,
)
from supervm.telemetry.logs import LogConfig, open_logs
from supervm.types.address import Suite
from supervm.types.genesis import Genesis
from supervm.types.genesis_json import FILE_BYTES_MAX, dump_genesis, load_genesis
from supervm.types.handover import HandOver

Facts = dict[str, Any]
LOOK_S = 0.2
IDLE_MAX = 10
"""Looks in a row at a node that isn't taking a snapshot though it was asked to: it begins within a second."""


async def create_one(options: NodeOptions, to: Path | None, blocks: int | None) -> Facts:
    """Take one of a stopped node's folder. Raises Failure, `StorageError`s."""
    async with opened_folder(options) as folder, opened_ledger(folder) as ledger:
        wanted = folder.options
        target = SnapshotFolder(to) if to is not None else wanted.snapshot_folder(folder.path)
        rules = wanted.snapshots
        with progress("taking the snapshot", 0) as bar:
            name, manifest = await create_snapshot(
                ledger,
                target,
                folder.chain.genesis,
                folder.chain.identity,
                folder.clock,
                backend=folder.prepared.storage,
                taking=Taking(
                    blocks=rules.body_blocks if blocks is None else blocks,
                    folder_bytes_max=rules.bytes_max,
                    disk_free_bytes_min=rules.free_bytes_min,
                ),
                progress=lambda done, of: bar.update(1),
            )
    return {"name": name, "folder": str(target.path), **_facts(manifest)}


async def create_at(api: str) -> Facts:
    """Have a running node take one, and wait until it is there. Raises Failure, `ClientError`."""
    with connect(api) as client, progress("taking the snapshot", 0) as bar:
        before = {one["name"] for one in client.get("/v1/snapshots")["snapshots"]}
        client.post("/v1/snapshots")
        idle = 0
        while idle < IDLE_MAX:
            await trio.sleep(LOOK_S)
            now = client.get("/v1/snapshots")
            made = [one for one in now["snapshots"] if one["name"] not in before]
            if made:
                return dict(made[-1])
            if now["last_failure"]:
                raise Failure(f"{api}: {now['last_failure']}")
            idle = 0 if now["taking"] else idle + 1
            bar.update(1)
        raise Failure(f"{api}: the node takes no snapshot any more and has none; was it started again?")


async def list_all(options: NodeOptions, snapshots: Path | None) -> list[Facts]:
    """The snapshots of a folder; of one whose manifest can't be read, why."""
    folder = await _folder(options, snapshots)
    rows: list[Facts] = []
    for one in await trio.to_thread.run_sync(folder.listed):
        row: Facts = {"name": one.name, "height": str(one.height), "pinned": one.pinned}
        try:
            rows.append(row | _facts(await trio.to_thread.run_sync(folder.manifest, one.name)))
        except SnapshotError as error:
            rows.append(row | {"unreadable": str(error)})
    return rows


async def verify_one(
    options: NodeOptions, snapshots: Path | None, name: str, quick: bool, asked: str | None = None
) -> Facts:
    """Check a snapshot by restoring it where nobody needs it; `quick`: as far as that goes without."""
    prepared = await prepare(options, inside=INSIDE)
    folder = _folder_of(prepared, snapshots)
    one = folder.named(name)
    with folder.reading(one.name) as manifest:
        source = FolderSource(folder)
        genesis = _own_genesis(prepared.data) or await read_genesis(manifest, source)
        handovers = _handovers(asked, manifest)
        trust = _trust(genesis, handovers)
        await check_manifest(manifest, trust)
        if quick:
            with progress("checking chunks", manifest.chunks) as bar:
                await check_chunks(manifest, source, lambda done, of: bar.update(1))
        else:
            with tempfile.TemporaryDirectory(prefix="supervm-snapshot-") as scratch:
                planned = scratch_storage(prepared, genesis)
                await _restore(prepared, planned, Path(scratch), genesis, manifest, source, trust, handovers)
    return {"verified": True, "restored": not quick, "name": one.name, **_facts(manifest)}


async def restore_one(
    options: NodeOptions,
    snapshots: Path | None,
    name: str,
    genesis_file: Path | None,
    replace: bool,
    asked: str | None = None,
) -> Facts:
    """Restore a snapshot into a data folder; what it holds then.

    `asked`: the API of a node that tells the hand-overs from genesis to the snapshot's epoch; None: the set
    has not changed since genesis.
    """
    prepared = await prepare(options, inside=INSIDE)
    data, folder = prepared.data, _folder_of(prepared, snapshots)
    one = folder.named(name)
    aside = None
    with ExitStack() as stack:
        manifest = stack.enter_context(folder.reading(one.name))
        source = FolderSource(folder)
        given = _read_genesis(genesis_file) if genesis_file is not None else None
        genesis = _own_genesis(data) or given or await read_genesis(manifest, source)
        handovers = _handovers(asked, manifest)
        for each in (given, genesis):
            if each is not None:
                await check_manifest(manifest, _trust(each, handovers))
        if replace:
            with progress("checking chunks", manifest.chunks) as bar:
                await check_chunks(manifest, source, lambda done, of: bar.update(1))
            found = await trio.to_thread.run_sync(read_marker, data)
            if found is not None:
                aside = await trio.to_thread.run_sync(set_aside, data, found, int(time.time()))
        with open_folder(data, prepared.storage):
            planned = planned_storage(prepared, genesis)
            brought = not (data / GENESIS).exists()
            if brought:
                write_synced(data / GENESIS, dump_genesis(genesis))
            try:
                trust = _trust(genesis, handovers)
                await _restore(prepared, planned, data, genesis, manifest, source, trust, handovers)
            except (WrongRoot, SnapshotUntrusted, ForeignChain):
                # Nothing of such a snapshot stays, the genesis that it brought neither.
                if brought:
                    (data / GENESIS).unlink()
                raise
    kept = {"set_aside": str(aside)} if aside is not None else {}
    return {"restored": True, "name": one.name, "storage": prepared.storage, **_facts(manifest), **kept}


async def _restore(
    prepared: Prepared,
    planned: tuple[Planned, ...],
    data: Path,
    genesis: Genesis,
    manifest: Manifest,
    source: FolderSource,
    trust: Trust,
    handovers: Sequence[HandOver],
) -> None:
    """Restore into the planned storage below `data`, and open what came of it as a node would."""
    with open_logs(LogConfig(level="warning")) as logs:
        async with opened_storage(prepared, planned, data, logs) as (store, gas):
            check_persistent(store)
            ledger_options: LedgerOptions = prepared.effective.options[Role.APPLICATION, "ledger"]
            # The tree is made anew, and is about as large as the state.
            check_bulk(await store.stats(), ledger_options.room, 2 * manifest.size_bytes, "the snapshot")
            await write_handovers(store, handovers)
            with progress("restoring", manifest.chunks) as bar:
                await restore_snapshot(store, source, manifest, trust, lambda done, of: bar.update(1))
            state = gas.initial_state()
            async with open_ledger(store, genesis, state, gas.base_price(state)) as ledger:
                assert ledger.tip.state_root == manifest.state_root, "restore_snapshot checked it"


async def pin_one(options: NodeOptions, snapshots: Path | None, name: str, pinned: bool) -> Facts:
    folder = await _folder(options, snapshots)
    await trio.to_thread.run_sync(folder.pin, name, pinned)
    return {"name": name, "pinned": pinned}


async def remove_one(options: NodeOptions, snapshots: Path | None, name: str) -> Facts:
    folder = await _folder(options, snapshots)

    def remove() -> Facts:
        with folder.writing():
            folder.remove(name)
            swept = folder.sweep()
        return {"removed": name, "chunks": swept.files, "bytes": swept.bytes}

    return await trio.to_thread.run_sync(remove)


def _facts(manifest: Manifest) -> Facts:
    created = datetime.fromtimestamp(manifest.created_ms / 1_000, UTC)
    return {
        "chain_id": f"0x{manifest.chain_id.hex()}",
        "height": str(manifest.height),
        "state_root": f"0x{manifest.state_root.hex()}",
        "first_block": str(manifest.first_block),
        "created": created.isoformat(timespec="seconds"),
        "node_id": f"0x{manifest.node_id.hex()}",
        "taken_from": manifest.backend,
        "rows": manifest.rows,
        "bytes": manifest.size_bytes,
        "chunks": manifest.chunks,
        "digest": f"0x{manifest.digest.hex()}",
    }


def _handovers(asked: str | None, manifest: Manifest) -> list[HandOver]:
    """What a node says of how validators changed up to a snapshot's anchor. Nothing of it is checked yet."""
    if asked is None:
        return []
    with connect(asked) as client:
        return client.handovers(manifest.anchor_header.epoch)


def _trust(genesis: Genesis, handovers: Sequence[HandOver]) -> Trust:
    def verify_signature(public_key: bytes, message: bytes, signature: bytes) -> bool:
        return verify(Suite.ED25519, public_key, message, signature)

    return Trust(
        chain_id=genesis.chain_id,
        verify_signature=verify_signature,
        check_certificate=finality_of(genesis, handovers),
    )


async def _folder(options: NodeOptions, snapshots: Path | None) -> SnapshotFolder:
    if snapshots is not None:
        return _there(SnapshotFolder(snapshots))
    return _folder_of(await prepare(options, inside=INSIDE), None)


def _folder_of(prepared: Prepared, snapshots: Path | None) -> SnapshotFolder:
    options: LedgerOptions = prepared.effective.options[Role.APPLICATION, "ledger"]
    return _there(options.snapshot_folder(prepared.data) if snapshots is None else SnapshotFolder(snapshots))


def _there(folder: SnapshotFolder) -> SnapshotFolder:
    if not folder.path.is_dir():
        raise Failure(f"{folder.path}: no snapshots here; name their folder with --from")
    return folder


def _own_genesis(data: Path) -> Genesis | None:
    path = data / GENESIS
    return _read_genesis(path) if path.exists() else None


def _read_genesis(path: Path) -> Genesis:
    with path.open("rb") as file:
        return load_genesis(file.read(FILE_BYTES_MAX + 1))
