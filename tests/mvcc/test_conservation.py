"""Money moved by many threads at once: none is made, none is lost (EXEC-52, EXEC-89)."""

import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import attrs
import pytest
import trio

from supervm.kernel.context import TrioClock
from supervm.mvcc import (
    ExecutionCounts,
    GcConfig,
    MvccStore,
    PruneRules,
    RetryPolicy,
    Transaction,
    batch_write,
    collecting,
    retry,
)

# A hot account under many threads needs more tries than three; the test is about money, not about luck.
PATIENT = RetryPolicy(retries_max=10_000, delay_base_ms=0.01, delay_max_ms=1)
STRESS_S = 3.0
LONG_S = float(os.environ.get("SOAK_SECONDS", "5"))

pytestmark = pytest.mark.usefixtures("switching_often")


class Poor(Exception):
    """The balance doesn't cover it: a business failure, which nobody retries."""


@attrs.define
class Bank:
    """Accounts in a store; `counts` of the transfers."""

    store: MvccStore = attrs.Factory(lambda: MvccStore(rules=PruneRules(versions_max=3), unpruned_max=5_000))
    counts: ExecutionCounts = attrs.Factory(ExecutionCounts)

    def open(self, balances: Mapping[str, int]) -> None:
        batch_write(self.store, {name.encode(): b"%d" % balance for name, balance in balances.items()})

    def move(self, payer: str, payee: str, amount: int, chance: random.Random) -> bool:
        """Transfer; False where the payer can't."""

        def transfer(txn: Transaction) -> None:
            left = int(txn.read(payer.encode()) or b"0") - amount
            if left < 0:
                raise Poor
            txn.write(payer.encode(), b"%d" % left)
            txn.write(payee.encode(), b"%d" % (int(txn.read(payee.encode()) or b"0") + amount))

        try:
            retry(self.store, transfer, PATIENT, chance=chance, counts=self.counts)
        except Poor:
            return False
        return True

    def balances(self) -> dict[str, int]:
        with self.store.begin_read_only() as txn:
            return {key.decode(): int(value) for key, value in txn.scan()}

    def total(self) -> int:
        return sum(self.balances().values())


def in_threads(threads: int, work: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(threads)))


def shuffle_money(bank: Bank, names: list[str], seed: int, transfers: int, most: int) -> int:
    """Random transfers, checking now and then that a snapshot holds all the money; how many were paid."""
    chance = random.Random(seed)
    total, paid = bank.total(), 0
    for at in range(transfers):
        payer, payee = chance.sample(names, 2)
        paid += bank.move(payer, payee, chance.randint(1, most), chance)
        if at % 25 == 0:
            assert bank.total() == total
    return paid


def test_transfer_conservation() -> None:
    bank, names = Bank(), ["a", "b", "c", "d"]
    bank.open(dict.fromkeys(names, 100))
    assert shuffle_money(bank, names, 1, 400, 60) > 100
    assert bank.total() == 400 and min(bank.balances().values()) >= 0
    stats = bank.counts.snapshot()
    assert stats.successful_txs + stats.failed_txs == 400 and stats.failed_txs > 0
    assert stats.conflict_count == stats.retry_count == 0


def test_debug_concurrent_transfer() -> None:
    bank, names = Bank(), ["a", "b", "c"]
    bank.open(dict.fromkeys(names, 1_000))
    in_threads(10, lambda at: bank.move(names[at % 3], names[(at + 1) % 3], 10, random.Random(at)))
    assert bank.total() == 3_000
    assert bank.counts.snapshot().successful_txs == 10


def test_verify_transfer_detailed() -> None:
    bank, names = Bank(), ["a", "b", "c", "d", "e"]
    bank.open(dict.fromkeys(names, 1_000))
    expected = dict.fromkeys(names, 1_000)
    for at in range(20):
        payer, payee, amount = names[at % 5], names[(at * 2 + 1) % 5], 10 + at
        if payer != payee:
            expected[payer] -= amount
            expected[payee] += amount
    moves = [(names[at % 5], names[(at * 2 + 1) % 5], 10 + at) for at in range(20)]
    in_threads(
        4, lambda part: [bank.move(*one, random.Random(part)) for one in moves[part::4] if one[0] != one[1]]
    )
    assert bank.balances() == expected


def test_minimal_conservation_test() -> None:
    bank = Bank()
    bank.open({"a": 1_000, "b": 1_000})
    in_threads(2, lambda at: bank.move(*[("a", "b", 100), ("b", "a", 50)][at], random.Random(at)))
    assert bank.balances() == {"a": 950, "b": 1_050}


def test_sequential_transfer_test() -> None:
    bank = Bank()
    bank.open({"a": 1_000, "b": 1_000, "c": 1_000})
    for payer, payee, amount in (("a", "b", 10), ("b", "c", 24), ("c", "a", 18)):
        assert bank.move(payer, payee, amount, random.Random(1))
    assert bank.balances() == {"a": 1_008, "b": 986, "c": 1_006}


def test_demo11_parallel_transfer() -> None:
    bank, names = Bank(), [f"a{at}" for at in range(100)]
    bank.open(dict.fromkeys(names, 1_000))
    paid = in_threads(8, lambda seed: shuffle_money(bank, names, seed, 125, 100))
    assert bank.total() == 100_000
    assert sum(paid) == bank.counts.snapshot().successful_txs > 900


def test_twenty_increments_of_one_key_end_at_twenty() -> None:
    store = MvccStore()

    def add(txn: Transaction) -> None:
        txn.write(b"counter", b"%d" % (int(txn.read(b"counter") or b"0") + 1))

    in_threads(20, lambda seed: retry(store, add, PATIENT, chance=random.Random(seed)))
    assert store.begin().read(b"counter") == b"20" and store.published == 20


def test_high_contention_hotspot() -> None:
    """16 threads on five keys: the sum is exact, and nearly all succeed."""
    store, counts = MvccStore(rules=PruneRules(versions_max=2)), ExecutionCounts()

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            key = b"hot%d" % chance.randrange(5)

            def add(txn: Transaction, key: bytes = key) -> None:
                txn.write(key, b"%d" % (int(txn.read(key) or b"0") + 1))

            retry(store, add, PATIENT, chance=chance, counts=counts)

    in_threads(16, work)
    with store.begin_read_only() as txn:
        assert sum(int(value) for _, value in txn.scan(b"hot")) == 16 * 60
    assert counts.snapshot().success_rate == 1.0


def mix(store: MvccStore, chance: random.Random, counts: ExecutionCounts) -> None:
    """70 % reads of a pair that is always equal, 30 % writes of such a pair."""
    at = chance.randrange(50)
    pair = [b"left%d" % at, b"right%d" % at]
    if chance.random() < 0.7:
        with store.begin_read_only() as txn:
            left, right = txn.read_many(pair)
            assert left == right
        return

    def change(txn: Transaction) -> None:
        value = b"%d" % (int(txn.read(pair[0]) or b"0") + 1)
        for key in pair:
            txn.write(key, value)

    retry(store, change, PATIENT, chance=chance, counts=counts)


async def test_high_concurrency_mixed_workload() -> None:
    """8 threads, 70 % reads, with the pruning task at work."""
    store, counts = MvccStore(), ExecutionCounts()

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(300):
            mix(store, chance, counts)

    config = GcConfig(interval_s=0.05, version_threshold=200, max_versions_per_key=3)
    async with trio.open_nursery() as outer, collecting(store, config, TrioClock(), outer) as collector:
        async with trio.open_nursery() as nursery:
            for seed in range(8):
                nursery.start_soon(trio.to_thread.run_sync, work, seed)
        await collector.collect()
    assert counts.snapshot().success_rate == 1.0 and counts.snapshot().successful_txs > 500
    assert store.stats().versions <= 100 * 3


@pytest.fixture
def stress() -> Iterator[Callable[[list[Callable[[int], object]]], int]]:
    """Run functions of a growing number in threads of their own for STRESS_S; how often they ran."""
    stop = threading.Event()

    def run(works: list[Callable[[int], object]]) -> int:
        until = monotonic() + STRESS_S

        def again(work: Callable[[int], object]) -> int:
            at = 0
            while monotonic() < until and not stop.is_set():
                work(at)
                at += 1
            return at

        with ThreadPoolExecutor(len(works)) as pool:
            return sum(pool.map(again, works))

    yield run
    stop.set()


@pytest.mark.slow
def test_every_oracle_holds_under_seconds_of_stress(
    stress: Callable[[list[Callable[[int], object]]], int],
) -> None:
    sizes = {"pair": 2, "three": 3, "five": 5, "hundred": 100}
    banks = {name: Bank() for name in sizes}
    for name, size in sizes.items():
        banks[name].open({f"{name}{at}": 1_000 for at in range(size)})
    counter, added = MvccStore(rules=PruneRules(versions_max=1)), ExecutionCounts()

    def mover(name: str, thread: int) -> Callable[[int], object]:
        names = [f"{name}{at}" for at in range(sizes[name])]
        return lambda at: shuffle_money(banks[name], names, at * 31 + thread, 20, 300)

    def add(txn: Transaction) -> None:
        txn.write(b"counter", b"%d" % (int(txn.read(b"counter") or b"0") + 1))

    def increment(at: int) -> None:
        retry(counter, add, PATIENT, chance=random.Random(at), counts=added)

    works = [mover(name, thread) for name in sizes for thread in range(2)] + [increment, increment]
    assert stress(works) > 100
    for name, size in sizes.items():
        assert banks[name].total() == size * 1_000 and min(banks[name].balances().values()) >= 0
        assert banks[name].counts.snapshot().successful_txs + 1 == banks[name].store.published
    assert counter.begin().read(b"counter") == b"%d" % added.snapshot().successful_txs


@pytest.mark.slow
async def test_long_running_stability() -> None:
    """A mixed load with pruning, for SOAK_SECONDS (5): memory stays bounded all the while."""
    store, counts = MvccStore(), ExecutionCounts()
    until = monotonic() + LONG_S

    def work(seed: int) -> None:
        chance = random.Random(seed)
        while monotonic() < until:
            mix(store, chance, counts)

    most = 0
    config = GcConfig(interval_s=1, version_threshold=2_000, max_versions_per_key=5)
    async with trio.open_nursery() as outer, collecting(store, config, TrioClock(), outer) as collector:
        async with trio.open_nursery() as nursery:
            for seed in range(4):
                nursery.start_soon(trio.to_thread.run_sync, work, seed)
            while monotonic() < until:
                await trio.sleep(0.5)
                most = max(most, store.stats().versions)
        assert collector.stats().runs > 1
    assert most < 250_000 and store.stats().open == 0
    assert counts.snapshot().success_rate > 0.98
