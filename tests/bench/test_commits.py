"""`bench block-commit` commits real blocks, and finds what a ledger does wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from supervm.bench import commits
from supervm.bench.commits import OURS, PYTHON, CommitPlan, run_commits
from supervm.bench.errors import CantMeasure
from supervm.cli.bench import bench
from supervm.hardware import fastpath
from supervm.storage.ledger import Ledger, Staged
from supervm.types.changes import PackedChanges

SMALL = {"accounts": 40, "block": 30, "pairs": 5, "storage": "memory"}


async def test_every_block_is_committed_by_both_and_found_again() -> None:
    result = await run_commits(CommitPlan(**SMALL, page_cache_bytes=3_000))
    assert result.oracle == "ok"
    assert result.attempts == SMALL["block"] * SMALL["pairs"] and result.goodput is not None
    assert set(result.extra["rates"]) == ({OURS, PYTHON} if fastpath.BLOCKS_NATIVE else {OURS})
    assert result.latency_ms is not None and 0 < result.latency_ms["p50"] <= result.latency_ms["p99"]


@pytest.mark.parametrize("everywhere", [True, False])
async def test_an_entry_that_is_not_as_the_books_have_it_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, everywhere: bool
) -> None:
    right, spoilt = Ledger.stage, 0

    async def stage(self: Ledger, changes: Any, height: int) -> Staged:
        nonlocal spoilt
        if height == 3 and (everywhere or not spoilt):
            spoilt += 1
            key = min(changes)
            changes = PackedChanges.of({**changes, key: changes[key] + b"!"})
        return await right(self, changes, height)

    monkeypatch.setattr(Ledger, "stage", stage)
    result = await run_commits(CommitPlan(**SMALL))
    if everywhere or not fastpath.BLOCKS_NATIVE:
        assert "isn't as the books have it" in result.oracle
    else:
        assert result.oracle == "the state roots of the trees differ"
    assert result.goodput is None and not result.ratios


async def test_a_storage_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(CantMeasure, match=r"no storage nothing; there are .*memory"):
        await run_commits(CommitPlan(storage="nothing"))


def test_batches_hold_all_transactions_in_their_order() -> None:
    data: Sequence[bytes] = [bytes([number]) * 400_000 for number in range(5)]
    parent = commits.BlockHeader(
        chain_id=bytes(32),
        epoch=0,
        height=0,
        parent=bytes(32),
        proposer=bytes(32),
        timestamp_ms=0,
        root_height=0,
        state_root=bytes(32),
        receipts_root=bytes(32),
        base_price=1,
        transactions_root=bytes(32),
        body_digest=bytes(32),
        validators_digest=bytes(32),
    )
    block = commits.make_block(parent, bytes(32), data)
    block.check()
    assert [len(batch.transactions) for batch in block.batches] == [2, 2, 1]
    assert list(block.transactions) == data


def test_the_verb_prints_the_result(tmp_path: Path) -> None:
    asked = ["block-commit", "--storage", "memory", "--accounts", "30", "--block", "20", "--json"]
    done = CliRunner().invoke(bench, asked)
    assert done.exit_code == 0, done.output
    assert '"name": "block-commit"' in done.output and '"oracle": "ok"' in done.output
