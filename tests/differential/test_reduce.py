"""What fails is made small, and is written down to be run again; all of it by the specification alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from supervm.execution import GAS_STATE_KEY, execute_block, recorded_supply, supply
from supervm.types.operations import TokenCreate
from tests.differential.case import Case, case_of
from tests.differential.compare import Found, Tally, compare_world
from tests.differential.generate import world
from tests.differential.reduce import fewer, literal, reduce_case
from tests.differential.ways import Way, applied

ROOT = Path(__file__).parents[2]


def chain(seed: int, count: int) -> Case:
    """`count` blocks of a seed's world."""
    of = world(seed, crowded=False)
    began, blocks = dict(of.state), []
    for _ in range(count):
        block = of.block()
        blocks.append(block)
        of.follow(block, execute_block(of.state, block, of.gas).changes)
    return case_of(of.gas, of.limits, began, blocks, seed)


def codes(case: Case) -> list[str]:
    """What became of every transaction."""
    state = {**case.state, GAS_STATE_KEY: case.gas.initial_state()}
    found: list[str] = []
    for block in case.inputs():
        result = execute_block(state, block, case.gas)
        found += [receipt.code for receipt in result.receipts]
        state = applied(state, result.changes)
    return found


def created(case: Case) -> int:
    """Tokens that came to be."""
    state = {**case.state, GAS_STATE_KEY: case.gas.initial_state()}
    count = 0
    for block in case.inputs():
        result = execute_block(state, block, case.gas)
        good = {receipt.digest for receipt in result.receipts if not receipt.code}
        count += sum(
            isinstance(each, TokenCreate)
            for transaction in block.transactions
            if transaction.digest in good
            for each in transaction.operations
        )
        state = applied(state, result.changes)
    return count


def test_of_many_items_those_are_kept_that_the_failure_needs() -> None:
    assert fewer(range(100), lambda some: {3, 50, 97} <= set(some)) == [3, 50, 97]
    assert fewer(range(100), lambda some: True) == []
    assert fewer([], lambda some: True) == []


@pytest.mark.parametrize("code", ["OutOfGas", "ObjectMissing"])
def test_a_chain_is_made_as_small_as_what_is_looked_for(code: str) -> None:
    case = next(case for seed in range(100) if code in codes(case := chain(seed, 4)))
    small = reduce_case(case, lambda candidate: code in codes(candidate))
    assert codes(small) == [code]
    assert len(small.blocks) == 1
    assert len(small.state) <= 3
    assert small.chance is None


def test_two_transactions_that_belong_together_stay_together() -> None:
    case = next(case for seed in range(100) if created(case := chain(seed, 3)) >= 2)
    small = reduce_case(case, lambda candidate: created(candidate) >= 2)
    assert created(small) == 2
    assert sum(len(block.transactions) for block in small.blocks) <= 2


def test_a_case_that_is_written_down_is_the_same_when_it_is_read() -> None:
    case = chain(5, 2)
    read: dict[str, object] = {}
    exec(literal(case).rsplit("print(", 1)[0], read)
    assert read["case"] == case


def test_a_difference_names_the_seed_the_block_and_the_way_and_carries_the_blocks() -> None:
    case = chain(1, 2)
    found = Found(7, Way(2, "block_stm"), case, "receipts differ")
    assert str(found) == "seed 7, block 1, block_stm on 2, kept: receipts differ"
    assert found.case is case


def test_worlds_are_the_same_for_the_same_seed_and_keep_all_value() -> None:
    for seed in range(12):
        one, other = world(seed), world(seed)
        for _ in range(3):
            block = one.block()
            assert block == other.block()
            result = execute_block(one.state, block, one.gas)
            assert result == execute_block(other.state, block, other.gas)
            one.follow(block, result.changes)
            other.follow(block, result.changes)
            assert supply(one.state) == recorded_supply(one.state)


def test_with_no_way_to_compare_with_the_specification_still_goes_through_a_world() -> None:
    tally = Tally()
    compare_world(3, 4, tally, ways=())
    assert tally.blocks == 4
    assert sum(tally.outcomes.values()) >= 1


def test_the_program_says_what_it_compared(tmp_path: Path) -> None:
    pytest.importorskip(
        "supervm.hardware._fastpath", reason="the C library is not built", exc_type=ImportError
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.differential.compare", "--blocks", "12", "--seed", "900"],
        capture_output=True, text=True, timeout=240, check=True, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout.startswith("12 blocks from seed 900 to 900, 12 a seed\n")
    assert "12 blocks by the specification and by C in 11 ways: all equal" in done.stdout
