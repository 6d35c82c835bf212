"""Inputs and the operations on objects (EXEC-1..3).

An input is declared with its version and one access. An Owned one gets exactly one new version, whatever
becomes of the transaction; what the operations change is put into that version. A Shared one gets a new
version where the transaction is committed and wrote it. An Immutable one never changes.
"""

from collections.abc import Iterable, Mapping

import attrs

from supervm.execution.errors import Code, Failed
from supervm.execution.turn import Turn
from supervm.execution.working import WorkingState
from supervm.types.operations import (
    ObjectCreate,
    ObjectDelete,
    ObjectFreeze,
    ObjectMutate,
    ObjectShare,
    ObjectTransfer,
)
from supervm.types.receipt import ObjectVersion
from supervm.types.state import OBJECT, Object, OwnerKind, object_id, shared_owner
from supervm.types.transaction import Access, Input, Transaction

FIRST_VERSION = 1
NO_OWNER = bytes(32)


def raise_versions(
    state: WorkingState, transaction: Transaction, objects: Mapping[bytes, Object | None]
) -> dict[bytes, int]:
    """Give each Owned input that stands at its declared version the next one (EXEC-2): id to version.

    Done before the operations, and outlives their failure, so that one (id, version) is used once. Only
    the sender's own: nobody can move on an object of somebody else.
    """
    raised = {}
    for declared in transaction.body.inputs:
        found = objects[declared.id]
        if (
            found is not None
            and is_owned_by(found, transaction.body.sender)
            and found.version == declared.version
        ):
            raised[declared.id] = found.version + 1
            state.write(OBJECT + declared.id, attrs.evolve(found, version=found.version + 1))
    return raised


def use_inputs(turn: Turn, objects: Mapping[bytes, Object | None]) -> None:
    """Pay for the inputs, the new versions of Owned ones with their bytes included; then check each.

    `objects` are the inputs as they stood when the turn began.
    """
    schedule = turn.schedule
    for object_id_ in turn.inputs:
        turn.meter.use(schedule.entry_read)
        if object_id_ in turn.written:
            found = objects[object_id_]
            assert found is not None, "only what is there gets a version"
            turn.meter.use(schedule.object_mutate + schedule.entry_write_byte * len(found.data))
    for declared in turn.inputs.values():
        check_input(declared, objects[declared.id], turn.sender)


def check_input(declared: Input, found: Object | None, sender: bytes) -> None:
    """Fail unless the input is there, at the declared version, and its owner class takes the access."""
    name = f"object 0x{declared.id.hex()}"
    if found is None:
        raise Failed(Code.OBJECT_MISSING, f"there is no {name}")
    if found.deleted:
        raise Failed(Code.OBJECT_DELETED, f"{name} was deleted")
    version = found.initial_version if found.owner_kind is OwnerKind.SHARED else found.version
    if declared.version != version:
        raise Failed(Code.VERSION_MISMATCH, f"{name} is at version {version}, {declared.version} is declared")
    if found.owner_kind is OwnerKind.OWNED and found.owner != sender:
        raise Failed(Code.OWNERSHIP_MISMATCH, f"{name} belongs to 0x{found.owner.hex()}")
    if found.owner_kind is OwnerKind.IMMUTABLE and declared.access is not Access.READ:
        raise Failed(Code.IMMUTABLE_OBJECT, f"{name} is immutable, {declared.access.name} is declared")
    if found.owner_kind is OwnerKind.SHARED and declared.access > Access.WRITE:
        raise Failed(Code.NOT_OWNED, f"{name} is shared, {declared.access.name} is declared")


def create_object(turn: Turn, operation: ObjectCreate, index: int) -> None:
    """Make an object at version 1. No later operation of the transaction can use it: it is no input."""
    check_size(turn, operation.data)
    turn.use_new_entry(len(operation.data))
    created = object_id(turn.transaction.digest, len(turn.created))
    assert turn.state.object(created) is None, f"object id {created.hex()} is taken"
    owner = shared_owner(FIRST_VERSION) if operation.owner_kind is OwnerKind.SHARED else operation.owner
    made = Object(FIRST_VERSION, operation.owner_kind, owner, operation.type, False, operation.data)
    turn.state.write(OBJECT + created, made)
    turn.created.append(ObjectVersion(created, FIRST_VERSION))


def mutate_object(turn: Turn, operation: ObjectMutate, index: int) -> None:
    """Replace the data. Any access but READ permits it, before the access itself is used."""
    found = usable(turn, operation.id, (Access.WRITE, *ENDING))
    check_size(turn, operation.data)
    turn.meter.use(turn.schedule.entry_write_byte * len(operation.data))
    version = found.version
    if operation.id not in turn.written:  # shared, and written for the first time
        turn.meter.use(turn.schedule.object_mutate)
        version = turn.written[operation.id] = found.version + 1
    turn.state.write(OBJECT + operation.id, attrs.evolve(found, version=version, data=operation.data))


def transfer_object(turn: Turn, operation: ObjectTransfer, index: int) -> None:
    """Give an owned object to another owner, or to the same."""
    found = end(turn, operation.id, Access.TRANSFER, turn.schedule.object_transfer)
    turn.state.write(OBJECT + operation.id, attrs.evolve(found, owner=operation.to))


def share_object(turn: Turn, operation: ObjectShare, index: int) -> None:
    """Make an owned object shared; the version that it has now is its initial version."""
    found = end(turn, operation.id, Access.SHARE, turn.schedule.object_share)
    shared = attrs.evolve(found, owner_kind=OwnerKind.SHARED, owner=shared_owner(found.version))
    turn.state.write(OBJECT + operation.id, shared)


def freeze_object(turn: Turn, operation: ObjectFreeze, index: int) -> None:
    """Make an owned object immutable; its version never changes again."""
    found = end(turn, operation.id, Access.FREEZE, turn.schedule.object_freeze)
    frozen = attrs.evolve(found, owner_kind=OwnerKind.IMMUTABLE, owner=NO_OWNER)
    turn.state.write(OBJECT + operation.id, frozen)


def delete_object(turn: Turn, operation: ObjectDelete, index: int) -> None:
    """Leave a tombstone, which keeps the id and the version from being used again."""
    found = usable(turn, operation.id, (Access.DELETE,))
    turn.meter.use(turn.schedule.entry_delete)
    turn.ended.add(operation.id)
    turn.state.write(OBJECT + operation.id, attrs.evolve(found, deleted=True, data=b""))
    turn.deleted.append(ObjectVersion(operation.id, turn.written.pop(operation.id)))


ENDING = (Access.TRANSFER, Access.SHARE, Access.FREEZE, Access.DELETE)


def end(turn: Turn, object_id_: bytes, access: Access, gas: int) -> Object:
    """Use up an input's access. Its new version was paid for, as a mutation; here comes what it lacks."""
    found = usable(turn, object_id_, (access,))
    turn.meter.use(max(0, gas - turn.schedule.object_mutate))
    turn.ended.add(object_id_)
    return found


def usable(turn: Turn, object_id_: bytes, accesses: Iterable[Access]) -> Object:
    """The object as it stands, if it was declared with one of the accesses and that wasn't used yet."""
    declared = turn.inputs.get(object_id_)
    if declared is None or declared.access not in accesses:
        said = "is not declared" if declared is None else f"is declared with {declared.access.name} only"
        raise Failed(Code.UNDECLARED_ACCESS, f"object 0x{object_id_.hex()} {said}")
    if object_id_ in turn.ended:
        raise Failed(Code.ACCESS_USED, f"{declared.access.name} of object 0x{object_id_.hex()} was used")
    found = turn.state.object(object_id_)
    assert found is not None and not found.deleted, "inputs were checked"
    return found


def check_size(turn: Turn, data: bytes) -> None:
    most = turn.limits.object_bytes_max
    if len(data) > most:
        raise Failed(Code.OBJECT_TOO_LARGE, f"{len(data)} bytes, an object holds at most {most}")


def is_owned_by(found: Object, address: bytes) -> bool:
    return found.owner_kind is OwnerKind.OWNED and found.owner == address and not found.deleted
