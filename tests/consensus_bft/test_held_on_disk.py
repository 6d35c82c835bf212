"""Accepted batches that nobody certified: memory holds the newest, the log all of them (CONS-2, CONS-17)."""

from collections.abc import Sequence

import pytest

from supervm.plugins.consensus.bft.batch_events import Learned
from supervm.plugins.consensus.bft.batch_records import NOTHING, HeldBatch, Locked
from supervm.plugins.consensus.bft.batches import LOOK_AGAIN_BLOCKS, BatchVoter, VoterBounds
from supervm.plugins.consensus.bft.claims import Claim
from supervm.plugins.consensus.bft.events import Apply, Fetch, Received, Send
from supervm.plugins.consensus.bft.fetching import Got, WantDigest, What
from supervm.plugins.consensus.bft.holding import BATCH_INDEX_BYTES, LOCK_INDEX_BYTES, HeldBatches
from supervm.plugins.consensus.bft.messages import Equivocation, Refuse
from supervm.plugins.consensus.bft.records import decode_record, encode_record
from supervm.types.batch import Batch
from supervm.types.digests import plain_digest

from . import SCALE
from .batch_world import IDS, World
from .test_batches import BlockExecuted, Desk, answer, batch_of, certificate_of, claim, code
from .test_shortening import Rows

INDEX = BATCH_INDEX_BYTES + LOCK_INDEX_BYTES
ONE = 64
"""Bytes of a batch of two transactions."""
BUILDER = 1
PEER = IDS[2]


class LogDesk(Desk):
    """A voter whose driver looks into the log for what is fetched, when `gives`."""

    gives = True
    rows: Rows | None = None

    def step(self, event: object, now_s: float = 0.0) -> list[object]:
        outputs = super().step(event, now_s)
        if self.rows is not None:
            for record in self.log[len(self.rows.all) :]:
                self.rows.append(record)  # type: ignore[arg-type]
        return outputs + (self.give(outputs, now_s) if self.gives else [])

    def give(self, outputs: Sequence[object], now_s: float = 0.0) -> list[object]:
        """What these ask for, as far as the log has it."""
        found = self.logged()
        given: list[object] = []
        for each in outputs:
            if isinstance(each, Fetch) and isinstance(each.want, WantDigest):
                batch = found.get(each.want.digest)
                if each.want.what is What.BATCH and batch is not None:
                    given += self.step(Received(IDS[0], Got((batch,))), now_s)
        return given

    def logged(self) -> dict[bytes, Batch]:
        batches = [each.batch for each in self.log if isinstance(each, HeldBatch)]
        return {each.digest(): each for each in batches}

    def accept(self, *claims: Claim, sequence: int, builder: int = BUILDER) -> Batch:
        """A batch of these, accepted at a time at which earlier locks aren't young."""
        batch = batch_of(claims, sequence=sequence, builder=builder)
        assert code(self.offer(claims, 20.0 * sequence, sequence=sequence, builder=builder)) == "accept"
        return batch

    def execute(self, *batches: Batch) -> list[object]:
        self.height += 1
        claims = [self.claims[data] for batch in batches for data in batch.transactions]
        used = tuple(slot for each in claims for slot in each.slots)
        names = tuple(each.transaction for each in claims)
        digests = tuple(batch.digest() for batch in batches)
        return self.step(BlockExecuted(self.height, digests, used, names))

    def restarted(self) -> "LogDesk":
        again = LogDesk(self.bounds)
        again.claims, again.height, again.nonces = dict(self.claims), self.height, dict(self.nonces)
        again.log = [decode_record(encode_record(each)) for each in self.log]  # type: ignore[arg-type]
        outputs = again.voter.restore(again.log)  # type: ignore[arg-type]
        again.give(outputs)
        return again


def pair(number: int) -> tuple[Claim, Claim]:
    """Of an honest client, and of one that has signed another for the same nonce."""
    honest, cheat = (plain_digest(b"%s %d" % (name, number)) for name in (b"honest", b"cheat"))
    return claim(honest, 0, spend=0), claim(cheat, 0, spend=0)


def in_memory(voter: BatchVoter, batches: Sequence[Batch]) -> list[Batch]:
    return [each for each in batches if voter.batch(each.digest()) is not None]


def learned(outputs: Sequence[object]) -> list[Batch]:
    return [each.batch for each in outputs if isinstance(each, Learned)]


def attacked(desk: LogDesk, attempts: int, beside: int = 0) -> list[Batch]:
    """An honest builder, whose every first attempt holds a transaction that lost elsewhere: it is accepted
    here and never certified. The second attempt is, and gets into a block. `beside`: honest ones in each."""
    lost = []
    for number in range(attempts):
        honest, cheat = pair(number)
        others = [claim(plain_digest(b"%d %d" % (number, each)), 0, spend=0) for each in range(beside)]
        lost.append(desk.accept(*others, honest, cheat, sequence=2 * number))
        second = desk.accept(*others, honest, sequence=2 * number + 1)
        desk.step(Received(IDS[BUILDER], certificate_of(second)))
        desk.execute(second)
    return lost


BOUNDS = VoterBounds(held_bytes_max=len(IDS) * 3 * ONE)
"""Memory for three batches of a builder, or for two and one of a single transaction."""


def test_equivocating_clients_dont_make_a_validator_refuse_an_honest_builder() -> None:
    desk = LogDesk(BOUNDS)
    lost = attacked(desk, 30)
    assert code(desk.offer(pair(99), builder=BUILDER, sequence=98)) == "accept"
    assert len(in_memory(desk.voter, lost)) <= 3


def test_memory_has_the_newest_and_nothing_of_the_others_but_what_proves_a_conflict() -> None:
    desk = LogDesk(BOUNDS)
    lost = attacked(desk, 30)
    for each in (desk, desk.restarted()):
        held = each.voter._held
        assert held.memory_bytes(IDS[BUILDER]) == sum(
            batch.header.size_bytes for batch in held._batches.values()
        )
        assert held.memory_bytes(IDS[BUILDER]) <= 3 * ONE
        assert held.size_bytes(IDS[BUILDER]) == 30 * ONE
        assert held.index_bytes(IDS[BUILDER]) == 28 * INDEX
        assert in_memory(each.voter, lost) == lost[-2:]
        kept = [batch for batch in lost if each.voter._accepted[batch.digest()] is not None]
        assert kept == lost[-2:], "what they claim is forgotten with them"
        assert {name for name, _ in held._where.values()} <= {batch.digest() for batch in lost[-2:]}
    alone = desk.voter._held._alone
    assert alone.size_bytes(IDS[BUILDER]) == 28 * 32, "of each the one that is still locked"


def test_a_conflict_with_what_left_memory_is_proven() -> None:
    desk = LogDesk(BOUNDS)
    attacked(desk, 10)
    _, cheat = pair(0)
    other = claim(plain_digest(b"cheat 0"), 0, "other", spend=0)
    desk.claims[other.transaction] = other
    outputs = desk.step(Received(IDS[2], batch_of([other], builder=2)), 999.0)
    (refuse,) = [
        each.message for each in outputs if isinstance(each, Send) and isinstance(each.message, Refuse)
    ]
    assert refuse.refusals[0].code == "LockBusy" and refuse.refusals[0].other == cheat.transaction
    (proof,) = [
        each.message for each in outputs if isinstance(each, Send) and isinstance(each.message, Equivocation)
    ]
    assert {proof.first, proof.second} == {cheat.transaction, other.transaction}


def test_of_a_lost_attempt_the_log_keeps_its_content_and_the_locks_that_stand() -> None:
    desk = LogDesk(VoterBounds(held_bytes_max=len(IDS) * 32 * 32))
    rows = desk.rows = Rows(desk.voter.table)
    lost = attacked(desk, 20, beside=20)
    for _ in range(LOOK_AGAIN_BLOCKS):
        desk.execute()
    assert desk.voter._held.index_bytes(IDS[BUILDER]) == 20 * INDEX
    assert rows.rows.size <= 20 * 2 + 40, "a slot and a name of each, and the blocks"
    for record in rows.kept.values():
        if isinstance(record, Locked):
            assert [each for each in record.claims if each != NOTHING] == [
                pair(index)[1] for index, each in enumerate(lost) if each.digest() == record.batch
            ]
    desk.log = [record for _, record in sorted(rows.kept.items())]
    again = desk.restarted()
    assert (
        len(in_memory(again.voter, lost)) == 1 and again.voter._held.index_bytes(IDS[BUILDER]) == 19 * INDEX
    )
    for number in (0, 19):
        assert again.voter._held.transaction(pair(number)[1].transaction) == pair(number)[1].transaction
        outputs = again.step(Received(PEER, certificate_of(lost[number])))
        assert learned(outputs) == [lost[number]]
        (known,) = [each for each in outputs if isinstance(each, Learned)]
        assert pair(number)[1] in known.claims and NOTHING not in known.claims
        # There is room for one.
        again.execute(lost[number])


@pytest.mark.parametrize("restarts", [(), ("before",), ("after",), ("before", "asked", "after")])
def test_a_late_certificate_brings_a_batch_back_from_the_log(restarts: Sequence[str]) -> None:
    desk = LogDesk(BOUNDS)
    late = attacked(desk, 10)[0]
    if "before" in restarts:
        desk = desk.restarted()
    assert not in_memory(desk.voter, [late])
    desk.gives = "asked" not in restarts
    outputs = desk.step(Received(PEER, certificate_of(late)))
    if "asked" in restarts:
        assert Fetch(WantDigest(What.BATCH, late.digest()), IDS[:3]) in outputs
        assert not learned(outputs)
        desk = desk.restarted()
    else:
        assert learned(outputs) == [late]
        assert [each.batch for each in outputs if isinstance(each, Apply)] == [late.digest()]
    if "after" in restarts:
        desk = desk.restarted()
    assert in_memory(desk.voter, [late]) and desk.voter.certificates.is_known(late.digest())
    cheat = pair(0)[1]
    assert desk.voter.table.certified(cheat.slots[0]) == cheat.transaction
    held = desk.voter._held
    assert held.memory_bytes(IDS[BUILDER]) <= 3 * ONE, "others left for it"
    # Whoever builds on it is accepted.
    then = claim(plain_digest(b"cheat 0"), 1, spend=0)
    assert code(desk.offer([then], 999.0, builder=2, after=[late.digest()])) == "accept"
    desk.execute(late)
    assert held.size_bytes(IDS[BUILDER]) == 9 * ONE and held.certified_bytes(IDS[BUILDER]) == 0
    assert not in_memory(desk.voter, [late])


def test_certificates_held_back_and_shown_at_once_bring_no_more_than_memory_has_room_for() -> None:
    desk = LogDesk(BOUNDS)
    batches = attacked(desk, 20)
    certificates = [certificate_of(each) for each in batches]
    found: list[Batch] = []
    for each in certificates:
        found += learned(desk.step(Received(PEER, each)))
        _judge_memory(desk)
    assert found == batches[-3:] or len(found) == 3
    # Its builder can't push more in.
    for each in batches:
        assert not learned(desk.step(Received(IDS[BUILDER], each)))
        _judge_memory(desk)
    assert len(desk.voter.duties()) == 20, "all of them must get into blocks"
    desk = desk.restarted()
    _judge_memory(desk)
    for each in batches:
        if desk.voter.certificates.get(each.digest()) is not None:
            desk.execute(each)
            _judge_memory(desk)
    held, builder = desk.voter._held, IDS[BUILDER]
    assert (held.size_bytes(builder), held.index_bytes(builder)) == (0, 0)
    assert (held.memory_bytes(builder), held.certified_bytes(builder)) == (0, 0)


def test_what_waits_for_room_is_fetched_when_a_block_has_made_some() -> None:
    desk = LogDesk(BOUNDS)
    batches = attacked(desk, 8)
    known: list[Batch] = []
    for each in batches:
        known += learned(desk.step(Received(PEER, certificate_of(each))))
    waiting = [each for each in batches if each not in known]
    assert len(known) == 3 and len(waiting) == 5
    while known:
        more = learned(desk.execute(known.pop(0)))
        known += more
        waiting = [each for each in waiting if each not in more]
        _judge_memory(desk)
    assert not waiting and not desk.voter._later


def _judge_memory(desk: LogDesk) -> None:
    """What is counted is what is there, with the room of what is fetched, and within the bound."""
    held = desk.voter._held
    here = sum(each.header.size_bytes for each in held._batches.values())
    assert here <= held.memory_bytes(IDS[BUILDER]) <= 3 * ONE


def test_a_batch_never_accepted_here_takes_its_builders_room_as_well() -> None:
    desk = LogDesk(BOUNDS)
    batches = [batch_of(pair(each), sequence=each) for each in range(5)]
    for number, batch in enumerate(batches):
        desk.claims |= {each.transaction: each for each in pair(number)}
        outputs = desk.step(Received(PEER, certificate_of(batch)))
        assert any(isinstance(each, Fetch) for each in outputs) == (number < 3)
    for batch in batches[:3]:
        assert learned(desk.step(Received(PEER, Got((batch,))))) == [batch]
    outputs = desk.execute(batches[0])
    assert [each.want for each in outputs if isinstance(each, Fetch)] == [
        WantDigest(What.BATCH, batches[3].digest())
    ]


def test_a_builder_is_busy_beyond_its_share_of_the_disk_and_the_others_are_not() -> None:
    for bounds in (
        VoterBounds(held_bytes_max=4 * 2 * ONE, disk_bytes_max=4 * 5 * ONE),
        VoterBounds(held_bytes_max=4 * 2 * ONE, index_bytes_max=4 * 3 * (INDEX + LOCK_INDEX_BYTES)),
    ):
        desk = LogDesk(bounds)
        for number in range(5):
            desk.accept(*pair(number), sequence=number)
        for each in (desk, desk.restarted()):
            assert code(each.offer(pair(5), 999.0, sequence=5)) == "Busy"
            assert code(each.offer(pair(5), 999.0, builder=2)) == "accept"


def test_a_repeated_offer_of_what_left_memory_is_answered_alike() -> None:
    desk = LogDesk(BOUNDS)
    lost = attacked(desk, 10)
    before = len(desk.log)
    assert code(answer(desk.step(Received(IDS[BUILDER], lost[0])))) == "accept"
    assert len(desk.log) == before


@pytest.mark.parametrize("seed", range(2, 2 + 2 * SCALE))
def test_a_storm_in_which_every_accepted_batch_leaves_memory_at_once_breaks_nothing(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = HeldBatches.let_go
    monkeypatch.setattr(HeldBatches, "let_go", lambda self, builder, bytes_max: let_go(self, builder, 0))
    world = World(seed)
    world.run()
    assert len(world.certified) > 20
    assert len(world.final) > 0
    assert sum(node.reread for node in world.nodes) > 0
