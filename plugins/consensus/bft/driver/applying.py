"""FAST: certified batches handed to the application (CONS-20)."""

from collections import deque
from collections.abc import Callable, Sequence

import trio

from supervm.api import Context
from supervm.contracts.application import CertifyingApplication, FastApplied
from supervm.plugins.consensus.bft.batch_events import Applied
from supervm.plugins.consensus.bft.effects_messages import Effect
from supervm.types.batch import Batch
from supervm.types.digests import Digest


class Applier:
    """Certified batches in the order in which they became known, one after the other.

    `held`: a batch that this node holds. `applied` hears what was applied. Bounded by the certificates that
    the voter keeps.
    """

    def __init__(
        self,
        ctx: Context,
        application: CertifyingApplication,
        *,
        held: Callable[[Digest], Batch | None],
        applied: Callable[[Applied], None],
    ) -> None:
        self._application = application
        self._held = held
        self._applied = applied
        self._batches: deque[Digest] = deque()
        self._resume = False
        self._stopped = False
        self._wake = trio.Event()
        self._applied_total = ctx.metrics.counter(
            "supervm_fast_applied_total", "FAST transactions applied ahead of their block"
        )

    def put(self, batch: Digest) -> None:
        """Apply a batch whose past was put before it."""
        if not self._stopped:
            self._batches.append(batch)
            self._wake.set()

    def stop(self) -> None:
        """Apply nothing more ahead of its block: the epoch closes (CONS-51, rule 2)."""
        self._stopped = True
        self._resume = False
        self._batches.clear()

    def resume(self) -> None:
        """A block came: what waits may go on."""
        if not self._stopped:
            self._resume = True
            self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            while self._batches or self._resume:
                if self._resume:
                    self._resume = False
                    self._tell(await self._application.resume_fast())
                if self._batches:
                    batch = self._held(self._batches.popleft())
                    # One that a block holds already is gone from here.
                    if batch is not None:
                        self._tell(await self._application.apply_fast(batch))
            self._wake = trio.Event()

    def _tell(self, found: Sequence[FastApplied]) -> None:
        for each in found:
            self._applied_total.inc(len(each.effects))
            effects = tuple(Effect(*effect) for effect in sorted(each.effects))
            self._applied(Applied(each.batch, effects, each.waiting))
