"""A full disk refuses a batch cleanly; what was acknowledged before stays (STO-8, STO-11)."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from supervm.contracts.storage import DiskFull, Put
from supervm.kernel.component import Component
from supervm.plugins.storage import folder, lmdb, memory, rocksdb, sqlite
from supervm.plugins.storage.memory import MemoryConfig
from supervm.testing.conformance.component import refused
from supervm.testing.context import opened
from tests import needs
from tests.storage_backends import full_disk_child

ON_DISK = [sqlite.sqlite, rocksdb.rocksdb, lmdb.lmdb]


def fill(*arguments: str, inside: tuple[str, ...] = ()) -> dict[str, Any]:
    """What the child saw while it filled its disk."""
    done = subprocess.run(
        [*inside, sys.executable, full_disk_child.__file__, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@needs.mounts
@pytest.mark.parametrize("backend", ["sqlite", "rocksdb", "lmdb"])
def test_a_full_disk_refuses_a_batch_whole_and_the_store_goes_on_when_there_is_room(
    backend: str, tmp_path: Path
) -> None:
    seen = fill(backend, "mount", str(tmp_path), inside=("unshare", "-rm"))
    acknowledged = seen["acknowledged"]
    assert acknowledged > 10
    assert (seen["error"], seen["second"], seen["health"]) == ("DiskFull", "DiskFull", "degraded")
    assert (seen["readable"], seen["rows"]) == (acknowledged, 2 * acknowledged)
    # The same store, which nobody opened again, takes the very batch that it refused.
    assert (seen["with room"], seen["rows then"]) == ("written", 2 * (acknowledged + 1))
    assert seen["health then"] == "ok"
    # RocksDB opens its database anew for that, and older views end; they never show what they should not.
    assert seen["snapshot"] == ("SnapshotExpired" if backend == "rocksdb" else 0)
    assert (seen["after"], seen["halves"], seen["room"]) == (acknowledged + 1, acknowledged + 1, True)


def test_rocksdb_takes_a_file_that_may_not_grow_for_a_full_disk(tmp_path: Path) -> None:
    seen = fill("rocksdb", "rlimit", str(tmp_path))
    acknowledged = seen["acknowledged"]
    assert acknowledged > 10
    assert (seen["error"], seen["second"], seen["readable"]) == ("DiskFull", "DiskFull", acknowledged)
    assert (seen["with room"], seen["rows then"]) == ("written", 2 * (acknowledged + 1))
    assert (seen["after"], seen["halves"], seen["room"]) == (acknowledged + 1, acknowledged + 1, True)


@pytest.mark.parametrize("backend", ["sqlite", "lmdb"])
def test_what_the_engine_takes_for_an_io_error_ends_the_store_for_good(backend: str, tmp_path: Path) -> None:
    seen = fill(backend, "rlimit", str(tmp_path))
    acknowledged = seen["acknowledged"]
    assert acknowledged > 10
    assert (seen["error"], seen["second"], seen["readable"]) == ("StoreFailed", "StoreFailed", "refused")
    assert (seen["health"], seen["with room"]) == ("failing", "StoreFailed")
    assert (seen["after"], seen["halves"], seen["room"]) == (acknowledged, acknowledged, True)


async def test_sqlites_own_limit_of_pages_is_a_full_disk(tmp_path: Path) -> None:
    async with opened(sqlite.sqlite, tmp_path) as store:
        await store.write([Put(b"kept", b"v")])
        store._engine._writer.execute("PRAGMA max_page_count = 40")
        with refused(DiskFull):
            await store.write([Put(b"a", b"v"), Put(b"b", bytes(500_000))])
        assert [key async for key, _ in store.scan()] == [b"kept"]
        await store.write([Put(b"small", b"v")])
        assert (await store.health()).state == "ok"


@pytest.mark.parametrize("component", ON_DISK, ids=lambda component: component.name)
async def test_a_batch_that_would_leave_too_little_is_refused_and_the_next_is_not(
    component: Component, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = component.config(free_bytes_min=1_000_000)
    async with opened(component, tmp_path, config) as store:
        await store.write([Put(b"kept", b"v")])
        with monkeypatch.context() as patch:
            patch.setattr(folder, "free_bytes", lambda path: 1_500_000)
            with refused(DiskFull):
                await store.write([Put(b"a", b""), Put(b"large", bytes(600_000))])
            assert await store.get_many([b"kept", b"a", b"large"]) == [b"v", None, None]
            assert (await store.health()).state == "degraded"
            await store.write([Put(b"small", b"v")])
        await store.write([Put(b"large", bytes(600_000))])
        assert (await store.health()).state == "ok"


async def test_memory_refuses_what_passes_its_bytes_and_undoes_it(tmp_path: Path) -> None:
    async with opened(memory.memory, tmp_path, MemoryConfig(bytes_max=1_000)) as store:
        await store.write([Put(b"a", b"old"), Put(b"b", bytes(500))])
        async with store.snapshot() as snapshot:
            with refused(DiskFull):
                await store.write([Put(b"a", b"new"), Put(b"c", bytes(900))])
            for reader in (store, snapshot):
                assert await reader.get_many([b"a", b"c"]) == [b"old", None]
        assert attrs.evolve(await store.stats(), extras={}).bytes == 1 + 3 + 1 + 500
        await store.write([Put(b"c", bytes(900)), Put(b"b", b"")])
        assert await store.get(b"b") == b""


@pytest.mark.parametrize("component", ON_DISK, ids=lambda component: component.name)
async def test_a_checkpoint_that_does_not_fit_leaves_nothing_behind(
    component: Component, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    async with opened(component, tmp_path / "store") as store:
        await store.write([Put(b"a", b"v")])
        (tmp_path / "copy.tmp").mkdir()
        (tmp_path / "copy.tmp" / "rest of an earlier one").touch()
        with monkeypatch.context() as patch:
            patch.setattr(folder, "sync_path", full)
            with refused(DiskFull):
                await store.checkpoint(tmp_path / "copy")
        assert names_in(tmp_path) == ["store"]
        await store.checkpoint(tmp_path / "copy")
        assert await store.get(b"a") == b"v"
