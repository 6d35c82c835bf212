"""`supervm keys` and `supervm genesis`: files that other verbs read."""

import json
from pathlib import Path

import pytest

from supervm.cli.main import main
from supervm.crypto.keyfile import read_key_file
from supervm.types.genesis_json import load_genesis


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SUPERVM_KEY_PASSPHRASE", raising=False)
    monkeypatch.delenv("SUPERVM_NODE__DATA", raising=False)
    return tmp_path


@pytest.mark.parametrize("suite", ["ed25519", "secp256k1", "sm2"])
def test_a_new_key_is_encrypted_and_opens_with_its_passphrase(
    suite: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SUPERVM_KEY_PASSPHRASE", "correct horse")
    assert main(["keys", "new", "alice", "--suite", suite, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["suite"] == suite
    assert facts["encrypted"] is True
    key = read_key_file(home / ".supervm" / "keys" / "alice.json", b"correct horse")
    assert facts["address"] == f"0x{key.address.hex()}"
    assert key.secret.hex() not in Path(facts["file"]).read_text()


def test_a_passphrase_comes_from_a_file_too(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "secret.txt").write_text("hunter2\nsecond line\n")
    data = ["--data", str(home / "node")]
    assert main(["keys", "new", "bob", "--passphrase-file", str(home / "secret.txt"), *data]) == 0
    assert read_key_file(home / "node" / "keys" / "bob.json", b"hunter2").suite_name == "ed25519"
    capsys.readouterr()
    assert main(["keys", "list", "--json", *data]) == 0
    assert [key["name"] for key in json.loads(capsys.readouterr().out)] == ["bob"]


def test_without_a_terminal_and_a_passphrase_no_key_is_made(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "new", "carol"]) == 1
    assert "--passphrase-file or SUPERVM_KEY_PASSPHRASE" in capsys.readouterr().err
    assert not list(home.rglob("carol*"))


def test_a_key_is_never_overwritten(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SUPERVM_KEY_PASSPHRASE", "x")
    assert main(["keys", "new", "alice"]) == 0
    before = (home / ".supervm" / "keys" / "alice.json").read_bytes()
    assert main(["keys", "new", "alice"]) == 1
    assert (home / ".supervm" / "keys" / "alice.json").read_bytes() == before


def test_an_unknown_key_is_answered_with_the_keys_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SUPERVM_KEY_PASSPHRASE", "x")
    assert main(["keys", "new", "alice"]) == 0
    capsys.readouterr()
    assert main(["keys", "show", "alcie"]) == 1
    assert "no key 'alcie' (there are: alice)" in capsys.readouterr().err


def test_a_name_that_would_leave_the_folder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "new", "../x"]) == 2
    assert "is no name for a key" in capsys.readouterr().err


def test_a_genesis_is_made_from_keys_and_read_back(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SUPERVM_KEY_PASSPHRASE", "x")
    assert main(["keys", "new", "alice"]) == 0
    file = home / "chain.json"
    made = ["genesis", "new", str(file), "--name", "t", "--validator", "alice=3", "--created-ms", "5"]
    assert (
        main([*made, "--fund", "alice=1.5", "--fund", "0x" + "ab" * 32 + "=2", "--gas-set", "price=7"]) == 0
    )
    genesis = load_genesis(file.read_bytes())
    alice = read_key_file(home / ".supervm" / "keys" / "alice.json", b"x")
    assert dict(genesis.accounts) == {alice.address: 1_500_000_000, b"\xab" * 32: 2_000_000_000}
    assert [(each.public_key, each.weight) for each in genesis.validators.members] == [(alice.public_key, 3)]
    assert genesis.gas.parameters == (("price", "7"),)
    capsys.readouterr()
    assert main(["genesis", "show", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chain_id"] == f"0x{genesis.chain_id.hex()}"
    assert main(made) == 2


@pytest.mark.parametrize("amount", ["1.0000000001", "-1", "1e9", "", "1.", "one"])
def test_an_amount_that_is_none_is_refused_by_value(
    amount: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["genesis", "new", str(home / "g.json"), "--name", "t", "--validator", "0x" + "00" * 32]
    assert main([*arguments, "--fund", f"0x{'ab' * 32}={amount}"]) == 2
    assert repr(amount) in capsys.readouterr().err or amount == ""
    assert not (home / "g.json").exists()
