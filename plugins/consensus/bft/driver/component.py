"""Component `bft`: its options, and the life of a validator (CONS-80)."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import TypeVar

import attrs
import trio
from attrs.validators import ge, in_, le

from supervm.api import Context, Health, HealthState, Role
from supervm.contracts.application import CertifyingApplication, Engine, EpochWish
from supervm.contracts.consensus import CERTIFICATES, ConsensusStatus, ValidatorSetUnsupported
from supervm.contracts.roles import NodeMustStop
from supervm.contracts.storage import DiskFull, KeyValueStore
from supervm.contracts.transport import Transport
from supervm.plugins.consensus.bft.driver.epoch import epoch_after
from supervm.plugins.consensus.bft.driver.following import Follower, begin_follower
from supervm.plugins.consensus.bft.driver.founding import Standing, judge_log
from supervm.plugins.consensus.bft.driver.journal import DISK_RETRY_S
from supervm.plugins.consensus.bft.driver.sources import Hints
from supervm.plugins.consensus.bft.driver.validator import WALK_MAX, Validator, begin_validator
from supervm.plugins.consensus.bft.epochs.handover import EarlyMessages
from supervm.types.batch import BATCH_BYTES_MAX, BATCH_TRANSACTIONS_MAX

_T = TypeVar("_T")
WALK_LIMIT = 4_096
SETTLED_S = 60.0
"""A validator that falls behind again sooner walks farther by itself before it stops for block sync."""


@attrs.frozen(kw_only=True)
class BftConfig:
    """How this validator takes part. Times in milliseconds, sizes in bytes of transactions.

    `block_interval_min_ms`: it proposes no sooner after the proposal before; `block_interval_max_ms`: an
    empty block after so long without work. `fast_rest_ms`: no sooner for batches of the FAST lane alone,
    which are final without a block. A batch is sealed at once after a pause, else after `batch_seal_ms`, at
    `batch_seal_bytes`, or at `batch_transactions_max`. `builder_queue_max`: transactions that wait for a
    batch; beyond it the mempool keeps them. `snapshot_behind_blocks`: a node that is so many blocks behind a
    peer's snapshot takes it instead of blocks; 0: only where no peer has the blocks any more.
    """

    block_interval_min_ms: int = attrs.field(default=200, validator=in_(range(60_001)))
    block_interval_max_ms: int = attrs.field(default=5_000, validator=ge(1))
    fast_rest_ms: int = attrs.field(default=500, validator=in_(range(60_001)))
    batch_seal_ms: int = attrs.field(default=20, validator=in_(range(60_001)))
    batch_seal_bytes: int = attrs.field(default=256 * 1024, validator=[ge(1), le(BATCH_BYTES_MAX)])
    batch_transactions_max: int = attrs.field(
        default=BATCH_TRANSACTIONS_MAX, validator=[ge(1), le(BATCH_TRANSACTIONS_MAX)]
    )
    builder_queue_max: int = attrs.field(default=16_384, validator=in_(range(1, 65_537)))
    snapshot_behind_blocks: int = attrs.field(default=100_000, validator=ge(0))


@asynccontextmanager
async def open_bft(ctx: Context, config: BftConfig) -> AsyncIterator["Bft"]:
    """Take part in consensus until the scope ends.

    Raises `AlreadyDriven`, `ValidatorSetUnsupported`, `LogMissing`, `StoreCorrupt`.
    """
    application: CertifyingApplication = ctx.require(Role.APPLICATION)
    store: KeyValueStore = ctx.require(Role.STORAGE)
    identity = application.identity
    standing = await judge_log(ctx, application, store)
    engine = await _judge(application, standing)

    def transports() -> tuple[Transport, ...]:
        return tuple(each for each in ctx.all(Role.TRANSPORT) if each.node_id == identity.node_id)

    walk_max = WALK_MAX
    early = EarlyMessages()
    hints = Hints()

    async def begin(catches_up: bool) -> Validator | Follower:
        produces = served.engine.produces
        if catches_up or not produces:
            return await begin_follower(
                ctx,
                application,
                store,
                transports,
                stays=not produces,
                standing=standing,
                snapshot_behind=config.snapshot_behind_blocks,
                hints=hints,
            )
        hints.ahead = ()
        return await begin_validator(ctx, config, application, store, transports, walk_max, early, hints)

    async def patiently(step: Callable[[], Awaitable[_T]]) -> _T:
        """Within a life of the node: a full disk is waited for, as where a block is written (CONS-66)."""
        while True:
            try:
                found = await step()
            except DiskFull as error:
                served.stalled = f"the disk is full, no epoch can be begun: {error}"
                ctx.log.error("disk_full", cause=str(error), retry_s=DISK_RETRY_S)
                await ctx.clock.sleep(DISK_RETRY_S)
            else:
                served.stalled = ""
                return found

    with ExitStack() as ends, ExitStack() as wheel:
        wheel.enter_context(application.driven(engine))
        scope = trio.CancelScope()
        served = Bft(ctx, application, engine, scope)
        served.life = await begin(catches_up=False)
        ends.enter_context(application.epochs_ended_by(served))
        stopped = trio.Event()

        async def run() -> None:
            nonlocal walk_max, standing
            try:
                with scope:
                    while True:
                        began_s = ctx.clock.monotonic()
                        await served.life.run()
                        if served.draining:
                            return
                        # What was gathered goes back to the mempool: it may be in a block already.
                        wheel.close()
                        standing = await patiently(partial(judge_log, ctx, application, store))
                        served.engine = await _judge(application, standing)
                        wheel.enter_context(application.driven(served.engine))
                        life = served.life
                        if life.ended:
                            _tell_place(ctx, application, served.engine)
                            catches_up = isinstance(life, Follower) and not life.stays
                        else:
                            catches_up = isinstance(life, Validator)
                        if catches_up and isinstance(life, Validator):
                            settled = ctx.clock.monotonic() - began_s > SETTLED_S
                            walk_max = WALK_MAX if settled else min(2 * walk_max, WALK_LIMIT)
                        served.life = await patiently(partial(begin, catches_up))
            except* NodeMustStop as found:
                # Until the node has stopped it says so: nothing of it speaks any more.
                served.stopped = _first_cause(found)
                raise
            finally:
                stopped.set()

        _tell_place(ctx, application, engine)
        ctx.nursery.start_soon(run)
        try:
            yield served
        finally:
            scope.cancel()
            # The wheel is let go only when no task of ours can still turn it.
            with trio.CancelScope(shield=True):
                await stopped.wait()


def _first_cause(group: BaseExceptionGroup[BaseException]) -> str:
    """What the first error in a group says."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return str(first)


def _tell_place(ctx: Context, application: CertifyingApplication, engine: Engine) -> None:
    tip = application.tip()
    if engine.produces:
        ctx.log.info("validator_begins", node=application.identity.node_id.hex(), height=tip.height)
    else:
        ctx.log.warning("read_only", reason=engine.reason)


async def _judge(application: CertifyingApplication, standing: Standing) -> Engine:
    """What this node can be in the epoch of the next block."""
    identity = application.identity
    epoch = await epoch_after(application)
    validators = application.validators(epoch)
    number = validators.number_of(identity.node_id)
    if number is None:
        reason = (
            f"this node is 0x{identity.node_id.hex()}, none of the epoch's {len(validators.members)} "
            "validators: it follows them and produces nothing; send transactions to a validator"
        )
        return Engine(name="bft", produces=False, reason=reason)
    if validators.members[number].public_key != identity.public_key:
        raise ValidatorSetUnsupported(
            "the validator set names this node with another voting key",
            "0x" + validators.members[number].public_key.hex(),
            "start with the key file of that key",
        )
    if standing.silent_in(epoch):
        return Engine(name="bft", produces=False, reason=standing.reason)
    return Engine(name="bft")


class Bft:
    """What the component serves."""

    capabilities = frozenset({CERTIFICATES})

    def __init__(
        self,
        ctx: Context,
        application: CertifyingApplication,
        engine: Engine,
        scope: trio.CancelScope,
    ) -> None:
        self._ctx = ctx
        self._application = application
        self._scope = scope
        self.draining = False
        self.engine = engine
        self.stalled = self.stopped = ""
        self.life: Validator | Follower

    @property
    def _validator(self) -> Validator | None:
        return self.life if isinstance(self.life, Validator) else None

    def wish(self) -> EpochWish | None:
        """See `EpochEnder`."""
        return None if self._validator is None else self._validator.wish

    def end_epoch(self) -> EpochWish | None:
        """See `EpochEnder`."""
        if self._validator is not None:
            self._ctx.log.info("end_epoch_asked", epoch=self.life.epoch)
            self._validator.end_epoch()
        return self.wish()

    @property
    def accusing(self) -> int:
        """Offences whose evidence this node has and no final block holds."""
        return 0 if self._validator is None else self._validator.accusing

    @property
    def _halted(self) -> str:
        """Why it can't go on, and the node stops; empty if it can."""
        return self.stopped or self.life.halted

    @property
    def _stalled(self) -> str:
        """Why it waits for its disk; empty if it doesn't."""
        return self.stalled or self.life.stalled

    @property
    def _silence(self) -> str:
        """Why this node produces nothing, or can't; empty if it does."""
        fetching = self.life.fetching if isinstance(self.life, Follower) else ""
        reason = self._halted or self._stalled or fetching or self.life.alone or self.engine.reason
        if not reason and isinstance(self.life, Follower):
            reason = f"it is far behind and catches up from its peers, above height {self.life.height}"
        return reason

    def status(self) -> ConsensusStatus:
        tip, reason = self._application.tip(), self._silence
        return ConsensusStatus(
            engine="bft",
            height=tip.height,
            epoch=self.life.epoch,
            view=self.life.view,
            validator=self.engine.produces,
            producing=not reason,
            reason=reason,
        )

    async def health(self) -> Health:
        if self._halted:
            return Health(HealthState.FAILING, self._halted)
        if self._stalled:
            # Not failing, for which the kernel would open it again: that frees no disk and makes none faster.
            return Health(HealthState.DEGRADED, self._stalled, ready=False)
        reason = self._silence or self._clock
        return Health(HealthState.DEGRADED, reason) if reason else Health()

    @property
    def _clock(self) -> str:
        """What is wrong with this node's clock. It takes transactions all the same: accepts need no clock."""
        behind_ms = self.life.clock_behind_ms
        if not behind_ms:
            return ""
        return (
            f"this clock is {behind_ms} ms behind the proposals of others, which have to wait for it: "
            "set it right, and look at what keeps it so (NTP)"
        )

    async def drain(self, deadline: float) -> None:
        """See the contract. What this node took is finished; then it says nothing more."""
        self.draining = True
        with trio.move_on_after(max(0.0, deadline - self._ctx.clock.monotonic())):
            await self.life.drain()
        self._scope.cancel()
