"""The independent client agrees with the published vectors, and with nothing of ours imported."""

import ast
import json
from pathlib import Path

import nacl.signing
import pytest

from supervm.types.finality import FinalityProof
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


def chain_of_headers(count: int) -> tuple[bytes, client.Header, list[client.Validator]]:
    """A header that is final by the published key's signature on its descendant, `count` blocks above."""
    _, _, validators = certified()
    secret = nacl.signing.SigningKey(raw(VECTORS["keys"][0]["secret"]))
    parts = raw(VECTORS["block"]["header"])
    height = int.from_bytes(parts[41:49], "little")
    headers = [parts]
    for above in range(1, count + 1):
        parent = client.read_header(headers[-1]).digest
        headers.append(parts[:41] + (height + above).to_bytes(8, "little") + parent + parts[81:])
    last = client.read_header(headers[-1])
    text = client.u(1, client.FINALIZE) + client.u(8, last.epoch) + client.u(8, 9) + last.digest
    vote = b"supervm/vote/v1" + last.chain_id + client.u(8, last.epoch) + client.u(1, client.FINALIZE)
    vote += client.u(8, 9) + last.digest
    signature = secret.sign(vote).signature
    certificate = text + client.byte_string(b"\x01") + client.u(2, 1) + client.byte_string(signature)
    listed = b"".join(client.byte_string(each) for each in headers[1:])
    data = b"\x80" + client.u(2, count) + listed + client.byte_string(certificate)
    return data, client.read_header(parts), validators


@pytest.mark.parametrize("count", [1, 3])
def test_it_verifies_a_header_by_those_above_it_and_no_broken_chain_of_them(count: int) -> None:
    data, header, validators = chain_of_headers(count)
    client.verify_finality(data, header, validators)
    for at in (1, 3, 8, 48, 60, 90, len(data) - 70, len(data) - 1):
        with pytest.raises(client.Refused):
            client.verify_finality(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :], header, validators)
    with pytest.raises(client.Refused):
        client.verify_finality(data, header._replace(digest=bytes(32)), validators)
    with pytest.raises(client.Refused):
        client.verify_finality(data, header._replace(epoch=header.epoch + 1), validators)
    with pytest.raises(client.Refused):
        client.verify_finality(data + b"\x00", header, validators)
    with pytest.raises(client.Refused):
        client.verify_finality(b"\x80" + client.u(2, 0) + data[3 + 333 * count :], header, validators)
    skipped = b"\x80" + client.u(2, count - 1) + data[3 + 333 :] if count > 1 else b"\x80"
    with pytest.raises(client.Refused):
        client.verify_finality(skipped, header, validators)


def test_a_proof_that_our_own_nodes_encode_is_read() -> None:
    data, header, validators = chain_of_headers(2)
    found = FinalityProof.decode(data)
    assert found.encode() == data and len(found.headers) == 2
    found.check_of(header.digest)
    client.verify_finality(found.encode(), header, validators)


def test_it_refuses_what_is_no_answer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    genesis = tmp_path / "genesis.json"
    genesis.write_text(json.dumps({"validators": []}))
    assert client.main([]) == 2
    assert client.main(["http://127.0.0.1:1", "0x" + "00" * 32, "0x" + "00" * 32, "1", str(genesis)]) == 1
    assert "client: " in capsys.readouterr().err
