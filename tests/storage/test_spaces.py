"""Seals, places, markers, and the cache: small parts with one promise each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervm.contracts.storage import StoreCorrupt
from supervm.storage.cache import ENTRY_BYTES, MISSING, ByteCache
from supervm.storage.spaces import CommitMarker, Place, decode_place, encode_block_place, seal, unseal

keys = st.binary(min_size=1, max_size=480)
digests = st.binary(min_size=32, max_size=32)


@given(keys, st.binary(max_size=300))
def test_what_is_sealed_comes_back(key, value):
    assert unseal(key, seal(key, value)) == value


@given(keys, st.binary(max_size=100), st.data())
def test_a_sealed_value_with_any_bit_flipped_is_refused(key, value, data):
    stored = bytearray(seal(key, value))
    stored[data.draw(st.integers(0, len(stored) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(StoreCorrupt, match=key.hex()):
        unseal(key, bytes(stored))


@given(keys, st.binary(max_size=100), st.integers(0, 107))
def test_a_truncated_value_is_refused(key, value, length):
    stored = seal(key, value)
    if length < len(stored):
        with pytest.raises(StoreCorrupt):
            unseal(key, stored[:length])


@given(st.binary(min_size=1, max_size=40), st.binary(max_size=40), st.integers(1, 10))
def test_a_byte_may_not_pass_from_key_to_value(key, value, shift):
    stored = seal(key + value[:shift], value[shift:])
    if value[:shift]:
        with pytest.raises(StoreCorrupt):
            unseal(key, value[:shift] + stored)


@given(st.integers(0, 2**64 - 1), digests, digests, digests, st.integers(0, 2**32 - 1))
def test_a_commit_marker_comes_back(height, block, state, receipts, schema):
    marker = CommitMarker(height, block, state, receipts, schema)
    assert CommitMarker.decode(marker.encode()) == marker


@given(st.binary(max_size=200))
def test_bytes_of_another_length_are_no_marker(data):
    if len(data) != 108:
        with pytest.raises(StoreCorrupt, match="commit marker"):
            CommitMarker.decode(data)


@given(
    st.builds(
        Place,
        st.integers(0, 2**64 - 1),
        st.integers(0, 1023),
        st.integers(0, 4095),
        st.integers(0, 2**32 - 1),
        st.integers(0, 255),
    )
)
def test_an_index_entry_says_whether_it_is_a_transaction_or_a_block(place):
    assert decode_place(b"key", place.encode()) == place
    assert decode_place(b"key", encode_block_place(place.height)) == place.height
    with pytest.raises(StoreCorrupt):
        decode_place(b"key", place.encode()[:-1])


@given(st.lists(st.tuples(st.integers(0, 9), st.none() | st.binary(max_size=200)), max_size=60))
def test_a_cache_holds_the_newest_values_within_its_bytes(puts):
    cache = ByteCache(1000)
    newest = {}
    for number, value in puts:
        key = bytes([number])
        cache.put(key, value)
        newest[key] = value
        assert cache.stats().bytes <= 1000
    for key, value in newest.items():
        assert cache.get(key) in (value, MISSING)


def test_a_cache_drops_the_least_recently_used():
    cache = ByteCache(3 * (ENTRY_BYTES + 2))
    for key in (b"a", b"b", b"c"):
        cache.put(key, b"1")
    assert cache.get(b"a") == b"1"
    cache.put(b"d", None)
    assert (cache.get(b"a"), cache.get(b"b"), cache.get(b"d")) == (b"1", MISSING, None)
    cache.drop(b"a")
    assert cache.get(b"a") is MISSING
    assert cache.stats().entries == 2
