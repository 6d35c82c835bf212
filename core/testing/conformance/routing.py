"""What every routing table keeps, as tests (supervm.contracts.routing)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from supervm.contracts.routing import (
    ANSWER_MAX,
    BadQuery,
    BadRecord,
    NodeFilter,
    NodeRecord,
    Routing,
    Service,
    UnknownNode,
)
from supervm.testing.conformance.component import ComponentConformance


def record(number: int, **more: Any) -> NodeRecord:
    """A node of tier L2 unless told otherwise; the id is the number."""
    facts = {"tier": "L2", "addresses": (f"127.0.0.1:{9000 + number}",)} | more
    return NodeRecord(node_id=number.to_bytes(32, "big"), **facts)


@pytest.mark.trio
class RoutingConformance(ComponentConformance):
    """Subclass it and name `component`; its default options give an empty table."""

    @asynccontextmanager
    async def table(self, folder: Path) -> AsyncIterator[Routing]:
        async with self.opened(folder) as table:
            assert isinstance(table, Routing)
            yield table

    async def test_a_node_is_found_by_its_id_until_it_is_removed(self, tmp_path: Path) -> None:
        async with self.table(tmp_path) as table:
            assert table.size() == 0
            assert table.register(record(1)) is True
            assert table.lookup(record(1).node_id).record == record(1)
            assert table.remove(record(1).node_id) is True and table.remove(record(1).node_id) is False
            with pytest.raises(UnknownNode):
                table.lookup(record(1).node_id)

    async def test_only_a_newer_record_replaces_one(self, tmp_path: Path) -> None:
        async with self.table(tmp_path) as table:
            table.register(record(1, sequence=5))
            assert table.register(record(1, sequence=5, region="EUWest")) is False
            assert table.register(record(1, sequence=4, region="EUWest")) is False
            assert table.lookup(record(1).node_id).record.region == "Other"
            assert table.register(record(1, sequence=6, region="EUWest")) is True
            assert table.lookup(record(1).node_id).record.region == "EUWest" and table.size() == 1

    async def test_a_bad_record_is_refused_and_changes_nothing(self, tmp_path: Path) -> None:
        async with self.table(tmp_path) as table:
            for bad in (
                NodeRecord(node_id=b"short", tier="L1"),
                record(1, tier="L5"),
                record(1, addresses=("127.0.0.1:1",) * 9),
            ):
                with pytest.raises(BadRecord):
                    table.register(bad)
            assert table.size() == 0

    async def test_every_condition_of_a_filter_holds_for_every_answer(self, tmp_path: Path) -> None:
        async with self.table(tmp_path) as table:
            table.register(record(1, tier="L1", region="EUWest", services=Service.BLOCKS | Service.RELAY))
            table.register(record(2, tier="L2", region="EUWest", services=Service.BLOCKS))
            table.register(record(3, tier="L2", region="AsiaJP"))
            table.heartbeat(record(2).node_id, 80, now_ms=1)

            def found(**wanted: Any) -> list[int]:
                entries = table.find_nodes(NodeFilter(**wanted))
                return sorted(int.from_bytes(entry.record.node_id, "big") for entry in entries)

            assert found() == [1, 2, 3]
            assert found(tier="L2") == [2, 3]
            assert found(region="EUWest", tier="L2") == [2]
            assert found(services=Service.BLOCKS) == [1, 2]
            assert found(services=Service.BLOCKS | Service.RELAY) == [1]
            assert found(max_load=79) == [1, 3]
            assert found(max_load=49) == [], "unknown load counts as 50"

    async def test_the_better_one_comes_first_and_ties_go_by_id(self, tmp_path: Path) -> None:
        async with self.table(tmp_path) as table:
            for number in (5, 3, 4):
                table.register(record(number))
            order = [entry.record.node_id[-1] for entry in table.find_nodes(NodeFilter())]
            assert order == [3, 4, 5]
            table.observe(record(5).node_id, 1.0, now_ms=1)
            table.heartbeat(record(5).node_id, 0, now_ms=1)
            assert table.find_nodes(NodeFilter())[0].record.node_id[-1] == 5
            for _ in range(3):
                table.observe(record(5).node_id, None, now_ms=2)
            assert table.find_nodes(NodeFilter())[-1].record.node_id[-1] == 5

    async def test_an_answer_is_bounded_and_a_question_out_of_range_is_refused(self, tmp_path: Path) -> None:
        async with self.table(tmp_path) as table:
            for number in range(1, 40):
                table.register(record(number))
            assert len(table.find_nodes(NodeFilter())) == ANSWER_MAX
            assert len(table.find_nodes(NodeFilter(limit=3))) == 3
            for bad in (NodeFilter(limit=0), NodeFilter(limit=ANSWER_MAX + 1), NodeFilter(tier="L9")):
                with pytest.raises(BadQuery):
                    table.find_nodes(bad)

    async def test_news_of_an_unknown_node_or_out_of_range_is_refused(self, tmp_path: Path) -> None:
        async with self.table(tmp_path) as table:
            with pytest.raises(UnknownNode):
                table.heartbeat(bytes(32), 1, now_ms=1)
            with pytest.raises(UnknownNode):
                table.observe(bytes(32), 1.0, now_ms=1)
            table.register(record(1))
            for load in (-1, 101):
                with pytest.raises(BadRecord):
                    table.heartbeat(record(1).node_id, load, now_ms=1)
