"""`supervm genesis`: make or read a genesis file."""

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervm.cli import keystore
from supervm.cli.errors import Misuse
from supervm.cli.output import json_option, note, print_facts

if TYPE_CHECKING:
    from supervm.types.validators import Validator

NATIVE_DECIMALS = 9


@click.group()
def genesis() -> None:
    """Make or read a genesis file.

    \b
    Example:
      supervm genesis new chain.json --name testing --validator alice --fund alice=1000000
      supervm genesis show chain.json
    """


@genesis.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", required=True, help="Name of the chain, 1 to 64 ASCII characters.")
@click.option(
    "--validator",
    "validators",
    multiple=True,
    metavar="KEY[=WEIGHT]",
    help="Node identity: a key file or an ed25519 public key in hex; weight 1 unless given.",
)
@click.option(
    "--node",
    "nodes",
    multiple=True,
    metavar="DIR[=WEIGHT]",
    help="Data folder of a validator; its identity is made where there is none.",
)
@click.option(
    "--fund",
    "funds",
    multiple=True,
    metavar="WHO=AMOUNT",
    help="Key name or address, and native coins, such as 1000 or 0.5.",
)
@click.option("--gas", "component", default="flat", show_default=True, help="Gas component of the chain.")
@click.option(
    "--gas-set", "parameters", multiple=True, metavar="NAME=VALUE", help="Option of the gas component."
)
@click.option("--development", is_flag=True, help="Mark the chain as one whose keys aren't worth stealing.")
@click.option(
    "--epoch-blocks",
    type=click.IntRange(1, 2**32),
    default=3_600,
    show_default=True,
    help="Blocks after which validators may change.",
)
@click.option("--created-ms", type=int, help="UTC milliseconds of the first block.  [default: now]")
@keystore.data_option
@json_option
def new(
    file: Path,
    name: str,
    validators: tuple[str, ...],
    nodes: tuple[str, ...],
    funds: tuple[str, ...],
    component: str,
    parameters: tuple[str, ...],
    development: bool,
    epoch_blocks: int,
    created_ms: int | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Write a genesis file. Everyone who starts from the same file is on the same chain.

    \b
    Example:
      supervm genesis new chain.json --name testing \\
          --validator alice --fund alice=1000000 --gas-set price=20000
      supervm genesis new chain.json --name four \\
          --node n0 --node n1 --node n2 --node n3 --fund alice=1000000
    """
    from supervm.types.genesis import Genesis, GenesisGas
    from supervm.types.genesis_json import dump_genesis
    from supervm.types.validators import ValidatorSet

    if file.exists():
        raise Misuse(f"{file} exists; a genesis is never overwritten, choose another name")
    accounts: dict[bytes, int] = {}
    for fund in funds:
        who, amount = _pair(fund, "--fund")
        address = address_of_key(who, data)
        accounts[address] = accounts.get(address, 0) + parse_amount(amount, NATIVE_DECIMALS)
    if not validators and not nodes:
        raise Misuse("a chain needs a validator; name one with --validator KEY or --node DIR")
    members = [_validator(text, data) for text in validators] + [_validator_of(text) for text in nodes]
    members.sort(key=lambda each: each.node_id)
    made = Genesis(
        name=name,
        created_ms=time.time_ns() // 1_000_000 if created_ms is None else created_ms,
        development=development,
        epoch_blocks=epoch_blocks,
        validators=ValidatorSet(tuple(members)),
        accounts=tuple(sorted(accounts.items())),
        gas=GenesisGas(
            component=component, parameters=tuple(sorted(_pair(text, "--gas-set") for text in parameters))
        ),
    )
    with file.open("xb") as opened:
        opened.write(dump_genesis(made))
    print_facts(_facts(file), as_json)
    if not as_json:
        note(f"Start a node on it: supervm run --genesis {file}")


@genesis.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def show(file: Path, as_json: bool) -> None:
    """Show what a genesis file makes: chain id, validators, supplies.

    \b
    Example:
      supervm genesis show chain.json
    """
    print_facts(_facts(file), as_json)


def parse_amount(text: str, decimals: int) -> int:
    """Coins as base units: `1.5` of a token with 9 decimals is 1,500,000,000. Raises Misuse."""
    found = re.fullmatch(r"([0-9]+)(?:\.([0-9]+))?", text)
    if found is None or len(found[2] or "") > decimals:
        raise Misuse(f"{text!r} is no amount; give a number with at most {decimals} decimals, such as 1.5")
    return int(found[1] + (found[2] or "").ljust(decimals, "0"))


def address_of_key(who: str, data: Path | None) -> bytes:
    """An address from 0x hex, or from the key file of that name."""
    from supervm.crypto.keyfile import read_key_facts
    from supervm.types.address import parse_address

    if who.startswith("0x"):
        return parse_address(who)
    return read_key_facts(keystore.find(who, data)).address


def _validator_of(text: str) -> "Validator":
    from supervm.node.chain import make_identity
    from supervm.types.validators import Validator

    folder, weight = _weighted(text, "--node")
    data = Path(folder).expanduser()
    key = make_identity(data, data.name)
    return Validator(key.node_id, key.public_key, weight)


def _weighted(text: str, flag: str) -> tuple[str, int]:
    who, _, weight = text.partition("=")
    if weight and not (weight.isascii() and weight.isdigit()):
        raise Misuse(f"{flag} {text}: {weight!r} is no weight; give a whole number")
    return who, int(weight or 1)


def _validator(text: str, data: Path | None) -> "Validator":
    from supervm.crypto.keyfile import read_key_facts
    from supervm.types.address import Suite, node_id_of, parse_hex
    from supervm.types.validators import Validator

    who, weight = _weighted(text, "--validator")
    if who.startswith("0x"):
        public_key = parse_hex(who, "--validator", 32)
    else:
        facts = read_key_facts(keystore.find(who, data))
        if facts.suite != Suite.ED25519:
            raise Misuse(f"--validator {who}: validators sign with ed25519; make a key with that suite")
        public_key = facts.public_key
    return Validator(node_id_of(Suite.ED25519, public_key), public_key, weight)


def _pair(text: str, flag: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise Misuse(f"{flag} {text}: write it as NAME=VALUE")
    return name, value


def _facts(file: Path) -> dict[str, object]:
    from supervm.types.genesis_json import FILE_BYTES_MAX, load_genesis

    with file.open("rb") as opened:
        found = load_genesis(opened.read(FILE_BYTES_MAX + 1))
    return {
        "file": str(file),
        "name": found.name,
        "chain_id": f"0x{found.chain_id.hex()}",
        "created_ms": str(found.created_ms),
        "development": found.development,
        "epoch_blocks": str(found.epoch_blocks),
        "validators": [
            {"node_id": f"0x{each.node_id.hex()}", "weight": str(each.weight)}
            for each in found.validators.members
        ],
        "accounts": len(found.accounts),
        "supply": str(sum(amount for _, amount in found.accounts)),
        "tokens": [
            {
                "id": f"0x{each.id.hex()}",
                "symbol": each.symbol.decode(),
                "supply": str(sum(amount for _, amount in each.balances)),
            }
            for each in found.tokens
        ],
        "gas": {"component": found.gas.component, **dict(found.gas.parameters)},
    }
