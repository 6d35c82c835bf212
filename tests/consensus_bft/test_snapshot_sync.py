"""A snapshot from peers that serve, lie, withhold or say nothing, as a machine without I/O (CONS-62, 97)."""

import heapq
import random
from collections.abc import Callable
from enum import Enum
from functools import cache, partial

import attrs
import pytest

from supervm.crypto.keys import KeyPair
from supervm.plugins.consensus.bft.events import CancelTimer, Now, Received, Send, SetTimer, TimedOut
from supervm.plugins.consensus.bft.fetching import (
    PART_BYTES,
    Absent,
    Get,
    Got,
    GotHandover,
    GotManifest,
    GotPart,
    Item,
    Want,
    WantHandovers,
    WantPart,
    WantSnapshot,
    decode_item,
    encode_item,
)
from supervm.plugins.consensus.bft.messages import decode, encode
from supervm.plugins.consensus.bft.sync.events import Dropped, PeersNow
from supervm.plugins.consensus.bft.sync.snapshots import (
    Chosen,
    Complete,
    Held,
    Judge,
    Judged,
    NoSnapshot,
    Offer,
    SnapshotEvent,
    SnapshotSettings,
    SnapshotSync,
    Store,
    Stored,
    WhichHeld,
)
from supervm.storage.snapshot_chunks import SECTIONS, Entry, digest_of, encode_table
from supervm.storage.snapshot_format import Manifest, Section
from supervm.types.address import Suite
from supervm.types.block import BlockHeader
from supervm.types.certificate import Certificate, VoteKind
from supervm.types.handover import HandOver
from supervm.types.validators import Validator, ValidatorSet
from tests.consensus_bft.sim.world import CHAIN
from tests.consensus_bft.sim.world import hash32 as hashed

SECOND = 1_000_000
KEYS = [KeyPair(Suite.ED25519, (500 + each).to_bytes(32, "big")) for each in range(6)]
MEMBERS = ValidatorSet(
    tuple(sorted((Validator(each.node_id, each.public_key, 1) for each in KEYS), key=lambda one: one.node_id))
)


def hash32(number: int) -> bytes:
    return hashed(number.to_bytes(8, "big"))


class Kind(Enum):
    HONEST = "honest"
    SILENT = "never answers"
    NOTHING = "has no snapshot"
    WITHHOLDS = "offers a snapshot, and has no chunk of it"
    OLD = "offers one that is too low"
    ANOTHERS = "offers what another node signed"
    GARBAGE = "offers what is no manifest"
    UNPROVEN = "offers one whose anchor isn't final"
    ENDLESS = "offers manifest after manifest, unasked"
    HANDOVERS = "gives hand-overs that don't follow one another"
    NO_HANDOVERS = "has no hand-overs"
    MANY_HANDOVERS = "gives more hand-overs than were asked for"
    CHUNKS = "gives other bytes than a chunk's"
    SHORT = "gives parts byte by byte"
    LARGE = "gives chunks without end"
    TABLES = "made a manifest whose tables don't add up"
    SIZES = "made a table with a wrong size of a chunk"
    NO_TABLE = "made a manifest whose table is none"


LIES = frozenset(
    {
        Kind.OLD, Kind.ANOTHERS, Kind.GARBAGE, Kind.UNPROVEN, Kind.HANDOVERS, Kind.MANY_HANDOVERS,
        Kind.CHUNKS, Kind.SHORT, Kind.LARGE, Kind.TABLES, Kind.SIZES, Kind.NO_TABLE,
    }
)  # fmt: skip

SAME = frozenset({Kind.HONEST, Kind.CHUNKS, Kind.SHORT, Kind.LARGE})
"""Theirs are all of one height and content; all others' are higher, and so preferred."""


def header(height: int, epoch: int, root_height: int) -> BlockHeader:
    return BlockHeader(
        chain_id=CHAIN,
        epoch=epoch,
        height=height,
        parent=hash32(height),
        proposer=KEYS[0].node_id,
        timestamp_ms=height,
        root_height=root_height,
        state_root=hash32(root_height),
        receipts_root=bytes(32),
        base_price=1,
        transactions_root=bytes(32),
        body_digest=bytes(32),
        validators_digest=MEMBERS.digest(),
        next_validators_digest=MEMBERS.digest(),
    )


def handover(epoch: int) -> HandOver:
    certificate = Certificate(VoteKind.FINALIZE, epoch, 1, hash32(epoch), b"\x01", (bytes(64),))
    return HandOver(header(10 * epoch, epoch, 10 * epoch - 2), certificate, MEMBERS)


class Snapshot:
    """Chunks of some content, and a manifest over them that a node signed."""

    def __init__(self, maker: KeyPair, height: int, epoch: int, kind: Kind = Kind.HONEST) -> None:
        rng = random.Random(height)
        self.blobs: dict[bytes, bytes] = {}
        sections = []
        for at, section in enumerate(SECTIONS):
            sizes = [rng.randint(9, 5_000) for _ in range(at)] or [40]
            if at == len(SECTIONS) - 1:
                sizes[:2] = PART_BYTES, 2 * PART_BYTES + 7
            chunks = [rng.randbytes(size) for size in sizes]
            entries = [Entry(digest_of(each), len(each), 1) for each in chunks]
            if kind is Kind.SIZES and at == 3:
                entries[0] = attrs.evolve(entries[0], size_bytes=entries[0].size_bytes + 1)
            table = encode_table(entries)
            if kind is Kind.NO_TABLE and at == 3:
                table = b"\x01\xff" + b"none"
            self.blobs.update({digest_of(each): each for each in (*chunks, table)})
            count = len(chunks) + (1 if kind is Kind.TABLES and at == 3 else 0)
            total = sum(each.size_bytes for each in entries)
            sections.append(Section(section, count, total, count, (digest_of(table),)))
        anchor = header(height + 2, epoch, height)
        made = Manifest(
            chain_id=CHAIN,
            height=height,
            block_digest=hash32(height + 1),
            state_root=anchor.state_root,
            receipts_root=bytes(32),
            epoch=epoch,
            validators_digest=MEMBERS.digest(),
            first_block=1,
            created_ms=1,
            backend="memory",
            anchor=anchor.encode(),
            anchor_certificate=b"final",
            sections=tuple(sections),
        )
        self.manifest = made.signed(maker.public_key, maker.sign)


@cache
def snapshot(maker: KeyPair, height: int, epoch: int, kind: Kind) -> Snapshot:
    return Snapshot(maker, height, epoch, kind)


@attrs.define(eq=False)
class Server:
    pair: KeyPair
    kind: Kind
    snapshot: Snapshot
    random: random.Random
    told: bool = False

    @property
    def node(self) -> bytes:
        return self.pair.node_id

    def answer(self, want: Want) -> list[Got]:
        if self.kind is Kind.SILENT:
            return []
        items = self._items(want)
        if self.kind is Kind.ENDLESS:
            manifest = GotManifest(self.snapshot.manifest.encode())
            return [Got(tuple(items)), *[Got((manifest,))] * 20]
        return [Got(tuple(items))]

    def _items(self, want: Want) -> list[Item]:
        match want:
            case WantSnapshot():
                if self.kind is Kind.NOTHING:
                    return [Absent(want)]
                self.told = self.told or self.kind in LIES
                data = self.snapshot.manifest.encode()
                return [GotManifest(data[:-70] if self.kind is Kind.GARBAGE else data)]
            case WantHandovers(first, count):
                if self.kind is Kind.NO_HANDOVERS:
                    return [Absent(want)]
                if self.kind is Kind.MANY_HANDOVERS:
                    count += 1
                step = 2 if self.kind is Kind.HANDOVERS else 1
                return [GotHandover(handover(each)) for each in range(first, first + step * count, step)]
            case WantPart(digest, offset):
                blob = self.snapshot.blobs.get(digest)
                if blob is None or self.kind is Kind.WITHHOLDS:
                    return [Absent(want)]
                part, size = blob[offset : offset + PART_BYTES], len(blob)
                if self.kind is Kind.CHUNKS and blob[:2] != b"\x01\xff":
                    part = bytes(len(part) - 1) + b"\x05"
                elif self.kind is Kind.SHORT:
                    part = part[:1]
                elif self.kind is Kind.LARGE:
                    part, size = bytes(PART_BYTES), 2**32 - 1
                return [GotPart(digest, offset, size, part)]
        raise AssertionError(want)


class World:
    """The machine, its driver, and peers; a disk that keeps what was stored."""

    def __init__(
        self, seed: int, kinds: list[Kind], *, epochs: int = 3, settings: SnapshotSettings | None = None
    ) -> None:
        self.random = random.Random(seed)
        self.servers: dict[bytes, Server] = {}
        for at, kind in enumerate(kinds):
            height = 40 if kind is Kind.OLD else 1_000 if kind in SAME else 2_000
            maker = KEYS[(at + 1) % len(KEYS)] if kind is Kind.ANOTHERS else KEYS[at]
            made = snapshot(maker, height, epochs, kind)
            self.servers[KEYS[at].node_id] = Server(KEYS[at], kind, made, random.Random(at))
        self.settings = settings
        self.disk: dict[bytes, bytes] = {}
        self.dropped: list[Dropped] = []
        self.asked: list[tuple[bytes, Want]] = []
        self.sets_judged = 0
        self.nothing = 0
        self.begin()

    def begin(self, refused: tuple[bytes, ...] = ()) -> None:
        """A new life of the machine, on the same disk."""
        self.now_us = 0
        self.queue: list[tuple[int, int, Callable[[], None]]] = []
        self.number = 0
        self.complete: Complete | None = None
        self.sync = SnapshotSync(100, self.settings, refused)
        self.tell(PeersNow(tuple(self.servers)))

    def later(self, delay_us: int, call: Callable[[], None]) -> None:
        self.number += 1
        heapq.heappush(self.queue, (self.now_us + delay_us, self.number, call))

    def tell(self, event: SnapshotEvent) -> None:
        for output in self.sync.step(event, Now(self.now_us, 0)):
            match output:
                case Send((node,), Get((want,)) as get):
                    assert decode(encode(get)) == get
                    self.asked.append((node, want))
                    for got in self.servers[node].answer(want):
                        items = tuple(decode_item(encode_item(each)) for each in got.items)
                        delay_us = self.random.randint(1_000, 50_000)
                        self.later(
                            delay_us, lambda node=node, items=items: self.tell(Received(node, Got(items)))
                        )
                case SetTimer(name, delay_us):
                    self.later(delay_us, partial(self.tell, TimedOut(name)))
                case Judge(offer):
                    assert len(offer.handovers) == offer.manifest.epoch - 1
                    self.later(20_000, partial(self.tell, Judged(offer, self.judge(offer))))
                case WhichHeld(digests, tables):
                    found = {
                        each: self.disk[each] if tables else b"" for each in digests if each in self.disk
                    }
                    self.later(5_000, lambda digests=digests, found=found: self.tell(Held(digests, found)))
                case Store(digest, data):
                    assert digest_of(data) == digest
                    self.disk[digest] = data
                    self.later(5_000, partial(self.tell, Stored(digest)))
                case Dropped():
                    self.dropped.append(output)
                case NoSnapshot():
                    self.nothing += 1
                case Complete():
                    self.complete = output
                case Chosen() | CancelTimer():
                    pass

    def judge(self, offer: Offer) -> str:
        return "not final" if self.servers[offer.peer].kind is Kind.UNPROVEN else ""

    def run(self, until: Callable[[], bool], seconds: int = 600) -> None:
        while not until():
            assert self.queue and self.now_us < seconds * SECOND, (self.dropped, self.sync.chosen)
            self.now_us, _, call = heapq.heappop(self.queue)
            call()

    def finishes(self) -> Snapshot:
        self.run(lambda: self.complete is not None)
        assert self.complete is not None
        snapshot = self.servers[self.complete.offer.peer].snapshot
        assert snapshot.manifest == self.complete.offer.manifest
        assert {each: self.disk[each] for each in snapshot.blobs} == snapshot.blobs
        return snapshot

    def liars(self) -> set[bytes]:
        return {each.peer for each in self.dropped if each.lied}


@pytest.mark.parametrize("epochs", [1, 3, 150])
def test_the_highest_snapshot_is_taken_from_several_peers(epochs: int) -> None:
    world = World(1, [Kind.HONEST] * 3, epochs=epochs)
    world.finishes()
    givers = {node for node, want in world.asked if isinstance(want, WantPart)}
    assert givers == set(world.servers) and not world.dropped
    parts = [want for _, want in world.asked if isinstance(want, WantPart)]
    assert len(parts) == len(set(parts)), "nothing is asked for twice"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [each for each in Kind if each is not Kind.HONEST])
def test_one_honest_peer_is_enough_and_whoever_lies_is_named(kind: Kind, seed: int) -> None:
    world = World(seed, [kind, Kind.HONEST, kind])
    world.finishes()
    assert KEYS[1].node_id not in {each.peer for each in world.dropped}
    expected = {each.node for each in world.servers.values() if each.told}
    assert world.liars() == (expected if kind in LIES else set())
    if kind in LIES:
        assert expected
    if kind in (Kind.WITHHOLDS, Kind.NO_HANDOVERS):
        assert KEYS[0].node_id in {each.peer for each in world.dropped}


@pytest.mark.parametrize("seed", range(4))
def test_all_kinds_of_lies_at_once_keep_nobody_from_a_snapshot(seed: int) -> None:
    kinds = random.Random(seed).sample([each for each in Kind if each is not Kind.HONEST], 5)
    world = World(seed, [*kinds, Kind.HONEST])
    world.finishes()
    assert KEYS[5].node_id not in {each.peer for each in world.dropped}


def test_what_was_kept_before_a_crash_is_not_asked_for_again() -> None:
    world = World(3, [Kind.HONEST] * 2)
    world.run(lambda: len(world.disk) >= 14)
    kept = set(world.disk)
    world.asked.clear()
    world.begin()
    world.finishes()
    asked = {want.digest for _, want in world.asked if isinstance(want, WantPart)}
    assert asked and not asked & kept


def test_whose_snapshot_was_refused_when_it_was_restored_is_not_believed_again() -> None:
    world = World(3, [Kind.HONEST] * 2)
    world.begin(refused=(KEYS[0].node_id,))
    assert world.finishes() is world.servers[KEYS[1].node_id].snapshot


def test_where_nobody_has_one_it_says_so_and_asks_again_later() -> None:
    world = World(3, [Kind.NOTHING] * 2)
    world.run(lambda: world.nothing == 2)
    asked = [want for _, want in world.asked]
    assert asked == [WantSnapshot(100)] * 4 and not world.dropped
    world.servers[KEYS[1].node_id].kind = Kind.HONEST
    world.finishes()


@pytest.mark.parametrize(("others", "rests"), [([], False), ([Kind.NOTHING], True)])
def test_who_was_only_slow_is_left_alone_as_long_as_there_are_others(others: list[Kind], rests: bool) -> None:
    world = World(3, [Kind.SILENT, *others])
    world.run(lambda: bool(world.dropped))
    at_us = world.now_us
    assert [each.reason for each in world.dropped] == ["it doesn't answer"]
    world.servers[KEYS[0].node_id].kind = Kind.HONEST
    world.finishes()
    assert (world.now_us - at_us >= 60 * SECOND) == rests


def test_what_waits_to_be_kept_is_bounded() -> None:
    world = World(3, [Kind.HONEST] * 3, settings=SnapshotSettings(storing_bytes=1))
    waiting: list[int] = []

    def noted() -> bool:
        waiting.append(len(world.sync._storing))
        return world.complete is not None

    world.run(noted)
    # What was asked for before the bound was reached still comes: one of each peer.
    assert 1 <= max(waiting) <= 3
    assert len(world.disk) > 20


def test_manifests_that_nobody_asked_for_change_nothing() -> None:
    world = World(3, [Kind.ENDLESS, Kind.NOTHING])
    world.run(lambda: world.sync.chosen is not None)
    assert [want for node, want in world.asked if isinstance(want, WantSnapshot)] == [WantSnapshot(100)] * 2
    world.finishes()
    assert not world.dropped
