"""The audit log: what was done to a node, a line each, every line bound to the one before it (OBS-42).

    {"time":"2026-11-21T06:14:59.075Z","action":"node_started","tier":"L2","previous":"6f0c.."}

`previous` is the blake3 of the line before, without its newline; zeros in the first. A line that is
changed, left out, put in or moved breaks the chain at the line after it. What was cut off at the end, or a
file that was made anew, doesn't show in the file itself: keep the digest of the last line elsewhere.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
from blake3 import blake3

FILE_NAME = "audit.log"
LINE_BYTES_MAX = 64 * 1024
TEXT_CHARACTERS_MAX = 1024
ITEMS_MAX = 32
FIRST = "0" * 64
BROKEN_OFF = "line_broken_off"
"""The action that says: the line before was cut short by a crash while it was written."""


@attrs.frozen(kw_only=True)
class ObservabilityConfig:
    """`audit_log`: keep what was done to the node in `audit.log` in the data folder."""

    audit_log: bool = False


class AuditBroken(Exception):
    """The audit log isn't what was written. `line` is the first that shows it, counted from 1."""

    def __init__(self, path: Path, line: int, problem: str) -> None:
        self.path, self.line = path, line
        super().__init__(f"{path}, line {line}: {problem}; keep the file and find out who changed it")


@attrs.frozen(kw_only=True)
class Verified:
    """A chain without a break: how many lines, and the digest of the last (zeros for none)."""

    lines: int
    last: str


@attrs.define(eq=False)
class AuditLog:
    """An open audit log. Use `open_audit`."""

    _descriptor: int
    _previous: str
    _wall_ms: Callable[[], int]
    _lock: threading.Lock = attrs.Factory(threading.Lock)

    def append(self, action: str, **facts: Any) -> None:
        """Write one line and wait until it is on the disk. Blocks; any thread may call it.

        Facts are text, numbers or lists of text; long ones are cut. Raises OSError: then it isn't written.
        """
        with self._lock:
            stamp = datetime.fromtimestamp(self._wall_ms() / 1000, UTC).isoformat(timespec="milliseconds")
            known = {name: _cut(value) for name, value in facts.items()}
            entry = {
                "time": stamp.replace("+00:00", "Z"),
                "action": action,
                **known,
                "previous": self._previous,
            }
            line = json.dumps(entry, separators=(",", ":")).encode()
            assert len(line) < LINE_BYTES_MAX, "an action has few facts"
            start = os.lseek(self._descriptor, 0, os.SEEK_END)
            try:
                _write(self._descriptor, line + b"\n")
            except OSError:
                # A full disk took a part of it. The next line must not be glued to that.
                os.ftruncate(self._descriptor, start)
                raise
            self._previous = _digest(line)


@contextmanager
def open_audit(path: Path, wall_ms: Callable[[], int]) -> Iterator[AuditLog]:
    """Go on with the log at `path`, or begin it (mode 0600). Reads its last line only; `verify` reads all.

    Raises OSError, or `AuditBroken` where the last line can't be one of ours.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        last, whole = _last_line(path, descriptor)
        audit = AuditLog(descriptor, FIRST if last is None else _digest(last), wall_ms)
        if last is None:
            _sync_folder(path.parent)
        if not whole:
            _write(descriptor, b"\n")
            audit.append(BROKEN_OFF)
        yield audit
    finally:
        os.close(descriptor)


def verify(path: Path, kept: str = "") -> Verified:
    """Read the whole log and check the chain. `kept`: the digest of a line that must be in it.

    Raises `AuditBroken` naming the first line that doesn't fit, or OSError.
    """
    previous, broken, count, found = FIRST, "", 0, not kept
    with path.open("rb") as file:
        while data := file.readline(LINE_BYTES_MAX + 1):
            count += 1
            if len(data) > LINE_BYTES_MAX:
                raise AuditBroken(path, count, f"longer than {LINE_BYTES_MAX} bytes")
            line = data.removesuffix(b"\n")
            entry = _entry(line)
            if broken and (entry is None or entry.get("action") != BROKEN_OFF):
                raise AuditBroken(path, count - 1, broken)
            broken = "" if entry is not None and data.endswith(b"\n") else "no entry of an audit log"
            if entry is not None and entry.get("previous") != previous:
                raise AuditBroken(path, count, "it doesn't follow from the line before it")
            previous = _digest(line)
            found = found or previous == kept
    if broken:
        raise AuditBroken(path, count, broken)
    if not found:
        raise AuditBroken(path, max(count, 1), f"no line has the digest {kept[:80]}: lines are missing")
    return Verified(lines=count, last=previous)


def _entry(line: bytes) -> Mapping[str, Any] | None:
    """What a line says, None where it isn't JSON of ours."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("previous"), str) else None


def _last_line(path: Path, descriptor: int) -> tuple[bytes | None, bool]:
    """(the last line, None in an empty file; whether it was written to its end)."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if size == 0:
        return None, True
    start = max(0, size - LINE_BYTES_MAX - 1)
    tail = os.pread(descriptor, size - start, start)
    whole = tail.endswith(b"\n")
    before, newline, last = tail.removesuffix(b"\n").rpartition(b"\n")
    if start > 0 and not newline:
        raise AuditBroken(path, 1 + before.count(b"\n"), f"the last line has over {LINE_BYTES_MAX} bytes")
    return last, whole


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(line: bytes) -> str:
    return blake3(line).hexdigest()


def _cut(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_cut(item) for item in value[:ITEMS_MAX]]
    return value if isinstance(value, bool | int) else str(value)[:TEXT_CHARACTERS_MAX]
