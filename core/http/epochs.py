"""/v1/epoch: how far the epoch is from ending early, and the operator's word that it should (CONS-50)."""

from starlette.requests import Request
from starlette.responses import Response

from supervm.contracts.application import EpochEnder, EpochWish
from supervm.http import views
from supervm.http.api import Api, api_of
from supervm.http.guard import operator_only
from supervm.http.parameters import no_query
from supervm.http.problems import Problem, bad_request
from supervm.http.responses import JsonResponse


async def epoch(request: Request) -> Response:
    no_query(request)
    return JsonResponse(views.epoch(known(ender_of(api_of(request)).wish())))


async def end(request: Request) -> Response:
    """Sign that the epoch should end; the answer doesn't wait for others."""
    operator_only(request, "end an epoch")
    no_query(request)
    async with api_of(request).bodies.read(request) as body:
        if body:
            raise bad_request("UnexpectedBody", "body", f"{len(body)} bytes", "send none")
    return JsonResponse(views.epoch(known(ender_of(api_of(request)).end_epoch())), 202)


def ender_of(api: Api) -> EpochEnder:
    """The engine, where it ends epochs early; else a problem."""
    ender = api.ledger.epoch_ender
    if ender is None:
        raise not_a_validator()
    return ender


def known(wish: EpochWish | None) -> EpochWish:
    if wish is None:
        raise not_a_validator()
    return wish


def not_a_validator() -> Problem:
    return Problem(
        status=409,
        code="NoValidator",
        detail="this node doesn't vote on when an epoch ends",
        mend="ask the validators of a chain of several; /readyz says whether one votes now",
    )
