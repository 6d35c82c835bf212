"""A move of the node's store over the wire: told to who may read, begun for the operator alone."""

import pytest

from tests.http.conftest import Serve, Served

TOKEN = "a long enough token"
MINE = {"authorization": f"Bearer {TOKEN}"}
NOTHING = {"to": "", "phase": "none", "rows": "0", "rows_of": "0", "changed": "0", "problem": ""}
BEGUN = {
    "to": "rocksdb",
    "phase": "copying",
    "rows": "3",
    "rows_of": str(2**40),
    "changed": "2",
    "problem": "",
}


async def test_nothing_is_moved_until_somebody_asks(served: Served) -> None:
    answer = await served.client.get("/v1/migration")
    assert (answer.status_code, answer.json()) == (200, NOTHING)


async def test_the_operator_begins_one_and_a_second_has_to_wait(serve: Serve) -> None:
    async with serve(token=TOKEN) as served:
        answer = await served.client.post("/v1/migration/rocksdb")
        assert (answer.status_code, answer.json()["code"]) == (401, "Unauthorized")
        answer = await served.client.post("/v1/migration/rocksdb", headers=MINE)
        assert (answer.status_code, answer.json()) == (202, BEGUN)
        answer = await served.client.post("/v1/migration/rocksdb", headers=MINE)
        assert (answer.status_code, answer.json()["code"]) == (409, "MoveBusy")
        assert (await served.client.get("/v1/migration", headers=MINE)).json() == BEGUN


async def test_a_node_without_a_token_moves_nothing_for_anybody(served: Served) -> None:
    answer = await served.client.post("/v1/migration/rocksdb", headers=MINE)
    assert (answer.status_code, answer.json()["code"]) == (403, "TokenNotSet")
    assert (await served.client.get("/v1/migration")).json() == NOTHING


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("papyrus", b"", 409, "MoveRefused"),
        ("rocksdb", b"now", 400, "UnexpectedBody"),
        ("rocksdb?x=1", b"", 400, "UnknownParameter"),
        ("..%2f..", b"", 404, "NoSuchRoute"),
        ("a b", b"", 400, "BadText"),
    ],
)
async def test_what_can_not_be_asked_for_is_refused(
    serve: Serve, path: str, body: bytes, status: int, code: str
) -> None:
    async with serve(token=TOKEN) as served:
        answer = await served.client.post(f"/v1/migration/{path}", content=body, headers=MINE)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert (await served.client.get("/v1/migration", headers=MINE)).json() == NOTHING


async def test_before_the_node_is_open_it_says_so(serve: Serve) -> None:
    async with serve(token=TOKEN) as served:
        served.facts.moves = None
        for verb in ("get", "post"):
            path = "/v1/migration" + ("/rocksdb" if verb == "post" else "")
            answer = await getattr(served.client, verb)(path, headers=MINE)
            assert (answer.status_code, answer.json()["code"]) == (503, "NotReady")
