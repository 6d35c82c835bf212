"""Request bodies, bounded while they are read: each one, all of them together, and in time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from starlette.requests import ClientDisconnect, Request

from supervm.http.config import HttpConfig
from supervm.http.problems import Problem, bad_request, overloaded

DISCARD_S = 2.0


class Bodies:
    """The room for bodies. A body counts against it from its first byte until its request is answered."""

    def __init__(self, config: HttpConfig) -> None:
        self._config = config
        self.held_bytes = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body: 413 when it is too large, 408 when too slow, 503 when there is no room."""
        chunks: list[bytes] = []
        try:
            try:
                await self._fill(chunks, request)
            except Problem as problem:
                self._release(chunks)
                if problem.status in (413, 503):
                    await self._discard(request)
                raise
            yield b"".join(chunks)
        finally:
            self._release(chunks)

    async def _fill(self, chunks: list[bytes], request: Request) -> None:
        # Half of the request's time, so that what was read can still be worked on, or be answered with 408.
        timeout_s = self._config.request_timeout_s / 2
        self._check_length(request)
        size = 0
        with trio.move_on_after(timeout_s) as deadline:
            try:
                async for chunk in request.stream():
                    size += len(chunk)
                    self.held_bytes += len(chunk)
                    chunks.append(chunk)
                    self._check_size(size)
            except ClientDisconnect:
                raise bad_request("BodyIncomplete", "body", f"{size} bytes", "send all of it") from None
        if deadline.cancelled_caught:
            raise Problem(
                status=408,
                code="BodyTooSlow",
                detail=f"the body did not arrive within {timeout_s:g} s",
                value=f"{size} bytes",
                mend="send it faster or in smaller requests",
            )

    def _release(self, chunks: list[bytes]) -> None:
        self.held_bytes -= sum(map(len, chunks))
        chunks.clear()

    def _check_length(self, request: Request) -> None:
        declared = request.headers.get("content-length", "0")
        if not (declared.isascii() and declared.isdigit()):
            raise bad_request("BadHeader", "Content-Length", declared, "a number of bytes")
        self._check_size(int(declared[:20]))

    def _check_size(self, size: int) -> None:
        limit = self._config.body_bytes_max
        if size > limit:
            raise Problem(
                status=413,
                code="BodyTooLarge",
                detail=f"the body has more than {limit} bytes",
                value=f"{size} bytes",
                mend=f"send at most {limit} bytes a request",
            )
        if self.held_bytes > self._config.bodies_bytes_max:
            raise overloaded("bytes of request bodies", self._config.bodies_bytes_max)

    async def _discard(self, request: Request) -> None:
        """Read on for a moment without keeping anything.

        Closing a connection with unread input resets it, and the client would see the reset instead of
        the answer that tells it why.
        """
        left = 2 * self._config.body_bytes_max
        with trio.move_on_after(DISCARD_S):
            while left > 0:
                message = await request.receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
                left -= len(message.get("body", b""))
