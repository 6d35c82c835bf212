"""`supervm keys`: make, list and show encrypted key files."""

from pathlib import Path

import click

from supervm.cli import keystore
from supervm.cli.output import json_option, note, print_facts, print_table

SUITES = ("ed25519", "secp256k1", "sm2")


@click.group()
def keys() -> None:
    """Make, list and show encrypted key files.

    \b
    Example:
      supervm keys new alice
      supervm keys list
    """


@keys.command()
@click.argument("name")
@click.option("--suite", type=click.Choice(SUITES), default="ed25519", show_default=True)
@keystore.data_option
@keystore.passphrase_option
@json_option
def new(name: str, suite: str, data: Path | None, passphrase_file: Path | None, as_json: bool) -> None:
    """Make a key and write it, encrypted, to a new file.

    \b
    Example:
      supervm keys new alice
      supervm keys new bob --suite sm2 --passphrase-file secret.txt
    """
    from supervm.crypto.keyfile import write_key_file
    from supervm.crypto.keys import generate

    path = keystore.new_path(name, data)
    secret = keystore.passphrase(passphrase_file, f"New passphrase for {name}", confirm=True)
    write_key_file(path, generate(suite), secret, name=name)
    print_facts(_facts(path), as_json)
    if not as_json:
        note("Without the passphrase nobody can use this key: keep both, apart from each other.")


@keys.command("list")
@keystore.data_option
@json_option
def list_(data: Path | None, as_json: bool) -> None:
    """List the keys there are.

    \b
    Example:
      supervm keys list --json
    """
    rows = [_facts(path) for path in keystore.every(data)]
    print_table(rows, ("name", "suite", "address", "encrypted"), as_json)


@keys.command()
@click.argument("name")
@keystore.data_option
@json_option
def show(name: str, data: Path | None, as_json: bool) -> None:
    """Show a key's address and public key; the secret stays where it is.

    \b
    Example:
      supervm keys show alice
    """
    print_facts(_facts(keystore.find(name, data)), as_json)


def _facts(path: Path) -> dict[str, object]:
    from supervm.crypto.keyfile import read_key_facts
    from supervm.types.address import Suite

    facts = read_key_facts(path)
    return {
        "name": path.stem,
        "suite": Suite(facts.suite).name.lower(),
        "address": f"0x{facts.address.hex()}",
        "public_key": f"0x{facts.public_key.hex()}",
        "encrypted": facts.encrypted,
        "file": str(path),
    }
