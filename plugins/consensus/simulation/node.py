"""One life of a validator: its real components over the virtual disk and network."""

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from supervm.api import Component, Context, Role
from supervm.chain.application import Chain
from supervm.chain.component import LedgerConfig, LedgerOptions, ledger_component
from supervm.contracts.application import NodeIdentity
from supervm.crypto.keys import KeyPair
from supervm.plugins.consensus.bft.component import BFT
from supervm.plugins.consensus.bft.driver.component import Bft, BftConfig
from supervm.plugins.consensus.bft.driver.posting import METHODS, pack
from supervm.plugins.consensus.simulation import turns
from supervm.plugins.consensus.simulation.attacks import Tongue
from supervm.plugins.consensus.simulation.disk import VirtualDisk, VirtualStore
from supervm.plugins.consensus.simulation.network import Link
from supervm.plugins.consensus.simulation.slowness import Slowness
from supervm.plugins.consensus.simulation.trace import Trace
from supervm.plugins.gas import supervm_components as policies
from supervm.types.errors import InvalidInput
from supervm.types.genesis import Genesis

ORIGIN_MS = 1_700_000_000_000
CONFIG = BftConfig(block_interval_min_ms=50, fast_rest_ms=100)
"""Blocks as close as rounds allow: more of them in a run."""
NOWHERE = Path("/nonexistent")


@attrs.frozen
class NodeClock:
    """The run's clock, as a node with a wrong date sees it."""

    skew_ms: int = 0

    def monotonic(self) -> float:
        return trio.current_time()

    def wall_ms(self) -> int:
        return ORIGIN_MS + round(trio.current_time() * 1000) + self.skew_ms

    async def sleep(self, seconds: float) -> None:
        await turns.sleep(seconds)


class _NoFigures:
    """Metrics that nobody reads."""

    def counter(self, name: str, help: str, labels: tuple[str, ...] = ()) -> "_NoFigures":
        return self

    gauge = summary = counter

    def inc(self, n: float = 1, **labels: str) -> None:
        pass

    def set(self, value: float, **labels: str) -> None:
        pass

    def observe(self, value: float, **labels: str) -> None:
        pass


@attrs.frozen
class _Log:
    """Warnings and errors are part of the trace: a run that logs something else is another run."""

    trace: Trace
    number: int

    def debug(self, event: str, **fields: Any) -> None:
        pass

    info = debug

    def warning(self, event: str, **fields: Any) -> None:
        self.trace.note("log", self.number, event)

    error = warning


@attrs.frozen
class Place:
    """What a node is made from; `committed(life, block)` is called when a block is durable there.

    `founding`: the file that says that its key was never used (CONS-67); it outlives the virtual disk.
    """

    number: int
    key: KeyPair
    genesis: Genesis
    skew_ms: int
    disk: VirtualDisk
    trace: Trace
    sync_s: Callable[[], float]
    slow_disk: Slowness
    slow_cpu: Slowness
    committed: Callable[["Life", Any], None]
    founding: Path | None
    tongue: Tongue | None = None


@attrs.define(eq=False)
class Life:
    """From one start to the end. `is_open` once its components are."""

    place: Place
    link: Link
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    settled: trio.Event = attrs.Factory(trio.Event)
    gone: trio.Event = attrs.Factory(trio.Event)
    chain: Chain | None = None
    engine: Bft | None = None
    nursery: trio.Nursery | None = None
    is_killed: bool = False
    _store: VirtualStore | None = None

    @property
    def number(self) -> int:
        return self.place.number

    @property
    def is_open(self) -> bool:
        return self.nursery is not None and not self.link.dead

    def crash(self) -> None:
        """End at once: nothing is written or sent any more."""
        self.is_killed = True
        self._cut_off()

    def _cut_off(self) -> None:
        if self._store is not None:
            self._store.die()
        self.link.die()
        self.scope.cancel()

    async def live(self, seed: str) -> None:
        """Open everything and stay until the end. Raises what a component fails with."""
        place = self.place
        rng = random.Random(seed)
        identity = NodeIdentity(
            node_id=place.key.node_id,
            public_key=place.key.public_key,
            sign=place.key.sign,
            founding=place.founding,
        )
        try:
            with self.scope:
                async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
                    enter = stack.enter_async_context

                    def context(component: Component, given: Mapping[str, Any]) -> Context:
                        return self._context(component, given, nursery, rng)

                    store = Component(role=Role.STORAGE, name="virtual", open=self._open_store)
                    self._store = await enter(store.open(context(store, {}), None))
                    policy = next(iter(policies()))
                    gas = await enter(policy.open(context(policy, {}), policy.config()))
                    ledger = ledger_component()
                    needs: dict[str, Any] = {Role.STORAGE: self._store, Role.GAS: gas, Role.PRIVACY: ()}
                    options = LedgerOptions(
                        admission_threads=1, spot_check_blocks=0, usage_s=0, mempool_retry_after_s=0.5
                    )
                    config = LedgerConfig(genesis=place.genesis, identity=identity, options=options)
                    chain: Chain = await enter(ledger.open(context(ledger, needs), config))
                    self.chain = chain
                    self.place.trace.note("open", self.number, chain.ledger.tip.height)
                    needs |= {Role.APPLICATION: chain, Role.TRANSPORT: (self.link,)}
                    self.engine = await enter(BFT.open(context(BFT, needs), CONFIG))
                    self.nursery = nursery
                    self.settled.set()
                    await trio.sleep_forever()
        finally:
            self._cut_off()
            self.nursery = None
            self.settled.set()
            self.gone.set()

    @asynccontextmanager
    async def _open_store(self, ctx: Context, _: object) -> AsyncIterator[VirtualStore]:
        place = self.place
        store = VirtualStore(ctx, place.disk, lambda: place.sync_s() + place.slow_disk.extra_s())
        try:
            yield store
        finally:
            store.close()

    def _context(
        self, component: Component, given: Mapping[str, Any], nursery: trio.Nursery, rng: random.Random
    ) -> Context:
        def every(role: str) -> tuple[Any, ...]:
            found = given.get(role, ())
            return found if isinstance(found, tuple) else (found,)

        return Context(
            role=component.role,
            name=component.name,
            data_dir=NOWHERE,
            clock=NodeClock(self.place.skew_ms),
            random=random.Random(rng.random()),
            metrics=_NoFigures(),
            log=_Log(self.place.trace, self.number),
            tier="L2",
            hardware=None,
            nursery=nursery,
            publish=self._published,
            require=given.__getitem__,
            all=every,
        )

    def _published(self, kind: str, **facts: Any) -> None:
        if kind == "block_committed" and not self.link.dead:
            self.place.committed(self, facts["block"])


class HostileLink(Link):
    """The end of a hostile validator: its tongue decides what leaves."""

    tongue: Tongue

    async def request(self, peer: bytes, method: int, payload: bytes, **options: Any) -> bytes:
        if method not in METHODS.values():
            return await super().request(peer, method, payload, **options)
        for other, said in self.tongue.say(self.network.numbers[peer], method, payload):
            await super().request(peer, other, said, **options)
        await turns.sleep(self.network.delay_s(self.number, self.network.numbers[peer]))
        return b""

    async def answer(self, peer: bytes, method: int, payload: bytes) -> Any:
        if method in METHODS.values():
            try:
                said = self.tongue.hear(method, payload)
            except InvalidInput:
                said = []
            for other, frame in said:
                self.network.nursery.start_soon(self.network.post, self, peer, other, pack([frame]))
        return await super().answer(peer, method, payload)
