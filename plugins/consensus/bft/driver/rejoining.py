"""CONS-67 on the wire: who lost its log asks the others for their epoch while it follows; who is asked tells.

An answer costs a signature, so a peer gets one a second. Answers wait in a bounded queue, beyond which they
are dropped: the question is asked again.
"""

from collections.abc import Callable, Sequence

import trio

from supervm.api import Context
from supervm.contracts.application import NodeIdentity
from supervm.contracts.storage import DiskFull, KeyValueStore
from supervm.crypto.batch import verify_many
from supervm.plugins.consensus.bft.driver.founding import Standing, write_standing
from supervm.plugins.consensus.bft.driver.journal import DISK_RETRY_S
from supervm.plugins.consensus.bft.driver.timers import Timers
from supervm.plugins.consensus.bft.events import (
    CancelTimer,
    Log,
    Logged,
    Now,
    Received,
    Send,
    SetTimer,
    Stream,
    TimedOut,
)
from supervm.plugins.consensus.bft.messages import AskEpoch, TellEpoch, encode
from supervm.plugins.consensus.bft.records import SilentBefore
from supervm.plugins.consensus.bft.sync.rejoining import (
    CatchUp,
    EpochsFollow,
    Rejoin,
    RejoinEvent,
    RejoinOutput,
    VotesFrom,
    tell_epoch,
)
from supervm.types.address import Suite
from supervm.types.validators import ValidatorSet

ANSWERS_MAX = 256
TELL_AGAIN_S = 1.0

Poster = Callable[[bytes, Stream, bytes], None]


class EpochTeller:
    """Tells whoever asks in which epoch this validator votes. `own`: its number in the epoch's set."""

    def __init__(
        self, ctx: Context, chain_id: bytes, identity: NodeIdentity, epoch: int, own: int, post: Poster
    ) -> None:
        self._ctx = ctx
        self._chain_id = chain_id
        self._identity = identity
        self._epoch = epoch
        self._own = own
        self._post = post
        self._told_s: dict[bytes, float] = {}

    def answer(self, peer: bytes, ask: AskEpoch) -> None:
        """Of a validator: there are as many as the set has members."""
        now_s = self._ctx.clock.monotonic()
        if now_s - self._told_s.get(peer, -TELL_AGAIN_S) < TELL_AGAIN_S:
            return
        self._told_s[peer] = now_s
        told = tell_epoch(ask, self._chain_id, self._epoch, self._own, 0, self._identity.sign)
        assert told is not None, "whoever is silent has nobody to tell for it"
        self._post(peer, Stream.VOTES, encode(told))


class Rejoining:
    """Asks the members of an epoch's set until a quorum has told, and keeps what follows from it durably."""

    def __init__(
        self,
        ctx: Context,
        store: KeyValueStore,
        chain_id: bytes,
        node_id: bytes,
        epoch: int,
        validators: ValidatorSet,
        post: Poster,
    ) -> None:
        self._ctx = ctx
        self._store = store
        self._chain_id = chain_id
        self._validators = validators
        self._others = tuple(each.node_id for each in validators.members if each.node_id != node_id)
        self._post = post
        self._challenge = ctx.random.randbytes(32)
        self._machine = Rejoin(EpochsFollow(epoch, validators), node_id, self._challenge)
        self._timers = Timers(ctx, lambda name: self._put(TimedOut(name)))
        self._events, self._coming = trio.open_memory_channel[RejoinEvent](ANSWERS_MAX)
        self.standing = Standing(None)
        self.stalled = ""
        """Why it waits for its disk; empty if it doesn't."""

    def hear(self, peer: bytes, told: TellEpoch) -> None:
        """An answer, whose signature isn't verified yet."""
        if told.challenge == self._challenge:
            self._put(Received(peer, told))

    def _put(self, event: RejoinEvent) -> None:
        try:
            self._events.send_nowait(event)
        except trio.WouldBlock:
            # A timer finds room again: whoever is asked too early is asked again.
            self._timers.set(event.name, 1_000_000) if isinstance(event, TimedOut) else None

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._timers.run)
            await self._carry(self._machine.start())
            async for event in self._coming:
                if not isinstance(event, Received) or self._is_signed(event.message):
                    await self._tell(event)

    async def _tell(self, event: RejoinEvent) -> None:
        clock = self._ctx.clock
        await self._carry(self._machine.step(event, Now(int(clock.monotonic() * 1_000_000), clock.wall_ms())))

    def _is_signed(self, message: object) -> bool:
        members = self._validators.members
        if not isinstance(message, TellEpoch) or message.validator >= len(members):
            return False
        key = members[message.validator].public_key
        return verify_many([(int(Suite.ED25519), key, message.message(self._chain_id), message.signature)])[0]

    async def _keep(self, standing: Standing) -> None:
        """Until it is durable: a full disk is waited for, and nothing rests on it before (CONS-66)."""
        while True:
            try:
                await write_standing(self._store, standing)
            except DiskFull as error:
                self.stalled = f"the disk is full, when it may vote again can't be kept: {error}"
                self._ctx.log.error("disk_full", cause=str(error), retry_s=DISK_RETRY_S)
                await self._ctx.clock.sleep(DISK_RETRY_S)
            else:
                self.stalled = ""
                return

    async def _carry(self, outputs: Sequence[RejoinOutput]) -> None:
        for output in outputs:
            match output:
                case Send(_, message, stream):
                    for each in self._others:
                        self._post(each, stream, encode(message))
                case SetTimer(name, delay_us):
                    self._timers.set(name, delay_us)
                case CancelTimer(name):
                    self._timers.cancel(name)
                case Log(number, SilentBefore(epoch)):
                    await self._keep(Standing(epoch))
                    await self._tell(Logged(number))
                case VotesFrom(epoch):
                    self.standing = Standing(epoch)
                    self._ctx.log.info("votes_again_from", epoch=epoch)
                case CatchUp(epoch):
                    # It follows anyway; in a later epoch that epoch's set is asked.
                    self._ctx.log.info("epoch_ahead", epoch=epoch)
                case _:
                    raise AssertionError(f"rejoining doesn't say {output!r}")
