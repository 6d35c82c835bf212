"""/v1/plugins: what this node is made of, and load, unload and reset of its plugins while it runs.

To change a node is its operator's alone. A token must be set and sent, on loopback too: other programs
and other users of the machine reach loopback as well.
"""

from collections.abc import Awaitable, Callable, Sequence

import trio
from starlette.requests import Request
from starlette.responses import Response

from supervm.http import parameters, views
from supervm.http.api import api_of
from supervm.http.guard import DEADLINE, operator_only
from supervm.http.parameters import no_query
from supervm.http.ports import ComponentName, PluginControl
from supervm.http.problems import Problem, bad_request, not_found
from supervm.http.responses import JsonResponse
from supervm.kernel.errors import HotPlugRefused, PluginUnknown, StartFailed
from supervm.types.errors import shorten

CHANGE_TIMEOUT_S = 300.0
"""For a change as a whole; the kernel bounds each opening, draining and closing by itself."""

Change = Callable[[PluginControl, str], Awaitable[Sequence[ComponentName]]]


async def plugins(request: Request) -> Response:
    """What is loaded, from where, and how healthy (PLUG-23)."""
    no_query(request)
    found = api_of(request).facts.plugins()
    return JsonResponse({"plugins": [views.plugin(each) for each in found]})


async def load(request: Request) -> Response:
    """Load an installed plugin and open its components of roles that take many (PLUG-12)."""
    return await _change(request, "loaded", lambda control, plugin: control.load(plugin))


async def unload(request: Request) -> Response:
    """Drain a plugin, close it and forget its hooks (PLUG-12)."""
    return await _change(request, "unloaded", lambda control, plugin: control.unload(plugin))


async def reset(request: Request) -> Response:
    """Try a plugin's waiting and broken components again now (PLUG-11)."""
    return await _change(request, "reset", lambda control, plugin: control.reset(plugin))


async def _change(request: Request, done: str, change: Change) -> Response:
    api = api_of(request)
    operator_only(request, "change its plugins")
    no_query(request)
    plugin = parameters.word(request.path_params["id"], "id")
    async with api.bodies.read(request) as body:
        if body:
            raise bad_request("UnexpectedBody", "body", f"{len(body)} bytes", "send none")
    control = api.facts.control
    if control is None:
        raise Problem(
            status=503,
            code="NotReady",
            detail="the node is starting",
            mend="try again; /readyz says when it is ready",
            retry_after_s=1.0,
        )
    request.scope[DEADLINE].deadline = trio.current_time() + CHANGE_TIMEOUT_S
    try:
        changed = await change(control, plugin)
    except PluginUnknown as error:
        raise not_found("PluginUnknown", str(error), plugin, "GET /v1/plugins lists what is loaded") from None
    except HotPlugRefused as error:
        raise Problem(
            status=409, code="HotPlugRefused", detail=str(error), value=shorten(plugin), mend=""
        ) from None
    except StartFailed as error:
        # Not 503, which asks to come again: the node did its part, what it loaded did not.
        raise Problem(
            status=502,
            code="StartFailed",
            detail=str(error),
            value=f"{error.role}.{error.name}",
            mend="mend the plugin; nothing of it is loaded",
        ) from None
    components = [f"{one.role}.{one.name}" for one in changed]
    api.log.info("plugin_changed", plugin=plugin, done=done, components=components)
    return JsonResponse({"id": plugin, "done": done, "components": components})
