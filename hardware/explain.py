"""Saying what was found and chosen, and why (TIER-9): one line for `run`, all of it for `probe`."""

from collections.abc import Mapping
from typing import Any

import attrs

from supervm.hardware import fastpath
from supervm.hardware.facts import FACT_NAMES, Battery, Gpu, HardwareFacts
from supervm.hardware.probing import ProbeReport
from supervm.hardware.profiles import Profile
from supervm.hardware.sizing import Sizes
from supervm.hardware.tiers import AUTO, NAMES, Row, TierDecision, gigabytes

JSON_FORMAT = 1


@attrs.frozen(kw_only=True)
class Machine:
    """Everything that follows from the hardware: what was found, the tier, the sizes, the profile."""

    report: ProbeReport
    decision: TierDecision
    sizes: Sizes
    profile: Profile

    @property
    def facts(self) -> HardwareFacts:
        return self.report.facts


def one_line(machine: Machine) -> str:
    """`tier L2: 16 cores, 67 GB, 512 GB disk (L1 needs 32 cores)`."""
    facts, decision = machine.facts, machine.decision
    cores = "unknown" if facts.cpu_cores_usable is None else str(facts.cpu_cores_usable)
    memory, disk = gigabytes(facts.memory_limit_bytes), gigabytes(facts.disk_capacity_bytes)
    why = ""
    if decision.override != AUTO:
        why = f" (asked for; by hardware {decision.by_hardware})"
    elif decision.caps:
        why = f" ({'; '.join(str(cap) for cap in decision.caps)})"
    elif decision.next_better is not None:
        why = f" ({decision.next_better.tier} needs {decision.next_better.needs})"
    return f"tier {decision.tier}: {cores} cores, {memory}, {disk} disk{why}"


def explain(machine: Machine) -> list[str]:
    """The whole report as lines for people."""
    report, decision = machine.report, machine.decision
    lines = [one_line(machine), "", "facts"]
    for name in FACT_NAMES:
        value = getattr(report.facts, name)
        if name in report.unknown:
            lines.append(f"  {name:24} unknown ({report.unknown[name]})")
        else:
            lines.append(f"  {name:24} {_text(name, value)} ({report.sources[name]})")
    extra = [f"  {name:32} {value} ({report.sources[name]})" for name, value in sorted(report.extra.items())]
    extra += [
        f"  {name:32} unknown ({reason})"
        for name, reason in sorted(report.unknown.items())
        if name not in FACT_NAMES
    ]
    lines += ["", "more facts", *extra] if extra else []
    lines += ["", "tier", f"  {decision.tier} {NAMES[decision.tier]}{_why_tier(decision)}"]
    lines += [f"  not {each.tier}: {each}" for each in decision.failed]
    lines += [f"  cap: {cap}" for cap in decision.caps]
    lines += [f"  warning: {warning}" for warning in decision.warnings]
    lines += ["", f"{machine.profile.origin}"]
    for key, value in machine.profile.values.items():
        lines.append(f"  {key:38} {_plain(value)} ({machine.profile.reasons[key]})")
    lines += ["", "sizes"]
    lines += [f"  {size.key:28} {size.value} ({size.formula})" for size in machine.sizes.by_key.values()]
    lines += ["", "fast paths"]
    lines += [f"  {name:28} {found.path} ({found.reason})" for name, found in fastpath.report().items()]
    failures = sorted(report.failures.items())
    lines += (
        ["", "probes that failed", *(f"  {name}: {reason}" for name, reason in failures)] if failures else []
    )
    return lines


def report_json(machine: Machine) -> dict[str, Any]:
    """The same as JSON values. Keys are stable: every fact is there, known or not."""
    report, decision = machine.report, machine.decision
    return {
        "format": JSON_FORMAT,
        "summary": one_line(machine),
        "facts": {
            name: {
                "value": _json(getattr(report.facts, name)),
                "source": report.sources.get(name),
                "unknown": report.unknown.get(name),
            }
            for name in FACT_NAMES
        },
        "extra": {
            name: {
                "value": report.extra.get(name),
                "source": report.sources.get(name),
                "unknown": report.unknown.get(name),
            }
            for name in sorted({*report.extra, *report.unknown} - {*FACT_NAMES})
        },
        "capability": capability(report.facts),
        "tier": {
            "tier": decision.tier,
            "name": NAMES[decision.tier],
            "by_hardware": decision.by_hardware,
            "override": decision.override,
            "matched": attrs.asdict(decision.matched),
            "failed": [attrs.asdict(each) | {"text": str(each)} for each in decision.failed],
            "caps": [attrs.asdict(cap) for cap in decision.caps],
            "warnings": list(decision.warnings),
        },
        "profile": {
            "name": machine.profile.name,
            "values": {
                key: {"value": _json(value), "reason": machine.profile.reasons[key]}
                for key, value in machine.profile.values.items()
            },
            "fallback": {role: list(names) for role, names in machine.profile.fallback.items()},
        },
        "sizes": {
            key: {"value": size.value, "formula": size.formula} for key, size in machine.sizes.by_key.items()
        },
        "fast_paths": {name: attrs.asdict(found) for name, found in fastpath.report().items()},
        "probes": {
            name: {"seconds": round(seconds, 6), "failure": report.failures.get(name)}
            for name, seconds in sorted((dict.fromkeys(report.failures, 0.0) | dict(report.seconds)).items())
        },
    }


def capability(facts: HardwareFacts) -> dict[str, Any]:
    """The short form that goes over the network (TIER-2); None is unknown."""

    def whole_gb(value: int | None) -> int | None:
        return None if value is None else value // 10**9

    memories = [gpu.memory_bytes for gpu in facts.gpus or () if gpu.memory_bytes is not None]
    return {
        "cpu_cores": facts.cpu_cores_usable,
        "memory_gb": whole_gb(facts.memory_limit_bytes),
        "disk_gb": whole_gb(facts.disk_capacity_bytes),
        "network_mbps": facts.network_link_mbps,
        "gpu_count": None if facts.gpus is None else len(facts.gpus),
        "gpu_memory_gb": whole_gb(sum(memories)) if memories else None,
        "arch": facts.cpu_arch,
    }


def _why_tier(decision: TierDecision) -> str:
    if decision.override != AUTO:
        return f" (asked for; by hardware {decision.by_hardware})"
    row: Row = decision.matched
    if row.tier == "L4":
        return " (no minimum)"
    needs = f"{row.cores} cores, {row.memory_gb} GB memory, {row.disk_gb} GB disk"
    return f" (the facts meet {row.tier}: {needs})"


def _text(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if name.endswith("_bytes"):
        return f"{gigabytes(value)} ({value})"
    if isinstance(value, Battery):
        state = "charging" if value.charging else "discharging" if value.charging is False else "?"
        return f"{'?' if value.percent is None else value.percent} %, {state}"
    if isinstance(value, tuple):
        return ", ".join(f"{gpu.vendor} {gpu.model} {gigabytes(gpu.memory_bytes)}" for gpu in value) or "none"
    return str(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset | list):
        return ", ".join(sorted(value)) or "none"
    return value


def _json(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return [_json(each) for each in value]
    if isinstance(value, Gpu | Battery):
        return {name: _json(each) for name, each in attrs.asdict(value).items()}
    if isinstance(value, Mapping):
        return {str(key): _json(each) for key, each in value.items()}
    return value
