"""What can be wrong with a ledger or its folder, beyond what a store itself may raise.

All are `StorageError`s of the storage contract: problem, subject, mend. `StoreCorrupt`, `StoreTooNew` and
`StoreLocked` come from there too.
"""

from supervm.contracts.storage import StorageError, StoreCorrupt


class LedgerError(StorageError):
    """Base of the ledger's own errors."""


class RowDamaged(StoreCorrupt):
    """A row isn't what was written under its key, or is gone. `key` is its key in the store."""

    def __init__(self, problem: str, subject: object, mend: str, key: bytes) -> None:
        super().__init__(problem, subject, mend)
        self.key = key


class SealBroken(RowDamaged):
    """A row isn't what was written under its key: its checksum says so."""


class ForeignChain(LedgerError):
    """The store, or a snapshot, holds another chain than the one asked for. Both ids are 32 bytes."""

    def __init__(self, found: bytes, asked: bytes, what: str = "data folder") -> None:
        super().__init__(
            f"the {what} belongs to another chain",
            f"it holds 0x{found.hex()}, the genesis given makes 0x{asked.hex()}",
            f"Give the genesis file of that chain, or another {what}.",
        )
        self.found = found
        self.asked = asked


class BackendMismatch(LedgerError):
    """The folder was made with another storage component than the one composed now."""

    def __init__(self, found: str, asked: str, path: object) -> None:
        super().__init__(
            f"the data folder was made with storage {found!r}, and {asked!r} is asked for",
            path,
            f"Choose it with --set storage.use={found}, or give an empty folder with --data.",
        )
        self.found = found
        self.asked = asked


class LedgerStopped(LedgerError):
    """A commit failed in such a way that only reopening tells whether it happened."""


class NotProvable(LedgerError):
    """No header with the root of this state exists yet, so a proof would prove nothing."""


class ChainMismatch(LedgerError):
    """Executing the stored chain again gave something else than what is stored."""

    def __init__(self, height: int, what: str, computed: str, stored: str) -> None:
        super().__init__(
            f"block {height} doesn't verify: {what}",
            f"computed {computed}, stored {stored}",
            "Nothing was changed. Keep the folder for inspection and restore a copy that verifies.",
        )
        self.height = height
        self.what = what


class Pruned(LedgerError):
    """What was asked for was here and is pruned. `height` is its block's, `oldest` the lowest one kept."""

    def __init__(self, height: int, oldest: int) -> None:
        super().__init__(
            f"block {height} was pruned",
            f"this node keeps blocks from {oldest} up",
            "Ask a node that keeps all blocks (tier L1).",
        )
        self.height = height
        self.oldest = oldest


class Unfinished(LedgerError):
    """The store is the half-done work of a restore or a migration: no ledger yet."""


class NotEmpty(LedgerError):
    """The store that something should be written into holds something else already."""


class MigrationFailed(LedgerError):
    """The store migrated to is not what the source is. The source is unharmed."""


class MoveBusy(LedgerError):
    """The store of a running node is being moved, or was."""


class MoveRefused(LedgerError):
    """The store of a running node can't be moved there. Nothing was begun."""


class SnapshotError(LedgerError):
    """Base of what can be wrong with a snapshot."""


class SnapshotDamaged(SnapshotError):
    """Bytes of a snapshot that are not what was written, or never were a snapshot's."""


class ChunkMissing(SnapshotError):
    """A chunk that the manifest names is not there. `digest` is its 32 bytes."""

    def __init__(self, digest: bytes, where: object) -> None:
        super().__init__(
            "a chunk of the snapshot is missing",
            f"0x{digest.hex()} in {where}",
            "Fetch it again from where the snapshot is from; what was restored so far is kept.",
        )
        self.digest = digest


class SnapshotTooNew(SnapshotError):
    """The snapshot was written in a newer format than this program knows."""


class SnapshotUntrusted(SnapshotError):
    """A signature or certificate of the snapshot doesn't prove what it must."""


class WrongRoot(SnapshotError):
    """The state restored has another root than the one that the snapshot promises. Both are 32 bytes."""

    def __init__(self, found: bytes, promised: bytes) -> None:
        super().__init__(
            "the snapshot's state doesn't have the root that it promises",
            f"it makes 0x{found.hex()}, the manifest says 0x{promised.hex()}",
            "Nothing of it was kept. Take another snapshot, from another node.",
        )
        self.found = found
        self.promised = promised


class SnapshotRefused(SnapshotError):
    """A snapshot can't be made or kept now: a bound, or nothing to take."""


class SnapshotBusy(SnapshotError):
    """Another process or task is writing snapshots in this folder."""
