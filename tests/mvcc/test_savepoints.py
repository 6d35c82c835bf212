"""Savepoints: each transaction's own undo log, of writes and events (EXEC-47)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervm.mvcc import MvccStore, NoSavepoint, TooManySavepoints, Transaction
from supervm.mvcc.transaction import SAVEPOINTS_MAX

ACCOUNT = b"account"


@pytest.fixture
def store() -> MvccStore:
    return MvccStore()


def balance(txn: Transaction) -> int:
    return int(txn.read(ACCOUNT) or b"0")


def deposit(txn: Transaction, amount: int) -> None:
    txn.write(ACCOUNT, b"%d" % (balance(txn) + amount))


def withdraw(txn: Transaction, amount: int) -> bool:
    """Take out what is there; a withdrawal that fails has already written, and undoes that."""
    txn.savepoint()
    left = balance(txn) - amount
    txn.write(ACCOUNT, b"%d" % left)
    txn.emit(("withdrawn", amount))
    if left < 0:
        txn.rollback()
        return False
    txn.release()
    return True


def test_snapshot_creation(store: MvccStore) -> None:
    txn = store.begin()
    assert txn.depth() == 0
    assert (txn.savepoint(), txn.savepoint(), txn.depth()) == (1, 2, 2)


def test_rollback(store: MvccStore) -> None:
    txn = store.begin()
    deposit(txn, 100)
    assert not withdraw(txn, 150)
    assert balance(txn) == 100 and txn.depth() == 0


def test_nested_snapshots(store: MvccStore) -> None:
    txn = store.begin()
    deposit(txn, 100)
    assert not withdraw(txn, 150)
    assert balance(txn) == 100
    txn.savepoint()
    assert withdraw(txn, 30)
    assert balance(txn) == 70
    assert not withdraw(txn, 100)
    assert balance(txn) == 70
    txn.release()
    txn.commit()
    assert store.begin().read(ACCOUNT) == b"70"


def test_commit(store: MvccStore) -> None:
    txn = store.begin()
    txn.write(b"a", b"1")
    txn.savepoint()
    txn.write(b"a", b"2")
    txn.write(b"b", b"2")
    txn.commit()
    with store.begin_read_only() as reader:
        assert (reader.read(b"a"), reader.read(b"b")) == (b"2", b"2")


def test_snapshot_with_events(store: MvccStore) -> None:
    txn = store.begin()
    deposit(txn, 100)
    txn.emit("kept")
    assert not withdraw(txn, 150)
    assert withdraw(txn, 30)
    assert txn.events() == ("kept", ("withdrawn", 30))


def test_scheduler_rollback_on_error(store: MvccStore) -> None:
    """An operation that raises is undone alone, and the transaction goes on."""
    txn = store.begin()
    deposit(txn, 100)
    txn.savepoint()
    try:
        txn.write(ACCOUNT, b"0")
        txn.delete(b"other")
        raise ValueError("the operation failed")
    except ValueError:
        txn.rollback()
    assert txn.write_set() == {ACCOUNT}
    txn.commit()
    assert store.begin().read(ACCOUNT) == b"100"


def test_scheduler_nested_transactions(store: MvccStore) -> None:
    """What an inner one released, an outer one still undoes."""
    txn = store.begin()
    txn.write(b"a", b"0")
    txn.savepoint()
    txn.write(b"a", b"1")
    txn.savepoint()
    txn.write(b"a", b"2")
    txn.write(b"b", b"2")
    txn.emit("inner")
    txn.release()
    assert txn.read(b"a") == b"2"
    txn.rollback()
    assert (txn.read(b"a"), txn.read(b"b"), txn.events()) == (b"0", None, ())


def test_without_a_savepoint_neither_rollback_nor_release_does_anything(store: MvccStore) -> None:
    txn = store.begin()
    txn.write(b"a", b"1")
    for _ in range(2):
        with pytest.raises(NoSavepoint):
            txn.rollback()
        with pytest.raises(NoSavepoint):
            txn.release()
        txn.savepoint()
        txn.release()
    assert txn.read(b"a") == b"1"


def test_two_transactions_never_undo_each_other(store: MvccStore) -> None:
    one, other = store.begin(), store.begin()
    one.savepoint()
    other.savepoint()
    one.write(b"a", b"1")
    other.write(b"b", b"1")
    one.rollback()
    assert other.read(b"b") == b"1" and other.depth() == 1 and one.depth() == 0


def test_what_was_read_inside_a_rolled_back_savepoint_is_still_validated(store: MvccStore) -> None:
    txn = store.begin()
    txn.savepoint()
    txn.read(b"decided by this")
    txn.scan(b"and by these")
    txn.rollback()
    assert txn.read_set() == {b"decided by this"} and len(txn.read_ranges()) == 1


def test_the_depth_is_bounded(store: MvccStore) -> None:
    txn = store.begin()
    for _ in range(SAVEPOINTS_MAX):
        txn.savepoint()
    with pytest.raises(TooManySavepoints):
        txn.savepoint()
    assert txn.depth() == SAVEPOINTS_MAX


def test_a_savepoint_costs_what_changed_since_not_what_is_there(store: MvccStore) -> None:
    txn = store.begin()
    for at in range(1_000):
        txn.write(b"%d" % at, b"")
    txn.savepoint()
    txn.write(b"0", b"x")
    assert txn._undo is not None and len(txn._undo) == 1


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 3), st.integers(0, 9)),
        st.tuples(st.just("delete"), st.integers(0, 3), st.just(0)),
        st.tuples(st.sampled_from(["savepoint", "rollback", "release", "emit"]), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@given(STEPS)
def test_savepoints_do_what_full_copies_would(steps: list[tuple[str, int, int]]) -> None:
    store = MvccStore()
    txn = store.begin()
    writes: dict[bytes, bytes | None] = {}
    events: list[object] = []
    copies: list[tuple[dict[bytes, bytes | None], list[object]]] = []
    for step, which, value in steps:
        key = b"k%d" % which
        match step:
            case "write":
                txn.write(key, b"%d" % value)
                writes[key] = b"%d" % value
            case "delete":
                txn.delete(key)
                writes[key] = None
            case "emit":
                txn.emit(len(events))
                events.append(len(events))
            case "savepoint":
                txn.savepoint()
                copies.append((dict(writes), list(events)))
            case "rollback" if copies:
                txn.rollback()
                writes, events = copies.pop()
            case "release" if copies:
                txn.release()
                copies.pop()
        assert txn.write_set() == writes.keys() and txn.depth() == len(copies)
        assert {key: txn.read(key) for key in writes} == writes
        assert txn.events() == tuple(events)
    txn.commit()
    with store.begin_read_only() as reader:
        assert {key: reader.read(key) for key in writes} == writes
