"""A node steps back before its disk is full, says so, and goes on by itself (STO-11, TIER-51)."""

from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from supervm.chain.component import LedgerOptions
from supervm.chain.room import KEPT_MARGIN_BYTES, LEAVE, RoomRules, Step, check_bulk, step_of
from supervm.chain.views import Admitted
from supervm.contracts.application import Refused
from supervm.contracts.storage import (
    DiskFull,
    Durability,
    KeyValueStore,
    Operation,
    RemoteUnavailable,
    StoreStats,
)
from supervm.kernel.component import Health, HealthState
from supervm.plugins.consensus.solo import SoloConfig
from supervm.plugins.storage import supervm_components as stores
from supervm.storage.pruning import KEPT_MIN
from supervm.storage.spaces import BODIES, RECEIPTS, body_key
from supervm.testing.context import opened
from supervm.types.state import ACCOUNT, Account
from tests.chain.conftest import FUNDS, Run, World, key

GB = 10**9
RULES = RoomRules(tight_bytes=5 * GB, full_bytes=2 * GB)
TO = key(77).address
FAST = SoloConfig(block_interval_min_ms=0, block_interval_max_ms=1)
ONCE = LedgerOptions(admission_threads=1, disk_look_s=3_600)
"""The tests look themselves."""


def stats(free_bytes: int | None, size_bytes: int = 1_000 * GB, kept_bytes: int = 0) -> StoreStats:
    return StoreStats(
        keys_estimate=0,
        bytes=0,
        disk_free_bytes=free_bytes,
        disk_bytes=None if free_bytes is None else size_bytes,
        disk_kept_bytes=kept_bytes,
    )


@pytest.mark.parametrize(
    ("free", "size", "kept", "wanted"),
    [
        (5 * GB, 1_000 * GB, 0, Step.ROOM),
        (5 * GB - 1, 1_000 * GB, 0, Step.TIGHT),
        (2 * GB, 1_000 * GB, 0, Step.TIGHT),
        (2 * GB - 1, 1_000 * GB, 0, Step.FULL),
        (0, 1_000 * GB, 0, Step.FULL),
        # Of a small disk its tenth and its twentieth.
        (GB, 10 * GB, 0, Step.ROOM),
        (GB - 1, 10 * GB, 0, Step.TIGHT),
        (GB // 2 - 1, 10 * GB, 0, Step.FULL),
        # What the store keeps free counts where it is more.
        (64 * 2**20 + KEPT_MARGIN_BYTES - 1, GB, 64 * 2**20, Step.FULL),
        (104 * 2**20, GB, 64 * 2**20, Step.ROOM),
        (None, 0, 0, Step.ROOM),
    ],
)
def test_a_step_begins_below_its_bound(free: int | None, size: int, kept: int, wanted: Step) -> None:
    assert step_of(Step.ROOM, stats(free, size, kept), RULES) is wanted


@given(
    st.integers(0, 20 * GB),
    st.integers(1, 2_000 * GB),
    st.sampled_from([0, 64 * 2**20, GB]),
    st.sampled_from(Step),
)
def test_less_room_is_never_a_lower_step_and_a_step_stays_near_its_bound(
    free: int, size: int, kept: int, now: Step
) -> None:
    found = stats(free, size, kept)
    after = step_of(now, found, RULES)
    assert step_of(now, stats(free // 2, size, kept), RULES) >= after
    assert step_of(after, found, RULES) is after, "the same room again changes nothing"
    bounds = RULES.bounds(found)
    if after is not Step.ROOM:
        assert free < bounds[after] * LEAVE
    for step, bound in bounds.items():
        if free < bound:
            assert after >= step


def test_a_bound_of_none_is_no_step() -> None:
    assert step_of(Step.ROOM, stats(0), RoomRules(tight_bytes=0, full_bytes=0)) is Step.ROOM


def test_large_work_is_refused_where_it_would_make_the_disk_tight() -> None:
    check_bulk(stats(None), RULES, 10**15, "it")
    check_bulk(stats(15 * GB), RULES, 10 * GB, "it")
    for free, wanted in ((15 * GB, 10 * GB + 1), (15 * GB, 20 * GB), (4 * GB, 0)):
        with pytest.raises(
            DiskFull, match=f"no room for it: about {wanted} bytes are wanted, {free} are free"
        ):
            check_bulk(stats(free), RULES, wanted, "it")


@attrs.define
class OnADisk:
    """A store that says of its disk what it is told to, and refuses blocks while `full`."""

    inner: KeyValueStore
    free_bytes: int | None = 900 * GB
    full: bool = False
    compacted: list[tuple[bytes, bytes | None]] = attrs.Factory(list)
    refused: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    @property
    def capabilities(self) -> frozenset[str]:
        return self.inner.capabilities | {"compaction"}

    async def stats(self) -> StoreStats:
        if self.free_bytes is None:
            raise RemoteUnavailable("it doesn't answer")
        return stats(self.free_bytes)

    async def compact(self, start: bytes = b"", end: bytes | None = None) -> None:
        self.compacted.append((start, end))
        await trio.lowlevel.checkpoint()

    async def write(self, batch: Sequence[Operation], durability: Durability = Durability.DURABLE) -> None:
        if self.full and durability is Durability.DURABLE:
            self.refused += 1
            await trio.lowlevel.checkpoint()
            raise DiskFull("no space left", "/srv/node", "Free some.")
        await self.inner.write(batch, durability)


@pytest.fixture
async def disk(tmp_path):
    memory = next(component for component in stores() if component.name == "memory")
    async with opened(memory, tmp_path / "store") as store:
        yield OnADisk(store)


async def balance(node, address: bytes) -> int:
    data = (await node.chain.ledger.get_state([ACCOUNT + address]))[ACCOUNT + address]
    return 0 if data is None else Account.decode(data).balance


async def test_near_its_end_nothing_is_taken_and_what_waits_is_finished(
    world: World, run: Run, disk: OnADisk
) -> None:
    async with run(world, store=disk, options=ONCE) as node:
        chain = node.chain
        before, during, after = (world.transfer(0, nonce, TO, 5) for nonce in range(3))
        await chain.submit([before.data])
        disk.free_bytes = GB
        await chain.room.look()
        assert (await chain.queries.transaction(before.digest, wait_s=60)).height is not None
        answer = (await chain.submit([during.data]))[0]
        assert isinstance(answer, Refused)
        assert (answer.code, answer.value) == ("DiskNearlyFull", f"{GB} bytes free")
        assert answer.retry_after_s is not None
        health = await chain.health()
        assert (health.state, health.ready) == (HealthState.DEGRADED, False)
        assert f"nearly full: {GB} bytes free" in health.detail
        assert node.metric("supervm_storage_disk_step") == 2
        assert node.metric("supervm_mempool_refused_total", reason="DiskNearlyFull") == 1
        for disk.free_bytes in (2 * GB, None, 2 * GB + 1, GB, 2 * GB):
            # At the border, and while nobody knows, it is still full, and says nothing more.
            await chain.room.look()
            assert chain.room.step is Step.FULL
        disk.free_bytes = 100 * GB
        await chain.room.look()
        assert await chain.health() == Health()
        for transaction in (during, after):
            assert isinstance((await chain.submit([transaction.data]))[0], Admitted)
            assert (await chain.queries.transaction(transaction.digest, wait_s=60)).height is not None
        assert await balance(node, TO) == 15
        assert node.metric("supervm_storage_disk_step") == 0
        steps = [(f["old"], f["new"]) for kind, f in node.published if kind == "mode_changed"]
        assert steps == [("room", "full"), ("full", "room")]


async def test_a_block_that_the_disk_refuses_is_made_when_there_is_room_and_nothing_is_taken_until_then(
    world: World, run: Run, disk: OnADisk
) -> None:
    async with run(world, store=disk, engine=FAST, options=ONCE) as node:
        chain, first, later = node.chain, world.transfer(0, 0, TO, 5), world.transfer(1, 0, TO, 7)
        tip = chain.ledger.tip
        disk.full = True
        await chain.submit([first.data])
        with trio.fail_after(120):
            while chain.room.step is not Step.FULL:
                await chain.room.wait_scarce()
        refused = (await chain.submit([later.data]))[0]
        assert isinstance(refused, Refused) and (refused.code, refused.value) == ("DiskNearlyFull", "full")
        assert "no block can be written" in (await chain.health()).detail
        assert disk.refused and chain.ledger.tip.height <= tip.height + 1
        # Plenty of bytes free mean nothing as long as a block doesn't fit, because of a quota for example.
        await chain.room.look()
        assert chain.room.step is Step.FULL
        disk.full = False
        assert (await chain.queries.transaction(first.digest, wait_s=60)).height is not None
        assert (await chain.health()).ready
        assert isinstance((await chain.submit([later.data]))[0], Admitted)
        assert (await chain.queries.transaction(later.digest, wait_s=60)).height is not None
        accounts = [*(each.address for each in world.users), TO]
        fees = sum([FUNDS * len(world.users), *[-await balance(node, each) for each in accounts]])
        assert await balance(node, TO) == 12 and 0 < fees < 10_000


async def test_a_snapshot_waits_for_room(world: World, run: Run, disk: OnADisk, monkeypatch) -> None:
    monkeypatch.setattr("supervm.chain.snapshots.LOOK_S", 0.001)
    options = attrs.evolve(ONCE, snapshot_free_bytes_min=0, snapshot_share=1.0)
    async with run(world, store=disk, engine=FAST, options=options) as node:
        snapshots = node.chain.snapshots
        disk.free_bytes = 4 * GB
        await node.chain.room.look()
        with pytest.raises(DiskFull, match="a snapshot waits for room on the node's disk: 4000000000"):
            snapshots.ask()
        # Transactions are taken at this step, and the node is ready.
        assert (await node.chain.health()).ready
        assert isinstance((await node.chain.submit([world.transfer(0, 0, TO, 5).data]))[0], Admitted)
        disk.free_bytes = 400 * GB
        await node.chain.room.look()
        snapshots.ask()
        # Asked for with room, and taken without: refused as late.
        disk.free_bytes = 4 * GB
        await node.chain.room.look()
        with trio.fail_after(120):
            while not snapshots.last_failure:
                await node.chain.ledger.wait_above(node.chain.ledger.tip.height)
        assert "waits for room" in snapshots.last_failure
        assert await snapshots.listed() == []


async def test_a_tight_disk_is_pruned_at_once_and_given_back_what_went(
    world: World, run: Run, disk: OnADisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervm.chain.keeping.PRUNE_EVERY_BLOCKS", 10**9)
    options = attrs.evolve(ONCE, prune_keep_blocks=KEPT_MIN, prune_keep_roots=KEPT_MIN)
    async with run(world, store=disk, engine=FAST, options=options) as node:
        ledger = node.chain.ledger
        await ledger.wait_above(KEPT_MIN + 20)
        assert ledger.horizon.blocks == 0 and not disk.compacted
        disk.free_bytes = 4 * GB
        await node.chain.room.look()
        with trio.fail_after(120):
            while len(disk.compacted) < 2:
                await ledger.wait_above(ledger.tip.height)
        assert ledger.horizon.blocks >= 20
        ranges = {start[:1]: (start, end) for start, end in disk.compacted}
        assert ranges[BODIES] == (body_key(0), body_key(ledger.horizon.blocks))
        assert set(ranges) == {BODIES, RECEIPTS}
        assert node.metric("supervm_storage_pruned_blocks_total") >= 20
