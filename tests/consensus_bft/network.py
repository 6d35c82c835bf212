"""Validators of one process: real chains, stores and machines, joined by a transport."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from supervm.chain.application import Chain
from supervm.chain.component import LedgerConfig, LedgerOptions, ledger_component
from supervm.contracts.application import NodeIdentity
from supervm.contracts.roles import NodeMustStop, Role
from supervm.contracts.storage import KeyValueStore
from supervm.crypto.keys import KeyPair
from supervm.execution.footprint import entry_key
from supervm.kernel.component import Clock, Component
from supervm.kernel.context import TrioClock
from supervm.kernel.errors import leaf
from supervm.plugins.consensus.bft.component import BFT
from supervm.plugins.consensus.bft.driver.component import Bft, BftConfig
from supervm.plugins.gas import supervm_components as policies
from supervm.plugins.storage import supervm_components as stores
from supervm.plugins.transport import supervm_components as transports
from supervm.plugins.transport.memory import MemoryTransportConfig
from supervm.testing.context import opened
from supervm.types.address import Suite
from supervm.types.genesis import Genesis
from supervm.types.operations import Operation, Output, Transfer, encode_operations
from supervm.types.state import NATIVE_TOKEN, Account
from supervm.types.transaction import Body, Lane, Transaction, build
from supervm.types.validators import Validator, ValidatorSet

PRICE = 10_000
FUNDS = 10**15
WAIT_S = 240.0
"""Far beyond what anything takes: a test that waits so long has failed."""


def key(number: int) -> KeyPair:
    return KeyPair(Suite.ED25519, number.to_bytes(32, "big"))


@attrs.define
class Running:
    """An open node."""

    chain: Chain
    engine: Bft
    scope: trio.CancelScope
    gone: trio.Event
    metrics: Any = None

    @property
    def height(self) -> int:
        return self.chain.ledger.tip.height


@attrs.define
class Network:
    """The nodes of one genesis. Stores outlive their nodes, as disks do."""

    folder: Path
    nursery: trio.Nursery
    validators: tuple[KeyPair, ...]
    users: tuple[KeyPair, ...]
    genesis: Genesis
    stores: list[KeyValueStore]
    name: str
    config: BftConfig = BftConfig()
    transports: Sequence[Any] = ()
    founded: bool = False
    takes_snapshots: bool = True
    nodes: dict[int, Running] = attrs.Factory(dict)
    nonces: dict[int, int] = attrs.Factory(dict)
    clock: TrioClock = attrs.Factory(TrioClock)
    clocks: dict[int, Clock] = attrs.Factory(dict)
    """Of engines that have another clock than the rest."""
    may_stop: set[int] = attrs.Factory(set)
    causes: dict[int, BaseException] = attrs.Factory(dict)
    """Of nodes that may, why they had to stop by themselves. In any other that fails the test."""

    async def start(self, number: int) -> Running:
        """Open a validator; it runs until `stop`."""
        node: Running = await self.nursery.start(self._run, number)
        self.nodes[number] = node
        return node

    async def stop(self, number: int) -> None:
        """Cancel a validator wherever it is; what it had not written is lost."""
        node = self.nodes.pop(number)
        node.scope.cancel()
        await node.gone.wait()

    async def _run(self, number: int, *, task_status: trio.TaskStatus[Running]) -> None:
        pair = self.validators[number]
        founding = self.folder / f"unused-{number}" if self.founded else None
        identity = NodeIdentity(
            node_id=pair.node_id, public_key=pair.public_key, sign=pair.sign, founding=founding
        )
        folder = self.folder / f"node-{number}"
        gone = trio.Event()
        try:
            with trio.CancelScope() as scope:
                async with AsyncExitStack() as stack:
                    enter = stack.enter_async_context
                    gas = await enter(self._opened(next(iter(policies())), folder / "gas"))
                    config = LedgerConfig(
                        genesis=self.genesis,
                        identity=identity,
                        options=LedgerOptions(admission_threads=1),
                        takes_snapshots=self.takes_snapshots,
                    )
                    store = self.stores[number]
                    needs = {Role.STORAGE: store, Role.GAS: gas, Role.PRIVACY: ()}
                    chain = await enter(
                        self._opened(ledger_component(), folder / "ledger", config, requires=needs)
                    )
                    transport = await enter(self._transport(number, folder, chain))
                    wants = {Role.APPLICATION: chain, Role.STORAGE: store, Role.TRANSPORT: (transport,)}
                    clock = self.clocks.get(number, self.clock)
                    engine = await enter(
                        opened(BFT, folder / "bft", self.config, requires=wants, clock=clock)
                    )
                    task_status.started(Running(chain, engine, scope, gone))
                    await trio.sleep_forever()
        except* NodeMustStop as found:
            if number not in self.may_stop:
                raise
            self.causes[number] = leaf(found)
        finally:
            gone.set()

    def _transport(self, number: int, folder: Path, chain: Chain) -> Any:
        named = {component.name: component for component in transports()}
        if self.transports:
            given = {Role.APPLICATION: chain}
            return self._opened(named["tcp"], folder / "tcp", self.transports[number], requires=given)
        config = MemoryTransportConfig(network=self.name, node_id=self.validators[number].node_id.hex())
        return self._opened(named["memory"], folder / "memory", config)

    def _opened(self, component: Component, folder: Path, config: Any = None, **context: Any) -> Any:
        """All nodes have one date: a clock that is half a second behind keeps its node from voting."""
        return opened(component, folder, config, clock=self.clock, **context)

    # Clients

    def transfer(
        self, user: int, to: bytes, amount: int, *, nonce: int | None = None, lane: Lane = Lane.AUTO
    ) -> Transaction:
        """The user's next transfer, or one of another nonce."""
        if nonce is None:
            nonce = self.nonces.get(user, 0)
            self.nonces[user] = nonce + 1
        return self.signed(self.users[user], nonce, Transfer(NATIVE_TOKEN, (Output(to, amount),)), lane)

    def signed(self, pair: KeyPair, nonce: int, operation: Operation, lane: Lane = Lane.AUTO) -> Transaction:
        """A transaction with one operation, by the owner of a key: a user, or a node."""
        body = Body(
            chain_id=self.genesis.chain_id,
            sender=pair.address,
            nonce=nonce,
            lane=lane,
            gas_limit=200_000,
            max_price=PRICE,
            max_fee=0,
            payload=encode_operations((operation,)),
        )
        return build(body, [pair])

    async def balance(self, number: int, address: bytes) -> int:
        """What a node's ledger says."""
        ledger = self.nodes[number].chain.ledger
        data = (await ledger.get_state([entry_key(address, NATIVE_TOKEN)]))[entry_key(address, NATIVE_TOKEN)]
        return 0 if data is None else Account.decode(data).balance

    async def committed(self, number: int, digest: bytes, seconds: float = WAIT_S) -> int:
        """Wait until a node has a transaction in a final block. Gives the height."""
        ledger = self.nodes[number].chain.ledger
        with trio.fail_after(seconds):
            while True:
                height = ledger.tip.height
                found = await ledger.transaction(digest)
                if found is not None:
                    return found.height
                await ledger.wait_above(height)

    async def reached(self, number: int, height: int, seconds: float = WAIT_S) -> None:
        """Wait until a node's chain has a height."""
        ledger = self.nodes[number].chain.ledger
        with trio.fail_after(seconds):
            while ledger.tip.height < height:
                await ledger.wait_above(ledger.tip.height)

    async def agree(self, height: int) -> None:
        """Wait until all nodes have a block at a height; fail unless it is the same, and so its roots."""
        for number in self.nodes:
            await self.reached(number, height)
        blocks = {(await node.chain.ledger.block(height)).digest() for node in self.nodes.values()}
        assert len(blocks) == 1, f"nodes have {len(blocks)} blocks at height {height}"


@asynccontextmanager
async def network(
    folder: Path,
    *,
    validators: int = 4,
    followers: int = 0,
    users: int = 4,
    weights: Sequence[int] = (),
    config: BftConfig | None = None,
    transports: Sequence[Any] = (),
    begin: bool = True,
    epoch_blocks: int = 3_600,
    founded: bool = False,
) -> AsyncIterator[Network]:
    """A network whose validators, unless `begin` is False, are open; closed at the end. Nodes that are no
    validators have the numbers after theirs. `founded`: a file beside each key says that it was never used.
    """
    keys = tuple(sorted((key(900 + each) for each in range(validators)), key=lambda each: each.node_id))
    others = tuple(key(800 + each) for each in range(followers))
    funded = tuple(key(1 + each) for each in range(users))
    given = tuple(weights) or (1,) * validators
    members = tuple(
        Validator(each.node_id, each.public_key, weight) for each, weight in zip(keys, given, strict=True)
    )
    genesis = Genesis(
        name="network",
        created_ms=1_700_000_000_000,
        development=True,
        validators=ValidatorSet(members),
        accounts=tuple(sorted((each.address, FUNDS) for each in (*funded, *keys, *others))),
        epoch_blocks=epoch_blocks,
    )
    memory = next(each for each in stores() if each.name == "memory")
    async with AsyncExitStack() as stack:
        opened_stores = [
            await stack.enter_async_context(opened(memory, folder / f"store-{each}"))
            for each in range(validators + followers)
        ]
        async with trio.open_nursery() as nursery:
            made = Network(
                folder=folder,
                nursery=nursery,
                validators=keys + others,
                users=funded,
                genesis=genesis,
                stores=opened_stores,
                name=str(folder),
                config=config or BftConfig(),
                transports=transports,
                founded=founded,
            )
            if founded:
                for number in range(validators + followers):
                    (folder / f"unused-{number}").touch()
            if begin:
                for number in range(validators):
                    await made.start(number)
            yield made
            nursery.cancel_scope.cancel()
