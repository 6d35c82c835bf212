"""Which plugins there are, and what each offers to this node."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pluggy

from supervm import hookspecs
from supervm.api import API_VERSION
from supervm.config import PluginsConfig, RoleSection
from supervm.contracts.roles import ROLES, Role
from supervm.hardware.facts import Probe
from supervm.kernel.compose import Found
from supervm.kernel.discover import Plugin, Rules, catalogue, discover, sources
from supervm.kernel.errors import describe

GROUP = "supervm"
DISTRIBUTION = "supervm"
OBSERVED = tuple(
    name.removeprefix("supervm_") for name in vars(hookspecs.Observe) if name.startswith("supervm_")
)
"""The kinds of event that plugins may observe."""


@attrs.frozen(kw_only=True)
class Catalogue:
    """Every plugin found, the hooks of those that loaded, and their components."""

    manager: pluggy.PluginManager
    plugins: tuple[Plugin, ...]
    found: tuple[Found, ...]

    def named(self, role: str) -> dict[str, Found]:
        return {one.component.name: one for one in self.found if one.component.role == role}

    def sections(self, use: Mapping[str, tuple[str, ...]]) -> list[RoleSection]:
        """The configuration sections of the roles that plugins can fill; `use` gives their defaults."""
        inside = {Role.APPLICATION, Role.SURFACE}
        return [
            RoleSection(
                role=role,
                many=spec.many,
                use=use.get(role, ()),
                components={name: one.component.config for name, one in self.named(role).items()},
            )
            for role, spec in ROLES.items()
            if role not in inside
        ]

    def extensions(self, hook: str) -> Iterable[tuple[Plugin, Any]]:
        """Each loaded plugin that has `hook`, with its function. Calling it is up to who asks."""
        for plugin in self.plugins:
            function = getattr(plugin.module, hook, None) if plugin.module is not None else None
            if function is not None:
                yield plugin, function


def read_catalogue(config: PluginsConfig, modules: Iterable[str] = ()) -> Catalogue:
    """Discover and load plugins as the configuration allows. Never raises for a bad plugin."""
    manager = pluggy.PluginManager("supervm")
    for specs in (hookspecs.Declare, hookspecs.Extend, hookspecs.Observe):
        manager.add_hookspecs(specs)
    folders = [Path(path).expanduser() for path in config.paths]
    named = [*config.load, *modules]
    rules = Rules(api=API_VERSION, allow=tuple(config.allow), deny=tuple(config.deny))
    plugins = discover(manager, sources(GROUP, DISTRIBUTION, folders, named), rules)
    return Catalogue(manager=manager, plugins=plugins, found=catalogue(plugins))


def probes(plugins: Catalogue) -> tuple[list[Probe], dict[str, str]]:
    """Every plugin's hardware probes, and by plugin id why one gave none."""
    given: list[Probe] = []
    failed: dict[str, str] = {}
    for plugin, function in plugins.extensions("supervm_hardware_probes"):
        try:
            offered = list(function())
            wrong = [one for one in offered if not isinstance(one, Probe)]
            if wrong:
                raise TypeError(f"{wrong[0]!r} is not a Probe")
            given += offered
        except (Exception, SystemExit) as error:
            failed[plugin.id] = describe(error)
    return given, failed


def http_routes(plugins: Catalogue) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Plugin id to the routes it adds to the API, and by plugin id why one added none."""
    given: dict[str, list[Any]] = {}
    failed: dict[str, str] = {}
    for plugin, function in plugins.extensions("supervm_http_routes"):
        try:
            given[plugin.id] = list(function())
        except (Exception, SystemExit) as error:
            failed[plugin.id] = describe(error)
    return given, failed
