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
from supervm.types.genesis import EPOCH_BLOCKS, Genesis
from supervm.types.genesis_json import dump_genesis, load_genesis
from supervm.types.validators import Validator, ValidatorSet

TIER = "node.tier"
ADMIT = "transport.tcp.admit"
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
    epoch_blocks: int = EPOCH_BLOCKS,
) -> Devnet:
    """A network of so many validators in `folder`; where there is one already, with new addresses.

    `settings` are lines of TOML, `SECTION.KEY = VALUE`, for every node. `accounts` are addresses that a new
    chain funds beside its own key, with native base units; `epoch_blocks` are a new chain's. Raises
    ValueError where the folder holds a network of another size, `KeyFileError`, `InvalidInput`, OSError.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys = [make_identity(folder / f"node-{at}", f"node-{at}") for at in range(validators)]
    genesis, funded = _chain(folder, keys, accounts, epoch_blocks)
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


def add_node(folder: Path, name: str, tier: str = "") -> Member:
    """One more node of a network that `make_devnet` made: no validator, so it follows the others.

    Its options are those of node-0, with its own place and addresses, and of the tier that is given (`l1` to
    `l4`; without one it probes its machine); where it was added before, it keeps its data and gets the
    network's addresses of now. Raises ValueError where the folder holds no network or
    `name` is one of its validators', `KeyFileError`, OSError.
    """
    pattern = folder / "node-0.toml"
    if not pattern.exists():
        raise ValueError(f"{folder} holds no network; start one there with supervm devnet up")
    lines = pattern.read_text().splitlines()
    validators = len(load_genesis((folder / GENESIS).read_bytes()).validators.members)
    if name in {f"node-{at}" for at in range(validators)}:
        raise ValueError(f"{name} is one of the network's validators; give another name")
    key = make_identity(folder / name, name)
    api, peer = (f"{LOOPBACK}:{port}" for port in free_ports(2))
    member = Member(
        name=name,
        data=folder / name,
        config=folder / f"{name}.toml",
        node_id=key.node_id,
        api=api,
        peer=peer,
    )
    own = _place(member) + ([f"{TIER} = {json.dumps(tier)}"] if tier else [])
    named = {line.partition(" = ")[0] for line in own}
    others = [line for line in lines if line.partition(" = ")[0] not in named]
    member.config.write_text("\n".join([*own, *others]) + "\n")
    return member


def _chain(
    folder: Path, keys: Sequence[KeyPair], accounts: Sequence[tuple[bytes, int]], epoch_blocks: int
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
        epoch_blocks=epoch_blocks,
        validators=ValidatorSet(tuple(sorted(members, key=lambda each: each.node_id))),
        accounts=tuple(sorted([(funded.address, DEV_BALANCE), *accounts])),
        gas=FLAT,
    )
    write_synced(kept, dump_genesis(genesis))
    return genesis, path


def _options(member: Member, known: Sequence[str], genesis: Path, settings: Sequence[str]) -> str:
    lines = [
        *_place(member),
        f"node.genesis = {json.dumps(str(genesis))}",
        'consensus.use = "bft"',
        'transport.use = ["tcp"]',
        f"transport.tcp.peers = {json.dumps(list(known))}",
        *settings,
    ]
    # Whoever is of the chain may follow it.
    if not any(line.startswith(ADMIT) for line in settings):
        lines.append(f'{ADMIT} = "any"')
    # Blocks often enough that one sees the chain go on while nothing is sent.
    if not any(line.startswith(IDLE) for line in settings):
        lines.append(f"{IDLE} = 1000")
    return "\n".join(lines) + "\n"


def _place(member: Member) -> list[str]:
    """What is a node's own."""
    text = json.dumps
    return [
        f"node.name = {text(member.name)}",
        f"node.data = {text(str(member.data))}",
        f"api.listen = {text(member.api)}",
        f"transport.tcp.listen = [{text(member.peer)}]",
    ]
