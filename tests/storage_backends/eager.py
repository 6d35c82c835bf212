"""The `tiered` store in a hurry: every row may move, to and fro, as soon as it is a little colder or hotter.

As a component of its own, so that a child process opens the same.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs

from supervm.api import Context
from supervm.plugins.storage import tiered as plugin
from supervm.plugins.storage.tiered import TieredConfig, TieredStore, open_tiered


@attrs.frozen(kw_only=True)
class EagerConfig(TieredConfig):
    """Three classes of about the same size, and windows as short as a few writes."""

    warm_over: str = "sqlite"
    movable: list[str] = attrs.field(factory=lambda: [""])
    unit_bytes: int = 7
    value_bytes_min: int = 0
    window_s: float = 0.1
    half_life_s: float = 0.2
    hot_share: float = 0.3
    warm_share: float = 0.3
    up_windows: int = 1
    down_windows: int = 1
    share: float = 1.0
    bytes_per_s_max: int = 2**40
    keep_copies_s: float = 0.0


class Quiet:
    """A log that nobody reads: a child's output is what it has to tell."""

    def debug(self, event: str, **fields: Any) -> None: ...

    info = warning = error = debug


@asynccontextmanager
async def open_eager(ctx: Context, config: Any) -> AsyncIterator[TieredStore]:
    """As `open_tiered`."""
    async with open_tiered(attrs.evolve(ctx, log=Quiet()), config) as store:
        yield store


eager = attrs.evolve(plugin.tiered, open=open_eager, config=EagerConfig)
