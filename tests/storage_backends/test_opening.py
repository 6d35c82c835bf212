"""A folder that is no good store is refused by a typed error that names it, and is left as it was."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lmdb as binding
import pytest
import trio
from blake3 import blake3

from supervm.contracts.storage import (
    DiskFull,
    Put,
    StorageError,
    StoreCorrupt,
    StoreLocked,
    StoreTooNew,
    Unsupported,
)
from supervm.kernel.component import Component
from supervm.plugins import storage as plugin
from supervm.plugins.storage import lmdb as lmdb_module
from supervm.plugins.storage.folder import MARKER, check_marker, write_marker
from supervm.plugins.storage.lmdb import lmdb
from supervm.plugins.storage.memory import CHECKPOINT_FILE, MAGIC, MemoryConfig, memory
from supervm.plugins.storage.rocksdb import rocksdb
from supervm.plugins.storage.sqlite import FILE, sqlite
from supervm.testing.conformance.component import refused
from supervm.testing.context import opened
from tests import needs
from tests.storage_backends.test_full_disk import names_in

ON_DISK = pytest.mark.parametrize("component", [sqlite, rocksdb, lmdb], ids=lambda component: component.name)


async def make(component: Component, folder: Path, rows: int = 2_000) -> None:
    """A closed store with some rows in it."""
    async with opened(component, folder) as store:
        await store.write([Put(b"%05d" % i, b"%d" % i * 50) for i in range(rows)])


async def refuses(component: Component, folder: Path, error: type[StorageError]) -> StorageError:
    """Opening and reading everything raises `error`; the error."""
    with refused(error) as caught:
        async with opened(component, folder) as store:
            assert len([row async for row in store.scan()]) == 2_000
    assert isinstance(caught[0], StorageError)
    assert caught[0].mend, "an error says what to do"
    return caught[0]


def table(folder: Path) -> Path:
    return next(path for path in sorted(folder.iterdir()) if path.suffix == ".sst")


@ON_DISK
async def test_a_new_store_is_private_and_marked(component: Component, tmp_path: Path) -> None:
    config = component.config(path=str(tmp_path / "store"))
    async with opened(component, tmp_path / "unused", config):
        assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "store" / MARKER).exists()
        assert names_in(tmp_path / "unused") == []


@ON_DISK
async def test_a_missing_parent_folder_is_named(component: Component, tmp_path: Path) -> None:
    config = component.config(path=str(tmp_path / "no" / "store"))
    with refused(StorageError) as caught:
        async with opened(component, tmp_path, config):
            pass
    assert str(tmp_path / "no" / "store") in str(caught[0])


@ON_DISK
async def test_a_path_that_is_a_file_is_refused(component: Component, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with refused(StorageError):
            async with opened(component, tmp_path / "data", component.config(path=str(path))):
                pass
    assert (tmp_path / "file").read_bytes() == b"mine"


@needs.mounts
@ON_DISK
def test_a_folder_that_can_not_be_written_is_refused_as_read_only(
    component: Component, tmp_path: Path
) -> None:
    program = (
        "import subprocess, sys, trio\n"
        "from pathlib import Path\n"
        "from supervm.contracts.storage import ReadOnly\n"
        "from supervm.plugins.storage.lmdb import lmdb\n"
        "from supervm.plugins.storage.rocksdb import rocksdb\n"
        "from supervm.plugins.storage.sqlite import sqlite\n"
        "from supervm.testing.conformance.component import refused\n"
        "from supervm.testing.context import component_context\n"
        "folder = Path(sys.argv[2])\n"
        "component = {'sqlite': sqlite, 'rocksdb': rocksdb, 'lmdb': lmdb}[sys.argv[1]]\n"
        "async def main():\n"
        "    async with component_context(folder / 'x') as ctx:\n"
        "        with refused(ReadOnly):\n"
        "            async with component.open(ctx, component.config(path=str(folder / 'ro'))): pass\n"
        "(folder / 'ro').mkdir()\n"
        "subprocess.run(['mount', '-t', 'tmpfs', '-o', 'ro', 'tmpfs', str(folder / 'ro')], check=True)\n"
        "trio.run(main)\n"
    )
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", program, component.name, str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@ON_DISK
async def test_a_newer_format_is_refused(component: Component, tmp_path: Path) -> None:
    await make(component, tmp_path)
    (tmp_path / MARKER).write_text(f'{{"backend": "{component.name}", "format": 2}}')
    await refuses(component, tmp_path, StoreTooNew)


async def test_a_newer_sqlite_file_is_refused_whatever_the_marker_says(tmp_path: Path) -> None:
    await make(sqlite, tmp_path)
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    await refuses(sqlite, tmp_path, StoreTooNew)


@ON_DISK
async def test_a_marker_that_can_not_be_read_is_corrupt(component: Component, tmp_path: Path) -> None:
    await make(component, tmp_path)
    texts = ["", "{", "[]", '{"backend": "sqlite"}', '{"backend": 1, "format": "x"}', "\x00" * 9000]
    texts += ['{"backend": "sqlite", "format": Infinity}', "[" * 4000]
    for text in texts:
        (tmp_path / MARKER).write_text(text)
        await refuses(component, tmp_path, StoreCorrupt)


async def test_a_folder_of_another_backend_is_refused(tmp_path: Path) -> None:
    await make(sqlite, tmp_path)
    error = await refuses(rocksdb, tmp_path, StoreCorrupt)
    assert "sqlite" in str(error)
    assert not (tmp_path / "CURRENT").exists()
    error = await refuses(lmdb, tmp_path, StoreCorrupt)
    assert "sqlite" in str(error)
    assert not (tmp_path / lmdb_module.FILE).exists()


async def test_another_programs_database_is_refused_and_kept(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = (tmp_path / FILE).read_bytes()
    await refuses(sqlite, tmp_path, StoreCorrupt)
    assert (tmp_path / FILE).read_bytes() == before


async def test_another_programs_lmdb_environment_is_refused(tmp_path: Path) -> None:
    environment = binding.open(str(tmp_path), map_size=2**20)
    with environment.begin(write=True) as transaction:
        transaction.put(b"theirs", b"v")
    environment.close()
    await refuses(lmdb, tmp_path, StoreCorrupt)
    environment = binding.open(str(tmp_path), map_size=2**20)
    with environment.begin() as transaction:
        assert transaction.stat()["entries"] == 1
    environment.close()


async def test_a_newer_lmdb_environment_is_refused_whatever_the_marker_says(tmp_path: Path) -> None:
    await make(lmdb, tmp_path)
    environment = binding.open(str(tmp_path), map_size=2**30, max_dbs=1)
    with environment.begin(write=True) as transaction:
        transaction.put(lmdb_module.MARK, (2).to_bytes(4, "little"))
    environment.close()
    await refuses(lmdb, tmp_path, StoreTooNew)


async def test_a_map_that_the_process_may_not_have_is_told_with_the_mend(tmp_path: Path) -> None:
    program = (
        "import resource, sys, trio\n"
        "from pathlib import Path\n"
        "from supervm.contracts.storage import StorageError\n"
        "from supervm.plugins.storage.lmdb import LmdbConfig, lmdb\n"
        "from supervm.testing.conformance.component import refused\n"
        "from supervm.testing.context import opened\n"
        "async def main():\n"
        "    with refused(StorageError) as caught:\n"
        "        async with opened(lmdb, Path(sys.argv[1]), LmdbConfig()): pass\n"
        "    assert 'map_bytes' in caught[0].mend, caught\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))\n"
        "trio.run(main)\n"
    )
    done = await trio.run_process(
        [sys.executable, "-c", program, str(tmp_path)], capture_stderr=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


DAMAGE: list[tuple[str, Component, Callable[[Path], object]]] = [
    ("sqlite-gone", sqlite, lambda folder: (folder / FILE).unlink()),
    ("sqlite-no-database", sqlite, lambda folder: (folder / FILE).write_bytes(b"text " * 2000)),
    ("sqlite-cut", sqlite, lambda folder: (folder / FILE).write_bytes((folder / FILE).read_bytes()[:20_000])),
    ("sqlite-pages-lost", sqlite, lambda folder: overwrite(folder / FILE, 5 * 4096, bytes(12 * 4096))),
    ("rocksdb-current-gone", rocksdb, lambda folder: (folder / "CURRENT").unlink()),
    ("rocksdb-manifest-cut", rocksdb, lambda folder: overwrite(manifest(folder), 10, b"\xff" * 60)),
    ("rocksdb-manifest-gone", rocksdb, lambda folder: manifest(folder).unlink()),
    ("rocksdb-table-gone", rocksdb, lambda folder: table(folder).unlink()),
    (
        "rocksdb-table-damaged",
        rocksdb,
        lambda folder: overwrite(table(folder), 4000, b"\xff" * 500),
    ),
    ("lmdb-gone", lmdb, lambda folder: (folder / lmdb_module.FILE).unlink()),
    ("lmdb-empty", lmdb, lambda folder: (folder / lmdb_module.FILE).write_bytes(b"")),
    ("lmdb-no-database", lmdb, lambda folder: (folder / lmdb_module.FILE).write_bytes(b"text " * 2000)),
    ("lmdb-cut", lmdb, lambda folder: cut(folder / lmdb_module.FILE, 60_000)),
    ("lmdb-cut-in-its-head", lmdb, lambda folder: cut(folder / lmdb_module.FILE, 5_000)),
    (
        "lmdb-pages-lost",
        lmdb,
        lambda folder: overwrite(folder / lmdb_module.FILE, 3 * 4096, bytes(12 * 4096)),
    ),
    ("lmdb-heads-lost", lmdb, lambda folder: overwrite(folder / lmdb_module.FILE, 0, bytes(2 * 4096))),
    ("rocksdb-table-cut", rocksdb, lambda folder: table(folder).write_bytes(b"short")),
]


def cut(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def overwrite(path: Path, at: int, data: bytes) -> None:
    old = path.read_bytes()
    path.write_bytes(old[:at] + data + old[at + len(data) :])


def manifest(folder: Path) -> Path:
    return folder / (folder / "CURRENT").read_text().strip()


@pytest.mark.parametrize(
    ("component", "damage"), [case[1:] for case in DAMAGE], ids=[case[0] for case in DAMAGE]
)
async def test_damage_is_told_never_repaired_or_read_past(
    component: Component, damage: Callable[[Path], object], tmp_path: Path
) -> None:
    await make(component, tmp_path)
    damage(tmp_path)
    error = await refuses(component, tmp_path, StoreCorrupt)
    assert str(tmp_path) in str(error)


@pytest.mark.parametrize(
    "rows",
    [
        b"\x01\x00\x00\x00\x00\x00\x00\x00k" + b"\x01\x00",
        b"\x00\x00\x00\x00\x01\x00\x00\x00v",
        b"\x02\x00\x00\x00\x00\x00\x00\x00k",
        b"\x01\x00\x00\x00\xff\xff\xff\xffkv",
        b"\xe1\x01\x00\x00\x00\x00\x00\x00" + bytes(481),
    ],
    ids=["half a row", "no key", "a key cut short", "a value cut short", "a key too long"],
)
async def test_a_memory_checkpoint_made_of_anything_with_a_right_checksum_is_refused(
    tmp_path: Path, rows: bytes
) -> None:
    data = MAGIC + b"\x01" + rows
    (tmp_path / CHECKPOINT_FILE).write_bytes(data + blake3(data).digest())
    with pytest.RaisesGroup(StoreCorrupt, flatten_subgroups=True, allow_unwrapped=True):
        async with opened(memory, tmp_path / "again", MemoryConfig(path=str(tmp_path))):
            raise AssertionError("it was opened")


async def test_a_memory_checkpoint_of_more_bytes_than_the_store_may_have_is_refused(tmp_path: Path) -> None:
    async with opened(memory, tmp_path) as store:
        await store.write([Put(b"%d" % i, bytes(99)) for i in range(10)])
        await store.checkpoint(tmp_path / "copy")
    for bytes_max, fits in ((1_000, True), (999, False)):
        config = MemoryConfig(path=str(tmp_path / "copy"), bytes_max=bytes_max)
        if fits:
            async with opened(memory, tmp_path, config) as store:
                assert await store.get(b"9") == bytes(99)
        else:
            with refused(DiskFull):
                async with opened(memory, tmp_path, config):
                    pass


async def test_a_damaged_memory_checkpoint_is_refused(tmp_path: Path) -> None:
    async with opened(memory, tmp_path) as store:
        await store.write([Put(b"a", b"1")])
        await store.checkpoint(tmp_path / "copy")
    file = tmp_path / "copy" / CHECKPOINT_FILE
    good = file.read_bytes()
    for at in range(0, len(good), 7):
        overwrite(file, at, bytes([good[at] ^ 1]))
        with refused(StoreCorrupt, StoreTooNew):
            async with opened(memory, tmp_path, MemoryConfig(path=str(tmp_path / "copy"))):
                pass
        file.write_bytes(good)
    shutil.rmtree(tmp_path / "copy")
    with refused(StorageError):
        async with opened(memory, tmp_path, MemoryConfig(path=str(tmp_path / "copy"))):
            pass


@ON_DISK
async def test_a_store_left_by_a_crash_before_its_marker_is_taken_up(
    component: Component, tmp_path: Path
) -> None:
    await make(component, tmp_path)
    (tmp_path / MARKER).unlink()
    async with opened(component, tmp_path) as store:
        assert len([row async for row in store.scan()]) == 2_000
    assert (tmp_path / MARKER).exists()


async def test_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    async with opened(sqlite, tmp_path):
        with refused(StoreLocked):
            async with opened(rocksdb, tmp_path):
                pass
    async with opened(sqlite, tmp_path) as store:
        assert await store.get(b"a") is None


@pytest.mark.parametrize(("component", "package"), [(rocksdb, "rocksdict"), (lmdb, "lmdb")])
async def test_without_its_binding_a_backend_is_unsupported(
    component: Component, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    await refuses(component, tmp_path, Unsupported)
    assert names_in(tmp_path) == []


def test_declaring_the_backends_does_not_load_the_binding() -> None:
    program = (
        "import sys\nfrom supervm.plugins.storage import supervm_components\n"
        "names = [component.name for component in supervm_components()]\n"
        "assert names == ['memory', 'sqlite', 'rocksdb', 'lmdb', 'cached', 'postgres', 'tiered'], names\n"
        "assert not {'rocksdict', 'lmdb'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert plugin.supervm_components is not None


def test_a_damaged_marker_is_corrupt_or_says_the_same(tmp_path: Path) -> None:
    write_marker(tmp_path, "lmdb")
    good = (tmp_path / MARKER).read_bytes()
    refused = 0
    for bit in range(8 * len(good)):
        spoiled = bytes(each ^ (1 << bit % 8) * (at == bit // 8) for at, each in enumerate(good))
        (tmp_path / MARKER).write_bytes(spoiled)
        try:
            assert check_marker(tmp_path, "lmdb")
        except StoreCorrupt as error:
            assert MARKER in str(error)
            refused += 1
    assert refused > 0.9 * 8 * len(good)


def test_a_marker_of_before_it_had_a_checksum_is_good(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text('{"backend": "lmdb", "format": 1}')
    assert check_marker(tmp_path, "lmdb")
