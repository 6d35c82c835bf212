"""What one transaction sees, what it leaves behind, and what it is refused (EXEC-41, 42, 46, 51)."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from supervm.execution import ExecutionError
from supervm.mvcc import (
    BadOperand,
    Conflict,
    MvccError,
    MvccStore,
    ReadOnlyTransaction,
    ReadWriteConflict,
    Transaction,
    TransactionClosed,
    TransactionTooLarge,
    WriteWriteConflict,
    transaction,
)


@pytest.fixture
def store() -> MvccStore:
    return MvccStore()


def put(store: MvccStore, **values: bytes) -> int:
    with store.begin() as txn:
        for key, value in values.items():
            txn.write(key.encode(), value)
        return txn.commit()


def test_mvcc_write_write_conflict(store: MvccStore) -> None:
    put(store, k=b"0")
    first, second = store.begin(), store.begin()
    first.write(b"k", b"1")
    second.write(b"k", b"2")
    assert first.commit() == 2
    with pytest.raises(WriteWriteConflict, match="write-write conflict") as caught:
        second.commit()
    error = caught.value
    assert (error.key, error.start_ts, error.conflicting_ts) == (b"k", 1, 2)
    assert error.retryable and error.code == "WriteWriteConflict"
    assert store.begin_read_only().read(b"k") == b"1"


def test_mvcc_snapshot_isolation_visibility(store: MvccStore) -> None:
    put(store, k=b"old")
    before = store.begin()
    put(store, k=b"new")
    after = store.begin()
    assert (before.read(b"k"), after.read(b"k")) == (b"old", b"new")


def test_mvcc_version_visibility_multiple_versions(store: MvccStore) -> None:
    readers = []
    for at in range(5):
        put(store, k=b"%d" % at)
        readers.append(store.begin_read_only())
    assert [reader.read(b"k") for reader in readers] == [b"0", b"1", b"2", b"3", b"4"]
    assert [store.read_at(b"k", ts) for ts in range(6)] == [None, b"0", b"1", b"2", b"3", b"4"]


def test_mvcc_concurrent_reads(store: MvccStore) -> None:
    put(store, **{f"k{at}": b"%d" % at for at in range(100)})

    def read_all(_: int) -> list[bytes | None]:
        with store.begin_read_only() as txn:
            return [txn.read(b"k%d" % at) for at in range(100)]

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(read_all, range(8)))
    assert seen == [[b"%d" % at for at in range(100)]] * 8
    assert store.stats().open == 0


def test_mvcc_concurrent_writes_different_keys(store: MvccStore) -> None:
    def write(at: int) -> int:
        return put(store, **{f"k{at}": b"%d" % at})

    with ThreadPoolExecutor(8) as pool:
        stamps = list(pool.map(write, range(64)))
    assert sorted(stamps) == list(range(1, 65))
    with store.begin_read_only() as txn:
        assert txn.read_many([b"k%d" % at for at in range(64)]) == [b"%d" % at for at in range(64)]


def test_mvcc_concurrent_writes_same_key_conflicts(store: MvccStore) -> None:
    put(store, k=b"0")
    writers = [store.begin() for _ in range(8)]

    def commit(writer: Transaction) -> bool:
        writer.write(b"k", b"1")
        try:
            writer.commit()
        except WriteWriteConflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(commit, writers)) == 1
    assert store.stats().conflicts == {"ww": 7, "rw": 0, "range": 0}
    assert store.stats().aborts == 7


def test_mvcc_read_only_transaction(store: MvccStore) -> None:
    ts = put(store, k=b"1")
    reader = store.begin_read_only()
    put(store, k=b"2")
    assert reader.read(b"k") == b"1" and reader.is_read_only()
    assert reader.commit() == ts


def test_mvcc_read_only_cannot_write(store: MvccStore) -> None:
    with store.begin_read_only() as txn:
        with pytest.raises(ReadOnlyTransaction, match=r"write\(\)"):
            txn.write(b"k", b"1")
        with pytest.raises(ReadOnlyTransaction, match=r"emit\(\)"):
            txn.emit("event")


def test_mvcc_read_only_cannot_delete(store: MvccStore) -> None:
    with store.begin_read_only() as txn, pytest.raises(ReadOnlyTransaction, match=r"delete\(\)"):
        txn.delete(b"k")


def test_a_transaction_sees_its_own_writes_and_nobody_else_does_before_the_commit(store: MvccStore) -> None:
    put(store, a=b"1", b=b"1")
    txn, other = store.begin(), store.begin()
    txn.write(b"a", b"2")
    txn.delete(b"b")
    assert (txn.read(b"a"), txn.read(b"b")) == (b"2", None)
    assert (other.read(b"a"), other.read(b"b")) == (b"1", b"1")
    assert store.begin().read(b"a") == b"1"


def test_a_deleted_key_is_absent_and_an_empty_value_is_not(store: MvccStore) -> None:
    put(store, gone=b"1", empty=b"")
    with store.begin() as txn:
        txn.delete(b"gone")
        txn.delete(b"never")
        txn.commit()
    with store.begin_read_only() as txn:
        assert txn.read_many([b"gone", b"never", b"empty"]) == [None, None, b""]


def test_a_stale_read_of_a_key_that_is_not_written_is_a_read_write_conflict(store: MvccStore) -> None:
    put(store, a=b"1", b=b"1")
    txn = store.begin()
    txn.read(b"a")
    txn.write(b"b", b"2")
    put(store, a=b"9")
    with pytest.raises(ReadWriteConflict) as caught:
        txn.commit()
    assert caught.value.key == b"a"
    assert store.begin().read(b"b") == b"1"


def test_a_stale_read_of_a_key_that_is_written_too_is_a_write_write_conflict(store: MvccStore) -> None:
    put(store, a=b"1")
    txn = store.begin()
    txn.write(b"a", (txn.read(b"a") or b"") + b"!")
    put(store, a=b"9")
    with pytest.raises(WriteWriteConflict):
        txn.commit()


def test_a_read_of_an_absent_key_conflicts_with_who_made_it(store: MvccStore) -> None:
    txn = store.begin()
    assert txn.read(b"new") is None
    txn.write(b"other", b"1")
    put(store, new=b"1")
    with pytest.raises(ReadWriteConflict):
        txn.commit()


def test_what_only_reads_never_conflicts_and_takes_no_timestamp(store: MvccStore) -> None:
    put(store, a=b"1")
    txn = store.begin()
    txn.read(b"a")
    put(store, a=b"2")
    assert txn.commit() == 1
    assert store.published == 2


def test_beginning_draws_no_timestamp(store: MvccStore) -> None:
    for _ in range(5):
        store.begin().abort()
    assert put(store, a=b"1") == 1


def test_nothing_of_a_conflicting_transaction_is_installed(store: MvccStore) -> None:
    put(store, z=b"1")
    txn = store.begin()
    for at in range(100):
        txn.write(b"k%d" % at, b"x")
    txn.write(b"z", b"2")
    put(store, z=b"3")
    with pytest.raises(Conflict):
        txn.commit()
    assert store.total_keys() == 1 and store.published == 2


def test_leaving_the_block_without_a_commit_aborts(store: MvccStore) -> None:
    with store.begin() as txn:
        txn.write(b"a", b"1")
    with pytest.raises(RuntimeError), store.begin() as broken:
        broken.write(b"a", b"1")
        raise RuntimeError
    assert store.published == 0 and store.stats().open == 0 and store.stats().aborts == 2


EVERY_CALL: list[Callable[[Transaction], object]] = [
    lambda txn: txn.read(b"a"),
    lambda txn: txn.read_many([b"a"]),
    lambda txn: txn.scan(b"a"),
    lambda txn: txn.scan(b"a", 0),
    lambda txn: txn.write(b"a", b"1"),
    lambda txn: txn.delete(b"a"),
    lambda txn: txn.emit("event"),
    lambda txn: txn.read_set(),
    lambda txn: txn.read_ranges(),
    lambda txn: txn.write_set(),
    lambda txn: txn.savepoint(),
    lambda txn: txn.rollback(),
    lambda txn: txn.release(),
    lambda txn: txn.depth(),
    lambda txn: txn.commit(),
    lambda txn: txn.abort(),
]


@pytest.mark.parametrize("call", EVERY_CALL)
@pytest.mark.parametrize("end", ["commit", "commit nothing", "abort", "conflict"])
def test_every_use_of_a_closed_transaction_is_refused(
    store: MvccStore, call: Callable[[Transaction], object], end: str
) -> None:
    txn = store.begin()
    if end in ("commit", "conflict"):
        txn.write(b"a", b"1")
    if end == "conflict":
        put(store, a=b"2")
        with pytest.raises(Conflict):
            txn.commit()
    elif end == "abort":
        txn.abort()
    else:
        txn.commit()
    with pytest.raises(TransactionClosed):
        call(txn)
    with txn:
        pass  # leaving again harms nobody
    assert store.stats().open == 0


def test_sets_say_what_was_touched(store: MvccStore) -> None:
    put(store, a=b"1")
    txn = store.begin()
    txn.read(b"a")
    txn.read(b"missing")
    txn.write(b"w", b"1")
    txn.read(b"w")
    txn.delete(b"d")
    txn.scan(b"p")
    txn.scan(b"a", 1)
    assert txn.read_set() == {b"a", b"missing"}
    assert txn.write_set() == {b"w", b"d"}
    assert txn.read_ranges() == ((b"p", b"q"), (b"a", b"a\0"))
    assert not txn.is_read_only()


def test_events_count_once_the_transaction_commits(store: MvccStore) -> None:
    txn = store.begin()
    txn.emit("one")
    txn.emit("two")
    txn.write(b"a", b"1")
    assert txn.events() == ("one", "two")
    txn.commit()
    assert txn.events() == ("one", "two")
    lost = store.begin()
    lost.emit("three")
    lost.abort()
    assert lost.events() == ()


@pytest.mark.parametrize(
    "call",
    [
        lambda txn: txn.read("text"),
        lambda txn: txn.read([b"unhashable"]),
        lambda txn: txn.write(bytearray(b"a"), b"1"),
        lambda txn: txn.write(b"a", None),
        lambda txn: txn.write(b"a", bytearray(b"mutable")),
        lambda txn: txn.delete(7),
        lambda txn: txn.scan("text"),
        lambda txn: txn.scan(b"a", -1),
        lambda txn: txn.scan_range(b"a", "b"),
    ],
)
def test_operands_of_the_wrong_kind_are_refused_and_do_no_harm(
    store: MvccStore, call: Callable[[Transaction], object]
) -> None:
    txn = store.begin()
    with pytest.raises(BadOperand) as caught:
        call(txn)
    assert isinstance(caught.value, ExecutionError) and not caught.value.retryable and caught.value.mend
    assert txn.write_set() == txn.read_set() == frozenset()
    txn.write(b"a", b"1")
    assert txn.commit() == 1


def test_a_transaction_of_too_many_keys_is_refused_whole(
    store: MvccStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "WRITES_MAX", 3)
    with store.begin() as txn:
        for at in range(4):
            txn.write(b"%d" % at, b"")
        with pytest.raises(TransactionTooLarge, match="4"):
            txn.commit()
    assert store.published == 0


def test_reading_at_a_timestamp_that_is_not_published_is_refused(store: MvccStore) -> None:
    put(store, a=b"1")
    for ts in (-1, 2):
        with pytest.raises(BadOperand):
            store.read_at(b"a", ts)


def test_every_error_tells_its_code_and_whether_to_try_again() -> None:
    assert issubclass(MvccError, ExecutionError)
    error = WriteWriteConflict(b"key", 1, 2)
    assert (error.code, error.field, error.retryable) == ("WriteWriteConflict", "key", True)
    assert "0x6b6579" in str(error) and error.mend in str(error)
    assert not TransactionClosed().retryable
