"""Snapshot sync among peers that do anything, each time something else: it ends, in bounds (CONS-62, 97)."""

import os
import random
from functools import partial

import pytest

from supervm.plugins.consensus.bft.events import Received
from supervm.plugins.consensus.bft.fetching import (
    PART_BYTES,
    Absent,
    Got,
    GotHandover,
    GotManifest,
    GotPart,
    Item,
    Want,
    WantHandovers,
    WantPart,
    WantSnapshot,
)
from supervm.plugins.consensus.bft.sync.events import PeersNow
from supervm.plugins.consensus.bft.sync.snapshots import Offer
from supervm.storage.snapshot_chunks import BLOB_BYTES_MAX

from .test_snapshot_sync import KEYS, SECOND, Kind, Server, World, handover, snapshot

SEEDS = int(os.environ.get("SUPERVM_SNAPSHOT_SEEDS", "60"))
LONG_S = 4_000
CHURN_US = 3_000_000
FINAL = (1_000, 3)
HOSTILE = 4
"""Of six; the last two are honest."""


class Hostile(Server):
    """Answers each question truly, with a lie, for another question, twice, late, or not at all."""

    def answer(self, want: Want) -> list[Got]:
        dice = self.random
        true = super().answer(want)
        lie = [Got(tuple(self._lie(want)))]
        return dice.choice([true, true, [], lie, lie * 3, true + lie, lie + true, [Got((Absent(want),))]])

    def _lie(self, want: Want) -> list[Item]:
        dice = self.random
        other = snapshot(
            self.pair, dice.choice([101, 1_000, 3_000]), dice.choice([1, 3, 9]), dice.choice(WRONG)
        )
        match dice.randrange(5):
            case 0:
                return [GotManifest(other.manifest.encode())] * dice.randint(1, 5)
            case 1:
                return [GotManifest(dice.randbytes(dice.choice([0, 1, 500])))]
            case 2:
                first = want.epoch if isinstance(want, WantHandovers) else dice.randint(1, 9)
                return [GotHandover(handover(first + dice.randrange(3))) for _ in range(dice.randint(1, 40))]
            case 3:
                return [Absent(WantSnapshot(dice.randrange(2_000)))]
        digest = want.digest if isinstance(want, WantPart) else dice.randbytes(32)
        offset = want.offset if isinstance(want, WantPart) else dice.randrange(1_000)
        size = dice.choice(
            [0, 1, 7, PART_BYTES, PART_BYTES + 1, BLOB_BYTES_MAX, BLOB_BYTES_MAX + 1, 2**32 - 1]
        )
        return [GotPart(digest, offset, size, dice.randbytes(dice.choice([0, 1, 7, PART_BYTES])))]


WRONG = (Kind.HONEST, Kind.TABLES, Kind.SIZES, Kind.NO_TABLE)


class Siege(World):
    """Connections of the hostile come and go, and they send what nobody asked for."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, [Kind.HONEST] * 6)

    def begin(self, refused: tuple[bytes, ...] = ()) -> None:
        for pair in KEYS[:HOSTILE]:
            kind = self.random.choice([each for each in Kind if each is not Kind.UNPROVEN])
            made = snapshot(pair, self.random.choice([1_000, 2_000, 40]), 3, kind)
            self.servers[pair.node_id] = Hostile(pair, kind, made, random.Random(self.random.random()))
        super().begin(refused)
        self.later(CHURN_US, self.churn)

    def churn(self) -> None:
        honest = [each.node_id for each in KEYS[HOSTILE:]]
        here = [node for node in self.servers if node in honest or self.random.random() < 0.7]
        self.tell(PeersNow(tuple(here)))
        for node in here:
            server = self.servers[node]
            if isinstance(server, Hostile):
                lie = Received(node, Got(tuple(server._lie(WantSnapshot(100)))))
                self.later(self.random.randint(1, CHURN_US), partial(self.tell, lie))
        self.later(CHURN_US, self.churn)

    def judge(self, offer: Offer) -> str:
        """One height is final. That a maker signs what isn't so there nobody can see yet."""
        manifest = offer.manifest
        signed = manifest.node_id == offer.peer
        return "" if signed and (manifest.height, manifest.epoch) == FINAL else "not final"

    def check_bounds(self) -> None:
        sync = self.sync
        settings = sync.settings
        assert sum(sync._storing.values()) <= settings.storing_bytes + len(KEYS) * BLOB_BYTES_MAX
        for peer in sync._peers.values():
            assert len(peer.parts) <= BLOB_BYTES_MAX and len(peer.handovers) <= settings.handovers_max
            assert len(peer.lacks) <= settings.lacks_max + 1
        assert set(sync._peers) <= set(self.servers)

    def ended(self) -> bool:
        self.check_bounds()
        return self.complete is not None


@pytest.mark.parametrize("part", range(4))
def test_two_honest_peers_of_six_are_enough_whatever_the_others_do(part: int) -> None:
    honest = {each.node_id for each in KEYS[HOSTILE:]}
    makers: set[bytes] = set()
    named: set[bytes] = set()
    for seed in range(part, SEEDS, 4):
        world = Siege(seed)
        world.run(world.ended, LONG_S)
        assert world.complete is not None
        offer = world.complete.offer
        made = world.servers[KEYS[-1].node_id].snapshot
        # One that is as good as the honest ones', whoever made it, and all of it.
        assert offer.manifest.sections == made.manifest.sections, seed
        assert {each: world.disk[each] for each in made.blobs} == made.blobs, seed
        assert not world.liars() & honest, (seed, world.dropped)
        makers.add(offer.peer)
        named |= world.liars()
    assert named == {each.node_id for each in KEYS[:HOSTILE]}, "each was caught at some time"
    assert makers & honest, "an honest one's was taken at some time"


def test_where_all_lie_it_goes_on_asking_and_takes_nothing_that_does_not_check() -> None:
    world = World(1, [Kind.TABLES] * len(KEYS))
    world.run(lambda: world.now_us > LONG_S * SECOND // 2, LONG_S)
    asked = [want for _, want in world.asked if isinstance(want, WantSnapshot)]
    assert world.complete is None and world.liars() == set(world.servers)
    # Each is asked when it has rested for ten minutes, and not before.
    assert 2 * len(KEYS) < len(asked) <= 4 * len(KEYS)
