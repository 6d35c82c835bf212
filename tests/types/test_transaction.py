"""What a transaction's decoder refuses, by field, and what building one promises."""

from collections.abc import Callable
from dataclasses import dataclass

import attrs
import pytest
from hypothesis import given

from supervm.types import digests
from supervm.types.errors import DecodeError, InvalidInput
from supervm.types.limits import Limits
from supervm.types.operations import (
    Burn,
    ObjectCreate,
    Operation,
    Output,
    TokenCreate,
    Transfer,
    decode_operations,
    encode_operations,
)
from supervm.types.state import NATIVE_TOKEN, OwnerKind
from supervm.types.transaction import (
    NO_ACCOUNT,
    Access,
    Authorization,
    Body,
    Input,
    Lane,
    Transaction,
    build,
    digest_of,
    encode_transaction,
    signing_digest,
)
from tests.types.strategies import transactions

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


@dataclass
class Stamp:
    """Signs with its letter: enough where only the encoding matters."""

    letter: bytes
    suite: int = 1

    @property
    def public_key(self) -> bytes:
        return self.letter * 32

    def sign(self, message: bytes) -> bytes:
        return message + message


def transfer(**changes: object) -> Body:
    fields: dict[str, object] = {
        "chain_id": C,
        "sender": A,
        "nonce": 7,
        "gas_limit": 20_000,
        "max_price": 10_000,
        "max_fee": 200,
        "payload": encode_operations([Transfer(NATIVE_TOKEN, (Output(B, 5),))]),
    }
    return Body(**(fields | changes))  # type: ignore[arg-type]


def encoded(body: Body, count: int = 1) -> bytes:
    signed = [Authorization(1, b"k" * 32, b"s" * 64)] * count
    return encode_transaction(body.encode(), signed)


def refusal(data: bytes, limits: Limits | None = None) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        Transaction.decode(data, limits or Limits())
    return caught.value


def test_a_built_transaction_is_what_its_bytes_say() -> None:
    body = transfer()
    built = build(body, [Stamp(b"k")])
    assert Transaction.decode(built.data) == built
    assert built.body == body
    assert built.body_bytes == body.encode()
    assert built.operations == (Transfer(NATIVE_TOKEN, (Output(B, 5),)),)
    assert built.digest == digests.digest(b"supervm/tx/v1", body.encode())
    assert built.authorizations[0].signature == built.digest * 2


def test_the_digest_leaves_the_signatures_out_and_equality_does_not() -> None:
    one = build(transfer(), [Stamp(b"k")])
    other = build(transfer(), [Stamp(b"l")])
    assert one.digest == other.digest == signing_digest(one.body_bytes)
    assert one != other
    assert len({one, other}) == 2


@given(transactions)
def test_the_digest_of_a_stored_transaction_needs_no_decoding(transaction: Transaction) -> None:
    assert digest_of(transaction.data) == transaction.digest
    for size in range(len(transaction.body_bytes)):
        with pytest.raises(DecodeError) as refused:
            digest_of(transaction.data[:size])
        assert refused.value.code == "Truncated"


def test_a_sponsored_transaction_needs_both_signatures_in_order() -> None:
    body = transfer(fee_payer=B, sponsor_nonce=3)
    built = build(body, [Stamp(b"k"), Stamp(b"l")])
    assert [each.public_key[:1] for each in built.authorizations] == [b"k", b"l"]
    assert refusal(encoded(body, 1)).field == "authorizations"
    assert refusal(encoded(transfer(), 2)).field == "authorizations"


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        (transfer(sponsor_nonce=1), "body.sponsor_nonce", "NonCanonical"),
        (transfer(relays=(A, B, C)), "body.relays", "TooMany"),
        (
            transfer(inputs=(Input(B, 1, Access.READ), Input(A, 1, Access.READ))),
            "body.inputs",
            "NonCanonical",
        ),
        (
            transfer(inputs=(Input(A, 1, Access.READ), Input(A, 2, Access.READ))),
            "body.inputs",
            "NonCanonical",
        ),
        (transfer(payload=b""), "operations", "Truncated"),
        (transfer(payload=b"\x00\x00"), "operations", "OutOfRange"),
        (transfer(sender=NO_ACCOUNT), "body.sender", "OutOfRange"),
        (transfer(fee_payer=NO_ACCOUNT), "body.sender", "OutOfRange"),
        (transfer(sender=NO_ACCOUNT, lane=Lane.PRIVATE), "body.nonce", "NonCanonical"),
        (transfer(fee_payer=NO_ACCOUNT, lane=Lane.PRIVATE), "body.sender", "NonCanonical"),
    ],
)
def test_a_body_that_contradicts_itself_is_refused_by_field(body: Body, field: str, code: str) -> None:
    error = refusal(encoded(body))
    assert (error.field, error.code) == (field, code)
    assert error.mend or code == "Truncated"


@pytest.mark.parametrize(
    ("at", "value", "field", "code"),
    [
        (0, 2, "body.format", "UnknownFormat"),
        (0, 0, "body.format", "UnknownFormat"),
        (121, 4, "body.lane", "OutOfRange"),
    ],
)
def test_unknown_versions_and_lanes_are_refused(at: int, value: int, field: str, code: str) -> None:
    data = bytearray(encoded(transfer()))
    data[at] = value
    error = refusal(bytes(data))
    assert (error.field, error.code, error.value) == (field, code, str(value))


def test_an_input_cannot_declare_credit() -> None:
    data = bytearray(transfer(inputs=(Input(A, 1, Access.READ),)).encode())
    at = data.index(A + (1).to_bytes(8, "little") + b"\x00", 40) + 40
    data[at] = 6
    error = refusal(encode_transaction(bytes(data), [Authorization(1, b"k" * 32, b"s" * 64)]))
    assert (error.field, error.code) == ("body.inputs.access", "OutOfRange")


@pytest.mark.parametrize(
    ("suite", "key", "signature", "field"),
    [
        (0, b"k" * 32, b"s" * 64, "authorization.suite"),
        (4, b"k" * 32, b"s" * 64, "authorization.suite"),
        (1, b"k" * 31, b"s" * 64, "authorization.public_key"),
        (1, b"k" * 33, b"s" * 64, "authorization.public_key"),
        (2, b"k" * 65, b"s" * 64, "authorization.public_key"),
        (1, b"k" * 32, b"s" * 63, "authorization.signature"),
        (3, b"k" * 65, b"s" * 72, "authorization.signature"),
    ],
)
def test_keys_and_signatures_have_one_length_a_suite(
    suite: int, key: bytes, signature: bytes, field: str
) -> None:
    data = encode_transaction(transfer().encode(), [Authorization(suite, key, signature)])
    assert refusal(data).field == field


@pytest.mark.parametrize(
    ("limits", "body", "field"),
    [
        (
            Limits(inputs_max=1),
            transfer(inputs=(Input(A, 1, Access.READ), Input(B, 1, Access.READ))),
            "body.inputs",
        ),
        (Limits(payload_bytes_max=84), transfer(), "body.payload"),
        (Limits(transaction_bytes_max=395), transfer(), "transaction"),
        (
            Limits(outputs_max=2),
            transfer(payload=encode_operations([Transfer(A, (Output(B, 1),) * 3)])),
            "transfer.outputs",
        ),
        (
            Limits(outputs_max=2),
            transfer(payload=encode_operations([Transfer(A, (Output(B, 1),) * 2)] * 2)),
            "outputs",
        ),
        (
            Limits(object_bytes_max=3),
            transfer(payload=encode_operations([ObjectCreate(1, OwnerKind.OWNED, A, b"1234")])),
            "object_create.data",
        ),
    ],
)
def test_each_limit_binds_one_above_it_and_not_at_it(limits: Limits, body: Body, field: str) -> None:
    error = refusal(encoded(body), limits)
    assert (error.field, error.code) in {(field, "TooMany"), (field, "TooLarge")}
    Transaction.decode(encoded(body))


def test_a_transaction_at_its_limits_is_read() -> None:
    inputs = tuple(Input(bytes((0, at)) + bytes(30), 1, Access.READ) for at in range(1, 256))
    payload = encode_operations([Transfer(NATIVE_TOKEN, (Output(B, 1),) * 256)])
    body = transfer(inputs=inputs, payload=payload, relays=(A, B))
    limits = Limits(inputs_max=255, payload_bytes_max=len(payload))
    assert Transaction.decode(encoded(body), limits).body == body


def test_a_huge_count_is_refused_before_anything_is_made_of_it() -> None:
    head = transfer().encode()[:194]
    for tail in (b"\xff\xff", b"\x00\x00\xff\xff", b"\x00\x00\x00\x00\x01\x00\xff\xff\xff\xff"):
        assert refusal(head + tail).code in {"TooMany", "Truncated", "TooLarge"}


def test_a_private_body_without_an_account_has_no_signatures() -> None:
    body = transfer(
        sender=NO_ACCOUNT, fee_payer=NO_ACCOUNT, nonce=0, lane=Lane.PRIVATE, payload_kind=9, payload=b"proof"
    )
    assert Transaction.decode(encoded(body, 0)).authorizations == ()
    assert refusal(encoded(body, 1)).field == "authorizations"


def test_a_payload_of_another_kind_stays_opaque() -> None:
    assert Transaction.decode(encoded(transfer(payload_kind=2, payload=b"\xff"))).operations == ()


@pytest.mark.parametrize(
    ("operation", "field"),
    [
        (TokenCreate(b"", 0, 1, True), "token_create.symbol"),
        (TokenCreate(b"lower", 0, 1, True), "token_create.symbol"),
        (TokenCreate(b"A" * 17, 0, 1, True), "token_create.symbol"),
        (TokenCreate(b"A", 19, 1, True), "token_create.decimals"),
        (ObjectCreate(1, OwnerKind.SHARED, A, b""), "object_create.owner"),
        (Transfer(A, ()), "transfer.outputs"),
    ],
)
def test_an_operation_out_of_range_is_refused_by_field(operation: Operation, field: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_operations(encode_operations([operation]))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b"\x01\x00\x0a" + bytes(32), "operation tag"),
        (b"\x41\x00" + bytes(65 * 33), "operations"),
        (encode_operations([TokenCreate(b"A", 0, 1, True)])[:-1] + b"\x02", "token_create.fixed"),
        (b"\x01\x00\x04" + bytes(4) + b"\x03" + bytes(36), "object_create.owner_kind"),
        (encode_operations([Burn(A, 1)]) + b"\x00", "operations"),
    ],
)
def test_a_payload_in_no_known_form_is_refused_by_field(payload: bytes, field: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_operations(payload)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda body: attrs.evolve(body, nonce=2**64), "nonce"),
        (lambda body: attrs.evolve(body, nonce=-1), "nonce"),
        (lambda body: attrs.evolve(body, max_fee=2**128), "max_fee"),
        (lambda body: attrs.evolve(body, sender=b"short"), "sender"),
        (lambda body: attrs.evolve(body, payload_kind=2**16), "payload_kind"),
    ],
)
def test_building_refuses_what_cannot_be_encoded_and_names_it(
    change: Callable[[Body], Body], names: str
) -> None:
    with pytest.raises(InvalidInput, match=names):
        build(change(transfer()), [Stamp(b"k")])


def test_an_error_tells_code_field_value_and_mend_in_one_line() -> None:
    error = refusal(encoded(transfer())[:-1])
    assert error.code == "Truncated"
    assert error.field == "authorization.signature"
    assert str(error) == (
        "authorization.signature: the bytes end too early: 63 bytes left (64 bytes are needed)"
    )
    assert "\n" not in str(refusal(encoded(transfer()) + b"x"))
