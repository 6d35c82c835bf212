"""The chain of a data folder: the node's identity and the genesis, both made on a first run (TIER-61).

The genesis of a folder is kept in it and never changes. All calls block (files, key derivation).
"""

import time
from pathlib import Path

import attrs

from supervm.contracts.application import NodeIdentity
from supervm.crypto.keyfile import read_key_file, write_key_file
from supervm.crypto.keys import KeyPair, generate
from supervm.storage.errors import ForeignChain, LedgerError
from supervm.storage.folder import STORE_NAME, write_synced
from supervm.types.address import Suite, format_address
from supervm.types.errors import InvalidInput
from supervm.types.genesis import Genesis, GenesisGas
from supervm.types.genesis_json import FILE_BYTES_MAX, dump_genesis, load_genesis
from supervm.types.validators import Validator, ValidatorSet

IDENTITY = "identity.json"
FOUNDING = "identity.unused"
"""Beside a key that was made here and has said nothing yet: its log can be founded (CONS-67)."""
GENESIS = "genesis.json"
KEYS = "keys"
FLAT = GenesisGas(component="flat")
DEV_KEY = "dev"
DEV_BALANCE = 10**9 * 10**9
"""A thousand million native coins of 10^9 base units each, on a chain for trying things out."""


class ChainUnusable(LedgerError):
    """The data folder's identity or genesis can't be used; the message names the file and the mend."""


@attrs.frozen(kw_only=True)
class OwnChain:
    """Who the node is and which chain it keeps. `created` says in words what this run made."""

    identity: NodeIdentity
    genesis: Genesis
    created: tuple[str, ...] = ()


def open_chain(data: Path, genesis_file: Path | None, name: str, gas: GenesisGas = FLAT) -> OwnChain:
    """Read the folder's identity and genesis, or make them: from `genesis_file`, or a development chain.

    `gas` is what a development chain made here fixes.

    The folder exists and is held by this process. Raises `ChainUnusable`, `ForeignChain` where
    `genesis_file` is of another chain than the folder's, `KeyFileError`, or OSError.
    """
    created: list[str] = []
    key = _identity(data / IDENTITY, name, created)
    kept = data / GENESIS
    if kept.exists():
        genesis = _read(kept)
        if genesis_file is not None:
            asked = _read(genesis_file)
            if asked.chain_id != genesis.chain_id:
                raise ForeignChain(genesis.chain_id, asked.chain_id)
    elif (data / STORE_NAME).exists():
        # A genesis is kept before its store is made, so this one was lost; another would only hide that.
        raise ChainUnusable(
            f"the data folder holds a chain, and {GENESIS}, which says of which, is missing",
            data,
            "Put the file back: every node of the chain has the same.",
        )
    elif genesis_file is not None:
        genesis = _read(genesis_file)
        write_synced(kept, dump_genesis(genesis))
    else:
        genesis = _development(data, key, gas, created)
        write_synced(kept, dump_genesis(genesis))
        created.append(f"development chain {genesis.chain_id.hex()[:16]} with one validator, this node")
    identity = NodeIdentity(
        node_id=key.node_id, public_key=key.public_key, sign=key.sign, founding=data / FOUNDING
    )
    return OwnChain(identity=identity, genesis=genesis, created=tuple(created))


def make_identity(data: Path, name: str) -> KeyPair:
    """The identity of the node whose data folder this is; made, with the folder, where there is none.

    So a genesis can name validators that never ran. Raises `ChainUnusable`, `KeyFileError`, OSError.
    """
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    return _identity(data / IDENTITY, name, [])


def _identity(path: Path, name: str, created: list[str]) -> KeyPair:
    """The node's own key: plain, since the node must start by itself, and readable by its user only."""
    if path.exists():
        key = read_key_file(path)
        if key.suite != Suite.ED25519:
            raise ChainUnusable(
                f"{path}: a node's identity is an ed25519 key; restore the file from a backup"
            )
        return key
    key = generate("ed25519")
    # Before the key: one without the other is then a file that says nothing of anybody.
    write_synced(path.with_name(FOUNDING), b"")
    write_key_file(path, key, None, name=name[:64])
    created.append(f"identity {key.node_id.hex()[:16]} in {path}")
    return key


def _development(data: Path, key: KeyPair, gas: GenesisGas, created: list[str]) -> Genesis:
    """One validator, this node, and one funded key whose file needs no passphrase."""
    folder = data / KEYS
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{DEV_KEY}.json"
    if path.exists():
        funded = read_key_file(path)
    else:
        funded = generate("ed25519")
        write_key_file(path, funded, None, name=DEV_KEY)
        created.append(f"funded key {DEV_KEY}, {format_address(funded.address)}, in {path}")
    validator = Validator(node_id=key.node_id, public_key=key.public_key, weight=1)
    return Genesis(
        name="development",
        created_ms=time.time_ns() // 1_000_000,
        development=True,
        validators=ValidatorSet((validator,)),
        accounts=((funded.address, DEV_BALANCE),),
        gas=gas,
    )


def _read(path: Path) -> Genesis:
    try:
        with path.open("rb") as file:
            return load_genesis(file.read(FILE_BYTES_MAX + 1))
    except OSError as error:
        why = error.strerror or str(error)
        raise ChainUnusable(f"can't read the genesis: {why}", path, "name a readable genesis file") from error
    except InvalidInput as error:
        raise ChainUnusable(f"not a genesis: {error}", path, "mend it, or name another") from error
