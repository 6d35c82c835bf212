"""Who signed: transactions against the accounts they name, certificates against the validator set."""

import random

import attrs
import pytest

from supervm.crypto import keys
from supervm.crypto.keys import KeyPair
from supervm.crypto.transactions import check_signers, signature_items, verify_transactions
from supervm.crypto.votes import (
    sign_batch,
    sign_vote,
    verify_batch_certificate,
    verify_batch_signature,
    verify_certificate,
    verify_vote,
)
from supervm.types.batch import batch_header
from supervm.types.certificate import BatchCertificate, Certificate, VoteKind, bitmap_of
from supervm.types.errors import InvalidInput, ProofInvalid
from supervm.types.operations import Output, Transfer, encode_operations
from supervm.types.transaction import (
    Authorization,
    Body,
    Transaction,
    build,
    encode_transaction,
)
from supervm.types.validators import Validator, ValidatorSet

CHAIN, DIGEST = b"c" * 32, b"d" * 32


def key_of(seed: int, name: str = "ed25519") -> KeyPair:
    return keys.generate(name, random.Random(seed).randbytes)


def body_of(sender: KeyPair, payer: KeyPair | None = None) -> Body:
    return Body(
        chain_id=CHAIN,
        sender=sender.address,
        fee_payer=(payer or sender).address,
        nonce=0,
        gas_limit=1,
        max_price=1,
        max_fee=1,
        payload=encode_operations([Transfer(bytes(32), (Output(b"t" * 32, 5),))]),
    )


@pytest.mark.parametrize("name", ["ed25519", "secp256k1", "sm2"])
def test_a_transaction_signed_by_its_sender_verifies_in_every_suite(name: str) -> None:
    key = key_of(1, name)
    transaction = build(body_of(key), [key])
    assert verify_transactions([transaction]) == [None]
    assert len(signature_items(transaction)) == 1


def test_a_sponsored_transaction_needs_both_to_be_right() -> None:
    sender, payer = key_of(1), key_of(2, "secp256k1")
    body = body_of(sender, payer)
    good = build(body, [sender, payer])
    swapped = build(body, [payer, sender])
    forged = Transaction.decode(
        encode_transaction(
            good.body_bytes,
            [good.authorizations[0], attrs.evolve(good.authorizations[1], signature=b"\x01" * 64)],
        )
    )
    verdicts = verify_transactions([good, swapped, forged])
    assert verdicts[0] is None
    assert [verdict.code for verdict in verdicts[1:] if verdict] == ["WrongSigner", "BadSignature"]
    assert "fee_payer" in str(verdicts[2])


def test_another_key_cannot_sign_for_the_sender() -> None:
    transaction = build(body_of(key_of(1)), [key_of(2)])
    with pytest.raises(InvalidInput, match="sender"):
        check_signers(transaction)


def test_a_signature_does_not_carry_to_another_body() -> None:
    key = key_of(1)
    good = build(body_of(key), [key])
    changed = attrs.evolve(body_of(key), nonce=1).encode()
    moved = Transaction.decode(encode_transaction(changed, good.authorizations))
    (verdict,) = verify_transactions([moved])
    assert verdict is not None
    assert verdict.code == "BadSignature"


def test_the_same_key_bytes_under_another_suite_are_another_account() -> None:
    key = key_of(1, "secp256k1")
    body = body_of(key)
    other = Authorization(1, key.public_key[1:], b"s" * 64)
    transaction = Transaction.decode(encode_transaction(body.encode(), [other]))
    with pytest.raises(InvalidInput) as caught:
        check_signers(transaction)
    assert caught.value.code == "WrongSigner"


VOTERS = sorted((key_of(seed) for seed in range(4)), key=lambda key: key.node_id)
VALIDATORS = ValidatorSet(tuple(Validator(key.node_id, key.public_key, 1) for key in VOTERS))


def certificate(numbers: list[int], **changes: object) -> Certificate:
    signatures = tuple(sign_vote(VOTERS[n], CHAIN, 1, VoteKind.FINALIZE, 2, DIGEST) for n in numbers)
    made = Certificate(VoteKind.FINALIZE, 1, 2, DIGEST, bitmap_of(numbers, 4), signatures)
    return attrs.evolve(made, **changes)  # type: ignore[arg-type]


def test_a_certificate_of_a_quorum_verifies() -> None:
    verify_certificate(certificate([0, 1, 2]), CHAIN, VALIDATORS)
    verify_certificate(certificate([0, 1, 2, 3]), CHAIN, VALIDATORS)


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": 2},
        {"view": 3},
        {"digest": b"e" * 32},
        {"kind": VoteKind.NOTARIZE},
        {"bitmap": bitmap_of([0, 1, 3], 4)},
    ],
)
def test_votes_for_one_thing_do_not_certify_another(changes: dict[str, object]) -> None:
    with pytest.raises(ProofInvalid):
        verify_certificate(certificate([0, 1, 2], **changes), CHAIN, VALIDATORS)


def test_a_certificate_of_another_chain_or_too_few_votes_is_refused() -> None:
    with pytest.raises(ProofInvalid):
        verify_certificate(certificate([0, 1, 2]), b"x" * 32, VALIDATORS)
    with pytest.raises(ProofInvalid, match="weigh too little"):
        verify_certificate(certificate([0, 1]), CHAIN, VALIDATORS)


def test_a_batch_certificate_needs_its_builder_and_a_quorum_of_accepts() -> None:
    builder = VOTERS[0]
    header = batch_header(
        chain_id=CHAIN, epoch=1, builder=builder.node_id, sequence=1, transactions=[b"t"], gas=1
    )
    accepts = tuple(sign_vote(key, CHAIN, 1, VoteKind.ACCEPT, 0, header.digest()) for key in VOTERS[:3])
    good = BatchCertificate(header, sign_batch(builder, header), bitmap_of(range(3), 4), accepts)
    verify_batch_certificate(good, CHAIN, VALIDATORS, builder.public_key)
    assert verify_batch_signature(header, good.signature, builder.public_key)
    for wrong in (
        attrs.evolve(good, signature=accepts[0]),
        attrs.evolve(good, signatures=accepts[::-1]),
        attrs.evolve(good, header=attrs.evolve(header, gas=2)),
        attrs.evolve(good, bitmap=bitmap_of(range(2), 4), signatures=accepts[:2]),
    ):
        with pytest.raises(ProofInvalid):
            verify_batch_certificate(wrong, CHAIN, VALIDATORS, builder.public_key)
    with pytest.raises(ProofInvalid, match="another chain"):
        verify_batch_certificate(good, b"x" * 32, VALIDATORS, builder.public_key)


def test_a_vote_with_a_key_of_any_bytes_is_answered_no() -> None:
    signature = sign_vote(VOTERS[0], CHAIN, 1, VoteKind.FINALIZE)
    assert verify_vote(VOTERS[0].public_key, signature, CHAIN, 1, VoteKind.FINALIZE)
    for key in (b"", bytes(32), b"\xff" * 32, VOTERS[1].public_key):
        assert not verify_vote(key, signature, CHAIN, 1, VoteKind.FINALIZE)
