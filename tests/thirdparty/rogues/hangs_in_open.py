"""A transport that never opens."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import trio

from supervm.api import Component, Context, NoConfig, Role, hookimpl


@asynccontextmanager
async def open_hanging(ctx: Context, config: NoConfig) -> AsyncIterator[object]:
    await trio.Event().wait()
    yield object()


@hookimpl
def supervm_components() -> Iterator[Component]:
    yield Component(role=Role.TRANSPORT, name="hanging", open=open_hanging)
