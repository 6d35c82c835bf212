"""A plain transfer is read in one step, and says what the whole decoder says."""

from hypothesis import given
from hypothesis import strategies as st

from supervm.types.errors import DecodeError
from supervm.types.operations import Output, Transfer, encode_operations
from supervm.types.plain import PLAIN_BYTES, PlainTransaction, lane_asked, read_plain, sender_of
from supervm.types.state import NATIVE_TOKEN
from supervm.types.transaction import Authorization, Body, Lane, Transaction, encode_transaction

from .strategies import transaction_bytes

U64 = st.integers(0, 2**64 - 1)
U128 = st.integers(0, 2**128 - 1)
IDS = st.binary(min_size=32, max_size=32)


@st.composite
def plain_transfers(draw: st.DrawFn) -> bytes:
    body = Body(
        chain_id=draw(IDS),
        sender=draw(IDS.filter(any)),
        nonce=draw(U64),
        expiry_epoch=draw(U64),
        lane=draw(st.sampled_from([Lane.AUTO, Lane.FAST, Lane.ORDERED])),
        gas_limit=draw(U64),
        max_price=draw(U64),
        tip_price=draw(U64),
        max_fee=draw(U128),
        payload=encode_operations([Transfer(NATIVE_TOKEN, (Output(draw(IDS), draw(U128)),))]),
    )
    signed = Authorization(1, draw(IDS), draw(st.binary(min_size=64, max_size=64)))
    return encode_transaction(body.encode(), [signed])


def check(data: bytes) -> None:
    said = read_plain(data)
    if said is None:
        return
    whole = Transaction.decode(data)
    plain = PlainTransaction(data, whole.digest, said)
    assert plain == whole and hash(plain) == hash(whole)
    assert plain.body == whole.body
    assert plain.body_bytes == whole.body_bytes
    assert plain.authorizations == whole.authorizations
    assert plain.operations == whole.operations
    assert plain.size_bytes == whole.size_bytes
    assert sender_of(plain) == sender_of(whole) == said.sender
    assert lane_asked(plain) is lane_asked(whole) is whole.body.lane
    assert (said.to, said.amount) == (
        whole.operations[0].outputs[0].to,
        whole.operations[0].outputs[0].amount,
    )  # type: ignore[union-attr]


@given(plain_transfers())
def test_every_transfer_of_native_coins_to_one_account_is_plain(data: bytes) -> None:
    assert len(data) == PLAIN_BYTES and read_plain(data) is not None
    check(data)


@given(plain_transfers(), st.integers(0, PLAIN_BYTES - 1), st.integers(1, 255))
def test_one_other_byte_makes_another_plain_transfer_or_none(data: bytes, at: int, by: int) -> None:
    changed = data[:at] + bytes((data[at] ^ by,)) + data[at + 1 :]
    check(changed)
    if read_plain(changed) is None:
        try:
            Transaction.decode(changed)
        except DecodeError:
            return
        # What still decodes has something that a plain one hasn't: a token, a sponsor, another suite.
        whole = Transaction.decode(changed)
        assert (
            whole.body.is_sponsored
            or whole.body.gas_token != NATIVE_TOKEN
            or whole.body.lane is Lane.PRIVATE
            or whole.body.payload_kind != 1
            or not isinstance(whole.operations[0], Transfer)
            or whole.operations[0].token != NATIVE_TOKEN
        )


@given(transaction_bytes())
def test_other_transactions_are_not_plain(data: bytes) -> None:
    check(data)
