"""Batches: every way that they can run was run, and each gives the right result (EXEC-56, EXEC-64)."""

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
import trio

from supervm.mvcc import Conflict, MvccStore, PruneRules, RetriesExhausted, Transaction, batch_write
from supervm.mvcc import scheduler as module
from supervm.mvcc.dependencies import Access
from supervm.mvcc.planning import PlanRules, partition_of
from supervm.mvcc.scheduler import BatchScheduler, Job, Mode, Path, SchedulerConfig

PARALLEL = SchedulerConfig(mode=Mode.PARALLEL, workers=4)
START = 1_000


@pytest.fixture
def store() -> MvccStore:
    return MvccStore(rules=PruneRules(versions_max=2))


@pytest.fixture
def schedulers(store: MvccStore, switching_often: None) -> Iterator[Callable[..., BatchScheduler]]:
    """Makes schedulers on the store, and ends their threads."""
    made: list[BatchScheduler] = []

    def make(config: SchedulerConfig = PARALLEL, **plan: Any) -> BatchScheduler:
        rules = attrs.evolve(config.plan, **plan)
        made.append(BatchScheduler(store, attrs.evolve(config, plan=rules), chance=random.Random(1)))
        return made[-1]

    yield make
    for one in made:
        one.__exit__(None, None, None)


def add(*keys: bytes, amount: int = 1, declared: bool = True) -> Job:
    """Add to each key."""

    def function(txn: Transaction) -> list[int]:
        values = [int(txn.read(key) or b"0") + amount for key in keys]
        for key, value in zip(keys, values, strict=True):
            txn.write(key, b"%d" % value)
        return values

    return Job(function, Access(keys, keys) if declared else None)


def transfer(payer: bytes, payee: bytes, amount: int = 1) -> Job:
    def function(txn: Transaction) -> None:
        left = int(txn.read(payer) or b"0") - amount
        if left < 0:
            raise ValueError("insufficient balance")
        txn.write(payer, b"%d" % left)
        txn.write(payee, b"%d" % (int(txn.read(payee) or b"0") + amount))

    return Job(function, Access([payer, payee], [payer, payee]))


def values(store: MvccStore) -> dict[bytes, int]:
    with store.begin_read_only() as txn:
        return {key: int(value) for key, value in txn.scan()}


Make = Callable[..., BatchScheduler]


def test_twenty_independent_transactions_all_succeed_without_a_conflict(
    store: MvccStore, schedulers: Make
) -> None:
    result = schedulers().run([add(b"k%d" % at) for at in range(20)])
    assert result.stats.successful_txs == 20 and result.stats.conflict_count == 0
    assert result.diagnostics.groups_built == 1 and result.diagnostics.grouped_txns_total == 20
    assert {outcome.path for outcome in result.outcomes} == {Path.GROUP}
    assert values(store) == {b"k%d" % at: 1 for at in range(20)}
    assert sorted(outcome.ts or 0 for outcome in result.outcomes) == list(range(1, 21))


def test_a_small_batch_runs_serially_in_its_order(store: MvccStore, schedulers: Make) -> None:
    result = schedulers().run([add(b"k") for _ in range(9)])
    assert [outcome.value for outcome in result.outcomes] == [[at] for at in range(1, 10)]
    assert result.diagnostics.mode is Mode.SERIAL and result.diagnostics.serial_count == 9
    assert [outcome.ts for outcome in result.outcomes] == list(range(1, 10))
    assert schedulers().run([]).outcomes == ()


def test_the_extreme_lane_ran(store: MvccStore, schedulers: Make) -> None:
    scheduler = schedulers(attrs.evolve(PARALLEL, lfu_tracking=True), hot_key_threshold=64)
    for _ in range(3):
        result = scheduler.run([add(b"x") for _ in range(25)] + [add(b"c%d" % at) for at in range(5)])
    assert result.diagnostics.extreme_hot_count == 25 and result.diagnostics.grouped_txns_total == 5
    assert [outcome.value for outcome in result.outcomes[:25]] == [[at] for at in range(51, 76)]
    assert result.outcomes[0].path is Path.EXTREME
    assert values(store)[b"x"] == 75 and values(store)[b"c4"] == 3


def test_the_medium_lane_ran(store: MvccStore, schedulers: Make) -> None:
    scheduler = schedulers(attrs.evolve(PARALLEL, lfu_tracking=True), hot_key_threshold=64)
    scheduler.run([add(b"m%d" % (at % 2)) for at in range(50)])
    result = scheduler.run([add(b"m%d" % (at % 2)) for at in range(50)])
    assert result.diagnostics.medium_hot_count == 50 and result.diagnostics.extreme_hot_count == 0
    assert result.stats.conflict_count == 0, "one lane for each key"
    assert values(store) == {b"m0": 50, b"m1": 50}


def test_the_batch_hot_lane_ran(store: MvccStore, schedulers: Make) -> None:
    result = schedulers().run([add(b"h%d" % (at % 3)) for at in range(30)])
    assert result.diagnostics.batch_hot_count == 30 and result.stats.conflict_count == 0
    assert [outcome.value for outcome in result.outcomes[::3]] == [[at] for at in range(1, 11)]
    assert values(store) == {b"h0": 10, b"h1": 10, b"h2": 10}


def test_the_partition_lane_ran(store: MvccStore, schedulers: Make) -> None:
    scheduler = schedulers(owner_sharding=True, num_shards=4, hot_key_isolation=False)
    keys = [b"k%d" % at for at in range(40)]
    result = scheduler.run([add(key) for key in keys] + [add(keys[0])])
    assert result.diagnostics.partition_count == 41 and result.stats.conflict_count == 0
    assert values(store) == {key: 2 if key == keys[0] else 1 for key in keys}
    assert len({partition_of(key, 4) for key in keys}) == 4


def test_the_cold_groups_ran_one_after_the_other(store: MvccStore, schedulers: Make) -> None:
    batch = [add(b"p%d" % (at // 2)) for at in range(8)] + [add(b"k%d" % at) for at in range(60)]
    result = schedulers().run(batch)
    diagnostics = result.diagnostics
    assert (diagnostics.groups_built, diagnostics.group_max_size) == (2, 64)
    assert diagnostics.grouped_txns_total == 68 and diagnostics.precise_conflicts_added == 4
    assert diagnostics.precise_checks == 2 * 68
    assert result.stats.conflict_count == 0
    assert [values(store)[b"p%d" % at] for at in range(4)] == [2, 2, 2, 2]


def test_a_dense_batch_ran_directly_and_retried(store: MvccStore, schedulers: Make) -> None:
    result = schedulers(hot_key_isolation=False).run([add(b"h%d" % (at % 3)) for at in range(60)])
    assert result.diagnostics.direct_count == 60 and result.diagnostics.groups_built == 0
    assert result.diagnostics.candidate_density > 0.3
    assert values(store) == {b"h0": 20, b"h1": 20, b"h2": 20}
    assert result.stats.successful_txs == 60


def test_what_declares_nothing_ran_directly(store: MvccStore, schedulers: Make) -> None:
    result = schedulers().run([add(b"h", declared=False) for _ in range(30)])
    assert result.diagnostics.direct_count == 30 and values(store) == {b"h": 30}


def test_a_wrong_declaration_costs_tries_and_changes_no_result(store: MvccStore, schedulers: Make) -> None:
    batch = [attrs.evolve(add(b"same"), access=Access(writes=[b"claimed/%d" % at])) for at in range(40)]
    result = schedulers().run(batch)
    assert result.diagnostics.grouped_txns_total == 40
    assert values(store) == {b"same": 40} and result.stats.successful_txs == 40


class Meeting:
    """Makes transactions of several lanes overlap: none goes on before all have read."""

    def __init__(self, parties: int) -> None:
        self.barrier = threading.Barrier(parties)

    def job(self, key: bytes, claimed: bytes) -> Job:
        ran: list[int] = []

        def function(txn: Transaction) -> None:
            value = int(txn.read(key) or b"0")
            ran.append(1)
            if len(ran) == 1:
                self.barrier.wait(120)
            txn.write(key, b"%d" % (value + 1))

        return Job(function, Access([claimed], [claimed]))


def test_what_conflicts_too_often_beside_others_runs_at_the_end_alone_and_none_is_dropped(
    store: MvccStore, schedulers: Make
) -> None:
    scheduler = schedulers(attrs.evolve(PARALLEL, retries_max=0, batch_size_min=1))
    meeting = Meeting(4)
    result = scheduler.run([meeting.job(b"same", b"claimed/%d" % at) for at in range(4)])
    assert result.diagnostics.leftover_count == 3
    assert values(store) == {b"same": 4}
    paths = [outcome.path for outcome in result.outcomes]
    assert paths.count(Path.LEFTOVER) == 3 and paths.count(Path.GROUP) == 1
    assert sorted(outcome.executions for outcome in result.outcomes) == [1, 2, 2, 2]
    stats = result.stats
    assert (stats.successful_txs, stats.executions, stats.conflict_count, stats.retry_count) == (4, 7, 3, 3)
    assert result.diagnostics.conflict_keys == 1


def test_a_conflict_within_a_lane_is_tried_again_there(store: MvccStore, schedulers: Make) -> None:
    meeting = Meeting(4)
    result = schedulers(attrs.evolve(PARALLEL, retries_max=50, batch_size_min=1)).run(
        [meeting.job(b"same", b"claimed/%d" % at) for at in range(4)]
    )
    assert values(store) == {b"same": 4} and result.diagnostics.leftover_count == 0
    assert result.stats.conflict_count >= 3
    assert result.stats.retry_count == result.stats.conflict_count == result.stats.rollback_count


@pytest.mark.parametrize("mode", [Mode.SERIAL, Mode.PARALLEL])
def test_an_error_of_its_own_ends_a_transaction_and_no_other(
    store: MvccStore, schedulers: Make, mode: Mode
) -> None:
    batch_write(store, {b"rich": b"5", b"poor": b"0"})
    batch = [add(b"k%d" % at) for at in range(12)] + [transfer(b"poor", b"rich"), transfer(b"rich", b"poor")]
    result = schedulers(attrs.evolve(PARALLEL, mode=mode)).run(batch)
    failed = result.outcomes[12]
    assert isinstance(failed.error, ValueError) and failed.ts is None and failed.executions == 1
    assert (result.stats.successful_txs, result.stats.failed_txs, result.stats.rollback_count) == (13, 1, 1)
    assert values(store)[b"rich"] == 4 and store.stats().open == 0


@pytest.mark.parametrize("mode", [Mode.SERIAL, Mode.PARALLEL])
def test_an_interruption_ends_the_batch_and_leaves_nothing_open(
    store: MvccStore, schedulers: Make, mode: Mode
) -> None:
    def interrupt(txn: Transaction) -> None:
        txn.write(b"k", b"1")
        raise KeyboardInterrupt

    batch = [add(b"k%d" % at) for at in range(20)] + [Job(interrupt, Access(writes=[b"k"]))]
    with pytest.raises(KeyboardInterrupt):
        schedulers(attrs.evolve(PARALLEL, mode=mode)).run(batch)
    assert store.stats().open == 0 and b"k" not in values(store)


def test_one_that_others_never_let_through_ends_with_its_conflict(
    store: MvccStore, schedulers: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENT", attrs.evolve(module.PATIENT, delay_base_ms=0, retries_max=4))

    def disturbed(txn: Transaction) -> None:
        txn.read(b"k")
        batch_write(store, {b"k": b"1"})
        txn.write(b"k", b"2")

    result = schedulers(attrs.evolve(PARALLEL, mode=Mode.SERIAL)).run([Job(disturbed)])
    outcome = result.outcomes[0]
    assert isinstance(outcome.error, RetriesExhausted) and isinstance(outcome.error.last, Conflict)
    assert outcome.executions == 4 + 5
    assert (result.stats.failed_txs, result.stats.conflict_count, result.stats.executions) == (1, 9, 9)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mode", list(Mode))
def test_money_is_conserved_and_the_commit_order_explains_the_result(
    store: MvccStore, schedulers: Make, seed: int, mode: Mode
) -> None:
    """Random transfers among hot and cold accounts, by random rules; replayed in commit order they agree."""
    chance = random.Random(seed)
    names = [b"a%02d" % at for at in range(30)]
    batch_write(store, dict.fromkeys(names, b"%d" % START))
    scheduler = schedulers(
        attrs.evolve(PARALLEL, mode=mode, lfu_tracking=chance.random() < 0.5),
        owner_sharding=chance.random() < 0.5,
        hot_key_isolation=chance.random() < 0.8,
        key_index_grouping=chance.random() < 0.8,
    )
    expected = dict.fromkeys(names, START)
    for _ in range(4):
        moves = []
        for _ in range(chance.choice([12, 60])):
            payer = names[chance.randrange(3)] if chance.random() < 0.6 else chance.choice(names)
            payee = chance.choice([name for name in names if name != payer])
            moves.append((payer, payee, chance.randint(1, 400)))
        result = scheduler.run([transfer(*move) for move in moves])
        assert len(result.outcomes) == len(moves)
        committed = [(outcome.ts, at) for at, outcome in enumerate(result.outcomes) if outcome.ts is not None]
        for _, at in sorted(committed):
            payer, payee, amount = moves[at]
            expected[payer] -= amount
            expected[payee] += amount
            assert expected[payer] >= 0
        assert values(store) == expected
        assert all(isinstance(o.error, ValueError) for o in result.outcomes if o.ts is None)
    assert sum(values(store).values()) == 30 * START


def test_transactions_that_only_compute_run_serially_and_those_that_wait_in_lanes(
    store: MvccStore, schedulers: Make
) -> None:
    scheduler = schedulers(SchedulerConfig(workers=4))
    for _ in range(2):
        result = scheduler.run([add(b"k%d" % at) for at in range(40)])
        assert result.diagnostics.mode is Mode.SERIAL and "wait 0%" in result.diagnostics.reason
    door = threading.Event()

    def waiting(at: int) -> Job:
        def function(txn: Transaction) -> None:
            txn.write(b"w%d" % at, b"1")
            door.wait(0.002)

        return Job(function, Access(writes=[b"w%d" % at]))

    fresh = schedulers(SchedulerConfig(workers=4))
    for _ in range(2):
        result = fresh.run([waiting(at) for at in range(40)])
        assert result.diagnostics.mode is Mode.PARALLEL and result.diagnostics.waiting_share > 0.5
        assert result.stats.successful_txs == 40
    assert result.diagnostics.serial_count == 0 and result.diagnostics.grouped_txns_total == 40
    assert 0 < result.diagnostics.utilisation <= 1


@pytest.mark.parametrize("seconds", [0.0, 3600.0])
def test_it_looks_again_now_and_then_whether_transactions_wait(
    store: MvccStore, schedulers: Make, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """After some batches, but not before they took some time: looking costs more than a small batch."""
    monkeypatch.setattr(module, "PROBE_BATCHES", 3)
    monkeypatch.setattr(module, "PROBE_SECONDS", seconds)
    scheduler = schedulers(SchedulerConfig(workers=4))
    scheduler._waiting_share = 0.9
    batch = [add(b"k%d" % at) for at in range(40)]
    modes = [scheduler.run(batch).diagnostics.mode for _ in range(5)]
    assert modes == [Mode.PARALLEL] * 3 + [Mode.PARALLEL if seconds else Mode.SERIAL] * 2


def test_one_worker_runs_serially(store: MvccStore, schedulers: Make) -> None:
    result = schedulers(SchedulerConfig(workers=1)).run([add(b"k") for _ in range(30)])
    assert (result.diagnostics.mode, result.diagnostics.reason) == (Mode.SERIAL, "one worker")


async def test_it_runs_in_a_thread_beside_trio(store: MvccStore, schedulers: Make) -> None:
    result = await trio.to_thread.run_sync(schedulers().run, [add(b"k%d" % at) for at in range(20)])
    assert result.stats.successful_txs == 20


@pytest.mark.parametrize(
    "wrong", [{"workers": -1}, {"workers": 257}, {"batch_size_min": 0}, {"retries_max": -1}]
)
def test_a_configuration_out_of_its_bounds_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        SchedulerConfig(**wrong)  # type: ignore[arg-type]
    assert SchedulerConfig().plan == PlanRules()
