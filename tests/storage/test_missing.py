"""Rows that a backend lost, or whose key was damaged, are not taken for rows that never were (STO-43)."""

import attrs
import pytest

from supervm.contracts.storage import Delete, Put, StoreCorrupt
from supervm.storage.errors import SealBroken
from supervm.storage.loading import LEAVES
from supervm.storage.pages import page_key
from supervm.storage.spaces import (
    STALE,
    TREE,
    Horizon,
    height_bytes,
    index_key,
    receipts_key,
    state_key,
)
from supervm.storage.verify import verify_tree
from supervm.types import merkle, smt
from supervm.types.state import account_key
from tests.storage.ledger_support import (
    FailingStore,
    add_block,
    address,
    digest_of,
    ledger_on,
    opened_store,
    rows_of,
    set_balance,
)
from tests.storage.snapshot_support import folder_at, restore, take
from tests.storage.test_pruning import grow, prune_to, sweeper_of, transactions_at

FUNDED = account_key(address(1))
NEVER = [account_key(address(number)) for number in range(5_000, 5_200)]


@pytest.fixture
async def store(tmp_path):
    async with opened_store("memory", tmp_path / "store") as store:
        async with ledger_on(store) as ledger:
            await grow(ledger, 5)
        yield store


@pytest.mark.parametrize("native", [True, False], ids=["native", "python"])
@pytest.mark.parametrize("beside", [0, 200], ids=["alone", "among many"])
async def test_an_account_that_was_lost_is_not_an_empty_one(store, native, beside):
    await store.write([Delete(state_key(FUNDED))])
    async with ledger_on(store, native_tree=native) as ledger:
        with pytest.raises(StoreCorrupt, match=state_key(FUNDED).hex()):
            await ledger.get_state([FUNDED, *NEVER[:beside]])
        assert await ledger.get_state(NEVER) == dict.fromkeys(NEVER)


@pytest.mark.parametrize("native", [True, False], ids=["native", "python"])
async def test_asking_for_what_never_was_changes_nothing_of_the_blocks_that_follow(tmp_path, native):
    rows = []
    for asks in (False, True):
        async with opened_store("memory", tmp_path / str(asks)) as store:
            async with ledger_on(store, native_tree=native) as ledger:
                for height in range(1, 6):
                    if asks:
                        assert await ledger.get_state(NEVER[:height]) == dict.fromkeys(NEVER[:height])
                    staged = await ledger.stage({NEVER[0]: b"\x01"}, height)
                    if asks:
                        assert await ledger.get_state(NEVER[9:]) == dict.fromkeys(NEVER[9:])
                    assert staged.root == (await ledger.stage({NEVER[0]: b"\x01"}, height)).root
                    await add_block(ledger, transactions_at(height))
            rows.append(await rows_of(store))
    assert rows[0] == rows[1]


@pytest.mark.parametrize("height", [2, 5], ids=["below the tip", "at the tip"])
async def test_receipts_that_were_lost_are_not_a_block_without_any(store, height):
    async with ledger_on(store) as ledger:
        held = await ledger.receipts(height)
        await store.write([Delete(receipts_key(height, 0))])
        with pytest.raises(StoreCorrupt, match=f"receipts of height {height}"):
            await ledger.receipts(height)
        assert held


async def test_receipts_that_no_header_shows_yet_are_told_without_a_root(tmp_path):
    """Where headers show roots late, the newest but the tip's are known by their seals alone."""
    async with opened_store("memory", tmp_path / "store") as store, ledger_on(store) as ledger:
        roots = [ledger.tip_header.state_root]
        for height in range(1, 5):
            late = max(0, height - 2)
            header = {"root_height": late, "state_root": roots[late], "receipts_root": bytes(32)}
            if late:
                header["receipts_root"] = await _shown(ledger, late)
            await add_block(ledger, [set_balance(1, height * 10)], **header)
            roots.append(ledger.tip.state_root)
        for height in range(1, 5):
            assert len(await ledger.receipts(height)) == 1
        for height, is_told in ((1, True), (2, True), (3, False), (4, True)):
            row = await store.get(receipts_key(height, 0))
            await store.write([Delete(receipts_key(height, 0))])
            if is_told:
                with pytest.raises(StoreCorrupt, match=f"receipts of height {height}"):
                    await ledger.receipts(height)
            else:
                assert await ledger.receipts(height) == []
            await store.write([Put(receipts_key(height, 0), row)])


async def _shown(ledger, height):
    return merkle.root([merkle.root([each.encode() for each in await ledger.receipts(height)])])


async def test_a_damaged_entry_of_the_stale_index_never_removes_a_page(store):
    """An entry names a page to be removed: with another name it would remove one that is needed."""
    async with ledger_on(store) as ledger:
        entry, stored = [row async for row in store.scan_prefix(STALE)][-1]
        other = entry[:9] + entry[9:-8] + height_bytes(int.from_bytes(entry[-8:], "big") ^ 1)
        await store.write([Delete(entry), Put(other, stored)])
        before = await rows_of(store)
        await ledger.raise_horizon(Horizon(0, 5))
        with pytest.raises(SealBroken, match=other.hex()):
            await sweeper_of(ledger).sweep()
        gone = before.keys() - (await rows_of(store)).keys()
        assert all(key[:1] != STALE or key < other for key in gone)


async def test_entries_of_the_stale_index_of_before_they_were_sealed_are_good(store):
    async with ledger_on(store) as ledger:
        await store.write([Put(key, b"") async for key, _ in store.scan_prefix(STALE)])
        await prune_to(ledger, 0, 5)
        assert [key async for key, _ in store.scan_prefix(STALE)] == []


async def test_an_index_entry_that_was_lost_is_found_by_its_block(store):
    key = index_key(digest_of(transactions_at(3)[0]))
    await store.write([Delete(key)])
    async with ledger_on(store) as ledger:
        await ledger.check_index(2)
        with pytest.raises(StoreCorrupt, match=key.hex()):
            await ledger.check_index(3)


async def test_a_store_that_spoils_a_restore_is_to_blame_and_not_the_snapshot(tmp_path, store):
    folder = folder_at(tmp_path)
    async with ledger_on(store) as ledger:
        await take(ledger, folder)
    spoiled = LEAVES + smt.key_hash(FUNDED)

    def spoil(one):
        return Put(one.key, one.value[:-1]) if isinstance(one, Put) and one.key == spoiled else one

    @attrs.define
    class Spoiling(FailingStore):
        async def write(self, batch, *durability):
            await self.inner.write([spoil(one) for one in batch], *durability)

    async with opened_store("memory", tmp_path / "into") as into:
        with pytest.raises(SealBroken, match=spoiled.hex()):
            await restore(Spoiling(into, -1, False), folder)
        assert await into.get(spoiled) is not None


@pytest.mark.parametrize("native", [True, False], ids=["native", "python"])
async def test_where_a_pages_children_lie_is_sealed_though_it_is_not_under_its_hash(store, native):
    """A flipped height would be copied into the page that replaces this one, and the child lost for good."""
    key = page_key(b"", 0, 5)
    stored = await store.get(key)
    heights = [at for at in range(5, len(stored) - 8) if stored[at : at + 8] == (5).to_bytes(8, "little")]
    assert heights, "no child of the root was written at height 5"
    await store.write([Put(key, stored[: heights[0]] + b"\x04" + stored[heights[0] + 1 :])])
    with pytest.raises(SealBroken, match=key.hex()):
        async with ledger_on(store, native_tree=native):
            pass


async def test_pages_of_before_they_were_sealed_are_good(store):
    async with ledger_on(store) as ledger:
        rows = [row async for row in store.scan_prefix(TREE)]
        await store.write([Put(key, stored[:-8]) for key, stored in rows])
    async with ledger_on(store) as ledger:
        await add_block(ledger, transactions_at(6))
        await verify_tree(ledger)
