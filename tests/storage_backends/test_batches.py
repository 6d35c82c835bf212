"""What a batch is before a backend sees it: checked as its operations are one by one, and cut into runs."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervm.contracts import storage
from supervm.contracts.storage import (
    KEY_BYTES_MAX,
    BadKey,
    Delete,
    DeleteRange,
    Operation,
    Put,
    StorageError,
    TooLarge,
    check_batch,
    check_keys,
    check_operation,
    puts_of,
)
from supervm.plugins.storage import runs
from supervm.plugins.storage.runs import Deletes, Puts, runs_of
from supervm.testing.conformance import storage_child

keys = st.binary(min_size=1, max_size=2)
operations = st.one_of(
    st.builds(Put, keys, st.binary(max_size=3)),
    st.builds(Put, keys, st.binary(max_size=3)),
    st.builds(Delete, keys),
    st.builds(DeleteRange, keys, st.one_of(st.none(), keys)),
)
odd = st.one_of(st.none(), st.text(max_size=2), st.integers(), st.builds(bytearray, keys), st.just(b""))
long = st.just(b"k" * (KEY_BYTES_MAX + 1))
perhaps_bad = st.one_of(
    operations,
    st.builds(Put, st.one_of(keys, odd, long), st.one_of(keys, odd)),
    st.builds(Delete, st.one_of(odd, long)),
    odd,
)


def outcome(call: Any, *arguments: Any) -> Any:
    """What a call gives, or the kind and the words of its error."""
    try:
        return call(*arguments)
    except StorageError as error:
        return type(error), str(error)


@settings(deadline=None)
@given(st.lists(perhaps_bad, max_size=8))
def test_a_batch_is_checked_as_its_operations_are_one_by_one(batch: Any) -> None:
    assert outcome(check_batch, batch) == outcome(lambda: sum(map(check_operation, batch)))


@settings(deadline=None)
@given(st.lists(st.one_of(keys, odd, long), max_size=8))
def test_many_keys_are_checked_as_each_is(asked: Any) -> None:
    each = next((found for found in (outcome(storage.check_key, key) for key in asked) if found), None)
    assert outcome(check_keys, asked) == each


def test_a_value_is_bounded_within_a_batch_of_puts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "VALUE_BYTES_MAX", 5)
    assert check_batch([Put(b"a", bytes(5)), Put(b"b", b"")]) == 7
    with pytest.raises(TooLarge, match="value of 6 bytes"):
        check_batch([Put(b"a", bytes(5)), Put(b"b", bytes(6))])


def test_rows_become_the_puts_that_they_are() -> None:
    rows = [(b"%d" % i, b"v" * i) for i in range(5)]
    assert puts_of(rows) == [Put(key, value) for key, value in rows]
    assert {type(put) for put in puts_of(rows)} == {Put}
    assert puts_of([]) == []
    with pytest.raises(BadKey, match="a key and a value"):
        puts_of([*rows, (b"a", b"b", b"c")])  # type: ignore[list-item]


def applied(rows: dict[bytes, bytes], batch: list[Operation]) -> dict[bytes, bytes]:
    storage_child.apply(rows, batch)
    return rows


@settings(deadline=None)
@given(st.lists(operations, max_size=30), st.integers(1, 5))
def test_the_runs_of_a_batch_leave_the_same_rows(batch: list[Operation], most: int) -> None:
    start = {bytes([i]): b"old" for i in range(0, 256, 16)}
    wanted = applied(dict(start), batch)
    found = dict(start)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "SORTED_ROWS_MAX", most)
        for run in runs_of(batch):
            match run:
                case Puts(rows):
                    assert [put.key for put in rows] == sorted(put.key for put in rows)
                    assert 0 < len(rows) <= most
                    found.update(rows)
                case Deletes(gone):
                    for key in gone:
                        found.pop(key, None)
                case DeleteRange():
                    storage_child.apply(found, [run])
    assert found == wanted
