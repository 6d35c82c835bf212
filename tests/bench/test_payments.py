"""The benchmarks of transfers at small sizes: their shape, their judge, and that the judge can be angry."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest

from supervm.bench import payments, revm
from supervm.bench.errors import CantMeasure
from supervm.bench.gas import with_gas
from supervm.bench.ledgers import Ran, Way, open_ledger
from supervm.bench.options import Options
from supervm.bench.packing import Packed, unpack
from supervm.bench.payments import conflict_rate, run_payments
from supervm.bench.race import Done, run_race
from supervm.bench.report import BenchResult
from supervm.bench.shapes import SHAPES, Shape
from supervm.bench.slices import wrong_slice
from supervm.bench.transfers import BALANCE, TransferPlan, Transfers, Work
from supervm.contracts.gas import GasPolicy
from supervm.execution.engine import pack_entries
from supervm.hardware import fastpath
from tests import needs

SMALL = Shape(accounts=20, block=60, blocks=2)
HOT = attrs.evolve(SMALL, hot=5)
native = needs.c_engine


@pytest.fixture(scope="module")
def gas() -> GasPolicy:
    return with_gas(lambda policy: policy)


def run(shape: Shape = SMALL, **asked: Any) -> BenchResult:
    options = Options(**{"blocks": shape.blocks, "peers": False, **asked})
    return with_gas(lambda policy: run_payments("transfers-50", shape, options, policy))


@pytest.mark.parametrize("engine", ["twin", pytest.param("native", marks=native)])
@pytest.mark.parametrize("shape", [SMALL, HOT])
def test_a_run_holds_its_oracle_and_has_the_shape_of_every_benchmark(engine: str, shape: Shape) -> None:
    found = run(shape, engine=engine, threads=2).to_json()
    json.dumps(found)
    assert found["oracle"] == "ok"
    assert found["attempts"] == 5 * shape.block * shape.blocks
    assert (found["failed"], found["success_rate"]) == (0, 1.0)
    assert found["goodput"] == found["rates"]["supervm"]["a_second"]["median"] > 0
    assert found["parameters"]["accounts"] == 20
    assert found["parameters"]["threads"] == (2 if engine == "native" else 1)
    assert found["measured"]["supervm"][-1] == "the state root"
    assert {"supervm", "supervm, no state root"} <= set(found["rates"])
    if engine == "native":
        assert found["ratios"].keys() >= {"one thread, no state root"}
        assert ("block_stm" in found["ratios"]) is (shape is HOT)
    else:
        assert found["ratios"] == {}


def test_a_missing_peer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrevm", None)
    result = run(peers=True)
    assert (result.oracle, result.peers_missing) == ("ok", ("pyrevm",))
    assert "pyrevm" not in result.ratios


def test_revm_makes_the_same_transfers_and_its_balances_are_judged() -> None:
    pytest.importorskip("pyrevm", reason="the peer pyrevm isn't installed: pip install supervm[bench]")
    result = run(peers=True, engine="twin")
    assert (result.oracle, result.peers_missing) == ("ok", ())
    compared = result.extra["compared"]["pyrevm"]
    assert compared["ratio"]["median"] == result.ratios["pyrevm"] > 0
    assert result.extra["left_out"]["pyrevm"]
    assert result.extra["versions"]["pyrevm"]


def test_a_revm_that_loses_a_unit_breaks_the_oracle() -> None:
    pytest.importorskip("pyrevm", reason="the peer pyrevm isn't installed: pip install supervm[bench]")
    world = Transfers(TransferPlan(accounts=4, block=10))
    names = [revm.address_text(world.address(each)) for each in range(4)]
    evm = revm.Revm(names, BALANCE - 1)
    wrong = payments.Theirs(world, evm, names.__getitem__).take(world.next()).wrong
    assert wrong is not None
    assert "it must hold" in wrong


def test_growth_is_told_with_and_without_the_root() -> None:
    result = run(attrs.evolve(SMALL, block=100, blocks=1), growth=3)
    grown = result.extra["growth"]
    assert [each["who"] for each in grown] == ["supervm", "supervm, no state root"]
    assert grown[0]["sizes"] == [1, 10, 100]
    assert grown[0]["of"] == "transactions a block"


def test_what_cannot_be_measured_is_said() -> None:
    with pytest.raises(CantMeasure, match="at least 2"):
        run(attrs.evolve(SMALL, accounts=1))
    with pytest.raises(CantMeasure, match="at least 7"):
        run(attrs.evolve(HOT, accounts=6))
    with pytest.raises(CantMeasure, match="larger"):
        run(attrs.evolve(SMALL, block=99), growth=3)


def test_c_that_is_not_there_is_refused_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastpath, "BLOCKS_NATIVE", False)
    assert Options().way().native is False
    with pytest.raises(CantMeasure, match="--engine twin"):
        Options(engine="native").way()


def took(ran: Ran, **changes: Any) -> Ran:
    return attrs.evolve(ran, **changes)


def without_a_change(ran: Ran) -> Ran:
    kept = list(unpack(ran.changes[0]))[:-1]
    return took(ran, changes=(pack_entries(kept),))


def with_a_change(ran: Ran) -> Ran:
    return took(ran, changes=(ran.changes[0] + pack_entries([(b"\x01" + b"z" * 32, b"new")]),))


def with_one_unit_more(ran: Ran) -> Ran:
    entries = list(unpack(ran.changes[0]))
    key, value = next((key, value) for key, value in entries if key[0] == 1)
    assert value is not None
    more = value[:17] + (int.from_bytes(value[17:], "little") + 1).to_bytes(16, "little")
    return took(ran, changes=(pack_entries([*entries, (key, more)]),))


def with_receipts(change: Callable[[list[bytes]], Sequence[bytes]]) -> Callable[[Ran], Ran]:
    return lambda ran: took(ran, receipts=(tuple(change(list(ran.receipts[0]))),))


def at(place: int, byte: int) -> Callable[[list[bytes]], list[bytes]]:
    def change(receipts: list[bytes]) -> list[bytes]:
        first = bytearray(receipts[0])
        first[place] = byte
        return [bytes(first), *receipts[1:]]

    return change


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (without_a_change, "didn't change and should have"),
        (with_a_change, "changed and shouldn't have"),
        (with_one_unit_more, "it must be"),
        (with_receipts(lambda receipts: receipts[1:]), "receipts of"),
        (with_receipts(lambda receipts: [receipts[1], *receipts[1:]]), "names another transaction"),
        (with_receipts(lambda receipts: [b"", *receipts[1:]]), "is none"),
        (with_receipts(at(34, 4)), "status 4"),
        (with_receipts(at(33, 2)), "lane 2"),
        (with_receipts(at(47, 1)), "paid"),
    ],
)
def test_the_books_find_what_is_wrong_with_a_turn(
    gas: GasPolicy, tamper: Callable[[Ran], Ran], told: str
) -> None:
    world = Transfers(TransferPlan(accounts=4, block=10))
    ledger = open_ledger(Way(native=False, root=False), world.start(), gas)
    work = world.next()
    ran = ledger.run(work.blocks)
    assert world.wrong(work, ran) is None
    wrong = world.wrong(work, tamper(ran))
    assert wrong is not None
    assert told in wrong


def test_a_plan_that_makes_value_breaks_the_oracle(gas: GasPolicy) -> None:
    world = Transfers(TransferPlan(accounts=4, block=10))
    ledger = open_ledger(Way(native=False, root=False), world.start(), gas)
    work = world.next()
    untouched = set(range(4)) - {each[0] for each in work.transfers} - {each[1] for each in work.transfers}
    world.books.balance -= 1
    assert not untouched
    assert world.wrong(work, ledger.run(work.blocks)) == "the plan itself makes or loses value"


@native
def test_c_and_the_specification_are_compared_on_the_start_of_a_run(gas: GasPolicy) -> None:
    plan = TransferPlan(accounts=5, block=30)
    world = Transfers(plan)
    block = world.next().blocks[0]
    entries = world.start_of(block, 200)
    assert wrong_slice(block, entries, Way(native=True), gas) is None
    other = Transfers(attrs.evolve(plan, seed=2)).next().blocks[0]
    assert wrong_slice(other, entries, Way(native=True), gas) is None


@native
@pytest.mark.parametrize("field", ["receipts", "receipts_root", "changes", "state_root"])
def test_a_difference_to_the_specification_is_told(
    gas: GasPolicy, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    from supervm.bench.ledgers import NativeLedger

    honest = NativeLedger.run
    lies: dict[str, Any] = {
        "receipts": ((b"",), (b"",)),
        "receipts_root": b"",
        "changes": (b"", b""),
        "state_root": bytes(32),
    }

    def lie(self: NativeLedger, blocks: Sequence[Packed]) -> Ran:
        return took(honest(self, blocks), **{field: lies[field]})

    monkeypatch.setattr(NativeLedger, "run", lie)
    result = run(engine="native")
    assert result.oracle != "ok"
    assert (result.goodput, result.ratios) == (None, {})


def test_a_run_stops_at_the_first_turn_that_is_wrong() -> None:
    taken: list[int] = []

    class Wrong:
        version = "1"

        def take(self, work: int) -> Done:
            taken.append(work)
            return Done({}, "it lost a coin" if work == 2 else None)

    works = iter(range(100))
    race = run_race(lambda: next(works), {"clumsy": Wrong()})
    assert race.oracle == "clumsy: it lost a coin"
    assert taken == [0, 1, 2]


def test_the_conflict_rate_counts_transactions_with_an_earlier_one_s_account() -> None:
    transfers = ((0, 1, 5, 0), (2, 3, 5, 0), (1, 4, 5, 0), (5, 6, 5, 0))
    block = Transfers(TransferPlan(accounts=4, block=4)).next().blocks[0]
    assert conflict_rate(Work((block,), transfers)) == 0.25


def test_the_workloads_have_the_sizes_that_their_names_say() -> None:
    assert (SHAPES["transfers-50"].accounts, SHAPES["transfers-50"].block) == (50, 10_000)
    assert (SHAPES["transfers-5"].accounts, SHAPES["transfers-5"].block) == (5, 10_000)
    assert (SHAPES["uniform-1m"].accounts, SHAPES["uniform-1m"].block) == (1_000_000, 200_000)


def test_the_verb_prints_one_json_object_with_machine_and_tier() -> None:
    command = [sys.executable, "-m", "supervm", "bench", "transfers-5", "--block", "40", "--blocks", "1"]
    done = subprocess.run([*command, "--no-peers", "--json"], capture_output=True, check=True, timeout=240)
    found = json.loads(done.stdout)
    assert (found["name"], found["oracle"]) == ("transfers-5", "ok")
    assert found["machine"]["tier"]
    assert found["machine"]["cores"] >= 1
    assert found["parameters"]["block"] == 40


def test_the_verb_refuses_what_cannot_be_with_the_mend() -> None:
    command = [sys.executable, "-m", "supervm", "bench", "hot-5-blocks", "--accounts", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 2
    assert "at least 7 are needed" in done.stderr
