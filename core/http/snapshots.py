"""/v1/snapshots: those that the node keeps, and one more for its operator."""

from starlette.requests import Request
from starlette.responses import Response

from supervm.http import views
from supervm.http.api import api_of
from supervm.http.guard import operator_only
from supervm.http.parameters import no_query
from supervm.http.ports import Snapshots
from supervm.http.problems import Problem, bad_request
from supervm.http.responses import JsonResponse
from supervm.storage.errors import SnapshotBusy


async def snapshots(request: Request) -> Response:
    if request.method == "POST":
        return await _take(request)
    no_query(request)
    return await _answer(_of(request))


async def _take(request: Request) -> Response:
    """Begin with one; the answer doesn't wait for it. It is listed once it is whole."""
    operator_only(request, "take snapshots")
    no_query(request)
    async with api_of(request).bodies.read(request) as body:
        if body:
            raise bad_request("UnexpectedBody", "body", f"{len(body)} bytes", "send none")
    kept = _of(request)
    try:
        kept.ask()
    except SnapshotBusy as error:
        raise Problem(
            status=409, code="SnapshotBusy", detail=error.problem, mend="wait until it is listed"
        ) from None
    api_of(request).log.info("snapshot_asked_for")
    return await _answer(kept, 202)


async def _answer(kept: Snapshots, status: int = 200) -> Response:
    found = [views.snapshot(one) for one in await kept.listed()]
    asked = status == 202
    return JsonResponse(
        {"snapshots": found, "taking": kept.taking or asked, "last_failure": kept.last_failure}, status
    )


def _of(request: Request) -> Snapshots:
    kept = api_of(request).ledger.snapshots
    if kept is None:
        raise Problem(
            status=503,
            code="NotReady",
            detail="the chain is opening",
            mend="try again; /readyz says when it is ready",
            retry_after_s=1.0,
        )
    return kept
