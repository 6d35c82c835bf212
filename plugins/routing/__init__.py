"""Routing tables that ship: `static`, the nodes that the operator names."""

from collections.abc import Iterator

from supervm.api import Component, Role, hookimpl
from supervm.plugins.routing.static import StaticConfig, open_static


@hookimpl
def supervm_components() -> Iterator[Component]:
    yield Component(
        role=Role.ROUTING,
        name="static",
        open=open_static,
        config=StaticConfig,
        description="nodes named in the configuration, ordered by what this node observes",
    )
