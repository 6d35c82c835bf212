"""What a store of several classes would move, over the wire; any other store has nothing to tell."""

import attrs

from supervm.storage.temperature import Thresholds, Trigger
from tests.http.conftest import Served
from tests.http.contract import openapi
from tests.http.doubles import MovesDouble


async def test_it_tells_what_would_move_and_why(served: Served) -> None:
    answer = await served.client.get("/v1/temperature")
    assert answer.status_code == 200
    told = answer.json()
    assert told["classes"][0] == {
        "name": "hot",
        "over": "rocksdb",
        "path": "/nvme/hot",
        "rows": "5",
        "bytes": str(2**40),
    }
    assert told["moves"] == [
        {
            "source": "hot",
            "target": "cold",
            "trigger": "rank",
            "why": "ranked below hot for 6 windows",
            "units": "2",
            "rows": "4",
            "bytes": str(2**39),
        }
    ]
    assert told["thresholds"]["down_windows"] == 6
    assert (await served.client.get("/v1/temperature?x=1")).status_code == 400


def test_the_document_names_every_trigger_and_threshold_that_there_is() -> None:
    schemas = openapi()["components"]["schemas"]
    assert schemas["PlannedMove"]["properties"]["trigger"]["enum"] == [one.word for one in Trigger]
    told = schemas["Temperature"]["properties"]["thresholds"]["properties"]
    assert list(told) == [field.name for field in attrs.fields(Thresholds)]


async def test_a_store_of_one_class_has_nothing_to_tell(served: Served) -> None:
    moves = served.facts.moves
    assert isinstance(moves, MovesDouble)
    moves.tempered = None
    answer = await served.client.get("/v1/temperature")
    assert (answer.status_code, answer.json()["code"]) == (404, "NotTiered")
