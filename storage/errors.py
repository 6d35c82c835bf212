"""What can be wrong with a ledger or its folder, beyond what a store itself may raise.

All are `StorageError`s of the storage contract: problem, subject, mend. `StoreCorrupt`, `StoreTooNew` and
`StoreLocked` come from there too.
"""

from supervm.contracts.storage import StorageError


class LedgerError(StorageError):
    """Base of the ledger's own errors."""


class ForeignChain(LedgerError):
    """The store holds another chain than the one asked for. Both ids are 32 bytes."""

    def __init__(self, found: bytes, asked: bytes) -> None:
        super().__init__(
            "the data folder belongs to another chain",
            f"it holds 0x{found.hex()}, the genesis given makes 0x{asked.hex()}",
            "Give the genesis file of that chain, or another data folder.",
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
