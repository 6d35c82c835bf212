"""What the kernel shows of its components as metrics (PLUG-27, OBS-18): there from the start, at zero."""

from typing import Any

import attrs

from supervm.kernel.component import Metrics
from supervm.kernel.lifecycle import SERVES, Life, State


@attrs.frozen
class KernelFigures:
    """The kernel's metric families."""

    state: Any
    restarts: Any
    breaker: Any
    health: Any
    open_ms: Any

    @classmethod
    def declare(cls, metrics: Metrics) -> "KernelFigures":
        one = ("role", "component")
        return cls(
            state=metrics.gauge("supervm_plugin_state", "1 for the state a component is in", (*one, "state")),
            restarts=metrics.counter("supervm_plugin_restarts_total", "Restarts of a component", one),
            breaker=metrics.gauge("supervm_circuit_open", "1 while a component's circuit is open", one),
            health=metrics.gauge("supervm_health", "0 failing, 1 degraded, 2 ok", one),
            open_ms=metrics.gauge("supervm_component_open_ms", "How long a component took to open", one),
        )

    def known(self, role: str, name: str) -> None:
        """Show a component from now on."""
        self.restarts.inc(0, role=role, component=name)
        self.breaker.set(0, role=role, component=name)
        self.health.set(0, role=role, component=name)
        self.open_ms.set(0, role=role, component=name)

    def changed(self, role: str, name: str, old: Life, new: Life) -> None:
        """A component went from one state to another."""
        self.state.set(0, role=role, component=name, state=old.state)
        self.state.set(1, role=role, component=name, state=new.state)
        self.breaker.set(int(new.state is State.BROKEN), role=role, component=name)
        level = 0 if new.state not in SERVES else 1 if new.state is State.DEGRADED else 2
        self.health.set(level, role=role, component=name)
        if new.state is State.SERVING and old.state is State.OPENING:
            self.open_ms.set((new.since - old.since) * 1000, role=role, component=name)
