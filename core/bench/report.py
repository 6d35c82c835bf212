"""The one JSON shape of every benchmark, and what machine it ran on."""

import math
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from supervm import __version__


@attrs.frozen(kw_only=True)
class BenchResult:
    """`goodput` is committed, successful transactions a second; `oracle` is "ok" or what broke.

    `extra` holds what only this benchmark tells, `hardware` what the probes say of the machine.
    """

    name: str
    parameters: Mapping[str, Any]
    goodput: float | None
    attempts: int
    failed: int
    latency_ms: Mapping[str, float] | None = None
    ratios: Mapping[str, float] = attrs.Factory(dict)
    peers_missing: tuple[str, ...] = ()
    oracle: str
    tier: str | None = None
    hardware: Mapping[str, Any] = attrs.Factory(dict)
    extra: Mapping[str, Any] = attrs.Factory(dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "parameters": dict(self.parameters),
            "goodput": self.goodput,
            "attempts": self.attempts,
            "failed": self.failed,
            "latency_ms": dict(self.latency_ms) if self.latency_ms is not None else None,
            "ratios": dict(self.ratios),
            "peers_missing": list(self.peers_missing),
            "oracle": self.oracle,
            "machine": {**machine(self.tier), **self.hardware},
            **self.extra,
        }


def machine(tier: str | None) -> dict[str, Any]:
    """What a figure's reader needs to know of the machine; unknown is None."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": usable,
        "os": platform.platform(),
        "python": platform.python_version(),
        "supervm": __version__,
        "tier": tier,
    }


def percentile(ordered: Sequence[float], fraction: float) -> float | None:
    """The smallest value that at least `fraction` of an ascending list doesn't exceed; None of none."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(len(ordered) * fraction) - 1)]
