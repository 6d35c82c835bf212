"""Proofs that clients signed twice: which a leader places, and which anybody makes for nothing (CONS-17)."""

from itertools import count

import attrs
import pytest

from supervm.contracts.application import Tip, WeighedProofs
from supervm.plugins.consensus.bft import locks
from supervm.plugins.consensus.bft.branches import Branch, Branches, node_of
from supervm.plugins.consensus.bft.epochs.operations import SystemOperations
from supervm.plugins.consensus.bft.epochs.proofs import (
    PLACED_BYTES_MAX,
    PROOFS_BYTES_MAX,
    PROOFS_MAX,
    PROOFS_WAITING_MAX,
    Outcome,
    Proofs,
)
from supervm.plugins.consensus.bft.locks import LockBounds, LockTable
from supervm.plugins.consensus.bft.messages import Equivocation, encode
from supervm.types.block import SYSTEM_OPERATIONS_BYTES_MAX, Block
from tests.consensus_bft.chains import GENESIS, set_of, true_chain

BASE = Tip(height=0, digest=GENESIS, epoch=0, timestamp_ms=0, root_height=0, state_root=bytes(32))
TRUTH = true_chain(4, epochs=1, length=3)
ROOM = SYSTEM_OPERATIONS_BYTES_MAX
HEIGHTS = count(100)


def proof(number: int, size_bytes: int = 1) -> Equivocation:
    return Equivocation(b"a" * size_bytes, b"b" * size_bytes, number.to_bytes(4, "big"))


def branch_of(*placed: bytes, final: bool = False) -> Branch:
    """A branch of one block with these operations, which may be final."""
    branches = Branches(BASE, frozenset(), frozenset())
    true = TRUTH.block(1)
    header = attrs.evolve(true.header, parent=GENESIS)
    node = node_of(Block(header, attrs.evolve(true.body, system_operations=placed)))
    branches.add(node)
    if final:
        branches.finalise(node.digest)
    return branches.branch(node.digest)


def weigh(
    proofs: Proofs, *counting: Equivocation, noted: tuple[Equivocation, ...] = (), height: int | None = None
) -> Outcome:
    """After a block: the application says that these count, in this order, and that the state has those."""
    height = next(HEIGHTS) if height is None else height
    asked = proofs.to_weigh(height)
    at = {lock: index for index, lock in enumerate(asked)}
    found = WeighedProofs(
        noted=frozenset(at[each.lock] for each in noted), counting=tuple(at[each.lock] for each in counting)
    )
    return proofs.weighed(asked, height, found)


def test_proofs_that_cost_their_signer_nothing_are_placed_by_nobody_and_make_no_block_due() -> None:
    operations = SystemOperations(1, set_of({0: 1, 1: 1, 2: 1, 3: 1}))
    proofs = operations.proofs
    for each in (1, 2):
        assert proofs.add(proof(each), own=True) and not proofs.add(proof(each), own=True)
    assert not operations.waits(branch_of(), True) and not operations.pick(branch_of(), True).operations
    weigh(proofs, proof(2))
    assert operations.pick(branch_of(), True).operations == (encode(proof(2)),)
    assert not operations.waits(branch_of(), True), "it takes part in the next block"


def test_peers_leave_no_proofs_that_count_for_nothing() -> None:
    proofs = Proofs()
    for each in range(100):
        assert proofs.add(proof(each), own=False)
    assert weigh(proofs, proof(7)).fresh == ((proof(7), False),)
    assert len(proofs) == 1 and proofs.holds(proof(7)) and not proofs.holds(proof(8))
    assert not weigh(proofs).fresh and len(proofs) == 0, "its signer moved the money away"


def test_what_counts_takes_the_room_of_what_does_not() -> None:
    proofs = Proofs()
    for each in range(2 * PROOFS_WAITING_MAX):
        assert proofs.add(proof(each), own=True)
    assert len(proofs) == PROOFS_WAITING_MAX and not proofs.holds(proof(0)), "the oldest go"
    kept = [proof(PROOFS_WAITING_MAX + each) for each in range(PROOFS_WAITING_MAX)]
    assert len(weigh(proofs, *kept[:-1]).fresh) == PROOFS_WAITING_MAX - 1
    assert proofs.add(proof(0), own=False) and not proofs.holds(kept[-1])
    weigh(proofs, *kept[:-1], proof(0))
    assert proofs.holds(kept[-1]) and not proofs.add(kept[-1], own=True), "all of them count"


def test_bytes_of_proofs_are_bounded() -> None:
    proofs = Proofs()
    fit = PROOFS_BYTES_MAX // 400_000
    large = [proof(each, 200_000) for each in range(fit + 1)]
    assert all(proofs.add(each, own=True) for each in large) and len(proofs) < len(large)
    weigh(proofs, *large[-len(proofs) :])
    assert not proofs.add(proof(fit + 2, 200_000), own=True)


def test_a_leader_places_who_pays_most_first_and_leaves_room_for_others() -> None:
    proofs = Proofs()
    for each in range(PROOFS_MAX + 9):
        proofs.add(proof(each), own=True)
    wanted = [proof(each) for each in range(PROOFS_MAX + 9)][::-1]
    weigh(proofs, *wanted)
    assert proofs.pick(branch_of(), ROOM) == [encode(each) for each in wanted[:PROOFS_MAX]]
    assert proofs.pick(branch_of(encode(wanted[0])), ROOM)[0] == encode(wanted[1])
    few = len(encode(wanted[0]))
    assert proofs.pick(branch_of(), few) == [encode(wanted[0])]
    large = Proofs()
    sized = [proof(each, PLACED_BYTES_MAX // 4) for each in range(3)]
    for one in (*sized, proof(9, PLACED_BYTES_MAX)):
        large.add(one, own=True)
    weigh(large, *sized)
    assert large.pick(branch_of(), ROOM) == [encode(sized[0])]
    weigh(large, proof(9, PLACED_BYTES_MAX), *sized)
    assert len(large.pick(branch_of(), ROOM)) == 1, "one has room always"


def test_a_proof_that_was_placed_for_nothing_is_placed_again_once_it_counts() -> None:
    proofs = Proofs()
    for each in (1, 2):
        proofs.add(proof(each), own=True)
    weigh(proofs, proof(1), proof(2), height=4)
    for each in (1, 2, 3):
        proofs.placed(proof(each), encode(proof(each)), 5)
    final = branch_of(*(encode(proof(each)) for each in (1, 2, 3)), final=True)
    # Until the block is executed nobody knows what it did.
    assert not proofs.pick(final, ROOM) and not proofs.to_weigh(4) and proofs.holds(proof(3))
    outcome = weigh(proofs, noted=(proof(1), proof(3)), height=5)
    assert set(outcome.noted) == {proof(1), proof(3)} and not outcome.fresh
    assert not proofs.pick(final, ROOM) and len(proofs) == 1
    weigh(proofs, proof(2), height=6)
    assert proofs.pick(final, ROOM) == [encode(proof(2))]


def test_what_was_weighed_after_a_block_is_not_weighed_again_for_each_that_comes() -> None:
    proofs = Proofs()
    for each in (1, 2):
        proofs.add(proof(each), own=True)
    weigh(proofs, proof(1), height=1)
    proofs.add(proof(3), own=False)
    assert list(proofs.to_weigh(1)) == [proof(3).lock] and not proofs.to_weigh(1)
    proofs.weighed({proof(3).lock: encode(proof(3))}, 1, WeighedProofs(counting=(0,)))
    assert proofs.pick(branch_of(), ROOM) == [encode(proof(1)), encode(proof(3))]
    assert len(proofs.to_weigh(2)) == 3


def test_final_blocks_full_of_proofs_are_not_kept_in_memory() -> None:
    held = encode(proof(1, 100_000))
    branch = branch_of(held, final=True)
    assert not branch.holds_operation(held)


def test_who_is_refused_further_locks_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "EQUIVOCATORS_MAX", 3)
    table = LockTable(LockBounds(), 1)
    names = [bytes([each]) * 32 for each in range(5)]
    assert table.equivocated(names[:2]) == tuple(names[:2])
    assert table.equivocated(names) == (names[2],)
    assert table.is_equivocator(names[2]) and not table.is_equivocator(names[3])
