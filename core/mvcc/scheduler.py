"""Many transactions at once: each runs in its lane, on a snapshot of its own, until it commits (EXEC-56).

Threads don't run Python at the same time, so for transactions that only compute, the fastest lane is the
only one: one after the other, in this thread, without any planning. Lanes beside each other help those that
wait: for a disk, a network, a library that lets go of the global lock. Which of the two a batch is, is
measured, as the share of its time in which it didn't use a processor.
"""

import os
import random
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from itertools import chain
from time import perf_counter, thread_time
from types import TracebackType
from typing import Any, NamedTuple, Self

import attrs
from attrs.validators import and_, ge, le

try:
    import resource as _resource
except ImportError:  # not on Windows
    _resource = None  # type: ignore[assignment]

from supervm.mvcc.dependencies import Access
from supervm.mvcc.errors import Conflict, RetriesExhausted
from supervm.mvcc.hot_keys import HotKeyTracker
from supervm.mvcc.planning import Lane, Plan, PlanRules, plan_batch
from supervm.mvcc.retrying import RetryPolicy, is_retryable, retry
from supervm.mvcc.stats import ExecutionStats
from supervm.mvcc.store import MvccStore
from supervm.mvcc.transaction import Transaction

WAITING_SHARE_MIN = 0.5
"""Of its time, that a transaction must wait for lanes to be worth their while."""
PROBE_BATCHES = 32
"""After so many batches the first `PROBE_JOBS` of one run serially, to see whether they wait."""
PROBE_SECONDS = 0.02
"""But not before batches have taken so long: asking for processor time may cost more than a small batch."""
PROBE_JOBS = 16
WORKERS_MAX = 256
PATIENT = RetryPolicy(retries_max=20)
"""Of the last tries of a transaction."""


class Mode(StrEnum):
    """How a batch runs. `auto` measures."""

    AUTO = "auto"
    SERIAL = "serial"
    PARALLEL = "parallel"


class Path(StrEnum):
    """Which lane a transaction ran in."""

    SERIAL = "serial"
    EXTREME = "extreme"
    MEDIUM = "medium"
    BATCH_HOT = "batch_hot"
    PARTITION = "partition"
    GROUP = "group"
    DIRECT = "direct"
    LEFTOVER = "leftover"


@attrs.frozen
class Job:
    """One transaction to run: a function that may run more than once, and what it will touch, if known."""

    function: Callable[[Transaction], Any]
    access: Access | None = None


class Outcome(NamedTuple):
    """How a transaction ended: what its function returned and the commit timestamp, or the error.

    `executions` counts its runs, `path` is the lane in which it ended.
    """

    value: Any
    ts: int | None
    error: Exception | None
    executions: int
    path: Path


_OUTCOME = tuple.__new__  # which a NamedTuple's own constructor calls too, by a detour


@attrs.frozen(kw_only=True)
class Diagnostics:
    """What one batch did, by which way (EXEC-63). Counts of transactions, unless the name says otherwise."""

    mode: Mode
    reason: str
    workers: int = 1
    serial_count: int = 0
    extreme_hot_count: int = 0
    medium_hot_count: int = 0
    batch_hot_count: int = 0
    partition_count: int = 0
    direct_count: int = 0
    leftover_count: int = 0
    groups_built: int = 0
    grouped_txns_total: int = 0
    group_max_size: int = 0
    candidate_density: float = 0.0
    precise_checks: int = 0
    precise_conflicts_added: int = 0
    current_hot_key_threshold: int = 0
    conflict_keys: int = 0
    waiting_share: float = 0.0
    utilisation: float = 0.0


@attrs.frozen
class BatchResult:
    """The outcomes in the order of the batch, their sums, what was done, and the seconds that it took."""

    outcomes: tuple[Outcome, ...]
    stats: ExecutionStats
    diagnostics: Diagnostics
    seconds: float


@attrs.frozen(kw_only=True)
class SchedulerConfig:
    """What an operator may set (`scheduler.*`).

    `workers`: threads at most, 0 for one a core. A batch smaller than `batch_size_min` runs serially.
    `retries_max` bounds the tries inside a lane; what still conflicts runs once more at the end, alone.
    """

    mode: Mode = Mode.AUTO
    workers: int = attrs.field(default=0, validator=and_(ge(0), le(WORKERS_MAX)))
    batch_size_min: int = attrs.field(default=10, validator=and_(ge(1), le(1_000)))
    plan: PlanRules = PlanRules()
    lfu_tracking: bool = False
    lfu_decay_period: int = attrs.field(default=10, validator=ge(1))
    lfu_decay_factor: float = attrs.field(default=0.9, validator=and_(ge(0.0), le(1.0)))
    lfu_hot_key_threshold_medium: float = 20
    lfu_hot_key_threshold_high: float = 50
    retries_max: int = attrs.field(default=3, validator=ge(0))


@attrs.define
class _Tally:
    """What a lane counted; each has its own."""

    failures: int = 0
    retries: int = 0
    conflicts: int = 0
    keys: set[bytes] = attrs.Factory(set)
    busy_s: float = 0.0

    def count(self, error: Exception) -> None:
        """One run ended with this error."""
        if isinstance(error, Conflict):
            self.conflicts += 1
            self.keys.add(error.key)


class BatchScheduler:
    """Runs batches on a store. A context manager, for its threads; one batch at a time.

    Blocks the calling thread: from Trio, use `trio.to_thread.run_sync(scheduler.run, jobs)`.
    """

    def __init__(
        self, store: MvccStore, config: SchedulerConfig | None = None, *, chance: random.Random
    ) -> None:
        self.store = store
        self.config = SchedulerConfig() if config is None else config
        self._chance = chance
        self._pool: ThreadPoolExecutor | None = None
        self._pool_size = 0
        self._waiting_share: float | None = None
        self._since_probe = 0
        self._since_probe_s = 0.0
        self.tracker = HotKeyTracker(
            medium=self.config.lfu_hot_key_threshold_medium,
            high=self.config.lfu_hot_key_threshold_high,
            decay_period=self.config.lfu_decay_period,
            decay_factor=self.config.lfu_decay_factor,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_pool()

    @property
    def workers(self) -> int:
        """Threads at most."""
        return self.config.workers or os.cpu_count() or 1

    def configure(self, config: SchedulerConfig) -> None:
        """Go on with another configuration from the next batch on; the counts of keys stay."""
        self.config = config

    def run(self, jobs: Sequence[Job]) -> BatchResult:
        """Run every job to its end: committed, or failed with an error of its own that no retry mends.

        Whatever it takes, none is dropped: what conflicts more often than `retries_max` allows runs again
        after the others, alone. Results are those of some serial order, that of the commit timestamps.
        """
        began = perf_counter()
        outcomes: list[Outcome] = []
        tallies: list[_Tally] = []
        if self.config.lfu_tracking:
            self.tracker.next_batch()
        if self._must_probe(len(jobs)):
            tallies.append(self._probe(jobs[:PROBE_JOBS], outcomes))
        rest = jobs[len(outcomes) :]
        mode, reason = self._choose(len(jobs))
        if mode is Mode.SERIAL:
            tallies.append(self._run_lane(rest, Path.SERIAL, outcomes, is_last=True))
            failures = sum(tally.failures for tally in tallies)
            executions = len(jobs) + sum(tally.retries for tally in tallies)
            facts: dict[str, Any] = {"serial_count": len(jobs), "utilisation": 1.0}
        else:
            facts = {"serial_count": len(outcomes), **self._run_planned(rest, outcomes, tallies)}
            failures = sum(outcome.error is not None for outcome in outcomes)
            executions = sum(outcome.executions for outcome in outcomes)
        conflicts = sum(tally.conflicts for tally in tallies)
        assert len(outcomes) == len(jobs), "every transaction has an outcome"
        self._learn(jobs, outcomes)
        diagnostics = Diagnostics(
            mode=mode,
            reason=reason,
            current_hot_key_threshold=self.config.plan.hot_key_threshold,
            conflict_keys=len(set().union(*(tally.keys for tally in tallies))) if conflicts else 0,
            waiting_share=self._waiting_share or 0.0,
            **facts,
        )
        stats = ExecutionStats(
            successful_txs=len(jobs) - failures,
            failed_txs=failures,
            executions=executions,
            conflict_count=conflicts,
            retry_count=executions - len(jobs),
            rollback_count=executions - (len(jobs) - failures),
        )
        seconds = perf_counter() - began
        self._since_probe_s += seconds
        return BatchResult(tuple(outcomes), stats, diagnostics, seconds)

    def _learn(self, jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> None:
        """Count the keys that were written, as declared."""
        if self.config.lfu_tracking:
            self.tracker.record(
                job.access.writes
                for job, outcome in zip(jobs, outcomes, strict=True)
                if job.access is not None and outcome.error is None
            )

    # -- which way

    def _must_probe(self, size: int) -> bool:
        """Whether a few should run serially first, to see whether transactions wait."""
        config = self.config
        if config.mode is not Mode.AUTO or size < config.batch_size_min or self.workers == 1:
            return False
        self._since_probe += 1
        if self._waiting_share is None:
            return True
        return self._since_probe > PROBE_BATCHES and self._since_probe_s >= PROBE_SECONDS

    def _probe(self, jobs: Sequence[Job], outcomes: list[Outcome]) -> _Tally:
        """Run a few one after the other, and take note of how much of it was waiting."""
        before, cpu = _waits(), thread_time()
        tally = self._run_lane(jobs, Path.SERIAL, outcomes, is_last=True)
        cpu, after = thread_time() - cpu, _waits()
        # Time without a processor may be other programs'. Who waits has given the processor up himself.
        waited = before is None or after is None or after - before >= len(jobs) / 2
        share = max(0.0, 1 - cpu / tally.busy_s) if waited and tally.busy_s > 0 else 0.0
        self._waiting_share = share
        self._since_probe, self._since_probe_s = 0, 0.0
        return tally

    def _choose(self, size: int) -> tuple[Mode, str]:
        config = self.config
        if size < config.batch_size_min:
            return Mode.SERIAL, f"{size} transactions, lanes begin at {config.batch_size_min}"
        if config.mode is not Mode.AUTO:
            return config.mode, "as configured"
        if self.workers == 1:
            return Mode.SERIAL, "one worker"
        waiting = self._waiting_share or 0.0
        reason = f"transactions wait {waiting:.0%} of their time"
        if waiting < WAITING_SHARE_MIN:
            return Mode.SERIAL, reason
        return Mode.PARALLEL, reason

    # -- one after the other

    def _run_lane(self, jobs: Iterable[Job], path: Path, outcomes: list[Outcome], *, is_last: bool) -> _Tally:
        """Run jobs in order, each on a fresh snapshot, and append how each ended.

        `is_last`: nothing comes after, so one that conflicts waits between its tries. Otherwise it is left
        with its error, for the leftovers.
        """
        tally = _Tally()
        began = perf_counter()
        begin, append = self.store.begin, outcomes.append
        for job in jobs:
            txn = begin()
            try:
                value = job.function(txn)
                append(_OUTCOME(Outcome, (value, txn.commit(), None, 1, path)))
            except Exception as error:
                with txn:
                    pass  # which aborts it, unless the commit did
                append(self._again(job, error, path, tally, is_last))
            except BaseException:
                with txn:
                    raise
        tally.busy_s = perf_counter() - began
        return tally

    def _again(self, job: Job, error: Exception, path: Path, tally: _Tally, is_last: bool) -> Outcome:
        """What becomes of a job whose first run raised."""
        runs = 1
        while is_retryable(error) and runs <= self.config.retries_max:
            tally.count(error)
            runs += 1
            tally.retries += 1
            try:
                with self.store.begin() as txn:
                    value = job.function(txn)
                    return Outcome(value, txn.commit(), None, runs, path)
            except Exception as newer:
                error = newer
        tally.count(error)
        if is_last and is_retryable(error):
            return self._patiently(job, runs, path, tally)
        tally.failures += 1
        return Outcome(None, None, error, runs, path)

    def _patiently(self, job: Job, runs: int, path: Path, tally: _Tally) -> Outcome:
        """The last tries, with pauses: only others than this batch can still be in the way."""
        executions = 0

        def counted(txn: Transaction) -> Any:
            nonlocal executions
            executions += 1
            return job.function(txn)

        try:
            done = retry(self.store, counted, PATIENT, chance=self._chance)
        except Exception as error:
            tally.count(error if not isinstance(error, RetriesExhausted) else error.last)
            tally.failures += 1
            outcome = Outcome(None, None, error, runs + executions, path)
        else:
            outcome = Outcome(done.value, done.ts, None, runs + executions, path)
        tally.conflicts += executions - 1
        tally.retries += executions
        return outcome

    # -- in lanes

    def _run_planned(
        self, jobs: Sequence[Job], outcomes: list[Outcome], tallies: list[_Tally]
    ) -> dict[str, Any]:
        """Run jobs in lanes, append their outcomes and what the lanes counted; returns the diagnostics."""
        tracker = self.tracker if self.config.lfu_tracking else None
        plan = plan_batch([job.access for job in jobs], self.config.plan, tracker)
        ended: dict[int, Outcome] = {}
        workers = self.workers
        began = perf_counter()
        lanes: list[_Tally] = []
        for phase in _phases(plan, workers):
            lanes += self._run_beside(jobs, _packed(phase, workers), ended)
        elapsed = perf_counter() - began
        left = [at for at in range(len(jobs)) if _is_left(ended[at])]
        tallies += [*lanes, self._run_leftovers(jobs, left, ended)]
        outcomes += [ended[at] for at in range(len(jobs))]
        busy = sum(lane.busy_s for lane in lanes)
        return {
            "workers": workers,
            "extreme_hot_count": len(plan.extreme),
            "medium_hot_count": sum(map(len, plan.medium)),
            "batch_hot_count": sum(map(len, plan.batch_hot)),
            "partition_count": sum(map(len, plan.partitions)),
            "direct_count": len(plan.direct),
            "leftover_count": len(left),
            "groups_built": len(plan.groups),
            "grouped_txns_total": sum(map(len, plan.groups)),
            "group_max_size": max(map(len, plan.groups), default=0),
            "candidate_density": plan.density,
            "precise_checks": plan.precise_checks,
            "precise_conflicts_added": plan.precise_conflicts_added,
            "utilisation": min(1.0, busy / (workers * elapsed)) if elapsed > 0 else 0.0,
        }

    def _run_beside(
        self,
        jobs: Sequence[Job],
        tasks: Sequence[Sequence[tuple[Path, Lane]]],
        outcomes: dict[int, Outcome],
    ) -> list[_Tally]:
        """Run tasks beside each other, the first in this thread; wait for all, then raise what one raised."""

        def run(task: Sequence[tuple[Path, Lane]]) -> list[_Tally]:
            tallies = []
            for path, lane in task:
                ended: list[Outcome] = []
                lane_jobs = [jobs[at] for at in lane]
                tallies.append(self._run_lane(lane_jobs, path, ended, is_last=False))
                outcomes.update(zip(lane, ended, strict=True))
            return tallies

        futures: list[Future[list[_Tally]]] = [self._threads().submit(run, task) for task in tasks[1:]]
        try:
            tallies = run(tasks[0]) if tasks else []
        finally:
            done = [future.exception() for future in futures]
        for error in done:
            if error is not None:
                raise error
        return tallies + list(chain.from_iterable(future.result() for future in futures))

    def _run_leftovers(
        self, jobs: Sequence[Job], left: Sequence[int], outcomes: dict[int, Outcome]
    ) -> _Tally:
        """Run those again, alone, that conflicted too often beside the others."""
        ended: list[Outcome] = []
        tally = self._run_lane([jobs[at] for at in left], Path.LEFTOVER, ended, is_last=True)
        for at, outcome in zip(left, ended, strict=True):
            before = outcomes[at].executions
            outcomes[at] = outcome._replace(executions=before + outcome.executions)
        return tally

    def _threads(self) -> ThreadPoolExecutor:
        size = max(1, self.workers - 1)
        if self._pool is None or self._pool_size != size:
            self._end_pool()
            self._pool, self._pool_size = ThreadPoolExecutor(size, "mvcc-lane"), size
        return self._pool

    def _end_pool(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def _waits() -> int | None:
    """How often this thread has waited so far; None where the system doesn't count that."""
    if _resource is None or not hasattr(_resource, "RUSAGE_THREAD"):
        return None
    return _resource.getrusage(_resource.RUSAGE_THREAD).ru_nvcsw


def _is_left(outcome: Outcome) -> bool:
    return outcome.error is not None and is_retryable(outcome.error)


def _phases(plan: Plan, workers: int) -> list[list[tuple[Path, Lane]]]:
    """What may run beside each other, phase after phase: all lanes with the first group, then the others."""
    first = [(Path.EXTREME, plan.extreme)] if plan.extreme else []
    first += [(Path.MEDIUM, lane) for lane in plan.medium]
    first += [(Path.BATCH_HOT, lane) for lane in plan.batch_hot]
    first += [(Path.PARTITION, lane) for lane in plan.partitions]
    first += [(Path.DIRECT, part) for part in _parts(plan.direct, workers)]
    groups = [[(Path.GROUP, part) for part in _parts(group, workers)] for group in plan.groups]
    if groups:
        first += groups.pop(0)
    return [phase for phase in (first, *groups) if phase]


def _parts(lane: Lane, workers: int) -> list[Lane]:
    """Cut into as many parts as there are workers, or fewer; each keeps the order."""
    size = -(-len(lane) // workers)
    return [lane[at : at + size] for at in range(0, len(lane), size)] if lane else []


def _packed(lanes: Sequence[tuple[Path, Lane]], workers: int) -> list[list[tuple[Path, Lane]]]:
    """Lanes as at most `workers` tasks of about equal size: the longest first, each to the least loaded."""
    tasks: list[list[tuple[Path, Lane]]] = [[] for _ in range(min(workers, len(lanes)))]
    loads = [0] * len(tasks)
    for path, lane in sorted(lanes, key=lambda each: len(each[1]), reverse=True):
        lightest = loads.index(min(loads))
        tasks[lightest].append((path, lane))
        loads[lightest] += len(lane)
    return tasks
