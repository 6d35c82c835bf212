"""`prune`, `snapshot` and `migrate` on the folder of a stopped node, whose chain a real node made."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from supervm.cli.errors import Failure
from supervm.cli.folders import scratch_storage
from supervm.cli.snapshots import create_at, restore_one
from supervm.node.assembly import INSIDE
from supervm.node.compose import prepare
from supervm.node.options import NodeOptions
from supervm.storage.errors import WrongRoot
from tests.chain.conftest import make_world
from tests.e2e.harness import ANY_PORT, Wallet, dev_key, refused, running, until, verb

BLOCKS = 300
TOKEN = "a long enough token"
FAST = (
    *("--set", "storage.use=sqlite"),
    *("--set", "consensus.solo.block_interval_min_ms=0"),
    *("--set", "consensus.solo.block_interval_max_ms=1"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a stopped node with some transactions and 300 blocks; copy it before use."""
    folder = tmp_path_factory.mktemp("made") / "data"
    with running(folder, *FAST) as node:
        wallet = Wallet.at(node, dev_key(node.data))
        node.commit(*(wallet.pay((b"\x33" * 32, 10)) for _ in range(3)))
        until(lambda: int(node.get("/v1/status").json()["height"]) >= BLOCKS, "300 blocks")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def said(*arguments: str | Path) -> Any:
    done = verb(*arguments, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_pruning_a_stopped_nodes_folder_removes_what_a_dry_run_said(folder: Path) -> None:
    whole = said("verify", "--data", folder)
    assert (whole["executed"], whole["oldest_block"]) == (True, "0")
    height = int(whole["height"])
    planned = said("prune", "--data", folder, "--keep-blocks", "256", "--keep-roots", "256", "--dry-run")
    assert int(planned["oldest_block"]) == planned["blocks"] == height - 255
    assert planned["tree_pages"] > 0
    assert said("verify", "--data", folder)["executed"] is True, "a dry run removes nothing"
    done = said("prune", "--data", folder, "--keep-blocks", "256", "--keep-roots", "256", "--compact")
    assert done == planned | {"dry_run": False}
    left = said("verify", "--data", folder)
    assert (left["executed"], left["oldest_block"]) == (False, done["oldest_block"])
    assert left["state_root"] == whole["state_root"]
    again = said("prune", "--data", folder, "--keep-blocks", "256", "--keep-roots", "256")
    assert (again["blocks"], again["tree_pages"]) == (0, 0)
    with running(folder) as node:
        status = node.get("/v1/status").json()
        assert status["oldest_block"] == done["oldest_block"]
        gone = node.get("/v1/blocks/1")
        assert (gone.status_code, gone.json()["code"]) == (410, "Pruned")
        assert node.get(f"/v1/blocks/{done['oldest_block']}").status_code == 200


@pytest.mark.parametrize("count", ["0", "255"])
def test_a_limit_that_leaves_too_little_is_refused(folder: Path, count: str) -> None:
    assert "the least is 256" in refused(2, "prune", "--data", folder, "--keep-blocks", count)


@pytest.mark.parametrize("name", ["verify", "usage", "prune"])
def test_a_verb_takes_the_options_that_a_node_takes(tmp_path: Path, name: str) -> None:
    """`bench replay --set ...` hands them to its node, and to `verify` afterwards."""
    options = ("--set", "application.ledger.execution_workers=2")
    assert "no chain here" in refused(1, name, "--data", tmp_path, *options)


def test_a_folder_without_a_chain_is_not_pruned(tmp_path: Path) -> None:
    assert "no chain here" in refused(1, "prune", "--data", tmp_path, "--keep-blocks", "256")


def test_a_running_nodes_folder_is_left_to_it(tmp_path: Path) -> None:
    with running(tmp_path / "data", *FAST, "--api", ANY_PORT):
        assert "is using the data folder" in refused(1, "prune", "--data", tmp_path / "data")


# Snapshots

NO_FLOOR = ("--set", "application.ledger.snapshot_free_bytes_min=0")


@pytest.fixture
def taken(folder: Path, tmp_path: Path) -> tuple[Path, Any]:
    """A folder with a snapshot of the whole chain, and what was said of it."""
    where = tmp_path / "backup"
    return where, said("snapshot", "create", "--data", folder, "--to", where, "--blocks", "0", *NO_FLOOR)


@pytest.mark.parametrize("backend", ["sqlite", "rocksdb", "lmdb"])
def test_a_snapshot_is_restored_into_any_backend_and_the_node_goes_on_from_it(
    folder: Path, taken: tuple[Path, Any], tmp_path: Path, backend: str
) -> None:
    pytest.importorskip({"sqlite": "sqlite3", "rocksdb": "rocksdict"}.get(backend, backend))
    where, made_of = taken
    (listed,) = said("snapshot", "list", "--from", where)
    assert listed == {"pinned": False, **{name: made_of[name] for name in made_of if name != "folder"}}
    assert (made_of["taken_from"], made_of["first_block"]) == ("sqlite", "0")
    fresh, use = tmp_path / "fresh", ("--set", f"storage.use={backend}")
    done = said("snapshot", "restore", "--from", where, "--data", fresh, *use)
    assert (done["storage"], done["state_root"]) == (backend, made_of["state_root"])
    whole, again = said("verify", "--data", folder), said("verify", "--data", fresh)
    assert again == whole
    assert "holds a ledger already" in refused(1, "snapshot", "restore", "--from", where, "--data", fresh)
    shutil.copy(folder / "identity.json", fresh / "identity.json")
    with running(fresh) as node:
        wallet = Wallet.at(node, dev_key(folder))
        node.commit(wallet.pay((b"\x44" * 32, 1)))
        assert int(node.get("/v1/status").json()["height"]) > int(whole["height"])


def test_a_restore_that_replaces_keeps_what_was_there_under_another_name(
    folder: Path, taken: tuple[Path, Any]
) -> None:
    where, _ = taken
    done = said(
        *("snapshot", "restore", "--from", where, "--data", folder, "--replace"),
        *("--set", "storage.use=rocksdb"),
    )
    aside = Path(done["set_aside"])
    assert {path.name for path in (folder / "storage").iterdir()} == {
        "rocksdb",
        aside.name,
        aside.name + ".toml",
    }
    assert said("verify", "--data", folder)["state_root"] == done["state_root"]
    # What was set aside is a store as before.
    shutil.move(aside, folder / "storage" / "sqlite")
    shutil.copy(f"{aside}.toml", folder / "folder.toml")
    assert said("verify", "--data", folder)["state_root"] == done["state_root"]


def test_a_damaged_snapshot_is_refused_and_replaces_nothing(folder: Path, taken: tuple[Path, Any]) -> None:
    where, made_of = taken
    assert said("snapshot", "verify", "--from", where)["restored"] is True
    assert said("snapshot", "verify", "--from", where, "--quick")["restored"] is False
    chunk = max(where.glob("chunks/??/*"), key=lambda path: path.stat().st_size)
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    for arguments in (("verify",), ("verify", "--quick"), ("restore", "--replace", "--data", folder)):
        assert chunk.name in refused(1, "snapshot", *arguments, "--from", where)
    assert said("verify", "--data", folder)["state_root"] == made_of["state_root"]


def test_a_snapshot_of_another_chain_is_refused(taken: tuple[Path, Any], tmp_path: Path) -> None:
    where, _ = taken
    assert verb("run", "--data", tmp_path / "other", "--api", ANY_PORT, "--once", *FAST).code == 0
    said_so = refused(1, "snapshot", "restore", "--from", where, "--data", tmp_path / "other", "--replace")
    assert "the snapshot belongs to another chain" in said_so
    assert verb("verify", "--data", tmp_path / "other").code == 0


def test_a_copy_to_verify_by_is_made_beside_the_store_that_is_configured(
    folder: Path, taken: tuple[Path, Any], tmp_path: Path
) -> None:
    """A store with a place of its own is never restored into by a verification."""
    where, made_of = taken
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    own = ("--set", "storage.use=sqlite", "--set", f"storage.sqlite.path={elsewhere}")
    assert said("snapshot", "verify", "--from", where, *own)["restored"] is True
    assert list(elsewhere.iterdir()) == []
    own = ("--set", f"storage.sqlite.path={folder / 'storage' / 'sqlite'}")
    assert said("verify", "--data", folder, *own)["state_root"] == made_of["state_root"]


def test_a_refused_snapshot_leaves_no_genesis_behind(
    taken: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, _ = taken

    async def lying(*_: Any) -> None:
        raise WrongRoot(bytes(32), bytes(32))

    options = NodeOptions(data=tmp_path / "new", environ={})
    with monkeypatch.context() as patched:
        patched.setattr("supervm.cli.snapshots.restore_snapshot", lying)
        with pytest.RaisesGroup(WrongRoot, flatten_subgroups=True, allow_unwrapped=True):
            trio.run(restore_one, options, where, "", None, False)
    assert not (tmp_path / "new" / "genesis.json").exists()
    assert said("snapshot", "restore", "--from", where, "--data", tmp_path / "new")["restored"] is True
    assert (tmp_path / "new" / "genesis.json").exists()


def test_a_list_says_of_a_snapshot_that_can_not_be_read_why(tmp_path: Path) -> None:
    (tmp_path / "snapshot-000000000001-1700000000.manifest").write_bytes(b"\x01rubbish")
    (found,) = said("snapshot", "list", "--from", tmp_path)
    assert found["height"] == "1"
    assert "no manifest" in found["unreadable"]
    assert "no manifest" in verb("snapshot", "list", "--from", tmp_path).out


def test_a_node_that_forgets_that_it_was_asked_for_a_snapshot_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Client:
        def get(self, _: str) -> Any:
            return {"snapshots": [], "taking": False, "last_failure": ""}

        def post(self, _: str) -> None:
            pass

    monkeypatch.setattr("supervm.cli.snapshots.connect", lambda _: nullcontext(Client()))
    monkeypatch.setattr("supervm.cli.snapshots.LOOK_S", 0.0)

    async def asked() -> None:
        with trio.fail_after(120):
            await create_at("http://node")

    with pytest.raises(Failure, match="takes no snapshot any more"):
        trio.run(asked)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (("storage.use=sqlite", "storage.sqlite.path=/srv/store"), "sqlite"),
        (("storage.use=memory", "storage.memory.path=/srv/store"), "memory"),
        (("storage.use=cached", "storage.cached.path=/srv/store"), "sqlite"),
        (("storage.use=tiered", "storage.tiered.cold_path=/hdd/cold"), "sqlite"),
        (("storage.use=postgres", "storage.postgres.dsn=host=db"), "sqlite"),
    ],
)
def test_what_is_made_to_verify_by_takes_its_place_from_its_folder(
    tmp_path: Path, settings: tuple[str, ...], name: str
) -> None:
    options = NodeOptions(data=tmp_path, settings=settings, environ={})
    prepared = trio.run(lambda: prepare(options, inside=INSIDE))
    storage, _ = scratch_storage(prepared, make_world().genesis)
    assert (storage.component.name, storage.config.path) == (name, "")


def test_snapshots_are_pinned_and_removed_by_name(taken: tuple[Path, Any]) -> None:
    where, made_of = taken
    name = made_of["name"]
    assert said("snapshot", "pin", name, "--from", where)["pinned"] is True
    assert "pinned" in refused(1, "snapshot", "remove", name, "--from", where)
    said("snapshot", "pin", name, "--off", "--from", where)
    removed = said("snapshot", "remove", name, "--from", where)
    assert removed["bytes"] >= made_of["bytes"]
    assert said("snapshot", "list", "--from", where) == []
    assert "There are: none" in refused(1, "snapshot", "verify", "--from", where)
    assert "no snapshots here" in refused(1, "snapshot", "list", "--from", where / "nowhere")


def test_a_running_node_takes_one_when_its_operator_asks(tmp_path: Path) -> None:
    token = {"SUPERVM_API_TOKEN": "a token of this test"}
    with running(
        tmp_path / "data", *FAST, *NO_FLOOR, "--set", f"api.token={token['SUPERVM_API_TOKEN']}", **token
    ) as node:
        assert "needs a token" in refused(1, "snapshot", "create", "--api", node.url)
        done = verb("snapshot", "create", "--api", node.url, "--json", **token)
        assert done.code == 0, done.err
        made = json.loads(done.out)
    (listed,) = said("snapshot", "list", "--data", tmp_path / "data")
    assert (listed["name"], listed["state_root"]) == (made["name"], made["state_root"])
    assert said("snapshot", "verify", "--data", tmp_path / "data")["restored"] is True


# Migration


@pytest.mark.parametrize("backend", ["rocksdb", "lmdb"])
def test_a_folder_is_moved_to_another_backend_and_back_and_the_node_goes_on(
    folder: Path, backend: str
) -> None:
    pytest.importorskip({"rocksdb": "rocksdict"}.get(backend, backend))
    whole = said("verify", "--data", folder)
    done = said("migrate", "--to", backend, "--data", folder)
    assert (done["from"], done["to"], done["state_root"]) == ("sqlite", backend, whole["state_root"])
    assert said("verify", "--data", folder) == whole
    assert Path(done["old_store"]).is_dir()
    with running(folder) as node:
        assert node.get("/v1/status").json()["composition"]["storage"] == [backend]
        wallet = Wallet.at(node, dev_key(folder))
        node.commit(wallet.pay((b"\x44" * 32, 1)))
    # The old store is a ledger still, so it is not written over; out of the way, it can be moved to again.
    assert "not empty" in refused(1, "migrate", "--to", "sqlite", "--data", folder)
    Path(done["old_store"]).rename(folder / "old")
    said("migrate", "--to", "sqlite", "--data", folder)
    assert int(said("verify", "--data", folder)["height"]) > int(whole["height"])


def test_a_running_node_moves_its_store_and_opens_the_new_one_at_its_next_start(folder: Path) -> None:
    with running(folder, "--set", f"api.token={TOKEN}", SUPERVM_API_TOKEN=TOKEN) as node:
        wallet = Wallet.at(node, dev_key(folder))
        node.commit(wallet.pay((b"\x44" * 32, 1)))
        here = ("--api", node.url)
        told = {"SUPERVM_API_TOKEN": TOKEN}
        for name, says in (("sqlite", "is of sqlite already"), ("papyrus", "isn't installed")):
            failed = verb("migrate", "--to", name, *here, **told)
            assert failed.code == 1 and says in failed.errors[0], failed
        done = verb("migrate", "--to", "lmdb", *here, "--json", **told)
        assert done.code == 0 and json.loads(done.out)["phase"] == "done", done
        # It goes on, and writes both from now on.
        node.commit(*(wallet.pay((b"\x45" * 32, 1)) for _ in range(5)))
        assert node.client.status()["composition"]["storage"] == ["sqlite"]
        paid = node.balance(b"\x45" * 32)
    with running(folder) as node:
        assert node.client.status()["composition"]["storage"] == ["lmdb"]
        assert node.balance(b"\x45" * 32) == paid == 5
        wallet = Wallet.at(node, dev_key(folder))
        node.commit(wallet.pay((b"\x45" * 32, 1)))
    assert said("verify", "--data", folder)["verified"] is True


def test_a_node_killed_while_it_moves_its_store_comes_back_with_what_it_acknowledged(folder: Path) -> None:
    for seed in range(2):
        with running(folder, "--set", f"api.token={TOKEN}", SUPERVM_API_TOKEN=TOKEN) as node:
            wallet = Wallet.at(node, dev_key(folder))
            before = node.balance(b"\x46" * 32)
            headers = {"authorization": f"Bearer {TOKEN}"}
            begun = httpx.post(f"{node.url}/v1/migration/lmdb", headers=headers, timeout=120)
            assert begun.status_code in (202, 409), begun.text
            for _ in range(seed + 1):
                node.commit(wallet.pay((b"\x46" * 32, 1)))
            node.kill()
        with running(folder) as node:
            assert node.balance(b"\x46" * 32) == before + seed + 1
    assert said("verify", "--data", folder)["verified"] is True


@pytest.mark.parametrize(
    ("name", "says"),
    [("sqlite", "is of sqlite already"), ("papyrus", "isn't installed"), ("memory", "keeps nothing on disk")],
)
def test_what_can_not_be_migrated_to_is_refused_and_the_folder_is_as_it_was(
    folder: Path, name: str, says: str
) -> None:
    done = verb("migrate", "--to", name, "--data", folder)
    assert done.code in (1, 2)
    assert says in done.errors[0]
    assert said("verify", "--data", folder)["verified"] is True


def test_a_store_of_one_class_has_no_temperature(folder: Path) -> None:
    assert "has no classes to move rows between" in refused(1, "temperature", "--data", folder)


def test_usage_says_what_is_on_the_disk_and_what_the_rows_are_for(folder: Path) -> None:
    found = said("usage", "--data", folder)
    on_disk = sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
    assert sum(found["disk"].values()) == pytest.approx(on_disk, abs=2**16)
    assert found["disk"]["storage/sqlite"] > 0
    assert found["rows"]["headers"]["rows"] == int(found["height"]) + 1
    assert found["rows"]["old_trees"]["rows"] > 0
    said("prune", "--data", folder, "--keep-blocks", "256", "--keep-roots", "256")
    left = said("usage", "--data", folder)
    assert left["rows"]["transactions"]["rows"] < found["rows"]["transactions"]["rows"]
    assert left["rows"]["old_trees"]["rows"] < found["rows"]["old_trees"]["rows"]
    assert left["rows"]["state"] == found["rows"]["state"]


def test_a_restore_and_a_move_that_would_fill_the_disk_are_refused_before_they_begin(
    folder: Path, taken: tuple[Path, Any], tmp_path: Path
) -> None:
    """What the store keeps free counts as a bound too, and is the one that may be more than a disk has."""
    snapshots, _ = taken
    tight = ("--set", "storage.rocksdb.free_bytes_min=1000000000000000000")
    asked = ("--set", "storage.use=rocksdb", *tight)
    new = tmp_path / "new"
    said = refused(1, "snapshot", "restore", "--from", snapshots, "--data", new, *asked)
    assert "no room for the snapshot" in said and "disk_tight_bytes" in said
    said = refused(1, "migrate", "--to", "rocksdb", "--data", folder, *tight)
    assert "no room for the copy" in said
    # Neither left anything of a ledger.
    assert verb("snapshot", "restore", "--from", snapshots, "--data", new, *asked[:2]).code == 0
