"""What a node may know about its machine (TIER-2): values, with None for unknown, never 0.

A fact comes from a `Probe`: a name, the facts it gives, and a function that reads them. Probing is in
`supervm.hardware.probing`; tests feed `HardwareFacts` directly.
"""

import os
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import attrs

from supervm.hardware import system


class DiskKind(StrEnum):
    NVME = "nvme"
    SSD = "ssd"
    HDD = "hdd"
    UNKNOWN = "unknown"


class NetworkKind(StrEnum):
    ETHERNET = "ethernet"
    WIFI = "wifi"
    CELLULAR = "cellular"
    SATELLITE = "satellite"
    UNKNOWN = "unknown"


CPU_ARCHES = ("x86_64", "arm64", "riscv64", "other")
CPU_FEATURES = ("sse4_2", "avx2", "avx512f", "sha_ni", "aes", "bmi2", "neon", "sve", "sha2_arm")
MEDIA = ("internet", "satellite", "wifi", "bluetooth", "lora")


@attrs.frozen(kw_only=True)
class Gpu:
    """One GPU. `compute_capability` is (major, minor); a field the driver doesn't tell is None."""

    vendor: str
    model: str
    memory_bytes: int | None = None
    compute_capability: tuple[int, int] | None = None
    tensor_cores: bool | None = None


@attrs.frozen(kw_only=True)
class Battery:
    """The battery this machine runs from: 0 to 100 per cent; None where it doesn't tell."""

    percent: int | None = None
    charging: bool | None = None


def _unless_unknown(check: Callable[[Any], bool], expected: str) -> Any:
    """A field that is None, or passes `check`; `expected` is the mend."""

    def validate(instance: object, attribute: "attrs.Attribute[Any]", value: Any) -> None:
        if value is not None and not check(value):
            raise ValueError(f"{attribute.name} is {value!r}; expected {expected}")

    return attrs.field(default=None, validator=validate)


def _count(most: int, *, least: int = 1) -> Any:
    """A whole number; the ceiling is far beyond any machine, so that only nonsense is above it."""
    return _unless_unknown(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most,
        f"a whole number from {least} to {most}",
    )


def _text() -> Any:
    return _unless_unknown(
        lambda value: isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable(),
        "1 to 200 printable characters",
    )


def _flag() -> Any:
    return _unless_unknown(lambda value: isinstance(value, bool), "true or false")


def _one_of(names: tuple[str, ...]) -> Any:
    return _unless_unknown(lambda value: value in names, f"one of {', '.join(names)}")


def _some_of(names: tuple[str, ...]) -> Any:
    return _unless_unknown(
        lambda value: isinstance(value, frozenset) and value <= set(names), f"a set of {', '.join(names)}"
    )


def _good_gpus(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) <= 64
        and all(
            isinstance(gpu, Gpu) and (gpu.memory_bytes is None or 0 < gpu.memory_bytes <= 2**50)
            for gpu in value
        )
    )


def _good_battery(value: Any) -> bool:
    return isinstance(value, Battery) and (value.percent is None or 0 <= value.percent <= 100)


BYTES_MAX = 2**60


@attrs.frozen(kw_only=True)
class HardwareFacts:
    """TIER-2. Every field may be None, which is unknown and never treated as 0.

    `cpu_cores_usable`: what the scheduler and every cgroup quota leave us. `memory_limit_bytes`: the
    least of the machine's memory and every cgroup limit above us. `disk_capacity_bytes`: free bytes of
    the data folder's volume plus what the folder holds already. `disk_fsync_us`: median of a synced 4 KiB
    write, measured only by `probe --deep`. `battery` is None also where there is none: then it has a
    source, and no reason for being unknown. `address_bits`: 32 or 64.
    """

    cpu_cores_usable: int | None = _count(2**16)
    cpu_cores_total: int | None = _count(2**16)
    cpu_model: str | None = _text()
    cpu_arch: str | None = _one_of(CPU_ARCHES)
    cpu_features: frozenset[str] | None = _some_of(CPU_FEATURES)
    address_bits: int | None = _count(64, least=32)
    numa_nodes: int | None = _count(2**12)
    memory_total_bytes: int | None = _count(BYTES_MAX)
    memory_limit_bytes: int | None = _count(BYTES_MAX)
    memory_available_bytes: int | None = _count(BYTES_MAX, least=0)
    disk_capacity_bytes: int | None = _count(BYTES_MAX)
    disk_free_bytes: int | None = _count(BYTES_MAX, least=0)
    disk_kind: str | None = _one_of(tuple(DiskKind))
    disk_fsync_us: int | None = _count(10**9)
    network_link_mbps: int | None = _count(10**7)
    network_kind: str | None = _one_of(tuple(NetworkKind))
    network_metered: bool | None = _flag()
    media: frozenset[str] | None = _some_of(MEDIA)
    gpus: tuple[Gpu, ...] | None = _unless_unknown(_good_gpus, "at most 64 Gpu values")
    battery: Battery | None = _unless_unknown(_good_battery, "a Battery of 0 to 100 per cent")
    os: str | None = _text()
    container: str | None = _text()
    python: str | None = _text()
    free_threaded: bool | None = _flag()
    compiler: str | None = _text()
    native_loaded: bool | None = _flag()


FACT_NAMES = tuple(field.name for field in attrs.fields(HardwareFacts))


@attrs.frozen
class Known:
    """A fact and where it was read: a path, a call, a command. None is known not to be there (a battery)."""

    value: Any
    source: str


@attrs.frozen
class Unknown:
    """A fact that a probe looked for and didn't find, and why."""

    reason: str


@attrs.frozen(kw_only=True)
class ProbeContext:
    """Where probes look. Tests point it at a recorded tree; a node uses the defaults.

    `proc`, `sys` and `root` are folders (`root` is for /etc, /run and marks left by containers).
    `data_dir` need not exist. `command` runs a program and gives its output; see `system.command`.
    `deep` asks for measurements that take time and write a small file inside `data_dir`.
    """

    data_dir: Path
    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    root: Path = Path("/")
    platform: str = system.PLATFORM
    machine: str = attrs.field(factory=system.machine)
    address_bits: int = system.ADDRESS_BITS
    environ: Mapping[str, str] = attrs.field(factory=lambda: dict(os.environ), repr=False)
    affinity: Callable[[], int | None] = system.affinity
    volume: Callable[[Path], system.Volume] = system.volume
    command: Callable[..., str] = system.command
    native: Callable[[], system.Native | None] = system.native
    deep: bool = False


Reading = Mapping[str, Any]


@attrs.frozen
class Probe:
    """One way of looking: `read` gives a value for each name in `facts`, plain, `Known` or `Unknown`.

    `read` runs in a worker thread, gets 2 s, and may be abandoned after them: it must not write outside
    the data folder, send a packet or need root. It may raise anything. A plugin's probe may give new
    facts, never one of `HardwareFacts`. One that measures is `alone`: it runs after the others, by itself.
    """

    name: str = attrs.field(validator=attrs.validators.matches_re(r"[a-z][a-z0-9-]{1,31}"))
    facts: tuple[str, ...]
    read: Callable[[ProbeContext], Reading] = attrs.field(repr=False)
    alone: bool = False
