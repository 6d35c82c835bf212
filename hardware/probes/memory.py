"""Memory: what the machine has, what control groups leave us, what is free now."""

from supervm.hardware.facts import Known, Probe, ProbeContext, Reading, Unknown
from supervm.hardware.probes import cgroup
from supervm.hardware.reading import Unreadable, read_text, to_int
from supervm.hardware.system import CommandFailed

FACTS = ("memory_total_bytes", "memory_limit_bytes", "memory_available_bytes")


def read(context: ProbeContext) -> Reading:
    """Total, limit and available, in bytes."""
    if context.platform == "darwin":
        return _sysctl(context)
    path = context.proc / "meminfo"
    try:
        fields = _meminfo(read_text(path), str(path))
    except Unreadable as error:
        return dict.fromkeys(FACTS, Unknown(str(error)))
    if fields.get("MemTotal", 0) <= 0:
        return dict.fromkeys(FACTS, Unknown(f"{path}: no MemTotal in it, or not above 0"))
    total = Known(fields["MemTotal"], f"{path} MemTotal")
    notes: list[str] = []
    limits = cgroup.memory_limits(context, notes)
    note = f"; group limits unknown: {', '.join(notes)}" if notes else ""
    bounds = [(total.value, total.source)] + [(each.limit_bytes, each.source) for each in limits]
    limit, source = min(bounds)
    return {
        "memory_total_bytes": total,
        "memory_limit_bytes": Known(limit, source + note),
        "memory_available_bytes": _available(fields, limits, limit, str(path)),
    }


def _meminfo(text: str, where: str) -> dict[str, int]:
    """Lines `Name: N kB` as bytes. A line in another form is left out."""
    fields: dict[str, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            try:
                fields.setdefault(name, to_int(words[0], where) * 1024)
            except Unreadable:
                continue
    return fields


def _available(
    fields: dict[str, int], limits: list[cgroup.MemoryLimit], limit: int, path: str
) -> Known | Unknown:
    """The least of MemAvailable and what each limited group has left."""
    if fields.get("MemAvailable", -1) < 0:
        return Unknown(f"{path}: no MemAvailable in it, or below 0")
    bounds = [(fields["MemAvailable"], f"{path} MemAvailable")]
    # An unlimited group of version 1 states a limit beyond any memory, which is never the least.
    bounds += [
        (max(0, each.limit_bytes - each.used_bytes), f"{each.source} less what is used")
        for each in limits
        if each.used_bytes is not None
    ]
    available, source = min(bounds)
    return Known(min(available, limit), source)


def _sysctl(context: ProbeContext) -> Reading:
    """macOS has no control groups; what is available is not one number there."""
    try:
        total = Known(
            to_int(context.command(["sysctl", "-n", "hw.memsize"]).strip(), "hw.memsize"), "sysctl hw.memsize"
        )
    except (CommandFailed, Unreadable) as error:
        return dict.fromkeys(FACTS, Unknown(str(error)))
    return {
        "memory_total_bytes": total,
        "memory_limit_bytes": total,
        "memory_available_bytes": Unknown("macOS doesn't tell it as one number"),
    }


PROBE = Probe("memory", FACTS, read)
