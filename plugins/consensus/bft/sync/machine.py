"""Block sync: final blocks and their batches from peers, proven, in order (CONS-61, 62, 64). No I/O.

How it works
    Peers are asked for runs of final blocks above the tip, each peer one question at a time. A block is final
    by a finalisation of it, or of a block of the same epoch that it is an ancestor of; every finalisation is
    verified against the set of its epoch before its block is kept. The next epoch's set is known only from
    the state after an epoch's last block, so nothing above that is kept before it is committed here. The
    batches that a final block names are asked for by digest. What is complete goes to the driver.

Whom it believes
    Nobody. A wrong answer is named and its peer dropped; blocks that no certificate proves yet are kept
    within the window, and their giver is dropped if the final chain turns out not to hold them, or if no
    proof comes. Who doesn't answer, or lets others answer first, is dropped for a while. A peer that says it
    has nothing is believed of itself only: one honest peer ahead is enough.

What it costs
    A window of blocks and bytes, one question a peer, an answer's bytes each (CONS-38). What comes without
    having been asked for is ignored.
"""

import attrs

from supervm.plugins.consensus.bft.events import (
    CancelTimer,
    Halt,
    Now,
    Received,
    Send,
    SetTimer,
    Stream,
    TimedOut,
)
from supervm.plugins.consensus.bft.fetching import (
    Absent,
    Get,
    Got,
    GotBlock,
    OldestHeld,
    WantBlocks,
    WantDigest,
    What,
)
from supervm.plugins.consensus.bft.sync.answers import Expected, Found, Lied, judge_batches, judge_blocks
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
    with_batches,
)
from supervm.plugins.consensus.bft.sync.peers import STRIKES_MAX, Peer, Question, SyncPeers
from supervm.plugins.consensus.bft.sync.window import Forked, Slot, Window
from supervm.types.block import BlockHeader
from supervm.types.certificate import Certificate
from supervm.types.digests import Digest
from supervm.types.errors import InvalidInput
from supervm.types.finality import FinalityProof

TICK = "sync"
TICK_US = 250_000
COMMITTED_TOGETHER = 8


@attrs.frozen(kw_only=True)
class SyncSettings:
    """Bounds and times (all chosen). `window_bytes` may be passed by one answer of each peer.

    `ready_max`: blocks given to the driver and not committed. `hedge_us`: after this long another peer is
    asked for what comes next, too; `answer_us`: after this long a question counts as not answered.
    `proof_us`: how long blocks next to the tip may go unproven. `poll_us`: how often to look when nothing
    said that there is more; 0: never.
    """

    window_blocks: int = 256
    window_bytes: int = 64 * 2**20
    blocks_asked: int = 32
    batches_asked: int = 32
    batch_bytes_asked: int = 2 * 2**20
    probes: int = 3
    ready_max: int = 8
    hedge_us: int = 1_000_000
    answer_us: int = 5_000_000
    proof_us: int = 15_000_000
    rest_us: int = 60_000_000
    poll_us: int = 0


@attrs.frozen
class _Unverified:
    peer: bytes
    blocks: tuple[GotBlock, ...]
    epoch: int


class BlockSync:
    """One node's catching up. Not thread-safe; `step` never raises for what others sent."""

    def __init__(self, chain_id: bytes, tip: Committed, settings: SyncSettings | None = None) -> None:
        self.settings = settings or SyncSettings()
        self._chain_id = chain_id
        self._epoch = tip.epoch
        self._validators = tip.validators
        self._window = Window(tip.height, tip.digest, self.settings.window_blocks)
        self._peers = SyncPeers(self.settings.rest_us)
        self._unverified: dict[int, _Unverified] = {}
        self._tickets = 0
        self._ticking = False
        self._now_us = 0
        self._committed_only = False
        self._out: list[SyncOutput] = []
        self.active = False
        self.halted = ""

    @property
    def height(self) -> int:
        """Of the tip."""
        return self._window.height

    @property
    def held_blocks(self) -> int:
        """Above the tip."""
        return len(self._window)

    @property
    def held_bytes(self) -> int:
        return self._window.size_bytes

    def step(self, event: SyncEvent, now: Now) -> list[SyncOutput]:
        self._now_us = now.monotonic_us
        self._committed_only = isinstance(event, Committed) and event.height % COMMITTED_TOGETHER != 0
        self._out = []
        if not self.halted:
            try:
                self._on(event)
                self._settle()
            except Forked as error:
                self.halted = str(error)
                self._out.append(Halt(self.halted))
        out, self._out = self._out, []
        return out

    def _on(self, event: SyncEvent) -> None:
        match event:
            case Received(peer, Got(items)):
                self._on_answer(peer, Got(items))
            case TimedOut(name) if name == TICK:
                self._on_tick()
            case Verified(ticket, right):
                self._on_verified(ticket, right)
            case PeersNow(nodes, guests):
                self._peers.now(nodes, guests)
            case Look():
                self._look()
            case Committed():
                self._on_committed(event)
            case SnapshotUseless(peers):
                for node in peers:
                    self._drop(node, "its snapshot doesn't check", lied=True)
                self._look()

    def _look(self) -> None:
        self.active = True
        self._peers.look_again()

    def _on_committed(self, tip: Committed) -> None:
        if tip.height <= self._window.height:
            return
        self._window.advance(tip.height, tip.digest)
        new_epoch = tip.epoch != self._epoch
        self._epoch, self._validators = tip.epoch, tip.validators
        if new_epoch:
            self._peers.look_again()
        for peer in self._peers.usable():
            question = peer.question
            if question is None or not isinstance(question.want, WantBlocks):
                continue
            if new_epoch or question.want.height <= tip.height:
                peer.question = None

    # Answers.

    def _on_answer(self, node: bytes, got: Got) -> None:
        peer = self._peers.get(node)
        if peer is None or peer.question is None or peer.question.ticket:
            return
        try:
            if isinstance(peer.question.want, WantBlocks):
                self._on_blocks(peer, peer.question.want, got)
            else:
                self._on_batches(peer, peer.question.want, got)
        except Lied as lie:
            self._drop(node, str(lie), lied=True)

    def _on_blocks(self, peer: Peer, want: WantBlocks, got: Got) -> None:
        expected = Expected(
            chain_id=self._chain_id,
            epoch=self._epoch,
            validators=self._validators,
            first=self._window.height + 1,
        )
        match judge_blocks(got.items, want, expected):
            case Absent():
                self._has_none(peer, want.height)
            case OldestHeld(height):
                peer.oldest = height
                self._release(peer, 0)
            case Found(()):
                self._has_none(peer, want.height)
            case Found(blocks):
                finalisations = tuple(each.finalisation for each in blocks if each.finalisation is not None)
                if finalisations:
                    self._verify(peer, blocks, finalisations)
                else:
                    self._release(peer, len(blocks))
                    self._keep(peer.node, blocks)

    def _has_none(self, peer: Peer, height: int) -> None:
        peer.absent_from = min(height, peer.absent_from or height)
        self._release(peer, 0)

    def _verify(
        self, peer: Peer, blocks: tuple[GotBlock, ...], certificates: tuple[Certificate, ...]
    ) -> None:
        assert peer.question is not None, "an answer has a question"
        self._tickets += 1
        peer.question = attrs.evolve(peer.question, ticket=self._tickets)
        self._unverified[self._tickets] = _Unverified(peer.node, blocks, self._epoch)
        self._out.append(Verify(self._tickets, certificates, self._validators))

    def _on_verified(self, ticket: int, right: bool) -> None:
        given = self._unverified.pop(ticket, None)
        if given is None:
            return
        peer = self._peers.get(given.peer)
        if peer is not None and peer.question is not None and peer.question.ticket == ticket:
            self._release(peer, len(given.blocks))
        if not right:
            self._drop(given.peer, "a finalisation that isn't signed by those whom it names", lied=True)
        elif given.epoch == self._epoch:
            self._keep(given.peer, given.blocks)

    def _keep(self, giver: bytes, blocks: tuple[GotBlock, ...]) -> None:
        proven = max((at for at, got in enumerate(blocks) if got.finalisation is not None), default=-1)
        for at, got in enumerate(blocks):
            held = self._window.get(got.block.header.height)
            if held is not None and held.digest != got.block.digest():
                if at <= proven and not held.final:
                    self._drop(held.giver, f"block {held.height} isn't in the final chain", lied=True)
                elif held.final and at > proven:
                    self._drop(giver, f"block {held.height} isn't in the final chain", lied=True)
                    return
                elif held.final:
                    raise Forked(f"two final blocks at height {held.height}")
            self._window.keep(got, giver, self._now_us)
        for liar in self._window.prove():
            self._drop(liar, "blocks that aren't in the final chain", lied=True)
        self.active = self.active or len(self._window) > 0

    def _on_batches(self, peer: Peer, asked: tuple[Digest, ...], got: Got) -> None:
        found = judge_batches(got.items, asked)
        if found is None:
            return
        came = [batch for batch in found.values() if batch is not None]
        peer.lacks.update(digest for digest, batch in found.items() if batch is None)
        self._release(peer, len(came))
        for batch in came:
            self._window.take(batch)

    def _release(self, peer: Peer, items: int) -> None:
        """A question is answered: whoever was asked the same long before was too slow."""
        question = peer.question
        assert question is not None, "an answer has a question"
        peer.answered(items, self._now_us, self.settings.hedge_us)
        peer.question = None
        for other in self._peers.usable() if items else ():
            asked = other.question
            if asked is None or asked.ticket or not _overlap(asked.want, question.want):
                continue
            if self._now_us - asked.at_us >= self.settings.hedge_us:
                other.overtaken += 1
                if other.overtaken >= STRIKES_MAX:
                    self._drop(other.node, "others answer first", lied=False)

    def _drop(self, node: bytes, reason: str, lied: bool) -> None:
        self._peers.rest(node, self._now_us, lied)
        self._window.forget_unproven(node)
        self._unverified = {at: each for at, each in self._unverified.items() if each.peer != node}
        self._out.append(Dropped(node, reason, lied))

    # Time.

    def _on_tick(self) -> None:
        self._ticking = False
        self._peers.wake(self._now_us)
        for peer in self._peers.usable():
            question = peer.question
            if question is None or question.ticket:
                continue
            if self._now_us - question.at_us >= self.settings.answer_us:
                peer.question = None
                peer.silent += 1
                peer.pace_us = max(peer.pace_us, self.settings.answer_us)
                if peer.silent >= STRIKES_MAX:
                    self._drop(peer.node, "it doesn't answer", lied=False)
        head = self._window.get(self._window.height + 1)
        for slot in self._window.slots():
            if not slot.final and self._now_us - slot.at_us >= self.settings.proof_us:
                self._drop(slot.giver, f"no proof of block {slot.height} comes", lied=False)
                break
        if head is not None and head.final and self._is_lacked(head):
            for peer in self._peers.usable():
                peer.lacks.clear()
        if not self.active and self.settings.poll_us:
            self._look()

    def _is_lacked(self, slot: Slot) -> bool:
        """Whether nobody who may be asked says that it has a batch of a block."""
        peers = self._peers.usable()
        return any(all(digest in peer.lacks for peer in peers) for digest in slot.missing)

    # Whatever the state allows now.

    def _has_plenty(self) -> bool:
        """Whether nothing happened but that a block of many was committed: that leaves no new question."""
        return self._committed_only and len(self._window) > self.settings.window_blocks // 2

    def _settle(self) -> None:
        self._give()
        if self.active:
            if not self._has_plenty():
                self._ask()
            self._conclude()
        delay_us = TICK_US if self.active else self.settings.poll_us
        if delay_us and not self._ticking:
            self._ticking = True
            self._out.append(SetTimer(TICK, delay_us))

    def _give(self) -> None:
        """Give what is final and complete, in order."""
        for height in range(self._window.height + 1, self._window.height + 1 + self.settings.ready_max):
            slot = self._window.get(height)
            if slot is None or not slot.final or slot.missing:
                return
            if not slot.given:
                slot.given = True
                block = with_batches(slot.block, slot.batches)
                view, proof = self._view_of(slot), self._proof_of(slot)
                self._out.append(Ready(block, view, slot.finalisation, proof))

    def _view_of(self, slot: Slot) -> int:
        """The view in which a final block was proposed: its certificate's, or as its child's body says."""
        if slot.finalisation is not None:
            return slot.finalisation.view
        child = self._window.get(slot.height + 1)
        assert child is not None and child.final, "a block without certificate has a final child"
        try:
            return Certificate.decode(child.block.body.justification).view
        except InvalidInput as error:
            raise Forked(f"final block {child.height} doesn't prove its parent: {error}") from error

    def _proof_of(self, slot: Slot) -> FinalityProof:
        """A final block's own finalisation, or the headers up to the block that has one."""
        headers: list[BlockHeader] = []
        above: Slot | None = slot
        while above is not None and above.finalisation is None:
            above = self._window.get(above.height + 1)
            assert above is not None and above.final, "what is final has a finalisation above it"
            headers.append(above.block.header)
        assert above is not None and above.finalisation is not None, "the walk ends at a finalisation"
        return FinalityProof(above.finalisation, tuple(headers))

    def _ask(self) -> None:
        """Give every free peer the first question that it may answer and that nobody else has."""
        free = [peer for peer in self._peers.usable() if peer.question is None]
        for peer in sorted(free, key=lambda each: (each.guest, each.pace_us)):
            want = self._next_question(peer)
            if want is not None:
                peer.question = Question(want, self._now_us)
                wants = (
                    (want,)
                    if isinstance(want, WantBlocks)
                    else tuple(WantDigest(What.BATCH, each) for each in want)
                )
                self._out.append(Send((peer.node,), Get(wants), Stream.BULK))

    def _next_question(self, peer: Peer) -> WantBlocks | tuple[Digest, ...] | None:
        heights, batches = self._asked_for()
        limit = self._window.limit
        first = self._window.height + 1
        if not len(self._window):
            # Nobody showed a block above the tip yet: only the first are asked for, of a few. A guest that
            # doesn't answer takes no member's place.
            if self._probed(first, peer.guest) < self.settings.probes and peer.may_have(first):
                return WantBlocks(first, min(self.settings.blocks_asked, limit - self._window.height))
            return None
        if self._window.size_bytes >= self.settings.window_bytes:
            # Full: only what comes next is asked for.
            limit = min(limit, first)
        for height in range(first, limit + 1):
            slot = self._window.get(height)
            if slot is None:
                if not heights.get(height, 0) and peer.may_have(height):
                    count = self._run(height, limit, heights)
                    if self._is_a_rest(height, count):
                        break
                    return WantBlocks(height, count)
            elif slot.final:
                missing = [
                    (digest, size)
                    for digest, size in slot.missing.items()
                    if not batches.get(digest, 0) and digest not in peer.lacks
                ]
                if missing:
                    return self._some(missing)
            elif not heights.get(height, 0) and self._is_doubted(slot, peer):
                return self._second_opinion(height, limit, peer)
        return self._hedge(peer, limit)

    def _probed(self, height: int, guest: bool) -> int:
        """How many members, or guests, are asked for a height."""
        asked = [each.question.want for each in self._peers.usable() if each.question and each.guest == guest]
        runs = [each for each in asked if isinstance(each, WantBlocks)]
        return sum(each.height <= height < each.height + each.count for each in runs)

    def _is_a_rest(self, height: int, count: int) -> bool:
        """Whether the window's end cuts this question short, with much in hand: a longer one does more."""
        end = self._window.height + self.settings.window_blocks
        is_cut = count < self.settings.blocks_asked and height + count > end
        return is_cut and height > end - self.settings.window_blocks // 2

    def _is_doubted(self, slot: Slot, peer: Peer) -> bool:
        """Whether a block that nothing proves should be asked for of this peer, too."""
        waited_us = self._now_us - slot.at_us
        return (
            waited_us >= self.settings.hedge_us
            and peer.node != slot.giver
            and peer.node not in slot.opinions
            and peer.may_have(slot.height)
        )

    def _second_opinion(self, first: int, limit: int, peer: Peer) -> WantBlocks:
        count = min(self.settings.blocks_asked, limit - first + 1)
        for height in range(first, first + count):
            slot = self._window.get(height)
            if slot is not None:
                slot.opinions.add(peer.node)
        return WantBlocks(first, count)

    def _asked_for(self) -> tuple[dict[int, int], dict[Digest, int]]:
        """How many peers are asked for each height, and for each batch."""
        heights: dict[int, int] = {}
        batches: dict[Digest, int] = {}
        for peer in self._peers.usable():
            want = peer.question.want if peer.question is not None else ()
            if isinstance(want, WantBlocks):
                for height in range(want.height, want.height + want.count):
                    heights[height] = heights.get(height, 0) + 1
            else:
                for digest in want:
                    batches[digest] = batches.get(digest, 0) + 1
        return heights, batches

    def _run(self, first: int, limit: int, asked: dict[int, int]) -> int:
        """How many heights from `first` on nobody holds or is asked for."""
        count = 1
        while (
            count < self.settings.blocks_asked
            and first + count <= limit
            and self._window.get(first + count) is None
            and not asked.get(first + count, 0)
        ):
            count += 1
        return count

    def _some(self, missing: list[tuple[Digest, int]]) -> tuple[Digest, ...]:
        """As many batches as one question is for: at least one."""
        chosen: list[Digest] = []
        left = self.settings.batch_bytes_asked
        for digest, size_bytes in missing[: self.settings.batches_asked]:
            if chosen and size_bytes > left:
                break
            chosen.append(digest)
            left -= size_bytes
        return tuple(chosen)

    def _hedge(self, peer: Peer, limit: int) -> WantBlocks | tuple[Digest, ...] | None:
        """What comes next, again, where the one peer that is asked for it takes long."""
        height = self._window.height + 1
        while (slot := self._window.get(height)) is not None and slot.final and not slot.missing:
            height += 1
        wanted: WantBlocks | tuple[Digest, ...]
        if slot is None:
            if height > limit or not peer.may_have(height):
                return None
            wanted = WantBlocks(height, self._run(height, limit, {}))
        else:
            missing = [each for each in slot.missing.items() if each[0] not in peer.lacks]
            if not missing:
                return None
            wanted = self._some(missing)
        asked = [
            each.question.at_us
            for each in self._peers.usable()
            if each.question is not None and _overlap(each.question.want, wanted)
        ]
        is_late = len(asked) == 1 and self._now_us - asked[0] >= self.settings.hedge_us
        return wanted if is_late else None

    def _conclude(self) -> None:
        """Nobody has what comes next: this node has caught up, or only a snapshot helps.

        Whoever doesn't answer is waited for only before a snapshot is taken.
        """
        peers = self._peers.usable()
        first = self._window.height + 1
        if len(self._window) or self._unverified or not peers:
            return
        waited = [peer for peer in peers if peer.may_have(first)]
        if len(waited) == len(peers) or not all(peer.silent for peer in waited):
            return
        # Nodes that are at the start themselves don't outvote members that pruned it.
        judges = [peer for peer in peers if not peer.guest] or peers
        pruned = [peer for peer in judges if peer.oldest > first]
        needs_snapshot = 3 * len(pruned) > len(judges)
        if needs_snapshot and waited:
            return
        self.active = self._ticking = False
        self._out.append(CancelTimer(TICK))
        if needs_snapshot:
            oldest = min(peer.oldest for peer in pruned)
            self._out.append(NeedsSnapshot(oldest, tuple(peer.node for peer in pruned)))
        else:
            self._out.append(CaughtUp(self._window.height))


def _overlap(one: WantBlocks | tuple[Digest, ...], other: WantBlocks | tuple[Digest, ...]) -> bool:
    if isinstance(one, WantBlocks) and isinstance(other, WantBlocks):
        return one.height < other.height + other.count and other.height < one.height + one.count
    if isinstance(one, tuple) and isinstance(other, tuple):
        return any(each in other for each in one)
    return False
