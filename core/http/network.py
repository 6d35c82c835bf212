"""/v1/nodes: other nodes, as the routing table knows them."""

from starlette.requests import Request
from starlette.responses import Response

from supervm.contracts.routing import ANSWER_MAX, TIERS, BadQuery, NodeFilter, Service, UnknownNode
from supervm.http import parameters, views
from supervm.http.api import api_of
from supervm.http.parameters import no_query, query
from supervm.http.problems import Problem, not_found
from supervm.http.responses import JsonResponse

LATENCY_MS_MAX = 2**31
SERVICES = tuple(service.name.lower() for service in Service if service.name)


async def nodes(request: Request) -> Response:
    """Nodes that fit, best first (NET-42, NET-43): a hint, for whoever asks checks who answers."""
    asked = query(request, ("tier", "region", "max_latency_ms", "max_load", "services", "limit"))
    routing = api_of(request).routing
    wanted = NodeFilter(
        tier=parameters.one_of(asked["tier"], "tier", TIERS) if "tier" in asked else None,
        region=parameters.word(asked["region"], "region") if "region" in asked else None,
        max_latency_ms=parameters.u64(asked["max_latency_ms"], "max_latency_ms", LATENCY_MS_MAX)
        if "max_latency_ms" in asked
        else None,
        max_load=parameters.u64(asked["max_load"], "max_load", 100) if "max_load" in asked else None,
        services=_services(asked["services"]) if "services" in asked else Service(0),
        limit=parameters.u64(asked.get("limit", str(ANSWER_MAX)), "limit", ANSWER_MAX, least=1),
    )
    try:
        found = routing.find_nodes(wanted)
    except BadQuery as error:
        raise Problem(
            status=400, code="BadQuery", detail=str(error), value=str(error.value), mend=error.mend
        ) from None
    return JsonResponse({"nodes": [views.node(each) for each in found]})


async def node(request: Request) -> Response:
    """One node, with hints how to connect."""
    no_query(request)
    node_id = parameters.digest(request.path_params["id"], "id")
    try:
        found = api_of(request).routing.lookup(node_id)
    except UnknownNode:
        raise not_found("UnknownNode", "no node of that id is in this node's table", node_id) from None
    return JsonResponse(views.node(found))


def _services(text: str) -> Service:
    """Names with commas between them."""
    found = Service(0)
    for name in text.split(","):
        found |= Service[parameters.one_of(name, "services", SERVICES).upper()]
    return found
