"""The reference page of the configuration, made from the options classes themselves so that it can't drift.

python -m supervm.cli.configuration_page > docs/reference/configuration.md
"""

import inspect
from collections.abc import Iterator
from typing import Any

import attrs
import click

from supervm.config import PluginsConfig, node_sections, toml_value
from supervm.config.values import expected, plain
from supervm.contracts.roles import ROLES
from supervm.node.assembly import INSIDE
from supervm.node.catalogue import read_catalogue

HEAD = """\
# Configuration

A node needs none: every key has a default, and the tier's profile sets what depends on the machine. What a
node would use, and where each value came from, is printed by

    supervm run --print-config

and what it prints is a file that gives the same configuration again, so it is also the template to begin
with: `supervm run --tier l2 --print-config > node.toml`.

## Where values come from

Later ones win:

1. built-in defaults
2. the profile of the tier (`supervm probe` shows it, with reasons)
3. the file of `--config FILE` (TOML, at most 1 MiB)
4. the environment: `SUPERVM_SECTION__KEY`, such as `SUPERVM_STORAGE__USE=sqlite` or
   `SUPERVM_STORAGE__SQLITE__CACHE_BYTES=1000000`; a dash in a name is written `_`
5. the command line: `--set SECTION.KEY=VALUE`, then the flags `--data --tier --api --genesis --plugin`

In a file, values have TOML's types, and nothing is converted: `"8"` is no number. In the environment and
after `--set` there is only text, which is read by the option's type; lists may be written `a,b`. Variables
without a double underscore (`SUPERVM_NATIVE`, `SUPERVM_API`, `SUPERVM_KEY_PASSPHRASE`) are not configuration.

An unknown key, a wrong type, a value out of range: each is an error that names the file and key (or variable,
or flag), the value and the mend, and all of them are told at once. `--print-config` leaves secrets out.

## A role's section

`use` names the component, or for roles that take several a list of them. Each component's options are a
table of their own, and may be set whether or not it is in use:

    [storage]
    use = "sqlite"

    [storage.sqlite]
    cache_bytes = 33554432

A plugin's components have such tables too, `[ROLE.NAME]`; `supervm plugins show ROLE.NAME` lists them.

The gas component and its parameters are part of the chain: the genesis fixes them, and `[gas]` counts only
when a development chain is made.

## Every key

This part is made by `python -m supervm.cli.configuration_page`.
"""

_DEFAULTS = {("node", "name"): "the host's name"}


def page() -> str:
    """The page, in Markdown: the node's own sections, then the components that ship."""
    parts = [HEAD]
    for name, kind in node_sections().items():
        parts += _section(name, kind)
    catalogue = read_catalogue(PluginsConfig())
    shipped = [
        one for plugin in catalogue.plugins if plugin.source.kind == "shipped" for one in plugin.components
    ]
    for role in ROLES:
        components = sorted((one for one in shipped if one.role == role), key=lambda one: one.name)
        for component in components:
            parts += _section(f"{role}.{component.name}", component.config)
    for name, kind in INSIDE.items():
        parts += _section(name, kind)
    return "\n".join(parts).rstrip() + "\n"


def _section(name: str, kind: type) -> Iterator[str]:
    attrs.resolve_types(kind)
    fields = [field for field in attrs.fields(kind) if field.init]
    yield f"### `[{name}]`\n"
    yield inspect.cleandoc(kind.__doc__ or "") + "\n"
    if not fields:
        return
    yield "| key | default | takes |\n|---|---|---|"
    for field in fields:
        yield f"| `{field.alias or field.name}` | {_default(name, field)} | {expected(field.type)} |"
    yield ""


def _default(section: str, field: Any) -> str:
    said = _DEFAULTS.get((section, field.name))
    if said is not None:
        return said
    factory = getattr(field.default, "factory", None)
    value = plain(factory() if factory is not None else field.default)
    return "not set" if value is None else f"`{toml_value(value)}`"


if __name__ == "__main__":
    click.echo(page(), nl=False)
