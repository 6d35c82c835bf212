"""Block-STM gives what one thread gives in whatever order its threads take their steps (EXEC-36, EXEC-39).

Threads take turns that a seed draws, so that a failure names the order, and the order can be had again.
SANITIZER_ORDERS says in how many orders each block is run (25 unless set).
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest

from supervm.execution import execute_block
from supervm.hardware import fastpath
from tests.differential.generate import world
from tests.sanitizers.building import (
    ADDRESS,
    PLAIN,
    THREAD,
    CannotBuild,
    build_program,
    compile_all,
    in_turns,
    planted,
    sources,
    yielding,
)
from tests.sanitizers.cases import expected, pack_case
from tests.sanitizers.test_life import HERE, OWN, WRAPPED, run

ORDERS = int(os.environ.get("SANITIZER_ORDERS", "25"))
RUN_SECONDS = 200 + ORDERS
BLOCKS = 10
PROGRAM = (HERE / "interleave.c", HERE / "case.c", HERE / "case.h", HERE / "turns.h")
STM = sources()["svm_stm.c"]

# What each makes wrong of the scheduler, by what stands there now and what is put in its place.
FAULTS = {
    "who reads below a new place isn't looked at again": (
        "        lower(stm, &stm->validation, tx);\n",
        "",
    ),
    "an estimate is as good as a value": ("!at->estimate && at->tx", "at->tx"),
    "another incarnation's value is the same": (" && at->incarnation == seen->incarnation", ""),
    "those above an aborted one aren't looked at again": (
        "        lower(stm, &stm->validation, at.tx + 1);\n",
        "",
    ),
    "the end comes while somebody works": (" && load(&stm->active) == 0", ""),
    "work under validation isn't counted before it is taken": (
        "        __atomic_fetch_add(&stm->active, 1, __ATOMIC_SEQ_CST);\n"
        "        svm_test_yield();\n"
        "        const uint32_t tx = next_of(&stm->validation);\n",
        "        const uint32_t tx = next_of(&stm->validation);\n"
        "        svm_test_yield();\n"
        "        __atomic_fetch_add(&stm->active, 1, __ATOMIC_SEQ_CST);\n",
    ),
    "one waits for what is executed by now": (
        "    svm_test_yield();\n"
        "    svm_lock(&of->lock);\n"
        "    if (of->status == SVM_EXECUTED) {\n"
        "        svm_unlock(&of->lock);\n"
        "        return false;\n"
        "    }\n",
        "    if (of->status == SVM_EXECUTED) {\n"
        "        return false;\n"
        "    }\n"
        "    svm_test_yield();\n"
        "    svm_lock(&of->lock);\n",
    ),
    "who waited isn't taken up again": ("        lower(stm, &stm->execution, lowest);\n", ""),
    "a cursor is put back past another's change": (
        "    while (now > to && !__atomic_compare_exchange_n(counter, &now, to, false, __ATOMIC_SEQ_CST,"
        " __ATOMIC_SEQ_CST)) {\n    }\n",
        "    if (now > to) {\n        __atomic_store_n(counter, to, __ATOMIC_SEQ_CST);\n    }\n",
    ),
}


def small_conflicts(path: Path) -> list[str]:
    """Writes blocks of few accounts, in which most transactions conflict; gives what is to come of them."""
    packed, lines = [], []
    for seed in range(1_000):
        of = world(seed, crowded=False)
        for _ in range(4 if len(of.people) <= 5 else 0):
            block = of.block()
            result = execute_block(of.state, block, of.gas)
            good = sum(not receipt.code for receipt in result.receipts)
            if 4 <= len(block.transactions) <= 20 and good > 3:
                packed.append(pack_case(block, of.gas, of.state))
                lines.append(expected(result))
                break
            of.follow(block, result.changes)
        if len(packed) == BLOCKS:
            path.write_bytes(b"".join(packed))
            return lines
    raise AssertionError("too few worlds have such a block")


@attrs.frozen
class Told:
    """What a run ended with, each block's result, and how many orders aborted something, and gave up."""

    status: int
    results: list[str]
    aborted: int
    gave_up: int
    errors: str


def interleave(program: Path, cases: Path, orders: int) -> Told:
    done = subprocess.run(
        [str(program), str(cases), "0", str(orders)],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
        env={"ASAN_OPTIONS": "detect_leaks=1"},
    )
    lines = [line.rsplit(" ", 3) for line in done.stdout.splitlines()]
    counts = [(int(aborted), int(gave_up)) for _, aborted, gave_up, _ in lines]
    return Told(
        done.returncode,
        [line[0] for line in lines],
        sum(aborted for aborted, _ in counts),
        sum(gave_up for _, gave_up in counts),
        # The sanitizer warns, with its process's number, that contexts may confuse it.
        "\n".join(line for line in done.stderr.splitlines() if "makecontext" not in line),
    )


def built(folder: Path, changed: Mapping[str, str]) -> Path:
    try:
        return build_program(ADDRESS, folder, PROGRAM, changed=changed)
    except CannotBuild as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    path = tmp_path_factory.mktemp("cases") / "cases"
    return path, small_conflicts(path)


def test_any_order_of_the_threads_steps_gives_what_one_thread_gives(
    cases: tuple[Path, list[str]], tmp_path: Path
) -> None:
    path, lines = cases
    told = interleave(built(tmp_path, in_turns()), path, ORDERS)
    assert told.status == 0, told.errors[-8_000:]
    assert told.results == lines
    assert told.aborted > ORDERS, "threads got in each other's way too seldom"


def test_the_same_seeds_give_the_same_orders(cases: tuple[Path, list[str]], tmp_path: Path) -> None:
    program = built(tmp_path, in_turns())
    assert interleave(program, cases[0], 10) == interleave(program, cases[0], 10)


def test_a_block_whose_transaction_is_refuted_too_often_is_given_up_says_so_and_ends_as_on_one_thread(
    cases: tuple[Path, list[str]], tmp_path: Path
) -> None:
    path, lines = cases
    told = interleave(built(tmp_path, in_turns(refuted_max=1)), path, 10)
    assert told.status == 0, told.errors[-8_000:]
    assert told.results == lines
    assert 0 < told.gave_up <= told.aborted


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_planted_in_the_scheduler_shows(
    fault: str, cases: tuple[Path, list[str]], tmp_path: Path
) -> None:
    program = built(tmp_path, in_turns(planted(STM, *FAULTS[fault])))
    assert interleave(program, cases[0], 40).status in (1, 3), "no order showed it"


@pytest.mark.parametrize("shared", [False, True], ids=["as it is", "with the race"])
def test_a_set_of_reads_that_changes_under_who_validates_it_is_a_race_that_the_sanitizer_sees(
    shared: bool, cases: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """The next execution of a transaction once wrote over what others were reading."""
    stm = STM
    if shared:
        stm = planted(stm, "__atomic_store_n(&of->reads, reads, __ATOMIC_RELEASE);", "of->reads = reads;")
        stm = planted(
            stm,
            "__atomic_load_n(&stm->txs[tx].reads, __ATOMIC_ACQUIRE)",
            "stm->txs[tx].reads",
        )
    try:
        program = build_program(THREAD, tmp_path, OWN, *WRAPPED, changed=yielding(stm))
    except CannotBuild as error:
        pytest.skip(str(error))
    if shared:
        with pytest.raises(AssertionError, match="data race"):
            for _ in range(5):
                run(program, cases[0], "ways")
    else:
        assert run(program, cases[0], "ways") == cases[1]


def test_a_release_has_no_trace_of_the_yield_points(tmp_path: Path) -> None:
    """The compiler makes the same of the file with and without them."""
    assert STM.count("svm_test_yield();") > 15
    without = STM.replace("svm_test_yield();", "")
    folders = (tmp_path / "with", tmp_path / "without")
    headers = {name: text for name, text in sources().items() if name.endswith(".h")}
    try:
        objects = [
            compile_all(PLAIN, headers | {"svm_stm.c": text}, folder)[0].read_bytes()
            for text, folder in zip((STM, without), folders, strict=True)
        ]
    except CannotBuild as error:
        pytest.skip(str(error))
    assert b"svm_test_yield" not in objects[0]
    assert objects[0] == objects[1]


@pytest.mark.skipif(not fastpath.NATIVE, reason=fastpath.report()["execute_block"].reason)
def test_all_that_c_counts_of_a_block_is_told() -> None:
    from supervm.hardware._fastpath import ffi
    from supervm.hardware.fastpath.engine import Stats

    counted = {name for name, _ in ffi.typeof("svm_block_stats").fields}
    assert "gave_up" in counted
    told = {field.name for field in attrs.fields(Stats)}
    assert told - {"fees"} == counted - {"fees_low", "fees_high"}
