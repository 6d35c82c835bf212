"""`bench kv-batch`: both sides do the same work, every value is judged, ratios are of turns in one run."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from supervm.bench import kv_batch, kv_direct
from supervm.bench.errors import CantMeasure
from supervm.bench.kv_batch import KvPlan, make_work, run_kv_batch
from supervm.bench.kv_direct import ENGINES
from supervm.plugins.storage.lmdb import lmdb
from supervm.plugins.storage.rocksdb import rocksdb
from supervm.plugins.storage.sqlite import sqlite

COMPONENTS = {"rocksdb": rocksdb, "sqlite": sqlite, "lmdb": lmdb}
SMALL = KvPlan(rows=600, batch=100, gets=200, get_many=50)


class Bar:
    def update(self, _: int) -> None:
        """Nobody looks."""


@contextmanager
def quiet(_label: str, _total: int) -> Iterator[Bar]:
    yield Bar()


def plan(tmp_path: Path, *storages: str) -> KvPlan:
    return attrs.evolve(SMALL, folder=tmp_path, storages=storages)


def test_work_is_the_same_bytes_by_seed_and_is_asked_as_it_was_put() -> None:
    work = make_work(SMALL)
    assert make_work(SMALL) == work
    assert make_work(attrs.evolve(SMALL, seed=2)) != work
    rows = dict(row for batch in work.batches for row in batch)
    assert len(rows) == work.rows == 600
    assert [len(batch) for batch in work.batches] == [100] * 6
    assert [[rows[key] for key in keys] for keys in work.asked] == work.answers
    assert sum(map(len, work.asked)) == 200


@pytest.mark.parametrize("name", COMPONENTS)
def test_each_backend_is_measured_beside_its_engine(name: str, tmp_path: Path) -> None:
    pytest.importorskip(ENGINES[name].module)
    result = run_kv_batch(plan(tmp_path, name), COMPONENTS, quiet)
    assert result.oracle == "ok"
    # lmdb syncs whatever is asked, so that it has nothing to be compared unsynced.
    levels = ["synced"] if name == "lmdb" else ["synced", "unsynced"]
    assert set(result.ratios) == {f"{name} get", *(f"{name} put {level}" for level in levels)}
    facts = result.extra["kv"][name]
    assert set(facts["levels"]) == set(levels)
    assert facts["rates"]["supervm, put synced"]["a_second"]["min"] > 0
    assert result.failed == 0
    assert result.attempts > 0
    assert set(result.extra["below"]) <= set(result.ratios)
    json.dumps(result.to_json())
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_value_is_found_and_leaves_no_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(self: kv_direct.DirectSqlite, keys: list[bytes]) -> list[bytes | None]:
        return right(self, keys)[::-1]

    right = kv_direct.DirectSqlite.get_many
    monkeypatch.setattr(kv_direct.DirectSqlite, "get_many", swapped)
    result = run_kv_batch(plan(tmp_path, "sqlite"), COMPONENTS, quiet)
    assert "sqlite direct" in result.oracle
    assert (result.ratios, result.goodput) == ({}, None)


def test_a_row_that_is_gone_after_reopening_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def emptied(component: object, folder: Path, work: object) -> list[str]:
        return await reread(sqlite, tmp_path / "empty", make_work(SMALL))

    reread = kv_batch._reread
    monkeypatch.setattr(kv_batch, "_reread", emptied)
    result = run_kv_batch(plan(tmp_path, "sqlite"), COMPONENTS, quiet)
    assert result.oracle.startswith("sqlite: a row is gone")


def test_an_engine_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_batch, "find_spec", lambda name: None if name == "rocksdict" else object())
    result = run_kv_batch(plan(tmp_path, "rocksdb", "sqlite"), COMPONENTS, quiet)
    assert result.peers_missing == ("rocksdict",)
    assert result.oracle == "ok"
    with pytest.raises(CantMeasure, match="rocksdict"):
        run_kv_batch(plan(tmp_path, "rocksdb"), COMPONENTS, quiet)
    with pytest.raises(CantMeasure, match="sqlite"):
        run_kv_batch(plan(tmp_path, "sqlite"), {}, quiet)
