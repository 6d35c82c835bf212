"""What every request passes first: slots, the token, a deadline; and what it leaves: counts and logs.

Nothing a client does may hold the node: the number of requests at a time is bounded, each has a
deadline, and an exception becomes a 500 problem and one log line with its cause, never a traceback.
"""

import hmac
from collections.abc import Callable
from typing import Any

import attrs
import trio
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from supervm.http.config import HttpConfig
from supervm.http.problems import Problem, overloaded
from supervm.kernel.component import Log, Metrics
from supervm.types.errors import shorten

PROBES = ("/healthz", "/readyz", "/metrics", "/summary")
# Whoever may reach the port may ask whether the node lives; all else needs the token (OBS-36).
OPEN_PATHS = ("/healthz", "/readyz")
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")
# Keys in a request's ASGI scope.
DEADLINE = "supervm.deadline"
TOLD = "supervm.told"


@attrs.define
class Slots:
    """Room for so many at a time; no queue, so that a full node says so at once."""

    what: str
    limit: int
    status: int = 503
    taken: int = 0

    def __enter__(self) -> None:
        if self.taken >= self.limit:
            raise overloaded(self.what, self.limit, status=self.status)
        self.taken += 1

    def __exit__(self, *_: object) -> None:
        self.taken -= 1


class Guard:
    """The outermost ASGI application."""

    def __init__(
        self, app: ASGIApp, config: HttpConfig, metrics: Metrics, log: Log, now: Callable[[], float]
    ) -> None:
        self._app = app
        self._config = config
        self._log = log
        self._now = now
        self._requests = Slots("requests at a time", config.requests_max)
        # OBS-35: more scrapes at a time than these get 429, and never a slot that a client could use.
        self._scrapes = Slots("scrapes at a time", config.scrapes_max, status=429)
        self._counted = metrics.counter(
            "supervm_http_requests_total", "HTTP requests, by route and status", ("method", "route", "status")
        )
        self._took = metrics.summary("supervm_http_request_ms", "Time to answer a request", ("route",))
        self._refused = metrics.counter(
            "supervm_http_requests_refused_total", "Refused at a bound, by bound", ("bound",)
        )
        for slots in (self._requests, self._scrapes):
            self._refused.inc(0, bound=slots.what.split()[0])
        self._depth = metrics.gauge("supervm_http_requests_depth", "Requests being answered")
        metrics.gauge("supervm_http_requests_limit", "Most requests at a time").set(config.requests_max)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, self._config.send_timeout_s)
        started = self._now()
        try:
            await self._answer(scope, receive, answer)
        finally:
            route = route_of(scope)
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._counted.inc(method=method, route=route, status=answer.status)
            self._took.observe((self._now() - started) * 1000, route=route)

    async def _answer(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        slots = self._scrapes if scope["path"] in PROBES else self._requests
        try:
            self._check_token(scope)
            with slots:
                self._depth.set(self._requests.taken)
                await self._within_deadline(scope, receive, answer)
        except Problem as problem:
            if problem.code == "Overloaded":
                self._refused.inc(bound=slots.what.split()[0])
            await answer.instead(scope, receive, problem)
        except ClientDisconnect:
            self._log.debug("client_left", path=scope["path"])
        except Exception as error:
            # A bug of ours or of a plugin's route: told once, with its cause, and only to the operator.
            if TOLD not in scope:
                self._log.error("request_failed", method=scope["method"], path=scope["path"], exc_info=error)
            await answer.instead(scope, receive, internal_error())
        finally:
            self._depth.set(self._requests.taken)

    async def _within_deadline(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        with trio.move_on_after(self._config.request_timeout_s) as deadline:
            # A route that streams or waits on purpose moves its own deadline.
            scope[DEADLINE] = deadline
            await self._app(scope, receive, answer)
        if deadline.cancelled_caught and not answer.started:
            raise Problem(
                status=503,
                code="TimedOut",
                detail=f"no answer within {self._config.request_timeout_s:g} s",
                mend="try again; ask for less where the route has a limit",
                retry_after_s=1.0,
            )

    def _check_token(self, scope: Scope) -> None:
        if not self._config.token or scope["path"] in OPEN_PATHS:
            return
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        expected = f"Bearer {self._config.token}".encode()
        if len(given) != 1 or not hmac.compare_digest(given[0], expected):
            raise Problem(
                status=401,
                code="Unauthorized",
                detail="this API needs a token",
                mend="send the header `Authorization: Bearer TOKEN` with the node's api.token",
                headers={"www-authenticate": "Bearer"},
            )


class _Answer:
    """`send`, with what became of it."""

    def __init__(self, send: Send, timeout_s: float) -> None:
        self._send = send
        self._timeout_s = timeout_s
        self.status = 0
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.started = True
        with trio.move_on_after(self._timeout_s) as scope:
            await self._send(message)
        if scope.cancelled_caught:
            raise ClientDisconnect

    async def instead(self, scope: Scope, receive: Receive, problem: Problem) -> None:
        """Answer with a problem, unless an answer has begun: then the connection ends, cut short."""
        if not self.started:
            await problem.response()(scope, receive, self)


def internal_error() -> Problem:
    return Problem(
        status=500,
        code="InternalError",
        detail="the node failed to answer; its log has the cause",
        mend="report it with the log line request_failed",
    )


def route_of(scope: Scope) -> str:
    """The route's template, a bounded label: never the path that a client made up."""
    route: Any = scope.get("route")
    path: str = getattr(route, "path", "none")
    return path


def operator_only(request: Request, do: str) -> None:
    """Refuse where no token is set. Where one is, it was checked before the request came here."""
    if not request.app.state.node.config.token:
        raise Problem(
            status=403,
            code="TokenNotSet",
            detail=f"this node has no api.token, so nobody may {do}",
            value=shorten(request.url.path),
            mend="set api.token, restart, and send it as `Authorization: Bearer TOKEN`",
        )
