"""A chain of real components in one Trio program: storage, gas `flat`, the ledger, consensus `solo`."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from supervm.chain.application import Chain
from supervm.chain.component import LedgerConfig, LedgerOptions, ledger_component
from supervm.contracts.application import NodeIdentity
from supervm.contracts.consensus import Consensus
from supervm.contracts.roles import Role
from supervm.contracts.storage import KeyValueStore
from supervm.crypto.keys import KeyPair
from supervm.plugins.consensus import supervm_components as engines
from supervm.plugins.consensus.solo import SoloConfig
from supervm.plugins.gas import supervm_components as policies
from supervm.plugins.storage import supervm_components as stores
from supervm.testing.context import opened
from supervm.types.address import Suite
from supervm.types.genesis import Genesis
from supervm.types.operations import Operation, Output, Transfer, encode_operations
from supervm.types.state import NATIVE_TOKEN
from supervm.types.transaction import Body, Transaction, build
from supervm.types.validators import Validator, ValidatorSet

PRICE = 10_000
FUNDS = 10**15
DEFAULTS = SoloConfig()
ONE_THREAD = LedgerOptions(admission_threads=1)


def key(number: int, suite: int = Suite.ED25519) -> KeyPair:
    """A fixed key; the same number gives the same key."""
    return KeyPair(suite, number.to_bytes(32, "big"))


@attrs.frozen(kw_only=True)
class World:
    """A genesis with one validator and `users` funded accounts, and how to sign for them."""

    genesis: Genesis
    identity: NodeIdentity
    users: tuple[KeyPair, ...]

    def body(self, user: int, nonce: int, operations: Sequence[Operation], **fields: Any) -> Body:
        given = {
            "chain_id": self.genesis.chain_id,
            "sender": self.users[user].address,
            "nonce": nonce,
            "gas_limit": 200_000,
            "max_price": PRICE,
            "max_fee": 0,
            "payload": encode_operations(operations),
        }
        return Body(**{**given, **fields})

    def transaction(self, user: int, nonce: int, *operations: Operation, **fields: Any) -> Transaction:
        return build(self.body(user, nonce, operations, **fields), [self.users[user]])

    def transfer(self, user: int, nonce: int, to: bytes, amount: int, **fields: Any) -> Transaction:
        return self.transaction(user, nonce, Transfer(NATIVE_TOKEN, (Output(to, amount),)), **fields)


def make_world(users: int = 4, *, validator: int = 999, epoch_blocks: int = 3_600) -> World:
    node = key(validator)
    keys = tuple(key(number) for number in range(1, users + 1))
    genesis = Genesis(
        name="test",
        created_ms=1_700_000_000_000,
        development=True,
        epoch_blocks=epoch_blocks,
        validators=ValidatorSet((Validator(node.node_id, node.public_key, 1),)),
        accounts=tuple(sorted((each.address, FUNDS) for each in keys)),
    )
    identity = NodeIdentity(node_id=node.node_id, public_key=node.public_key, sign=node.sign)
    return World(genesis=genesis, identity=identity, users=keys)


@attrs.define
class Running:
    """What runs: the chain, its engine (None where it was not asked for), and what was recorded."""

    chain: Chain
    engine: Consensus | None
    published: list[tuple[str, dict[str, Any]]]
    metrics: Any

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a counter, or the last value of a gauge."""
        records = [record for record in self.metrics.families[name].records if record[2] == labels]
        if records and records[-1][0] == "set":
            return records[-1][1]
        return sum(value for _, value, _ in records)


Run = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def world() -> World:
    return make_world()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Open a node's components: `storage` by name in one folder, or an open `store`."""
    named = {component.name: component for component in stores()}
    flat, solo = next(iter(policies())), next(iter(engines()))
    ledger = ledger_component()

    @asynccontextmanager
    async def running(
        world: World,
        *,
        storage: str = "memory",
        store: KeyValueStore | None = None,
        engine: SoloConfig | None = DEFAULTS,
        options: LedgerOptions = ONE_THREAD,
        identity: NodeIdentity | None = None,
    ) -> AsyncIterator[Running]:
        published: list[tuple[str, dict[str, Any]]] = []
        async with AsyncExitStack() as stack:
            if store is None:
                store = await stack.enter_async_context(opened(named[storage], tmp_path / storage))
            gas = await stack.enter_async_context(opened(flat, tmp_path / "gas"))
            config = LedgerConfig(
                genesis=world.genesis,
                identity=identity if identity is not None else world.identity,
                options=options,
            )
            chain = await stack.enter_async_context(
                opened(
                    ledger,
                    tmp_path / "ledger",
                    config,
                    requires={Role.STORAGE: store, Role.GAS: gas, Role.PRIVACY: ()},
                    published=published,
                )
            )
            driving = None
            if engine is not None:
                driving = await stack.enter_async_context(
                    opened(solo, tmp_path / "solo", engine, requires={Role.APPLICATION: chain})
                )
            yield Running(chain, driving, published, chain._ctx.metrics)

    return running
