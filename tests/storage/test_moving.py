"""A running node's store is moved: writes go on, both stores end the same, and a failure harms nobody."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from supervm.contracts.storage import (
    Delete,
    DeleteRange,
    Durability,
    KeyValueStore,
    Operation,
    Put,
    StoreFailed,
)
from supervm.kernel.context import SystemClock
from supervm.storage import moving
from supervm.storage.errors import MigrationFailed, MoveBusy, NotEmpty, Unfinished
from supervm.storage.moving import MovingStore, Phase
from supervm.storage.spaces import COMMIT_KEY, META, MIGRATE_KEY
from supervm.storage.verify import verify_tree
from tests.storage.ledger_support import FailingStore, add_block, ledger_on, opened_store, rows_of
from tests.storage.test_pruning import grow, transactions_at


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "ROWS_MAX", 60)


@attrs.define
class Marker:
    """Which backend the folder would be opened with."""

    name: str = "old"
    failure: Exception | None = None

    async def switch(self) -> None:
        await trio.lowlevel.checkpoint()
        self.name = "new"
        if self.failure is not None:
            raise self.failure

    async def switch_back(self) -> None:
        await trio.lowlevel.checkpoint()
        self.name = "old"


@asynccontextmanager
async def made(path: Path, backend: str = "memory", blocks: int = 8) -> AsyncIterator[MovingStore]:
    async with opened_store(backend, path / f"source-{backend}") as store:
        async with ledger_on(store) as ledger:
            await grow(ledger, blocks)
        yield MovingStore(store, SystemClock(), lambda event, **facts: None)


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[KeyValueStore]:
    async with opened_store("memory", tmp_path / "target") as store:
        yield store


async def move(store: MovingStore, target: Any, marker: Marker) -> None:
    await store.move(target, "new", share=1.0, switch=marker.switch, switch_back=marker.switch_back)


@pytest.mark.parametrize("to", ["sqlite", "rocksdb", "lmdb"])
@pytest.mark.parametrize("of", ["memory", "sqlite", "rocksdb"])
async def test_blocks_go_on_while_the_store_is_moved_to_any_backend_and_the_new_one_has_them(
    tmp_path: Path, of: str, to: str
) -> None:
    marker = Marker()
    async with made(tmp_path, of) as store, opened_store(to, tmp_path / "target") as target:
        async with ledger_on(store) as ledger, trio.open_nursery() as nursery:
            nursery.start_soon(move, store, target, marker)
            height = ledger.tip.height
            while store.facts.phase is not Phase.DONE:
                height += 1
                await add_block(ledger, transactions_at(height))
            assert marker.name == "new" and store.facts.changed > 0
            await add_block(ledger, transactions_at(height + 1))
        assert await rows_of(target) == await rows_of(store)
        async with ledger_on(target) as moved, ledger_on(store) as ledger:
            assert moved.tip == ledger.tip
            await verify_tree(moved)


def random_batch(chance: random.Random) -> list[Operation]:
    def key() -> bytes:
        return bytes([chance.choice([0, 1, 5, 13, 255]), chance.randrange(256), chance.randrange(4)])

    batch: list[Operation] = []
    for _ in range(chance.randrange(6)):
        match chance.randrange(5):
            case 0:
                batch.append(Delete(key()))
            case 1:
                first = key()
                last = None if chance.random() < 0.02 else first[:1] + bytes([min(255, first[1] + 9)])
                if last is None or (first < last and first[0]):
                    batch.append(DeleteRange(first, last))
            case _:
                batch.append(Put(key(), chance.randbytes(chance.randrange(30))))
    return batch


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_is_written_meanwhile_by_several_writers_is_in_both(
    tmp_path: Path, target: KeyValueStore, seed: int
) -> None:
    marker, chance = Marker(), random.Random(seed)
    async with made(tmp_path, blocks=2) as store:
        for number in range(300):
            await store.write([Put(b"\x0d" + bytes([number % 256, number // 256]), b"before")])
        written = 0

        async def write() -> None:
            nonlocal written
            while store.facts.phase is not Phase.DONE:
                await store.write(random_batch(chance), chance.choice(list(Durability)))
                written += 1

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(write)
            nursery.start_soon(move, store, target, marker)
        for _ in range(50):
            await store.write(random_batch(chance))
        assert written > 5
        assert await rows_of(target) == await rows_of(store)


@pytest.mark.parametrize("after", [False, True])
async def test_a_target_that_fails_at_any_write_ends_the_move_and_not_the_node(
    tmp_path: Path, after: bool
) -> None:
    """Before the switch, at it, and after it: what is acknowledged is where the folder says."""
    phases = set()
    for fail_at in range(12):
        marker = Marker()
        async with (
            made(tmp_path / f"{fail_at}", blocks=3) as store,
            ledger_on(store) as ledger,
            opened_store("memory", tmp_path / f"target-{fail_at}") as target,
        ):
            failing = FailingStore(target, fail_at, after)
            height = ledger.tip.height
            try:
                await move(store, failing, marker)
            except StoreFailed as error:
                assert error is failing.error
            else:
                phases.add("switched")
                assert marker.name == "new"
                while store.facts.phase is Phase.DONE and failing.writes <= fail_at:
                    height += 1
                    await add_block(ledger, transactions_at(height))
            assert marker.name == "old", "switched back before the failing write was acknowledged"
            assert store.facts.phase is Phase.FAILED and "injected" in store.facts.problem
            await add_block(ledger, transactions_at(height + 1))
            if COMMIT_KEY not in await rows_of(target):
                phases.add("unfinished")
                if fail_at or after:
                    with pytest.raises(Unfinished):
                        async with ledger_on(target):
                            pass
                # Another move begins where this one ended.
                await move(store, target, marker)
                assert marker.name == "new"
                assert await rows_of(target) == await rows_of(store)
            else:
                with pytest.raises(NotEmpty):
                    await move(store, target, marker)
                assert marker.name == "old"
    assert phases == {"switched", "unfinished"}


async def test_a_switch_that_fails_is_undone(tmp_path: Path, target: KeyValueStore) -> None:
    marker = Marker(failure=StoreFailed("no sync of the folder"))
    async with made(tmp_path) as store:
        with pytest.raises(StoreFailed, match="no sync of the folder"):
            await move(store, target, marker)
        assert marker.name == "old" and store.facts.phase is Phase.FAILED
        before = await rows_of(target)
        await store.write([Put(b"\x0dx", b"later")])
        assert await rows_of(target) == before


async def test_a_write_that_could_go_to_one_store_only_is_not_acknowledged(
    tmp_path: Path, target: KeyValueStore
) -> None:
    """The folder says the new one, which failed, and can't be made to say the old one."""

    class Stuck(Marker):
        async def switch_back(self) -> None:
            raise StoreFailed("read-only by now")

    marker = Stuck()
    async with made(tmp_path) as store:
        failing = FailingStore(target, 10**9, False)
        await move(store, failing, marker)
        failing.fail_at = failing.writes
        with pytest.raises(StoreFailed, match="could not be switched back"):
            await store.write([Put(b"\x0dx", b"lost?")])


@pytest.mark.parametrize("steps", [1, 15, 40])
async def test_a_cancelled_move_leaves_the_node_as_it_was_and_another_goes_on(
    tmp_path: Path, target: KeyValueStore, steps: int
) -> None:
    marker = Marker()
    async with made(tmp_path) as store:
        expected = await rows_of(store)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(move, store, target, marker)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        assert store.facts.phase is Phase.FAILED and marker.name == "old"
        assert await rows_of(store) == expected
        copied = len(await rows_of(target))
        await move(store, target, marker)
        assert await rows_of(target) == expected
        assert store.facts.changed <= len(expected) - copied + 10, "what was copied is not written again"


async def test_a_row_that_the_new_store_changed_is_found_before_the_switch(
    tmp_path: Path, target: KeyValueStore
) -> None:
    marker = Marker()

    class Forgetful(FailingStore):
        async def write(self, batch: Any, durability: Durability = Durability.DURABLE) -> None:
            kept = [each for each in batch if not (isinstance(each, Put) and each.key == lost)]
            await self.inner.write(kept, durability)

    async with made(tmp_path) as store:
        lost = next(key for key in sorted(await rows_of(store), reverse=True) if key > b"\x01")
        with pytest.raises(MigrationFailed):
            await move(store, Forgetful(target, 10**9, False), marker)
        assert marker.name == "old"
        assert MIGRATE_KEY in await rows_of(target)


class Watched(FailingStore):
    """Knows how durable each write was asked to be, and cancels a scope in the midst of the next."""

    def __init__(self, inner: KeyValueStore) -> None:
        super().__init__(inner, 10**9, False)
        self.levels: list[Durability] = []
        self.scope: trio.CancelScope | None = None

    async def write(self, batch: Any, durability: Durability = Durability.DURABLE) -> None:
        if self.scope is not None:
            self.scope.cancel()
            await trio.lowlevel.checkpoint()
        self.levels.append(durability)
        await self.inner.write(batch, durability)


async def test_once_switched_a_write_is_as_durable_in_the_new_store(
    tmp_path: Path, target: KeyValueStore
) -> None:
    watched = Watched(target)
    async with made(tmp_path) as store:
        await move(store, watched, Marker())
        assert watched.levels[-1] is Durability.DURABLE, "all that was copied is synced before the switch"
        for level in sorted(Durability, reverse=True):
            await store.write([Put(b"\x0dx", b"%d" % level)], level)
            assert watched.levels[-1] is level
        await store.write([], Durability.DURABLE)
        assert watched.levels[-1] is Durability.DURABLE, "an empty one syncs those before it"


async def test_a_writer_cancelled_in_between_has_written_to_both_or_to_none(
    tmp_path: Path, target: KeyValueStore
) -> None:
    watched = Watched(target)
    async with made(tmp_path) as store:
        await move(store, watched, Marker())
        with trio.CancelScope() as watched.scope:
            await store.write([Put(b"\x0dx", b"mine")])
            await trio.lowlevel.checkpoint()
        assert watched.scope.cancelled_caught
        assert await store.get(b"\x0dx") == await target.get(b"\x0dx") == b"mine"


async def test_metadata_removed_by_a_range_meanwhile_leave_the_mark_of_the_move(
    tmp_path: Path, target: KeyValueStore
) -> None:
    """The copy that has no end yet must go on being told from a ledger."""
    marked: list[bool] = []

    class Clearing(FailingStore):
        async def write(self, batch: Any, durability: Durability = Durability.DURABLE) -> None:
            await self.inner.write(batch, durability)
            if len(marked) < 3:
                marked.append(await self.inner.get(MIGRATE_KEY) is not None)

    async with made(tmp_path) as store:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(move, store, Clearing(target, 10**9, False), Marker())
            while not store.facts.rows:
                await trio.lowlevel.checkpoint()
            await store.write([Put(META + b"a note", b"1"), DeleteRange(META + b"a", b"\x01\x00")])
        assert marked == [True] * 3
        assert await rows_of(target) == await rows_of(store)


async def test_one_move_at_a_time_and_none_after_one_that_is_done(
    tmp_path: Path, target: KeyValueStore
) -> None:
    marker = Marker()
    async with made(tmp_path) as store:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(move, store, target, marker)
            await trio.testing.wait_all_tasks_blocked()
            if store.facts.running:
                with pytest.raises(MoveBusy):
                    await move(store, target, marker)
        with pytest.raises(MoveBusy, match="done"):
            await move(store, target, marker)


async def test_a_target_that_holds_anything_is_refused_and_left_as_it_is(
    tmp_path: Path, target: KeyValueStore
) -> None:
    marker = Marker()
    async with made(tmp_path) as store:
        await target.write([Put(b"\x20x", b"mine")])
        with pytest.raises(NotEmpty):
            await move(store, target, marker)
        assert await rows_of(target) == {b"\x20x": b"mine"} and marker.name == "old"


async def test_the_metadata_are_not_in_the_new_store_before_the_end(
    tmp_path: Path, target: KeyValueStore
) -> None:
    """Until then nobody may take it for a ledger."""
    seen: list[bool] = []

    class Watching(FailingStore):
        async def write(self, batch: Any, durability: Durability = Durability.DURABLE) -> None:
            seen.append(any(isinstance(each, Put) and each.key == COMMIT_KEY for each in batch))
            await self.inner.write(batch, durability)

    async with made(tmp_path) as store:
        await move(store, Watching(target, 10**9, False), Marker())
        assert seen[-1] and not any(seen[:-1])
        assert await rows_of(target) == await rows_of(store)
