"""Objects: ownership, access, versions (EXEC-1..3)."""

import pytest

from supervm.types.limits import Limits
from supervm.types.operations import (
    ObjectCreate,
    ObjectDelete,
    ObjectFreeze,
    ObjectMutate,
    ObjectShare,
    ObjectTransfer,
    Operation,
)
from supervm.types.receipt import ObjectVersion, Receipt, Status
from supervm.types.state import Object, OwnerKind, object_id, object_key, shared_owner
from supervm.types.transaction import Access, Input

from .builders import (
    ALICE,
    BOB,
    CAROL,
    State,
    found,
    immutable,
    owned,
    run,
    run_one,
    shared,
    state_of,
    transaction,
)

ID, OTHER = b"a" * 32, b"b" * 32


def use(state: State, *operations: Operation, access: Access = Access.WRITE, version: int = 1) -> Receipt:
    """Alice's operations on the object ID."""
    return run_one(state, transaction(*operations, inputs=[Input(ID, version, access)]))


def with_object(one: Object) -> State:
    return state_of(objects={ID: one})


def test_exec_2_an_object_is_named_after_its_transaction_and_its_place() -> None:
    state = state_of()
    one = transaction(
        ObjectCreate(7, OwnerKind.OWNED, BOB, b"one"),
        ObjectCreate(8, OwnerKind.SHARED, bytes(32), b"two"),
        ObjectCreate(9, OwnerKind.IMMUTABLE, bytes(32), b""),
    )
    receipt = run_one(state, one)
    ids = [object_id(one.digest, index) for index in range(3)]
    assert receipt.created == tuple(ObjectVersion(each, 1) for each in ids)
    assert found(state, ids[0]) == Object(1, OwnerKind.OWNED, BOB, 7, False, b"one")
    assert found(state, ids[1]) == Object(1, OwnerKind.SHARED, shared_owner(1), 8, False, b"two")
    assert found(state, ids[2]) == Object(1, OwnerKind.IMMUTABLE, bytes(32), 9, False, b"")


def test_an_object_cannot_be_used_by_the_transaction_that_creates_it() -> None:
    # Its id follows from the body, so no body can name it; an operation on any id that is no input fails.
    state = state_of()
    receipt = run_one(
        state, transaction(ObjectCreate(7, OwnerKind.OWNED, ALICE, b""), ObjectMutate(OTHER, b"x"))
    )
    assert (receipt.status, receipt.code) == (Status.FAILED, "UndeclaredAccess")
    assert receipt.created == ()
    assert not any(key[:1] == b"\x04" for key in state)


def test_a_mutation_replaces_the_data_and_gives_the_next_version() -> None:
    state = with_object(owned(ALICE))
    receipt = use(state, ObjectMutate(ID, b"new"))
    assert receipt.written == (ObjectVersion(ID, 2),)
    assert found(state, ID) == owned(ALICE, version=2, data=b"new")


def test_exec_2_many_writes_to_an_owned_object_give_one_version() -> None:
    state = with_object(owned(ALICE))
    receipt = use(state, ObjectMutate(ID, b"1"), ObjectMutate(ID, b"2"), ObjectMutate(ID, b"3"))
    assert receipt.written == (ObjectVersion(ID, 2),)
    assert found(state, ID) == owned(ALICE, version=2, data=b"3")


def test_exec_2_an_owned_object_only_read_gets_a_version_too() -> None:
    state = state_of(objects={ID: owned(ALICE), OTHER: owned(ALICE, version=9)})
    inputs = [Input(ID, 1, Access.READ), Input(OTHER, 9, Access.WRITE)]
    receipt = run_one(state, transaction(ObjectMutate(OTHER, b"x"), inputs=inputs))
    assert receipt.written == (ObjectVersion(ID, 2), ObjectVersion(OTHER, 10))
    assert found(state, ID) == owned(ALICE, version=2)


def test_a_transferred_object_belongs_to_its_new_owner_alone() -> None:
    state = with_object(owned(ALICE))
    receipt = use(state, ObjectTransfer(ID, BOB), access=Access.TRANSFER)
    assert receipt.written == (ObjectVersion(ID, 2),)
    assert found(state, ID) == owned(BOB, version=2)
    again = run_one(state, transaction(ObjectMutate(ID, b""), nonce=1, inputs=[Input(ID, 2, Access.WRITE)]))
    assert (again.code, again.written) == ("OwnershipMismatch", ())
    assert found(state, ID).version == 2


def test_a_shared_object_has_the_version_of_its_sharing_as_initial_version() -> None:
    state = with_object(owned(ALICE, version=6))
    use(state, ObjectShare(ID), access=Access.SHARE, version=6)
    assert found(state, ID) == Object(7, OwnerKind.SHARED, shared_owner(7), 7, False, b"data")


def test_a_frozen_object_never_changes_again() -> None:
    state = with_object(owned(ALICE))
    use(state, ObjectFreeze(ID), access=Access.FREEZE)
    assert found(state, ID) == immutable(version=2)
    reader = transaction(
        ObjectCreate(1, OwnerKind.OWNED, BOB, b""), sender=BOB, inputs=[Input(ID, 2, Access.READ)]
    )
    receipt = run_one(state, reader)
    assert (receipt.status, receipt.written) == (Status.COMMITTED, ())
    assert found(state, ID) == immutable(version=2)


def test_exec_2_a_deletion_leaves_a_tombstone_with_its_version() -> None:
    state = with_object(owned(ALICE, version=3))
    receipt = use(state, ObjectDelete(ID), access=Access.DELETE, version=3)
    assert (receipt.deleted, receipt.written) == ((ObjectVersion(ID, 4),), ())
    assert found(state, ID) == Object(4, OwnerKind.OWNED, ALICE, 7, True, b"")


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("access", list(Access))
def test_a_tombstone_is_of_no_use_and_keeps_its_version(access: Access, version: int) -> None:
    tombstone = Object(4, OwnerKind.OWNED, ALICE, 7, True, b"")
    state = with_object(tombstone)
    receipt = use(state, ObjectCreate(1, OwnerKind.OWNED, ALICE, b""), access=access, version=version)
    assert (receipt.code, receipt.written) == ("ObjectDeleted", ())
    assert found(state, ID) == tombstone


ENDINGS: list[tuple[Operation, Access]] = [
    (ObjectTransfer(ID, ALICE), Access.TRANSFER),
    (ObjectShare(ID), Access.SHARE),
    (ObjectFreeze(ID), Access.FREEZE),
    (ObjectDelete(ID), Access.DELETE),
]


@pytest.mark.parametrize(("ending", "access"), ENDINGS)
def test_exec_3_a_mutation_may_come_before_the_declared_access_is_used(
    ending: Operation, access: Access
) -> None:
    state = with_object(owned(ALICE))
    assert use(state, ObjectMutate(ID, b"last"), ending, access=access).status == Status.COMMITTED
    assert found(state, ID).data == (b"" if access is Access.DELETE else b"last")
    assert found(state, ID).version == 2


@pytest.mark.parametrize("after", [ObjectMutate(ID, b"x"), None])
@pytest.mark.parametrize(("ending", "access"), ENDINGS)
def test_exec_3_nothing_follows_the_declared_access(
    ending: Operation, access: Access, after: Operation | None
) -> None:
    # Even where it was given to its own owner: one access, used once.
    state = with_object(owned(ALICE))
    receipt = use(state, ending, after or ending, access=access)
    assert (receipt.status, receipt.code) == (Status.FAILED, "AccessUsed")
    assert (receipt.written, receipt.deleted) == ((ObjectVersion(ID, 2),), ())
    assert found(state, ID) == owned(ALICE, version=2)


def test_exec_3_each_access_permits_its_own_operation_and_mutation_only() -> None:
    operations: dict[Access, Operation] = {
        Access.WRITE: ObjectMutate(ID, b"x"),
        **{access: operation for operation, access in ENDINGS},
    }
    for declared in Access:
        for needed, operation in operations.items():
            receipt = use(with_object(owned(ALICE)), operation, access=declared)
            permitted = declared == needed or (needed is Access.WRITE and declared is not Access.READ)
            assert receipt.code == ("" if permitted else "UndeclaredAccess"), (declared, needed)


@pytest.mark.parametrize("operation", [ObjectMutate(ID, b""), *(operation for operation, _ in ENDINGS)])
def test_exec_3_an_object_that_is_not_declared_is_out_of_reach(operation: Operation) -> None:
    state = with_object(owned(ALICE))
    receipt = run_one(state, transaction(operation))
    assert (receipt.code, receipt.written) == ("UndeclaredAccess", ())
    assert found(state, ID) == owned(ALICE)


@pytest.mark.parametrize("access", list(Access))
def test_exec_3_an_object_of_somebody_else_takes_no_access_and_no_version(access: Access) -> None:
    state = with_object(owned(BOB))
    receipt = use(state, ObjectCreate(1, OwnerKind.OWNED, ALICE, b""), access=access)
    assert (receipt.status, receipt.code, receipt.written) == (Status.FAILED, "OwnershipMismatch", ())
    assert found(state, ID) == owned(BOB)


@pytest.mark.parametrize("access", list(Access))
def test_exec_3_a_shared_object_is_read_and_written_by_anyone_and_no_more(access: Access) -> None:
    state = with_object(shared())
    receipt = use(state, ObjectCreate(1, OwnerKind.OWNED, ALICE, b""), access=access)
    assert receipt.code == ("" if access <= Access.WRITE else "NotOwned")


@pytest.mark.parametrize("access", list(Access))
def test_exec_3_an_immutable_object_is_only_read(access: Access) -> None:
    state = with_object(immutable())
    receipt = use(state, ObjectCreate(1, OwnerKind.OWNED, ALICE, b""), access=access)
    assert receipt.code == ("" if access is Access.READ else "ImmutableObject")
    assert found(state, ID) == immutable()


def test_exec_2_a_shared_object_gets_a_version_where_it_was_written() -> None:
    state = with_object(shared(version=5, initial=2))
    both = (ObjectMutate(ID, b"1"), ObjectMutate(ID, b"2"))
    written = use(state, *both, version=2)
    assert written.written == (ObjectVersion(ID, 6),)
    assert found(state, ID) == shared(version=6, initial=2, data=b"2")
    declared = transaction(
        ObjectCreate(1, OwnerKind.OWNED, ALICE, b""), nonce=1, inputs=[Input(ID, 2, Access.WRITE)]
    )
    assert run_one(state, declared).written == ()
    assert found(state, ID).version == 6


def test_exec_2_a_failure_gives_a_shared_object_no_version() -> None:
    state = with_object(shared())
    receipt = use(state, ObjectMutate(ID, b"1"), ObjectMutate(OTHER, b"2"))
    assert (receipt.code, receipt.written) == ("UndeclaredAccess", ())
    assert found(state, ID) == shared()


def test_exec_23_a_shared_object_that_moved_on_is_used_as_it_is() -> None:
    state = with_object(shared())
    inputs = [Input(ID, 1, Access.WRITE)]
    first = transaction(ObjectMutate(ID, b"1"), sender=ALICE, inputs=inputs)
    second = transaction(ObjectMutate(ID, b"2"), sender=BOB, inputs=inputs)
    assert [each.status for each in run(state, first, second).receipts] == [Status.COMMITTED] * 2
    assert found(state, ID) == shared(version=3, data=b"2")


@pytest.mark.parametrize("one", [owned(ALICE, 5), shared(9, 5), immutable(5)])
@pytest.mark.parametrize("version", [0, 4, 6, 9])
def test_exec_23_a_declared_version_that_is_not_current_fails(one: Object, version: int) -> None:
    state = with_object(one)
    receipt = use(state, ObjectCreate(1, OwnerKind.OWNED, ALICE, b""), access=Access.READ, version=version)
    assert (receipt.status, receipt.code, receipt.written) == (Status.FAILED, "VersionMismatch", ())
    assert found(state, ID) == one


def test_exec_2_of_a_failing_transaction_the_inputs_that_stand_right_move_on() -> None:
    state = state_of(objects={ID: owned(ALICE, 2), OTHER: owned(ALICE, 2)})
    inputs = [Input(ID, 2, Access.READ), Input(OTHER, 1, Access.READ)]
    receipt = run_one(state, transaction(ObjectMutate(ID, b""), inputs=inputs))
    assert (receipt.code, receipt.written) == ("VersionMismatch", (ObjectVersion(ID, 3),))
    assert (found(state, ID).version, found(state, OTHER).version) == (3, 2)


def test_exec_2_one_version_of_an_object_is_used_once() -> None:
    state = with_object(owned(ALICE))
    inputs = [Input(ID, 1, Access.WRITE)]
    result = run(
        state,
        transaction(ObjectMutate(ID, b"first"), nonce=0, inputs=inputs),
        transaction(ObjectMutate(ID, b"second"), nonce=1, inputs=inputs),
    )
    assert [receipt.code for receipt in result.receipts] == ["", "VersionMismatch"]
    assert found(state, ID) == owned(ALICE, version=2, data=b"first")


def test_an_object_can_be_handed_on_within_a_block() -> None:
    state = with_object(owned(ALICE))
    give = transaction(ObjectTransfer(ID, BOB), inputs=[Input(ID, 1, Access.TRANSFER)])
    on = transaction(ObjectTransfer(ID, CAROL), sender=BOB, inputs=[Input(ID, 2, Access.TRANSFER)])
    assert [receipt.code for receipt in run(state, give, on).receipts] == ["", ""]
    assert found(state, ID) == owned(CAROL, version=3)


def test_an_object_shared_in_the_block_is_no_more_what_a_later_transaction_declared() -> None:
    state = with_object(owned(ALICE))
    share = transaction(ObjectShare(ID), nonce=0, inputs=[Input(ID, 1, Access.SHARE)])
    late = transaction(ObjectMutate(ID, b""), nonce=1, inputs=[Input(ID, 1, Access.WRITE)])
    right = transaction(ObjectMutate(ID, b"!"), nonce=2, inputs=[Input(ID, 2, Access.WRITE)])
    assert [receipt.code for receipt in run(state, share, late, right).receipts] == [
        "",
        "VersionMismatch",
        "",
    ]
    assert found(state, ID) == shared(version=3, initial=2, data=b"!")


def test_an_object_nobody_made_is_missing() -> None:
    state = state_of()
    assert use(state, ObjectMutate(ID, b"")).code == "ObjectMissing"
    assert object_key(ID) not in state


def test_exec_7_data_above_the_limit_fails() -> None:
    state = with_object(owned(ALICE))
    limits = Limits(object_bytes_max=4)
    inputs = [Input(ID, 1, Access.WRITE)]
    for operation in (ObjectMutate(ID, b"12345"), ObjectCreate(1, OwnerKind.OWNED, ALICE, b"12345")):
        receipt = run_one(
            state_of(objects={ID: owned(ALICE)}), transaction(operation, inputs=inputs), limits=limits
        )
        assert receipt.code == "ObjectTooLarge"
    assert run_one(state, transaction(ObjectMutate(ID, b"1234"), inputs=inputs), limits=limits).code == ""


@pytest.mark.parametrize(
    ("operation", "access", "gas"),
    [
        (ObjectMutate(ID, b"12345"), Access.WRITE, 1_000 + 5 * 5),
        (ObjectTransfer(ID, BOB), Access.TRANSFER, 1_000),
        (ObjectShare(ID), Access.SHARE, 3_000),
        (ObjectFreeze(ID), Access.FREEZE, 1_000),
        (ObjectDelete(ID), Access.DELETE, 1_000 + 500),
    ],
)
def test_gas_2_an_owned_input_pays_its_operation_and_the_bytes_it_rewrites(
    operation: Operation, access: Access, gas: int
) -> None:
    one = transaction(operation, inputs=[Input(ID, 1, access)])
    receipt = run_one(with_object(owned(ALICE, data=b"0123456789")), one)
    assert receipt.gas_used == 10_000 + 10 * one.size_bytes + 1_200 + 200 + 5 * 10 + gas


def test_gas_2_a_new_object_pays_for_its_growth() -> None:
    one = transaction(ObjectCreate(1, OwnerKind.OWNED, BOB, b"12345"))
    assert run_one(state_of(), one).gas_used == 10_000 + 10 * one.size_bytes + 1_200 + 6_000 + 25 * 5


def test_gas_2_a_shared_object_pays_for_a_version_once_and_for_bytes_each_time() -> None:
    one = transaction(ObjectMutate(ID, b"123"), ObjectMutate(ID, b"45"), inputs=[Input(ID, 1, Access.WRITE)])
    receipt = run_one(with_object(shared()), one)
    assert receipt.gas_used == 10_000 + 10 * one.size_bytes + 1_200 + 200 + 1_000 + 5 * 5


def test_gas_7_a_deletion_gives_4_000_gas_back_up_to_a_fifth() -> None:
    kept = run_one(
        with_object(owned(ALICE)), transaction(ObjectFreeze(ID), inputs=[Input(ID, 1, Access.FREEZE)])
    )
    gone = run_one(
        with_object(owned(ALICE)), transaction(ObjectDelete(ID), inputs=[Input(ID, 1, Access.DELETE)])
    )
    assert gone.gas_used == kept.gas_used + 500
    assert gone.fee == -(-(gone.gas_used - gone.gas_used // 5) // 100)
    assert gone.gas_used // 5 < 4_000


def test_gas_7_a_failed_deletion_gives_nothing_back() -> None:
    state = with_object(owned(ALICE))
    receipt = use(state, ObjectDelete(ID), ObjectDelete(ID), access=Access.DELETE)
    assert receipt.code == "AccessUsed"
    assert receipt.fee == -(-receipt.gas_used // 100)
