"""/v1/plugins: what this node is composed of."""

from starlette.requests import Request
from starlette.responses import Response

from supervm.http import views
from supervm.http.api import api_of
from supervm.http.parameters import no_query
from supervm.http.responses import JsonResponse


async def plugins(request: Request) -> Response:
    """What is loaded, from where, and how healthy (PLUG-23)."""
    no_query(request)
    found = api_of(request).facts.plugins()
    return JsonResponse({"plugins": [views.plugin(each) for each in found]})
