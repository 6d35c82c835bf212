"""A genesis of several validators, made before any of their nodes ran."""

import json
from pathlib import Path

import pytest

from supervm.cli.main import main
from supervm.node.chain import open_chain
from supervm.types.genesis_json import load_genesis

PAYEE = "0x" + "11" * 32


def new(file: Path, *arguments: str) -> int:
    return main(["genesis", "new", str(file), "--name", "several", "--fund", f"{PAYEE}=5", *arguments])


def test_data_folders_get_identities_that_the_genesis_names_and_their_nodes_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "chain.json"
    folders = [tmp_path / name for name in ("a", "b", "c")]
    code = new(
        file, "--node", str(folders[0]), "--node", f"{folders[1]}=3", "--node", str(folders[2]), "--json"
    )
    assert code == 0
    shown = json.loads(capsys.readouterr().out)
    genesis = load_genesis(file.read_bytes())
    assert [each["weight"] for each in shown["validators"]] == [
        str(each.weight) for each in genesis.validators.members
    ]
    chains = [open_chain(folder, file, "node") for folder in folders]
    assert {chain.identity.node_id for chain in chains} == {
        each.node_id for each in genesis.validators.members
    }
    weights = {each.node_id: each.weight for each in genesis.validators.members}
    assert [weights[chain.identity.node_id] for chain in chains] == [1, 3, 1]
    assert all(chain.genesis == genesis for chain in chains)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "a chain needs a validator"),
        (("--node", "x=heavy"), "'heavy' is no weight"),
    ],
)
def test_a_genesis_without_validators_or_with_a_wrong_weight_is_refused(
    arguments: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new(tmp_path / "chain.json", *arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "chain.json").exists()
