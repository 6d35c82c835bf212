"""The folders of a network on one machine: for each validator a data folder with identity, chain and options.

Everything can be used without `devnet` too: `supervm run --config FOLDER/node-0.toml` starts a node that was
stopped. All calls block (files, key derivation).
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from supervm.crypto.keyfile import read_key_file, write_key_file
from supervm.crypto.keys import KeyPair, generate
from supervm.node.chain import DEV_BALANCE, DEV_KEY, FLAT, GENESIS, KEYS, make_identity
from supervm.node.ports import LOOPBACK, free_ports
from supervm.storage.folder import write_synced
from supervm.types.genesis import Genesis
from supervm.types.genesis_json import dump_genesis, load_genesis
from supervm.types.validators import Validator, ValidatorSet

IDLE = "consensus.bft.block_interval_max_ms"


@attrs.frozen(kw_only=True)
class Member:
    """A node of the network: its place, its options' file, and where it listens."""

    name: str
    data: Path
    config: Path
    node_id: bytes
    api: str
    peer: str


@attrs.frozen(kw_only=True)
class Devnet:
    """What was made, or found. `key` is the file of a funded key without a passphrase."""

    folder: Path
    chain_id: bytes
    key: Path
    members: tuple[Member, ...]


def make_devnet(
    folder: Path,
    validators: int,
    settings: Sequence[str] = (),
    accounts: Sequence[tuple[bytes, int]] = (),
) -> Devnet:
    """A network of so many validators in `folder`; where there is one already, with new addresses.

    `settings` are lines of TOML, `SECTION.KEY = VALUE`, for every node. `accounts` are addresses that a new
    chain funds beside its own key, with native base units. Raises ValueError where the folder holds a network
    of another size, `KeyFileError`, `InvalidInput`, OSError.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys = [make_identity(folder / f"node-{at}", f"node-{at}") for at in range(validators)]
    genesis, funded = _chain(folder, keys, accounts)
    if len(genesis.validators.members) != validators:
        raise ValueError(
            f"{folder} holds a network of {len(genesis.validators.members)} validators, not {validators}; "
            "give that number, or another folder"
        )
    ports = free_ports(2 * validators)
    peers = [f"{LOOPBACK}:{port}" for port in ports[:validators]]
    apis = [f"{LOOPBACK}:{port}" for port in ports[validators:]]
    known = [f"{key.node_id.hex()}@{peer}" for key, peer in zip(keys, peers, strict=True)]
    members = []
    for at, key in enumerate(keys):
        member = Member(
            name=f"node-{at}",
            data=folder / f"node-{at}",
            config=folder / f"node-{at}.toml",
            node_id=key.node_id,
            api=apis[at],
            peer=peers[at],
        )
        member.config.write_text(_options(member, known, folder / GENESIS, settings))
        members.append(member)
    return Devnet(folder=folder, chain_id=genesis.chain_id, key=funded, members=tuple(members))


def _chain(
    folder: Path, keys: Sequence[KeyPair], accounts: Sequence[tuple[bytes, int]]
) -> tuple[Genesis, Path]:
    """The network's genesis and its funded key, made where they aren't there."""
    path, kept = folder / KEYS / f"{DEV_KEY}.json", folder / GENESIS
    if kept.exists():
        return load_genesis(kept.read_bytes()), path
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if path.exists():
        funded = read_key_file(path)
    else:
        funded = generate("ed25519")
        write_key_file(path, funded, None, name=DEV_KEY)
    members = sorted(
        (Validator(key.node_id, key.public_key, 1) for key in keys), key=lambda each: each.node_id
    )
    genesis = Genesis(
        name="devnet",
        created_ms=time.time_ns() // 1_000_000,
        development=True,
        validators=ValidatorSet(tuple(sorted(members, key=lambda each: each.node_id))),
        accounts=tuple(sorted([(funded.address, DEV_BALANCE), *accounts])),
        gas=FLAT,
    )
    write_synced(kept, dump_genesis(genesis))
    return genesis, path


def _options(member: Member, known: Sequence[str], genesis: Path, settings: Sequence[str]) -> str:
    text = json.dumps
    lines = [
        f"node.name = {text(member.name)}",
        f"node.data = {text(str(member.data))}",
        f"node.genesis = {text(str(genesis))}",
        f"api.listen = {text(member.api)}",
        'consensus.use = "bft"',
        'transport.use = ["tcp"]',
        f"transport.tcp.listen = [{text(member.peer)}]",
        f"transport.tcp.peers = {text(list(known))}",
        *settings,
    ]
    # Blocks often enough that one sees the chain go on while nothing is sent.
    if not any(line.startswith(IDLE) for line in settings):
        lines.append(f"{IDLE} = 1000")
    return "\n".join(lines) + "\n"
