"""A component whose task asks the interpreter to exit, each time it is opened."""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from supervm.api import Component, Context, NoConfig, Role, hookimpl


async def leave() -> None:
    sys.exit(3)


@asynccontextmanager
async def open_exiting(ctx: Context, config: NoConfig) -> AsyncIterator[object]:
    ctx.nursery.start_soon(leave)
    yield object()


@hookimpl
def supervm_components() -> Iterator[Component]:
    yield Component(role=Role.CHAIN, name="exiting", open=open_exiting)
