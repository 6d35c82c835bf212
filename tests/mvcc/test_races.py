"""Threads: what must hold however their steps fall between each other's (EXEC-43, EXEC-44, EXEC-51)."""

import contextlib
import gc
import random
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import attrs
import pytest

from supervm.mvcc import Conflict, MvccStore, PruneRules, batch_write
from supervm.mvcc.transaction import Transaction

NO_PAST = PruneRules(versions_max=1)


pytestmark = pytest.mark.usefixtures("switching_often")


class Interfering(dict[Transaction, None]):
    """The register of active transactions, at whose door something happens."""

    def __init__(self, before: Callable[[], None], after: Callable[[], None]) -> None:
        super().__init__()
        self.before, self.after = before, after
        self.watched = True

    def __setitem__(self, txn: Transaction, value: None) -> None:
        if self.watched:
            self.before()
        super().__setitem__(txn, value)
        if self.watched:
            self.after()


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("rules", [NO_PAST, PruneRules(versions_max=2)], ids=["no past", "a past"])
def test_a_transaction_that_begins_while_versions_are_pruned_reads_a_whole_snapshot(
    moment: str, deleted: bool, pruned: bool, rules: PruneRules
) -> None:
    store = MvccStore(rules=rules)
    batch_write(store, {b"a": b"1", b"b": b"1"})
    rounds = iter(range(2))

    def commit_and_prune() -> None:
        """Between the reading of `published` and the registration, or right after that."""
        if next(rounds, None) is None:
            return
        active.watched = False
        value = b"%d" % (store.published + 1)
        with store.begin() as txn:
            for key in (b"a", b"b"):
                if deleted:
                    txn.delete(key)
                else:
                    txn.write(key, value)
            txn.commit()
        if pruned:
            store.gc(NO_PAST)
        active.watched = True

    def nothing() -> None:
        pass

    before, after = (commit_and_prune, nothing) if moment == "before" else (nothing, commit_and_prune)
    store._active = active = Interfering(before, after)
    reader = store.begin_read_only()
    seen = reader.read_many([b"a", b"b"])
    assert reader.start_ts <= store.published
    if reader.start_ts == 1:
        assert seen == [b"1", b"1"]
    else:
        assert seen == ([None, None] if deleted else [b"%d" % reader.start_ts] * 2)
    if moment == "before" and (pruned or rules is NO_PAST):
        assert reader.start_ts > 1, "the pruner didn't see it, so it had to take a newer snapshot"


class Opening:
    """The lock of a store, in which somebody begins as soon as a commit has it."""

    def __init__(self, store: MvccStore) -> None:
        self.store = store
        self.lock = store._lock
        self.readers: list[Transaction] = []

    def __enter__(self) -> None:
        self.lock.__enter__()
        if not self.readers:
            self.readers.append(self.store.begin_read_only())

    def __exit__(self, *error: Any) -> None:
        self.lock.__exit__(*error)


@pytest.mark.parametrize("rules", [NO_PAST, PruneRules(versions_max=2)], ids=["no past", "a past"])
def test_a_transaction_that_begins_in_the_midst_of_a_commit_reads_what_was_before(rules: PruneRules) -> None:
    store = MvccStore(rules=rules)
    batch_write(store, {b"a": b"1", b"b": b"1"})
    store._lock = opening = Opening(store)  # type: ignore[assignment]
    batch_write(store, {b"a": b"2", b"b": b"2"})
    assert opening.readers[0].read_many([b"a", b"b"]) == [b"1", b"1"]
    assert opening.readers[0].scan() == [(b"a", b"1"), (b"b", b"1")]
    assert store.begin_read_only().read_many([b"a", b"b"]) == [b"2", b"2"]


@pytest.mark.parametrize("rules", [NO_PAST, PruneRules(versions_max=3)], ids=["no past", "a past"])
def test_beginning_reading_committing_and_pruning_at_once_never_tears_a_snapshot(rules: PruneRules) -> None:
    """A reader sees all or none of a 100-key commit, and the same at every look."""
    store = MvccStore(rules=rules, unpruned_max=2_000)
    store._log_max = 300
    keys = [b"k%02d" % at for at in range(100)]
    batch_write(store, dict.fromkeys(keys, b"0"))
    stop = threading.Event()
    snapshots: set[bytes] = set()

    def commit(writer: int) -> int:
        done = 0
        while not stop.is_set():
            with contextlib.suppress(Conflict):
                batch_write(store, dict.fromkeys(keys, b"%d/%d" % (writer, done)))
                done += 1
        return done

    def prune() -> None:
        while not stop.is_set():
            store.gc()

    until = monotonic() + 1.5

    def read(_: int) -> None:
        for at in range(60):
            if monotonic() > until:
                return
            with store.begin_read_only() if at % 2 else store.begin() as txn:
                first = txn.read_many(keys)
                assert len(set(first)) == 1, "torn"
                assert txn.read_many(keys) == first and [v for _, v in txn.scan(b"k")] == first
                assert first[0] is not None
                snapshots.add(first[0])

    with ThreadPoolExecutor(7) as pool:
        writers = [pool.submit(commit, writer) for writer in range(2)]
        pruner = pool.submit(prune)
        try:
            list(pool.map(read, range(4)))
        finally:
            stop.set()
        pruner.result()
        assert sum(writer.result() for writer in writers) + 1 == store.published
    assert len(snapshots) > 3, "nothing was committed meanwhile"


def test_reads_are_repeatable_while_commits_storm() -> None:
    store = MvccStore(rules=PruneRules(versions_max=2), unpruned_max=1_000)
    keys = [b"k%d" % at for at in range(10)]
    batch_write(store, dict.fromkeys(keys, b"first"))
    reader = store.begin_read_only()
    stop = threading.Event()
    until = monotonic() + 1.5

    def storm(thread: int) -> None:
        at = 0
        while not stop.is_set():
            batch_write(store, {keys[thread * 2 + at % 2]: b"%d" % at})
            at += 1

    with ThreadPoolExecutor(5) as pool:
        storms = [pool.submit(storm, thread) for thread in range(5)]
        try:
            for _ in range(300):
                assert reader.read_many(keys) == [b"first"] * 10
                assert reader.scan(b"k") == [(key, b"first") for key in keys]
                if monotonic() > until:
                    break
        finally:
            stop.set()
        for one in storms:
            one.result()
    assert store.published > 100


@attrs.frozen
class Done:
    """What one committed transaction read and wrote."""

    ts: int
    reads: dict[bytes, bytes | None]
    counted: int | None
    writes: dict[bytes, bytes | None]


def run_random(store: MvccStore, chance: random.Random, keys: list[bytes]) -> Done | None:
    """One transaction of reads, writes, deletions and perhaps a scan; None where it conflicted."""
    with store.begin() as txn:
        reads = {key: txn.read(key) for key in chance.sample(keys, chance.randint(0, 3))}
        counted = len(txn.scan(b"k")) if chance.random() < 0.2 else None
        writes: dict[bytes, bytes | None] = {}
        for key in chance.sample(keys, chance.randint(1, 3)):
            writes[key] = None if chance.random() < 0.3 else b"%d" % chance.randrange(10**9)
            if (value := writes[key]) is None:
                txn.delete(key)
            else:
                txn.write(key, value)
        try:
            return Done(txn.commit(), reads, counted, writes)
        except Conflict:
            return None


@pytest.mark.parametrize("rules", [NO_PAST, PruneRules(versions_max=2)], ids=["no past", "a past"])
def test_the_order_of_commit_timestamps_explains_every_read(rules: PruneRules) -> None:
    """The history check: one after the other by timestamp, each would have read just what it read."""
    store = MvccStore(rules=rules, unpruned_max=200)
    store._log_max = 64
    keys = [b"k%d" % at for at in range(12)]
    batch_write(store, dict.fromkeys(keys[::2], b"0"))

    def run(seed: int) -> list[Done]:
        chance = random.Random(seed)
        return [done for _ in range(300) if (done := run_random(store, chance, keys)) is not None]

    with ThreadPoolExecutor(4) as pool:
        history = sorted((done for part in pool.map(run, range(4)) for done in part), key=lambda d: d.ts)
    assert [done.ts for done in history] == list(range(2, len(history) + 2)), "timestamps rise one by one"
    state: dict[bytes, bytes] = dict.fromkeys(keys[::2], b"0")
    for done in history:
        assert done.reads == {key: state.get(key) for key in done.reads}, done
        assert done.counted in (None, len(state)), done
        for key, value in done.writes.items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
    assert dict(store.begin_read_only().scan()) == state
    conflicts = sum(store.stats().conflicts.values())
    assert len(history) + conflicts == 4 * 300


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no interval timers")
@pytest.mark.parametrize("rules", [NO_PAST, PruneRules(versions_max=2)], ids=["no past", "a past"])
def test_an_interrupted_commit_is_installed_as_a_whole_or_not_at_all(rules: PruneRules) -> None:
    store = MvccStore(rules=rules, unpruned_max=500)
    keys = [b"k%02d" % at for at in range(30)]
    batch_write(store, dict.fromkeys(keys, b"0"))
    chance = random.Random(1)
    interrupted = 0

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    gc.disable()  # whose callbacks may not be interrupted
    tracer = sys.gettrace()  # nor may a tracer: that of coverage would never let its lock go
    sys.settrace(None)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for at in range(600):
            published = store.published
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 60e-6))
                for again in range(4):
                    batch_write(store, dict.fromkeys(keys, b"%d/%d" % (at, again)))
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            with store.begin_read_only() as txn:
                assert len(set(txn.read_many(keys))) == 1, "a part of a commit was left behind"
            for left in store.open_transactions():
                store.give_up(left)
            assert published <= store.published <= published + 4
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.settrace(tracer)
        gc.enable()
    assert interrupted > 100
    assert store.stats().commits == store.published
