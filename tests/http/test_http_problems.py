"""Bad requests: each has one clear answer, and the node goes on serving.

Every answer here is also held against the document: a problem, of a status that the route describes.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from supervm.contracts.storage import StoreFailed
from supervm.http.problems import Problem
from supervm.http.submissions import JSON, MEDIA_TYPES, PACKED, read_submission
from supervm.kernel.errors import RoleUnavailable
from supervm.storage.errors import Pruned
from tests.http.conftest import Serve, Served
from tests.http.doubles import GOLD, FactsDouble

OCTETS = {"content-type": "application/octet-stream"}
ID = f"0x{GOLD.hex()}"


@pytest.mark.parametrize(
    ("path", "code", "value"),
    [
        ("/v1/transactions/0x12", "BadHex", "0x12"),
        (f"/v1/transactions/{ID[:-1]}g", "BadHex", f"{ID[:-1]}g"),
        (f"/v1/transactions/{ID[2:]}", "BadHex", ID[2:]),
        (f"/v1/transactions/{ID}?wait=-1", "BadNumber", "-1"),
        (f"/v1/transactions/{ID}?wait=61", "BadNumber", "61"),
        (f"/v1/transactions/{ID}?wait=nan", "BadNumber", "nan"),
        (f"/v1/transactions/{ID}?wait=1&wait=2", "RepeatedParameter", "wait"),
        (f"/v1/transactions/{ID}?wiat=1", "UnknownParameter", "wiat"),
        ("/v1/accounts/alice", "BadHex", "alice"),
        (f"/v1/accounts/{ID}?after=7", "BadHex", "7"),
        ("/v1/objects/%00", "BadHex", "\x00"),
        ("/v1/tokens/0x", "BadHex", "0x"),
        ("/v1/blocks/-1", "BadReference", "-1"),
        ("/v1/blocks/01", "BadReference", "01"),
        (f"/v1/blocks/{2**64}", "BadReference", str(2**64)),
        ("/v1/blocks/latest", "BadReference", "latest"),
        ("/v1/blocks/0xabc", "BadHex", "0xabc"),
        ("/v1/blocks?limit=0", "BadNumber", "0"),
        ("/v1/blocks?limit=101", "BadNumber", "101"),
        ("/v1/blocks?from=1e3", "BadNumber", "1e3"),
        ("/v1/blocks?from=%D9%A3", "BadNumber", "\u0663"),
        (f"/v1/proofs/{ID}?kind=block", "BadChoice", "block"),
        (f"/v1/proofs/{ID}?kind=object&token={ID}", "BadChoice", ID),
        ("/v1/nodes?tier=L5", "BadChoice", "L5"),
        ("/v1/nodes?services=blocks,pizza", "BadChoice", "pizza"),
        ("/v1/nodes?region=", "BadText", ""),
        ("/v1/nodes?limit=11", "BadNumber", "11"),
        ("/v1/nodes?max_load=101", "BadNumber", "101"),
        ("/v1/nodes/0x0", "BadHex", "0x0"),
        ("/v1/events?after=7", "BadEventId", "7"),
        ("/v1/status?x=1", "UnknownParameter", "x"),
        ("/healthz?x", "UnknownParameter", "x"),
    ],
)
async def test_a_bad_parameter_is_a_400_that_names_it(
    served: Served, path: str, code: str, value: str
) -> None:
    answer = await served.client.get(path)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["value"]) == (400, code, value)
    assert problem["mend"]
    assert served.log.errors == []


async def test_an_unknown_parameter_names_the_nearest_known_one(served: Served) -> None:
    assert "did you mean wait?" in (await served.client.get(f"/v1/transactions/{ID}?wiat=1")).json()["mend"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "BadJson"),
        (b"{", "BadJson"),
        (b"\xff\xfe", "BadJson"),
        (b"7", "BadJson"),
        (b'"0x00"', "BadJson"),
        (b"NaN", "BadJson"),
        (b"[" * 100_000, "BadJson"),
        (b"1" * 10_000, "BadJson"),
        (b'{"bytes": "0x00", "bytes": "0x01"}', "BadJson"),
        (b"{}", "BadHex"),
        (b'{"bytes": 7}', "BadHex"),
        (b'{"bytes": "00"}', "BadHex"),
        (b'{"bytes": "0x0"}', "BadHex"),
        (b'{"bytes": "0x 0"}', "BadHex"),
        (b'{"bytes": "0x00", "more": 1}', "UnknownField"),
        (b"[]", "Empty"),
        (b'["0x00", null]', "BadHex"),
        (b'[["0x00"]]', "BadHex"),
    ],
)
async def test_a_bad_json_body_is_a_400(served: Served, body: bytes, code: str) -> None:
    answer = await served.client.post("/v1/transactions", content=body, headers={"content-type": JSON})
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert served.ledger.submitted == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "Empty"),
        (b"\x01", "Truncated"),
        (b"\x01\x00\x00\x00", "Truncated"),
        (b"\xff\xff\xff\xffab", "Truncated"),
        (b"\x01\x00\x00\x00a\x00", "Truncated"),
    ],
)
async def test_a_bad_stream_of_transactions_is_a_400_that_names_the_item(
    served: Served, body: bytes, code: str
) -> None:
    answer = await served.client.post("/v1/transactions", content=body, headers={"content-type": PACKED})
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert served.ledger.submitted == []


async def test_one_refused_transaction_is_a_422_with_its_reason(served: Served) -> None:
    answer = await served.client.post("/v1/transactions", content=b"twice", headers=OCTETS)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["field"]) == (422, "Equivocated", "nonce")
    assert problem["conflict"] == ID


async def test_a_full_mempool_is_a_429_that_says_when_to_come_back(served: Served) -> None:
    one = await served.client.post("/v1/transactions", content=b"full", headers=OCTETS)
    many = await served.client.post("/v1/transactions", json=["0x" + b"full".hex()] * 3)
    for answer in (one, many):
        assert (answer.status_code, answer.json()["code"]) == (429, "MempoolFull")
        assert answer.headers["retry-after"] == "2"
    assert len(many.json()["transactions"]) == 3


@pytest.mark.parametrize(
    "media", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
)
async def test_a_body_of_another_type_is_a_415_that_lists_ours(served: Served, media: str) -> None:
    answer = await served.client.post("/v1/transactions", content=b"ok", headers={"content-type": media})
    assert (answer.status_code, answer.json()["code"]) == (415, "UnsupportedMediaType")
    assert all(known in answer.json()["mend"] for known in MEDIA_TYPES)


async def test_a_compressed_body_is_a_415(served: Served) -> None:
    headers = {**OCTETS, "content-encoding": "gzip"}
    answer = await served.client.post("/v1/transactions", content=b"ok", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "UnsupportedEncoding")


async def test_a_content_type_may_have_parameters_and_any_case(served: Served) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    answer = await served.client.post("/v1/transactions", content=b'{"bytes":"0x6f6b"}', headers=headers)
    assert answer.status_code == 202


async def test_a_path_that_is_not_there_is_a_404_problem(served: Served) -> None:
    for path in ("/", "/v1", "/v1/", "/v1/status/", "/v1/nope", "/x/nope", "/v1/blocks/1/2"):
        answer = await served.client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "NoSuchRoute"), path


async def test_a_method_that_a_route_does_not_have_is_a_405_that_names_those_it_has(served: Served) -> None:
    for method, path, allowed in (
        ("GET", "/v1/transactions", "POST"),
        ("POST", "/v1/status", "GET, HEAD"),
        ("DELETE", "/v1/blocks", "GET, HEAD"),
        ("OPTIONS", "/v1/status", "GET, HEAD"),
    ):
        answer = await served.client.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (405, "MethodNotAllowed")
        assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    "failure", [RoleUnavailable("storage", "restarting"), StoreFailed("the disk is gone")]
)
async def test_a_component_that_is_away_is_a_503_and_not_a_fault_of_the_request(
    served: Served, failure: Exception
) -> None:
    served.ledger.failure = failure
    answer = await served.client.get("/v1/status")
    assert (answer.status_code, answer.json()["code"]) == (503, type(failure).__name__)
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("path", ["/v1/blocks/3", "/v1/blocks?from=3", f"/v1/transactions/{ID}"])
async def test_what_was_pruned_is_a_410_with_the_lowest_block_kept(served: Served, path: str) -> None:
    for _ in range(4):
        served.ledger.commit()
    served.ledger.failure = Pruned(3, 100)
    # The listing asks for the status first, which is there.
    served.ledger.fails_after = 1 if "?" in path else 0
    answer = await served.client.get(path)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (410, "Pruned")
    assert (problem["value"], problem["oldest_block"]) == ("3", "100")
    assert "retry-after" not in answer.headers


async def test_the_newest_blocks_begin_at_the_lowest_one_kept(served: Served) -> None:
    for _ in range(5):
        served.ledger.commit()
    served.ledger.oldest_block = 3
    assert (await served.client.get("/v1/status")).json()["oldest_block"] == "3"
    answer = (await served.client.get("/v1/blocks")).json()
    assert [block["header"]["height"] for block in answer["blocks"]] == ["3", "4", "5"]


async def test_a_fault_of_ours_is_a_500_without_its_cause_and_one_log_line_with_it(served: Served) -> None:
    served.ledger.failure = ZeroDivisionError("secret detail")
    answer = await served.client.get("/v1/status")
    assert (answer.status_code, answer.json()["code"]) == (500, "InternalError")
    assert "secret detail" not in answer.text
    (event,) = served.log.errors
    assert event[1] == "request_failed"
    assert event[2]["exc_info"] is served.ledger.failure
    served.ledger.failure = None
    assert (await served.client.get("/v1/status")).status_code == 200


async def test_a_plugins_route_is_under_its_own_name_and_its_failure_is_its_own(serve: Serve) -> None:
    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"tier {request.app.state.node.facts.tier()}")

    async def broken(request: Request) -> PlainTextResponse:
        raise LookupError("plugin bug")

    facts = FactsDouble()
    facts.routes = {"greeter": [Route("/hello", hello), Route("/broken", broken)]}
    async with serve(facts) as served:
        assert (await served.client.get("/x/greeter/hello")).text == "tier L3"
        assert (await served.client.get("/x/greeter/broken")).json()["code"] == "InternalError"
        assert (await served.client.get("/x/greeter/none")).json()["code"] == "NoSuchRoute"
        assert len(served.log.errors) == 1
        assert (await served.client.get("/v1/status")).status_code == 200


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(MEDIA_TYPES), st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_body_is_read_or_refused_and_never_anything_else(media: str, body: bytes) -> None:
    try:
        found = read_submission(media, body, transactions_max=8)
    except Problem as problem:
        assert problem.status in (400, 413)
        assert problem.code
    else:
        assert 1 <= len(found.transactions) <= 8


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("0x00"),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | st.just("bytes"), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(json_values)
def test_any_json_is_read_or_refused_and_never_anything_else(value: Any) -> None:
    import json

    try:
        found = read_submission(JSON, json.dumps(value).encode(), transactions_max=8)
    except Problem as problem:
        assert problem.status == 400
    else:
        assert found.many == isinstance(value, list)
