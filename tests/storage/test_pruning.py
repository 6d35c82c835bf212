"""Pruning: what is below the horizon goes and says so, what is above stays, and a crash costs nothing."""

import random
from contextlib import aclosing

import attrs
import pytest
import trio
import trio.testing

from supervm.contracts.storage import Delete, DiskFull, Durability, Put, StoreCorrupt, StoreStats
from supervm.kernel.context import SystemClock
from supervm.storage.errors import Pruned
from supervm.storage.ledger import Ledger
from supervm.storage.pace import OWED_S_MAX, REST_S_MAX, Calm, Pace, PieceSize
from supervm.storage.pruning import KEPT_MIN, Keep, Removed, Sweeper, horizon_for, would_remove
from supervm.storage.spaces import (
    BODIES,
    CERTIFICATES,
    HEADERS,
    INDEX,
    RECEIPTS,
    STALE,
    STATE,
    TREE,
    Horizon,
    height_bytes,
    stale_key,
)
from supervm.storage.verify import verify_tree
from supervm.types import smt
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

BACKENDS = ["memory", "sqlite", "rocksdb"]
BLOCKS = 30


def transactions_at(height: int) -> list[bytes]:
    """Some accounts set, one new, one removed, so that every block leaves stale pages behind."""
    changed = [set_balance(number, height * 10 + number) for number in range(height % 3, 12, 3)]
    return [*changed, set_balance(100 + height, height), set_balance(99 + height, 0)]


async def grow(ledger: Ledger, blocks: int) -> None:
    for _ in range(blocks):
        height = ledger.tip.height + 1
        await add_block(ledger, transactions_at(height)[:7], transactions_at(height)[7:])


def sweeper_of(ledger: Ledger, share: float = 1.0) -> Sweeper:
    return Sweeper(ledger, Pace(SystemClock(), share))


async def prune_to(ledger: Ledger, blocks: int, roots: int) -> Removed:
    await ledger.raise_horizon(Horizon(blocks, roots))
    return await sweeper_of(ledger).sweep()


def heights_of(rows, space):
    return {int.from_bytes(key[1:9], "big") for key in rows if key[:1] == space}


def counted(rows, space):
    return sum(key[:1] == space for key in rows)


@pytest.fixture(params=BACKENDS)
async def store(request, tmp_path):
    if request.param == "rocksdb":
        pytest.importorskip("rocksdict")
    async with opened_store(request.param, tmp_path / "store") as store:
        yield store


@pytest.fixture
async def memory(tmp_path):
    async with opened_store("memory", tmp_path / "store") as store:
        yield store


async def test_what_is_below_the_horizon_goes_and_all_the_rest_stays(store):
    async with ledger_on(store) as ledger:
        await grow(ledger, BLOCKS)
        before, root = await rows_of(store), ledger.tip.state_root
        gone = await prune_to(ledger, 21, 25)
        after = await rows_of(store)
        assert gone.blocks == 21
        assert gone.pages == counted(before, STALE) - counted(after, STALE)
        assert gone.pages == counted(before, TREE) - counted(after, TREE)
        assert heights_of(after, BODIES) == set(range(21, BLOCKS + 1))
        assert heights_of(after, RECEIPTS) == set(range(21, BLOCKS + 1))
        for space in (STATE, HEADERS, CERTIFICATES, INDEX):
            kept = {key: value for key, value in before.items() if key[:1] == space}
            assert kept == {key: value for key, value in after.items() if key[:1] == space}
        assert ledger.tip.state_root == root
        await verify_tree(ledger)


async def test_every_question_about_a_pruned_block_is_answered_with_pruned_and_the_horizon(store):
    async with ledger_on(store) as ledger:
        await grow(ledger, BLOCKS)
        old = await ledger.block(20)
        await prune_to(ledger, 21, 21)
        digest = digest_of(transactions_at(20)[0])
        for ask in (
            lambda: ledger.block(20),
            lambda: ledger.block(old.digest()),
            lambda: ledger.blocks(20, 3),
            lambda: ledger.receipts(20),
            lambda: ledger.transaction(digest),
            lambda: ledger.block(0),
        ):
            with pytest.raises(Pruned) as caught:
                await ask()
            assert caught.value.oldest == 21
        async with aclosing(ledger.each_block(19)) as blocks:
            with pytest.raises(Pruned):
                await anext(blocks)
        assert await ledger.header(20) == old.header
        assert await ledger.certificate(20) is not None
        assert await ledger.known([digest]) == {digest}
        assert (await ledger.block(21)).header.height == 21
        assert await ledger.receipts(21)


async def test_the_horizon_holds_before_anything_is_deleted_and_after_reopening(store):
    async with ledger_on(store) as ledger:
        await grow(ledger, 8)
        await ledger.raise_horizon(Horizon(5, 5))
        with pytest.raises(Pruned):
            await ledger.block(4)
    async with ledger_on(store) as ledger:
        assert ledger.horizon == Horizon(5, 5)
        with pytest.raises(Pruned):
            await ledger.receipts(4)
        await ledger.raise_horizon(Horizon(3, 3))
        assert ledger.horizon == Horizon(5, 5), "it never goes down"
        assert (await sweeper_of(ledger).sweep()).blocks == 5


async def test_the_tips_proofs_and_the_trees_above_the_horizon_stay_whole(memory):
    async with ledger_on(memory) as ledger:
        await grow(ledger, BLOCKS)
        markers = {}
        views = {}
        await prune_to(ledger, 25, 28)
        for number in (0, 5, 100 + BLOCKS, 12_345):
            header, proof = await ledger.prove(account_key(address(number)))
            smt.verify(header.state_root, proof)
        # A tree is whole if every page on the way to every key can be read from its root, uncached.
        for height in range(28, BLOCKS + 1):
            header = await ledger.header(height)
            markers[height] = attrs.evolve(ledger.tip, height=height, state_root=header.state_root)
        paths = sorted(smt.key_hash(account_key(address(number))) for number in range(200))
    async with ledger_on(memory, page_cache_bytes=0) as ledger:
        for height, marker in markers.items():
            async with ledger.view() as (view, _, _):
                views[height] = await ledger.load_pages(marker, paths, view)
        assert len(views) == 3
        async with ledger.view() as (view, _, _):
            with pytest.raises(StoreCorrupt):
                header = await ledger.header(20)
                old = attrs.evolve(ledger.tip, height=20, state_root=header.state_root)
                await ledger.load_pages(old, paths, view)


async def test_pruning_twice_or_again_after_more_blocks_gives_what_once_gives(memory, tmp_path):
    async with ledger_on(memory) as ledger:
        await grow(ledger, 15)
        sweeper = sweeper_of(ledger)
        for blocks in (4, 4, 9):
            await ledger.raise_horizon(Horizon(blocks, blocks))
            await sweeper.sweep()
        await grow(ledger, 15)
        await ledger.raise_horizon(Horizon(21, 25))
        await sweeper.sweep()
        assert sweeper.cleared == Horizon(21, 25)
        in_parts = await rows_of(memory)
    async with opened_store("memory", tmp_path / "other") as other, ledger_on(other) as ledger:
        await grow(ledger, BLOCKS)
        await prune_to(ledger, 21, 25)
        assert await rows_of(other) == in_parts


@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_at_any_write_of_a_pruning_leaves_a_ledger_that_goes_on(tmp_path, after):
    async with opened_store("memory", tmp_path / "whole") as whole, ledger_on(whole) as ledger:
        await grow(ledger, 12)
        await prune_to(ledger, 9, 10)
        await grow(ledger, 2)
        expected = await rows_of(whole)
    fail_at = 0
    while True:
        async with opened_store("memory", tmp_path / f"{after}{fail_at}") as store:
            async with ledger_on(store) as ledger:
                await grow(ledger, 12)
            failing = FailingStore(store, fail_at, after)
            async with ledger_on(failing) as ledger:
                try:
                    await prune_to(ledger, 9, 10)
                except Exception as error:
                    assert error is failing.error
                else:
                    break
            # What a process finds that opens the store after this one died.
            async with ledger_on(store) as ledger:
                for height in range(ledger.horizon.blocks, 13):
                    assert (await ledger.block(height)).header.height == height
                assert ledger.horizon == (Horizon(9, 10) if fail_at or after else Horizon())
                await verify_tree(ledger)
                await prune_to(ledger, 9, 10)
                await grow(ledger, 2)
                assert await rows_of(store) == expected
        fail_at += 1
    assert fail_at >= 3, "the horizon, some blocks, some pages"


async def test_blocks_and_reads_go_on_while_pruning_does(store):
    async with ledger_on(store) as ledger:
        await grow(ledger, 12)
        sweeper = sweeper_of(ledger, share=0.5)
        done = trio.Event()

        async def prune() -> None:
            while not done.is_set():
                tip = ledger.tip.height
                await ledger.raise_horizon(Horizon(tip - 4, tip - 2))
                await sweeper.sweep()
                await trio.lowlevel.checkpoint()

        async def read() -> None:
            dice = random.Random(1)
            while not done.is_set():
                height = dice.randint(0, ledger.tip.height)
                try:
                    block, receipts = await ledger.block(height), await ledger.receipts(height)
                except Pruned as error:
                    assert height < error.oldest <= ledger.horizon.blocks
                else:
                    assert block.header.height == height
                    assert len(receipts) == len(list(block.transactions))
                header, proof = await ledger.prove(account_key(address(dice.randrange(20))))
                smt.verify(header.state_root, proof)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(prune)
            nursery.start_soon(read)
            await grow(ledger, 25)
            done.set()
        await verify_tree(ledger)
        rows = await rows_of(store)
        assert min(heights_of(rows, BODIES)) >= 12 - 4


@pytest.mark.parametrize(("rows_max", "bytes_max"), [(90, 10**6), (1_000, 4_000)])
async def test_no_piece_removes_more_than_its_bounds_of_however_large_a_block(
    memory, monkeypatch, rows_max, bytes_max
):
    monkeypatch.setattr("supervm.storage.pruning.DELETES_MAX", rows_max)
    monkeypatch.setattr("supervm.storage.pruning.PAGES_LEAST", 8)
    monkeypatch.setattr("supervm.storage.pruning.PIECE_BYTES", bytes_max)
    async with ledger_on(memory) as ledger:
        await add_block(ledger, *([set_balance(number, 7)] for number in range(400)))
        await grow(ledger, 6)
        await ledger.raise_horizon(Horizon(4, 0))
        sweeper, pieces = sweeper_of(ledger), []
        before = await rows_of(memory)
        right = ledger.discard

        async def discard(deletes):
            nonlocal before
            await right(deletes)
            after = await rows_of(memory)
            pieces.append([len(before[key]) for key in before.keys() - after.keys()])
            before = after

        monkeypatch.setattr(ledger, "discard", discard)
        assert (await sweeper.sweep()).blocks == 4
    assert max(map(len, pieces)) <= rows_max
    # The row that passes the bound is the last.
    assert all(sum(piece) - max(piece) < bytes_max for piece in pieces)
    assert max(map(len, pieces)) > 60 or max(map(sum, pieces)) > bytes_max / 2, "and it comes near to them"
    assert sum(map(len, pieces)) > 400
    assert heights_of(before, BODIES) == heights_of(before, RECEIPTS) == {4, 5, 6, 7}


async def test_a_snapshot_taken_before_still_reads_what_is_pruned_meanwhile(store):
    async with ledger_on(store) as ledger:
        await grow(ledger, 8)
        async with ledger.view() as (view, _, _):
            before = {key: value async for key, value in view.scan()}
            await prune_to(ledger, 7, 8)
            assert {key: value async for key, value in view.scan()} == before


async def test_an_entry_of_the_stale_index_that_no_commit_wrote_stops_the_sweep_before_it_deletes(memory):
    async with ledger_on(memory) as ledger:
        await grow(ledger, 6)
        page = next(key for key in await rows_of(memory) if key[:1] == TREE and key[-8:] == height_bytes(6))
        await memory.write([Put(stale_key(3, page), b"")], Durability.DURABLE)
        with pytest.raises(StoreCorrupt, match="no page of an earlier height"):
            await prune_to(ledger, 0, 4)
        assert await memory.get(page) is not None
        await memory.write([Delete(stale_key(3, page))], Durability.DURABLE)
        await prune_to(ledger, 0, 4)
        await verify_tree(ledger)


async def test_a_full_disk_stops_a_sweep_and_the_next_goes_on(memory):
    async with ledger_on(memory) as ledger:
        await grow(ledger, 8)
        await ledger.raise_horizon(Horizon(7, 7))
    failing = FailingStore(memory, 1, False, DiskFull("injected"))
    async with ledger_on(failing) as ledger:
        sweeper = sweeper_of(ledger)
        with pytest.raises(DiskFull):
            await sweeper.sweep()
        await sweeper.sweep()
        assert sweeper.cleared == Horizon(7, 7)
        assert heights_of(await rows_of(memory), BODIES) == {7, 8}


async def test_a_dry_run_says_what_a_sweep_then_removes(memory):
    async with ledger_on(memory) as ledger:
        await grow(ledger, 9)
        await prune_to(ledger, 3, 3)
        expected = await would_remove(ledger, Horizon(6, 8))
        assert await prune_to(ledger, 6, 8) == expected
        assert await would_remove(ledger, Horizon(6, 8)) == Removed()


async def test_the_most_that_any_rule_keeps_is_kept_and_never_less_than_256(memory):
    async with ledger_on(memory) as ledger:
        for _ in range(KEPT_MIN + 44):
            await add_block(ledger, [])
        tip = ledger.tip_header
        assert tip.height == 300
        now_ms = tip.timestamp_ms
        assert await horizon_for(ledger, Keep(), now_ms) == Horizon()
        assert await horizon_for(ledger, Keep(blocks=260, roots=256), now_ms) == Horizon(41, 45)
        assert await horizon_for(ledger, Keep(blocks=10_000), now_ms) == Horizon()
        # A millisecond a block: those of the last second are all of them, later none is younger.
        assert await horizon_for(ledger, Keep(blocks=260, seconds=1), now_ms) == Horizon()
        assert await horizon_for(ledger, Keep(blocks=260, seconds=1), now_ms + 720) == Horizon(20, 0)
        assert await horizon_for(ledger, Keep(seconds=1), now_ms + 10**6) == Horizon(45, 0)
        await prune_to(ledger, 50, 0)
        assert await horizon_for(ledger, Keep(blocks=260), now_ms) == Horizon(50, 0)
    for wrong in ({"blocks": 255}, {"roots": 1}, {"blocks": -1}):
        with pytest.raises(AssertionError):
            Keep(**wrong)


class Watch:
    """A clock that only sleeping moves, and who holds it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


@attrs.define
class Stalling:
    """A store whose writes have waited so long at each time that it is asked."""

    stalled_s: list[float]

    async def stats(self) -> StoreStats:
        return StoreStats(keys_estimate=0, bytes=0, stalled_s=self.stalled_s.pop(0))


async def test_work_that_can_wait_stops_while_writes_wait_for_the_engine():
    watch, pauses = Watch(), []
    store = Stalling([7.0, 7.0, 7.5, 8.0, 8.0, 8.0])
    calm = Calm(store, watch, lambda: pauses.append(watch.now_s))
    await calm.wait()  # what was before is over
    await calm.wait()  # asked a moment ago
    assert (watch.slept, len(store.stalled_s)) == ([], 5)
    watch.now_s = 1.0
    await calm.wait()
    assert watch.slept == []
    watch.now_s = 2.0
    await calm.wait()
    assert (watch.slept, pauses) == ([1.0, 1.0], [2.0])
    watch.now_s = 5.0
    await calm.wait()
    assert (watch.slept, pauses, store.stalled_s) == ([1.0, 1.0], [2.0], [])


async def test_a_sweep_asks_before_each_piece_whether_it_may_go_on(memory):
    rows = []

    async def calm() -> None:
        rows.append(len(await rows_of(memory)))

    async with ledger_on(memory) as ledger:
        await grow(ledger, 9)
        await ledger.raise_horizon(Horizon(6, 6))
        before = len(await rows_of(memory))
        sweeper = Sweeper(ledger, Pace(SystemClock()), calm=calm)
        sweeper._rows, sweeper._pages = PieceSize(4), PieceSize(4)
        await sweeper.sweep()
    assert rows[0] == before
    # Some pieces of both kinds, each asked for when the one before was done.
    assert len(rows) >= 5 and rows == sorted(rows, reverse=True)
    assert len(set(rows)) >= len(rows) - 2


async def test_a_pace_takes_its_share_of_the_time_and_no_more():
    watch = Watch()
    pace = Pace(watch, 0.25)
    for _ in range(4):
        with pace.working():
            watch.now_s += 0.01
        await pace.rest()
    assert pace.busy_s == pytest.approx(0.04)
    assert watch.now_s == pytest.approx(0.16)
    assert watch.slept == pytest.approx([0.03] * 4)


async def test_what_a_slow_piece_cost_is_rested_for_in_full_and_never_for_ever():
    watch = Watch()
    pace = Pace(watch, 0.5)
    with pace.working():
        watch.now_s += 12.0
    for _ in range(4):
        await pace.rest()
    assert watch.slept == pytest.approx([5.0, 5.0, 2.0, 0.0])
    with pace.working():
        watch.now_s += 100_000.0
    for _ in range(200):
        await pace.rest()
    assert sum(watch.slept) == pytest.approx(12.0 + REST_S_MAX + OWED_S_MAX)


def test_pieces_grow_while_they_are_quick_and_shrink_when_they_are_not():
    size = PieceSize(most=100, least=4)
    for _ in range(6):
        size.took(0.001, size.size)
    assert size.size == 100
    size.took(0.001, 3)
    size.took(0.007, 100)
    assert size.size == 100
    for _ in range(40):
        size.took(0.02, size.size)
    assert size.size == 4


def test_a_piece_that_waited_for_others_is_no_reason_to_do_less_at_a_time():
    size = PieceSize(most=64, least=8)
    for _ in range(20):
        for seconds in (0.06, 0.05, 0.06, 0.004):
            size.took(seconds, size.size)
    assert size.size == 64
    for seconds in (0.06, 0.008) * 20:
        size.took(seconds, 64)
    assert size.size == 64
