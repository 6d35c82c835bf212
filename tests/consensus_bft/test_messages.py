"""Frames and log records: one encoding a value, and nothing else is read (CONS-38, CONS-60)."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervm.plugins.consensus.bft import messages
from supervm.plugins.consensus.bft.effects_messages import Effect, Effects
from supervm.plugins.consensus.bft.events import Record
from supervm.plugins.consensus.bft.fetching import ANSWER_BYTES_MAX, Get, Got, WantViews
from supervm.plugins.consensus.bft.messages import Message, decode, encode, frame_bytes_max, kind_of
from supervm.plugins.consensus.bft.records import decode_record, encode_record
from supervm.plugins.consensus.bft.votes import ViewVote
from supervm.types.batch import Batch, batch_header
from supervm.types.certificate import VoteKind, vote_message
from supervm.types.errors import DecodeError, InvalidInput
from tests.consensus_bft import SCALE, strategies

SIGNATURE = bytes(64)


def batch_of(items: tuple[bytes, ...]) -> Batch:
    header = batch_header(
        chain_id=bytes(32), epoch=1, builder=bytes(32), sequence=0, transactions=items, gas=1
    )
    return Batch(header, SIGNATURE, items)


@settings(max_examples=60 * SCALE, deadline=None)
@given(strategies.messages)
def test_a_message_is_read_back_as_it_was_written(message: Message) -> None:
    frame = encode(message)
    assert decode(frame) == message
    assert frame[0] == kind_of(message)
    assert len(frame) <= frame_bytes_max(frame[0])


@settings(max_examples=60 * SCALE, deadline=None)
@given(strategies.messages, st.data())
def test_a_changed_frame_is_another_message_or_none(message: Message, data: st.DataObject) -> None:
    frame = bytearray(encode(message))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(InvalidInput):
        read = decode(bytes(frame))
        assert read != message
        assert encode(read) == bytes(frame)


@settings(max_examples=50 * SCALE, deadline=None)
@given(strategies.messages, st.data())
def test_a_frame_cut_short_or_followed_by_bytes_is_refused(message: Message, data: st.DataObject) -> None:
    frame = encode(message)
    cut = data.draw(st.integers(0, len(frame) - 1))
    with pytest.raises(DecodeError):
        decode(frame[:cut])
    with pytest.raises(DecodeError):
        decode(frame + b"\0")


@settings(max_examples=150 * SCALE, deadline=None)
@given(st.integers(0, 255), st.binary(max_size=300))
def test_garbage_is_refused_or_the_one_encoding_of_a_message(kind: int, data: bytes) -> None:
    frame = bytes([kind]) + data
    with contextlib.suppress(InvalidInput):
        assert encode(decode(frame)) == frame


@pytest.mark.parametrize("kind", [0, 22, 128, 255])
def test_an_unknown_kind_is_refused_and_may_have_no_bytes(kind: int) -> None:
    assert frame_bytes_max(kind) == 0
    with pytest.raises(DecodeError, match="unknown"):
        decode(bytes([kind]) + bytes(100))


def test_every_kind_of_the_table_has_a_bound() -> None:
    assert [kind for kind in range(256) if frame_bytes_max(kind)] == list(range(1, 22))
    assert max(frame_bytes_max(kind) for kind in range(256)) == messages.FRAME_BYTES_MAX


@pytest.mark.parametrize("kind", range(1, 22))
def test_a_frame_longer_than_its_kind_may_be_is_refused_unread(kind: int) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(bytes([kind]) + bytes(frame_bytes_max(kind)))
    assert caught.value.code == "TooLarge"


def test_what_a_vote_signs_holds_domain_chain_epoch_kind_view_and_digest() -> None:
    chain, digest = b"c" * 32, b"d" * 32
    vote = ViewVote(VoteKind.NOTARIZE, 3, 9, digest, 1, SIGNATURE)
    assert vote.message(chain) == b"supervm/vote/v1" + chain + bytes([3]) + bytes(7) + bytes([8, 9]) + (
        bytes(7) + digest
    )
    nullify = ViewVote(VoteKind.NULLIFY, 3, 9, bytes(32), 1, SIGNATURE)
    assert nullify.message(chain) == vote_message(chain, 3, 9, 9)


def test_the_largest_batch_and_effects_of_all_its_transactions_fit_their_frames() -> None:
    items = (bytes(256),) * 4096
    header = batch_header(
        chain_id=bytes(32), epoch=1, builder=bytes(32), sequence=0, transactions=items, gas=1
    )
    assert decode(encode(Batch(header, SIGNATURE, items))).header == header  # type: ignore[union-attr]
    effects = tuple(Effect(index, bytes(32), bytes(32)) for index in range(4096))
    assert len(encode(Effects(1, bytes(32), 0, effects, SIGNATURE))) < frame_bytes_max(5)


def test_a_nullify_that_names_a_block_is_our_own_bug() -> None:
    with pytest.raises(AssertionError):
        encode(ViewVote(VoteKind.NULLIFY, 1, 1, b"d" * 32, 0, SIGNATURE))


def test_views_asked_for_are_at_most_256() -> None:
    assert decode(encode(Get((WantViews(1, 5, 260),)))) == Get((WantViews(1, 5, 260),))
    for first, last in ((5, 261), (5, 4)):
        with pytest.raises(DecodeError):
            decode(encode(Get((WantViews(1, first, last),))))


def test_an_answer_of_several_items_has_at_most_4_mib_but_one_item_may_have_more() -> None:
    items = (bytes(256),) * 4095
    header = batch_header(
        chain_id=bytes(32), epoch=1, builder=bytes(32), sequence=0, transactions=items, gas=1
    )
    batch = Batch(header, SIGNATURE, items)
    few = ANSWER_BYTES_MAX // len(batch.encode())
    assert len(decode(encode(Got((batch,) * few))).items) == few  # type: ignore[union-attr]
    with pytest.raises(DecodeError) as caught:
        decode(encode(Got((batch,) * (few + 1))))
    assert caught.value.code == "TooLarge"


@settings(max_examples=50 * SCALE, deadline=None)
@given(strategies.log_records)
def test_a_record_is_read_back_as_it_was_written(record: Record) -> None:
    data = encode_record(record)
    assert decode_record(data) == record
    for broken in (data[:-1], data + b"\0", b"\x0f" + data[1:]):
        with pytest.raises(DecodeError):
            decode_record(broken)
