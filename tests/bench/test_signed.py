"""The benchmark of signed transfers at small sizes, with LiteSVM where it is installed."""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from supervm.bench import litesvm
from supervm.bench.gas import with_gas
from supervm.bench.ledgers import Way, open_ledger
from supervm.bench.litesvm import LiteSvm
from supervm.bench.options import Options
from supervm.bench.packing import Packed
from supervm.bench.report import BenchResult
from supervm.bench.signed import Machine, run_signed
from supervm.bench.transfers import BALANCE, TransferPlan, Transfers
from tests import needs

native = needs.c_engine
MISSING = "the peer solders isn't installed: pip install supervm[bench]"


def run(**asked: Any) -> BenchResult:
    options = Options(**{"peers": False, **asked})
    return with_gas(lambda gas: run_signed(6, 20, options, gas))


@pytest.mark.parametrize("engine", ["twin", pytest.param("native", marks=native)])
def test_a_run_holds_its_oracle_and_says_that_signatures_are_inside(engine: str) -> None:
    found = run(engine=engine, threads=2, blocks=2).to_json()
    json.dumps(found)
    assert (found["name"], found["oracle"], found["failed"]) == ("signed-svm", "ok", 0)
    assert any("signatures" in what for what in found["measured"]["supervm"])
    assert found["left_out"]["supervm"] == ["the state root", "storage"]
    assert found["signatures"]["batch"]
    assert ("one thread" in found["ratios"]) is (engine == "native")


def test_a_missing_peer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "solders.litesvm", None)
    result = run(engine="twin", peers=True)
    assert (result.oracle, result.peers_missing) == ("ok", ("LiteSVM",))


def test_litesvm_makes_the_same_transfers_and_its_balances_are_judged() -> None:
    pytest.importorskip("solders.litesvm", reason=MISSING)
    result = run(engine="twin", peers=True)
    assert (result.oracle, result.peers_missing) == ("ok", ())
    assert result.ratios["LiteSVM"] > 0
    assert result.extra["versions"]["LiteSVM"].startswith("solders ")


def test_a_litesvm_that_holds_other_balances_breaks_the_oracle() -> None:
    pytest.importorskip("solders.litesvm", reason=MISSING)
    world = Transfers(TransferPlan(accounts=3, block=5, signed=True, distinct=True))
    assert world.keys is not None
    wrong = Machine(world, LiteSvm(world.keys.secrets, BALANCE + 1)).take(world.next()).wrong
    assert wrong is not None
    assert "it must hold" in wrong


def test_a_transfer_that_litesvm_refuses_breaks_the_oracle() -> None:
    pytest.importorskip("solders.litesvm", reason=MISSING)
    world = Transfers(TransferPlan(accounts=3, block=5, signed=True, distinct=True))
    assert world.keys is not None
    machine = Machine(world, LiteSvm(world.keys.secrets, BALANCE))
    work = world.next()
    assert machine.take(work).wrong is None
    assert machine.take(work).wrong == "5 transfers failed"


def test_litesvm_verifies_signatures() -> None:
    pytest.importorskip("solders.litesvm", reason=MISSING)
    world = Transfers(TransferPlan(accounts=3, block=1, signed=True))
    assert world.keys is not None
    machine = LiteSvm(world.keys.secrets, BALANCE)
    data = bytearray(machine.sign(0, 1, 5))
    data[1] ^= 1  # in the signature, which comes first after its count
    assert machine.run([bytes(data)]).wrong == 1
    assert machine.balance(1) == BALANCE
    assert machine.run([machine.sign(0, 1, 5)]).wrong == 0
    assert machine.balance(0) == BALANCE - 5 - litesvm.FEE


@pytest.mark.parametrize("way", [Way(native=False), pytest.param(Way(native=True), marks=native)])
def test_ours_refuses_to_measure_what_is_not_signed(way: Way) -> None:
    world = Transfers(TransferPlan(accounts=3, block=4, signed=True))
    signed = Way(native=way.native, signed=True, root=False)
    ledger = with_gas(lambda gas: open_ledger(signed, world.start(), gas))
    (block,) = world.next().blocks
    forged = Packed(block.data[:-1] + bytes((block.data[-1] ^ 1,)), block.offsets)
    with pytest.raises(AssertionError, match="signs what it sends"):
        ledger.run([forged])
    blocks: Sequence[Packed] = [block]
    assert ledger.run(blocks).turn.wrong == 0


def test_growth_is_over_the_transactions_of_a_block() -> None:
    found = with_gas(lambda gas: run_signed(6, 100, Options(engine="twin", peers=False, growth=3), gas))
    assert found.extra["growth"][0]["sizes"] == [1, 10, 100]


def test_the_verb_prints_one_json_object() -> None:
    command = [sys.executable, "-m", "supervm", "bench", "signed-svm", "--block", "10", "--accounts", "4"]
    done = subprocess.run([*command, "--no-peers", "--json"], capture_output=True, check=True, timeout=240)
    assert json.loads(done.stdout)["oracle"] == "ok"
