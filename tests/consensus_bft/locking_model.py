"""A randomised model of CONS-10..13: what can be certified, ordered and overdrawn, with one hostile voter.

Four validators of equal weight, the last of which accepts everything. Clients sign conflicting
transactions, builders put them into batches with any `after`, leaders order certified batches in any order
that `after` allows, validators learn of certificates and execute blocks whenever chance says. Only the lock
table is the real one; there are no messages. Judged at execution: every nonce is the next one, and every
debit is covered.
"""

from collections.abc import Iterable, Mapping
from random import Random

import attrs

from supervm.execution.footprint import NONCE_LOCK, SPONSOR_NONCE_LOCK
from supervm.plugins.consensus.bft.claims import Account, Claim, Facts, chain_of, chain_slot
from supervm.plugins.consensus.bft.locks import LockBounds, LockTable

TOKEN = bytes(32)
NODES, HOSTILE, QUORUM = 4, 3, 3
BUILDER = b"b" * 32


class Broken(Exception):
    """An oracle was violated."""


@attrs.frozen
class Move:
    """A transaction of the model: who pays how much to whom."""

    claim: Claim
    to: bytes
    amount: int


@attrs.frozen
class ModelBatch:
    digest: bytes
    moves: tuple[Move, ...]
    after: frozenset[bytes]


@attrs.define
class Ledger:
    """What executed blocks have left."""

    balances: dict[Account, int]
    nonces: dict[bytes, int] = attrs.Factory(dict)
    executed: set[bytes] = attrs.Factory(set)

    def execute(self, moves: Iterable[Move]) -> tuple[list[bytes], list[bytes]]:
        """Returns the slots used up and the digests; raises `Broken`."""
        used: list[bytes] = []
        done: list[bytes] = []
        for move in moves:
            claim = move.claim
            if claim.transaction in self.executed:
                continue
            for slot in claim.slots:
                chain, nonce = chain_of(slot) or (b"", 0)
                if self.nonces.get(chain, 0) != nonce:
                    raise Broken(f"orphan nonce {nonce} of {chain.hex()[:6]}")
                self.nonces[chain] = nonce + 1
            for account, amount in claim.spends:
                left = self.balances.get(account, 0) - amount
                if left < 0:
                    raise Broken(f"overdraft of {account[0].hex()[:6]} by {-left}")
                self.balances[account] = left
            to = (move.to, TOKEN)
            self.balances[to] = self.balances.get(to, 0) + move.amount
            self.executed.add(claim.transaction)
            used += claim.slots
            done.append(claim.transaction)
        return used, done


@attrs.define
class Validator:
    ledger: Ledger
    table: LockTable
    height: int = 0
    held: dict[bytes, ModelBatch] = attrs.Factory(dict)
    log: list[tuple[str, tuple[object, ...]]] = attrs.Factory(list)

    def tell(self, what: str, *facts: object) -> None:
        """Change the table, and remember it for a restart."""
        self.log.append((what, facts))
        getattr(self.table, what)(*facts)

    def restart(self) -> None:
        """The table anew from the log."""
        self.table = LockTable(LockBounds(), 2)
        for what, facts in self.log:
            getattr(self.table, what)(*facts)


class Model:
    """One run. `accounts` of them, `sponsors` allowed or not."""

    def __init__(self, seed: int, *, accounts: int = 3, sponsors: bool = False) -> None:
        self.random = Random(seed)
        self.sponsors = sponsors
        self.addresses = [bytes([65 + each]) * 32 for each in range(accounts)]
        genesis = {(each, TOKEN): self.random.randrange(10, 40) for each in self.addresses}
        self.validators = [
            Validator(Ledger(dict(genesis)), LockTable(LockBounds(), 2)) for _ in range(HOSTILE)
        ]
        self.chain = Ledger(dict(genesis))
        self.supply = sum(genesis.values())
        self.moves: list[Move] = []
        self.batches: list[ModelBatch] = []
        self.accepts: dict[bytes, set[int]] = {}
        self.certified: dict[bytes, ModelBatch] = {}
        self.blocks: list[list[ModelBatch]] = []
        self.ordered: set[bytes] = set()
        self.on_slot: dict[bytes, bytes] = {}
        self.certificates = 0
        self._serial = 0

    def run(self, steps: int = 120) -> None:
        for _ in range(steps):
            self.random.choices(
                (self._sign, self._build, self._vote, self._order, self._execute, self._tell, self._restart),
                (3, 3, 12, 1, 2, 2, 0.5),
            )[0]()
        while any(batch not in self.ordered for batch in self.certified):
            self._order()
        for validator in self.validators:
            while validator.height < len(self.blocks):
                self._execute_at(validator)
        assert sum(self.chain.balances.values()) == self.supply, "value is conserved"

    def _name(self) -> bytes:
        self._serial += 1
        return self._serial.to_bytes(32, "big")

    def _sign(self) -> None:
        pick = self.random
        sender = pick.choice(self.addresses)
        nonce = self._nonce(NONCE_LOCK + sender)
        amount, fee = pick.randrange(0, 12), pick.randrange(0, 6)
        slots = [chain_slot(NONCE_LOCK + sender, nonce)]
        payer = sender
        if self.sponsors and pick.random() < 0.5:
            payer = pick.choice(self.addresses)
        spends: dict[Account, int] = {(sender, TOKEN): amount}
        spends[payer, TOKEN] = spends.get((payer, TOKEN), 0) + fee
        if payer != sender:
            chain = SPONSOR_NONCE_LOCK + payer
            slots.append(chain_slot(chain, self._nonce(chain)))
        claim = Claim(self._name(), tuple(slots), tuple(spends.items()), fast=pick.random() < 0.6)
        self.moves.append(Move(claim, pick.choice(self.addresses), amount + fee))

    def _nonce(self, chain: bytes) -> int:
        """Mostly the first that isn't certified yet, sometimes one beside it."""
        nonce = self.chain.nonces.get(chain, 0)
        while chain_slot(chain, nonce) in self.on_slot:
            nonce += 1
        return max(0, nonce + self.random.choice((-1, 0, 0, 0, 0, 1)))

    def _build(self) -> None:
        if not self.moves:
            return
        recent = self.moves[-4:]
        moves = self.random.sample(recent, min(len(recent), self.random.choice((1, 1, 1, 2))))
        moves.sort(key=lambda move: move.claim.slots)
        known = list(self.certified)
        after = [each for each in known[-8:] if self.random.random() < 0.8]
        batch = ModelBatch(self._name(), tuple(moves), frozenset(after))
        self.batches.append(batch)
        self.accepts[batch.digest] = {HOSTILE}

    def _past(self, batch: ModelBatch) -> dict[bytes, ModelBatch]:
        past: dict[bytes, ModelBatch] = {}
        todo = sorted(batch.after)
        while todo:
            each = todo.pop()
            if each not in past:
                past[each] = self.certified[each]
                todo += sorted(self.certified[each].after)
        return past

    def _vote(self) -> None:
        if not self.batches:
            return
        batch = self.random.choice(self.batches[-3:])
        number = self.random.randrange(HOSTILE)
        validator = self.validators[number]
        past = self._past(batch)
        for each in past.values():
            self._hold(validator, each)
        facts = self._facts(validator, past)
        claims = [move.claim for move in batch.moves]
        found = validator.table.judge(claims, facts, past.keys(), BUILDER, 0.0)
        validator.tell("take", tuple(found.locked.values()), BUILDER, 0.0)
        if not found.refused:
            self.accepts[batch.digest].add(number)
            if len(self.accepts[batch.digest]) >= QUORUM and batch.digest not in self.certified:
                self._certify(batch)

    def _facts(self, validator: Validator, past: Mapping[bytes, ModelBatch]) -> Facts:
        balances = dict(validator.ledger.balances)
        credited: set[bytes] = set()
        for batch in past.values():
            for move in batch.moves:
                digest = move.claim.transaction
                if move.claim.fast and digest not in credited | validator.ledger.executed:
                    credited.add(digest)
                    to = (move.to, TOKEN)
                    balances[to] = balances.get(to, 0) + move.amount
        return Facts(validator.height, dict(validator.ledger.nonces), balances)

    def _certify(self, batch: ModelBatch) -> None:
        self.certified[batch.digest] = batch
        self.certificates += 1
        for move in batch.moves:
            for slot in move.claim.slots:
                if self.on_slot.setdefault(slot, move.claim.transaction) != move.claim.transaction:
                    raise Broken("two certificates on one slot")

    def _hold(self, validator: Validator, batch: ModelBatch) -> None:
        if batch.digest in validator.held:
            return
        validator.held[batch.digest] = batch
        live = [move.claim for move in batch.moves if move.claim.transaction not in validator.ledger.executed]
        validator.tell("certify", batch.digest, live)

    def _tell(self) -> None:
        if self.certified:
            batch = self.random.choice(list(self.certified.values()))
            validator = self.random.choice(self.validators)
            for each in (*reversed(self._past(batch).values()), batch):
                self._hold(validator, each)

    def _order(self) -> None:
        block: list[ModelBatch] = []
        for _ in range(8):
            open_ones = [
                batch
                for digest, batch in self.certified.items()
                if digest not in self.ordered and batch.after <= self.ordered
            ]
            if not open_ones:
                break
            batch = self.random.choice(open_ones)
            block.append(batch)
            self.ordered.add(batch.digest)
        self.chain.execute(move for batch in block for move in batch.moves)
        self.blocks.append(block)

    def _restart(self) -> None:
        self.random.choice(self.validators).restart()

    def _execute(self) -> None:
        self._execute_at(self.random.choice(self.validators))

    def _execute_at(self, validator: Validator) -> None:
        if validator.height == len(self.blocks):
            return
        block = self.blocks[validator.height]
        validator.height += 1
        for batch in block:
            self._hold(validator, batch)
        used, done = validator.ledger.execute(move for batch in block for move in batch.moves)
        validator.tell("executed", used, done)
