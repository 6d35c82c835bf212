"""Every value survives its encoding, and every encoding that is read is the only one of its value."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervm.types.batch import Batch, BatchHeader
from supervm.types.block import Block, BlockBody, BlockHeader
from supervm.types.certificate import BatchCertificate, Certificate
from supervm.types.codec import pack_transactions, unpack_transactions
from supervm.types.errors import InvalidInput
from supervm.types.genesis import Genesis
from supervm.types.genesis_json import dump_genesis, load_genesis
from supervm.types.operations import decode_operations, encode_operations
from supervm.types.receipt import Receipt
from supervm.types.smt import Proof
from supervm.types.state import Account, Object, Token, decode_balance, encode_balance
from supervm.types.transaction import Body, Transaction, encode_transaction
from supervm.types.validators import ValidatorSet
from tests.types.strategies import (
    accounts,
    batch_certificates,
    batch_headers,
    batches,
    blocks,
    bodies,
    certificates,
    geneses,
    objects,
    payloads,
    receipts,
    tokens,
    transaction_bytes,
    transactions,
    validator_sets,
)


def encode_whole(transaction: Transaction) -> bytes:
    return encode_transaction(transaction.body.encode(), transaction.authorizations)


# name: (strategy of values, decode, encode)
FORMATS: dict[str, tuple[st.SearchStrategy[Any], Callable[[bytes], Any], Callable[[Any], bytes]]] = {
    "transaction": (transactions, Transaction.decode, encode_whole),
    "body": (bodies(), Body.decode, Body.encode),
    "operations": (payloads.map(decode_operations), decode_operations, encode_operations),
    "receipt": (receipts, Receipt.decode, Receipt.encode),
    "account": (accounts, Account.decode, Account.encode),
    "balance": (st.integers(1, 2**128 - 1), decode_balance, encode_balance),
    "token": (tokens, Token.decode, Token.encode),
    "object": (objects, Object.decode, Object.encode),
    "batch header": (batch_headers(), BatchHeader.decode, BatchHeader.encode),
    "batch": (batches(), Batch.decode, Batch.encode),
    "batch certificate": (batch_certificates(), BatchCertificate.decode, BatchCertificate.encode),
    "certificate": (certificates(), Certificate.decode, Certificate.encode),
    "block header": (blocks().map(lambda block: block.header), BlockHeader.decode, BlockHeader.encode),
    "block body": (blocks().map(lambda block: block.body), BlockBody.decode, BlockBody.encode),
    "validators": (validator_sets(), ValidatorSet.decode, ValidatorSet.encode),
    "genesis": (geneses(), Genesis.decode, Genesis.encode),
    "genesis file": (geneses(), load_genesis, dump_genesis),
}
BINARY = [name for name in FORMATS if name != "genesis file"]


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_value_survives_its_encoding(name: str, data: st.DataObject) -> None:
    values, decode, encode = FORMATS[name]
    value = data.draw(values)
    assert decode(encode(value)) == value


@settings(max_examples=60, deadline=None)
@given(blocks())
def test_a_block_survives_its_encoding_with_its_batches_beside_it(block: Block) -> None:
    assert Block.decode(block.encode(), block.batches) == block
    assert block.transactions == tuple(data for batch in block.batches for data in batch.transactions)


@pytest.mark.parametrize("name", BINARY)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_changed_bytes_are_refused_or_are_the_one_encoding_of_another_value(
    name: str, data: st.DataObject
) -> None:
    values, decode, encode = FORMATS[name]
    good = encode(data.draw(values))
    at = data.draw(st.integers(0, len(good) - 1))
    changed = good[:at] + bytes((good[at] ^ data.draw(st.integers(1, 255)),)) + good[at + 1 :]
    try:
        value = decode(changed)
    except InvalidInput:
        return
    assert encode(value) == changed


@pytest.mark.parametrize("name", BINARY)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_shorter_and_every_longer_form_is_refused(name: str, data: st.DataObject) -> None:
    values, decode, encode = FORMATS[name]
    good = encode(data.draw(values))
    cut = data.draw(st.integers(0, len(good) - 1))
    for wrong in (good[:cut], good + b"\x00", good + good):
        with pytest.raises(InvalidInput):
            decode(wrong)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=400))
def test_random_bytes_raise_invalid_input_or_nothing(name: str, data: bytes) -> None:
    _, decode, encode = FORMATS[name]
    try:
        value = decode(data)
    except InvalidInput:
        return
    assert encode(value) == data or name == "genesis file"


@pytest.mark.parametrize("name", BINARY)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_storm_of_damaged_encodings_raises_invalid_input_only(name: str, data: st.DataObject) -> None:
    """Splices, cuts and flips of a good encoding get further into a decoder than noise does."""
    values, decode, encode = FORMATS[name]
    good = encode(data.draw(values))
    source = random.Random(data.draw(st.integers(0, 2**32)))
    for _ in range(60):
        changed = _damage(source, good)
        try:
            value = decode(changed)
        except InvalidInput as error:
            assert error.code
            assert len(str(error)) < 1000
        else:
            assert encode(value) == changed


def _damage(source: random.Random, good: bytes) -> bytes:
    data = bytearray(good)
    for _ in range(source.randrange(1, 4)):
        kind = source.randrange(4)
        at = source.randrange(len(data) + 1)
        if kind == 0 and at < len(data):
            data[at] = source.choice((0, 1, 2, 0x7F, 0x80, 0xFF, source.randrange(256)))
        elif kind == 1:
            del data[at : at + source.randrange(1, 9)]
        elif kind == 2:
            data[at:at] = source.randbytes(source.randrange(1, 9))
        else:
            data[at : at + 4] = source.choice((b"\xff" * 4, b"\x00" * 4, b"\x01\x00\x00\x00"))
    return bytes(data)


@pytest.mark.parametrize("name", [*FORMATS, "proof"])
def test_random_bytes_by_the_thousand_raise_invalid_input_only(name: str) -> None:
    decode = Proof.decode if name == "proof" else FORMATS[name][1]
    source = random.Random(name)
    refused = 0
    for _ in range(2_000):
        # A right first byte passes the format check, and zeros make small counts.
        noise = b"\x01" + bytes(source.randrange(40)) + source.randbytes(source.randrange(500))
        try:
            decode(noise)
        except InvalidInput:
            refused += 1
    assert refused > 1_000


@settings(max_examples=60, deadline=None)
@given(st.lists(transaction_bytes(), max_size=4))
def test_a_stream_of_transactions_unpacks_to_what_was_packed(items: list[bytes]) -> None:
    assert unpack_transactions(pack_transactions(items), 4, 262_144) == items


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64))
def test_any_stream_unpacks_to_what_packs_to_it_or_is_refused(stream: bytes) -> None:
    try:
        items = unpack_transactions(stream, 100, 1000)
    except InvalidInput:
        return
    assert pack_transactions(items) == stream
