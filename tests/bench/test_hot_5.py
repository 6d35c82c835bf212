"""`bench hot-5`: its books, its oracle, and what it says of how batches ran (EXEC-120)."""

import json
from typing import Any

import pytest

from supervm.bench import hot_5
from supervm.bench.errors import CantMeasure
from supervm.bench.hot_5 import HOT, HotPlan, run_hot_5
from supervm.bench.rows import BALANCE, HotMoveBook

SMALL = HotPlan(accounts=20, transactions=100, waiting=20, wait_us=1)


def test_most_moves_have_one_hot_account_on_either_side() -> None:
    book = HotMoveBook(1_000, 5_000, 1, HOT, 80)
    hot = set(book.names[:HOT])
    moves = book.next().moves
    touched = [len(hot & set(move)) for move in moves]
    assert 0.75 < sum(count > 0 for count in touched) / len(moves) < 0.85
    assert {move[0] in hot for move in moves} == {move[1] in hot for move in moves} == {True, False}
    assert all(payer != payee for payer, payee in moves)
    assert sum(book.balances.values()) == BALANCE * 1_000


def test_every_transaction_commits_in_every_way_and_the_balances_are_those_of_the_books() -> None:
    found = run_hot_5(SMALL).to_json()
    json.dumps(found)
    assert (found["name"], found["oracle"], found["failed"]) == ("hot-5", "ok", 0)
    assert found["attempts"] == 5 * 100
    assert found["goodput"] > 0
    ways = {"one after the other", "8 lanes", "batches of 20", "batches of 1000"}
    assert set(found["rates"]) == ways | {f"{way}, each waits 1 us" for way in ways}
    assert set(found["ratios"]) == {label for label in found["rates"] if label.startswith("batches")}
    assert found["execution"]["8 lanes"]["mode"] == "parallel"
    assert found["execution"]["batches of 20"]["mode"] == "serial"


def test_a_lost_transaction_fails_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: hot_5.Hot, jobs: list[Any]) -> tuple[int, dict[str, Any]]:
        return real(self, jobs[1:])

    real = hot_5.Hot._run_batches
    monkeypatch.setattr(hot_5.Hot, "_run_batches", forgetful)
    found = run_hot_5(SMALL).to_json()
    assert found["oracle"] != "ok"
    assert found["goodput"] is None


def test_a_plan_without_cold_accounts_is_refused() -> None:
    with pytest.raises(CantMeasure, match="5 are hot"):
        run_hot_5(HotPlan(accounts=6))
