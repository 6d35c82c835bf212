"""Snapshots over the wire: listed for who may read, taken for the operator alone."""

import pytest

from tests.http.conftest import Serve, Served
from tests.http.doubles import GOLD, OWNED

TOKEN = "a long enough token"
MINE = {"authorization": f"Bearer {TOKEN}"}
LISTED = {
    "name": "snapshot-000000001000-1700000000",
    "height": "1000",
    "state_root": f"0x{GOLD.hex()}",
    "first_block": "745",
    "created_ms": "1700000000000",
    "bytes": str(2**33),
    "chunks": 8192,
    "digest": f"0x{OWNED.hex()}",
    "pinned": True,
}


async def test_the_snapshots_of_a_node_are_listed(served: Served) -> None:
    assert served.ledger.snapshots is not None
    served.ledger.snapshots.last_failure = "the disk is nearly full"
    answer = await served.client.get("/v1/snapshots")
    assert answer.status_code == 200
    assert answer.json() == {
        "snapshots": [LISTED],
        "taking": False,
        "last_failure": "the disk is nearly full",
    }


async def test_a_node_without_a_token_takes_none_for_anybody(served: Served) -> None:
    for headers in ({}, MINE):
        answer = await served.client.post("/v1/snapshots", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "TokenNotSet")
    assert served.ledger.snapshots is not None and served.ledger.snapshots.asked == 0


async def test_the_operator_has_one_taken_and_a_second_has_to_wait(serve: Serve) -> None:
    async with serve(token=TOKEN) as served:
        kept = served.ledger.snapshots
        assert kept is not None
        answer = await served.client.post("/v1/snapshots")
        assert (answer.status_code, answer.json()["code"], kept.asked) == (401, "Unauthorized", 0)
        answer = await served.client.post("/v1/snapshots", headers=MINE)
        assert (answer.status_code, answer.json()["taking"], kept.asked) == (202, True, 1)
        kept.taking = True
        answer = await served.client.post("/v1/snapshots", headers=MINE)
        assert (answer.status_code, answer.json()["code"], kept.asked) == (409, "SnapshotBusy", 1)


async def test_a_body_or_a_query_is_refused(serve: Serve) -> None:
    async with serve(token=TOKEN) as served:
        for path, content, code in (
            ("/v1/snapshots", b"now", "UnexpectedBody"),
            ("/v1/snapshots?x=1", b"", "UnknownParameter"),
        ):
            answer = await served.client.post(path, content=content, headers=MINE)
            assert (answer.status_code, answer.json()["code"]) == (400, code)
        assert served.ledger.snapshots is not None and served.ledger.snapshots.asked == 0


@pytest.mark.parametrize("verb", ["get", "post"])
async def test_before_the_chain_is_open_one_is_asked_to_come_again(serve: Serve, verb: str) -> None:
    async with serve(token=TOKEN) as served:
        served.ledger.snapshots = None
        answer = await getattr(served.client, verb)("/v1/snapshots", headers=MINE)
        assert (answer.status_code, answer.json()["code"]) == (503, "NotReady")
