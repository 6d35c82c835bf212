"""A node that catches up from peers that serve, lie, are slow or silent: a seeded world for block sync."""

import heapq
import random
from collections.abc import Callable
from enum import Enum
from functools import partial

import attrs

from supervm.plugins.consensus.bft.events import CancelTimer, Halt, Now, Received, Send, SetTimer, TimedOut
from supervm.plugins.consensus.bft.fetching import (
    Absent,
    Get,
    Got,
    GotBlock,
    Item,
    OldestHeld,
    Want,
    WantBlocks,
    WantDigest,
    decode_item,
    encode_item,
)
from supervm.plugins.consensus.bft.sync.events import (
    CaughtUp,
    Committed,
    Dropped,
    Look,
    NeedsSnapshot,
    PeersNow,
    Ready,
    SnapshotUseless,
    SyncEvent,
    SyncOutput,
    Verified,
    Verify,
)
from supervm.plugins.consensus.bft.sync.machine import BlockSync, SyncSettings
from supervm.types.block import Block
from supervm.types.certificate import Certificate, VoteKind
from supervm.types.errors import InvalidInput
from tests.consensus_bft.chains import Truth, certify, holds
from tests.consensus_bft.sim.world import CHAIN, hash32, node_id

SECOND = 1_000_000


class Broken(Exception):
    """What must not be."""


class Kind(Enum):
    HONEST = "honest"
    BEHIND = "has only the first half"
    SLOW = "answers after four seconds"
    DRIP = "answers one item at a time, late"
    SILENT = "never answers"
    NOTHING = "says that it has nothing"
    PRUNED = "says that it pruned all"
    BODY = "changes a body"
    FORK = "makes up blocks, with no certificates"
    FORGED = "makes up blocks, with certificates nobody signed"
    MINORITY = "makes up a block that only it signed"
    OTHER = "gives a true finalisation beside another block"
    MORE = "gives more than was asked for"
    EPOCH = "says that blocks are of a later epoch"
    BATCHES = "changes transactions of batches"
    NO_BATCHES = "gives blocks, never batches"
    BUILDER = "changes the builder's signature on batches"
    UNASKED = "answers what nobody asked, many times"


LIES = frozenset(
    {Kind.BODY, Kind.FORK, Kind.FORGED, Kind.MINORITY, Kind.OTHER, Kind.MORE, Kind.EPOCH, Kind.BATCHES}
)
"""Whoever does these, and is asked, is named as a liar. Of blocks made up above the chain's end no proof
comes: whoever gives them is dropped, too."""


@attrs.define(eq=False)
class Server:
    number: int
    kind: Kind
    truth: Truth
    random: random.Random
    oldest: int = 1
    lies: bool = False
    """In the answer made last."""
    lied: bool = False
    """In an answer to a question that was still open when it came."""

    @property
    def node(self) -> bytes:
        return node_id(self.number)

    @property
    def top(self) -> int:
        return self.truth.height // 2 if self.kind is Kind.BEHIND else self.truth.height

    def delay_us(self) -> int:
        if self.kind in (Kind.SLOW, Kind.DRIP):
            return self.random.randint(3 * SECOND, 4 * SECOND)
        return self.random.randint(5_000, 60_000)

    def answer(self, wants: tuple[Want, ...]) -> list[Got]:
        self.lies = False
        if self.kind is Kind.SILENT:
            return []
        items = [item for want in wants for item in self._items(want)]
        if self.kind is Kind.DRIP:
            items = items[:1]
        if self.kind is Kind.UNASKED:
            stray = GotBlock(self.truth.block(1), self.truth.finalisations.get(1))
            return [Got((stray,)), Got(tuple(items)), Got(tuple(items)), Got((Absent(WantBlocks(9, 9)),))]
        return [Got(tuple(items))]

    def _items(self, want: Want) -> list[Item]:
        if isinstance(want, WantBlocks):
            return self._blocks(want)
        assert isinstance(want, WantDigest), f"sync asks for no {want!r}"
        batch = self.truth.batch(want.digest)
        if batch is None or self.kind is Kind.NO_BATCHES:
            return [Absent(want)]
        if self.kind is Kind.BATCHES:
            self.lies = True
            changed = (batch.transactions[0][:-1] + b"?", *batch.transactions[1:])
            return [attrs.evolve(batch, transactions=changed)]
        if self.kind is Kind.BUILDER:
            return [attrs.evolve(batch, signature=bytes(64))]
        return [batch]

    def _blocks(self, want: WantBlocks) -> list[Item]:
        if self.kind is Kind.NOTHING or want.height > self.top:
            return [Absent(want)]
        if self.kind is Kind.PRUNED:
            return [OldestHeld(want.height + 1_000)]
        if want.height < self.oldest:
            return [OldestHeld(self.oldest)]
        count = min(want.count, self.random.choice((want.count, want.count, 5)))
        if self.kind is Kind.MORE and want.height + want.count <= self.top:
            count = want.count + 1
        last = min(self.top, want.height + count - 1)
        true = [self._true(height) for height in range(want.height, last + 1)]
        self.lies = self.kind in (LIES - {Kind.MORE}) or len(true) > want.count
        return self._changed(true)

    def _true(self, height: int) -> GotBlock:
        block = self.truth.block(height)
        return GotBlock(Block(block.header, block.body), self.truth.finalisations.get(height))

    def _changed(self, true: list[GotBlock]) -> list[Item]:
        # What stands after an epoch's last block isn't looked at.
        epochs = [each.block.header.epoch for each in true]
        at = self.random.randrange(epochs.count(epochs[0]))
        block = true[at].block
        match self.kind:
            case Kind.BODY:
                body = attrs.evolve(block.body, system_operations=(b"made up",))
                true[at] = attrs.evolve(true[at], block=Block(block.header, body))
                return list(true)
            case Kind.OTHER:
                header = attrs.evolve(block.header, timestamp_ms=block.header.timestamp_ms + 1)
                own = true[at].finalisation or self.truth.finalisations[self.truth.height]
                return [*true[:at], GotBlock(Block(header, block.body), own)]
            case Kind.EPOCH:
                header = attrs.evolve(true[0].block.header, epoch=2**40)
                return [GotBlock(Block(header, true[0].block.body), true[0].finalisation)]
            case Kind.FORK | Kind.FORGED | Kind.MINORITY:
                return list(self._made_up(true))
        return list(true)

    def _made_up(self, true: list[GotBlock]) -> list[GotBlock]:
        """Blocks that link to each other and to the true chain, and that nobody ever voted for."""
        found: list[GotBlock] = []
        parent = true[0].block.header.parent
        for got in true:
            block = got.block
            header = attrs.evolve(block.header, parent=parent, state_root=hash32(b"made up"))
            parent = header.digest()
            found.append(GotBlock(Block(header, block.body), self._certificate(block, parent)))
        return found

    def _certificate(self, block: Block, digest: bytes) -> Certificate | None:
        epoch = block.header.epoch
        validators = self.truth.sets[epoch]
        everyone = list(range(len(validators.members)))
        if self.kind is Kind.FORGED:
            true = certify(VoteKind.FINALIZE, epoch, 1, digest, validators, everyone)
            return attrs.evolve(true, signatures=tuple(bytes(64) for _ in everyone))
        if self.kind is Kind.MINORITY:
            return certify(VoteKind.FINALIZE, epoch, 1, digest, validators, everyone[:1])
        return None


class SyncWorld:
    """One node, its peers, and time. `begin`: the height that the node has at first. `oldest`: the lowest
    block that each peer keeps."""

    def __init__(
        self,
        seed: int,
        truth: Truth,
        kinds: list[Kind],
        *,
        begin: int = 0,
        settings: SyncSettings | None = None,
        loss: float = 0.0,
        oldest: tuple[int, ...] = (),
        machine: Callable[..., BlockSync] = BlockSync,
    ) -> None:
        self.random = random.Random(f"sync {seed}")
        self.truth = truth
        self.settings = settings or SyncSettings(window_blocks=16, blocks_asked=5, batches_asked=4)
        self.machine = machine
        self.loss = loss
        self.servers = {node_id(n): Server(n, kind, truth, self.random) for n, kind in enumerate(kinds)}
        for server, height in zip(self.servers.values(), oldest, strict=False):
            server.oldest = height
        self.now_us = 0
        self.height = begin
        self.given: list[Ready] = []
        self.asked: list[tuple[bytes, tuple[Want, ...]]] = []
        self.dropped: dict[bytes, list[Dropped]] = {}
        self.caught_up: int | None = None
        self.needs: NeedsSnapshot | None = None
        self.widest_bytes = 0
        self.execute_us = (1_000, 20_000)
        self.life = 0
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._timers: dict[str, int] = {}
        self._executing = False
        self.sync = self._new_machine()
        self._tell(PeersNow(tuple(self.servers)))
        self._tell(Look())

    def _new_machine(self) -> BlockSync:
        return self.machine(CHAIN, self._tip(), self.settings)

    def _tip(self) -> Committed:
        epoch = self.truth.epoch_after(self.height)
        digest = self.truth.digest(self.height)
        return Committed(self.height, digest, epoch, self.truth.sets[epoch])

    def restart(self) -> None:
        """The node dies and comes back with what it committed."""
        self.life += 1
        self._executing = False
        self._timers.clear()
        self.given.clear()
        self.sync = self._new_machine()
        self._tell(PeersNow(tuple(self.servers)))
        self._tell(Look())

    def look(self) -> None:
        self.caught_up = self.needs = None
        self._tell(Look())

    def at(self, delay_us: int, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now_us + delay_us, self._count, action))

    def run(self, until_us: int, done: Callable[[], bool] = lambda: False) -> None:
        while self._queue and self._queue[0][0] <= until_us and not done():
            self.now_us, _, action = heapq.heappop(self._queue)
            action()

    def run_to_the_end(self, seconds: int = 120) -> None:
        """Until the machine says that it has caught up with all of the chain."""

        def done() -> bool:
            if self.caught_up is not None and self.height < self.truth.height:
                self.look()
            return self.caught_up == self.truth.height

        self.run(self.now_us + seconds * SECOND, done)
        if not done():
            raise Broken(f"at height {self.height} of {self.truth.height} after {seconds} s")

    def liars(self) -> set[bytes]:
        return {node for node, all_ in self.dropped.items() if any(each.lied for each in all_)}

    def _tell(self, event: SyncEvent) -> None:
        outputs = self.sync.step(event, Now(self.now_us, 0))
        self.widest_bytes = max(self.widest_bytes, self.sync.held_bytes)
        for output in outputs:
            self._carry_out(output)

    def _later(self, delay_us: int, event: SyncEvent) -> None:
        life = self.life

        def tell() -> None:
            if life == self.life:
                self._tell(event)

        self.at(delay_us, tell)

    def _carry_out(self, output: SyncOutput) -> None:
        match output:
            case Send(to, Get(wants)):
                for node in to:
                    self._ask(node, wants)
            case SetTimer(name, delay_us):
                self._timers[name] = token = self._timers.get(name, 0) + 1
                life = self.life

                def fire() -> None:
                    if life == self.life and self._timers.get(name) == token:
                        self._tell(TimedOut(name))

                self.at(delay_us, fire)
            case CancelTimer(name):
                self._timers[name] = self._timers.get(name, 0) + 1
            case Verify(ticket, certificates, validators):
                right = all(holds(each, validators) for each in certificates)
                self._later(self.random.randint(100, 20_000), Verified(ticket, right))
            case Ready():
                self._take(output)
            case Dropped(peer):
                self.dropped.setdefault(peer, []).append(output)
            case NeedsSnapshot(_, peers):
                self.needs = output
                if any(self.servers[peer].kind is Kind.PRUNED for peer in peers):
                    # The driver asks them for snapshots, and there are none.
                    self._later(100_000, SnapshotUseless(peers))
            case CaughtUp(height):
                self.caught_up = height
            case Halt(reason):
                raise Broken(reason)

    def _ask(self, node: bytes, wants: tuple[Want, ...]) -> None:
        for want in wants:
            if isinstance(want, WantBlocks) and not (
                want.height > self.height
                and want.height + want.count - 1 <= self.height + self.settings.window_blocks
                and want.count <= self.settings.blocks_asked
            ):
                raise Broken(f"{want} is asked for at height {self.height}")
        if len(wants) > self.settings.batches_asked:
            raise Broken(f"{len(wants)} batches in one question")
        self.asked.append((node, wants))
        server = self.servers.get(node)
        if server is None or self.random.random() < self.loss:
            return
        answers = server.answer(wants)
        lies = server.lies
        for got in answers:
            try:
                items = tuple(decode_item(encode_item(item)) for item in got.items)
            except InvalidInput as error:
                # Undecodable frames are the driver's: it cuts the link.
                self.dropped.setdefault(node, []).append(Dropped(node, str(error), lied=True))
                server.lied = True
                left = tuple(each for each in self.servers if each not in self.liars())
                self._later(server.delay_us(), PeersNow(left))
                return
            self.at(server.delay_us(), partial(self._deliver, node, Got(items), lies, self.life))

    def _deliver(self, node: bytes, got: Got, lies: bool, life: int) -> None:
        if life != self.life:
            return
        peer = self.sync._peers.get(node)
        if lies and peer is not None and peer.question is not None:
            self.servers[node].lied = True
        self._tell(Received(node, got))

    def _take(self, ready: Ready) -> None:
        height = self.height + len(self.given) + 1
        header = ready.block.header
        if header.height != height or ready.block != self.truth.block(height):
            raise Broken(f"block {header.height} is given where {height} follows, or it isn't the true one")
        if ready.view != self.truth.views[height]:
            raise Broken(f"block {height} is given as of view {ready.view}")
        if ready.certificate is not None and ready.certificate != self.truth.finalisations.get(height):
            raise Broken(f"block {height} has a certificate that isn't its own")
        self.given.append(ready)
        if len(self.given) > self.settings.ready_max:
            raise Broken("more is given than may wait")
        self._execute()

    def _execute(self) -> None:
        if self._executing or not self.given:
            return
        self._executing = True
        life = self.life

        def done() -> None:
            if life != self.life:
                return
            self._executing = False
            self.given.pop(0)
            self.height += 1
            self._tell(self._tip())
            self._execute()

        self.at(self.random.randint(*self.execute_us), done)
