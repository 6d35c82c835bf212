"""Component `solo`: consensus of one validator (CONS-82).

It waits for work, gathers it into certified batches, orders them into a block, executes it, seals the
header over the block's own root, finalises and commits. Where there is no work for `block_interval_max_ms`
it makes an empty block (CONS-37), unless `idle_blocks` is off.

Votes and disk: `solo` sends nothing to anybody, so what it signs becomes known only by the commit, which
is atomic and durable. A crash between signing and commit leaves neither vote nor block; the height is
then made anew. Nothing that anybody could hold is ever contradicted.

Its epochs are exactly `epoch_blocks` long: with one validator there is nobody to close one with.
"""

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from supervm.api import Context, Health, HealthState, Role
from supervm.contracts.application import (
    Application,
    BatchBounds,
    Engine,
    OrderedBlock,
    Tip,
)
from supervm.contracts.consensus import (
    CERTIFICATES,
    ConsensusError,
    ConsensusStatus,
    SelfCheckFailed,
    ValidatorSetUnsupported,
)
from supervm.contracts.storage import DiskFull
from supervm.plugins.consensus.rules import check_block, check_certificate, check_justification
from supervm.plugins.consensus.sealing import (
    certify,
    epoch_of,
    seal_batch,
    seal_block,
    sequence_of,
    view_of,
    vote,
)
from supervm.types.batch import BATCH_ATTEMPTS, BATCH_BYTES_MAX, BATCH_TRANSACTIONS_MAX, Batch
from supervm.types.block import Block
from supervm.types.certificate import BatchCertificate, Certificate, VoteKind

DISK_RETRY_S_MAX = 30.0


@attrs.frozen(kw_only=True)
class SoloConfig:
    """How blocks are made. Sizes are bytes of transactions, gas is the sum of the gas limits.

    `block_gas_max` keeps what one block can write within one atomic batch of every storage backend; it
    binds before the chain's own limit.
    """

    block_interval_min_ms: int = attrs.field(default=50, validator=attrs.validators.in_(range(60_001)))
    block_interval_max_ms: int = attrs.field(default=5_000, validator=attrs.validators.ge(1))
    idle_blocks: bool = True
    batches_max: int = attrs.field(default=8, validator=attrs.validators.in_(range(1, 1_025)))
    batch_seal_ms: int = attrs.field(default=20, validator=attrs.validators.in_(range(60_001)))
    batch_seal_bytes: int = attrs.field(
        default=256 * 1024, validator=[attrs.validators.ge(1), attrs.validators.le(BATCH_BYTES_MAX)]
    )
    batch_transactions_max: int = attrs.field(
        default=BATCH_TRANSACTIONS_MAX,
        validator=[attrs.validators.ge(1), attrs.validators.le(BATCH_TRANSACTIONS_MAX)],
    )
    block_gas_max: int = attrs.field(default=100_000_000, validator=attrs.validators.ge(1))


@attrs.frozen
class Certified:
    """A batch with its certificate."""

    batch: Batch
    certificate: BatchCertificate


@asynccontextmanager
async def open_solo(ctx: Context, config: SoloConfig) -> AsyncIterator["Solo"]:
    """Drive the application until the scope ends. Raises `ValidatorSetUnsupported`, `AlreadyDriven`."""
    application: Application = ctx.require(Role.APPLICATION)
    solo = Solo(ctx, config, application)
    with application.driven(solo.engine):
        if not solo.producing:
            ctx.log.warning("read_only", reason=solo.engine.reason)
            yield solo
            return
        stopped = trio.Event()
        scope = trio.CancelScope()

        async def run() -> None:
            try:
                with scope:
                    await solo.run()
            finally:
                stopped.set()

        ctx.nursery.start_soon(run)
        try:
            yield solo
        finally:
            scope.cancel()
            # The wheel is let go only when no task of ours can still turn it.
            with trio.CancelScope(shield=True):
                await stopped.wait()


class Solo:
    """The driver. Its only state besides the application's is what it knows of the block in hand."""

    capabilities = frozenset({CERTIFICATES})

    def __init__(self, ctx: Context, config: SoloConfig, application: Application) -> None:
        self._ctx = ctx
        self._config = config
        self._application = application
        self._identity = application.identity
        tip = application.tip()
        validators = application.validators(epoch_of(tip.height + 1, application.epoch_blocks))
        if len(validators.members) != 1:
            raise ValidatorSetUnsupported(
                "solo runs a chain of one validator",
                f"{len(validators.members)} in the genesis",
                "choose another engine with --set consensus.use=NAME, or make a genesis with one validator",
            )
        member = validators.members[0]
        self.producing = member.node_id == self._identity.node_id
        reason = ""
        if not self.producing:
            reason = (
                f"this node is 0x{self._identity.node_id.hex()}, the chain's only validator is "
                f"0x{member.node_id.hex()}: it can read, not produce; send transactions to the validator"
            )
        elif member.public_key != self._identity.public_key:
            raise ValidatorSetUnsupported(
                "the genesis names this node with another voting key",
                "0x" + member.public_key.hex(),
                "start with the key file of that key",
            )
        self.engine = Engine(name="solo", produces=self.producing, reason=reason)
        self._draining = False
        self._idle: trio.CancelScope | None = None
        self._finished = trio.Event()
        self._stalled = ""
        self._notarised: Certificate | None = None
        self._last_block_s = -math.inf
        self._entered_s = ctx.clock.monotonic()
        metrics = ctx.metrics
        self._height = metrics.gauge("supervm_consensus_height", "Height of the last final block")
        self._view = metrics.gauge("supervm_consensus_view", "View of the last final block in its epoch")
        self._interval = metrics.summary(
            "supervm_consensus_block_interval_ms", "Milliseconds between final blocks"
        )
        metrics.counter("supervm_consensus_view_changes_total", "Views that ended without a final block")
        self._refused = metrics.counter(
            "supervm_consensus_batch_refused_total", "Transactions refused at the accept", ("code",)
        )
        self._note(tip)

    # What others may ask

    def status(self) -> ConsensusStatus:
        tip = self._application.tip()
        return ConsensusStatus(
            engine="solo",
            height=tip.height,
            epoch=tip.epoch,
            view=view_of(tip.height, self._application.epoch_blocks),
            validator=self.producing,
            producing=self.producing and not self._stalled,
            reason=self.engine.reason or self._stalled,
        )

    async def health(self) -> Health:
        if self._stalled:
            # Not failing, for which the kernel would open it again: that frees no disk.
            return Health(HealthState.DEGRADED, self._stalled, ready=False)
        if not self.producing:
            return Health(HealthState.DEGRADED, self.engine.reason)
        return Health()

    async def drain(self, deadline: float) -> None:
        """See the contract. The block in hand is finished, unless the disk is full; no other is started."""
        self._draining = True
        if self._idle is not None:
            self._idle.cancel()
        if self.producing:
            with trio.move_on_after(max(0.0, deadline - self._ctx.clock.monotonic())):
                await self._finished.wait()

    # The loop

    async def run(self) -> None:
        """Make blocks until drained."""
        try:
            while not self._draining:
                await self._next_block()
        finally:
            self._finished.set()

    async def _next_block(self) -> None:
        first: tuple[bytes, ...] = ()
        with trio.CancelScope() as self._idle:
            await self._pause()
            first = await self._first_batch()
        self._idle = None
        if self._draining:
            self._application.give_back(first)
            return
        tip = self._application.tip()
        certified = await self._certified_batches(tip, first)
        # Where all the work was refused there is nothing to order, and the refused wait for a block.
        if certified or self._idle_is_due():
            block, certificate = await self._ordered_block(tip, certified)
            await self._commit(block, certificate)

    async def _pause(self) -> None:
        """No block sooner than `block_interval_min_ms` after the one before (CONS-37)."""
        due_s = self._last_block_s + self._config.block_interval_min_ms / 1000
        await self._ctx.clock.sleep(max(0.0, due_s - self._ctx.clock.monotonic()))

    def _idle_due_s(self) -> float:
        """When an empty block is due, in monotonic seconds."""
        if not self._config.idle_blocks:
            return math.inf
        return self._entered_s + self._config.block_interval_max_ms / 1000

    def _idle_is_due(self) -> bool:
        return self._ctx.clock.monotonic() >= self._idle_due_s()

    async def _first_batch(self) -> tuple[bytes, ...]:
        """Transactions for a batch; nothing when it is time for an empty block, or to stop."""
        bounds = self._batch_bounds(())
        with trio.move_on_after(max(0.0, self._idle_due_s() - self._ctx.clock.monotonic())):
            return await self._application.gather(bounds)
        return await self._application.gather(bounds, wait=False)

    def _batch_bounds(self, certified: Sequence[Certified]) -> BatchBounds:
        """What the next batch of a block may hold, after these."""
        config, most = self._config, self._application.bounds
        headers = [each.batch.header for each in certified]
        block_gas = min(max(config.block_gas_max, most.batch_gas_floor), most.gas_max)
        return BatchBounds(
            count_max=min(
                config.batch_transactions_max, most.transactions_max - sum(each.count for each in headers)
            ),
            bytes_seal=config.batch_seal_bytes,
            bytes_max=min(BATCH_BYTES_MAX, most.bytes_max - sum(each.size_bytes for each in headers)),
            gas_max=min(
                block_gas - sum(each.gas for each in headers), max(most.gas_max // 4, most.batch_gas_floor)
            ),
            seal_after_s=config.batch_seal_ms / 1000,
        )

    async def _certified_batches(self, tip: Tip, first: tuple[bytes, ...]) -> list[Certified]:
        """Certify what was gathered, and what else is there, as long as the block has room."""
        certified: list[Certified] = []
        locks: dict[bytes, bytes] = {}
        transactions = first
        batches_max = min(self._config.batches_max, self._application.bounds.batches_max)
        for _ in range(batches_max):
            if not transactions:
                break
            one = await self._certify(tip, transactions, certified, locks)
            if one is not None:
                certified.append(one)
            bounds = self._batch_bounds(certified)
            if len(certified) == batches_max or bounds.count_max <= 0:
                break
            transactions = await self._application.gather(bounds, wait=False)
        else:
            self._application.give_back(transactions)
        return certified

    async def _certify(
        self,
        tip: Tip,
        transactions: tuple[bytes, ...],
        certified: Sequence[Certified],
        locks: dict[bytes, bytes],
    ) -> Certified | None:
        """One certified batch of these, resealed without what is refused (CONS-3); None if none is left.

        `locks` are those of the block in hand, and grow. A lock of an earlier block was used up by it.
        """
        height = tip.height + 1
        epoch = epoch_of(height, self._application.epoch_blocks)
        view = view_of(height, self._application.epoch_blocks)
        past = [each.batch for each in certified]
        for attempt in range(BATCH_ATTEMPTS):
            batch = seal_batch(
                self._identity,
                chain_id=self._application.chain_id,
                epoch=epoch,
                sequence=sequence_of(view, len(certified)),
                attempt=attempt,
                after=[past[-1].digest()] if past else [],
                transactions=transactions,
                gas=self._application.measure(transactions).gas,
            )
            verdict = await self._application.check(batch, past, locks)
            if not verdict.refused:
                locks.update(verdict.locks)
                return Certified(batch, certify(self._identity, 0, 1, batch))
            for each in verdict.refused.values():
                self._refused.inc(code=each.code)
            dropped = sorted(verdict.refused)
            self._application.give_back(
                [transactions[index] for index in dropped],
                {place: verdict.refused[index] for place, index in enumerate(dropped)},
            )
            transactions = tuple(
                data for index, data in enumerate(transactions) if index not in verdict.refused
            )
            if not transactions:
                return None
        self._application.give_back(transactions)
        return None

    async def _ordered_block(self, tip: Tip, certified: Sequence[Certified]) -> tuple[Block, Certificate]:
        """Order, execute and seal: the block that follows `tip`, and its finalisation, self-checked."""
        application, identity = self._application, self._identity
        height = tip.height + 1
        epoch = epoch_of(height, application.epoch_blocks)
        view = view_of(height, application.epoch_blocks)
        last_of_epoch = epoch_of(height + 1, application.epoch_blocks) != epoch
        justification = await self._justification(tip, view)
        operations = await application.propose(application.bounds)
        reason = await application.verify(operations)
        if reason:
            raise SelfCheckFailed("own system operations are refused", reason)
        timestamp_ms = max(self._ctx.clock.wall_ms(), tip.timestamp_ms)
        batches = [each.batch for each in certified]
        executed = await application.execute(
            OrderedBlock(
                height=height,
                epoch=epoch,
                parent=tip.digest,
                proposer=identity.node_id,
                timestamp_ms=timestamp_ms,
                operations=operations,
                batches=tuple(batch.transactions for batch in batches),
                ends_epoch=last_of_epoch,
            )
        )
        facts = await application.header(height)
        assert facts.state_root == executed.state_root, "the header shows the root that was executed"
        block = seal_block(
            chain_id=application.chain_id,
            epoch=epoch,
            parent=tip,
            proposer=identity.node_id,
            timestamp_ms=timestamp_ms,
            facts=facts,
            last_of_epoch=last_of_epoch,
            justification=justification,
            operations=operations,
            certificates=[each.certificate for each in certified],
            batches=batches,
        )
        digest = block.digest()
        notarisation, finalisation = (
            vote(identity, 0, 1, kind, chain_id=application.chain_id, epoch=epoch, view=view, digest=digest)
            for kind in (VoteKind.NOTARIZE, VoteKind.FINALIZE)
        )
        self._check(tip, block, justification, (notarisation, finalisation), view, last_of_epoch)
        self._notarised = notarisation
        return block, finalisation

    async def _justification(self, tip: Tip, view: int) -> bytes:
        """The parent's certificate: none for genesis, the finalisation across epochs, else the
        notarisation, signed again after a restart (ed25519 gives the same bytes)."""
        if tip.height == 0:
            return b""
        if view == 1:
            return await self._application.certificate(tip.height)
        if self._notarised is None or self._notarised.digest != tip.digest:
            self._notarised = vote(
                self._identity,
                0,
                1,
                VoteKind.NOTARIZE,
                chain_id=self._application.chain_id,
                epoch=tip.epoch,
                view=view - 1,
                digest=tip.digest,
            )
        return self._notarised.encode()

    def _check(
        self,
        tip: Tip,
        block: Block,
        justification: bytes,
        certificates: Sequence[Certificate],
        view: int,
        last_of_epoch: bool,
    ) -> None:
        """Check of oneself all that is checked of a peer. Raises `SelfCheckFailed`."""
        application = self._application
        chain_id, epoch = application.chain_id, block.header.epoch
        validators = application.validators(epoch)
        if len(validators.members) != 1:
            raise ValidatorSetUnsupported(
                "solo runs a chain of one validator",
                f"stakes give epoch {epoch} {len(validators.members)} of them",
                "choose another engine with --set consensus.use=bft",
            )
        try:
            check_block(
                block,
                chain_id=chain_id,
                parent=tip,
                epoch=epoch,
                last_of_epoch=last_of_epoch,
                validators=validators,
                next_validators=application.validators(epoch + 1) if last_of_epoch else validators,
                builders={self._identity.node_id: self._identity.public_key},
                bounds=application.bounds,
            )
            check_justification(
                justification,
                chain_id=chain_id,
                parent=tip,
                parent_view=view_of(tip.height, application.epoch_blocks),
                first_of_epoch=view == 1,
                validators=application.validators(max(tip.epoch, 1)),
            )
            for certificate, kind in zip(certificates, (VoteKind.NOTARIZE, VoteKind.FINALIZE), strict=True):
                check_certificate(
                    certificate,
                    kind=kind,
                    chain_id=chain_id,
                    epoch=epoch,
                    view=view,
                    digest=block.digest(),
                    validators=validators,
                )
        except ConsensusError as error:
            raise SelfCheckFailed("own block would be refused", str(error)) from error

    async def _commit(self, block: Block, certificate: Certificate) -> None:
        """Make it durable. While the disk is full, wait and try the same block again (CONS-66).

        Drained meanwhile, it leaves the block: nothing of it was written, and nobody was told of it.
        """
        wait_s = 1.0
        while True:
            try:
                await self._application.commit(block, certificate.encode())
                break
            except DiskFull as error:
                if not self._stalled:
                    self._ctx.log.error("blocks_wait_for_room", height=block.header.height, cause=str(error))
                self._stalled = f"the disk is full, no block can be written: {error}"
            if self._draining:
                return
            with trio.CancelScope() as self._idle:
                await self._ctx.clock.sleep(wait_s)
            self._idle = None
            wait_s = min(2 * wait_s, DISK_RETRY_S_MAX)
        if self._stalled:
            self._ctx.log.info("blocks_go_on", height=block.header.height)
            self._stalled = ""
        now_s = self._ctx.clock.monotonic()
        if self._last_block_s > -math.inf:
            self._interval.observe((now_s - self._last_block_s) * 1000)
        self._last_block_s = self._entered_s = now_s
        self._note(self._application.tip())

    def _note(self, tip: Tip) -> None:
        self._height.set(tip.height)
        self._view.set(view_of(tip.height, self._application.epoch_blocks))
