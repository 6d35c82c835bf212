"""`supervm plugins`: what is installed and from where, whether it keeps its promises, and a new one."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import attrs
import click

from supervm.cli.errors import Failure, Misuse
from supervm.cli.node_option import api_option, connect
from supervm.cli.output import json_option, note, print_facts, print_table

if TYPE_CHECKING:
    from supervm.kernel.component import Component
    from supervm.kernel.discover import Plugin
    from supervm.node.catalogue import Catalogue


CHANGE_TIMEOUT_S = 330.0
"""A little more than the node itself takes at most to change a plugin."""


@click.group()
def plugins() -> None:
    """List, show, check and make plugins; load, unload and reset them at a running node.

    \b
    Example:
      supervm plugins list
      supervm plugins new my-store --role storage
    """


def catalogue_options(command: Any) -> Any:
    """`--config` and `--plugin`: what else is looked at besides what is installed."""
    command = click.option(
        "--plugin", "modules", multiple=True, metavar="MODULE", help="Look at this module too."
    )(command)
    return click.option(
        "--config",
        "file",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="TOML file whose [plugins] counts.",
    )(command)


@plugins.command("list")
@catalogue_options
@click.option("--api", metavar="URL", help="Ask this running node instead: states and restarts too.")
@json_option
def list_(file: Path | None, modules: tuple[str, ...], api: str | None, as_json: bool) -> None:
    """List the plugins: id, version, source, what they offer, and why one was refused.

    \b
    Example:
      supervm plugins list
      supervm plugins list --api http://127.0.0.1:8645
    """
    if api is not None:
        with connect(api) as client:
            rows = client.get("/v1/plugins")["plugins"]
        for row in rows:
            row["offers"] = ", ".join(
                f"{one['role']} {one['name']} ({one['state']})" for one in row["components"]
            )
    else:
        rows = [_facts(plugin) for plugin in read(file, modules).plugins]
    print_table(rows, ("id", "version", "source", "trust", "offers"), as_json)


@plugins.command()
@click.argument("name", metavar="ID|ROLE.NAME")
@catalogue_options
@json_option
def show(name: str, file: Path | None, modules: tuple[str, ...], as_json: bool) -> None:
    """Show a plugin's components, or one component's contract and options with their defaults.

    \b
    Example:
      supervm plugins show storage-backends
      supervm plugins show storage.sqlite
    """
    found = read(file, modules)
    for plugin in found.plugins:
        if plugin.id == name:
            components = [describe(component) for component in plugin.components]
            print_facts({**_facts(plugin), "components": components}, as_json)
            return
    print_facts(describe(_component(found, name)), as_json)


@plugins.command()
@click.argument("name", metavar="ID|ROLE.NAME")
@catalogue_options
@json_option
def check(name: str, file: Path | None, modules: tuple[str, ...], as_json: bool) -> None:
    """Run the conformance suite of its role on a component, or on every component of a plugin.

    \b
    Example:
      supervm plugins check storage.sqlite
      supervm plugins check my-store --plugin my_store
    """
    from supervm.cli.conformance import check_component

    found = read(file, modules)
    rows: list[dict[str, Any]] = []
    for module, component in _checked(found, name):
        rows += check_component(module, component)
    print_table(rows, ("component", "promise", "result"), as_json)
    failed = [row for row in rows if row["result"] not in ("kept", "skipped")]
    if failed:
        for row in failed:
            click.echo(f"{row['component']}: {row['promise']}: {row['reason']}", err=True)
        raise Failure(f"{len(failed)} of {len(rows)} promises broken by {name}")


@plugins.command()
@click.argument("name")
@click.option("--role", required=True, metavar="ROLE", help="Role of its component, such as storage.")
@click.option(
    "--in",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where to make it.",
)
@json_option
def new(name: str, role: str, folder: Path, as_json: bool) -> None:
    """Make a plugin project whose component passes the conformance suite of its role as it stands.

    \b
    Example:
      supervm plugins new my-store --role storage
      pip install -e ./my-store && pytest ./my-store
    """
    from supervm.cli.scaffold import make_project

    print_facts(make_project(name, role, folder), as_json)


@plugins.command()
@click.argument("plugin", metavar="ID")
@api_option
@json_option
def load(plugin: str, api: str, as_json: bool) -> None:
    """Load an installed plugin at a running node, and open its components of roles that take many.

    The node must have an api.token; it is taken from SUPERVM_API_TOKEN.

    \b
    Example:
      supervm plugins load my-chain
    """
    done = _change(api, plugin, "load", as_json)
    if not done["components"] and not as_json:
        note("its hooks are in use; its components, routes and verbs wait for the next start")


@plugins.command()
@click.argument("plugin", metavar="ID")
@api_option
@json_option
def unload(plugin: str, api: str, as_json: bool) -> None:
    """Drain a plugin at a running node, close its components and forget its hooks.

    The node must have an api.token; it is taken from SUPERVM_API_TOKEN.

    \b
    Example:
      supervm plugins unload my-chain
    """
    _change(api, plugin, "unload", as_json)


@plugins.command()
@click.argument("plugin", metavar="ID")
@api_option
@json_option
def reset(plugin: str, api: str, as_json: bool) -> None:
    """Try a plugin's waiting and broken components at a running node again now.

    The node must have an api.token; it is taken from SUPERVM_API_TOKEN.

    \b
    Example:
      supervm plugins reset my-chain
    """
    done = _change(api, plugin, "reset", as_json)
    if not done["components"] and not as_json:
        note("none of its components waits or is broken")


def _change(api: str, plugin: str, verb: str, as_json: bool) -> dict[str, Any]:
    """Ask the node, and print what it did and to which components."""
    with connect(api, CHANGE_TIMEOUT_S) as client:
        done: dict[str, Any] = client.post(f"/v1/plugins/{quote(plugin, safe='')}/{verb}")
    print_facts(done, as_json)
    return done


def read(file: Path | None, modules: tuple[str, ...]) -> "Catalogue":
    """The plugins that a node of this configuration would find."""
    from supervm.config import PluginsConfig, resolve
    from supervm.node.catalogue import read_catalogue
    from supervm.node.options import NodeOptions

    layers = NodeOptions(config=file, environ=os.environ).layers()
    section = resolve(layers, sections={"plugins": PluginsConfig}, partial=True).sections["plugins"]
    return read_catalogue(section, modules)


def describe(component: "Component") -> dict[str, Any]:
    """A component's contract and options, for people and programs."""
    from supervm.config.values import expected, plain

    attrs.resolve_types(component.config)
    return {
        "component": f"{component.role}.{component.name}",
        "description": component.description,
        "contract": ".".join(str(part) for part in component.contract),
        "requires": list(component.requires),
        "tiers": sorted(component.tiers),
        "features": sorted(component.features),
        "available": component.available() or "yes",
        "options": {
            field.name: f"{_default(field, plain)} ({expected(field.type)})"
            for field in attrs.fields(component.config)
            if field.init
        },
    }


def _default(field: Any, plain: Any) -> Any:
    if field.default is attrs.NOTHING:
        return "must be set"
    factory = getattr(field.default, "factory", None)
    value = factory() if factory is not None else field.default
    return plain(value) if not attrs.has(type(value)) else plain(attrs.asdict(value))


def _facts(plugin: "Plugin") -> dict[str, Any]:
    trust = "shipped" if plugin.source.kind == "shipped" else "community, unaudited"
    offers = [f"{component.role} {component.name}" for component in plugin.components]
    return {
        "id": plugin.id,
        "version": plugin.version,
        "source": str(plugin.source),
        "trust": trust if plugin.problem is None else "refused",
        "offers": ", ".join(offers) or (str(plugin.problem) if plugin.problem else "hooks only"),
    }


def _component(found: "Catalogue", name: str) -> "Component":
    """A component by `ROLE.NAME`. Raises Misuse with the nearest there is."""
    from supervm.config.errors import nearest

    known = {f"{one.component.role}.{one.component.name}": one.component for one in found.found}
    if name not in known:
        ids = [plugin.id for plugin in found.plugins]
        raise Misuse(f"no plugin or component {name!r}; {nearest(name, [*known, *ids])}")
    return known[name]


def _checked(found: "Catalogue", name: str) -> list[tuple[str, "Component"]]:
    """(module that declares it, component) of each component that `name` means."""
    component = None
    if not any(plugin.id == name for plugin in found.plugins):
        component = _component(found, name)
    pairs: list[tuple[str, Component]] = []
    for plugin in found.plugins:
        if plugin.problem is not None and plugin.id == name:
            raise Failure(str(plugin.problem))
        wanted = plugin.components if component is None and plugin.id == name else ()
        pairs += [
            (plugin.module.__name__, one) for one in plugin.components if one in wanted or one is component
        ]
    if not pairs:
        raise Failure(f"{name} offers no components, so there is nothing to check")
    return pairs
