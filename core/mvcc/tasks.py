"""A task for the length of a block."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def in_task(
    nursery: trio.Nursery, function: Callable[[], Awaitable[None]], name: str
) -> AsyncIterator[None]:
    """Run `function` in `nursery` until the block ends, then cancel it and wait until it has ended."""
    scope = trio.CancelScope()
    ended = trio.Event()

    async def run() -> None:
        try:
            with scope:
                await function()
        finally:
            ended.set()

    nursery.start_soon(run, name=name)
    try:
        yield
    finally:
        scope.cancel()
        with trio.CancelScope(shield=True):
            await ended.wait()
