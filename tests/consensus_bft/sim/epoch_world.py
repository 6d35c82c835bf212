"""The world over several epochs: sets change, nodes are off for epochs, lose disks, catch up and rejoin.

Beside ordering each node runs what closes an epoch, block sync, and, once its disk is lost, what keeps it
silent. Members of a set are the first so many nodes, so a validator's number is its node's in every epoch.
"""

import random
import sys
from collections.abc import Iterable

import attrs

from supervm.plugins.consensus.bft.batch_events import EpochCloses
from supervm.plugins.consensus.bft.epochs.closing import Closing, ClosingFacts, ClosingState, EffectsStopped
from supervm.plugins.consensus.bft.epochs.handover import next_epoch
from supervm.plugins.consensus.bft.events import (
    Behind,
    CancelTimer,
    EpochEnded,
    Event,
    ExecutedBlock,
    Final,
    Halt,
    InView,
    Log,
    Logged,
    Output,
    Received,
    Send,
    SetTimer,
    TimedOut,
)
from supervm.plugins.consensus.bft.fetching import Absent, Get, Got, GotBlock, Item, WantBlocks, WantDigest
from supervm.plugins.consensus.bft.messages import AskEpoch, TellEpoch
from supervm.plugins.consensus.bft.proposals import Epoch
from supervm.plugins.consensus.bft.records import DidEpoch, SilentBefore
from supervm.plugins.consensus.bft.simplex import Ordering, Settings, Start
from supervm.plugins.consensus.bft.sync.events import (
    CaughtUp,
    Committed,
    Dropped,
    Look,
    PeersNow,
    Ready,
    SyncOutput,
    Verified,
    Verify,
)
from supervm.plugins.consensus.bft.sync.machine import BlockSync, SyncSettings
from supervm.plugins.consensus.bft.sync.rejoining import (
    CatchUp,
    EpochsFollow,
    Rejoin,
    RejoinOutput,
    VotesFrom,
    tell_epoch,
)
from supervm.plugins.consensus.bft.votes import EpochDone, Proposal, ViewVote
from supervm.types.batch import Batch, BatchHeader
from supervm.types.block import Block
from supervm.types.certificate import BatchCertificate, VoteKind, bitmap_of
from supervm.types.digests import ZERO
from supervm.types.validators import Validator, ValidatorSet
from tests.consensus_bft.sim.oracles import Violation
from tests.consensus_bft.sim.plan import SECOND, Fault, Mishap, Plan, Trick
from tests.consensus_bft.sim.world import (
    CHAIN,
    Machine,
    Node,
    WaitingWork,
    World,
    done_of,
    genesis_facts,
    hash32,
    node_id,
    signature,
    tip_of_block,
)

NEVER = 2**62
INTERVAL_MAX_US = 300_000


@attrs.frozen(kw_only=True)
class EpochPlan(Plan):
    """`sets`: by epoch from 1 on, the weights of the first so many nodes; the last one goes on for ever.

    `lost`: (node, from, to) in microseconds: its disk is lost at the first and it comes back at the second.
    """

    sets: tuple[tuple[int, ...], ...]
    epoch_blocks: int = 14
    margin: int = 4
    lost: tuple[tuple[int, int, int], ...] = ()
    withheld: float = 0.0
    """How many of the certified batches their clients keep back until the epoch closes."""


@attrs.define(eq=False)
class Side:
    """What a node has beside its ordering. `votes_from` and `did` are on its disk."""

    epoch: Epoch
    closing: Closing
    sync: BlockSync
    rejoin: Rejoin | None = None
    votes_from: int = 0
    did: DidEpoch | None = None
    stopped: bool = False
    stale: bool = False
    generation: int = 0
    timers: dict[str, int] = attrs.field(factory=dict)
    held_back: list[Send] = attrs.field(factory=list)


class EpochWorld(World):
    """One run of a plan over epochs. `closing`, `rejoin`: machines that a test may plant bugs in."""

    plan: EpochPlan

    def __init__(
        self,
        plan: EpochPlan,
        machine: Machine = Ordering,
        keep_trace: bool = False,
        *,
        closing: type[Closing] = Closing,
        rejoin: type[Rejoin] = Rejoin,
    ) -> None:
        self.sets = [
            ValidatorSet(
                tuple(Validator(node_id(n), bytes([n + 1]) * 32, weight) for n, weight in enumerate(weights))
            )
            for weights in plan.sets
        ]
        self.by_digest = {each.digest(): each for each in self.sets}
        self.effects: dict[tuple[int, bytes], set[int]] = {}
        self.sides: dict[int, Side] = {}
        self.rejoined: set[int] = set()
        self.silent_upto: dict[int, int] = {}
        """Who lost its disk, and the last epoch in which it had said anything."""
        self.withheld: list[BatchCertificate] = []
        self._closing_type, self._rejoin_type = closing, rejoin
        super().__init__(plan, machine, keep_trace)
        first = attrs.evolve(self.epoch, validators=self.set_of(1))
        self.epoch = first
        for node in self.nodes:
            self.sides[node.number] = Side(first, self._closing(node, first), self._new_sync(node))
            node.ordering = self._of_storage(node)
        # What is true of every block, whoever is asked.
        self.oracles.roots[0] = genesis_facts().state_root

    def set_of(self, epoch: int) -> ValidatorSet:
        return self.sets[min(epoch, len(self.sets)) - 1]

    def kind_proving(self, parent: bytes) -> VoteKind:
        found = next((b for b in reversed(self.oracles.final.values()) if b.digest() == parent), None)
        last = found is not None and found.header.next_validators_digest != ZERO
        return VoteKind.FINALIZE if last else VoteKind.NOTARIZE

    def facts_after(self, before: ExecutedBlock, block: Block) -> ExecutedBlock:
        facts = super().facts_after(before, block)
        following = self.set_of(block.header.epoch + 1).digest()
        return attrs.evolve(facts, next_validators=following)

    # Machines from what storage holds.

    def _epoch_of(self, node: Node) -> Epoch:
        """The epoch of the block that follows a node's chain."""
        epoch = self.epoch
        for final in node.chain:
            header = final.block.header
            if header.next_validators_digest != ZERO:
                assert final.certificate is not None, "an epoch's last block has its own finalisation"
                following = self.by_digest[header.next_validators_digest]
                epoch = next_epoch(epoch, final.block, final.certificate, following)
        return epoch

    def _of_storage(self, node: Node) -> Ordering:
        """Everything of the epoch that follows the chain, anew."""
        side = self.sides[node.number]
        side.epoch = epoch = self._epoch_of(node)
        chain = [final for final in node.chain if final.block.header.epoch == epoch.number]
        blocks = [final.block for final in chain]
        tip = tip_of_block(blocks[-1]) if blocks else epoch.base
        start = Start(
            epoch=epoch,
            own=self._own(node, epoch),
            tip=tip,
            tip_view=chain[-1].view if chain else 0,
            executed=tuple(each for each in node.facts if each.height >= tip.root_height),
            ordered=frozenset(c.header.digest() for b in blocks for c in b.body.certificates),
            done=frozenset(done_of(blocks)),
            finalisation=chain[-1].certificate if chain else None,
        )
        pool = node.pool
        current = {d: c for d, c in pool.certificates.items() if c.header.epoch == epoch.number}
        pool.certificates, pool.done, pool.closing = current, {}, False
        side.stopped = False
        side.held_back = []
        side.closing = self._closing(node, epoch)
        return self._ordering(node.number, pool, start)

    def _own(self, node: Node, epoch: Epoch) -> int | None:
        side = self.sides[node.number]
        is_member = node.number < len(epoch.validators.members)
        return node.number if is_member and epoch.number >= side.votes_from else None

    def _closing(self, node: Node, epoch: Epoch) -> Closing:
        facts = ClosingFacts(
            chain_id=CHAIN,
            epoch=epoch.number,
            base_height=epoch.base.height,
            epoch_blocks=self.plan.epoch_blocks,
            own=self._own(node, epoch) if node.number in self.sides else node.number,
            margin=self.plan.margin,
        )

        def duties() -> list[bytes]:
            placed = {
                each.header.digest()
                for final in [*node.chain, *node.to_execute]
                for each in final.block.body.certificates
            }
            return [digest for digest in node.pool.certificates if digest not in placed]

        return self._closing_type(facts, lambda message: signature(node.number, message), duties)

    def _ordering(self, number: int, pool: WaitingWork, start: Start | None = None) -> Ordering:
        if start is None:
            # Replaced as soon as the sets are known.
            start = Start(
                epoch=self.epoch, own=number, tip=self.epoch.base, tip_view=0, executed=(genesis_facts(),)
            )
        min_us = 0 if number in self.hostile else 50_000
        settings = Settings(interval_min_us=min_us, interval_max_us=INTERVAL_MAX_US)
        return self.machine(start, lambda message: signature(number, message), pool, settings)

    def _begin_machine(self, node: Node) -> None:
        side = self.sides[node.number]
        self.note(node.number, f"epoch {side.epoch.number} from height {len(node.chain)}")
        now = self.clock(node.number)
        self._carry_out(node, node.ordering.start(node.durable, now))
        ends = [
            final.block.header.height
            for final in node.chain
            if final.block.header.epoch == side.epoch.number
            and any(op[0] == 15 for op in final.block.body.system_operations)
        ]
        own_done = node.number in done_of(
            [f.block for f in node.chain if f.block.header.epoch == side.epoch.number]
        )
        state = ClosingState(
            final_height=len(node.chain), end_epoch_height=min(ends, default=None), done=own_done
        )
        self._carry_closing(node, side.closing.start(state, side.did))
        if side.rejoin is not None:
            following = EpochsFollow(side.epoch.number, side.epoch.validators)
            self._carry_rejoin(node, side.rejoin.step(following, now))

    def start(self) -> None:
        for number, begin, end in self.plan.lost:
            self.at(begin, lambda n=number: self._lose(self.nodes[n]))  # type: ignore[misc]
            self.at(end, lambda n=number: self._restart(self.nodes[n]))  # type: ignore[misc]
        super().start()

    def _lose(self, node: Node) -> None:
        """The node dies, and its disk with it."""
        self._crash(node)
        side = self.sides[node.number]
        node.durable, node.chain, node.facts = [], [], [genesis_facts()]
        node.pool.certificates.clear()
        side.votes_from, side.did = NEVER, None
        said = [epoch for number, epoch, _, _ in self.oracles.said if number == node.number]
        self.silent_upto[node.number] = max(said, default=0)
        self.note(node.number, "loses its disk")

    def _crash(self, node: Node) -> None:
        super()._crash(node)
        side = self.sides[node.number]
        side.generation += 1
        side.held_back = []
        side.stale = False

    def _restart(self, node: Node) -> None:
        if node.up:
            return
        node.up = True
        self.note(node.number, "restarts")
        side = self.sides[node.number]
        node.ordering = self._of_storage(node)
        side.sync = self._new_sync(node)
        side.rejoin = None
        if side.votes_from == NEVER:
            challenge = hash32(b"challenge", bytes([node.number, side.generation % 256]))
            newest = EpochsFollow(side.epoch.number, side.epoch.validators)
            side.rejoin = self._rejoin_type(newest, node_id(node.number), challenge)
            self._carry_rejoin(node, side.rejoin.start())
        self._begin_machine(node)
        others = tuple(node_id(n) for n in range(self.plan.count) if n != node.number)
        self._tell_sync(node, PeersNow(others))
        self._tell_sync(node, Look())

    def _anew(self, node: Node) -> None:
        """Ordering begins again from storage, as after a restart; its log is flushed first."""
        node.life += 1
        node.durable += node.unsynced
        node.unsynced, node.held_back, node.timers = [], [], {}
        node.syncing = False
        node.durable_number = 0
        self.sides[node.number].stale = False
        node.ordering = self._of_storage(node)
        self._begin_machine(node)

    # What machines say.

    def _carry_out(self, node: Node, outputs: Iterable[Output]) -> None:
        side = self.sides[node.number]
        for output in outputs:
            match output:
                case EpochEnded():
                    pass
                case Behind():
                    self._tell_sync(node, Look())
                case InView():
                    super()._carry_out(node, [output])
                    self._carry_closing(node, side.closing.step(output, self.clock(node.number)))
                case _:
                    super()._carry_out(node, [output])

    def _finalise(self, node: Node, final: Final) -> None:
        height = final.block.header.height
        if height != len(node.chain) + len(node.to_execute) + 1:
            return
        fresh = height not in self.oracles.final
        super()._finalise(node, final)
        side = self.sides[node.number]
        if final.block.header.epoch == side.epoch.number:
            self._carry_closing(node, side.closing.step(final, self.clock(node.number)))
        if fresh and final.block.header.next_validators_digest != ZERO and node.number not in self.hostile:
            self._check_effects(final.block.header.epoch)

    def _check_effects(self, epoch: int) -> None:
        """What is final by effects is in the chain before its epoch ends (CONS-52)."""
        members = self.set_of(epoch).members
        hostile = [number for number in self.hostile if number < len(members)]
        for (at, digest), signers in self.effects.items():
            if at != epoch or digest in self.oracles.batches:
                continue
            weight = sum(members[number].weight for number in signers.union(hostile))
            if self.set_of(epoch).is_quorum(weight):
                raise Violation("effects", f"what is final by effects in epoch {epoch} isn't in its blocks")

    def committed(self, node: Node, final: Final) -> None:
        side = self.sides[node.number]
        header = final.block.header
        if header.next_validators_digest != ZERO or (side.stale and not node.to_execute):
            self._anew(node)
        epoch = side.epoch
        committed = Committed(header.height, final.block.digest(), epoch.number, epoch.validators)
        self._tell_sync(node, committed)

    # Closing.

    def _carry_closing(self, node: Node, outputs: Iterable[object]) -> None:
        side = self.sides[node.number]
        for output in outputs:
            match output:
                case EpochCloses(last_effects):
                    node.pool.closing = True
                    self._show_withheld(side.epoch.number)
                    if last_effects:
                        side.stopped = True
                        stopped = side.closing.step(EffectsStopped(), self.clock(node.number))
                        self._carry_closing(node, stopped)
                case Log(_, record):
                    assert isinstance(record, DidEpoch), "closing logs nothing else"
                    self._log_done(node, record)
                case Send(after=after) if after and side.did is None:
                    side.held_back.append(output)
                case Send():
                    self._send_done(node, output)

    def _log_done(self, node: Node, record: DidEpoch) -> None:
        side, generation, closing = self.sides[node.number], self.sides[node.number].generation, None
        closing = side.closing

        def durable() -> None:
            if side.generation != generation or side.closing is not closing:
                return
            side.did = record
            for send in side.held_back:
                self._send_done(node, send)
            side.held_back = []
            self._carry_closing(node, side.closing.step(Logged(1), self.clock(node.number)))

        side.did = None
        self.at(self.now_us + self.between(self.plan.sync_us), durable)

    def _send_done(self, node: Node, send: Send) -> None:
        assert isinstance(send.message, EpochDone), "closing says nothing else"
        if node.number not in self.hostile:
            self._check_done(node, send.message)
        for to in send.to if isinstance(send.to, tuple) else ():
            if to == node_id(node.number):
                self._take_work(node, send.message)
            else:
                self.post(node.number, to[0] - 1, send.message)

    def _check_done(self, node: Node, done: EpochDone) -> None:
        key = (node.number, done.epoch, VoteKind.EPOCH_DONE, 0)
        self.oracles.said.setdefault(key, b"")
        self._check_silence(node, done.epoch)

    def _check_silence(self, node: Node, epoch: int) -> None:
        if epoch <= self.silent_upto.get(node.number, 0):
            raise Violation(
                "silence", f"{node.number} votes in epoch {epoch}, in which it had before its loss"
            )

    def _let_go(self, node: Node, send: Send) -> None:
        if isinstance(send.message, ViewVote | Proposal) and node.number not in self.hostile:
            self._check_silence(node, send.message.epoch)
        super()._let_go(node, send)

    # Sync and rejoining.

    def _new_sync(self, node: Node) -> BlockSync:
        epoch = self._epoch_of(node) if node.number in self.sides else self.epoch
        digest = node.chain[-1].block.digest() if node.chain else self.epoch.base.digest
        tip = Committed(len(node.chain), digest, epoch.number, epoch.validators)
        settings = SyncSettings(window_blocks=32, blocks_asked=8, hedge_us=500_000, answer_us=2_000_000)
        return BlockSync(CHAIN, tip, settings)

    def _tell_sync(self, node: Node, event: object) -> None:
        side = self.sides[node.number]
        outputs = side.sync.step(event, self.clock(node.number))  # type: ignore[arg-type]
        for output in outputs:
            self._carry_sync(node, output)

    def _carry_sync(self, node: Node, output: SyncOutput) -> None:
        side = self.sides[node.number]
        match output:
            case Send(to, message):
                for each in to if isinstance(to, tuple) else ():
                    self.post(node.number, each[0] - 1, message)
            case SetTimer(name, delay_us):
                self._side_timer(node, name, delay_us)
            case CancelTimer(name):
                side.timers[name] = side.timers.get(name, 0) + 1
            case Verify(ticket, certificates, validators):
                right = all(self.is_signed(each, validators) for each in certificates)
                self._later(node, self.between((100, 5_000)), Verified(ticket, right))
            case Ready(block, view, certificate):
                self.note(node.number, f"synced {block.header.height}")
                self._finalise(node, Final(Block(block.header, block.body), view, certificate))
            case Dropped(peer, reason, lied):
                self.note(node.number, f"drops {peer[0] - 1}: {reason}")
                if lied and peer[0] - 1 not in self.hostile and node.number not in self.hostile:
                    raise Violation("slander", f"{node.number} says that {peer[0] - 1} lied: {reason}")
            case CaughtUp(height):
                self.note(node.number, f"caught up at {height}")
                side.stale = node.ordering.final_height < height
                if side.stale and not node.to_execute and not node.busy:
                    self._anew(node)
            case Halt(reason):
                if node.number not in self.hostile:
                    raise Violation("halt", f"{node.number} in sync: {reason}")

    def _side_timer(self, node: Node, name: str, delay_us: int) -> None:
        side = self.sides[node.number]
        side.timers[name] = token = side.timers.get(name, 0) + 1
        generation = side.generation

        def fire() -> None:
            if side.timers.get(name) == token and side.generation == generation and node.up:
                if side.rejoin is not None:
                    self._carry_rejoin(node, side.rejoin.step(TimedOut(name), self.clock(node.number)))
                self._tell_sync(node, TimedOut(name))

        self.at(self.now_us + delay_us, fire)

    def _later(self, node: Node, delay_us: int, event: object) -> None:
        side, generation = self.sides[node.number], self.sides[node.number].generation

        def tell() -> None:
            if side.generation == generation and node.up:
                self._tell_sync(node, event)

        self.at(self.now_us + delay_us, tell)

    def _carry_rejoin(self, node: Node, outputs: Iterable[RejoinOutput]) -> None:
        side = self.sides[node.number]
        for output in outputs:
            match output:
                case Send(_, message):
                    for target in range(self.plan.count):
                        if target != node.number:
                            self.post(node.number, target, message)
                case SetTimer(name, delay_us):
                    self._side_timer(node, name, delay_us)
                case CancelTimer(name):
                    side.timers[name] = side.timers.get(name, 0) + 1
                case Log(number, SilentBefore(epoch)):
                    side.votes_from = epoch
                    rejoin = side.rejoin
                    assert rejoin is not None, "it logs"
                    self._carry_rejoin(node, rejoin.step(Logged(number), self.clock(node.number)))
                case VotesFrom(epoch):
                    self.note(node.number, f"votes from epoch {epoch}")
                    self.rejoined.add(node.number)
                    side.rejoin = None
                    if epoch <= side.epoch.number and not node.to_execute and not node.busy:
                        self._anew(node)
                case CatchUp():
                    self._tell_sync(node, Look())

    # The network.

    def deliver(self, node: Node, event: Event, life: int) -> None:
        if not node.up or node.life != life:
            return
        side = self.sides[node.number]
        match event:
            case Received(peer, Get(wants)):
                self.note(node.number, f"< {peer[0] - 1} GET")
                self.post(node.number, peer[0] - 1, Got(tuple(self._serve(node, wants))))
            case Received(peer, Got(items)):
                self.note(node.number, f"< {peer[0] - 1} GOT {len(items)}")
                self._tell_sync(node, event)
            case Received(peer, AskEpoch() as ask):
                self._on_ask(node, peer, ask)
            case Received(_, TellEpoch()):
                if side.rejoin is not None:
                    self._carry_rejoin(node, side.rejoin.step(event, self.clock(node.number)))
            case Received(_, BatchCertificate() | EpochDone() as work):
                self._take_work(node, work)
            case _:
                super().deliver(node, event, life)

    def _on_ask(self, node: Node, peer: bytes, ask: AskEpoch) -> None:
        side = self.sides[node.number]
        if node.number >= len(side.epoch.validators.members):
            return
        own, epoch = node.number, side.epoch.number
        if node.number in self.hostile:
            epoch = self.random.choice((1, epoch, epoch + 1, 10**6))
        told = tell_epoch(ask, CHAIN, epoch, own, side.votes_from, lambda m: signature(own, m))
        if told is not None:
            self.post(node.number, peer[0] - 1, told)

    def _serve(self, node: Node, wants: Iterable[object]) -> list[Item]:
        """Blocks and batches of a node's chain; one that is hostile changes some."""
        items: list[Item] = []
        for want in wants:
            if isinstance(want, WantBlocks):
                finals = node.chain[want.height - 1 : want.height - 1 + want.count]
                found = [self._got(final) for final in finals]
                if node.number in self.hostile and found and self.random.random() < 0.7:
                    found = self._wrong(found)
                items += found or [Absent(want)]
            elif isinstance(want, WantDigest):
                items.append(self._batch(node, want))
        return items

    def _got(self, final: Final) -> GotBlock:
        return GotBlock(final.block, final.certificate)

    def _wrong(self, found: list[GotBlock]) -> list[GotBlock]:
        at = self.random.randrange(len(found))
        block = found[at].block
        header = attrs.evolve(block.header, state_root=hash32(b"another state"))
        certificate = found[at].finalisation if self.random.random() < 0.5 else None
        return [*found[:at], GotBlock(Block(header, block.body), certificate), *found[at + 1 :]]

    def _batch(self, node: Node, want: WantDigest) -> Item:
        for final in node.chain:
            for certificate in final.block.body.certificates:
                if certificate.header.digest() == want.digest:
                    return Batch(certificate.header, bytes(64), (b"its transaction",))
        return Absent(want)

    def _expect_all_in(self, node: Node, view: int) -> None:
        """Views of several epochs don't compare."""

    # Work.

    def _give_work(self, index: int) -> None:
        open_ = [
            n
            for n in self.honest
            if self.nodes[n].up
            and self.sides[n].closing.started is None
            and n < len(self.sides[n].epoch.validators.members)
        ]
        if not open_:
            return
        epoch = max(self.sides[n].epoch.number for n in open_)
        holders = [n for n in open_ if self.sides[n].epoch.number == epoch]
        count = len(self.set_of(epoch).members)
        earlier = [digest for (at, digest) in self.effects if at == epoch]
        header = BatchHeader(
            chain_id=CHAIN,
            epoch=epoch,
            builder=node_id(0),
            sequence=index,
            after=tuple(earlier[-1:]) if index % 2 else (),
            size_bytes=100,
            count=1,
            gas=1,
            transactions_root=hash32(b"batch", bytes([index])),
        )
        self._batch_digests[index] = header.digest()
        self.effects[epoch, header.digest()] = set()
        numbers = range(count)
        certificate = BatchCertificate(
            header, bytes(64), bitmap_of(numbers, count), tuple(bytes(64) for _ in numbers)
        )
        if self.random.random() < self.plan.withheld:
            self.withheld.append(certificate)
            return
        for number in self.random.sample(holders, min(2, len(holders))):
            self._take_work(self.nodes[number], certificate)

    def _show_withheld(self, epoch: int) -> None:
        """A hostile client shows what it kept back, to one validator, while the epoch closes."""
        shown = [each for each in self.withheld if each.header.epoch == epoch]
        self.withheld = [each for each in self.withheld if each.header.epoch > epoch]
        for certificate in shown:
            node = self.nodes[self.random.choice(self.honest)]
            when = self.now_us + self.random.randint(0, 500_000)
            self.at(when, lambda n=node, c=certificate: self._take_work(n, c))  # type: ignore[misc]

    def _take_work(self, node: Node, work: BatchCertificate | EpochDone) -> None:
        side = self.sides[node.number]
        epoch = work.epoch if isinstance(work, EpochDone) else work.header.epoch
        if not node.up or epoch != side.epoch.number:
            return
        if isinstance(work, BatchCertificate):
            digest = work.header.digest()
            is_voter = node.number < len(side.epoch.validators.members) and epoch >= side.votes_from
            if not side.stopped and is_voter and digest not in node.pool.certificates:
                # Held and, as far as this world goes, applied at once: its effects are signed.
                self.effects[epoch, digest].add(node.number)
        super()._take_work(node, work)


# Plans and runs.


def draw_epoch_plan(seed: int) -> EpochPlan:
    """A run over a few epochs, with joiners, leavers, changed weights, faults, hostile ones, lost disks."""
    rng = random.Random(f"epochs/{seed}")
    count = rng.choice((5, 6, 7))
    hostile = rng.random() < 0.4
    sets = [tuple(1 for _ in range(rng.randint(4, count)))]
    for _ in range(6):
        members = min(max(len(sets[-1]) + rng.choice((-1, 0, 0, 1)), 4), count)
        sets.append(tuple(rng.choice((2, 3)) for _ in range(members)))
    heal_us = rng.randint(4, 8) * SECOND
    mishaps: list[Mishap] = []
    lost: tuple[tuple[int, int, int], ...] = ()
    tricks: tuple[tuple[int, Trick], ...] = ()
    if hostile:
        tricks = tuple((0, trick) for trick in rng.sample(list(Trick), 2))
    else:
        kind = rng.choice(("away", "lost", "calm", "storm"))
        number = rng.randrange(4)
        begin = rng.randrange(heal_us // 2)
        if kind == "away":
            mishaps.append(Mishap(Fault.CRASH, begin, heal_us, (number,)))
        elif kind == "lost":
            lost = ((number, begin, begin + rng.randint(1, 2 * SECOND)),)
        elif kind == "storm":
            for _ in range(4):
                at = rng.randrange(heal_us)
                until = min(at + rng.randint(1, SECOND), heal_us)
                fault = rng.choice((Fault.CUT, Fault.ONE_WAY, Fault.SLOW, Fault.LOSSY, Fault.CRASH))
                hit = tuple(sorted(rng.sample(range(count), rng.randint(1, count // 2))))
                mishaps.append(Mishap(fault, at, until, hit))
    return EpochPlan(
        seed=seed,
        weights=(1,) * count,
        sets=tuple(sets),
        tricks=tricks,
        mishaps=tuple(mishaps),
        lost=lost,
        skews_ms=tuple(rng.randint(-100, 100) for _ in range(count)),
        work_us=tuple(sorted(rng.randrange(heal_us) for _ in range(rng.randint(5, 25)))),
        withheld=rng.choice((0.0, 0.5)),
        heal_us=heal_us,
    )


@attrs.frozen
class EpochOutcome:
    oracle: str
    problem: str
    trace: str
    epoch: int
    height: int
    rejoined: frozenset[int]
    events: int


def run_epochs(
    plan: EpochPlan,
    machine: Machine = Ordering,
    *,
    closing: type[Closing] = Closing,
    rejoin: type[Rejoin] = Rejoin,
) -> EpochOutcome:
    """Run a plan; after healing all honest nodes go through two more epochs, and who lost a disk votes."""
    world = EpochWorld(plan, machine, closing=closing, rejoin=rejoin)
    oracle = problem = ""
    try:
        world.start()
        world.run(plan.heal_us)
        goal = max(world.sides[n].epoch.number for n in world.honest) + 2

        def reached() -> bool:
            sides = [world.sides[n] for n in world.honest]
            return all(s.epoch.number >= goal and s.epoch.number >= s.votes_from for s in sides)

        world.run(plan.heal_us + 90 * SECOND, reached)
        if not reached():
            where = [(world.sides[n].epoch.number, len(world.nodes[n].chain)) for n in range(plan.count)]
            raise Violation("liveness", f"(epoch, height) {where}, wanted epoch {goal}")
    except Violation as violation:
        oracle, problem = violation.oracle, str(violation)
    return EpochOutcome(
        oracle,
        problem,
        world.trace,
        max(side.epoch.number for side in world.sides.values()),
        max(len(node.chain) for node in world.nodes),
        frozenset(world.rejoined),
        world.events,
    )


def main(arguments: list[str]) -> int:
    """`python -m tests.consensus_bft.sim.epoch_world 0 1000` runs these seeds and prints what failed."""
    failed = 0
    for seed in range(int(arguments[0]), int(arguments[1])):
        outcome = run_epochs(draw_epoch_plan(seed))
        if outcome.oracle:
            failed += 1
            print(f"seed {seed}: {outcome.problem}", flush=True)
    print(f"{int(arguments[1]) - int(arguments[0])} runs, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
