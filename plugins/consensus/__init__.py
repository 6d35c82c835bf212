"""Consensus engines that ship with SuperVM: `solo` for one validator, `bft` for several."""

from collections.abc import Iterable, Mapping
from typing import Any

from supervm.api import Component, Role, hookimpl
from supervm.plugins.consensus.bft.component import BFT
from supervm.plugins.consensus.solo import SoloConfig, open_solo


@hookimpl
def supervm_components() -> Iterable[Component]:
    yield Component(
        role=Role.CONSENSUS,
        name="solo",
        open=open_solo,
        config=SoloConfig,
        requires=(Role.APPLICATION,),
        features=frozenset({"certificates"}),
        description="one validator: blocks on demand, each certified, executed, final at once",
    )
    yield BFT


@hookimpl
def supervm_cli(group: Any) -> None:
    # The verb alone needs the simulator.
    from supervm.plugins.consensus.simulation.command import simulate

    group.add_command(simulate)


@hookimpl
def supervm_benchmarks() -> Mapping[str, Any]:
    from supervm.plugins.consensus.simulation.counting import count_messages

    return {"messages": count_messages}
