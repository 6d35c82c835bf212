"""The volume that holds the data folder: its size for us, and what kind of disk is under it."""

import os
import time
from pathlib import Path

from supervm.hardware.facts import DiskKind, Known, Probe, ProbeContext, Reading, Unknown
from supervm.hardware.probes import cgroup
from supervm.hardware.reading import Unreadable, entries, exists, read_int, read_line
from supervm.hardware.system import Volume

FOLDER_ENTRIES_MAX = 100_000
FOLDER_SECONDS_MAX = 1.0
STACK_DEPTH_MAX = 8
# Their drivers state "rotating" whatever is under them.
VIRTUAL_VENDORS = ("QEMU", "VMware", "Msft", "VBOX", "Google")
# Slowest first: a volume over several disks is as fast as its slowest.
SLOWEST_FIRST = (DiskKind.UNKNOWN, DiskKind.HDD, DiskKind.SSD, DiskKind.NVME)


def read(context: ProbeContext) -> Reading:
    """Capacity, free bytes, kind."""
    try:
        volume = context.volume(context.data_dir)
    except OSError as error:
        unknown = Unknown(f"{context.data_dir}: {error.strerror}")
        return {"disk_capacity_bytes": unknown, "disk_free_bytes": unknown, "disk_kind": unknown}
    used, whole = folder_bytes(context.data_dir)
    capacity = volume.free_bytes + used
    counted = "" if whole else ", counted only in part"
    return {
        "disk_capacity_bytes": Known(capacity, f"free on {volume.path}, plus {used} bytes of ours{counted}")
        if capacity > 0
        else Unknown(f"{volume.path}: no byte is free and the data folder holds none"),
        "disk_free_bytes": Known(volume.free_bytes, f"file system of {volume.path}"),
        "disk_kind": _kind(context, volume),
    }


def folder_bytes(folder: Path) -> tuple[int, bool]:
    """Bytes that files below `folder` take on disk, and whether all were counted (bounded)."""
    until = time.monotonic() + FOLDER_SECONDS_MAX
    waiting = [str(folder)]
    seen = total = 0
    while waiting:
        try:
            with os.scandir(waiting.pop()) as listing:
                for entry in listing:
                    seen += 1
                    if seen > FOLDER_ENTRIES_MAX or time.monotonic() > until:
                        return total, False
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        facts = entry.stat(follow_symlinks=False)
                        total += getattr(facts, "st_blocks", facts.st_size // 512) * 512
        except OSError:
            # A file or folder may go away while we count, or not be ours to read.
            continue
    return total, True


def _kind(context: ProbeContext, volume: Volume) -> Known | Unknown:
    if context.platform != "linux":
        return Unknown("known on Linux only")
    try:
        device = _device_folder(context, volume)
        kind, source = _kind_of(device, 0)
    except Unreadable as error:
        return Unknown(str(error))
    return Unknown(source) if kind is DiskKind.UNKNOWN else Known(kind, source)


def _device_folder(context: ProbeContext, volume: Volume) -> Path:
    """The folder in /sys of the block device under a volume. Raises Unreadable with the reason."""
    number = f"{volume.device[0]}:{volume.device[1]}"
    if volume.device[0] != 0:
        return _real(context.sys / "dev/block" / number)
    # Major 0 is a file system without a device of its own; some name the device that they lie on.
    mount = next((mount for mount in cgroup.mounts(context) if mount.device == number), None)
    if mount is None:
        raise Unreadable(f"device {number} of {volume.path} has no block device and no mount")
    if not mount.source.startswith("/dev/"):
        raise Unreadable(f"{volume.path} is {mount.filesystem}, which doesn't tell the disk under it")
    return _real(context.sys / "class/block" / mount.source.removeprefix("/dev/").replace("/", "!"))


def _real(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path, strict=True))
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error


def _kind_of(device: Path, depth: int) -> tuple[DiskKind, str]:
    """The kind of a block device, through partitions and stacked devices (device mapper, RAID)."""
    if depth > STACK_DEPTH_MAX:
        raise Unreadable(f"{device}: more than {STACK_DEPTH_MAX} devices stacked")
    if exists(device / "partition"):
        device = device.parent
    below = entries(device / "slaves") if exists(device / "slaves") else []
    if below:
        kinds = [_kind_of(_real(slave), depth + 1) for slave in below]
        return min(kinds, key=lambda found: SLOWEST_FIRST.index(found[0]))
    name = device.name
    if name.startswith("nvme"):
        return DiskKind.NVME, str(device)
    if name.startswith(("loop", "zram", "ram", "dm-")):
        return DiskKind.UNKNOWN, f"{device}: not a disk by itself"
    path = device / "queue/rotational"
    rotational = read_int(path)
    if rotational == 0:
        return DiskKind.SSD, str(path)
    if rotational != 1:
        raise Unreadable(f"{path}: {rotational} is neither 0 nor 1")
    if name.startswith(("vd", "xvd")) or _vendor(device).startswith(VIRTUAL_VENDORS):
        return DiskKind.UNKNOWN, f"{path}: a virtual disk states rotating whatever it is"
    return DiskKind.HDD, str(path)


def _vendor(device: Path) -> str:
    try:
        return read_line(device / "device/vendor")
    except Unreadable:
        return ""


PROBE = Probe("disk", ("disk_capacity_bytes", "disk_free_bytes", "disk_kind"), read)
