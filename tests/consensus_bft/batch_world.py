"""A seeded world of validators and builders without ordering: clients, batches, certificates, FAST effects.

Time, network, disks and the ledger are models; the machines are the real ones. Four nodes, each a
validator with a builder; the last is hostile in both parts. Blocks come from nowhere: every so often some
node's certificates, in any order that `after` allows, become the next one, and each node executes it when
chance says. Messages are late, lost, doubled and reordered; nodes crash, lose what wasn't synced, and
restart from their log. After `heal` nothing is lost any more, and hostile clients are silent.

Oracles, after each event: `Broken` says which one was violated.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from random import Random

import attrs

from supervm.execution.footprint import NONCE_LOCK, OBJECT_LOCK, SPONSOR_NONCE_LOCK
from supervm.plugins.consensus.bft.batch_events import (
    Applied,
    BatchExamined,
    BlockExecuted,
    BlockFinal,
    BuilderEvent,
    Certified,
    Contested,
    Leaders,
    Learned,
    Offer,
    Offered,
    Returned,
    VoterEvent,
)
from supervm.plugins.consensus.bft.batch_records import BATCH_RECORDS, BatchRecord, HeldBatch, UsedUp
from supervm.plugins.consensus.bft.batches import BatchVoter, EpochFacts
from supervm.plugins.consensus.bft.building import Builder
from supervm.plugins.consensus.bft.claims import IMAGE_LOCK, Claim, Examined, Facts, chain_of, chain_slot
from supervm.plugins.consensus.bft.effects import EffectsGatherer
from supervm.plugins.consensus.bft.effects_messages import Effect, Effects
from supervm.plugins.consensus.bft.events import (
    ALL,
    Apply,
    CancelTimer,
    Check,
    Fetch,
    Halt,
    Log,
    Now,
    Received,
    Send,
    SetTimer,
    Stream,
    TimedOut,
)
from supervm.plugins.consensus.bft.fetching import Get, Got, WantDigest, What
from supervm.plugins.consensus.bft.messages import (
    Accept,
    Batch,
    BatchCertificate,
    Message,
    Refusal,
    Refuse,
    decode,
    encode,
)
from supervm.types.batch import batch_header
from supervm.types.certificate import VoteKind, bitmap_of, numbers_of, vote_message
from supervm.types.codec import Reader, Writer
from supervm.types.digests import plain_digest
from supervm.types.validators import Validator, ValidatorSet

from .locking_model import TOKEN, Broken

CHAIN = b"chain".ljust(32, b"\0")
NODES, HOSTILE = 4, 3
IDS = tuple(bytes([each + 1]) * 32 for each in range(NODES))
SET = ValidatorSet(tuple(Validator(each, plain_digest(each), 1) for each in IDS))
MS = 1000


def sign(node: bytes, message: bytes) -> bytes:
    """A signature that only this world takes for one."""
    half = plain_digest(node + message)
    return half + half


@attrs.frozen
class Move:
    """A transaction: its bytes on the wire, its claim, and who gets how much."""

    data: bytes
    claim: Claim
    to: bytes
    amount: int


@attrs.define
class Book:
    """Balances, nonces, versions and images after some transactions."""

    balances: dict[tuple[bytes, bytes], int]
    numbers: dict[bytes, int] = attrs.Factory(dict)
    images: dict[bytes, None] = attrs.Factory(dict)

    def copy(self) -> "Book":
        return Book(dict(self.balances), dict(self.numbers), dict(self.images))

    def credit(self, move: Move) -> None:
        to = (move.to, TOKEN)
        self.balances[to] = self.balances.get(to, 0) + move.amount

    def is_next(self, move: Move) -> bool:
        """Whether every nonce and version is the next one, and the debit is covered."""
        for slot in move.claim.slots:
            if slot in self.images:
                return False
            if slot[:1] != IMAGE_LOCK and self.numbers.get(slot[:33], 0) != number_of(slot):
                return False
        return all(self.balances.get(account, 0) >= amount for account, amount in move.claim.spends)

    def do(self, move: Move) -> None:
        for slot in move.claim.slots:
            if slot[:1] == IMAGE_LOCK:
                self.images[slot] = None
            else:
                self.numbers[slot[:33]] = number_of(slot) + 1
        for account, amount in move.claim.spends:
            self.balances[account] = self.balances.get(account, 0) - amount
        self.credit(move)


def number_of(slot: bytes) -> int:
    return int.from_bytes(slot[33:], "little")


def effects_of(move: Move, book: Book) -> bytes:
    """The effects digest: a function of the bytes alone. `book` is there for a planted bug to look at."""
    return plain_digest(b"effects" + move.data)


class App:
    """A node's application: executed blocks, and above them the overlay of FAST transactions applied."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.height = 0
        self.book = world.genesis.copy()
        self.executed: dict[bytes, Move] = {}
        self.forget()

    def forget(self) -> None:
        """A crash: the overlay is made anew from what the voter says again."""
        self.overlay = self.book.copy()
        self.applied: dict[bytes, Move] = {}
        self.pending: dict[bytes, dict[int, Move]] = {}

    def examine(self, batch: Batch, past: Sequence[bytes]) -> Examined:
        moves = [self.world.moves[data] for data in batch.transactions]
        view = self.book.copy()
        before = self.book.numbers
        for digest in past:
            for data in self.world.batches[digest].transactions:
                move = self.world.moves[data]
                name = move.claim.transaction
                if move.claim.fast and name in self.applied and name not in self.executed:
                    view.credit(move)
                    for slot in move.claim.slots:
                        if slot[:1] == OBJECT_LOCK:
                            view.numbers[slot[:33]] = number_of(slot) + 1
        refused: dict[int, str] = {}
        nonces: dict[bytes, int] = {}
        for index, move in enumerate(moves):
            if move.claim.transaction in self.executed:
                refused[index] = "AlreadyExecuted"
            for slot in move.claim.slots:
                place = chain_of(slot)
                if place is not None:
                    nonces[place[0]] = before.get(place[0], 0)
                elif slot[:1] == OBJECT_LOCK and view.numbers.get(slot[:33], 0) != number_of(slot):
                    behind = view.numbers.get(slot[:33], 0) < number_of(slot)
                    refused[index] = "VersionBehind" if behind else "VersionMismatch"
                elif slot in self.book.images:
                    refused[index] = "KeyImageSpent"
        return Examined(
            Facts(self.height, nonces, dict(view.balances)),
            tuple(move.claim for move in moves),
            refused,
            gas=len(moves),
        )

    def apply(self, digest: bytes) -> None:
        """A certified batch's turn."""
        if digest not in self.pending:
            self.pending[digest] = {
                index: move
                for index, data in enumerate(self.world.batches[digest].transactions)
                if (move := self.world.moves[data]).claim.fast
            }

    def is_applied(self, move: Move) -> bool:
        return move.claim.transaction in self.applied

    def progress(self) -> list[Applied]:
        """Apply what can be applied by now."""
        told: list[Applied] = []
        changed = True
        while changed:
            changed = False
            for digest, waiting in self.pending.items():
                done: list[Effect] = []
                for index, move in list(waiting.items()):
                    name = move.claim.transaction
                    if name in self.executed:
                        del waiting[index]
                        continue
                    if not self.is_applied(move):
                        if not self.overlay.is_next(move):
                            continue
                        effects = effects_of(move, self.overlay)
                        self.overlay.do(move)
                        self.applied[name] = move
                        self.world.signs(name, effects)
                    done.append(Effect(index, name, effects_of(move, self.overlay)))
                    del waiting[index]
                    changed = True
                if done:
                    told.append(Applied(digest, tuple(done), len(waiting)))
        self.world.conserved(self.overlay)
        self.world.once(self)
        return told

    def fold(self) -> None:
        """The overlay above the new block: what was applied and isn't executed, once."""
        applied, self.applied, self.overlay = self.applied, {}, self.book.copy()
        for name, move in applied.items():
            if name not in self.executed:
                self.overlay.do(move)
                self.applied[name] = move

    def execute(self, block: Sequence[bytes]) -> BlockExecuted:
        used: list[bytes] = []
        names: list[bytes] = []
        for digest in block:
            for data in self.world.batches[digest].transactions:
                move = self.world.moves[data]
                claim = move.claim
                if claim.transaction in self.executed:
                    continue
                if not self.book.is_next(move):
                    raise Broken(f"certified, and not covered at its turn: {claim.transaction.hex()[-8:]}")
                if claim.fast:
                    self.world.signs(claim.transaction, effects_of(move, self.book))
                self.book.do(move)
                self.executed[claim.transaction] = move
                used += claim.slots
                names.append(claim.transaction)
        self.height += 1
        for digest in block:
            self.pending.pop(digest, None)
        self.world.conserved(self.book)
        self.fold()
        return BlockExecuted(self.height, tuple(block), tuple(used), tuple(names))


@attrs.define
class Node:
    """An honest node: its machines live until it crashes, its disk and application stay."""

    number: int
    app: App
    voter: BatchVoter
    builder: Builder
    log: list[bytes] = attrs.Factory(list)
    logged: dict[bytes, Batch] = attrs.Factory(dict)
    reread: int = 0
    unsynced: list[tuple[int, bytes]] = attrs.Factory(list)
    held: list[Send] = attrs.Factory(list)
    durable: int = 0
    life: int = 0
    fetching: dict[object, tuple[bytes, ...]] = attrs.Factory(dict)
    timers: dict[str, int] = attrs.Factory(dict)
    told: int = 0
    syncing: bool = False

    @property
    def id(self) -> bytes:
        return IDS[self.number]


class World:
    """One run from one seed. `run` raises `Broken` where an oracle is violated."""

    def __init__(self, seed: int, *, hostile_clients: bool = True, faults: bool = True) -> None:
        self.random = Random(seed)
        self.hostile_clients, self.faults = hostile_clients, faults
        self.now_us = 0
        self.healed = False
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = 0
        self.moves: dict[bytes, Move] = {}
        self.batches: dict[bytes, Batch] = {}
        self.honest_accounts = [b"H" + bytes([each]) * 31 for each in range(3)]
        self.hostile_accounts = [b"E" + bytes([each]) * 31 for each in range(12)]
        accounts = self.honest_accounts + self.hostile_accounts
        self.genesis = Book({(each, TOKEN): 100 for each in accounts})
        self.supply = sum(self.genesis.balances.values())
        self.accepted: dict[tuple[int, bytes], bytes] = {}
        self.certified: dict[bytes, BatchCertificate] = {}
        self.on_slot: dict[bytes, bytes] = {}
        self.effects: dict[bytes, bytes] = {}
        self.final: dict[bytes, bytes] = {}
        self.gatherers = [EffectsGatherer(1, SET) for _ in IDS]
        self.blocks: list[list[bytes]] = []
        self.executed: list[BlockExecuted] = []
        self.ordered: dict[bytes, None] = {}
        self.sent: dict[bytes, tuple[bytes, int]] = {}
        self.next_nonce = dict.fromkeys(self.honest_accounts, 0)
        self.spent = dict.fromkeys(self.honest_accounts, 0)
        self.returned: list[tuple[bytes, str]] = []
        self.hostile = HostileNode(self)
        self.trace = b""
        self.disk_us = self.random.choice((12, 12, 12, 400)) * MS
        self.check_us = self.random.choice((8, 8, 60)) * MS
        self.sent_us: dict[bytes, int] = {}
        self.done_us: dict[bytes, int] = {}
        self.nodes: list[Node] = []
        for number in range(HOSTILE):
            app = App(self)
            self.nodes.append(Node(number, app, self._voter(number), self._builder(number, 0)))

    def _facts(self, number: int) -> EpochFacts:
        return EpochFacts(
            chain_id=CHAIN,
            epoch=1,
            validators=SET,
            node_id=IDS[number],
            builders=frozenset(IDS),
            batch_gas_max=10_000,
        )

    def _voter(self, number: int) -> BatchVoter:
        return BatchVoter(self._facts(number), lambda message: sign(IDS[number], message), height=0)

    def _builder(self, number: int, life: int) -> Builder:
        return Builder(
            self._facts(number),
            lambda message: sign(IDS[number], message),
            first_sequence=life << 20,
            delay_us=100 * MS,
        )

    # Time

    def at(self, delay_us: int, act: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._events, (self.now_us + delay_us, self._serial, act))

    def run(self, seconds: int = 4, healing_seconds: int = 30) -> None:
        for number in range(NODES):
            self.at(self.random.randrange(50 * MS), lambda number=number: self._client(number))
        for act in (self._order, self._fetch_again, self._crash):
            self.at(self.random.randrange(200 * MS), act)
        self._until(seconds * 1_000_000)
        self.healed = True
        for node in self.nodes:
            self._sync(node)
        end_us = self.now_us + healing_seconds * 1_000_000
        while not self._is_quiet():
            if self.now_us > end_us:
                raise Broken(f"honest clients wait: {self._waiting()}")
            self._until(self.now_us + 250 * MS)
        for name, effects in self.final.items():
            if self.effects[name] != effects:
                raise Broken("final effects aren't those of the chain")

    def _until(self, end_us: int) -> None:
        while self._events and self._events[0][0] <= end_us:
            self.now_us, _, act = heapq.heappop(self._events)
            act()
        self.now_us = end_us

    def latency_us(self) -> float:
        """Mean time from an honest client's sending to the block, over those of the first seconds."""
        times = [self.done_us[name] - at for name, at in self.sent_us.items() if name in self.done_us]
        return sum(times) / max(1, len(times))

    def _waiting(self) -> list[str]:
        done = self.nodes[0].app.executed
        return [name.hex()[-6:] for name in self.sent if name not in done]

    def _is_quiet(self) -> bool:
        return not self._waiting() and all(
            digest in self.ordered for node in self.nodes for digest in self._held(node)
        )

    def _held(self, node: Node) -> list[bytes]:
        return [each.header.digest() for each in node.voter.duties()]

    # Oracles

    def conserved(self, book: Book) -> None:
        if sum(book.balances.values()) != self.supply or min(book.balances.values()) < 0:
            raise Broken("value isn't conserved")

    def once(self, app: App) -> None:
        """An overlay is genesis and every executed and applied transaction, once."""
        book = self.genesis.copy()
        for move in (app.executed | app.applied).values():
            book.do(move)
        if {k: v for k, v in book.balances.items() if v} != {
            k: v for k, v in app.overlay.balances.items() if v
        }:
            raise Broken("effects are applied twice, or not at all")

    def signs(self, name: bytes, effects: bytes) -> None:
        if self.effects.setdefault(name, effects) != effects:
            raise Broken("two effects of one transaction")

    def _see(self, sender: int, message: Message) -> None:
        """Look at what leaves an honest node."""
        if isinstance(message, Accept):
            for data in self.batches[message.batch].transactions:
                claim = self.moves[data].claim
                for slot in claim.slots:
                    if self.accepted.setdefault((sender, slot), claim.transaction) != claim.transaction:
                        raise Broken(f"node {sender} accepted two transactions on one slot")

    def certify(self, certificate: BatchCertificate) -> None:
        digest = certificate.header.digest()
        if digest in self.certified:
            return
        self.certified[digest] = certificate
        for data in self.batches[digest].transactions:
            claim = self.moves[data].claim
            for slot in claim.slots:
                if self.on_slot.setdefault(slot, claim.transaction) != claim.transaction:
                    raise Broken("two certificates on one slot")

    # Clients

    def _move(
        self, who: bytes, nonce: int, amount: int, *more: bytes, payer: bytes = b"", fast: bool = True
    ) -> Move:
        data = len(self.moves).to_bytes(8, "big") + b"transaction"
        claim = Claim(
            plain_digest(data),
            (chain_slot(NONCE_LOCK + who, nonce), *more),
            (((payer or who, TOKEN), amount),) if amount else (),
            price=5,
            fast=fast,
        )
        known = self.honest_accounts + self.hostile_accounts
        to = self.random.choice([*known, b"N" + bytes([self.random.randrange(256)]) * 31])
        move = self.moves[data] = Move(data, claim, to, amount)
        return move

    def _client(self, number: int) -> None:
        if self.healed:
            return
        self.at(self.random.randrange(20 * MS, 200 * MS), lambda: self._client(number))
        if number < len(self.honest_accounts) and self.spent[self.honest_accounts[number]] < 90:
            who = self.honest_accounts[number]
            # Its own money only: what it gets from others may never come.
            amount = self.random.randrange(0, 6)
            self.spent[who] += amount
            move = self._move(who, self.next_nonce[who], amount, fast=self.random.random() < 0.7)
            self.next_nonce[who] += 1
            self.sent[move.claim.transaction] = (move.data, number)
            self.sent_us[move.claim.transaction] = self.now_us
            self.offer(number, move)
        elif self.hostile_clients:
            self._cheat()

    def _cheat(self) -> None:
        """Sign two transactions for one nonce, version or image, or spend more than there is."""
        pick = self.random
        kind = pick.choice(("nonce", "object", "image", "sponsor", "overspend", "overspend"))
        who, other = pick.sample(self.hostile_accounts, 2)
        thing = bytes([pick.randrange(6)])
        pair: list[Move] = []
        for side in range(2):
            fast = kind != "image" and pick.random() < 0.7
            nonce = self._next(NONCE_LOCK + who)
            if kind == "nonce":
                pair.append(self._move(who, nonce, pick.randrange(40), fast=fast))
            elif kind == "object":
                name = OBJECT_LOCK + thing * 32
                pair.append(self._move(who, nonce + side, 0, chain_slot(name, self._next(name)), fast=fast))
            elif kind == "image":
                sender = (who, other)[side]
                image = IMAGE_LOCK + thing * 40
                pair.append(self._move(sender, self._next(NONCE_LOCK + sender), 0, image, fast=False))
            elif kind == "sponsor":
                chain = SPONSOR_NONCE_LOCK + other
                paid = chain_slot(chain, self._next(chain) + side)
                pair.append(self._move(who, nonce + side, pick.randrange(60), paid, payer=other, fast=fast))
            else:
                pair.append(self._move(who, nonce + side, pick.randrange(40, 90), fast=fast))
        numbers = pick.sample(range(NODES), 2)
        for side, move in enumerate(pair):
            if kind in ("overspend", "sponsor"):
                self.offer(numbers[0], move)
            else:
                self.offer(numbers[side], move)

    def _next(self, name: bytes) -> int:
        return self.nodes[0].app.book.numbers.get(name, 0)

    def offer(self, number: int, move: Move) -> None:
        if number == HOSTILE:
            self.hostile.pool.append(move)
        else:
            node = self.nodes[number]
            self._build(node, Offer((Offered(move.data, move.claim, 1),)))

    def _resubmit(self, node: Node) -> None:
        """Clients of a builder that lost its queue send again what isn't in the chain."""
        lost = [data for data, at in self.sent.values() if at == node.number]
        moves = [self.moves[data] for data in lost]
        left = [move for move in moves if move.claim.transaction not in node.app.executed]
        self._build(node, Offer(tuple(Offered(move.data, move.claim, 1) for move in left)))

    # Machines

    def _now(self) -> Now:
        return Now(self.now_us, 0)

    def vote(self, node: Node, event: VoterEvent) -> None:
        self._carry_out(node, node.voter.step(event, self._now()))

    def _build(self, node: Node, event: BuilderEvent) -> None:
        self._carry_out(node, node.builder.step(event, self._now()))

    def _carry_out(self, node: Node, outputs: Iterable[object]) -> None:
        for output in outputs:
            match output:
                case Log(number, record):
                    writer = Writer().u8(record.RECORD)
                    record.write(writer)
                    node.unsynced.append((number, writer.done()))
                    if not node.syncing:
                        node.syncing = True
                        self._later(node, self.random.randrange(MS, self.disk_us), self._sync)
                case Send() if output.after > node.durable:
                    node.held.append(output)
                case Send():
                    self._send(node.number, output)
                case SetTimer(name, delay_us):
                    self._serial += 1
                    timer = node.timers[name] = self._serial
                    self._later(
                        node,
                        delay_us,
                        lambda node, name=name, timer=timer: self._fire(node, name, timer),
                    )
                case CancelTimer(name):
                    node.timers.pop(name, None)
                case Check(batch, past):
                    # The answer is of now and comes later: blocks may be executed meanwhile.
                    examined = BatchExamined(batch.digest(), node.app.examine(batch, past))
                    self._later(
                        node,
                        self.random.randrange(MS, self.check_us),
                        lambda node, examined=examined: self.vote(node, examined),
                    )
                case Apply(digest, _):
                    self._later(
                        node,
                        self.random.randrange(1, 8) * MS,
                        lambda node, digest=digest: self._apply(node, digest),
                    )
                case Fetch(want, peers):
                    node.fetching[want] = peers
                    if want.what is What.BATCH:  # type: ignore[union-attr]
                        self._later(
                            node, self.disk_us, lambda node, want=want: self._reread(node, want.digest)
                        )
                case Learned():
                    self._build(node, output)
                case Returned(data, code):
                    self._returned(node, data, code)
                case Certified() | Contested():
                    pass
                case Halt(reason):
                    raise Broken(f"node {node.number} halts: {reason}")
                case _:
                    raise AssertionError(output)

    def _returned(self, node: Node, data: bytes, code: str) -> None:
        move = self.moves[data]
        if move.claim.transaction in self.sent and move.claim.transaction not in node.app.executed:
            self.returned.append((data, code))
            self._later(node, 300 * MS, lambda node: self.offer(node.number, move))

    def _later(self, node: Node, delay_us: int, act: Callable[[Node], None]) -> None:
        """Unless the node crashes before."""
        life = node.life
        self.at(delay_us, lambda: act(node) if node.life == life else None)

    def _fire(self, node: Node, name: str, timer: int) -> None:
        if node.timers.get(name) == timer:
            del node.timers[name]
            self._build(node, TimedOut(name))

    def _apply(self, node: Node, digest: bytes) -> None:
        node.app.apply(digest)
        self._progress(node)

    def _progress(self, node: Node) -> None:
        for applied in node.app.progress():
            self.vote(node, applied)

    # Disk

    def _reread(self, node: Node, digest: bytes) -> None:
        """What isn't in memory may be in the log."""
        if digest in node.logged and node.voter.certificates.wants_content(digest):
            node.reread += 1
            self.vote(node, Received(node.id, Got((node.logged[digest],))))

    def _sync(self, node: Node) -> None:
        node.syncing = False
        for number, data in node.unsynced:
            node.log.append(data)
            if data[0] == HeldBatch.RECORD:
                record = self._record(data)
                assert isinstance(record, HeldBatch)
                node.logged[record.batch.digest()] = record.batch
            node.durable = number
        node.unsynced.clear()
        held, node.held = node.held, []
        for send in held:
            self._send(node.number, send)

    def _crash(self) -> None:
        if self.healed or not self.faults:
            return
        self.at(self.random.randrange(400 * MS, 1500 * MS), self._crash)
        node = self.random.choice(self.nodes)
        node.life += 1
        node.unsynced.clear()
        node.held.clear()
        node.timers.clear()
        node.fetching.clear()
        node.durable = 0
        node.syncing = False
        node.app.forget()
        self.trace = plain_digest(self.trace + b"crash" + node.id)
        records = [self._record(data) for data in node.log]
        node.voter = self._voter(node.number)
        node.builder = self._builder(node.number, node.life)
        self._carry_out(node, node.voter.restore(records))
        heights = [each.height for each in records if isinstance(each, UsedUp)]
        for height in range(max(heights, default=0), node.app.height):
            self.vote(node, self.executed[height])
        self._resubmit(node)

    def _record(self, data: bytes) -> BatchRecord:
        reader = Reader(data)
        record = BATCH_RECORDS[reader.u8("kind")](reader)
        reader.finish("record")
        return record  # type: ignore[return-value]

    # Network

    def _send(self, sender: int, send: Send) -> None:
        self._see(sender, send.message)
        if isinstance(send.message, Batch):
            self.batches.setdefault(send.message.digest(), send.message)
        to = [each for each in IDS if each != IDS[sender]] if send.to is ALL else send.to
        assert not isinstance(to, type(ALL))
        for each in to:
            self.deliver(sender, IDS.index(each), send.message)

    def deliver(self, sender: int, to: int, message: Message) -> None:
        pick = self.random
        if self.faults and not self.healed and sender != to:
            if pick.random() < 0.08:
                return
            if pick.random() < 0.05:
                self.at(pick.randrange(500 * MS), lambda: self._arrive(sender, to, message))
        delay_us = pick.randrange(MS, 40 * MS) if sender != to else 100
        self.at(delay_us, lambda: self._arrive(sender, to, message))

    def _arrive(self, sender: int, to: int, message: Message) -> None:
        frame = encode(message)
        assert decode(frame) == message, "what travels is what was meant"
        self.trace = plain_digest(self.trace + self.now_us.to_bytes(8, "big") + bytes((sender, to)) + frame)
        if not self._is_signed(message):
            return
        if isinstance(message, BatchCertificate):
            self.certify(message)
        if isinstance(message, Effects):
            for effect in self.gatherers[to].add(message):
                if self.final.setdefault(effect.transaction, effect.effects) != effect.effects:
                    raise Broken("two final effects of one transaction")
        if to == HOSTILE:
            self.hostile.received(sender, message)
            return
        node = self.nodes[to]
        if isinstance(message, Get):
            message = self._answer_from_log(node, sender, message)
        event = Received(IDS[sender], message)
        if isinstance(message, Accept | Refuse):
            self._build(node, event)
        else:
            self.vote(node, event)

    def _answer_from_log(self, node: Node, sender: int, question: Get) -> Get:
        """As a driver does; gives what is left to the machine."""
        left = []
        for want in question.wants:
            digest = want.digest if isinstance(want, WantDigest) and want.what is What.BATCH else b""
            settled = node.voter.certificates.is_settled(digest)
            if digest in node.logged and node.voter.batch(digest) is None and not settled:
                self._send(node.number, Send((IDS[sender],), Got((node.logged[digest],)), Stream.BULK))
            else:
                left.append(want)
        return Get(tuple(left))

    def _is_signed(self, message: Message) -> bool:
        """What a driver checks before it hands a message on."""
        match message:
            case Batch(header, signature, _):
                said = vote_message(CHAIN, header.epoch, VoteKind.BATCH, 0, header.digest())
                return signature == sign(header.builder, said)
            case Accept() | Effects():
                return message.signature == sign(IDS[message.validator], message.message(CHAIN))
            case BatchCertificate(header, signature, bitmap, signatures):
                said = vote_message(CHAIN, header.epoch, VoteKind.BATCH, 0, header.digest())
                voted = message.message(CHAIN)
                return signature == sign(header.builder, said) and all(
                    one == sign(IDS[number], voted)
                    for number, one in zip(numbers_of(bitmap), signatures, strict=True)
                )
        return True

    def _fetch_again(self) -> None:
        self.at(150 * MS, self._fetch_again)
        for node in self.nodes:
            for want, peers in list(node.fetching.items()):
                store = node.voter.certificates
                batch = want.what is What.BATCH  # type: ignore[attr-defined]
                digest = want.digest  # type: ignore[attr-defined]
                wanted = store.wants_content(digest) if batch else not store.is_held(digest)
                if not wanted or store.is_settled(digest):
                    del node.fetching[want]
                    continue
                peer = self.random.choice(peers or IDS)
                if peer == node.id:
                    continue
                self.deliver(node.number, IDS.index(peer), Get((want,)))  # type: ignore[arg-type]

    # Blocks

    def _order(self) -> None:
        self.at(self.random.randrange(100 * MS, 400 * MS), self._order)
        leader = self.random.randrange(NODES)
        for node in self.nodes:
            two = (IDS[leader], IDS[(leader + 1) % NODES])
            self._later(
                node,
                self.random.randrange(50 * MS),
                lambda node, two=two: self.vote(node, Leaders(1, len(self.blocks), two)),
            )
        block: list[bytes] = []
        waiting = list(self.certified) if leader == HOSTILE else self._held(self.nodes[leader])
        inside = dict(self.ordered)
        self.random.shuffle(waiting)
        for _ in range(3):
            for digest in waiting:
                header = self.certified[digest].header
                if digest not in inside and all(each in inside for each in header.after):
                    if leader == HOSTILE and self.random.random() < 0.4:
                        continue
                    block.append(digest)
                    inside[digest] = None
        self.ordered = inside
        self.blocks.append(block)
        for node in self.nodes:
            self._later(node, self.random.randrange(60 * MS), self._catch_up)

    def _catch_up(self, node: Node) -> None:
        for height in range(node.app.height, len(self.blocks)):
            if not self.healed and self.random.random() < 0.2:
                break
            block = self.blocks[height]
            self.vote(node, BlockFinal(height + 1, tuple(block)))
            executed = node.app.execute(block)
            for name in executed.transactions:
                self.done_us.setdefault(name, self.now_us)
            if height == len(self.executed):
                self.executed.append(executed)
            assert self.executed[height] == executed, "every node executes alike"
            self.vote(node, executed)
            self._build(node, executed)
            self._progress(node)


class HostileNode:
    """The hostile validator and builder: accepts everything, refuses at random, hands out what harms."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.pool: list[Move] = []
        self.accepts: dict[bytes, dict[int, bytes]] = {}
        self.sequence = 0

    def received(self, sender: int, message: Message) -> None:
        pick = self.world.random
        match message:
            case Batch():
                self._vote(sender, message)
                if pick.random() < 0.5:
                    self.build()
            case Accept():
                votes = self.accepts.setdefault(message.batch, {})
                votes[message.validator] = message.signature
                batch = self.world.batches[message.batch]
                if batch.header.builder == IDS[HOSTILE] and SET.is_quorum(len(votes)):
                    self._hand_out(batch, votes)

    def _vote(self, sender: int, batch: Batch) -> None:
        world, digest = self.world, batch.digest()
        said = vote_message(CHAIN, 1, VoteKind.ACCEPT, 0, digest)
        accept = Accept(1, digest, HOSTILE, sign(IDS[HOSTILE], said))
        answers: list[Message] = [
            accept,
            Refuse(1, digest, HOSTILE, refusals=(Refusal(0, "BadSignature"),)),
            Refuse(1, digest, HOSTILE, "PastMissing", tuple(sorted(batch.header.after))),
            Refuse(1, digest, HOSTILE, "Closing"),
        ]
        world.deliver(HOSTILE, sender, world.random.choices(answers, (8, 1, 1, 1))[0])

    def build(self) -> None:
        """Two batches under one number, with other transactions, for different validators."""
        world, pick = self.world, self.world.random
        if not self.pool or world.healed:
            return
        self.sequence += pick.choice((0, 1))
        for attempt in range(2):
            moves = pick.sample(self.pool[-6:], min(len(self.pool[-6:]), pick.choice((1, 1, 2))))
            known = list(world.certified)[-6:]
            after = [each for each in known if pick.random() < 0.5]
            if pick.random() < 0.1:
                after.append(plain_digest(bytes([pick.randrange(256)])))
            data = tuple(move.data for move in sorted(moves, key=lambda move: move.claim.slots))
            header = batch_header(
                chain_id=CHAIN,
                epoch=1,
                builder=IDS[HOSTILE],
                sequence=self.sequence,
                attempt=attempt,
                after=sorted(set(after)),
                transactions=data,
                gas=len(data),
            )
            said = vote_message(CHAIN, 1, VoteKind.BATCH, 0, header.digest())
            batch = Batch(header, sign(IDS[HOSTILE], said), data)
            world.batches.setdefault(batch.digest(), batch)
            mine = vote_message(CHAIN, 1, VoteKind.ACCEPT, 0, batch.digest())
            self.accepts.setdefault(batch.digest(), {})[HOSTILE] = sign(IDS[HOSTILE], mine)
            for to in range(HOSTILE):
                if pick.random() < 0.8:
                    world.deliver(HOSTILE, to, batch)

    def _hand_out(self, batch: Batch, votes: dict[int, bytes]) -> None:
        """A certificate for some, the batch itself for nobody."""
        world = self.world
        numbers = sorted(votes)
        certificate = BatchCertificate(
            batch.header, batch.signature, bitmap_of(numbers, NODES), tuple(votes[each] for each in numbers)
        )
        world.certify(certificate)
        for to in range(HOSTILE):
            if world.random.random() < 0.5:
                world.deliver(HOSTILE, to, certificate)
