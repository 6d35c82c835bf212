"""What transactions, stores and the scheduler raise: one family, with the offending value and the mend."""

from supervm.execution.errors import ExecutionError


class MvccError(ExecutionError):
    """Base of this package's errors. The code is the class's name; `retryable` is a fact of the class."""

    always_retryable = False

    def __init__(self, message: str, value: object = "", mend: str = "", field: str = "") -> None:
        super().__init__(type(self).__name__, field, message, value, mend, self.always_retryable)


class Conflict(MvccError):
    """Another transaction committed what this one depends on; nothing of this one was installed (EXEC-46).

    `key` was written at `conflicting_ts`, after this transaction's `start_ts`.
    """

    always_retryable = True
    kind = "conflict"
    short = ""  # in statistics

    def __init__(self, key: bytes, start_ts: int, conflicting_ts: int) -> None:
        self.key = key
        self.start_ts = start_ts
        self.conflicting_ts = conflicting_ts
        super().__init__(
            f"{self.kind}: committed at {conflicting_ts}, this transaction began at {start_ts}",
            key,
            "run it again on a new transaction",
            "key",
        )


class WriteWriteConflict(Conflict):
    """The key is in the write set: both wrote it."""

    kind = "write-write conflict"
    short = "ww"


class ReadWriteConflict(Conflict):
    """The key was only read here."""

    kind = "read-write conflict"
    short = "rw"


class RangeConflict(Conflict):
    """The key lies in a range that was scanned here, whether or not it was there then (a phantom)."""

    kind = "range conflict"
    short = "range"


class TransactionClosed(MvccError):
    """The transaction was committed or aborted; begin a new one."""

    def __init__(self) -> None:
        super().__init__("the transaction is closed", mend="begin a new one")


class ReadOnlyTransaction(MvccError):
    """A write, deletion or event on a read-only transaction."""

    def __init__(self, call: str) -> None:
        super().__init__("the transaction is read-only", call, "use begin()", "call")


class ReadOnlyStore(MvccError):
    """Only block commits write this store; read it, or simulate on a read-only transaction."""

    def __init__(self, call: str) -> None:
        super().__init__("only blocks write this store", call, "use begin_read_only()", "call")


class NoSavepoint(MvccError):
    """A rollback or release without a savepoint."""

    def __init__(self, call: str) -> None:
        super().__init__("there is no savepoint", call, "call savepoint() first", "call")


class TooManySavepoints(MvccError):
    """More savepoints at once than the limit."""


class TransactionTooLarge(MvccError):
    """A transaction writes more keys than a store takes at once."""


class BadOperand(MvccError):
    """A key, value, range or option that isn't what the call takes."""


class VersionPruned(MvccError):
    """What the key held at that timestamp is no longer known."""

    def __init__(self, key: bytes, ts: int) -> None:
        self.key = key
        self.ts = ts
        super().__init__(f"the version at {ts} was pruned", key, "read a newer timestamp", "key")


class SnapshotTooOld(MvccError):
    """The transaction was open for too long and was aborted, or its snapshot can't be served any more."""

    always_retryable = True

    def __init__(self, start_ts: int) -> None:
        self.start_ts = start_ts
        super().__init__(
            "the snapshot is too old",
            start_ts,
            "run it again, in less time, on a new transaction",
            "start_ts",
        )


class NotFetched(MvccError):
    """The key is not in memory: the store has a backend, and reads do no I/O (EXEC-41)."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        super().__init__("the key was not fetched", key, "await txn.fetch(...) first", "key")


class Busy(MvccError):
    """The store is at a bound and takes no more just now; try again later."""

    always_retryable = True


class RetriesExhausted(MvccError):
    """Each attempt ended with a retryable error. The last of them is the cause.

    `attempts` is how often the function ran.
    """

    def __init__(self, attempts: int, last: Exception) -> None:
        self.attempts = attempts
        self.last = last
        super().__init__(f"gave up after {attempts} attempts", str(last), "try again later", "attempts")
