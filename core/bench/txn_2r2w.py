"""`bench txn-2r2w`: interactive transactions from Python: two reads, two writes, a commit (EXEC-120).

Inside the clock, on every side: beginning, two reads, decoding the balances, checking that the payer can
pay, encoding, two writes, the commit; and with ours pruning too. Ours is serialisable, and so are the peers,
that let one writer in at a time. Nobody syncs a disk.

LMDB and SQLite keep no past beyond what open readers see, so ours does the same here (`versions_max` 1);
what ten versions of each key cost is measured beside it.
"""

import gc
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import attrs

from supervm.bench.errors import CantMeasure
from supervm.bench.growth import sizes_up_to
from supervm.bench.pairs import PAIRS_MIN, Clock
from supervm.bench.race import WARM_UP, Contestant, Done, Progress, Race, measure_growth, run_race
from supervm.bench.report import BenchResult, percentile
from supervm.bench.rows import AMOUNT, MoveBook, Moves, encode
from supervm.bench.txn_peers import Lmdb, Sqlite, judged
from supervm.mvcc import MvccStore, PruneRules

OURS = "supervm"
WITH_PAST = "supervm, 10 versions a key"
LOADED_AT_ONCE = 100_000
LATENCIES = 5_000
WANTED = {"lmdb": 0.8, "sqlite": 3.0}


@attrs.frozen(kw_only=True)
class TxnPlan:
    """What to do. `transactions` are those of a turn. `growth`: sizes to measure, 0 for none."""

    accounts: int = 10_000
    transactions: int = 50_000
    pairs: int = PAIRS_MIN
    seed: int = 1
    growth: int = 0
    peers: bool = True


class Ours:
    """Our store, used as its manual says."""

    version = "this"

    def __init__(self, label: str, balances: Mapping[bytes, int], versions_max: int) -> None:
        self.label = label
        self.store = MvccStore(rules=PruneRules(versions_max=versions_max))
        names = list(balances)
        for at in range(0, len(names), LOADED_AT_ONCE):
            with self.store.begin() as txn:
                for key in names[at : at + LOADED_AT_ONCE]:
                    txn.write(key, encode(balances[key]))
                txn.commit()

    def take(self, work: Moves) -> Done:
        begin = self.store.begin
        from_bytes = int.from_bytes
        failed = 0
        before = self.store.stats()
        gc.collect()
        with Clock() as clock:
            for payer, payee in work.moves:
                txn = begin()
                left = from_bytes(txn.read(payer), "little") - AMOUNT  # type: ignore[arg-type]
                got = from_bytes(txn.read(payee), "little") + AMOUNT  # type: ignore[arg-type]
                if left < 0:
                    txn.abort()
                    failed += 1
                    continue
                txn.write(payer, left.to_bytes(8, "little"))
                txn.write(payee, got.to_bytes(8, "little"))
                txn.commit()
        return judged(self.label, work, failed, clock, self.balances(), self._facts(before.commits))

    def balances(self) -> dict[bytes, int]:
        """What every account has."""
        with self.store.begin_read_only() as txn:
            return {key: int.from_bytes(value, "little") for key, value in txn.scan()}

    def _facts(self, commits_before: int) -> dict[str, Any]:
        """That the path under test ran: every commit was counted, and took a timestamp."""
        stats = self.store.stats()
        return {
            "isolation": "serialisable",
            "commits": stats.commits - commits_before,
            "conflicts": sum(stats.conflicts.values()),
            "versions": stats.versions,
            "gc_count": stats.gc_count,
        }

    def latency_ms(self, work: Moves) -> dict[str, float]:
        """Of single transactions, each timed for itself."""
        took: list[float] = []
        for payer, payee in work.moves[:LATENCIES]:
            began = perf_counter()
            txn = self.store.begin()
            for key, amount in ((payer, -AMOUNT), (payee, AMOUNT)):
                txn.write(key, encode(int.from_bytes(txn.read(key) or b"", "little") + amount))
            txn.commit()
            took.append((perf_counter() - began) * 1_000)
        took.sort()
        return {f"p{share:g}": round(percentile(took, share / 100) or 0.0, 5) for share in (50, 99)}


def run_txn_2r2w(plan: TxnPlan, progress: Progress | None = None) -> BenchResult:
    """Run the plan; blocks for about pairs x contestants x transactions x 5 microseconds."""
    book = MoveBook(plan.accounts, plan.transactions, plan.seed)
    with _contestants(plan, book) as (contestants, missing):
        race = run_race(book.next, contestants, plan.pairs, progress)
        ours = contestants[OURS]
        assert isinstance(ours, Ours)
        latency = ours.latency_ms(book.next()) if race.oracle == "ok" else None
        versions = {name: each.version for name, each in contestants.items()}
    grown = _growth(plan) if plan.growth and race.oracle == "ok" else []
    return _result(plan, race, missing, versions, latency, grown)


@contextmanager
def _contestants(
    plan: TxnPlan, book: MoveBook
) -> Iterator[tuple[dict[str, Contestant[Moves]], tuple[str, ...]]]:
    """Everybody with all accounts loaded, and the names of who isn't there."""
    found: dict[str, Contestant[Moves]] = {
        OURS: Ours(OURS, book.balances, 1),
        WITH_PAST: Ours(WITH_PAST, book.balances, 10),
    }
    missing: tuple[str, ...] = ()
    with ExitStack() as stack:
        if plan.peers:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="supervm-bench-")))
            try:
                lmdb = Lmdb(book.balances, folder)
            except ImportError:
                missing = ("lmdb",)
            else:
                stack.callback(lmdb.close)
                found["lmdb"] = lmdb
            sqlite = Sqlite(book.balances)
            stack.callback(sqlite.close)
            found["sqlite"] = sqlite
        yield found, missing


def _growth(plan: TxnPlan) -> list[dict[str, Any]]:
    """Ours alone, over the number of accounts."""

    def entered(accounts: int) -> tuple[Any, Contestant[Moves]]:
        book = MoveBook(accounts, plan.transactions, plan.seed)
        return book.next, Ours(OURS, book.balances, 1)

    sizes = sizes_up_to(plan.accounts, plan.growth)
    if sizes[0] < 2:
        raise CantMeasure(f"the smallest of {sizes} has no two accounts: give more accounts")
    return measure_growth("accounts", "transaction", sizes, entered, plan.pairs)


def _result(
    plan: TxnPlan,
    race: "Race[Moves]",
    missing: tuple[str, ...],
    versions: Mapping[str, str],
    latency: Mapping[str, float] | None,
    grown: list[dict[str, Any]],
) -> BenchResult:
    is_ok = race.oracle == "ok"
    ours = race.taken.get(OURS, [])
    attempts, failed = sum(turn.done for turn in ours), sum(turn.wrong for turn in ours)
    rates = race.rates() if is_ok else {}
    compared = {name: race.ratio(OURS, name) for name in WANTED if is_ok and name in race.taken}
    with_past = {name: race.ratio(WITH_PAST, name) for name in compared}
    ratios = {name: facts["ratio"]["median"] for name, facts in compared.items()}
    return BenchResult(
        name="txn-2r2w",
        parameters={
            "accounts": plan.accounts,
            "transactions_a_turn": plan.transactions,
            "pairs": plan.pairs,
            "warm_up": WARM_UP,
            "seed": plan.seed,
            "reads": 2,
            "writes": 2,
            "value_bytes": 8,
            "threads": 1,
            "versions_max": 1,
            "backend": "memory",
            "durability": "none",
            "goodput_of": OURS,
        },
        goodput=rates[OURS]["a_second"]["median"] if rates else None,
        attempts=attempts,
        failed=failed,
        latency_ms=latency,
        ratios=ratios,
        peers_missing=missing,
        oracle=race.oracle,
        extra={
            "success_rate": (attempts - failed) / attempts if attempts else None,
            "rates": rates,
            "compared": compared,
            "compared_with_past": with_past,
            "wanted": {
                name: {"ratio": least, "reached": ratios[name] >= least}
                for name, least in WANTED.items()
                if name in ratios
            },
            "measured": ["begin", "reads", "decoding", "check", "encoding", "writes", "commit", "pruning"],
            "left_out": ["threads", "disk"],
            "versions": dict(versions),
            "execution": dict(race.facts),
            "growth": grown,
        },
    )
