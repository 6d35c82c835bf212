"""Holds real answers against the OpenAPI document: path, method, status, content type, body."""

import json
import re
from functools import lru_cache
from typing import Any

import httpx
from jsonschema import Draft202012Validator

from supervm.http.openapi import document


@lru_cache(maxsize=1)
def openapi() -> dict[str, Any]:
    described: dict[str, Any] = json.loads(json.dumps(document()))
    return described


def operation_of(method: str, path: str) -> dict[str, Any] | None:
    """The described operation of a request, None where the document has none."""
    for template, operations in sorted(openapi()["paths"].items(), key=lambda item: item[0].count("{")):
        if re.fullmatch(re.sub(r"\{[a-z_]+\}", "[^/]+", template), path):
            found = operations.get("get" if method == "HEAD" else method.lower())
            return dict(found) if found else None
    return None


def validate(schema: dict[str, Any], value: Any) -> None:
    Draft202012Validator({**schema, "components": openapi()["components"]}).validate(value)


async def check_answer(response: httpx.Response) -> None:
    """An httpx response hook: every answer of a test is one that the document describes."""
    request = response.request
    media = response.headers.get("content-type", "").partition(";")[0]
    operation = operation_of(request.method, request.url.path)
    if media == "text/event-stream":
        assert operation is not None
        return
    body = await response.aread()
    if operation is None or (response.status_code == 404 and "404" not in operation["responses"]):
        # Not described: then it is one of the two answers for what does not exist.
        assert response.status_code in (401, 404, 405) or request.url.path.startswith("/x/")
        described: dict[str, Any] = {"application/problem+json": {"schema": {"$ref": PROBLEM}}}
    else:
        described = operation["responses"][str(response.status_code)]["content"]
        for header in ("retry-after",) if response.status_code in (429, 503) else ():
            assert response.headers[header].isdigit()
    if request.method == "HEAD":
        assert body == b""
    elif not request.url.path.startswith("/x/"):
        value = json.loads(body) if "json" in media else body.decode()
        validate(described[media]["schema"], value)
        if media == "application/problem+json":
            assert value["status"] == response.status_code
            assert "Traceback" not in body.decode()


PROBLEM = "#/components/schemas/Problem"
