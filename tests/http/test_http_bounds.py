"""What a client may not do: take too much, stay too long, or listen where it should not."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

from supervm.contracts.roles import Role
from supervm.http import probes
from supervm.http.component import http_component
from supervm.http.config import HttpConfig, ListenError, PortInUse, check_exposure, parse_listen
from supervm.http.serve import open_socket
from supervm.node.ports import free_ports
from supervm.testing.context import component_context
from tests.http.conftest import Serve, Served
from tests.http.doubles import FactsDouble, LedgerDouble

PATIENCE_S = 120.0
"""How long a slow machine may take for what must happen; no test takes it."""

OCTETS = {"content-type": "application/octet-stream"}
POST = b"POST /v1/transactions HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\n"


async def connect(served: Served) -> trio.SocketStream:
    return await trio.open_tcp_stream(*served.host_port)


async def read_all(stream: trio.SocketStream) -> bytes:
    data = b""
    async for chunk in stream:
        data += chunk
    return data


async def read_head(stream: trio.SocketStream) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive_some()
    return data


def metric(served: Served, name: str, **labels: str) -> float:
    return served.facts.metrics.value(name, **labels)


async def test_a_body_at_the_limit_is_taken_and_one_byte_more_is_a_413(serve: Serve) -> None:
    async with serve(body_bytes_max=2048) as served:
        at = await served.client.post("/v1/transactions", content=b"ok" + bytes(2046), headers=OCTETS)
        above = await served.client.post("/v1/transactions", content=b"ok" + bytes(2047), headers=OCTETS)
        assert (at.status_code, above.status_code) == (202, 413)
        assert above.json()["code"] == "BodyTooLarge"
        assert len(served.ledger.submitted) == 1


async def test_a_body_without_a_length_is_cut_off_while_it_is_read(serve: Serve) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(64):
            sent += 1024
            yield b"o" * 1024

    async with serve(body_bytes_max=2048) as served:
        answer = await served.client.post("/v1/transactions", content=endless(), headers=OCTETS)
        assert (answer.status_code, answer.json()["code"]) == (413, "BodyTooLarge")
        assert served.ledger.submitted == []


async def test_too_many_transactions_in_one_request_is_a_413(serve: Serve) -> None:
    async with serve(transactions_max=2) as served:
        answer = await served.client.post("/v1/transactions", json=["0x6f6b"] * 3)
        assert (answer.status_code, answer.json()["code"]) == (413, "TooManyTransactions")


async def test_a_body_that_comes_too_slowly_is_a_408_and_the_connection_ends(serve: Serve) -> None:
    async with serve(request_timeout_s=0.1) as served:
        stream = await connect(served)
        await stream.send_all(POST + b"content-length: 10\r\n\r\nok")
        answer = await read_all(stream)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"BodyTooSlow" in answer


async def test_headers_that_never_end_cost_a_connection_for_the_idle_time_only(serve: Serve) -> None:
    async with serve(idle_timeout_s=0.1) as served:
        stream = await connect(served)
        await stream.send_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\nx-slow: ")
        assert await read_all(stream) == b""


async def test_headers_that_are_too_large_end_the_connection(served: Served) -> None:
    stream = await connect(served)
    await stream.send_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 120_000)
    assert (await read_all(stream)).startswith(b"HTTP/1.1 431")
    assert (await served.client.get("/v1/status")).status_code == 200


@pytest.mark.parametrize(
    "noise",
    [
        b"\x00" * 100,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\n\r\n",
        POST + b"content-length: -1\r\n\r\n",
        POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\nok",
        POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(64),
        b"GET /v1/status HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
        b"connection: upgrade, http2-settings\r\n\r\n" + b"\xff" * 100,
    ],
)
async def test_bytes_that_are_no_request_of_ours_hurt_nobody(serve: Serve, noise: bytes) -> None:
    async with serve(idle_timeout_s=0.2, request_timeout_s=0.4) as served:
        stream = await connect(served)
        await stream.send_all(noise)
        with trio.fail_after(PATIENCE_S):
            answer = await read_all(stream)
        assert b"Traceback" not in answer and not answer.startswith(b"HTTP/1.1 5")
        assert served.log.errors == []
        assert (await served.client.get("/v1/status")).status_code == 200


async def test_a_client_that_leaves_in_the_middle_of_its_body_hurts_nobody(served: Served) -> None:
    stream = await connect(served)
    await stream.send_all(POST + b"content-length: 1000\r\n\r\nok")
    await stream.aclose()
    assert (await served.client.get("/v1/status")).status_code == 200
    assert served.log.errors == []


async def test_a_client_that_reads_nothing_is_cut_off(serve: Serve) -> None:
    async with serve(send_timeout_s=0.2) as served:
        for _ in range(3):
            served.ledger.commit()
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await sock.connect(served.host_port)
        stream = trio.SocketStream(sock)
        # Pipelined requests, whose answers fill every buffer there is.
        await stream.send_all(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 200)
        while not metric(served, "supervm_http_connections_depth"):
            await trio.lowlevel.checkpoint()
        with trio.fail_after(PATIENCE_S):
            while metric(served, "supervm_http_connections_depth"):
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert served.log.errors == []
        assert (await served.client.get("/v1/status")).status_code == 200


async def test_a_request_above_the_bound_is_a_503_at_once_and_probes_still_answer(serve: Serve) -> None:
    async with serve(requests_max=2) as served:
        served.ledger.gate = trio.Event()
        statuses: list[int] = []

        async def ask() -> None:
            statuses.append((await served.client.get("/v1/status")).status_code)

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(ask)
            while metric(served, "supervm_http_requests_depth") < 2:
                await trio.lowlevel.checkpoint()
            refused = await served.client.get("/v1/status")
            assert (refused.status_code, refused.json()["code"]) == (503, "Overloaded")
            assert (await served.client.get("/healthz")).status_code == 200
            served.ledger.gate.set()
        assert statuses == [200, 200]
        assert metric(served, "supervm_http_requests_refused_total", bound="requests") == 1
        assert (await served.client.get("/v1/status")).status_code == 200


async def test_a_fifth_scrape_at_a_time_is_a_429(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "STATUS_S", 600.0)
    async with serve() as served:
        served.ledger.gate = trio.Event()
        answers: list[int] = []

        async def ask() -> None:
            answers.append((await served.client.get("/summary")).status_code)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask)
            while served.ledger.held < 4:
                await trio.lowlevel.checkpoint()
            assert (await served.client.get("/summary")).status_code == 429
            served.ledger.gate.set()
        assert answers == [200, 200, 200, 200]


async def test_a_scrape_of_a_busy_ledger_gives_the_last_height_that_is_known(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as served:
        known = await served.client.get("/summary")
        served.ledger.commit()
        served.ledger.gate = trio.Event()
        monkeypatch.setattr(probes, "STATUS_S", 0.01)
        waited = await served.client.get("/summary")
        assert (waited.status_code, waited.text) == (200, known.text)


async def test_a_handler_that_takes_too_long_is_a_503(serve: Serve) -> None:
    async with serve(request_timeout_s=0.1) as served:
        served.ledger.gate = trio.Event()
        answer = await served.client.get("/v1/status")
        assert (answer.status_code, answer.json()["code"]) == (503, "TimedOut")


async def test_connections_above_the_bound_are_closed_and_counted(serve: Serve) -> None:
    async with serve(connections_max=2) as served:
        first, second = await connect(served), await connect(served)
        third = await connect(served)
        assert await read_all(third) == b""
        assert metric(served, "supervm_http_connections_refused_total") == 1
        await first.aclose()
        await second.aclose()
        while metric(served, "supervm_http_connections_depth"):
            await trio.lowlevel.checkpoint()
        assert (await served.client.get("/v1/status")).status_code == 200


async def test_many_requests_leave_no_slot_taken(serve: Serve) -> None:
    async with serve(requests_max=4, body_bytes_max=2048) as served:
        for n in range(30):
            await served.client.post("/v1/transactions", content=bytes(100 * n), headers=OCTETS)
        while metric(served, "supervm_http_requests_depth"):
            await trio.lowlevel.checkpoint()
        assert metric(served, "supervm_http_requests_depth") == 0
        families = text_string_to_metric_families((await served.client.get("/metrics")).text)
        counted = next(family for family in families if family.name == "supervm_http_requests")
        assert sum(sample.value for sample in counted.samples) == 30


async def test_the_room_for_bodies_is_shared_and_given_back(serve: Serve) -> None:
    async with serve(body_bytes_max=4096, bodies_bytes_max=6000) as served:
        served.ledger.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(post, served, b"ok" + bytes(4000))
            while not served.bodies.held_bytes:
                await trio.lowlevel.checkpoint()
            refused = await served.client.post(
                "/v1/transactions", content=b"ok" + bytes(4000), headers=OCTETS
            )
            assert (refused.status_code, refused.json()["code"]) == (503, "Overloaded")
            served.ledger.gate.set()
        assert served.bodies.held_bytes == 0


async def post(served: Served, body: bytes) -> None:
    await served.client.post("/v1/transactions", content=body, headers=OCTETS)


# Where it listens, and for whom


async def test_a_port_in_use_is_an_error_that_names_it(served: Served, tmp_path: Path) -> None:
    with pytest.raises(PortInUse, match=str(served.host_port[1])) as raised:
        await refused(tmp_path, HttpConfig(listen=served.surface.address))
    assert raised.value.value == served.surface.address
    assert (await served.client.get("/v1/status")).status_code == 200


async def test_a_second_listener_that_fails_leaves_the_first_port_free(
    served: Served, tmp_path: Path
) -> None:
    free = f"127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(PortInUse):
        await refused(tmp_path, HttpConfig(listen=free, metrics_listen=served.surface.address))
    open_socket(free).close()


async def refused(data_dir: Path, config: HttpConfig) -> None:
    """Open the component where it must not open, and raise what it raises."""
    requires = {Role.APPLICATION: LedgerDouble(), Role.ROUTING: None}
    error: BaseException | None = None
    async with component_context(data_dir / "refused", Role.SURFACE, "http", requires=requires) as ctx:
        try:
            async with http_component(FactsDouble()).open(ctx, config):
                raise AssertionError("it opened")
        except ListenError as raised:
            error = raised
    if error is not None:
        raise error


async def test_port_zero_reports_the_real_port(served: Served) -> None:
    assert served.host_port[1] > 0


@pytest.mark.parametrize(
    "listen", ["127.0.0.1", "127.0.0.1:x", ":80", "127.0.0.1:70000", "::1:80", "", "a:-1"]
)
def test_what_is_no_address_is_refused_by_name(listen: str) -> None:
    with pytest.raises(ListenError, match="HOST:PORT"):
        HttpConfig(listen=listen)


def test_ipv6_stands_in_brackets() -> None:
    assert parse_listen("[::1]:8645") == ("::1", 8645)


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:80", "node.example:80"])
def test_other_machines_need_a_token_or_a_plain_word(listen: str) -> None:
    for config in (HttpConfig(listen=listen), HttpConfig(metrics_listen=listen)):
        with pytest.raises(ListenError, match=r"api\.token"):
            check_exposure(config)
    check_exposure(HttpConfig(listen=listen, token="a long enough token"))
    check_exposure(HttpConfig(listen=listen, insecure_listen=True))


def test_a_short_token_is_refused_and_a_token_is_not_in_the_repr() -> None:
    with pytest.raises(ValueError, match="16"):
        HttpConfig(token="short")
    assert "long enough" not in repr(HttpConfig(token="a long enough token"))


async def test_with_a_token_only_the_life_signs_are_open(serve: Serve) -> None:
    token = "correct horse battery"
    async with serve(token=token) as served:
        good = {"authorization": f"Bearer {token}"}
        for path in ("/v1/status", "/metrics", "/summary", "/openapi.json", "/v1/events", "/nope"):
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": token}):
                answer = await served.client.get(path, headers=headers)
                assert answer.status_code == 401, path
                assert answer.headers["www-authenticate"] == "Bearer"
        assert (await served.client.get("/v1/status", headers=good)).status_code == 200
        for path in ("/healthz", "/readyz"):
            assert (await served.client.get(path)).status_code == 200


async def test_closing_ends_streams_at_once_and_lets_a_request_finish(tmp_path: Path, serve: Serve) -> None:
    async with (
        serve() as served,
        trio.open_nursery() as nursery,
        served.client.stream("GET", "/v1/events") as events,
    ):
        assert events.status_code == 200
        served.ledger.gate = trio.Event()
        answers: list[int] = []

        async def ask() -> None:
            answers.append((await served.client.get("/v1/status")).status_code)

        nursery.start_soon(ask)
        while metric(served, "supervm_http_requests_depth") < 2:
            await trio.lowlevel.checkpoint()
        await served.surface.drain(0)
        assert [line async for line in events.aiter_lines() if line] == ["retry: 1000"]
        not_ready = await served.client.get("/readyz")
        assert not_ready.json()["reasons"] == ["the node is draining"]
        served.ledger.gate.set()
    assert answers == [200]


async def test_closing_does_not_wait_for_a_client_for_ever(tmp_path: Path, autojump_clock: object) -> None:
    ledger, facts = LedgerDouble(), FactsDouble()
    ledger.gate = trio.Event()
    requires = {Role.APPLICATION: ledger, Role.ROUTING: None}
    component = http_component(facts)
    async with component_context(tmp_path, Role.SURFACE, "http", requires=requires) as ctx:
        ctx.metrics = facts.metrics
        async with component.open(ctx, HttpConfig(listen="127.0.0.1:0")) as surface:
            host, _, port = surface.address.rpartition(":")
            stream = await trio.open_tcp_stream(host, int(port))
            await stream.send_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n")
            while not facts.metrics.value("supervm_http_requests_depth"):
                await trio.lowlevel.checkpoint()
        assert facts.metrics.value("supervm_http_connections_depth") == 0
