"""`prune` on the folder of a stopped node, whose chain a real node made."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import ANY_PORT, Wallet, dev_key, refused, running, until, verb

BLOCKS = 300
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


def test_a_folder_without_a_chain_is_not_pruned(tmp_path: Path) -> None:
    assert "no chain here" in refused(1, "prune", "--data", tmp_path, "--keep-blocks", "256")


def test_a_running_nodes_folder_is_left_to_it(tmp_path: Path) -> None:
    with running(tmp_path / "data", *FAST, "--api", ANY_PORT):
        assert "is using the data folder" in refused(1, "prune", "--data", tmp_path / "data")
