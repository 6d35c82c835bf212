"""The chain's metrics (OBS-7, 8, 10, 11, 12, 19, 23): families, and what is worked out from counts."""

from collections import Counter
from collections.abc import Iterable, Mapping

from supervm.chain.goodput import Goodput
from supervm.chain.mempool import MempoolBounds, MempoolFigures
from supervm.kernel.component import Metrics
from supervm.types.receipt import Status
from supervm.types.transaction import Lane

LANE_WORDS = {Lane.FAST: "fast", Lane.ORDERED: "consensus", Lane.PRIVATE: "privacy"}

BOUNDED = {
    "events": "Events kept for readers that come back",
    "admission": "Transactions being admitted",
    "signatures": "Checked signatures remembered",
    "recent_receipts": "Receipts answered from memory",
}


class ChainFigures:
    """Every family that the chain writes, present with 0 from the start (OBS-5)."""

    def __init__(self, metrics: Metrics, bounds: MempoolBounds, now_s: float) -> None:
        counter, gauge, summary = metrics.counter, metrics.gauge, metrics.summary
        self._goodput = Goodput(now_s)
        self._lanes = dict.fromkeys(LANE_WORDS, 0)
        self._lane_totals = {
            lane: counter(f"vm_routing_{word}_total", f"Transactions admitted to lane {lane.name}")
            for lane, word in LANE_WORDS.items()
        }
        self._lane_total = counter("vm_routing_total", "Transactions admitted, all lanes")
        self._lane_ratios = {
            lane: gauge(f"vm_routing_{word}_ratio", f"Share of lane {lane.name} among those admitted")
            for lane, word in LANE_WORDS.items()
        }
        self._statuses = counter("supervm_transactions_total", "Transactions by outcome", ("status",))
        for status in ("refused", "certified", "committed", "failed", "void"):
            self._statuses.inc(0, status=status)
        self._submitted = counter("supervm_transactions_submitted_total", "Transactions received")
        self._duplicates = counter("supervm_transactions_duplicate_total", "Received again, known already")
        self._pending = gauge("supervm_transactions_pending", "Admitted and not yet in a block")
        self._dropped = counter(
            "supervm_mempool_dropped_total", "Left the mempool without a block, by reason", ("reason",)
        )
        self._refused = counter("supervm_mempool_refused_total", "Refused at admission, by code", ("reason",))
        self._pool = {
            "transactions": gauge("supervm_mempool_transactions", "Transactions in the mempool"),
            "size_bytes": gauge("supervm_mempool_bytes", "Bytes in the mempool"),
            "ready": gauge("supervm_mempool_ready", "Transactions that the next batch could take"),
            "handed": gauge("supervm_mempool_handed", "Transactions that a builder may have"),
            "senders": gauge("supervm_mempool_senders", "Senders with transactions in the mempool"),
        }
        gauge("supervm_mempool_transactions_limit", "Most transactions in the mempool").set(
            bounds.transactions_max
        )
        gauge("supervm_mempool_bytes_limit", "Most bytes in the mempool").set(bounds.bytes_max)
        self._block_ms = summary("supervm_exec_block_ms", "Milliseconds to execute a block")
        self._block_transactions = gauge(
            "supervm_exec_block_transactions", "Transactions in the last executed block"
        )
        gauge("supervm_exec_workers", "Threads that execute one block").set(1)
        self._finality_ms = summary(
            "supervm_consensus_finality_ms", "Milliseconds from admission to a final, durable block"
        )
        self._latency_ms = summary("mvcc_txn_latency_ms", "Milliseconds from admission to commit")
        self._started = counter("mvcc_txn_started_total", "Transactions whose execution began in a block")
        self._committed = counter("mvcc_txn_committed_total", "Transactions committed with success")
        self._failed = counter("mvcc_txn_failed_total", "Transactions that failed in a block")
        self._tps = gauge("mvcc_tps", "Goodput since start, transactions a second")
        self._tps_window = gauge("mvcc_tps_window", "Goodput of the last 10 s")
        self._tps_peak = gauge("mvcc_tps_peak", "Highest goodput of a complete 10 s window")
        self._success = gauge("mvcc_success_rate", "Committed among committed and failed")
        self._commits = self._failures = 0
        self._bounds = {
            name: (
                gauge(f"supervm_{name}_entries", help),
                gauge(f"supervm_{name}_limit", f"The bound of supervm_{name}_entries"),
            )
            for name, help in BOUNDED.items()
        }
        self._events_dropped = counter("supervm_events_dropped_total", "Events no longer kept")
        self._events_dropped_seen = 0

    def received(self, count: int) -> None:
        self._submitted.inc(count)

    def admitted(self, lane: Lane) -> None:
        """Counted by the initial lane, once a transaction (EXEC-13)."""
        self._lanes[lane] += 1
        self._lane_totals[lane].inc()
        self._lane_total.inc()

    def duplicate(self) -> None:
        self._duplicates.inc()

    def refused(self, code: str) -> None:
        """`code` is one of a fixed list, never text from outside."""
        self._refused.inc(reason=code)
        self._statuses.inc(status="refused")

    def dropped(self, reason: str) -> None:
        self._dropped.inc(reason=reason)

    def executed(self, count: int, seconds: float) -> None:
        self._block_ms.observe(seconds * 1000)
        self._block_transactions.set(count)
        self._started.inc(count)

    def committed(self, statuses: Iterable[Status], waits_s: Iterable[float], now_s: float) -> None:
        """A block is durable: its receipts' statuses, and how long those admitted here waited."""
        counts = Counter(statuses)
        for status, count in counts.items():
            self._statuses.inc(count, status=status.name.lower())
        good = counts[Status.COMMITTED]
        bad = counts.total() - good
        self._committed.inc(good)
        self._failed.inc(bad)
        self._commits += good
        self._failures += bad
        if self._commits + self._failures:
            self._success.set(self._commits / (self._commits + self._failures))
        for wait_s in waits_s:
            self._finality_ms.observe(wait_s * 1000)
            self._latency_ms.observe(wait_s * 1000)
        self._goodput.add(good, now_s)

    def refresh(
        self, pool: MempoolFigures, bounded: Mapping[str, tuple[int, int]], events_dropped: int, now_s: float
    ) -> None:
        """Bring the gauges up to date. `bounded`: for each name of `BOUNDED`, how many and at most."""
        for name, gauge in self._pool.items():
            gauge.set(getattr(pool, name))
        self._pending.set(pool.transactions)
        total = sum(self._lanes.values())
        for lane, ratio in self._lane_ratios.items():
            ratio.set(self._lanes[lane] / total if total else 0.0)
        self._tps.set(self._goodput.overall(now_s))
        self._tps_window.set(self._goodput.window(now_s))
        self._tps_peak.set(self._goodput.peak(now_s))
        for name, (entries, limit) in bounded.items():
            entries_gauge, limit_gauge = self._bounds[name]
            entries_gauge.set(entries)
            limit_gauge.set(limit)
        self._events_dropped.inc(events_dropped - self._events_dropped_seen)
        self._events_dropped_seen = events_dropped
