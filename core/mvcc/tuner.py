"""Tuning the batch scheduler while it runs, within stated bounds (EXEC-62, EXEC-80, EXEC-82, EXEC-83).

A window is so many batches. At its end at most one knob is turned; each turn says what it was before, what
it is now and why, and is taken back if goodput falls by more than 5 % in the next window. What is tuned
decides how soon transactions commit, never what they do.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from statistics import mean
from typing import Any

import attrs
from attrs.validators import and_, ge, gt, le

from supervm.mvcc.scheduler import BatchResult, BatchScheduler, Job, Mode, SchedulerConfig

HISTORY_WINDOWS = 32
CHANGES_KEPT = 256
FALL = 0.95
"""Of the goodput before: below it a change is undone."""
RISE = 1.05
"""Of the goodput before: what a step of the batch size must win to stay."""
RUNGS = (10, 50, 100, 200, 500, 1_000)
REST_WINDOWS = 16
"""After no step of the batch size won anything."""
SHARDS = (4, 64)
DENSITY = (3, 10)  # hundredths
HOT = (2, 64)
HOT_BATCHES = 20
HOT_COOL_BATCHES = 5
EVIDENCE = 3
"""Batches of each kind that a comparison needs."""


@attrs.frozen(kw_only=True)
class TunerConfig:
    """Which knobs may be turned; `auto_tuning` off freezes all. `interval` is the batches of a window."""

    auto_tuning: bool = True
    interval: int = attrs.field(default=10, validator=ge(1))
    batch_size_min: bool = True
    num_shards: bool = True
    density_fallback_threshold: bool = True
    hot_key_threshold: bool = True
    workers: bool = True
    workers_max: int = attrs.field(factory=lambda: os.cpu_count() or 1, validator=ge(1))


@attrs.frozen
class Change:
    """One turn of a knob. `undone` takes back the one before."""

    knob: str
    before: float
    after: float
    reason: str
    undone: bool = False


@attrs.frozen(kw_only=True)
class Window:
    """What a window of batches did. Goodput is committed transactions a second."""

    goodput: float
    conflict_rate: float
    density: float
    utilisation: float
    distinct_share: float
    parallel_batches: int
    sizes: tuple[int, ...]


@attrs.define
class _Knob:
    """How one knob is read, set, and when it may be turned next."""

    name: str
    is_on: bool
    get: Callable[[SchedulerConfig], float]
    set: Callable[[SchedulerConfig, float], SchedulerConfig]
    propose: Callable[[], tuple[float, str] | None]
    rest_until: int = 0
    rest_after: int = 0


class AutoTuner:
    """Looks at every result of a scheduler, and turns its knobs. `paused` while the host sheds load."""

    def __init__(self, scheduler: BatchScheduler, config: TunerConfig | None = None, log: Any = None) -> None:
        self.scheduler = scheduler
        self.config = TunerConfig() if config is None else config
        self.paused = False
        self.windows: deque[Window] = deque(maxlen=HISTORY_WINDOWS)
        self.changes: deque[Change] = deque(maxlen=CHANGES_KEPT)
        self._log = log
        self._batches: list[BatchResult] = []
        self._recent: deque[BatchResult] = deque(maxlen=HOT_BATCHES)
        self._seen = 0
        self._window = 0
        self._hot_until = 0
        self._on_trial: tuple[_Knob, float, float, int] | None = None  # knob, value before, goodput, since
        self._direction = 1
        self._failed_steps = 0
        self._next = 0
        self._knobs = self._make_knobs()

    def observe(self, result: BatchResult) -> Change | None:
        """Take note of a batch; returns the change that it led to, if any."""
        if not self.config.auto_tuning or self.paused:
            self._batches.clear()
            return None
        self._batches.append(result)
        self._recent.append(result)
        self._seen += 1
        if len(self._batches) < self.config.interval:
            return None
        window = summarise(self._batches)
        self._batches = []
        self.windows.append(window)
        self._window += 1
        judged = self._judge(window)
        # Where no batch ran in lanes, nothing that could be turned was in use.
        if judged is not None or self._on_trial is not None or not window.parallel_batches:
            return judged
        return self._turn()

    # -- one change at a time

    def _turn(self) -> Change | None:
        """Let the first knob that wants to be turned have its way, beginning after the last one turned."""
        for at in range(len(self._knobs)):
            knob = self._knobs[(self._next + at) % len(self._knobs)]
            if not knob.is_on or self._window < knob.rest_until:
                continue
            proposal = knob.propose()
            if proposal is None:
                continue
            value, reason = proposal
            before = knob.get(self.scheduler.config)
            if value == before:
                continue
            self._next = (self._next + at + 1) % len(self._knobs)
            self._on_trial = (knob, before, self._goodput(2), self._window)
            knob.rest_until = self._window + knob.rest_after
            return self._apply(knob, Change(knob.name, before, value, reason))
        return None

    def _judge(self, window: Window) -> Change | None:
        """Take back the change that is on trial if it did harm, or, of the batch size, no good."""
        if self._on_trial is None:
            return None
        knob, before, goodput, since = self._on_trial
        now = knob.get(self.scheduler.config)
        climbs = knob.name == "batch_size_min"
        if window.goodput < goodput * FALL:
            reason = f"goodput fell from {goodput:.0f} to {window.goodput:.0f} a second"
        elif not climbs:
            self._on_trial = None
            return None
        elif self._window - since < 2:
            return None
        elif self._goodput(2) > goodput * RISE:
            self._failed_steps = 0
            self._on_trial = None
            return None
        else:
            reason = f"goodput was {goodput:.0f} a second and didn't rise by more than 5 %"
        self._on_trial = None
        if climbs:
            self._direction = -self._direction
            self._failed_steps += 1
            if self._failed_steps >= 2:
                self._failed_steps = 0
                knob.rest_until = self._window + REST_WINDOWS
        return self._apply(knob, Change(knob.name, now, before, reason, undone=True))

    def _apply(self, knob: _Knob, change: Change) -> Change:
        self.scheduler.configure(knob.set(self.scheduler.config, change.after))
        self.changes.append(change)
        if self._log is not None:
            self._log.info("mvcc_tuner_change", **attrs.asdict(change))
        return change

    def _goodput(self, windows: int) -> float:
        return mean(window.goodput for window in self._last(windows))

    def _last(self, windows: int) -> Sequence[Window]:
        return list(self.windows)[-windows:]

    # -- what each knob wants

    def _make_knobs(self) -> list[_Knob]:
        on = self.config
        return [
            _Knob(
                "hot_key_threshold",
                on.hot_key_threshold,
                lambda config: config.plan.hot_key_threshold,
                lambda config, value: _with_plan(config, hot_key_threshold=int(value)),
                self._propose_hot,
            ),
            _Knob(
                "density_fallback_threshold",
                on.density_fallback_threshold,
                lambda config: config.plan.density_fallback_threshold,
                lambda config, value: _with_plan(config, density_fallback_threshold=value),
                self._propose_density,
                rest_after=2,
            ),
            _Knob(
                "num_shards",
                on.num_shards,
                lambda config: config.plan.num_shards,
                lambda config, value: _with_plan(config, num_shards=int(value)),
                self._propose_shards,
                rest_after=5,
            ),
            _Knob(
                "workers",
                on.workers,
                lambda config: self.scheduler.workers,
                lambda config, value: attrs.evolve(config, workers=int(value)),
                self._propose_workers,
                rest_after=5,
            ),
            _Knob(
                "batch_size_min",
                on.batch_size_min,
                lambda config: config.batch_size_min,
                lambda config, value: attrs.evolve(config, batch_size_min=int(value)),
                self._propose_batch_size,
                rest_after=2,
            ),
        ]

    def _propose_hot(self) -> tuple[float, str] | None:
        """Isolate more keys where conflicts are many, fewer where they are rare (EXEC-62)."""
        if len(self._recent) < HOT_BATCHES or self._seen < self._hot_until:
            return None
        now = self.scheduler.config.plan
        conflicts = mean(result.stats.conflict_rate for result in self._recent)
        dense = mean(result.diagnostics.candidate_density for result in self._recent)
        if conflicts > 0.20 and dense > now.density_fallback_threshold:
            value = now.hot_key_threshold - 1
        elif conflicts < 0.05 and dense < now.density_fallback_threshold / 2:
            value = now.hot_key_threshold + 1
        else:
            return None
        self._hot_until = self._seen + HOT_COOL_BATCHES
        return _clamp(value, HOT), f"{conflicts:.0%} of executions conflict, density {dense:.3f}"

    def _propose_density(self) -> tuple[float, str] | None:
        """Group more where grouping wins."""
        results = [result for result in self._recent if result.diagnostics.mode is Mode.PARALLEL]
        grouped = [_goodput(result) for result in results if result.diagnostics.grouped_txns_total]
        direct = [_goodput(result) for result in results if result.diagnostics.direct_count]
        if len(grouped) < EVIDENCE or len(direct) < EVIDENCE or len(self.windows) < 2:
            return None
        won = mean(grouped) > mean(direct)
        hundredths = round(self.scheduler.config.plan.density_fallback_threshold * 100) + (1 if won else -1)
        how = "more" if won else "less"
        return _clamp(hundredths, DENSITY) / 100, f"grouped batches did {how} than others"

    def _propose_shards(self) -> tuple[float, str] | None:
        """Cut finer where different keys conflict. Conflicts on one key no number of shards can cure."""
        last = self._last(3)
        now = self.scheduler.config.plan
        if not now.owner_sharding or len(last) < 3:
            return None
        rates = [window.conflict_rate for window in last]
        if min(rates) > 0.30 and min(window.distinct_share for window in last) >= 0.5:
            return _clamp(now.num_shards * 2, SHARDS), f"{mean(rates):.0%} conflict, on different keys"
        if max(rates) < 0.05:
            return _clamp(now.num_shards // 2, SHARDS), f"only {mean(rates):.0%} conflict"
        return None

    def _propose_workers(self) -> tuple[float, str] | None:
        """Fewer where they idle; more where all are busy and more is done than before."""
        last = self._last(5)
        if len(last) < 5:
            return None
        used = [window.utilisation for window in last]
        bounds = (1, self.config.workers_max)
        if max(used) < 0.50:
            return _clamp(self.scheduler.workers - 1, bounds), f"workers are busy {mean(used):.0%}"
        if min(used) > 0.95 and last[-1].goodput > last[0].goodput:
            return _clamp(self.scheduler.workers + 1, bounds), f"workers are busy {mean(used):.0%}"
        return None

    def _propose_batch_size(self) -> tuple[float, str] | None:
        """Climb towards the size from which lanes are worth their while."""
        if len(self.windows) < 2:
            return None
        now = self.scheduler.config.batch_size_min
        rung = min(range(len(RUNGS)), key=lambda at: abs(RUNGS[at] - now))
        value = RUNGS[max(0, min(len(RUNGS) - 1, rung + self._direction))]
        low, high = sorted((now, value))
        if not any(low <= size < high for window in self._last(2) for size in window.sizes):
            # It would change nothing for batches as they are.
            self._direction = -self._direction
            return None
        return value, f"a step from {now}, at {self._goodput(2):.0f} a second"


def summarise(results: Sequence[BatchResult]) -> Window:
    """A window from its batches."""
    seconds = sum(result.seconds for result in results)
    conflicts = sum(result.stats.conflict_count for result in results)
    executions = sum(result.stats.executions for result in results)
    parallel = [result for result in results if result.diagnostics.mode is Mode.PARALLEL]
    distinct = sum(result.diagnostics.conflict_keys for result in results)
    committed = sum(result.stats.successful_txs for result in results)
    return Window(
        goodput=committed / seconds if seconds > 0 else 0.0,
        conflict_rate=conflicts / executions if executions else 0.0,
        density=mean([result.diagnostics.candidate_density for result in parallel] or [0.0]),
        utilisation=mean([result.diagnostics.utilisation for result in parallel] or [1.0]),
        distinct_share=distinct / conflicts if conflicts else 0.0,
        parallel_batches=len(parallel),
        sizes=tuple(len(result.outcomes) for result in results),
    )


def _goodput(result: BatchResult) -> float:
    return result.stats.successful_txs / result.seconds if result.seconds > 0 else 0.0


def _with_plan(config: SchedulerConfig, **changed: Any) -> SchedulerConfig:
    return attrs.evolve(config, plan=attrs.evolve(config.plan, **changed))


def _clamp(value: int, bounds: tuple[int, int]) -> int:
    return max(bounds[0], min(bounds[1], value))


@attrs.frozen(kw_only=True)
class AdaptiveBatchConfig:
    """How long batches are cut (EXEC-82). `alpha` is the weight of the newest batch in the means.

    Below 0.8 of `target` conflicts the size grows by a fifth, above 1.5 it shrinks by a fifth. It shrinks
    too where a batch takes longer than `latency_ms_max`, if that is set.
    """

    size_min: int = attrs.field(default=8, validator=ge(1))
    initial: int = 32
    size_max: int = 128
    alpha: float = attrs.field(default=0.3, validator=and_(gt(0), le(1)))
    target: float = attrs.field(default=0.05, validator=and_(gt(0), le(1)))
    latency_ms_max: float | None = None

    def __attrs_post_init__(self) -> None:
        if not self.size_min <= self.initial <= self.size_max:
            raise ValueError(f"initial is {self.initial}; use {self.size_min} to {self.size_max}")


class AdaptiveBatch:
    """The size of the next batch, from how the ones before went."""

    def __init__(self, config: AdaptiveBatchConfig | None = None) -> None:
        self.config = AdaptiveBatchConfig() if config is None else config
        self.size = self.config.initial
        self.conflict_rate: float | None = None
        self.latency_ms: float | None = None

    def observe(self, conflict_rate: float, latency_ms: float) -> int:
        """Take note of a batch; returns the size of the next."""
        config = self.config
        self.conflict_rate = self._blend(self.conflict_rate, conflict_rate)
        self.latency_ms = self._blend(self.latency_ms, latency_ms)
        is_late = config.latency_ms_max is not None and self.latency_ms > config.latency_ms_max
        if is_late or self.conflict_rate > config.target * 1.5:
            size = min(self.size - 1, round(self.size * 0.8))
        elif self.conflict_rate < config.target * 0.8:
            size = max(self.size + 1, round(self.size * 1.2))
        else:
            size = self.size
        self.size = _clamp(size, (config.size_min, config.size_max))
        return self.size

    def _blend(self, before: float | None, now: float) -> float:
        return now if before is None else before + self.config.alpha * (now - before)


def run_in_batches(
    scheduler: BatchScheduler,
    jobs: Iterable[Job],
    size: int | AdaptiveBatch,
    tuner: AutoTuner | None = None,
) -> Iterator[BatchResult]:
    """Cut a stream of jobs into batches, run them, and let what tunes look at each result."""
    stream = iter(jobs)
    while batch := list(islice(stream, size if isinstance(size, int) else size.size)):
        result = scheduler.run(batch)
        if isinstance(size, AdaptiveBatch):
            size.observe(result.stats.conflict_rate, result.seconds * 1_000)
        if tuner is not None:
            tuner.observe(result)
        yield result
