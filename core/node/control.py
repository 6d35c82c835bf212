"""Hot plug at a running node: load, unload and reset plugins by id (PLUG-12, PLUG-23).

Only components of `many` roles come and go. Python can't replace code that was imported, so a plugin that
changed on disk takes effect at the next start; its HTTP routes and command-line verbs do too.
"""

from pathlib import Path

import attrs
import trio

from supervm.api import API_VERSION
from supervm.config import PluginsConfig
from supervm.contracts.roles import ROLES
from supervm.kernel.component import Component
from supervm.kernel.compose import Planned, nearest
from supervm.kernel.discover import Plugin, Rules, Source, catalogue, discover, sources
from supervm.kernel.errors import HotPlugRefused, PluginUnknown, describe
from supervm.kernel.manifest import ManifestInvalid, manifest_beside, read_manifest
from supervm.kernel.supervise import Kernel, Status
from supervm.node.catalogue import DISTRIBUTION, GROUP
from supervm.node.facts import Facts


@attrs.define(eq=False)
class Control:
    """What an operator may do to the plugins of a running node. One call at a time."""

    kernel: Kernel
    facts: Facts
    config: PluginsConfig
    _turn: trio.Lock = attrs.Factory(trio.Lock)

    async def load(self, plugin_id: str) -> tuple[Status, ...]:
        """Load an installed plugin, and open its components of `many` roles; how they are.

        Its components open with their default options. Raises `PluginUnknown`; `HotPlugRefused` naming
        what stands in the way; `StartFailed` when a component doesn't open, and then nothing of the plugin
        stays.
        """
        async with self._turn:
            self._refuse_loaded(plugin_id)
            plugin = await trio.to_thread.run_sync(self._discover, plugin_id)
            if plugin.problem is not None:
                raise HotPlugRefused(str(plugin.problem))
            self._refuse_loaded(plugin.id)
            opened: list[Status] = []
            try:
                for found in catalogue([plugin]):
                    if not ROLES[found.component.role].many:
                        continue
                    planned = Planned(
                        component=found.component,
                        config=_defaults(found.component),
                        plugin=plugin.id,
                        source=found.source,
                        origin="hot plug",
                    )
                    opened.append(await self.kernel.load(planned))
            except BaseException:
                with trio.CancelScope(shield=True):
                    await self._close(plugin, opened)
                raise
            self._remember(plugin)
            self.kernel.observers.watch(self.kernel.nursery)
            return tuple(opened)

    async def unload(self, plugin_id: str) -> tuple[Status, ...]:
        """Drain and close a plugin's components and forget its hooks; how they were before.

        Raises `PluginUnknown`, `HotPlugRefused`.
        """
        async with self._turn:
            plugin = self._loaded(plugin_id)
            statuses = self._statuses(plugin_id)
            needed = [status for status in statuses if not ROLES[status.role].many]
            if needed:
                roles = ", ".join(f"{status.role} {status.name}" for status in needed)
                raise HotPlugRefused(f"plugin {plugin_id} provides {roles}; compose another and restart")
            await self._close(plugin, statuses)
            self.facts.catalogue = attrs.evolve(
                self.facts.catalogue,
                plugins=tuple(known for known in self.facts.catalogue.plugins if known.id != plugin_id),
                found=tuple(one for one in self.facts.catalogue.found if one.plugin != plugin_id),
            )
            return tuple(statuses)

    async def reset(self, plugin_id: str) -> tuple[Status, ...]:
        """Try the waiting and broken components of a plugin again now; how they were before.

        Raises `PluginUnknown`.
        """
        await trio.lowlevel.checkpoint()
        self._loaded(plugin_id)
        statuses = self._statuses(plugin_id)
        return tuple(one for one in statuses if self.kernel.reset(one.role, one.name))

    def _statuses(self, plugin_id: str) -> list[Status]:
        return [status for status in self.kernel.status() if status.plugin == plugin_id]

    def _refuse_loaded(self, plugin_id: str) -> None:
        if self.facts.draining:
            raise HotPlugRefused("the node is draining; nothing is loaded any more")
        if self._find(plugin_id) is not None:
            raise HotPlugRefused(f"plugin {plugin_id} is loaded already; unload it first")

    def _discover(self, plugin_id: str) -> Plugin:
        manager = self.facts.catalogue.manager
        folders = [Path(path).expanduser() for path in self.config.paths]
        rules = Rules(api=API_VERSION, allow=tuple(self.config.allow), deny=tuple(self.config.deny))
        seen = {_id(source): source for source in sources(GROUP, DISTRIBUTION, folders)}
        source = seen.get(plugin_id)
        if source is None:
            raise PluginUnknown(f"no plugin {plugin_id!r} is installed; {nearest(plugin_id, seen)}")
        return discover(manager, [source], rules)[0]

    async def _close(self, plugin: Plugin, statuses: list[Status]) -> None:
        for status in reversed(statuses):
            await self.kernel.unload(status.role, status.name)
        self.kernel.observers.forget(plugin.id)
        manager = self.facts.catalogue.manager
        if plugin.module is not None and manager.is_registered(plugin.module):
            manager.unregister(plugin.module)

    def _find(self, plugin_id: str) -> Plugin | None:
        loaded = (known for known in self.facts.catalogue.plugins if known.module is not None)
        return next((known for known in loaded if known.id == plugin_id), None)

    def _loaded(self, plugin_id: str) -> Plugin:
        found = self._find(plugin_id)
        if found is not None:
            return found
        ids = [known.id for known in self.facts.catalogue.plugins]
        raise PluginUnknown(f"no plugin {plugin_id!r} is loaded; {nearest(plugin_id, ids)}")

    def _remember(self, plugin: Plugin) -> None:
        before = self.facts.catalogue
        others = tuple(known for known in before.plugins if known.id != plugin.id)
        self.facts.catalogue = attrs.evolve(
            before, plugins=(*others, plugin), found=(*before.found, *catalogue([plugin]))
        )


def _id(source: Source) -> str:
    """A plugin has the id of its manifest, whatever its folder or entry point is called."""
    path = source.manifest_path or manifest_beside(source.module)
    try:
        return source.id if path is None else read_manifest(path).id
    except ManifestInvalid:
        return source.id


def _defaults(component: Component) -> object:
    """The component's default options. Raises `HotPlugRefused` where one has no default."""
    try:
        return component.config()
    except (TypeError, ValueError) as error:
        raise HotPlugRefused(
            f"{component.role} {component.name} has no default options ({describe(error)}); "
            "configure it and restart"
        ) from error
