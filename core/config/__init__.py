"""Configuration: TOML, environment and command line over built-in defaults and the tier's profile.

Order: built-in < profile < file < environment < command line. Every value knows where it came from.

    layers = [profile, read_file(path), read_environment(os.environ), read_settings(["storage.use=sqlite"])]
    effective = resolve(layers, roles=[RoleSection(role="storage", many=False, use=("rocksdb",), ...)])
    effective.sections["node"].name, effective.use["storage"], effective.options["storage", "sqlite"]
    print(render(effective))
"""

from supervm.config.errors import ConfigErrors, ConfigProblem
from supervm.config.render import render, toml_value
from supervm.config.resolve import BUILT_IN, Effective, Entry, options_from_text, resolve
from supervm.config.sections import (
    NodeConfig,
    PluginsConfig,
    RoleSection,
    node_sections,
)
from supervm.config.sources import (
    FILE_BYTES_MAX,
    Layer,
    from_pairs,
    read_all,
    read_environment,
    read_file,
    read_flags,
    read_settings,
)
from supervm.config.values import as_text

__all__ = [
    "BUILT_IN",
    "FILE_BYTES_MAX",
    "ConfigErrors",
    "ConfigProblem",
    "Effective",
    "Entry",
    "Layer",
    "NodeConfig",
    "PluginsConfig",
    "RoleSection",
    "as_text",
    "from_pairs",
    "node_sections",
    "options_from_text",
    "read_all",
    "read_environment",
    "read_file",
    "read_flags",
    "read_settings",
    "render",
    "resolve",
    "toml_value",
]
