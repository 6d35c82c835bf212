"""Packed changes and receipts say what the plain ones say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervm.types import merkle
from supervm.types.changes import PackedChanges
from supervm.types.errors import DecodeError
from supervm.types.packed_receipts import PackedReceipts, heads_of
from supervm.types.receipt import Event, ObjectVersion, Receipt, Status
from supervm.types.transaction import Lane

HEAD = ("digest", "lane", "status", "code", "gas_used", "fee", "gas_token", "height", "index")
ids = st.binary(min_size=32, max_size=32)
versions = st.lists(st.builds(ObjectVersion, ids, st.integers(0, 2**64 - 1)), max_size=3).map(tuple)
receipts = st.builds(
    Receipt,
    digest=ids,
    lane=st.sampled_from(Lane),
    status=st.sampled_from(Status),
    code=st.sampled_from(["", "NonceGap", "InsufficientFunds", "A" * 64]),
    gas_used=st.integers(0, 2**64 - 1),
    fee=st.integers(0, 2**128 - 1),
    gas_token=ids,
    created=versions,
    written=versions,
    deleted=versions,
    events=st.lists(st.builds(Event, ids, st.binary(max_size=9), st.binary(max_size=9)), max_size=2).map(
        tuple
    ),
    return_value=st.binary(max_size=40),
    height=st.integers(0, 2**64 - 1),
    index=st.integers(0, 2**32 - 1),
)
entries = st.dictionaries(
    st.binary(min_size=1, max_size=254), st.none() | st.binary(min_size=1, max_size=300), max_size=8
)


@given(st.lists(receipts, max_size=5))
def test_packed_receipts_are_the_receipts(made: list[Receipt]) -> None:
    packed = PackedReceipts([each.encode() for each in made])
    assert packed == made and packed == tuple(made)
    assert list(packed) == made and packed[1:] == tuple(made[1:]) and len(packed) == len(made)
    assert PackedReceipts.of(made).encoded == packed.encoded and PackedReceipts.of(packed) is packed
    for head, receipt in zip(heads_of(packed), made, strict=True):
        assert [getattr(head, name) for name in HEAD] == [getattr(receipt, name) for name in HEAD]
        assert isinstance(head.status, Status) and isinstance(head.lane, Lane)
    assert heads_of(made) is made
    assert packed.root == merkle.root([each.encode() for each in made])
    assert PackedReceipts((), b"known").root == b"known"


@given(st.lists(receipts, min_size=1, max_size=3), receipts)
def test_packed_receipts_differ_where_one_does(made: list[Receipt], other: Receipt) -> None:
    packed = PackedReceipts([each.encode() for each in made])
    if other != made[-1]:
        assert packed != [*made[:-1], other]
    assert packed != made[:-1] and packed != "receipts"
    assert packed[-1] == made[-1]
    with pytest.raises(IndexError):
        packed[len(made)]


def test_a_receipt_is_decoded_whole_when_it_is_asked_for() -> None:
    data = Receipt(
        digest=bytes(32), lane=Lane.FAST, status=Status.COMMITTED, gas_token=bytes(32), height=1, index=0
    ).encode()
    packed = PackedReceipts([data[:-12] + b"\0" + data[-12:]])
    assert packed.heads[0].height == 1
    with pytest.raises(DecodeError):
        packed[0]


@given(entries)
def test_packed_changes_are_the_changes(changes: dict[bytes, bytes | None]) -> None:
    made = PackedChanges.of(changes)
    packed = PackedChanges(made.data, made.count)
    assert packed == changes and dict(packed) == changes and len(packed) == len(changes)
    assert PackedChanges.of(packed) is packed
    assert all(packed[key] == value for key, value in changes.items())
    assert packed.get(b"") is None and b"" not in packed


def test_bytes_that_are_no_changes_and_changes_that_come_twice_are_our_bug() -> None:
    made = PackedChanges.of({b"one": b"1", b"two": None})
    for data, count in ((made.data + b"\0", 2), (made.data, 1), (made.data * 2, 4)):
        with pytest.raises(AssertionError):
            dict(PackedChanges(data, count))
    for wrong in ({b"": b"1"}, {b"k" * 255: b"1"}, {b"key": b""}):
        with pytest.raises(AssertionError):
            PackedChanges.of(wrong)
