"""The machines of one epoch, and the carrying out of what they say (CONS-80).

Steps don't overlap: what a machine is told while another's outputs are carried out waits in a queue. A
message leaves when the records that it rests on are durable; one to oneself is an event like any other.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

import attrs

from supervm.api import Context
from supervm.contracts.application import WeighedProofs
from supervm.plugins.consensus.bft.batch_events import (
    BlockExecuted,
    BlockFinal,
    BuilderEvent,
    Certified,
    Contested,
    Doubled,
    EpochCloses,
    Leaders,
    Learned,
    Paced,
    Returned,
    VoterEvent,
)
from supervm.plugins.consensus.bft.batches import BatchVoter
from supervm.plugins.consensus.bft.building import Builder
from supervm.plugins.consensus.bft.driver.closer import Closer
from supervm.plugins.consensus.bft.driver.halting import Halted
from supervm.plugins.consensus.bft.driver.journal import Journal
from supervm.plugins.consensus.bft.driver.shortening import LockRows, OrderingRows
from supervm.plugins.consensus.bft.driver.timers import Timers
from supervm.plugins.consensus.bft.epochs.accepting import AcceptWatch
from supervm.plugins.consensus.bft.epochs.closing import ClosingEvent
from supervm.plugins.consensus.bft.events import (
    ALL,
    Apply,
    Behind,
    CancelTimer,
    Check,
    EpochEnded,
    Event,
    ExecutedBlock,
    Fetch,
    Final,
    Halt,
    InView,
    Log,
    Logged,
    Now,
    Offended,
    Received,
    Refused,
    Send,
    SetTimer,
    Stream,
    TimedOut,
    Work,
)
from supervm.plugins.consensus.bft.fetching import GotBlock, Want
from supervm.plugins.consensus.bft.messages import (
    Accept,
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
from supervm.plugins.consensus.bft.records import Entered
from supervm.plugins.consensus.bft.simplex import Ordering
from supervm.types.certificate import Certificate, VoteKind, numbers_of
from supervm.types.digests import Digest

ORDERING_TIMER, BUILDER_TIMER, REST_TIMER = "ordering ", "builder ", "rest"


@attrs.define(kw_only=True)
class Hands:
    """What carries out outputs that reach beyond the machines. None of these blocks.

    `post`: to whom, on which stream, a frame, and whether it may be late.
    """

    post: Callable[[bytes, Stream, bytes, bool], None]
    ask_once: Callable[[Want, tuple[bytes, ...]], None]
    keep_asking: Callable[[Want, tuple[bytes, ...]], None]
    check: Callable[[Check], None]
    apply: Callable[[Apply], None]
    final: Callable[[Final], None]
    returned: Callable[[Returned], None]
    contested: Callable[[Contested], None]
    effects: Callable[[bytes, Effects | EffectsCertificate], None]
    signed: Callable[[Effects], None]
    closes: Callable[[EpochCloses], None]
    behind: Callable[[Behind], None]
    weigh: Callable[[], None]


class _Gate:
    """Messages of one machine that wait for its records to be durable."""

    def __init__(self) -> None:
        self.durable = 0
        self._held: deque[Send] = deque()

    def passes(self, send: Send) -> bool:
        """Whether it may leave now; else it is held."""
        if send.after <= self.durable:
            return True
        self._held.append(send)
        return False

    def opened(self, number: int) -> list[Send]:
        """What may leave once all records up to this one are durable."""
        self.durable = max(self.durable, number)
        free = [send for send in self._held if send.after <= self.durable]
        self._held = deque(send for send in self._held if send.after > self.durable)
        return free


class Core:
    """The machines of one epoch. `tell_*` take an event and carry out what comes of it, and of that."""

    def __init__(
        self,
        ctx: Context,
        *,
        own: bytes,
        peers: tuple[bytes, ...],
        ordering: Ordering,
        voter: BatchVoter,
        builder: Builder,
        closer: Closer,
        ordering_journal: Journal,
        voter_journal: Journal,
        hands: Hands,
        fast_rest_us: int = 0,
    ) -> None:
        self.ordering, self.voter, self.builder, self.closer = ordering, voter, builder, closer
        self._ctx = ctx
        self._own = own
        self._peers = peers
        self._hands = hands
        self._fast_rest_us = fast_rest_us
        self._resting = False
        self._ordering_journal, self._voter_journal = ordering_journal, voter_journal
        self.ordering_rows, self.lock_rows = (
            OrderingRows(ordering_journal),
            LockRows(voter_journal, voter.table.claim),
        )
        self._ordering_gate, self._voter_gate = _Gate(), _Gate()
        self._watch = AcceptWatch(ordering.epoch.number)
        self.timers = Timers(ctx, self._fired)
        self._todo: deque[Callable[[], None]] = deque()
        self._busy = False
        self.halted = ""
        self._leaders: tuple[bytes, ...] = ()
        self._clock_behind = False
        self.owed: dict[Digest, None] = {}
        """This builder's certified batches that no committed block holds; bounded by the voter's."""
        metrics = ctx.metrics
        self._view = metrics.gauge("supervm_consensus_view", "View of this validator in its epoch")
        self._view_changes = metrics.counter(
            "supervm_consensus_view_changes_total", "Views that ended without a final block"
        )
        self._refused = metrics.counter(
            "supervm_consensus_proposals_refused_total", "Proposals that this validator refused", ("rule",)
        )
        self._offences = metrics.counter(
            "supervm_consensus_offences_total", "Contradicting votes of validators", ("offence",)
        )
        self._ahead = metrics.gauge(
            "supervm_consensus_proposal_ahead_ms",
            "Timestamp of the last proposal that came, minus this node's clock; above 500 it has to wait",
        )
        self._certified = metrics.counter(
            "supervm_consensus_batches_certified_total", "Batches of this builder that were certified"
        )

    # What it is told

    def tell_ordering(self, event: Event) -> None:
        self._do(lambda: self._carry_ordering(self.ordering.step(event, self.now())))

    def tell_voter(self, event: VoterEvent) -> None:
        self._do(lambda: self._step_voter(event))

    def tell_builder(self, event: BuilderEvent) -> None:
        self._do(lambda: self._carry_builder(self.builder.step(event, self.now())))

    def received(self, peer: bytes, message: Message) -> None:
        """A verified message."""
        match message:
            case ViewVote() | Certificate():
                self.tell_ordering(Received(peer, message))
            case Proposal():
                self.tell_ordering(Received(peer, message))
                self._do(self._look_at_clock)
            case Accept() | Refuse():
                if isinstance(message, Accept):
                    self._accepted(message)
                self.tell_builder(Received(peer, message))
            case EpochDone() | EndEpoch():
                if self.closer.take(message):
                    self.tell_ordering(Work())
            case Equivocation():
                self._doubled(message, own=False)
            case Evidence():
                self.accuse(message)
            case Batch() | BatchCertificate() | Get():
                self.tell_voter(Received(peer, message))
            case Effects():
                self._hands.effects(peer, message)
            case Got(items):
                for item in items:
                    if isinstance(item, GotBlock | Certificate):
                        self.tell_ordering(Received(peer, item))
                    elif isinstance(item, Effects | EffectsCertificate):
                        self._hands.effects(peer, item)
                if any(isinstance(item, Batch | BatchCertificate) for item in items):
                    self.tell_voter(Received(peer, message))

    def _look_at_clock(self) -> None:
        lag = self.ordering.clock_lag
        self._ahead.set(lag.ahead_ms)
        if bool(lag.behind_ms) != self._clock_behind:
            self._clock_behind = bool(lag.behind_ms)
            if lag.behind_ms:
                self._ctx.log.warning("clock_behind", behind_ms=lag.behind_ms)
            else:
                self._ctx.log.info("clock_agrees", ahead_ms=lag.ahead_ms)

    def accuse(self, evidence: Evidence) -> None:
        """Somebody contradicted itself: that waits for a block, and all are told, once (CONS-70)."""
        for send in self.closer.accuse(evidence):
            self._send(send)
            self.tell_ordering(Work())

    # Who accepts two transactions on one lock

    def _doubled(self, proof: Equivocation, own: bool) -> None:
        """A client signed twice: what that is worth is asked. Where this validator saw it itself (`own`) that
        is enough to look for who accepted both."""
        if self.closer.take(proof, own):
            if own:
                self._watch_for(proof)
            self._hands.weigh()

    def weighed(self, asked: Mapping[bytes, bytes], height: int, found: WeighedProofs) -> None:
        """What the application says of clients' proofs, as `Proofs.to_weigh` gave them for this height."""

        def take() -> None:
            outcome = self.closer.operations.proofs.weighed(asked, height, found)
            for proof in outcome.noted:
                self._mark(proof)
            for proof, own in outcome.fresh:
                self._mark(proof)
                if own:
                    self._send(Send(self._leaders, proof, Stream.VOTES))
                else:
                    self._watch_for(proof)

        self._do(take)

    def _watch_for(self, proof: Equivocation) -> None:
        self._accuse_all(self._watch.doubled(proof, self._known_accepts()))

    def _mark(self, proof: Equivocation) -> None:
        """A proof that counts: its signer gets no further lock in this epoch."""
        if proof.account is not None:
            self.tell_voter(Doubled(proof.account))

    def _known_accepts(self) -> Iterator[tuple[Batch, Mapping[int, bytes]]]:
        yield from self.builder.accepts()
        for certificate in self.voter.certificates.all():
            batch = self.voter.batch(certificate.header.digest())
            if batch is not None:
                yield batch, _accepts_of(certificate)

    def _accepted(self, accept: Accept) -> None:
        """Before the builder hears of it: one that makes the certificate is the last of its batch."""
        if self._watch.watches and accept.epoch == self.ordering.epoch.number:
            batch = self.builder.batch_of(accept.batch)
            if batch is not None:
                self._accuse_all(self._watch.accepted(batch, {accept.validator: accept.signature}))

    def offended(self, evidence: Evidence) -> None:
        """Somebody was seen to contradict itself."""
        self._do(lambda: self._accuse_all((evidence,)))

    def _accuse_all(self, found: Iterable[Evidence]) -> None:
        for evidence in found:
            self._offences.inc(offence=evidence.offence.name.lower())
            self.accuse(evidence)

    def end_epoch(self) -> None:
        """The operator wants the epoch to end: all are told, and whoever has a quorum's word places it."""

        def ask() -> None:
            for send in self.closer.end():
                self._send(send)
                if isinstance(send.message, EndEpoch) and self.closer.take_own():
                    self.tell_ordering(Work())

        self._do(ask)

    def executed(self, event: BlockExecuted, facts: ExecutedBlock | None, view: int) -> None:
        """A final block is executed and durable. `facts` is None where ordering knows them already."""
        for batch in event.batches:
            self.owed.pop(batch, None)
        self.tell_voter(event)
        self.tell_builder(event)
        if facts is not None:
            self.tell_ordering(facts)
        self._do(lambda: self.ordering_rows.committed(view))

    def begin(self, outputs: Iterable[object]) -> None:
        """Carry out what a machine said when it was rebuilt."""
        self._do(lambda: self._carry_voter(outputs))

    def begin_ordering(self, outputs: Iterable[object]) -> None:
        self._do(lambda: self._carry_ordering(outputs))

    def begin_closing(self, outputs: Iterable[EpochCloses | Send]) -> None:
        self._do(lambda: self._carry_closing(outputs))

    def tell_closing(self, event: ClosingEvent) -> None:
        self._do(lambda: self._carry_closing(self.closer.step(event, self.now())))

    def closing_durable(self, number: int) -> None:
        self._do(lambda: self._carry_closing(self.closer.durable(number, self.now())))

    def ordering_durable(self, number: int) -> None:
        for send in self._ordering_gate.opened(number):
            self._send(send)
        self.tell_ordering(Logged(number))

    def voter_durable(self, number: int) -> None:
        for send in self._voter_gate.opened(number):
            self._send(send)

    def now(self) -> Now:
        clock = self._ctx.clock
        return Now(int(clock.monotonic() * 1_000_000), clock.wall_ms())

    # One step after the other

    def _do(self, step: Callable[[], None]) -> None:
        self._todo.append(step)
        if self._busy:
            return
        self._busy = True
        try:
            while self._todo and not self.halted:
                self._todo.popleft()()
        finally:
            self._busy = False

    def _fired(self, name: str) -> None:
        if name == REST_TIMER:
            self._resting = False
            self._rest()
            self.tell_ordering(Work())
        elif name.startswith(ORDERING_TIMER):
            self.tell_ordering(TimedOut(name.removeprefix(ORDERING_TIMER)))
        else:
            self.tell_builder(TimedOut(name.removeprefix(BUILDER_TIMER)))

    def _step_voter(self, event: VoterEvent) -> None:
        before = self.voter.duties_count
        self._carry_voter(self.voter.step(event, self.now()))
        if self.voter.duties_count != before:
            self._rest()
            self.tell_ordering(Work())

    def _rest(self) -> None:
        """What waits for a block until ordering has rested is looked at again then."""
        left_us = self._rest_left_us()
        if left_us and not self._resting and self.voter.duties_count:
            self._resting = True
            self.timers.set(REST_TIMER, left_us)

    def _rest_left_us(self) -> int:
        last_us = self.ordering.last_proposal_us
        return 0 if last_us is None else max(0, last_us + self._fast_rest_us - self.now().monotonic_us)

    def work(self) -> Iterable[Digest]:
        """The batches for which a block is to be made now."""
        return self.voter.work(is_resting=self._rest_left_us() > 0)

    # What they say

    def _carry_ordering(self, outputs: Iterable[object]) -> None:
        for output in outputs:
            match output:
                case Log(number, record):
                    if isinstance(record, Entered) and record.certificate.kind is VoteKind.NULLIFY:
                        self._view_changes.inc()
                    self.ordering_rows.logged(self._ordering_journal.append(number, record), record)
                case Send():
                    if self._ordering_gate.passes(output):
                        self._send(output)
                case SetTimer(name, delay_us):
                    self.timers.set(ORDERING_TIMER + name, delay_us)
                case CancelTimer(name):
                    self.timers.cancel(ORDERING_TIMER + name)
                case Fetch(want, peers):
                    self._hands.ask_once(want, peers)
                case Final(block, _, _):
                    batches = tuple(each.header.digest() for each in block.body.certificates)
                    self._hands.final(output)
                    self.tell_voter(BlockFinal(block.header.height, batches))
                    self.tell_closing(output)
                case InView():
                    self._in_view(output)
                case Offended(evidence):
                    self._offences.inc(offence=evidence.offence.name.lower())
                    self._ctx.log.warning("offence", offence=evidence.offence.name.lower())
                    self.accuse(evidence)
                case Refused(view, leader, rule, problem):
                    self._refused.inc(rule=rule)
                    self._ctx.log.warning(
                        "proposal_refused", view=view, leader=leader.hex(), rule=rule, problem=problem
                    )
                case Halt(reason):
                    self._halt(reason)
                case Behind():
                    self._hands.behind(output)
                case EpochEnded():
                    self._ctx.log.info("epoch_ended", epoch=self.ordering.epoch.number)
                case _:
                    raise AssertionError(f"ordering doesn't say {output!r}")

    def _carry_voter(self, outputs: Iterable[object]) -> None:
        for output in outputs:
            match output:
                case Log(number, record):
                    self.lock_rows.logged(self._voter_journal.append(number, record), record)
                case Send(message=Equivocation() as proof):
                    self._doubled(proof, own=True)
                case Send():
                    if self._voter_gate.passes(output):
                        self._send(output)
                case Fetch(want, peers):
                    self._hands.keep_asking(want, peers)
                case Check():
                    self._hands.check(output)
                case Apply():
                    self._hands.apply(output)
                case Learned(certificate, batch, _):
                    if self._watch.watches:
                        self._accuse_all(self._watch.accepted(batch, _accepts_of(certificate)))
                    self.tell_builder(output)
                case Halt(reason):
                    self._halt(reason)
                case _:
                    raise AssertionError(f"a voter doesn't say {output!r}")

    def _carry_closing(self, outputs: Iterable[EpochCloses | Send]) -> None:
        for output in outputs:
            match output:
                case Send():
                    self._send(output)
                case EpochCloses(last_effects):
                    self._ctx.log.info("epoch_closes", epoch=self.ordering.epoch.number, last=last_effects)
                    self.tell_voter(output)
                    self.tell_builder(output)
                    self.tell_ordering(Work())
                    self._hands.closes(output)
                    if last_effects:
                        # After the voter has taken it: what it then holds are its duties.
                        self._do(lambda: self._carry_closing(self.closer.stopped(self.now())))

    def _carry_builder(self, outputs: Iterable[object]) -> None:
        for output in outputs:
            match output:
                case Send():
                    self._send(output)
                case SetTimer(name, delay_us):
                    self.timers.set(BUILDER_TIMER + name, delay_us)
                case CancelTimer(name):
                    self.timers.cancel(BUILDER_TIMER + name)
                case Returned():
                    self._hands.returned(output)
                case Contested():
                    self._hands.contested(output)
                case Certified(batch):
                    self._certified.inc()
                    self.owed[batch] = None
                case _:
                    raise AssertionError(f"a builder doesn't say {output!r}")

    def _in_view(self, entered: InView) -> None:
        self._view.set(entered.view)
        nodes = self._leaders = tuple(dict.fromkeys((entered.leader, entered.next_leader)))
        self.tell_voter(Leaders(entered.epoch, entered.view, nodes))
        self.tell_builder(Paced(self.ordering.delay_us))
        self.tell_closing(entered)

    def _send(self, send: Send) -> None:
        if isinstance(send.message, Effects):
            self._hands.signed(send.message)
        to = self._peers if send.to is ALL else send.to
        assert not isinstance(to, type(ALL))
        others = [each for each in to if each != self._own]
        if len(others) < len(to):
            self._do(lambda: self.received(self._own, send.message))
        if others:
            stream = Stream.BULK if isinstance(send.message, Got) else send.stream
            frame = encode(send.message)
            late = self._is_relayed(send.message)
            for each in others:
                self._hands.post(each, stream, frame, late)

    def _is_relayed(self, message: Message) -> bool:
        """Whether a message only makes sure of what its receivers most likely know: the certificate of votes
        that went to all, or another builder's of a batch. Nullifications are said at once."""
        match message:
            case Certificate():
                return message.kind is not VoteKind.NULLIFY
            case BatchCertificate(header):
                return header.builder != self._own
        return False

    def _halt(self, reason: str) -> None:
        self.halted = self.halted or reason
        mend = "keep the folder; compare this node's chain with others', with supervm verify"
        raise Halted("consensus halted", reason, mend)


def _accepts_of(certificate: BatchCertificate) -> dict[int, bytes]:
    """The accepts that a certificate is made of, by validator."""
    return dict(zip(numbers_of(certificate.bitmap), certificate.signatures, strict=True))
