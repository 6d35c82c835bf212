"""Making height 0, small and large, and being killed at every step of it (STO-71)."""

import pytest

from supervm.contracts.storage import BATCH_BYTES_MAX, Durability, StoreFailed
from supervm.storage import creation
from supervm.storage.creation import first_state
from supervm.storage.spaces import BULK_KEY, COMMIT_KEY, LEDGER_END, STATE
from supervm.storage.verify import verify_tree
from supervm.types import smt
from supervm.types.genesis import genesis_block
from tests.storage.ledger_support import (
    BASE_PRICE,
    GAS_STATE,
    FailingStore,
    add_block,
    ledger_on,
    make_genesis,
    opened_store,
    rows_of,
    set_balance,
)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks so small that a genesis of 200 accounts takes many."""
    monkeypatch.setattr(creation, "CHUNK_OPERATIONS", 25)


class Journal(FailingStore):
    """Notes what each write asks for."""

    async def write(self, batch, durability=Durability.DURABLE):
        journal.append(
            (len(batch), durability, {operation.key for operation in batch if hasattr(operation, "key")})
        )
        await super().write(batch, durability)


journal: list = []


async def test_a_small_genesis_is_one_durable_batch(tmp_path):
    journal.clear()
    genesis = make_genesis(accounts=100)
    async with (
        opened_store("memory", tmp_path / "store") as store,
        ledger_on(Journal(store, -1, False), genesis) as ledger,
    ):
        root = smt.root_of(first_state(genesis, GAS_STATE))
        assert ledger.tip.state_root == root
        assert await ledger.block(0) == genesis_block(genesis, root, BASE_PRICE)
    assert [durability for _, durability, _ in journal] == [Durability.DURABLE]


async def test_a_large_genesis_gives_the_same_rows_as_a_small_one(tmp_path, monkeypatch):
    genesis = make_genesis(accounts=200)
    rows = []
    for size in (10**9, 25):
        monkeypatch.setattr(creation, "CHUNK_OPERATIONS", size)
        async with opened_store("memory", tmp_path / str(size)) as store:
            async with ledger_on(store, genesis) as ledger:
                assert ledger.tip.height == 0
            rows.append(await rows_of(store))
    assert rows[0] == rows[1]


async def test_a_large_genesis_is_marked_first_and_cleared_by_the_batch_with_the_commit_marker(
    tmp_path, small_chunks
):
    journal.clear()
    async with (
        opened_store("memory", tmp_path / "store") as store,
        ledger_on(Journal(store, -1, False), make_genesis(accounts=200)),
    ):
        assert await store.get(BULK_KEY) is None
    first, *chunks, last = journal
    assert BULK_KEY in first[2] and first[1] is Durability.DURABLE
    assert all(count <= 25 for count, _, _ in chunks) and len(chunks) > 5
    assert {BULK_KEY, COMMIT_KEY} <= last[2] and last[1] is Durability.DURABLE


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_genesis_killed_at_any_write_is_made_again_whole(tmp_path, small_chunks, after):
    genesis = make_genesis(accounts=200)
    async with opened_store("memory", tmp_path / "good") as good, ledger_on(good, genesis):
        expected = await rows_of(good)
    kills = 0
    while True:
        async with opened_store("memory", tmp_path / str(kills)) as store:
            failing = FailingStore(store, kills, after)
            try:
                async with ledger_on(failing, genesis):
                    break
            except StoreFailed:
                kills += 1
            async with ledger_on(store, genesis) as ledger:
                assert await rows_of(store) == expected
                await add_block(ledger, [set_balance(1, 1)])
    assert kills > 7


async def test_dropping_an_unfinished_genesis_may_itself_be_killed(tmp_path, small_chunks):
    genesis = make_genesis(accounts=200)
    async with opened_store("memory", tmp_path / "store") as store:
        with pytest.raises(StoreFailed):
            async with ledger_on(FailingStore(store, 5, True), genesis):
                raise AssertionError("it was opened")
        for fail_at, after in ((0, False), (0, True), (1, False), (1, True)):
            with pytest.raises(StoreFailed):
                async with ledger_on(FailingStore(store, fail_at, after), genesis):
                    raise AssertionError("it was opened")
        assert [key async for key, _ in store.scan(STATE, LEDGER_END)] == []
        async with ledger_on(store, genesis) as ledger:
            assert await verify_tree(ledger) == len(first_state(genesis, GAS_STATE))


async def test_an_unfinished_genesis_of_another_chain_is_not_ours_to_drop(tmp_path, small_chunks):
    async with opened_store("memory", tmp_path / "store") as store:
        with pytest.raises(StoreFailed):
            async with ledger_on(FailingStore(store, 3, True), make_genesis("theirs", 200)):
                raise AssertionError("it was opened")
        before = await rows_of(store)
        with pytest.raises(Exception, match="another chain"):
            async with ledger_on(store, make_genesis("ours", 200)):
                raise AssertionError("it was opened")
        assert await rows_of(store) == before


async def test_progress_counts_up_to_the_end(tmp_path):
    seen = []
    async with (
        opened_store("memory", tmp_path / "store") as store,
        ledger_on(store, progress=lambda done, of: seen.append((done, of))),
    ):
        assert seen == [(number, 256) for number in range(1, 257)]


def test_chunks_are_within_what_a_store_takes():
    assert creation.CHUNK_BYTES + 2**20 < BATCH_BYTES_MAX
