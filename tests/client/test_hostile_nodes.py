"""What a node answers is a stranger's word: it neither breaks its client nor holds it up for long."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from supervm.cli import submitting
from supervm.client.http import RETRY_AFTER_S_MAX, AnswerInvalid, NodeClient, RequestRefused

DIGEST = "0x" + "ab" * 32


def client_of(respond: Callable[[httpx.Request], httpx.Response]) -> NodeClient:
    client = NodeClient("http://node.invalid")
    client._http.close()
    client._http = httpx.Client(base_url=client.url, transport=httpx.MockTransport(respond))
    return client


def answering(status: int, body: Any, **headers: str) -> NodeClient:
    text = json.dumps(body)  # NaN and Infinity as Python writes and reads them
    return client_of(lambda request: httpx.Response(status, text=text, headers=headers))


PAUSES = [
    (2.5, 2.5),
    (0, 0),
    (1e300, RETRY_AFTER_S_MAX),
    (10**400, RETRY_AFTER_S_MAX),
    (float("inf"), RETRY_AFTER_S_MAX),
    (float("nan"), None),
    (-1, None),
    ("5", None),
    (True, None),
    ([1], None),
    (None, None),
]


@pytest.mark.parametrize(("stated", "pause_s"), PAUSES)
def test_a_pause_is_a_bounded_number_of_seconds_whatever_the_node_asks_for(
    stated: object, pause_s: float | None
) -> None:
    with answering(429, {"code": "MempoolFull", "retry_after_s": stated}) as client:
        with pytest.raises(RequestRefused) as refused:
            client.send([b"a"])
        assert refused.value.retry_after_s == pause_s
    item = {"digest": DIGEST, "error": {"code": "MempoolFull", "retry_after_s": stated}}
    with answering(202, {"transactions": [item]}) as client:
        (refusal,) = client.send([b"a"]).refusals
        assert refusal is not None and refusal.retry_after_s == pause_s


@pytest.mark.parametrize(
    ("header", "pause_s"),
    [("7", 7.0), ("9" * 400, RETRY_AFTER_S_MAX), ("\u00b2", None), ("-3", None), ("soon", None)],
)
def test_a_retry_after_header_counts_where_the_document_says_nothing(
    header: str, pause_s: float | None
) -> None:
    headers = httpx.Headers({"retry-after": header}, encoding="utf-8")
    with client_of(lambda request: httpx.Response(503, text="{}", headers=headers)) as client:
        with pytest.raises(RequestRefused) as refused:
            client.get("/v1/status")
        assert refused.value.retry_after_s == pause_s


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {"transactions": "all"},
        {"transactions": []},
        {"transactions": [None]},
        {"transactions": [{"digest": 5}]},
        {"transactions": [{"digest": DIGEST, "error": "full"}]},
        {"transactions": [{"digest": DIGEST, "error": True}]},
    ],
)
def test_an_answer_of_another_shape_is_told_as_such(answer: Any) -> None:
    with answering(202, answer) as client, pytest.raises(AnswerInvalid):
        client.send([b"a"])


def test_an_answer_nested_without_end_is_no_answer() -> None:
    deep = "[" * 200_000
    with client_of(lambda request: httpx.Response(200, text=deep)) as client, pytest.raises(AnswerInvalid):
        client.status()
    with (
        client_of(lambda request: httpx.Response(500, text=deep)) as client,
        pytest.raises(RequestRefused, match="status 500"),
    ):
        client.status()


def test_events_come_as_they_were_sent() -> None:
    text = (
        'id: 7\nevent: block\ndata: {"height":\ndata: 3}\n\n: still here\nretry: 5\r\n\r\ndata:4\n\ndata: cut'
    )
    for size in (1, 5, 1000):
        pieces = [text[at : at + size].encode() for at in range(0, len(text), size)]
        with client_of(lambda request, pieces=pieces: httpx.Response(200, content=iter(pieces))) as client:
            assert list(client.events()) == [("7", "block", {"height": 3}), ("", "message", 4)]


@pytest.mark.parametrize(
    "sent",
    [
        [b"data: soon\n\n"],
        [b"data: " + b"[" * 100_000 + b"\n\n"],
        [b"x" * 2**16] * 20,
        [b"data: " + b" " * 2**16 + b"\n"] * 20,
    ],
    ids=["no JSON", "deep", "one line without end", "one event without end"],
)
def test_what_is_no_bounded_event_ends_the_listening(sent: list[bytes]) -> None:
    client = client_of(lambda request: httpx.Response(200, content=iter(sent)))
    with client, pytest.raises(AnswerInvalid):
        next(client.events())


def test_a_stream_without_events_holds_nothing_of_it() -> None:
    """Fields that no one asked for are let go, each as it comes."""
    sent = (b"field%d: %s\n" % (at, b"x" * 2**16) for at in range(40))
    with client_of(lambda request: httpx.Response(200, content=sent)) as client:
        assert list(client.events()) == []


def test_a_file_is_sent_again_after_the_pauses_that_the_node_asks_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = httpx.Response(429, json={"code": "MempoolFull", "retry_after_s": 10**9})
    partly = {"digest": DIGEST, "error": {"code": "MempoolFull", "retry_after_s": 3}}
    taken = httpx.Response(202, json={"transactions": [{"digest": DIGEST}]})
    answers = iter([full, httpx.Response(202, json={"transactions": [partly]}), httpx.Response(503), taken])
    pauses: list[float] = []
    monkeypatch.setattr(submitting.time, "sleep", pauses.append)
    with client_of(lambda request: next(answers)) as client:
        assert submitting._send(client, [b"a"]).digests == (DIGEST,)
    assert pauses == [RETRY_AFTER_S_MAX, 3.0, submitting.FULL_WAIT_S]
