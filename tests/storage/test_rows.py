"""Sealed rows made many at once are those that are made one by one, in C and without it."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervm.contracts.storage import Delete, Operation, Put
from supervm.hardware import fastpath
from supervm.storage import rows
from supervm.storage.records import sealed
from supervm.storage.spaces import INDEX, STATE, Place, pack_place, unseal
from supervm.types.changes import PackedChanges

SIZES = (1, 7, 8, 55, 56, 57, 63, 64, 65, 1_000, 1_024, 1_025, 2_048, 5_000, 70_000)
entries = st.dictionaries(
    st.binary(min_size=1, max_size=254),
    st.none() | st.binary(min_size=1, max_size=200) | st.sampled_from(SIZES).map(bytes),
    max_size=300,
)


@attrs.frozen
class Without:
    BLOCKS_NATIVE: bool = False


@pytest.fixture(params=["as built", "python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setattr(rows, "fastpath", Without())


def one_by_one(space: bytes, changes: dict[bytes, bytes | None]) -> list[Operation]:
    return [
        Delete(space + key) if value is None else sealed(space + key, value) for key, value in changes.items()
    ]


@given(st.sampled_from([STATE, INDEX]), entries)
def test_many_rows_at_once_are_the_same_rows(space: bytes, changes: dict[bytes, bytes | None]) -> None:
    assert rows.sealed_rows(space, PackedChanges.of(changes)) == one_by_one(space, changes)


@pytest.mark.usefixtures("way")
def test_rows_are_sealed_with_their_key_and_space() -> None:
    changes = {bytes([number]) * 33: bytes([number]) * size for number, size in enumerate(SIZES, 1)}
    for row in rows.sealed_rows(STATE, PackedChanges.of(changes)):
        assert isinstance(row, Put)
        assert unseal(row.key, row.value) == changes[row.key[1:]]


def test_a_packed_place_is_the_index_entry() -> None:
    place = Place(2**40, 3, 600, 2**20, 255)
    packed = pack_place(b"d" * 32, attrs.astuple(place))
    assert dict(PackedChanges(packed, 1)) == {b"d" * 32: place.encode()}


@pytest.mark.skipif(not fastpath.BLOCKS_NATIVE, reason=fastpath.report()["execute_block"].reason)
def test_bytes_that_are_no_entries_are_our_bug() -> None:
    good = PackedChanges.of({b"key": b"value", b"gone": None}).data
    for data, count in ((good[:-1], 2), (good + b"\0", 2), (good, 1), (good, 3), (b"\xff" + good, 2)):
        with pytest.raises(AssertionError, match="no packed entries"):
            rows.sealed_rows(STATE, PackedChanges(data, count))
