"""Build, sign, record, send, wait: what every verb of `tx` does with its operations."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from supervm.cli import keystore
from supervm.cli.errors import Failure
from supervm.cli.node_option import connect
from supervm.cli.output import note, print_facts

if TYPE_CHECKING:
    from supervm.client.http import NodeClient
    from supervm.client.wallet import Signed, Wallet
    from supervm.types.operations import Operation
    from supervm.types.transaction import Input

WAIT_S = 30.0
WAIT_REQUEST_S = 10.0
FINAL = ("committed", "certified")
ENDED = (*FINAL, "failed", "void")


@attrs.frozen
class Sending:
    """How the operator wants it: which node, whose key, what to wait for."""

    api: str
    key: str
    data: Path | None
    passphrase_file: Path | None
    lane: str
    wait: bool
    as_json: bool


def send_operations(
    asked: Sending, operations: Sequence["Operation"], inputs: Sequence["Input"] = (), input_bytes: int = 0
) -> None:
    """Sign the operations with the sender's next nonce and send them. Raises Failure where they fail.

    `input_bytes`: the data that the inputs hold now, together.
    """
    from supervm.client.build import body_of
    from supervm.types.address import parse_hex
    from supervm.types.transaction import Lane

    key = keystore.unlock(keystore.find(asked.key, asked.data), asked.passphrase_file)
    wallet = wallet_of(asked.data)
    with connect(asked.api) as client:
        status = client.status()
        account = client.account(f"0x{key.address.hex()}")
        body = body_of(
            operations,
            chain_id=parse_hex(status["chain_id"], "chain_id", 32),
            sender=key.address,
            suite=key.suite,
            nonce=int(account["pending_nonce"]),
            base_price=int(status["base_price"]),
            inputs=inputs,
            input_bytes=input_bytes,
            lane=Lane[asked.lane.upper()],
        )
        signed = wallet.sign(body, key)
        send_signed(client, wallet, signed)
        report(client, f"0x{signed.transaction.digest.hex()}", wait=asked.wait, as_json=asked.as_json)


def wallet_of(data: Path | None) -> "Wallet":
    """The wallet beside the keys that `--data` names."""
    from supervm.client.wallet import Wallet

    return Wallet(keystore.folders(data)[0 if data is not None else 1].parent / "wallet")


def send_signed(client: "NodeClient", wallet: "Wallet", signed: "Signed") -> None:
    """Send recorded bytes. A refusal frees the nonce if nobody else can have them; else it stays taken."""
    from supervm.client.http import NodeUnreachable, RequestRefused

    data = wallet.sending(signed)
    digest = f"0x{signed.transaction.digest.hex()}"
    try:
        (refusal,) = client.send([data]).refusals
    except (NodeUnreachable, RequestRefused) as error:
        raise Failure(
            f"{error}; {digest} is signed and kept: send the same bytes with 'supervm tx retry'"
        ) from error
    if refusal is None:
        return
    if refusal.retry_after_s is None and refusal.code != "Equivocated" and wallet.release(signed):
        raise Failure(f"refused: {refusal.text}; the nonce is free again")
    raise Failure(f"refused: {refusal.text}; send the same bytes again with 'supervm tx retry'")


def report(
    client: "NodeClient", digest: str, *, wait: bool, as_json: bool, timeout_s: float = WAIT_S
) -> None:
    """Print what became of a transaction, waiting for its end if asked. Raises Failure unless it is well."""
    found = await_end(client, digest, timeout_s) if wait else client.transaction(digest)
    facts = summary(found)
    print_facts(facts, as_json)
    if not wait:
        return
    if found["status"] not in ENDED:
        raise Failure(
            f"{digest} is {found['status']} after {timeout_s:g} s; go on with 'supervm tx wait {digest}'"
        )
    if found["status"] not in FINAL:
        raise Failure(f"{digest} {found['status']}: {facts.get('code') or 'no reason given'}")


def await_end(client: "NodeClient", digest: str, timeout_s: float) -> dict[str, Any]:
    """The transaction's facts once it has ended, or as they are when the time is over."""
    import time

    deadline = time.monotonic() + timeout_s
    while True:
        left = deadline - time.monotonic()
        # The node holds the question until there is an answer, so this loop is no busy one.
        found = client.transaction(digest, wait=f"{max(0.0, min(WAIT_REQUEST_S, left)):.3f}")
        if found["status"] in ENDED or left <= 0:
            return found
        if found["status"] == "unknown":
            note(f"{digest} is not known to the node (yet)")


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """A transaction's facts without what only programs read."""
    receipt = found.get("receipt") or {}
    facts = {name: found.get(name) for name in ("digest", "status", "lane", "height", "index")}
    wanted = ("code", "gas_used", "fee", "created", "written", "deleted")
    return facts | {name: receipt[name] for name in wanted if receipt.get(name)}
