"""An engine from outside, in the shape of ABCI 2.0, that knows nothing of batches, lanes or certificates.

`Sequencer` orders raw transactions for all replicas and speaks to each through the four ABCI calls only
(prepare, process, finalize, commit; info when a replica comes back). `Replica` answers them by driving the
node's `Application`: all that joining such an engine to a node takes (CONS-81).
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

import attrs
import trio

from supervm.api import Component, Context, Health, Role
from supervm.contracts.application import (
    Application,
    ApplicationError,
    BatchBounds,
    Engine,
    Executed,
    OrderedBlock,
)
from supervm.contracts.consensus import ConsensusStatus
from supervm.plugins.consensus.sealing import epoch_of, seal_block, sequence_of, view_of
from supervm.types.batch import BATCH_BYTES_MAX, BATCH_TRANSACTIONS_MAX, Batch, batch_header
from supervm.types.block import Block
from supervm.types.certificate import BatchCertificate
from supervm.types.errors import InvalidInput

OUTSIDE = Engine(name="outside", certificates=False)
UNSIGNED = bytes(64)
STARTED_MS = 1_800_000_000_000


@attrs.frozen(kw_only=True)
class Decided:
    """One entry of the sequencer's log: what every replica executes at a height."""

    height: int
    time_ms: int
    proposer: bytes
    transactions: tuple[bytes, ...]


@attrs.frozen(kw_only=True)
class Info:
    """What a replica says of itself when the sequencer meets it."""

    height: int
    app_hash: bytes


class ReplicasDiffer(Exception):
    """Two replicas executed the same transactions and hold different states."""


class Replica:
    """The node's side of ABCI: one batch a block, which nobody signed."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._sealed: Block | None = None

    def info(self) -> Info:
        tip = self._application.tip()
        return Info(height=tip.height, app_hash=tip.state_root)

    async def work(self) -> tuple[bytes, ...]:
        """Wait for transactions of this replica's mempool; they are its own until placed or given back."""
        most = self._application.bounds
        return await self._application.gather(
            BatchBounds(
                count_max=min(BATCH_TRANSACTIONS_MAX, most.transactions_max),
                bytes_max=min(BATCH_BYTES_MAX, most.bytes_max),
                gas_max=most.gas_max,
                seal_after_s=0.0,
            )
        )

    async def prepare_proposal(self, transactions: Sequence[bytes]) -> tuple[bytes, ...]:
        """The proposal that this replica makes of its own work."""
        await trio.lowlevel.checkpoint()
        return tuple(transactions)

    async def process_proposal(self, transactions: Sequence[bytes]) -> bool:
        """Whether this replica accepts it: every transaction decodes, and the block is within bounds."""
        await trio.lowlevel.checkpoint()
        most = self._application.bounds
        try:
            sums = self._application.measure(transactions)
        except InvalidInput:
            return False
        return (
            sums.count <= min(BATCH_TRANSACTIONS_MAX, most.transactions_max)
            and sums.size_bytes <= min(BATCH_BYTES_MAX, most.bytes_max)
            and sums.gas <= most.gas_max
        )

    async def finalize_block(self, decided: Decided) -> tuple[bytes, Executed]:
        """Execute what was decided: (app hash, outcome). Nothing lasts yet."""
        application = self._application
        tip = application.tip()
        epoch = epoch_of(decided.height, application.epoch_blocks)
        ends = epoch_of(decided.height + 1, application.epoch_blocks) != epoch
        batches = self._batches(decided, epoch)
        executed = await application.execute(
            OrderedBlock(
                height=decided.height,
                epoch=epoch,
                parent=tip.digest,
                proposer=decided.proposer,
                timestamp_ms=decided.time_ms,
                operations=(),
                batches=tuple(batch.transactions for batch in batches),
                ends_epoch=ends,
            )
        )
        self._sealed = seal_block(
            chain_id=application.chain_id,
            epoch=epoch,
            parent=tip,
            proposer=decided.proposer,
            timestamp_ms=decided.time_ms,
            facts=await application.header(decided.height),
            last_of_epoch=ends,
            justification=b"",
            operations=(),
            certificates=[BatchCertificate(batch.header, UNSIGNED, b"", ()) for batch in batches],
            batches=batches,
        )
        return executed.state_root, executed

    async def commit(self, proof: bytes) -> None:
        """Make the finalised block durable, with the proof that the engine's own light clients check."""
        assert self._sealed is not None, "commit follows finalize"
        await self._application.commit(self._sealed, proof)
        self._sealed = None

    def _batches(self, decided: Decided, epoch: int) -> list[Batch]:
        if not decided.transactions:
            return []
        application = self._application
        header = batch_header(
            chain_id=application.chain_id,
            epoch=epoch,
            builder=decided.proposer,
            sequence=sequence_of(view_of(decided.height, application.epoch_blocks), 0),
            transactions=decided.transactions,
            gas=application.measure(decided.transactions).gas,
        )
        return [Batch(header, UNSIGNED, decided.transactions)]


@attrs.define
class Sequencer:
    """The outside engine. Its log outlives the replicas' processes, as an engine's own store would."""

    log: list[Decided] = attrs.Factory(list)
    hashes: list[bytes] = attrs.Factory(list)

    async def meet(self, replica: Replica) -> None:
        """Replay to a replica what it has not committed. Raises `ReplicasDiffer`."""
        info = replica.info()
        if info.height and self.hashes[info.height - 1] != info.app_hash:
            raise ReplicasDiffer(f"at height {info.height}")
        for decided in self.log[info.height :]:
            await self._apply(decided, [replica])

    async def decide(
        self, replicas: Sequence[Replica], proposer: Replica, name: bytes, work: Sequence[bytes]
    ) -> bool:
        """One height; False where the replicas refuse the proposal, and nothing happened."""
        proposal = await proposer.prepare_proposal(work)
        accepted = [await each.process_proposal(proposal) for each in replicas]
        if 3 * sum(accepted) < 2 * len(replicas):
            return False
        before = self.log[-1].time_ms if self.log else STARTED_MS
        decided = Decided(height=len(self.log) + 1, time_ms=before + 1, proposer=name, transactions=proposal)
        await self._apply(decided, replicas)
        return True

    async def _apply(self, decided: Decided, replicas: Sequence[Replica]) -> None:
        found = {(await each.finalize_block(decided))[0] for each in replicas}
        if decided.height <= len(self.hashes):
            found.add(self.hashes[decided.height - 1])
        if len(found) != 1:
            raise ReplicasDiffer(f"at height {decided.height}: {sorted(root.hex() for root in found)}")
        if decided.height > len(self.log):
            self.log.append(decided)
            self.hashes.append(found.pop())
        for each in replicas:
            await each.commit(b"decided by the sequencer at %d" % decided.height)


class Outside:
    """The component's face: one replica, and the task that asks the sequencer to order its work."""

    capabilities: frozenset[str] = frozenset()

    def __init__(self, ctx: Context, application: Application, sequencer: Sequencer) -> None:
        self._ctx = ctx
        self._application = application
        self._sequencer = sequencer
        self._replica = Replica(application)
        self._waiting: trio.CancelScope | None = None
        self._draining = False
        self._finished = trio.Event()

    def status(self) -> ConsensusStatus:
        tip = self._application.tip()
        return ConsensusStatus(
            engine="outside", height=tip.height, epoch=tip.epoch, view=0, validator=True, producing=True
        )

    async def health(self) -> Health:
        return Health()

    async def drain(self, deadline: float) -> None:
        self._draining = True
        if self._waiting is not None:
            self._waiting.cancel()
        with trio.move_on_after(max(0.0, deadline - self._ctx.clock.monotonic())):
            await self._finished.wait()

    async def run(self) -> None:
        try:
            await self._sequencer.meet(self._replica)
            name = self._application.identity.node_id
            while not self._draining:
                work: tuple[bytes, ...] = ()
                with trio.CancelScope() as self._waiting:
                    work = await self._replica.work()
                self._waiting = None
                if self._draining:
                    self._application.give_back(work)
                    return
                if not await self._sequencer.decide([self._replica], self._replica, name, work):
                    raise ApplicationError("the node's own proposal is refused by the node", len(work))
        finally:
            self._finished.set()


def outside_component(sequencer: Sequencer | None = None) -> Component:
    """The engine as a component, as anybody's plugin could offer it.

    Without a `sequencer` each application gets one of its own, which is there again when it is opened again.
    """
    own: WeakKeyDictionary[Application, Sequencer] = WeakKeyDictionary()

    @asynccontextmanager
    async def opening(ctx: Context, _: Any) -> AsyncIterator[Outside]:
        application: Application = ctx.require(Role.APPLICATION)
        orders = sequencer if sequencer is not None else own.setdefault(application, Sequencer())
        with application.driven(OUTSIDE):
            engine = Outside(ctx, application, orders)
            scope, ended = trio.CancelScope(), trio.Event()

            async def run() -> None:
                try:
                    with scope:
                        await engine.run()
                finally:
                    ended.set()

            ctx.nursery.start_soon(run)
            try:
                yield engine
            finally:
                scope.cancel()
                with trio.CancelScope(shield=True):
                    await ended.wait()

    return Component(role=Role.CONSENSUS, name="outside", open=opening, requires=(Role.APPLICATION,))
