"""What of a node's life its audit log tells: start, stop, refused plugins, what operators do (OBS-42)."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from blake3 import blake3

from supervm.config import render
from supervm.http.ports import ComponentName, PluginControl
from supervm.kernel.component import Clock, Log
from supervm.kernel.errors import HotPlugRefused, describe
from supervm.node.compose import Prepared
from supervm.node.facts import versions
from supervm.telemetry.audit import FILE_NAME, AuditLog, open_audit


@contextmanager
def audited(prepared: Prepared, folder: Path, clock: Clock, log: Log) -> Iterator[AuditLog | None]:
    """The node's audit log from its start to its stop; None where none is kept.

    Writes a few lines at either end, each synced. Raises OSError or `AuditBroken`: a node that must keep
    the log does not start without it.
    """
    if not prepared.effective.sections["observability"].audit_log:
        yield None
        return
    with open_audit(folder / FILE_NAME, clock.wall_ms) as audit:
        _started(audit, prepared)
        cause = ""
        try:
            yield audit
        except BaseException as error:
            cause = describe(error)
            raise
        finally:
            try:
                audit.append("node_stopped", cause=cause)
            except OSError as error:
                log.error("audit_not_written", action="node_stopped", cause=describe(error))


def _started(audit: AuditLog, prepared: Prepared) -> None:
    effective = prepared.effective
    audit.append(
        "node_started",
        version=versions()["supervm"],
        tier=prepared.machine.decision.tier,
        # Of the configuration without its secrets: it tells that something changed, not what.
        configuration=blake3(render(effective).encode()).hexdigest(),
        components=[f"{role}.{name}" for role, names in effective.use.items() for name in names],
        plugins=[f"{one.id} {one.version}" for one in prepared.catalogue.plugins if one.problem is None],
    )
    for plugin in prepared.catalogue.plugins:
        if plugin.problem is not None:
            audit.append("plugin_refused", plugin=plugin.id, cause=str(plugin.problem))


@attrs.define(eq=False)
class Audited:
    """`control`, with a line in the audit log before each call and one for how it ended.

    What can't be written down isn't done.
    """

    control: PluginControl
    audit: AuditLog
    log: Log
    _writing: trio.CapacityLimiter = attrs.Factory(lambda: trio.CapacityLimiter(1))

    async def load(self, plugin_id: str) -> Sequence[ComponentName]:
        return await self._told("plugin_load", plugin_id, self.control.load)

    async def unload(self, plugin_id: str) -> Sequence[ComponentName]:
        return await self._told("plugin_unload", plugin_id, self.control.unload)

    async def reset(self, plugin_id: str) -> Sequence[ComponentName]:
        return await self._told("plugin_reset", plugin_id, self.control.reset)

    async def _told(
        self, action: str, plugin_id: str, do: Callable[[str], Awaitable[Sequence[ComponentName]]]
    ) -> Sequence[ComponentName]:
        try:
            await self._append(action, plugin=plugin_id, outcome="asked")
        except OSError as error:
            self.log.error("audit_not_written", action=action, cause=describe(error))
            raise HotPlugRefused(
                f"the audit log can't be written ({describe(error)}); mend that first"
            ) from error
        try:
            changed = await do(plugin_id)
        except BaseException as error:
            await self._ended(action, plugin=plugin_id, outcome="failed", cause=describe(error))
            raise
        names = [f"{one.role}.{one.name}" for one in changed]
        await self._ended(action, plugin=plugin_id, outcome="done", components=names)
        return changed

    async def _ended(self, action: str, **facts: Any) -> None:
        with trio.CancelScope(shield=True):
            try:
                await self._append(action, **facts)
            except OSError as error:
                # It is done already; the line before says that it was asked for.
                self.log.error("audit_not_written", action=action, cause=describe(error))

    async def _append(self, action: str, **facts: Any) -> None:
        await trio.to_thread.run_sync(lambda: self.audit.append(action, **facts), limiter=self._writing)
