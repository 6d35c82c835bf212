"""PLUG-8: resolving a composition, and naming everything wrong with it at once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest

from supervm.kernel.component import Component, Context, Needs, RoleSpec
from supervm.kernel.compose import Choice, Found, Host, Planned, resolve
from supervm.kernel.errors import CompositionError, Problem

ROLES = {
    "storage": RoleSpec(name="storage", many=False, order=0),
    "transport": RoleSpec(name="transport", many=True, order=1, required=False),
    "engine": RoleSpec(name="engine", many=False, order=2),
}
HOST = Host(tier="L2", cpu_cores=4, memory_bytes=8 * 10**9, gpu=False, instructions=frozenset({"avx2"}))


@asynccontextmanager
async def nothing(ctx: Context, config: Any) -> AsyncIterator[object]:
    yield object()


def found(role: str, name: str, plugin: str = "ours", **more: Any) -> Found:
    return Found(
        component=Component(role=role, name=name, open=nothing, **more), plugin=plugin, source=plugin
    )


def kinds(error: CompositionError) -> list[str]:
    return [problem.kind for problem in error.problems]


def compose(*components: Found, **choices: tuple[str, ...]) -> tuple[Planned, ...]:
    chosen = {role: Choice(names=names, origin="test") for role, names in choices.items()}
    return resolve(ROLES, components, chosen, HOST)


def test_components_open_after_what_they_require_and_in_role_order_else() -> None:
    order = compose(
        found("engine", "solo"),
        found("transport", "zz"),
        found("transport", "aa", requires=("engine",)),
        found("storage", "memory"),
        storage=("memory",),
        transport=("zz", "aa"),
        engine=("solo",),
    )
    assert [planned.key for planned in order] == [
        ("storage", "memory"),
        ("transport", "zz"),
        ("engine", "solo"),
        ("transport", "aa"),
    ]


def test_what_it_wants_opens_first_when_it_is_there_and_is_no_problem_when_not() -> None:
    components = (
        found("storage", "memory", wants=("transport",)),
        found("engine", "solo"),
        found("transport", "tt"),
    )
    order = compose(*components, storage=("memory",), engine=("solo",), transport=("tt",))
    assert [planned.key[0] for planned in order] == ["transport", "storage", "engine"]
    assert len(compose(*components, storage=("memory",), engine=("solo",))) == 2


def test_every_problem_is_reported_at_once_with_cause_origin_and_mend() -> None:
    with pytest.raises(CompositionError) as caught:
        compose(
            found("storage", "memory"),
            found("storage", "sqlite"),
            found("transport", "phone", tiers=frozenset({"L4"})),
            found("transport", "dish", needs=Needs(cpu_cores=64, gpu=True, instructions=("sve",))),
            found("transport", "odd", requires=("engine",), contract=(2, 0)),
            storage=("memory", "sqlite"),
            transport=("phone", "dish", "odd", "libp2q"),
            engnie=("solo",),
        )
    assert sorted(kinds(caught.value)) == sorted(
        [
            "TooManyForRole",
            "TierNotAllowed",
            "HardwareLacking",
            "HardwareLacking",
            "HardwareLacking",
            "ContractMismatch",
            "MissingRequirement",
            "UnknownComponent",
            "UnknownRole",
            "MissingRole",
        ]
    )
    for problem in caught.value.problems:
        assert problem.subject and problem.cause and problem.mend
    assert "did you mean engine?" in str(caught.value)


def test_an_unknown_component_names_the_nearest_installed_one() -> None:
    with pytest.raises(CompositionError, match="did you mean memory"):
        compose(found("storage", "memory"), found("engine", "solo"), storage=("memmory",), engine=("solo",))


def test_a_cycle_is_printed_as_a_cycle() -> None:
    with pytest.raises(CompositionError) as caught:
        compose(
            found("storage", "memory", requires=("engine",)),
            found("engine", "solo", requires=("storage",)),
            storage=("memory",),
            engine=("solo",),
        )
    assert kinds(caught.value) == ["RequirementCycle"]
    assert "storage -> engine -> storage" in str(caught.value)


def test_two_plugins_with_one_component_are_an_error_that_names_both() -> None:
    with pytest.raises(CompositionError) as caught:
        compose(
            found("storage", "memory", plugin="ours"),
            found("storage", "memory", plugin="theirs"),
            found("engine", "solo"),
            storage=("memory",),
            engine=("solo",),
        )
    assert kinds(caught.value) == ["DuplicateComponent"]
    assert "ours" in str(caught.value) and "theirs" in str(caught.value)


def test_unknown_hardware_never_forbids() -> None:
    needy = found(
        "storage", "big", needs=Needs(cpu_cores=128, memory_bytes=10**13, gpu=True, instructions=("sve",))
    )
    chosen = {"storage": Choice(names=("big",)), "engine": Choice(names=("solo",))}
    assert len(resolve(ROLES, (needy, found("engine", "solo")), chosen, Host(tier="L1"))) == 2


def test_a_component_whose_options_have_no_default_asks_for_them() -> None:
    @attrs.frozen
    class Needy:
        url: str

    with pytest.raises(CompositionError) as caught:
        compose(
            found("storage", "far", config=Needy), found("engine", "solo"), storage=("far",), engine=("solo",)
        )
    assert kinds(caught.value) == ["ConfigInvalid"] and "[storage.far]" in str(caught.value)


def test_problems_found_before_are_reported_with_the_rest() -> None:
    before = Problem("ConfigInvalid", "api.listen", "not HOST:PORT", "write HOST:PORT", "file")
    with pytest.raises(CompositionError) as caught:
        resolve(ROLES, (), {}, HOST, problems=[before])
    assert kinds(caught.value) == ["ConfigInvalid", "MissingRole", "MissingRole"]
