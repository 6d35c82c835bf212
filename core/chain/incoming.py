"""A snapshot that comes from peers: where it is kept until it is whole, and what the next start makes of it.

    incoming/chunks/...                  chunks and tables, as in any folder of snapshots
    incoming/handovers                   what proves the sets of its epochs, each u32 length || hand-over
    incoming/snapshot-....manifest       last: it is whole, and the node begins again with it
    incoming/refused                     node ids whose snapshots turned out wrong, 32 bytes each

A running node can't put another chain beneath itself. So it ends its components when a snapshot is whole,
and begins again: before the store is opened, a new one is made from the snapshot, and takes the old one's
place only when everything of it checked. Calls here block.
"""

import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

import attrs
import trio

from supervm.chain.validator_sets import write_handovers
from supervm.client.light import EpochFinality
from supervm.contracts.storage import KeyValueStore
from supervm.crypto.suites import verify
from supervm.storage.errors import SnapshotDamaged
from supervm.storage.folder import write_synced
from supervm.storage.snapshot_chunks import check_blob
from supervm.storage.snapshot_folder import SnapshotFolder
from supervm.storage.snapshot_format import Manifest
from supervm.storage.snapshot_restore import FolderSource, Trust, restore_snapshot
from supervm.types.address import Suite
from supervm.types.errors import InvalidInput
from supervm.types.genesis import Genesis
from supervm.types.handover import HandOver

INCOMING = "incoming"
"""Its folder in the data folder."""
HANDOVERS = "handovers"
REFUSED = "refused"
REFUSED_MAX = 64
HANDOVERS_BYTES_MAX = 2**30

_LENGTH = struct.Struct("<I")


@attrs.frozen
class Incoming:
    """See the module."""

    path: Path

    @property
    def folder(self) -> SnapshotFolder:
        return SnapshotFolder(self.path)

    def held(self, digests: Sequence[bytes], tables: bool) -> dict[bytes, bytes]:
        """Which of these are here, whole; with `tables`, their bytes."""
        found: dict[bytes, bytes] = {}
        for digest in digests:
            path = self.path / "chunks" / digest.hex()[:2] / digest.hex()
            if not path.exists():
                continue
            try:
                blob = check_blob(digest, path.read_bytes())
            except SnapshotDamaged:
                path.unlink()  # fetched again
                continue
            found[digest] = blob if tables else b""
        return found

    def keep(self, blob: bytes) -> None:
        """Raises `DiskFull`, and others of a folder of snapshots."""
        with self.folder.writing():
            self.folder.put(blob)

    def finish(self, manifest: Manifest, handovers: Sequence[HandOver]) -> None:
        """All chunks are kept: from here on it is whole."""
        encoded = [each.encode() for each in handovers]
        write_synced(self.path / HANDOVERS, b"".join(_LENGTH.pack(len(each)) + each for each in encoded))
        with self.folder.writing():
            self.folder.publish(manifest)

    def whole(self) -> Manifest | None:
        """The snapshot that is whole; None where none is."""
        listed = self.folder.listed()
        return self.folder.manifest(listed[-1].name) if listed else None

    def handovers(self) -> list[HandOver]:
        """Raises `SnapshotDamaged`."""
        try:
            with (self.path / HANDOVERS).open("rb") as file:
                data = file.read(HANDOVERS_BYTES_MAX)
            found, at = [], 0
            while at < len(data):
                (length,) = _LENGTH.unpack_from(data, at)
                at += _LENGTH.size
                found.append(HandOver.decode(data[at : at + length]))
                at += length
        except (OSError, struct.error, InvalidInput) as error:
            raise SnapshotDamaged(
                "the hand-overs of the snapshot can't be read", f"{self.path}: {error}", "Fetch it again."
            ) from error
        return found

    def refuse(self, node: bytes) -> None:
        """A node's snapshot turned out wrong: none of its is taken again. Nothing of it stays."""
        kept = [each for each in self.refused() if each != node][1 - REFUSED_MAX :]
        self.clear()
        self.path.mkdir(mode=0o700, exist_ok=True)
        write_synced(self.path / REFUSED, b"".join([*kept, node]))

    def refused(self) -> list[bytes]:
        try:
            data = (self.path / REFUSED).read_bytes()
        except FileNotFoundError:
            return []
        return [data[at : at + 32] for at in range(0, len(data) - len(data) % 32, 32)]

    def clear(self) -> None:
        """Remove all of it."""
        if self.path.exists():
            shutil.rmtree(self.path)


def verify_ed25519(public_key: bytes, message: bytes, signature: bytes) -> bool:
    return verify(Suite.ED25519, public_key, message, signature)


async def restore_incoming(store: KeyValueStore, incoming: Incoming, genesis: Genesis) -> Manifest:
    """Make the ledger of the snapshot that is whole in an empty store, or go on with it.

    Everything is checked as `restore_snapshot` says, certificates by the sets that the hand-overs lead to.
    Raises what it raises, and `ProofInvalid` for hand-overs that don't hold.
    """
    manifest = await trio.to_thread.run_sync(incoming.whole)
    assert manifest is not None, "one is whole"
    handovers = await trio.to_thread.run_sync(incoming.handovers)
    finality = await trio.to_thread.run_sync(EpochFinality, genesis, handovers)
    trust = Trust(
        chain_id=genesis.chain_id, verify_signature=verify_ed25519, check_certificate=finality.check
    )
    await write_handovers(store, handovers)
    await restore_snapshot(store, FolderSource(incoming.folder), manifest, trust)
    return manifest
