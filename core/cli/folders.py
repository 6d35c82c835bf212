"""Opening a data folder for a verb, without a node: its lock, its chain, and its storage alone."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pluggy

from supervm.chain.component import LedgerOptions
from supervm.cli.errors import Failure
from supervm.client.light import EpochFinality
from supervm.config import options_from_text
from supervm.contracts.gas import GasPolicy
from supervm.contracts.roles import ROLES, Role
from supervm.contracts.storage import KeyValueStore
from supervm.kernel.component import Clock
from supervm.kernel.compose import Planned
from supervm.kernel.context import SystemClock
from supervm.kernel.observe import Observers
from supervm.kernel.supervise import Environment, open_kernel
from supervm.node.assembly import INSIDE
from supervm.node.chain import GENESIS, OwnChain, open_chain
from supervm.node.compose import Prepared, prepare
from supervm.node.options import NodeOptions
from supervm.storage.folder import open_folder
from supervm.storage.ledger import Ledger, open_ledger
from supervm.telemetry.logs import LogConfig, Logs, open_logs
from supervm.telemetry.metrics import Registry
from supervm.types.block import BlockHeader
from supervm.types.genesis import Genesis
from supervm.types.handover import HandOver

SCRATCH = "sqlite"
"""The storage that is there on every machine."""


@attrs.frozen(kw_only=True)
class Folder:
    """A data folder that this verb holds, with its chain and its open store."""

    prepared: Prepared
    path: Path
    chain: OwnChain
    store: KeyValueStore
    gas: GasPolicy
    clock: Clock

    @property
    def options(self) -> LedgerOptions:
        """What the configuration says of the ledger."""
        found: LedgerOptions = self.prepared.effective.options[Role.APPLICATION, "ledger"]
        return found


def check_chain(data: Path) -> None:
    """Raises Failure where the folder keeps no chain."""
    if not (data / GENESIS).exists():
        raise Failure(f"{data}: no chain here; name its folder with --data, or make one: supervm run")


@asynccontextmanager
async def opened_folder(options: NodeOptions) -> AsyncIterator[Folder]:
    """Hold the options' data folder and open its store. Raises Failure, `StoreLocked` and others of it."""
    prepared = await prepare(options, inside=INSIDE)
    check_chain(prepared.data)
    with (
        open_logs(LogConfig(level="warning")) as logs,
        open_folder(prepared.data, prepared.storage) as folder,
    ):
        chain = open_chain(folder.path, None, prepared.node.name)
        planned = planned_storage(prepared, chain.genesis)
        async with opened_storage(prepared, planned, folder.path, logs) as (store, gas):
            yield Folder(
                prepared=prepared, path=folder.path, chain=chain, store=store, gas=gas, clock=SystemClock()
            )


def finality_of(genesis: Genesis, handovers: Sequence[HandOver] = ()) -> Callable[[BlockHeader, bytes], None]:
    """Checks that a certificate is the word of a quorum of its epoch that this very block is final.

    The sets of epochs are those that hand-overs from genesis lead to, later ones the last of these. The check
    raises `InvalidInput`; this raises `ProofInvalid` where a hand-over doesn't hold.
    """
    return EpochFinality(genesis, handovers).check


@asynccontextmanager
async def opened_ledger(folder: Folder) -> AsyncIterator[Ledger]:
    """The ledger of a folder that keeps one on disk."""
    check_persistent(folder.store)
    state = folder.gas.initial_state()
    price = folder.gas.base_price(state)
    async with open_ledger(folder.store, folder.chain.genesis, state, price) as ledger:
        yield ledger


def check_persistent(store: KeyValueStore) -> None:
    """Raises Failure for a store that ends with its process."""
    if "persistent" not in store.capabilities:
        raise Failure("this storage keeps nothing on disk, so there is no stored chain")


def planned_storage(prepared: Prepared, genesis: Genesis, storage_name: str = "") -> tuple[Planned, ...]:
    """The folder's storage component, or another, and gas with the parameters that the genesis fixes."""
    storage_name = storage_name or prepared.storage
    storages = prepared.catalogue.named(Role.STORAGE)
    gases = prepared.catalogue.named(Role.GAS)
    for role, name, known in (
        (Role.STORAGE, storage_name, storages),
        (Role.GAS, genesis.gas.component, gases),
    ):
        if name not in known:
            raise Failure(f"{role} component {name!r} isn't installed; there are {', '.join(sorted(known))}")
    storage, gas = storages[storage_name].component, gases[genesis.gas.component].component
    parameters = options_from_text(gas.config, dict(genesis.gas.parameters), "genesis")
    options = prepared.effective.options[Role.STORAGE, storage_name]
    return (
        Planned(component=storage, config=options),
        Planned(component=gas, config=parameters),
    )


def scratch_storage(prepared: Prepared, genesis: Genesis) -> tuple[Planned, ...]:
    """As `planned_storage`, for a copy in a folder that goes afterwards, whatever the configuration names.

    It is the configured component where that takes its place from the folder it is given. One that lies in a
    database, or over another store, is not even asked: the copy is made in sqlite then.
    """
    options = prepared.effective.options[Role.STORAGE, prepared.storage]
    names = attrs.fields_dict(type(options))
    over_others = any(each.endswith("over") for each in names)
    name = prepared.storage if "path" in names and not over_others else SCRATCH
    storage, gas = planned_storage(prepared, genesis, name)
    return attrs.evolve(storage, config=attrs.evolve(storage.config, path="")), gas


@asynccontextmanager
async def opened_storage(
    prepared: Prepared, planned: tuple[Planned, ...], data: Path, logs: Logs
) -> AsyncIterator[tuple[KeyValueStore, GasPolicy]]:
    """Storage and gas alone, with their data in `data`."""
    clock, metrics = SystemClock(), Registry()
    environment = Environment(
        data_dir=data,
        tier=prepared.machine.decision.tier,
        hardware=prepared.machine.facts,
        clock=clock,
        metrics=metrics,
        log_for=logs.logger,
    )
    observers = Observers(pluggy.PluginManager("supervm"), (), clock, logs.logger("observers"), metrics, 1)
    roles = {str(role): ROLES[role] for role in (Role.STORAGE, Role.GAS)}
    async with open_kernel(roles, environment, observers, planned) as kernel:
        yield kernel.require(Role.STORAGE), kernel.require(Role.GAS)
