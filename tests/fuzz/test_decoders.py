"""Whatever bytes come, a decoder gives a value that encodes to the same bytes, or a typed error (EXEC-6)."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from supervm.types.address import format_address, parse_address
from supervm.types.batch import Batch, BatchHeader
from supervm.types.block import BlockBody, BlockHeader
from supervm.types.certificate import BatchCertificate, Certificate
from supervm.types.codec import pack_transactions, unpack_transactions
from supervm.types.errors import InvalidInput
from supervm.types.genesis import Genesis
from supervm.types.genesis_json import dump_genesis, load_genesis
from supervm.types.operations import decode_operations, encode_operations
from supervm.types.receipt import Receipt
from supervm.types.smt import Proof, prove, root_of, verify
from supervm.types.state import Account, Object, Token
from supervm.types.transaction import Transaction, encode_transaction
from supervm.types.validators import ValidatorSet
from tests.fuzz.mutation import TOKENS, changed, examples, fuzz
from tests.types import strategies

Decode = Callable[[bytes], Any]
Encode = Callable[[Any], bytes]


def encoded(value: Any) -> bytes:
    data: bytes = value.encode()
    return data


def encode_parts(transaction: Transaction) -> bytes:
    """From the fields, not from the bytes that the transaction remembers."""
    return encode_transaction(transaction.body.encode(), transaction.authorizations)


BLOCKS = strategies.blocks()
FORMATS: dict[str, tuple[Any, Decode, Encode]] = {
    "transaction": (strategies.transactions, Transaction.decode, encode_parts),
    "operations": (strategies.payloads.map(decode_operations), decode_operations, encode_operations),
    "receipt": (strategies.receipts, Receipt.decode, encoded),
    "account": (strategies.accounts, Account.decode, encoded),
    "token": (strategies.tokens, Token.decode, encoded),
    "object": (strategies.objects, Object.decode, encoded),
    "batch header": (strategies.batch_headers(), BatchHeader.decode, encoded),
    "batch": (strategies.batches(), Batch.decode, encoded),
    "batch certificate": (strategies.batch_certificates(), BatchCertificate.decode, encoded),
    "certificate": (strategies.certificates(), Certificate.decode, encoded),
    "block header": (BLOCKS.map(lambda block: block.header), BlockHeader.decode, encoded),
    "block body": (BLOCKS.map(lambda block: block.body), BlockBody.decode, encoded),
    "validator set": (strategies.validator_sets(), ValidatorSet.decode, encoded),
    "genesis": (strategies.geneses(), Genesis.decode, encoded),
}
# Formats that are alike share the time of one target.
TARGETS = [
    ("transaction",),
    ("operations",),
    ("receipt", "account", "token", "object"),
    ("batch header", "batch", "batch certificate", "certificate", "block header", "block body"),
    ("validator set", "genesis"),
]
assert sorted(name for names in TARGETS for name in names) == sorted(FORMATS)


@pytest.mark.parametrize("names", TARGETS, ids=lambda names: names[0])
def test_bytes_are_refused_by_a_typed_error_or_are_the_one_encoding_of_their_value(
    names: tuple[str, ...],
) -> None:
    corpora = {name: [FORMATS[name][2](value) for value in examples(FORMATS[name][0])] for name in names}

    def make(chance: random.Random) -> tuple[str, bytes]:
        name = chance.choice(names)
        return name, changed(chance, corpora[name])

    accepted = 0

    def judge(case: tuple[str, bytes]) -> None:
        nonlocal accepted
        name, data = case
        _, decode, encode = FORMATS[name]
        try:
            value = decode(data)
        except InvalidInput as error:
            assert error.code, "an error without a code"
            assert error.message, "an error that doesn't say what is wrong"
            assert len(str(error)) < 1_000
            return
        accepted += 1
        assert encode(value) == data, "two encodings of one value"

    fuzz(", ".join(names), make, judge)
    assert accepted > 0, "nothing was near enough to valid"


def test_packed_transactions_are_refused_by_a_typed_error_or_are_their_one_encoding() -> None:
    corpus = [pack_transactions(batch.transactions) for batch in examples(strategies.batches())]

    def judge(data: bytes) -> None:
        try:
            found = unpack_transactions(data, 64, 4_096)
        except InvalidInput:
            return
        assert pack_transactions(found) == data

    fuzz("packed", lambda chance: changed(chance, corpus), judge)


def test_no_changed_proof_shows_anything_but_the_truth() -> None:
    chance = random.Random(5)
    state = {chance.randbytes(33): chance.randbytes(chance.randrange(1, 60)) for _ in range(64)}
    root = root_of(state)
    asked = [*list(state)[:20], *(chance.randbytes(33) for _ in range(20))]
    corpus = [prove(state, key).encode() for key in asked]
    for data in corpus:
        verify(root, Proof.decode(data))

    def judge(data: bytes) -> None:
        try:
            proof = Proof.decode(data)
            verify(root, proof)
        except InvalidInput:
            return
        assert state.get(proof.key) == proof.value, "a proof of what isn't so"
        assert proof.encode() == data

    fuzz("proof", lambda chance: changed(chance, corpus), judge)


def test_a_genesis_file_is_refused_by_a_typed_error_or_reads_back_as_itself() -> None:
    corpus = [dump_genesis(genesis) for genesis in examples(strategies.geneses(), 20)]

    def judge(data: bytes) -> None:
        try:
            genesis = load_genesis(data)
        except InvalidInput as error:
            assert len(str(error)) < 1_000
            return
        assert load_genesis(dump_genesis(genesis)) == genesis
        assert Genesis.decode(genesis.encode()) == genesis

    fuzz("genesis file", lambda chance: changed(chance, corpus, TOKENS), judge)


def test_an_address_in_text_is_refused_by_a_typed_error_or_reads_back_as_itself() -> None:
    corpus = [format_address(bytes([number]) * 32).encode() for number in range(20)]

    def judge(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        try:
            address = parse_address(text)
        except InvalidInput:
            return
        assert format_address(address) == text.lower()

    fuzz("address", lambda chance: changed(chance, corpus, TOKENS), judge)
