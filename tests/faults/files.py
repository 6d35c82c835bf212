"""A file system that fails at one chosen call, beneath the files that Python code writes (STO-44, STO-104).

While `faulty_files` lasts, what `open` and `os` do below one folder is counted, and the n-th call of the
fault's sort fails. For power loss it follows what was synced: a file's bytes by its fsync, a name by its
folder's. What was not may be there or not, each name and each block of a file by itself: no order is sure.
"""

import builtins
import errno
import io
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

import attrs

from tests.faults.store import PowerLost, flipped

BLOCK_BYTES = 512


class FileFault(StrEnum):
    """What a file system can do. All but the flips are told to whoever called."""

    WRITE_ERROR = "write error"
    SHORT_WRITE = "short write"
    DISK_FULL = "disk full"
    SYNC_ERROR = "failed sync"
    READ_ERROR = "read error"
    POWER_LOSS = "power loss"
    FLIP_ON_READ = "bit flip on read"
    FLIP_AT_REST = "bit flip at rest"
    CUT_AT_REST = "file cut short at rest"


AT_REST = frozenset({FileFault.FLIP_AT_REST, FileFault.CUT_AT_REST})
_SORTS = {
    FileFault.WRITE_ERROR: {"write"},
    FileFault.SHORT_WRITE: {"write"},
    FileFault.DISK_FULL: {"write", "create", "rename"},
    FileFault.SYNC_ERROR: {"sync"},
    FileFault.READ_ERROR: {"read"},
    FileFault.FLIP_ON_READ: {"read"},
    FileFault.POWER_LOSS: {"write", "create", "rename", "unlink", "sync"},
}

_open, _os_open, _fsync = io.open, os.open, os.fsync
_CALLS = ("replace", "rename", "unlink", "mkdir", "fsync", "open", "pwrite")
_REAL: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in _CALLS}


@attrs.frozen
class Entry:
    """What a name leads to."""

    inode: int
    is_folder: bool


@attrs.define
class FaultyFiles:
    """One folder's file system, and the one fault that it will have. `injected` says where, in words."""

    root: Path
    kind: FileFault | None
    at: int
    chance: random.Random
    calls: int = 0
    injected: str = ""
    left: dict[str, bytes | None] | None = None  # after a power loss: files, and folders as None
    _bytes: dict[int, bytes] = attrs.Factory(dict)  # inode to what of it was synced
    _names: dict[int, dict[str, Entry]] = attrs.Factory(dict)  # a folder's inode to names that were synced

    def __attrs_post_init__(self) -> None:
        for folder, _, files in os.walk(self.root):
            self._sync_folder(Path(folder))
            for name in files:
                self._sync_file(Path(folder, name))

    def due(self, sort: str, path: object) -> bool:
        """Count a call; whether it is the one that fails. After the power failed every call ends so."""
        if self.left is not None:
            raise PowerLost
        if self.kind is None or sort not in _SORTS.get(self.kind, ()) or not self._is_mine(path):
            return False
        self.calls += 1
        if self.injected or self.calls < self.at:
            return False
        self.injected = f"{sort} of {Path(os.fspath(path)).name}"
        if self.kind is FileFault.POWER_LOSS:
            self.left = self._after_power_loss()
            raise PowerLost
        return True

    def fail(self, path: object) -> None:
        number = errno.ENOSPC if self.kind is FileFault.DISK_FULL else errno.EIO
        raise OSError(number, os.strerror(number), os.fspath(path))

    def _is_mine(self, path: object) -> bool:
        return isinstance(path, str | Path) and Path(path).absolute().is_relative_to(self.root)

    # What was synced

    def synced(self, handle: int) -> None:
        path = Path(_path_of(handle))
        if self._is_mine(path) and path.exists():
            if path.is_dir():
                self._sync_folder(path)
            else:
                self._sync_file(path)

    def created(self, path: Path) -> None:
        """A new file or folder, perhaps with the number of one that is gone."""
        self._bytes.pop(path.stat().st_ino, None)
        self._names.pop(path.stat().st_ino, None)

    def _sync_file(self, path: Path) -> None:
        self._bytes[path.stat().st_ino] = _bytes_of(path)

    def _sync_folder(self, path: Path) -> None:
        self._names[path.stat().st_ino] = _entries(path)

    def _after_power_loss(self) -> dict[str, bytes | None]:
        """Everything that was synced, and of the rest what chance leaves."""
        left: dict[str, bytes | None] = {}
        folders = [(self.root, self.root.stat().st_ino)]
        while folders:
            shown, folder = folders.pop()
            live = self._live(folder)
            now = {} if live is None else _entries(live)
            synced = self._names.get(folder, {})
            for name in sorted(now.keys() | synced.keys()):
                kept = now if now.get(name) == synced.get(name) or self.chance.random() < 0.5 else synced
                entry = kept.get(name)
                if entry is None:
                    continue
                if entry.is_folder:
                    left[str(shown / name)] = None
                    folders.append((shown / name, entry.inode))
                else:
                    path = self._live(entry.inode)
                    left[str(shown / name)] = self._settled(entry.inode, path and _bytes_of(path))
        return left

    def _live(self, inode: int) -> Path | None:
        """A name that a file or folder has now."""
        if self.root.stat().st_ino == inode:
            return self.root
        for folder, folders, files in os.walk(self.root):
            for name in (*folders, *files):
                if Path(folder, name).stat().st_ino == inode:
                    return Path(folder, name)
        return None

    def _settled(self, inode: int, current: bytes | None) -> bytes:
        synced = self._bytes.get(inode, b"")
        if current is None or current == synced:
            return synced
        size = self.chance.choice([len(synced), len(current), self.chance.randint(0, len(current))])
        blocks = []
        for start in range(0, size, BLOCK_BYTES):
            source = self.chance.choice([synced, current, b""])
            blocks.append(source[start : start + BLOCK_BYTES].ljust(BLOCK_BYTES, b"\0"))
        return b"".join(blocks)[:size]

    def come_back(self) -> None:
        """Make the folder what the power loss left."""
        assert self.left is not None
        shutil.rmtree(self.root)
        self.root.mkdir()
        for name, data in self.left.items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if data is None:
                path.mkdir(exist_ok=True)
            else:
                path.write_bytes(data)

    def damage(self) -> bool:
        """Change one file at rest; False where there is none with anything in it."""
        files = [Path(folder, name) for folder, _, names in os.walk(self.root) for name in names]
        full = sorted(path for path in files if path.stat().st_size)
        if not full:
            return False
        path = self.chance.choice(full)
        data = _bytes_of(path)
        cut = self.kind is FileFault.CUT_AT_REST
        with _open(path, "wb") as file:
            file.write(data[: self.chance.randrange(len(data))] if cut else flipped(data, self.chance))
        self.injected = path.name
        return True


class _FaultyFile(io.FileIO):
    """An open file below the folder."""

    def __init__(self, files: FaultyFiles, path: Any, mode: str) -> None:
        self._files = files
        self._shown = path
        super().__init__(path, mode)

    def write(self, data: Any) -> int:
        files = self._files
        if files.due("write", self._shown):
            if files.kind is not FileFault.SHORT_WRITE:
                files.fail(self._shown)
            data = memoryview(data).cast("B")[: max(1, len(data) // 2)]
        return super().write(data)

    def readinto(self, buffer: Any) -> int:
        read = super().readinto(buffer)
        self._touch(memoryview(buffer).cast("B")[:read])
        return read

    def readall(self) -> bytes:
        data = bytearray(super().readall())
        self._touch(memoryview(data))
        return bytes(data)

    def _touch(self, data: memoryview) -> None:
        files = self._files
        if len(data) and files.due("read", self._shown):
            if files.kind is FileFault.READ_ERROR:
                files.fail(self._shown)
            at = files.chance.randrange(len(data))
            data[at] ^= 1 << files.chance.randrange(8)


@contextmanager
def faulty_files(
    root: Path, kind: FileFault | None = None, at: int = 1, seed: object = 0
) -> Iterator[FaultyFiles]:
    """While it lasts, files below `root` fail so at the `at`-th call (from 1) of its sort."""
    files = FaultyFiles(root.absolute(), kind, at, random.Random(f"{seed}/{kind}/{at}"))

    def opened(path: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any) -> Any:
        if not files._is_mine(path):
            return _open(path, mode, buffering, *rest, **more)
        raw_mode = mode.replace("b", "").replace("t", "")
        there = os.path.exists(path)  # noqa: PTH110 - this stands beneath pathlib
        if raw_mode != "r" and not there and files.due("create", path):
            files.fail(path)
        raw = _FaultyFile(files, path, raw_mode)
        if not there:
            files.created(Path(path))
        made: Any = io.BufferedReader(raw) if raw_mode == "r" else io.BufferedWriter(raw)
        return made if "b" in mode else io.TextIOWrapper(made, *rest, **more)

    def checked(name: str, sort: str) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **more: Any) -> Any:
            if files.due(sort, path):
                files.fail(path)
            done = _REAL[name](path, *rest, **more)
            if sort == "create" and files._is_mine(path):
                files.created(Path(path))
            return done

        return call

    def fsync(handle: int) -> None:
        path = _path_of(handle)
        if files.due("sync", path):
            files.fail(path)
        _fsync(handle)
        files.synced(handle)

    def pwrite(handle: int, data: bytes, at_byte: int) -> int:
        path = _path_of(handle)
        if files.due("write", path):
            if files.kind is not FileFault.SHORT_WRITE:
                files.fail(path)
            data = data[: max(1, len(data) // 2)]
        return int(_REAL["pwrite"](handle, data, at_byte))

    def os_open(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        fresh = bool(flags & os.O_CREAT) and not os.path.exists(path)  # noqa: PTH110
        if fresh and files.due("create", path):
            files.fail(path)
        handle = _os_open(path, flags, *rest, **more)
        if fresh and files._is_mine(path):
            files.created(Path(path))
        return handle

    instead = {
        "replace": checked("replace", "rename"),
        "rename": checked("rename", "rename"),
        "unlink": checked("unlink", "unlink"),
        "mkdir": checked("mkdir", "create"),
        "fsync": fsync,
        "open": os_open,
        "pwrite": pwrite,
    }
    try:
        io.open = builtins.open = opened
        for name, call in instead.items():
            setattr(os, name, call)
        yield files
    finally:
        io.open = builtins.open = _open
        for name, call in _REAL.items():
            setattr(os, name, call)


def _entries(folder: Path) -> dict[str, Entry]:
    return {each.name: Entry(each.inode(), each.is_dir()) for each in os.scandir(folder)}


def _path_of(handle: int) -> str:
    return os.readlink(f"/proc/self/fd/{handle}")  # noqa: PTH115


def _bytes_of(path: Path) -> bytes:
    with _open(path, "rb") as file:
        return file.read()
