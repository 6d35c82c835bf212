"""What the node knows of itself, for the API and for people."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from supervm import __version__, kernel
from supervm.api import API_VERSION
from supervm.contracts.roles import ROLES, Role
from supervm.http.ports import ComponentFacts, Moves, PluginControl, PluginFacts
from supervm.kernel.component import HealthState
from supervm.kernel.discover import Plugin
from supervm.kernel.lifecycle import State
from supervm.kernel.supervise import Kernel, Status
from supervm.node.catalogue import Catalogue
from supervm.telemetry.metrics import Registry

SERVING = (State.SERVING, State.DEGRADED)


def versions() -> dict[str, str]:
    """SuperVM's, the kernel's and the plugin API's versions (PLUG-26)."""
    api = ".".join(str(part) for part in API_VERSION)
    return {"supervm": __version__, "kernel": f"{kernel.NAME} {kernel.VERSION}", "api": api}


@attrs.define(eq=False)
class Facts:
    """Answers from the kernel's own status. `kernel`, `control` and `moves` are set once it runs;
    before that nothing serves."""

    catalogue: Catalogue
    metrics: Registry
    tier_name: str
    routes: Mapping[str, Sequence[Any]] = attrs.Factory(dict)
    kernel: Kernel | None = None
    control: PluginControl | None = None
    moves: Moves | None = None
    draining: bool = False
    fatal: str = ""

    def tier(self) -> str:
        return self.tier_name

    def versions(self) -> Mapping[str, str]:
        return versions()

    def http_routes(self) -> Mapping[str, Sequence[Any]]:
        return self.routes

    def composition(self) -> Mapping[str, Sequence[str]]:
        names: dict[str, list[str]] = {}
        for status in self._statuses():
            names.setdefault(status.role, []).append(status.name)
        return names

    def plugins(self) -> Sequence[PluginFacts]:
        """Every plugin, and the node's own components under its own name."""
        statuses: dict[str, list[Status]] = {}
        for status in self._statuses():
            statuses.setdefault(status.plugin, []).append(status)
        ours = PluginFacts(
            id="supervm",
            version=__version__,
            source="the node itself",
            trust="shipped",
            components=tuple(_component(status) for status in statuses.get("supervm", ())),
        )
        return [ours, *(_plugin(plugin, statuses.get(plugin.id, [])) for plugin in self.catalogue.plugins)]

    def not_ready(self) -> Sequence[str]:
        if self.kernel is None:
            return ["the node is starting"]
        reasons = ["the node is draining"] if self.draining else []
        reasons += [self.fatal] if self.fatal else []
        statuses = self._statuses()
        for status in statuses:
            if ROLES[status.role].required and status.state not in SERVING:
                why = f": {status.causes[-1]}" if status.causes else ""
                reasons.append(f"{status.role} {status.name} is {status.state}{why}")
        transports = [status for status in statuses if status.role == Role.TRANSPORT]
        if transports and not any(status.state in SERVING for status in transports):
            reasons.append("every transport is down")
        for one in statuses:
            if one.health.state is HealthState.FAILING:
                reasons.append(f"{one.role} {one.name} is failing: {one.health.detail}")
            elif not one.health.ready:
                reasons.append(f"{one.role} {one.name} waits: {one.health.detail}")
        return reasons

    def health(self) -> str:
        """The worst of the components: a needed one that doesn't serve is failing, any other degrades."""
        if self.not_ready():
            return HealthState.FAILING
        states = {status.state for status in self._statuses()}
        calm = states <= {State.SERVING, State.CLOSED}
        return HealthState.OK if calm else HealthState.DEGRADED

    def peers(self) -> int:
        if self.kernel is None:
            return 0
        return len({peer.node_id for one in self.kernel.all(Role.TRANSPORT) for peer in one.peers()})

    def _statuses(self) -> Sequence[Status]:
        return () if self.kernel is None else self.kernel.status()


def _plugin(plugin: Plugin, statuses: Sequence[Status]) -> PluginFacts:
    refused = f"refused: {plugin.problem.cause}" if plugin.problem else ""
    trust = "shipped" if plugin.source.kind == "shipped" else "community, unaudited"
    return PluginFacts(
        id=plugin.id,
        version=plugin.version,
        source=str(plugin.source),
        trust=refused or trust,
        components=tuple(_component(status) for status in statuses),
    )


def _component(status: Status) -> ComponentFacts:
    breaker = "open" if status.state == State.BROKEN else "closed"
    return ComponentFacts(
        role=status.role,
        name=status.name,
        contract=".".join(str(part) for part in status.contract),
        state=status.state,
        health=status.health.state if status.state in SERVING else HealthState.FAILING,
        detail=status.health.detail or (status.causes[-1] if status.causes else ""),
        restarts=status.restarts,
        breaker=breaker,
    )
