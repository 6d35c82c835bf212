"""What each route answers when all is well. Every answer is also held against the OpenAPI document."""

import json
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from supervm.types.certificate import Certificate, VoteKind
from supervm.types.codec import pack_transactions
from supervm.types.handover import HandOver
from supervm.types.smt import Proof, verify
from supervm.types.state import Account, account_key, balance_key, decode_balance, object_key
from supervm.types.validators import Validator, ValidatorSet
from tests.http.conftest import Serve, Served
from tests.http.doubles import ALICE, DELETED, FROZEN, GOLD, NOBODY, OWNED, SHARED, digest_of

OCTETS = {"content-type": "application/octet-stream"}
PACKED = {"content-type": "application/vnd.supervm.transactions"}


def hex_of(data: bytes) -> str:
    return f"0x{data.hex()}"


async def test_status_says_what_the_node_is_and_where_it_stands(served: Served) -> None:
    status = (await served.client.get("/v1/status")).json()
    assert status["height"] == "0"
    assert status["tier"] == "L3"
    assert status["node_id"] == hex_of(served.ledger.identity.node_id)
    assert status["composition"] == {"storage": ["memory"], "transport": [], "surface": ["http"]}
    assert status["mempool"] == {"transactions": 0, "bytes": 0, "ready": 0}


async def test_one_transaction_as_octets_is_taken_and_its_place_named(served: Served) -> None:
    answer = await served.client.post("/v1/transactions", content=b"ok 1", headers=OCTETS)
    digest = hex_of(digest_of(b"ok 1"))
    assert answer.status_code == 202
    assert answer.json() == {"digest": digest, "status": "pending", "lane": "FAST", "duplicate": False}
    assert (await served.client.get(answer.headers["location"])).json()["status"] == "pending"


async def test_one_transaction_as_json_is_the_same_bytes(served: Served) -> None:
    answer = await served.client.post("/v1/transactions", json={"bytes": hex_of(b"ok 1")})
    assert answer.status_code == 202
    assert served.ledger.submitted == [b"ok 1"]


@pytest.mark.parametrize("form", ["json", "packed", "mixed json"])
async def test_of_many_each_is_taken_or_refused_for_itself_in_order(served: Served, form: str) -> None:
    items = [b"ok 1", b"bad", b"ok 2", b"twice", b"full"]
    if form == "packed":
        answer = await served.client.post(
            "/v1/transactions", content=pack_transactions(items), headers=PACKED
        )
    elif form == "json":
        answer = await served.client.post("/v1/transactions", json=[{"bytes": hex_of(one)} for one in items])
    else:
        body = [hex_of(items[0]), *({"bytes": hex_of(one)} for one in items[1:])]
        answer = await served.client.post("/v1/transactions", json=body)
    assert answer.status_code == 202
    told = answer.json()
    assert (told["accepted"], told["refused"]) == (2, 3)
    first, bad, second, twice, full = told["transactions"]
    assert (first["digest"], second["digest"]) == (hex_of(digest_of(b"ok 1")), hex_of(digest_of(b"ok 2")))
    assert bad["digest"] is None
    assert (bad["error"]["code"], bad["error"]["status"]) == ("Truncated", 422)
    assert (twice["error"]["code"], twice["error"]["conflict"]) == ("Equivocated", hex_of(GOLD))
    assert (full["error"]["code"], full["error"]["status"]) == ("MempoolFull", 429)
    assert full["error"]["retry_after_s"] == 2.5


async def test_many_large_bodies_are_parsed_off_the_event_loop_with_the_same_result(served: Served) -> None:
    items = [b"ok %d" % n for n in range(3000)]
    answer = await served.client.post("/v1/transactions", json=[{"bytes": hex_of(one)} for one in items])
    assert answer.json()["accepted"] == 3000
    assert served.ledger.submitted == items


async def test_a_committed_transaction_shows_its_receipt(served: Served) -> None:
    await served.client.post("/v1/transactions", content=b"ok 1", headers=OCTETS)
    served.ledger.commit()
    found = (await served.client.get(f"/v1/transactions/{hex_of(digest_of(b'ok 1'))}")).json()
    assert (found["status"], found["height"], found["index"]) == ("committed", "1", 0)
    assert found["receipt"]["fee"] == "151"
    assert found["bytes"] == hex_of(b"ok 1")


async def test_a_transaction_nobody_knows_is_unknown_and_no_error(served: Served) -> None:
    found = (await served.client.get(f"/v1/transactions/{hex_of(GOLD)}")).json()
    assert found == {
        "digest": hex_of(GOLD),
        "status": "unknown",
        "lane": None,
        "height": None,
        "index": None,
        "receipt": None,
        "bytes": None,
        "effects_certificate": None,
        "equivocation": None,
    }


async def test_waiting_for_a_transaction_ends_when_it_is_committed(served: Served) -> None:
    await served.client.post("/v1/transactions", content=b"ok 1", headers=OCTETS)
    path = f"/v1/transactions/{hex_of(digest_of(b'ok 1'))}?wait=30"
    found: list[str] = []

    async def wait() -> None:
        found.append((await served.client.get(path)).json()["status"])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        while not served.ledger.waiting:
            await trio.lowlevel.checkpoint()
        served.ledger.commit()
    assert found == ["committed"]


async def test_waiting_ends_when_the_time_is_over(served: Served) -> None:
    await served.client.post("/v1/transactions", content=b"ok 1", headers=OCTETS)
    path = f"/v1/transactions/{hex_of(digest_of(b'ok 1'))}?wait=0.01"
    assert (await served.client.get(path)).json()["status"] == "pending"


async def test_an_account_shows_nonces_and_balances_as_decimal_text(served: Served) -> None:
    found = (await served.client.get(f"/v1/accounts/{hex_of(ALICE)}")).json()
    assert found["nonce"] == found["pending_nonce"] == "4"
    assert found["balances"] == {hex_of(bytes(32)): str(2**127), hex_of(GOLD): "5"}
    later = await served.client.get(f"/v1/accounts/{hex_of(ALICE)}", params={"after": hex_of(bytes(32))})
    assert later.json()["balances"] == {hex_of(GOLD): "5"}


async def test_an_account_nobody_used_has_zeros(served: Served) -> None:
    found = (await served.client.get(f"/v1/accounts/{hex_of(NOBODY)}")).json()
    assert (found["nonce"], found["balances"]) == ("0", {hex_of(bytes(32)): "0"})


@pytest.mark.parametrize(
    ("name", "owner", "initial"),
    [(OWNED, {"owned": hex_of(ALICE)}, None), (SHARED, "shared", "5"), (FROZEN, "immutable", None)],
)
async def test_an_object_says_who_owns_it(
    served: Served, name: bytes, owner: object, initial: object
) -> None:
    found = (await served.client.get(f"/v1/objects/{hex_of(name)}")).json()
    assert (found["owner"], found["initial_version"]) == (owner, initial)


async def test_an_object_that_is_not_there_or_deleted_is_a_404(served: Served) -> None:
    for name in (NOBODY, DELETED):
        answer = await served.client.get(f"/v1/objects/{hex_of(name)}")
        assert (answer.status_code, answer.json()["code"]) == (404, "ObjectUnknown")
    assert "deleted" in answer.json()["detail"]


async def test_a_token_shows_its_supply(served: Served) -> None:
    found = (await served.client.get(f"/v1/tokens/{hex_of(GOLD)}")).json()
    assert (found["symbol"], found["decimals"], found["supply"]) == ("GOLD", 6, str(2**100))
    assert (await served.client.get(f"/v1/tokens/{hex_of(NOBODY)}")).status_code == 404


async def test_a_block_is_found_by_height_and_by_digest(served: Served) -> None:
    await served.client.post("/v1/transactions", content=b"ok 1", headers=OCTETS)
    view = served.ledger.commit()
    by_height = (await served.client.get("/v1/blocks/1")).json()
    assert by_height == (await served.client.get(f"/v1/blocks/{hex_of(view.digest)}")).json()
    assert by_height["transactions"] == [hex_of(digest_of(b"ok 1"))]
    assert by_height["header"]["bytes"] == hex_of(view.header.encode())
    for absent in ("2", hex_of(GOLD)):
        assert (await served.client.get(f"/v1/blocks/{absent}")).json()["code"] == "BlockUnknown"


async def test_pages_of_blocks_lead_from_genesis_to_the_tip(served: Served) -> None:
    for _ in range(6):
        served.ledger.commit()
    heights, start = [], "0"
    while start is not None:
        page = (await served.client.get("/v1/blocks", params={"from": start, "limit": "3"})).json()
        heights += [block["header"]["height"] for block in page["blocks"]]
        start = page["next"]
    assert heights == ["0", "1", "2", "3", "4", "5", "6"]
    newest = (await served.client.get("/v1/blocks", params={"limit": "2"})).json()
    assert [block["header"]["height"] for block in newest["blocks"]] == ["5", "6"]
    assert (await served.client.get("/v1/blocks", params={"from": "99"})).json() == {
        "blocks": [],
        "next": None,
    }


async def test_a_page_of_blocks_ends_where_one_can_not_be_had(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        served.ledger.commit()
    whole, held = served.ledger.block, {2}

    async def block(reference: int | bytes) -> Any:
        return None if reference in held else await whole(reference)

    monkeypatch.setattr(served.ledger, "block", block)
    page = (await served.client.get("/v1/blocks", params={"from": "1"})).json()
    assert ([each["header"]["height"] for each in page["blocks"]], page["next"]) == (["1"], "2")
    held.clear()
    page = (await served.client.get("/v1/blocks", params={"from": page["next"]})).json()
    assert [each["header"]["height"] for each in page["blocks"]] == ["2", "3", "4"]


@pytest.mark.parametrize(
    ("name", "query", "kind", "key"),
    [
        (ALICE, "", "account", account_key(ALICE)),
        (ALICE, "?kind=account", "account", account_key(ALICE)),
        (ALICE, f"?token={hex_of(GOLD)}", "balance", balance_key(ALICE, GOLD)),
        (ALICE, f"?token={hex_of(bytes(32))}", "account", account_key(ALICE)),
        (NOBODY, "", "account", account_key(NOBODY)),
        (OWNED, "", "object", object_key(OWNED)),
        (OWNED, "?kind=account", "account", account_key(OWNED)),
        (NOBODY, "?kind=object", "object", object_key(NOBODY)),
    ],
)
async def test_a_proof_verifies_against_the_header_it_comes_with(
    served: Served, name: bytes, query: str, kind: str, key: bytes
) -> None:
    answer = (await served.client.get(f"/v1/proofs/{hex_of(name)}{query}")).json()
    proof = Proof.decode(bytes.fromhex(answer["proof"][2:]))
    verify(bytes.fromhex(answer["header"]["state_root"][2:]), proof)
    assert (answer["kind"], proof.key) == (kind, key)
    value = None if answer["value"] is None else bytes.fromhex(answer["value"][2:])
    assert value == proof.value == served.ledger.state.get(key)
    assert answer["siblings"] == [hex_of(each) for each in proof.siblings]
    if kind == "balance" and value is not None:
        assert decode_balance(value) == 5
    elif kind == "account" and name == ALICE and value is not None:
        assert Account.decode(value).balance == 2**127


async def test_hand_overs_from_epoch_to_epoch_come_as_light_clients_read_them(served: Served) -> None:
    header = served.ledger.blocks[0].header
    finalisation = Certificate(VoteKind.FINALIZE, 1, 3, header.digest(), b"\x01", (bytes(64),))
    members = ValidatorSet((Validator(NOBODY, ALICE, 3),))
    served.ledger.handed_over = [HandOver(header, finalisation, members)] * 3
    answer = (await served.client.get("/v1/handovers?from=2")).json()["handovers"]
    assert len(answer) == 2
    assert HandOver.decode(bytes.fromhex(answer[0]["bytes"][2:])) == served.ledger.handed_over[0]
    assert answer[0]["validators"] == [
        {"node_id": hex_of(NOBODY), "public_key": hex_of(ALICE), "weight": "3"}
    ]
    assert (await served.client.get("/v1/handovers?from=4")).json() == {"handovers": []}
    assert (await served.client.get("/v1/handovers?limit=65")).status_code == 400


async def test_nodes_come_with_hints_how_to_connect(served: Served) -> None:
    (node,) = (
        await served.client.get("/v1/nodes", params={"tier": "L1", "services": "blocks,archive"})
    ).json()["nodes"]
    assert node["hints"] == [{"kind": "direct", "address": "192.0.2.7:4001"}]
    assert (await served.client.get(f"/v1/nodes/{node['node_id']}")).json() == node
    assert (await served.client.get("/v1/nodes", params={"tier": "L4"})).json() == {"nodes": []}
    unknown = await served.client.get(f"/v1/nodes/{hex_of(NOBODY)}")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "UnknownNode")


async def test_plugins_show_where_components_come_from_and_how_they_are(served: Served) -> None:
    (plugin,) = (await served.client.get("/v1/plugins")).json()["plugins"]
    assert (plugin["id"], plugin["trust"]) == ("storage-backends", "shipped")
    assert plugin["components"][0]["restarts"] == 2


async def test_readyz_lists_every_reason_and_healthz_asks_nobody(served: Served) -> None:
    assert (await served.client.get("/readyz")).json() == {"status": "ok"}
    served.facts.reasons = ["storage: opening", "consensus: catching up"]
    served.ledger.failure = RuntimeError("the ledger is gone")
    answer = await served.client.get("/readyz")
    assert (answer.status_code, answer.json()["reasons"]) == (503, served.facts.reasons)
    assert (await served.client.get("/healthz")).status_code == 200


async def test_metrics_parse_strictly_and_count_what_was_asked(served: Served) -> None:
    await served.client.get("/v1/status")
    await served.client.get("/v1/blocks/99")
    answer = await served.client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    counted = {
        (sample.labels["route"], sample.labels["status"]): sample.value
        for sample in families["supervm_http_requests"].samples
    }
    assert counted[("/v1/status", "200")] == counted[("/v1/blocks/{reference}", "404")] == 1


async def test_the_summary_is_laid_out_for_people(served: Served) -> None:
    text = (await served.client.get("/summary")).text
    assert text.startswith("=== MVCC Metrics Summary ===\nTPS(overall): 0\n")
    assert "Node:         tier=L3 height=0 peers=0 health=ok\n" in text


async def test_head_is_a_get_without_a_body(served: Served) -> None:
    answer = await served.client.head("/v1/status")
    assert (answer.status_code, answer.content) == (200, b"")


async def test_the_document_is_served_as_json(served: Served) -> None:
    answer = await served.client.get("/openapi.json")
    assert json.loads(answer.text)["openapi"].startswith("3.1")


async def test_the_second_listener_has_the_probes_and_nothing_else(serve: Serve) -> None:
    async with serve(metrics_listen="127.0.0.1:0") as served:
        base = f"http://{served.surface.addresses[1]}"
        for path in ("/healthz", "/readyz", "/metrics", "/summary"):
            assert (await served.client.get(base + path)).status_code == 200
        for path in ("/v1/status", "/openapi.json", "/v1/transactions"):
            answer = await served.client.get(base + path)
            assert answer.status_code == 404
