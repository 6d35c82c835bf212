"""A store's folder on the disk: found usable, locked, marked with its format, copied whole or not at all."""

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from blake3 import blake3

from supervm.contracts.storage import (
    BATCH_BYTES_MAX,
    FORMAT,
    DiskFull,
    Operation,
    Put,
    ReadOnly,
    StorageError,
    StoreCorrupt,
    StoreFailed,
    StoreLocked,
    StoreTooNew,
)
from supervm.storage.folder import sync_path

MARKER = "store.json"
LOCK = "store.lock"
MARKER_BYTES_MAX = 4096


def os_error(error: OSError, path: Path) -> StorageError:
    """The contract's error for a failed system call."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFull("no space left", path, "Free some, or move the store to a larger disk.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ReadOnly("the store can't be written", path, "Make it writable for this user.")
    return StoreFailed(f"{error.strerror or error} (errno {error.errno})", path, "Check the disk.")


def open_folder(path: Path) -> None:
    """Make the folder if only it is missing (mode 0700), and see that it can be written."""
    try:
        if not path.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)
            sync_path(path.parent)
    except FileNotFoundError:
        raise StorageError("the parent folder does not exist", path, "Make it, or name another.") from None
    except (FileExistsError, NotADirectoryError):
        raise StorageError("the store's path is not a folder", path, "Name a folder.") from None
    except OSError as error:
        raise os_error(error, path) from error
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise ReadOnly("the store's folder can't be written", path, "Make it writable for this user.")


@contextmanager
def locked_folder(path: Path) -> Iterator[None]:
    """Hold the folder for one opener, among threads and processes; raises `StoreLocked`.

    The lock is the kernel's (flock), so that it goes with the process however that ends.
    """
    try:
        handle = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise os_error(error, path) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreLocked(
                "the store is open elsewhere", path, "Stop that program, or name another folder."
            ) from None
        yield
    finally:
        os.close(handle)


def check_marker(path: Path, backend: str) -> bool:
    """Whether the folder holds a store of this backend and a known format; False where it has no marker."""
    marker = path / MARKER
    try:
        with marker.open("rb") as file:
            data = file.read(MARKER_BYTES_MAX)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise os_error(error, marker) from error
    try:
        found = json.loads(data)
        said = found.pop("checksum", None)
        name, number = str(found["backend"]), int(found["format"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise _bad_marker("it can't be read", marker) from None
    # A marker of before it had a checksum has none.
    if said is not None and said != _checksum(found):
        raise _bad_marker(f"its checksum is {_checksum(found)}, the stored one {said}", marker)
    if number > FORMAT:
        raise StoreTooNew(f"format {number} is newer than {FORMAT}", marker, "Run a newer program.")
    if number != FORMAT or len(found) != 2:
        raise _bad_marker(f"not a marker of format {FORMAT}", marker)
    if name != backend:
        raise StoreCorrupt(f"the folder is a {name} store, not {backend}", marker, f"Choose {name}.")
    return True


def _bad_marker(why: str, marker: Path) -> StoreCorrupt:
    return StoreCorrupt(
        f"the store's marker is damaged, {why}", marker, "Restore the folder from a checkpoint."
    )


def write_marker(path: Path, backend: str) -> None:
    """Mark a new store, durably: a folder with a marker was once opened whole."""
    temporary = path / (MARKER + ".tmp")
    facts = {"backend": backend, "format": FORMAT}
    try:
        with temporary.open("wb") as file:
            file.write(json.dumps({**facts, "checksum": _checksum(facts)}).encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path / MARKER)
        sync_path(path)
    except OSError as error:
        raise os_error(error, temporary) from error


def _checksum(facts: Mapping[str, object]) -> str:
    """Of the marker's other fields: 8 bytes of blake3, in hex."""
    return blake3(json.dumps(facts, sort_keys=True).encode()).digest(8).hex()


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """Give `path`.tmp to be filled; sync it and give it its name, or remove it if the block raised."""
    temporary = path.with_name(path.name + ".tmp")
    if path.exists():
        raise StorageError("the checkpoint's path exists", path, "Name one that does not.")
    if not path.parent.is_dir():
        raise StorageError("the checkpoint's parent is no folder", path.parent, "Make it.")
    try:
        try:
            if temporary.exists():
                shutil.rmtree(temporary)
            yield temporary
            for folder, _, files in os.walk(temporary):
                for name in files:
                    sync_path(Path(folder, name))
                sync_path(Path(folder))
            temporary.rename(path)
            sync_path(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        raise os_error(error, path) from error


def free_bytes(path: Path) -> int:
    """What this user may still write to the disk that `path` is on."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def disk_bytes(path: Path) -> int:
    """The size of the disk that `path` is on."""
    found = os.statvfs(path)
    return found.f_blocks * found.f_frsize


def prove_room(folder: Path, size_bytes: int) -> None:
    """Raise `DiskFull` unless the disk gives so many bytes now, whatever quota or limit it keeps to."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size_bytes)
            else:
                for _ in range(0, size_bytes, 2**20):
                    os.write(file.fileno(), bytes(2**20))
    except OSError as error:
        raise os_error(error, folder) from error


def check_free(path: Path, kept_bytes: int, wanted_bytes: int) -> None:
    """Raise `DiskFull` where less than `kept_bytes` would stay free; `kept_bytes` 0 leaves it to the disk.

    A batch refused here has touched nothing, and the next one may succeed. A disk that is really full
    leaves some engines refusing writes until they are opened again.
    """
    free = free_bytes(path) if kept_bytes else 0
    if kept_bytes and free < kept_bytes + wanted_bytes:
        raise DiskFull(
            f"{free} bytes free, of which {kept_bytes} are kept",
            path,
            "Free some, move the store to a larger disk, or lower free_bytes_min",
        )


def check_room(folder: Path, kept_bytes: int, operations: Sequence[Operation]) -> None:
    """Raise `DiskFull` where the rows that a batch puts would leave less than `kept_bytes` free.

    They are only counted where the largest batch would not fit. A batch that removes is let through.
    """
    if kept_bytes and free_bytes(folder) < kept_bytes + BATCH_BYTES_MAX:
        puts_bytes = sum(map(len, chain.from_iterable(put for put in operations if type(put) is Put)))
        if puts_bytes:
            check_free(folder, kept_bytes, puts_bytes)


def folder_bytes(path: Path) -> int:
    """The bytes of the files directly in a folder; one that vanishes meanwhile counts nothing."""
    total = 0
    for entry in os.scandir(path):
        try:
            if entry.is_file(follow_symlinks=False):
                total += entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            continue
    return total
