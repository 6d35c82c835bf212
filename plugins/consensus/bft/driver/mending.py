"""Rows of the ledger that are damaged here, asked of one peer after the other (STO-43).

What a peer gives is judged by the application, which knows what belongs there. A wrong row is dropped: a peer
that is at another height may give another value and mean well.
"""

import trio

from supervm.api import Context
from supervm.contracts.application import ApplicationError, CertifyingApplication, Mendable
from supervm.crypto.votes import verify_certificate
from supervm.plugins.consensus.bft.driver.posting import Post
from supervm.plugins.consensus.bft.events import Stream
from supervm.plugins.consensus.bft.fetching import Get, Got, GotRow, WantRow
from supervm.plugins.consensus.bft.messages import encode
from supervm.types.block import BlockHeader
from supervm.types.errors import ProofInvalid
from supervm.types.finality import FinalityProof

ROWS_AT_ONCE = 16
AGAIN_S = 1.0
WAITING_MAX = 16


class Mending:
    """Asks for what is lacking, and hands over what comes. Does nothing where there are no peers."""

    def __init__(
        self, ctx: Context, application: CertifyingApplication, peers: tuple[bytes, ...], post: Post
    ) -> None:
        self._ctx = ctx
        self._application = application
        self._peers = peers
        self._post = post
        self._asked: frozenset[bytes] = frozenset()
        self._came, self._coming = trio.open_memory_channel[GotRow](WAITING_MAX)
        self._refused = ctx.metrics.counter(
            "supervm_consensus_rows_refused_total",
            "Rows of peers that aren't what belongs in a damaged place",
        )

    def give(self, got: Got) -> None:
        """What a peer answered: rows that weren't asked for are dropped, and those beyond the queue."""
        for item in got.items:
            if isinstance(item, GotRow) and item.key in self._asked:
                try:
                    self._came.send_nowait(item)
                except trio.WouldBlock:
                    return  # asked for again

    async def run(self) -> None:
        application = self._application
        if not self._peers or not isinstance(application, Mendable):
            return
        with application.fetching():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ask, application)
                async for item in self._coming:
                    if not await application.mend(item.key, item.value, self._prove):
                        self._refused.inc()

    async def _ask(self, application: Mendable) -> None:
        turn = 0
        while True:
            lacking = await application.lacking()
            first = turn * ROWS_AT_ONCE % len(lacking)
            rows = (*lacking[first:], *lacking[:first])[:ROWS_AT_ONCE]
            self._asked = frozenset(rows)
            height = self._application.tip().height
            question = Get(tuple(WantRow(key, height) for key in rows))
            self._post.put(self._peers[turn % len(self._peers)], Stream.BULK, encode(question))
            turn += 1
            await self._ctx.clock.sleep(AGAIN_S)

    def _prove(self, header: BlockHeader, certificate: bytes) -> None:
        proof = FinalityProof.decode(certificate)
        proof.check_of(header.digest())
        if proof.finalisation.epoch != header.epoch:
            raise ProofInvalid("ProofInvalid", "a finalisation of another epoch", proof.finalisation.epoch)
        try:
            validators = self._application.validators(header.epoch)
        except ApplicationError as error:  # so old that its set isn't known here any more
            raise ProofInvalid("ProofInvalid", str(error), header.epoch) from error
        verify_certificate(proof.finalisation, self._application.chain_id, validators)
