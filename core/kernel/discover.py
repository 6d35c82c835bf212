"""Find plugins and ask each for its components; what fails is refused by name and hurts nobody (PLUG-4).

For each: read its manifest, check allow and deny, check the API it was written for, import it, register
its hooks, call `supervm_components`, compare with the manifest. Importing is executing, so everything
that can be refused is refused before it.
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pluggy

from supervm.kernel.component import Component
from supervm.kernel.compose import Found
from supervm.kernel.errors import Problem, describe
from supervm.kernel.manifest import FILE_NAME, Manifest, ManifestInvalid, manifest_beside, read_manifest

PLUGINS_MAX = 256
COMPONENTS_MAX = 256


@attrs.frozen(kw_only=True)
class Source:
    """Where a plugin was found. `kind` is shipped, entry point, folder or module."""

    id: str
    kind: str
    module: str
    location: str
    version: str = ""
    manifest_path: Path | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.location}"


@attrs.frozen(kw_only=True)
class Plugin:
    """A plugin that was found: loaded, or refused with the problem that stopped it."""

    id: str
    source: Source
    manifest: Manifest | None = None
    module: Any = None
    components: tuple[Component, ...] = ()
    problem: Problem | None = None

    @property
    def version(self) -> str:
        return self.manifest.version if self.manifest else self.source.version


@attrs.frozen(kw_only=True)
class Rules:
    """What may load. An allow list that isn't empty excludes all but what ships; deny wins."""

    api: tuple[int, int]
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


def sources(
    group: str, shipped: str, folders: Iterable[Path] = (), modules: Iterable[str] = ()
) -> Iterator[Source]:
    """Every plugin in sight: installed distributions, `plugins` folders, and modules named by hand."""
    for entry in sorted(importlib.metadata.entry_points(group=group), key=lambda entry: entry.name):
        name = entry.dist.name if entry.dist else "?"
        version = entry.dist.version if entry.dist else ""
        kind = "shipped" if name == shipped else "entry point"
        yield Source(id=entry.name, kind=kind, module=entry.value, location=name, version=version)
    for folder in folders:
        for path in sorted(folder.glob(f"*/{FILE_NAME}")):
            yield Source(
                id=path.parent.name, kind="folder", module="", location=str(path.parent), manifest_path=path
            )
    for module in modules:
        yield Source(
            id=module.replace("_", "-").replace(".", "-"), kind="module", module=module, location=module
        )


def discover(manager: pluggy.PluginManager, found: Iterable[Source], rules: Rules) -> tuple[Plugin, ...]:
    """Load every plugin that may load. The manager holds the hooks of those that did, and no others."""
    plugins: dict[str, Plugin] = {}
    for source in found:
        plugin = _load(manager, source, rules)
        first = plugins.get(plugin.id)
        if first is not None and _place(first) != _place(plugin):
            if plugin.module is not None:
                manager.unregister(plugin.module)
            cause = f"found as {first.source} and as {source}"
            problem = Problem("DuplicatePlugin", plugin.id, cause, "remove one of the two")
            plugin = attrs.evolve(
                plugin, id=f"{plugin.id}@{source.location}", module=None, components=(), problem=problem
            )
        plugins.setdefault(plugin.id, plugin)
        if len(plugins) >= PLUGINS_MAX:
            break
    return tuple(plugins.values())


def catalogue(plugins: Sequence[Plugin]) -> tuple[Found, ...]:
    """Every component of every loaded plugin."""
    return tuple(
        Found(component=component, plugin=plugin.id, source=str(plugin.source))
        for plugin in plugins
        for component in plugin.components
    )


def _load(manager: pluggy.PluginManager, source: Source, rules: Rules) -> Plugin:
    plugin = Plugin(id=source.id, source=source)
    try:
        manifest = _manifest(source)
    except ManifestInvalid as error:
        return _refused(plugin, "ManifestInvalid", str(error), "mend the manifest")
    if manifest is not None:
        source = attrs.evolve(source, module=manifest.entry)
        plugin = attrs.evolve(plugin, id=manifest.id, manifest=manifest, source=source)
    elif source.kind != "module":
        return _refused(plugin, "ManifestInvalid", f"no {FILE_NAME} beside {source.module}", "add one")
    if plugin.id in rules.deny or (rules.allow and source.kind != "shipped" and plugin.id not in rules.allow):
        return _refused(
            plugin, "PolicyRefused", "not allowed by the configuration", "see plugins.allow and deny"
        )
    if manifest is not None and not _api_fits(manifest.api_version, rules.api):
        host = ".".join(map(str, rules.api))
        return _refused(
            plugin, "ApiMismatch", f"written for API {manifest.api}, this node has {host}", "upgrade"
        )
    try:
        module = _import(source)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return _refused(plugin, "ImportFailed", describe(error), f"mend or remove {source.location}")
    return _register(manager, attrs.evolve(plugin, module=module))


def _manifest(source: Source) -> Manifest | None:
    path = source.manifest_path or manifest_beside(source.module)
    return read_manifest(path) if path is not None else None


def _place(plugin: Plugin) -> tuple[str, str]:
    """What makes two finds one plugin: the same module, and for a folder the same folder."""
    return plugin.source.module, plugin.source.location if plugin.source.kind == "folder" else ""


def _api_fits(wanted: tuple[int, int], host: tuple[int, int]) -> bool:
    return wanted[0] == host[0] and wanted[1] <= host[1]


def _import(source: Source) -> Any:
    """Import the plugin's module. A plugin that exits the interpreter at import is only refused."""
    if source.kind == "folder" and source.location not in sys.path:
        sys.path.append(source.location)
    return importlib.import_module(source.module)


def _register(manager: pluggy.PluginManager, plugin: Plugin) -> Plugin:
    module = plugin.module
    try:
        if not manager.is_registered(module):
            manager.register(module, name=plugin.id)
        unknown = [name for name in dir(module) if name.startswith("supervm_") and not _known(manager, name)]
        if unknown:
            raise LookupError(f"unknown hook {unknown[0]}")
        declare = getattr(module, "supervm_components", None)
        components = tuple(declare() or ()) if declare is not None else ()
        wrong = [one for one in components if not isinstance(one, Component)]
        if wrong or len(components) > COMPONENTS_MAX:
            raise TypeError(f"supervm_components gave {wrong[0]!r}" if wrong else "too many components")
    except (Exception, SystemExit) as error:
        _forget(manager, module)
        refused = attrs.evolve(plugin, module=None)
        return _refused(refused, "ImportFailed", describe(error), f"mend or remove {plugin.source.location}")
    difference = _difference(plugin.manifest, components)
    if difference:
        _forget(manager, module)
        refused = attrs.evolve(plugin, module=None)
        return _refused(refused, "ManifestMismatch", difference, "make the manifest and the code agree")
    return attrs.evolve(plugin, components=components)


def _known(manager: pluggy.PluginManager, name: str) -> bool:
    caller = getattr(manager.hook, name, None)
    return caller is not None and caller.has_spec()


def _forget(manager: pluggy.PluginManager, module: Any) -> None:
    if manager.is_registered(module):
        manager.unregister(module)


def _difference(manifest: Manifest | None, components: Sequence[Component]) -> str:
    """What the manifest and the code say differently; empty where they agree, or there is no manifest."""
    if manifest is None:
        return ""
    said = {_said(one.role, one.name, one.contract, one.features) for one in manifest.components}
    done = {_said(one.role, one.name, ".".join(map(str, one.contract)), one.features) for one in components}
    parts = [f"only the manifest has {one}" for one in sorted(said - done)]
    return "; ".join(parts + [f"only the code has {one}" for one in sorted(done - said)])


def _said(role: str, name: str, contract: str, features: Iterable[str]) -> str:
    offered = ", ".join(sorted(features)) or "no features"
    return f"{role} {name}, contract {contract}, {offered}"


def _refused(plugin: Plugin, kind: str, cause: str, mend: str) -> Plugin:
    return attrs.evolve(plugin, problem=Problem(kind, f"plugin {plugin.id}", cause, mend, str(plugin.source)))
