"""Whatever is sent, the node says what is wrong with it by a stable code, and serves on."""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import httpx
import pytest

from supervm.crypto.keys import KeyPair, generate
from supervm.types.codec import U128_MAX
from supervm.types.operations import Mint, ObjectMutate, Output, TokenCreate, Transfer
from supervm.types.state import NATIVE_TOKEN, token_id
from supervm.types.transaction import Access, Body, Input, Lane, encode_transaction, sign
from tests.e2e.harness import COINS, Chain, Node, Wallet, new_chain, running, until

SOMEBODY = b"\x5a" * 32
EPOCH_BLOCKS = 2
AHEAD_MAX = 64


@attrs.frozen
class Target:
    """A node whose epochs are short, so that something can expire, and a wallet with coins on it."""

    node: Node
    chain: Chain
    wallet: Wallet


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("bad")
    chain = new_chain(folder, accounts=1, epoch_blocks=EPOCH_BLOCKS)
    flags = ("--genesis", chain.genesis, "--set", "consensus.solo.block_interval_max_ms=500")
    with running(chain.folder(folder / "data"), *flags) as node:
        wallet = chain.wallet(0)
        node.commit(wallet.pay((SOMEBODY, 1)))
        until(lambda: int(node.client.status()["height"]) >= EPOCH_BLOCKS, "the first epoch is over")
        yield Target(node, chain, wallet)


@pytest.fixture(autouse=True)
def serves_on(target: Target) -> Iterator[None]:
    """After each test a good transaction still goes through, and no bug of the node's own was told."""
    yield
    target.wallet.nonce = int(target.node.account(target.wallet.address)["nonce"])
    target.node.commit(target.wallet.pay((SOMEBODY, 1)))
    assert "request_failed" not in target.node.said()


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document that an answer must be."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert document["detail"] and document["mend"], document
    return document


def signed(body: Body, key: KeyPair) -> bytes:
    """A transaction of a body that `build` would refuse."""
    encoded = body.encode()
    return encode_transaction(encoded, [sign(encoded, key)])


def payment(wallet: Wallet, **changes: Any) -> bytes:
    return signed(wallet.body(Transfer(NATIVE_TOKEN, (Output(SOMEBODY, 5),)), **changes), wallet.key)


def with_inputs(*ids: int) -> Callable[[Wallet], bytes]:
    """A mutation of an object that isn't there, with these inputs as they stand."""
    inputs = tuple(Input(bytes([each]) * 32, 1, Access.WRITE) for each in ids)

    def make(wallet: Wallet) -> bytes:
        body = wallet.body(ObjectMutate(inputs[0].id, b""))
        return signed(attrs.evolve(body, inputs=inputs), wallet.key)

    return make


def of_another_payload_kind(wallet: Wallet) -> bytes:
    return payment(wallet, payload_kind=4711)


def overflowing(wallet: Wallet) -> bytes:
    outputs = (Output(SOMEBODY, U128_MAX), Output(SOMEBODY, U128_MAX))
    return signed(wallet.body(Transfer(NATIVE_TOKEN, outputs)), wallet.key)


def with_byte(at: int, value: int) -> Callable[[Wallet], bytes]:
    """A payment with one byte of it replaced."""

    def make(wallet: Wallet) -> bytes:
        data = bytearray(payment(wallet))
        data[at] = value
        return bytes(data)

    return make


def by_another_key(wallet: Wallet) -> bytes:
    return payment(
        Wallet(generate(), wallet.chain_id, wallet.base_price),
        sender=wallet.address,
        fee_payer=wallet.address,
    )


def with_another_signature(wallet: Wallet) -> bytes:
    return payment(wallet)[:-64] + payment(wallet)[-64:]


# name -> (how to make it, the code)
BAD: dict[str, tuple[Callable[[Wallet], bytes], str]] = {
    "empty": (lambda wallet: b"", "Truncated"),
    "cut short in the body": (lambda wallet: payment(wallet)[:100], "Truncated"),
    "cut short by one byte": (lambda wallet: payment(wallet)[:-1], "Truncated"),
    "random bytes": (lambda wallet: b"\x01" + os.urandom(99), "Truncated"),
    "larger than the chain allows": (lambda wallet: payment(wallet) + bytes(262_144), "TooLarge"),
    "followed by a byte": (lambda wallet: payment(wallet) + b"\x00", "TrailingBytes"),
    "with unsorted inputs": (with_inputs(2, 1), "NonCanonical"),
    "with an input twice": (with_inputs(1, 1), "NonCanonical"),
    "of an unknown format": (with_byte(0, 9), "UnknownFormat"),
    "of an unknown suite": (with_byte(-(64 + 4 + 32 + 4 + 1), 77), "UnknownFormat"),
    "of an unknown payload kind": (of_another_payload_kind, "PayloadUnknown"),
    "of another chain": (lambda wallet: payment(wallet, chain_id=b"\x01" * 32), "WrongChain"),
    "expired": (lambda wallet: payment(wallet, expiry_epoch=1), "Expired"),
    "signed by another key": (by_another_key, "WrongSigner"),
    "with the signature of another": (with_another_signature, "BadSignature"),
    "with a changed signature": (with_byte(-1, 0xFF), "BadSignature"),
    "beyond the balance": (lambda wallet: wallet.pay((SOMEBODY, 10**12 * COINS)).data, "InsufficientFunds"),
    "beyond 128 bits in sum": (overflowing, "InsufficientFunds"),
    "of a token that nobody has": (
        lambda wallet: signed(wallet.body(Transfer(b"\x07" * 32, (Output(SOMEBODY, 5),))), wallet.key),
        "InsufficientFunds",
    ),
    "below the base price": (lambda wallet: payment(wallet, max_price=wallet.base_price - 1), "PriceTooLow"),
    "with too little gas": (lambda wallet: payment(wallet, gas_limit=1_000), "GasLimitTooLow"),
    "with too much gas": (lambda wallet: payment(wallet, gas_limit=2**63), "GasLimitTooHigh"),
    "that tips where none is taken": (lambda wallet: payment(wallet, tip_price=1), "FeeFieldInvalid"),
    "that pays in a token not accepted": (
        lambda wallet: payment(wallet, gas_token=b"\x09" * 32),
        "TokenNotAccepted",
    ),
    "of native operations in the privacy lane": (
        lambda wallet: payment(wallet, lane=Lane.PRIVATE),
        "LaneMismatch",
    ),
    "for the privacy lane without a scheme": (
        lambda wallet: payment(wallet, lane=Lane.PRIVATE, payload_kind=4711),
        "LaneMismatch",
    ),
    "further ahead than is kept": (
        lambda wallet: payment(wallet, nonce=wallet.nonce + AHEAD_MAX),
        "NonceGap",
    ),
    "with a nonce used before": (lambda wallet: payment(wallet, nonce=0), "NonceUsed"),
    "with an object that isn't there": (with_inputs(1), "ObjectMissing"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_transaction_is_refused_with_its_code(name: str, target: Target) -> None:
    make, code = BAD[name]
    data = make(target.wallet)
    document = problem(target.node.post(data), 422)
    assert document["code"] == code, document
    assert document["field"]
    # The same in a list of many: each is answered for itself.
    listed = target.node.post(json.dumps([f"0x{data.hex()}"]).encode(), "application/json")
    assert listed.status_code == 202
    (entry,) = listed.json()["transactions"]
    assert entry["error"]["code"] == code


def test_the_same_bytes_again_are_taken_as_known_before_and_after_the_block(target: Target) -> None:
    node, wallet = target.node, target.wallet
    ahead = wallet.pay((SOMEBODY, 2), nonce=wallet.nonce + 1)
    first, again = node.post(ahead.data), node.post(ahead.data)
    assert (first.status_code, again.status_code) == (202, 202)
    assert (first.json()["duplicate"], again.json()["duplicate"]) == (False, True)
    node.commit(wallet.pay((SOMEBODY, 2)))
    assert node.outcome(ahead)["status"] == "committed"
    before = node.balance(SOMEBODY)
    late = node.post(ahead.data)
    assert (late.status_code, late.json()["status"], late.json()["duplicate"]) == (202, "committed", True)
    assert node.balance(SOMEBODY) == before


def test_a_second_transaction_for_a_pending_nonce_names_the_first(target: Target) -> None:
    node, wallet = target.node, target.wallet
    # The nonce before it is missing, so it stays pending.
    first, second = (wallet.pay((SOMEBODY, amount), nonce=wallet.nonce + 1) for amount in (3, 4))
    node.send(first)
    document = problem(node.post(second.data), 422)
    assert document["code"] == "Equivocated"
    assert document["conflict"] == f"0x{first.digest.hex()}"
    assert document["digest"] == f"0x{second.digest.hex()}"
    # A higher price changes nothing: there is no replacement.
    dearer = wallet.pay((SOMEBODY, 3), nonce=wallet.nonce + 1, max_price=10**9)
    assert problem(node.post(dearer.data), 422)["code"] == "Equivocated"
    node.commit(wallet.pay((SOMEBODY, 1)))
    assert node.outcome(first)["status"] == "committed"
    assert problem(node.post(second.data), 422)["code"] == "NonceUsed"
    assert node.client.transaction(f"0x{second.digest.hex()}")["status"] == "unknown"


def test_a_forged_signature_can_not_ride_on_a_checked_body(target: Target) -> None:
    node, wallet = target.node, target.wallet
    good = wallet.pay((SOMEBODY, 2), nonce=wallet.nonce + 1)
    forged = good.data[:-1] + bytes((good.data[-1] ^ 1,))
    assert problem(node.post(forged), 422)["code"] == "BadSignature"
    node.send(good)
    assert problem(node.post(forged), 422)["code"] == "BadSignature"
    node.commit(wallet.pay((SOMEBODY, 1)))
    assert node.outcome(good)["status"] == "committed"


def test_a_mint_beyond_128_bits_fails_in_its_block_and_costs_its_fee(target: Target) -> None:
    node, wallet = target.node, target.wallet
    made = wallet.sign(wallet.body(TokenCreate(b"MUCH", 0, U128_MAX, fixed=False)))
    node.commit(made)
    token = token_id(made.digest, 0)
    before = node.balance(wallet.address)
    mint = wallet.sign(wallet.body(Mint(token, SOMEBODY, 1)))
    node.send(mint)
    found = node.outcome(mint)
    assert (found["status"], found["receipt"]["code"]) == ("failed", "SupplyOverflow")
    assert node.balance(wallet.address) == before - int(found["receipt"]["fee"])
    assert node.balance(SOMEBODY, f"0x{token.hex()}") == 0


def test_one_bad_transaction_among_many_stops_no_other(target: Target) -> None:
    node, wallet = target.node, target.wallet
    good = [wallet.pay((SOMEBODY, 1)) for _ in range(3)]
    items = [good[0].data, b"\x00" * 40, good[1].data, payment(wallet, chain_id=bytes(32)), good[2].data]
    sent = node.client.send(items)
    assert [refusal.code if refusal else None for refusal in sent.refusals] == [
        None, "Truncated", None, "WrongChain", None,
    ]  # fmt: skip
    for each in good:
        assert node.outcome(each)["status"] == "committed"


OCTETS, JSON, PACKED = (
    "application/octet-stream",
    "application/json",
    "application/vnd.supervm.transactions",
)

REQUESTS: dict[str, tuple[bytes, str, int, str]] = {
    "too large a body": (bytes(8 * 2**20 + 1), OCTETS, 413, "BodyTooLarge"),
    "another content type": (b"x", "text/plain", 415, "UnsupportedMediaType"),
    "no content type": (b"x", "", 415, "UnsupportedMediaType"),
    "broken JSON": (b'{"bytes": ', JSON, 400, "BadJson"),
    "JSON that isn't UTF-8": (b'{"bytes": "\xff"}', JSON, 400, "BadJson"),
    "JSON nested deeply": (b"[" * 100_000, JSON, 400, "BadJson"),
    "JSON of a number": (b"1", JSON, 400, "BadJson"),
    "an unknown member": (b'{"bites": "0x00"}', JSON, 400, "UnknownField"),
    "bytes that aren't hex": (b'{"bytes": "0xzz"}', JSON, 400, "BadHex"),
    "half a byte": (b'{"bytes": "0x0"}', JSON, 400, "BadHex"),
    "an empty list": (b"[]", JSON, 400, "Empty"),
    "a length without its bytes": (b"\xff\xff\xff\xff", PACKED, 400, "Truncated"),
    "too many transactions": (b"\x00\x00\x00\x00" * 4_097, PACKED, 413, "TooManyTransactions"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_bad_request_is_refused_with_its_code(name: str, target: Target) -> None:
    body, content_type, status, code = REQUESTS[name]
    assert problem(target.node.post(body, content_type), status)["code"] == code
