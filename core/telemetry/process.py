"""The `process_*` family: what the operating system says of this process (OBS-9).

Read from /proc where there is one, else from `resource`; what a platform can't say is left out.
"""

import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from supervm.telemetry.metrics import Registry

_PROC = Path("/proc/self")


def register_process(registry: Registry, started_ms: int, proc: Path = _PROC) -> None:
    """Add the process family. `started_ms` is UTC milliseconds, for `process_start_time_seconds`."""
    cpu = registry.counter("process_cpu_seconds_total", "User and system CPU time")
    before = [0.0]

    def count_cpu() -> None:
        used = time.process_time()
        cpu.inc(max(0.0, used - before[0]))
        before[0] = used

    registry.before_scrape(count_cpu)
    registry.gauge("process_start_time_seconds", "Start, in seconds since 1970").set(started_ms / 1000)
    registry.gauge("process_max_fds", "Most files it may have open", call=lambda: _fds_max())
    registry.gauge("process_resident_memory_bytes", "Resident memory", call=_resident_bytes(proc))
    if (proc / "statm").exists():
        page = os.sysconf("SC_PAGE_SIZE")
        registry.gauge(
            "process_virtual_memory_bytes",
            "Virtual memory",
            call=lambda: int((proc / "statm").read_text().split()[0]) * page,
        )
        registry.gauge("process_open_fds", "Open files", call=lambda: sum(1 for _ in (proc / "fd").iterdir()))


def resident_bytes() -> float:
    """Resident memory of this process now; where the system doesn't say, the most that it ever was."""
    return _resident_bytes(_PROC)()


def _fds_max() -> float:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return float("inf") if soft == resource.RLIM_INFINITY else float(soft)


def _resident_bytes(proc: Path) -> Callable[[], float]:
    statm = proc / "statm"
    if statm.exists():
        page = os.sysconf("SC_PAGE_SIZE")
        return lambda: int(statm.read_text().split()[1]) * page
    # The most it ever was: the nearest that POSIX gives. Linux counts KiB, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
