"""What pruning drops, what it must not, and that it tells what is gone (EXEC-86, EXEC-89)."""

import threading
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervm.mvcc import MvccStore, PruneRules, VersionPruned, batch_delete, batch_write
from supervm.mvcc.errors import BadOperand
from supervm.mvcc.pruning import KEYS_A_SLICE, KEYS_BETWEEN_LOOKS
from supervm.mvcc.versions import HOLE, Version, count_versions, find, prune_past

KEEP_3 = PruneRules(versions_max=3)
PATIENCE_S = 120.0
"""How long a slow machine may take for what must happen; no test takes it."""


def raise_key(store: MvccStore, key: bytes, times: int) -> None:
    for _ in range(times):
        batch_write(store, {key: b"%d" % (store.published + 1)})


def test_cleanup_keeps_the_newest_versions() -> None:
    store = MvccStore()
    raise_key(store, b"k", 20)
    assert store.gc(KEEP_3) == 17
    assert store.total_versions() == 3
    assert [store.read_at(b"k", ts) for ts in (18, 19, 20)] == [b"18", b"19", b"20"]
    with pytest.raises(VersionPruned) as caught:
        store.read_at(b"k", 17)
    assert (caught.value.key, caught.value.ts) == (b"k", 17)


def test_ten_keys_of_twenty_versions_leave_five_of_each() -> None:
    store = MvccStore()
    for at in range(200):
        batch_write(store, {b"k%d" % (at % 10): b""})
    assert store.gc(PruneRules(versions_max=5)) == 150
    assert store.stats().versions == 50


def test_an_active_snapshot_protects_what_it_reads_and_no_more() -> None:
    store = MvccStore()
    raise_key(store, b"k", 5)
    reader = store.begin_read_only()
    raise_key(store, b"k", 20)
    assert store.gc(KEEP_3) == 22
    assert reader.read(b"k") == b"5"
    for ts in (6, 23):
        with pytest.raises(VersionPruned):
            store.read_at(b"k", ts)
    assert [store.read_at(b"k", ts) for ts in (5, 24, 25)] == [b"5", b"24", b"25"]
    reader.abort()
    assert store.gc(PruneRules(versions_max=1)) == 2
    assert store.stats().versions == 1


def test_a_snapshot_from_before_the_key_goes_on_seeing_none() -> None:
    for rules in (KEEP_3, PruneRules(versions_max=1)):
        store = MvccStore()
        reader = store.begin_read_only()
        raise_key(store, b"k", 20)
        store.gc(rules)
        assert reader.read(b"k") is None and reader.scan() == []


def test_more_snapshots_than_the_limit_are_all_protected() -> None:
    store = MvccStore()
    readers = []
    for _ in range(8):
        raise_key(store, b"k", 3)
        readers.append(store.begin_read_only())
    store.gc(PruneRules(versions_max=2))
    assert [reader.read(b"k") for reader in readers] == [b"%d" % (3 * at) for at in range(1, 9)]
    assert store.stats().versions == 8


def test_with_none_active_one_version_a_key_is_enough() -> None:
    store = MvccStore()
    raise_key(store, b"a", 10)
    raise_key(store, b"b", 10)
    assert store.gc(PruneRules(versions_max=1)) == 18
    assert store.begin_read_only().scan() == [(b"a", b"10"), (b"b", b"20")]


def test_statistics_add_up_over_cycles() -> None:
    store = MvccStore()
    raise_key(store, b"k", 10)
    store.gc(KEEP_3)
    raise_key(store, b"k", 10)
    batch_delete(store, [b"k"])
    store.gc(KEEP_3)
    stats = store.stats()
    assert (stats.gc_count, stats.versions_cleaned, stats.keys_cleaned, stats.last_gc_ts) == (2, 21, 1, 21)
    assert (stats.keys, stats.versions) == (0, 0)


def test_a_deleted_key_goes_once_nobody_can_see_what_it_was() -> None:
    store = MvccStore()
    batch_write(store, {b"k": b"1"})
    reader = store.begin_read_only()
    batch_delete(store, [b"k"])
    assert store.gc() == 0
    assert reader.read(b"k") == b"1" and reader.scan() == [(b"k", b"1")]
    reader.abort()
    assert store.gc() == 2
    assert store.total_keys() == 0
    with pytest.raises(VersionPruned):
        store.read_at(b"k", 1)
    assert store.read_at(b"k", 2) is None


def test_a_key_that_comes_again_doesn_t_bring_its_past_back() -> None:
    store = MvccStore()
    raise_key(store, b"k", 3)
    batch_delete(store, [b"k"])
    store.gc()
    reader = store.begin_read_only()
    batch_write(store, {b"k": b"again"})
    assert reader.read(b"k") is None
    assert store.begin_read_only().read(b"k") == b"again"
    with pytest.raises(VersionPruned):
        store.read_at(b"k", 2)
    assert store.read_at(b"k", 4) is None
    store.gc(PruneRules(versions_max=1))
    assert reader.read(b"k") is None and reader.scan() == []


def test_a_key_that_was_dropped_and_came_again_between_two_slices_has_no_past() -> None:
    store = MvccStore()
    raise_key(store, b"k", 2)
    cycle = store.gc_cycle()
    raise_key(store, b"k", 1)
    batch_delete(store, [b"k"])
    cycle.slice()
    assert store.total_keys() == 0
    raise_key(store, b"k", 2)
    assert store.stats().versions == 2
    assert [store.read_at(b"k", ts) for ts in (4, 5, 6)] == [None, b"5", b"6"]
    for ts in (1, 2, 3):
        with pytest.raises(VersionPruned):
            store.read_at(b"k", ts)


def test_what_a_pruned_key_held_before_is_said_to_be_gone() -> None:
    store = MvccStore()
    raise_key(store, b"k", 3)
    store.gc(PruneRules(versions_max=1))
    for ts in (1, 2):
        with pytest.raises(VersionPruned):
            store.read_at(b"k", ts)


def test_expired_versions_go_however_few_there_are() -> None:
    store = MvccStore()
    raise_key(store, b"k", 6)
    assert store.gc(PruneRules(expired_ts=4)) == 4
    assert [store.read_at(b"k", ts) for ts in (5, 6)] == [b"5", b"6"]
    assert store.gc(PruneRules(expired_ts=6)) == 1
    assert store.read_at(b"k", 6) == b"6"


def test_a_store_without_a_past_keeps_only_what_somebody_reads() -> None:
    store = MvccStore(rules=PruneRules(versions_max=1))
    raise_key(store, b"k", 5)
    reader = store.begin_read_only()
    raise_key(store, b"k", 10_000)
    assert reader.read(b"k") == b"5"
    assert store.read_at(b"k", store.published) == b"10005"
    with pytest.raises(VersionPruned):
        store.read_at(b"k", 4)
    reader.abort()
    raise_key(store, b"k", 10_000)
    store.gc()
    assert store.stats().versions == 1


@pytest.mark.parametrize("reading", [False, True])
def test_deleted_keys_leave_a_store_without_a_past_by_the_commits_alone(reading: bool) -> None:
    store = MvccStore(rules=PruneRules(versions_max=1), unpruned_max=100)
    for at in range(2_000):
        reader = store.begin_read_only() if reading else None
        batch_write(store, {b"k%d" % at: b"1"})
        batch_delete(store, [b"k%d" % at])
        if reader is not None:
            reader.commit()
    assert store.total_keys() < 2_000 if reading else store.total_keys() <= 300
    store.gc()
    assert store.total_keys() == 0


def test_what_nobody_can_read_any_more_is_not_kept_for_a_moment() -> None:
    """Without a past and without readers, also a store that has an index."""
    store = MvccStore(rules=PruneRules(versions_max=1))
    store.begin_read_only().scan()
    for txn in store.open_transactions():
        txn.abort()
    for at in range(100):
        batch_write(store, {b"a": b"%d" % at, b"k%d" % (at % 3): b""})
        assert not store._log and not store._chains
    assert [key for key, _ in store.begin_read_only().scan()] == [b"a", b"k0", b"k1", b"k2"]
    with pytest.raises(VersionPruned):
        store.read_at(b"a", 99)
    assert store.read_at(b"a", 100) == b"99" and store.stats().commits == 100


def test_commits_prune_where_nobody_else_does() -> None:
    store = MvccStore(rules=KEEP_3, unpruned_max=5_000)
    reader = store.begin_read_only()
    for _ in range(400):
        batch_write(store, {b"k%d" % at: b"v" for at in range(100)})
    stats = store.stats()
    assert stats.gc_count >= 3
    assert stats.versions <= 100 * 3 + 2 * 5_000
    assert reader.scan() == []


def test_a_slice_ends_in_time_and_commits_go_on_between() -> None:
    store = MvccStore()
    for at in range(3):
        batch_write(store, {b"k%05d" % key: b"%d" % at for key in range(2_500)})
    ticks = iter(range(1_000_000))
    cycle = store.gc_cycle(PruneRules(versions_max=1))
    slices = 0
    while not cycle.done:
        before = cycle.at
        cycle.slice(lambda: float(next(ticks)), pause_s=1.0)
        assert 0 < cycle.at - before <= KEYS_BETWEEN_LOOKS
        batch_write(store, {b"k00000": b"meanwhile"})
        slices += 1
    assert slices == 40 and cycle.versions_cleaned >= 5_000
    without_clock = store.gc_cycle()
    without_clock.slice()
    assert without_clock.done or without_clock.at == KEYS_A_SLICE


def test_several_threads_may_prune_read_and_write_at_once() -> None:
    store = MvccStore(rules=KEEP_3)
    batch_write(store, {b"k%d" % at: b"0" for at in range(20)})
    stop = threading.Event()

    def prune() -> int:
        cleaned = 0
        while not stop.is_set():
            cleaned += store.gc()
        return cleaned

    until, reads = monotonic() + PATIENCE_S, [0, 0]

    def write(thread: int) -> None:
        # Until both have read meanwhile: which thread has the processor when is the system's to say.
        at = 0
        while at < 400 or (min(reads) < 2 and monotonic() < until):
            batch_write(store, {b"k%d" % (thread * 5 + at % 5): b"%d" % at})
            at += 1

    def read(reader: int) -> None:
        while not stop.is_set():
            with store.begin_read_only() as txn:
                assert len(txn.scan(b"k")) == 20
                reads[reader] += 1

    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(prune), pool.submit(prune), pool.submit(read, 0), pool.submit(read, 1)]
        try:
            list(pool.map(write, range(4)))
        finally:
            stop.set()
        cleaned = sum(other.result() for other in others[:2])
        for other in others[2:]:
            other.result()
    assert min(reads) >= 2
    cleaned += store.gc()
    assert cleaned == store.stats().versions_cleaned > 1_000
    assert store.stats().versions <= 20 * 3


def test_rules_that_keep_nothing_are_refused() -> None:
    for wrong in ({"versions_max": 0}, {"expired_ts": -1}):
        with pytest.raises(ValueError):
            PruneRules(**wrong)
    with pytest.raises(BadOperand):
        MvccStore().read_at(b"k", 1)


@st.composite
def pasts(draw: st.DrawFn) -> tuple[list[Version], int]:
    stamps = sorted(draw(st.sets(st.integers(1, 30), min_size=1, max_size=12)))
    past: list[Version] = [
        (ts, HOLE if draw(st.booleans()) and draw(st.booleans()) else b"%d" % ts) for ts in stamps
    ]
    return past, stamps[-1] + draw(st.integers(1, 3))


@given(
    pasts(),
    st.lists(st.integers(0, 35), max_size=4),
    st.integers(0, 6),
    st.integers(0, 10),
)
def test_pruning_a_past_never_changes_an_answer_and_drops_the_oldest_first(
    given_past: tuple[list[Version], int], readers: list[int], past_max: int, expired_ts: int
) -> None:
    past, head_ts = given_past
    snapshots = sorted({*readers, 35}, reverse=True)
    before = list(past)
    dropped = prune_past(past, head_ts, snapshots, past_max, expired_ts)
    assert count_versions(before) - count_versions(past) == dropped
    assert [ts for ts, _ in past] == sorted({ts for ts, _ in past}), "versions rise"
    needed = set()
    for snapshot in snapshots:
        if snapshot < head_ts:
            saw, sees = find(before, snapshot), find(past, snapshot)
            assert sees == saw or (saw is not None and sees is not None and saw[1] is sees[1] is HOLE)
            needed.add(saw)
    for ts in range(36):
        now, then = find(past, ts), find(before, ts)
        assert now == then or (now is not None and now[1] is HOLE), "no answer but the right one"
    spare = [v for v in before if v not in needed and v[1] is not HOLE]
    kept = [v for v in spare if v in past]
    assert kept == spare[len(spare) - len(kept) :], "the oldest go first"
    assert all(ts > expired_ts for ts, _ in kept)
    in_use = sum(v is not None and v[1] is not HOLE for v in needed)
    assert count_versions(past) <= max(past_max, in_use) + sum(v is not None and v[1] is HOLE for v in needed)
