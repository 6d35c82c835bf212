"""The processor: cores we may use, cores there are, model, features, NUMA nodes."""

import re
from collections.abc import Mapping

from supervm.hardware.facts import CPU_FEATURES, Known, Probe, ProbeContext, Reading, Unknown
from supervm.hardware.probes import cgroup
from supervm.hardware.reading import Unreadable, entries, read_line, read_text, to_int
from supervm.hardware.system import CommandFailed

ARCHES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64", "riscv64": "riscv64"}
# The kernel's names where they are not TIER-70's.
ARM_FLAGS = {"asimd": "neon", "neon": "neon", "sve": "sve", "sha2": "sha2_arm", "aes": "aes"}
X86_FLAGS = ("sse4_2", "avx2", "avx512f", "sha_ni", "aes", "bmi2")


def read(context: ProbeContext) -> Reading:
    """Every fact about the processor."""
    return {
        **(_sysctl(context) if context.platform == "darwin" else _cpuinfo(context)),
        "cpu_cores_usable": _usable(context),
        "cpu_arch": Known(ARCHES.get(context.machine.lower(), "other"), "the interpreter's platform"),
        "address_bits": Known(context.address_bits, "the interpreter"),
        "numa_nodes": _numa_nodes(context),
    }


def _usable(context: ProbeContext) -> Known | Unknown:
    """min(scheduler affinity, floor of every quota above us), at least 1."""
    affinity = context.affinity()
    if affinity is None or affinity < 1:
        return Unknown("the system doesn't tell which processors this process may use")
    bounds = [(affinity, "scheduler affinity")]
    notes: list[str] = []
    if context.platform == "linux":
        bounds += [(max(1, int(cores)), source) for cores, source in cgroup.cpu_quotas(context, notes)]
    cores, source = min(bounds)
    return Known(cores, source + (f"; quotas unknown: {', '.join(notes)}" if notes else ""))


def _cpuinfo(context: ProbeContext) -> dict[str, Known | Unknown]:
    path = context.proc / "cpuinfo"
    try:
        text = read_text(path)
    except Unreadable as error:
        reason = Unknown(str(error))
        return {
            "cpu_cores_total": _online(context) or reason,
            "cpu_model": reason,
            "cpu_features": _native_features(context) or reason,
        }
    processors, fields = _parse(text)
    model = next(
        (
            fields[name]
            for name in ("model name", "Model", "Hardware", "cpu model", "uarch")
            if fields.get(name, "").isprintable() and fields.get(name)
        ),
        None,
    )
    counted = Known(processors, str(path)) if processors else Unknown(f"{path}: no processor in it")
    return {
        # The kernel's own list is short and whole; cpuinfo may be cut or leave sleeping cores out.
        "cpu_cores_total": _online(context) or counted,
        "cpu_model": Known(model[:200], str(path)) if model else Unknown(f"{path}: no model name in it"),
        "cpu_features": _features(context, fields, str(path)),
    }


def _parse(text: str) -> tuple[int, dict[str, str]]:
    """Give how many processors are listed, and the first value of each field."""
    processors = 0
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, separator, value = line.partition(":")
        name = name.strip()
        if not separator:
            continue
        if name == "processor" and value.strip().isdigit():
            processors += 1
        fields.setdefault(name, value.strip())
    return processors, fields


def _features(context: ProbeContext, fields: Mapping[str, str], path: str) -> Known | Unknown:
    if "flags" in fields:
        flags = fields["flags"].split()
        return Known(frozenset(flag for flag in flags if flag in X86_FLAGS), path)
    if "Features" in fields:
        flags = fields["Features"].split()
        return Known(frozenset(ARM_FLAGS[flag] for flag in flags if flag in ARM_FLAGS), path)
    if "isa" in fields:
        return Known(frozenset(), f"{path}: isa, in which no feature we use has a name")
    return _native_features(context) or Unknown(f"{path}: no features in it")


def _native_features(context: ProbeContext) -> Known | None:
    native = context.native()
    return Known(native.features & set(CPU_FEATURES), "our C library") if native else None


def _online(context: ProbeContext) -> Known | None:
    """Processors on line, from a list such as `0-3,8-11`."""
    path = context.sys / "devices/system/cpu/online"
    count = 0
    try:
        for part in read_line(path).split(","):
            first, _, last = part.partition("-")
            low, high = to_int(first, str(path)), to_int(last or first, str(path))
            if not 0 <= low <= high < 2**16:
                return None
            count += high - low + 1
    except Unreadable:
        return None
    return Known(count, str(path)) if count else None


def _numa_nodes(context: ProbeContext) -> Known | Unknown:
    folder = context.sys / "devices/system/node"
    try:
        nodes = [entry for entry in entries(folder) if re.fullmatch(r"node[0-9]{1,4}", entry.name)]
    except Unreadable as error:
        return Unknown(str(error))
    return Known(len(nodes), str(folder)) if nodes else Unknown(f"{folder}: no node in it")


def _sysctl(context: ProbeContext) -> dict[str, Known | Unknown]:
    """macOS."""

    def ask(name: str) -> str:
        return context.command(["sysctl", "-n", name]).strip()

    found: dict[str, Known | Unknown] = {}
    try:
        found["cpu_cores_total"] = Known(
            to_int(ask("hw.logicalcpu"), "hw.logicalcpu"), "sysctl hw.logicalcpu"
        )
        found["cpu_model"] = Known(ask("machdep.cpu.brand_string"), "sysctl machdep.cpu.brand_string")
    except (CommandFailed, Unreadable) as error:
        found.setdefault("cpu_cores_total", Unknown(str(error)))
        found.setdefault("cpu_model", Unknown(str(error)))
    found["cpu_features"] = _native_features(context) or Unknown("our C library is not loaded")
    return found


PROBE = Probe(
    "cpu",
    (
        "cpu_cores_usable",
        "cpu_cores_total",
        "cpu_model",
        "cpu_arch",
        "cpu_features",
        "address_bits",
        "numa_nodes",
    ),
    read,
)
