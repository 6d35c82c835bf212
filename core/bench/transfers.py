"""Transfers of the native token by plan and seed, with the books that judge whoever executes them."""

import random
from collections.abc import Callable, Iterator, Sequence

import attrs
from blake3 import blake3
from nacl.bindings import crypto_sign_seed_keypair

from supervm.bench.books import SUPPLY_KEY, TRANSFER_FEE, Books, supply_entry, wrong_entries, wrong_receipts
from supervm.bench.errors import CantMeasure
from supervm.bench.ledgers import Ran
from supervm.bench.packing import (
    KeyRing,
    Packed,
    Transfer,
    account_value,
    pack_accounts,
    pack_signed_transfers,
    pack_transfers,
    unpack,
)
from supervm.execution.engine import pack_entries
from supervm.types.digests import ADDRESS
from supervm.types.state import ACCOUNT
from supervm.types.transaction import Lane

BALANCE = 10**15
AMOUNT_MAX = 100
LOADED_AT_ONCE = 100_000
HOT_SHARE = 0.8
"""Of the transfers, where some accounts are hot: those that have a hot account on one side."""


@attrs.frozen(kw_only=True)
class TransferPlan:
    """Who transfers. Of `hot` above 0, accounts 0 to `hot` - 1 are on one side of most transfers.

    `distinct`: no amount comes twice, for peers that refuse a transaction they have seen.
    """

    accounts: int
    block: int
    blocks: int = 1
    hot: int = 0
    distinct: bool = False
    signed: bool = False
    seed: int = 1

    def __attrs_post_init__(self) -> None:
        if self.accounts < 2 + self.hot:
            raise CantMeasure(f"{self.accounts} accounts: at least {2 + self.hot} are needed")
        if self.block < 1 or self.blocks < 1:
            raise CantMeasure("a turn has one block at least, and a block one transaction")


@attrs.frozen
class Work:
    """One turn: its blocks, and their transfers in order, by account number."""

    blocks: tuple[Packed, ...]
    transfers: tuple[Transfer, ...]


class Transfers:
    """Accounts, and turn after turn of transfers among them. The books stand at the newest turn."""

    def __init__(self, plan: TransferPlan) -> None:
        self.plan = plan
        self._chance = random.Random(plan.seed)
        self.keys: KeyRing | None = None
        if plan.signed:
            pairs = [crypto_sign_seed_keypair(self._chance.randbytes(32)) for _ in range(plan.accounts)]
            self.keys = KeyRing([secret for _, secret in pairs])
            self._addresses = b"".join([blake3(ADDRESS + b"\x01" + public).digest() for public, _ in pairs])
        else:
            # In pieces: one call gives at most 2^31 bits.
            whole = [
                self._chance.randbytes(32 * LOADED_AT_ONCE) for _ in range(0, plan.accounts, LOADED_AT_ONCE)
            ]
            self._addresses = b"".join(whole)[: 32 * plan.accounts]
        self.books = Books.opened(plan.accounts, BALANCE)
        self._amount = 0
        self._judged: tuple[Work, dict[bytes, bytes]] | None = None

    def address(self, account: int) -> bytes:
        return self._addresses[32 * account : 32 * account + 32]

    def start(self) -> Iterator[tuple[bytes, int]]:
        """The first state, packed, in pieces."""
        for first in range(0, self.plan.accounts, LOADED_AT_ONCE):
            piece = range(first, min(first + LOADED_AT_ONCE, self.plan.accounts))
            yield pack_accounts([self.address(each) for each in piece], BALANCE), len(piece)
        supply = supply_entry(BALANCE * self.plan.accounts)
        yield pack_entries([(SUPPLY_KEY, supply)]), 1

    def start_of(self, block: Packed, count: int) -> dict[bytes, bytes]:
        """The first state, as far as the first transactions of the first block touch it."""
        found = {SUPPLY_KEY: supply_entry(BALANCE * self.plan.accounts)}
        for data in block.transactions(count):
            for address in (data[33:65], data[-107 - 48 : -107 - 16]):
                found[ACCOUNT + address] = account_value(0, BALANCE)
        return found

    def next(self) -> Work:
        """Make the next turn, and book it."""
        blocks, all_of_them = [], []
        for _ in range(self.plan.blocks):
            transfers = self.books.enter(self._pick())
            if self.keys is None:
                blocks.append(pack_transfers(transfers, self.address))
            else:
                blocks.append(pack_signed_transfers(transfers, self.address, self.keys))
            all_of_them += transfers
        return Work(tuple(blocks), tuple(all_of_them))

    def _pick(self) -> Iterator[tuple[int, int, int]]:
        plan, chance, count = self.plan, self._chance, self.plan.block
        amounts: Sequence[int] = chance.choices(range(1, AMOUNT_MAX + 1), k=count)
        if plan.distinct:
            amounts = range(self._amount + 1, self._amount + count + 1)
            self._amount += count
        cold = range(plan.hot, plan.accounts)
        senders = chance.choices(cold, k=count)
        steps = chance.choices(range(1, len(cold)), k=count)
        recipients = [
            plan.hot + (sender - plan.hot + step) % len(cold)
            for sender, step in zip(senders, steps, strict=True)
        ]
        if plan.hot:
            for at, hot in enumerate(chance.choices(range(plan.hot), k=count)):
                side = chance.random()
                if side < HOT_SHARE / 2:
                    senders[at] = hot
                elif side < HOT_SHARE:
                    recipients[at] = hot
        return zip(senders, recipients, amounts, strict=True)

    def wrong(self, work: Work, ran: Ran) -> str | None:
        """What of a ledger's newest turn isn't as the books have it; None where all of it is."""
        found: dict[bytes, bytes | None] = {}
        for packed in ran.changes:
            found.update(unpack(packed))
        problem = next(wrong_entries(found, self._wanted(work)), None)
        for block, receipts in zip(work.blocks, ran.receipts, strict=True):
            lanes = bytes((Lane.FAST,)) * len(block)
            problem = problem or next(wrong_receipts(receipts, block, lanes, TRANSFER_FEE), None)
        if problem is None and not self.books.conserved():
            problem = "the plan itself makes or loses value"
        return problem

    def wrong_balance(self, work: Work, fee: int, balance: Callable[[int], int]) -> str | None:
        """The first account of the newest turn that doesn't hold what it must with this fee."""
        for account in touched(work):
            have, must = balance(account), self.books.holds(account, fee)
            if have != must:
                return f"account {account} holds {have}, it must hold {must}"
        return None

    def _wanted(self, work: Work) -> dict[bytes, bytes]:
        """Every entry that the newest turn must have changed, once for all who are judged."""
        if self._judged is None or self._judged[0] is not work:
            books = self.books
            entries = {
                ACCOUNT + self.address(each): books.entry(each, TRANSFER_FEE) for each in touched(work)
            }
            fees = TRANSFER_FEE * sum(books.nonces)
            entries[SUPPLY_KEY] = supply_entry(BALANCE * self.plan.accounts - fees)
            self._judged = work, entries
        return self._judged[1]


def touched(work: Work) -> list[int]:
    """The accounts on either side of the turn's transfers, ascending."""
    return sorted({each[0] for each in work.transfers} | {each[1] for each in work.transfers})
