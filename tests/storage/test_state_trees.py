"""The ledger's state tree in C and in Python: the same rows in the store, whatever happens between blocks."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from supervm.contracts.storage import DiskFull, KeyValueStore, Put, StoreCorrupt
from supervm.hardware import fastpath
from supervm.storage.creation import first_state
from supervm.storage.ledger import Ledger
from supervm.storage.spaces import STALE, TREE
from supervm.storage.state_tree import NativeTree, PythonTree
from supervm.types import smt
from supervm.types.changes import PackedChanges
from supervm.types.packed_receipts import PackedReceipts
from supervm.types.state import account_key
from tests.storage.ledger_support import (
    CERTIFICATE,
    GAS_STATE,
    FailingStore,
    address,
    changes_of,
    ledger_on,
    make_block,
    make_genesis,
    opened_store,
    receipts_of,
    rows_of,
    set_balance,
    state_of,
)

needs_c = pytest.mark.skipif(not fastpath.BLOCKS_NATIVE, reason=fastpath.report()["execute_block"].reason)
ACCOUNTS = 300
GENESIS = make_genesis(accounts=ACCOUNTS)
FIRST_STATE = first_state(GENESIS, GAS_STATE)


@attrs.define
class Side:
    """A ledger over a store of its own, opened again when asked."""

    store: KeyValueStore
    options: dict[str, Any]
    stack: AsyncExitStack = attrs.Factory(AsyncExitStack)
    ledger: Ledger = attrs.field(init=False)

    async def open(self) -> None:
        await self.stack.aclose()
        self.ledger = await self.stack.enter_async_context(ledger_on(self.store, GENESIS, **self.options))

    async def stage_and_drop(self, block: Sequence[bytes]) -> bytes:
        return (await self.ledger.stage(changes_of(block), self.ledger.tip.height + 1)).root

    async def commit(self, block: Sequence[bytes], packed: bool) -> None:
        height = self.ledger.tip.height + 1
        receipts: Any = receipts_of(height, block)
        changes: Any = changes_of(block)
        if packed:
            receipts = PackedReceipts([each.encode() for each in receipts])
            changes = PackedChanges(PackedChanges.of(changes).data, len(changes))
        staged = await self.ledger.stage(changes, height)
        made = make_block(self.ledger.tip_header, staged.root, receipts, [block] if block else [])
        await self.ledger.commit(made, receipts, CERTIFICATE, staged)

    async def fail(self, block: Sequence[bytes], packed: bool) -> None:
        """A commit for which there is no space: nothing of it is there."""
        self.ledger._store = FailingStore(self.store, 0, False, DiskFull("no space", "here", "Free some."))
        with pytest.raises(DiskFull):
            await self.commit(block, packed)
        self.ledger._store = self.store


@asynccontextmanager
async def both(path: Path, page_cache_bytes: int, backend: str = "memory") -> AsyncIterator[list[Side]]:
    """The ledger with its tree in C, and in Python."""
    async with AsyncExitStack() as stack:
        sides = []
        for native in (True, False):
            store = await stack.enter_async_context(opened_store(backend, path / f"{native}"))
            side = Side(store, {"native_tree": native, "page_cache_bytes": page_cache_bytes})
            stack.push_async_callback(side.stack.aclose)
            await side.open()
            sides.append(side)
        yield sides


def random_block(chance: random.Random) -> list[bytes]:
    numbers = chance.sample(range(ACCOUNTS + 40), chance.choice((0, 1, 3, 20, 200)))
    return [set_balance(number, chance.choice((0, 0, 1, 2, number))) for number in numbers]


@needs_c
@pytest.mark.parametrize("page_cache_bytes", [0, 20_000, 2**20])
@pytest.mark.parametrize("seed", range(3))
async def test_any_history_leaves_the_same_rows(tmp_path: Path, page_cache_bytes: int, seed: int) -> None:
    chance, blocks = random.Random(seed), []
    async with both(tmp_path, page_cache_bytes) as sides:
        assert [type(side.ledger._tree) for side in sides] == [NativeTree, PythonTree]
        for _ in range(25):
            what, block, packed = chance.random(), random_block(chance), chance.random() < 0.5
            for side in sides:
                if what < 0.2:
                    await side.open()
                elif what < 0.4:
                    await side.fail(block, packed)
            if what > 0.7:
                dropped = random_block(chance)
                roots = [await side.stage_and_drop(dropped) for side in sides]
                assert roots[0] == roots[1] == smt.root_of(state_of(FIRST_STATE, *blocks, dropped))
            for side in sides:
                await side.commit(block, packed)
            blocks.append(block)
            rows = [await rows_of(side.store) for side in sides]
            assert rows[0] == rows[1]
            state = state_of(FIRST_STATE, *blocks)
            assert sides[0].ledger.tip.state_root == smt.root_of(state)
            for number in chance.sample(range(ACCOUNTS + 40), 3):
                proofs = [await side.ledger.prove(account_key(address(number))) for side in sides]
                assert proofs[0] == proofs[1]
                assert proofs[0][1] == smt.prove(state, account_key(address(number)))
            stats = [side.ledger.stats().pages for side in sides]
            assert all(each.bytes <= page_cache_bytes == each.bytes_max for each in stats)


@needs_c
async def test_pages_are_in_memory_up_to_the_bound_and_read_again_beyond_it(tmp_path: Path) -> None:
    for page_cache_bytes, kept in ((0, False), (2**20, True)):
        async with both(tmp_path / f"{kept}", page_cache_bytes) as sides:
            for side in sides:
                await side.commit([set_balance(number, 7) for number in range(ACCOUNTS)], True)
                before = side.ledger.stats().pages
                assert before.misses > 0 and (before.entries > 0) == kept
                await side.commit([set_balance(number, 8) for number in range(ACCOUNTS)], True)
                after = side.ledger.stats().pages
                assert (after.misses == before.misses) == kept


@needs_c
async def test_two_stages_at_once_are_both_right(tmp_path: Path) -> None:
    first, second = ([set_balance(number, number + add) for number in range(50)] for add in (1, 2))
    async with both(tmp_path, 2**20) as (side, _):
        roots = {}

        async def stage(block: list[bytes]) -> None:
            roots[block[0]] = await side.stage_and_drop(block)

        async with trio.open_nursery() as nursery:
            for block in (first, second):
                nursery.start_soon(stage, block)
        for block in (first, second):
            assert roots[block[0]] == smt.root_of(state_of(FIRST_STATE, block))


@needs_c
async def test_what_was_staged_before_another_can_still_be_committed(tmp_path: Path) -> None:
    block, other, next_block = (
        [set_balance(1, 9)],
        [set_balance(2, 9), set_balance(1, 0)],
        [set_balance(3, 0)],
    )
    async with both(tmp_path, 2**20) as sides:
        for side in sides:
            receipts = receipts_of(1, block)
            staged = await side.ledger.stage(changes_of(block), 1)
            await side.stage_and_drop(other)
            made = make_block(side.ledger.tip_header, staged.root, receipts, [block])
            await side.ledger.commit(made, receipts, CERTIFICATE, staged)
            await side.commit(next_block, False)
        assert await rows_of(sides[0].store) == await rows_of(sides[1].store)


@needs_c
@pytest.mark.parametrize("native", [True, False])
async def test_a_stage_that_is_cancelled_while_it_reads_leaves_the_ledger_as_it_was(
    tmp_path: Path, native: bool
) -> None:
    block = [set_balance(number, 7) for number in range(100)]

    class Stopping(FailingStore):
        async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
            if any(key[:1] == TREE for key in keys):
                scope.cancel()
                await trio.lowlevel.checkpoint()
            return await self.inner.get_many(keys)

    async with both(tmp_path, 2**20) as sides:
        side = sides[not native]
        side.ledger._store = Stopping(side.store, -1, False)
        with trio.CancelScope() as scope:
            await side.stage_and_drop(block)
        assert scope.cancelled_caught
        side.ledger._store = side.store
        await side.commit(block, True)
        assert side.ledger.tip.state_root == smt.root_of(state_of(FIRST_STATE, block))


@attrs.define
class Damaged:
    """A store in which one value isn't what was written."""

    inner: KeyValueStore
    key: bytes
    value: bytes | None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found = await self.inner.get_many(keys)
        return [self.value if key == self.key else value for key, value in zip(keys, found, strict=True)]


@needs_c
@pytest.mark.parametrize("damage", ["missing", "flipped"])
async def test_a_damaged_page_is_named_alike_and_nothing_is_lost(tmp_path: Path, damage: str) -> None:
    block = [set_balance(number, 7) for number in range(ACCOUNTS)]
    async with both(tmp_path, 2**20) as sides:
        said = []
        for side in sides:
            rows = await rows_of(side.store)
            page = max(key for key in rows if key[:1] == TREE)
            flipped = rows[page][:-1] + bytes((rows[page][-1] ^ 1,))
            side.ledger._store = Damaged(side.store, page, None if damage == "missing" else flipped)
            with pytest.raises(StoreCorrupt, match=page.hex()) as caught:
                await side.commit(block, False)
            said.append(str(caught.value))
            side.ledger._store = side.store
            await side.commit(block, False)
        assert said[0] == said[1]
        assert await rows_of(sides[0].store) == await rows_of(sides[1].store)


@pytest.mark.parametrize("native", [True, False])
async def test_stale_rows_name_pages_that_are_there(tmp_path: Path, native: bool) -> None:
    async with opened_store("sqlite", tmp_path) as store:
        async with ledger_on(store, GENESIS, native_tree=native) as ledger:
            side = Side(store, {})
            side.ledger = ledger
            await side.commit([set_balance(number, 5) for number in range(0, ACCOUNTS, 3)], True)
        rows = await rows_of(store)
        stale = {key[9:] for key in rows if key[:1] == STALE}
        assert stale and stale <= rows.keys()
        assert all(isinstance(rows[key], bytes) for key in stale)
        await store.write([Put(key, b"") for key in stale])
        async with ledger_on(store, GENESIS, native_tree=native) as ledger:
            side.ledger = ledger
            await side.commit([set_balance(number, 6) for number in range(ACCOUNTS)], True)
