"""Four validators and their clients as processes, judged by the oracle; and what the oracle finds."""

import json
from pathlib import Path
from typing import Any

import pytest

from supervm.bench.net_4 import NetPlan, run_net
from supervm.bench.net_checks import check_balances, check_objects, check_once, check_seen
from supervm.bench.net_objects import expected_owners, mutations_due
from supervm.bench.net_work import FUNDS, Payment, expected, keys_of, payments_of
from supervm.bench.sender import Progress
from supervm.cli.main import main
from supervm.client.http import NodeClient
from supervm.types.address import format_address
from supervm.types.codec import unpack_transactions
from supervm.types.transaction import Lane
from tests.bench.test_replay import SHAPE, quiet

FEE = 151


def block(height: int, *transactions: str) -> dict[str, Any]:
    return {
        "digest": f"0x{height}{''.join(transactions)}",
        "header": {"height": str(height)},
        "transactions": list(transactions),
    }


async def test_every_transfer_is_final_once_on_four_validators(tmp_path: Path) -> None:
    # Ten windows, so that it lasts longer than a node keeps a page of its metrics.
    plan = NetPlan(
        folder=tmp_path, transactions=600, accounts=40, clients=2, window=60, batch=20, storage="sqlite"
    )
    result = await run_net(plan, quiet)
    assert result.oracle == "ok"
    found = result.to_json()
    assert set(found) >= {*SHAPE, "oracle", "machine"}
    assert (found["committed"], found["verify"]) == (600, "ok")
    assert found["attempts"] >= 600
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"]
    assert set(found["cpu_us_a_transaction"]) == {"node-0", "node-1", "node-2", "node-3", "clients"}
    assert all(found["counts"][f"node-{at}"]["blocks"] > 0 for at in range(4))
    json.dumps(found)


async def test_mutations_go_first_one_by_one_and_then_many_at_once(tmp_path: Path) -> None:
    plan = NetPlan(
        folder=tmp_path,
        transactions=50,
        accounts=20,
        clients=2,
        window=20,
        batch=10,
        lane=Lane.FAST,
        storage="sqlite",
        objects=True,
        round_trip_ms=20.0,
        alone=7,
    )
    result = (await run_net(plan, quiet)).to_json()
    assert result["oracle"] == "ok"
    assert (result["committed"], result["parameters"]["alone"]) == (50, 7)
    # Half a round trip to the voters and back, twice: nothing is final sooner.
    assert result["latency_ms_alone"]["p50"] >= 40
    assert result["round_trips_alone"]["p50"] >= 2
    assert result["round_trips"]["p50"] >= 2
    alone = (tmp_path / "alone-0.transactions").read_bytes()
    assert len(unpack_transactions(alone, 50, 10_000)) == 7


def test_the_oracle_finds_a_transaction_lost_twice_there_or_never_sent() -> None:
    chain = [block(1, "0xa"), block(2, "0xb", "0xc")]
    assert check_once({"one": chain, "two": chain}, ["0xa", "0xb", "0xc"]) == []
    assert check_once({"one": chain}, ["0xa", "0xb", "0xc", "0xd"]) == ["0xd is in 0 blocks"]
    assert check_once({"one": [*chain, block(3, "0xa")]}, ["0xa", "0xb", "0xc"]) == [
        "0xa is in 2 blocks: 1 3"
    ]
    assert check_once({"one": chain}, ["0xa", "0xb"]) == ["0xc in block 2 was never sent"]


def test_the_oracle_finds_validators_that_disagree() -> None:
    chain = [block(1, "0xa"), block(2, "0xb")]
    other = [block(1, "0xa"), {**block(2, "0xb"), "digest": "0xelse"}]
    sent = ["0xa", "0xb"]
    assert check_once({"one": chain, "two": other}, sent) == ["two has another block 2 than one"]
    assert check_once({"one": chain, "two": chain[:1]}, sent) == ["one has 2 blocks, two 1"]


def test_the_oracle_finds_what_a_client_saw_as_final_and_is_gone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(json.dumps({"height": 1, "digest": "0x1", "transactions": []}) + "\n")
    assert check_seen([{**block(1), "digest": "0x1"}], [log]) == []
    assert check_seen([block(1, "0xa")], [log]) == ["block 1 was 0x1, is 0x10xa"]
    assert check_seen([], [log]) == ["block 1 was 0x1, is None"]
    other = {**block(1, "0xa"), "digest": "0x1"}
    assert check_seen([other], [log]) == ["block 1 was shown with other transactions than it holds"]


class Node(NodeClient):
    """A node that holds what it is told to, by address."""

    def __init__(self, held: dict[str, tuple[int, int]]) -> None:
        super().__init__()
        self._held = held

    def account(self, address: str) -> dict[str, Any]:
        nonce, balance = self._held[address]
        return {"nonce": str(nonce), "balances": {"0x" + "00" * 32: str(balance)}}


def test_the_oracle_finds_a_coin_too_many_and_a_nonce_too_few() -> None:
    addresses = [key.address for key in keys_of(3)]
    texts = [format_address(address) for address in addresses]
    payments = [Payment(0, 1, 5, 0), Payment(1, 2, 7, 0), Payment(0, 0, 9, 1)]
    due = expected(payments, 3, FEE)
    assert due == [(2, FUNDS - 5 - 2 * FEE), (1, FUNDS + 5 - 7 - FEE), (0, FUNDS + 7)]
    right = dict(zip(texts, due, strict=True))
    assert check_balances(Node(right), addresses, due, 3 * FEE) == []
    rich = {**right, texts[2]: (0, FUNDS + 8)}
    found = check_balances(Node(rich), addresses, due, 3 * FEE)
    assert len(found) == 2 and "all accounts together" in found[1]
    found = check_balances(Node({**right, texts[0]: (1, due[0][1])}), addresses, due, 3 * FEE)
    assert len(found) == 1 and "has nonce 1" in found[0]


def test_one_seed_is_the_same_payments_and_each_account_counts_its_own() -> None:
    payments = payments_of(7, 50, seed=3)
    assert payments == payments_of(7, 50, seed=3) != payments_of(7, 50, seed=4)
    for sender in range(7):
        nonces = [each.nonce for each in payments if each.sender == sender]
        assert nonces == list(range(len(nonces)))


def test_more_clients_than_accounts_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "net-4", "--clients", "5", "--accounts", "4"]) == 2
    assert "--clients" in capsys.readouterr().err


def test_more_alone_than_there_are_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "fast-4", "--alone", "10", "--transactions", "10"]) == 2
    assert "--alone" in capsys.readouterr().err


def test_a_certificate_makes_final_and_gives_room_and_a_block_must_hold_it_all_the_same() -> None:
    progress = Progress({f"0x{n}": bytes([n]) for n in range(3)})
    assert progress.next_batch(window=2, batch=2) == ["0x0", "0x1"]
    progress.posted.update(["0x0", "0x1"])
    progress.saw_certificate(["0x1", "0xother"], now=1.0)
    assert progress.next_batch(window=2, batch=2) == ["0x2"]
    progress.saw_block(1, ["0x0", "0x1"], now=2.0)
    assert progress.final == {"0x1": 1.0, "0x0": 2.0}
    assert not progress.done


def test_an_object_of_another_version_is_found() -> None:
    class Objects(NodeClient):
        def ledger_object(self, object_id: str) -> dict[str, Any]:
            return {"version": "3"}

    assert check_objects(Objects(), {b"a" * 32: 3}) == []
    assert "has version 3, not 4" in check_objects(Objects(), {b"a" * 32: 3, b"b" * 32: 4})[0]


def test_every_account_mutates_in_its_turn() -> None:
    assert mutations_due(3, 8) == [3, 3, 2]
    assert expected_owners(3, 8, 10, 4) == [(4, FUNDS - 22), (4, FUNDS - 22), (3, FUNDS - 18)]
