"""/v1/temperature: what of the node's store lies in which class, and what would move and why."""

from starlette.requests import Request
from starlette.responses import Response

from supervm.http import views
from supervm.http.api import api_of
from supervm.http.migration import moves_of
from supervm.http.parameters import no_query
from supervm.http.problems import Problem
from supervm.http.responses import JsonResponse


async def temperature(request: Request) -> Response:
    no_query(request)
    store = moves_of(api_of(request)).tempered
    if store is None:
        raise Problem(
            status=404,
            code="NotTiered",
            detail="the node's storage has no classes to move rows between",
            mend="it has with storage.use = tiered",
        )
    return JsonResponse(views.temperature(await store.temperature()))
