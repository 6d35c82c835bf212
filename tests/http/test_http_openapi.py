"""The OpenAPI document: it and the routes agree, both ways, and a fuzzer that follows it finds no fault."""

import json
import re
from typing import Any

import hypothesis
import pytest
import schemathesis
import trio
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from supervm.contracts.routing import Service
from supervm.http.app import ROUTES
from supervm.http.config import HttpConfig
from supervm.http.openapi import PATHS, document
from supervm.http.schemas import LANES, SCHEMAS, SERVICES, STATUSES
from supervm.types.receipt import Status
from supervm.types.transaction import Lane
from tests.http.conftest import Serve
from tests.http.contract import openapi

EXAMPLES = 25
TOKEN = "a long enough token"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
    negative_data_rejection,
]

# A schema can't say all that these want: bytes that are a transaction; a token only of an account.
BEYOND_SCHEMA = ("/v1/transactions", "/v1/proofs/{id}")


def routed() -> set[tuple[str, str]]:
    return {
        (method.lower(), route.path) for route in ROUTES for method in route.methods or () if method != "HEAD"
    }


def described() -> set[tuple[str, str]]:
    return {(method, path) for path, operations in PATHS.items() for method in operations}


def test_every_route_is_described_and_every_described_route_is_there() -> None:
    assert routed() == described()


def test_every_path_parameter_of_a_route_is_described() -> None:
    for path, operations in PATHS.items():
        for operation in operations.values():
            named = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))


def test_names_in_the_document_are_the_names_in_the_code() -> None:
    assert [status.name.lower() for status in Status] == STATUSES
    assert [lane.name for lane in Lane] == LANES
    assert [str(service.name).lower() for service in Service] == SERVICES
    body = PATHS["/v1/transactions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["anyOf"][1]["maxItems"] == HttpConfig().transactions_max
    wait = PATHS["/v1/transactions/{digest}"]["get"]["parameters"][1]
    assert wait["schema"]["maximum"] == HttpConfig().wait_max_s


def test_operation_names_are_unique_and_every_error_is_a_problem() -> None:
    operations = [each for path in PATHS.values() for each in path.values()]
    names = [each["operationId"] for each in operations]
    assert len(set(names)) == len(names)
    for operation in operations:
        assert {"400", "401", "500", "503"} <= set(operation["responses"])
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert list(response["content"]) == ["application/problem+json"]


def test_every_schema_that_is_referred_to_is_there_and_none_is_left_over() -> None:
    text = json.dumps(document())
    used = set(re.findall(r"#/components/schemas/(\w+)", text))
    assert used == set(SCHEMAS)


def test_the_document_is_valid_openapi() -> None:
    schemathesis.openapi.from_dict(openapi()).validate()


# A stream without end is for tests/http/test_http_events.py.
@pytest.mark.parametrize(("method", "path"), sorted(described() - {("get", "/v1/events")}))
async def test_a_fuzzer_that_follows_the_document_finds_no_fault(
    serve: Serve, method: str, path: str
) -> None:
    async with serve(token=TOKEN) as served:
        headers = {"authorization": f"Bearer {TOKEN}"}
        await served.client.post("/v1/transactions", json={"bytes": "0x6f6b"}, headers=headers)
        served.ledger.commit()
        await trio.to_thread.run_sync(fuzz, f"http://{served.surface.address}", method, path)
        assert served.log.errors == []


def fuzz(base: str, method: str, path: str) -> None:
    schema = schemathesis.openapi.from_dict(openapi())
    # Too many in one request is refused too, by the answer that HTTP has for it.
    schema.config.checks.negative_data_rejection.expected_statuses += ["413"]
    operation: Any = schema[path][method.upper()]
    checks = CHECKS if path in BEYOND_SCHEMA else [*CHECKS, positive_data_acceptance]
    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
        strategy = operation.as_strategy(generation_mode=mode)
        follow(base, strategy, checks)


def follow(base: str, strategy: Any, checks: list[Any]) -> None:
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=strategy)
    def call(case: Any) -> None:
        headers = {"authorization": f"Bearer {TOKEN}"}
        case.call_and_validate(base_url=base, checks=checks, timeout=120, headers=headers)

    try:
        call()
    except hypothesis.errors.Unsatisfiable:
        # Nothing to get wrong in a route without parameters.
        return
