"""A node that says nothing and follows the chain by block sync (CONS-61, CONS-64).

So lives a node that is no validator, a validator that is far behind until it has caught up, and one that has
lost its log while it must be silent (CONS-67). It serves others all that it holds.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress

import trio

from supervm.api import Context
from supervm.contracts.application import CertifyingApplication, SnapshotExchange
from supervm.contracts.storage import KeyValueStore
from supervm.contracts.transport import Transport
from supervm.crypto.batch import verify_many
from supervm.plugins.consensus.bft.driver.answering import Answers
from supervm.plugins.consensus.bft.driver.connecting import LOOK_S, keep_connected
from supervm.plugins.consensus.bft.driver.epoch import lowest_recalled
from supervm.plugins.consensus.bft.driver.executing import Committed as Executed
from supervm.plugins.consensus.bft.driver.executing import Executor
from supervm.plugins.consensus.bft.driver.founding import WHOLE, Standing
from supervm.plugins.consensus.bft.driver.halting import Halted
from supervm.plugins.consensus.bft.driver.kept import KeptBlocks
from supervm.plugins.consensus.bft.driver.mending import Mending
from supervm.plugins.consensus.bft.driver.posting import Post
from supervm.plugins.consensus.bft.driver.proving import EffectsProofs, claims_of
from supervm.plugins.consensus.bft.driver.receiving import Incoming, Reception
from supervm.plugins.consensus.bft.driver.rejoining import EpochTeller, Rejoining
from supervm.plugins.consensus.bft.driver.restocking import Restocking
from supervm.plugins.consensus.bft.driver.sources import TURN_S, Hints, Sources
from supervm.plugins.consensus.bft.driver.timers import Timers
from supervm.plugins.consensus.bft.events import (
    CancelTimer,
    Final,
    Halt,
    Now,
    Received,
    Send,
    SetTimer,
    Stream,
    TimedOut,
)
from supervm.plugins.consensus.bft.fetching import Item, Want, WantDigest, What
from supervm.plugins.consensus.bft.messages import (
    AskEpoch,
    Effects,
    EffectsCertificate,
    Get,
    Got,
    TellEpoch,
    encode,
)
from supervm.plugins.consensus.bft.sync.events import (
    CaughtUp,
    Committed,
    Dropped,
    Look,
    NeedsSnapshot,
    PeersNow,
    Ready,
    SyncEvent,
    SyncOutput,
    Verified,
    Verify,
)
from supervm.plugins.consensus.bft.sync.machine import BlockSync, SyncSettings
from supervm.plugins.consensus.bft.sync.snapshots import SnapshotOutput
from supervm.types.address import Suite
from supervm.types.batch import Batch
from supervm.types.block import BlockHeader
from supervm.types.certificate import BatchCertificate
from supervm.types.digests import ZERO, Digest
from supervm.types.errors import InvalidInput

POLL_US = 500_000
"""How often whoever only follows asks whether there is more, when nothing said so."""
FRUITLESS_S = 30.0
"""A validator that catches up and gets no block for so long tries by itself again."""
FETCHING_S = 600.0
"""The same where a snapshot is being fetched, whose anchor a quorum signed: others are ahead indeed."""
NEAR_BLOCKS = 8
NEAR_S = 1.0
"""Peers show no more blocks than so many above the tip for so long: it is as good as caught up."""
SIGNED_MAX = 256
"""Signatures of effects that wait to be verified; a client asks again."""
GROUP_MESSAGES = 64
GROUP_BYTES = 8 * 2**20


class Follower:
    """The tasks of a node that follows. Run once by `run`.

    `stays`: it goes on when it has caught up, since it has no vote; else `run` returns then. It returns at
    the end of an epoch, too: the next has another set. It asks the members of the set, and other nodes where
    those don't help or aren't there: block sync believes proofs.
    """

    view = 0

    def __init__(
        self,
        ctx: Context,
        application: CertifyingApplication,
        store: KeyValueStore,
        transports: Callable[[], tuple[Transport, ...]],
        tip: Committed,
        *,
        stays: bool,
        standing: Standing = WHOLE,
        settings: SyncSettings | None = None,
        snapshot_behind: int = 0,
        hints: Hints | None = None,
    ) -> None:
        self.ended = False
        self.stays = stays
        self._ctx = ctx
        self._application = application
        self._find_transports = transports
        self._stays = stays
        own = application.identity.node_id
        peers = tuple(each.node_id for each in tip.validators.members if each.node_id != own)
        self._peers = peers
        self._tip = tip
        self._kept = KeptBlocks(store)
        self._post = Post(ctx, peers)
        self._mending = Mending(ctx, application, peers, self._post)
        self._reception = Reception(ctx, peers)
        self._teller: EpochTeller | None = None
        self._rejoining: Rejoining | None = None
        number = tip.validators.number_of(own)
        if number is not None and standing.votes_from is None:
            self._rejoining = Rejoining(
                ctx, store, application.chain_id, own, tip.epoch, tip.validators, self._post.put
            )
        elif number is not None and not standing.silent_in(tip.epoch):
            self._teller = EpochTeller(
                ctx, application.chain_id, application.identity, tip.epoch, number, self._post.put
            )
        self._answers = Answers(application, self._kept, self._young, self._answer)
        self._executor = Executor(
            ctx,
            application,
            self._kept,
            held=_holds_none,
            miss=_misses_none,
            committed=self._committed,
            behind=lambda: self._sync.held_blocks > NEAR_BLOCKS,
        )
        settings = settings or SyncSettings(poll_us=POLL_US if stays else 0)
        self._sync = BlockSync(application.chain_id, tip, settings)
        self._hints = hints or Hints()
        self._hints.vouched.begin(tip.epoch)
        self._proofs = EffectsProofs(
            ctx,
            tip.epoch,
            tip.validators,
            peers,
            self._ask,
            application.certified,
            vouched=self._hints.vouched,
        )
        self._signed, self._to_judge = trio.open_memory_channel[tuple[bytes, Effects | EffectsCertificate]](
            SIGNED_MAX
        )
        self._timers = Timers(ctx, lambda name: self._tell(TimedOut(name)))
        self._to_verify: deque[Verify] = deque()
        self._verify_some = trio.Event()
        self._limiter = trio.CapacityLimiter(1)
        self._moved_s = ctx.clock.monotonic()
        self._ended = trio.Event()
        self._halted = ""
        self._snapshot = ""
        self._snapshot_behind = snapshot_behind
        self._needs_snapshot = trio.Event()
        self._sources = Sources(self._hints)
        self._reached: tuple[bytes, ...] = ()
        self._restocking: Restocking | None = None
        self._height = ctx.metrics.gauge("supervm_consensus_height", "Height of the last final block")
        self._synced = ctx.metrics.counter(
            "supervm_consensus_blocks_synced_total", "Final blocks that came from peers with their proof"
        )
        self._dropped = ctx.metrics.counter(
            "supervm_consensus_sync_peers_dropped_total",
            "Peers that block sync asks no more for a while",
            ("why",),
        )

    @property
    def height(self) -> int:
        return self._tip.height

    @property
    def epoch(self) -> int:
        """Of the block that follows the tip."""
        return self._tip.epoch

    @property
    def halted(self) -> str:
        """Why it can't go on; empty if it can."""
        helpless = "" if self._exchange is not None else self._snapshot
        return self._halted or helpless

    @property
    def stalled(self) -> str:
        """Why it waits for its disk and so doesn't follow; empty if it doesn't."""
        rejoining = "" if self._rejoining is None else self._rejoining.stalled
        return self._executor.stalled or rejoining

    @property
    def clock_behind_ms(self) -> int:
        """It votes for nothing, whatever the time."""
        return 0

    @property
    def fetching(self) -> str:
        """How far it is with a snapshot that it can't do without; empty if it doesn't need one."""
        if not self._snapshot or self._restocking is None:
            return self._snapshot
        return f"{self._snapshot}; {self._restocking.status}"

    @property
    def _is_restocking(self) -> bool:
        return self._restocking is not None and self._restocking.has_chosen

    @property
    def alone(self) -> str:
        """Why it hears nobody; empty if it may."""
        if self._find_transports():
            return ""
        return "no transport speaks for this node; open one with this node's identity, such as tcp"

    @property
    def _exchange(self) -> SnapshotExchange | None:
        """Where snapshots of others are taken."""
        exchange = self._application.exchange
        return exchange if exchange is not None and exchange.takes else None

    async def drain(self) -> None:
        """It takes no transactions."""
        await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        """Until its epoch has `ended`, or it has caught up. Raises `Halted`, a storage error."""
        with self._application.effects_from(self._proofs):
            await self._run()

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._judge_effects)
            nursery.start_soon(self._timers.run)
            nursery.start_soon(self._post.run)
            nursery.start_soon(self._answers.run)
            nursery.start_soon(self._mending.run)
            nursery.start_soon(self._executor.run)
            nursery.start_soon(self._verify)
            nursery.start_soon(self._keep_connected)
            nursery.start_soon(self._restock)
            nursery.start_soon(self._look_farther)
            if self._rejoining is not None:
                nursery.start_soon(self._rejoining.run)
            for stream in Stream:
                nursery.start_soon(self._hear, stream)
            if not self._stays:
                nursery.start_soon(self._judge_progress)
            self._tell(Look())
            await self._ended.wait()
            nursery.cancel_scope.cancel()

    async def _keep_connected(self) -> None:
        await keep_connected(
            self._ctx,
            self._find_transports,
            self._post,
            self._reception,
            self._answers,
            self._peers,
            self._reachable,
        )

    async def _restock(self) -> None:
        """Fetch a snapshot where one is far above the tip, or, once nothing else helps, any that is above."""
        exchange = self._exchange
        if exchange is None:
            return
        if not self._snapshot_behind:
            await self._needs_snapshot.wait()
        above = self._tip.height + (0 if self._needs_snapshot.is_set() else self._snapshot_behind)
        self._restocking = Restocking(
            self._ctx, exchange, above, lambda: self._tip.height, self._reached, self._carry
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._restocking.run)
            await self._needs_snapshot.wait()
            self._restocking.take_any_above(self._tip.height)

    def _reachable(self, members: tuple[bytes, ...], guests: tuple[bytes, ...]) -> None:
        self._sources.now(members, guests)
        self._choose()

    async def _look_farther(self) -> None:
        """Where no block comes, ask others than members too, in turns; not while one gives a snapshot."""
        while True:
            moved_s = self._moved_s
            await self._ctx.clock.sleep(TURN_S)
            if self._moved_s == moved_s and not self._is_restocking:
                self._sources.turn()
                self._choose()

    def _choose(self) -> None:
        members, guests = self._sources.members, self._sources.guests
        if members + guests == self._reached:
            return
        self._reached = members + guests
        self._reception.asked = frozenset(guests)
        if self._restocking is not None:
            self._restocking.now(self._reached)
        self._tell(PeersNow(self._reached, frozenset(guests)))
        self._tell(Look())

    async def _judge_progress(self) -> None:
        """End where blocks come one by one, as they are made, since there is always another; and where none
        come at all."""
        since_s = self._ctx.clock.monotonic()
        while True:
            await self._ctx.clock.sleep(LOOK_S)
            now_s = self._ctx.clock.monotonic()
            if self._sync.held_blocks > NEAR_BLOCKS:
                since_s = now_s
            if now_s - since_s >= NEAR_S and self._moved_s > since_s:
                self._ctx.log.info("near_the_tip", height=self._tip.height)
                break
            patience_s = FETCHING_S if self._is_restocking else FRUITLESS_S
            if now_s - self._moved_s >= patience_s:
                self._ctx.log.warning("sync_fruitless", height=self._tip.height, seconds=patience_s)
                break
        self._ended.set()

    # What comes

    async def _hear(self, stream: Stream) -> None:
        inbox = self._reception.inboxes[stream]
        while True:
            for incoming in await inbox.take(GROUP_MESSAGES, GROUP_BYTES):
                self._on(incoming)
            await trio.lowlevel.checkpoint()

    def _on(self, incoming: Incoming) -> None:
        match incoming.message:
            case Get(wants):
                self._answers.put(incoming.peer, wants, is_guest=incoming.peer not in self._peers)
            case Got(items) if any(isinstance(each, Effects | EffectsCertificate) for each in items):
                for each in items:
                    if isinstance(each, Effects | EffectsCertificate):
                        with suppress(trio.WouldBlock):
                            # A client asks again.
                            self._signed.send_nowait((incoming.peer, each))
            case Got():
                self._mending.give(incoming.message)
                if self._restocking is not None:
                    self._restocking.hear(incoming.peer, incoming.message)
                self._tell(Received(incoming.peer, incoming.message))
            case AskEpoch() as ask if self._teller is not None:
                self._teller.answer(incoming.peer, ask)
            case TellEpoch() as told if self._rejoining is not None:
                self._rejoining.hear(incoming.peer, told)

    def _young(self, want: Want) -> tuple[Item, ...]:
        found = None
        if isinstance(want, WantDigest) and want.what is What.EFFECTS:
            found = self._proofs.answer(want.digest)
        return () if found is None else (found,)

    def _answer(self, peer: bytes, answer: Got) -> None:
        self._post.put(peer, Stream.BULK, encode(answer))

    # Effects

    def _ask(self, peer: bytes, question: Get) -> None:
        self._post.put(peer, Stream.BULK, encode(question))

    async def _judge_effects(self) -> None:
        async for peer, found in self._to_judge:
            if found.epoch != self._tip.epoch:
                continue
            if isinstance(found, Effects) and not self._proofs.are_of(peer, found):
                continue
            try:
                claims = claims_of(found, self._application.chain_id, self._tip.validators)
            except InvalidInput as error:
                self._reception.blame(peer, error.code)
                continue
            items = [(int(Suite.ED25519), key, text, signature) for key, text, signature in claims]
            right = await trio.to_thread.run_sync(verify_many, items, limiter=self._limiter)
            if not all(right):
                self._reception.blame(peer, "BadSignature")
            elif isinstance(found, Effects):
                self._proofs.add(found)
            else:
                self._proofs.add_certificate(found)

    # Block sync

    def _tell(self, event: SyncEvent) -> None:
        clock = self._ctx.clock
        now = Now(int(clock.monotonic() * 1_000_000), clock.wall_ms())
        for output in self._sync.step(event, now):
            self._carry(output)

    def _carry(self, output: SyncOutput | SnapshotOutput) -> None:
        match output:
            case Send(to, message, stream):
                assert isinstance(to, tuple), "block sync asks one peer at a time"
                for peer in to:
                    self._post.put(peer, stream, encode(message))
            case SetTimer(name, delay_us):
                self._timers.set(name, delay_us)
            case CancelTimer(name):
                self._timers.cancel(name)
            case Verify():
                self._to_verify.append(output)
                self._verify_some.set()
            case Ready(block, view, certificate, proof):
                self._executor.put(Final(block, view, certificate), proof)
            case Dropped(peer, reason, lied):
                self._dropped.inc(why="lied" if lied else "slow")
                if lied:
                    self._reception.silence(peer, reason)
            case NeedsSnapshot(oldest, _):
                if not self._snapshot:
                    self._ctx.log.warning("needs_snapshot", height=self._tip.height, oldest=oldest)
                self._snapshot = f"validators hold blocks from {oldest} on only: start from a snapshot"
                self._needs_snapshot.set()
            case CaughtUp(height):
                self._snapshot = ""
                if not self._stays:
                    self._ctx.log.info("caught_up", height=height)
                    self._ended.set()
            case Halt(reason):
                self._halted = reason
                mend = "keep the folder; compare this node's chain with others', with supervm verify"
                raise Halted("consensus halted", reason, mend)

    async def _verify(self) -> None:
        while True:
            await self._verify_some.wait()
            self._verify_some = trio.Event()
            while self._to_verify:
                asked = self._to_verify.popleft()
                right = await self._is_signed(asked)
                self._tell(Verified(asked.ticket, right))

    async def _is_signed(self, asked: Verify) -> bool:
        items: list[tuple[int, bytes, bytes, bytes]] = []
        for certificate in asked.certificates:
            text = certificate.message(self._application.chain_id)
            try:
                signed = certificate.signed(asked.validators)
            except InvalidInput:
                return False
            items += [(int(Suite.ED25519), key, text, signature) for key, signature in signed]
        return all(await trio.to_thread.run_sync(verify_many, items, limiter=self._limiter))

    def _committed(self, executed: Executed) -> None:
        header = executed.final.block.header
        self._tip = tip_for_sync(header, self._application)
        self._moved_s = self._ctx.clock.monotonic()
        self._synced.inc()
        self._height.set(header.height)
        self._proofs.forget(executed.batches, executed.transactions)
        if header.next_validators_digest != ZERO:
            self._hints.ahead = tuple(self._reception.asked)
            self.ended = True
            self._ended.set()
            return
        self._tell(self._tip)


def tip_for_sync(header: BlockHeader, application: CertifyingApplication) -> Committed:
    """A committed block as block sync is told of it: with the epoch and the set of the one that follows."""
    epoch = header.epoch + (1 if header.next_validators_digest != ZERO else 0)
    return Committed(header.height, header.digest(), epoch, application.validators(epoch))


def _holds_none(digest: Digest) -> Batch | None:
    raise AssertionError(f"a block of block sync has its batches: {digest.hex()}")


def _misses_none(certificate: BatchCertificate) -> None:
    raise AssertionError(f"a block of block sync has its batches: {certificate.header.digest().hex()}")


async def begin_follower(
    ctx: Context,
    application: CertifyingApplication,
    store: KeyValueStore,
    transports: Callable[[], tuple[Transport, ...]],
    *,
    stays: bool,
    standing: Standing = WHOLE,
    snapshot_behind: int = 0,
    hints: Hints | None = None,
) -> Follower:
    """A follower as the chain says. What it kept of the last blocks it can do without. Raises `StoreCorrupt`,
    `DecodeError`."""
    kept = KeptBlocks(store)
    tip = application.tip()
    if tip.height == 0:
        await kept.begin_block(application.facts(0))
        await kept.found()
        known = Committed(0, tip.digest, 1, application.validators(1))
    else:
        if tip.height == application.restored_height:
            await kept.begin_block(application.facts(tip.height))
        block = await application.block(tip.height)
        assert block is not None, "the tip isn't pruned"
        known = tip_for_sync(block.header, application)
    facts, lost = await kept.facts_of(lowest_recalled(application), tip.height)
    if lost:
        ctx.log.warning("facts_lost", heights=sorted(lost), cause=next(iter(lost.values())))
    application.recall(facts, lost)
    return Follower(
        ctx,
        application,
        store,
        transports,
        known,
        stays=stays,
        standing=standing,
        snapshot_behind=snapshot_behind,
        hints=hints,
    )
