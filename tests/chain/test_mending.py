"""What the chain does about damaged rows besides having them mended (STO-43)."""

from pathlib import Path

import pytest
import trio
import trio.testing

from supervm.chain import mending
from supervm.chain.mending import HOURLY_MAX, Mending
from supervm.contracts.roles import Role
from supervm.contracts.storage import StoreFailed
from supervm.storage.spaces import body_key, corrupt
from supervm.testing.context import component_context
from tests.storage.ledger_support import ledger_on, opened_store


async def notice(work: Mending, count: int) -> None:
    """As many damaged rows as this, one after the other; each told before the next."""
    for number in range(count):
        key = body_key(1_000 + number)
        work.ledger.aside.notice(corrupt(key, "planted"))
        while key not in work._known:
            await trio.testing.wait_all_tasks_blocked()
        work.ledger.aside.release([key])
        await trio.testing.wait_all_tasks_blocked()


async def test_more_than_a_hundred_damaged_rows_in_an_hour_end_the_component(tmp_path: Path) -> None:
    async with (
        component_context(tmp_path / "ctx", Role.APPLICATION, "ledger") as ctx,
        opened_store("memory", tmp_path / "store") as store,
        ledger_on(store) as ledger,
    ):
        work = Mending(ctx, ledger)
        with pytest.RaisesGroup(StoreFailed, flatten_subgroups=True, allow_unwrapped=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work.run)
                await notice(work, HOURLY_MAX)
                assert not nursery.cancel_scope.cancel_called
                ledger.aside.notice(corrupt(body_key(1), "one more"))


async def test_what_was_found_more_than_an_hour_ago_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mending, "HOUR_S", -1.0)
    async with (
        component_context(tmp_path / "ctx", Role.APPLICATION, "ledger") as ctx,
        opened_store("memory", tmp_path / "store") as store,
        ledger_on(store) as ledger,
        trio.open_nursery() as nursery,
    ):
        work = Mending(ctx, ledger)
        nursery.start_soon(work.run)
        await notice(work, HOURLY_MAX + 10)
        nursery.cancel_scope.cancel()
