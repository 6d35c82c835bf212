"""Closing an epoch, system operations, evidence, and the next epoch (CONS-50..55, CONS-70)."""

from typing import Any, cast

import attrs
import pytest

from supervm.contracts.application import BlockBounds, Tip
from supervm.plugins.consensus.bft.batch_events import EpochCloses
from supervm.plugins.consensus.bft.branches import Branches
from supervm.plugins.consensus.bft.driver.closer import Closer
from supervm.plugins.consensus.bft.effects_messages import Effect, Effects
from supervm.plugins.consensus.bft.epochs.accepting import AcceptWatch
from supervm.plugins.consensus.bft.epochs.closing import Closing, ClosingFacts, ClosingState, EffectsStopped
from supervm.plugins.consensus.bft.epochs.ending import Ending
from supervm.plugins.consensus.bft.epochs.evidence import EvidenceBook, check_evidence
from supervm.plugins.consensus.bft.epochs.handover import EARLY_A_PEER_MAX, EarlyMessages, next_epoch
from supervm.plugins.consensus.bft.epochs.operations import (
    WAITING_BYTES_MAX,
    SystemOperations,
    end_epoch,
    judge_operations,
)
from supervm.plugins.consensus.bft.epochs.proofs import PROOFS_MAX
from supervm.plugins.consensus.bft.events import (
    ALL,
    Final,
    InView,
    Log,
    Logged,
    Now,
    Send,
)
from supervm.plugins.consensus.bft.messages import (
    EndEpoch,
    EpochDone,
    Equivocation,
    Evidence,
    Offence,
    encode,
)
from supervm.plugins.consensus.bft.offences import AcceptedTransaction
from supervm.plugins.consensus.bft.proposals import Epoch
from supervm.plugins.consensus.bft.records import DidEpoch
from supervm.plugins.consensus.bft.votes import Accept, ViewVote
from supervm.types import merkle
from supervm.types.batch import Batch, batch_header
from supervm.types.block import Block
from supervm.types.certificate import NO_DIGEST, VoteKind, vote_message
from supervm.types.errors import ProofInvalid
from tests.consensus_bft.chains import GENESIS, set_of, true_chain
from tests.consensus_bft.sim.world import CHAIN, node_id, signature

NOW = Now(0, 0)
SET = set_of({0: 1, 1: 1, 2: 1, 3: 1})
TRUTH = true_chain(4, epochs=2, length=20)
FACTS = ClosingFacts(chain_id=CHAIN, epoch=1, base_height=0, epoch_blocks=20, own=2)
LEADERS = InView(1, 5, node_id(0), node_id(1))


def signed(message: bytes) -> bytes:
    return signature(2, message)


class Desk:
    """A closing machine, and a block of the chain after the other."""

    def __init__(self, facts: ClosingFacts = FACTS, held: int = 3) -> None:
        self.held = [
            certificate.header.digest() for block in TRUTH.blocks for certificate in block.body.certificates
        ][:held]
        self.final: set[bytes] = set()
        self.closing = Closing(facts, signed, self.duties)
        self.height = 0
        self.closing.start(ClosingState(final_height=0))

    def duties(self) -> list[bytes]:
        return [digest for digest in self.held if digest not in self.final]

    def block(self, batches: tuple[bytes, ...] = (), operations: tuple[bytes, ...] = ()) -> list[object]:
        self.height += 1
        true = TRUTH.block(self.height)
        certificates = tuple(
            each
            for block in TRUTH.blocks
            for each in block.body.certificates
            if each.header.digest() in batches
        )
        body = attrs.evolve(true.body, certificates=certificates, system_operations=operations)
        self.final.update(batches)
        return list(self.closing.step(Final(Block(true.header, body), self.height, None), NOW))

    def to(self, height: int) -> list[object]:
        out: list[object] = []
        while self.height < height:
            out += self.block()
        return out


def test_closing_starts_eight_blocks_before_the_end_and_effects_stop_four_blocks_later() -> None:
    desk = Desk()
    assert desk.to(11) == []
    assert desk.block() == [EpochCloses(last_effects=False)]
    assert desk.to(15) == []
    assert desk.block() == [EpochCloses(last_effects=True)]


def test_an_end_epoch_in_a_final_block_closes_it_early() -> None:
    desk = Desk()
    made = end_epoch({n: signature(n, b"") for n in range(3)}, 1, SET)
    assert made is not None and end_epoch({0: bytes(64), 1: bytes(64)}, 1, SET) is None
    assert desk.block(operations=(encode(made),)) == [EpochCloses(last_effects=False)]
    assert desk.to(4) == []
    assert desk.to(5) == [EpochCloses(last_effects=True)]


def test_epoch_done_is_said_when_every_duty_is_final_and_not_before() -> None:
    desk = Desk(held=3)
    desk.closing.step(LEADERS, NOW)
    desk.to(16)
    assert desk.closing.step(EffectsStopped(), NOW) == []
    assert desk.block(batches=tuple(desk.held[:2])) == []
    log, send = desk.block(batches=tuple(desk.held[2:]))
    done = EpochDone(1, 2, signed(vote_message(CHAIN, 1, VoteKind.EPOCH_DONE)))
    assert log == Log(1, DidEpoch(done))
    assert isinstance(send, Send) and send.message == done and send.to == (node_id(0), node_id(1))
    assert send.after == 1, "after its record"
    desk.closing.step(Logged(1), NOW)
    (again,) = desk.closing.step(LEADERS, NOW)
    assert isinstance(again, Send) and again.message == done and again.after == 0
    desk.block(operations=(encode(done),))
    assert desk.closing.step(LEADERS, NOW) == [], "it stands in a final block"


def test_what_is_held_when_effects_stop_is_duty_and_what_comes_later_is_none() -> None:
    desk = Desk(held=2)
    first, second = desk.held
    desk.held = [first]
    desk.closing.step(LEADERS, NOW)
    desk.to(16)
    desk.closing.step(EffectsStopped(), NOW)
    desk.held = [first, second]
    assert any(isinstance(each, Log) for each in desk.block(batches=(first,)))


def test_nothing_is_owed_before_the_signer_of_effects_has_stopped() -> None:
    desk = Desk(held=0)
    desk.closing.step(EffectsStopped(), NOW)
    assert desk.to(16) == [EpochCloses(last_effects=False), EpochCloses(last_effects=True)]
    assert desk.closing.done is None
    desk.closing.step(EffectsStopped(), NOW)
    assert desk.closing.done is not None


def test_who_follows_or_is_silent_says_no_epoch_done() -> None:
    desk = Desk(attrs.evolve(FACTS, own=None), held=0)
    desk.to(16)
    assert desk.closing.step(EffectsStopped(), NOW) == [] and desk.closing.done is None


def test_after_a_restart_it_goes_on_and_says_the_same() -> None:
    desk = Desk(held=1)
    closing = Closing(FACTS, signed, desk.duties)
    out = closing.start(ClosingState(final_height=17))
    assert out == [EpochCloses(last_effects=False), EpochCloses(last_effects=True)]
    assert closing.step(EffectsStopped(), NOW) == []
    said = EpochDone(1, 2, bytes(64))
    closing = Closing(FACTS, signed, desk.duties)
    closing.start(ClosingState(final_height=17), DidEpoch(said))
    (send,) = closing.step(LEADERS, NOW)
    assert isinstance(send, Send) and send.message == said and send.after == 0
    closing = Closing(FACTS, signed, desk.duties)
    closing.start(ClosingState(final_height=17, done=True), DidEpoch(said))
    assert closing.step(LEADERS, NOW) == []
    early = Closing(FACTS, signed, desk.duties)
    assert early.start(ClosingState(final_height=5, end_epoch_height=4)) == [EpochCloses(last_effects=False)]


# System operations.


def branch_of(block: Block | None = None) -> object:
    base = Tip(height=0, digest=GENESIS, epoch=0, timestamp_ms=0, root_height=0, state_root=bytes(32))
    branches = Branches(base, frozenset(), frozenset())
    return branches.branch(GENESIS)


def test_operations_wait_once_each_and_epoch_dones_are_placed_first() -> None:
    waiting = SystemOperations(1, SET)
    branch = branch_of()
    assert not waiting.waits(branch, True)  # type: ignore[arg-type]
    evidence = large_evidence(2)
    assert waiting.add(evidence) and not waiting.add(evidence)
    assert not waiting.add(Equivocation(b"a", b"b", b"lock")), "proofs wait apart"
    done = EpochDone(1, 3, bytes(64))
    assert waiting.add(done) and not waiting.add(done)
    assert not waiting.add(EpochDone(2, 3, bytes(64))) and not waiting.add(EpochDone(1, 4, bytes(64)))
    assert waiting.waits(branch, True)  # type: ignore[arg-type]
    assert waiting.pick(branch, True).operations == (encode(done), encode(evidence))  # type: ignore[arg-type]
    true = TRUTH.block(1)
    waiting.placed(Block(true.header, attrs.evolve(true.body, system_operations=(encode(done),))))
    assert waiting.pick(branch, True).operations == (encode(evidence),)  # type: ignore[arg-type]
    other = Block(true.header, attrs.evolve(true.body, system_operations=(encode(large_evidence(2)),)))
    waiting.placed(other)
    assert waiting.pick(branch, True).operations == ()  # type: ignore[arg-type]
    assert not waiting.add(evidence) and waiting.holds(evidence)
    waiting.closing = True
    assert SystemOperations.waits(waiting, branch, False)  # type: ignore[arg-type]


def test_what_waits_is_bounded_but_epoch_dones_always_find_room() -> None:
    waiting = SystemOperations(1, SET)
    count = 0
    while waiting.add(large_evidence(count)):
        count += 1
    assert WAITING_BYTES_MAX - 300_000 < count * 240_000 <= WAITING_BYTES_MAX
    assert waiting.add(EpochDone(1, 0, bytes(64)))
    picked = waiting.pick(branch_of(), True).operations  # type: ignore[arg-type]
    assert picked[0] == encode(EpochDone(1, 0, bytes(64)))
    assert sum(map(len, picked)) <= 2**20


def large_evidence(validator: int) -> Evidence:
    """That a validator accepted two large transactions on one lock, 240 kB."""
    said = [accepted(name * 120_000, validator) for name in (b"a", b"b")]
    return Evidence(Offence.ACCEPTS, *said)


def test_proofs_of_clients_leave_room_for_evidence_against_validators() -> None:
    waiting = SystemOperations(1, SET)
    largest = b"x" * 60_000
    proofs = [Equivocation(largest, largest + b"y", count.to_bytes(4, "big")) for count in range(100)]
    added = [waiting.proofs.add(each, own=True) for each in proofs]
    assert all(added[:60])
    large = [large_evidence(validator) for validator in range(100)]
    added = [waiting.add(each) for each in large]
    assert sum(added) * 240_000 > WAITING_BYTES_MAX - 300_000, "as much as if it were alone"
    assert not all(added), "and bounded"


def test_evidence_that_finds_no_room_waits_for_it() -> None:
    nothing = cast(Any, None)
    closer = Closer(FACTS, SET, signed, lambda: [], nothing, nothing, lambda operations: "")
    others = [large_evidence(10 + each) for each in range(100)]
    while closer.operations.add(others[-1]):
        others.pop()
    (told,) = closer.accuse(large_evidence(1))
    assert told.message == large_evidence(1)
    assert closer.operations.accusing == 100 - len(others) and closer.accuse(large_evidence(1)) == []
    true = TRUTH.block(1)
    held = closer.operations.pick(branch_of(), True).operations  # type: ignore[arg-type]
    block = Block(true.header, attrs.evolve(true.body, system_operations=held))
    closer.step(Final(block, nothing, nothing), NOW)
    assert closer.operations.holds(large_evidence(1)) and len(held) < 100 - len(others)


def judged(*operations: bytes, problem: str = "") -> str:
    return judge_operations(operations, CHAIN, 1, SET, named, lambda proof: problem)


def test_operations_are_judged_by_their_bytes_and_the_set() -> None:
    good = EndEpoch(1, bytes([7]), (bytes(64),) * 3)
    assert judged(encode(EpochDone(1, 0, bytes(64))), encode(good), encode(notarizes())) == ""
    assert "nobody" in judged(encode(EpochDone(1, 4, bytes(64))))
    assert "another epoch" in judged(encode(EpochDone(2, 0, bytes(64))))
    assert "weigh too little" in judged(encode(EndEpoch(1, bytes([3]), (bytes(64),) * 2)))
    assert "another epoch" in judged(encode(attrs.evolve(good, epoch=3)))
    assert "contradict" in judged(encode(notarizes(other=b"one")))
    proof = encode(Equivocation(b"a", b"b", b"lock"))
    assert judged(*[proof] * PROOFS_MAX) == ""
    assert "more than" in judged(*[proof] * (PROOFS_MAX + 1))
    assert judged(proof) == "" and judged(proof, problem="no conflict") == "no conflict"
    assert judged(encode(ViewVote(VoteKind.NULLIFY, 1, 1, NO_DIGEST, 0, bytes(64)))) != ""


def test_who_asks_tells_all_and_a_quorum_closes_the_epoch() -> None:
    message = vote_message(CHAIN, 1, VoteKind.END_EPOCH)
    machines = [
        Ending(CHAIN, 1, SET, n, lambda text, n=n: signature(n, text))  # type: ignore[misc]
        for n in range(4)
    ]
    one = machines[0]
    assert one.gathered is None and one.remind((node_id(1),)) == []
    (send,) = one.ask()
    assert send.to is ALL and send.message == EndEpoch(1, bytes([1]), (signature(0, message),))
    assert not one.take(send.message) and not one.take(EndEpoch(2, bytes([2]), (bytes(64),)))
    for number in (2, 3):
        assert not one.is_complete
        (said,) = machines[number].ask()
        assert isinstance(said.message, EndEpoch) and one.take(said.message)
    assert one.is_complete and one.gathered is not None and one.weight == 3
    assert judged(encode(one.gathered)) == ""
    (again,) = one.remind((node_id(3), node_id(1)))
    assert again.to == (node_id(3), node_id(1)) and again.message == one.gathered
    assert machines[1].remind((node_id(1),)) == [], "who didn't ask says nothing"


# Evidence.


def vote(
    kind: VoteKind, digest: bytes = b"one", validator: int = 1, view: int = 3, epoch: int = 1
) -> ViewVote:
    name = NO_DIGEST if kind is VoteKind.NULLIFY else digest.ljust(32, b".")
    message = vote_message(CHAIN, epoch, kind, view, name)
    return ViewVote(kind, epoch, view, name, validator, signature(validator, message))


def notarizes(other: bytes = b"two") -> Evidence:
    return Evidence(Offence.NOTARIZES, vote(VoteKind.NOTARIZE), vote(VoteKind.NOTARIZE, other))


def effects(digest: bytes, validator: int = 1) -> Effects:
    each = Effect(0, b"t" * 32, digest.ljust(32, b"."))
    return Effects(1, b"b" * 32, validator, (each,), bytes(64))


def accepted(transaction: bytes, validator: int = 1) -> AcceptedTransaction:
    others = (transaction, b"another transaction")
    header = batch_header(
        chain_id=CHAIN, epoch=1, builder=node_id(0), sequence=transaction[1], transactions=others, gas=1
    )
    accept = Accept(1, header.digest(), validator, bytes(64))
    return AcceptedTransaction(accept, header, transaction, 0, merkle.path(others, 0))


def named(data: bytes) -> tuple[bytes, frozenset[bytes]]:
    """A transaction's name is its first two bytes, its lock the first."""
    return data[:2], frozenset({data[:1]})


GOOD = {
    "two notarize": notarizes(),
    "two proposals": Evidence(Offence.PROPOSALS, vote(VoteKind.PROPOSAL), vote(VoteKind.PROPOSAL, b"two")),
    "finalize and nullify": Evidence(
        Offence.FINALIZE_AND_NULLIFY, vote(VoteKind.FINALIZE), vote(VoteKind.NULLIFY)
    ),
    "two effects": Evidence(Offence.EFFECTS, effects(b"one"), effects(b"two")),
    "two accepts": Evidence(Offence.ACCEPTS, accepted(b"s1"), accepted(b"s2")),
}
first = accepted(b"s1")
BAD = {
    "of two validators": attrs.evolve(notarizes(), second=vote(VoteKind.NOTARIZE, b"two", validator=2)),
    "the same twice": attrs.evolve(notarizes(), second=vote(VoteKind.NOTARIZE)),
    "of two views": attrs.evolve(notarizes(), second=vote(VoteKind.NOTARIZE, b"two", view=4)),
    "of two epochs": attrs.evolve(notarizes(), second=vote(VoteKind.NOTARIZE, b"two", epoch=2)),
    "of nobody": Evidence(
        Offence.NOTARIZES, vote(VoteKind.NOTARIZE, validator=7), vote(VoteKind.NOTARIZE, b"two", validator=7)
    ),
    "the same effects": Evidence(Offence.EFFECTS, effects(b"one"), effects(b"one")),
    "another lock": Evidence(Offence.ACCEPTS, accepted(b"s1"), accepted(b"r2")),
    "one transaction": Evidence(Offence.ACCEPTS, accepted(b"s1"), accepted(b"s1")),
    "one transaction, signed again": Evidence(Offence.ACCEPTS, accepted(b"s1"), accepted(b"s1 again")),
    "an accept of another batch": Evidence(
        Offence.ACCEPTS, attrs.evolve(first, header=attrs.evolve(first.header, sequence=99)), accepted(b"s2")
    ),
    "a transaction that isn't in it": Evidence(
        Offence.ACCEPTS, attrs.evolve(first, transaction=b"s9"), accepted(b"s2")
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_two_statements_that_contradict_each_other_prove_who_made_them(name: str) -> None:
    proven = check_evidence(GOOD[name], CHAIN, 1, SET, named)
    assert (proven.validator, proven.offence) == (1, GOOD[name].offence)
    assert len(proven.claims) == 2 and {key for key, _, _ in proven.claims} == {SET.members[1].public_key}


@pytest.mark.parametrize("name", BAD)
def test_what_contradicts_nothing_proves_nothing(name: str) -> None:
    with pytest.raises(ProofInvalid):
        check_evidence(BAD[name], CHAIN, 1, SET, named)


def test_evidence_goes_to_all_once_a_validator_and_offence() -> None:
    book = EvidenceBook(SET)
    (send,) = book.take(notarizes())
    assert send.to is ALL and send.message == notarizes()
    assert book.knows(notarizes(b"three")) and book.take(notarizes(b"three")) == []
    assert len(book.take(GOOD["finalize and nullify"])) == 1
    assert book.take(BAD["of nobody"]) == []


def offered(*transactions: bytes, builder: int = 0) -> Batch:
    header = batch_header(
        chain_id=CHAIN, epoch=1, builder=node_id(builder), sequence=1, transactions=transactions, gas=1
    )
    return Batch(header, bytes(64), transactions)


def test_accepts_of_two_contradicting_transactions_are_evidence_whoever_came_first() -> None:
    proof = Equivocation(b"s1", b"s2", b"s")
    one, other, apart = offered(b"s1", b"r1"), offered(b"r2", b"s2", builder=2), offered(b"r3")
    watch = AcceptWatch(1)
    assert not watch.watches and watch.accepted(one, {1: bytes(64)}) == []
    assert watch.doubled(proof, [(one, {1: b"1" * 64, 2: bytes(64)})]) == []
    assert watch.watches and watch.accepted(apart, {1: bytes(64)}) == []
    (found,) = watch.accepted(other, {1: b"2" * 64, 3: bytes(64)})
    proven = check_evidence(found, CHAIN, 1, SET, named)
    assert (proven.validator, proven.offence) == (1, Offence.ACCEPTS)
    assert {signature for _, _, signature in proven.claims} == {b"1" * 64, b"2" * 64}
    assert watch.accepted(other, {1: b"2" * 64}) == [], "once an accept"
    late = AcceptWatch(1)
    assert len(late.doubled(proof, [(one, {1: bytes(64)}), (other, {1: bytes(64)})])) == 1


# The next epoch.


def epoch_one() -> Epoch:
    base = Tip(height=0, digest=GENESIS, epoch=0, timestamp_ms=0, root_height=0, state_root=bytes(32))
    bounds = BlockBounds(gas_max=1, bytes_max=1, transactions_max=1, batch_gas_floor=1)
    return Epoch(
        chain_id=CHAIN, number=1, validators=TRUTH.sets[1], base=base, base_finalisation=None, bounds=bounds
    )


def test_the_next_epoch_begins_on_the_last_block_with_the_set_that_it_names() -> None:
    last, finalisation = TRUTH.block(20), TRUTH.finalisations[20]
    begun = next_epoch(epoch_one(), last, finalisation, TRUTH.sets[2])
    assert (begun.number, begun.base.digest, begun.base.height) == (2, last.digest(), 20)
    assert begun.base_finalisation == finalisation and begun.validators == TRUTH.sets[2]
    for block, certificate, validators in (
        (last, finalisation, TRUTH.sets[1]),
        (last, attrs.evolve(finalisation, kind=VoteKind.NOTARIZE), TRUTH.sets[2]),
        (TRUTH.block(19), finalisation, TRUTH.sets[2]),
    ):
        with pytest.raises(AssertionError):
            next_epoch(epoch_one(), block, certificate, validators)


def test_votes_of_the_next_epoch_are_kept_within_bounds_until_it_begins() -> None:
    early = EarlyMessages()
    messages = [vote(VoteKind.NULLIFY, view=view, epoch=2) for view in range(1, EARLY_A_PEER_MAX + 2)]
    kept = [early.add(node_id(1), 2, message) for message in messages]
    assert kept == [True] * EARLY_A_PEER_MAX + [False]
    assert early.add(node_id(2), 3, messages[0])
    assert early.take(2) == [(node_id(1), message) for message in messages[:-1]]
    assert early.take(3) == [], "what isn't of the epoch that begins goes"
    for number in range(300):
        early.add(number.to_bytes(32, "big"), 2, messages[0])
    assert len(early.take(2)) == 256
