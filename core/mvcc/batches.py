"""Many operations as one transaction: all of them happen or none does (EXEC-49)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import attrs

from supervm.mvcc.errors import BadOperand
from supervm.mvcc.store import MvccStore


@attrs.frozen
class Read:
    """Look up `key`."""

    key: bytes


@attrs.frozen
class Write:
    """Set `key` to `value`."""

    key: bytes
    value: bytes


@attrs.frozen
class Delete:
    """Remove `key`."""

    key: bytes


@attrs.frozen
class Emit:
    """Add `event`."""

    event: object


BatchOperation: TypeAlias = Read | Write | Delete | Emit


@attrs.frozen
class BatchOutcome:
    """`ts` is the commit timestamp, `values` what each `Read` found, in their order; and the events."""

    ts: int
    values: tuple[bytes | None, ...]
    events: tuple[object, ...]


def execute_batch(store: MvccStore, operations: Iterable[BatchOperation]) -> BatchOutcome:
    """Do the operations in order in one transaction. A read sees what the batch wrote before it.

    Raises a `Conflict`, or what a bad operation raises, with nothing done.
    """
    values: list[bytes | None] = []
    with store.begin() as txn:
        for operation in operations:
            match operation:
                case Read(key):
                    values.append(txn.read(key))
                case Write(key, value):
                    txn.write(key, value)
                case Delete(key):
                    txn.delete(key)
                case Emit(event):
                    txn.emit(event)
                case _:
                    raise BadOperand(
                        "not an operation", type(operation).__name__, "use Read, Write, Delete or Emit"
                    )
        return BatchOutcome(txn.commit(), tuple(values), txn.events())


def batch_read(store: MvccStore, keys: Sequence[bytes]) -> list[bytes | None]:
    """The values of many keys from one snapshot, in their order."""
    with store.begin_read_only() as txn:
        return txn.read_many(keys)


def batch_write(store: MvccStore, rows: Mapping[bytes, bytes]) -> int:
    """Set many keys; returns the commit timestamp."""
    return execute_batch(store, [Write(key, value) for key, value in rows.items()]).ts


def batch_delete(store: MvccStore, keys: Iterable[bytes]) -> int:
    """Remove many keys; returns the commit timestamp."""
    return execute_batch(store, map(Delete, keys)).ts


def batch_emit_events(store: MvccStore, events: Iterable[object]) -> BatchOutcome:
    """One transaction with many events."""
    return execute_batch(store, map(Emit, events))
