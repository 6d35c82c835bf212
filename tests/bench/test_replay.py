"""A block through a real node in a process of its own, killed and not, and judged by the oracle."""

import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from supervm.bench.bitcoin import read_block
from supervm.bench.checks import check_balances
from supervm.bench.node import NodeCommand, free_address, running_node
from supervm.bench.replay import ReplayFailed, ReplayPlan, replay, working_folder
from supervm.bench.report import BenchResult
from supervm.bench.workload import SAT_TOKEN
from supervm.cli.main import main
from supervm.client.http import NodeClient
from tests.bench.blocks import make_block

KILLS = int(os.environ.get("SOAK_KILLS", "0"))
"""Of the real block, which has thousands of payments; small ones are killed in every run of the tests."""
REAL = next((Path(__file__).parent.parent / "data").glob("*.blk"))
SHAPE = {"name", "parameters", "goodput", "attempts", "failed", "latency_ms", "ratios", "peers_missing"}


class Bar:
    def update(self, _: int) -> None:
        """Nobody looks."""


@contextmanager
def quiet(_label: str, _total: int) -> Iterator[Bar]:
    yield Bar()


def small_block(seed: int = 1, count: int = 120) -> bytes:
    chance = random.Random(seed)
    scripts = [chance.randbytes(chance.randrange(30)) for _ in range(40)]
    return make_block(
        [
            [
                (chance.choice([0, 1, 546, 10**8]), chance.choice(scripts))
                for _ in range(chance.randrange(1, 5))
            ]
            for _ in range(count)
        ]
    )


async def run(tmp_path: Path, **plan: Any) -> BenchResult:
    block = tmp_path / "small.blk"
    block.write_bytes(small_block())
    with working_folder(tmp_path / "kept") as folder:
        return await replay(ReplayPlan(block=block, folder=folder, **plan), quiet)


async def test_every_storage_ends_in_the_same_state_and_verifies(tmp_path: Path) -> None:
    roots = set()
    for storage, verified in (("memory", None), ("sqlite", "ok"), ("rocksdb", "ok")):
        (tmp_path / storage).mkdir()
        # What the node takes, the check of its folder takes.
        settings = ("application.ledger.prune_share=0.3", "application.ledger.state_cache_bytes=1000000")
        result = await run(tmp_path / storage, storage=storage, settings=settings)
        assert result.oracle == "ok"
        assert result.extra["verify"] == verified
        assert (result.attempts, result.failed, result.extra["committed"]) == (120, 0, 120)
        roots.add(result.extra["state_root"])
        found = result.to_json()
        assert set(found) >= {*SHAPE, "oracle", "machine"}
        assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"]
        json.dumps(found)
    assert len(roots) == 1


async def test_a_node_killed_at_random_moments_ends_in_the_state_of_one_left_in_peace(tmp_path: Path) -> None:
    result = await run(tmp_path, storage="sqlite", kills=3, seed=4)
    assert result.oracle == "ok"
    killed = result.extra["killed"]
    assert killed["kills"] == 3
    assert killed["posts"] > 120
    assert killed["state_root"] == result.extra["state_root"]


class WrongNode(NodeClient):
    """A node that gives every account one satoshi more than it has, or another nonce."""

    def __init__(self, block: bytes, *, nonce: str, extra: int) -> None:
        super().__init__()
        self._paid: dict[str, int] = {}
        self._nonce, self._extra = nonce, extra
        from supervm.bench.oracle import expected_balances

        self._paid, self._spenders, _ = expected_balances(block)

    def account(self, address: str) -> dict[str, Any]:
        held = self._paid[address] + self._extra
        return {
            "balances": {f"0x{SAT_TOKEN.hex()}": str(held)} if held else {},
            "nonce": self._nonce if address in self._spenders else "0",
        }


def test_the_oracle_finds_a_satoshi_too_many_and_a_spender_who_spent_twice() -> None:
    block = small_block()
    assert check_balances(WrongNode(block, nonce="1", extra=0), block, quiet) == []
    found = check_balances(WrongNode(block, nonce="1", extra=1), block, quiet)
    assert "the file says" in found[0]
    found = check_balances(WrongNode(block, nonce="2", extra=0), block, quiet)
    assert "has nonce 2, not 1" in found[0]


async def test_a_node_of_somebody_else_is_sent_to_if_it_is_on_the_replay_s_chain(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    first = await run(tmp_path / "first", storage="memory")
    kept, data = tmp_path / "first" / "kept", tmp_path / "data"
    data.mkdir(mode=0o700)
    shutil.copy(kept / "identity.json", data)
    flags = ("--genesis", str(kept / "genesis.json"), "--set", "storage.use=memory")
    command = NodeCommand(data=data, listen=free_address(), flags=flags)
    async with running_node(command) as node:
        result = await run(tmp_path, api=command.url)
        assert (result.oracle, result.extra["state_root"]) == ("ok", first.extra["state_root"])
        await node.stop()
    other = NodeCommand(data=tmp_path / "other", listen=free_address(), flags=flags[2:])
    (tmp_path / "third").mkdir()
    async with running_node(other):
        with pytest.raises(ReplayFailed, match="is on chain"):
            await run(tmp_path / "third", api=other.url)


def test_a_folder_that_holds_something_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("x")
    with pytest.raises(ReplayFailed, match="isn't empty"), working_folder(tmp_path):
        pass


def test_a_file_that_is_no_block_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.blk").write_bytes(b"\x00" * 100)
    assert main(["bench", "replay", "--file", str(tmp_path / "bad.blk")]) == 1
    assert "not a Bitcoin block" in capsys.readouterr().err


def test_kills_and_a_node_of_somebody_else_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "replay", "--file", str(REAL), "--kills", "1", "--api", "http://x"]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_small_blocks_are_blocks() -> None:
    assert len(read_block(small_block()).payments) == 120


@pytest.mark.slow
async def test_the_real_block_is_committed_whole_and_survives_the_kills_asked_for(tmp_path: Path) -> None:
    with working_folder(tmp_path / "kept") as folder:
        result = await replay(ReplayPlan(block=REAL, folder=folder, kills=KILLS), quiet)
    assert result.oracle == "ok"
    assert result.extra["committed"] == 3315
    assert result.extra["satoshi"] == 1_168_464_839_990
    if KILLS:
        assert result.extra["killed"]["kills"] == KILLS
