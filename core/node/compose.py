"""From options to a composition: plugins, hardware, tier, profile, configuration. Opens nothing.

What can be decided before anything is opened is decided here, so that every mistake is told at once and
`probe`, `plugins list` and `run --print-config` show exactly what `run` would do.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from supervm.config import (
    BUILT_IN,
    ConfigErrors,
    ConfigProblem,
    Effective,
    Layer,
    NodeConfig,
    PluginsConfig,
    RoleSection,
    node_sections,
    resolve,
)
from supervm.contracts.roles import ROLES, Role
from supervm.hardware.explain import Machine
from supervm.hardware.facts import ProbeContext
from supervm.hardware.profiles import choose
from supervm.hardware.sizing import SizeTooLarge, check_asked
from supervm.hardware.survey import survey
from supervm.kernel.component import Component
from supervm.kernel.compose import Choice, Found, Host, Planned
from supervm.kernel.compose import resolve as resolve_composition
from supervm.kernel.errors import Problem
from supervm.node.catalogue import Catalogue, probes, read_catalogue
from supervm.node.options import NodeOptions
from supervm.node.profiles import named_profile
from supervm.storage.folder import read_marker

OURS = "supervm"


@attrs.frozen(kw_only=True)
class Prepared:
    """What a node would be: its plugins, machine and configuration, and why storage is what it is."""

    catalogue: Catalogue
    machine: Machine
    effective: Effective
    notes: tuple[str, ...] = ()

    @property
    def node(self) -> NodeConfig:
        section: NodeConfig = self.effective.sections["node"]
        return section

    @property
    def data(self) -> Path:
        return self.node.data.expanduser()

    @property
    def storage(self) -> str:
        """The storage component's name; empty where none was chosen."""
        return next(iter(self.effective.use[Role.STORAGE]), "")


async def prepare(
    options: NodeOptions, *, deep: bool = False, inside: Mapping[str, type] | None = None
) -> Prepared:
    """Find plugins, probe, decide and configure. Takes at most the probes' 5 s.

    `inside`: options classes of the node's own components, by dotted section (`application.ledger`).
    Raises `ConfigErrors`, `UnknownTier`, `StorageError` for a data folder whose marker can't be read.
    """
    layers = options.layers()
    first = _before_plugins(layers)
    node, plugins_config = first.sections["node"], first.sections["plugins"]
    catalogue = await trio.to_thread.run_sync(read_catalogue, plugins_config, options.plugins)
    offered, silent = probes(catalogue)
    notes = [f"plugin {plugin} gave no probes: {cause}" for plugin, cause in silent.items()]
    context = ProbeContext(data_dir=node.data.expanduser(), deep=deep)
    machine = await survey(offered, context, tier=node.tier, is_validator=True)
    profile = machine.profile.table()
    marked = await trio.to_thread.run_sync(read_marker, node.data.expanduser())
    decided = [Layer(machine.profile.origin, profile, strict=False)]
    if node.profile:
        decided.append(named_profile(node.profile, catalogue))
    if marked is None:
        profile[Role.STORAGE]["use"], why = _storage(machine, catalogue)
        notes += why
    else:
        # A data folder is opened with the backend that made it.
        decided.append(Layer(f"data folder {node.data.expanduser()}", {Role.STORAGE: {"use": marked}}))
    ours = [
        RoleSection(role=role, many=ROLES[role].many, use=(name,), components={name: kind})
        for role, name, kind in _ours(inside or {})
    ]
    effective = resolve(
        [*decided, *layers],
        sections=node_sections(),
        roles=[*catalogue.sections({}), *ours],
    )
    _check_sizes(effective, machine)
    return Prepared(catalogue=catalogue, machine=machine, effective=effective, notes=tuple(notes))


def _before_plugins(layers: Sequence[Layer]) -> Effective:
    """What finding plugins and probing need. Raises `ConfigErrors` where `[plugins]` itself is wrong.

    A mistake in `[node]` is told later, with those that show only once the plugins are known; until
    then the section's defaults stand in.
    """
    sections = {"node": NodeConfig, "plugins": PluginsConfig}
    try:
        return resolve(layers, sections=sections, partial=True)
    except ConfigErrors:
        plugins = resolve(layers, sections={"plugins": PluginsConfig}, partial=True)
        defaults = resolve([], sections={"node": NodeConfig}, partial=True)
        return attrs.evolve(plugins, sections={**defaults.sections, **plugins.sections})


def plan(prepared: Prepared, inside: list[tuple[Component, Any]]) -> tuple[Planned, ...]:
    """The components in opening order; `inside` are the node's own with their options.

    Raises `CompositionError` with every problem, those of refused plugins that were asked for included.
    """
    effective, catalogue = prepared.effective, prepared.catalogue
    found = [*catalogue.found, *(Found(component=one, plugin=OURS, source=OURS) for one, _ in inside)]
    choices = {
        role: Choice(names=names, origin=effective.origin(f"{role}.use"))
        for role, names in effective.use.items()
        if role in ROLES
    }
    for one, _ in inside:
        choices[one.role] = Choice(names=(one.name,))
    configs = dict(effective.options)
    configs.update({(one.role, one.name): config for one, config in inside})
    return resolve_composition(ROLES, found, choices, _host(prepared.machine), configs, _problems(prepared))


def _ours(inside: Mapping[str, type]) -> list[tuple[Role, str, type]]:
    parts = [(section.partition("."), kind) for section, kind in inside.items()]
    return [(Role(role), name, kind) for (role, _, name), kind in parts]


def _storage(machine: Machine, catalogue: Catalogue) -> tuple[str, list[str]]:
    """The storage component of a new data folder, and the notes of what was passed over (TIER-24).

    It is the first of the profile's preference that can be had here.
    """
    named = catalogue.named(Role.STORAGE)

    def obstacle(name: str) -> str | None:
        found = named.get(name)
        return "no plugin offers it" if found is None else found.component.available() or None

    choice = choose(Role.STORAGE, machine.profile.fallback[Role.STORAGE], obstacle)
    return choice.name, [
        f"storage {choice.name} instead of {name}: {why}" for name, why in choice.passed_over
    ]


def _check_sizes(effective: Effective, machine: Machine) -> None:
    """Refuse a size that the operator set above what the machine may use (TIER-36)."""
    problems = []
    for entry in effective.entries:
        ours = entry.origin == BUILT_IN or entry.origin == machine.profile.origin
        if ours or not entry.name.endswith("_bytes") or not isinstance(entry.value, int):
            continue
        try:
            check_asked({entry.key: entry.value}, machine.facts)
        except SizeTooLarge as error:
            problems.append(ConfigProblem(entry.origin, str(error)))
    if problems:
        raise ConfigErrors(problems)


def _host(machine: Machine) -> Host:
    facts = machine.facts
    return Host(
        tier=machine.decision.tier,
        cpu_cores=facts.cpu_cores_usable,
        memory_bytes=facts.memory_limit_bytes,
        disk_bytes=facts.disk_capacity_bytes,
        gpu=None if facts.gpus is None else bool(facts.gpus),
        instructions=facts.cpu_features,
    )


def _problems(prepared: Prepared) -> list[Problem]:
    """A refused plugin stops the node only if it was asked for by name, or offered what is asked for."""
    effective = prepared.effective
    used = {(role, name) for role, names in effective.use.items() for name in names}
    problems = []
    for plugin in prepared.catalogue.plugins:
        if plugin.problem is None:
            continue
        offers = {(one.role, one.name) for one in plugin.manifest.components} if plugin.manifest else set()
        if plugin.source.kind == "module" or offers & used:
            problems.append(plugin.problem)
    return problems
