"""What need not last is held back, read as if it were written, and written as one batch, in order (STO-5)."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from supervm.contracts.roles import Role
from supervm.contracts.storage import (
    Delete,
    DiskFull,
    Durability,
    KeyValueStore,
    Put,
    WriteBatch,
)
from supervm.kernel.context import TrioClock
from supervm.plugins.storage.memory import memory
from supervm.storage import gathering as module
from supervm.storage.gathering import GatheringStore, gathering
from supervm.testing.context import component_context

MEMORY, BUFFERED, DURABLE = Durability


class Below:
    """A store in memory that counts what it is given, and is full or slow when told so."""

    def __init__(self, store: KeyValueStore) -> None:
        self._store = store
        self.writes: list[tuple[int, Durability]] = []
        self.full = False
        self.open = trio.Event()
        self.open.set()
        self.reads = 0
        self.readable = trio.Event()
        self.readable.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, batch: WriteBatch, durability: Durability = DURABLE) -> None:
        if self.full:
            raise DiskFull("the disk is full", "test", "")
        await self.open.wait()
        self.writes.append((len(batch), durability))
        await self._store.write(batch, durability)

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.reads += 1
        await self.readable.wait()
        return await self._store.get_many(keys)


class Warnings(list[str]):
    def __call__(self, event: str, **fields: Any) -> None:
        self.append(event)


@asynccontextmanager
async def held(tmp_path: Path) -> AsyncIterator[tuple[GatheringStore, Below, Warnings]]:
    async with (
        component_context(tmp_path, Role.STORAGE, "memory") as ctx,
        memory.open(ctx, memory.config()) as store,
    ):
        below, warnings = Below(store), Warnings()
        async with gathering(below, TrioClock(), warnings) as gathered:  # type: ignore[arg-type]
            yield gathered, below, warnings


async def test_many_batches_come_to_the_store_below_as_one_and_soon(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with held(tmp_path) as (store, below, _):
        for at in range(100):
            await store.write([Put(b"tip", b"%d" % at), Put(b"row/%d" % at, b"v")], MEMORY)
        assert below.writes == []
        assert await store.get_many([b"tip", b"row/7", b"none", b"tip"]) == [b"99", b"v", None, b"99"]
        await trio.sleep(2 * module.HELD_S)
        assert below.writes == [(101, BUFFERED)]
        assert store.held_rows == 0
        assert await below.get_many([b"tip", b"row/99"]) == [b"99", b"v"]


@pytest.mark.parametrize("level", [BUFFERED, DURABLE])
async def test_what_asks_for_more_takes_along_all_that_was_written_before_it(
    tmp_path: Path, level: Durability
) -> None:
    async with held(tmp_path) as (store, below, _):
        await store.write([Put(b"a", b"1")], MEMORY)
        await store.write([], level)
        assert [durability for _, durability in below.writes] == [BUFFERED, level]
        await store.write([Put(b"a", b"2"), Delete(b"b")], MEMORY)
        await store.write([Put(b"c", b"3")], level)
        assert below.writes[2:] == [(2, BUFFERED), (1, level)]
        assert await below.get_many([b"a", b"b", b"c"]) == [b"2", None, b"3"]
        # With nothing held back a write goes straight through.
        await store.write([Put(b"d", b"4")], level)
        assert below.writes[4:] == [(1, level)]


async def test_too_many_rows_are_not_held_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD_ROWS_MAX", 10)
    async with held(tmp_path) as (store, below, _):
        for at in range(25):
            await store.write([Put(b"%d" % at, b"v"), Put(b"again", b"v")], MEMORY)
            assert store.held_rows <= 10
        assert sum(rows for rows, _ in below.writes) >= 20
        await store.write([Put(b"large/%d" % at, b"v") for at in range(11)], MEMORY)
        assert store.held_rows == 0 and below.writes[-1] == (11, MEMORY)


async def test_every_read_sees_what_a_dictionary_has(tmp_path: Path) -> None:
    rng = random.Random(5)
    rows: dict[bytes, bytes] = {}
    async with held(tmp_path) as (store, _, _):
        for _ in range(400):
            key, value = b"%d" % rng.randrange(40), rng.randbytes(3)
            batch: list[Any] = [Put(key, value)] if rng.random() < 0.7 else [Delete(key)]
            await store.write(batch, rng.choice((MEMORY, MEMORY, MEMORY, BUFFERED)))
            if isinstance(batch[0], Put):
                rows[key] = value
            else:
                rows.pop(key, None)
            keys = [b"%d" % at for at in range(40)]
            assert await store.get_many(keys) == [rows.get(each) for each in keys]
            if rng.random() < 0.05:
                assert [row async for row in store.scan()] == sorted(rows.items())
            if rng.random() < 0.05:
                async with store.snapshot() as view:
                    before = dict(rows)
                    await store.write([Put(b"later", value)], MEMORY)
                    assert [row async for row in view.scan()] == sorted(before.items())
                    assert await view.get(b"later") == before.get(b"later")
                rows[b"later"] = value


async def test_a_read_is_of_one_moment_though_held_rows_are_written_meanwhile(tmp_path: Path) -> None:
    async with held(tmp_path) as (store, below, _):
        await store.write([Put(b"a", b"1"), Put(b"b", b"1")], DURABLE)
        await store.write([Put(b"a", b"2")], MEMORY)
        await store.write([Put(b"b", b"2")], DURABLE)
        await store.write([Put(b"a", b"3")], MEMORY)
        below.readable = trio.Event()
        found: list[bytes | None] = []

        async def read() -> None:
            found.extend(await store.get_many([b"a", b"b"]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            # `a` is 3 from memory by now, `b` is being asked for below.
            await store.write([Put(b"a", b"4"), Put(b"b", b"4")], MEMORY)
            await store.write([], BUFFERED)
            below.readable.set()
        assert found == [b"4", b"4"]
        assert below.reads == 2


async def test_rows_that_are_on_their_way_are_read_from_memory_and_not_held_up(tmp_path: Path) -> None:
    async with held(tmp_path) as (store, below, _):
        below.open = trio.Event()
        await store.write([Put(b"a", b"1")], MEMORY)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.settle)
            await trio.testing.wait_all_tasks_blocked()
            await store.write([Put(b"b", b"2")], MEMORY)
            assert await store.get_many([b"a", b"b"]) == [b"1", b"2"]
            assert below.writes == []
            below.open.set()
        await store.settle()
        assert below.writes == [(1, BUFFERED), (1, BUFFERED)]


async def test_a_full_disk_loses_nothing_that_is_held_back_and_is_told(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with held(tmp_path) as (store, below, warnings):
        await store.write([Put(b"a", b"1")], MEMORY)
        below.full = True
        with pytest.raises(DiskFull):
            await store.write([Put(b"b", b"2")], DURABLE)
        assert await store.get_many([b"a", b"b"]) == [b"1", None]
        await trio.sleep(2 * (module.HELD_S + module.RETRY_S))
        assert "held_rows_not_written" in warnings
        below.full = False
        await trio.sleep(2 * (module.HELD_S + module.RETRY_S))
        assert store.held_rows == 0
        assert await below.get_many([b"a", b"b"]) == [b"1", None]


async def test_at_the_end_everything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ExceptionGroup):
        async with held(tmp_path) as (store, below, _):
            await store.write([Put(b"a", b"1")], MEMORY)
            raise KeyError("the node ends")
    assert below.writes == [(1, BUFFERED)]
