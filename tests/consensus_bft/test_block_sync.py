"""Catching up from peers, most of them hostile (CONS-61, CONS-62, CONS-64, CONS-97)."""

import random
from collections.abc import Callable

import attrs
import pytest

from supervm.plugins.consensus.bft.events import CancelTimer, Now, Received, Send, SetTimer, TimedOut
from supervm.plugins.consensus.bft.fetching import Absent, Got, GotBlock, OldestHeld, WantBlocks
from supervm.plugins.consensus.bft.sync import answers, machine, window
from supervm.plugins.consensus.bft.sync.events import (
    CaughtUp,
    Committed,
    Dropped,
    Look,
    NeedsSnapshot,
    PeersNow,
    SyncEvent,
    SyncOutput,
    Verified,
    Verify,
)
from supervm.plugins.consensus.bft.sync.machine import BlockSync, SyncSettings
from supervm.types.block import Block
from supervm.types.certificate import Certificate, VoteKind
from tests.consensus_bft import SCALE
from tests.consensus_bft.chains import Truth, certify, true_chain
from tests.consensus_bft.sim.world import CHAIN, node_id
from tests.consensus_bft.sync_world import LIES, SECOND, Broken, Kind, SyncWorld

TRUTHS = [true_chain(seed) for seed in range(3)]


def drawn(seed: int) -> SyncWorld:
    """A world with one honest peer at least, among some of any kind."""
    rng = random.Random(f"mix {seed}")
    kinds = [Kind.HONEST, *(rng.choice(list(Kind)) for _ in range(rng.randint(0, 6)))]
    rng.shuffle(kinds)
    truth = TRUTHS[seed % len(TRUTHS)]
    loss = rng.choice((0.0, 0.0, 0.05))
    return SyncWorld(seed, truth, kinds, begin=rng.choice((0, 0, 3, 12, 20)), loss=loss)


@pytest.mark.parametrize("part", range(4))
def test_with_one_honest_peer_a_node_gets_the_true_chain_and_names_whoever_lied(part: int) -> None:
    for seed in range(part * 10 * SCALE, (part + 1) * 10 * SCALE):
        world = drawn(seed)
        world.run_to_the_end()
        for node, server in world.servers.items():
            if server.kind in (Kind.HONEST, Kind.BEHIND, Kind.SLOW, Kind.DRIP, Kind.SILENT):
                assert node not in world.liars(), f"seed {seed}: {world.dropped[node]}"
            # Above what is missed a later epoch may have begun, and a chain may go on: no lie is proven.
            if server.lied and server.kind not in (Kind.FORK, Kind.EPOCH):
                assert node in world.liars(), f"seed {seed}: {server.kind.value} isn't named"


@pytest.mark.parametrize("kind", sorted(LIES, key=lambda kind: kind.name))
def test_a_liar_beside_one_honest_peer_is_named_with_what_it_did(kind: Kind) -> None:
    world = SyncWorld(1, TRUTHS[0], [kind, Kind.HONEST])
    world.run_to_the_end()
    (dropped,) = world.dropped[node_id(0)]
    assert dropped.lied and dropped.reason
    assert node_id(1) not in world.dropped


def test_the_same_seed_asks_the_same() -> None:
    def asked() -> list[object]:
        world = drawn(11)
        world.run_to_the_end()
        return list(world.asked)

    assert asked() == asked()


@pytest.mark.parametrize("seed", range(4))
def test_a_node_that_dies_again_and_again_goes_on_where_it_was(seed: int) -> None:
    world = SyncWorld(seed, TRUTHS[seed % 3], [Kind.HONEST, Kind.FORGED, Kind.HONEST])
    reached = []
    for _ in range(10):
        world.run(world.now_us + 60_000)
        reached.append(world.height)
        world.restart()
    world.run_to_the_end()
    assert sorted(reached) == reached and reached[-1] > 0


def test_what_is_held_is_bounded_by_the_window_whatever_the_peers_give() -> None:
    truth = true_chain(5, epochs=1, length=60, batches=6)
    block_bytes = max(len(block.encode()) for block in truth.blocks)

    def widest(bytes_max: int) -> int:
        settings = SyncSettings(
            window_blocks=60,
            window_bytes=bytes_max,
            blocks_asked=5,
            batches_asked=4,
            batch_bytes_asked=2_000,
        )
        world = SyncWorld(5, truth, [Kind.HONEST] * 3, settings=settings)
        world.execute_us = (200_000, 200_000)
        world.run_to_the_end()
        return world.widest_bytes

    # An answer of each peer may come when the window is almost full.
    assert widest(40_000) < 40_000 + 3 * 5 * block_bytes
    assert widest(2**30) > 120_000


def test_a_node_behind_by_all_that_its_peers_keep_needs_a_snapshot_and_says_of_whom() -> None:
    world = SyncWorld(2, TRUTHS[0], [Kind.HONEST, Kind.HONEST, Kind.NOTHING], oldest=(20, 20))
    world.run(20 * SECOND, lambda: world.needs is not None)
    assert world.needs == NeedsSnapshot(20, (node_id(0), node_id(1)))
    assert world.caught_up is None and world.height == 0


def test_one_peer_that_keeps_all_is_enough_without_a_snapshot() -> None:
    world = SyncWorld(2, TRUTHS[0], [Kind.HONEST, Kind.HONEST, Kind.HONEST], oldest=(30, 30))
    world.run_to_the_end()
    assert world.needs is None


def test_who_says_at_the_tip_that_it_pruned_all_causes_no_snapshot() -> None:
    truth = TRUTHS[0]
    world = SyncWorld(3, truth, [Kind.PRUNED, Kind.HONEST, Kind.HONEST, Kind.HONEST], begin=truth.height)
    server = world.servers[node_id(0)]
    server.truth = true_chain(0, epochs=4)
    world.run(20 * SECOND, lambda: world.caught_up is not None or world.needs is not None)
    assert world.caught_up == truth.height and world.needs is None


def test_who_offers_useless_snapshots_is_dropped_and_blocks_are_asked_for_again() -> None:
    world = SyncWorld(4, TRUTHS[0], [Kind.PRUNED, Kind.PRUNED, Kind.SILENT])
    world.run(30 * SECOND)
    assert {node_id(0), node_id(1)} <= world.liars()
    world.servers[node_id(3)] = attrs.evolve(world.servers[node_id(2)], number=3, kind=Kind.HONEST)
    world._tell(PeersNow(tuple(world.servers)))
    world.run_to_the_end()


def test_a_chain_that_grows_is_followed_when_told_to_look() -> None:
    short = true_chain(1, epochs=1)
    world = SyncWorld(1, short, [Kind.HONEST] * 2)
    world.run_to_the_end()
    assert world.height == short.height
    long = true_chain(1, epochs=3)
    assert long.block(12) == short.block(12)
    world.truth = long
    for server in world.servers.values():
        server.truth = long
    world.look()
    world.run_to_the_end()
    assert world.height == 36


@pytest.mark.parametrize(
    ("kind", "reason"), [(Kind.SILENT, "it doesn't answer"), (Kind.SLOW, "others answer first")]
)
def test_whoever_is_silent_or_slow_is_dropped_for_a_while_and_named(kind: Kind, reason: str) -> None:
    other = Kind.DRIP if kind is Kind.SILENT else Kind.HONEST
    settings = SyncSettings(window_blocks=6, blocks_asked=2, batches_asked=2)
    world = SyncWorld(7, true_chain(2, epochs=8), [kind, other], settings=settings)
    world.run(100 * SECOND, lambda: node_id(0) in world.dropped)
    assert world.dropped[node_id(0)] == [Dropped(node_id(0), reason, lied=False)]


class Desk:
    """One machine, told event by event."""

    def __init__(self, height: int = 0) -> None:
        self.truth = true_chain(0)
        self.sync = BlockSync(CHAIN, self.tip(height))
        self.now_us = 0

    def tip(self, height: int) -> Committed:
        epoch = self.truth.epoch_after(height)
        return Committed(height, self.truth.digest(height), epoch, self.truth.sets[epoch])

    def tell(self, event: SyncEvent, at_us: int = 0) -> list[SyncOutput]:
        self.now_us = max(self.now_us, at_us)
        return self.sync.step(event, Now(self.now_us, 0))

    def commit(self, height: int) -> None:
        self.tell(self.tip(height))

    def answer(self, peer: bytes, truth: Truth, at_us: int) -> list[SyncOutput]:
        block = truth.block(self.sync.height + 1)
        got = GotBlock(Block(block.header, block.body), truth.finalisations.get(block.header.height))
        return self.tell(Received(peer, Got((got,))), at_us)


def questions(outputs: list[SyncOutput]) -> list[tuple[bytes, object]]:
    return [
        (each.to[0], each.message.wants)  # type: ignore[index, union-attr]
        for each in outputs
        if isinstance(each, Send)
    ]


def test_before_anybody_shows_a_block_only_a_few_are_asked_and_each_one_question_at_a_time() -> None:
    desk = Desk()
    peers = tuple(node_id(n) for n in range(6))
    desk.tell(PeersNow(peers))
    assert questions(desk.tell(Look())) == [(peer, (WantBlocks(1, 32),)) for peer in peers[:3]]
    out = desk.tell(Received(peers[0], Got((Absent(WantBlocks(1, 32)),))))
    assert questions(out) == [(peers[3], (WantBlocks(1, 32),))]


def test_nobody_has_more_when_all_who_answered_say_so_and_the_silent_arent_waited_for_long() -> None:
    desk = Desk()
    peers = tuple(node_id(n) for n in range(3))
    desk.tell(PeersNow(peers))
    desk.tell(Look())
    for peer in peers[:2]:
        assert not any(
            isinstance(each, CaughtUp)
            for each in desk.tell(Received(peer, Got((Absent(WantBlocks(1, 32)),))))
        )

    out = desk.tell(TimedOut(machine.TICK), at_us=5 * SECOND)
    assert CaughtUp(0) in out and CancelTimer(machine.TICK) in out
    assert not any(isinstance(each, SetTimer) for each in out), "nothing is polled unless asked for"


def test_guests_are_asked_after_members_and_those_that_dont_answer_take_no_members_place() -> None:
    desk = Desk()
    peers = tuple(node_id(n) for n in range(10))
    members, guests = peers[6:], peers[:6]
    desk.tell(PeersNow(peers, frozenset(guests)))
    asked = [peer for peer, _ in questions(desk.tell(Look()))]
    assert asked == [*members[:3], *guests[:3]]
    out = desk.tell(Received(members[0], Got((Absent(WantBlocks(1, 32)),))))
    assert [peer for peer, _ in questions(out)] == [members[3]]


def test_guests_that_have_nothing_dont_outvote_members_that_pruned_what_comes_next() -> None:
    desk = Desk()
    peers = tuple(node_id(n) for n in range(5))
    desk.tell(PeersNow(peers, frozenset(peers[1:])))
    desk.tell(Look())
    out: list[SyncOutput] = []
    for peer in peers[1:]:
        out += desk.tell(Received(peer, Got((Absent(WantBlocks(1, 32)),))))
    assert not any(isinstance(each, CaughtUp | NeedsSnapshot) for each in out)
    assert NeedsSnapshot(7, (peers[0],)) in desk.tell(Received(peers[0], Got((OldestHeld(7),))))


def test_what_nobody_asked_for_changes_nothing() -> None:
    desk = Desk()
    peer = node_id(0)
    desk.tell(PeersNow((peer,)))
    assert desk.answer(peer, desk.truth, 0) == []
    desk.tell(Look())
    for stray in (OldestHeld(1), Absent(WantBlocks(2, 32))):
        out = desk.tell(Received(peer, Got((stray,))))
        assert not questions(out) and not any(isinstance(each, Verify) for each in out)
        assert any(isinstance(each, Dropped) for each in out) == isinstance(stray, OldestHeld)
        desk = Desk()
        desk.tell(PeersNow((peer,)))
        desk.tell(Look())
    assert desk.sync.held_bytes == 0


def test_a_verdict_on_signatures_of_a_past_epoch_or_of_nothing_is_ignored() -> None:
    desk = Desk(height=11)
    peer = node_id(0)
    desk.tell(PeersNow((peer,)))
    desk.tell(Look())
    (verify,) = [each for each in desk.answer(peer, desk.truth, 1) if isinstance(each, Verify)]
    desk.commit(12)
    assert desk.tell(Verified(99, False)) == []
    out = desk.tell(Verified(verify.ticket, True))
    assert desk.sync.height == 12 and not any(isinstance(each, Dropped) for each in out)


def test_a_committed_block_other_than_the_final_one_stops_the_node() -> None:
    desk = Desk()
    peer = node_id(0)
    desk.tell(PeersNow((peer,)))
    desk.tell(Look())
    desk.truth.finalisations.setdefault(1, _own(desk.truth, 1))
    (verify,) = [each for each in desk.answer(peer, desk.truth, 1) if isinstance(each, Verify)]
    desk.tell(Verified(verify.ticket, True))
    other = attrs.evolve(desk.tip(1), digest=b"another".ljust(32, b"."))
    desk.tell(other)
    assert "another block 1" in desk.sync.halted


def _own(truth: Truth, height: int) -> Certificate:
    places = list(range(len(truth.sets[1].members)))
    return certify(VoteKind.FINALIZE, 1, truth.views[height], truth.digest(height), truth.sets[1], places)


# Bugs planted in block sync: each is found.


class BelievesSignatures(BlockSync):
    def _on_verified(self, ticket: int, right: bool) -> None:
        super()._on_verified(ticket, True)


class BelievesBlocks(BlockSync):
    """Every block counts as final as it comes."""

    def _settle(self) -> None:
        for slot in self._window.slots():
            slot.final = True
        super()._settle()


class OldSet(BlockSync):
    """The first epoch's set judges all epochs."""

    def _on_committed(self, tip: Committed) -> None:
        super()._on_committed(attrs.evolve(tip, validators=self._validators))


class AsksAnew(BlockSync):
    """Whoever lied is asked again."""

    def _drop(self, node: bytes, reason: str, lied: bool) -> None:
        self._out.append(Dropped(node, reason, lied))


def _builders_own(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        machine,
        "with_batches",
        lambda block, batches: Block(
            block.header,
            block.body,
            tuple(batches[each.header.digest()] for each in block.body.certificates),
        ),
    )


def _no_quorum(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(answers, "_check_certificate", lambda item, expected: None)


def _unlinked(patch: pytest.MonkeyPatch) -> None:
    """A final block proves whatever stands below it."""

    def prove(self: window.Window) -> list[bytes]:
        for slot in self.slots():
            slot.final = slot.final or any(each.finalisation for each in self.slots())
        return []

    patch.setattr(window.Window, "prove", prove)


BUGS: dict[str, tuple[type[BlockSync], Callable[[pytest.MonkeyPatch], None] | None, list[Kind]]] = {
    "signatures aren't verified": (BelievesSignatures, None, [Kind.FORGED, Kind.HONEST]),
    "blocks aren't proven": (BelievesBlocks, None, [Kind.FORK, Kind.HONEST]),
    "the set of another epoch": (OldSet, None, [Kind.HONEST]),
    "a liar isn't dropped": (AsksAnew, None, [Kind.BODY]),
    "the builder's signature of a peer": (BlockSync, _builders_own, [Kind.BUILDER]),
    "a certificate of few": (BlockSync, _no_quorum, [Kind.MINORITY, Kind.HONEST]),
    "links aren't checked": (BlockSync, _unlinked, [Kind.FORK, Kind.HONEST]),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_of_block_sync_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine_type, patch, kinds = BUGS[name]
    if patch is not None:
        patch(monkeypatch)
    for seed in range(20):
        world = SyncWorld(seed, TRUTHS[0], kinds, machine=machine_type)
        try:
            world.run_to_the_end(seconds=30)
            named = [node for node, server in world.servers.items() if server.kind in LIES]
            if any(len(world.dropped.get(node, [])) > 1 for node in named):
                return
        except (Broken, AssertionError, KeyError):
            return
    pytest.fail("no seed finds it")
