"""A node prunes while it runs, as it is configured, and says what it no longer has."""

import attrs
import pytest
import trio
import trio.testing

from supervm.chain.component import LedgerOptions
from supervm.chain.keeping import PRUNE_EVERY_BLOCKS, UsageFigures, keep_counted
from supervm.contracts.application import Refused
from supervm.contracts.storage import PASSING, DiskFull, Durability, KeyValueStore, Operation, Put
from supervm.plugins.consensus.solo import SoloConfig
from supervm.plugins.storage import supervm_components as stores
from supervm.storage.errors import Pruned
from supervm.storage.pruning import KEPT_MIN
from supervm.storage.spaces import BODIES, STALE, body_key
from supervm.storage.verify import verify_tree
from supervm.testing.context import component_context, opened
from supervm.types import smt
from supervm.types.state import account_key
from tests.chain.conftest import Run, World, key

FAST = SoloConfig(block_interval_min_ms=0, block_interval_max_ms=1)
PRUNING = LedgerOptions(
    admission_threads=1, prune_keep_blocks=KEPT_MIN, prune_keep_roots=KEPT_MIN, prune_share=1.0
)
TO = key(77).address


@pytest.fixture
async def store(tmp_path):
    memory = next(component for component in stores() if component.name == "memory")
    async with opened(memory, tmp_path / "store") as store:
        yield store


async def until_pruned(ledger, height):
    while ledger.horizon.blocks < height:
        await ledger.wait_above(ledger.tip.height)
    return ledger.horizon


async def test_a_node_removes_what_its_configuration_says_and_goes_on_serving_the_rest(
    world: World, run: Run, store: KeyValueStore
):
    async with run(world, store=store, engine=FAST, options=PRUNING) as node:
        chain, ledger = node.chain, node.chain.ledger
        old = world.transfer(0, 0, TO, 5)
        await chain.submit([old.data])
        view = await chain.queries.transaction(old.digest, wait_s=60)
        assert view.height is not None
        # Twice, so that what the horizon passed first is removed by now.
        await until_pruned(ledger, view.height + 2 * PRUNE_EVERY_BLOCKS)
        assert await store.get(body_key(view.height)) is None
        # What it recently told is forgotten by a restart; then the store alone answers.
    async with run(world, store=store, engine=None) as node:
        chain, ledger = node.chain, node.chain.ledger
        oldest = ledger.horizon.blocks
        assert oldest <= ledger.tip.height - KEPT_MIN + 1
        assert (await chain.queries.status()).oldest_block == oldest
        for ask in (chain.queries.transaction(old.digest), chain.queries.block(view.height)):
            with pytest.raises(Pruned) as caught:
                await ask
            assert (caught.value.height, caught.value.oldest) == (view.height, oldest)
        assert await chain.queries.block(oldest) is not None
        answer = (await chain.submit([old.data]))[0]
        assert isinstance(answer, Refused) and answer.code == "Pruned"
        proven = await chain.queries.proof(account_key(TO))
        smt.verify(proven.header.state_root, proven.proof)
        await verify_tree(ledger)
        assert node.metric("supervm_storage_pruned_below") == oldest


async def test_without_a_limit_nothing_is_pruned(world: World, run: Run, store: KeyValueStore):
    async with run(world, store=store, engine=FAST) as node:
        await node.chain.ledger.wait_above(KEPT_MIN + 2 * PRUNE_EVERY_BLOCKS)
        assert node.chain.ledger.horizon.blocks == 0
        assert await node.chain.ledger.block(1) is not None
        rows = [each async for each, _ in store.scan(STALE, BODIES)]
        assert any(row[:1] == STALE for row in rows)


@attrs.define
class FullForDeletes:
    """A store that has no room for deletes until `room` is set."""

    inner: KeyValueStore
    room: trio.Event = attrs.Factory(trio.Event)
    refused: trio.Event = attrs.Factory(trio.Event)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    async def write(self, batch: list[Operation], durability: Durability = Durability.DURABLE) -> None:
        if durability is Durability.BUFFERED and not self.room.is_set():
            self.refused.set()
            raise DiskFull("injected")
        await self.inner.write(batch, durability)


async def test_a_full_disk_makes_pruning_wait_and_blocks_go_on(
    world: World, run: Run, store: KeyValueStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("supervm.chain.keeping.FULL_RETRY_S", 0.01)
    full = FullForDeletes(store)
    async with run(world, store=full, engine=FAST, options=PRUNING) as node:
        ledger = node.chain.ledger
        await full.refused.wait()
        await ledger.wait_above(ledger.tip.height + 5)
        assert await store.get(body_key(0)) is not None, "nothing went"
        full.room.set()
        await until_pruned(ledger, ledger.horizon.blocks + 1)
        assert node.metric("supervm_storage_pruned_blocks_total") > 0


@pytest.mark.parametrize("wrong", [1, 255, -1])
def test_a_limit_that_leaves_too_little_is_refused(wrong: int):
    for name in ("prune_keep_blocks", "prune_keep_roots"):
        with pytest.raises(ValueError, match=f"{name} is {wrong}: give 0 to keep all, or at least 256"):
            LedgerOptions(**{name: wrong})


async def test_what_the_rows_are_for_is_counted_while_blocks_go_on(
    world: World, run: Run, store: KeyValueStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("supervm.chain.keeping.SURVEY_AFTER_S", 0.0)
    monkeypatch.setattr("supervm.chain.keeping.SURVEY_SHARE", 1.0)
    async with run(world, store=store, engine=FAST, options=LedgerOptions(usage_s=1)) as node:
        while node.metric("supervm_storage_purpose_rows", purpose="headers") == 0:
            await node.chain.ledger.wait_above(node.chain.ledger.tip.height)
        assert node.metric("supervm_storage_purpose_bytes", purpose="state") > 0
        assert node.metric("supervm_storage_purpose_rows", purpose="components") == 0


@attrs.define
class Busy:
    """A store that can't be read for now as often as there are reasons `left`."""

    inner: KeyValueStore
    left: list[type[Exception]] = attrs.Factory(lambda: list(PASSING))

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def scan(self, *given, **named):
        if self.left:
            raise self.left.pop()("injected")
        return self.inner.scan(*given, **named)


async def test_a_store_that_can_not_be_read_for_now_is_counted_later(
    tmp_path, store: KeyValueStore, autojump_clock: trio.testing.MockClock
):
    await store.write([Put(body_key(1), b"row")])
    busy = Busy(store)
    async with component_context(tmp_path) as ctx, trio.open_nursery() as nursery:
        nursery.start_soon(keep_counted, ctx, busy, 60.0, UsageFigures.declare(ctx.metrics))
        while busy.left:
            await ctx.clock.sleep(10)
        await ctx.clock.sleep(61)
        found = [
            (value, labels)
            for _, value, labels in ctx.metrics.families["supervm_storage_purpose_rows"].records
        ]
        assert (1, {"purpose": "transactions"}) in found
        nursery.cancel_scope.cancel()


async def test_a_state_that_can_not_be_read_for_now_is_checked_later(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
):
    reasons, checked = list(PASSING), trio.Event()

    async def busy(ledger, first):
        if reasons:
            raise reasons.pop()("injected")
        checked.set()
        return 1

    monkeypatch.setattr("supervm.chain.component.SPOT_CHECK_S", 0.001)
    monkeypatch.setattr("supervm.chain.component.verify_slice", busy)
    options = LedgerOptions(admission_threads=1, spot_check_blocks=2)
    async with run(world, engine=FAST, options=options):
        await checked.wait()


async def test_a_store_that_can_not_be_read_for_now_is_pruned_later(
    world: World, run: Run, store: KeyValueStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("supervm.chain.keeping.FULL_RETRY_S", 0.01)
    busy = Busy(store, [])
    options = attrs.evolve(PRUNING, usage_s=0)
    async with run(world, store=busy, engine=FAST, options=options) as node:
        busy.left += PASSING
        while node.metric("supervm_storage_pruned_blocks_total") == 0:
            await node.chain.ledger.wait_above(node.chain.ledger.tip.height)
    assert not busy.left
