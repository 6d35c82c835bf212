"""The static routing table: the contract, and its configuration."""

from pathlib import Path

import pytest

from supervm.contracts.routing import BadRecord, NodeFilter
from supervm.plugins.routing import supervm_components
from supervm.plugins.routing.static import StaticConfig
from supervm.testing.conformance.routing import RoutingConformance, record
from supervm.testing.context import opened

(STATIC,) = supervm_components()
NODE = "ab" * 32


class TestStatic(RoutingConformance):
    component = STATIC


async def test_the_nodes_of_the_configuration_are_there_by_tier(tmp_path: Path) -> None:
    config = StaticConfig(peers_l1=[f"0x{NODE}@10.0.0.1:9000"], peers_l3=[f"{'cd' * 32}@[::1]:9002"])
    async with opened(STATIC, tmp_path, config) as table:
        (first,) = table.find_nodes(NodeFilter(tier="L1"))
        assert first.record.node_id.hex() == NODE and first.record.addresses == ("10.0.0.1:9000",)
        (third,) = table.find_nodes(NodeFilter(tier="L3"))
        assert third.record.addresses == ("[::1]:9002",)


@pytest.mark.parametrize(
    "text",
    ["", NODE, f"{NODE}@", f"{NODE}@host", f"{NODE}@host:0", f"{NODE}@host:70000", "ab@host:1", "x@h:1"],
)
def test_a_peer_that_is_not_an_id_and_an_address_is_refused_with_the_mend(text: str) -> None:
    with pytest.raises(ValueError, match="NODEID@HOST:PORT"):
        StaticConfig(peers_l2=[text])


async def test_a_full_table_takes_no_new_node_and_still_renews_those_it_has(tmp_path: Path) -> None:
    async with opened(STATIC, tmp_path, StaticConfig(table_max=2)) as table:
        table.register(record(1))
        table.register(record(2))
        with pytest.raises(BadRecord, match="full"):
            table.register(record(3))
        assert table.register(record(1, sequence=1)) is True and table.size() == 2
