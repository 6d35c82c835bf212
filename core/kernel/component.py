"""What a component is, and what it may use while it lives.

A component is one implementation of a role: a function returning an async context manager that yields
an object fulfilling the role's Protocol. Its lifetime is the scope; there are no start and stop flags.
Roles are data here (`RoleSpec`): the kernel loads, opens, supervises and closes, and knows no more.
"""

import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import attrs
import trio

TIERS = ("L1", "L2", "L3", "L4")


class HealthState(StrEnum):
    """How a component says that it is; `failing` three times in a row closes it and opens it again."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILING = "failing"


@attrs.frozen
class Health:
    """How a component is, from its own mouth. `since_ms` is UTC milliseconds, 0 where unknown.

    `ready` False: the node can't work, for a cause outside of it that no restart mends; it goes on by itself.
    """

    state: HealthState = HealthState.OK
    detail: str = ""
    since_ms: int = 0
    ready: bool = True


@attrs.frozen(kw_only=True)
class Backoff:
    """Seconds between restarts: initial, doubling to max, with +-jitter; reset after a good run."""

    initial_s: float = 0.5
    max_s: float = 60.0
    jitter: float = 0.2
    reset_after_s: float = 300.0


@attrs.frozen(kw_only=True)
class Breaker:
    """Opens after `failures` within `window_s`; one trial after `open_s`, doubled up to `open_max_s`."""

    failures: int = 5
    window_s: float = 60.0
    open_s: float = 60.0
    open_max_s: float = 900.0


@attrs.frozen(kw_only=True)
class Supervision:
    """What a failure means. `fatal`: the node drains and exits 1; else restart with backoff, then break.

    A component whose exception has a true attribute `must_stop` stops the node whatever its role's policy is.
    """

    fatal: bool = False
    backoff: Backoff = Backoff()
    breaker: Breaker = Breaker()


@attrs.frozen(kw_only=True)
class RoleSpec:
    """A job components can take. `order` breaks ties when opening; `required` means a node needs one."""

    name: str
    many: bool
    order: int
    required: bool = True
    supervision: Supervision = Supervision()
    contract: tuple[int, int] = (1, 0)


@attrs.frozen(kw_only=True)
class Needs:
    """Hardware a component can't do without; checked against the probed facts before it opens."""

    memory_bytes: int = 0
    disk_bytes: int = 0
    cpu_cores: float = 0.0
    gpu: bool = False
    instructions: tuple[str, ...] = ()


@attrs.frozen
class NoConfig:
    """The options of a component that has none."""


class Clock(Protocol):
    """The only source of time. Both advance together, and a test may replace them."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""

    def wall_ms(self) -> int:
        """UTC milliseconds since 1970."""

    async def sleep(self, seconds: float) -> None:
        """Wait; cancelled like any Trio sleep."""


class Metrics(Protocol):
    """What a component may do with metrics; `supervm.telemetry.metrics.Registry` fulfils it."""

    def counter(self, name: str, help: str, labels: tuple[str, ...] = ()) -> Any: ...
    def gauge(self, name: str, help: str, labels: tuple[str, ...] = ()) -> Any: ...
    def summary(self, name: str, help: str, labels: tuple[str, ...] = ()) -> Any: ...


class Log(Protocol):
    """A structured logger: an event name and fields. structlog's bound loggers fulfil it."""

    def debug(self, event: str, **fields: Any) -> Any: ...
    def info(self, event: str, **fields: Any) -> Any: ...
    def warning(self, event: str, **fields: Any) -> Any: ...
    def error(self, event: str, **fields: Any) -> Any: ...


@attrs.define(kw_only=True)
class Context:
    """Everything a component may use, and nothing else.

    `data_dir` is the component's own folder (it exists). `random` is seeded in simulation and secure
    otherwise. `nursery` is the component's own: its tasks end with it, and a crash in one fails the
    component. `publish(kind, **facts)` reports an event of a declared kind to observers.
    `hardware` is the probed facts, or None.
    """

    role: str
    name: str
    data_dir: Path
    clock: Clock
    random: random.Random
    metrics: Metrics
    log: Log
    tier: str
    hardware: Any
    nursery: trio.Nursery
    publish: Callable[..., None]
    _require: Callable[[str], Any]
    _all: Callable[[str], tuple[Any, ...]]

    def require(self, role: str) -> Any:
        """The one component of a role declared in `requires` or `wants`.

        The reference stays good across restarts of that component: a call while it is away raises
        `RoleUnavailable`. Raises `UndeclaredRequirement` for a role that was not declared.
        """
        return self._require(role)

    def all(self, role: str) -> tuple[Any, ...]:
        """Every serving component of a `many` role, in name order; empty where there is none."""
        return self._all(role)


Open = Callable[[Context, Any], AbstractAsyncContextManager[Any]]


@attrs.frozen(kw_only=True)
class Component:
    """A declaration: which role, by which name, how to open it, with which options (an attrs class).

    `contract` is the version of the role's contract it fulfils; `requires` are roles it can't open
    without, `wants` roles it uses when they are there. `tiers` are where it may run. `supervision`
    None takes the role's. `available` says, cheaply and without I/O, why it can't run on this machine (a
    library that is missing, with the mend), or "".

    The object that `open` yields may offer `async health() -> Health` and `async drain(deadline: float)`
    (monotonic seconds); absent means healthy and nothing to drain.
    """

    role: str
    name: str = attrs.field(validator=attrs.validators.matches_re(r"[a-z][a-z0-9-]{1,31}"))
    open: Open
    config: type = NoConfig
    contract: tuple[int, int] = (1, 0)
    requires: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    features_required: frozenset[str] = frozenset()
    features: frozenset[str] = frozenset()
    tiers: frozenset[str] = frozenset(TIERS)
    needs: Needs = Needs()
    supervision: Supervision | None = None
    available: Callable[[], str] = lambda: ""
    description: str = ""
