"""What the plugin `coffer` adds to a node: two components, a verb, a route, a probe and an observer."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from supervm.api import Block, Component, Probe, Receipt, hookimpl

if TYPE_CHECKING:
    import click
    from starlette.routing import Route


@hookimpl
def supervm_components() -> Iterator[Component]:
    from supervm_coffer.journal import journal
    from supervm_coffer.store import coffer

    yield from (coffer, journal)


@hookimpl
def supervm_cli(group: "click.Group") -> None:
    from supervm_coffer.verbs import inspect

    group.add_command(inspect)


@hookimpl
def supervm_http_routes() -> "Iterator[Route]":
    from supervm_coffer.routes import routes

    yield from routes


@hookimpl
def supervm_hardware_probes() -> Iterator[Probe]:
    from supervm_coffer.probe import probe

    yield probe


@hookimpl
def supervm_block_committed(block: Block, receipts: Sequence[Receipt]) -> None:
    from supervm_coffer.routes import seen

    seen.add(block.header.height, len(receipts))
