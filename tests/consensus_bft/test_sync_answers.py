"""What an answer to block sync may be, case by case (CONS-61, CONS-64)."""

import attrs
import pytest

from supervm.plugins.consensus.bft.fetching import (
    Absent,
    GotBlock,
    Item,
    OldestHeld,
    WantBlocks,
    WantDigest,
    What,
)
from supervm.plugins.consensus.bft.sync.answers import Expected, Found, Lied, judge_batches, judge_blocks
from supervm.types.block import Block
from supervm.types.certificate import VoteKind
from tests.consensus_bft.chains import certify, true_chain
from tests.consensus_bft.sim.world import CHAIN

TRUTH = true_chain(0, epochs=2)
EXPECTED = Expected(chain_id=CHAIN, epoch=1, validators=TRUTH.sets[1], first=3)
EVERYONE = list(range(len(TRUTH.sets[1].members)))


def got(height: int) -> GotBlock:
    block = TRUTH.block(height)
    epoch = block.header.epoch
    places = list(range(len(TRUTH.sets[epoch].members)))
    own = certify(VoteKind.FINALIZE, epoch, 1, block.digest(), TRUTH.sets[epoch], places)
    return GotBlock(Block(block.header, block.body), own)


def judged(*items: Item, height: int = 3, count: int = 4) -> object:
    return judge_blocks(items, WantBlocks(height, count), EXPECTED)


def changed(at: int, **changes: object) -> GotBlock:
    """A block with another header, finalised as that."""
    block = TRUTH.block(at)
    header = attrs.evolve(block.header, **changes)
    own = certify(VoteKind.FINALIZE, 1, 1, header.digest(), TRUTH.sets[1], EVERYONE)
    return GotBlock(Block(header, block.body), own)


def certified(height: int, **changes: object) -> GotBlock:
    """A block with another certificate."""
    true = got(height)
    assert true.finalisation is not None
    return attrs.evolve(true, finalisation=attrs.evolve(true.finalisation, **changes))


def test_true_blocks_are_found_up_to_the_last_of_the_epoch() -> None:
    assert judged(got(3), got(4)) == Found((got(3), got(4)))
    assert judged(got(11), got(12), got(13), height=11) == Found((got(11), got(12)))
    assert judged(got(13), height=13) == Found(()), "of an epoch that isn't begun"


def test_absence_and_pruning_are_answers_to_their_own_question_alone() -> None:
    assert judged(Absent(WantBlocks(3, 4))) == Absent(WantBlocks(3, 4))
    assert judged(Absent(WantBlocks(3, 5))) is None
    assert judged(OldestHeld(9)) == OldestHeld(9)
    assert judged(got(4)) is None, "of another height"


LIES = {
    "pruned below what it holds": (OldestHeld(3),),
    "more than asked for": (got(3), got(4), got(5), got(6), got(7)),
    "something else among blocks": (got(3), Absent(WantBlocks(4, 1))),
    "a later epoch at once": (changed(3, epoch=2),),
    "an earlier epoch": (changed(3, epoch=0),),
    "a later epoch in the middle": (got(3), changed(4, epoch=2)),
    "another body": (attrs.evolve(got(3), block=Block(TRUTH.block(3).header, TRUTH.block(4).body)),),
    "another chain": (changed(3, chain_id=bytes(32)),),
    "another height": (got(3), changed(4, height=9)),
    "another set": (changed(3, validators_digest=bytes(32)),),
    "another parent": (got(3), changed(4, parent=bytes(32))),
    "a notarisation": (certified(3, kind=VoteKind.NOTARIZE),),
    "a certificate of another epoch": (certified(3, epoch=2),),
    "a certificate of another block": (certified(3, digest=bytes(32)),),
    "a certificate of no view": (certified(3, view=0),),
    "a certificate of few": (
        attrs.evolve(
            got(3),
            finalisation=certify(
                VoteKind.FINALIZE, 1, 1, TRUTH.block(3).digest(), TRUTH.sets[1], EVERYONE[:1]
            ),
        ),
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_what_no_honest_peer_gives_is_a_lie(name: str) -> None:
    with pytest.raises(Lied):
        judged(*LIES[name])


def test_batches_are_taken_by_digest_and_nothing_else_is_an_answer() -> None:
    batch = next(each for block in TRUTH.blocks for each in block.batches)
    digest, other = batch.digest(), bytes(32)
    absent = Absent(WantDigest(What.BATCH, other))
    assert judge_batches((batch, absent), (digest, other)) == {digest: batch, other: None}
    assert judge_batches((batch,), (other,)) is None
    assert judge_batches((absent,), (digest,)) is None
    assert judge_batches((got(3),), (digest,)) is None
    assert judge_batches((Absent(WantBlocks(1, 1)),), (digest,)) is None
