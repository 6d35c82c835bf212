"""A `Context` outside a node, so that a component can be opened and tested alone."""

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import structlog
import trio

from supervm.kernel.component import Clock, Component, Context
from supervm.kernel.context import TrioClock


@attrs.define
class RecordedSeries:
    """One metric family that remembers what was recorded: (operation, value, labels)."""

    name: str
    records: list[tuple[str, float, dict[str, str]]] = attrs.Factory(list)

    def inc(self, n: float = 1, **labels: str) -> None:
        self.records.append(("inc", n, labels))

    def set(self, value: float, **labels: str) -> None:
        self.records.append(("set", value, labels))

    def observe(self, value: float, **labels: str) -> None:
        self.records.append(("observe", value, labels))


@attrs.define
class RecordedMetrics:
    """Metrics a test can read back by family name."""

    families: dict[str, RecordedSeries] = attrs.Factory(dict)

    def counter(self, name: str, help: str, labels: tuple[str, ...] = ()) -> RecordedSeries:
        return self.families.setdefault(name, RecordedSeries(name))

    gauge = counter
    summary = counter


@asynccontextmanager
async def component_context(
    data_dir: Path,
    role: str = "test",
    name: str = "component",
    *,
    requires: Mapping[str, Any] | None = None,
    tier: str = "L4",
    hardware: Any = None,
    seed: int = 0,
    published: list[tuple[str, dict[str, Any]]] | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Context]:
    """Give a context whose nursery lives for the block; its tasks are cancelled at the end.

    `requires` maps a role to the object (or, for a `many` role, the tuple of objects) it answers with.
    `published` collects every event as (kind, facts). `random` is seeded with `seed`. `clock`: one
    whose dates several contexts share; else they begin with the context.
    """
    given = dict(requires or {})
    events = published if published is not None else []

    def every(wanted: str) -> tuple[Any, ...]:
        found = given.get(wanted, ())
        return found if isinstance(found, tuple) else (found,)

    await trio.Path(data_dir).mkdir(parents=True, exist_ok=True)
    async with trio.open_nursery() as nursery:
        yield Context(
            role=role,
            name=name,
            data_dir=data_dir,
            clock=TrioClock() if clock is None else clock,
            random=random.Random(seed),
            metrics=RecordedMetrics(),
            log=structlog.get_logger(component=f"{role}.{name}"),
            tier=tier,
            hardware=hardware,
            nursery=nursery,
            publish=lambda kind, **facts: events.append((kind, facts)),
            require=given.__getitem__,
            all=every,
        )
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def opened(
    component: Component, data_dir: Path, config: Any = None, **context: Any
) -> AsyncIterator[Any]:
    """Open one component alone and give its object; close it, then its tasks, at the end."""
    given = component.config() if config is None else config
    async with (
        component_context(data_dir, component.role, component.name, **context) as ctx,
        component.open(ctx, given) as served,
    ):
        yield served
