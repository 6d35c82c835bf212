"""A folder or a port that can't be had: exit code 1, one line that says why, and nothing harmed."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import (
    ANY_PORT,
    Node,
    Wallet,
    contents,
    dev_key,
    new_chain,
    refused,
    running,
    started,
    until,
    verb,
)

# A root without these two is held to the rights of files like anybody else.
UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
BACKENDS = ("rocksdb", "sqlite")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By backend, the data folder of a stopped node with a few blocks; copy it before use."""
    folders = {}
    for backend in BACKENDS:
        folders[backend] = tmp_path_factory.mktemp(backend) / "data"
        with running(folders[backend], "--set", f"storage.use={backend}") as node:
            spend(node)
    return folders


def spend(node: Node) -> None:
    wallet = Wallet.at(node, dev_key(node.data))
    node.commit(*(wallet.pay((b"\x33" * 32, 10)) for _ in range(3)))


@pytest.fixture
def backend() -> str:
    """The backend of `folder`, unless a test asks for another."""
    return BACKENDS[0]


@pytest.fixture
def folder(made: dict[str, Path], backend: str, tmp_path: Path) -> Path:
    """A copy of the stopped node's folder."""
    return Path(shutil.copytree(made[backend], tmp_path / "copy"))


def run_once(folder: Path, *flags: str | Path) -> tuple[str | Path, ...]:
    return ("run", "--data", folder, "--api", ANY_PORT, "--once", *flags)


def is_good(folder: Path) -> None:
    """The folder opens, and the chain in it verifies."""
    done = verb("verify", "--data", folder)
    assert done.code == 0, done.err


def test_the_genesis_of_another_chain_is_refused(folder: Path, tmp_path: Path) -> None:
    other = new_chain(tmp_path, accounts=1)
    before = contents(folder, but=("lock",))
    said = refused(1, *run_once(folder, "--genesis", other.genesis))
    assert "belongs to another chain" in said
    assert f"0x{other.chain_id.hex()}" in said
    assert contents(folder, but=("lock",)) == before
    is_good(folder)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_store_of_another_chain_is_refused(folder: Path, tmp_path: Path) -> None:
    kept = (folder / "genesis.json").read_bytes()
    (folder / "genesis.json").write_bytes(new_chain(tmp_path, accounts=1).genesis.read_bytes())
    assert "belongs to another chain" in refused(1, *run_once(folder))
    (folder / "genesis.json").write_bytes(kept)
    is_good(folder)


def test_a_lost_genesis_is_not_made_up(folder: Path) -> None:
    kept = (folder / "genesis.json").read_bytes()
    (folder / "genesis.json").unlink()
    before = contents(folder, but=("lock",))
    assert "genesis.json" in refused(1, *run_once(folder))
    assert contents(folder, but=("lock",)) == before
    (folder / "genesis.json").write_bytes(kept)
    is_good(folder)


def newer_folder(folder: Path) -> None:
    (folder / "folder.toml").write_text('format = 9\nbackend = "whatever"\n')


def newer_store(folder: Path) -> None:
    (marker,) = folder.glob("storage/*/store.json")
    marker.write_text(json.dumps({"backend": marker.parent.name, "format": 9}))


def newer_genesis(folder: Path) -> None:
    path = folder / "genesis.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 9'))


def newer_identity(folder: Path) -> None:
    path = folder / "identity.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 9'))


def truncated_identity(folder: Path) -> None:
    path = folder / "identity.json"
    path.write_bytes(path.read_bytes()[:60])


def empty_identity(folder: Path) -> None:
    (folder / "identity.json").write_bytes(b"")


def exposed_identity(folder: Path) -> None:
    (folder / "identity.json").chmod(0o644)


def garbled_marker(folder: Path) -> None:
    (folder / "folder.toml").write_bytes(b"\xff\x00")


def no_marker(folder: Path) -> None:
    (folder / "folder.toml").unlink()


DAMAGES: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "a newer format": (newer_folder, ["format 9", "newer release"]),
    "a store of a newer format": (newer_store, ["format 9", "newer"]),
    "a genesis of a newer format": (newer_genesis, ["genesis.json", "9"]),
    "an identity of a newer format": (newer_identity, ["identity.json", "format 9"]),
    "a truncated identity": (truncated_identity, ["identity.json", "not JSON"]),
    "an empty identity": (empty_identity, ["identity.json", "not JSON"]),
    "an identity that others may read": (exposed_identity, ["identity.json", "chmod"]),
    "a garbled marker": (garbled_marker, ["folder.toml", "can't be read"]),
    "no marker beside a store": (no_marker, ["folder.toml", "missing"]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_folder_is_refused_with(name: str, folder: Path) -> None:
    damage, words = DAMAGES[name]
    damage(folder)
    before = contents(folder, but=("lock", "store.lock", "LOG"))
    said = refused(1, *run_once(folder))
    assert all(word in said for word in words), said
    assert contents(folder, but=("lock", "store.lock", "LOG")) == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_backend_than_the_folders_is_refused(backend: str, folder: Path) -> None:
    other = next(each for each in BACKENDS if each != backend)
    before = contents(folder, but=("lock",))
    said = refused(1, *run_once(folder, "--set", f"storage.use={other}"))
    assert f"'{backend}'" in said and f"'{other}'" in said and f"storage.use={backend}" in said
    assert contents(folder, but=("lock",)) == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_flipped_bytes_in_the_store_are_noticed_and_repaired_by_nobody(backend: str, folder: Path) -> None:
    """Every second byte is flipped in the middle of the largest file that holds data."""
    data = {"rocksdb": "*.sst", "sqlite": "*.sqlite"}[backend]
    target = max(folder.glob(f"storage/{backend}/{data}"), key=lambda path: path.stat().st_size)
    kept = target.read_bytes()
    damaged = bytearray(kept)
    for at in range(200, len(kept) - 200, 2):
        damaged[at] ^= 0x5A
    target.write_bytes(damaged)
    ended = verb(*run_once(folder))
    assert ended.code == 1
    assert len(ended.errors) == 1, ended.err
    assert "orrupt" in ended.errors[0] or "amaged" in ended.errors[0], ended.errors
    assert "listening" not in ended.err
    assert target.read_bytes() == bytes(damaged)
    target.write_bytes(kept)
    is_good(folder)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_path_that_is_no_folder_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    said = refused(1, *run_once(tmp_path / place))
    assert "the data folder is not a folder" in said and str(tmp_path / place) in said
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("part", "mode"),
    [
        (".", 0o000),
        ("storage", 0o000),
        pytest.param("identity.json", 0o000, marks=pytest.mark.slow),
        pytest.param("lock", 0o400, marks=pytest.mark.slow),
    ],
)
def test_a_folder_without_rights_is_refused(part: str, mode: int, folder: Path) -> None:
    held = () if os.geteuid() else UNPRIVILEGED
    if held and shutil.which(held[0]) is None:
        pytest.skip("root needs setpriv to give up its rights over files")
    kept = (folder / part).stat().st_mode & 0o777
    (folder / part).chmod(mode)
    try:
        said = refused(1, *run_once(folder), inside=held)
    finally:
        (folder / part).chmod(kept)
    assert "denied" in said or "right" in said or "writable" in said, said
    is_good(folder)


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(1, "run", "--data", tmp_path / "data", "--api", f"127.0.0.1:{port}")
        assert f"the port is in use: 127.0.0.1:{port}" in said
    # The folder that was made meanwhile is good.
    is_good(tmp_path / "data")


def test_a_second_node_on_a_folder_names_the_first_which_goes_on(tmp_path: Path) -> None:
    with running(tmp_path / "data") as node:
        said = refused(1, *run_once(node.data))
        assert f"process {node.process.pid}" in said and str(node.data) in said
        spend(node)


def test_the_lock_of_a_killed_node_is_free(tmp_path: Path) -> None:
    with running(tmp_path / "data") as node:
        node.kill()
    is_good(tmp_path / "data")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("lock", marks=pytest.mark.slow),
        pytest.param("folder.toml", marks=pytest.mark.slow),
        "identity.json",
        pytest.param("keys/dev.json", marks=pytest.mark.slow),
        "genesis.json",
        "storage",
    ],
)
def test_a_first_run_killed_as_soon_as_a_file_is_there_is_made_good_by_the_next(
    name: str, tmp_path: Path
) -> None:
    with started(tmp_path / "data") as node:
        until((tmp_path / "data" / name).exists, f"{name} is there")
        node.kill()
    assert verb(*run_once(tmp_path / "data")).code == 0
    is_good(tmp_path / "data")
