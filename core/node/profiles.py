"""Named profiles that plugins add, laid over the tier's own (TIER-20). The operator asks for one by name."""

from collections.abc import Mapping
from typing import Any

from supervm.config import ConfigErrors, ConfigProblem, Layer, from_pairs
from supervm.config.errors import nearest
from supervm.kernel.errors import describe
from supervm.node.catalogue import Catalogue

KEY = "node.profile"
DECIDED = ("node", "plugins")
"""Sections that are read before there are any plugins."""


def named_profile(name: str, plugins: Catalogue) -> Layer:
    """The layer of the profile `name`. Raises ConfigErrors: nobody gives it, or it is given wrongly."""
    known: list[str] = []
    failed: list[str] = []
    for plugin, function in plugins.extensions("supervm_tier_profiles"):
        try:
            given: Mapping[str, Mapping[str, Any]] = dict(function())
        except (Exception, SystemExit) as error:
            failed.append(f"; plugin {plugin.id} gave none: {describe(error)}")
            continue
        if name in given:
            return _layer(f"profile {name} of {plugin.id}", given[name])
        known += [str(one) for one in given]
    problem = f"no plugin gives a profile {name!r}{''.join(failed)}"
    raise ConfigErrors([ConfigProblem(KEY, problem, nearest(name, known))])


def _layer(origin: str, values: Any) -> Layer:
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        problem = f"gave {type(values).__name__}, not dotted keys with values"
        raise ConfigErrors([ConfigProblem(origin, problem, "mend the plugin")])
    early = [key for key in values if key.partition(".")[0] in DECIDED or "." not in key]
    if early:
        problem = f"{early[0]!r} can't be set by a profile"
        raise ConfigErrors([ConfigProblem(origin, problem, "it is for [api], [logs], roles and components")])
    return from_pairs(origin, [(key, value, origin) for key, value in values.items()])
