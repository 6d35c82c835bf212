"""Lane routing (EXEC-10, EXEC-11): the table, row by row, and what no lane takes."""

import itertools

import pytest

from supervm.execution import LaneRefused, check_kind, classify
from supervm.types.operations import (
    Burn,
    Mint,
    ObjectCreate,
    ObjectMutate,
    Operation,
    Output,
    TokenCreate,
    Transfer,
)
from supervm.types.state import NATIVE_TOKEN, Object, OwnerKind
from supervm.types.transaction import Access, Input, Lane, Transaction

from .builders import ALICE, BOB, immutable, owned, run_one, shared, state_of, transaction

ID, OTHER = b"a" * 32, b"b" * 32
TRANSFER = Transfer(NATIVE_TOKEN, (Output(BOB, 1),))
CREATE = ObjectCreate(1, OwnerKind.OWNED, ALICE, b"")
TOMBSTONE = Object(2, OwnerKind.OWNED, ALICE, 7, True, b"")


def asking(lane: Lane, *operations: Operation, objects: dict[bytes, Object | None] | None = None) -> Lane:
    """The lane of Alice's transaction over these inputs."""
    inputs = [Input(each, 1, Access.READ) for each in objects or {}]
    return classify(transaction(*operations, lane=lane, inputs=inputs), objects or {})


def refusal(
    lane: Lane, *operations: Operation, objects: dict[bytes, Object | None] | None = None
) -> LaneRefused:
    with pytest.raises(LaneRefused) as refused:
        asking(lane, *operations, objects=objects)
    assert refused.value.code and refused.value.field
    return refused.value


def private(kind: int, lane: Lane) -> Transaction:
    return transaction(lane=lane, payload_kind=kind, payload=b"?")


def test_row_1_a_private_payload_in_lane_private_is_private() -> None:
    assert classify(private(9, Lane.PRIVATE), {}, frozenset({9})) is Lane.PRIVATE


@pytest.mark.parametrize("lane", [Lane.AUTO, Lane.FAST, Lane.ORDERED])
def test_row_1_a_private_payload_in_a_public_lane_is_refused(lane: Lane) -> None:
    with pytest.raises(LaneRefused) as refused:
        classify(private(9, lane), {}, frozenset({9}))
    assert (refused.value.code, refused.value.retryable) == ("LaneMismatch", False)


def test_row_1_a_public_payload_in_lane_private_is_refused() -> None:
    assert refusal(Lane.PRIVATE, TRANSFER).code == "LaneMismatch"


def test_a_payload_of_a_kind_that_nobody_executes_is_refused() -> None:
    with pytest.raises(LaneRefused) as refused:
        check_kind(private(9, Lane.AUTO))
    assert refused.value.code == "PayloadUnknown"


@pytest.mark.parametrize("objects", [{}, {ID: owned(ALICE)}, {ID: shared()}, {ID: immutable()}])
def test_row_2_lane_ordered_is_ordered(objects: dict[bytes, Object | None]) -> None:
    assert asking(Lane.ORDERED, TRANSFER, objects=objects) is Lane.ORDERED


@pytest.mark.parametrize("objects", [{ID: shared()}, {ID: owned(ALICE), OTHER: shared()}])
def test_row_3_a_shared_input_is_ordered_and_never_fast(objects: dict[bytes, Object | None]) -> None:
    assert asking(Lane.AUTO, TRANSFER, objects=objects) is Lane.ORDERED
    assert refusal(Lane.FAST, TRANSFER, objects=objects).code == "SharedInput"


@pytest.mark.parametrize("operation", [Mint(NATIVE_TOKEN, BOB, 1), Burn(NATIVE_TOKEN, 1)])
def test_row_3_a_supply_is_shared_though_it_is_no_input(operation: Operation) -> None:
    assert asking(Lane.AUTO, TRANSFER, operation) is Lane.ORDERED
    assert refusal(Lane.FAST, TRANSFER, operation).code == "SharedInput"


@pytest.mark.parametrize("lane", [Lane.AUTO, Lane.FAST])
@pytest.mark.parametrize(
    ("operations", "objects"),
    [
        ((TRANSFER,), {}),
        ((TRANSFER, CREATE), {}),
        ((TRANSFER,), {ID: immutable()}),
        ((CREATE,), {ID: owned(ALICE)}),
        ((TokenCreate(b"T", 0, 1, False),), {ID: owned(ALICE)}),
        ((ObjectMutate(ID, b""),), {ID: owned(ALICE), OTHER: immutable()}),
    ],
)
def test_row_4_owned_inputs_or_a_transfer_are_fast(
    lane: Lane, operations: tuple[Operation, ...], objects: dict[bytes, Object | None]
) -> None:
    assert asking(lane, *operations, objects=objects) is Lane.FAST


@pytest.mark.parametrize("operation", [CREATE, TokenCreate(b"T", 0, 1, False)])
@pytest.mark.parametrize("objects", [{}, {ID: immutable()}])
def test_row_5_anything_else_is_ordered_and_never_fast(
    operation: Operation, objects: dict[bytes, Object | None]
) -> None:
    assert asking(Lane.AUTO, operation, objects=objects) is Lane.ORDERED
    assert refusal(Lane.FAST, operation, objects=objects).code == "NotFastEligible"


@pytest.mark.parametrize("lane", [Lane.AUTO, Lane.FAST, Lane.ORDERED])
@pytest.mark.parametrize(
    ("one", "code", "retryable"),
    [
        (owned(BOB), "OwnershipMismatch", False),
        (None, "ObjectMissing", True),
        (TOMBSTONE, "ObjectDeleted", False),
    ],
)
def test_what_is_not_the_senders_is_refused_in_every_lane(
    lane: Lane, one: Object | None, code: str, retryable: bool
) -> None:
    for objects in ({ID: one}, {ID: owned(ALICE), OTHER: one}, {ID: shared(), OTHER: one}):
        wrong = refusal(lane, TRANSFER, objects=objects)
        assert (wrong.code, wrong.retryable) == (code, retryable)


def test_exec_11_lane_fast_is_fast_or_an_error() -> None:
    known = (owned(ALICE), owned(BOB), shared(), immutable(), TOMBSTONE, None)
    inputs: list[dict[bytes, Object | None]] = [{}, *({ID: one} for one in known)]
    operations: list[Operation] = [TRANSFER, CREATE, Mint(ID, BOB, 1)]
    for objects, operation in itertools.product(inputs, operations):
        try:
            assert asking(Lane.FAST, operation, objects=objects) is Lane.FAST
        except LaneRefused as refused:
            assert refused.code != "LaneMismatch"


@pytest.mark.parametrize(
    ("lane", "one", "taken"),
    [
        (Lane.AUTO, owned(ALICE), Lane.FAST),
        (Lane.AUTO, shared(), Lane.ORDERED),
        (Lane.ORDERED, owned(ALICE), Lane.ORDERED),
        (Lane.AUTO, owned(BOB), Lane.ORDERED),
        (Lane.FAST, shared(), Lane.FAST),
    ],
)
def test_a_receipt_names_the_lane_that_was_taken(lane: Lane, one: Object, taken: Lane) -> None:
    state = state_of(objects={ID: one})
    asked = transaction(TRANSFER, lane=lane, inputs=[Input(ID, 1, Access.READ)])
    assert run_one(state, asked).lane is taken
