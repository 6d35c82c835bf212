"""The independent client agrees with the published vectors, and with nothing of ours imported."""

import ast
import json
from pathlib import Path

import pytest

from tests.independent import client

VECTORS = json.loads((Path(__file__).parents[2] / "docs" / "reference" / "vectors.json").read_text())
TREE = VECTORS["state_tree"]
ROOT = bytes.fromhex(TREE["root"][2:])


def raw(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def test_the_client_imports_nothing_of_supervm() -> None:
    tree = ast.parse(Path(client.__file__).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert imported == {"json", "pathlib", "sys", "urllib", "typing", "nacl", "blake3"}


def test_it_builds_and_signs_the_published_transfer() -> None:
    key, vector = VECTORS["keys"][0], VECTORS["transactions"][0]
    fields = vector["fields"]
    sender = client.address_of(raw(key["public_key"]))
    assert sender == raw(key["address"])
    payload = client.transfer_payload(raw(VECTORS["keys"][1]["address"]), 1_000_000_000)
    body = client.body_of(raw(fields["chain_id"]), sender, int(fields["nonce"]), 10_000, payload)
    assert body == raw(vector["body"])
    assert client.sign(body, raw(key["secret"])) == (raw(vector["transaction"]), raw(vector["digest"]))


def test_it_reads_the_published_header_and_account() -> None:
    block = VECTORS["block"]
    header = client.read_header(raw(block["header"]))
    assert header.digest == raw(block["digest"])
    assert header.state_root == ROOT
    assert (header.height, header.root_height) == (1, 1)
    assert client.read_account(raw(VECTORS["state"][0]["value"])) == (4, 1, 10**18)
    assert client.read_account(None) == (0, 0, 0)


@pytest.mark.parametrize("vector", TREE["proofs"], ids=lambda vector: str(vector["name"]))
def test_it_verifies_each_published_proof_and_no_other(vector: dict[str, str]) -> None:
    key, proof = raw(vector["key"]), raw(vector["proof"])
    found = client.verify_proof(ROOT, key, proof)
    assert found == (raw(vector["value"]) if vector["value"] else None)
    for at in range(len(proof)):
        changed = proof[:at] + bytes((proof[at] ^ 1,)) + proof[at + 1 :]
        with pytest.raises(client.Refused):
            client.verify_proof(ROOT, key, changed)
    with pytest.raises(client.Refused):
        client.verify_proof(ROOT, key, proof + b"\x00")
    with pytest.raises(client.Refused):
        client.verify_proof(bytes(32), key, proof)


PLACES = {"kind": 0, "epoch": 1, "digest": 17, "bitmap size": 49, "bitmap": 53, "count": 54, "signature": 60}


def certified() -> tuple[bytes, client.Header, list[client.Validator]]:
    """The published finalisation, its header, and its validators: the first key alone."""
    block, key = VECTORS["block"], VECTORS["keys"][0]
    signer = client.Validator(raw(key["node_id"]), raw(key["public_key"]), 1)
    return raw(block["finalisation"]), client.read_header(raw(block["header"])), [signer]


def test_it_verifies_the_published_finalisation() -> None:
    client.verify_certificate(*certified())


@pytest.mark.parametrize("place", PLACES)
def test_a_changed_certificate_proves_nothing(place: str) -> None:
    data, header, validators = certified()
    at = PLACES[place]
    with pytest.raises(client.Refused):
        client.verify_certificate(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :], header, validators)


def test_a_certificate_of_strangers_or_of_another_header_proves_nothing() -> None:
    data, header, validators = certified()
    stranger = validators[0]._replace(public_key=bytes(32))
    for changed in ([stranger], [*validators, stranger], []):
        with pytest.raises(client.Refused):
            client.verify_certificate(data, header, changed)
    with pytest.raises(client.Refused):
        client.verify_certificate(data, header._replace(digest=bytes(32)), validators)
    with pytest.raises(client.Refused):
        client.verify_certificate(data + b"\x00", header, validators)


def test_it_refuses_what_is_no_answer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    genesis = tmp_path / "genesis.json"
    genesis.write_text(json.dumps({"validators": []}))
    assert client.main([]) == 2
    assert client.main(["http://127.0.0.1:1", "0x" + "00" * 32, "0x" + "00" * 32, "1", str(genesis)]) == 1
    assert "client: " in capsys.readouterr().err
