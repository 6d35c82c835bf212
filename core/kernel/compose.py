"""Resolve a composition: pure, and every problem at once (PLUG-8).

Exactly one component for a `one` role, any number for a `many` role, requirements met, tier and hardware
allowed, versions fitting. The result is the order to open in; closing is the exact reverse.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import attrs

from supervm.kernel.component import Component, RoleSpec
from supervm.kernel.errors import CompositionError, Problem


@attrs.frozen(kw_only=True)
class Found:
    """A component and the plugin that declared it."""

    component: Component
    plugin: str
    source: str

    @property
    def key(self) -> tuple[str, str]:
        return (self.component.role, self.component.name)


@attrs.frozen(kw_only=True)
class Choice:
    """Which components a role shall have, and where that was said."""

    names: tuple[str, ...]
    origin: str = "built-in"


@attrs.frozen(kw_only=True)
class Host:
    """What this node offers. None of a hardware figure is unknown, and unknown never forbids."""

    tier: str
    features: frozenset[str] = frozenset()
    cpu_cores: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    gpu: bool | None = None
    instructions: frozenset[str] | None = None


@attrs.frozen(kw_only=True)
class Planned:
    """A component that will be opened, with its options and where the choice came from."""

    component: Component
    config: Any
    plugin: str = ""
    source: str = ""
    origin: str = "built-in"

    @property
    def key(self) -> tuple[str, str]:
        return (self.component.role, self.component.name)


def resolve(
    roles: Mapping[str, RoleSpec],
    found: Sequence[Found],
    choices: Mapping[str, Choice],
    host: Host,
    configs: Mapping[tuple[str, str], Any] | None = None,
    problems: Iterable[Problem] = (),
) -> tuple[Planned, ...]:
    """The components in opening order. Raises `CompositionError` with every problem, `problems` included.

    `configs` maps (role, name) to a component's options; a component without an entry takes its defaults.
    """
    bad = list(problems)
    catalogue = _catalogue(found, bad)
    chosen = _choose(roles, catalogue, choices, bad)
    for one, origin in chosen.values():
        bad += _fits(one.component, roles, host, origin)
    # Of a component that was asked for and isn't installed, it was told.
    told = {role for role, choice in choices.items() if choice.names}
    bad += _requirements(roles, chosen, told)
    planned = {key: _plan(one, origin, configs or {}, bad) for key, (one, origin) in chosen.items()}
    order = _order(roles, [one.component for one, _ in chosen.values()], bad)
    if bad:
        raise CompositionError(bad)
    return tuple(planned[key] for key in order)


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the closest known word, or all of them where none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(names)}" if names else "none is known"


def _catalogue(found: Sequence[Found], bad: list[Problem]) -> dict[tuple[str, str], Found]:
    """Order never decides which of two wins: a second one of the same role and name is an error."""
    catalogue: dict[tuple[str, str], Found] = {}
    for one in found:
        first = catalogue.setdefault(one.key, one)
        if first is not one:
            subject = f"{one.component.role} {one.component.name}"
            cause = f"declared by {first.plugin} ({first.source}) and by {one.plugin} ({one.source})"
            bad.append(Problem("DuplicateComponent", subject, cause, "remove or deny one of the two plugins"))
    return catalogue


def _choose(
    roles: Mapping[str, RoleSpec],
    catalogue: Mapping[tuple[str, str], Found],
    choices: Mapping[str, Choice],
    bad: list[Problem],
) -> dict[tuple[str, str], tuple[Found, str]]:
    chosen: dict[tuple[str, str], tuple[Found, str]] = {}
    for role, choice in choices.items():
        spec = roles.get(role)
        if spec is None:
            bad.append(Problem("UnknownRole", role, "no such role", nearest(role, roles), choice.origin))
            continue
        names = tuple(dict.fromkeys(choice.names))
        if len(names) > 1 and not spec.many:
            cause = f"takes one component, given {len(names)}: {', '.join(names)}"
            bad.append(Problem("TooManyForRole", role, cause, "choose one", choice.origin))
        for name in names:
            one = catalogue.get((role, name))
            if one is None:
                installed = [known for of, known in catalogue if of == role]
                cause = f"no component {name!r} is installed"
                bad.append(Problem("UnknownComponent", role, cause, nearest(name, installed), choice.origin))
                continue
            chosen[one.key] = (one, choice.origin)
    have = {role for role, _ in chosen}
    asked = {role for role, choice in choices.items() if choice.names}
    for role, spec in roles.items():
        if spec.required and role not in have and role not in asked:
            installed = sorted(name for of, name in catalogue if of == role)
            mend = f"set {role}.use to one of: {', '.join(installed) or '(none is installed)'}"
            bad.append(Problem("MissingRole", role, "no component is chosen", mend))
    return chosen


def _fits(one: Component, roles: Mapping[str, RoleSpec], host: Host, origin: str) -> Iterable[Problem]:
    subject = f"{one.role} {one.name}"
    if host.tier not in one.tiers:
        cause = f"runs on {', '.join(sorted(one.tiers))}, this node is {host.tier}"
        yield Problem("TierNotAllowed", subject, cause, "choose another component or tier", origin)
    for cause in _lacking(one, host):
        yield Problem("HardwareLacking", subject, cause, "choose another component", origin)
    (major, minor), (host_major, host_minor) = one.contract, roles[one.role].contract
    if major != host_major or minor > host_minor:
        cause = f"fulfils contract {major}.{minor}, this node has {host_major}.{host_minor}"
        yield Problem("ContractMismatch", subject, cause, "install a version that fits", origin)
    obstacle = one.available()
    if obstacle:
        yield Problem("ComponentUnavailable", subject, obstacle, "or choose another component", origin)
    missing = one.features_required - host.features
    if missing:
        cause = f"needs {', '.join(sorted(missing))}"
        yield Problem("MissingFeature", subject, cause, "choose another component", origin)


def _lacking(one: Component, host: Host) -> Iterable[str]:
    needs = one.needs
    figures = (
        ("CPU cores", needs.cpu_cores, host.cpu_cores),
        ("bytes of memory", needs.memory_bytes, host.memory_bytes),
        ("bytes of disk", needs.disk_bytes, host.disk_bytes),
    )
    for what, wanted, have in figures:
        if have is not None and have < wanted:
            yield f"needs {wanted} {what}, has {have}"
    if needs.gpu and host.gpu is False:
        yield "needs a GPU, has none"
    if host.instructions is not None:
        lacking = set(needs.instructions) - host.instructions
        if lacking:
            yield f"needs CPU features {', '.join(sorted(lacking))}"


def _requirements(
    roles: Mapping[str, RoleSpec], chosen: Mapping[tuple[str, str], tuple[Found, str]], told: Collection[str]
) -> Iterable[Problem]:
    have = {role for role, _ in chosen}
    for one, origin in chosen.values():
        subject = f"{one.component.role} {one.component.name}"
        for role in (*one.component.requires, *one.component.wants):
            if role not in roles:
                yield Problem("UnknownRole", subject, f"names role {role!r}", nearest(role, roles), origin)
        for role in one.component.requires:
            if role in roles and role not in have and role not in told:
                yield Problem("MissingRequirement", subject, f"requires {role}", f"choose a {role}", origin)


def _plan(one: Found, origin: str, configs: Mapping[tuple[str, str], Any], bad: list[Problem]) -> Planned:
    config = configs.get(one.key)
    if config is None:
        try:
            config = one.component.config()
        except (TypeError, ValueError) as error:
            subject = f"{one.component.role} {one.component.name}"
            mend = f"set it under [{one.component.role}.{one.component.name}]"
            bad.append(Problem("ConfigInvalid", subject, str(error), mend, origin))
    return Planned(
        component=one.component, config=config, plugin=one.plugin, source=one.source, origin=origin
    )


def _order(
    roles: Mapping[str, RoleSpec], components: Sequence[Component], bad: list[Problem]
) -> list[tuple[str, str]]:
    """Topological by `requires` and present `wants`; ties by role order, then name."""
    waiting = sorted(components, key=lambda one: (roles[one.role].order, one.name))
    opened: list[tuple[str, str]] = []
    while waiting:
        roles_waiting = {one.role for one in waiting}
        ready = next(
            (
                one
                for one in waiting
                if not (set(one.requires) | set(one.wants)) & (roles_waiting - {one.role})
            ),
            None,
        )
        if ready is None:
            bad.append(_cycle(waiting))
            return opened + [(one.role, one.name) for one in waiting]
        waiting.remove(ready)
        opened.append((ready.role, ready.name))
    return opened


def _cycle(waiting: Sequence[Component]) -> Problem:
    """Walk the requirements until a role comes twice."""
    by_role = {one.role: one for one in waiting}
    path = [waiting[0].role]
    while True:
        one = by_role[path[-1]]
        after = next(role for role in (*one.requires, *one.wants) if role in by_role and role != one.role)
        if after in path:
            circle = [*path[path.index(after) :], after]
            return Problem("RequirementCycle", " -> ".join(circle), "each needs the next", "choose another")
        path.append(after)
