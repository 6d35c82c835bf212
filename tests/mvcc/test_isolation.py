"""Serialisable: what a transaction decided by is still true when it commits (EXEC-42, EXEC-45)."""

import pytest

from supervm.mvcc import (
    BlockStore,
    MvccStore,
    PruneRules,
    RangeConflict,
    ReadOnlyStore,
    ReadWriteConflict,
    VersionPruned,
    batch_delete,
    batch_write,
)
from supervm.mvcc import store as store_module
from supervm.mvcc.errors import BadOperand
from supervm.mvcc.index import KeyIndex


@pytest.fixture(params=[1, 10], ids=["no past", "a past"])
def store(request: pytest.FixtureRequest) -> MvccStore:
    store = MvccStore(rules=PruneRules(versions_max=request.param))
    batch_write(store, {b"row/%02d" % at: b"%d" % at for at in range(10)})
    return store


def test_write_skew_is_refused(store: MvccStore) -> None:
    batch_write(store, {b"alice on call": b"yes", b"bob on call": b"yes"})
    alice, bob = store.begin(), store.begin()
    assert bob.read(b"bob on call") == alice.read(b"alice on call") == b"yes"
    if alice.read(b"bob on call") == b"yes":
        alice.write(b"alice on call", b"no")
    if bob.read(b"alice on call") == b"yes":
        bob.write(b"bob on call", b"no")
    alice.commit()
    with pytest.raises(ReadWriteConflict):
        bob.commit()


def test_the_snapshot_level_admits_write_skew_and_still_refuses_lost_updates(store: MvccStore) -> None:
    one, other = store.begin_snapshot(), store.begin_snapshot()
    one.read(b"row/01")
    one.scan(b"row/")
    one.write(b"row/02", b"x")
    other.read(b"row/02")
    other.write(b"row/01", b"x")
    one.commit()
    other.commit()
    first, second = store.begin_snapshot(), store.begin_snapshot()
    first.write(b"row/01", b"1")
    second.write(b"row/01", b"2")
    first.commit()
    with pytest.raises(Exception, match="write-write conflict"):
        second.commit()


def test_a_phantom_is_refused(store: MvccStore) -> None:
    txn = store.begin()
    txn.write(b"count", b"%d" % len(txn.scan(b"row/")))
    batch_write(store, {b"row/05b": b"new"})
    with pytest.raises(RangeConflict) as caught:
        txn.commit()
    assert (caught.value.key, caught.value.conflicting_ts) == (b"row/05b", 2)
    assert store.stats().conflicts["range"] == 1


@pytest.mark.parametrize("key", [b"row/03", b"row/09"])
def test_a_changed_or_deleted_row_of_a_scanned_range_is_refused(store: MvccStore, key: bytes) -> None:
    for change in ("delete", "write"):
        txn = store.begin()
        txn.write(b"sum", b"%d" % sum(int(value) for _, value in txn.scan(b"row/")))
        if change == "delete":
            batch_delete(store, [key])
        else:
            batch_write(store, {key: b"1"})
        with pytest.raises(RangeConflict):
            txn.commit()


def test_ranges_are_validated_also_when_many_commits_came_between(store: MvccStore) -> None:
    for touched, is_refused in ((b"row/05b", True), (b"elsewhere", False)):
        txn = store.begin()
        txn.scan(b"row/")
        txn.write(b"count", b"")
        batch_write(store, {touched: b"new"})
        for at in range(3_000):
            batch_write(store, {b"other/%d" % (at % 50): b"%d" % at})
        if is_refused:
            with pytest.raises(RangeConflict):
                txn.commit()
        else:
            txn.commit()


def test_a_write_outside_the_scanned_range_does_not_disturb(store: MvccStore) -> None:
    txn = store.begin()
    txn.scan(b"row/")
    txn.write(b"count", b"")
    batch_write(store, {b"row0": b"", b"row": b"", b"rox": b""})
    txn.commit()


def test_a_limit_ends_the_range_at_the_last_row_that_was_seen(store: MvccStore) -> None:
    txn = store.begin()
    assert [key for key, _ in txn.scan(b"row/", 3)] == [b"row/00", b"row/01", b"row/02"]
    txn.write(b"x", b"")
    batch_write(store, {b"row/05": b"later"})
    txn.commit()
    again = store.begin()
    again.scan(b"row/", 3)
    again.write(b"x", b"")
    batch_write(store, {b"row/01b": b"within"})
    with pytest.raises(RangeConflict):
        again.commit()


def test_a_scan_that_finds_nothing_is_validated_too(store: MvccStore) -> None:
    txn = store.begin()
    assert txn.scan(b"none/") == []
    txn.write(b"x", b"")
    batch_write(store, {b"none/1": b""})
    with pytest.raises(RangeConflict):
        txn.commit()


def test_a_scan_is_sorted_and_merges_own_writes(store: MvccStore) -> None:
    txn = store.begin()
    txn.delete(b"row/00")
    txn.write(b"row/01", b"mine")
    txn.write(b"row/015", b"new")
    txn.write(b"s", b"outside")
    assert txn.scan(b"row/0", 3) == [(b"row/01", b"mine"), (b"row/015", b"new"), (b"row/02", b"2")]
    assert txn.scan(b"row/") == sorted(txn.scan(b"row/")) and len(txn.scan(b"row/")) == 10
    assert txn.scan(b"row/", 0) == [] and txn.scan_range(b"z", b"a") == []
    assert txn.scan()[-1] == (b"s", b"outside")


def test_a_scan_reads_its_snapshot_over_many_pages(store: MvccStore) -> None:
    batch_write(store, {b"p/%04d" % at: b"old" for at in range(1_000)})
    reader, writer = store.begin_read_only(), store.begin()
    for at in range(500, 1_500):
        writer.write(b"p/%04d" % at, b"own")
    batch_write(store, {b"p/%04d" % at: b"new" for at in range(0, 2_000, 2)})
    batch_delete(store, [b"p/%04d" % at for at in range(1, 1_000, 2)])
    assert reader.scan(b"p/") == [(b"p/%04d" % at, b"old") for at in range(1_000)]
    assert writer.scan(b"p/") == [(b"p/%04d" % at, b"old" if at < 500 else b"own") for at in range(1_500)]
    assert len(store.begin_read_only().scan(b"p/")) == 1_000


def test_prefixes_at_the_end_of_all_keys_are_scanned(store: MvccStore) -> None:
    batch_write(store, {b"\xff": b"1", b"\xff\xff\x01": b"2"})
    txn = store.begin()
    assert [key for key, _ in txn.scan(b"\xff\xff")] == [b"\xff\xff\x01"]
    assert len(txn.scan(b"\xff")) == 2
    txn.write(b"x", b"")
    batch_write(store, {b"\xff\xff\xff": b"3"})
    with pytest.raises(RangeConflict):
        txn.commit()


@pytest.mark.parametrize("reading", [True, False])
def test_keys_that_come_and_go_while_the_first_index_is_made_are_in_it_or_not(
    store: MvccStore, monkeypatch: pytest.MonkeyPatch, reading: bool
) -> None:
    def slowly(keys: list[bytes]) -> KeyIndex:
        made = KeyIndex(keys)
        batch_write(store, {b"row/folded": b"1"})
        store.stats()
        batch_write(store, {b"row/logged": b"1"})
        batch_delete(store, [b"row/00"])
        store.gc()
        return made

    monkeypatch.setattr(store_module, "KeyIndex", slowly)
    if reading:
        assert len(store.begin_read_only().scan(b"row/")) == 10
    else:
        store._make_index()
    assert len(store.begin_read_only().scan(b"row/")) == 11
    assert store._index is not None and len(store._index) == store.total_keys()


def test_a_key_that_is_gone_is_in_no_index(store: MvccStore) -> None:
    store.begin_read_only().scan()
    with store.begin_read_only() as txn:
        txn.scan()
    for txn in list(store._active):
        txn.abort()
    batch_delete(store, [b"row/00", b"row/01"])
    store.gc()
    assert store._index is not None and len(store._index) == store.total_keys() == 8


def test_only_blocks_write_a_block_store_and_snapshots_of_it_last() -> None:
    store = BlockStore()
    for call in (store.begin, store.begin_snapshot):
        with pytest.raises(ReadOnlyStore):
            call()
    store.install({b"a": b"1", b"b": b"1"}, 3)
    before = store.begin_read_only()
    store.install({b"a": b"2", b"b": None, b"c": b"2"}, 7)
    assert before.start_ts == 3 and before.scan() == [(b"a", b"1"), (b"b", b"1")]
    assert store.begin_read_only().scan() == [(b"a", b"2"), (b"c", b"2")]
    assert [store.read_at(b"a", ts) for ts in (0, 2, 3, 6, 7)] == [None, None, b"1", b"1", b"2"]
    assert [store.read_at(b"b", ts) for ts in (3, 6, 7)] == [b"1", b"1", None]
    assert store.published == 7 and store.stats().commits == 2


def test_a_block_out_of_order_or_of_other_things_than_bytes_is_refused_whole() -> None:
    store = BlockStore()
    store.install({b"a": b"1"}, 3)
    for changes, ts in (({b"a": b"2"}, 3), ({b"a": b"2"}, 2), ({b"a": b"2", b"b": "text"}, 4)):
        with pytest.raises(BadOperand):
            store.install(changes, ts)  # type: ignore[arg-type]
    assert store.begin_read_only().scan() == [(b"a", b"1")] and store.published == 3


def test_blocks_are_pruned_under_no_reader() -> None:
    store = BlockStore(rules=PruneRules(versions_max=2), unpruned_max=50)
    store.install({b"k%d" % at: b"0" for at in range(10)}, 1)
    reader = store.begin_read_only()
    for height in range(2, 100):
        store.install({b"k%d" % at: b"%d" % height for at in range(10)}, height)
    assert reader.scan() == [(b"k%d" % at, b"0") for at in range(10)]
    assert store.stats().versions <= 10 * 2 + 10 + 50 + 20
    with pytest.raises(VersionPruned):
        store.read_at(b"k0", 50)
