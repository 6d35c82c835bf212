"""What the routes share: the node behind the API, its bounds, and the clock. `app.state.node` is one."""

import attrs
import trio
from starlette.requests import Request

from supervm.contracts.routing import Routing
from supervm.http.bodies import Bodies
from supervm.http.config import HttpConfig
from supervm.http.guard import Slots
from supervm.http.ports import Ledger, NodeFacts
from supervm.kernel.component import Clock, Log

HEARTBEAT_S = 1.0
HEARTBEAT_MISSED_S = 5.0
SCRAPE_AGE_MAX_S = 1.0


@attrs.define(kw_only=True, eq=False)
class Api:
    """One API of one node. Plugins' routes reach it as `request.app.state.node`.

    `run` tells this process's events from another's. `closing` is set when the node drains: streams and
    waits end then. `ledger` and `routing` raise `RoleUnavailable` while their component is away.
    """

    ledger: Ledger
    facts: NodeFacts
    config: HttpConfig
    clock: Clock
    log: Log
    run: str
    routing: Routing
    bodies: Bodies = attrs.field(init=False)
    waits: Slots = attrs.field(init=False)
    readers: Slots = attrs.field(init=False)
    closing: trio.Event = attrs.field(factory=trio.Event)
    parsing: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(2))
    beat_s: float = 0.0
    height: int = 0
    scrape: tuple[float, str] | None = None

    def __attrs_post_init__(self) -> None:
        self.bodies = Bodies(self.config)
        self.waits = Slots("waits for a transaction", self.config.waits_max, status=429)
        self.readers = Slots("readers of events", self.config.event_readers_max, status=429)
        self.beat_s = self.clock.monotonic()

    async def heartbeat(self) -> None:
        """Show that the event loop turns; runs for the length of the API."""
        while True:
            self.beat_s = self.clock.monotonic()
            await self.clock.sleep(HEARTBEAT_S)


def api_of(request: Request) -> Api:
    api: Api = request.app.state.node
    return api
