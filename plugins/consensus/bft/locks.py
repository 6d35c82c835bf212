"""A validator's locks in one epoch, and what they say of a batch (CONS-10..17).

Two facts are kept of a slot: the transaction that this validator *holds* it for, and the one known to be
*certified* on it. They may differ: who locked the loser of a race learns of the winner by its certificate.

- A slot held is never given to another, whatever is certified: a second accept on it would be an offence.
- Predecessors count only when certified in the batch's past, or earlier in the batch (CONS-12).
- Funds count the certified one of a nonce where it is known, else the held one (CONS-13).
- A slot is forgotten when an executed block used it up, or with the epoch; nothing else frees it (CONS-15).

Nothing here knows of disks: what `judge` decides takes effect with `take`, in the same step, and the caller
logs it before a word of it leaves.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence

import attrs

from supervm.execution.footprint import OBJECT_LOCK
from supervm.plugins.consensus.bft.claims import (
    CHAIN_BYTES,
    IN_FLIGHT_MAX,
    NONCE_LOCK,
    SPONSOR_NONCE_LOCK,
    Account,
    Claim,
    Facts,
    chain_of,
    chain_slot,
    chains_of,
)
from supervm.types.address import Address
from supervm.types.digests import Digest

EQUIVOCATORS_MAX = 65_536
"""Accounts proven to have signed twice that are refused further locks in an epoch (chosen). Each had a lock,
or has to pay, so none is here for nothing."""


class CertificatesConflict(Exception):
    """Two certified transactions on one slot: more than f of the validators are hostile."""

    def __init__(self, slot: bytes, one: Digest, other: Digest) -> None:
        self.slot, self.one, self.other = slot, one, other
        super().__init__(f"slot 0x{slot.hex()} is certified for 0x{one.hex()} and for 0x{other.hex()}")


@attrs.frozen(kw_only=True)
class LockBounds:
    """Counts of slots. `young_max` is `fast.locks_max`, on those younger than `young_s` seconds (CONS-17).

    `total_max` bounds the table as such; beyond it each builder has its share of it left.
    `in_flight_max`: nonces of one chain at a time (CONS-12).
    """

    young_max: int = 1_000_000
    young_s: float = 10.0
    total_max: int = 4_000_000
    in_flight_max: int = IN_FLIGHT_MAX


@attrs.frozen
class Refused:
    """Why a transaction of a batch isn't accepted: a code of EXEC-20, and what it conflicts with."""

    code: str
    other: Digest | None = None


@attrs.frozen
class Conflict:
    """An account signed two transactions for one slot: one of the batch, and one that was first."""

    account: Address
    slot: bytes
    transaction: Digest
    other: Digest


@attrs.frozen
class Judgement:
    """What is locked and what is refused, by index in the batch; and who is proven to equivocate."""

    locked: Mapping[int, Claim]
    refused: Mapping[int, Refused]
    conflicts: tuple[Conflict, ...] = ()

    @property
    def equivocators(self) -> tuple[Address, ...]:
        return tuple(each.account for each in self.conflicts)


@attrs.define
class _Slot:
    held: Digest | None = None
    certified: Digest | None = None


@attrs.define
class _Known:
    """A transaction that stands in some slot. `batches` are the certified ones that hold it."""

    claim: Claim
    slots: int = 0
    batches: list[Digest] = attrs.Factory(list)
    executed: bool = False


class LockTable:
    """The slots of one epoch. `builders`: how many are admitted, for their shares."""

    def __init__(self, bounds: LockBounds, builders: int) -> None:
        self._bounds = bounds
        self._slots: dict[bytes, _Slot] = {}
        self._chains: dict[bytes, dict[int, _Slot]] = {}
        self._known: dict[Digest, _Known] = {}
        self._equivocated: dict[Address, None] = {}
        self._young = _YoungLocks(bounds, max(1, builders))

    # What it says

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, slot: bytes) -> bool:
        return slot in self._slots

    def holder(self, slot: bytes) -> Digest | None:
        """The transaction that this validator locked a slot to."""
        found = self._slots.get(slot)
        return None if found is None else found.held

    def holds(self, claim: Claim) -> bool:
        """Whether this validator still holds every slot of a claim for it: none is used up."""
        return all(self.holder(slot) == claim.transaction for slot in claim.slots)

    def shared(self, claims: Iterable[Claim]) -> tuple[Claim, ...]:
        """These claims; where the table keeps an equal one, that very object: repeats cost no memory."""
        kept = ((each, self._known.get(each.transaction)) for each in claims)
        return tuple(each if known is None or known.claim != each else known.claim for each, known in kept)

    def claim(self, transaction: Digest) -> Claim | None:
        """The claim of a transaction that stands in a slot."""
        known = self._known.get(transaction)
        return None if known is None else known.claim

    def certified(self, slot: bytes) -> Digest | None:
        """The certified transaction of a slot, where one is known."""
        found = self._slots.get(slot)
        return None if found is None else found.certified

    def counted(self, slot: bytes) -> Digest | None:
        """The transaction whose spending counts for a nonce: the certified one, else the held one."""
        return self.certified(slot) or self.holder(slot)

    def is_equivocator(self, address: Address) -> bool:
        return address in self._equivocated

    def debits(self, account: Account, but: Digest | None = None) -> int:
        """`max_spend` on an account of every transaction not yet executed, but of one (CONS-13)."""
        total = 0
        for chain in chains_of(account[0]):
            for slot in self._chains.get(chain, {}).values():
                digest = slot.certified or slot.held
                assert digest is not None, "a slot stands for somebody"
                known = self._known[digest]
                if digest != but and not known.executed:
                    total += known.claim.spend(account)
        return total

    def judge(
        self,
        claims: Sequence[Claim],
        facts: Facts,
        past: Collection[Digest],
        builder: bytes,
        now: float,
        already: Mapping[int, str] | None = None,
    ) -> Judgement:
        """Say for each transaction of a batch, in its order, whether it can be locked. Changes nothing.

        `past`: digests of the certified batches of its past. `already`: codes by which the application
        refused some, by index.
        """
        judging = _Judging(self, facts, past, self._young.room(builder, now, len(self._slots)))
        locked: dict[int, Claim] = {}
        refused: dict[int, Refused] = {}
        for index, claim in enumerate(claims):
            code = already.get(index) if already is not None else None
            if not code and judging.lock_first(claim):
                locked[index] = claim
                continue
            why = Refused(code) if code else judging.refusal(claim)
            if why is not None:
                refused[index] = why
            else:
                judging.lock(claim)
                locked[index] = claim
        return Judgement(locked, refused, tuple(judging.conflicts.values()))

    # What changes it

    def take(self, claims: Iterable[Claim], builder: bytes, now: float) -> None:
        """Hold the slots of claims that `judge` let in; again with the same ones changes nothing."""
        for claim in claims:
            fresh = 0
            for name in claim.slots:
                slot = self._slot(name)
                assert slot.held in (None, claim.transaction), "a lock never changes hands"
                if slot.held is None:
                    fresh += 1
                    slot.held = claim.transaction
                    self._stand(claim)
            if fresh:
                self._young.add(claim.transaction, claim.price, builder, fresh, now)

    def equivocated(self, addresses: Iterable[Address]) -> tuple[Address, ...]:
        """These signed two transactions for one slot: no further lock for them in this epoch (CONS-17). Those
        of whom that is new, as far as there is room."""
        fresh = [each for each in dict.fromkeys(addresses) if each not in self._equivocated]
        taken = tuple(fresh[: EQUIVOCATORS_MAX - len(self._equivocated)])
        self._equivocated.update(dict.fromkeys(taken))
        return taken

    def certify(self, batch: Digest, claims: Iterable[Claim]) -> None:
        """The transactions of a certified batch stand in their slots, whoever is held there.

        Raises `CertificatesConflict`, which can't happen with at most f hostile.
        """
        for claim in claims:
            for name in claim.slots:
                slot = self._slot(name)
                if slot.certified is None:
                    slot.certified = claim.transaction
                    self._stand(claim)
                elif slot.certified != claim.transaction:
                    raise CertificatesConflict(name, slot.certified, claim.transaction)
            known = self._known.get(claim.transaction)
            if known is not None and batch not in known.batches:
                known.batches.append(batch)
            self._young.certified(claim.transaction)

    def executed(self, used: Iterable[bytes], transactions: Iterable[Digest]) -> None:
        """An executed block used these slots up, and executed these, with whatever outcome (CONS-15)."""
        for digest in transactions:
            if digest in self._known:
                self._known[digest].executed = True
        for name in used:
            place = chain_of(name)
            if place is None:
                self._forget(name)
            else:
                chain, nonce = place
                for each in [each for each in self._chains.get(chain, {}) if each <= nonce]:
                    self._forget(chain_slot(chain, each))

    def certified_in(self, slot: bytes, past: Collection[Digest]) -> Digest | None:
        """The transaction that a batch of the past has on a slot; None if none has."""
        digest = self.certified(slot)
        if digest is None or not any(batch in past for batch in self._known[digest].batches):
            return None
        return digest

    def _slot(self, name: bytes) -> _Slot:
        found = self._slots.get(name)
        if found is None:
            found = self._slots[name] = _Slot()
            place = chain_of(name)
            if place is not None:
                self._chains.setdefault(place[0], {})[place[1]] = found
        return found

    def _stand(self, claim: Claim) -> None:
        self._known.setdefault(claim.transaction, _Known(claim)).slots += 1

    def _forget(self, name: bytes) -> None:
        slot = self._slots.pop(name, None)
        if slot is None:
            return
        place = chain_of(name)
        if place is not None:
            del self._chains[place[0]][place[1]]
            if not self._chains[place[0]]:
                del self._chains[place[0]]
        for digest in (slot.held, slot.certified):
            if digest is not None:
                known = self._known[digest]
                known.slots -= 1
                if known.slots == 0:
                    del self._known[digest]


class _Judging:
    """One batch before the table: what its earlier transactions take counts for the later ones."""

    def __init__(self, table: LockTable, facts: Facts, past: Collection[Digest], room: "_Room") -> None:
        self._table = table
        self._facts = facts
        self._past = past
        self._room = room
        self._taken: dict[bytes, Digest] = {}
        self._spent: dict[Account, int] = {}
        self._next: dict[bytes, int] = {}
        self.conflicts: dict[Address, Conflict] = {}

    def lock_first(self, claim: Claim) -> bool:
        """Count a claim on the next nonce of an account of which nothing is known, where nothing is against
        it: the commonest. False: it has to be looked at by `refusal`, which says the same of such a one."""
        if len(claim.slots) != 1 or len(claim.spends) != 1:
            return False
        table, slot = self._table, claim.slots[0]
        (account, amount) = claim.spends[0]
        chain, address = slot[:CHAIN_BYTES], slot[1:CHAIN_BYTES]
        if (
            slot[:1] != NONCE_LOCK
            or account[0] != address
            or chain in table._chains
            or slot in self._taken
            or SPONSOR_NONCE_LOCK + address in table._chains
            or int.from_bytes(slot[CHAIN_BYTES:], "little") != self._facts.nonces.get(chain, 0)
            or address in self.conflicts
            or address in table._equivocated
            or account in self._spent
            or self._facts.balances.get(account, 0) < amount
            or not self._room.admits(claim.price, 1)
        ):
            return False
        self._room.take(claim.price, 1)
        self._taken[slot] = claim.transaction
        self._spent[account] = amount
        return True

    def refusal(self, claim: Claim) -> Refused | None:
        """Why a transaction can't be locked: nonces, then locks, then funds, then bounds."""
        return (
            self._nonces(claim) or self._conflict(claim) or self._equivocated(claim)
            or self._funds(claim) or self._bounds(claim)
        )  # fmt: skip

    def lock(self, claim: Claim) -> None:
        """Count an accepted one."""
        fresh = self._fresh(claim)
        self._room.take(claim.price, fresh)
        for slot in claim.slots:
            self._taken[slot] = claim.transaction
        if not self._stands(claim):
            for account, amount in claim.spends:
                self._spent[account] = self._spent.get(account, 0) + amount

    def _nonces(self, claim: Claim) -> Refused | None:
        for slot in claim.slots:
            place = chain_of(slot)
            if place is None:
                continue
            chain, nonce = place
            base = self._facts.nonces.get(chain, 0)
            if nonce < base:
                return Refused("NonceUsed")
            if nonce >= base + self._table._bounds.in_flight_max or nonce > self._known_up_to(chain, base):
                return Refused("NonceGap")
        return None

    def _known_up_to(self, chain: bytes, base: int) -> int:
        """The first nonce of a chain whose one transaction isn't known by certificate or from the batch."""
        nonce = self._next.get(chain, base)
        while self._is_known(chain_slot(chain, nonce)):
            nonce += 1
        self._next[chain] = nonce
        return nonce

    def _is_known(self, slot: bytes) -> bool:
        return slot in self._taken or self._table.certified_in(slot, self._past) is not None

    def _conflict(self, claim: Claim) -> Refused | None:
        for slot in claim.slots:
            for other in (self._table.holder(slot), self._table.certified(slot), self._taken.get(slot)):
                if other is not None and other != claim.transaction:
                    for account in _signers(slot, claim):
                        self.conflicts.setdefault(account, Conflict(account, slot, claim.transaction, other))
                    return Refused("LockBusy", other)
        return None

    def _equivocated(self, claim: Claim) -> Refused | None:
        if not self._fresh(claim):
            return None
        for address in claim.accounts():
            if address in self.conflicts or self._table.is_equivocator(address):
                return Refused("Equivocated")
        return None

    def _funds(self, claim: Claim) -> Refused | None:
        for account in dict.fromkeys(account for account, _ in claim.spends):
            bound = self._table.debits(account, but=claim.transaction) + self._spent.get(account, 0)
            if self._facts.balances.get(account, 0) < bound + claim.spend(account):
                return Refused("InsufficientFunds")
        return None

    def _bounds(self, claim: Claim) -> Refused | None:
        fresh = self._fresh(claim)
        return Refused("Busy") if fresh and not self._room.admits(claim.price, fresh) else None

    def _fresh(self, claim: Claim) -> int:
        return sum(self._table.holder(slot) is None and slot not in self._taken for slot in claim.slots)

    def _stands(self, claim: Claim) -> bool:
        """Whether the table counts what it spends already."""
        chains = [slot for slot in claim.slots if chain_of(slot) is not None]
        return all(self._table.counted(slot) == claim.transaction for slot in chains)


def _signers(slot: bytes, claim: Claim) -> tuple[Address, ...]:
    """Who is proven to have signed two transactions for a slot: nobody for a key image."""
    if chain_of(slot) is not None:
        return (slot[1:33],)
    # Both transactions name an owned object at one version, so both are by its one owner, the sender.
    return claim.accounts()[:1] if slot[:1] == OBJECT_LOCK else ()


@attrs.define
class _Young:
    transaction: Digest
    bucket: int
    builder: bytes
    slots: int
    due: float
    certified: bool = False


class _YoungLocks:
    """Slots locked in the last seconds, by price and by builder: who gets the scarce ones (CONS-17).

    Prices are ranked in powers of two. Below half of the bound all pass. Above it a lock passes that pays
    more than as large a share of the young ones as the upper half is full, so that room is always left for
    who pays more than the crowd; and a builder whose uncertified ones exceed its share gets none.
    """

    def __init__(self, bounds: LockBounds, builders: int) -> None:
        self._bounds = bounds
        self._builders = builders
        self._queue: deque[_Young] = deque()
        self._by_transaction: dict[Digest, _Young] = {}
        self._buckets = [0] * 65
        self._uncertified: dict[bytes, int] = {}
        self._count = 0

    def room(self, builder: bytes, now: float, total: int) -> "_Room":
        """What is left for a builder's batch now; `total`: slots in the table."""
        while self._queue and self._queue[0].due <= now:
            self._drop(self._queue.popleft())
        share = self._bounds.young_max // self._builders - self._uncertified.get(builder, 0)
        return _Room(
            self._bounds.young_max, self._count, list(self._buckets), share, self._bounds.total_max - total
        )

    def add(self, transaction: Digest, price: int, builder: bytes, slots: int, now: float) -> None:
        one = _Young(transaction, price.bit_length(), builder, slots, now + self._bounds.young_s)
        self._queue.append(one)
        self._by_transaction[transaction] = one
        self._buckets[one.bucket] += slots
        self._count += slots
        self._uncertified[builder] = self._uncertified.get(builder, 0) + slots

    def certified(self, transaction: Digest) -> None:
        one = self._by_transaction.pop(transaction, None)
        if one is not None:
            self._release(one)

    def _drop(self, one: _Young) -> None:
        self._buckets[one.bucket] -= one.slots
        self._count -= one.slots
        if self._by_transaction.get(one.transaction) is one:
            del self._by_transaction[one.transaction]
        self._release(one)

    def _release(self, one: _Young) -> None:
        """It no more weighs on its builder."""
        if not one.certified:
            one.certified = True
            self._uncertified[one.builder] -= one.slots
            if not self._uncertified[one.builder]:
                del self._uncertified[one.builder]


class _Room:
    """What new locks of one batch may take."""

    def __init__(self, young_max: int, young: int, buckets: list[int], share: int, left: int) -> None:
        self._max, self._young, self._buckets = young_max, young, buckets
        self._share, self._left = share, left

    def admits(self, price: int, slots: int) -> bool:
        if self._young + slots > self._max or slots > self._left:
            return False
        above = 2 * self._young - self._max
        if above <= 0:
            return True
        cheaper = sum(self._buckets[: price.bit_length()])
        return slots <= self._share and cheaper * self._max >= above * self._young

    def take(self, price: int, slots: int) -> None:
        self._buckets[price.bit_length()] += slots
        self._young += slots
        self._share -= slots
        self._left -= slots
