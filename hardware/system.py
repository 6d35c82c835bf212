"""What probes ask of the running system apart from files: each call here has a stand-in in tests."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs

from supervm.hardware.reading import exists

PLATFORM = sys.platform
ADDRESS_BITS = 64 if sys.maxsize > 2**32 else 32
COMMAND_SECONDS = 1.5
COMMAND_BYTES_MAX = 256 * 1024


class CommandFailed(Exception):
    """A program is missing, failed, or took too long; the message says which."""


@attrs.frozen
class Volume:
    """The volume that holds a folder: its device as (major, minor), and free bytes for us."""

    device: tuple[int, int]
    free_bytes: int
    path: Path


def machine() -> str:
    """The machine's name for its processor, e.g. `x86_64`, `aarch64`, `AMD64`."""
    return platform.machine()


def affinity() -> int | None:
    """Logical processors that the scheduler lets this process use; None where it doesn't tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def volume(folder: Path) -> Volume:
    """The volume of `folder`, or of its nearest parent that exists. Raises OSError."""
    folder = folder.absolute()
    while not exists(folder) and folder != folder.parent:
        folder = folder.parent
    device = folder.stat().st_dev
    if hasattr(os, "statvfs"):
        facts = os.statvfs(folder)
        return Volume((os.major(device), os.minor(device)), facts.f_bavail * facts.f_frsize, folder)
    return Volume((0, 0), shutil.disk_usage(folder).free, folder)


def command(arguments: Sequence[str], timeout_s: float = COMMAND_SECONDS) -> str:
    """Run a program without a shell and give what it printed, at most 256 KiB. Raises CommandFailed."""
    program = shutil.which(arguments[0])
    if program is None:
        raise CommandFailed(f"{arguments[0]} is not installed")
    try:
        done = subprocess.run(
            [program, *arguments[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"{arguments[0]} gave no answer within {timeout_s} s") from None
    except OSError as error:
        raise CommandFailed(f"{arguments[0]} can't run: {error}") from error
    if done.returncode != 0:
        raise CommandFailed(f"{arguments[0]} ended with exit code {done.returncode}")
    return done.stdout[:COMMAND_BYTES_MAX].decode("utf-8", "replace")


@attrs.frozen
class Native:
    """What our C library says of the processor and of its own making."""

    features: frozenset[str]
    compiler: str


def native() -> Native | None:
    """Our C library's report; None where the twins run."""
    from supervm.hardware import fastpath

    features, compiler = fastpath.cpu_features(), fastpath.compiler()
    return None if features is None or compiler is None else Native(features, compiler)
