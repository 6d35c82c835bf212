"""Running a transaction again: how often, after what, and after which pause (EXEC-48, EXEC-110)."""

import random
from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from supervm.mvcc import (
    Busy,
    MvccStore,
    NotFetched,
    RetriesExhausted,
    Transaction,
    TransactionClosed,
    WriteWriteConflict,
    batch_write,
)
from supervm.mvcc.retrying import RetryPolicy, retry, retry_async
from supervm.mvcc.stats import ExecutionCounts, ExecutionStats

CONFLICT = WriteWriteConflict(b"k", 1, 2)


def failing(times: int, error: Exception = CONFLICT) -> Callable[[Transaction], int]:
    """A function that fails so often before it works, and says how often it ran."""
    runs = 0

    def run(txn: Transaction) -> int:
        nonlocal runs
        runs += 1
        txn.write(b"runs", b"%d" % runs)
        txn.emit(runs)
        if runs <= times:
            raise error
        return runs

    return run


def no_pause(_: float) -> None:
    pass


def test_retry_policy_basic_backoff() -> None:
    pauses: list[float] = []
    done = retry(
        MvccStore(), failing(3), RetryPolicy(jitter_factor=0), chance=random.Random(1), pause=pauses.append
    )
    assert (done.value, done.executions, done.ts, done.events) == (4, 4, 1, (4,))
    assert pauses == [0.001, 0.002, 0.004]


async def test_the_async_form_waits_by_the_given_clock(mock_clock: MockClock) -> None:
    mock_clock.autojump_threshold = 0
    run = failing(3)

    async def function(txn: Transaction) -> int:
        await trio.lowlevel.checkpoint()
        return run(txn)

    began = trio.current_time()
    policy = RetryPolicy(jitter_factor=0, delay_base_ms=100, delay_max_ms=300)
    done = await retry_async(MvccStore(), function, policy, chance=random.Random(1), sleep=trio.sleep)
    assert done.value == 4
    assert trio.current_time() - began == pytest.approx(0.1 + 0.2 + 0.3)


async def test_a_cancelled_transaction_leaves_nothing_open() -> None:
    store = MvccStore()

    async def function(txn: Transaction) -> None:
        txn.write(b"k", b"1")
        await trio.sleep_forever()

    with trio.move_on_after(0.01):
        await retry_async(store, function, chance=random.Random(1), sleep=trio.sleep)
    assert store.stats().open == 0 and store.published == 0


@given(st.integers(0, 10_000), st.floats(-1, 1), st.floats(1, 100))
def test_jitter_stays_in_its_bounds_and_the_pause_below_its_maximum(
    attempt: int, u: float, factor: float
) -> None:
    policy = RetryPolicy(backoff_factor=factor)
    plain = RetryPolicy(backoff_factor=factor, jitter_factor=0).delay_s(attempt, u)
    assert plain * 0.8 <= policy.delay_s(attempt, u) * 1.0000001
    assert policy.delay_s(attempt, u) <= plain * 1.2000001 <= 0.05 * 1.21
    assert plain >= 0.001


@pytest.mark.parametrize("error", [ValueError("insufficient balance"), TransactionClosed(), NotFetched(b"k")])
def test_what_is_fatal_runs_exactly_once(error: Exception) -> None:
    store, counts = MvccStore(), ExecutionCounts()
    run = failing(99, error)
    with pytest.raises(type(error)):
        retry(store, run, chance=random.Random(1), pause=no_pause, counts=counts)
    assert counts.snapshot() == ExecutionStats(failed_txs=1, executions=1, rollback_count=1)
    assert store.published == 0 and store.stats().open == 0


def test_retry_exhausted() -> None:
    store, counts = MvccStore(), ExecutionCounts()
    with pytest.raises(RetriesExhausted) as caught:
        retry(
            store,
            failing(99),
            RetryPolicy(retries_max=3),
            chance=random.Random(1),
            pause=no_pause,
            counts=counts,
        )
    assert caught.value.attempts == 4
    assert caught.value.__cause__ is caught.value.last is CONFLICT
    assert not caught.value.retryable
    assert counts.snapshot() == ExecutionStats(
        failed_txs=1, executions=4, conflict_count=4, retry_count=3, rollback_count=4
    )
    assert store.published == 0


def test_what_says_that_it_is_retryable_is_retried() -> None:
    done = retry(MvccStore(), failing(1, Busy("full")), chance=random.Random(1), pause=no_pause)
    assert done.executions == 2


def test_a_policy_may_say_itself_what_is_worth_another_try() -> None:
    policy = RetryPolicy(classify=lambda error: isinstance(error, ValueError))
    assert (
        retry(MvccStore(), failing(2, ValueError()), policy, chance=random.Random(1), pause=no_pause).value
        == 3
    )
    with pytest.raises(WriteWriteConflict):
        retry(MvccStore(), failing(2), policy, chance=random.Random(1), pause=no_pause)


def test_a_thousand_operations_that_each_fail_three_times_all_succeed() -> None:
    store, counts = MvccStore(), ExecutionCounts()
    chance = random.Random(1)
    for _ in range(1_000):
        retry(store, failing(3), chance=chance, pause=no_pause, counts=counts)
    stats = counts.reset()
    assert (stats.successful_txs, stats.retry_count, stats.conflict_count) == (1_000, 3_000, 3_000)
    assert (stats.success_rate, stats.conflict_rate, stats.rollback_rate) == (1.0, 0.75, 3.0)
    assert store.published == 1_000
    assert counts.snapshot() == ExecutionStats()
    assert ExecutionStats().success_rate == ExecutionStats().conflict_rate == 0


def test_a_real_conflict_is_run_again_on_a_fresh_transaction() -> None:
    store = MvccStore()
    batch_write(store, {b"k": b"1"})
    starts = []

    def add(txn: Transaction) -> None:
        starts.append(txn.start_ts)
        value = int(txn.read(b"k") or b"0")
        if len(starts) == 1:
            batch_write(store, {b"k": b"10"})
        txn.write(b"k", b"%d" % (value + 1))

    retry(store, add, chance=random.Random(1), pause=no_pause)
    assert starts == [1, 2] and store.begin().read(b"k") == b"11"


@pytest.mark.parametrize(
    "wrong", [{"retries_max": -1}, {"delay_base_ms": -1}, {"backoff_factor": 0.5}, {"jitter_factor": 2}]
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        RetryPolicy(**wrong)  # type: ignore[arg-type]
