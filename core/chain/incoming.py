"""A snapshot that comes from peers: where it is kept until it is whole, and what the next start makes of it.

    incoming/chunks/...                  chunks and tables, as in any folder of snapshots
    incoming/handovers                   what proves the sets of its epochs, each u32 length || hand-over
    incoming/snapshot-....manifest       last: it is whole, and the node begins again with it
    incoming.refused                     node ids whose snapshots turned out wrong, 32 bytes each
    incoming.removed/...                 what is being removed

A running node can't put another chain beneath itself. So it ends its components when a snapshot is whole,
and begins again: before the store is opened, a new one is made from the snapshot, and takes the old one's
place only when everything of it checked. Calls here block.

A process may be killed at any call. So all of it is removed by one renaming, and what is refused is written
down before: of a snapshot there is all that counts, or nothing.
"""

import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

import attrs
import trio

from supervm.chain.validator_sets import write_handovers
from supervm.client.light import EpochFinality
from supervm.contracts.storage import KeyValueStore, StoreCorrupt
from supervm.crypto.suites import verify
from supervm.storage.errors import SnapshotDamaged, SnapshotError
from supervm.storage.folder import sync_path, write_synced
from supervm.storage.snapshot_chunks import check_blob
from supervm.storage.snapshot_folder import SnapshotFolder
from supervm.storage.snapshot_format import Manifest
from supervm.storage.snapshot_restore import Trust, read_origin, restore_snapshot
from supervm.types.address import Suite
from supervm.types.errors import InvalidInput
from supervm.types.genesis import Genesis
from supervm.types.handover import HandOver

INCOMING = "incoming"
"""Its folder in the data folder."""
HANDOVERS = "handovers"
REFUSED = ".refused"
REMOVED = ".removed"
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

    def is_whole(self) -> bool:
        return bool(self.folder.listed())

    def whole(self) -> Manifest | None:
        """The snapshot that is whole; None where none is. Raises `StoreCorrupt`."""
        listed = self.folder.listed()
        if not listed:
            return None
        try:
            manifest = self.folder.manifest(listed[-1].name)
            manifest.check_signature(verify_ed25519)
            return manifest
        except SnapshotError as error:
            raise _spoilt(error) from error

    def handovers(self) -> list[HandOver]:
        """Raises `StoreCorrupt`."""
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
            raise _spoilt(error) from error
        return found

    async def blob(self, digest: bytes) -> bytes:
        """A chunk or table, as a source of them. Raises `StoreCorrupt`: it was checked before it was kept."""
        try:
            return await trio.to_thread.run_sync(self.folder.blob, digest)
        except SnapshotError as error:
            raise _spoilt(error) from error

    def refuse(self, node: bytes) -> None:
        """A node's snapshot turned out wrong: none of its is taken again. Nothing of it stays."""
        kept = [each for each in self.refused() if each != node][1 - REFUSED_MAX :]
        write_synced(self._beside(REFUSED), b"".join([*kept, node]))
        self.clear()

    def refused(self) -> list[bytes]:
        try:
            data = self._beside(REFUSED).read_bytes()
        except FileNotFoundError:
            return []
        return [data[at : at + 32] for at in range(0, len(data) - len(data) % 32, 32)]

    def clear(self) -> None:
        """Remove all of it: at once, as far as `whole` and `held` tell."""
        self.finish_clearing()
        if self.path.exists():
            removed = self._beside(REMOVED)
            self.path.rename(removed)
            sync_path(removed.parent)
            shutil.rmtree(removed)

    def finish_clearing(self) -> None:
        """Where a removal was interrupted, come to its end."""
        removed = self._beside(REMOVED)
        if removed.exists():
            shutil.rmtree(removed)

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)


def _spoilt(error: Exception) -> StoreCorrupt:
    """What was checked when it came isn't as it was any more: no peer's doing."""
    return StoreCorrupt(
        "what was kept of a snapshot is damaged", error, "Check the disk; it is fetched again."
    )


def verify_ed25519(public_key: bytes, message: bytes, signature: bytes) -> bool:
    return verify(Suite.ED25519, public_key, message, signature)


async def restore_incoming(store: KeyValueStore, incoming: Incoming, genesis: Genesis) -> Manifest:
    """Make the ledger of the snapshot that is whole in an empty store, or go on with it, or find it done.

    Everything is checked as `restore_snapshot` says, certificates by the sets that the hand-overs lead to.
    Raises what it raises, and `StoreCorrupt` where what was kept of it isn't as it was when it came.
    """
    manifest = await trio.to_thread.run_sync(incoming.whole)
    assert manifest is not None, "one is whole"
    if await read_origin(store) == (manifest.height, manifest.digest):
        return manifest
    handovers = await trio.to_thread.run_sync(incoming.handovers)
    try:
        finality = await trio.to_thread.run_sync(EpochFinality, genesis, handovers)
    except InvalidInput as error:
        raise _spoilt(error) from error
    trust = Trust(
        chain_id=genesis.chain_id, verify_signature=verify_ed25519, check_certificate=finality.check
    )
    await write_handovers(store, handovers)
    await restore_snapshot(store, incoming, manifest, trust)
    return manifest
