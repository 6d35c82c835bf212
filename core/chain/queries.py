"""Reads of the chain and the mempool, for every surface. Nothing here changes anything.

State is that of the last committed block (`view=committed`). Where several things must agree they are
read again until no block came between, a bounded number of times.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import attrs
import trio

from supervm.chain.views import (
    AccountView,
    BlockView,
    LedgerStatus,
    ProofView,
    TransactionView,
)
from supervm.storage.errors import NotProvable
from supervm.types.handover import HandOver
from supervm.types.receipt import Receipt, Status
from supervm.types.state import (
    NATIVE_TOKEN,
    Account,
    Object,
    Token,
    account_key,
    balance_prefix,
    decode_balance,
    object_key,
    token_key,
)
from supervm.types.transaction import Lane, digest_of

if TYPE_CHECKING:
    from supervm.chain.application import Chain

T = TypeVar("T")

BALANCES_MAX = 1_000
BLOCKS_MAX = 64
WAIT_S_MAX = 60.0
PROOF_WAIT_S = 10.0
EFFECTS_WAIT_S = 0.25
HANDOVERS_MAX = 64


class Queries:
    """See the module. `object`, `token` and `block` give None where there is none."""

    def __init__(self, chain: "Chain") -> None:
        self._chain = chain
        self._ledger = chain.ledger

    async def status(self) -> LedgerStatus:
        header = self._ledger.tip_header
        marker = self._ledger.tip
        figures = self._chain.mempool.figures()
        return LedgerStatus(
            chain_id=header.chain_id,
            height=marker.height,
            block_digest=marker.block_digest,
            epoch=header.epoch,
            timestamp_ms=header.timestamp_ms,
            root_height=header.root_height,
            state_root=marker.state_root,
            base_price=self._chain.base_price,
            mempool_transactions=figures.transactions,
            mempool_bytes=figures.size_bytes,
            mempool_ready=figures.ready,
            development=self._chain.genesis.development,
            oldest_block=self._ledger.horizon.blocks,
        )

    async def account(self, address: bytes, *, after: bytes = b"") -> AccountView:
        """An account, of zeros where it has no entry. At most 1,000 other tokens, those above `after`."""

        async def read() -> AccountView:
            height = self._ledger.tip.height
            key = account_key(address)
            data = (await self._ledger.get_state([key]))[key]
            account = Account() if data is None else Account.decode(data)
            prefix = balance_prefix(address)
            rows = await self._ledger.scan_state(prefix, BALANCES_MAX, prefix + after if after else b"")
            balances = {} if after else {NATIVE_TOKEN: account.balance}
            balances.update((key[len(prefix) :], decode_balance(value)) for key, value in rows)
            return AccountView(
                address=address,
                height=height,
                nonce=account.nonce,
                sponsor_nonce=account.sponsor_nonce,
                pending_nonce=self._chain.mempool.pending_nonce(address, account.nonce),
                balances=balances,
                more=rows[-1][0][len(prefix) :] if len(rows) == BALANCES_MAX else None,
            )

        return await self._at_one_height(read)

    async def object(self, object_id: bytes) -> Object | None:
        """An object, or the tombstone of a deleted one."""
        key = object_key(object_id)
        data = (await self._ledger.get_state([key]))[key]
        return None if data is None else Object.decode(data)

    async def token(self, token: bytes) -> Token | None:
        key = token_key(token)
        data = (await self._ledger.get_state([key]))[key]
        return None if data is None else Token.decode(data)

    async def transaction(self, digest: bytes, *, wait_s: float = 0.0) -> TransactionView:
        """How a transaction stands. With `wait_s` (at most 60) it waits that long for an outcome.

        Of a FAST one that is final by effects the proof comes along, whichever node is asked: one that lacks
        it asks the validators, and takes a quarter of a second for that. Raises `Pruned` for one in a block
        below the horizon.
        """
        waiting = self._chain.outcome(digest) if wait_s > 0 else None
        view = await self._transaction(digest)
        if waiting is None:
            left_s = min(wait_s, WAIT_S_MAX)
            while view.status in (Status.APPLIED, Status.UNKNOWN):
                proof = await self._chain.prove_effects(digest, EFFECTS_WAIT_S)
                view = await self._transaction(digest)
                left_s -= EFFECTS_WAIT_S
                if proof is not None or left_s <= 0 or view.status is Status.UNKNOWN:
                    break
            return view
        if view.status not in (Status.PENDING, Status.APPLIED):
            return view
        with trio.move_on_after(min(wait_s, WAIT_S_MAX)):
            await waiting.wait()
        return await self._transaction(digest)

    async def _transaction(self, digest: bytes) -> TransactionView:
        view = await self._as_it_stands(digest)
        if view.status not in (Status.PENDING, Status.UNKNOWN):
            return view
        return attrs.evolve(view, equivocation=self._chain.contests.get(digest))

    async def _as_it_stands(self, digest: bytes) -> TransactionView:
        # A transaction goes from the mempool to the recent receipts in one step, so this order misses none.
        found = self._pending(digest) or self._recent(digest)
        if found is not None:
            await trio.lowlevel.checkpoint()
            return found
        located = await self._ledger.transaction(digest)
        if located is not None:
            return _located(located.receipt, located.data)
        # It may have come while the ledger was read.
        found = self._pending(digest) or self._recent(digest) or self._ahead(digest)
        return found if found is not None else TransactionView(digest=digest, status=Status.UNKNOWN)

    def _pending(self, digest: bytes) -> TransactionView | None:
        waiting = self._chain.pending(digest)
        if waiting is None:
            return None
        lane, data = waiting
        return self._ahead(digest, data) or TransactionView(
            digest=digest, status=Status.PENDING, lane=lane, data=data
        )

    def _ahead(self, digest: bytes, data: bytes | None = None) -> TransactionView | None:
        """One that was applied here ahead of its block, or is known to be final."""
        certificate = self._chain.effects_certificate(digest)
        status = Status.CERTIFIED if certificate is not None else self._chain.fast_status(digest)
        if status is None:
            return None
        return TransactionView(
            digest=digest, status=status, lane=Lane.FAST, data=data, effects_certificate=certificate
        )

    def _recent(self, digest: bytes) -> TransactionView | None:
        known = self._chain.news.recent.get(digest)
        if known is None:
            return None
        receipts, at, data = known
        return _located(receipts[at], data)

    async def block(self, reference: int | bytes) -> BlockView | None:
        """A block by height or digest. Raises `Pruned` below the horizon."""
        block = await self._ledger.block(reference)
        if block is None:
            return None
        certificate = await self._ledger.certificate(block.header.height)
        assert certificate is not None, "a stored block has a certificate"
        return BlockView(
            digest=block.digest(),
            header=block.header,
            certificate=certificate,
            transactions=tuple(map(digest_of, block.transactions)),
        )

    async def blocks(self, first: int, limit: int) -> list[BlockView]:
        """Blocks from height `first` upward, at most `limit` (at most 64); empty above the tip."""
        last = min(first + min(limit, BLOCKS_MAX) - 1, self._ledger.tip.height)
        views = [await self.block(height) for height in range(max(first, 0), last + 1)]
        return [view for view in views if view is not None]

    async def proof(self, key: bytes) -> ProofView:
        """A proof of a state key (`supervm.types.state`) at the newest root that a header shows.

        Where a header shows the root of a block before it, a key that changed since is waited for, at most
        10 s. Raises `NotProvable` after that.
        """
        with trio.move_on_after(PROOF_WAIT_S):
            while True:
                height = self._ledger.tip.height
                try:
                    return await self._proof(key)
                except NotProvable:
                    await self._ledger.wait_above(height)
        return await self._proof(key)

    async def _proof(self, key: bytes) -> ProofView:
        header, proof = await self._ledger.prove(key)
        certificate = await self._ledger.certificate(header.height)
        assert certificate is not None, "a stored block has a certificate"
        return ProofView(header=header, certificate=certificate, proof=proof)

    async def handovers(self, first: int, limit: int) -> list[HandOver]:
        """What proves the set of each epoch from the one that epoch `first` names (CONS-54): one a whole
        epoch, at most `limit` (at most 64). Empty where the first hasn't ended, or isn't kept here."""
        found: list[HandOver] = []
        for epoch in range(max(first, 1), max(first, 1) + min(limit, HANDOVERS_MAX)):
            each = await self._chain.sets.handover(self._ledger, epoch)
            if each is None:
                break
            found.append(each)
        return found

    async def _at_one_height(self, read: Callable[[], Awaitable[T]], tries: int = 8) -> T:
        """What `read` gives, read again while blocks came between; the last try stands."""
        for _ in range(tries - 1):
            height = self._ledger.tip.height
            found = await read()
            if self._ledger.tip.height == height:
                return found
        return await read()


def _located(receipt: Receipt, data: bytes) -> TransactionView:
    return TransactionView(
        digest=receipt.digest,
        status=receipt.status,
        lane=receipt.lane,
        height=receipt.height,
        index=receipt.index,
        receipt=receipt,
        data=data,
    )
