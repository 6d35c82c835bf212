"""`bench pruning` prunes a real chain while blocks go on, and finds what is lost or left behind."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from supervm.bench import pruning
from supervm.bench.pruning import PrunePlan, run_pruning
from supervm.cli.bench import bench
from supervm.contracts.storage import Delete
from supervm.storage.ledger import Ledger, Staged
from supervm.storage.pruning import Removed, Sweeper
from supervm.storage.spaces import TREE, Horizon
from supervm.types.changes import PackedChanges

SMALL = {"blocks": 60, "block": 2, "accounts": 30, "window": 5, "storage": "memory", "share": 1.0}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that a sweep of few blocks is many pieces, and has several windows of each kind."""
    monkeypatch.setattr("supervm.bench.pruning.KEPT_MIN", 16)
    monkeypatch.setattr("supervm.storage.pruning.ROWS_LEAST", 8)
    monkeypatch.setattr("supervm.storage.pruning.DELETES_MAX", 16)
    monkeypatch.setattr("supervm.storage.pruning.PAGES_LEAST", 8)


async def test_blocks_go_on_in_turns_with_and_without_a_sweep_until_all_is_pruned(tmp_path: Path) -> None:
    result = await run_pruning(PrunePlan(**SMALL, folder=tmp_path))
    assert result.oracle == "ok"
    assert result.extra["removed"]["blocks"] == 60 and result.extra["removed"]["pages"] > 60
    pairs = result.extra["pairs"]
    assert pairs >= 1 and result.attempts == 2 * pairs * 5 * 2
    assert result.latency_ms is not None and 0 < result.latency_ms["p50"] <= result.latency_ms["p99"]
    if pairs >= 5:
        slower = result.extra["slower"]["p99"]
        assert slower["min"] <= slower["median"] <= slower["max"]
        assert result.ratios["idle"] == pytest.approx(1 / slower["whole"], rel=0.01)


async def test_a_balance_that_is_not_as_the_books_have_it_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = Ledger.stage

    async def stage(self: Ledger, changes: Any, height: int) -> Staged:
        if height >= 20:
            key = next(each for each in sorted(changes) if each[:1] == b"\x01")
            changes = PackedChanges.of({**changes, key: changes[key][:-1] + b"\x01"})
        return await right(self, changes, height)

    monkeypatch.setattr(Ledger, "stage", stage)
    result = await run_pruning(PrunePlan(**SMALL))
    assert "isn't as the books have it" in result.oracle or "wasn't committed" in result.oracle
    assert not result.ratios


async def test_a_page_that_is_lost_or_left_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = pruning.would_remove

    async def leave(self: Sweeper, target: Any) -> Any:
        return None

    async def lose(ledger: Ledger, horizon: Horizon) -> Removed:
        """When all blocks are made: a page lost before is written anew where its accounts change."""
        rows = await ledger.rows(TREE, TREE + b"\xff", 10_000)
        await ledger.discard([Delete(rows[-1][0])])
        return await right(ledger, horizon)

    for where, name, wrong, words in (
        (Sweeper, "_clear_pages", leave, "pages left"),
        (pruning, "would_remove", lose, "RowDamaged"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, wrong)
            assert words in (await run_pruning(PrunePlan(**SMALL))).oracle


def test_the_verb_prints_the_result(tmp_path: Path) -> None:
    asked = ["pruning", "--storage", "memory", "--blocks", "20", "--accounts", "20", "--window", "3"]
    done = CliRunner().invoke(bench, [*asked, "--folder", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    assert '"name": "pruning"' in done.output and '"oracle": "ok"' in done.output
