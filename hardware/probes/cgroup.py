"""Control groups, version 1 and 2: which folders limit this process, and by how much.

A limit of any ancestor holds, so every folder from ours up to the mount is read. What lies above the
mount (outside our namespace) can't be seen; version 1 tells it in `hierarchical_memory_limit`.
"""

from pathlib import Path

import attrs

from supervm.hardware.facts import ProbeContext
from supervm.hardware.reading import Unreadable, exists, read_line, read_text, to_int

DEPTH_MAX = 64


@attrs.frozen
class Group:
    """One control group's folder, of version 1 or 2."""

    folder: Path
    version: int


@attrs.frozen
class MemoryLimit:
    """A group's memory limit, and the bytes it uses that can't be dropped; None where it doesn't tell."""

    limit_bytes: int
    used_bytes: int | None
    source: str


@attrs.frozen
class Mount:
    """One line of /proc/self/mountinfo."""

    device: str
    root: str
    point: str
    filesystem: str
    source: str
    options: tuple[str, ...]


def mounts(context: ProbeContext) -> list[Mount]:
    """The mounts this process sees; a line in another form is left out. Raises Unreadable."""
    found: list[Mount] = []
    for line in read_text(context.proc / "self" / "mountinfo").splitlines():
        before, separator, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if not separator or len(left) < 6 or len(right) < 2:
            continue
        options = right[2].split(",") if len(right) > 2 else []
        found.append(
            Mount(left[2], _plain(left[3]), _plain(left[4]), right[0], _plain(right[1]), tuple(options))
        )
    return found


def _plain(text: str) -> str:
    """mountinfo writes blanks and backslashes in octal."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def groups(context: ProbeContext, controller: str, notes: list[str]) -> list[Group]:
    """The groups that may limit `controller` for this process, ours first. Raises Unreadable.

    What can't be seen is added to `notes`.
    """
    paths: dict[int, str] = {}
    for line in read_text(context.proc / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, separator, path = rest.partition(":")
        if not separator or not path.startswith("/"):
            continue
        if number == "0" and not names:
            paths[2] = path
        elif controller in names.split(","):
            paths[1] = path
    found: list[Group] = []
    mounted = mounts(context)
    for version, path in sorted(paths.items()):
        for mount in mounted:
            if _is_for(mount, version, controller):
                found += [Group(folder, version) for folder in _upwards(context, mount, path)]
                break
        else:
            notes.append(f"version {version} groups of {controller} are not mounted")
    return found


def _is_for(mount: Mount, version: int, controller: str) -> bool:
    if version == 2:
        return mount.filesystem == "cgroup2"
    return mount.filesystem == "cgroup" and controller in mount.options


def _upwards(context: ProbeContext, mount: Mount, path: str) -> list[Path]:
    """The folders from `path` up to the mount. A path outside the mounted part gives the mount alone."""
    top = located(context, mount.point)
    if mount.root != "/":
        path = path.removeprefix(mount.root) if (path + "/").startswith(mount.root + "/") else ""
    parts = [part for part in path.split("/") if part]
    if ".." in parts or len(parts) > DEPTH_MAX:
        parts = []
    return [top.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def located(context: ProbeContext, absolute: str) -> Path:
    """Where an absolute path of the machine lies in this context."""
    for prefix, folder in (("/sys", context.sys), ("/proc", context.proc)):
        if (absolute + "/").startswith(prefix + "/"):
            return folder / absolute[len(prefix) :].lstrip("/")
    return context.root / absolute.lstrip("/")


def memory_limits(context: ProbeContext, notes: list[str]) -> list[MemoryLimit]:
    """Every memory limit above this process; what can't be seen is added to `notes`. Never raises."""
    found: list[MemoryLimit] = []
    for group in _groups_or_note(context, "memory", notes):
        name = "memory.max" if group.version == 2 else "memory.limit_in_bytes"
        limit = _limit(group.folder / name, notes)
        if limit is not None:
            found.append(MemoryLimit(limit, _used(group), str(group.folder / name)))
        if group.version == 1:
            above = _stat(group.folder).get("hierarchical_memory_limit", 0)
            if above > 0:
                source = f"{group.folder / 'memory.stat'} hierarchical_memory_limit"
                found.append(MemoryLimit(above, _used(group), source))
    return found


def _groups_or_note(context: ProbeContext, controller: str, notes: list[str]) -> list[Group]:
    try:
        return groups(context, controller, notes)
    except Unreadable as error:
        notes.append(str(error))
        return []


def _limit(path: Path, notes: list[str]) -> int | None:
    """A limit of more than 0 bytes; None for `max`, for nonsense, and where there is no file (the root)."""
    if not exists(path):
        return None
    try:
        text = read_line(path)
        limit = None if text == "max" else to_int(text, str(path))
    except Unreadable as error:
        notes.append(str(error))
        return None
    if limit is not None and limit <= 0:
        notes.append(f"{path}: {limit} is no limit")
        return None
    return limit


def _stat(folder: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    try:
        for line in read_text(folder / "memory.stat").splitlines():
            name, _, value = line.partition(" ")
            found[name] = to_int(value, name)
    except Unreadable:
        return found
    return found


def _used(group: Group) -> int | None:
    """Bytes in use without the inactive page cache, which the kernel drops before it refuses memory."""
    current, cache = (
        ("memory.current", "inactive_file")
        if group.version == 2
        else ("memory.usage_in_bytes", "total_inactive_file")
    )
    try:
        used = to_int(read_line(group.folder / current), current)
    except Unreadable:
        return None
    return max(0, used - _stat(group.folder).get(cache, 0)) if used >= 0 else None


def cpu_quotas(context: ProbeContext, notes: list[str]) -> list[tuple[float, str]]:
    """Every processor quota above this process, in cores, with its source; as `memory_limits`."""
    found: list[tuple[float, str]] = []
    for group in _groups_or_note(context, "cpu", notes):
        path = group.folder / ("cpu.max" if group.version == 2 else "cpu.cfs_quota_us")
        if not exists(path):
            continue
        try:
            quota, period = _quota(group, path)
        except Unreadable as error:
            notes.append(str(error))
            continue
        if quota > 0 and period > 0:
            found.append((quota / period, str(path)))
    return found


def _quota(group: Group, path: Path) -> tuple[int, int]:
    """Microseconds of processor time in each period of microseconds; -1 is no quota. Raises Unreadable."""
    if group.version == 1:
        period = read_line(group.folder / "cpu.cfs_period_us")
        return to_int(read_line(path), str(path)), to_int(period, str(path))
    words = read_line(path).split()
    if len(words) != 2:
        raise Unreadable(f"{path}: not a quota and a period")
    return -1 if words[0] == "max" else to_int(words[0], str(path)), to_int(words[1], str(path))
