"""The tuner turns one knob at a time, says why, and takes back what did harm (EXEC-62, 80, 82, 83)."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from supervm.mvcc import ExecutionStats, MvccStore
from supervm.mvcc.dependencies import Access
from supervm.mvcc.planning import PlanRules
from supervm.mvcc.scheduler import (
    BatchResult,
    BatchScheduler,
    Diagnostics,
    Job,
    Mode,
    Outcome,
    Path,
    SchedulerConfig,
)
from supervm.mvcc.tuner import AdaptiveBatch, AdaptiveBatchConfig, AutoTuner, TunerConfig, run_in_batches

OFF = {
    "batch_size_min": False,
    "num_shards": False,
    "density_fallback_threshold": False,
    "hot_key_threshold": False,
    "workers": False,
}
ALONE: dict[str, dict[str, bool]] = {name: {**OFF, name: True} for name in OFF}


def batch(
    *, goodput: float = 1_000, size: int = 100, conflicts: int = 0, mode: Mode = Mode.PARALLEL, **facts: Any
) -> BatchResult:
    """A result as a scheduler might give it."""
    stats = ExecutionStats(
        successful_txs=size, executions=size + conflicts, conflict_count=conflicts, retry_count=conflicts
    )
    facts = {"utilisation": 0.7, "grouped_txns_total": size, **facts}
    outcome = Outcome(None, 1, None, 1, Path.GROUP)
    return BatchResult((outcome,) * size, stats, Diagnostics(mode=mode, reason="", **facts), size / goodput)


@pytest.fixture
def make() -> Iterator[Callable[..., AutoTuner]]:
    """Makes tuners of a scheduler of their own; `plan` are rules, the rest the tuner's configuration."""

    def one(config: SchedulerConfig | None = None, **tuner: Any) -> AutoTuner:
        chosen = SchedulerConfig(mode=Mode.PARALLEL, workers=4) if config is None else config
        scheduler = BatchScheduler(MvccStore(), chosen, chance=random.Random(1))
        return AutoTuner(scheduler, TunerConfig(**{"workers_max": 8, **tuner}))

    yield one


Make = Callable[..., AutoTuner]


def windows(tuner: AutoTuner, count: int, **facts: Any) -> list[tuple[str, float, float, bool]]:
    """Feed so many windows of equal batches; the changes that they led to."""
    found = []
    for _ in range(count * tuner.config.interval):
        change = tuner.observe(batch(**facts))
        if change is not None:
            found.append((change.knob, change.before, change.after, change.undone))
    return found


def test_with_every_switch_off_nothing_is_turned(make: Make) -> None:
    for config in (OFF, {"auto_tuning": False}):
        tuner = make(**config)
        before = tuner.scheduler.config
        for goodput in (1_000, 10, 5_000):
            assert windows(tuner, 6, goodput=goodput, conflicts=200, utilisation=0.1) == []
        assert tuner.scheduler.config is before and not tuner.changes


def test_a_paused_tuner_turns_nothing(make: Make) -> None:
    tuner = make(**ALONE["workers"])
    tuner.paused = True
    assert windows(tuner, 10, utilisation=0.1) == [] and not tuner.windows
    tuner.paused = False
    assert windows(tuner, 5, utilisation=0.1) == [("workers", 4, 3, False)]


def test_idle_workers_are_sent_home_one_by_one_down_to_one(make: Make) -> None:
    tuner = make(**ALONE["workers"])
    found = windows(tuner, 30, utilisation=0.2)
    assert [after for _, _, after, _ in found] == [3, 2, 1]
    assert tuner.scheduler.workers == 1
    assert all("20%" in change.reason for change in tuner.changes)


def test_workers_come_while_all_are_busy_and_more_is_done_up_to_the_bound(make: Make) -> None:
    tuner = make(**ALONE["workers"])
    found = []
    for at in range(60):
        found += windows(tuner, 1, utilisation=0.99, goodput=1_000 + 10 * at)
    assert [after for _, _, after, _ in found] == [5, 6, 7, 8]


def test_busy_workers_that_get_no_more_done_stay_as_many(make: Make) -> None:
    assert windows(make(**ALONE["workers"]), 20, utilisation=0.99) == []


def test_a_change_after_which_goodput_falls_is_undone(make: Make) -> None:
    tuner = make(**ALONE["workers"])
    assert windows(tuner, 5, utilisation=0.2) == [("workers", 4, 3, False)]
    assert windows(tuner, 1, utilisation=0.2, goodput=940) == [("workers", 3, 4, True)]
    assert "fell from 1000 to 940" in tuner.changes[-1].reason
    assert tuner.scheduler.workers == 4


def test_a_change_after_which_goodput_falls_by_less_stays(make: Make) -> None:
    tuner = make(**ALONE["workers"])
    windows(tuner, 5, utilisation=0.2)
    assert windows(tuner, 1, utilisation=0.2, goodput=960) == []
    assert tuner.scheduler.workers == 3


def test_shards_double_only_where_different_keys_conflict(make: Make) -> None:
    config = SchedulerConfig(mode=Mode.PARALLEL, plan=PlanRules(owner_sharding=True))
    one_key = make(config, **ALONE["num_shards"])
    assert windows(one_key, 12, conflicts=60, conflict_keys=1) == []
    many_keys = make(config, **ALONE["num_shards"])
    found = windows(many_keys, 40, conflicts=60, conflict_keys=50)
    assert [(before, after) for _, before, after, _ in found] == [(8, 16), (16, 32), (32, 64)]
    quiet = make(config, **ALONE["num_shards"])
    assert [after for _, _, after, _ in windows(quiet, 20)] == [4]
    assert windows(make(**ALONE["num_shards"]), 20, conflicts=60, conflict_keys=50) == [], "no shards in use"


def test_shards_wait_three_windows_and_cool_down_for_five(make: Make) -> None:
    config = SchedulerConfig(mode=Mode.PARALLEL, plan=PlanRules(owner_sharding=True))
    tuner = make(config, **ALONE["num_shards"])
    facts = {"conflicts": 60, "conflict_keys": 50}
    counts = [len(windows(tuner, 1, **facts)) for _ in range(9)]
    assert counts == [0, 0, 1, 0, 0, 0, 0, 1, 0]


def test_the_density_threshold_follows_what_grouping_won(make: Make) -> None:
    for better, steps in (("grouped", [0.06, 0.07, 0.08, 0.09, 0.10]), ("direct", [0.04, 0.03])):
        tuner = make(**ALONE["density_fallback_threshold"])
        seen = []
        for _ in range(200):
            for kind in ("grouped", "direct"):
                facts = {"grouped_txns_total": 0, "direct_count": 100} if kind == "direct" else {}
                change = tuner.observe(batch(goodput=1_200 if kind == better else 1_000, **facts))
                if change is not None:
                    seen.append(change.after)
        assert seen == steps


def test_hot_keys_are_isolated_sooner_where_conflicts_are_many_and_later_where_rare(make: Make) -> None:
    many = make(**ALONE["hot_key_threshold"])
    assert [after for *_, after, _ in windows(many, 50, conflicts=50, candidate_density=0.4)] == [4, 3, 2]
    rare = make(**ALONE["hot_key_threshold"])
    found = [after for *_, after, _ in windows(rare, 200, conflicts=1, candidate_density=0.01)]
    assert found == list(range(6, 65))
    between = make(**ALONE["hot_key_threshold"])
    assert windows(between, 20, conflicts=15, candidate_density=0.4) == []


def goodput_with_lanes_from(best: int) -> Callable[[int], float]:
    return lambda batch_size_min: 1_500 if batch_size_min >= best else 1_000


def climb(tuner: AutoTuner, goodput: Callable[[int], float], count: int, sizes: list[int]) -> list[int]:
    """Windows whose goodput depends on the knob; the values it took."""
    seen = []
    for _ in range(count):
        for at in range(tuner.config.interval):
            now = tuner.scheduler.config.batch_size_min
            size = sizes[at % len(sizes)]
            mode = Mode.PARALLEL if size >= now else Mode.SERIAL
            tuner.observe(batch(size=size, mode=mode, goodput=goodput(now)))
        seen.append(tuner.scheduler.config.batch_size_min)
    return seen


def test_the_batch_size_climbs_while_it_wins_and_stays_at_the_best(make: Make) -> None:
    config = SchedulerConfig(mode=Mode.PARALLEL, batch_size_min=50)
    tuner = make(config, **ALONE["batch_size_min"])
    heights = {10: 900.0, 50: 1_000.0, 100: 1_200.0, 200: 1_500.0, 500: 1_400.0, 1_000: 1_000.0}
    seen = climb(tuner, heights.__getitem__, 24, [20, 60, 150, 300, 600])
    assert seen[-1] == 200 and 500 in seen, "it tried the next step too, and went back"
    assert any(change.undone for change in tuner.changes)


def test_a_step_of_the_batch_size_that_wins_nothing_is_taken_back_after_two_windows(make: Make) -> None:
    config = SchedulerConfig(mode=Mode.PARALLEL, batch_size_min=100)
    tuner = make(config, **ALONE["batch_size_min"])
    seen = climb(tuner, lambda _: 1_000.0, 12, [20, 60, 150, 300, 600])
    assert seen[1] == 200 and seen[2] == 200 and seen[3] == 100, "up, two windows, back"
    assert seen[-1] == 100
    reasons = [change.reason for change in tuner.changes if change.undone]
    assert len(reasons) == 2 and all("didn't rise" in reason for reason in reasons)


def test_a_step_that_would_change_nothing_for_the_batches_there_are_isn_t_taken(make: Make) -> None:
    config = SchedulerConfig(mode=Mode.PARALLEL, batch_size_min=10)
    tuner = make(config, **ALONE["batch_size_min"])
    assert set(climb(tuner, lambda _: 1_000.0, 20, [2_000])) == {10}


def test_at_most_one_knob_is_turned_in_a_window_and_each_change_is_told(make: Make) -> None:
    lines: list[tuple[str, dict[str, Any]]] = []

    class Log:
        def info(self, name: str, **facts: Any) -> None:
            lines.append((name, facts))

    scheduler = BatchScheduler(
        MvccStore(), SchedulerConfig(mode=Mode.PARALLEL, workers=4), chance=random.Random(1)
    )
    tuner = AutoTuner(scheduler, TunerConfig(workers_max=8), Log())
    changes = 0
    for _ in range(30):
        found = windows(tuner, 1, utilisation=0.2, conflicts=50, candidate_density=0.4)
        assert len(found) <= 1
        changes += len(found)
    assert changes == len(lines) == len(tuner.changes) >= 5
    assert {line[1]["knob"] for line in lines} >= {"workers", "hot_key_threshold"}
    assert all(
        name == "mvcc_tuner_change" and {"before", "after", "reason"} <= facts.keys() for name, facts in lines
    )


def test_nothing_is_turned_while_batches_run_serially(make: Make) -> None:
    tuner = make()
    assert windows(tuner, 20, mode=Mode.SERIAL, utilisation=0.1, conflicts=80, candidate_density=0.5) == []


def test_its_memory_is_bounded(make: Make) -> None:
    tuner = make(interval=1)
    for at in range(2_000):
        tuner.observe(batch(goodput=1_000 + 500 * (at % 7), utilisation=0.2, conflicts=at % 80))
    assert len(tuner.windows) == 32 and len(tuner.changes) <= 256 and len(tuner._recent) <= 20


def test_the_batch_size_adapts_by_a_fifth_within_its_bounds() -> None:
    adaptive = AdaptiveBatch()
    assert adaptive.size == 32
    assert [adaptive.observe(0.0, 1) for _ in range(10)] == [38, 46, 55, 66, 79, 95, 114, 128, 128, 128]
    assert [adaptive.observe(0.5, 1) for _ in range(14)] == [
        102,
        82,
        66,
        53,
        42,
        34,
        27,
        22,
        18,
        14,
        11,
        9,
        8,
        8,
    ]


def test_the_mean_of_conflicts_moves_by_three_tenths_and_between_the_marks_the_size_stays() -> None:
    adaptive = AdaptiveBatch()
    adaptive.observe(0.05, 10)
    assert (adaptive.conflict_rate, adaptive.size) == (0.05, 32)
    adaptive.observe(0.15, 20)
    assert adaptive.conflict_rate == pytest.approx(0.08) and adaptive.latency_ms == pytest.approx(13)
    assert adaptive.size == 26
    slow = AdaptiveBatch(AdaptiveBatchConfig(latency_ms_max=20))
    assert slow.observe(0.0, 50) == 26


def test_a_stream_of_jobs_is_cut_run_and_tuned() -> None:
    store = MvccStore()

    def write(at: int) -> Job:
        return Job(lambda txn: txn.write(b"k%d" % at, b"1"), Access(writes=[b"k%d" % at]))

    with BatchScheduler(
        store, SchedulerConfig(mode=Mode.PARALLEL, workers=2), chance=random.Random(1)
    ) as one:
        tuner = AutoTuner(one, TunerConfig(interval=2))
        adaptive = AdaptiveBatch(AdaptiveBatchConfig(size_min=8, initial=10, size_max=12))
        sizes = [
            len(result.outcomes) for result in run_in_batches(one, map(write, range(50)), adaptive, tuner)
        ]
        assert sizes == [10, 12, 12, 12, 4] and len(tuner.windows) == 2
        assert [len(r.outcomes) for r in run_in_batches(one, map(write, range(7)), 3)] == [3, 3, 1]
    assert store.total_keys() == 50


def test_configurations_out_of_their_bounds_are_refused() -> None:
    for wrong in ({"size_min": 0}, {"initial": 7}, {"alpha": 0}, {"size_max": 31}):
        with pytest.raises(ValueError):
            AdaptiveBatchConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        TunerConfig(interval=0)
    assert attrs.fields_dict(TunerConfig).keys() >= OFF.keys(), "every knob has its switch"
