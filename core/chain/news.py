"""Telling the world: events, metrics, observers, waiting clients and recent receipts, after the fact.

Nothing here decides anything, waits, or fails. What is told of a block is told after its commit.
"""

from collections.abc import Sequence

import trio

from supervm.chain.events import BLOCK, CERTIFIED, DROPPED, ITEMS_PER_EVENT_MAX, RECEIPTS, EventLog
from supervm.chain.figures import ChainFigures
from supervm.chain.mempool import Dropped, Entry
from supervm.chain.recent import Recent
from supervm.kernel.component import Context
from supervm.types.block import Block
from supervm.types.packed_receipts import ReceiptHead, heads_of
from supervm.types.receipt import Receipt
from supervm.types.transaction import Lane

RECENT_MAX = 8_192


class News:
    """See the module. `recent`: digest to a block's receipts, the place among them, and canonical bytes."""

    def __init__(self, ctx: Context, events: EventLog, figures: ChainFigures) -> None:
        self.recent: Recent[bytes, tuple[Sequence[Receipt], int, bytes]] = Recent(RECENT_MAX)
        self._publish = ctx.publish
        self._events = events
        self._figures = figures
        self._outcomes: dict[bytes, trio.Event] = {}

    def outcome(self, digest: bytes) -> trio.Event:
        """Set once this transaction is in a block, or dropped. Ask only for one that waits."""
        return self._outcomes.setdefault(digest, trio.Event())

    def admitted(self, entry: Entry, asked: Lane) -> None:
        """A new transaction waits; counted by its initial lane (EXEC-13)."""
        self._figures.admitted(entry.lane)
        reason = f"asked for {asked.name}" if asked is not Lane.AUTO else "by its operations and inputs"
        self._publish("transaction_seen", digest=entry.digest, lane=entry.lane.name)
        self._publish("lane_chosen", digest=entry.digest, lane=entry.lane.name, reason=reason)

    def committed(
        self,
        block: Block,
        receipts: Sequence[Receipt],
        transactions: Sequence[bytes],
        waits_s: Sequence[float],
        now_s: float,
    ) -> None:
        """A block is durable. `transactions` are all of it; `waits_s` how long those admitted here took."""
        heads = heads_of(receipts)
        self._figures.committed([head.status for head in heads], waits_s, now_s)
        self._block_events(block, heads)
        for at, head in enumerate(heads):
            self.recent.put(head.digest, (receipts, at, transactions[head.index]))
            self._settled(head.digest)
        self._publish("block_committed", block=block, receipts=receipts)

    def certified(self, digests: Sequence[bytes]) -> None:
        """A quorum signed the effects of these: who waits for one need not wait for a block."""
        for digest in digests:
            self._settled(digest)
        for first in range(0, len(digests), ITEMS_PER_EVENT_MAX):
            some = ["0x" + digest.hex() for digest in digests[first : first + ITEMS_PER_EVENT_MAX]]
            self._events.append(CERTIFIED, {"transactions": some}, items=len(some))

    def dropped(self, dropped: Sequence[Dropped]) -> None:
        """These left the mempool without a block: their status is unknown from now on."""
        for one in dropped:
            self._figures.dropped(one.reason)
            self._settled(one.entry.digest)
        for first in range(0, len(dropped), ITEMS_PER_EVENT_MAX):
            some = dropped[first : first + ITEMS_PER_EVENT_MAX]
            brief = [{"digest": "0x" + one.entry.digest.hex(), "reason": one.reason} for one in some]
            self._events.append(DROPPED, {"transactions": brief}, items=len(some))

    def _block_events(self, block: Block, receipts: Sequence[Receipt | ReceiptHead]) -> None:
        header = block.header
        self._events.append(
            BLOCK,
            {
                "height": str(header.height),
                "digest": "0x" + block.digest().hex(),
                "epoch": str(header.epoch),
                "timestamp_ms": str(header.timestamp_ms),
                "state_root": "0x" + header.state_root.hex(),
                "transactions": len(receipts),
            },
        )
        for first in range(0, len(receipts), ITEMS_PER_EVENT_MAX):
            some = receipts[first : first + ITEMS_PER_EVENT_MAX]
            brief = [_brief(receipt) for receipt in some]
            self._events.append(RECEIPTS, {"height": str(header.height), "receipts": brief}, items=len(some))

    def _settled(self, digest: bytes) -> None:
        waiting = self._outcomes.pop(digest, None)
        if waiting is not None:
            waiting.set()


def _brief(receipt: Receipt | ReceiptHead) -> dict[str, str]:
    return {
        "digest": "0x" + receipt.digest.hex(),
        "status": receipt.status.name.lower(),
        "code": receipt.code,
        "lane": receipt.lane.name,
    }
