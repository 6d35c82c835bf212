"""Server-sent events: in order, resumable, and never a burden to the node."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from supervm.chain.events import EventLog
from supervm.contracts.roles import Role
from supervm.http.component import http_component
from supervm.http.config import HttpConfig
from supervm.testing.context import component_context
from tests.http.conftest import Serve, Served
from tests.http.doubles import FactsDouble, LedgerDouble

PATIENCE_S = 120.0
"""How long a slow machine may take for what must happen; no test takes it."""
Told = tuple[str, str, Any]


class Reader:
    """Reads events off a stream of lines."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines
        self.comments = 0

    async def next(self) -> Told | None:
        """The next event as (id, kind, data); None when the stream has ended."""
        fields: dict[str, str] = {}
        async for line in self._lines:
            if line.startswith(":"):
                self.comments += 1
            elif line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                return fields["id"], fields["event"], json.loads(fields["data"])
        return None


@asynccontextmanager
async def reading(served: Served, last_id: str = "") -> AsyncIterator[Reader]:
    headers = {"last-event-id": last_id} if last_id else {}
    async with served.client.stream("GET", "/v1/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        lines = response.aiter_lines()
        assert await anext(lines) == "retry: 1000"
        yield Reader(lines)


async def test_a_reader_is_told_of_what_happens_from_now_on(served: Served) -> None:
    served.ledger.commit()
    async with reading(served) as reader:
        served.ledger.commit()
        told = await reader.next()
        assert told is not None
        assert (told[1], told[2]["height"]) == ("block", "2")


async def test_a_reader_that_comes_back_gets_what_it_missed_and_nothing_twice(served: Served) -> None:
    async with reading(served) as reader:
        served.ledger.commit()
        told = await reader.next()
        assert told is not None
    for _ in range(3):
        served.ledger.commit()
    async with reading(served, told[0]) as reader:
        heights = [(await reader.next() or ("", "", {}))[2]["height"] for _ in range(3)]
    assert heights == ["2", "3", "4"]


async def test_zero_reads_all_that_is_kept(served: Served) -> None:
    for _ in range(3):
        served.ledger.commit()
    async with reading(served, "0") as reader:
        assert [(await reader.next() or ("", "", {}))[2]["height"] for _ in range(3)] == ["1", "2", "3"]


async def test_an_id_of_a_process_before_is_a_gap_from_which_reading_goes_on(served: Served) -> None:
    for _ in range(3):
        served.ledger.commit()
    async with reading(served, "00000000-2") as reader:
        gap = await reader.next()
        assert gap is not None and gap[1] == "gap"
        assert await reader.next() is None
    async with reading(served, gap[0]) as reader:
        told = await reader.next()
        assert told is not None and told[2]["height"] == "1"


async def test_what_is_no_longer_kept_is_a_gap_and_then_the_rest(served: Served) -> None:
    served.ledger.events = EventLog(events_max=4)
    async with reading(served) as reader:
        served.ledger.commit()
        first = await reader.next()
        assert first is not None
    for _ in range(9):
        served.ledger.commit()
    async with reading(served, first[0]) as reader:
        gap = await reader.next()
        assert gap is not None and gap[1] == "gap"
        assert await reader.next() is None
    async with reading(served, gap[0]) as reader:
        heights = [(await reader.next() or ("", "", {}))[2]["height"] for _ in range(4)]
    assert heights == ["7", "8", "9", "10"]


async def test_a_reader_that_is_too_slow_is_cut_off_with_a_gap(serve: Serve) -> None:
    async with serve(send_timeout_s=600) as served:
        served.ledger.events = EventLog(events_max=8)
        stream = await trio.open_tcp_stream(*served.host_port)
        await stream.send_all(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n")
        head = b""
        while b"retry" not in head:
            head += await stream.receive_some()
        # It reads nothing while megabytes are told, and then less than the log moves on, whatever the
        # buffers of its connection hold.
        append, filler = served.ledger.events.append, "x" * 20_000
        for n in range(600):
            append("block", {"n": str(n), "filler": filler})
            await trio.lowlevel.checkpoint()
        told = b""

        async def read() -> None:
            nonlocal told
            while b"event: gap" not in told[-400_000:]:
                chunk = await stream.receive_some()
                assert chunk, "the stream ended without a gap"
                told = told[-400_000:] + chunk
            nursery.cancel_scope.cancel()

        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                while True:
                    for _ in range(9):
                        append("block", {"filler": filler})
                    await trio.lowlevel.checkpoint()
        assert b"event: gap" in told and served.log.errors == []


async def test_readers_above_the_bound_get_a_429_and_places_come_back(serve: Serve) -> None:
    async with serve(event_readers_max=1) as served:
        async with reading(served):
            refused = await served.client.get("/v1/events")
            assert (refused.status_code, refused.json()["code"]) == (429, "Overloaded")
        with trio.fail_after(PATIENCE_S):
            while (
                await served.client.get("/v1/events?after=bad")
            ).status_code != 400 or served.readers.taken:
                await trio.lowlevel.checkpoint()
        async with reading(served):
            assert served.readers.taken == 1


async def test_a_silent_stream_is_kept_alive(serve: Serve) -> None:
    async with serve(keepalive_s=0.02) as served, reading(served) as reader:
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.next)
                while reader.comments < 3:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()


async def test_a_stream_outlives_the_time_that_a_request_has(serve: Serve) -> None:
    async with (
        serve(request_timeout_s=0.05, keepalive_s=0.02) as served,
        reading(served) as reader,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(reader.next)
        while reader.comments < 8:
            await trio.lowlevel.checkpoint()
        served.ledger.commit()


async def test_a_change_of_health_is_an_event_once(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ledger, facts = LedgerDouble(), FactsDouble()
    requires = {Role.APPLICATION: ledger, Role.ROUTING: None}
    async with component_context(tmp_path, Role.SURFACE, "http", requires=requires) as ctx:
        ctx.metrics = facts.metrics
        async with http_component(facts).open(ctx, HttpConfig(listen="127.0.0.1:0")):
            await trio.sleep(5)
            assert ledger.events.last_id == 0
            facts.health_now = "degraded"
            await trio.sleep(5)
            facts.health_now = "ok"
            await trio.sleep(5)
    feed = ledger.events.follow(0)
    told = [(await anext(feed)).data for _ in range(2)]
    assert [(each["component"], each["before"], each["health"]) for each in told] == [
        ("node", "ok", "degraded"),
        ("node", "degraded", "ok"),
    ]
    assert ledger.events.last_id == 2


@pytest.mark.parametrize("left", ["7", "x-1", "00000000-01", "00000000-99999999999999999999", "0x1"])
async def test_an_id_that_never_was_is_a_400(served: Served, left: str) -> None:
    answer = await served.client.get("/v1/events", headers={"last-event-id": left})
    assert (answer.status_code, answer.json()["code"]) == (400, "BadEventId")
