"""The sections that are the node's own, with their defaults. Roles and components bring theirs.

A role's section is `[storage]` with `use`, and one table for each component's options,
`[storage.sqlite]`, which are the attrs class that the component declares.
"""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import validators


def check_tier(instance: object, attribute: Any, value: str) -> None:
    """TIER-7: `auto` or a name of TIER-5, in any case."""
    from supervm.hardware.tiers import parse_tier

    parse_tier(value)


@attrs.frozen(kw_only=True)
class NodeConfig:
    """Who this node is, where it keeps its data, and the genesis file of its chain.

    `genesis` empty: the chain of the data folder, or a new one-validator development chain. `profile`:
    a plugin's profile, laid over the tier's.
    """

    name: str = attrs.field(factory=socket.gethostname, validator=validators.max_len(64))
    data: Path = Path("~/.supervm/data")
    tier: str = attrs.field(default="auto", validator=check_tier)
    profile: str = attrs.field(default="", validator=validators.max_len(64))
    region: str = attrs.field(default="Other", validator=validators.max_len(64))
    genesis: str = ""


_SECONDS: list[Any] = [validators.gt(0), validators.le(86_400)]
_COUNT: list[Any] = [validators.ge(1), validators.le(1_000_000)]


@attrs.frozen(kw_only=True)
class PluginsConfig:
    """What may load, and the kernel's times and bounds (PLUG-27).

    `load`: modules to load besides installed plugins. `paths`: folders that hold plugin folders. `allow`:
    ids that may load, all if empty; `deny` wins. `observer_queue`: events kept for each observer.
    """

    load: list[str] = attrs.field(factory=list)
    paths: list[str] = attrs.field(factory=list)
    allow: list[str] = attrs.field(factory=list)
    deny: list[str] = attrs.field(factory=list)
    open_timeout_s: float = attrs.field(default=30.0, validator=_SECONDS)
    drain_timeout_s: float = attrs.field(default=30.0, validator=_SECONDS)
    close_timeout_s: float = attrs.field(default=10.0, validator=_SECONDS)
    shutdown_timeout_s: float = attrs.field(default=60.0, validator=_SECONDS)
    health_interval_s: float = attrs.field(default=5.0, validator=_SECONDS)
    health_timeout_s: float = attrs.field(default=2.0, validator=_SECONDS)
    backoff_initial_s: float = attrs.field(default=0.5, validator=_SECONDS)
    backoff_max_s: float = attrs.field(default=60.0, validator=_SECONDS)
    breaker_failures: int = attrs.field(default=5, validator=_COUNT)
    breaker_window_s: float = attrs.field(default=60.0, validator=_SECONDS)
    breaker_open_s: float = attrs.field(default=60.0, validator=_SECONDS)
    observer_queue: int = attrs.field(default=1024, validator=_COUNT)


def node_sections() -> Mapping[str, type]:
    """The node's own sections: `[api]` is the HTTP API's options, `[logs]` the log writer's."""
    from supervm.http.config import HttpConfig
    from supervm.telemetry.audit import ObservabilityConfig
    from supervm.telemetry.logs import LogConfig

    return {
        "node": NodeConfig,
        "api": HttpConfig,
        "plugins": PluginsConfig,
        "logs": LogConfig,
        "observability": ObservabilityConfig,
    }


@attrs.frozen(kw_only=True)
class RoleSection:
    """A role's section: how many it takes, what it uses unless told, the options of what is installed."""

    role: str
    many: bool
    use: tuple[str, ...] = ()
    components: Mapping[str, type] = attrs.field(factory=dict)
