"""The world: a queue of events in virtual time, links that delay, lose and double, disks that forget.

All randomness comes from the plan's seed in the order of events, and nothing iterates over what has no
order, so a plan is one trace. A node is its disk, its storage, and a machine that dies in a crash.
"""

import heapq
import random
from collections.abc import Callable
from hashlib import blake2b

import attrs

from supervm.contracts.application import BlockBounds, Tip
from supervm.plugins.consensus.bft import messages
from supervm.plugins.consensus.bft.branches import Branch
from supervm.plugins.consensus.bft.events import (
    ALL,
    CancelTimer,
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
    Output,
    Received,
    Record,
    Send,
    SetTimer,
    TimedOut,
    Work,
)
from supervm.plugins.consensus.bft.fetching import (
    GotBlock,
    WantDigest,
    WantViews,
    decode_item,
    encode_item,
)
from supervm.plugins.consensus.bft.leading import Content
from supervm.plugins.consensus.bft.proposals import Epoch
from supervm.plugins.consensus.bft.records import decode_record, encode_record
from supervm.plugins.consensus.bft.simplex import Ordering, Settings, Start
from supervm.plugins.consensus.bft.votes import EpochDone, Proposal, ViewVote
from supervm.types.batch import BatchHeader
from supervm.types.block import Block
from supervm.types.certificate import BatchCertificate, Certificate, VoteKind, bitmap_of, numbers_of
from supervm.types.errors import InvalidInput
from supervm.types.validators import Validator, ValidatorSet
from tests.consensus_bft.sim.hostile import Hostile
from tests.consensus_bft.sim.oracles import Oracles, Violation
from tests.consensus_bft.sim.plan import Fault, Mishap, Plan

CHAIN = b"simulated chain".ljust(32, b".")
GENESIS = b"simulated genesis".ljust(32, b".")
WALL_START_MS = 1_700_000_000_000
BOUNDS = BlockBounds(gas_max=10**9, bytes_max=2**24, transactions_max=10**5, batch_gas_floor=1)
EVENTS_MAX = 400_000
VIEWS_KEPT_MAX = 400


def hash32(*parts: bytes) -> bytes:
    return blake2b(b"".join(parts), digest_size=32).digest()


def node_id(number: int) -> bytes:
    return bytes([number + 1]) * 32


def signature(number: int, message: bytes) -> bytes:
    """A stand-in for a signature: nobody here makes one for another."""
    half = blake2b(message, key=bytes([number]), digest_size=32).digest()
    return half + half


def genesis_facts() -> ExecutedBlock:
    return ExecutedBlock(0, hash32(b"genesis"), bytes(32), 10_000, hash32(b"next set"))


def root_after(root: bytes, digest: bytes) -> bytes:
    return hash32(b"root", root, digest)


def describe(message: object) -> str:
    """A message as a short line of the trace."""
    match message:
        case ViewVote():
            return f"{message.kind.name}({message.validator}, {message.view}, {message.digest[:4].hex()})"
        case Certificate():
            return f"{message.kind.name}s({message.view}, {message.digest[:4].hex()}, {message.bitmap.hex()})"
        case Proposal():
            again = "" if message.notarisation is None else " again"
            return f"PROPOSAL({message.view}, {message.block.digest()[:4].hex()}{again})"
        case BatchCertificate():
            return f"BATCH({message.header.sequence})"
        case GotBlock(block):
            return f"BLOCK({block.header.height}, {block.digest()[:4].hex()})"
        case EpochDone():
            return f"EPOCH_DONE({message.validator})"
    return repr(message)


def over_wire(message: object) -> object:
    """A message as whoever gets its frame reads it."""
    if isinstance(message, GotBlock):
        return decode_item(encode_item(message))
    return messages.decode(messages.encode(message))  # type: ignore[arg-type]


def tip_of_block(block: Block) -> Tip:
    header = block.header
    return Tip(
        height=header.height,
        digest=block.digest(),
        epoch=header.epoch,
        timestamp_ms=header.timestamp_ms,
        root_height=header.root_height,
        state_root=header.state_root,
    )


class WaitingWork:
    """A node's held certificates and epoch-dones: what its leader turn places. Survives a crash."""

    def __init__(self) -> None:
        self.certificates: dict[bytes, BatchCertificate] = {}
        self.done: dict[int, bytes] = {}
        self.closing = False

    def waits(self, branch: Branch, batches: bool) -> bool:
        return self.closing or (batches and any(digest not in branch for digest in self.certificates))

    def pick(self, branch: Branch, batches: bool) -> Content:
        placed: set[bytes] = set()
        chosen = []
        for digest, certificate in self.certificates.items() if batches else ():
            after = certificate.header.after
            if len(chosen) < 4 and digest not in branch and all(b in branch or b in placed for b in after):
                chosen.append(certificate)
                placed.add(digest)
        on_branch = branch.done()
        operations = tuple(self.done[n] for n in sorted(self.done) if n not in on_branch)
        return Content(operations, tuple(chosen))


@attrs.define(eq=False)
class Node:
    number: int
    pool: WaitingWork
    ordering: Ordering
    up: bool = True
    life: int = 0
    durable: list[Record] = attrs.field(factory=list)
    unsynced: list[Record] = attrs.field(factory=list)
    durable_number: int = 0
    syncing: bool = False
    held_back: list[tuple[int, Send]] = attrs.field(factory=list)
    timers: dict[str, int] = attrs.field(factory=dict)
    chain: list[Final] = attrs.field(factory=list)
    """Committed blocks, durable."""
    to_execute: list[Final] = attrs.field(factory=list)
    facts: list[ExecutedBlock] = attrs.field(factory=lambda: [genesis_facts()])
    busy: bool = False
    asked: int = 0
    ended: Certificate | None = None


Machine = Callable[..., Ordering]


class World:
    """One run of a plan. `machine` makes a validator's ordering (a test gives one with a planted bug).

    `on_wire`: messages and records pass through their encodings, which changes nothing but the time it takes.
    """

    settings = Settings()

    def __init__(
        self, plan: Plan, machine: Machine = Ordering, keep_trace: bool = False, on_wire: bool = False
    ) -> None:
        self.plan = plan
        self.machine = machine
        self.on_wire = on_wire
        self.random = random.Random(plan.seed)
        self.now_us = 0
        self.events = 0
        self.messages = 0
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._queued = 0
        self._trace = blake2b(digest_size=16)
        self.lines: list[str] | None = [] if keep_trace else None
        self.validators = ValidatorSet(
            tuple(Validator(node_id(n), bytes(32), weight) for n, weight in enumerate(plan.weights))
        )
        genesis = Tip(
            height=0,
            digest=GENESIS,
            epoch=0,
            timestamp_ms=WALL_START_MS,
            root_height=0,
            state_root=genesis_facts().state_root,
        )
        self.epoch = Epoch(
            chain_id=CHAIN,
            number=1,
            validators=self.validators,
            base=genesis,
            base_finalisation=None,
            bounds=BOUNDS,
        )
        self.oracles = Oracles(GENESIS, {0: genesis_facts().state_root}, root_after, self.proves)
        self.mishaps: list[Mishap] = []
        self._crashed_at_record = False
        self._batches: list[bytes] = []
        self._batch_digests: dict[int, bytes] = {}
        self.hostile = {
            n: Hostile(n, frozenset(t for m, t in plan.tricks if m == n), self) for n in sorted(plan.hostile)
        }
        self.honest = [n for n in range(plan.count) if n not in plan.hostile]
        self.nodes: list[Node] = []
        for number in range(plan.count):
            pool = WaitingWork()
            self.nodes.append(Node(number, pool, self._ordering(number, pool)))

    # Time and trace.

    def at(self, when_us: int, action: Callable[[], None]) -> None:
        self._queued += 1
        heapq.heappush(self._queue, (max(when_us, self.now_us), self._queued, action))

    def note(self, node: int, what: str) -> None:
        line = f"{self.now_us} {node} {what}\n"
        self._trace.update(line.encode())
        if self.lines is not None:
            self.lines.append(line)

    @property
    def trace(self) -> str:
        """A digest of all that happened."""
        return self._trace.hexdigest()

    def between(self, bounds: tuple[int, int]) -> int:
        return self.random.randint(*bounds)

    def clock(self, number: int) -> Now:
        return Now(self.now_us, WALL_START_MS + self.now_us // 1000 + self.plan.skews_ms[number])

    def latest_honest_ms(self) -> int:
        skew = max((self.plan.skews_ms[n] for n in self.honest), default=0)
        return WALL_START_MS + self.now_us // 1000 + skew

    # The run.

    def start(self) -> None:
        for mishap in self.plan.mishaps:
            self.at(mishap.at_us, lambda m=mishap: self._begin(m))  # type: ignore[misc]
            self.at(mishap.until_us, lambda m=mishap: self._end(m))  # type: ignore[misc]
        for index, when in enumerate(self.plan.work_us):
            self.at(when, lambda i=index: self._give_work(i))  # type: ignore[misc]
        if self.plan.close_us:
            self.at(self.plan.close_us, self._close)
        for node in self.nodes:
            self._begin_machine(node)

    def run(self, until_us: int, done: Callable[[], bool] = lambda: False) -> None:
        """Run events up to a moment, or until `done`. Raises `Violation`."""
        while self._queue and self._queue[0][0] <= until_us and not done():
            when, _, action = heapq.heappop(self._queue)
            self.now_us = when
            self.events += 1
            if self.events > EVENTS_MAX:
                raise Violation("bounds", f"more than {EVENTS_MAX} events by {self.now_us} us")
            action()
        if not done():
            self.now_us = max(self.now_us, until_us)

    def height(self, number: int) -> int:
        """The height of a node's last final block."""
        node = self.nodes[number]
        return len(node.chain) + len(node.to_execute)

    def proves(self, justification: bytes, parent: bytes) -> bool:
        """Whether bytes are a notarisation of a block by a true quorum, signed by those whom it names."""
        try:
            certificate = Certificate.decode(justification)
        except InvalidInput:
            return False
        kind = self.kind_proving(parent)
        named = (certificate.kind, certificate.digest) == (kind, parent)
        return named and self.is_signed(certificate, self.set_of(certificate.epoch))

    def kind_proving(self, parent: bytes) -> VoteKind:
        """What proves a parent: its notarisation, or, of an epoch's last block, its finalisation."""
        return VoteKind.NOTARIZE

    def set_of(self, epoch: int) -> ValidatorSet:
        return self.validators

    def is_signed(self, certificate: Certificate, validators: ValidatorSet) -> bool:
        """Whether a quorum of a set signed, each for itself."""
        try:
            certificate.signed(validators)
        except InvalidInput:
            return False
        message = certificate.message(CHAIN)
        signed = zip(numbers_of(certificate.bitmap), certificate.signatures, strict=True)
        return all(signature(number, message) == each for number, each in signed)

    # Machines.

    def _ordering(self, number: int, pool: WaitingWork, start: Start | None = None) -> Ordering:
        start = start or Start(
            epoch=self.epoch, own=number, tip=self.epoch.base, tip_view=0, executed=(genesis_facts(),)
        )
        # Whoever is hostile doesn't wait before it proposes.
        settings = Settings(interval_min_us=0) if number in self.hostile else self.settings
        return self.machine(start, lambda message: signature(number, message), pool, settings)

    def _begin_machine(self, node: Node) -> None:
        records = node.durable
        if self.on_wire:
            records = [decode_record(encode_record(record)) for record in records]
        self._carry_out(node, node.ordering.start(records, self.clock(node.number)))

    def _restart(self, node: Node) -> None:
        if node.up:
            return
        node.up = True
        self.note(node.number, "restarts")
        chain = node.chain
        tip = tip_of_block(chain[-1].block) if chain else self.epoch.base
        facts = tuple(each for each in node.facts if each.height >= tip.root_height)
        blocks = [final.block for final in chain]
        start = Start(
            epoch=self.epoch,
            own=node.number,
            tip=tip,
            tip_view=chain[-1].view if chain else 0,
            executed=facts,
            ordered=frozenset(c.header.digest() for b in blocks for c in b.body.certificates),
            done=frozenset(done_of(blocks)),
            finalisation=chain[-1].certificate if chain else None,
            ended=node.ended,
        )
        node.ordering = self._ordering(node.number, node.pool, start)
        self._begin_machine(node)

    def _crash(self, node: Node) -> None:
        if not node.up:
            return
        node.up = False
        node.life += 1
        # The disk may hold any part of what wasn't synced, up to where it was written.
        kept = self.random.randint(0, len(node.unsynced))
        node.durable += node.unsynced[:kept]
        node.unsynced = []
        node.syncing = False
        node.durable_number = 0
        node.held_back = []
        node.timers = {}
        node.to_execute = []
        node.busy = False
        self.note(node.number, f"crashes, {kept} records kept")

    def deliver(self, node: Node, event: Event, life: int) -> None:
        if not node.up or node.life != life:
            return
        self.note(node.number, _describe_event(event))
        if isinstance(event, Received) and isinstance(event.message, BatchCertificate | EpochDone):
            self._take_work(node, event.message)
            return
        self._carry_out(node, node.ordering.step(event, self.clock(node.number)))

    def _carry_out(self, node: Node, outputs: list[Output]) -> None:
        for output in outputs:
            match output:
                case Log(_, record):
                    node.unsynced.append(record)
                    self._sync(node)
                case Send(after=after) if after > node.durable_number:
                    node.held_back.append((after, output))
                case Send():
                    self._let_go(node, output)
                case SetTimer(name, delay_us):
                    self._set_timer(node, name, delay_us)
                case CancelTimer(name):
                    node.timers[name] = node.timers.get(name, 0) + 1
                case Fetch():
                    self._ask(node, output)
                case Final():
                    self._finalise(node, output)
                case InView():
                    self._resend_work(node, output)
                    self._expect_all_in(node, output.view)
                case EpochEnded(certificate):
                    node.ended = certificate
                case Halt(reason):
                    self.note(node.number, f"halts: {reason}")
                    if node.number not in self.hostile:
                        raise Violation("halt", f"{node.number}: {reason}")
        if len(node.ordering._views) > VIEWS_KEPT_MAX:
            raise Violation("bounds", f"{node.number} keeps {len(node.ordering._views)} views")

    def _set_timer(self, node: Node, name: str, delay_us: int) -> None:
        token = node.timers.get(name, 0) + 1
        node.timers[name] = token
        life = node.life

        def fire() -> None:
            if node.timers.get(name) == token and node.life == life:
                self.deliver(node, TimedOut(name), life)

        self.at(self.now_us + delay_us, fire)

    # Disks and execution.

    def _sync(self, node: Node) -> None:
        if node.syncing:
            return
        node.syncing = True
        life = node.life
        # What is appended while a sync runs waits for the next one.
        count = len(node.unsynced)

        def synced() -> None:
            if node.life != life:
                return
            node.syncing = False
            node.durable += node.unsynced[:count]
            node.unsynced = node.unsynced[count:]
            node.durable_number += count
            released = [send for after, send in node.held_back if after <= node.durable_number]
            node.held_back = [held for held in node.held_back if held[0] > node.durable_number]
            for send in released:
                self._let_go(node, send)
            if node.unsynced:
                self._sync(node)
            if self._crashes_at_record(node, count):
                return
            self.deliver(node, Logged(node.durable_number), life)

        self.at(self.now_us + self.between(self.plan.sync_us), synced)

    def _crashes_at_record(self, node: Node, synced: int) -> bool:
        """Crash at a place in the log: exactly so many records are durable, and what they release is sent."""
        if self.plan.crash_at_record is None or self._crashed_at_record:
            return False
        number, records, everyone = self.plan.crash_at_record
        if node.number != number or len(node.durable) < records:
            return False
        self._crashed_at_record = True
        node.durable = node.durable[: max(records, len(node.durable) - synced)]
        for other in self.nodes if everyone else [node]:
            other.unsynced = []
            self._crash(other)
            self.at(self.now_us + 100_000, lambda o=other: self._restart(o))  # type: ignore[misc]
        return True

    def _finalise(self, node: Node, final: Final) -> None:
        if node.number not in self.hostile:
            self.oracles.on_final(node.number, final, self.latest_honest_ms())
        self.note(node.number, f"FINAL({final.block.header.height}, {final.block.digest()[:4].hex()})")
        node.to_execute.append(final)
        self._execute(node)

    def _execute(self, node: Node) -> None:
        if node.busy or not node.to_execute:
            return
        node.busy = True
        life = node.life

        def executed() -> None:
            if node.life != life:
                return
            final = node.to_execute.pop(0)
            node.busy = False
            facts = self.facts_after(node.facts[-1], final.block)
            assert facts.height == final.block.header.height
            node.facts.append(facts)
            node.chain.append(final)
            self.deliver(node, facts, life)
            self._execute(node)
            self.committed(node, final)

        self.at(self.now_us + self.between(self.plan.execute_us), executed)

    def facts_after(self, before: ExecutedBlock, block: Block) -> ExecutedBlock:
        """What a node computes of a block that follows another."""
        digest = block.digest()
        return ExecutedBlock(
            before.height + 1,
            root_after(before.state_root, digest),
            hash32(b"receipts", digest),
            10_000,
            hash32(b"next set"),
        )

    def committed(self, node: Node, final: Final) -> None:
        """A block is executed and durable at a node."""

    # The network.

    def _let_go(self, node: Node, send: Send) -> None:
        targets = range(self.plan.count) if send.to is ALL else [to[0] - 1 for to in send.to]
        if node.number in self.hostile:
            self.hostile[node.number].send(send.message, [t for t in targets if t != node.number])
            return
        self.oracles.on_sent(node.number, send.message, node.facts[-1].height, node.ordering.block)
        for target in targets:
            if target != node.number:
                self.post(node.number, target, send.message)

    def post(self, source: int, target: int, message: object) -> None:
        """Put a message on a link: delayed, perhaps lost or doubled, as the faults of now say."""
        self.messages += 1
        if self.on_wire:
            message = over_wire(message)
        low, high = self.plan.delay_us
        healed = self.now_us >= self.plan.heal_us
        loss = 0.0 if healed else self.plan.loss
        for mishap in self.mishaps:
            inside, outside = source in mishap.nodes, target in mishap.nodes
            if mishap.fault == Fault.CUT and inside != outside:
                return
            if mishap.fault == Fault.ONE_WAY and inside and not outside:
                return
            if mishap.fault == Fault.SLOW and (inside or outside):
                high = 800_000
            if mishap.fault == Fault.LOSSY and (inside or outside):
                loss = max(loss, 0.5)
        if healed:
            high = min(high, 50_000)
        if loss and self.random.random() < loss:
            return
        copies = 2 if self.plan.duplicates and self.random.random() < self.plan.duplicates else 1
        node = self.nodes[target]
        event = Received(node_id(source), message)  # type: ignore[arg-type]
        for _ in range(copies):
            when = self.now_us + self.between((low, high))
            self.at(when, lambda: self.deliver(node, event, node.life))

    def _ask(self, node: Node, fetch: Fetch) -> None:
        """Ask two of those named (or of all), turn by turn; answers travel like everything else."""
        peers = [peer[0] - 1 for peer in fetch.peers] or list(range(self.plan.count))
        peers = [peer for peer in peers if peer != node.number]
        for _ in range(min(2, len(peers))):
            node.asked += 1
            peer = peers[node.asked % len(peers)]
            delay = self.between(self.plan.delay_us)
            self.at(self.now_us + delay, lambda p=peer: self._reply(self.nodes[p], node, fetch))  # type: ignore[misc]

    def _reply(self, server: Node, client: Node, fetch: Fetch) -> None:
        if not server.up:
            return
        if server.number in self.hostile:
            self.hostile[server.number].reply(fetch.want, client.number)
            return
        match fetch.want:
            case WantDigest(_, digest):
                block = server.ordering.block(digest) or next(
                    (f.block for f in [*server.chain, *server.to_execute] if f.block.digest() == digest), None
                )
                if block is not None:
                    self.post(server.number, client.number, GotBlock(block))
            case WantViews(_, first, last):
                for certificate in server.ordering.certificates(first, last):
                    self.post(server.number, client.number, certificate)

    def _expect_all_in(self, node: Node, view: int) -> None:
        """Certificates are passed on: where no link fails, all honest enter a view soon after the first."""
        if node.number in self.hostile or self.mishaps or self._fails_before(self.now_us):
            return
        lives = [self.nodes[number].life for number in self.honest]
        until = self.now_us + self.plan.delay_us[1] + 1

        def judge() -> None:
            others = [self.nodes[number] for number in self.honest]
            if self.mishaps or self._fails_before(self.now_us) or lives != [each.life for each in others]:
                return
            late = [n.number for n in others if n.up and n.ended is None and n.ordering.view < view]
            if late and node.ended is None:
                raise Violation("spread", f"{late} don't follow {node.number} into view {view}")

        self.at(until, judge)

    def _fails_before(self, until_us: int) -> bool:
        """Whether anything but delays happens on links up to now (a mishap may just have ended)."""
        fails = bool(self.plan.loss) or self._crashed_at_record
        return fails or any(mishap.at_us <= until_us for mishap in self.plan.mishaps)

    # Faults.

    def _begin(self, mishap: Mishap) -> None:
        self.note(-1, f"{mishap.fault.value} {mishap.nodes}")
        if mishap.fault == Fault.CRASH:
            for number in mishap.nodes:
                self._crash(self.nodes[number])
        else:
            self.mishaps.append(mishap)

    def _end(self, mishap: Mishap) -> None:
        self.note(-1, f"end of {mishap.fault.value} {mishap.nodes}")
        if mishap.fault == Fault.CRASH:
            for number in mishap.nodes:
                self._restart(self.nodes[number])
        else:
            self.mishaps.remove(mishap)

    # Work.

    def _give_work(self, index: int) -> None:
        """A batch is certified; some honest validators hold its certificate."""
        header = BatchHeader(
            chain_id=CHAIN,
            epoch=1,
            builder=node_id(0),
            sequence=index,
            after=tuple(self._batches[-1:]) if index % 2 else (),
            size_bytes=100,
            count=1,
            gas=1,
            transactions_root=hash32(b"batch", bytes([index])),
        )
        numbers = range(self.plan.count)
        self._batches.append(header.digest())
        self._batch_digests[index] = self._batches[-1]
        certificate = BatchCertificate(
            header, bytes(64), bitmap_of(numbers, self.plan.count), tuple(bytes(64) for _ in numbers)
        )
        for number in self.random.sample(self.honest, min(2, len(self.honest))):
            self._take_work(self.nodes[number], certificate)

    def _take_work(self, node: Node, work: BatchCertificate | EpochDone) -> None:
        pool = node.pool
        if isinstance(work, EpochDone):
            if work.validator in pool.done:
                return
            pool.done[work.validator] = messages.encode(work)
        else:
            digest = self._batch_digests[work.header.sequence]
            if digest in pool.certificates:
                return
            pool.certificates[digest] = work
            for target in range(self.plan.count):
                if target != node.number and node.up:
                    self.post(node.number, target, work)
        if node.up:
            self._carry_out(node, node.ordering.step(Work(), self.clock(node.number)))

    def _resend_work(self, node: Node, view: InView) -> None:
        """Work that no final block holds goes to the leader of the view, who may have missed it (CONS-23)."""
        leader = view.leader[0] - 1
        if leader == node.number:
            return
        placed = self.oracles.batches
        for digest, certificate in node.pool.certificates.items():
            if digest not in placed:
                self.post(node.number, leader, certificate)

    def _close(self) -> None:
        """The epoch closes: every honest validator says epoch-done, and there is always work."""
        for number in self.honest:
            done = EpochDone(1, number, bytes(64))
            for node in self.nodes:
                node.pool.closing = True
                self._take_work(node, done)


def done_of(blocks: list[Block]) -> set[int]:
    found = set()
    for block in blocks:
        for operation in block.body.system_operations:
            message = messages.decode(operation)
            if isinstance(message, EpochDone):
                found.add(message.validator)
    return found


def _describe_event(event: Event) -> str:
    match event:
        case Received(peer, message):
            return f"< {peer[0] - 1} {describe(message)}"
        case TimedOut(name):
            return f"timer {name}"
        case Logged(number):
            return f"logged {number}"
        case ExecutedBlock(height):
            return f"executed {height}"
    return "work"
