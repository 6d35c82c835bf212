"""Keys, addresses, state values, votes and validator sets."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervm.types import digests, state
from supervm.types.address import address_of, format_address, node_id_of, parse_address, parse_hex
from supervm.types.batch import Batch, batch_header
from supervm.types.block import HEADER_BYTES, Block, BlockBody, BlockHeader
from supervm.types.certificate import (
    BatchCertificate,
    Certificate,
    VoteKind,
    bitmap_of,
    numbers_of,
    vote_message,
)
from supervm.types.codec import Writer, unpack_transactions
from supervm.types.errors import DecodeError, InvalidInput, ProofInvalid, shorten
from supervm.types.genesis import Genesis, genesis_block
from supervm.types.receipt import Receipt, Status
from supervm.types.state import Account, Object, OwnerKind, decode_balance, shared_owner
from supervm.types.transaction import Lane
from supervm.types.validators import Validator, ValidatorSet

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


def test_no_domain_is_a_prefix_of_another() -> None:
    for one in digests.DOMAINS:
        for other in digests.DOMAINS - {one}:
            assert not other.startswith(one)


def test_addresses_and_node_ids_depend_on_suite_and_kind() -> None:
    assert address_of(1, A) != node_id_of(1, A)
    assert address_of(2, A + b"x") != address_of(1, A)
    for suite, key in ((0, A), (4, A), (1, A + b"x"), (3, A)):
        with pytest.raises(InvalidInput):
            address_of(suite, key)


@given(st.binary(min_size=32, max_size=32))
def test_an_address_survives_its_text(address: bytes) -> None:
    assert parse_address(format_address(address)) == address


@pytest.mark.parametrize(
    "text", ["", "0x", "61" * 32, "0x" + "61" * 31, "0x" + "6 1" * 32, "0x" + "zz" * 32, "0X" + "61" * 32]
)
def test_text_that_is_no_address_is_refused_with_its_field(text: str) -> None:
    with pytest.raises(InvalidInput, match="to: "):
        parse_address(text, "to")


@pytest.mark.parametrize("text", [" 0x61", "0x6 1 ", "0x\u0666\u0661", "0x6"])
def test_hex_takes_digits_only(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_hex(text, "data")


def test_state_keys_never_collide_across_kinds() -> None:
    keys = [
        state.account_key(A),
        state.balance_key(A, B),
        state.token_key(A),
        state.object_key(A),
        state.system_key(b"gas"),
    ]
    assert [key[0] for key in keys] == [1, 2, 3, 4, 5]
    assert state.balance_key(A, B).startswith(state.balance_prefix(A))


def test_empty_accounts_and_zero_balances_have_no_encoding() -> None:
    with pytest.raises(DecodeError):
        Account.decode(b"\x01" + bytes(32))
    with pytest.raises(DecodeError):
        decode_balance(b"\x01" + bytes(16))


@pytest.mark.parametrize(
    "found",
    [
        Object(1, OwnerKind.IMMUTABLE, A, 1),
        Object(1, OwnerKind.SHARED, A, 1),
        Object(1, OwnerKind.OWNED, A, 1, True, b"x"),
    ],
)
def test_an_object_that_contradicts_itself_is_refused(found: Object) -> None:
    with pytest.raises(DecodeError):
        Object.decode(found.encode())


def test_a_shared_object_tells_its_initial_version() -> None:
    assert Object(9, OwnerKind.SHARED, shared_owner(4), 1).initial_version == 4


def test_ids_depend_on_the_transaction_and_the_index() -> None:
    found = {state.object_id(A, 0), state.object_id(A, 1), state.object_id(B, 0), state.token_id(A, 0)}
    assert len(found) == 4


def test_the_effects_digest_leaves_out_height_and_index_only() -> None:
    def receipt(**changes: object) -> Receipt:
        fields: dict[str, object] = {
            "digest": A,
            "lane": Lane.FAST,
            "status": Status.COMMITTED,
            "gas_token": bytes(32),
            "height": 5,
            "index": 6,
        }
        return Receipt(**(fields | changes))  # type: ignore[arg-type]

    same = {receipt().effects_digest(), receipt(height=9).effects_digest(), receipt(index=9).effects_digest()}
    assert len(same) == 1
    assert receipt(fee=1).effects_digest() not in same


def test_a_receipt_code_is_a_name() -> None:
    good = Receipt(
        digest=A, lane=Lane.FAST, status=Status.FAILED, code="Abc", gas_token=C, height=1, index=0
    ).encode()
    with pytest.raises(DecodeError, match="code"):
        Receipt.decode(good.replace(b"Abc", b"A\nc"))


def test_a_vote_message_is_laid_out_as_written() -> None:
    message = vote_message(C, 1, VoteKind.FINALIZE, 2, A)
    assert message == b"supervm/vote/v1" + C + bytes((1,)) + bytes(7) + b"\x0a" + b"\x02" + bytes(7) + A


@given(st.sets(st.integers(0, 99)))
def test_a_bitmap_holds_the_numbers_that_were_put_in(numbers: set[int]) -> None:
    assert numbers_of(bitmap_of(numbers, 100)) == sorted(numbers)


FOUR = ValidatorSet(tuple(Validator(bytes((at,)) * 32, b"k" * 32, 1) for at in range(1, 5)))


def certificate(numbers: set[int], bitmap: bytes | None = None) -> Certificate:
    signatures = tuple(b"s" * 64 for _ in numbers)
    return Certificate(
        VoteKind.FINALIZE, 0, 1, A, bitmap_of(numbers, 4) if bitmap is None else bitmap, signatures
    )


def test_three_of_four_are_a_quorum_and_two_are_not() -> None:
    assert len(certificate({0, 1, 3}).signed(FOUR)) == 3
    with pytest.raises(ProofInvalid) as caught:
        certificate({0, 1}).signed(FOUR)
    assert caught.value.code == "NoQuorum"


@pytest.mark.parametrize("bitmap", [b"\x17", b"\x07\x00", b""])
def test_a_bitmap_of_another_set_is_refused(bitmap: bytes) -> None:
    with pytest.raises(ProofInvalid):
        certificate({0, 1, 2}, bitmap).signed(FOUR)


def test_exactly_two_thirds_is_no_quorum() -> None:
    three = ValidatorSet(FOUR.members[:3])
    assert not three.is_quorum(2)
    assert three.is_quorum(3)
    assert ValidatorSet(FOUR.members[:1]).is_quorum(1)


@pytest.mark.parametrize(
    "members",
    [
        (FOUR.members[1], FOUR.members[0]),
        (FOUR.members[0], FOUR.members[0]),
        (Validator(A, B, 0),),
        (Validator(A, B, 2**63), Validator(B, B, 2**63)),
    ],
)
def test_an_unsorted_repeated_weightless_or_too_heavy_set_is_refused(
    members: tuple[Validator, ...],
) -> None:
    with pytest.raises(DecodeError):
        ValidatorSet(members)


def test_a_number_is_a_place_in_the_set() -> None:
    assert [FOUR.number_of(each.node_id) for each in FOUR.members] == [0, 1, 2, 3]
    assert FOUR.number_of(A) is None


def test_a_batch_whose_header_lies_is_refused() -> None:
    header = batch_header(chain_id=C, epoch=0, builder=A, sequence=1, transactions=[b"one", b"two"], gas=5)
    Batch.decode(Batch(header, b"s" * 64, (b"one", b"two")).encode())
    for wrong in ((b"one", b"twp"), (b"one",), (b"one", b"two", b"x"), (b"onet", b"wo")):
        with pytest.raises(DecodeError):
            Batch.decode(Batch(header, b"s" * 64, wrong).encode())


def test_a_block_whose_header_names_another_body_is_refused() -> None:
    genesis = Genesis(name="x", created_ms=0, validators=FOUR)
    block = genesis_block(genesis, A)
    assert len(block.header.encode()) == HEADER_BYTES
    data = (
        Writer().byte_string(block.header.encode()).byte_string(b"\x01" + bytes(4) + b"\x01\x00" + bytes(6))
    )
    with pytest.raises(DecodeError, match="body_digest"):
        Block.decode(data.done())


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (b"\x01", "Truncated"),
        (b"\x02\x00\x00\x00x", "Truncated"),
        (b"\x00\x00\x00\x00", "OutOfRange"),
        (b"\x09\x00\x00\x00" + bytes(9), "TooLarge"),
        (b"\x01\x00\x00\x00x" * 3, "TooMany"),
    ],
)
def test_a_bad_stream_is_refused_by_item(stream: bytes, code: str) -> None:
    with pytest.raises(DecodeError) as caught:
        unpack_transactions(stream, 2, 8)
    assert caught.value.code == code
    assert caught.value.field.startswith("item ")


HUGE: dict[str, object] = {
    "bytes": b"x" * 10_000,
    "text": "x" * 10_000,
    "integer": 10**5_000,
    "list": ["x" * 1000] * 10_000,
    "hidden integer": [10**5_000],
    "object": {"a": "b" * 10_000},
}


@pytest.mark.parametrize("name", HUGE)
def test_an_offending_value_is_shortened_in_messages(name: str) -> None:
    assert len(shorten(HUGE[name])) < 120


def test_a_block_does_not_take_another_blocks_batches() -> None:
    def batch(item: bytes) -> Batch:
        header = batch_header(chain_id=C, epoch=0, builder=A, sequence=1, transactions=[item], gas=1)
        return Batch(header, b"s" * 64, (item,))

    one, other = batch(b"one"), batch(b"other")
    body = BlockBody(certificates=(BatchCertificate(one.header, b"s" * 64, b"\x01", (b"s" * 64,)),))
    first = genesis_block(Genesis(name="x", created_ms=0, validators=FOUR), A).header
    named = attrs.evolve(first, body_digest=body.digest(), transactions_root=body.transactions_root())
    Block(named, body, (one,)).check()
    with pytest.raises(DecodeError, match="batches"):
        Block(named, body, (other,)).check()
    with pytest.raises(DecodeError, match="transactions_root"):
        Block(attrs.evolve(named, transactions_root=A), body).check()


def test_a_header_shows_no_root_of_a_later_height() -> None:
    header = genesis_block(Genesis(name="x", created_ms=0, validators=FOUR), A).header
    with pytest.raises(DecodeError, match="root_height"):
        BlockHeader.decode(attrs.evolve(header, root_height=1).encode())
