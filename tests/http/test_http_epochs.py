"""The end of an epoch over the wire: told to who may read, asked for by the operator alone (CONS-50)."""

from tests.http.conftest import Serve, Served

TOKEN = "a long enough token"
MINE = {"authorization": f"Bearer {TOKEN}"}
KNOWN = {"epoch": "4", "asked": False, "weight": "1", "weight_of": "4", "closing": False}


async def test_the_operator_asks_and_the_node_tells_how_many_want_it(serve: Serve) -> None:
    async with serve(token=TOKEN) as served:
        assert (await served.client.get("/v1/epoch", headers=MINE)).json() == KNOWN
        answer = await served.client.post("/v1/epoch/end")
        assert (answer.status_code, answer.json()["code"]) == (401, "Unauthorized")
        answer = await served.client.post("/v1/epoch/end", content=b"now", headers=MINE)
        assert (answer.status_code, answer.json()["code"]) == (400, "UnexpectedBody")
        assert (await served.client.get("/v1/epoch", headers=MINE)).json() == KNOWN
        answer = await served.client.post("/v1/epoch/end", headers=MINE)
        assert (answer.status_code, answer.json()) == (202, {**KNOWN, "asked": True, "weight": "2"})


async def test_a_node_without_a_token_ends_no_epoch_for_anybody(served: Served) -> None:
    answer = await served.client.post("/v1/epoch/end", headers=MINE)
    assert (answer.status_code, answer.json()["code"]) == (403, "TokenNotSet")
    assert (await served.client.get("/v1/epoch")).json() == KNOWN


async def test_who_is_no_validator_says_so(served: Served) -> None:
    ender = served.ledger.epoch_ender
    assert ender is not None
    ender.known = None
    answer = await served.client.get("/v1/epoch")
    assert (answer.status_code, answer.json()["code"]) == (409, "NoValidator")
    served.ledger.epoch_ender = None
    answer = await served.client.get("/v1/epoch")
    assert (answer.status_code, answer.json()["code"]) == (409, "NoValidator")
