"""Interactive transactions at small sizes: the shape of the result, and that its judge can be angry."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from supervm.bench import txn_peers
from supervm.bench.errors import CantMeasure
from supervm.bench.rows import BALANCE, MoveBook, Moves, wrong_balances
from supervm.bench.txn_2r2w import OURS, WITH_PAST, Ours, TxnPlan, run_txn_2r2w
from supervm.bench.txn_peers import Lmdb, Sqlite
from supervm.mvcc import Transaction

PLAN = TxnPlan(accounts=20, transactions=50)
ALONE = TxnPlan(accounts=20, transactions=50, peers=False)


def test_a_run_holds_its_oracle_and_has_the_shape_of_every_benchmark() -> None:
    found = run_txn_2r2w(ALONE).to_json()
    json.dumps(found)
    assert found["oracle"] == "ok"
    assert (found["attempts"], found["failed"], found["success_rate"]) == (5 * 50, 0, 1.0)
    assert found["goodput"] == found["rates"]["supervm"]["a_second"]["median"] > 0
    assert found["parameters"]["accounts"] == 20
    assert found["latency_ms"].keys() == {"p50", "p99"}
    assert (found["ratios"], found["peers_missing"]) == ({}, [])


def test_the_store_under_test_counts_what_ran_and_keeps_a_past_only_where_asked() -> None:
    facts = run_txn_2r2w(ALONE).extra["execution"]
    for label in (OURS, WITH_PAST):
        assert facts[label]["commits"] == 50
        assert facts[label]["conflicts"] == 0
    assert facts[OURS]["versions"] == 20
    assert facts[WITH_PAST]["versions"] > 200


def test_lmdb_and_sqlite_make_the_same_moves_and_are_compared() -> None:
    pytest.importorskip("lmdb", reason="the peer lmdb isn't installed: pip install supervm[bench]")
    result = run_txn_2r2w(PLAN)
    assert (result.oracle, result.peers_missing) == ("ok", ())
    assert result.ratios.keys() == result.extra["compared_with_past"].keys() == {"lmdb", "sqlite"}
    assert all(ratio > 0 for ratio in result.ratios.values())
    for name, wanted in result.extra["wanted"].items():
        assert wanted["reached"] is (result.ratios[name] >= wanted["ratio"])
    assert all(result.extra["versions"].values())


def test_a_missing_peer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    result = run_txn_2r2w(PLAN)
    assert (result.oracle, result.peers_missing) == ("ok", ("lmdb",))
    assert result.ratios.keys() == {"sqlite"}


def test_a_store_that_loses_a_write_breaks_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    book = MoveBook(4, 10, 1)
    ours = Ours(OURS, book.balances, 1)
    assert ours.take(book.next()).wrong is None
    work = book.next()
    monkeypatch.setattr(type(ours.store.begin()), "commit", Transaction.abort)
    wrong = ours.take(work).wrong
    assert wrong is not None
    assert "by the books" in wrong


def test_a_peer_that_loses_a_unit_breaks_the_oracle(tmp_path: Path) -> None:
    pytest.importorskip("lmdb", reason="the peer lmdb isn't installed: pip install supervm[bench]")
    book = MoveBook(4, 10, 1)
    short: dict[bytes, int] = {**book.balances, book.names[0]: BALANCE - 1}
    peers: list[Any] = [Lmdb(short, tmp_path), Sqlite(short)]
    work = book.next()
    for peer in peers:
        wrong = peer.take(work).wrong
        peer.close()
        assert wrong is not None
        assert "in all accounts" in wrong


def test_a_turn_that_is_wrong_ends_the_run_without_a_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(txn_peers, "wrong_balances", lambda *_: "a unit is gone")
    result = run_txn_2r2w(ALONE)
    assert result.oracle == "supervm: a unit is gone"
    assert (result.goodput, result.ratios, result.extra["compared_with_past"]) == (None, {}, {})


def test_the_books_tell_what_differs() -> None:
    wanted = {b"a": 5, b"b": 5}
    assert wrong_balances(wanted, wanted) is None
    assert wrong_balances({b"a": 5, b"b": 4}, wanted) == "9 in all accounts, 10 by the books"
    assert wrong_balances({b"a": 4, b"b": 6}, wanted) == "a has 4, 5 by the books"
    assert wrong_balances({**wanted, b"c": 0}, wanted) == "3 accounts, 2 by the books"


def test_a_payer_without_means_is_counted_as_failed_and_pays_nothing() -> None:
    book = MoveBook(2, 1, 1)
    payer, payee = book.names
    ours = Ours(OURS, {payer: 0, payee: 7}, 1)
    done = ours.take(Moves(((payer, payee),), {payer: 0, payee: 7}))
    assert (done.wrong, done.turns[OURS].wrong) == (None, 1)


def test_one_seed_is_the_same_moves_and_nobody_pays_himself() -> None:
    moves = MoveBook(3, 200, 7).next().moves
    assert moves == MoveBook(3, 200, 7).next().moves != MoveBook(3, 200, 8).next().moves
    assert all(payer != payee for payer, payee in moves)
    assert {key for move in moves for key in move} == set(MoveBook(3, 1, 7).names)


def test_growth_is_over_the_rows() -> None:
    grown = run_txn_2r2w(TxnPlan(accounts=200, transactions=50, growth=3, peers=False)).extra["growth"]
    assert [(each["who"], each["sizes"]) for each in grown] == [("supervm", [2, 20, 200])]
    assert grown[0]["of"] == "accounts"


def test_what_cannot_be_measured_is_said() -> None:
    with pytest.raises(CantMeasure, match="at least 2"):
        run_txn_2r2w(TxnPlan(accounts=1, transactions=1, peers=False))
    with pytest.raises(CantMeasure, match="give more accounts"):
        run_txn_2r2w(TxnPlan(accounts=100, transactions=5, growth=3, peers=False))


def test_the_verb_prints_one_json_object_and_refuses_what_cannot_be() -> None:
    command = [sys.executable, "-m", "supervm", "bench", "txn-2r2w", "--accounts", "30"]
    more = ["--transactions", "40", "--no-peers"]
    done = subprocess.run([*command, *more, "--json"], capture_output=True, check=True, timeout=240)
    found = json.loads(done.stdout)
    assert (found["name"], found["oracle"]) == ("txn-2r2w", "ok")
    assert found["parameters"]["transactions_a_turn"] == 40
    done = subprocess.run(
        [*command, *more, "--growth", "4"], capture_output=True, check=False, text=True, timeout=240
    )
    assert done.returncode == 2
    assert "give a larger size" in done.stderr
