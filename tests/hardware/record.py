"""Record this machine as a tree: `python tests/hardware/record.py > tests/hardware/trees/NAME.tree`.

It writes what the probes read and no more: no serial numbers, addresses or host names. Read the result
before you keep it, and write down under [expected] what the machine really is.
"""

import os
import platform
import sys
from pathlib import Path

FILES = (
    "proc/cpuinfo",
    "proc/meminfo",
    "proc/self/cgroup",
    "proc/self/mountinfo",
    "proc/net/route",
    "sys/devices/system/cpu/online",
    "sys/devices/system/node/node*/cpulist",
    "sys/fs/cgroup/memory.max",
    "sys/fs/cgroup/cpu.max",
    "sys/fs/cgroup/memory/memory.limit_in_bytes",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us",
    "sys/class/net/*/type",
    "sys/class/net/*/operstate",
    "sys/class/net/*/flags",
    "sys/class/net/*/speed",
    "sys/class/net/*/device/vendor",
    "sys/class/power_supply/*/type",
    "sys/class/power_supply/*/scope",
    "sys/class/power_supply/*/present",
    "sys/class/power_supply/*/capacity",
    "sys/class/power_supply/*/status",
    "sys/bus/pci/devices/*/class",
    "sys/bus/pci/devices/*/vendor",
    "sys/bus/pci/devices/*/device",
)


def record(root: Path = Path("/")) -> str:
    """The tree as text."""
    device = root.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    lines = [
        f'machine = "{platform.machine()}"',
        f"affinity = {len(os.sched_getaffinity(0))}",
        f"device = [{os.major(device)}, {os.minor(device)}]",
        f"free_bytes = {os.statvfs(root).f_bavail * os.statvfs(root).f_frsize}",
        "",
        "[expected]",
        "",
    ]
    paths = [path for pattern in FILES for path in sorted(root.glob(pattern))]
    block = root / "sys/dev/block" / number
    if block.is_symlink():
        lines.append(f"@ {block.relative_to(root)} -> {block.readlink()}")
        paths.append(Path(os.path.realpath(block)) / "queue/rotational")
    for path in paths:
        try:
            text = path.read_text()
        except OSError as error:
            print(f"left out {path}: {error.strerror}", file=sys.stderr)
            continue
        lines += [f"@ {path.relative_to(root)}", text.removesuffix("\n")]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(record())
