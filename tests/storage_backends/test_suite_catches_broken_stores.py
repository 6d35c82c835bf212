"""The conformance suite is worth something: each broken store fails the test that names its fault."""

import inspect
from pathlib import Path
from typing import ClassVar

import pytest

from supervm.kernel.component import Component
from supervm.plugins.storage.memory import MemoryStore, memory
from supervm.testing.conformance.component import only_error
from supervm.testing.conformance.storage import StorageConformance
from tests.storage_backends import broken_stores as broken

LONG_BATCH = "test_a_long_batch_becomes_visible_at_once"

ON_MEMORY: list[tuple[type[MemoryStore], str]] = [
    (broken.LosesOrder, "test_rows_come_in_bytewise_order"),
    (broken.LosesOrder, "test_it_agrees_with_a_sorted_dictionary"),
    (broken.EndInclusive, "test_a_scan_includes_its_start_and_excludes_its_end"),
    (broken.ScanFollowsWrites, "test_a_scan_keeps_its_view_while_others_write"),
    (broken.SnapshotSeesLaterWrites, "test_a_snapshot_never_sees_a_later_write"),
    (broken.SnapshotOutlivesItsContext, "test_a_snapshot_is_closed_with_its_context"),
    (broken.TearsBatches, "test_readers_see_whole_batches_only"),
    (broken.TearsBatches, LONG_BATCH),
    (broken.CancelsHalfWay, "test_a_cancelled_write_happened_fully_or_not_at_all"),
    (broken.ChecksWhileWriting, "test_a_bad_operation_anywhere_leaves_nothing_of_its_batch"),
    (broken.AcceptsAnySize, "test_a_bad_operation_anywhere_leaves_nothing_of_its_batch"),
    (broken.AcceptsAnySize, "test_a_batch_over_its_limits_is_refused_whole"),
    (broken.FirstWins, "test_the_last_operation_on_a_key_wins"),
    (broken.SwallowsDeleteRange, "test_a_range_is_deleted_at_its_place_in_the_batch"),
    (broken.DeletesRangesFirst, "test_a_range_is_deleted_at_its_place_in_the_batch"),
    (broken.ForgetsEmptyValues, "test_an_empty_value_is_not_an_absent_one"),
    (broken.AnswersInKeyOrder, "test_many_keys_are_answered_in_the_order_asked"),
    (broken.ServesAfterClosing, "test_every_call_after_closing_is_refused"),
    (broken.ClaimsToPersist, "test_what_was_written_is_there_after_reopening"),
]

KILLED = "test_after_a_kill_the_store_holds_a_prefix_with_all_that_was_acknowledged"

ON_DISK: list[tuple[Component, str]] = [
    (broken.acknowledges_early, KILLED),
    (broken.writes_piecemeal, KILLED),
    (broken.leaves_a_file_open, "test_closing_leaves_no_task_thread_or_file_open"),
    (broken.shares_its_folder, "test_a_second_opener_is_refused_and_the_first_goes_on"),
    (broken.lax_options, "test_its_options_have_defaults_and_refuse_an_unknown_key"),
]

CASES = [
    pytest.param(broken.on_memory(store, "broken"), test, id=f"{store.__name__}-{test}")
    for store, test in ON_MEMORY
] + [pytest.param(component, test, id=f"{component.name}-{test}") for component, test in ON_DISK]


async def run_one(component: Component, test: str, folder: Path) -> None:
    """Run one test of the suite on a component."""

    class Suite(StorageConformance):
        kills: ClassVar[int] = 30
        examples: ClassVar[int] = 15

    Suite.component = component
    call = getattr(Suite(), test)
    await (call(folder) if inspect.signature(call).parameters else call())


@pytest.mark.parametrize(("component", "test"), CASES)
async def test_a_broken_store_fails_the_test_that_names_its_fault(
    component: Component, test: str, tmp_path: Path
) -> None:
    with pytest.raises((AssertionError, TypeError, ExceptionGroup)) as raised:
        await run_one(component, test, tmp_path)
    found = only_error(raised.value)
    while isinstance(found, ExceptionGroup):
        found = only_error(found.exceptions[0])
    assert isinstance(found, AssertionError | TypeError), repr(found)


@pytest.mark.parametrize("test", sorted({test for _, test in ON_MEMORY}))
async def test_the_store_it_was_made_from_passes_that_test(test: str, tmp_path: Path) -> None:
    await run_one(memory, test, tmp_path)
