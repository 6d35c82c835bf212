"""Blocks in, state, blocks and proofs out, on every backend that this machine has."""

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervm.contracts.storage import Delete, DiskFull, Durability, Put, StoreCorrupt
from supervm.storage.creation import first_state
from supervm.storage.errors import LedgerStopped, NotProvable
from supervm.storage.spaces import STALE, STATE, TREE
from supervm.types import merkle, smt
from supervm.types.state import ACCOUNT, Account, account_key
from tests.storage.ledger_support import (
    CERTIFICATE,
    GAS_STATE,
    GENESIS,
    FailingStore,
    add_block,
    address,
    digest_of,
    ledger_on,
    make_block,
    make_genesis,
    opened_store,
    receipts_of,
    rows_of,
    set_balance,
    state_of,
)

BACKENDS = ["memory", "sqlite", "rocksdb", "lmdb"]
FIRST_STATE = first_state(GENESIS, GAS_STATE)
BLOCKS = [
    [set_balance(0, 5), set_balance(7, 70)],
    [set_balance(7, 0), set_balance(8, 80), set_balance(9, 90)],
    [],
    [set_balance(number, number) for number in range(1, 40)],
    [set_balance(number, 0) for number in range(40)],
]


@pytest.fixture(params=BACKENDS)
async def store(request, tmp_path):
    if binding := {"rocksdb": "rocksdict", "lmdb": "lmdb"}.get(request.param):
        pytest.importorskip(binding)
    async with opened_store(request.param, tmp_path / "store") as store:
        yield store


@pytest.fixture
async def memory(tmp_path):
    async with opened_store("memory", tmp_path / "store") as store:
        yield store


async def test_the_same_blocks_give_the_reference_root_on_every_backend(store):
    async with ledger_on(store) as ledger:
        assert ledger.tip.state_root == smt.root_of(FIRST_STATE)
        for number in range(len(BLOCKS)):
            await add_block(ledger, BLOCKS[number])
            expected = state_of(FIRST_STATE, *BLOCKS[: number + 1])
            assert ledger.tip.state_root == smt.root_of(expected)
            assert ledger.tip.height == number + 1


async def test_a_reopened_ledger_stands_where_it_was(store):
    async with ledger_on(store) as ledger:
        for block in BLOCKS[:2]:
            await add_block(ledger, block)
        tip, header = ledger.tip, ledger.tip_header
    async with ledger_on(store) as ledger:
        assert (ledger.tip, ledger.tip_header) == (tip, header)
        await add_block(ledger, BLOCKS[3])
        assert ledger.tip.state_root == smt.root_of(state_of(FIRST_STATE, *BLOCKS[:2], BLOCKS[3]))


async def test_blocks_receipts_certificates_and_transactions_come_back_as_committed(store):
    first, second = [set_balance(1, 1), set_balance(2, 2)], [set_balance(3, n) for n in range(1, 6)]
    async with ledger_on(store) as ledger:
        block = await add_block(ledger, first, second)
        assert await ledger.block(1) == block
        assert await ledger.block(block.digest()) == block
        assert await ledger.header(1) == block.header == ledger.tip_header
        assert await ledger.certificate(1) == CERTIFICATE
        assert await ledger.certificate(0) == b""
        assert await ledger.receipts(1) == receipts_of(1, first + second)
        for index, data in enumerate(first + second):
            located = await ledger.transaction(digest_of(data))
            assert (located.height, located.index, located.data) == (1, index, data)
            assert located.receipt.digest == digest_of(data)


async def test_what_is_not_in_the_chain_is_none(memory):
    async with ledger_on(memory) as ledger:
        await add_block(ledger, BLOCKS[0])
        assert await ledger.block(2) is None
        assert await ledger.block(-1) is None
        assert await ledger.block(bytes(32)) is None
        assert await ledger.header(2) is None
        assert await ledger.certificate(2) is None
        assert await ledger.receipts(2) is None
        assert await ledger.transaction(bytes(32)) is None
        assert await ledger.transaction(ledger.tip.block_digest) is None
        assert await ledger.block(digest_of(BLOCKS[0][0])) is None


async def test_a_digest_leads_to_its_first_receipt_for_good(memory):
    again, other = set_balance(1, 10), set_balance(2, 20)
    async with ledger_on(memory) as ledger:
        await add_block(ledger, [again])
        await add_block(ledger, [other, again])
        assert (await ledger.transaction(digest_of(again))).height == 1
        assert (await ledger.transaction(digest_of(other))).height == 2
        assert [each.digest for each in await ledger.receipts(2)] == [digest_of(other), digest_of(again)]
        asked = [digest_of(again), digest_of(other), bytes(32), ledger.tip.block_digest]
        assert await ledger.known(asked) == set(asked[:2])


async def test_ranges_are_bounded_by_the_tip(memory):
    async with ledger_on(memory) as ledger:
        blocks = [await ledger.block(0)] + [await add_block(ledger, each) for each in BLOCKS]
        assert await ledger.blocks(4, 10) == blocks[4:]
        assert await ledger.headers(0, 1000) == [block.header for block in blocks]
        assert await ledger.headers(2, 2) == [block.header for block in blocks[2:4]]
        assert await ledger.headers(6, 5) == []
        assert [block async for block in ledger.each_block(1)] == blocks[1:]


async def test_thousands_of_receipts_are_found_each_in_its_place(memory):
    transactions = [set_balance(n % 50, n + 1) for n in range(1000)]
    async with ledger_on(memory) as ledger:
        await add_block(ledger, transactions[:600], transactions[600:])
        assert await ledger.receipts(1) == receipts_of(1, transactions)
        for index in (0, 255, 256, 599, 600, 999):
            located = await ledger.transaction(digest_of(transactions[index]))
            assert (located.index, located.data) == (index, transactions[index])


async def test_every_key_is_proven_present_or_absent_under_the_tips_header(store):
    async with ledger_on(store) as ledger:
        for block in BLOCKS[:4]:
            await add_block(ledger, block)
        state = state_of(FIRST_STATE, *BLOCKS[:4])
        for key in [*state, *(account_key(address(n)) for n in (7, 60, 61, 62))]:
            header, proof = await ledger.prove(key)
            assert header == ledger.tip_header
            assert proof.value == state.get(key)
            smt.verify(header.state_root, smt.Proof.decode(proof.encode()))
            assert proof == smt.prove(state, key)


async def test_a_proof_of_one_block_does_not_hold_for_the_next(memory):
    key = account_key(address(0))
    async with ledger_on(memory) as ledger:
        _, before = await ledger.prove(key)
        await add_block(ledger, BLOCKS[0])
        header, after = await ledger.prove(key)
        assert after.value == Account(balance=5).encode() != before.value
        with pytest.raises(Exception, match="does not lead to the root"):
            smt.verify(header.state_root, before)


async def test_where_the_header_shows_an_older_root_what_has_not_changed_since_is_proven_and_no_more(memory):
    async with ledger_on(memory) as ledger:
        root = ledger.tip.state_root
        await add_block(ledger, BLOCKS[0], root_height=0, state_root=root, receipts_root=bytes(32))
        with pytest.raises(NotProvable, match="the tip is 1, its header shows 0"):
            await ledger.prove(account_key(address(0)))
        changed = {account_key(address(number)) for number in (0, 7)}
        for key in [key for key in FIRST_STATE if key not in changed] + [account_key(b"\x77" * 32)]:
            header, proof = await ledger.prove(key)
            smt.verify(header.state_root, proof)
            assert header.height == 1 and proof.value == FIRST_STATE.get(key)


async def test_state_is_scanned_in_key_order_and_page_by_page(memory):
    async with ledger_on(memory) as ledger:
        await add_block(ledger, BLOCKS[3])
        accounts = sorted(
            item for item in state_of(FIRST_STATE, BLOCKS[3]).items() if item[0].startswith(ACCOUNT)
        )
        found, after = [], b""
        while page := await ledger.scan_state(ACCOUNT, 7, after):
            assert len(page) <= 7
            found += page
            after = page[-1][0]
        assert found == accounts
        assert await ledger.scan_state(account_key(address(1))) == [
            (account_key(address(1)), Account(balance=1).encode())
        ]


async def test_state_reads_are_of_one_height_while_blocks_are_committed(store):
    keys = [account_key(address(number)) for number in range(20)]
    torn = []

    async def reader():
        with trio.CancelScope() as scope:
            scopes.append(scope)
            while True:
                found = await ledger.get_state(keys)
                balances = {value and Account.decode(value).balance for value in found.values()}
                if len(balances) != 1:
                    torn.append(balances)
                header, proof = await ledger.prove(keys[3])
                smt.verify(header.state_root, proof)
                await trio.lowlevel.checkpoint()

    scopes = []
    # A cache of nearly nothing, so that reads come from cache and store at once.
    async with ledger_on(store, state_cache_bytes=1500, page_cache_bytes=1500) as ledger:
        await add_block(ledger, [set_balance(number, 1) for number in range(20)])
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(reader)
            for height in range(2, 22):
                await add_block(ledger, [set_balance(number, height) for number in range(20)])
            nursery.cancel_scope.cancel()
        assert torn == []
        assert ledger.tip.height == 21
        assert ledger.stats().state.bytes <= 1500


async def test_a_commit_that_is_not_durable_yet_is_not_served(memory):
    block_data = [set_balance(5, 55)]
    seen = []

    class Slow(FailingStore):
        async def write(self, batch, durability=Durability.DURABLE):
            await self.inner.write(batch, durability)
            # The rows are visible in the store now, as they may be before a sync has returned.
            seen.append(await ledger.transaction(digest_of(block_data[0])))
            seen.append(await ledger.block(1))
            seen.append(await ledger.receipts(1))
            seen.append(ledger.tip.height)

    store = Slow(memory, -1, False)
    async with ledger_on(memory) as ledger:
        ledger._store = store
        await add_block(ledger, block_data)
        assert seen == [None, None, None, 0]
        assert (await ledger.transaction(digest_of(block_data[0]))).height == 1


async def test_a_full_disk_leaves_the_ledger_as_it_was_and_going(memory):
    async with ledger_on(memory) as ledger:
        ledger._store = FailingStore(memory, 0, False, DiskFull("no space", "here", "Free some."))
        before = await rows_of(memory)
        with pytest.raises(DiskFull):
            await add_block(ledger, BLOCKS[0])
        assert await rows_of(memory) == before
        await add_block(ledger, BLOCKS[0])
        assert ledger.tip.height == 1


async def test_after_a_failed_commit_everything_is_refused_and_says_why(memory):
    async with ledger_on(memory) as ledger:
        ledger._store = FailingStore(memory, 0, True)
        with pytest.raises(Exception, match="injected failure"):
            await add_block(ledger, BLOCKS[0])
        for call in (
            ledger.get_state([account_key(address(0))]),
            ledger.block(0),
            ledger.header(0),
            ledger.prove(account_key(address(0))),
            ledger.transaction(bytes(32)),
        ):
            with pytest.raises(LedgerStopped, match="injected failure"):
                await call


async def test_a_cancelled_commit_is_finished_and_the_tip_says_so(memory):
    async with ledger_on(memory) as ledger:
        receipts = receipts_of(1, BLOCKS[0])
        staged = await ledger.stage({b"\x01" * 33: b"value"}, 1)
        block = make_block(ledger.tip_header, staged.root, receipts, [BLOCKS[0]])

        class Cancelling(FailingStore):
            async def write(self, batch, durability=Durability.DURABLE):
                scope.cancel()
                await super().write(batch, durability)

        ledger._store = Cancelling(memory, -1, False)
        with trio.CancelScope() as scope:
            await ledger.commit(block, receipts, CERTIFICATE, staged)
        assert scope.cancelled_caught
        assert ledger.tip.height == 1
        assert await ledger.get_state([b"\x01" * 33]) == {b"\x01" * 33: b"value"}


@pytest.mark.parametrize(
    "wrong",
    [{"height": 3}, {"parent": bytes(32)}, {"chain_id": bytes(32)}, {"state_root": bytes(32)}],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_a_block_that_does_not_follow_the_tip_is_our_bug_and_never_written(memory, wrong):
    async with ledger_on(memory) as ledger:
        before = await rows_of(memory)
        with pytest.raises(AssertionError):
            await add_block(ledger, BLOCKS[0], **wrong)
        assert await rows_of(memory) == before
        assert ledger.tip.height == 0


async def test_the_marker_holds_the_receipts_root_of_its_own_block(memory):
    async with ledger_on(memory) as ledger:
        await add_block(ledger, BLOCKS[0])
        receipts = [each.encode() for each in receipts_of(1, BLOCKS[0])]
        assert ledger.tip.receipts_root == merkle.root(receipts)


async def test_pruning_what_is_listed_as_stale_leaves_the_newest_tree_whole(memory):
    async with ledger_on(memory) as ledger:
        for block in BLOCKS[:4]:
            await add_block(ledger, block)
    rows = await rows_of(memory)
    stale = {key[9:] for key in rows if key[:1] == STALE}
    assert stale and stale <= rows.keys()
    for key in stale:
        assert key[:1] == TREE
        assert int.from_bytes(key[-8:], "big") < 4
    await memory.write([Delete(key) for key in stale])
    async with ledger_on(memory, page_cache_bytes=0) as ledger:
        for key, value in state_of(FIRST_STATE, *BLOCKS[:4]).items():
            _, proof = await ledger.prove(key)
            assert proof.value == value
        await add_block(ledger, BLOCKS[4])


async def test_a_flipped_bit_in_a_state_entry_is_found_when_it_is_read(memory):
    key = account_key(address(0))
    row = STATE + key
    async with ledger_on(memory) as ledger:
        value = bytearray(await memory.get(row))
        value[5] ^= 1
        await memory.write([Put(row, bytes(value))])
        for call in (ledger.get_state([key]), ledger.prove(key), ledger.scan_state(ACCOUNT)):
            with pytest.raises(StoreCorrupt, match=row.hex()):
                await call


changes = st.lists(
    st.dictionaries(st.integers(0, 30), st.integers(0, 3), max_size=10), min_size=1, max_size=6
)


@given(changes, st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_history_gives_the_reference_root_across_reopenings(tmp_path_factory, history, reopen):
    blocks = [[set_balance(number, balance) for number, balance in each.items()] for each in history]
    async with opened_store("memory", tmp_path_factory.mktemp("store")) as store:
        for number, block in enumerate(blocks):
            async with ledger_on(store, page_cache_bytes=0 if reopen else 2**20) as ledger:
                await add_block(ledger, *([block] if block else []))
                assert ledger.tip.state_root == smt.root_of(state_of(FIRST_STATE, *blocks[: number + 1]))


async def test_a_ledger_of_another_genesis_has_another_chain_id(memory):
    other = make_genesis("other")
    async with ledger_on(memory, other) as ledger:
        assert ledger.chain_id == other.chain_id != GENESIS.chain_id
