"""The price of gas is the chain's: fixed by its genesis, whatever a node's configuration says later."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from supervm.types.genesis_json import load_genesis


def supervm(*arguments: str) -> str:
    command = [sys.executable, "-m", "supervm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def once(data: Path, *flags: str) -> None:
    supervm(
        "run", "--data", str(data), "--api", "127.0.0.1:0", "--set", "storage.use=sqlite", "--once", *flags
    )


def verified(data: Path, *flags: str) -> Any:
    return json.loads(supervm("verify", "--data", str(data), "--json", *flags))


@pytest.mark.parametrize("prices", [(), ("--set", "gas.flat.price=77")])
def test_a_development_chain_fixes_the_price_it_was_made_with(
    prices: tuple[str, ...], tmp_path: Path
) -> None:
    once(tmp_path, *prices)
    genesis = load_genesis((tmp_path / "genesis.json").read_bytes())
    assert genesis.gas.parameters == ((("price", "77"),) if prices else ())
    once(tmp_path, "--set", "gas.flat.price=5")
    assert verified(tmp_path, "--set", "gas.flat.price=5")["verified"] is True


def test_a_chain_from_a_genesis_file_has_the_genesis_price(tmp_path: Path) -> None:
    once(tmp_path / "first", "--set", "gas.flat.price=77")
    (tmp_path / "second").mkdir(mode=0o700)
    identity = (tmp_path / "first" / "identity.json").read_bytes()
    (tmp_path / "second" / "identity.json").touch(mode=0o600)
    (tmp_path / "second" / "identity.json").write_bytes(identity)
    genesis = tmp_path / "first" / "genesis.json"
    once(tmp_path / "second", "--genesis", str(genesis))
    assert verified(tmp_path / "second", "--genesis", str(genesis)) == verified(tmp_path / "first")
