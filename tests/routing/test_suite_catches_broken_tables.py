"""The conformance suite is worth something: each broken table fails the test that names its fault."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest

from supervm.api import Component, Context, NoConfig, Role
from supervm.contracts.routing import NodeEntry, NodeFilter, NodeRecord
from supervm.plugins.routing.static import Table
from supervm.testing.conformance.component import only_error
from supervm.testing.conformance.routing import RoutingConformance


class TakesOlderRecords(Table):
    def register(self, record: NodeRecord) -> bool:
        self.remove(record.node_id)
        return super().register(record)


class TakesAnything(Table):
    def register(self, record: NodeRecord) -> bool:
        try:
            return super().register(record)
        except Exception:
            self._entries[record.node_id] = NodeEntry(record=record)
            return True


class IgnoresServices(Table):
    def find_nodes(self, wanted: NodeFilter) -> tuple[NodeEntry, ...]:
        return super().find_nodes(attrs.evolve(wanted, services=type(wanted.services)(0)))


class WorstFirst(Table):
    def find_nodes(self, wanted: NodeFilter) -> tuple[NodeEntry, ...]:
        return tuple(reversed(super().find_nodes(wanted)))


class AnswersEverything(Table):
    def find_nodes(self, wanted: NodeFilter) -> tuple[NodeEntry, ...]:
        super().find_nodes(wanted)
        return tuple(self._entries.values())


class ForgetsNobody(Table):
    def remove(self, node_id: bytes) -> bool:
        return node_id in self._entries


class BelievesAnyLoad(Table):
    def heartbeat(self, node_id: bytes, load: int, now_ms: int) -> None:
        super().heartbeat(node_id, min(max(load, 0), 100), now_ms)


CASES = [
    (TakesOlderRecords, "test_only_a_newer_record_replaces_one"),
    (TakesAnything, "test_a_bad_record_is_refused_and_changes_nothing"),
    (IgnoresServices, "test_every_condition_of_a_filter_holds_for_every_answer"),
    (WorstFirst, "test_the_better_one_comes_first_and_ties_go_by_id"),
    (AnswersEverything, "test_an_answer_is_bounded_and_a_question_out_of_range_is_refused"),
    (ForgetsNobody, "test_a_node_is_found_by_its_id_until_it_is_removed"),
    (BelievesAnyLoad, "test_news_of_an_unknown_node_or_out_of_range_is_refused"),
]


def suite(kind: type[Table]) -> RoutingConformance:
    @asynccontextmanager
    async def open_it(ctx: Context, config: NoConfig) -> AsyncIterator[Table]:
        yield kind()

    class Suite(RoutingConformance):
        component = Component(role=Role.ROUTING, name="broken", open=open_it)

    return Suite()


@pytest.mark.parametrize(("kind", "test"), CASES, ids=lambda case: getattr(case, "__name__", ""))
async def test_a_broken_table_fails_the_test_that_names_its_fault(
    kind: type[Table], test: str, tmp_path: Path
) -> None:
    with pytest.raises(BaseException) as raised:
        await getattr(suite(kind), test)(tmp_path)
    assert isinstance(only_error(raised.value), AssertionError | pytest.fail.Exception)


@pytest.mark.parametrize("test", sorted({test for _, test in CASES}))
async def test_the_table_they_were_made_from_passes_that_test(test: str, tmp_path: Path) -> None:
    await getattr(suite(Table), test)(tmp_path)
