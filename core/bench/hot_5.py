"""`bench hot-5`: batches of transactions of which most want the same five rows (EXEC-120).

80 % of the transfers have one of 5 accounts on one side, in batches of 20 and of 1,000, with 8 workers. The
scheduler chooses how a batch runs; it is compared with the plain loop that begins, runs and commits one
transaction after the other, and with 8 lanes beside each other whether that helps or not. Then the same with
transactions that wait, as on a disk or a network: there lanes can be ahead.

What counts is goodput: a turn is judged by every balance, and by the outcome of every transaction.
"""

import gc
import random
from collections.abc import Callable, Mapping, Sequence
from time import sleep  # noqa: TID251 - the waiting is the work that is measured
from typing import Any

import attrs

from supervm import __version__
from supervm.bench.errors import CantMeasure
from supervm.bench.pairs import PAIRS_MIN, Clock, Turn
from supervm.bench.race import WARM_UP, Contestant, Done, Progress, Race, run_race
from supervm.bench.report import BenchResult
from supervm.bench.rows import AMOUNT, VALUE_BYTES, HotMoveBook, Move, Moves, encode, wrong_balances
from supervm.mvcc import (
    Access,
    BatchScheduler,
    Job,
    Mode,
    MvccStore,
    PruneRules,
    SchedulerConfig,
    Transaction,
)

HOT, HOT_PERCENT = 5, 80
WORKERS = 8
BATCHES = (20, 1_000)
LOOP, LANES = "one after the other", f"{WORKERS} lanes"
LEAST = 0.8
"""Of the plain loop's goodput, that the scheduler must reach whatever the batch."""


@attrs.frozen(kw_only=True)
class HotPlan:
    """What to do. `transactions` are those of a turn, `waiting` those of a turn that wait `wait_us` each."""

    accounts: int = 10_000
    transactions: int = 20_000
    waiting: int = 1_000
    wait_us: int = 200
    pairs: int = PAIRS_MIN
    seed: int = 1


class Hot:
    """A store, and one way to run transactions on it. `batch` 0 is the plain loop."""

    version = __version__

    def __init__(
        self, label: str, balances: Mapping[bytes, int], batch: int, mode: Mode, wait_s: float
    ) -> None:
        self.label = label
        self._batch, self._wait_s = batch, wait_s
        self._store = MvccStore(rules=PruneRules(versions_max=1))
        self._scheduler = BatchScheduler(
            self._store, SchedulerConfig(mode=mode, workers=WORKERS), chance=random.Random(1)
        )
        with self._store.begin() as txn:
            for key, balance in balances.items():
                txn.write(key, encode(balance))
            txn.commit()

    def close(self) -> None:
        """End the scheduler's threads."""
        self._scheduler.__exit__(None, None, None)

    def take(self, work: Moves) -> Done:
        jobs = [self._job(move) for move in work.moves]
        gc.collect()
        with Clock() as clock:
            failed, facts = self._run_batches(jobs) if self._batch else self._run_loop(jobs)
        with self._store.begin_read_only() as txn:
            found = {key: int.from_bytes(value, "little") for key, value in txn.scan()}
        wrong = wrong_balances(found, work.balances)
        if wrong is None and failed:
            wrong = f"{failed} transactions without a commit"
        turn = Turn(len(jobs), failed, clock.seconds, clock.cpu_seconds)
        return Done({self.label: turn}, wrong, facts)

    def _job(self, move: Move) -> Job:
        payer, payee = move
        wait_s = self._wait_s

        def run(txn: Transaction) -> None:
            left = int.from_bytes(txn.read(payer) or b"", "little") - AMOUNT
            got = int.from_bytes(txn.read(payee) or b"", "little") + AMOUNT
            if wait_s:
                sleep(wait_s)
            txn.write(payer, left.to_bytes(VALUE_BYTES, "little"))
            txn.write(payee, got.to_bytes(VALUE_BYTES, "little"))

        return Job(run, Access(move, move))

    def _run_loop(self, jobs: Sequence[Job]) -> tuple[int, dict[str, Any]]:
        begin = self._store.begin
        ended: list[tuple[Any, int]] = []
        for job in jobs:
            txn = begin()
            value = job.function(txn)
            ended.append((value, txn.commit()))
        return len(jobs) - len(ended), {"mode": "loop"}

    def _run_batches(self, jobs: Sequence[Job]) -> tuple[int, dict[str, Any]]:
        failed = executions = conflicts = 0
        for at in range(0, len(jobs), self._batch):
            result = self._scheduler.run(jobs[at : at + self._batch])
            failed += result.stats.failed_txs
            executions += result.stats.executions
            conflicts += result.stats.conflict_count
        told = result.diagnostics
        return failed, {
            "mode": told.mode.value,
            "why": told.reason,
            "executions": executions,
            "conflicts": conflicts,
            "groups": told.groups_built,
            "waiting_share": round(told.waiting_share, 3),
        }


def run_hot_5(plan: HotPlan, progress: Progress | None = None) -> BenchResult:
    """Run the plan. Blocks. Raises CantMeasure."""
    if plan.accounts <= HOT + 1:
        raise CantMeasure(f"{plan.accounts} accounts: {HOT} are hot, give at least {HOT + 2}")
    race = _race(plan, plan.transactions, 0, progress)
    claims = {f"batches of {size}": (f"batches of {size}", LOOP) for size in BATCHES}
    if plan.waiting and not race.problems:
        waiting = _race(plan, plan.waiting, plan.wait_us, progress)
        race.taken.update(waiting.taken)
        race.facts.update(waiting.facts)
        race.problems += waiting.problems
        claims |= {
            _waits(f"batches of {size}", plan.wait_us): (
                _waits(f"batches of {size}", plan.wait_us),
                _waits(LOOP, plan.wait_us),
            )
            for size in BATCHES
        }
    return _result(plan, race, claims)


def _waits(label: str, wait_us: int) -> str:
    return f"{label}, each waits {wait_us} us" if wait_us else label


def _race(plan: HotPlan, count: int, wait_us: int, progress: Progress | None) -> "Race[Moves]":
    book = HotMoveBook(plan.accounts, count, plan.seed, HOT, HOT_PERCENT)
    ways = {LOOP: (0, Mode.SERIAL), LANES: (BATCHES[-1], Mode.PARALLEL)}
    ways |= {f"batches of {size}": (size, Mode.AUTO) for size in BATCHES}
    found: dict[str, Contestant[Moves]] = {}
    opened: list[Callable[[], None]] = []
    try:
        for way, (batch, mode) in ways.items():
            label = _waits(way, wait_us)
            found[label] = hot = Hot(label, book.balances, batch, mode, wait_us / 1e6)
            opened.append(hot.close)
        return run_race(book.next, found, plan.pairs, progress)
    finally:
        for close in opened:
            close()


def _result(plan: HotPlan, race: "Race[Moves]", claims: Mapping[str, tuple[str, str]]) -> BenchResult:
    is_ok = race.oracle == "ok"
    rates = race.rates() if is_ok else {}
    compared = {name: race.ratio(*pair) for name, pair in claims.items()} if is_ok else {}
    ratios = {name: facts["ratio"]["median"] for name, facts in compared.items()}
    main = f"batches of {BATCHES[-1]}"
    ours = race.taken.get(main, [])
    attempts, failed = sum(turn.done for turn in ours), sum(turn.wrong for turn in ours)
    return BenchResult(
        name="hot-5",
        parameters={
            "accounts": plan.accounts,
            "hot_accounts": HOT,
            "hot_percent": HOT_PERCENT,
            "transactions_a_turn": plan.transactions,
            "waiting_transactions_a_turn": plan.waiting,
            "wait_us": plan.wait_us,
            "batches": list(BATCHES),
            "workers": WORKERS,
            "pairs": plan.pairs,
            "warm_up": WARM_UP,
            "seed": plan.seed,
            "backend": "memory",
            "durability": "none",
            "goodput_of": main,
        },
        goodput=rates[main]["a_second"]["median"] if rates else None,
        attempts=attempts,
        failed=failed,
        ratios=ratios,
        oracle=race.oracle,
        extra={
            "success_rate": (attempts - failed) / attempts if attempts else None,
            "rates": rates,
            "compared": compared,
            "wanted": {
                name: {"ratio": LEAST, "reached": reached >= LEAST} for name, reached in ratios.items()
            },
            "measured": ["planning", "begin", "reads", "writes", "commit", "retries", "pruning"],
            "left_out": ["making the transactions", "disk"],
            "execution": dict(race.facts),
        },
    )
