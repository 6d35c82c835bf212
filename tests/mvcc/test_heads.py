"""Heads without a timestamp, the log and the chains: what commits leave behind for those who look back."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from supervm.mvcc import (
    BlockStore,
    MvccStore,
    PruneRules,
    SnapshotTooOld,
    Transaction,
    VersionPruned,
    batch_delete,
    batch_write,
)
from supervm.mvcc import store as store_module

NO_PAST = PruneRules(versions_max=1)
KEEP_3 = PruneRules(versions_max=3)
EVERY = pytest.mark.parametrize("rules", [NO_PAST, KEEP_3], ids=["no past", "a past"])


def is_bare(store: MvccStore, key: bytes) -> bool:
    return store._heads[key].__class__ is not tuple


@EVERY
def test_a_value_is_bare_only_where_nobody_can_see_what_was_before(rules: PruneRules) -> None:
    store = MvccStore(rules=rules)
    batch_write(store, {b"a": b"1", b"b": b"1"})
    assert is_bare(store, b"a")
    reader = store.begin_read_only()
    batch_write(store, {b"a": b"2"})
    assert not is_bare(store, b"a") and is_bare(store, b"b")
    assert reader.read_many([b"a", b"b"]) == [b"1", b"1"]
    reader.abort()
    batch_write(store, {b"a": b"3"})
    assert is_bare(store, b"a")


@EVERY
def test_the_first_who_displaces_a_bare_value_keeps_it_for_every_open_snapshot(rules: PruneRules) -> None:
    store = MvccStore(rules=rules)
    batch_write(store, {b"k": b"1", b"gone": b"1"})
    batch_delete(store, [b"gone"])
    first = store.begin_read_only()
    batch_write(store, {b"k": b"2", b"gone": b"2", b"new": b"2"})
    second = store.begin_read_only()
    batch_write(store, {b"k": b"3", b"gone": b"3", b"new": b"3"})
    for _ in range(2):
        assert first.scan() == [(b"k", b"1")]
        assert second.scan() == [(b"gone", b"2"), (b"k", b"2"), (b"new", b"2")]
        store.gc(NO_PAST)


@pytest.mark.parametrize("log_max", [1, 3, 2_048])
def test_what_a_full_log_held_is_found_by_snapshots_in_its_midst(
    monkeypatch: pytest.MonkeyPatch, log_max: int
) -> None:
    monkeypatch.setattr(store_module, "LOG_KEYS_MAX", log_max)
    store = MvccStore(rules=NO_PAST)
    readers: list[Transaction] = []
    for at in range(8):
        batch_write(store, {b"k": b"%d" % at, b"k%d" % at: b""})
        readers.append(store.begin_read_only())
    for at in (7, 0, 3, 5):
        assert readers[at].read(b"k") == b"%d" % at
        assert len(readers[at].scan()) == at + 2
        readers[at].abort()
        batch_write(store, {b"k": b"later"})
    assert [reader.read(b"k") for reader in store.open_transactions()] == [b"1", b"2", b"4", b"6"]


@pytest.mark.parametrize(("log_max", "left"), [(3, 1), (5, 0)])
def test_a_thinned_log_leaves_what_snapshots_in_its_midst_see_and_tells_of_the_rest(
    log_max: int, left: int
) -> None:
    store = MvccStore(rules=NO_PAST)
    store._log_max = log_max
    first = store.begin_read_only()
    batch_write(store, {b"k": b"1"})
    batch_write(store, {b"k": b"2"})
    second = store.begin_read_only()
    first.abort()
    for at in range(3, log_max + 1):
        batch_write(store, {b"k": b"%d" % at})
    assert len(store._log) == left and bool(store._chains) is not bool(left)
    assert second.read(b"k") == b"2"
    assert [store.read_at(b"k", ts) for ts in range(2, log_max)] == [b"%d" % ts for ts in range(2, log_max)]
    with pytest.raises(VersionPruned):
        store.read_at(b"k", 1)


def test_a_thinned_log_takes_chains_along_that_it_makes_old() -> None:
    store = MvccStore(rules=NO_PAST)
    store._log_max = 3
    first = store.begin_read_only()
    batch_write(store, {b"k": b"1"})
    assert store.stats().versions == 1 and store._chains
    batch_write(store, {b"k": b"2"})
    second = store.begin_read_only()
    first.abort()
    batch_write(store, {b"k": b"3", b"other": b"3"})
    assert second.read(b"k") == b"2"
    assert store.stats().versions == 3


def test_what_stays_of_a_thinned_log_is_not_taken_for_newer_than_it_is() -> None:
    store = MvccStore(rules=NO_PAST)
    store._log_max = 3
    first = store.begin_read_only()
    batch_write(store, {b"k": b"1"})
    batch_write(store, {b"k": b"2"})
    second = store.begin_read_only()
    first.abort()
    batch_write(store, {b"k": b"3"})
    assert len(store._log) == 1
    with store.begin() as txn:
        assert txn.scan(b"k") == [(b"k", b"3")]
        batch_write(store, {b"other": b""})
        txn.write(b"mine", b"")
        assert txn.commit() == 5
    assert second.scan() == [(b"k", b"2")]


def test_a_key_whose_past_was_pruned_has_no_chain_and_the_past_is_said_to_be_gone() -> None:
    store = MvccStore(rules=NO_PAST)
    first = store.begin_read_only()
    for at in range(1, 4):
        batch_write(store, {b"k": b"%d" % at})
    second = store.begin_read_only()
    first.abort()
    assert store.gc() == 2
    assert not store._chains and store.stats().versions == 1
    for ts in (1, 2):
        with pytest.raises(VersionPruned):
            store.read_at(b"k", ts)
    batch_write(store, {b"k": b"4"})
    assert second.read(b"k") == b"3"


def test_without_a_past_nothing_stays_once_the_last_reader_has_gone() -> None:
    store = MvccStore(rules=NO_PAST)
    batch_write(store, {b"k": b"0"})
    reader = store.begin_read_only()
    for at in range(1, 6):
        batch_write(store, {b"k": b"%d" % at, b"k%d" % at: b""})
    assert store.stats().versions == 11
    reader.abort()
    batch_write(store, {b"k": b"6"})
    assert not store._log and not store._chains
    assert store.stats().versions == store.total_keys() == 6
    for ts in range(7):
        with pytest.raises(VersionPruned):
            store.read_at(b"k", ts)
    assert store.read_at(b"k", 7) == b"6"


def test_a_long_past_goes_in_slices_and_not_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "FORGET_MAX", 3)
    store = MvccStore(rules=NO_PAST)
    batch_write(store, {b"k": b"0"})
    reader = store.begin_read_only()
    for at in range(1, 6):
        batch_write(store, {b"k": b"%d" % at})
    assert reader.read(b"k") == b"0"
    reader.abort()
    batch_write(store, {b"k": b"6"})
    assert store.stats().versions == 7
    assert store.gc() == 6
    batch_write(store, {b"k": b"7"})
    assert is_bare(store, b"k") and store.read_at(b"k", 8) == b"7"


def test_an_answer_about_before_a_bare_value_is_never_the_bare_value() -> None:
    store = MvccStore(rules=NO_PAST)
    for at in range(4):
        batch_write(store, {b"k": b"%d" % at})
    reader = store.begin_read_only()
    batch_write(store, {b"k": b"later"})
    assert [store.read_at(b"k", ts) for ts in (4, 5)] == [b"3", b"later"]
    for key in (b"k", b"other"):
        for ts in (0, 3):
            with pytest.raises(VersionPruned):
                store.read_at(key, ts)
    assert store.read_at(b"other", 4) is None and reader.read(b"k") == b"3"


class GivenUp(dict[bytes, Any]):
    """The heads of a store, in which a transaction is given up, and overtaken, as it reads."""

    def __init__(self, heads: dict[bytes, Any], meanwhile: Callable[[], None]) -> None:
        super().__init__(heads)
        self.meanwhile = meanwhile

    def get(self, key: bytes, default: Any = None) -> Any:
        self.meanwhile()
        return super().get(key, default)


@EVERY
@pytest.mark.parametrize("scanning", [False, True])
def test_a_transaction_that_is_given_up_as_it_reads_reads_nothing_newer(
    rules: PruneRules, scanning: bool
) -> None:
    store = MvccStore(rules=rules)
    batch_write(store, {b"k": b"1"})
    if scanning:
        store.begin_read_only().scan()
        store.give_up(store.open_transactions()[0])
    plain = store._heads

    def meanwhile() -> None:
        if store.give_up(reader):
            store._heads = plain
            batch_write(store, {b"k": b"2"})
            heads.update(plain)

    store._heads = heads = GivenUp(plain, meanwhile)
    reader = store.begin_read_only()
    with pytest.raises(SnapshotTooOld):
        if scanning:
            reader.scan()
        else:
            reader.read(b"k")
    assert store.begin_read_only().read(b"k") == b"2"


class Leaving:
    """The lock of a store. Who leaves it first lets others on, and goes on only after them."""

    def __init__(self, store: MvccStore) -> None:
        self.store, self.lock = store, store._lock
        self.left, self.go_on = threading.Event(), threading.Event()

    def __enter__(self) -> None:
        self.lock.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.lock.__exit__(*error)
        self.store._lock = self.lock
        self.left.set()
        assert self.go_on.wait(120)


@EVERY
def test_who_is_given_up_is_told_before_anybody_can_overtake_it(rules: PruneRules) -> None:
    store = MvccStore(rules=rules)
    batch_write(store, {b"k": b"1"})
    plain = store._heads
    leaving = Leaving(store)

    def meanwhile() -> None:
        """Another thread is in the midst of giving the reader up, and a third one commits."""
        store._heads = plain
        store._lock = leaving  # type: ignore[assignment]
        giver.start()
        assert leaving.left.wait(120)
        batch_write(store, {b"k": b"2"})
        heads.update(plain)

    store._heads = heads = GivenUp(plain, meanwhile)
    reader = store.begin_read_only()
    giver = threading.Thread(target=store.give_up, args=(reader,))
    try:
        with pytest.raises(SnapshotTooOld):
            reader.read(b"k")
    finally:
        leaving.go_on.set()
        giver.join(120)


class Interrupting(set[bytes]):
    """Candidates for pruning; a signal comes as the log is being folded."""

    interrupted = False

    def update(self, *others: Any) -> None:
        super().update(*others)
        if not self.interrupted:
            self.interrupted = True
            raise KeyboardInterrupt


@pytest.mark.parametrize("reading", [False, True])
def test_a_fold_that_is_interrupted_is_done_again_without_a_trace(reading: bool) -> None:
    store = MvccStore()
    for at in range(3):
        batch_write(store, {b"k": b"%d" % at, b"k%d" % at: b""})
    store.stats()
    reader = store.begin_read_only() if reading else None
    for at in range(3, 6):
        batch_write(store, {b"k": b"%d" % at})
    store._candidates = Interrupting(store._candidates)
    with pytest.raises(KeyboardInterrupt):
        store.read_at(b"k", 1)
    for at in range(6, 8):
        batch_write(store, {b"k": b"%d" % at})
    assert [store.read_at(b"k", ts) for ts in range(1, 9)] == [b"%d" % at for at in range(8)]
    assert store.stats().versions == 11
    assert reader is None or reader.read(b"k") == b"2"
    store.gc(NO_PAST)
    assert store.stats().versions == (5 if reading else 4)


@pytest.mark.parametrize("reading", [False, True])
def test_a_block_that_was_installed_when_a_signal_came_hides_nothing(
    monkeypatch: pytest.MonkeyPatch, reading: bool
) -> None:
    store = BlockStore(rules=NO_PAST)
    store.install({b"k": b"3"}, 3)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(store, "_log_full", interrupted)
        store.install({b"k": b"7"}, 7)
    reader = store.begin_read_only() if reading else None
    store.install({b"k": b"11"}, 11)
    assert reader is None or (reader.start_ts == 7 and reader.read(b"k") == b"7")
    assert store.begin_read_only().read(b"k") == b"11"
    assert store.stats().versions == (3 if reading else 1)


@EVERY
def test_a_block_store_finds_what_blocks_with_gaps_displaced(rules: PruneRules) -> None:
    store = BlockStore(rules=rules)
    store.install({b"k": b"3", b"once": b"3"}, 3)
    store.install({}, 5)
    first = store.begin_read_only()
    store.install({b"k": b"7", b"new": b"7"}, 7)
    second = store.begin_read_only()
    store.install({b"k": None}, 11)
    assert first.read_many([b"k", b"once", b"new"]) == [b"3", b"3", None]
    assert second.scan() == [(b"k", b"7"), (b"new", b"7"), (b"once", b"3")]
    assert [store.read_at(b"k", ts) for ts in (5, 7, 10, 11)] == [b"3", b"7", b"7", None]
    first.abort()
    second.abort()
    store.gc()
    assert [key for key, _ in store.begin_read_only().scan()] == [b"new", b"once"]
    assert store.total_keys() == 2
