"""/v1/events: what happens, as server-sent events that a client can resume (OBS-44).

An event's id is `RUN-NUMBER`: the run is new with each process, so that a number from before a restart
is known to be foreign. A client that comes back says `Last-Event-ID` (or `?after=`) and gets what it
missed. Where that is no longer kept, or a reader is so slow that it falls behind what is kept, it gets
one `gap` event and the stream ends; with the gap's id it reads on from the oldest event there is.
"""

import json
import math
import re
from contextlib import aclosing

import trio
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from supervm.http.api import Api, api_of
from supervm.http.guard import DEADLINE
from supervm.http.parameters import query
from supervm.http.ports import Event
from supervm.http.problems import bad_request

EVENT_STREAM = "text/event-stream"
RETRY_MS = 1000
_ID = re.compile(r"([0-9a-f]{8})-(0|[1-9][0-9]{0,18})")
# No log has got so far: a reader that asks for it is told of a gap.
_FOREIGN = 2**63 - 1


async def events(request: Request) -> "EventStream":
    api = api_of(request)
    header = request.headers.get("last-event-id", "")
    asked = query(request, ("after",)).get("after", header)
    return EventStream(api, _after(api, asked))


def _after(api: Api, asked: str) -> int:
    """The number after which to read: the newest one now where none is asked, 0 for all that is kept."""
    if asked in ("", "0"):
        return api.ledger.events.last_id if asked == "" else 0
    found = _ID.fullmatch(asked)
    if found is None:
        raise bad_request("BadEventId", "Last-Event-ID", asked, "an id as it came in the stream, or 0")
    return int(found[2]) if found[1] == api.run else _FOREIGN


class EventStream:
    """The response: a stream that ends when the client leaves, the node drains, or at a gap."""

    def __init__(self, api: Api, after: int) -> None:
        self._api = api
        self._after = after
        self._sent_s = 0.0
        self._left = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._api.readers:
            scope[DEADLINE].deadline = math.inf
            headers = [
                (b"content-type", EVENT_STREAM.encode()),
                (b"cache-control", b"no-store"),
                (b"x-accel-buffering", b"no"),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._stream(receive, send)
            if not self._left:
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _stream(self, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            nursery.start_soon(self._end_when_left, receive, scope)
            nursery.start_soon(self._end_when_closing, scope)
            await self._send(send, f"retry: {RETRY_MS}\n\n", scope)
            nursery.start_soon(self._keep_alive, send, scope)
            async with aclosing(self._api.ledger.events.follow(self._after)) as feed:  # type: ignore[type-var]
                async for event in feed:
                    await self._send(send, self._frame(event), scope)
            scope.cancel()

    def _frame(self, event: Event) -> str:
        data = json.dumps(event.data, separators=(",", ":"))
        return f"id: {self._api.run}-{event.id}\nevent: {event.kind}\ndata: {data}\n\n"

    async def _send(self, send: Send, text: str, scope: trio.CancelScope) -> None:
        try:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        except ClientDisconnect:
            # It left, or read nothing for `send_timeout_s`; it knows its last id.
            self._left = True
            scope.cancel()
        self._sent_s = self._api.clock.monotonic()

    async def _keep_alive(self, send: Send, scope: trio.CancelScope) -> None:
        """A comment when nothing happens: proxies keep the connection, and a dead client is noticed."""
        every_s = self._api.config.keepalive_s
        while True:
            await self._api.clock.sleep(every_s)
            if self._api.clock.monotonic() - self._sent_s >= every_s / 2:
                await self._send(send, ": keepalive\n\n", scope)

    async def _end_when_left(self, receive: Receive, scope: trio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._left = True
        scope.cancel()

    async def _end_when_closing(self, scope: trio.CancelScope) -> None:
        await self._api.closing.wait()
        scope.cancel()
