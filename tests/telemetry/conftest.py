"""A whole node, in this process, with the API on a loopback port."""

import io
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import httpx
import pytest

from supervm.crypto.keyfile import read_key_file
from supervm.crypto.keys import KeyPair
from supervm.node.assembly import INSIDE, Node, open_node
from supervm.node.compose import prepare
from supervm.node.options import NodeOptions
from supervm.telemetry.logs import LogConfig, open_logs
from supervm.telemetry.metrics import Registry
from tests.http.contract import check_answer


@attrs.frozen
class RunningNode:
    node: Node
    client: httpx.AsyncClient
    log: io.StringIO
    key: KeyPair

    @property
    def metrics(self) -> Registry:
        return self.node.facts.metrics


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[RunningNode]:
    """Every answer of this client is held against the OpenAPI document."""
    options = NodeOptions(data=tmp_path / "node", api="127.0.0.1:0", settings=("storage.use=rocksdb",))
    log = io.StringIO()
    prepared = await prepare(options, inside=INSIDE)
    with open_logs(LogConfig(format="json", level="debug"), log) as logs:
        async with open_node(prepared, logs) as node:
            hooks = {"response": [check_answer]}
            async with httpx.AsyncClient(
                base_url=f"http://{node.address}", trust_env=False, timeout=120, event_hooks=hooks
            ) as client:
                key = read_key_file(node.folder.path / "keys" / "dev.json")
                yield RunningNode(node, client, log, key)
