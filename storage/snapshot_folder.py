"""Snapshots on the disk: chunks by their digest, shared by all, and one manifest a snapshot. Calls block.

    snapshot-000000001000-1700000000.manifest    height, and seconds since 1970 (STO-52)
    snapshot-000000001000-1700000000.pin         there while it must not be removed
    chunks/3f/3fa9...                            chunks and tables
    lock                                         held by whoever writes or removes

Every file is written beside its name, synced and renamed, and the manifest comes last: one that is there is
whole. Who reads a snapshot holds its manifest (flock), and what is held or pinned is never removed.
"""

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from supervm.contracts.storage import DiskFull, ReadOnly, StorageError
from supervm.storage.errors import (
    ChunkMissing,
    SnapshotBusy,
    SnapshotDamaged,
    SnapshotError,
    SnapshotRefused,
)
from supervm.storage.folder import make_folder, sync_path, write_synced
from supervm.storage.snapshot_chunks import BLOB_BYTES_MAX, check_blob, decode_table, digest_of
from supervm.storage.snapshot_format import MANIFEST_BYTES_MAX, Manifest

MANIFEST = ".manifest"
PIN = ".pin"
CHUNKS = "chunks"
LOCK = "lock"
PARTIAL = ".tmp"
NAME = re.compile(r"snapshot-(\d{12,20})-(\d{1,12})")
LISTED_MAX = 10_000
NAMED_MAX = 500_000
"""Names of chunks held at once, about 60 MB; where there are more, tables are read again."""


@attrs.frozen
class Listed:
    """A snapshot by its name: `made_s` is seconds since 1970."""

    name: str
    height: int
    made_s: int
    pinned: bool


@attrs.frozen
class Swept:
    """What a clean-up removed: snapshots by name, and files of chunks with their bytes."""

    names: tuple[str, ...]
    files: int
    bytes: int


def snapshot_name(height: int, made_s: int) -> str:
    return f"snapshot-{height:012d}-{made_s}"


@attrs.frozen
class SnapshotFolder:
    """The snapshots in a folder, which `writing` makes. All methods do file calls and nothing else."""

    path: Path

    # Reading

    def listed(self) -> list[Listed]:
        """The newest 10,000 snapshots, lowest height first; files of other names are nobody's business."""
        return self._every()[-LISTED_MAX:]

    def _every(self) -> list[Listed]:
        found = []
        with _file_errors(self.path):
            for path in self.path.glob(f"snapshot-*{MANIFEST}"):
                match = NAME.fullmatch(path.name.removesuffix(MANIFEST))
                if match:
                    name = match.group()
                    found.append(Listed(name, int(match[1]), int(match[2]), self._pin(name).exists()))
        return sorted(found, key=lambda one: (one.height, one.made_s))

    def named(self, name: str) -> Listed:
        """The snapshot of this name; "" is the newest. Raises `SnapshotError` naming those there are."""
        listed = self.listed()
        for one in reversed(listed):
            if name in ("", one.name):
                return one
        known = ", ".join(one.name for one in listed[-3:]) or "none"
        raise SnapshotError("there is no such snapshot", name or self.path, f"There are: {known}.")

    def manifest(self, name: str) -> Manifest:
        """A snapshot's manifest, decoded and not yet trusted. Raises `SnapshotError`s."""
        path = self.path / (name + MANIFEST)
        try:
            with path.open("rb") as file:
                data = file.read(MANIFEST_BYTES_MAX + 1)
        except FileNotFoundError:
            raise SnapshotError(
                "there is no such snapshot", path, "List them: supervm snapshot list."
            ) from None
        except OSError as error:
            raise _unreadable("the manifest", path, error) from error
        try:
            return Manifest.decode(data)
        except SnapshotDamaged as error:
            raise SnapshotDamaged(error.problem, f"{path}: {error.subject}", error.mend) from error

    def blob(self, digest: bytes) -> bytes:
        """The bytes of a chunk or table, which have this digest. Raises `ChunkMissing`, `SnapshotDamaged`."""
        path = self._blob(digest)
        try:
            with path.open("rb") as file:
                return check_blob(digest, file.read(BLOB_BYTES_MAX + 1))
        except FileNotFoundError:
            raise ChunkMissing(digest, self.path) from None
        except OSError as error:
            raise _unreadable("a chunk", path, error) from error

    def bytes_used(self) -> int:
        """What all chunks take; one that is removed meanwhile counts nothing."""
        total = 0
        with _file_errors(self.path):
            for path in self.path.glob(f"{CHUNKS}/??/*"):
                with suppress(FileNotFoundError):
                    total += path.stat().st_size
        return total

    def free_bytes(self) -> int:
        """What this user may still write to the folder's disk."""
        with _file_errors(self.path):
            return shutil.disk_usage(self._existing()).free

    def disk_bytes(self) -> int:
        """The size of the folder's disk."""
        with _file_errors(self.path):
            return shutil.disk_usage(self._existing()).total

    def _existing(self) -> Path:
        return next(path for path in (self.path, *self.path.absolute().parents) if path.exists())

    @contextmanager
    def reading(self, name: str) -> Iterator[Manifest]:
        """Hold a snapshot so that nobody removes it, and give its manifest."""
        with self._held(name, fcntl.LOCK_SH):
            yield self.manifest(name)

    # Writing

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one who writes or removes here; raises `SnapshotBusy` where another does."""
        with _file_errors(self.path):
            make_folder(self.path / CHUNKS)
            lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SnapshotBusy(
                    "a snapshot is being written or removed", self.path, "Try again when that is done."
                ) from None
            yield
        finally:
            os.close(lock)

    def put(self, blob: bytes) -> tuple[bytes, int]:
        """Keep a chunk or table: (its digest, bytes that the folder grew). One that is there is compared."""
        digest = digest_of(blob)
        path = self._blob(digest)
        with _file_errors(path):
            try:
                with path.open("rb") as file:
                    if file.read(len(blob) + 1) == blob:
                        return digest, 0
            except FileNotFoundError:
                path.parent.mkdir(mode=0o700, exist_ok=True)
            partial = path.with_name(path.name + PARTIAL)
            with partial.open("wb") as file:
                file.write(blob)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        return digest, len(blob)

    def publish(self, manifest: Manifest) -> str:
        """Make a snapshot whose chunks were all `put` one that is there; its name."""
        name = snapshot_name(manifest.height, manifest.created_ms // 1000)
        with _file_errors(self.path):
            for folder in (*(self.path / CHUNKS).iterdir(), self.path / CHUNKS):
                sync_path(folder)
            write_synced(self.path / (name + MANIFEST), manifest.encode())
        return name

    def pin(self, name: str, pinned: bool = True) -> None:
        """Keep a snapshot ("": the newest) until it is unpinned, whatever the rules for old ones say."""
        name = self.named(name).name
        with _file_errors(self.path):
            if pinned:
                write_synced(self._pin(name), b"")
            else:
                self._pin(name).unlink(missing_ok=True)

    def remove_old(self, keep: int) -> list[str]:
        """Remove all but the newest `keep` (at least 1), those pinned, and those being read; their names.

        Their chunks stay until `sweep`. The caller is `writing`.
        """
        assert keep >= 1, keep
        return [one.name for one in self._every()[:-keep] if not one.pinned and self._remove(one.name)]

    def remove(self, name: str) -> None:
        """Remove one by name. The caller is `writing`. Raises `SnapshotRefused` for one pinned or read."""
        one = self.named(name)
        if one.pinned:
            raise SnapshotRefused("the snapshot is pinned", name, "Unpin it first.")
        if not self._remove(name):
            raise SnapshotRefused("the snapshot is being read", name, "Try again when that is done.")

    def sweep(self) -> Swept:
        """Remove every chunk that no snapshot names, and what was half written. The caller is `writing`.

        Where a snapshot can't be read nothing is removed: what it names is unknown. Raises then.
        """
        files = size_bytes = low = 0
        with _file_errors(self.path):
            while low < 256:
                named, high = self._named(low)
                for first in range(low, high):
                    for path in self.path.glob(f"{CHUNKS}/{first:02x}/*"):
                        if path.name not in named:
                            size_bytes += path.stat().st_size
                            path.unlink()
                            files += 1
                low = high
            for path in self.path.glob(f"snapshot-*{MANIFEST}{PARTIAL}"):
                if NAME.fullmatch(path.name.removesuffix(MANIFEST + PARTIAL)):
                    path.unlink()
        return Swept((), files, size_bytes)

    def _named(self, low: int) -> tuple[set[str], int]:
        """The chunks that snapshots name, of those whose digest begins with `low` or more; and up to where,
        so that they are no more than NAMED_MAX, but for those of one byte.
        """
        named: set[str] = set()
        high = 256
        for one in self._every():
            for section in self.manifest(one.name).sections:
                for table in section.tables:
                    entries = decode_table(table, self.blob(table))
                    digests = (table, *(entry.digest for entry in entries))
                    named.update(digest.hex() for digest in digests if low <= digest[0] < high)
                    while len(named) > NAMED_MAX and high - low > 1:
                        high = (low + high + 1) // 2
                        named = {each for each in named if int(each[:2], 16) < high}
        return named, high

    def _remove(self, name: str) -> bool:
        try:
            with self._held(name, fcntl.LOCK_EX), _file_errors(self.path):
                (self.path / (name + MANIFEST)).unlink()
                sync_path(self.path)
        except SnapshotBusy:
            return False
        return True

    @contextmanager
    def _held(self, name: str, how: int) -> Iterator[None]:
        path = self.path / (name + MANIFEST)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise SnapshotError(
                "there is no such snapshot", path, "List them: supervm snapshot list."
            ) from None
        try:
            try:
                fcntl.flock(handle, how | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SnapshotBusy("the snapshot is in use", path, "Try again when that is done.") from None
            yield
        finally:
            os.close(handle)

    def _pin(self, name: str) -> Path:
        return self.path / (name + PIN)

    def _blob(self, digest: bytes) -> Path:
        name = digest.hex()
        return self.path / CHUNKS / name[:2] / name


def _unreadable(what: str, path: Path, error: OSError) -> SnapshotDamaged:
    return SnapshotDamaged(
        f"{what} can't be read: {error.strerror}", path, "Check the disk, or take another snapshot."
    )


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or path
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(
                "no space for the snapshot",
                where,
                "Free some, or set another application.ledger.snapshot_path.",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ReadOnly(
                "the snapshots' folder can't be written", where, "Give this user the right."
            ) from error
        raise StorageError(error.strerror or str(error), where, "Check the disk.") from error
