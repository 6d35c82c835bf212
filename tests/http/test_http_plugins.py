"""PLUG-23 over the wire: who may change a node's plugins, what is asked of it, and how it answers."""

import pytest

from supervm.kernel.errors import HotPlugRefused, PluginUnknown, StartFailed
from tests.http.conftest import Serve, Served
from tests.http.doubles import FactsDouble

TOKEN = "a long enough token"
MINE = {"authorization": f"Bearer {TOKEN}"}
VERBS = ("load", "unload", "reset")


def path(verb: str, plugin: str = "late-one") -> str:
    return f"/v1/plugins/{plugin}/{verb}"


@pytest.mark.parametrize("verb", VERBS)
async def test_a_node_without_a_token_lets_nobody_change_its_plugins(served: Served, verb: str) -> None:
    for headers in ({}, MINE):
        answer = await served.client.post(path(verb), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "TokenNotSet")
        assert "api.token" in answer.json()["mend"]
    assert served.facts.control is not None and served.facts.control.asked == []


@pytest.mark.parametrize("verb", VERBS)
async def test_a_wrong_token_changes_nothing(serve: Serve, verb: str) -> None:
    async with serve(token=TOKEN) as served:
        for headers in ({}, {"authorization": "Bearer another long token"}):
            answer = await served.client.post(path(verb), headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "Unauthorized")
        assert served.facts.control is not None and served.facts.control.asked == []


@pytest.mark.parametrize(("verb", "done"), [("load", "loaded"), ("unload", "unloaded"), ("reset", "reset")])
async def test_the_operator_is_told_what_was_done_to_which_components(
    serve: Serve, verb: str, done: str
) -> None:
    async with serve(token=TOKEN) as served:
        answer = await served.client.post(path(verb), headers=MINE)
        assert answer.status_code == 200
        assert answer.json() == {"id": "late-one", "done": done, "components": ["chain.watcher"]}
        assert served.facts.control is not None
        assert served.facts.control.asked == [(verb, "late-one")]
        facts = {"plugin": "late-one", "done": done, "components": ["chain.watcher"]}
        assert ("info", "plugin_changed", facts) in served.log.events


@pytest.mark.parametrize(
    ("failure", "status", "code", "value"),
    [
        (PluginUnknown("no plugin 'late-one' is loaded"), 404, "PluginUnknown", "late-one"),
        (HotPlugRefused("plugin late-one is loaded already"), 409, "HotPlugRefused", "late-one"),
        (StartFailed("chain", "watcher", ValueError("won't open")), 502, "StartFailed", "chain.watcher"),
    ],
)
async def test_what_can_not_be_done_says_why(
    serve: Serve, failure: Exception, status: int, code: str, value: str
) -> None:
    async with serve(token=TOKEN) as served:
        assert served.facts.control is not None
        served.facts.control.failure = failure
        answer = await served.client.post(path("load"), headers=MINE)
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["value"]) == (status, code, value)
        assert str(failure) in problem["detail"]
        assert served.log.errors == []


async def test_a_node_that_is_not_open_yet_asks_to_come_again(serve: Serve) -> None:
    facts = FactsDouble()
    facts.control = None
    async with serve(facts, token=TOKEN) as served:
        answer = await served.client.post(path("load"), headers=MINE)
        assert (answer.status_code, answer.json()["code"]) == (503, "NotReady")


async def test_a_change_may_take_longer_than_other_requests(serve: Serve) -> None:
    async with serve(token=TOKEN, request_timeout_s=0.2) as served:
        assert served.facts.control is not None
        served.facts.control.takes_s = 0.5
        assert (await served.client.post(path("unload"), headers=MINE)).status_code == 200


async def test_a_body_a_parameter_or_a_bad_id_is_refused_before_anything_is_done(serve: Serve) -> None:
    async with serve(token=TOKEN) as served:
        for answer, code in (
            (await served.client.post(path("load"), headers=MINE, json={"force": True}), "UnexpectedBody"),
            (await served.client.post(path("load") + "?force=1", headers=MINE), "UnknownParameter"),
            (await served.client.post(path("load", "a%20b"), headers=MINE), "BadText"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (400, code)
        assert (await served.client.get(path("load"), headers=MINE)).status_code == 405
        assert served.facts.control is not None and served.facts.control.asked == []
