"""Final blocks, in order: their batches gathered, executed, committed with their proofs (CONS-40, CONS-43).

Execution follows ordering and never holds it up; ordering itself stops placing batches when it is too far
behind (CONS-44).
"""

from collections import deque
from collections.abc import Callable

import attrs
import trio

from supervm.api import Context
from supervm.contracts.application import CertifyingApplication, ExecutedFacts, OrderedBlock
from supervm.contracts.storage import DiskFull
from supervm.plugins.consensus.bft.driver.kept import KeptBlocks
from supervm.plugins.consensus.bft.driver.slowness import DiskWait
from supervm.plugins.consensus.bft.events import Final
from supervm.types.batch import Batch
from supervm.types.block import Block, BlockHeader
from supervm.types.certificate import BatchCertificate, Certificate
from supervm.types.digests import ZERO, Digest
from supervm.types.finality import FinalityProof

DISK_RETRY_S = 1.0
FINALISATIONS_MAX = 4_096


@attrs.frozen
class Committed:
    """A final block that was executed and is durable here: its batches, the slots that it used up (CONS-15),
    and its transactions."""

    final: Final
    facts: ExecutedFacts
    batches: tuple[Digest, ...]
    used: tuple[bytes, ...]
    transactions: tuple[Digest, ...]


class Executor:
    """Takes final blocks and says of each when it is committed.

    `held`: a batch that this node holds. `miss`: says that one is needed; `give` brings it. `behind`: whether
    many blocks follow, so that none need be durable by itself.
    """

    def __init__(
        self,
        ctx: Context,
        application: CertifyingApplication,
        kept: KeptBlocks,
        *,
        held: Callable[[Digest], Batch | None],
        miss: Callable[[BatchCertificate], None],
        committed: Callable[[Committed], None],
        behind: Callable[[], bool] = lambda: False,
    ) -> None:
        self._ctx = ctx
        self._application = application
        self._kept = kept
        self._held = held
        self._miss = miss
        self._committed = committed
        self._behind = behind
        self._finals: deque[Final] = deque()
        self._wake = trio.Event()
        self._needed: dict[Digest, Batch | None] = {}
        self._came = trio.Event()
        self._finalisations: dict[Digest, Certificate] = {}
        self._proofs: dict[int, FinalityProof] = {}
        self._wait = DiskWait(ctx, "no block can be written")

    @property
    def stalled(self) -> str:
        """Why no block is committed for want of the disk; empty if it isn't so."""
        return self._wait.reason

    @property
    def waiting(self) -> int:
        """Final blocks that aren't committed yet."""
        return len(self._finals)

    def put(self, final: Final, proof: FinalityProof | None = None) -> None:
        """The next final block. `proof`: what shows it, where the blocks that follow don't."""
        self._finals.append(final)
        if proof is not None:
            self._proofs[final.block.header.height] = proof
        self._wake.set()

    def finalised(self, finalisation: Certificate) -> None:
        """A verified finalisation that came with its block: a shorter proof than a later one."""
        self._finalisations[finalisation.digest] = finalisation
        if len(self._finalisations) > FINALISATIONS_MAX:
            del self._finalisations[next(iter(self._finalisations))]

    def needs(self, batch: Digest) -> bool:
        """Whether a block can't be executed for want of a batch."""
        return batch in self._needed and self._needed[batch] is None

    def give(self, batch: Batch) -> None:
        """A batch came that may be needed. Its digest is its proof."""
        digest = batch.digest()
        if self.needs(digest):
            self._needed[digest] = batch
            self._came.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            while self._finals:
                await self._execute(self._finals[0])
                self._finals.popleft()
            self._wake = trio.Event()

    async def _execute(self, final: Final) -> None:
        block = await self._with_batches(final.block)
        header = block.header
        await self._application.execute(
            OrderedBlock(
                height=header.height,
                epoch=header.epoch,
                parent=header.parent,
                proposer=header.proposer,
                timestamp_ms=header.timestamp_ms,
                operations=block.body.system_operations,
                batches=tuple(batch.transactions for batch in block.batches),
                ends_epoch=header.next_validators_digest != ZERO,
            )
        )
        facts = self._application.facts(header.height)
        await self._commit(attrs.evolve(final, block=block), facts)
        used, names = await self._application.used_up(block.transactions)
        batches = tuple(batch.digest() for batch in block.batches)
        self._committed(Committed(final, facts, batches, used, names))

    async def _commit(self, final: Final, facts: ExecutedFacts) -> None:
        given = self._proofs.pop(facts.height, None)
        certificate = (given or self._proof(final)).encode()
        durable = not self._behind()
        self._wait.begins()
        while True:
            try:
                await self._kept.put(final, facts, oldest=self._application.oldest_block, durable=durable)
                await self._application.commit(final.block, certificate, durable=durable)
            except DiskFull as error:
                self._wait.is_full(error)
                self._ctx.log.error("disk_full", height=facts.height, cause=str(error), retry_s=DISK_RETRY_S)
                await self._ctx.clock.sleep(DISK_RETRY_S)
            else:
                self._wait.ends()
                return

    def _proof(self, final: Final) -> FinalityProof:
        """Its finalisation, or the headers up to a block that has one: they became final together."""
        headers: list[BlockHeader] = []
        for each in self._finals:
            header = each.block.header
            if header.height > final.block.header.height:
                headers.append(header)
            own = each.certificate or self._finalisations.get(header.digest())
            if own is not None:
                return FinalityProof(own, tuple(headers))
        raise AssertionError(f"nothing proves the block of height {final.block.header.height} final")

    async def _with_batches(self, block: Block) -> Block:
        """The block with its batches, waiting for those that peers still have to send."""
        certificates = block.body.certificates
        if len(block.batches) == len(certificates):
            return block
        found: dict[Digest, Batch] = {}
        for certificate in certificates:
            digest = certificate.header.digest()
            batch = self._held(digest)
            if batch is not None:
                found[digest] = batch
            else:
                self._needed[digest] = None
                self._miss(certificate)
        while any(batch is None for batch in self._needed.values()):
            self._came = trio.Event()
            await self._came.wait()
        found.update({digest: batch for digest, batch in self._needed.items() if batch is not None})
        self._needed.clear()
        return Block(block.header, block.body, tuple(found[each.header.digest()] for each in certificates))
