"""`bench growth` loads accounts as a snapshot's are, runs a chain on them, and finds what was lost."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from click.testing import CliRunner

from supervm.bench import account_growth
from supervm.bench.account_growth import GrowthPlan, People, run_growth
from supervm.bench.books import supply_entry
from supervm.bench.chains import genesis_of
from supervm.bench.errors import CantMeasure
from supervm.bench.packing import account_value
from supervm.bench.transfers import BALANCE
from supervm.cli.bench import bench
from supervm.contracts.storage import Operation
from supervm.plugins.storage.memory import memory
from supervm.storage import creation
from supervm.storage.creation import create_from_entries, create_ledger
from supervm.storage.ledger import open_ledger
from supervm.testing.context import opened
from supervm.types.state import ACCOUNT

SMALL = {"accounts": 300, "blocks": 40, "block": 5, "payers": 7, "storage": "memory"}
GAS = b"gas state"
SUPPLY_KEY = b"\x03" + bytes(32)
GAS_KEY = creation.GAS_KEY


async def test_every_account_is_there_and_what_they_hold_is_what_there_was(tmp_path: Path) -> None:
    result = await run_growth(GrowthPlan(**SMALL, folder=tmp_path))
    assert result.oracle == "ok"
    assert result.attempts == 200 and result.goodput is not None
    seen = result.extra["resident_mib"]
    assert len(seen["over_time"]) == 20 and seen["over_time"][-1][0] == 40
    assert 0 < seen["start"] <= seen["loading_peak"] + 1
    assert seen["blocks_peak"] == max(size for _, size, _ in seen["over_time"])
    assert all(0 < caches < size for _, size, caches in seen["over_time"])
    assert set(result.extra["flat"]) == {"resident", "besides_caches"}
    assert result.extra["flat"]["resident"]["growth"] == pytest.approx(1, abs=0.2)
    # All of them, the token's record and the gas policy's state.
    assert result.extra["checked_entries"] == 302


async def test_a_large_state_is_checked_in_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(account_growth, "CHECKED_WHOLE_MAX", 299)
    result = await run_growth(GrowthPlan(**SMALL, folder=tmp_path))
    assert result.oracle == "ok" and result.extra["checked_entries"] < 30


async def test_loaded_in_parts_the_state_has_the_rows_of_a_genesis_that_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("supervm.storage.loading.BATCH_BYTES", 3_000)
    people = People(GrowthPlan(**SMALL))
    addresses = [people.address(each) for each in range(300)]
    genesis = genesis_of(addresses, BALANCE)

    async def entries() -> Any:
        yield [(GAS_KEY, GAS), (SUPPLY_KEY, supply_entry(300 * BALANCE))]
        for first in range(0, 300, 70):
            yield [(ACCOUNT + each, account_value(0, BALANCE)) for each in addresses[first : first + 70]]

    rows = []
    for make in ("parts", "genesis"):
        async with opened(memory, tmp_path / make) as store:
            if make == "parts":
                await create_from_entries(store, genesis, entries(), 10_000)
            else:
                await create_ledger(store, genesis, GAS, 10_000)
            async with open_ledger(store, genesis, GAS, 10_000) as ledger:
                assert ledger.tip.height == 0
            rows.append({key: value async for key, value in store.scan()})
    assert rows[0] == rows[1]


async def test_loading_that_was_interrupted_leaves_a_store_that_opens_empty(tmp_path: Path) -> None:
    genesis = genesis_of([bytes(32)], 5)

    async def entries() -> Any:
        yield [(GAS_KEY, GAS)]
        raise KeyError("interrupted")

    async with opened(memory, tmp_path) as store:
        with pytest.raises(KeyError):
            await create_from_entries(store, genesis, entries(), 1)
        async with open_ledger(store, genesis, GAS, 1) as ledger:
            assert (ledger.tip.height, await ledger.get_state([GAS_KEY])) == (0, {GAS_KEY: GAS})
            assert (await ledger.get_state([ACCOUNT + bytes(32)]))[ACCOUNT + bytes(32)] is not None


@pytest.mark.parametrize("wrong", ["an account is missing", "a balance is less"])
async def test_what_was_lost_is_found(wrong: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    right = creation.entry_rows

    def entry_rows(entries: Iterable[tuple[bytes, bytes]]) -> list[Operation]:
        kept = list(entries)
        if kept[0][0][:1] == ACCOUNT:
            # None of the payers, so that only the count or the sum can tell.
            kept[1:2] = (
                [] if wrong == "an account is missing" else [(kept[1][0], account_value(0, BALANCE - 1))]
            )
        return right(kept)

    monkeypatch.setattr(creation, "entry_rows", entry_rows)
    result = await run_growth(GrowthPlan(**{**SMALL, "blocks": 0}, folder=tmp_path))
    words = {"an account is missing": "299 accounts", "a balance is less": "all accounts together hold"}
    assert words[wrong] in result.oracle


async def test_a_size_that_cannot_be_and_an_option_that_is_not_there_are_told() -> None:
    with pytest.raises(CantMeasure, match="9 payers of 5 accounts"):
        GrowthPlan(accounts=5, payers=9)
    with pytest.raises(CantMeasure, match="storage memory has no cache_bytes"):
        await run_growth(attrs.evolve(GrowthPlan(**SMALL), cache_bytes=2**20))
    await trio.lowlevel.checkpoint()


def test_the_verb_prints_the_result(tmp_path: Path) -> None:
    asked = [
        "growth",
        "--storage",
        "memory",
        "--accounts",
        "50",
        "--payers",
        "5",
        "--blocks",
        "8",
        "--block",
        "2",
    ]
    done = CliRunner().invoke(bench, [*asked, "--folder", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    assert '"name": "growth"' in done.output and '"oracle": "ok"' in done.output
