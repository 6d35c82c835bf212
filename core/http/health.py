"""Changes of health as events of kind `health` (OBS-34): of each component, and of the node."""

from supervm.http.api import Api
from supervm.http.ports import NodeFacts
from supervm.kernel.errors import RoleUnavailable

HEALTH = "health"
EVERY_S = 1.0

State = tuple[str, str]


def states(facts: NodeFacts) -> dict[str, tuple[State, str]]:
    """Component (`ROLE.NAME`, or `node`) to its state and health, with what it says about it."""
    found = {"node": (("serving", facts.health()), "; ".join(facts.not_ready()))}
    for plugin in facts.plugins():
        for one in plugin.components:
            found[f"{one.role}.{one.name}"] = ((one.state, one.health), one.detail)
    return found


async def watch_health(api: Api) -> None:
    """Look once a second, and tell what is other than before; runs for the length of the API."""
    known = states(api.facts)
    while True:
        await api.clock.sleep(EVERY_S)
        now = states(api.facts)
        try:
            for component in sorted(known.keys() | now.keys()):
                _tell(api, component, known.get(component), now.get(component))
        except RoleUnavailable:
            # The ledger, and its event log, is away: told when it is back.
            continue
        known = now


def _tell(api: Api, component: str, old: tuple[State, str] | None, new: tuple[State, str] | None) -> None:
    gone: tuple[State, str] = (("unloaded", "failing"), "")
    (before, _), (after, detail) = old or gone, new or gone
    if before != after:
        data = {
            "component": component,
            "state": after[0],
            "health": after[1],
            "before": before[1],
            "detail": detail,
        }
        api.ledger.events.append(HEALTH, data)
