"""Reading small files of /proc and /sys, which may be missing, endless, blocking or garbage."""

import os
import stat
from pathlib import Path

FILE_BYTES_MAX = 4 * 2**20  # /proc/cpuinfo of a 1,000-core machine is about 1.5 MB
ENTRIES_MAX = 4096


class Unreadable(Exception):
    """A file can't be read as what it should be; the message names it and says why."""


def read_text(path: Path) -> str:
    """The text of a regular file of at most 4 MiB; raises Unreadable, never blocks on a pipe."""
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for a writer that never comes.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Unreadable(f"{path}: not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if len(data) > FILE_BYTES_MAX:
        raise Unreadable(f"{path}: more than {FILE_BYTES_MAX} bytes")
    return data.decode("utf-8", "replace")


def read_line(path: Path) -> str:
    """The first line of a file, without blanks around it."""
    return read_text(path).partition("\n")[0].strip()


def read_int(path: Path) -> int:
    """A file that holds one decimal whole number of at most 20 digits."""
    return to_int(read_line(path), str(path))


def to_int(text: str, where: str) -> int:
    """`text` as a decimal whole number of at most 20 digits; `where` names it in the error."""
    digits = text[1:] if text[:1] == "-" else text
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
        raise Unreadable(f"{where}: {text[:40]!r} is not a whole number")
    return int(text)


def exists(path: Path) -> bool:
    """Whether something is there to see. pathlib's own raises where a folder above is closed to us."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def entries(folder: Path) -> list[Path]:
    """What a folder holds, by name; at most 4,096. Raises Unreadable."""
    found: list[Path] = []
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                if len(found) == ENTRIES_MAX:
                    raise Unreadable(f"{folder}: more than {ENTRIES_MAX} entries")
                found.append(folder / entry.name)
    except OSError as error:
        raise Unreadable(f"{folder}: {error.strerror}") from error
    return sorted(found)
