"""OBS-42: the audit log keeps what was written, and shows what was done to it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from supervm.telemetry import audit as module
from supervm.telemetry.audit import FIRST, LINE_BYTES_MAX, AuditBroken, open_audit, verify

NOW_MS = 1_700_000_000_123


def now() -> int:
    return NOW_MS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def write(path: Path, count: int, name: str = "late-one") -> None:
    with open_audit(path, now) as audit:
        for number in range(count):
            audit.append("plugin_load", plugin=name, outcome=f"done {number}")


def test_lines_follow_from_each_other_across_openings(path: Path) -> None:
    write(path, 2)
    write(path, 3)
    lines = path.read_bytes().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["previous"] for entry in entries] == [
        FIRST,
        *(blake3(line).hexdigest() for line in lines[:-1]),
    ]
    assert entries[0]["time"] == "2023-11-14T22:13:20.123Z"
    assert (entries[4]["action"], entries[4]["outcome"]) == ("plugin_load", "done 2")
    assert path.stat().st_mode & 0o777 == 0o600
    found = verify(path)
    assert (found.lines, found.last) == (5, blake3(lines[-1]).hexdigest())


def test_an_empty_log_is_whole(path: Path) -> None:
    write(path, 0)
    assert verify(path) == module.Verified(lines=0, last=FIRST)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: [lines[0], lines[1].replace(b"late", b"lite"), *lines[2:]], 3),
        (lambda lines: [lines[0], *lines[2:]], 2),
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 2),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], 3),
        (lambda lines: [*lines[:2], b"{}", *lines[2:]], 3),
        (lambda lines: [*lines[:2], b"x" * LINE_BYTES_MAX, *lines[2:]], 3),
        (lambda lines: [*lines, b"["], 5),
    ],
)
def test_what_was_done_to_the_file_shows_at_its_line(
    path: Path, change: Callable[[list[bytes]], list[bytes]], line: int
) -> None:
    write(path, 4)
    path.write_bytes(b"".join(each + b"\n" for each in change(path.read_bytes().splitlines())))
    with pytest.raises(AuditBroken) as raised:
        verify(path)
    assert raised.value.line == line


def test_lines_cut_off_at_the_end_show_by_a_digest_that_was_kept(path: Path) -> None:
    write(path, 4)
    kept = verify(path).last
    write(path, 2)
    assert verify(path, kept).lines == 6
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    assert verify(path).lines == 3
    with pytest.raises(AuditBroken, match="lines are missing"):
        verify(path, kept)


@pytest.mark.parametrize("left", [1, 40, -1])
def test_a_line_that_a_crash_cut_short_is_told_and_the_chain_goes_on(path: Path, left: int) -> None:
    write(path, 2)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:left])
    write(path, 1)
    entries = path.read_bytes().splitlines()
    assert entries[1] == second[:left]
    assert json.loads(entries[2])["action"] == "line_broken_off"
    assert verify(path).lines == 4


def test_a_torn_last_line_is_told_by_a_check_before_the_node_goes_on(path: Path) -> None:
    write(path, 2)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(AuditBroken) as raised:
        verify(path)
    assert raised.value.line == 2


def test_a_line_that_the_disk_has_no_room_for_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 50:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[: len(data) // 2])

    with open_audit(path, now) as audit:
        audit.append("node_started")
        before = path.read_bytes()
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(module.os, "write", half)
            audit.append("plugin_load")
        assert path.read_bytes() == before
        audit.append("node_stopped")
    assert verify(path).lines == 2


def test_a_file_that_is_no_audit_log_is_left_alone(path: Path) -> None:
    path.write_bytes(b"x" * (LINE_BYTES_MAX + 10))
    with pytest.raises(AuditBroken, match="over"), open_audit(path, now):
        pytest.fail("opened")
    assert path.stat().st_size == LINE_BYTES_MAX + 10


@settings(deadline=None, max_examples=50)  # every line is synced
@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), st.one_of(st.text(), st.integers(), st.booleans()))),
    st.data(),
)
def test_any_facts_are_kept_and_any_changed_byte_shows(
    tmp_path_factory: pytest.TempPathFactory, facts: list[dict[str, str | int]], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("audit") / "audit.log"
    with open_audit(path, now) as audit:
        for each in facts:
            audit.append("changed", **each)
    found = verify(path)
    assert found.lines == len(facts)
    written = bytearray(path.read_bytes())
    if not written:
        return
    place = data.draw(st.integers(0, len(written) - 1))
    written[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(written)
    with pytest.raises(AuditBroken):
        verify(path, found.last)
