"""The data folder: private, one node at a time, of one backend (STO-10)."""

import os
import stat
import subprocess
import sys

import pytest

from supervm.contracts.storage import ReadOnly, StorageError, StoreCorrupt, StoreLocked, StoreTooNew
from supervm.storage.errors import BackendMismatch
from supervm.storage.folder import (
    LOCK_NAME,
    MARKER_NAME,
    STORE_NAME,
    open_folder,
    read_marker,
    set_aside,
    switch_backend,
)


def refused(path, backend, error, match):
    with pytest.raises(error, match=match) as caught, open_folder(path, backend):
        raise AssertionError("it was opened")
    return caught.value


def test_a_new_folder_is_made_private_and_marked(tmp_path):
    path = tmp_path / "deep" / "node"
    with open_folder(path, "sqlite") as folder:
        assert folder.created
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert read_marker(path) == "sqlite"
        space = folder.free()
        assert 0 <= space.free_bytes <= space.total_bytes
    with open_folder(path, "sqlite") as folder:
        assert not folder.created


def test_a_second_node_in_this_process_is_refused_naming_the_holder(tmp_path):
    with open_folder(tmp_path / "node", "memory"):
        refused(tmp_path / "node", "memory", StoreLocked, f"process {os.getpid()}.*--data")
    with open_folder(tmp_path / "node", "memory"):
        assert read_marker(tmp_path / "node") == "memory"


def test_a_second_process_is_refused_and_gets_the_folder_when_the_first_is_killed(tmp_path):
    path = tmp_path / "node"
    code = (
        "import sys, pathlib\n"
        "from supervm.storage.folder import open_folder\n"
        "with open_folder(pathlib.Path(sys.argv[1]), 'memory'):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreLocked, match=f"process {holder.pid}"), open_folder(path, "memory"):
            raise AssertionError("both hold it")
    finally:
        holder.kill()
        holder.communicate()
    with open_folder(path, "memory") as folder:
        assert (path / LOCK_NAME).read_text() == f"{os.getpid()}\n"
        assert not folder.created


def test_another_backend_is_refused_naming_both_and_the_mend(tmp_path):
    with open_folder(tmp_path, "rocksdb"):
        assert read_marker(tmp_path) == "rocksdb"
    error = refused(tmp_path, "sqlite", BackendMismatch, r"storage\.use=rocksdb")
    assert (error.found, error.asked) == ("rocksdb", "sqlite")
    with open_folder(tmp_path, "rocksdb"):
        assert read_marker(tmp_path) == "rocksdb"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"format = 1\n",
        b"format = ",
        b"\xff\xfe",
        b'format = "1"\nbackend = "memory"',
        b"[" * 5000,
        b"format = " + b"[" * 2000,
    ],
    ids=["empty", "cut after a line", "cut in a line", "not text", "wrong type", "long", "nested"],
)
def test_a_damaged_marker_is_named_and_left_alone(tmp_path, text):
    marker = tmp_path / MARKER_NAME
    marker.write_bytes(text)
    with pytest.raises(StoreCorrupt, match=MARKER_NAME), open_folder(tmp_path, "memory"):
        raise AssertionError("it was opened")
    assert marker.read_bytes() == text


def test_a_folder_of_a_newer_format_is_refused_naming_both(tmp_path):
    (tmp_path / MARKER_NAME).write_text('format = 9\nbackend = "memory"\nmore = true\n')
    refused(tmp_path, "memory", StoreTooNew, "format 9, this release reads up to 1")


def test_a_store_without_its_marker_is_not_guessed_at(tmp_path):
    (tmp_path / "storage").mkdir()
    with pytest.raises(StoreCorrupt, match="missing"), open_folder(tmp_path, "memory"):
        raise AssertionError("it was opened")
    assert not (tmp_path / MARKER_NAME).exists()


def test_files_of_the_operator_may_lie_in_a_new_folder(tmp_path):
    (tmp_path / "genesis.json").write_text("{}")
    with open_folder(tmp_path, "memory") as folder:
        assert folder.created


def test_a_file_in_its_place_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("not a folder")
    with pytest.raises(StorageError, match="not a folder"), open_folder(path, "memory"):
        raise AssertionError("it was opened")


def test_a_folder_that_can_not_be_written_says_so(tmp_path, monkeypatch):
    def denied(*_args, **_options):
        raise PermissionError(13, "Permission denied", str(tmp_path / LOCK_NAME))

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(ReadOnly, match=LOCK_NAME), open_folder(tmp_path, "memory"):
        raise AssertionError("it was opened")


def test_a_store_set_aside_leaves_room_for_any_other_and_can_be_put_back(tmp_path):
    path = tmp_path / "node"
    with open_folder(path, "sqlite"):
        (path / STORE_NAME / "sqlite").mkdir(parents=True)
        (path / STORE_NAME / "sqlite" / "kv").write_bytes(b"rows")
    aside = set_aside(path, "sqlite", 17)
    assert aside == path / STORE_NAME / "sqlite.replaced-17"
    assert (aside / "kv").read_bytes() == b"rows"
    assert read_marker(path) is None
    with open_folder(path, "rocksdb") as folder:
        assert folder.created
        (path / STORE_NAME / "rocksdb").mkdir()
    (path / MARKER_NAME).unlink()
    refused(path, "rocksdb", StoreCorrupt, "holds a store")
    aside.rename(path / STORE_NAME / "sqlite")
    (path / STORE_NAME / "sqlite.replaced-17.toml").rename(path / MARKER_NAME)
    with open_folder(path, "sqlite") as folder:
        assert not folder.created


def test_stores_set_aside_within_one_second_are_all_kept(tmp_path):
    path = tmp_path / "node"
    kept = []
    for number in range(3):
        with open_folder(path, "sqlite"):
            (path / STORE_NAME / "sqlite").mkdir(parents=True)
            (path / STORE_NAME / "sqlite" / "kv").write_bytes(b"%d" % number)
        kept.append(set_aside(path, "sqlite", 17))
    assert [each.name for each in kept] == [f"sqlite.replaced-{17 + number}" for number in range(3)]
    assert [(each / "kv").read_bytes() for each in kept] == [b"0", b"1", b"2"]
    assert all(each.with_name(each.name + ".toml").exists() for each in kept)


def test_nothing_is_set_aside_of_a_folder_without_a_store_or_one_that_is_held(tmp_path):
    path = tmp_path / "node"
    assert set_aside(path, "sqlite", 17) is None
    with open_folder(path, "sqlite"):
        assert set_aside(path, "sqlite", 17) is None
        (path / STORE_NAME / "sqlite").mkdir(parents=True)
        with pytest.raises(StoreLocked):
            set_aside(path, "sqlite", 17)
    assert (path / STORE_NAME / "sqlite").exists()


def test_a_folder_is_switched_to_another_backend_in_one_step(tmp_path):
    with open_folder(tmp_path, "sqlite"):
        switch_backend(tmp_path, "lmdb")
        assert read_marker(tmp_path) == "lmdb"
    refused(tmp_path, "sqlite", BackendMismatch, "lmdb")
    with open_folder(tmp_path, "lmdb") as folder:
        assert not folder.created


def test_a_damaged_marker_is_refused_or_says_the_same(tmp_path):
    with open_folder(tmp_path, "sqlite"):
        pass
    marker = tmp_path / MARKER_NAME
    good = marker.read_bytes()
    refused = 0
    for bit in range(8 * len(good)):
        marker.write_bytes(bytes(each ^ (1 << bit % 8) * (at == bit // 8) for at, each in enumerate(good)))
        try:
            assert read_marker(tmp_path) == "sqlite"
        except StoreCorrupt as error:
            assert MARKER_NAME in str(error)
            refused += 1
    # What is not seen changes nothing: a blank between the words, the checksum's line made a comment.
    assert refused > 0.9 * 8 * len(good)


def test_a_marker_of_before_it_had_a_checksum_is_good(tmp_path):
    (tmp_path / MARKER_NAME).write_text('format = 1\nbackend = "lmdb"\n')
    assert read_marker(tmp_path) == "lmdb"
