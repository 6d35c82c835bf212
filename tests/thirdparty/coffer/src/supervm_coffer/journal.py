"""The component `coffer-journal`: a line for each time it looked, in a file that it holds open.

It takes the role `chain`, of which a node may have any number, so it comes and goes while the node runs.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from supervm.api import Component, Context, Health, Role

FILE = "journal.txt"
LINES_MAX = 10_000


@attrs.frozen(kw_only=True)
class JournalConfig:
    """`every_s`: seconds between two lines; a full journal takes none."""

    every_s: float = attrs.field(default=1.0, validator=attrs.validators.gt(0))


@attrs.define(eq=False)
class Journal:
    """What the component yields: how many lines there are. `first` is set once there is one."""

    lines: int = 0
    first: trio.Event = attrs.Factory(trio.Event)

    async def health(self) -> Health:
        await trio.lowlevel.checkpoint()
        return Health(detail=f"{self.lines} lines")


@asynccontextmanager
async def open_journal(ctx: Context, config: JournalConfig) -> AsyncIterator[Journal]:
    """Write until the scope ends; the task is the component's own, so it ends with it."""
    journal = Journal()
    lines = ctx.metrics.counter("coffer_journal_lines_total", "Lines in the journal")
    async with await trio.open_file(ctx.data_dir / FILE, "w") as file:

        async def keep() -> None:
            while journal.lines < LINES_MAX:
                await file.write(f"{ctx.clock.wall_ms()}\n")
                await file.flush()
                journal.lines += 1
                journal.first.set()
                lines.inc()
                await ctx.clock.sleep(config.every_s)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep)
            yield journal
            nursery.cancel_scope.cancel()


journal = Component(
    role=Role.CHAIN,
    name="coffer-journal",
    open=open_journal,
    config=JournalConfig,
    description="Writes down that it was there.",
)
