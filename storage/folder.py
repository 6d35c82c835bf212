"""The data folder: made private, held by one node at a time, marked with the backend that wrote it.

The lock is the kernel's (`flock`), so it ends with the process that holds it, however that ends; the file
stays, and holds the process id of the last holder, for the message that the next one gets.
"""

import errno
import fcntl
import os
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
from blake3 import blake3

from supervm.contracts.storage import (
    DiskFull,
    ReadOnly,
    StorageError,
    StoreCorrupt,
    StoreFailed,
    StoreLocked,
    StoreTooNew,
)
from supervm.storage.errors import BackendMismatch

FORMAT = 1
LOCK_NAME = "lock"
MARKER_NAME = "folder.toml"
STORE_NAME = "storage"  # the storage component's folder; it never exists without a marker
ASIDE = ".replaced-"  # in the name of a store that was set aside, before the time
MARKER_BYTES_MAX = 4096
MODE = 0o700


@attrs.frozen
class FreeSpace:
    """Bytes of the disk that holds a folder; `free_bytes` is what this user may still write."""

    total_bytes: int
    free_bytes: int


@attrs.frozen
class DataFolder:
    """A folder that this process holds. `created` says that this opening made its marker."""

    path: Path
    backend: str
    created: bool

    def free(self) -> FreeSpace:
        """The space on its disk now."""
        usage = shutil.disk_usage(self.path)
        return FreeSpace(usage.total, usage.free)


@contextmanager
def open_folder(path: Path, backend: str) -> Iterator[DataFolder]:
    """Hold the data folder at `path` for a node whose storage component is `backend`.

    Makes it (mode 0700) where it is missing. Does quick file calls only; nothing waits for a lock.
    Raises `StoreLocked` naming the holder's process id, `BackendMismatch`, `StoreTooNew`,
    `StoreCorrupt` for a marker that can't be read, `ReadOnly`, or `DiskFull`.
    """
    with _file_errors(path):
        make_folder(path)
        lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with _file_errors(path):
            _take(lock, path)
            created = _check_marker(path, backend)
        yield DataFolder(path, backend, created)
    finally:
        os.close(lock)


def set_aside(path: Path, backend: str, stamp: int) -> Path | None:
    """Rename the store of `backend` in a folder that nobody holds, and its marker with it; its new path.

    None where there is none. `stamp` is in the name, or the next number that is free. The folder can be
    opened as a new one then, with any backend; to have the old store back, rename both again. Raises as
    `open_folder` does.
    """
    store, marker = path / STORE_NAME / backend, path / MARKER_NAME
    if not store.exists():
        return None
    with open_folder(path, backend):
        aside = store.with_name(f"{backend}{ASIDE}{stamp}")
        while aside.exists() or aside.with_name(aside.name + ".toml").exists():
            stamp += 1
            aside = store.with_name(f"{backend}{ASIDE}{stamp}")
        with _file_errors(path):
            # The marker first: a store without it is opened by nobody.
            marker.rename(aside.with_name(aside.name + ".toml"))
            store.rename(aside)
            sync_path(store.parent)
            sync_path(path)
    return aside


def switch_backend(path: Path, backend: str) -> None:
    """Make `backend` the one that the folder is opened with, in one step. The caller holds the folder."""
    with _file_errors(path):
        write_synced(path / MARKER_NAME, _marker(backend))


def read_marker(path: Path) -> str | None:
    """The backend that made the folder at `path`, or None where there is no marker. Needs no lock."""
    marker = path / MARKER_NAME
    try:
        with _file_errors(path), marker.open("rb") as file:
            data = file.read(MARKER_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    try:
        facts = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise _bad_marker(marker, str(error)) from error
    said = facts.pop("checksum", None)
    # A marker of before it had a checksum has none.
    if said is not None and said != (found := _checksum(data[: data.rfind(b"checksum")])):
        raise _bad_marker(marker, f"its checksum is {found}, the stored one {said}")
    form, backend = facts.get("format"), facts.get("backend")
    if type(form) is int and form > FORMAT:
        raise StoreTooNew(
            f"the data folder has format {form}, this release reads up to {FORMAT}",
            marker,
            "Use a newer release, or another folder.",
        )
    if form != FORMAT or not isinstance(backend, str) or not backend or len(facts) != 2:
        raise _bad_marker(marker, f"it needs format = {FORMAT} and a backend")
    return backend


def _bad_marker(marker: Path, why: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"the folder's marker can't be read: {why}",
        marker,
        "Put the file back from a copy of the folder, or start from an empty folder.",
    )


def _take(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        raise StoreLocked(
            f"another node (process {holder}) is using the data folder",
            path,
            "Stop it first, or give this one its own folder with --data.",
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)


def _check_marker(path: Path, backend: str) -> bool:
    """Compare the marker with the backend asked for; write it into a new folder. True if written."""
    found = read_marker(path)
    if found == backend:
        return False
    if found is not None:
        raise BackendMismatch(found, backend, path)
    if _has_store(path / STORE_NAME):
        raise StoreCorrupt(
            f"the folder holds a store, and {MARKER_NAME}, which says of which backend, is missing",
            path,
            "Put the file back from a copy of the folder, or start from an empty folder.",
        )
    write_synced(path / MARKER_NAME, _marker(backend))
    return True


def _marker(backend: str) -> bytes:
    facts = f'format = {FORMAT}\nbackend = "{backend}"\n'.encode()
    return facts + f'checksum = "{_checksum(facts)}"\n'.encode()


def _checksum(facts: bytes) -> str:
    """Of all that stands before it: 8 bytes of blake3, in hex."""
    return blake3(facts).digest(8).hex()


def _has_store(folder: Path) -> bool:
    """Whether there is anything but stores that were set aside."""
    if not folder.exists():
        return False
    names = [one.name for one in folder.iterdir()] if folder.is_dir() else []
    return not names or any(ASIDE not in name for name in names)


def make_folder(path: Path) -> None:
    """Make a folder (mode 0700) and those above it that are missing, so that after a crash they are there."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(mode=MODE, parents=True, exist_ok=True)
    for each in missing:
        sync_path(each.parent)


def write_synced(path: Path, data: bytes) -> None:
    """Write a small file so that after a crash it is there whole or not at all."""
    partial = path.with_name(path.name + ".tmp")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_path(path.parent)


def remove_synced(path: Path) -> None:
    """Remove a file, if it is there, so that it stays away after a crash."""
    path.unlink(missing_ok=True)
    sync_path(path.parent)


def sync_path(path: Path) -> None:
    """Make a file's bytes durable, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        where = error.filename or path
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                "no space for the data folder", where, "Free some, or use another disk."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ReadOnly(
                "the data folder can't be used", where, "Give this user the right, or use --data."
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise StorageError(
                "the data folder is not a folder", path, "Give another with --data."
            ) from error
        raise StoreFailed(
            f"{error.strerror or error} (errno {error.errno})", where, "Check the disk."
        ) from error
