"""A node's store as its own parts see it: `sqlite`, with what need not last held back.

As a component of its own, so that a child process opens the same.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs

from supervm.api import Context
from supervm.plugins.storage import sqlite as plugin
from supervm.storage.gathering import GatheringStore, gathering


@asynccontextmanager
async def open_gathering(ctx: Context, config: Any) -> AsyncIterator[GatheringStore]:
    """As `sqlite` is opened."""
    async with plugin.sqlite.open(ctx, config) as store, gathering(store, ctx.clock, ctx.log.warning) as held:
        yield held


gathering_sqlite = attrs.evolve(plugin.sqlite, open=open_gathering)
