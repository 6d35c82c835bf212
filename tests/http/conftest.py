"""A real server on a loopback port, in front of doubles."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest

from supervm.contracts.roles import Role
from supervm.contracts.routing import NodeRecord, Service
from supervm.http.bodies import Bodies
from supervm.http.component import HttpSurface, http_component
from supervm.http.config import HttpConfig
from supervm.http.guard import Slots
from supervm.plugins.routing.static import Table
from supervm.testing.context import component_context
from tests.http.contract import check_answer
from tests.http.doubles import FactsDouble, LedgerDouble, LogDouble

NODE = NodeRecord(
    node_id=b"\x77" * 32, tier="L1", addresses=("192.0.2.7:4001",), services=Service.BLOCKS | Service.ARCHIVE
)


@attrs.frozen
class Served:
    """An open API, and a client of it."""

    surface: HttpSurface
    client: httpx.AsyncClient
    ledger: LedgerDouble
    facts: FactsDouble
    log: LogDouble

    @property
    def bodies(self) -> Bodies:
        return self.surface._api.bodies

    @property
    def readers(self) -> Slots:
        return self.surface._api.readers

    @property
    def host_port(self) -> tuple[str, int]:
        host, _, port = self.surface.address.rpartition(":")
        return host, int(port)


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Open the API with these options: `async with serve(token=".." ) as served`."""

    @asynccontextmanager
    async def opened(facts: FactsDouble | None = None, **options: Any) -> AsyncIterator[Served]:
        ledger, known, log = LedgerDouble(), facts or FactsDouble(), LogDouble()
        table = Table()
        table.register(NODE)
        requires = {Role.APPLICATION: ledger, Role.ROUTING: table}
        component = http_component(known)
        config = HttpConfig(**{"listen": "127.0.0.1:0", **options})
        async with component_context(tmp_path, Role.SURFACE, "http", requires=requires) as ctx:
            ctx.metrics, ctx.log = known.metrics, log
            async with component.open(ctx, config) as surface:
                base = f"http://{surface.address}"
                hooks = {"response": [check_answer]}
                async with httpx.AsyncClient(
                    base_url=base, trust_env=False, timeout=120, event_hooks=hooks
                ) as client:
                    yield Served(surface, client, ledger, known, log)

    return opened


@pytest.fixture
async def served(serve: Serve) -> AsyncIterator[Served]:
    async with serve() as opened:
        yield opened
