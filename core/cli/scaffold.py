"""`supervm plugins new`: a plugin project that installs, loads and passes its suite as it is."""

import importlib.util
import re
from pathlib import Path

from supervm.cli.conformance import suite_of
from supervm.cli.errors import Failure, Misuse

TEMPLATES = ("storage", "routing", "privacy", "gas")
"""Roles with a component of their own to start from, in `templates`."""
WRAPPED = {
    "transport": ("supervm.plugins.transport.memory", "MemoryTransportConfig", "open_memory_transport"),
    "consensus": ("supervm.plugins.consensus.solo", "SoloConfig", "open_solo"),
}
"""Roles whose project starts from the component that ships: module, options, function that opens it."""
ROLES = (*TEMPLATES, *WRAPPED)
NAME = re.compile(r"[a-z][a-z0-9-]{1,31}")

_PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "0.1.0"
description = "A {role} component for SuperVM"
requires-python = ">=3.11"
dependencies = ["supervm"]

[project.optional-dependencies]
test = ["supervm[testing]"]

# SuperVM finds plugins by this group; the manifest beside the package says what is in it.
[project.entry-points.supervm]
{name} = "{package}"

[tool.setuptools.packages.find]
where = ["src"]

[tool.setuptools.package-data]
{package} = ["plugin.toml"]

[tool.pytest.ini_options]
testpaths = ["tests"]
trio_mode = true
"""

_MANIFEST = """\
manifest = 1
id = "{name}"
version = "0.1.0"
api = "{api}"
entry = "{package}"
publisher = "unknown"
licence = "unknown"
description = "A {role} component"
components = [
    {{ role = "{role}", name = "{name}"{manifest_more} }},
]
"""

_PACKAGE = '''\
"""The plugin {name}: what it declares to SuperVM."""

from collections.abc import Iterator

from supervm.api import Component, hookimpl


@hookimpl
def supervm_components() -> Iterator[Component]:
    from {package}.component import component

    yield component
'''

_WRAPPER = '''\
"""A {role} component that is the shipped one under another name: replace it piece by piece."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from supervm.api import Component, Context, Role
from {module} import {options}, {opener}


@asynccontextmanager
async def open_{package}(ctx: Context, config: {options}) -> AsyncIterator[Any]:
    """Open what ships; the suite says what has to hold once it is yours."""
    async with {opener}(ctx, config) as served:
        yield served


component = Component(
    role=Role.{constant},
    name="{name}",
    open=open_{package},
    config={options},
{more})
'''

_MORE = {
    "consensus": '    requires=(Role.APPLICATION,),\n    features=frozenset({"certificates"}),\n',
}

_MANIFEST_MORE = {"consensus": ', features = ["certificates"]'}

# What a suite asks for beyond the component.
_SUITE_MORE = {
    "transport": """
    def configs(self, count):  # options of nodes that reach each other
        return [the_component.config() for _ in range(count)]

    def twins(self):  # of a node, and of two that have one identity and reach it
        return [the_component.config(node_id=each * 64) for each in "122"]
""",
}

_TEST = '''\
"""Every promise of the role {role}, tested on this plugin's component."""

from {package}.component import component as the_component
from supervm.testing.conformance.{role} import {suite}


class Test{class_name}({suite}):
    component = the_component
{suite_more}'''

_README = """\
# {name}

A {role} component for SuperVM.

    pip install -e '.[test]'
    pytest                                  # the conformance suite of {role}
    supervm plugins check {name}            # the same, as a table
    supervm run --set {role}.use={use}

`src/{package}/component.py` is where the work is. It passes the suite as it stands; change it, and let the
suite say what broke. `src/{package}/plugin.toml` names what the plugin offers, so that a node can tell before
it imports anything.
"""


def make_project(name: str, role: str, folder: Path) -> dict[str, object]:
    """Write the project to `folder/name`, which must not exist. Raises Misuse, Failure, OSError."""
    if not NAME.fullmatch(name):
        raise Misuse(f"{name!r} is no plugin name; use 2 to 32 of a-z, 0-9 and '-', a letter first")
    if role not in ROLES:
        raise Misuse(f"no project to start from for role {role!r}; there are {', '.join(ROLES)}")
    root = folder / name
    if root.exists():
        raise Misuse(f"{root} exists; choose another name or remove it")
    package = name.replace("-", "_")
    if importlib.util.find_spec(package) is not None:
        raise Misuse(f"a module {package!r} is installed already; choose another name")
    from supervm.api import API_VERSION
    from supervm.contracts.roles import ROLES as KNOWN

    facts = {
        "name": name,
        "role": role,
        "package": package,
        "api": ".".join(str(part) for part in API_VERSION),
        "suite": suite_of(role),
        "class_name": "".join(word.capitalize() for word in name.split("-")),
        "manifest_more": _MANIFEST_MORE.get(role, ""),
        "suite_more": _SUITE_MORE.get(role, ""),
        "use": f"'[\"{name}\"]'" if KNOWN[role].many else name,
    }
    files = {
        "pyproject.toml": _PYPROJECT.format(**facts),
        "README.md": _README.format(**facts),
        f"src/{package}/__init__.py": _PACKAGE.format(**facts),
        f"src/{package}/plugin.toml": _MANIFEST.format(**facts),
        f"src/{package}/py.typed": "",
        f"src/{package}/component.py": _component(role, name, facts["class_name"]),
        "tests/test_conformance.py": _TEST.format(**facts),
    }
    for path, text in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return {
        "project": str(root),
        "role": role,
        "files": list(files),
        "next": f"pip install -e './{name}[test]'",
    }


def _component(role: str, name: str, class_name: str) -> str:
    """The role's template under the plugin's own names."""
    if role in WRAPPED:
        module, options, opener = WRAPPED[role]
        return _WRAPPER.format(
            role=role,
            name=name,
            package=name.replace("-", "_"),
            constant=role.upper(),
            module=module,
            options=options,
            opener=opener,
            more=_MORE.get(role, ""),
        )
    source = Path(__file__).with_name("templates") / f"{role}.py"
    if not source.exists():
        raise Failure(f"{source} is missing; install supervm again")
    text = source.read_text(encoding="utf-8")
    text = text.replace('name="example"', f'name="{name}"').replace(
        "open_example", f"open_{name.replace('-', '_')}"
    )
    return text.replace("Example", class_name)
