"""The benchmarks of object mutations at small sizes: their shape, their judge, and that it can be angry."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from supervm.bench.errors import CantMeasure
from supervm.bench.gas import with_gas
from supervm.bench.ledgers import Ran, Way, open_ledger
from supervm.bench.mutations import run_mixed, run_owned
from supervm.bench.objects import ObjectPlan, Objects
from supervm.bench.options import Options
from supervm.bench.packing import unpack
from supervm.execution.engine import pack_entries
from supervm.types.receipt import Receipt
from supervm.types.transaction import Lane
from tests import needs

native = needs.c_engine
ENGINES = ["twin", pytest.param("native", marks=native)]


def options(**asked: Any) -> Options:
    return Options(**{"peers": False, **asked})


@pytest.mark.parametrize("engine", ENGINES)
def test_owned_counts_mutations_and_holds_its_oracle(engine: str) -> None:
    found = with_gas(lambda gas: run_owned((1, 4), 16, 16, options(engine=engine, threads=2), gas)).to_json()
    json.dumps(found)
    assert (found["name"], found["oracle"], found["failed"]) == ("owned", "ok", 0)
    assert found["attempts"] == 5 * 16
    given = ", digests given" if engine == "native" else ""
    assert found["parameters"]["goodput_of"] == f"4 a transaction, one thread{given}, no state root"
    assert found["goodput"] > 0
    wanted = {"1 a transaction, one thread", "4 a transaction, one thread, no state root"}
    assert wanted <= set(found["rates"])
    assert ("4 a transaction: one thread" in found["ratios"]) is (engine == "native")
    assert ("4 a transaction, one thread, digests given" in found["rates"]) is (engine == "native")
    assert "transaction digests" in found["left_out"]["one thread, digests given"]


@pytest.mark.parametrize("engine", ENGINES)
def test_mixed_runs_every_ratio_and_holds_its_oracle(engine: str) -> None:
    run = with_gas(lambda gas: run_mixed((0, 50, 100), 20, 3, options(engine=engine, blocks=2), gas))
    assert (run.name, run.oracle) == ("mixed-R", "ok")
    assert {f"R = {ratio}, one thread" for ratio in (0, 50, 100)} <= set(run.extra["rates"])


def test_mixed_with_one_ratio_bears_it_in_its_name() -> None:
    run = with_gas(lambda gas: run_mixed((80,), 10, 3, options(engine="twin"), gas))
    assert (run.name, run.oracle) == ("mixed-80", "ok")


def test_lanes_of_a_mixed_block_add_up_to_its_transactions() -> None:
    plan = ObjectPlan(block=20, owned=20, shared=3, ratio=30)
    world = Objects(plan)
    ledger = with_gas(lambda gas: open_ledger(Way(native=False), world.start(), gas))
    work = world.next()
    receipts = [Receipt.decode(each) for each in ledger.run(work.blocks).receipts[0]]
    lanes = [each.lane for each in receipts]
    assert (lanes.count(Lane.FAST), lanes.count(Lane.ORDERED)) == (6, 14)


def test_growth_is_over_the_transactions_of_a_block() -> None:
    asked = options(engine="twin", growth=3)
    run = with_gas(lambda gas: run_owned((2,), 200, 200, asked, gas))
    assert [each["sizes"] for each in run.extra["growth"]] == [[1, 10, 100]] * 2
    assert {each["unit"] for each in run.extra["growth"]} == {"ns a mutation"}


def older(ran: Ran) -> Ran:
    """One object stays at the version before."""
    entries = dict(unpack(ran.changes[0]))
    key = next(key for key in entries if key[0] == 4)
    value = entries[key]
    assert value is not None
    version = int.from_bytes(value[1:9], "little") - 1
    entries[key] = value[:1] + version.to_bytes(8, "little") + value[9:]
    return attrs.evolve(ran, changes=(pack_entries(list(entries.items())),))


def other_lane(ran: Ran) -> Ran:
    first = bytearray(ran.receipts[0][0])
    first[33] = 3 - first[33]
    return attrs.evolve(ran, receipts=((bytes(first), *ran.receipts[0][1:]),))


@pytest.mark.parametrize(("tamper", "told"), [(older, "it must be"), (other_lane, "lane")])
def test_a_version_or_a_lane_that_is_wrong_breaks_the_oracle(tamper: Callable[[Ran], Ran], told: str) -> None:
    world = Objects(ObjectPlan(block=10, owned=10, shared=2, ratio=50))
    ledger = with_gas(lambda gas: open_ledger(Way(native=False), world.start(), gas))
    work = world.next()
    ran = ledger.run(work.blocks)
    assert world.wrong(work, ran) is None
    wrong = world.wrong(work, tamper(ran))
    assert wrong is not None
    assert told in wrong


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ({"block": 1, "each": 65, "owned": 65}, "1 to 64"),
        ({"block": 3, "each": 2, "owned": 4}, "a block needs 6"),
        ({"block": 3, "ratio": 0}, "0 shared objects"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_with_the_mend(plan: dict[str, int], told: str) -> None:
    with pytest.raises(CantMeasure, match=told):
        ObjectPlan(**plan)


def test_objects_that_do_not_divide_are_refused() -> None:
    with pytest.raises(CantMeasure, match="multiple"):
        with_gas(lambda gas: run_owned((3,), 16, 15, options(engine="twin"), gas))


@pytest.mark.parametrize("verb", [["owned", "--each", "2", "--objects", "8"], ["mixed-R", "--owned", "50"]])
def test_the_verbs_print_one_json_object(verb: list[str]) -> None:
    small = [] if verb[0] == "owned" else ["--block", "10", "--blocks", "1"]
    command = [sys.executable, "-m", "supervm", "bench", *verb, *small, "--no-peers", "--json"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=240)
    assert json.loads(done.stdout)["oracle"] == "ok"
