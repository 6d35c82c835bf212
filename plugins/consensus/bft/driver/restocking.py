"""The driver of snapshot sync: carries its questions, has offers judged, keeps chunks (CONS-62)."""

from collections.abc import Callable

import trio

from supervm.api import Context
from supervm.contracts.application import SnapshotExchange
from supervm.contracts.storage import StorageError
from supervm.plugins.consensus.bft.driver.timers import Timers
from supervm.plugins.consensus.bft.events import CancelTimer, Now, Received, Send, SetTimer, TimedOut
from supervm.plugins.consensus.bft.fetching import Got
from supervm.plugins.consensus.bft.sync.events import Dropped, PeersNow
from supervm.plugins.consensus.bft.sync.snapshots import (
    Chosen,
    Complete,
    Held,
    Judge,
    Judged,
    Lowered,
    NoSnapshot,
    SnapshotEvent,
    SnapshotOutput,
    SnapshotSync,
    Store,
    Stored,
    WhichHeld,
)

WORK_MAX = 4_096
"""Judgements, look-ups and chunks that wait: the machine bounds what it gives."""
RETRY_S = 5.0

Work = Judge | WhichHeld | Store | Complete


class Restocking:
    """Fetches one snapshot above a height, until it is whole. `hear` takes what peers answer."""

    def __init__(
        self,
        ctx: Context,
        exchange: SnapshotExchange,
        above: int,
        height: Callable[[], int],
        peers: tuple[bytes, ...],
        carry: Callable[[Send | Dropped], None],
    ) -> None:
        """`height`: of the tip now. `carry`: sends, and names whom the machine drops."""
        self._ctx = ctx
        self._exchange = exchange
        self._above = above
        self._height = height
        self._peers = peers
        self._outward = carry
        self._sync: SnapshotSync | None = None
        self._timers = Timers(ctx, lambda name: self._tell(TimedOut(name)))
        self._give, self._work = trio.open_memory_channel[Work](WORK_MAX)
        self.status = "no peer has offered one yet"
        self.has_chosen = False

    async def run(self) -> None:
        """Until a snapshot is whole and the node begins again; a full disk is told, and waited for."""
        refused = await self._exchange.refused()
        # Meanwhile `take_any_above` may have come.
        self._sync = SnapshotSync(self._above, refused=refused)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._timers.run)
            self._tell(PeersNow(self._peers))
            async for work in self._work:
                while not await self._do(work):
                    await self._ctx.clock.sleep(RETRY_S)

    def now(self, peers: tuple[bytes, ...]) -> None:
        """These are connected."""
        self._peers = peers
        self._tell(PeersNow(peers))

    def take_any_above(self, height: int) -> None:
        """Only a snapshot helps: one of any height above this."""
        self._above = height
        self._tell(Lowered(height))

    def hear(self, peer: bytes, got: Got) -> None:
        self._tell(Received(peer, got))

    def _tell(self, event: SnapshotEvent) -> None:
        if self._sync is None:
            return
        clock = self._ctx.clock
        now = Now(int(clock.monotonic() * 1_000_000), clock.wall_ms())
        for output in self._sync.step(event, now):
            self._carry(output)

    def _carry(self, output: SnapshotOutput) -> None:
        match output:
            case Send():
                self._outward(output)
            case Dropped(peer, reason, lied):
                self._ctx.log.warning("snapshot_peer_dropped", peer=peer.hex(), reason=reason, lied=lied)
                self._outward(output)
            case SetTimer(name, delay_us):
                self._timers.set(name, delay_us)
            case CancelTimer(name):
                self._timers.cancel(name)
            case Chosen(offer):
                manifest = offer.manifest
                self.has_chosen = True
                self.status = f"one of height {manifest.height} is being fetched"
                self._ctx.log.info(
                    "snapshot_chosen",
                    height=manifest.height,
                    chunks=manifest.chunks,
                    bytes=manifest.size_bytes,
                    maker=offer.peer.hex(),
                )
            case NoSnapshot():
                self.status, self.has_chosen = "no peer has one", False
            case Judge() | WhichHeld() | Store() | Complete():
                self._give.send_nowait(output)

    async def _do(self, work: Work) -> bool:
        """False where the disk didn't take it: try again."""
        try:
            match work:
                case Judge(offer):
                    found = await self._exchange.judge(offer.manifest, offer.handovers)
                    self._tell(Judged(offer, found.lied, found.unfit))
                case WhichHeld(digests, tables):
                    self._tell(Held(digests, await self._exchange.held(digests, tables)))
                case Store(digest, data):
                    await self._exchange.keep(data)
                    self._tell(Stored(digest))
                case Complete(offer) if offer.manifest.height <= self._height():
                    self.status, self.has_chosen = "blocks were sooner", False
                case Complete(offer):
                    self._ctx.log.info("snapshot_fetched", height=offer.manifest.height)
                    self.status = f"one of height {offer.manifest.height} is here, to begin again with"
                    await self._exchange.finish(offer.manifest, offer.handovers)
        except StorageError as error:
            self.status = f"what was fetched can't be kept: {error}"
            self._ctx.log.error("snapshot_not_kept", cause=str(error), retry_s=RETRY_S)
            return False
        return True
