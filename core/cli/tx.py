"""`supervm tx`: build, sign, send and await transactions."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supervm.cli import keystore
from supervm.cli.errors import Failure, Misuse
from supervm.cli.genesis import address_of_key, parse_amount
from supervm.cli.node_option import api_option, connect
from supervm.cli.output import json_option, note, print_facts, progress
from supervm.cli.sending import WAIT_S, Sending, report, send_operations, send_signed, wallet_of

if TYPE_CHECKING:
    from supervm.types.operations import Operation
    from supervm.types.transaction import Access, Input

LANES = ("auto", "fast", "ordered")


def sending_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of every verb that signs; the command gets them as one `Sending`."""

    def with_sending(**given: Any) -> None:
        names = ("api", "key", "data", "passphrase_file", "lane", "wait", "as_json")
        command(sending=Sending(**{name: given.pop(name) for name in names}), **given)

    wrapped: Any = with_sending
    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__click_params__ = getattr(command, "__click_params__", [])
    lane = click.Choice(LANES)
    for option in (
        json_option,
        click.option("--wait/--no-wait", default=True, help="Wait until it is final.  [default: wait]"),
        click.option("--lane", type=lane, default="auto", show_default=True, help="How it becomes final."),
        keystore.passphrase_option,
        keystore.data_option,
        api_option,
        click.option("--key", default="dev", show_default=True, help="Key that signs, by name or file."),
    ):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


@click.group()
def tx() -> None:
    """Build, sign, send and await transactions.

    A second signed transaction for one nonce could lock the account, so what was signed is kept, and a
    retry sends the very same bytes.

    \b
    Example:
      supervm tx transfer bob=1.5
      supervm tx wait 0x12ab..
    """


@tx.command()
@click.argument("payments", nargs=-1, required=True, metavar="TO=AMOUNT...")
@click.option("--token", help="Token id; amounts are in its units.  [default: the native token]")
@sending_options
def transfer(sending: Sending, payments: tuple[str, ...], token: str | None) -> None:
    """Pay one or many, all or none. TO is an address or the name of a key.

    \b
    Example:
      supervm tx transfer bob=1.5 --key alice
      supervm tx transfer bob=10 carol=20 --token 0x12ab..
    """
    from supervm.types.address import parse_address
    from supervm.types.operations import Output, Transfer
    from supervm.types.state import NATIVE_TOKEN

    token_id = parse_address(token, "--token") if token else NATIVE_TOKEN
    with connect(sending.api) as client:
        decimals = int(client.get(f"/v1/tokens/0x{token_id.hex()}")["decimals"])
    outputs = []
    for payment in payments:
        who, separator, amount = payment.rpartition("=")
        if not separator:
            raise Misuse(f"{payment!r} isn't TO=AMOUNT, e.g. bob=1.5")
        outputs.append(Output(address_of_key(who, sending.data), parse_amount(amount, decimals)))
    send_operations(sending, [Transfer(token_id, tuple(outputs))])


@tx.group("object")
def object_() -> None:
    """Create, change, hand on, share, freeze and delete objects.

    \b
    Example:
      supervm tx object create --type 7 --text hello
    """


def content_options(command: Callable[..., None]) -> Callable[..., None]:
    """`--hex`, `--text` or `--file`: an object's data."""
    command = click.option("--file", "file", type=click.Path(path_type=Path), help="Data from a file.")(
        command
    )
    command = click.option("--text", help="Data as UTF-8 text.")(command)
    return click.option("--hex", "hex_", help="Data as 0x hex.")(command)


@object_.command()
@click.option("--type", "type_", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--owner", help="Address or key name.  [default: the signer]")
@click.option("--shared", is_flag=True, help="Anyone may use it.")
@click.option("--immutable", is_flag=True, help="Nobody may ever change it.")
@content_options
@sending_options
def create(
    sending: Sending,
    type_: int,
    owner: str | None,
    shared: bool,
    immutable: bool,
    hex_: str | None,
    text: str | None,
    file: Path | None,
) -> None:
    """Make an object.

    \b
    Example:
      supervm tx object create --type 7 --text hello --key alice
    """
    from supervm.types.operations import ObjectCreate
    from supervm.types.state import OwnerKind

    if shared + immutable + (owner is not None) > 1:
        raise Misuse("--owner, --shared and --immutable exclude each other; give one")
    kind = OwnerKind.SHARED if shared else OwnerKind.IMMUTABLE if immutable else OwnerKind.OWNED
    owned_by = bytes(32)
    if kind is OwnerKind.OWNED:
        owned_by = address_of_key(owner or _address_text(sending), sending.data)
    send_operations(sending, [ObjectCreate(type_, kind, owned_by, _content(hex_, text, file))])


@object_.command()
@click.argument("id_", metavar="ID")
@content_options
@sending_options
def mutate(sending: Sending, id_: str, hex_: str | None, text: str | None, file: Path | None) -> None:
    """Replace an object's data.

    \b
    Example:
      supervm tx object mutate 0x12ab.. --text goodbye
    """
    from supervm.types.operations import ObjectMutate
    from supervm.types.transaction import Access

    data = _content(hex_, text, file)
    _use(sending, id_, Access.WRITE, lambda object_id: ObjectMutate(object_id, data))


@object_.command("transfer")
@click.argument("id_", metavar="ID")
@click.argument("to")
@sending_options
def transfer_object(sending: Sending, id_: str, to: str) -> None:
    """Give an owned object to another address.

    \b
    Example:
      supervm tx object transfer 0x12ab.. bob
    """
    from supervm.types.operations import ObjectTransfer
    from supervm.types.transaction import Access

    address = address_of_key(to, sending.data)
    _use(sending, id_, Access.TRANSFER, lambda object_id: ObjectTransfer(object_id, address))


@object_.command()
@click.argument("id_", metavar="ID")
@sending_options
def share(sending: Sending, id_: str) -> None:
    """Make an owned object shared, for good.

    \b
    Example:
      supervm tx object share 0x12ab..
    """
    from supervm.types.operations import ObjectShare
    from supervm.types.transaction import Access

    _use(sending, id_, Access.SHARE, ObjectShare)


@object_.command()
@click.argument("id_", metavar="ID")
@sending_options
def freeze(sending: Sending, id_: str) -> None:
    """Make an owned object immutable, for good.

    \b
    Example:
      supervm tx object freeze 0x12ab..
    """
    from supervm.types.operations import ObjectFreeze
    from supervm.types.transaction import Access

    _use(sending, id_, Access.FREEZE, ObjectFreeze)


@object_.command()
@click.argument("id_", metavar="ID")
@sending_options
def delete(sending: Sending, id_: str) -> None:
    """Delete an owned object; its id is never used again.

    \b
    Example:
      supervm tx object delete 0x12ab..
    """
    from supervm.types.operations import ObjectDelete
    from supervm.types.transaction import Access

    _use(sending, id_, Access.DELETE, ObjectDelete)


@tx.command()
@click.argument("key")
@keystore.data_option
@api_option
@json_option
def retry(key: str, data: Path | None, api: str, as_json: bool) -> None:
    """Send again, byte for byte, what KEY has signed and no block holds yet.

    \b
    Example:
      supervm tx retry alice
    """
    from supervm.types.address import parse_hex

    address = address_of_key(key, data)
    wallet = wallet_of(data)
    sent = []
    with connect(api) as client:
        chain_id = parse_hex(client.status()["chain_id"], "chain_id", 32)
        nonce = int(client.account(f"0x{address.hex()}")["nonce"])
        for signed in wallet.recorded(chain_id, address):
            if signed.nonce >= nonce:
                send_signed(client, wallet, signed)
                sent.append(f"0x{signed.transaction.digest.hex()}")
    print_facts({"sent": sent}, as_json)
    if not sent and not as_json:
        note("nothing to send: every signed transaction is in a block")


@tx.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--wait/--no-wait", default=False, help="Wait until each is final.  [default: no wait]")
@api_option
@json_option
def submit(file: Path, wait: bool, api: str, as_json: bool) -> None:
    """Send many signed transactions from FILE.

    FILE holds canonical bytes, each transaction after its u32 little-endian length, or JSON lines, each
    {"bytes": "0x.."} or "0x..". Sending a file twice is harmless.

    \b
    Example:
      supervm tx submit signed.bin --wait
    """
    from supervm.cli.submitting import submit_file

    with connect(api) as client:
        facts = submit_file(client, file, wait=wait, progress=progress)
    print_facts(facts, as_json)
    if facts["refused"] or facts["not_committed"]:
        counts = f"{facts['refused']} refused and {facts['not_committed']} not committed"
        raise Failure(f"{counts} of {facts['transactions']}")


@tx.command()
@click.argument("digest")
@click.option(
    "--timeout", type=click.FloatRange(0, 86_400), default=WAIT_S, show_default=True, help="Seconds."
)
@api_option
@json_option
def wait(digest: str, timeout: float, api: str, as_json: bool) -> None:
    """Wait until a transaction is final, and show what it did.

    \b
    Example:
      supervm tx wait 0x12ab.. --timeout 60
    """
    with connect(api) as client:
        report(client, digest, wait=True, as_json=as_json, timeout_s=timeout)


def _use(sending: Sending, id_: str, access: "Access", operation: "Callable[[bytes], Operation]") -> None:
    """Send an operation on an object that exists, declared at the version the node shows."""
    from supervm.types.address import parse_address

    object_id = parse_address(id_, "ID")
    with connect(sending.api) as client:
        found = client.ledger_object(id_)
    data_bytes = (len(found["data"]) - len("0x")) // 2
    send_operations(sending, [operation(object_id)], [_input(object_id, found, access)], data_bytes)


def _input(object_id: bytes, found: dict[str, Any], access: "Access") -> "Input":
    from supervm.types.transaction import Input

    version = found["initial_version"] if found["owner"] == "shared" else found["version"]
    return Input(object_id, int(version), access)


def _address_text(sending: Sending) -> str:
    return f"0x{address_of_key(sending.key, sending.data).hex()}"


def _content(hex_: str | None, text: str | None, file: Path | None) -> bytes:
    from supervm.types.address import parse_hex

    if sum(given is not None for given in (hex_, text, file)) > 1:
        raise Misuse("--hex, --text and --file exclude each other; give one")
    if hex_ is not None:
        return parse_hex(hex_, "--hex")
    if file is not None:
        return file.read_bytes()
    return (text or "").encode()
