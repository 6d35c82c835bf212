"""/v1/migration: whether the node's store is being moved to another backend, and the word to do so."""

from starlette.requests import Request
from starlette.responses import Response

from supervm.http import parameters, views
from supervm.http.api import Api, api_of
from supervm.http.guard import operator_only
from supervm.http.parameters import no_query
from supervm.http.ports import Moves
from supervm.http.problems import Problem, bad_request
from supervm.http.responses import JsonResponse
from supervm.storage.errors import MoveBusy, MoveRefused


async def migration(request: Request) -> Response:
    no_query(request)
    return JsonResponse(views.migration(moves_of(api_of(request)).facts))


async def begin(request: Request) -> Response:
    """Begin; the answer doesn't wait for it."""
    operator_only(request, "move its store")
    no_query(request)
    to = parameters.word(request.path_params["to"], "to")
    async with api_of(request).bodies.read(request) as body:
        if body:
            raise bad_request("UnexpectedBody", "body", f"{len(body)} bytes", "send none")
    moves = moves_of(api_of(request))
    try:
        moves.ask(to)
    except (MoveBusy, MoveRefused) as error:
        code = type(error).__name__
        raise Problem(status=409, code=code, detail=error.problem, value=to, mend=error.mend) from None
    api_of(request).log.info("move_asked_for", to=to)
    return JsonResponse(views.migration(moves.facts), 202)


def moves_of(api: Api) -> Moves:
    """What the node does with its store; a problem until it has one."""
    moves = api.facts.moves
    if moves is None:
        raise Problem(
            status=503,
            code="NotReady",
            detail="the node is starting",
            mend="try again; /readyz says when it is ready",
            retry_after_s=1.0,
        )
    return moves
