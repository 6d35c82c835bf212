"""The verbs against a real node in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from supervm.bench.node import free_address
from supervm.cli.main import main
from supervm.client import proof
from supervm.client.build import body_of
from supervm.client.checkpoint_file import dump_checkpoint, load_checkpoint
from supervm.client.http import NodeClient
from supervm.client.light import UNBONDING_MS
from supervm.client.wallet import Wallet
from supervm.crypto.keyfile import read_key_file
from supervm.crypto.keys import generate
from supervm.types.codec import pack_transactions
from supervm.types.genesis_json import load_genesis
from supervm.types.operations import Output, Transfer
from supervm.types.state import NATIVE_TOKEN
from supervm.types.transaction import build

NOBODY = "0x" + "0b" * 32
READY_S = 120.0

Verb = Callable[..., Any]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """(URL, data folder) of a development node over sqlite."""
    data, listen = tmp_path_factory.mktemp("node") / "data", free_address()
    command = [sys.executable, "-m", "supervm", "run", "--data", str(data), "--api", listen]
    with (data.parent / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--set", "storage.use=sqlite"], stdout=log, stderr=log)
    try:
        with NodeClient(f"http://{listen}") as client:
            deadline = time.monotonic() + READY_S
            while not client.ready():
                assert process.poll() is None, (data.parent / "log").read_text()
                assert time.monotonic() < deadline, "the node isn't ready"
        yield f"http://{listen}", data
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0


@pytest.fixture
def verb(node: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> Verb:
    """Run a verb against the node; gives its facts, or the error line where `fails` is its exit code."""
    url, data = node

    def call(*arguments: str, fails: int = 0) -> Any:
        with_data = arguments[0] in ("tx", "query", "keys") and arguments[1] not in (
            "status", "block", "tx", "checkpoint", "object", "peers", "lookup", "submit", "wait"
        )  # fmt: skip
        if arguments[:2] == ("tx", "object"):
            with_data = True
        common = ["--api", url, "--json"] + (["--data", str(data)] if with_data else [])
        assert main([*arguments, *common]) == fails
        said = capsys.readouterr()
        return said.err.strip() if fails else json.loads(said.out)

    return call


def test_a_transfer_arrives_and_is_proven_against_the_genesis(node: tuple[str, Path], verb: Verb) -> None:
    before = int(verb("query", "account", "dev")["nonce"])
    sent = verb("tx", "transfer", f"{NOBODY}=1.5")
    assert sent["status"] == "committed"
    assert verb("query", "tx", sent["digest"])["receipt"]["fee"] == sent["fee"]
    assert verb("query", "account", NOBODY)["balances"][f"0x{NATIVE_TOKEN.hex()}"] == "1500000000"
    assert int(verb("query", "account", "dev")["nonce"]) == before + 1
    genesis = str(node[1] / "genesis.json")
    proven = verb("query", "proof", NOBODY, "--genesis", genesis)
    assert (proven["proven"], proven["balance"]) == ("present", "1500000000")
    assert proven["header_trust"] == "signatures of the genesis validators"
    absent = verb("query", "proof", "0x" + "0d" * 32, "--genesis", genesis)
    assert absent["proven"] == "absent"
    block = verb("query", "block", sent["height"])
    assert sent["digest"] in block["transactions"]
    assert verb("tx", "wait", sent["digest"])["status"] == "committed"


def test_a_genesis_older_than_the_unbonding_time_needs_a_checkpoint_that_the_node_gave(
    node: tuple[str, Path], verb: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb("tx", "transfer", f"{NOBODY}=1")
    genesis, out = str(node[1] / "genesis.json"), str(tmp_path / "checkpoint.hex")
    made = verb("query", "checkpoint", "--genesis", genesis, "--out", out)
    assert "never overwritten" in verb("query", "checkpoint", "--genesis", genesis, "--out", out, fails=2)
    now = verb("query", "proof", NOBODY, "--checkpoint", out)
    assert now["header_trust"].startswith(
        f"signatures of validators proven from the checkpoint at height {made['height']}"
    )
    created_ms = load_genesis((node[1] / "genesis.json").read_bytes()).created_ms
    assert int(made["timestamp_ms"]) > created_ms + 1
    monkeypatch.setattr(proof, "wall_ms", lambda: created_ms + UNBONDING_MS + 1)
    refused = verb("query", "proof", NOBODY, "--genesis", genesis, fails=1)
    assert "older than the unbonding time" in refused and "checkpoint" in refused
    late = verb("query", "proof", NOBODY, "--genesis", genesis, "--checkpoint", out)
    assert (late["proven"], late["balance"]) == (now["proven"], now["balance"])
    monkeypatch.setattr(proof, "wall_ms", lambda: int(made["too_old_after_ms"]) + 1)
    assert "unbonding time" in verb("query", "proof", NOBODY, "--checkpoint", out, fails=1)


def test_a_checkpoint_that_is_broken_or_of_another_chain_is_refused(
    node: tuple[str, Path], verb: Verb, tmp_path: Path
) -> None:
    verb("tx", "transfer", f"{NOBODY}=1")
    genesis, out = str(node[1] / "genesis.json"), tmp_path / "checkpoint.hex"
    verb("query", "checkpoint", "--genesis", genesis, "--out", str(out))
    wrong = tmp_path / "wrong.hex"
    wrong.write_text(out.read_text()[:-9])
    assert "wrong.hex is no checkpoint" in verb("query", "proof", NOBODY, "--checkpoint", str(wrong), fails=2)
    strange = attrs.evolve(load_checkpoint(out.read_bytes()), chain_id=b"\x01" * 32)
    wrong.write_bytes(dump_checkpoint(strange))
    for more in ((), ("--genesis", genesis)):
        assert "another chain" in verb("query", "proof", NOBODY, "--checkpoint", str(wrong), *more, fails=1)


def test_an_object_goes_through_its_life(node: tuple[str, Path], verb: Verb) -> None:
    made = verb("tx", "object", "create", "--type", "7", "--text", "hello")
    object_id = made["created"][0]["id"]
    assert verb("query", "object", object_id)["data"] == "0x" + b"hello".hex()
    verb("tx", "object", "mutate", object_id, "--text", "goodbye")
    found = verb("query", "object", object_id)
    assert (found["data"], found["version"], found["type"]) == ("0x" + b"goodbye".hex(), "2", 7)
    proven = verb("query", "proof", object_id, "--object")
    assert proven["data"] == "0x" + b"goodbye".hex()
    verb("tx", "object", "share", object_id)
    assert verb("query", "object", object_id)["owner"] == "shared"
    verb("tx", "object", "mutate", object_id, "--hex", "0x01")
    other = verb("tx", "object", "create", "--text", "x")["created"][0]["id"]
    verb("tx", "object", "freeze", other)
    assert verb("query", "object", other)["owner"] == "immutable"
    assert "ImmutableObject" in verb("tx", "object", "mutate", other, "--text", "y", fails=1)
    gone = verb("tx", "object", "create", "--text", "x")["created"][0]["id"]
    verb("tx", "object", "delete", gone)
    assert "deleted" in verb("query", "object", gone, fails=1)


def test_a_refused_transfer_says_why_and_its_nonce_stays_free(verb: Verb) -> None:
    said = verb("tx", "transfer", f"{NOBODY}=99999999999999", fails=1)
    assert "the nonce is free again" in said
    assert verb("tx", "transfer", f"{NOBODY}=1")["status"] == "committed"


def test_a_transaction_signed_and_never_sent_is_kept_and_sent_by_retry(
    node: tuple[str, Path], verb: Verb
) -> None:
    url, data = node
    key = read_key_file(data / "keys" / "dev.json")
    with NodeClient(url) as client:
        status, account = client.status(), client.account(f"0x{key.address.hex()}")
    body = body_of(
        [Transfer(NATIVE_TOKEN, (Output(b"\x0e" * 32, 5),))],
        chain_id=bytes.fromhex(status["chain_id"][2:]),
        sender=key.address,
        suite=key.suite,
        nonce=int(account["pending_nonce"]),
        base_price=int(status["base_price"]),
    )
    signed = Wallet(data / "wallet").sign(body, key)
    refused = verb("tx", "transfer", f"{NOBODY}=1", fails=1)
    assert f"0x{signed.transaction.digest.hex()}" in refused
    assert "supervm tx retry" in refused
    digest = f"0x{signed.transaction.digest.hex()}"
    assert verb("tx", "retry", "dev")["sent"] == [digest]
    assert verb("tx", "wait", digest)["status"] == "committed"
    assert verb("tx", "retry", "dev")["sent"] == []


@pytest.mark.parametrize("form", ["canonical bytes", "JSON lines"])
def test_many_signed_transactions_are_sent_from_a_file(
    form: str, node: tuple[str, Path], verb: Verb, tmp_path: Path
) -> None:
    url, _ = node
    key = generate()
    verb("tx", "transfer", f"0x{key.address.hex()}=10")
    with NodeClient(url) as client:
        status = client.status()
    signed = [
        build(
            body_of(
                [Transfer(NATIVE_TOKEN, (Output(b"\x0f" * 32, 1),))],
                chain_id=bytes.fromhex(status["chain_id"][2:]),
                sender=key.address,
                suite=key.suite,
                nonce=nonce,
                base_price=int(status["base_price"]),
            ),
            [key],
        ).data
        for nonce in range(20)
    ]
    file = tmp_path / "signed"
    lines = "".join(json.dumps({"bytes": f"0x{data.hex()}"}) + "\n" for data in signed)
    file.write_bytes(pack_transactions(signed) if form == "canonical bytes" else lines.encode())
    facts = verb("tx", "submit", str(file), "--wait")
    assert (facts["accepted"], facts["refused"], facts["statuses"]) == (20, 0, {"committed": 20})
    assert verb("query", "account", f"0x{key.address.hex()}")["nonce"] == "20"


def test_the_node_lists_its_plugins_and_peers(node: tuple[str, Path], verb: Verb) -> None:
    rows = verb("plugins", "list")
    assert any("storage sqlite (serving)" in row["offers"] for row in rows)
    assert verb("query", "peers") == []
    assert "no node of that id" in verb("query", "lookup", "0x" + "ab" * 32, fails=1)


def test_verify_refuses_a_folder_that_a_node_holds(node: tuple[str, Path]) -> None:
    command = [sys.executable, "-m", "supervm", "verify", "--data", str(node[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 1
    assert "another node" in done.stderr


def test_verify_of_a_folder_without_a_chain_names_the_mend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--data", str(tmp_path / "none")]) == 1
    assert "no chain here" in capsys.readouterr().err
