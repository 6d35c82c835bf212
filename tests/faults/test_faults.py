"""Whatever the disk does, what was acknowledged is there, and nothing wrong is ever told (STO-44, STO-104).

A few faults of each kind; `tox -e faults` has them by the hundred and prints figures.
"""

import os
from pathlib import Path

import pytest

from tests.faults import backends, classes, figures, files, store, work

FAULTS = int(os.environ.get("FAULTS", "2"))
SEED = int(os.environ.get("FAULTS_SEED", "1"))


@pytest.mark.parametrize("kind", store.Fault)
async def test_a_fault_beneath_the_ledger_ends_in_an_error_and_never_in_a_wrong_answer(
    kind: store.Fault, tmp_path: Path
) -> None:
    made = await figures.of_rows(kind, FAULTS, SEED, tmp_path)
    assert made.wrong == []
    assert made.injected == FAULTS
    if kind not in store.AT_REST:
        assert made.told == made.injected, "it was noticed every time"
    if kind not in store.LASTING:
        assert made.reopened == made.injected, "and nothing of it is left"


@pytest.mark.parametrize("kind", store.Fault)
async def test_a_fault_of_one_class_while_rows_move_ends_in_an_error_and_never_in_a_wrong_answer(
    kind: store.Fault, tmp_path: Path
) -> None:
    made = await figures.of_rows(kind, FAULTS, SEED, tmp_path, "classes")
    assert made.wrong == []
    assert made.injected == FAULTS
    if kind not in {*store.AT_REST, store.Fault.FLIP_ON_READ}:
        # A flip may be read where it is only compared: the row doesn't move, or a copy isn't checked.
        assert made.told == made.injected
    if kind not in store.LASTING:
        assert made.reopened == made.injected


async def test_rows_move_and_copies_go_beneath_the_ledger_while_faults_come(tmp_path: Path) -> None:
    async with classes.tiered_disk(tmp_path) as disk:
        await work.WORKS["commit and prune"](disk, tmp_path, work.Acknowledged())
        assert disk.moved_rows > 50 and disk.removed_copies > 10
        assert all([await one.rows() for one in disk.classes.values()])


@pytest.mark.parametrize("kind", files.FileFault)
async def test_a_fault_beneath_our_files_ends_in_an_error_and_never_in_a_wrong_answer(
    kind: files.FileFault, tmp_path: Path
) -> None:
    made = await figures.of_files(kind, FAULTS, SEED, tmp_path)
    assert made.wrong == []
    assert made.injected == FAULTS
    if kind is files.FileFault.SHORT_WRITE:
        assert made.told == 0, "the rest is written by the next call"
    elif kind not in files.AT_REST:
        assert made.told == made.injected
    if kind not in files.AT_REST:
        assert made.reopened == made.injected


async def test_a_flipped_bit_in_a_value_is_told_by_the_key_it_is_under(tmp_path: Path) -> None:
    made = await figures.of_rows(store.Fault.FLIP_IN_VALUE, FAULTS, SEED + 1, tmp_path)
    assert (made.wrong, made.unnamed) == ([], 0)
    assert made.told > 0


@pytest.mark.parametrize("backend", ["sqlite", "rocksdb", "tiered"])
def test_a_failed_sync_beneath_an_engine_stops_it_and_loses_nothing(backend: str, tmp_path: Path) -> None:
    """`tox -e faults` has all kinds on all engines."""
    if backend == "rocksdb":
        pytest.importorskip("rocksdict")
    library = backends.compiled(tmp_path)
    if library is None:
        pytest.skip("needs a C compiler and Linux")
    outcome = backends.fail_call(backend, backends.DiskFault.SYNC_ERROR, 9, library, tmp_path / "faults")
    assert outcome.wrong == []
    # RocksDB may sync a table in the background just then, and tell of it with a later batch.
    assert outcome.stopped == "StoreFailed" or backend == "rocksdb"


def test_a_damaged_file_of_an_engine_is_told_or_does_no_harm(tmp_path: Path) -> None:
    made = figures.of_engine("sqlite", backends.DiskFault.FLIP_AT_REST, 1, SEED, tmp_path / "faults")
    assert (made.injected, made.wrong) == (1, [])
