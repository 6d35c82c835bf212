"""Every place a plugin can hook into: the whole surface, in one file.

    from supervm.api import Component, Role, hookimpl

    @hookimpl
    def supervm_components():
        yield Component(role=Role.STORAGE, name="mine", open=open_mine, config=MineConfig)

A hook may be left out. One that raises is reported by name and never hurts the node.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pluggy

from supervm.kernel.component import Component

hookspec = pluggy.HookspecMarker("supervm")
hookimpl = pluggy.HookimplMarker("supervm")


class Declare:
    """What a plugin is."""

    @hookspec
    def supervm_components(self) -> Iterable[Component]:
        """Declare components. Called once when the plugin is loaded; must not do I/O."""
        raise AssertionError("a specification is never called")


class Extend:
    """What a plugin adds to the node's surfaces."""

    @hookspec
    def supervm_cli(self, group: Any) -> None:
        """Add commands to `group`, a click.Group reached as `supervm x PLUGIN-ID` (ours: `supervm`)."""

    @hookspec
    def supervm_http_routes(self) -> Iterable[Any]:
        """Give Starlette routes, mounted under `/x/PLUGIN-ID`. Handlers see `request.app.state.node`."""
        raise AssertionError("a specification is never called")

    @hookspec
    def supervm_hardware_probes(self) -> Iterable[Any]:
        """Give `supervm.api.Probe` values. A plugin may add facts, never overwrite ours."""
        raise AssertionError("a specification is never called")

    @hookspec
    def supervm_tier_profiles(self) -> Mapping[str, Mapping[str, Any]]:
        """Give named profiles: name -> {dotted key: value}, used by `node.profile = NAME`."""
        raise AssertionError("a specification is never called")

    @hookspec
    def supervm_benchmarks(self) -> Mapping[str, Any]:
        """Give benchmarks: name -> click.Command, reached as `supervm bench NAME`."""
        raise AssertionError("a specification is never called")


class Observe:
    """What a plugin is told. Facts are immutable; they come late rather than never wait for you.

    Each observer has one bounded queue (1,024 events, oldest dropped and counted) and a thread of its
    own, so one that raises or stalls loses only its own events. Who needs every event reads storage.
    """

    @hookspec
    def supervm_block_committed(self, block: Any, receipts: Sequence[Any]) -> None:
        """A block is final and durable."""

    @hookspec
    def supervm_transaction_seen(self, digest: bytes, lane: str) -> None:
        """A transaction was admitted."""

    @hookspec
    def supervm_lane_chosen(self, digest: bytes, lane: str, reason: str) -> None:
        """A transaction's lane was decided, and why."""

    @hookspec
    def supervm_peer_seen(self, peer: Any) -> None:
        """A peer was authenticated."""

    @hookspec
    def supervm_health_changed(self, component: str, old: str, new: str, cause: str) -> None:
        """A component changed its state."""

    @hookspec
    def supervm_mode_changed(self, component: str, old: str, new: str, cause: str) -> None:
        """A component works in another mode, for example a twin instead of a fast path."""
