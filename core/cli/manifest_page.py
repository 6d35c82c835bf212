"""The reference page of the manifest and its JSON Schema, made from the attrs classes themselves.

python -m supervm.cli.manifest_page > docs/plugins/manifest.md
python -m supervm.cli.manifest_page --schema > docs/plugins/plugin-manifest.schema.json
"""

import json
import typing
from collections.abc import Iterator
from typing import Any

import attrs
import click

from supervm.api import API_VERSION
from supervm.kernel.discover import COMPONENTS_MAX
from supervm.kernel.manifest import FILE_NAME, MANIFEST_BYTES_MAX, Declared, Manifest

SAYS = {
    "Manifest.manifest": "The format of the manifest itself.",
    "Manifest.id": "The plugin's name for people, routes, verbs and `plugins.deny`. No two share one.",
    "Manifest.version": "The plugin's own version.",
    "Manifest.api": "The lowest plugin API that it was written for, `MAJOR.MINOR`.",
    "Manifest.entry": "The module to import.",
    "Manifest.run": "How it runs: in the node's process.",
    "Manifest.components": "What its hook `supervm_components` declares, no more and no less.",
    "Manifest.publisher": "Who made it. Shown, never enforced.",
    "Manifest.licence": "Its licence. Shown, never enforced.",
    "Manifest.homepage": "Where to read more. Shown, never enforced.",
    "Manifest.description": "What it is for, in one line. Shown, never enforced.",
    "Declared.role": "The role that the component takes.",
    "Declared.name": "Its name within the role.",
    "Declared.contract": "The version of the role's contract that it fulfils, `MAJOR.MINOR`.",
    "Declared.features": "Features that it offers.",
}
WORDS = {"string": "text", "integer": "a whole number", "array": "a list"}

HEAD = """\
# The manifest

`{name}` stands beside the plugin's top module and says what the plugin is, so that a node can tell without
running any of its code. A plugin that is installed or lies in a `plugins` folder must have one; a module
named by `--plugin` may go without. It is TOML of at most {kib} KiB, an unknown key is refused with the
nearest right one, and at most {components} components may be declared.

```toml
manifest = 1
id = "my-store"
version = "0.1.0"
api = "{api}"
entry = "my_store"
components = [
    {{ role = "storage", name = "my-store" }},
]
```

A node reads it, applies `plugins.allow` and `plugins.deny`, compares the API, and only then imports
`entry`. What the code declares must be what `components` names; otherwise the plugin is refused with
`ManifestMismatch`.

The [JSON Schema](plugin-manifest.schema.json) says the same to an editor.
"""


def page() -> str:
    """The whole page."""
    head = HEAD.format(
        name=FILE_NAME,
        kib=MANIFEST_BYTES_MAX // 1024,
        components=COMPONENTS_MAX,
        api=".".join(map(str, API_VERSION)),
    )
    tables = [
        *("", "## Keys", "", *_table(Manifest)),
        *("", "## Keys of a component", "", "Each item of `components` is a table.", "", *_table(Declared)),
    ]
    return head + "\n".join(tables) + "\n"


def schema() -> dict[str, Any]:
    """The manifest as JSON Schema, draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "SuperVM plugin manifest",
        **_object(Manifest),
    }


def _table(kind: type) -> Iterator[str]:
    yield "| key | takes | default | |"
    yield "|---|---|---|---|"
    for field in _fields(kind):
        found = _type(field)
        takes = WORDS[found["type"]]
        if "enum" in found:
            takes = ", ".join(f"`{json.dumps(value)}`" for value in found["enum"])
        elif "pattern" in found:
            takes += f" like `{found['pattern'].strip('^$')}`"
        default = "required" if _required(field) else f"`{json.dumps(_default(field))}`"
        yield f"| `{field.name}` | {takes} | {default} | {SAYS[f'{kind.__name__}.{field.name}']} |"


def _object(kind: type) -> dict[str, Any]:
    fields = _fields(kind)
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [field.name for field in fields if _required(field)],
        "properties": {
            field.name: {"description": SAYS[f"{kind.__name__}.{field.name}"]}
            | _type(field)
            | ({} if _required(field) else {"default": _default(field)})
            for field in fields
        },
    }


def _fields(kind: type) -> list["attrs.Attribute[Any]"]:
    attrs.resolve_types(kind)
    return list(attrs.fields(kind))


def _required(field: "attrs.Attribute[Any]") -> bool:
    return field.default is attrs.NOTHING


def _default(field: "attrs.Attribute[Any]") -> Any:
    return list(field.default) if isinstance(field.default, tuple) else field.default


def _type(field: "attrs.Attribute[Any]") -> dict[str, Any]:
    """The JSON type of a field, with what its validator adds."""
    kinds: dict[Any, str] = {str: "string", int: "integer"}
    if typing.get_origin(field.type) is tuple:
        item = typing.get_args(field.type)[0]
        items = _object(item) if attrs.has(item) else {"type": kinds[item]}
        return {"type": "array", "items": items}
    found: dict[str, Any] = {"type": kinds[field.type]}
    if (options := getattr(field.validator, "options", None)) is not None:
        found["enum"] = list(options)
    if (pattern := getattr(field.validator, "pattern", None)) is not None:
        found["pattern"] = f"^{pattern.pattern}$"
    return found


@click.command()
@click.option("--schema", "as_schema", is_flag=True, help="Print the JSON Schema instead.")
def main(as_schema: bool) -> None:
    """Print the page."""
    click.echo(json.dumps(schema(), indent=2) if as_schema else page().rstrip("\n"))


if __name__ == "__main__":
    main()
