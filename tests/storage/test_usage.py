"""What a store's rows are for: every row is counted once, under its purpose."""

import pytest

from supervm.contracts.storage import Put
from supervm.kernel.context import SystemClock
from supervm.storage import usage
from supervm.storage.pace import Pace
from supervm.storage.spaces import BODIES, STALE, STATE, TREE
from supervm.storage.usage import COMPONENTS, OLD_TREES, PURPOSES, Part, survey
from tests.storage.ledger_support import ledger_on, opened_store, rows_of
from tests.storage.test_pruning import grow, prune_to


@pytest.mark.parametrize("at_once", [1, 7, 1_000])
@pytest.mark.parametrize("backend", ["memory", "sqlite"])
async def test_every_row_is_counted_once_under_what_it_is_for(tmp_path, monkeypatch, backend, at_once):
    monkeypatch.setattr(usage, "ROWS_AT_ONCE", at_once)
    async with opened_store(backend, tmp_path / "store") as store:
        async with ledger_on(store) as ledger:
            await grow(ledger, 12)
        await store.write([Put(b"\x0dvote", b"1"), Put(b"\xff\xff", b"22")])
        rows = await rows_of(store)
        found = await survey(store, Pace(SystemClock()))
        assert tuple(found) == PURPOSES
        assert sum(part.rows for part in found.values()) == len(rows)
        assert sum(part.size_bytes for part in found.values()) == sum(
            len(key) + len(value) for key, value in rows.items()
        )
        for space, name in ((STATE, "state"), (BODIES, "transactions"), (STALE, "stale_index")):
            mine = [len(key) + len(value) for key, value in rows.items() if key[:1] == space]
            assert found[name] == Part(len(mine), sum(mine))
        assert found[COMPONENTS] == Part(2, 6 + 4)


async def test_pages_that_the_tip_does_not_need_are_told_apart(tmp_path):
    async with opened_store("memory", tmp_path / "store") as store, ledger_on(store) as ledger:
        await grow(ledger, 12)
        before = await survey(store, Pace(SystemClock()))
        assert before[OLD_TREES].rows == before["stale_index"].rows > 0
        await prune_to(ledger, 0, 12)
        after = await survey(store, Pace(SystemClock()))
        assert after[OLD_TREES] == Part()
        pages = [len(key) + len(value) for key, value in (await rows_of(store)).items() if key[:1] == TREE]
        assert after["tree"] == Part(len(pages), sum(pages))
        assert before["tree"].rows == after["tree"].rows


async def test_an_empty_store_takes_nothing(tmp_path):
    async with opened_store("memory", tmp_path / "store") as store:
        assert set((await survey(store, Pace(SystemClock()))).values()) == {Part()}
