"""Admission: from bytes that anybody sent to an entry of the mempool, or a reason (EXEC-8).

Order of checks: size, canonical decode, chain id, expiry, lane, signatures (all in worker threads, see
`examine`), then against the state of the last executed block: nonce, fee fields and reserve, inputs, and
at last room in the mempool. The first failure answers.

Idempotent: a transaction that waits here or stands in a block is answered as known, with its status,
whoever sends it again. Bounded: what is being admitted at once, the remembered signatures, the mempool.
Nothing is promised but that it was checked; a restart forgets it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import trio

from supervm.chain.examine import Examined, refused
from supervm.chain.judging import Judged, admission_keys, judge
from supervm.chain.mempool import Entry
from supervm.chain.views import Admitted
from supervm.contracts.application import Engine, Refused
from supervm.execution.footprint import nonce_lock
from supervm.storage.errors import Pruned
from supervm.types.errors import InvalidInput
from supervm.types.plain import PlainTransaction
from supervm.types.state import ACCOUNT, Account
from supervm.types.transaction import Lane, Transaction

if TYPE_CHECKING:
    from supervm.chain.application import Chain

# Judged without a pause, so few enough that nobody else waits long for the event loop.
GROUP = 128
TRIES = 16

Answer = Admitted | Refused

SHOWN_BYTES_MAX = 4_096
"""Of the transaction that a refusal names; a longer one is there under its digest."""


@attrs.define(eq=False)
class Admission:
    """Takes transactions for one chain. `inflight_max`: how many may be under way at once."""

    _chain: "Chain"
    inflight_max: int
    draining: bool = False
    inflight: int = 0

    async def submit(self, transactions: Sequence[bytes]) -> list[Answer]:
        """Take or refuse each, in order. May be cancelled: what was taken by then stays taken."""
        self._chain.figures.received(len(transactions))
        closed = self._closed(len(transactions))
        if closed is not None:
            await trio.lowlevel.checkpoint()
            return [self._count(closed) for _ in transactions]
        self.inflight += len(transactions)
        try:
            judged = await self._chain.examiner.examine(transactions)
            answers: list[Answer] = []
            for first in range(0, len(judged), GROUP):
                answers += await self._admit(judged[first : first + GROUP])
            return answers
        finally:
            self.inflight -= len(transactions)

    def _closed(self, count: int) -> Refused | None:
        """Why nothing is taken now, whatever it is."""
        engine = self._chain.engine
        if self.draining:
            mend = "the node is stopping; send it to another, or when it is back"
            return Refused(code="Busy", field="node", value="draining", mend=mend, retry_after_s=5.0)
        if engine is not None and not engine.produces:
            return Refused(code="NotProducing", field="node", value=engine.name, mend=engine.reason)
        full = self._chain.room.closed()
        if full is not None:
            return full
        if self.inflight + count > self.inflight_max:
            mend = f"at most {self.inflight_max} transactions are admitted at once; send fewer, or later"
            retry_after_s = self._chain.mempool.bounds.retry_after_s
            return Refused(
                code="Busy", field="node", value=str(self.inflight), mend=mend, retry_after_s=retry_after_s
            )
        return None

    async def _admit(self, judged: Sequence[Examined | Refused]) -> list[Answer]:
        examined = [one for one in judged if isinstance(one, Examined)]
        state = await self._state([one.transaction for one in examined])
        answers: list[Answer | Transaction] = []
        for one in judged:
            if isinstance(one, Refused):
                answers.append(self._count(one))
            elif state is None:
                answers.append(self._count(self._overtaken(one.transaction)))
            else:
                answers.append(self._judge(one.transaction, state))
        self._chain.wake()
        return [
            one if not isinstance(one, Transaction) else await self._past(one, state or {}) for one in answers
        ]

    async def _state(self, transactions: Sequence[Transaction]) -> dict[bytes, bytes | None] | None:
        """All entries that judging these needs, of the tip; None if blocks came faster than reads.

        From the return on there is no pause until all are judged, so the tip is still the tip.
        """
        keys = {key for transaction in transactions for key in admission_keys(transaction)}
        ledger = self._chain.ledger
        for _ in range(TRIES):
            tip = ledger.tip
            found = await ledger.get_state(keys)
            if ledger.tip is tip:
                return found
        return None

    def _judge(self, transaction: Transaction, state: dict[bytes, bytes | None]) -> Answer | Transaction:
        """Take or refuse one; itself where its nonce is used and only the chain knows by what."""
        chain, pool, digest = self._chain, self._chain.mempool, transaction.digest
        known = pool.get(digest)
        if known is not None:
            chain.figures.duplicate()
            return Admitted(digest=digest, lane=known.lane.name, duplicate=True)
        body = transaction.plain if isinstance(transaction, PlainTransaction) else transaction.body
        asked = Lane(body.lane)
        if asked is Lane.PRIVATE:
            # Fails closed (PRIV-1): nothing is kept, and nothing of it is logged.
            mend = "no privacy scheme of this chain can verify it; nothing was kept"
            return self._count(
                Refused(code="VerifierUnavailable", field="lane", value="PRIVATE", mend=mend, digest=digest)
            )
        data = state[ACCOUNT + body.sender]
        nonce = 0 if data is None else Account.decode(data).nonce
        if body.nonce < nonce:
            return transaction
        lock = (nonce_lock(body.sender, body.nonce),)
        wrong = pool.refusal(digest, body.nonce, lock, nonce)
        if wrong is not None:
            return self._count(self._shown(wrong))
        try:
            found = judge(transaction, state, chain.gas, chain.gas_state, pool.spending)
            if found.lane is Lane.FAST:
                found = _without_fast(found, asked, chain.engine)
        except InvalidInput as error:
            return self._count(refused(error, digest))
        entry = Entry(
            digest=digest,
            sender=body.sender,
            nonce=body.nonce,
            price=found.price,
            size_bytes=len(transaction.data),
            gas=body.gas_limit,
            locks=found.locks,
            spends=found.spends,
            expiry_epoch=body.expiry_epoch,
            transaction=transaction,
            lane=found.lane,
        )
        outcome = pool.add(entry, nonce, chain.now_s())
        if isinstance(outcome, Refused):
            return self._count(self._shown(outcome))
        chain.tell_dropped(outcome)
        chain.news.admitted(entry, asked)
        return Admitted(digest=digest, lane=found.lane.name)

    def _shown(self, wrong: Refused) -> Refused:
        """With the bytes of what was signed first, unless they are much longer than what was sent."""
        first = None if wrong.conflict is None else self._chain.pending(wrong.conflict)
        if first is None or len(first[1]) > SHOWN_BYTES_MAX:
            return wrong
        return attrs.evolve(wrong, other=first[1])

    async def _past(self, transaction: Transaction, state: dict[bytes, bytes | None]) -> Answer:
        """The answer to a used nonce: known, if this very transaction used it."""
        try:
            view = await self._chain.queries.transaction(transaction.digest)
        except Pruned as error:
            return self._count(_pruned(error, transaction.digest))
        if view.lane is not None:
            self._chain.figures.duplicate()
            return Admitted(
                digest=transaction.digest, lane=view.lane.name, duplicate=True, status=view.status
            )
        data = state[ACCOUNT + transaction.body.sender]
        nonce = 0 if data is None else Account.decode(data).nonce
        wrong = self._chain.mempool.refusal(transaction.digest, transaction.body.nonce, (), nonce)
        assert wrong is not None, "the nonce was found used"
        return self._count(wrong)

    def _overtaken(self, transaction: Transaction) -> Refused:
        return Refused(
            code="Busy",
            field="node",
            value=f"height {self._chain.ledger.tip.height}",
            mend="blocks came faster than this could be judged; send it again",
            digest=transaction.digest,
            retry_after_s=self._chain.mempool.bounds.retry_after_s,
        )

    def _count(self, wrong: Refused) -> Refused:
        self._chain.figures.refused(wrong.code)
        self._chain.ledger_figures.refused(wrong.code)
        return wrong


def _pruned(error: Pruned, digest: bytes) -> Refused:
    """It is in the chain, and what became of it isn't kept here any more."""
    return Refused(
        code="Pruned",
        field="nonce",
        value=f"block {error.height}",
        mend=f"it is in that block already; this node keeps blocks from {error.oldest} up",
        digest=digest,
    )


def _without_fast(found: Judged, asked: Lane, engine: Engine | None) -> Judged:
    """The lane where the engine certifies nothing (CONS-81): ORDERED, unless FAST was asked for."""
    if engine is None or engine.certificates:
        return found
    if asked is Lane.FAST:
        raise InvalidInput(
            "NotFastEligible", f"lane: engine {engine.name} certifies nothing", "FAST", "lane AUTO or ORDERED"
        )
    return attrs.evolve(found, lane=Lane.ORDERED)
