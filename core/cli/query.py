"""`supervm query`: read from a node. A proof is checked here, whatever the node says of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supervm.cli import keystore
from supervm.cli.errors import Failure, Misuse
from supervm.cli.genesis import address_of_key
from supervm.cli.node_option import api_option, connect
from supervm.cli.output import json_option, note, print_facts, print_table
from supervm.cli.sending import summary

if TYPE_CHECKING:
    from supervm.types.genesis import Genesis
    from supervm.types.handover import Checkpoint


@click.group()
def query() -> None:
    """Read from a node.

    \b
    Example:
      supervm query status
      supervm query account alice
    """


@query.command()
@api_option
@json_option
def status(api: str, as_json: bool) -> None:
    """The chain's tip, the tier, what the node is composed of.

    \b
    Example:
      supervm query status --json
    """
    _show(api, "/v1/status", as_json)


@query.command()
@click.argument("who", metavar="ADDRESS|KEY")
@keystore.data_option
@api_option
@json_option
def account(who: str, data: Path | None, api: str, as_json: bool) -> None:
    """An account's nonce and balances, in base units.

    \b
    Example:
      supervm query account alice
    """
    _show(api, f"/v1/accounts/0x{address_of_key(who, data).hex()}", as_json)


@query.command("tx")
@click.argument("digest")
@api_option
@json_option
def transaction(digest: str, api: str, as_json: bool) -> None:
    """What became of a transaction.

    \b
    Example:
      supervm query tx 0x12ab..
    """
    with connect(api) as client:
        found = client.transaction(digest)
    print_facts(found if as_json else summary(found), as_json)


@query.command()
@click.argument("reference", default="latest", metavar="[HEIGHT|DIGEST]")
@api_option
@json_option
def block(reference: str, api: str, as_json: bool) -> None:
    """A block's header, certificate and transactions; the newest one unless named.

    \b
    Example:
      supervm query block 12
    """
    with connect(api) as client:
        name = client.status()["height"] if reference == "latest" else reference
        found = client.block(name)
    print_facts(found, as_json)


@query.command("object")
@click.argument("id_", metavar="ID")
@api_option
@json_option
def object_(id_: str, api: str, as_json: bool) -> None:
    """An object's owner, version, type and data.

    \b
    Example:
      supervm query object 0x12ab..
    """
    _show(api, f"/v1/objects/{id_}", as_json)


@query.command()
@click.argument("what", metavar="ADDRESS|KEY|OBJECT-ID")
@click.option("--object", "is_object", is_flag=True, help="It is an object's id.")
@click.option("--token", help="Prove the balance of this token.  [default: the account itself]")
@click.option(
    "--genesis",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Check the block's signatures, beginning with the validators of a genesis at most 21 days old.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Check them beginning with a checkpoint of `query checkpoint`, at most 21 days old. "
    "With --genesis it must be of that chain.",
)
@click.option("--trusted", metavar="DIGEST", help="Digest of the block header that you trust.")
@keystore.data_option
@api_option
@json_option
def proof(
    what: str,
    is_object: bool,
    token: str | None,
    genesis: Path | None,
    checkpoint: Path | None,
    trusted: str | None,
    data: Path | None,
    api: str,
    as_json: bool,
) -> None:
    """Prove what an account or object is, or that it isn't there, and check the proof on this side.

    Validators that left can't be punished any more after 21 days, and could sign another history. What the
    check of signatures begins from is refused when it is older than that by this machine's clock.

    \b
    Example:
      supervm query proof alice --genesis chain.json
      supervm query proof alice --checkpoint checkpoint.hex
      supervm query proof 0x12ab.. --object
    """
    from supervm.client import proof as proofs
    from supervm.client.light import begin
    from supervm.types.address import parse_address
    from supervm.types.state import NATIVE_TOKEN, account_key, balance_key, object_key

    if is_object and token:
        raise Misuse("--object and --token exclude each other; an object holds no tokens")
    name = parse_address(what, "OBJECT-ID") if is_object else address_of_key(what, data)
    token_id = parse_address(token, "--token") if token else NATIVE_TOKEN
    if is_object:
        key = object_key(name)
    else:
        key = account_key(name) if token_id == NATIVE_TOKEN else balance_key(name, token_id)
    chain = None if genesis is None else _read_genesis(genesis)
    point = None if checkpoint is None else _read_checkpoint(checkpoint)
    now_ms = proofs.wall_ms()
    begun = None if chain is None and point is None else begin(chain, point, now_ms)
    parameters = {"kind": "object" if is_object else "account", "token": token}
    with connect(api) as client:
        answer = client.proof(f"0x{name.hex()}", **parameters)
        upto = proofs.header_in(answer).epoch
        handovers = [] if begun is None else client.handovers(upto, begun.epoch)
    proven = proofs.check_proof(
        answer,
        key,
        genesis=chain,
        checkpoint=point,
        handovers=handovers,
        trusted=parse_address(trusted, "--trusted") if trusted else None,
        now_ms=now_ms,
    )
    facts = {
        "proven": "present" if proven.value is not None else "absent",
        **_decoded(key, proven.value),
        "height": str(proven.header.root_height),
        "block": str(proven.header.height),
        "block_digest": f"0x{proven.block_digest.hex()}",
        "state_root": f"0x{proven.header.state_root.hex()}",
        "siblings": len(answer["siblings"]),
        "header_trust": proven.trust,
    }
    print_facts(facts, as_json)
    if not as_json:
        note("checked on this side: the value leads to the header's state root")


@query.command()
@click.option(
    "--genesis",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    metavar="FILE",
    help="The chain's genesis file.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="File to write; none is overwritten.",
)
@api_option
@json_option
def checkpoint(genesis: Path, out: Path, api: str, as_json: bool) -> None:
    """Make a checkpoint of the newest block, from which light clients may begin for 21 days.

    Ask a node that you trust, such as your own. The block is proven from genesis by signatures, but
    validators that left long ago could sign another history too: that this one is the chain's is the node's
    word, and yours to whom you give the file.

    \b
    Example:
      supervm query checkpoint --genesis chain.json --out checkpoint.hex
    """
    from supervm.client.checkpoint_file import dump_checkpoint
    from supervm.client.light import UNBONDING_MS, checkpoint_at, epoch_after
    from supervm.client.proof import header_in
    from supervm.types.address import parse_hex
    from supervm.types.finality import FinalityProof

    if out.exists():
        raise Misuse(f"{out} exists; a checkpoint is never overwritten, choose another name")
    chain = _read_genesis(genesis)
    with connect(api) as client:
        height = client.status()["height"]
        if str(height) == "0":
            raise Failure(f"{api}: block 0 carries no signatures; ask again after the first block")
        found = client.block(height)
        header = header_in(found)
        handovers = client.handovers(epoch_after(header))
    proof = FinalityProof.decode(parse_hex(str(found.get("certificate")), "certificate"))
    made = checkpoint_at(chain, handovers, header, proof)
    with out.open("xb") as opened:
        opened.write(dump_checkpoint(made))
    facts = {
        "file": str(out),
        "chain_id": f"0x{made.chain_id.hex()}",
        "height": str(made.height),
        "block_digest": f"0x{made.digest.hex()}",
        "epoch": str(made.epoch),
        "validators": len(made.validators.members),
        "timestamp_ms": str(made.timestamp_ms),
        "too_old_after_ms": str(made.timestamp_ms + UNBONDING_MS),
    }
    print_facts(facts, as_json)


@query.command()
@api_option
@json_option
def peers(api: str, as_json: bool) -> None:
    """The nodes that this node knows.

    \b
    Example:
      supervm query peers
    """
    with connect(api) as client:
        rows = client.get("/v1/nodes")["nodes"]
    print_table(rows, ("node_id", "tier", "region", "addresses"), as_json)


@query.command()
@click.argument("node_id", metavar="NODE-ID")
@api_option
@json_option
def lookup(node_id: str, api: str, as_json: bool) -> None:
    """How to reach a node: its record and the ways to connect.

    \b
    Example:
      supervm query lookup 0x12ab..
    """
    _show(api, f"/v1/nodes/{node_id}", as_json)


def _read_genesis(path: Path) -> "Genesis":
    from supervm.types.genesis_json import FILE_BYTES_MAX, load_genesis

    with path.open("rb") as opened:
        return load_genesis(opened.read(FILE_BYTES_MAX + 1))


def _read_checkpoint(path: Path) -> "Checkpoint":
    from supervm.client.checkpoint_file import FILE_BYTES_MAX, load_checkpoint
    from supervm.types.errors import InvalidInput

    with path.open("rb") as opened:
        data = opened.read(FILE_BYTES_MAX + 1)
    try:
        return load_checkpoint(data)
    except InvalidInput as error:
        raise Misuse(f"{path} is no checkpoint: {error}; supervm query checkpoint makes one") from error


def _show(api: str, path: str, as_json: bool) -> None:
    with connect(api) as client:
        print_facts(client.get(path), as_json)


def _decoded(key: bytes, value: bytes | None) -> dict[str, Any]:
    """A proven state entry in words."""
    from supervm.types.state import ACCOUNT, BALANCE, Account, Object, decode_balance

    if value is None:
        return {}
    if key[:1] == ACCOUNT:
        account = Account.decode(value)
        return {"nonce": str(account.nonce), "balance": str(account.balance)}
    if key[:1] == BALANCE:
        return {"balance": str(decode_balance(value))}
    found = Object.decode(value)
    return {
        "version": str(found.version),
        "owner": found.owner_kind.name.lower(),
        "deleted": found.deleted,
        "data": f"0x{found.data.hex()}",
    }
