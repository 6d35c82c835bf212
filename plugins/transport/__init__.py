"""Transports that ship: `memory`, between nodes of one process, and `tcp`, between machines."""

from collections.abc import Iterator

from supervm.api import Component, Role, hookimpl
from supervm.plugins.transport.memory import MemoryTransportConfig, open_memory_transport
from supervm.plugins.transport.tcp.component import TCP


@hookimpl
def supervm_components() -> Iterator[Component]:
    yield Component(
        role=Role.TRANSPORT,
        name="memory",
        open=open_memory_transport,
        config=MemoryTransportConfig,
        description="nodes of one process; latency, loss and cuts can be set",
    )
    yield TCP
