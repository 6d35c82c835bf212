"""The voter's log without what nothing rests on: it says the same as all of it, and doesn't grow."""

import random
from collections.abc import Callable, Iterable

import pytest

from supervm.execution.footprint import NONCE_LOCK
from supervm.plugins.consensus.bft.batch_events import BatchExamined, BlockExecuted
from supervm.plugins.consensus.bft.batch_records import NOTHING, CertifiedClaims, Locked, UsedUp
from supervm.plugins.consensus.bft.batches import BatchVoter
from supervm.plugins.consensus.bft.certificates import Certificates
from supervm.plugins.consensus.bft.claims import Claim, Examined, Facts, chain_of, chain_slot
from supervm.plugins.consensus.bft.driver.shortening import LockRows
from supervm.plugins.consensus.bft.events import Check, Log, Now, Received, Record
from supervm.plugins.consensus.bft.locks import LockTable
from supervm.plugins.consensus.bft.records import decode_record, encode_record
from supervm.types.batch import Batch
from supervm.types.claims import object_lock
from supervm.types.digests import plain_digest

from . import SCALE
from .batch_world import IDS
from .test_batches import Desk, batch_of, certificate_of

WHO = tuple(bytes((ord("A") + number,)) * 32 for number in range(9))
TOKEN = b"t" * 32


class Rows:
    """A journal's rows, and all that was ever appended."""

    def __init__(self, table: LockTable | None = None) -> None:
        """`table`: the voter's; without one what locks claim is read from all records."""
        self.all: list[Record] = []
        self.kept: dict[int, Record] = {}
        self.claims: dict[bytes, Claim] = {}
        self.rows = LockRows(self, self.claims.get if table is None else table.claim)  # type: ignore[arg-type]

    def append(self, record: Record) -> None:
        if isinstance(record, Locked):
            self.claims |= {each.transaction: each for each in record.claims}
        self.all.append(record)
        self.kept[len(self.all)] = record
        self.rows.logged(len(self.all), record)

    def replace(self, row: int, record: Record) -> None:
        assert row in self.kept, "what is gone isn't written again"
        self.kept[row] = record

    def drop(self, rows: list[int]) -> None:
        for row in rows:
            del self.kept[row]

    def reread(self) -> "Rows":
        """As after a restart: from what is kept, under the same numbers."""
        again = Rows()
        again.claims = self.claims
        return self.into(again, lambda record: None)

    def into(self, again: "Rows", recall: Callable[[Record], None]) -> "Rows":
        """As a driver restores: a record for the rows, then for the machine."""
        again.all, again.kept = list(self.all), dict(self.kept)
        for row, record in sorted(self.kept.items()):
            read = decode_record(encode_record(record))
            again.rows.logged(row, read)
            recall(read)
        return again


def claims_at(block: int, count: int = 20) -> tuple[Claim, ...]:
    """Of accounts of their own."""
    found = []
    for at in range(count):
        who = plain_digest(b"%d %d" % (block, at))
        found.append(Claim(plain_digest(who), (chain_slot(NONCE_LOCK + who, 0),)))
    return tuple(found)


def used_up(height: int, claims: Iterable[Claim], batches: tuple[bytes, ...] = ()) -> UsedUp:
    claims = tuple(claims)
    slots = tuple(slot for each in claims for slot in each.slots)
    return UsedUp(height, batches, slots, tuple(each.transaction for each in claims))


@pytest.mark.parametrize("equivocators", [(), (b"e" * 32,)])
def test_a_lock_that_is_never_used_up_keeps_neither_rows_nor_memory_of_later_blocks(
    equivocators: tuple[bytes, ...],
) -> None:
    log = Rows()
    stuck = claims_at(0)
    log.append(Locked(b"s" * 32, IDS[1], False, stuck, equivocators))
    # The others of its record are used up one by one, later.
    beside = iter(stuck[1:])
    sizes, memory = [], []
    for height in range(1, 101):
        claims = claims_at(height)
        digest = plain_digest(b"%d" % height)
        log.append(Locked(digest, IDS[2], True, claims))
        late = [each for each in (next(beside, None),) if each is not None]
        log.append(used_up(height, (*claims, *late), (digest,)))
        blocks = [each for each in log.kept.values() if isinstance(each, UsedUp)]
        assert len(log.kept) == len(blocks) + 1 and len(blocks) == height
        sizes.append(sum(len(each.slots) + len(each.transactions) for each in blocks))
        memory.append(log.rows.size)
    assert max(sizes) <= 2 * len(stuck) and sizes[-1] == 0, "what its own record needs, no more"
    assert max(memory) <= 6 * len(stuck) and memory[-1] == 2
    nothing = (NOTHING,) * (len(stuck) - 1)
    assert log.kept[1] == Locked(b"s" * 32, IDS[1], False, (stuck[0], *nothing), equivocators)
    assert log.reread().rows.size == memory[-1]
    log.append(used_up(101, stuck[:1]))
    kept = [each for each in log.kept.values() if not isinstance(each, UsedUp)]
    assert kept == ([Locked(b"s" * 32, IDS[1], False, (), equivocators)] if equivocators else [])
    assert not any(each.slots for each in log.kept.values() if isinstance(each, UsedUp))
    assert log.rows.size == 0


def test_a_transaction_executed_without_its_slot_used_up_stays_executed() -> None:
    log = Rows()
    void, other = claims_at(0, 2)
    log.append(Locked(b"a" * 32, IDS[1], False, (other, void)))
    log.append(UsedUp(1, (), (), (void.transaction,)))
    log.append(used_up(2, claims_at(2)))
    log.append(used_up(3, (other,)))
    assert log.kept[1] == Locked(b"a" * 32, IDS[1], False, (NOTHING, void))
    assert log.kept[2] == log.all[1]
    assert log.kept[3] == UsedUp(2, (), (), ())
    assert log.kept[4] == UsedUp(3, (), (), ())


def test_what_a_block_says_of_a_certified_batch_stays_as_long_as_that_batch_waits_for_its_block() -> None:
    log = Rows()
    one, other = claims_at(0, 2)
    log.append(CertifiedClaims(b"a" * 32, (one, other)))
    # Another batch brought this one.
    log.append(used_up(1, (one,), (b"b" * 32,)))
    assert log.kept[2] == log.all[1]
    log.append(used_up(2, (one, other), (b"a" * 32,)))
    assert log.kept == {2: UsedUp(1, (b"b" * 32,), (), ()), 3: UsedUp(2, (b"a" * 32,), (), ())}
    assert log.rows.size == 0


# A voter rebuilt from it


class Chain(Desk):
    """A voter with accounts, objects and clients that sign twice; certified batches come into blocks."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.versions: dict[bytes, int] = {}
        self.winners: dict[bytes, bytes] = {}
        self.executed: dict[bytes, None] = {}
        self.offered: list[Batch] = []
        self.certified: list[Batch] = []
        self.rows = Rows(self.voter.table)

    def restart(self) -> None:
        """From what is kept: the rows, and the voter."""
        again = self.fresh()
        self.rows = self.rows.into(Rows(again.table), again.recall)  # type: ignore[arg-type]
        self.voter = again
        outputs = again.resume()
        self.log += [each.record for each in outputs if isinstance(each, Log)]
        for each in outputs:
            if isinstance(each, Check):
                self.step(BatchExamined(each.batch.digest(), self.examine(each.batch)))

    def claim(self) -> Claim:
        """Of one who signs each nonce once, mostly. Every other nonce takes an object with it."""
        pick = self.random
        who = pick.choice(WHO)
        chain = NONCE_LOCK + who
        nonce = self.nonces.get(chain, 0) + pick.choice((0, 0, 0, 1))
        twice = pick.random() < 0.03
        name = plain_digest(b"%s %d %d" % (who, nonce, twice))
        slots = [chain_slot(chain, nonce)]
        if nonce % 2 and not twice:
            slots.append(object_lock(who, self.versions.get(who, 0)))
        found = Claim(name, tuple(slots), (((who, TOKEN), pick.randrange(3)),))
        return self.claims.setdefault(name, found)

    def examine(self, batch: Batch) -> Examined:
        claims = tuple(self.claims[data] for data in batch.transactions)
        refused = {}
        for index, each in enumerate(claims):
            if each.transaction in self.executed:
                refused[index] = "AlreadyExecuted"
            elif any(self._is_past(slot) for slot in each.slots):
                refused[index] = "ObjectGone"
        funds = {(who, TOKEN): 1000 for who in WHO}
        return Examined(Facts(self.height, dict(self.nonces), funds), claims, refused, gas=len(claims))

    def _is_past(self, slot: bytes) -> bool:
        place = chain_of(slot)
        if place is not None:
            return False
        return int.from_bytes(slot[33:], "little") < self.versions.get(slot[1:33], 0)

    def act(self) -> None:
        before = len(self.log)
        pick = self.random.random()
        if pick < 0.6:
            self._offer()
        elif pick < 0.8 and self.offered:
            self._certify(self.random.choice(self.offered))
        elif self.certified:
            self._execute(self.random.choice(self.certified))
        for record in self.log[before:]:
            self.rows.append(record)  # type: ignore[arg-type]

    def _offer(self) -> None:
        claims = [self.claim() for _ in range(self.random.randrange(1, 5))]
        batch = batch_of(
            list({each.transaction: each for each in claims}.values()),
            after=[each.digest() for each in self.certified[-2:]],
            builder=self.random.randrange(1, len(IDS)),
            sequence=len(self.offered),
        )
        self.offered.append(batch)
        if self.random.random() < 0.8:
            self.step(Received(batch.header.builder, batch))

    def _certify(self, batch: Batch) -> None:
        """Where that conflicts with nothing that is certified."""
        won = dict(self.winners)
        for name in batch.transactions:
            if any(won.setdefault(slot, name) != name for slot in self.claims[name].slots):
                return
        self.winners = won
        self.offered.remove(batch)
        self.certified.append(batch)
        self.step(Received(IDS[1], certificate_of(batch)))
        self.step(Received(IDS[1], batch))

    def _execute(self, batch: Batch) -> None:
        """Where each of its transactions is executed before, or can be now."""
        fresh = [self.claims[data] for data in batch.transactions if data not in self.executed]
        slots = [slot for each in fresh for slot in each.slots]
        for slot in slots:
            place = chain_of(slot)
            now = self.versions.get(slot[1:33], 0) if place is None else self.nonces.get(place[0], 0)
            if int.from_bytes(slot[33:], "little") != now:
                return
        for slot in slots:
            place = chain_of(slot)
            if place is None:
                self.versions[slot[1:33]] = self.versions.get(slot[1:33], 0) + 1
            else:
                self.nonces[place[0]] = place[1] + 1
        self.executed |= dict.fromkeys(batch.transactions)
        self.certified.remove(batch)
        self.height += 1
        used = tuple(slot for data in batch.transactions for slot in self.claims[data].slots)
        self.step(BlockExecuted(self.height, (batch.digest(),), used, batch.transactions))

    def rebuilt(self, records: Iterable[Record]) -> BatchVoter:
        """From records, and with what the application then answers."""
        voter = self.fresh()
        outputs = voter.restore([decode_record(encode_record(each)) for each in records])  # type: ignore[misc]
        while checks := [each for each in outputs if isinstance(each, Check)]:
            outputs = []
            for each in checks:
                answer = BatchExamined(each.batch.digest(), self.examine(each.batch))
                outputs += voter.step(answer, Now(0, 0))
        return voter


def state_of(voter: BatchVoter) -> dict[str, object]:
    """All that its answers rest on."""
    table, known = voter.table, voter.certificates
    standing = {
        digest: held
        for digest, claims in voter._accepted.items()
        if (held := [(at, each) for at, each in enumerate(claims or ()) if _is_held(table, each)])
    }
    return {
        "slots": {name: (slot.held, slot.certified) for name, slot in table._slots.items()},
        "transactions": {name: (each.slots, each.executed) for name, each in table._known.items()},
        "debits": {who: table.debits((who, TOKEN)) for who in WHO},
        "equivocators": set(table._equivocated),
        "accepted": standing,
        "held": set(voter._held._batches),
        "bytes": {name: voter._held.transaction(name) for name in table._known},
        "certificates": _certificates(known),
        "height": voter._executed_height,
    }


def _is_held(table: LockTable, claim: Claim) -> bool:
    return any(table.holder(slot) == claim.transaction for slot in claim.slots)


def _certificates(known: Certificates) -> dict[bytes, tuple[bool, bool, bool]]:
    return {digest: (each.examined, each.held, each.known) for digest, each in known._entries.items()}


def test_a_voter_is_rebuilt_from_the_shortened_log_as_from_all_of_it() -> None:
    stuck = proven = thin = short_bytes = all_bytes = 0
    for seed in range(12 * SCALE):
        chain = Chain(seed)
        for turn in range(160):
            chain.act()
            if turn % 8 == 0:
                _compare(chain)
        # It was shortened before a restart, and is shortened on after it.
        before = len(chain.log)
        chain.restart()
        for record in chain.log[before:]:
            chain.rows.append(record)  # type: ignore[arg-type]
        for _ in range(60):
            chain.act()
        _compare(chain)
        kept = list(chain.rows.kept.values())
        short_bytes += encoded_bytes(kept)
        all_bytes += encoded_bytes(chain.rows.all)
        thin += any(isinstance(each, Locked) and NOTHING in each.claims for each in kept)
        proven += any(isinstance(each, Locked) and bool(each.equivocators) for each in kept)
        stuck += any(chain.voter.table.holder(slot) != winner for slot, winner in chain.winners.items())
    assert stuck > 3 and proven > 3, "some locks were never used up, some clients signed twice"
    assert thin > 3, "some records of locks lost claims"
    assert 3 * short_bytes < 2 * all_bytes


def encoded_bytes(records: Iterable[Record]) -> int:
    return sum(len(encode_record(each)) for each in records)


def _compare(chain: Chain) -> None:
    kept = [record for _, record in sorted(chain.rows.kept.items())]
    assert state_of(chain.rebuilt(kept)) == state_of(chain.rebuilt(chain.rows.all))
