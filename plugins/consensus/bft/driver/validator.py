"""One validator in one epoch: the machines, the disk, the network and the application, joined and begun."""

from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

import trio

from supervm.api import Context
from supervm.contracts.application import (
    BatchBounds,
    CertifyingApplication,
    EpochWish,
    ExecutedFacts,
    Refused,
)
from supervm.contracts.storage import KeyValueStore
from supervm.contracts.transport import Transport
from supervm.plugins.consensus.bft.batch_events import (
    BatchExamined,
    BlockExecuted,
    EpochCloses,
    Offer,
    Offered,
    Returned,
)
from supervm.plugins.consensus.bft.batch_records import UsedUp
from supervm.plugins.consensus.bft.batches import BatchVoter, EpochFacts, VoterBounds
from supervm.plugins.consensus.bft.building import PASSING_CODES, Builder, BuilderBounds
from supervm.plugins.consensus.bft.driver.accusing import Accusation, Accusations, judge_accusation
from supervm.plugins.consensus.bft.driver.accusing import Hands as AccusingHands
from supervm.plugins.consensus.bft.driver.answering import Answers
from supervm.plugins.consensus.bft.driver.applying import Applier
from supervm.plugins.consensus.bft.driver.asking import Questions
from supervm.plugins.consensus.bft.driver.bearings import ASK_S, Bearings
from supervm.plugins.consensus.bft.driver.checking import Checker
from supervm.plugins.consensus.bft.driver.closer import Closer, read_done
from supervm.plugins.consensus.bft.driver.connecting import keep_connected
from supervm.plugins.consensus.bft.driver.contesting import Contests
from supervm.plugins.consensus.bft.driver.core import Core, Hands
from supervm.plugins.consensus.bft.driver.epoch import (
    base_of,
    check_set,
    closing_facts,
    closing_state,
    done_of,
    epoch_after,
    epoch_of_message,
    finalisation_of,
    judged_operations,
)
from supervm.plugins.consensus.bft.driver.executing import Committed, Executor
from supervm.plugins.consensus.bft.driver.founding import LogMissing
from supervm.plugins.consensus.bft.driver.journal import (
    LOCKS,
    ORDERING,
    Disk,
    Journal,
    forget_records,
    read_records,
    scan_records,
)
from supervm.plugins.consensus.bft.driver.kept import KeptBlocks
from supervm.plugins.consensus.bft.driver.mending import Mending
from supervm.plugins.consensus.bft.driver.posting import Post
from supervm.plugins.consensus.bft.driver.proving import EffectsProofs
from supervm.plugins.consensus.bft.driver.receiving import Incoming, Reception
from supervm.plugins.consensus.bft.driver.rejoining import EpochTeller
from supervm.plugins.consensus.bft.driver.rereading import LoggedBatches
from supervm.plugins.consensus.bft.driver.sources import Hints
from supervm.plugins.consensus.bft.driver.waiting import WaitingCertificates
from supervm.plugins.consensus.bft.epochs.closing import ClosingState
from supervm.plugins.consensus.bft.epochs.handover import EarlyMessages
from supervm.plugins.consensus.bft.events import Behind, Check, ExecutedBlock, Final, Record, Stream
from supervm.plugins.consensus.bft.fetching import (
    GotBlock,
    Item,
    Want,
    WantBlocks,
    WantDigest,
    WantViews,
    What,
)
from supervm.plugins.consensus.bft.holding import INDEX_TIMES, held_bytes_of
from supervm.plugins.consensus.bft.messages import (
    Accept,
    AskEpoch,
    Batch,
    BatchCertificate,
    Effects,
    EffectsCertificate,
    EndEpoch,
    EpochDone,
    Equivocation,
    Evidence,
    Get,
    Got,
    Message,
    Proposal,
    Refuse,
    ViewVote,
    encode,
)
from supervm.plugins.consensus.bft.proposals import Epoch
from supervm.plugins.consensus.bft.records import DidEpoch
from supervm.plugins.consensus.bft.simplex import Ordering, Settings, Start
from supervm.types.certificate import BatchCertificate as CertificateOfBatch
from supervm.types.certificate import Certificate, numbers_of
from supervm.types.digests import ZERO, Digest

if TYPE_CHECKING:
    from supervm.plugins.consensus.bft.driver.component import BftConfig

GROUP_MESSAGES = 256
GROUP_BYTES = 4 * 2**20
GATHER_MAX = 1_024
WALK_MAX = 16
UNEXECUTED_MAX = 256
"""Final blocks that wait for execution. Who lags so far while others go on leaves ordering to them, and gets
the blocks by block sync, a few at a time."""
BEHIND_S = 5.0
"""Who gets no final block for so long while others vote in the next epoch asks for blocks (CONS-61)."""
BLOCKS_ASKED = 32
"""Enough that one of them has its own finalisation."""
LIFE_SEQUENCES = 1 << 32
"""Sequence numbers that a builder may use between two starts."""


class Validator:
    """The tasks of a validator. Made by `begin_validator`, run once by `run`.

    `walk_max`: so many blocks down from a certificate ordering fetches by itself; who misses more is far
    behind.
    """

    def __init__(
        self,
        ctx: Context,
        config: "BftConfig",
        application: CertifyingApplication,
        store: KeyValueStore,
        transports: Callable[[], tuple[Transport, ...]],
        start: Start,
        life: int,
        walk_max: int,
        early: EarlyMessages,
        hints: Hints,
    ) -> None:
        self.ended = False
        self._early = early
        self._ctx = ctx
        self._application = application
        self._find_transports = transports
        identity, epoch = application.identity, start.epoch
        members = epoch.validators.members
        self._members = tuple(each.node_id for each in members)
        peers = tuple(each for each in self._members if each != identity.node_id)
        self.epoch = epoch.number
        self._weight = epoch.validators.total_weight
        self._base_height = epoch.base.height
        self._disk = Disk(ctx, store)
        self._kept = KeptBlocks(store)
        self._post = Post(ctx, peers)
        self._mending = Mending(ctx, application, peers, self._post)
        self._reception = Reception(ctx, peers)
        self._peers = peers
        self._questions = Questions(ctx, peers, self._ask)
        self._logged = LoggedBatches(
            ctx,
            store,
            self._disk,
            epoch.number,
            row=lambda digest: self._core.lock_rows.content(digest),
            wanted=lambda digest: self._wants(WantDigest(What.BATCH, digest)),
            came=self._batch_came,
            missed=self._ask_for_batch,
        )
        self._answers = Answers(application, self._kept, self._young, self._answer, self._logged.get)
        own = epoch.validators.number_of(identity.node_id)
        assert own is not None, "a validator is of the set"
        rest_s = config.block_interval_max_ms / 1000
        self._bearings = Bearings(ctx, epoch.number, epoch.validators, identity.node_id, rest_s, hints)
        self._teller = EpochTeller(ctx, epoch.chain_id, identity, epoch.number, own, self._post.put)
        bounds = application.bounds
        self._batch_gas_max = max(bounds.gas_max // 4, bounds.batch_gas_floor)
        self._gas_fold = application.measure(()).gas
        facts = EpochFacts(
            chain_id=epoch.chain_id,
            epoch=epoch.number,
            validators=epoch.validators,
            node_id=identity.node_id,
            builders=frozenset(self._members),
            batch_gas_max=self._batch_gas_max,
        )
        memory_bytes = None if ctx.hardware is None else ctx.hardware.memory_limit_bytes
        held_bytes = held_bytes_of(memory_bytes)
        self._voter = BatchVoter(
            facts,
            identity.sign,
            height=epoch.base.height,
            bounds=VoterBounds(held_bytes_max=held_bytes, index_bytes_max=INDEX_TIMES * held_bytes),
        )
        self._builder = Builder(
            facts,
            identity.sign,
            first_sequence=life * LIFE_SEQUENCES,
            bounds=BuilderBounds(
                count_max=config.batch_transactions_max,
                bytes_seal=config.batch_seal_bytes,
                seal_us=config.batch_seal_ms * 1000,
                gas_max=self._batch_gas_max,
                gas_fold=self._gas_fold,
            ),
        )
        self._queue_max = config.builder_queue_max
        self._closer = Closer(
            closing_facts(start, application.epoch_blocks),
            epoch.validators,
            identity.sign,
            lambda: [each.header.digest() for each in self._voter.duties()],
            self._disk,
            lambda number: self._core.closing_durable(number),
            epoch.judge_operations,
        )
        self._ordering = Ordering(
            start,
            identity.sign,
            self._closer.pool(WaitingCertificates(self._voter.duties, bounds, lambda: self._core.work())),
            Settings(
                interval_min_us=config.block_interval_min_ms * 1000,
                interval_max_us=config.block_interval_max_ms * 1000,
            ),
        )
        ordering_journal = Journal(
            self._disk, ORDERING, epoch.number, lambda number: self._core.ordering_durable(number)
        )
        voter_journal = Journal(
            self._disk, LOCKS, epoch.number, lambda number: self._core.voter_durable(number)
        )
        self._journals = (ordering_journal, voter_journal)
        self._executor = Executor(
            ctx,
            application,
            self._kept,
            held=self._voter.batch,
            miss=self._miss,
            committed=self._committed,
        )
        self._applier = Applier(
            ctx,
            application,
            held=self._voter.batch,
            applied=lambda applied: self._core.tell_voter(applied),
        )
        hints.vouched.begin(epoch.number, self._voter.effects.signed)
        self._proofs = EffectsProofs(
            ctx,
            epoch.number,
            epoch.validators,
            peers,
            self._ask,
            application.certified,
            lambda evidence: self._core.offended(evidence),
            hints.vouched,
        )
        self._contests = Contests(self._members, application.contested, self._reception.blame)
        self._core = Core(
            ctx,
            own=identity.node_id,
            peers=peers,
            ordering=self._ordering,
            voter=self._voter,
            builder=self._builder,
            closer=self._closer,
            ordering_journal=ordering_journal,
            voter_journal=voter_journal,
            hands=Hands(
                post=self._post.put,
                ask_once=self._ask_once,
                keep_asking=self._keep_asking,
                check=self._check,
                apply=lambda apply: self._applier.put(apply.batch),
                final=self._final,
                returned=self._returned,
                contested=self._contests.put,
                effects=self._prove,
                signed=self._proofs.signed,
                closes=self._closes,
                behind=self._seem_behind,
                weigh=lambda: self._to_weigh.set(),
            ),
            fast_rest_us=config.fast_rest_ms * 1000,
        )
        self._base = epoch.base_finalisation
        self._checker = Checker(
            epoch,
            self._ordering.leader_named,
            {each.node_id: each.public_key for each in members},
            application.validators(epoch.number - 1) if epoch.number > 1 else None,
        )
        self._accusations = Accusations(
            peers,
            self._checker,
            lambda message: judge_accusation(application, epoch.judge_operations, message),
            AccusingHands(
                is_of_use=lambda message: not self._closer.operations.holds(message),
                blame=self._reception.blame,
                deliver=self._deliver,
            ),
        )
        self._checks, self._to_check = trio.open_memory_channel[Check](1)
        self._room = trio.Event()
        self._to_weigh = trio.Event()
        self._walk_max = walk_max
        self._walked: set[Digest] = set()
        self._behind = trio.Event()
        self._seemed: tuple[int, float] | None = None
        self._draining = trio.CancelScope()
        self._height = ctx.metrics.gauge("supervm_consensus_height", "Height of the last final block")
        self._interval = ctx.metrics.summary(
            "supervm_consensus_block_interval_ms", "Milliseconds between final blocks"
        )
        self._last_block_s = ctx.clock.monotonic()
        self._batch_refused = ctx.metrics.counter(
            "supervm_consensus_batch_refused_total", "Transactions refused at the accept", ("code",)
        )

    # What others may ask

    @property
    def view(self) -> int:
        return self._ordering.view

    def end_epoch(self) -> None:
        """Say that this validator's operator wants the epoch to end (CONS-50)."""
        self._core.end_epoch()

    @property
    def wish(self) -> EpochWish:
        """Who wants the epoch to end, as far as is known here."""
        ending = self._closer.ending
        assert ending is not None, "a validator has a number"
        return EpochWish(
            epoch=self.epoch,
            asked=ending.asked,
            weight=ending.weight,
            weight_of=self._weight,
            closing=self._closer.machine.started is not None,
        )

    @property
    def accusing(self) -> int:
        """Offences whose evidence waits for a final block."""
        return self._closer.operations.accusing

    @property
    def halted(self) -> str:
        """Why it can't go on; empty if it can."""
        return self._core.halted

    @property
    def stalled(self) -> str:
        """Why it waits for its disk and so votes for nothing; empty if it doesn't."""
        return self._disk.stalled or self._executor.stalled

    @property
    def clock_behind_ms(self) -> int:
        """How far its clock is behind those of the others at least; 0 if not so far that it matters."""
        return self._ordering.clock_lag.behind_ms

    @property
    def alone(self) -> str:
        """Why it hears nobody, or too few; empty if it may."""
        if len(self._members) == 1 or self._find_transports():
            return self._bearings.lost
        return "no transport speaks for this validator; open one with this node's identity, such as tcp"

    async def drain(self) -> None:
        """Take no more transactions into batches; return when what was taken is in committed blocks."""
        self._draining.cancel()
        await trio.lowlevel.checkpoint()
        while self._builder.is_busy or self._core.owed:
            self._room = trio.Event()
            await self._room.wait()

    # Its life

    async def restore(
        self,
        ordering: Sequence[tuple[int, Record]],
        locks: AsyncIterable[tuple[int, Record]],
        state: ClosingState,
        done: DidEpoch | None,
    ) -> None:
        """Rebuild the machines from the log, before `run`. The voter's records are read one by one."""
        ordering_journal, voter_journal = self._journals
        ordering_journal.next_row = max((row for row, _ in ordering), default=0) + 1
        for row, record in ordering:
            self._core.ordering_rows.logged(row, record)
        executed = self._base_height
        async for row, record in locks:
            voter_journal.next_row = row + 1
            self._core.lock_rows.logged(row, record)
            self._voter.recall(record)  # type: ignore[arg-type]
            if isinstance(record, UsedUp):
                executed = max(executed, record.height)
        self._core.begin(self._voter.resume())
        for height in range(executed + 1, self._application.tip().height + 1):
            self._core.tell_voter(await self._executed_before(height))
        self._core.begin_closing(self._closer.start(state, done))
        self._core.begin_ordering(self._ordering.start([record for _, record in ordering], self._core.now()))

    async def _executed_before(self, height: int) -> BlockExecuted:
        block = await self._application.block(height)
        assert block is not None, f"the block of height {height} is gone, and the log doesn't know of it"
        used, names = await self._application.used_up(block.transactions)
        batches = tuple(each.header.digest() for each in block.body.certificates)
        return BlockExecuted(height, batches, used, names)

    async def run(self) -> None:
        """Until its epoch has `ended`, or it is too far behind to follow by ordering, or cancelled: what it
        had said and wasn't durable was never sent. Raises what ends a validator: `Halted`, a storage error.
        """
        with self._application.effects_from(self._proofs):
            await self._run()

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._disk.run)
            nursery.start_soon(self._core.timers.run)
            nursery.start_soon(self._post.run)
            nursery.start_soon(self._questions.run)
            nursery.start_soon(self._answers.run)
            nursery.start_soon(self._logged.run)
            nursery.start_soon(self._accusations.run)
            nursery.start_soon(self._contests.run)
            nursery.start_soon(self._mending.run)
            nursery.start_soon(self._executor.run)
            nursery.start_soon(self._applier.run)
            nursery.start_soon(self._examine)
            nursery.start_soon(self._gather)
            nursery.start_soon(self._weigh)
            nursery.start_soon(self._keep_connected)
            nursery.start_soon(self._look_for_others)
            nursery.start_soon(self._hear_early)
            for stream in Stream:
                nursery.start_soon(self._hear, stream)
            await self._behind.wait()
            nursery.cancel_scope.cancel()

    async def _keep_connected(self) -> None:
        await keep_connected(
            self._ctx,
            self._find_transports,
            self._post,
            self._reception,
            self._answers,
            self._peers,
            self._bearings.now,
        )

    async def _look_for_others(self) -> None:
        """While no quorum is heard: ask whoever is there for what comes after this node's last block."""
        while True:
            await self._ctx.clock.sleep(ASK_S)
            asked = self._bearings.choose()
            self._reception.asked = frozenset(asked)
            question = encode(Get((WantBlocks(self._application.tip().height + 1, BLOCKS_ASKED),)))
            for peer in asked:
                self._post.put(peer, Stream.BULK, question)

    # Messages

    async def _hear(self, stream: Stream) -> None:
        inbox = self._reception.inboxes[stream]
        while True:
            await self._disk.wait_for_room()
            taken = await inbox.take(GROUP_MESSAGES, GROUP_BYTES)
            await self._judge([(each.peer, each.message) for each in taken if self._is_of_use(each)])

    async def _hear_early(self) -> None:
        """What members said in this epoch before it began here."""
        early = [
            (peer, message)
            for peer, message in self._early.take(self.epoch)
            if peer in self._peers and self._is_near(message)
        ]
        for first in range(0, len(early), GROUP_MESSAGES):
            await self._judge(early[first : first + GROUP_MESSAGES])

    async def _judge(self, taken: Sequence[tuple[bytes, Message]]) -> None:
        """Deliver those whose signatures are right. Accusations are judged apart: nothing waits for them."""
        group = []
        for peer, message in taken:
            if isinstance(message, Accusation):
                self._accusations.put(peer, message)
            else:
                group.append((peer, message))
        if not group:
            return
        wrong = await self._checker.judge([message for _, message in group])
        for (peer, message), code in zip(group, wrong, strict=True):
            if code:
                self._reception.blame(peer, code)
            else:
                self._deliver(peer, message)

    def _is_of_use(self, incoming: Incoming) -> bool:
        """Whether a machine could do anything with a message: else its signatures aren't looked at."""
        epoch = epoch_of_message(incoming.message)
        if epoch is not None and epoch != self.epoch:
            if epoch == self.epoch + 1:
                self._early.add(incoming.peer, epoch, incoming.message)
            # Of a vote the number alone is looked at: it tells who is behind.
            return isinstance(incoming.message, ViewVote)
        match incoming.message:
            case Certificate() as certificate:
                held = self._ordering.certificates(certificate.view, certificate.view)
                return all(each.kind != certificate.kind for each in held)
            case BatchCertificate(header):
                digest = header.digest()
                known = self._voter.certificates
                return digest not in known and not known.is_settled(digest)
            case Proposal():
                return self._is_near(incoming.message)
            case Effects():
                return self._proofs.are_of(incoming.peer, incoming.message)
            case ViewVote() | Batch() | Accept() | Refuse() | Get() | Got():
                return True
            case EpochDone() | EndEpoch() | Evidence() | Equivocation():
                return not self._closer.operations.holds(incoming.message)
            case AskEpoch() as ask:
                self._teller.answer(incoming.peer, ask)
        return False

    def _is_near(self, message: Message) -> bool:
        """False for a proposal too far ahead to be kept: an honest leader's, where this node is behind."""
        return not isinstance(message, Proposal) or message.view <= self._ordering.proposals_upto

    def _deliver(self, peer: bytes, message: Message) -> None:
        match message:
            case Get(wants):
                self._answers.put(peer, wants, is_guest=peer not in self._peers)
                return
            case Batch():
                self._executor.give(message)
            case ViewVote() if message.epoch == self.epoch:
                self._bearings.heard(peer)
            case Got(items) if self._bearings.shows_more(peer, items, self._application.tip().height):
                self._fall_behind()
                return
            case Got() if peer in self._reception.guests:
                return
            case Got(items):
                self._mending.give(message)
                for item in items:
                    match item:
                        case Batch():
                            self._executor.give(item)
                        case GotBlock(block, finalisation) if finalisation is not None:
                            # Of another epoch it isn't verified.
                            if finalisation.epoch == self.epoch and finalisation.digest == block.digest():
                                self._executor.finalised(finalisation)
        self._core.received(peer, message)
        self._room.set()

    def _prove(self, peer: bytes, found: Effects | EffectsCertificate) -> None:
        """Verified signatures of effects; of another epoch they aren't, and say nothing."""
        if found.epoch != self.epoch:
            return
        if isinstance(found, Effects):
            if self._proofs.are_of(peer, found):
                self._proofs.add(found)
        else:
            self._proofs.add_certificate(found)

    # What is missed

    def _ask_once(self, want: Want, peers: tuple[bytes, ...]) -> None:
        if isinstance(want, WantDigest) and want.what is What.BLOCK:
            self._walked.add(want.digest)
            if len(self._walked) > self._walk_max:
                self._fall_behind()
                return
        self._questions.ask_once(want, peers)

    def _final(self, final: Final) -> None:
        self._walked.clear()
        self._executor.put(final)
        if self._executor.waiting > UNEXECUTED_MAX:
            self._fall_behind()

    def _seem_behind(self, behind: Behind) -> None:
        """Others vote in the next epoch. One of them shows the last block of this one; who gets no further by
        that is behind indeed."""
        if self._ordering.ended is not None:
            return
        now_s, height = self._ctx.clock.monotonic(), self._ordering.final_height
        if self._seemed is None or self._seemed[0] != height:
            self._seemed = (height, now_s)
        elif now_s - self._seemed[1] > BEHIND_S:
            self._fall_behind()
            return
        self._questions.ask_once(WantViews(self.epoch, self._ordering.final_view, self.view), behind.peers)

    def _closes(self, closes: EpochCloses) -> None:
        self._draining.cancel()
        if closes.last_effects:
            self._applier.stop()

    def _fall_behind(self) -> None:
        if not self._behind.is_set():
            self._ctx.log.info("validator_behind", height=self._application.tip().height)
        self._behind.set()

    def _ask(self, peer: bytes, question: Get) -> None:
        self._post.put(peer, Stream.DISSEMINATION, encode(question))

    def _answer(self, peer: bytes, answer: Got) -> None:
        self._post.put(peer, Stream.BULK, encode(answer))

    def _keep_asking(self, want: Want, peers: tuple[bytes, ...]) -> None:
        """What isn't in memory may be in the log. Else peers are asked."""
        if isinstance(want, WantDigest) and want.what is What.BATCH:
            self._logged.find(want.digest, peers)
        else:
            self._ask_peers(want, peers)

    def _ask_for_batch(self, digest: Digest, peers: tuple[bytes, ...]) -> None:
        self._ask_peers(WantDigest(What.BATCH, digest), peers)

    def _batch_came(self, batch: Batch) -> None:
        """One that was in the log."""
        self._executor.give(batch)
        self._core.received(self._application.identity.node_id, Got((batch,)))

    def _ask_peers(self, want: Want, peers: tuple[bytes, ...]) -> None:
        self._questions.keep_asking(want, peers, lambda: self._wants(want))

    def _miss(self, certificate: CertificateOfBatch) -> None:
        signers = tuple(self._members[number] for number in numbers_of(certificate.bitmap))
        self._keep_asking(WantDigest(What.BATCH, certificate.header.digest()), signers)

    def _wants(self, want: Want) -> bool:
        if not isinstance(want, WantDigest):
            return False
        known = self._voter.certificates
        if want.what is What.BATCH:
            return known.wants_content(want.digest) or self._executor.needs(want.digest)
        return not known.is_held(want.digest) and not known.is_settled(want.digest)

    def _young(self, want: Want) -> Iterable[Item]:
        """What the machines hold of what is asked for."""
        found: Item | None = None
        match want:
            case WantViews(epoch, first, last) if epoch == self.epoch:
                return self._ordering.certificates(first, last)
            case WantViews(epoch) if self._base is not None and epoch == self._base.epoch:
                return (self._base,)
            case WantDigest(What.BLOCK, digest):
                block = self._ordering.block(digest)
                found = None if block is None else GotBlock(block)
            case WantDigest(What.BATCH, digest):
                found = self._voter.batch(digest)
            case WantDigest(What.BATCH_CERTIFICATE, digest):
                found = self._voter.certificates.get(digest)
            case WantDigest(What.EFFECTS, digest):
                found = self._proofs.answer(digest)
        return () if found is None else (found,)

    # The application

    def _check(self, check: Check) -> None:
        # The voter asks of one batch at a time, so there is room.
        self._checks.send_nowait(check)

    async def _examine(self) -> None:
        async for check in self._to_check:
            past = [batch for each in check.past if (batch := self._voter.batch(each)) is not None]
            examined = await self._application.examine(check.batch.transactions, past)
            for code in examined.refused.values():
                self._batch_refused.inc(code=code)
            self._core.tell_voter(BatchExamined(check.batch.digest(), examined))
            self._room.set()

    async def _weigh(self) -> None:
        """What clients' proofs are worth: asked when one comes, and after each block."""
        while True:
            await self._to_weigh.wait()
            self._to_weigh = trio.Event()
            height = self._application.tip().height
            asked = self._closer.operations.proofs.to_weigh(height)
            if asked:
                found = await self._application.weigh_proofs(tuple(asked.values()))
                self._core.weighed(asked, height, found)

    async def _gather(self) -> None:
        """Offer the builder what the mempool has, as long as it has room."""
        bounds = BatchBounds(
            count_max=GATHER_MAX,
            bytes_max=2**20,
            gas_max=self._batch_gas_max,
            seal_after_s=0.0,
        )
        with self._draining:
            while True:
                while self._builder.queued >= self._queue_max:
                    self._room = trio.Event()
                    await self._room.wait()
                data = await self._application.gather(bounds)
                examined = await self._application.examine(data, ())
                offered: list[Offered] = []
                refused: dict[int, Refused] = {}
                for index, (each, claim) in enumerate(zip(data, examined.claims, strict=True)):
                    code = examined.refused.get(index)
                    if code is not None and code not in PASSING_CODES:
                        refused[index] = _refusal(code)
                    else:
                        gas = self._application.measure((each,)).gas - self._gas_fold
                        offered.append(Offered(each, claim, gas))
                gone = sorted(refused)
                self._application.give_back(
                    [data[index] for index in gone], {at: refused[index] for at, index in enumerate(gone)}
                )
                self._core.tell_builder(Offer(tuple(offered)))

    def _returned(self, returned: Returned) -> None:
        if returned.code == "Closing":
            # It is the mempool's again when the next epoch begins.
            return
        refused = {0: _refusal(returned.code)} if returned.code else None
        self._application.give_back((returned.data,), refused)

    def _committed(self, committed: Committed) -> None:
        facts = committed.facts
        validators = self._application.next_validators(facts.height).digest()
        self._core.executed(
            BlockExecuted(facts.height, committed.batches, committed.used, committed.transactions),
            ExecutedBlock(facts.height, facts.state_root, facts.receipts_root, facts.base_price, validators),
            committed.final.view,
        )
        now_s = self._ctx.clock.monotonic()
        self._interval.observe((now_s - self._last_block_s) * 1000)
        self._last_block_s = now_s
        self._bearings.moved()
        self._height.set(facts.height)
        self._proofs.forget(committed.batches, committed.transactions)
        self._applier.resume()
        self._room.set()
        self._to_weigh.set()
        if committed.final.block.header.next_validators_digest != ZERO:
            self._ctx.log.info("epoch_left", epoch=self.epoch, height=facts.height)
            self.ended = True
            self._behind.set()


def _refusal(code: str) -> Refused:
    return Refused(code=code, field="batch", value=code, mend="validators refused it at the accept")


async def begin_validator(
    ctx: Context,
    config: "BftConfig",
    application: CertifyingApplication,
    store: KeyValueStore,
    transports: Callable[[], tuple[Transport, ...]],
    walk_max: int = WALK_MAX,
    early: EarlyMessages | None = None,
    hints: Hints | None = None,
) -> Validator:
    """A validator as its log and the chain say. Raises `LogMissing`, `StoreCorrupt`, `DecodeError`."""
    kept = KeptBlocks(store)
    tip = application.tip()
    number = await epoch_after(application)
    base = await kept.base(number)
    if base is None:
        if tip.height and not await kept.is_founded():
            raise LogMissing(
                "the folder has a chain, and nothing of what this validator said on it",
                f"height {tip.height}",
                "put the whole folder back, or give the node another identity: it might contradict itself",
            )
        base = await base_of(application, number)
        await kept.begin(base, application.facts(base.height) if base.height == tip.height else None)
        await forget_records(store, number)
        await kept.forget_operations(base.height)
    assert base.height <= tip.height, "an epoch starts at or below the tip"
    rows = [await kept.get(height) for height in range(tip.root_height, tip.height + 1)]
    application.recall([each.facts for each in rows])
    validators = application.validators(number)
    await check_set(application, base.height, validators)
    epoch = Epoch(
        chain_id=application.chain_id,
        number=number,
        validators=validators,
        base=base,
        base_finalisation=await finalisation_of(application, base.height),
        bounds=application.bounds,
        judge_operations=judged_operations(application, number, validators),
    )
    fresh = tip.height == base.height
    operations = await kept.operations(base.height + 1, tip.height)
    own = validators.number_of(application.identity.node_id)
    start = Start(
        epoch=epoch,
        own=own,
        tip=tip,
        tip_view=0 if fresh else rows[-1].view,
        executed=tuple(_executed(each.facts, application) for each in rows),
        ordered=frozenset() if fresh else await kept.ordered(base.height + 1, tip.height),
        done=done_of(operations),
        finalisation=None if fresh else rows[-1].finalisation,
    )
    ordering = await read_records(store, ORDERING, number)
    life = await kept.begin_life()
    validator = Validator(
        ctx,
        config,
        application,
        store,
        transports,
        start,
        life,
        walk_max,
        early or EarlyMessages(),
        hints or Hints(),
    )
    state = closing_state(operations, tip.height, own)
    done = await read_done(store, number)
    async with aclosing(scan_records(store, LOCKS, number)) as locks:
        await validator.restore(ordering, locks, state, done)
    return validator


def _executed(facts: ExecutedFacts, application: CertifyingApplication) -> ExecutedBlock:
    return ExecutedBlock(
        facts.height,
        facts.state_root,
        facts.receipts_root,
        facts.base_price,
        application.next_validators(facts.height).digest(),
    )
