"""A real node's metrics against what really happened to its transactions (OBS-8, OBS-88)."""

import json

import attrs
from prometheus_client.parser import text_string_to_metric_families

from supervm.client.build import body_of
from supervm.contracts.roles import Role
from supervm.telemetry.metrics import exposition
from supervm.types.codec import pack_transactions
from supervm.types.operations import Output, Transfer
from supervm.types.smt import Proof, verify
from supervm.types.state import NATIVE_TOKEN
from supervm.types.transaction import Transaction, build
from tests.telemetry.conftest import RunningNode

LANES = ("fast", "consensus", "privacy")
SAMPLES = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(running: RunningNode) -> SAMPLES:
    # The registry itself: over HTTP a scrape may be a second old.
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition(running.metrics))
        for sample in family.samples
    }


def transfer(running: RunningNode, nonce: int, to: bytes, amount: int) -> Transaction:
    body = body_of(
        [Transfer(NATIVE_TOKEN, (Output(to, amount),))],
        chain_id=running.node.chain.genesis.chain_id,
        sender=running.key.address,
        suite=running.key.suite,
        nonce=nonce,
        base_price=10_000,
    )
    return build(body, [running.key])


async def send(running: RunningNode, items: list[bytes]) -> dict[str, int]:
    answer = await running.client.post(
        "/v1/transactions",
        content=pack_transactions(items),
        headers={"content-type": "application/vnd.supervm.transactions"},
    )
    assert answer.status_code == 202
    told: dict[str, int] = answer.json()
    return told


async def test_every_counter_agrees_with_what_became_of_the_transactions(running: RunningNode) -> None:
    good = [transfer(running, nonce, bytes([nonce + 1]) * 32, 5) for nonce in range(20)]
    told = await send(running, [*(each.data for each in good), b"\x01junk", good[0].data[:-1]])
    assert (told["accepted"], told["refused"]) == (20, 2)
    twice = await send(running, [good[3].data])
    assert twice["transactions"][0]["duplicate"] is True  # type: ignore[index]
    for each in good:
        path = f"/v1/transactions/0x{each.digest.hex()}?wait=30"
        assert (await running.client.get(path)).json()["status"] == "committed"
    got = scrape(running)
    assert got[("mvcc_txn_committed_total", ())] == 20
    assert got[("vm_routing_total", ())] == 20
    lanes = sum(got[(f"vm_routing_{lane}_total", ())] for lane in LANES)
    assert lanes == 20
    assert got[("supervm_transactions_total", (("status", "committed"),))] == 20
    assert got[("supervm_transactions_total", (("status", "refused"),))] == 2
    assert got[("mvcc_txn_latency_ms_count", ())] == 20
    assert got[("mvcc_success_rate", ())] == 1
    # OBS-8: what came is what was refused, known already, waits, or has an outcome.
    outcomes = sum(value for (name, _), value in got.items() if name == "supervm_transactions_total")
    assert (
        got[("supervm_transactions_submitted_total", ())]
        == outcomes
        + got[("supervm_transactions_pending", ())]
        + got[("supervm_transactions_duplicate_total", ())]
    )


async def test_gas_fees_caches_and_heights_are_those_of_the_chain(running: RunningNode) -> None:
    chain = running.node.kernel.require(Role.APPLICATION)
    sent = [transfer(running, nonce, bytes([nonce + 1]) * 32, 5) for nonce in range(8)]
    poor = transfer(running, 8, b"\x42" * 32, 5)
    cheap = build(attrs.evolve(poor.body, max_price=1), [running.key])
    assert (await send(running, [*(each.data for each in sent), cheap.data]))["accepted"] == 8
    gas = fees = 0
    for each in sent:
        path = f"/v1/transactions/0x{each.digest.hex()}?wait=30"
        found = (await running.client.get(path)).json()["receipt"]
        gas, fees = gas + int(found["gas_used"]), fees + int(found["fee"])
    chain.sweep()
    got = scrape(running)
    assert got[("mvcc_txn_started_total", ())] == 8
    assert sum(got[("supervm_gas_used_total", (("lane", lane),))] for lane in LANES) == gas > 0
    assert got[("supervm_fees_charged_total", (("token", "native"),))] == fees > 0
    assert got[("supervm_gas_refused_total", (("reason", "PriceTooLow"),))] == 1
    assert got[("supervm_gas_base_price", ())] == chain.base_price == 10_000
    assert 0 < got[("supervm_gas_block_fullness", ())] < 1
    assert got[("supervm_storage_commit_height", ())] == chain.ledger.tip.height
    stats = chain.ledger.stats()
    assert got[("supervm_storage_cache_hits_total", (("cache", "state"),))] == stats.state.hits > 0
    assert got[("supervm_cache_bytes", (("cache", "pages"),))] == stats.pages.bytes > 0
    assert got[("supervm_cache_bytes_limit", (("cache", "pages"),))] == stats.pages.bytes_max


async def test_the_text_over_http_parses_strictly_and_has_each_family_once(running: RunningNode) -> None:
    answer = await running.client.get("/metrics")
    names = [family.name for family in text_string_to_metric_families(answer.text)]
    assert len(names) == len(set(names)) > 60


async def test_every_route_of_a_real_node_answers_as_described(running: RunningNode) -> None:
    sent = transfer(running, 0, b"\x42" * 32, 7)
    one = await running.client.post(
        "/v1/transactions", content=sent.data, headers={"content-type": "application/octet-stream"}
    )
    assert one.status_code == 202
    digest = one.json()["digest"]
    found = (await running.client.get(f"/v1/transactions/{digest}?wait=30")).json()
    assert found["status"] == "committed"
    block = (await running.client.get(f"/v1/blocks/{found['height']}")).json()
    assert digest in block["transactions"]
    assert (await running.client.get(f"/v1/blocks/{block['digest']}")).json() == block
    pages = (await running.client.get("/v1/blocks?from=0")).json()
    assert pages["blocks"][0]["header"]["height"] == "0"
    address = f"0x{'42' * 32}"
    account = (await running.client.get(f"/v1/accounts/{address}")).json()
    assert account["balances"] == {f"0x{NATIVE_TOKEN.hex()}": "7"}
    proven = (await running.client.get(f"/v1/proofs/{address}")).json()
    proof = Proof.decode(bytes.fromhex(proven["proof"][2:]))
    verify(bytes.fromhex(proven["header"]["state_root"][2:]), proof)
    assert proof.value is not None
    token = (await running.client.get(f"/v1/tokens/0x{NATIVE_TOKEN.hex()}")).json()
    assert int(token["supply"]) > 0
    for path in (
        "/v1/status",
        "/v1/plugins",
        "/v1/nodes",
        "/healthz",
        "/readyz",
        "/summary",
        "/openapi.json",
    ):
        assert (await running.client.get(path)).status_code == 200, path
    for path in (f"/v1/objects/{address}", f"/v1/nodes/{address}", f"/v1/blocks/{address}"):
        assert (await running.client.get(path)).status_code == 404, path
    unknown = await running.client.get(f"/v1/transactions/{address}")
    assert unknown.json()["status"] == "unknown"


async def test_events_tell_of_the_block_that_holds_a_transaction(running: RunningNode) -> None:
    sent = transfer(running, 0, b"\x42" * 32, 7)
    async with running.client.stream("GET", "/v1/events") as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        await send(running, [sent.data])
        kinds = set()
        async for line in lines:
            kinds.add(line.removeprefix("event: ") if line.startswith("event:") else "")
            if line.startswith("data:") and sent.digest.hex() in line:
                break
    assert "receipts" in kinds


async def test_a_refused_transaction_says_why(running: RunningNode) -> None:
    overdrawn = transfer(running, 0, b"\x42" * 32, 2**127)
    answer = await running.client.post(
        "/v1/transactions", content=overdrawn.data, headers={"content-type": "application/octet-stream"}
    )
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, problem["code"])
    assert problem["mend"] and problem["field"]


async def test_no_key_or_full_address_is_in_the_log(running: RunningNode) -> None:
    sent = transfer(running, 0, b"\x42" * 32, 7)
    await send(running, [sent.data])
    await running.client.get(f"/v1/transactions/0x{sent.digest.hex()}?wait=30")
    text = running.log.getvalue()
    assert [json.loads(line)["event"] for line in text.splitlines()]
    assert running.key.secret.hex() not in text
    assert running.key.address.hex() not in text
