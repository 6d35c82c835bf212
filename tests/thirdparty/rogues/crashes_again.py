"""A component whose task crashes as soon as it serves, each time it is opened."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from supervm.api import Component, Context, NoConfig, Role, hookimpl


async def crash() -> None:
    raise RuntimeError("crashed once more")


@asynccontextmanager
async def open_crashing(ctx: Context, config: NoConfig) -> AsyncIterator[object]:
    ctx.nursery.start_soon(crash)
    yield object()


@hookimpl
def supervm_components() -> Iterator[Component]:
    yield Component(role=Role.CHAIN, name="crashing", open=open_crashing)
