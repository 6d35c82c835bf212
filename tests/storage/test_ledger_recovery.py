"""What opening makes of a store: good, empty, torn, foreign, newer (STO-40, STO-41), and kills (STO-44)."""

import pytest

from supervm.contracts.storage import Delete, DiskFull, Put, StoreCorrupt, StoreFailed, StoreTooNew
from supervm.storage import spill
from supervm.storage.errors import ForeignChain, LedgerStopped
from supervm.storage.pages import page_key
from supervm.storage.spaces import (
    BODIES,
    CHAIN_KEY,
    COMMIT_KEY,
    HEADERS,
    RECEIPTS,
    SCHEMA_KEY,
    STALE,
    CommitMarker,
    batch_key,
    body_key,
    certificate_key,
    header_key,
    height_bytes,
    index_key,
    receipts_key,
    seal,
    unseal,
)
from supervm.types import smt
from supervm.types.codec import pack_transactions
from supervm.types.state import account_key
from tests.storage.ledger_support import (
    GENESIS,
    FailingStore,
    add_block,
    address,
    digest_of,
    ledger_on,
    make_genesis,
    opened_store,
    rows_of,
    set_balance,
)

BLOCKS = [[set_balance(0, 5), set_balance(7, 70)], [set_balance(7, 0), set_balance(8, 80)]]


@pytest.fixture
async def store(tmp_path):
    """A memory store that holds two blocks above genesis."""
    async with opened_store("memory", tmp_path / "store") as store:
        async with ledger_on(store) as ledger:
            for block in BLOCKS:
                await add_block(ledger, block)
        yield store


async def refused(store, error, match, genesis=GENESIS):
    """Opening raises `error`, and leaves every byte of the store as it was."""
    before = await rows_of(store)
    with pytest.raises(error, match=match) as caught:
        async with ledger_on(store, genesis):
            raise AssertionError("it was opened")
    assert await rows_of(store) == before
    return caught.value


TIP_ROWS = {
    "commit marker": COMMIT_KEY,
    "schema number": SCHEMA_KEY,
    "chain id": CHAIN_KEY,
    "header of height 2": header_key(2),
    "body of height 2, batch": batch_key(2, 0),
    "body of height 2": body_key(2),
    "receipts of height 2": receipts_key(2, 0),
    "certificate of height 2": certificate_key(2),
    "tree page": page_key(b"", 0, 2),
}


@pytest.mark.parametrize("key", TIP_ROWS.values(), ids=TIP_ROWS.keys())
async def test_a_flipped_bit_anywhere_in_the_tips_rows_is_found_on_opening_and_named(store, key):
    good = await store.get(key)
    for at in range(len(good)):
        await store.write([Put(key, good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :])])
        await refused(store, StoreCorrupt, key.hex())
    await store.write([Put(key, good)])
    async with ledger_on(store) as ledger:
        assert ledger.tip.height == 2


@pytest.mark.parametrize("key", TIP_ROWS.values(), ids=TIP_ROWS.keys())
async def test_a_truncated_or_missing_row_of_the_tip_is_found_on_opening_and_named(store, key):
    good = await store.get(key)
    for length in (0, 1, 7, 8, 9, len(good) - 1):
        await store.write([Put(key, good[:length])])
        await refused(store, StoreCorrupt, key.hex())
    await store.write([Delete(key)])
    await refused(store, StoreCorrupt, key.hex())


async def test_the_index_entry_of_the_tip_is_checked_too(store):
    async with ledger_on(store) as ledger:
        key = index_key(ledger.tip.block_digest)
    other = await store.get(index_key(digest_of(BLOCKS[0][0])))
    await store.write([Put(key, seal(key, unseal(index_key(digest_of(BLOCKS[0][0])), other)))])
    await refused(store, StoreCorrupt, key.hex())


async def test_a_store_of_another_chain_is_refused_naming_both(store):
    other = make_genesis("other")
    error = await refused(store, ForeignChain, GENESIS.chain_id.hex(), other)
    assert (error.found, error.asked) == (GENESIS.chain_id, other.chain_id)
    assert other.chain_id.hex() in str(error)


async def test_a_newer_schema_is_refused_naming_both_and_the_mend(store):
    await store.write([Put(SCHEMA_KEY, seal(SCHEMA_KEY, (7).to_bytes(4, "little")))])
    error = await refused(store, StoreTooNew, "schema 7, this release reads up to 1")
    assert "newer release" in error.mend


async def test_a_marker_of_another_block_is_refused_naming_both_digests(store):
    marker = CommitMarker.decode(unseal(COMMIT_KEY, await store.get(COMMIT_KEY)))
    wrong = CommitMarker(marker.height, b"\x07" * 32, marker.state_root, marker.receipts_root)
    await store.write([Put(COMMIT_KEY, seal(COMMIT_KEY, wrong.encode()))])
    error = await refused(store, StoreCorrupt, marker.block_digest.hex())
    assert wrong.block_digest.hex() in str(error)


@pytest.mark.parametrize("field", ["state_root", "receipts_root"])
async def test_a_marker_with_another_root_is_refused(store, field):
    marker = CommitMarker.decode(unseal(COMMIT_KEY, await store.get(COMMIT_KEY)))
    facts = {"state_root": marker.state_root, "receipts_root": marker.receipts_root, field: b"\x07" * 32}
    wrong = CommitMarker(marker.height, marker.block_digest, **facts)
    await store.write([Put(COMMIT_KEY, seal(COMMIT_KEY, wrong.encode()))])
    await refused(store, StoreCorrupt, "root")


async def test_a_marker_that_went_back_a_block_shows_what_is_above_it(store, tmp_path):
    async with opened_store("memory", tmp_path / "older") as older:
        async with ledger_on(older) as ledger:
            await add_block(ledger, BLOCKS[0])
        await store.write([Put(COMMIT_KEY, await older.get(COMMIT_KEY))])
    await refused(store, StoreCorrupt, "above height 1")


@pytest.mark.parametrize(
    "key",
    [
        HEADERS + height_bytes(3),
        BODIES + height_bytes(2**64 - 1) + b"\x00\x01",
        RECEIPTS + height_bytes(9),
        certificate_key(3),
        STALE + height_bytes(3) + b"page",
        page_key(b"", 0, 3),
    ],
    ids=["header", "body", "receipts", "certificate", "stale", "page"],
)
async def test_anything_above_the_marker_is_damage_not_data(store, key):
    await store.write([Put(key, b"whatever")])
    await refused(store, StoreCorrupt, key.hex())


async def test_a_store_without_schema_that_holds_ledger_rows_is_not_taken_for_new(tmp_path):
    for key in (header_key(0), b"\x01state", COMMIT_KEY, CHAIN_KEY):
        async with opened_store("memory", tmp_path / key.hex()) as store:
            await store.write([Put(key, b"value")])
            await refused(store, StoreCorrupt, "schema number")


async def test_rows_of_other_owners_do_not_make_a_store_old(tmp_path):
    async with opened_store("memory", tmp_path / "store") as store:
        await store.write([Put(b"\x0dvotes", b"1"), Put(b"\x20private\x00key", b"2")])
        async with ledger_on(store) as ledger:
            await add_block(ledger, BLOCKS[0])
        assert await store.get(b"\x0dvotes") == b"1"
        async with ledger_on(store) as ledger:
            assert ledger.tip.height == 1


async def test_flipped_bits_below_the_tip_are_found_when_read_and_named(store):
    reads = {
        header_key(1): lambda ledger: ledger.header(1),
        body_key(1): lambda ledger: ledger.block(1),
        batch_key(1, 0): lambda ledger: ledger.block(1),
        receipts_key(1, 0): lambda ledger: ledger.receipts(1),
        certificate_key(1): lambda ledger: ledger.certificate(1),
        index_key(digest_of(BLOCKS[0][0])): lambda ledger: ledger.transaction(digest_of(BLOCKS[0][0])),
    }
    for key, read in reads.items():
        good = await store.get(key)
        for at in {0, len(good) // 2, len(good) - 1}:
            await store.write([Put(key, good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])])
            async with ledger_on(store) as ledger:
                with pytest.raises(StoreCorrupt, match=key.hex()):
                    await read(ledger)
        await store.write([Delete(key)])
        async with ledger_on(store) as ledger:
            if key[:1] not in (RECEIPTS, b"\x09"):
                with pytest.raises(StoreCorrupt):
                    await read(ledger)
        await store.write([Put(key, good)])


async def test_a_row_moved_under_another_key_is_not_taken_for_that_ones(store):
    await store.write([Put(certificate_key(1), await store.get(certificate_key(2)))])
    async with ledger_on(store) as ledger:
        with pytest.raises(StoreCorrupt, match="certificate of height 1"):
            await ledger.certificate(1)


@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
async def test_a_commit_that_dies_leaves_exactly_the_old_tip_or_the_new(tmp_path, after):
    async with opened_store("memory", tmp_path / "store") as store:
        async with ledger_on(store) as ledger:
            await add_block(ledger, BLOCKS[0])
            old = await rows_of(store)
            ledger._store = FailingStore(store, 0, after)
            with pytest.raises(StoreFailed):
                await add_block(ledger, BLOCKS[1])
        async with ledger_on(store) as ledger:
            if after:
                assert ledger.tip.height == 2
                balance = await ledger.get_state([account_key(address(7))])
                assert balance == {account_key(address(7)): None}
            else:
                assert await rows_of(store) == old
                assert ledger.tip.height == 1
                await add_block(ledger, BLOCKS[1])
            for number in (0, 7, 8):
                header, proof = await ledger.prove(account_key(address(number)))
                smt.verify(header.state_root, proof)


async def test_every_prefix_of_a_commit_but_none_and_all_is_told_from_a_good_store(tmp_path):
    """A backend that breaks its promise of atomic batches is found out on opening."""
    batches = []

    class Recording(FailingStore):
        async def write(self, batch, *durability):
            batches.append(list(batch))
            await self.inner.write(batch, *durability)

    async with opened_store("memory", tmp_path / "whole") as whole, ledger_on(whole) as ledger:
        ledger._store = Recording(whole, -1, False)
        for block in BLOCKS:
            await add_block(ledger, block)
    for cut in range(1, len(batches[1])):
        async with opened_store("memory", tmp_path / str(cut)) as store:
            async with ledger_on(store) as ledger:
                await add_block(ledger, BLOCKS[0])
            await store.write(batches[1][:cut])
            await refused(store, StoreCorrupt, "above height 1")


@pytest.fixture
def tiny_batches(monkeypatch):
    """Batches so small that an ordinary block is too large for one."""
    monkeypatch.setattr(spill, "COMMIT_OPERATIONS_MAX", 10)
    monkeypatch.setattr(spill, "CHUNK_OPERATIONS", 1)


MANY = [set_balance(number, number) for number in range(1, 40)]


async def test_a_block_too_large_for_a_batch_ends_in_the_same_rows(tmp_path, monkeypatch):
    rows = []
    for limit in (10**6, 10):
        monkeypatch.setattr(spill, "COMMIT_OPERATIONS_MAX", limit)
        monkeypatch.setattr(spill, "CHUNK_OPERATIONS", 1)
        async with opened_store("memory", tmp_path / str(limit)) as store:
            async with ledger_on(store) as ledger:
                ledger._store = counting = FailingStore(store, -1, False)
                await add_block(ledger, MANY)
            rows.append(await rows_of(store))
            assert (counting.writes == 1) == (limit == 10**6)
    assert rows[0] == rows[1]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_large_commit_that_dies_at_any_write_leaves_the_old_tip_or_the_new(
    tmp_path, tiny_batches, after
):
    async with opened_store("memory", tmp_path / "good") as good:
        async with ledger_on(good) as ledger:
            old = await rows_of(good)
            await add_block(ledger, MANY)
        new = await rows_of(good)
    outcomes = []
    while True:
        async with opened_store("memory", tmp_path / str(len(outcomes))) as store:
            async with ledger_on(store) as ledger:
                ledger._store = FailingStore(store, len(outcomes), after)
                try:
                    await add_block(ledger, MANY)
                    break
                except StoreFailed:
                    with pytest.raises(LedgerStopped):
                        await ledger.block(0)
            async with ledger_on(store) as ledger:
                rows = await rows_of(store)
                assert rows == (old if ledger.tip.height == 0 else new)
                outcomes.append(ledger.tip.height)
    assert len(outcomes) > 10
    assert outcomes[:-1] == [0] * (len(outcomes) - 1)
    assert outcomes[-1] == int(after)


@pytest.mark.parametrize("next_block", [MANY, [set_balance(7, 7)]], ids=["the same", "another"])
async def test_a_large_commit_that_met_a_full_disk_at_any_write_is_made_whole_when_there_is_room(
    tmp_path, tiny_batches, next_block
):
    async with opened_store("memory", tmp_path / "good") as good, ledger_on(good) as ledger:
        await add_block(ledger, next_block)
        wanted = await rows_of(good)
    tries = 0
    while True:
        async with opened_store("memory", tmp_path / str(tries)) as store, ledger_on(store) as ledger:
            ledger._store = FailingStore(store, tries, False, DiskFull("no space"))
            try:
                await add_block(ledger, MANY)
                break
            except DiskFull:
                assert ledger.tip.height == 0
                assert (await ledger.block(0)) is not None
            # Full still, also for taking back what went ahead.
            ledger._store = FailingStore(store, 0, False, DiskFull("no space"))
            with pytest.raises(DiskFull):
                await add_block(ledger, next_block)
            ledger._store = store
            await add_block(ledger, next_block)
            assert await rows_of(store) == wanted
        tries += 1
    assert tries > 10


async def test_taking_back_a_large_commit_may_itself_be_killed(tmp_path, tiny_batches):
    async with opened_store("memory", tmp_path / "store") as store:
        async with ledger_on(store) as ledger:
            old = await rows_of(store)
            ledger._store = FailingStore(store, 6, True)
            with pytest.raises(StoreFailed):
                await add_block(ledger, MANY)
        for after in (False, True, False):
            with pytest.raises(StoreFailed):
                async with ledger_on(FailingStore(store, 1, after)):
                    raise AssertionError("it was opened")
        async with ledger_on(store) as ledger:
            assert await rows_of(store) == old
            await add_block(ledger, MANY)


async def test_a_list_that_names_rows_of_a_committed_height_is_damage(store):
    key = spill.SPILL_PREFIX + bytes(4)
    await store.write([Put(key, seal(key, pack_transactions([batch_key(2, 0)])))])
    await refused(store, StoreCorrupt, "not of height 3")


async def test_a_flipped_bit_in_a_page_below_the_root_stops_whoever_needs_it(tmp_path):
    async with opened_store("memory", tmp_path / "store") as store:
        async with ledger_on(store) as ledger:
            await add_block(ledger, MANY)
        key = max([key async for key, _ in store.scan(b"\x03\x01", b"\x04")])
        page = await store.get(key)
        await store.write([Put(key, page[:-1] + bytes([page[-1] ^ 1]))])
        refusals = []
        async with ledger_on(store) as ledger:
            for number in range(1, 40):
                try:
                    await ledger.prove(account_key(address(number)))
                except StoreCorrupt as error:
                    refusals.append(str(error))
            with pytest.raises(StoreCorrupt, match=key.hex()):
                await add_block(ledger, [set_balance(number, 1) for number in range(1, 40)])
            assert ledger.tip.height == 1
        assert refusals and all(key.hex() in each for each in refusals)
