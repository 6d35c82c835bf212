"""The route table, and how errors become problems. `openapi.py` describes the same routes."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from supervm.contracts.storage import StorageError
from supervm.http import (
    epochs,
    events,
    ledger,
    migration,
    network,
    plugins,
    probes,
    snapshots,
    temperature,
    transactions,
)
from supervm.http.api import Api
from supervm.http.guard import TOLD, Guard, internal_error
from supervm.http.parameters import no_query
from supervm.http.problems import Problem, of_input
from supervm.http.responses import JsonResponse
from supervm.kernel.component import Log, Metrics
from supervm.kernel.errors import RoleUnavailable
from supervm.storage.errors import Pruned
from supervm.types.errors import InvalidInput, shorten


async def openapi(request: Request) -> Response:
    no_query(request)
    return JsonResponse(_document())


PROBES: tuple[Route, ...] = (
    Route("/healthz", probes.healthz),
    Route("/readyz", probes.readyz),
    Route("/metrics", probes.metrics),
    Route("/summary", probes.summary),
)

ROUTES: tuple[Route, ...] = (
    *PROBES,
    Route("/openapi.json", openapi),
    Route("/v1/status", ledger.status),
    Route("/v1/transactions", transactions.submit, methods=["POST"]),
    Route("/v1/transactions/{digest}", transactions.transaction),
    Route("/v1/accounts/{address}", ledger.account),
    Route("/v1/objects/{id}", ledger.ledger_object),
    Route("/v1/tokens/{id}", ledger.token),
    Route("/v1/blocks", ledger.blocks),
    Route("/v1/blocks/{reference}", ledger.block),
    Route("/v1/proofs/{id}", ledger.proof),
    Route("/v1/handovers", ledger.handovers),
    Route("/v1/events", events.events),
    Route("/v1/nodes", network.nodes),
    Route("/v1/nodes/{id}", network.node),
    Route("/v1/snapshots", snapshots.snapshots, methods=["GET", "POST"]),
    Route("/v1/migration", migration.migration),
    Route("/v1/migration/{to}", migration.begin, methods=["POST"]),
    Route("/v1/temperature", temperature.temperature),
    Route("/v1/epoch", epochs.epoch),
    Route("/v1/epoch/end", epochs.end, methods=["POST"]),
    Route("/v1/plugins", plugins.plugins),
    Route("/v1/plugins/{id}/load", plugins.load, methods=["POST"]),
    Route("/v1/plugins/{id}/unload", plugins.unload, methods=["POST"]),
    Route("/v1/plugins/{id}/reset", plugins.reset, methods=["POST"]),
)


def build_app(api: Api, metrics: Metrics, log: Log, routes: Sequence[BaseRoute] = ROUTES) -> ASGIApp:
    """The API as an ASGI application, guarded."""
    app = Starlette(
        routes=[*routes, *plugin_routes(api.facts.http_routes())] if routes is ROUTES else routes,
        exception_handlers={
            Problem: _problem,
            InvalidInput: _invalid,
            HTTPException: _http,
            RoleUnavailable: _unavailable,
            Pruned: _pruned,
            StorageError: _unavailable,
            Exception: _internal,
        },
    )
    # A path with a slash too many is another path: no redirect to guess what was meant.
    app.router.redirect_slashes = False
    app.state.node = api
    return Guard(app, api.config, metrics, log, api.clock.monotonic)


def plugin_routes(added: Mapping[str, Sequence[Any]]) -> list[BaseRoute]:
    """Each plugin's routes under `/x/PLUGIN-ID`, where they can't shadow ours (PLUG-13)."""
    return [Mount(f"/x/{plugin}", routes=list(routes)) for plugin, routes in sorted(added.items()) if routes]


@lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    # Built when it is first asked for: a node that nobody asks need not hold it.
    from supervm.http import openapi as description

    return description.document()


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidInput)
    return of_input(error).response()


async def _http(request: Request, error: Exception) -> Response:
    """Starlette's own: no such path, or not by that method."""
    assert isinstance(error, HTTPException)
    path = shorten(request.url.path)
    if error.status_code == 405:
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        problem = Problem(
            status=405,
            code="MethodNotAllowed",
            detail=f"{request.method} {path} (use {allowed})",
            value=shorten(request.method),
            mend=allowed,
            headers={"allow": allowed},
        )
    elif error.status_code == 404:
        problem = Problem(
            status=404, code="NoSuchRoute", detail=path, value=path, mend="/openapi.json lists the routes"
        )
    else:
        problem = Problem(status=error.status_code, code="Refused", detail=shorten(error.detail))
    return problem.response()


async def _unavailable(request: Request, error: Exception) -> Response:
    """A component that the answer needs is away or failed: the request was right and may come again."""
    api: Api = request.app.state.node
    api.log.warning("dependency_failed", path=request.url.path, exc_info=error)
    return Problem(
        status=503,
        code=type(error).__name__,
        detail=f"the node can't answer now: {error}",
        mend="try again; /readyz and /v1/plugins say what is wrong",
        retry_after_s=1.0,
    ).response()


async def _pruned(request: Request, error: Exception) -> Response:
    """It was here and is gone for good: not the node's fault, and nothing to come back for (STO-65)."""
    assert isinstance(error, Pruned)
    return Problem(
        status=410,
        code="Pruned",
        detail=f"{error.problem}: {error.subject}",
        value=str(error.height),
        mend=error.mend,
        extra={"oldest_block": str(error.oldest)},
    ).response()


async def _internal(request: Request, error: Exception) -> Response:
    # Starlette raises it again after this answer; the guard then knows that it was told.
    api: Api = request.app.state.node
    api.log.error("request_failed", method=request.method, path=request.url.path, exc_info=error)
    request.scope[TOLD] = True
    return internal_error().response()
