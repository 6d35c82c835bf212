"""A client of a SuperVM node, written from docs/reference/encoding.md and the HTTP pages alone.

It imports nothing of supervm: blake3 hashes, PyNaCl signs, the standard library does the rest. It builds
and signs a transfer, sends it, waits for its receipt, and proves the receiver's balance against the block
header that the node shows, and the header by the signatures of the validators whom a genesis file names.

    python tests/independent/client.py http://127.0.0.1:8645 SECRET_KEY_HEX TO_ADDRESS AMOUNT GENESIS_FILE
"""

import json
import pathlib
import sys
import urllib.error
import urllib.request
from typing import Any, NamedTuple

import nacl.exceptions
import nacl.signing
from blake3 import blake3

ED25519 = 1
NATIVE = bytes(32)
EMPTY = bytes(32)
ACCOUNT = b"\x01"
FINALIZE = 10
CHAIN_OF_HEADERS = 0x80
HEADERS_MAX = 4_096
GAS_LIMIT = 30_000
WAIT_S = 30


class Refused(Exception):
    """The node's answer does not check, or is not what was asked for."""


class Account(NamedTuple):
    nonce: int
    sponsor_nonce: int
    balance: int


class Header(NamedTuple):
    chain_id: bytes
    epoch: int
    height: int
    parent: bytes
    root_height: int
    state_root: bytes
    validators_digest: bytes
    digest: bytes


class Validator(NamedTuple):
    node_id: bytes
    public_key: bytes
    weight: int


# Encoding


def u(size: int, value: int) -> bytes:
    return value.to_bytes(size, "little")


def byte_string(data: bytes) -> bytes:
    return u(4, len(data)) + data


def digest(domain: bytes, *parts: bytes) -> bytes:
    return blake3(domain + b"".join(parts)).digest()


def address_of(public_key: bytes) -> bytes:
    return digest(b"supervm/address/v1", u(1, ED25519), public_key)


def transfer_payload(to: bytes, amount: int) -> bytes:
    return u(2, 1) + u(1, 0) + NATIVE + u(2, 1) + to + u(16, amount)


def body_of(chain_id: bytes, sender: bytes, nonce: int, price: int, payload: bytes) -> bytes:
    return b"".join(
        (
            u(1, 1),  # format
            chain_id,
            sender,
            sender,  # fee payer
            u(8, 0),  # sponsor nonce
            u(8, nonce),
            u(8, 0),  # expiry epoch
            u(1, 0),  # lane AUTO
            u(8, GAS_LIMIT),
            u(8, price),
            u(8, 0),  # tip
            NATIVE,  # gas token
            u(16, 0),  # max fee: 0 with the native gas token
            u(2, 0),  # relays
            u(2, 0),  # inputs
            u(2, 1),  # payload kind: native
            byte_string(payload),
        )
    )


def sign(body: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """Return the transaction and its digest."""
    key = nacl.signing.SigningKey(secret)
    transaction_digest = digest(b"supervm/tx/v1", body)
    signature = key.sign(transaction_digest).signature
    authorization = u(1, ED25519) + byte_string(bytes(key.verify_key)) + byte_string(signature)
    return body + u(2, 1) + authorization, transaction_digest


# Decoding and proofs


class Cursor:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        found = self.data[self.at : self.at + size]
        if len(found) != size:
            raise Refused("the bytes end too early")
        self.at += size
        return found

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def byte_string(self) -> bytes:
        return self.take(self.integer(4))

    def end(self) -> None:
        if self.at != len(self.data):
            raise Refused("bytes follow the end")


def read_header(data: bytes) -> Header:
    cursor = Cursor(data)
    if cursor.integer(1) != 1:
        raise Refused("unknown header format")
    chain_id = cursor.take(32)
    epoch = cursor.integer(8)
    height = cursor.integer(8)
    parent = cursor.take(32)
    cursor.take(32 + 8)  # proposer, timestamp
    root_height = cursor.integer(8)
    state_root = cursor.take(32)
    cursor.take(32 + 8 + 32 + 32)  # receipts root, base price, transactions root, body digest
    validators_digest = cursor.take(32)
    cursor.take(32)  # next validators digest
    cursor.end()
    whole = digest(b"supervm/block/v1", data)
    return Header(chain_id, epoch, height, parent, root_height, state_root, validators_digest, whole)


def read_validators(genesis_file: str) -> list[Validator]:
    """Return the validators that a genesis file names, by node id."""
    listed = json.loads(pathlib.Path(genesis_file).read_text(encoding="utf-8"))["validators"]
    found = []
    for each in listed:
        key = unhex(each["public_key"])
        node_id = digest(b"supervm/node/v1", u(1, ED25519), key)
        found.append(Validator(node_id, key, int(each["weight"])))
    return sorted(found)


def verify_finality(data: bytes, header: Header, validators: list[Validator]) -> None:
    """Raise `Refused` unless a header is final: by its own certificate, or by that of a descendant, to which
    the headers between lead."""
    if data[:1] != bytes((CHAIN_OF_HEADERS,)):
        verify_certificate(data, header, validators)
        return
    cursor = Cursor(data)
    cursor.take(1)
    count = cursor.integer(2)
    if not 1 <= count <= HEADERS_MAX:
        raise Refused("no headers, or too many of them")
    for _ in range(count):
        above = read_header(cursor.byte_string())
        if above.parent != header.digest or above.height != header.height + 1:
            raise Refused("a header isn't the child of the one before")
        named = (above.chain_id, above.epoch, above.validators_digest)
        if named != (header.chain_id, header.epoch, header.validators_digest):
            raise Refused("a header of another chain, epoch or set")
        header = above
    certificate = cursor.byte_string()
    cursor.end()
    verify_certificate(certificate, header, validators)


def verify_certificate(data: bytes, header: Header, validators: list[Validator]) -> None:
    """Raise `Refused` unless a quorum of these validators signed the header as final."""
    encoded = b"".join(each.node_id + each.public_key + u(8, each.weight) for each in validators)
    listed = u(2, len(validators)) + encoded
    if digest(b"supervm/validators/v1", listed) != header.validators_digest:
        raise Refused("the certificate would be of other validators than the genesis names")
    cursor = Cursor(data)
    kind, epoch, view = cursor.integer(1), cursor.integer(8), cursor.integer(8)
    signed = cursor.take(32)
    if (kind, epoch, signed) != (FINALIZE, header.epoch, header.digest):
        raise Refused("the certificate is of another block")
    bitmap = cursor.byte_string()
    bits = int.from_bytes(bitmap, "little")
    if len(bitmap) != (len(validators) + 7) // 8 or bits >> len(validators):
        raise Refused("the certificate's bitmap does not fit the validators")
    signers = [each for number, each in enumerate(validators) if bits >> number & 1]
    if cursor.integer(2) != len(signers):
        raise Refused("the certificate has not one signature for each bit")
    vote = b"supervm/vote/v1" + header.chain_id + u(8, epoch) + u(1, kind) + u(8, view) + signed
    for signer in signers:
        try:
            nacl.signing.VerifyKey(signer.public_key).verify(vote, cursor.byte_string())
        except (nacl.exceptions.BadSignatureError, ValueError):
            raise Refused(f"the certificate's signature of {signer.node_id.hex()} is wrong") from None
    cursor.end()
    if 3 * sum(each.weight for each in signers) <= 2 * sum(each.weight for each in validators):
        raise Refused("the certificate has no quorum")


def read_account(value: bytes | None) -> Account:
    if value is None:
        return Account(0, 0, 0)
    cursor = Cursor(value)
    if cursor.integer(1) != 1:
        raise Refused("unknown account format")
    account = Account(cursor.integer(8), cursor.integer(8), cursor.integer(16))
    cursor.end()
    return account


def verify_proof(state_root: bytes, key: bytes, data: bytes) -> bytes | None:
    """Return the value of a state key under a root, None if it is absent; raises `Refused`."""
    cursor = Cursor(data)
    if cursor.byte_string() != key:
        raise Refused("the proof is of another key")
    place = blake3(key).digest()
    kind = cursor.integer(1)
    value = None
    if kind == 0:
        found = EMPTY
    elif kind == 1:
        value = cursor.byte_string()
        found = blake3(b"\x00" + place + blake3(value).digest()).digest()
    elif kind == 2:
        other, hashed = cursor.take(32), cursor.take(32)
        found = blake3(b"\x00" + other + hashed).digest()
    else:
        raise Refused("unknown kind of proof")
    depth = cursor.integer(2)
    if depth > 256:
        raise Refused("deeper than the tree")
    bits = int.from_bytes(cursor.take((depth + 7) // 8), "little")
    if bits >> depth:
        raise Refused("bits beyond the depth")
    siblings = []
    for level in range(depth):
        siblings.append(EMPTY if bits >> level & 1 else cursor.take(32))
        if siblings[-1] == EMPTY and (level == 0 or not bits >> level & 1):
            raise Refused("an empty sibling in the wrong place")
    cursor.end()
    if kind == 2 and (other == place or first_bits(other, depth) != first_bits(place, depth)):
        raise Refused("the other leaf is not on the path")
    for level, sibling in enumerate(siblings):
        bit = place[(depth - 1 - level) // 8] >> (7 - (depth - 1 - level) % 8) & 1
        found = blake3(b"\x01" + (sibling + found if bit else found + sibling)).digest()
    if found != state_root:
        raise Refused("the proof does not lead to the root")
    return value


def first_bits(hashed: bytes, count: int) -> int:
    return int.from_bytes(hashed, "big") >> 256 - count


# HTTP


def request(url: str, data: bytes | None = None) -> Any:
    headers = {"Content-Type": "application/octet-stream"} if data is not None else {}
    asked = urllib.request.Request(url, data=data, headers=headers)
    try:
        with urllib.request.urlopen(asked, timeout=WAIT_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise Refused(f"{url}: {error.code} {error.read(2000).decode(errors='replace')}") from None


def unhex(text: str) -> bytes:
    if not text.startswith("0x"):
        raise Refused(f"not hex: {text[:80]}")
    return bytes.fromhex(text[2:])


def proven_account(
    node: str, address: bytes, chain_id: bytes, validators: list[Validator]
) -> tuple[Account, Header]:
    """Return an account as a final header of this chain proves it. Genesis needs no certificate."""
    answer = request(f"{node}/v1/proofs/0x{address.hex()}?kind=account")
    header = read_header(unhex(answer["header"]["bytes"]))
    if header.chain_id != chain_id:
        raise Refused("the header is of another chain")
    if header.height > 0:
        verify_finality(unhex(answer["certificate"]), header, validators)
    value = verify_proof(header.state_root, ACCOUNT + address, unhex(answer["proof"]))
    return read_account(value), header


def transfer(node: str, secret: bytes, to: bytes, amount: int, validators: list[Validator]) -> dict[str, Any]:
    """Send `amount` base units, wait for the block, and prove what the receiver has now."""
    status = request(f"{node}/v1/status")
    chain_id = unhex(status["chain_id"])
    sender = address_of(bytes(nacl.signing.SigningKey(secret).verify_key))
    nonce = int(request(f"{node}/v1/accounts/0x{sender.hex()}")["nonce"])
    before, _ = proven_account(node, to, chain_id, validators)
    body = body_of(chain_id, sender, nonce, int(status["base_price"]), transfer_payload(to, amount))
    data, transaction_digest = sign(body, secret)
    request(f"{node}/v1/transactions", data)
    found = request(f"{node}/v1/transactions/0x{transaction_digest.hex()}?wait={WAIT_S}")
    if found["status"] != "committed":
        raise Refused(f"the transfer is {found['status']}: {found.get('receipt')}")
    after, header = proven_account(node, to, chain_id, validators)
    if header.root_height < int(found["height"]):
        raise Refused(f"the proof is of height {header.root_height}, before {found['height']}")
    return {
        "digest": f"0x{transaction_digest.hex()}",
        "height": int(found["height"]),
        "header": f"0x{header.digest.hex()}",
        "balance_before": str(before.balance),
        "balance_after": str(after.balance),
    }


def main(arguments: list[str]) -> int:
    if len(arguments) != 5:
        print(__doc__, file=sys.stderr)
        return 2
    node, secret, to, amount, genesis_file = arguments
    try:
        validators = read_validators(genesis_file)
        done = transfer(node.rstrip("/"), unhex(secret), unhex(to), int(amount), validators)
    except (Refused, OSError, ValueError) as error:
        print(f"client: {error}", file=sys.stderr)
        return 1
    print(json.dumps(done))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
