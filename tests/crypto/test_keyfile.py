"""Key files: what goes in comes out, nothing else opens them, and hostile ones cost nothing."""

import json
import os
import random
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervm.crypto import keyfile, keys
from supervm.crypto.keyfile import (
    FILE_BYTES_MAX,
    KeyFileError,
    KeyFileExists,
    KeyFileExposed,
    KeyFileMalformed,
    KeyFileMissing,
    KeyFileTooNew,
    WrongPassphrase,
    read_key_facts,
    read_key_file,
    write_key_file,
)
from supervm.crypto.keys import KeyPair

CHEAP = {"operations": 1, "memory_bytes": 8 * 1024}


@pytest.fixture
def key() -> KeyPair:
    return keys.generate("ed25519", random.Random(5).randbytes)


@pytest.fixture
def sealed(tmp_path: Path, key: KeyPair) -> Path:
    path = tmp_path / "key.json"
    write_key_file(path, key, b"open sesame", name="alice", **CHEAP)  # type: ignore[arg-type]
    return path


def rewrite(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_bytes())
    for name, value in changes.items():
        holder = content["secret"] if name in content["secret"] else content
        holder[name] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["ed25519", "secp256k1", "sm2"])
def test_a_key_of_every_suite_survives_its_file(tmp_path: Path, name: str) -> None:
    key = keys.generate(name)
    for passphrase in (None, b"p"):
        path = tmp_path / f"{name}-{passphrase}.json"
        write_key_file(path, key, passphrase, **CHEAP)  # type: ignore[arg-type]
        assert read_key_file(path, passphrase) == key


def test_the_default_cost_opens_again(tmp_path: Path, key: KeyPair) -> None:
    path = tmp_path / "key.json"
    write_key_file(path, key, b"p")
    assert json.loads(path.read_bytes())["secret"]["memory_bytes"] == 64 * 1024 * 1024
    assert read_key_file(path, b"p") == key


def test_an_encrypted_file_shows_its_facts_but_not_its_secret(sealed: Path, key: KeyPair) -> None:
    facts = read_key_facts(sealed)
    assert (facts.name, facts.address, facts.encrypted) == ("alice", key.address, True)
    assert key.secret.hex() not in sealed.read_text()


def test_only_the_owner_may_read_the_file(sealed: Path) -> None:
    assert stat.S_IMODE(sealed.stat().st_mode) == 0o600


def test_nothing_but_the_file_is_left_in_the_folder(sealed: Path) -> None:
    assert list(sealed.parent.iterdir()) == [sealed]


@pytest.mark.parametrize("passphrase", [b"open sesamE", b"x", None, b"", b"x" * 1025])
def test_any_other_passphrase_is_refused_as_wrong(sealed: Path, passphrase: bytes | None) -> None:
    with pytest.raises(WrongPassphrase):
        read_key_file(sealed, passphrase)


def test_an_existing_file_is_never_replaced_unasked(sealed: Path, key: KeyPair) -> None:
    before = sealed.read_bytes()
    with pytest.raises(KeyFileExists):
        write_key_file(sealed, key, None)
    assert sealed.read_bytes() == before
    assert list(sealed.parent.iterdir()) == [sealed]
    write_key_file(sealed, key, None, replace=True)
    assert read_key_file(sealed) == key


def test_without_links_a_file_is_still_written_whole_and_once(
    tmp_path: Path, key: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(self: Path, target: Path) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    path = tmp_path / "key.json"
    write_key_file(path, key, None)
    assert read_key_file(path) == key
    with pytest.raises(KeyFileExists):
        write_key_file(path, key, None)
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, key: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_key_file(tmp_path / "key.json", key, None)
    assert list(tmp_path.iterdir()) == []


def test_a_plain_file_that_others_may_read_is_refused_with_the_mend(tmp_path: Path, key: KeyPair) -> None:
    path = tmp_path / "node.json"
    write_key_file(path, key, None)
    path.chmod(0o644)
    with pytest.raises(KeyFileExposed, match="chmod 600"):
        read_key_file(path)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(KeyFileMissing):
        read_key_file(tmp_path / "none.json")
    with pytest.raises(KeyFileError, match="cannot read"):
        read_key_file(tmp_path)


def test_a_newer_format_is_told_from_a_broken_file(sealed: Path) -> None:
    rewrite(sealed, format=2)
    with pytest.raises(KeyFileTooNew, match="format 2"):
        read_key_file(sealed, b"open sesame")


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "other"},
        {"format": "1"},
        {"format": True},
        {"format": 0},
        {"suite": "rsa"},
        {"suite": ["ed25519"]},
        {"name": 5},
        {"address": "0x" + "00" * 32},
        {"address": 7},
        {"public_key": "0x" + "00" * 31},
        {"extra": 1},
        {"secret": None},
        {"secret": []},
        {"secret": {"key": "0x00", "more": 1}},
        {"kdf": "md5"},
        {"cipher": "none"},
        {"operations": 0},
        {"operations": 17},
        {"operations": "3"},
        {"operations": True},
        {"memory_bytes": 2**40},
        {"memory_bytes": 1},
        {"memory_bytes": 1.5},
        {"salt": "0x00"},
        {"salt": "zz"},
        {"box": "0x00"},
    ],
)
def test_a_file_in_another_form_is_malformed_and_costs_nothing(
    sealed: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreached(*args: object, **more: object) -> bytes:
        raise AssertionError("the key was derived from unchecked parameters")

    monkeypatch.setattr(keyfile, "_derive", unreached)
    rewrite(sealed, **changes)
    with pytest.raises(KeyFileMalformed):
        read_key_file(sealed, b"open sesame")


def test_a_changed_box_does_not_open(sealed: Path) -> None:
    box = json.loads(sealed.read_bytes())["secret"]["box"]
    rewrite(sealed, box=box[:-1] + ("0" if box[-1] != "0" else "1"))
    with pytest.raises(WrongPassphrase):
        read_key_file(sealed, b"open sesame")


def test_a_secret_of_another_key_is_refused(tmp_path: Path, key: KeyPair) -> None:
    path = tmp_path / "node.json"
    write_key_file(path, key, None)
    rewrite(path, key="0x" + "11" * 32)
    with pytest.raises(KeyFileMalformed, match="does not belong"):
        read_key_file(path)
    rewrite(path, key="0x" + "11" * 31)
    with pytest.raises(KeyFileMalformed):
        read_key_file(path)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 10_000, b" " * (FILE_BYTES_MAX + 1)]
)
def test_what_is_no_key_file_is_malformed(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "key.json"
    path.write_bytes(data)
    with pytest.raises(KeyFileMalformed):
        read_key_file(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_opens_to_the_same_key_or_raises_a_key_file_error(
    sealed: Path, key: KeyPair, data: st.DataObject
) -> None:
    good = sealed.read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    damaged = sealed.with_name("damaged.json")
    damaged.write_bytes(good[:at] + data.draw(st.binary(max_size=3)) + good[at + 1 :])
    try:
        assert read_key_file(damaged, b"open sesame") == key
    except KeyFileError as error:
        assert error.code
