"""Snapshots for tests: who signs them, what they must prove, and stores to restore them into."""

from pathlib import Path
from typing import Any

import attrs

from supervm.contracts.application import NodeIdentity
from supervm.contracts.storage import KeyValueStore
from supervm.crypto.keys import KeyPair
from supervm.crypto.suites import verify
from supervm.kernel.context import SystemClock
from supervm.storage.ledger import Ledger
from supervm.storage.snapshot_create import Taking, create_snapshot
from supervm.storage.snapshot_folder import SnapshotFolder
from supervm.storage.snapshot_format import Manifest
from supervm.storage.snapshot_restore import FolderSource, Trust, restore_snapshot
from supervm.types.address import Suite
from supervm.types.block import BlockHeader
from supervm.types.errors import ProofInvalid
from tests.storage.ledger_support import CERTIFICATE, GENESIS

KEY = KeyPair(Suite.ED25519, (7).to_bytes(32, "big"))
IDENTITY = NodeIdentity(node_id=KEY.node_id, public_key=KEY.public_key, sign=KEY.sign)


def verify_signature(public_key: bytes, message: bytes, signature: bytes) -> bool:
    return verify(Suite.ED25519, public_key, message, signature)


def check_certificate(header: BlockHeader, certificate: bytes) -> None:
    if certificate != CERTIFICATE:
        raise ProofInvalid("ProofInvalid", "not final", certificate)


TRUST = Trust(
    chain_id=GENESIS.chain_id, verify_signature=verify_signature, check_certificate=check_certificate
)


async def take(ledger: Ledger, folder: SnapshotFolder, **taking: Any) -> tuple[str, Manifest]:
    return await create_snapshot(
        ledger, folder, GENESIS, IDENTITY, SystemClock(), backend="memory", taking=Taking(**taking)
    )


async def restore(store: KeyValueStore, folder: SnapshotFolder, name: str = "", **more: Any) -> Manifest:
    with folder.reading(folder.named(name).name) as manifest:
        await restore_snapshot(store, FolderSource(folder), manifest, TRUST, **more)
    return manifest


def resigned(manifest: Manifest, **changes: Any) -> Manifest:
    """The same manifest with other facts, signed by its maker."""
    return attrs.evolve(manifest, **changes).signed(KEY.public_key, KEY.sign)


def folder_at(path: Path) -> SnapshotFolder:
    return SnapshotFolder(path / "snapshots")
