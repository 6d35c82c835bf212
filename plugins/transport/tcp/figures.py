"""What the transport tells of itself: metrics, and log lines that a hostile peer can't multiply."""

from collections.abc import Collection
from typing import Any

import attrs

from supervm.api import Context
from supervm.plugins.transport.registry import count_dropped
from supervm.plugins.transport.tcp.dialing import FAILED, DialFailed
from supervm.plugins.transport.tcp.lane import LinkEnded
from supervm.plugins.transport.tcp.link import AT_FAULT, Link
from supervm.plugins.transport.tcp.quotas import Bucket, Rates, Seldom

LINES_PER_S = 1.0
LINES_BURST = 20.0
LINK_LINES_PER_S = 0.1
LINK_LINES_BURST = 20.0
"""Lines of one peer that comes and goes."""


@attrs.define(eq=False)
class Figures:
    """The families, and how many log lines were left out since the last."""

    ctx: Context
    links: Any
    handshakes: Any
    dials: Any
    endings: Any
    cut_off: Any
    bytes: Any
    _lines: Bucket = attrs.Factory(lambda: Bucket(LINES_PER_S, LINES_BURST))
    _link_lines: Rates = attrs.Factory(lambda: Rates(LINK_LINES_PER_S, LINK_LINES_BURST))
    _traces: Seldom = attrs.Factory(Seldom)
    _dial_lines: Seldom = attrs.Factory(Seldom)
    _left_out: int = 0
    _dial_causes: dict[bytes, str] = attrs.Factory(dict)

    @classmethod
    def declare(cls, ctx: Context) -> "Figures":
        metrics = ctx.metrics
        return cls(
            ctx,
            metrics.gauge("transport_links", "Peers connected", ("direction",)),
            metrics.counter(
                "transport_handshakes_total", "Connections taken in, by what became of them", ("outcome",)
            ),
            metrics.counter("transport_dials_total", "Dials, by what became of them", ("outcome",)),
            metrics.counter("transport_links_ended_total", "Links that ended, by how", ("kind",)),
            metrics.counter("transport_cut_off_total", "Peers cut off and banned, by why", ("kind",)),
            metrics.counter("transport_bytes_total", "Bytes carried for links", ("medium", "direction")),
        )

    def moved(self, direction: str, count: int) -> None:
        self.bytes.inc(count, medium="tcp", direction=direction)

    def broadcast_dropped(self) -> None:
        count_dropped(self.ctx)

    def dialed(self, outcome: str) -> None:
        self.dials.inc(outcome=outcome)

    def link_broke(self, link: Link, error: Exception) -> None:
        """A bug of ours that a peer has found, and may find each time it is linked: a trace the first time,
        and then ever more seldom."""
        left_out = self._traces.tell(link.peer, self.ctx.clock.monotonic())
        if left_out is not None:
            told = {"peer": link.peer.hex(), "others_left_out": left_out}
            self.ctx.log.error("link_failed", exc_info=error, **told)

    def dial_failed(self, peer: bytes, address: str, failure: DialFailed) -> None:
        """Told once for each new cause, and ever more seldom where they take turns: a peer that is away is
        dialed for days."""
        self.dials.inc(outcome=failure.outcome)
        cause = str(failure)
        if self._dial_causes.get(peer) == cause:
            return
        left_out = self._dial_lines.tell(peer, self.ctx.clock.monotonic())
        if left_out is None:
            return
        self._dial_causes[peer] = cause
        told: dict[str, Any] = {
            "peer": peer.hex(),
            "address": address,
            "outcome": failure.outcome,
            "cause": cause,
        }
        told["others_left_out"] = left_out
        if failure.outcome == FAILED:
            self.ctx.log.error("dial_failed", exc_info=failure.__cause__, **told)
        else:
            self.ctx.log.warning("peer_unreachable", **told)

    def handshake_done(self) -> None:
        self.handshakes.inc(outcome="linked")

    def handshake_failed(self, outcome: str, address: str, cause: str) -> None:
        self.handshakes.inc(outcome=outcome)
        if self._may_tell():
            told = {"address": address, "outcome": outcome, "cause": cause}
            self.ctx.log.warning("connection_refused", others_left_out=self._told(), **told)

    def handshake_broke(self, address: str, error: Exception) -> None:
        """A bug of ours that a peer has found: it may well find it again, a thousand times a second."""
        self.handshakes.inc(outcome="failed")
        if self._may_tell():
            self.ctx.log.error(
                "handshake_failed", address=address, exc_info=error, others_left_out=self._told()
            )

    def _may_tell(self) -> bool:
        """Whether the log has room for one line more that a peer has caused; takes it, or counts it."""
        if self._lines.would_wait(now := self.ctx.clock.monotonic()):
            self._left_out += 1
            return False
        self._lines.take(1, now)
        return True

    def _told(self) -> int:
        """How many lines were left out since the last."""
        left_out, self._left_out = self._left_out, 0
        return left_out

    def linked(self, links: Collection[Link], link: Link) -> None:
        self._count(links)
        self._dial_causes.pop(link.peer, None)
        if self._link_lines.allows(link.peer, self.ctx.clock.monotonic()):
            told = {"peer": link.peer.hex(), "address": link.address, "dialed": link.dialed}
            self.ctx.log.info("peer_connected", **told)

    def ended(self, links: Collection[Link], link: Link, ending: LinkEnded, banned_s: float) -> None:
        self._count(links)
        self.endings.inc(kind=ending.kind)
        told = {"peer": link.peer.hex(), "address": link.address, "kind": ending.kind, "cause": str(ending)}
        if ending.kind in AT_FAULT:
            self.cut_off.inc(kind=ending.kind)
            self.ctx.log.warning("peer_cut_off", banned_s=round(banned_s, 1), **told)
        elif self._link_lines.allows(link.peer, self.ctx.clock.monotonic()):
            self.ctx.log.info("peer_disconnected", **told)

    def _count(self, links: Collection[Link]) -> None:
        dialed = sum(1 for link in links if link.dialed)
        self.links.set(dialed, direction="out")
        self.links.set(len(links) - dialed, direction="in")
