"""A backend whose package is missing says so before anything is opened, and how to mend it."""

import sys
from pathlib import Path

import pytest

from supervm.contracts.storage import Unsupported
from supervm.plugins.storage.binding import Binding

ABSENT = Binding("no_such_database", extra="nosuch", database="NoSuch")


def test_a_package_that_is_not_there_is_named_with_what_installs_it() -> None:
    assert ABSENT.missing() == "the package no_such_database is not installed; install supervm[nosuch]"
    assert Binding("sqlite3", extra="sqlite", database="SQLite").missing() == ""


async def test_loading_what_is_not_there_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="the NoSuch binding can't be loaded") as raised:
        await ABSENT.load()
    assert "supervm[nosuch]" in raised.value.mend


async def test_a_package_that_is_there_but_does_not_load_is_unsupported_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_database.py").write_text("raise ImportError('libbroken.so: cannot open')")
    monkeypatch.syspath_prepend(str(tmp_path))
    broken = Binding("broken_database", extra="broken", database="Broken")
    assert broken.missing() == "", "looking loads nothing"
    assert "broken_database" not in sys.modules
    with pytest.raises(Unsupported, match="cannot open"):
        await broken.load()
