"""The ground we run on: operating system, container, interpreter, our C library."""

import platform
import sysconfig

from supervm.hardware.facts import Known, Probe, ProbeContext, Reading, Unknown
from supervm.hardware.reading import Unreadable, exists, read_line, read_text

CGROUP_MARKS = (
    ("kubepods", "kubernetes"),
    ("docker", "docker"),
    ("libpod", "podman"),
    ("containerd", "containerd"),
    ("lxc", "lxc"),
)


def read(context: ProbeContext) -> Reading:
    """Five facts of the surroundings, and what our C library says of itself."""
    native = context.native()
    return {
        "os": _os(context),
        "container": _container(context),
        "python": Known(f"{platform.python_implementation()} {platform.python_version()}", "the interpreter"),
        "free_threaded": Known(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), "the interpreter's build"),
        "compiler": Known(native.compiler[:200], "our C library")
        if native
        else Unknown("our C library is not loaded"),
        "native_loaded": Known(native is not None, "our C library" if native else "no C library"),
    }


def _os(context: ProbeContext) -> Known:
    if context.platform != "linux":
        return Known(platform.platform()[:200], "the interpreter's platform")
    path = context.root / "etc/os-release"
    try:
        for line in read_text(path).splitlines():
            if line.startswith("PRETTY_NAME="):
                name = line.removeprefix("PRETTY_NAME=").strip("\"' ")
                if name and name.isprintable():
                    return Known(name[:200], str(path))
    except Unreadable:
        return Known("Linux", "the interpreter's platform")
    return Known("Linux", "the interpreter's platform")


def _container(context: ProbeContext) -> Known | Unknown:
    """The container's kind by the marks that runtimes leave, or `none`."""
    if context.platform != "linux":
        return Unknown("known on Linux only")
    if "KUBERNETES_SERVICE_HOST" in context.environ:
        return Known("kubernetes", "KUBERNETES_SERVICE_HOST is set")
    for mark, name in ((".dockerenv", "docker"), ("run/.containerenv", "podman")):
        if exists(context.root / mark):
            return Known(name, f"{context.root / mark} exists")
    told = _told(context)
    if told is not None:
        return told
    try:
        line = read_text(context.proc / "self/cgroup")
    except Unreadable as error:
        return Unknown(str(error))
    for mark, name in CGROUP_MARKS:
        if mark in line:
            return Known(name, f"{context.proc / 'self/cgroup'} names it")
    return Known("none", "no mark of a container runtime")


def _told(context: ProbeContext) -> Known | None:
    """What systemd or the runtime wrote down for us."""
    name = context.environ.get("container", "")
    if name and name.isprintable():
        return Known(name[:50], "the variable `container`")
    for path in (context.root / "run/systemd/container", context.proc / "sys/kernel/osrelease"):
        try:
            text = read_line(path)
        except Unreadable:
            continue
        if path.name == "container" and text and text.isprintable():
            return Known(text[:50], str(path))
        if path.name == "osrelease" and "microsoft" in text.lower():
            return Known("wsl", str(path))
    return None


PROBE = Probe("host", ("os", "container", "python", "free_threaded", "compiler", "native_loaded"), read)
