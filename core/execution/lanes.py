"""Which lane a transaction takes: a pure function of its bytes and who owns its inputs (EXEC-10, EXEC-11)."""

from collections.abc import Mapping

from supervm.execution.errors import LaneRefused
from supervm.types.operations import STAKING, Burn, Mint, Transfer
from supervm.types.state import Object, OwnerKind
from supervm.types.transaction import PAYLOAD_NATIVE, Lane, Transaction


def check_kind(transaction: Transaction, private_kinds: frozenset[int] = frozenset()) -> None:
    """Refuse a payload that nobody executes, and one whose kind and lane disagree about privacy.

    Needs no state. Nothing moves a PRIVATE transaction to another lane, or back.
    """
    body = transaction.body
    is_private = body.payload_kind in private_kinds
    if is_private != (body.lane is Lane.PRIVATE):
        mend = "lane PRIVATE and a private payload go together"
        raise LaneRefused("LaneMismatch", "lane", "lane and payload kind disagree", body.lane.name, mend)
    if not is_private and body.payload_kind != PAYLOAD_NATIVE:
        mend = f"kind {PAYLOAD_NATIVE}, native operations"
        raise LaneRefused("PayloadUnknown", "payload_kind", "unknown payload kind", body.payload_kind, mend)


def classify(
    transaction: Transaction,
    objects: Mapping[bytes, Object | None],
    private_kinds: frozenset[int] = frozenset(),
) -> Lane:
    """The lane: FAST, ORDERED or PRIVATE, never AUTO. First matching rule of EXEC-10.

    `objects` holds each input by its id, None where there is none. `private_kinds` are the payload kinds
    of the privacy role. Raises `LaneRefused`; an Owned input of somebody else is refused in every lane.
    """
    check_kind(transaction, private_kinds)
    body = transaction.body
    if body.lane is Lane.PRIVATE:
        return Lane.PRIVATE
    kinds = owner_kinds(transaction, objects)
    if body.lane is Lane.ORDERED:
        return Lane.ORDERED
    shared = shared_state(transaction, objects)
    if shared:
        return ordered_unless_fast(
            body.lane, "SharedInput", f"{shared} is shared", "lane AUTO or ORDERED, which puts it in order"
        )
    if OwnerKind.OWNED in kinds or any(type(each) is Transfer for each in transaction.operations):
        return Lane.FAST
    return ordered_unless_fast(
        body.lane, "NotFastEligible", "neither an owned input nor a transfer", "lane AUTO or ORDERED"
    )


def lane_taken(transaction: Transaction, objects: Mapping[bytes, Object | None]) -> Lane:
    """The lane that a receipt names: `classify`, and for what it refuses the lane asked for.

    In a block a transaction has an outcome even where its inputs are no more what they were.
    """
    try:
        return classify(transaction, objects)
    except LaneRefused:
        asked = transaction.body.lane
        return Lane.ORDERED if asked is Lane.AUTO else asked


def owner_kinds(transaction: Transaction, objects: Mapping[bytes, Object | None]) -> set[OwnerKind]:
    """The ownership classes among the inputs. Raises `LaneRefused` for what no lane takes."""
    kinds = set()
    for declared in transaction.body.inputs:
        found = objects[declared.id]
        if found is None:
            raise LaneRefused("ObjectMissing", "inputs", "no such object", declared.id, retryable=True)
        if found.deleted:
            raise LaneRefused("ObjectDeleted", "inputs", "the object was deleted", declared.id)
        if found.owner_kind is OwnerKind.OWNED and found.owner != transaction.body.sender:
            mend = f"only its owner 0x{found.owner.hex()} can name it"
            raise LaneRefused("OwnershipMismatch", "inputs", "somebody else's object", declared.id, mend)
        kinds.add(found.owner_kind)
    return kinds


def shared_state(transaction: Transaction, objects: Mapping[bytes, Object | None]) -> str:
    """The first shared thing that the transaction touches, in words; "" if there is none.

    A Shared input, whatever its access; or the supply of a token that exists, or the stakes, which are no
    inputs.
    """
    for declared in transaction.body.inputs:
        found = objects[declared.id]
        if found is not None and found.owner_kind is OwnerKind.SHARED:
            return f"input 0x{declared.id.hex()}"
    for operation in transaction.operations:
        if type(operation) is Mint or type(operation) is Burn:
            return f"the supply of token 0x{operation.token.hex()}"
        if isinstance(operation, STAKING):
            return "the list of stakes"
    return ""


def ordered_unless_fast(asked: Lane, code: str, message: str, mend: str) -> Lane:
    if asked is Lane.FAST:
        raise LaneRefused(code, "lane", message, asked.name, mend)
    return Lane.ORDERED
