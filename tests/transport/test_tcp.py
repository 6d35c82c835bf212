"""The transport `tcp` keeps the contract."""

from collections.abc import Iterator
from typing import Any

import pytest

from supervm.plugins.transport.tcp.component import TCP
from supervm.testing.conformance.transport import TransportConformance
from tests.transport.tcp_nodes import Loopback, loopback

MODULES = (
    "accepting",
    "certificates",
    "component",
    "config",
    "dialing",
    "figures",
    "frames",
    "hello",
    "lane",
    "link",
    "outgoing",
    "quotas",
    "streams",
    "tls",
    "transport",
)


class TestTcp(TransportConformance):
    component = TCP
    sources = (
        "supervm.plugins.transport.registry",
        *(f"supervm.plugins.transport.tcp.{name}" for name in MODULES),
    )
    all_dial = False

    @pytest.fixture(autouse=True)
    def _loopback(self) -> Iterator[None]:
        for made in loopback():
            self.made: Loopback = made
            yield

    def configs(self, count: int) -> list[Any]:
        return list(self.made.configs(count, all_dial=self.all_dial))

    def twins(self) -> list[Any]:
        return self.made.twins()
