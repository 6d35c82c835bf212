"""Mutations of owned and shared objects by plan and seed, with the books that judge whoever executes them.

Owned objects belong to distinct owners, `each` to everybody, and an owner mutates all of his in one
transaction. Shared ones are mutated one a transaction, chosen at random, by accounts of their own. Versions
rise by exactly the commits: an owned object's with every transaction of its owner, a shared one's with every
transaction that writes it.
"""

import random
from collections.abc import Iterator

import attrs

from supervm.bench.books import SUPPLY_KEY, supply_entry, wrong_entries, wrong_receipts
from supervm.bench.errors import CantMeasure
from supervm.bench.ledgers import Ran
from supervm.bench.packing import (
    Mutation,
    Packed,
    account_value,
    object_value,
    pack_accounts,
    pack_mutations,
    pack_object,
    unpack,
)
from supervm.execution.engine import pack_entries
from supervm.types.limits import OPERATIONS_MAX
from supervm.types.state import ACCOUNT, OBJECT
from supervm.types.transaction import Lane

BALANCE = 10**15
FIRST_VERSION = 1
OWNED, SHARED = 0, 1


@attrs.frozen(kw_only=True)
class ObjectPlan:
    """`owned`: objects, `each` of them to an owner; `ratio`: percent of a block's transactions on them."""

    block: int
    blocks: int = 1
    each: int = 1
    owned: int = 0
    shared: int = 0
    ratio: int = 100
    data_bytes: int = 32
    seed: int = 1

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.each <= OPERATIONS_MAX:
            raise CantMeasure(f"{self.each} mutations a transaction: 1 to {OPERATIONS_MAX} fit in one")
        if self.of_owned > self.owners:
            raise CantMeasure(f"{self.owned} owned objects: a block needs {self.of_owned * self.each}")
        if self.of_shared and not self.shared:
            raise CantMeasure("0 shared objects: give one at least")

    @property
    def owners(self) -> int:
        return self.owned // self.each

    @property
    def of_owned(self) -> int:
        """Transactions of a block on owned objects."""
        return self.block * self.ratio // 100

    @property
    def of_shared(self) -> int:
        return self.block - self.of_owned


@attrs.frozen
class ObjectWork:
    """One turn. `lanes`: of each block, a byte a transaction."""

    blocks: tuple[Packed, ...]
    lanes: tuple[bytes, ...]
    wanted: dict[bytes, bytes] = attrs.field(repr=False)
    """Every entry that the turn must have changed."""


@attrs.define
class _Account:
    address: bytes
    nonce: int = 0
    fees: int = 0

    def pay(self, fee: int) -> int:
        """Book a transaction; its nonce."""
        self.nonce += 1
        self.fees += fee
        return self.nonce - 1

    def entry(self) -> bytes:
        return account_value(self.nonce, BALANCE - self.fees)


@attrs.define
class _Shared:
    id: bytes
    version: int = FIRST_VERSION


class Objects:
    """Objects and their owners, and turn after turn of mutations. The books stand at the newest turn."""

    def __init__(self, plan: ObjectPlan) -> None:
        self.plan = plan
        self._chance = chance = random.Random(plan.seed)
        self._owners = [_Account(chance.randbytes(32)) for _ in range(plan.owners)]
        self._objects = [sorted(chance.randbytes(32) for _ in range(plan.each)) for _ in range(plan.owners)]
        self._shared = [_Shared(chance.randbytes(32)) for _ in range(plan.shared)]
        self._writers = [_Account(chance.randbytes(32)) for _ in range(plan.of_shared)]
        self._data = chance.randbytes(plan.data_bytes)
        self._next_owner = 0
        self._fees = 0

    def start(self) -> Iterator[tuple[bytes, int]]:
        """The first state, packed."""
        people = [each.address for each in (*self._owners, *self._writers)]
        yield pack_accounts(people, BALANCE), len(people)
        entries = [
            pack_object(id_, object_value(FIRST_VERSION, OWNED, owner.address, self._data))
            for owner, ids in zip(self._owners, self._objects, strict=True)
            for id_ in ids
        ]
        entries += [pack_object(each.id, self._shared_value(FIRST_VERSION)) for each in self._shared]
        yield b"".join(entries), len(entries)
        yield pack_entries([(SUPPLY_KEY, supply_entry(BALANCE * len(people)))]), 1

    def first_state(self) -> dict[bytes, bytes]:
        """The same as a mapping."""
        return {
            key: value for packed, _ in self.start() for key, value in unpack(packed) if value is not None
        }

    def _shared_value(self, version: int) -> bytes:
        return object_value(version, SHARED, FIRST_VERSION.to_bytes(8, "little") + bytes(24), self._data)

    def next(self) -> ObjectWork:
        """Make the next turn, and book it. Every transaction of a turn writes the same new bytes."""
        self._data = self._chance.randbytes(self.plan.data_bytes)
        wanted: dict[bytes, bytes] = {}
        made = [self._block(wanted) for _ in range(self.plan.blocks)]
        people = len(self._owners) + len(self._writers)
        wanted[SUPPLY_KEY] = supply_entry(BALANCE * people - self._fees)
        return ObjectWork(tuple(block for block, _ in made), tuple(lanes for _, lanes in made), wanted)

    def _block(self, wanted: dict[bytes, bytes]) -> tuple[Packed, bytes]:
        plan = self.plan
        mutations = [self._mutate_owned(wanted) for _ in range(plan.of_owned)]
        shared = self._chance.choices(self._shared, k=plan.of_shared) if plan.of_shared else []
        mutations += [
            self._mutate_shared(writer, each, wanted)
            for writer, each in zip(self._writers, shared, strict=True)
        ]
        lanes = [Lane.FAST] * plan.of_owned + [Lane.ORDERED] * plan.of_shared
        order = list(range(plan.block))
        if plan.of_shared and plan.of_owned:
            self._chance.shuffle(order)
        return pack_mutations([mutations[at] for at in order]), bytes(lanes[at] for at in order)

    def _mutate_owned(self, wanted: dict[bytes, bytes]) -> Mutation:
        at = self._next_owner
        self._next_owner = (at + 1) % len(self._owners)
        owner, ids = self._owners[at], self._objects[at]
        nonce = owner.pay(self._fee(OWNED))
        version = FIRST_VERSION + owner.nonce
        value = object_value(version, OWNED, owner.address, self._data)
        wanted.update((OBJECT + id_, value) for id_ in ids)
        wanted[ACCOUNT + owner.address] = owner.entry()
        return Mutation(owner.address, nonce, ids, version - 1, self._data)

    def _mutate_shared(self, writer: _Account, of: _Shared, wanted: dict[bytes, bytes]) -> Mutation:
        nonce = writer.pay(self._fee(SHARED))
        of.version += 1
        wanted[OBJECT + of.id] = self._shared_value(of.version)
        wanted[ACCOUNT + writer.address] = writer.entry()
        return Mutation(writer.address, nonce, [of.id], FIRST_VERSION, self._data)

    def _fee(self, kind: int) -> int:
        """By docs/reference/execution.md: base, bytes, signature, account; then each input and its data."""
        count = self.plan.each if kind == OWNED else 1
        data = self.plan.data_bytes
        size = 313 + 41 * count + (37 + data) * count
        gas = 5_000 + 10 * size + 5_000 + 1_200
        old_data = 5 * data if kind == OWNED else 0
        gas += count * (200 + 1_000 + old_data + 5 * data)
        fee = -(-gas * 10_000 // 1_000_000)
        self._fees += fee
        return fee

    def wrong(self, work: ObjectWork, ran: Ran) -> str | None:
        """What of a ledger's newest turn isn't as the books have it; None where all of it is."""
        found: dict[bytes, bytes | None] = {}
        for packed in ran.changes:
            found.update(unpack(packed))
        problem = next(wrong_entries(found, work.wanted), None)
        for block, lanes, receipts in zip(work.blocks, work.lanes, ran.receipts, strict=True):
            problem = problem or next(wrong_receipts(receipts, block, lanes), None)
        return problem
