"""Snapshot sync: a snapshot from peers, proven final before a chunk is asked for (CONS-62, 97). No I/O.

How it works
    Each peer is asked for the manifest of its newest snapshot, and for the hand-overs between epochs that
    lead from genesis to the set that signed its anchor. The driver judges both (`Judge`): whether the
    hand-overs hold, the peer signed the manifest, and its anchor is final. Of the snapshots that check the
    highest is chosen; its tables, then its chunks, are asked for by digest, of every peer, in parts, and
    given to the driver to keep (`Store`). What the driver kept before a crash isn't asked for again.

Whom it believes
    Nobody. A part, chunk or table that isn't what its digest and size say is its giver's lie, since one peer
    gives all parts of it. A manifest that doesn't check is its giver's, who must have signed it. Who doesn't
    answer is dropped for a while; so is who offers a snapshot of which nobody has a chunk, and another one is
    taken then.

What it costs
    One question a peer and one answer's bytes, a manifest a peer until it has rested, hand-overs and chunks
    up to a number, and a bounded amount that waits to be kept. What wasn't asked for is ignored.
"""

from collections.abc import Iterable, Mapping

import attrs

from supervm.plugins.consensus.bft.events import CancelTimer, Now, Received, Send, SetTimer, Stream, TimedOut
from supervm.plugins.consensus.bft.fetching import (
    HANDOVERS_MAX,
    PART_BYTES,
    Absent,
    Get,
    Got,
    GotHandover,
    GotManifest,
    GotPart,
    Item,
    WantHandovers,
    WantPart,
    WantSnapshot,
)
from supervm.plugins.consensus.bft.sync.answers import Lied
from supervm.plugins.consensus.bft.sync.events import Dropped, PeersNow
from supervm.storage.errors import SnapshotError
from supervm.storage.snapshot_chunks import BLOB_BYTES_MAX, Entry, decode_table, digest_of
from supervm.storage.snapshot_format import Manifest
from supervm.types.digests import Digest
from supervm.types.handover import HandOver

TICK = "snapshot"
TICK_US = 250_000
STRIKES_MAX = 3


@attrs.frozen(kw_only=True)
class SnapshotSettings:
    """Bounds and times (all chosen). `choose_us`: how long better offers are waited for after the first.

    `answer_us`: after so long a question counts as not answered. `rest_us`: how long a peer is left alone
    that didn't answer, while there are others; one that lied ten times as long. `again_us`: when everybody
    is asked again for what nobody had. `storing_bytes`: what may wait to be kept. `lacks_max`: chunks that a
    peer may lack.
    """

    choose_us: int = 2_000_000
    answer_us: int = 5_000_000
    rest_us: int = 60_000_000
    again_us: int = 30_000_000
    storing_bytes: int = 64 * 2**20
    handovers_max: int = 16_384
    chunks_max: int = 262_144
    lacks_max: int = 256


@attrs.frozen
class Offer:
    """A snapshot that checks, and who made it. `handovers`: from genesis to the epoch of its anchor."""

    peer: bytes
    manifest: Manifest
    handovers: tuple[HandOver, ...]


@attrs.frozen
class Judge:
    """Whether hand-overs hold, the peer signed this manifest, its anchor is final, and it fits here."""

    offer: Offer


@attrs.frozen
class Judged:
    """The answer to `Judge`. `lied`: why no honest node offers it. `unfit`: why it isn't for this node."""

    offer: Offer
    lied: str = ""
    unfit: str = ""


@attrs.frozen
class Chosen:
    """This one is fetched from now on."""

    offer: Offer


@attrs.frozen
class WhichHeld:
    """Which of these chunks or tables are here: `Held` tells, of tables with their bytes."""

    digests: tuple[Digest, ...]
    tables: bool


@attrs.frozen
class Held:
    """What is here of what was asked; bytes only for tables."""

    asked: tuple[Digest, ...]
    found: Mapping[Digest, bytes]


@attrs.frozen
class Store:
    """Keep this chunk or table, durably or not: tell `Stored`."""

    digest: Digest
    data: bytes


@attrs.frozen
class Stored:
    digest: Digest


@attrs.frozen
class Complete:
    """All of it is kept."""

    offer: Offer


@attrs.frozen
class NoSnapshot:
    """Nobody that answered has one that is higher than what was asked for."""


@attrs.frozen
class Lowered:
    """A snapshot above this height will do, too: nothing else helps."""

    above: int


SnapshotEvent = Received | TimedOut | PeersNow | Judged | Held | Stored | Lowered
SnapshotOutput = (
    Send | SetTimer | CancelTimer | Dropped | Judge | Chosen | WhichHeld | Store | Complete | NoSnapshot
)

Ask = WantSnapshot | WantHandovers | WantPart


@attrs.define(eq=False)
class _Peer:
    node: bytes
    ask: Ask | None = None
    at_us: int = 0
    silent: int = 0
    settled: bool = False
    judging: bool = False
    manifest: Manifest | None = None
    handovers: list[HandOver] = attrs.field(factory=list)
    offer: Offer | None = None
    lacks: set[Digest] = attrs.field(factory=set)
    parts: bytearray = attrs.field(factory=bytearray)
    size_bytes: int = 0


class SnapshotSync:
    """One fetching of a snapshot above a height. `step` never raises for what others sent."""

    def __init__(
        self, above: int, settings: SnapshotSettings | None = None, refused: Iterable[bytes] = ()
    ) -> None:
        """`refused`: nodes whose snapshots turned out wrong when they were restored."""
        self.settings = settings or SnapshotSettings()
        self._above = above
        self._refused = frozenset(refused)
        self._peers: dict[bytes, _Peer] = {}
        self._resting: dict[bytes, tuple[int, bool]] = {}
        """Until when, and whether it was only slow."""
        self._handovers: tuple[HandOver, ...] = ()
        self._first_offer_us: int | None = None
        self._again_us: int | None = None
        self._tables: dict[Digest, list[Entry] | None] = {}
        self._wanted: dict[Digest, int | None] = {}
        self._looking = False
        self._storing: dict[Digest, int] = {}
        self._ticking = False
        self._now_us = 0
        self._out: list[SnapshotOutput] = []
        self.chosen: Offer | None = None
        self.complete = False

    @property
    def wanted(self) -> int:
        """Tables or chunks that aren't here yet."""
        return len(self._wanted)

    def step(self, event: SnapshotEvent, now: Now) -> list[SnapshotOutput]:
        self._now_us = now.monotonic_us
        self._out = []
        if not self.complete:
            self._on(event)
            self._settle()
        out, self._out = self._out, []
        return out

    def _on(self, event: SnapshotEvent) -> None:
        match event:
            case Received(node, Got(items)):
                peer = self._usable(node)
                if peer is not None and peer.ask is not None:
                    try:
                        self._on_answer(peer, peer.ask, items)
                    except (Lied, SnapshotError) as error:
                        self._drop(node, str(error), lied=True)
            case TimedOut(name) if name == TICK:
                self._on_tick()
            case PeersNow(nodes):
                self._peers = {node: self._peers.get(node) or _Peer(node) for node in sorted(set(nodes))}
            case Judged():
                self._on_judged(event)
            case Held(asked, found):
                self._on_held(asked, found)
            case Stored(digest):
                self._storing.pop(digest, None)
            case Lowered(above) if above < self._above:
                self._above = above
                self._ask_anew()

    # Peers

    def _usable(self, node: bytes) -> _Peer | None:
        return self._peers.get(node) if node not in self._resting else None

    def _all_usable(self) -> list[_Peer]:
        return [peer for node, peer in self._peers.items() if node not in self._resting]

    def _drop(self, node: bytes, reason: str, lied: bool, slow: bool = False) -> None:
        self._resting[node] = self._now_us + self.settings.rest_us * (10 if lied else 1), slow
        if node in self._peers:
            self._peers[node] = _Peer(node)
        self._out.append(Dropped(node, reason, lied))

    def _on_tick(self) -> None:
        self._ticking = False
        self._wake()
        for peer in self._all_usable():
            if peer.ask is not None and self._now_us - peer.at_us >= self.settings.answer_us:
                peer.ask = None
                peer.silent += 1
                if peer.silent >= STRIKES_MAX:
                    self._drop(peer.node, "it doesn't answer", lied=False, slow=True)
        if self._again_us is not None and self._now_us >= self._again_us:
            self._ask_anew()

    def _wake(self) -> None:
        """Who has rested long enough may be asked again; who was only slow also where nobody else is left."""
        alone = not self._all_usable()
        self._resting = {
            node: (until, slow)
            for node, (until, slow) in self._resting.items()
            if until > self._now_us and not (slow and alone)
        }

    def _ask_anew(self) -> None:
        """Who had none may have one now."""
        self._again_us = None
        for peer in self._peers.values():
            peer.settled = peer.offer is not None or peer.manifest is not None
            if isinstance(peer.ask, WantSnapshot):
                peer.ask = None

    # Answers

    def _on_answer(self, peer: _Peer, ask: Ask, items: tuple[Item, ...]) -> None:
        first = items[0]
        if isinstance(first, Absent):
            if first.want == ask:
                peer.ask, peer.silent = None, 0
                self._on_absent(peer, ask)
            return
        match ask, first:
            case WantSnapshot(), GotManifest(data):
                peer.ask, peer.silent = None, 0
                self._on_manifest(peer, Manifest.decode(data))
            case WantHandovers(epoch, count), GotHandover(handover) if handover.header.epoch == epoch:
                peer.ask, peer.silent = None, 0
                self._on_handovers(peer, epoch, count, items)
            case WantPart(digest, offset), GotPart() as part if (part.digest, part.offset) == (
                digest,
                offset,
            ):
                peer.ask, peer.silent = None, 0
                self._on_part(peer, part)

    def _on_absent(self, peer: _Peer, ask: Ask) -> None:
        match ask:
            case WantSnapshot():
                peer.settled = True
            case WantHandovers(epoch):
                self._drop(peer.node, f"it has no hand-over of epoch {epoch} for its snapshot", lied=False)
            case WantPart(digest):
                peer.lacks.add(digest)

    def _on_manifest(self, peer: _Peer, manifest: Manifest) -> None:
        peer.settled = True
        if manifest.node_id != peer.node:
            raise Lied("the snapshot is another node's")
        if manifest.height <= self._above:
            raise Lied(f"its snapshot is of height {manifest.height}, asked for was one above {self._above}")
        if manifest.chunks > self.settings.chunks_max:
            self._drop(peer.node, f"its snapshot has {manifest.chunks} chunks", lied=False)
        elif peer.node not in self._refused:
            peer.manifest = manifest

    def _on_handovers(self, peer: _Peer, first: int, count: int, items: tuple[Item, ...]) -> None:
        if len(items) > count:
            raise Lied(f"{len(items)} hand-overs where {count} were asked for")
        for at, item in enumerate(items):
            if not isinstance(item, GotHandover) or item.handover.header.epoch != first + at:
                raise Lied("hand-overs that don't follow one another")
            peer.handovers.append(item.handover)

    def _on_part(self, peer: _Peer, part: GotPart) -> None:
        if not part.offset:
            peer.parts, peer.size_bytes = bytearray(), part.size_bytes
        if part.size_bytes != peer.size_bytes or part.size_bytes > BLOB_BYTES_MAX:
            raise Lied(f"a chunk of {part.size_bytes} bytes")
        if not part.data or len(part.data) != min(PART_BYTES, part.size_bytes - part.offset):
            raise Lied(f"a part of {len(part.data)} bytes")
        peer.parts += part.data
        if len(peer.parts) < part.size_bytes:
            self._send(peer, WantPart(part.digest, len(peer.parts)))
            return
        data, peer.parts = bytes(peer.parts), bytearray()
        if digest_of(data) != part.digest:
            raise Lied("a chunk that isn't what its digest says")
        if part.digest in self._wanted:
            self._on_blob(part.digest, data)

    def _on_blob(self, digest: Digest, data: bytes) -> None:
        """One that was wanted is as its digest says. What it says itself is by whoever made the manifest."""
        size_bytes = self._wanted[digest]
        if digest in self._tables:
            if not self._take_table(digest, data):
                return
        elif size_bytes != len(data):
            self._accuse(f"its table lists a chunk of {size_bytes} bytes that has {len(data)}")
            return
        del self._wanted[digest]
        self._storing[digest] = len(data)
        self._out.append(Store(digest, data))

    # The snapshot

    def _on_judged(self, judged: Judged) -> None:
        offer = judged.offer
        peer = self._usable(offer.peer)
        if peer is None or not peer.judging:
            return
        peer.judging, peer.manifest, peer.handovers = False, None, []
        if judged.lied:
            self._drop(offer.peer, judged.lied, lied=True)
        elif judged.unfit:
            self._drop(offer.peer, judged.unfit, lied=False)
        else:
            peer.offer = offer
            if self._first_offer_us is None:
                self._first_offer_us = self._now_us
            if len(offer.handovers) > len(self._handovers):
                self._handovers = offer.handovers

    def _choose(self) -> None:
        offers = [peer.offer for peer in self._all_usable() if peer.offer is not None]
        if not offers:
            return
        waited_us = self._now_us - (self._first_offer_us or 0)
        settled = all(peer.offer is not None or self._has_none(peer) for peer in self._all_usable())
        if not settled and waited_us < self.settings.choose_us:
            return
        self.chosen = max(offers, key=lambda each: (each.manifest.height, each.peer))
        tables = [table for section in self.chosen.manifest.sections for table in section.tables]
        self._tables = dict.fromkeys(tables)
        self._wanted = dict.fromkeys(tables)
        self._out.append(Chosen(self.chosen))
        self._look(tables, tables=True)

    def _has_none(self, peer: _Peer) -> bool:
        return peer.settled and peer.offer is None and peer.manifest is None and not peer.judging

    def _look(self, digests: Iterable[Digest], *, tables: bool) -> None:
        self._looking = True
        self._out.append(WhichHeld(tuple(digests), tables))

    def _on_held(self, asked: tuple[Digest, ...], found: Mapping[Digest, bytes]) -> None:
        if self.chosen is None or not self._looking or not self._wanted.keys() >= set(asked):
            return
        self._looking = False
        for digest in found.keys() & self._wanted.keys():
            if digest in self._tables and not self._take_table(digest, found[digest]):
                return
            del self._wanted[digest]

    def _take_table(self, digest: Digest, data: bytes) -> bool:
        try:
            self._tables[digest] = decode_table(digest, data)
        except SnapshotError as error:
            self._accuse(str(error))
            return False
        return True

    def _accuse(self, reason: str) -> None:
        """What the chosen manifest names contradicts itself: whoever signed that made it so."""
        assert self.chosen is not None, "one is fetched"
        maker = self.chosen.peer
        self._give_up()
        self._drop(maker, reason, lied=True)

    def _list_chunks(self) -> None:
        """All tables are here: which chunks does the snapshot have?"""
        assert self.chosen is not None, "tables are of the chosen one"
        entries: dict[Digest, int | None] = {}
        for section in self.chosen.manifest.sections:
            listed = [each for table in section.tables for each in self._tables[table] or ()]
            sums = (sum(one.rows for one in listed), sum(one.size_bytes for one in listed), len(listed))
            if sums != (section.rows, section.size_bytes, section.chunks):
                self._accuse(f"the tables of section {section.name} don't add up")
                return
            entries.update((each.digest, each.size_bytes) for each in listed)
        self._tables = {}
        self._wanted = entries
        self._look(entries, tables=False)

    def _give_up(self) -> None:
        """This snapshot can't be had; what of it is kept may be a part of another."""
        assert self.chosen is not None, "one is fetched"
        maker = self._peers.get(self.chosen.peer)
        if maker is not None:
            maker.offer = None
        self.chosen, self._looking = None, False
        self._tables, self._wanted = {}, {}
        self._first_offer_us = self._now_us
        for peer in self._peers.values():
            peer.lacks.clear()
            if isinstance(peer.ask, WantPart):
                peer.ask = None

    # Whatever the state allows now

    def _settle(self) -> None:
        if self.chosen is None:
            self._ask_for_offers()
            self._choose()
        if self.chosen is not None:
            self._go_on()
        if not self._ticking and not self.complete:
            self._ticking = True
            self._out.append(SetTimer(TICK, TICK_US))

    def _ask_for_offers(self) -> None:
        peers = self._all_usable()
        for peer in peers:
            if peer.ask is not None or peer.judging or peer.offer is not None:
                continue
            if peer.manifest is not None:
                self._prepare(peer, peer.manifest)
            elif not peer.settled:
                self._send(peer, WantSnapshot(self._above))
        if peers and self._again_us is None and all(self._has_none(peer) for peer in peers):
            self._again_us = self._now_us + self.settings.again_us
            self._out.append(NoSnapshot())

    def _prepare(self, peer: _Peer, manifest: Manifest) -> None:
        """Ask for the hand-overs that lead to a manifest, or have both judged."""
        needed = max(manifest.epoch, manifest.anchor_header.epoch) - 1
        if needed > self.settings.handovers_max:
            self._drop(peer.node, f"its snapshot is {needed} epochs from genesis", lied=False)
            return
        known = max(self._handovers, tuple(peer.handovers), key=len)
        if len(known) < needed:
            peer.handovers = list(known)
            self._send(peer, WantHandovers(len(known) + 1, min(HANDOVERS_MAX, needed - len(known))))
            return
        peer.judging = True
        self._out.append(Judge(Offer(peer.node, manifest, tuple(known[:needed]))))

    def _go_on(self) -> None:
        if self._looking:
            return
        if self._tables and not self._wanted:
            self._list_chunks()
            return
        if not self._wanted and not self._storing:
            assert self.chosen is not None
            self.complete = True
            self._out.append(CancelTimer(TICK))
            self._out.append(Complete(self.chosen))
            return
        self._ask_for_chunks()

    def _ask_for_chunks(self) -> None:
        if sum(self._storing.values()) >= self.settings.storing_bytes:
            return
        asked = {peer.ask.digest for peer in self._all_usable() if isinstance(peer.ask, WantPart)}
        for peer in self._all_usable():
            if peer.ask is not None or len(peer.lacks) > self.settings.lacks_max:
                continue
            digest = next((each for each in self._wanted if each not in asked | peer.lacks), None)
            if digest is not None:
                asked.add(digest)
                self._send(peer, WantPart(digest, 0))
        if self._wanted and not asked and self._all_usable():
            assert self.chosen is not None
            maker = self.chosen.peer
            self._give_up()
            if self._usable(maker) is not None:
                self._drop(maker, "nobody has a chunk of its snapshot", lied=False)

    def _send(self, peer: _Peer, ask: Ask) -> None:
        peer.ask, peer.at_us = ask, self._now_us
        self._out.append(Send((peer.node,), Get((ask,)), Stream.BULK))
