"""The SURFACE component `http`."""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import attrs
import trio

from supervm.contracts.roles import Role
from supervm.http.api import Api
from supervm.http.app import PROBES, ROUTES, build_app
from supervm.http.config import HttpConfig, ListenError, check_exposure, is_loopback, parse_listen
from supervm.http.health import watch_health
from supervm.http.ports import NodeFacts
from supervm.http.serve import Connections, open_socket, serving
from supervm.kernel.component import Component, Context


def http_component(facts: NodeFacts) -> Component:
    """The component, bound to what the node knows of itself."""
    return Component(
        role=Role.SURFACE,
        name="http",
        open=partial(open_http, facts),
        config=HttpConfig,
        requires=(Role.APPLICATION,),
        wants=(Role.ROUTING,),
        description="HTTP and JSON, described by /openapi.json",
    )


@attrs.frozen
class HttpSurface:
    """What the component yields. `addresses`: where it listens, as HOST:PORT; the scrapers' is second."""

    addresses: tuple[str, ...]
    _api: Api

    @property
    def address(self) -> str:
        return self.addresses[0]

    async def drain(self, deadline: float) -> None:
        """End streams and waits; other requests go on, and new ones are still answered."""
        self._api.closing.set()


@asynccontextmanager
async def open_http(facts: NodeFacts, ctx: Context, config: HttpConfig) -> AsyncIterator[HttpSurface]:
    """Listen and serve. Raises `ListenError` or `PortInUse` before anything is served."""
    check_exposure(config)
    host, _ = parse_listen(config.listen)
    if not is_loopback(host) and not config.token:
        ctx.log.warning("open_to_other_machines", listen=config.listen, mend="set api.token")
    api = Api(
        ledger=ctx.require(Role.APPLICATION),
        facts=facts,
        config=config,
        clock=ctx.clock,
        log=ctx.log,
        run=f"{ctx.random.getrandbits(32):08x}",
        routing=ctx.require(Role.ROUTING),
    )
    connections = Connections.counted(config.connections_max, ctx.metrics)
    listeners = await trio.to_thread.run_sync(_open_listeners, config)
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        stack.callback(nursery.cancel_scope.cancel)
        nursery.start_soon(api.heartbeat)
        nursery.start_soon(watch_health, api)
        addresses = []
        for listener, routes in zip(listeners, (ROUTES, PROBES), strict=False):
            app = build_app(api, ctx.metrics, ctx.log, routes)
            serve = serving(app, listener, config, connections, ctx.log)
            addresses.append(await stack.enter_async_context(serve))
        ctx.log.info("listening", addresses=addresses)
        try:
            yield HttpSurface(tuple(addresses), api)
        finally:
            api.closing.set()


def _open_listeners(config: HttpConfig) -> list[socket.socket]:
    """The API's and, where asked for, the scrapers'. All or none."""
    opened: list[socket.socket] = []
    try:
        opened.extend(open_socket(listen) for listen in (config.listen, config.metrics_listen) if listen)
    except ListenError:
        for sock in opened:
            sock.close()
        raise
    return opened
