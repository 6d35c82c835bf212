"""When to prune: fixed, or following the load within bounds (EXEC-86, EXEC-87). Pure."""

from collections.abc import Mapping
from types import MappingProxyType

import attrs
from attrs.validators import ge, gt

INTERVAL_S = (10.0, 60.0, 300.0)
"""Least, base and most, of the adaptive schedule."""
THRESHOLD = (500, 1_000, 5_000)
IDLE_CYCLES = 3
IDLE_SHARE = 0.1


@attrs.frozen(kw_only=True)
class GcConfig:
    """What an operator may set of pruning (`mvcc.gc.*`). Times in seconds, unless the name says otherwise.

    `version_threshold`: prune as soon as so many versions came (0: by time alone). `time_based`: versions
    older than `version_ttl_s` go however few there are. `pause_ms_max`: commits wait no longer than that for
    one slice. `snapshot_age_s_max`: a transaction open for longer is aborted if it may write, else told.
    """

    max_versions_per_key: int = attrs.field(default=10, validator=ge(1))
    interval_s: float = attrs.field(default=60.0, validator=gt(0))
    version_threshold: int = attrs.field(default=1_000, validator=ge(0))
    time_based: bool = False
    version_ttl_s: float = attrs.field(default=3_600.0, validator=gt(0))
    run_on_start: bool = False
    adaptive: bool = False
    pause_ms_max: float = attrs.field(default=10.0, validator=gt(0))
    snapshot_age_s_max: float = attrs.field(default=600.0, validator=gt(0))


# EXEC-88: versions a key, seconds between cycles, versions that start one.
PROFILES: Mapping[str, GcConfig] = MappingProxyType(
    {
        name: GcConfig(
            max_versions_per_key=versions,
            interval_s=interval_s,
            version_threshold=threshold,
            adaptive=name != "long_transactions",
        )
        for name, versions, interval_s, threshold in (
            ("high_throughput", 30, 120.0, 2_000),
            ("memory_tight", 10, 30.0, 500),
            ("high_conflict", 50, 60.0, 1_000),
            ("long_transactions", 100, 180.0, 5_000),
            ("tail_latency", 15, 45.0, 800),
        )
    }
)


@attrs.frozen
class Schedule:
    """What holds until the next cycle. `idle_cycles` in a row found little to clean."""

    interval_s: float
    version_threshold: int
    idle_cycles: int = 0


@attrs.frozen(kw_only=True)
class CycleFacts:
    """What happened since the cycle before: commits, versions added, versions cleaned now, versions there."""

    commits: int
    growth: int
    cleaned: int
    versions: int


def first_schedule(config: GcConfig) -> Schedule:
    """What the configuration says; within the bounds where it adapts."""
    if not config.adaptive:
        return Schedule(config.interval_s, config.version_threshold)
    return _clamped(config.interval_s, config.version_threshold, 0)


def next_schedule(config: GcConfig, now: Schedule, cycle: CycleFacts) -> Schedule:
    """The schedule after a cycle: shorter under high load, longer under low, else towards the base.

    High: more than 1,000 commits or 5,000 versions since the last. Low: fewer than 100 commits, 500
    versions and 100 cleaned; also three cycles that each cleaned less than a tenth of what was there.
    """
    if not config.adaptive:
        return now
    is_idle = cycle.cleaned < IDLE_SHARE * max(cycle.versions, 1)
    idle_cycles = min(now.idle_cycles + 1, IDLE_CYCLES) if is_idle else 0
    is_low = cycle.commits < 100 and cycle.growth < 500 and cycle.cleaned < 100
    if is_low or idle_cycles == IDLE_CYCLES:
        return _clamped(now.interval_s * 1.5, now.version_threshold * 1.25, idle_cycles)
    if cycle.commits > 1_000 or cycle.growth > 5_000:
        return _clamped(now.interval_s * 0.5, now.version_threshold * 0.75, idle_cycles)
    return _clamped(
        now.interval_s + (INTERVAL_S[1] - now.interval_s) * 0.1,
        now.version_threshold + (THRESHOLD[1] - now.version_threshold) * 0.1,
        idle_cycles,
    )


def _clamped(interval_s: float, threshold: float, idle_cycles: int) -> Schedule:
    return Schedule(
        max(INTERVAL_S[0], min(INTERVAL_S[2], interval_s)),
        round(max(THRESHOLD[0], min(THRESHOLD[2], threshold))),
        idle_cycles,
    )


@attrs.frozen(kw_only=True)
class GcHealth:
    """What is not as it should be with the versions of a store, in words; nothing where all is well."""

    warnings: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()


def gc_health(*, keys: int, versions: int, longest: int, runs_a_minute: float, versions_max: int) -> GcHealth:
    """Judge a store by the bounds of EXEC-88. `longest`: versions of the key that has most."""
    average = versions / keys if keys else 0.0
    found = (
        (versions >= keys * versions_max * 1.5 and keys > 0, f"{versions} versions of {keys} keys"),
        (average >= versions_max * 1.2, f"{average:.1f} versions a key, {versions_max} may be kept"),
        (average > 50, f"{average:.1f} versions a key"),
        (longest > max(20, versions_max), f"a key has {longest} versions"),
        (versions - keys > 100_000, f"{versions - keys} versions besides the newest of each key"),
        (10 < runs_a_minute <= 20, f"{runs_a_minute:.0f} pruning runs a minute"),
    )
    alarms = (f"{runs_a_minute:.0f} pruning runs a minute",) if runs_a_minute > 20 else ()
    return GcHealth(warnings=tuple(text for wrong, text in found if wrong), alarms=alarms)
