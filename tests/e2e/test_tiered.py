"""A node whose store has two classes: what is old goes to the cold disk, and all is served as before."""

import json
from pathlib import Path
from typing import Any

from tests.e2e.harness import Wallet, dev_key, refused, running, until, verb

TIERED = (
    *("--set", "storage.use=tiered"),
    *("--set", "storage.tiered.value_bytes_min=0"),
    *("--set", "storage.tiered.keep_copies_s=0"),
)
# Windows that nobody has to wait for.
MOVING = (
    *("--set", "storage.tiered.window_s=0.5"),
    *("--set", "storage.tiered.down_windows=2"),
    *("--set", "storage.tiered.share=0.3"),
    *("--set", "consensus.solo.block_interval_min_ms=0"),
    *("--set", "consensus.solo.block_interval_max_ms=50"),
)


def said(*arguments: str | Path) -> Any:
    done = verb(*arguments, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def rows_in(told: Any, name: str) -> int:
    return next(int(one["rows"]) for one in told["classes"] if one["name"] == name)


def test_old_blocks_go_to_the_cold_disk_and_are_served_from_there(tmp_path: Path) -> None:
    data, disk = tmp_path / "data", tmp_path / "disk"
    disk.mkdir()
    here = ("--set", f"storage.tiered.cold_path={disk / 'cold'}")
    with running(data, *TIERED, *MOVING, *here) as node:
        wallet = Wallet.at(node, dev_key(node.data))
        paid = wallet.pay((b"\x33" * 32, 10))
        node.commit(paid)
        at = f"/v1/transactions/0x{paid.digest.hex()}"
        first = node.get(at).json()
        until(lambda: rows_in(node.get("/v1/temperature").json(), "cold") > 5, "some rows are cold")
        told = node.get("/v1/temperature").json()
        assert int(told["moved_rows"]) >= rows_in(told, "cold")
        assert told["thresholds"]["down_windows"] == 2
        assert (
            'tiered_moved_rows_total{source="hot",target="cold",trigger="rank"}' in node.get("/metrics").text
        )
        assert said("temperature", "--api", node.url)["complete"] is True
        assert node.get(at).json() == first
        for height in range(int(first["height"]) + 5):
            assert node.get(f"/v1/blocks/{height}").status_code == 200
    # Stopped: a dry run says what would go by the thresholds as they are by default.
    where = ("--data", data, *TIERED, *here)
    told = said("temperature", *where)
    assert told["dry_run"] is True
    assert rows_in(told, "cold") > 5
    (disk / "cold").rename(disk / "elsewhere")
    error = refused(1, "run", *where, "--once")
    assert "the disk of class cold is not there" in error and str(disk / "cold") in error
    where = ("--data", data, *TIERED, "--set", f"storage.tiered.cold_path={disk / 'elsewhere'}")
    assert said("verify", *where)["executed"] is True
