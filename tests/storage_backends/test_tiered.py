"""Rows on several classes are one store, whatever moves and whoever reads meanwhile (STO-90 to STO-94)."""

import random
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from supervm.api import Health
from supervm.contracts.storage import (
    Delete,
    DeleteRange,
    DiskFull,
    Durability,
    KeyValueStore,
    Put,
    StorageError,
    StoreCorrupt,
    StoreFailed,
    Tempered,
    WriteBatch,
)
from supervm.plugins.storage.memory import MemoryConfig, memory
from supervm.plugins.storage.redistribution import Redistribution
from supervm.plugins.storage.shelves import Shelves, Spaces, footprint
from supervm.plugins.storage.tiered import HEAT_FILE, TieredConfig, TieredStore, tiered
from supervm.storage.temperature import Temperature
from supervm.testing.conformance.component import refused
from supervm.testing.context import opened

HOT, WARM, COLD = Temperature
MARK = bytes(range(16))
BODY = b"\x06"


def key(height: int, part: int = 0) -> bytes:
    return BODY + height.to_bytes(8, "big") + bytes([part])


def value(height: int, part: int = 0) -> bytes:
    return b"%d/%d/" % (height, part) * 100


@attrs.define(eq=False)
class Gate:
    """A store whose writes stop at a gate, to be let through when a test says so."""

    store: KeyValueStore
    name: str = ""
    told: list[tuple[str, list[type], Durability]] = attrs.Factory(list)
    shut: bool = False
    failed: bool = False
    misread: tuple[bytes, int] | None = None  # once: the key, and the bit that is read wrong
    arrived: trio.Event = attrs.Factory(trio.Event)
    opened: trio.Event = attrs.Factory(trio.Event)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if self.failed:
            raise StoreFailed("the disk failed", self.name)
        values = await self.store.get_many(keys)
        if self.misread is not None and self.misread[0] in keys:
            (wanted, bit), self.misread = self.misread, None
            place = list(keys).index(wanted)
            values[place] = flipped(values[place] or b"", bit)
        return values

    async def write(self, batch: WriteBatch, durability: Durability = Durability.DURABLE) -> None:
        if self.shut:
            self.shut = False
            self.arrived.set()
            await self.opened.wait()
        await self.store.write(batch, durability)
        self.told.append((self.name, [type(each) for each in batch], durability))


@asynccontextmanager
async def shelves(tmp_path: Path) -> AsyncIterator[tuple[Shelves, dict[Temperature, Gate]]]:
    """Three classes in memory, and the gates before them."""
    async with (
        opened(memory, tmp_path / "hot", MemoryConfig()) as hot,
        opened(memory, tmp_path / "warm", MemoryConfig()) as warm,
        opened(memory, tmp_path / "cold", MemoryConfig(bytes_max=10_000)) as cold,
    ):
        told: list[Any] = []
        stores = {HOT: hot, WARM: warm, COLD: cold}
        gates = {one: Gate(store, one.word, told) for one, store in stores.items()}
        yield Shelves(gates, MARK, Spaces([BODY]), lambda keys: None), gates  # type: ignore[arg-type]


def let_all(key: bytes) -> bool:
    return False


async def rows(store: Any) -> dict[bytes, bytes]:
    return {key: value async for key, value in store.scan()}


async def test_a_moved_row_leaves_a_pointer_and_is_read_as_before(tmp_path: Path) -> None:
    async with shelves(tmp_path) as (store, gates):
        wanted = {key(i): value(i) for i in range(6)} | {b"\x01state": b"s" * 600}
        await store.write([Put(*row) for row in wanted.items()])
        assert (await store.move([key(1), key(2)], COLD)).rows == 2
        assert (await store.move([key(3)], WARM)).size_bytes == len(value(3))
        assert await rows(gates[COLD].store) == {key(1): value(1), key(2): value(2)}
        assert len((await gates[HOT].store.get(key(1))) or b"") < 40
        assert await rows(store) == wanted
        assert await store.get_many([key(2), b"absent", key(3), key(0)]) == [
            value(2),
            None,
            value(3),
            value(0),
        ]
        reverse = [row async for row in store.scan(key(1), key(4), reverse=True, limit=2)]
        assert reverse == [(key(3), value(3)), (key(2), value(2))]
        await store.move([key(1)], WARM)
        await store.move([key(2)], HOT)
        assert await gates[HOT].store.get(key(2)) == value(2)
        assert await rows(store) == wanted


async def test_a_view_reads_what_was_moved_before_and_after_it_was_taken(tmp_path: Path) -> None:
    async with shelves(tmp_path) as (store, _):
        await store.write([Put(key(i), value(i)) for i in range(4)])
        await store.move([key(0)], COLD)
        async with store.snapshot() as view:
            await store.move([key(1)], COLD)
            await store.move([key(0)], HOT)
            await store.write([Put(key(0), b"new"), Delete(key(1)), DeleteRange(key(2), None)])
            assert await rows(view) == {key(i): value(i) for i in range(4)}
            assert await view.get_many([key(1), key(0)]) == [value(1), value(0)]
        assert await rows(store) == {key(0): b"new"}


async def test_a_copy_goes_only_when_nobody_can_come_for_it(tmp_path: Path) -> None:
    async with shelves(tmp_path) as (store, gates):
        await store.write([Put(key(i), value(i)) for i in range(3)])
        await store.move([key(0), key(1)], COLD)
        async with trio.open_nursery() as nursery, store.snapshot() as view:
            await store.write([Delete(key(0))])
            nursery.start_soon(store.sweep, COLD, b"", 1_000, let_all)
            await trio.testing.wait_all_tasks_blocked()
            assert await gates[COLD].store.get(key(0)) == value(0)
            assert await view.get(key(0)) == value(0)
        assert await rows(gates[COLD].store) == {key(1): value(1)}
        assert await rows(store) == {key(1): value(1), key(2): value(2)}


async def test_a_sweep_waits_for_those_who_read_and_not_for_those_who_come_later(tmp_path: Path) -> None:
    async with shelves(tmp_path) as (store, gates):
        await store.write([Put(key(0), value(0))])
        await store.move([key(0)], COLD)
        await store.write([Delete(key(0))])
        async with trio.open_nursery() as nursery:
            first = store.snapshot()
            await first.__aenter__()
            nursery.start_soon(store.sweep, COLD, b"", 1_000, let_all)
            await trio.testing.wait_all_tasks_blocked()
            async with store.snapshot():
                await first.__aexit__(None, None, None)
                await trio.testing.wait_all_tasks_blocked()
                assert await rows(gates[COLD].store) == {}


async def test_each_step_is_durable_before_the_next(tmp_path: Path) -> None:
    """So that after power loss no pointer leads to a copy that is not there, or not there any more."""
    async with shelves(tmp_path) as (store, gates):
        await store.write([Put(key(0), value(0))])
        told = gates[HOT].told
        told.clear()
        await store.move([key(0)], COLD)
        assert told == [("cold", [Put], Durability.DURABLE), ("hot", [Put], Durability.DURABLE)]
        told.clear()
        await store.move([key(0)], WARM)
        assert told == [("warm", [Put], Durability.DURABLE), ("hot", [Put], Durability.DURABLE)]
        told.clear()
        await store.sweep(COLD, b"", 1_000, let_all)
        assert told == [("hot", [], Durability.DURABLE), ("cold", [Delete], Durability.BUFFERED)]


async def test_a_copy_that_is_held_stays(tmp_path: Path) -> None:
    async with shelves(tmp_path) as (store, gates):
        await store.write([Put(key(i), value(i)) for i in range(2)])
        await store.move([key(0), key(1)], COLD)
        await store.move([key(0), key(1)], HOT)
        swept = await store.sweep(COLD, b"", 1_000, key(0).__eq__)
        assert (swept.rows, swept.gone) == (2, 1)
        assert await rows(gates[COLD].store) == {key(0): value(0)}


@pytest.mark.parametrize("place", ["copy", "switch"])
async def test_what_is_written_while_it_moves_is_not_undone(tmp_path: Path, place: str) -> None:
    """A write that comes during the copy wins; one that comes during the switch waits for it, and wins."""
    async with shelves(tmp_path) as (store, gates):
        await store.write([Put(key(i), value(i)) for i in range(4)])
        gate = gates[COLD if place == "copy" else HOT]
        gate.shut = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.move, [key(i) for i in range(4)], COLD)
            await gate.arrived.wait()
            nursery.start_soon(store.write, [Put(key(0), b"new"), DeleteRange(key(2), key(3))])
            await store.write([Put(key(9), b"elsewhere")])
            await trio.testing.wait_all_tasks_blocked()
            meanwhile = await store.get(key(0))
            gate.opened.set()
        assert (meanwhile == b"new") is (place == "copy")
        wanted = {key(0): b"new", key(1): value(1), key(3): value(3), key(9): b"elsewhere"}
        assert await rows(store) == wanted
        assert store.place(key(1), (await gates[HOT].store.get(key(1))) or b"")[0] is COLD


async def test_a_row_is_not_moved_while_an_older_copy_of_it_may_be_read(tmp_path: Path) -> None:
    async with shelves(tmp_path) as (store, _):
        await store.write([Put(key(0), value(0))])
        await store.move([key(0)], COLD)
        async with store.snapshot() as view:
            await store.write([Put(key(0), value(7))])
            assert await store.move([key(0)], COLD) == attrs.evolve(await store.move([], COLD), left=1)
            assert await view.get(key(0)) == value(0)
        await store.sweep(COLD, b"", 1_000, let_all)
        assert (await store.move([key(0)], COLD)).rows == 1
        assert await store.get(key(0)) == value(7)


async def test_a_copy_left_by_a_crash_is_used_again(tmp_path: Path) -> None:
    async with shelves(tmp_path) as (store, gates):
        await store.write([Put(key(0), value(0))])
        await gates[COLD].store.write([Put(key(0), value(0))])
        assert (await store.move([key(0)], COLD)).rows == 1
        assert await rows(store) == {key(0): value(0)}


async def test_a_full_class_moves_nothing_and_harms_nothing(tmp_path: Path) -> None:
    async with shelves(tmp_path) as (store, _):
        await store.write([Put(key(i), bytes(6_000)) for i in range(3)])
        with refused(DiskFull):
            await store.move([key(0), key(1)], COLD)
        assert (await store.move([key(0)], COLD)).rows == 1
        assert await rows(store) == {key(i): bytes(6_000) for i in range(3)}


@pytest.mark.parametrize("damage", [None, b"", b"x" + value(0)[1:]])
async def test_a_moved_row_that_is_gone_or_damaged_is_told_and_never_served(
    tmp_path: Path, damage: bytes | None
) -> None:
    async with shelves(tmp_path) as (store, gates):
        await store.write([Put(key(0), value(0)), Put(key(1), value(1))])
        await store.move([key(0)], COLD)
        await gates[COLD].store.write([Delete(key(0)) if damage is None else Put(key(0), damage)])
        with refused(StoreCorrupt) as told:
            await store.get(key(0))
        assert key(0).hex() in str(told[0]) and "cold" in str(told[0])
        with refused(StoreCorrupt):
            await rows(store)
        with refused(StoreCorrupt):
            await store.move([key(0)], HOT)
        assert (await store.sweep(COLD, b"", 1_000, let_all)).damaged == (damage is not None)
        assert await store.get(key(1)) == value(1)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


async def test_a_pointer_with_any_bit_flipped_is_told_never_served_and_costs_no_copy(tmp_path: Path) -> None:
    async with shelves(tmp_path) as (store, gates):
        await store.write([Put(key(0), value(0))])
        await store.move([key(0)], COLD)
        pointer = await gates[HOT].store.get(key(0))
        assert pointer is not None
        for bit in range(8 * len(pointer)):
            await gates[HOT].store.write([Put(key(0), flipped(pointer, bit))])
            with refused(StoreCorrupt) as told:
                await store.get(key(0))
            assert key(0).hex() in str(told[0])
            with refused(StoreCorrupt):
                await rows(store)
            try:
                swept = await store.sweep(COLD, b"", 1_000, let_all)
            except StoreCorrupt:
                continue
            assert (swept.gone, swept.damaged) == (0, 1), f"bit {bit}"
        await gates[HOT].store.write([Put(key(0), pointer)])
        assert await store.get(key(0)) == value(0)
        # Nobody may write what would be taken for one.
        with refused(StorageError):
            await store.write([Put(b"k", flipped(pointer, 3))])


@pytest.mark.parametrize("bit", [0, 5_000])
async def test_one_bad_reading_of_a_row_does_not_become_what_is_there(tmp_path: Path, bit: int) -> None:
    async with shelves(tmp_path) as (store, gates):
        wanted = {key(i): b"%d" % i * 1_000 for i in range(3)}
        await store.write([Put(*row) for row in wanted.items()])
        gates[HOT].misread = (key(1), bit)
        with refused(StoreCorrupt) as told:
            await store.move(list(wanted), COLD)
        assert key(1).hex() in str(told[0])
        assert await rows(store) == wanted
        # The copies that were made are older than what is there: they go, and then all moves.
        await store.sweep(COLD, b"", 1_000, let_all)
        assert (await store.move(list(wanted), COLD)).rows == 3
        assert await rows(store) == wanted


async def test_a_class_that_failed_is_told_and_the_rows_of_others_are_served(tmp_path: Path) -> None:
    async with shelves(tmp_path) as (store, gates):
        await store.write([Put(key(i), value(i)) for i in range(3)])
        await store.move([key(0)], COLD)
        await store.move([key(1)], WARM)
        gates[COLD].failed = True
        for call in (store.get(key(0)), rows(store), store.move([key(2)], COLD), store.move([key(0)], HOT)):
            with refused(StoreFailed):
                await call
        assert await store.get_many([key(1), key(2)]) == [value(1), value(2)]
        await store.write([Put(key(2), b"new"), Delete(key(0))])
        assert await rows(store) == {key(1): value(1), key(2): b"new"}


async def test_a_value_that_begins_with_the_stores_mark_is_refused_whole(tmp_path: Path) -> None:
    async with shelves(tmp_path) as (store, _):
        for many in (1, 3_000):
            with refused(StorageError):
                await store.write([*(Put(b"%d" % i, b"v") for i in range(many)), Put(b"k", MARK + b"!")])
        assert await rows(store) == {}


def test_a_batch_is_known_by_what_it_touches_of_what_may_move() -> None:
    spaces = Spaces([b"\x06", b"\x06\x07", b"\x10"])
    assert spaces.prefixes == (b"\x06", b"\x10")
    batch = [Put(b"\x06a", b""), Put(b"\x05a", b""), Delete(b"\x10"), DeleteRange(b"\x07", b"\x10")]
    touches = footprint(batch, spaces, MARK)
    assert (touches.keys, touches.span) == (frozenset({b"\x06a", b"\x10"}), None)
    for start, end, meets in [
        (b"", None, True),
        (b"", b"\x06", False),
        (b"\x06zz", b"\x06zzz", True),
        (b"\x07", b"\x10\x00", True),
        (b"\x11", None, False),
    ]:
        span = footprint([DeleteRange(start, end)], spaces, MARK).span
        assert (span is not None) is meets


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing moves in the background: a test says when a window ends and a round begins."""

    async def idle(self: Redistribution) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(Redistribution, "run", idle)


@attrs.define
class Virtual:
    """A clock that nobody waits for."""

    now_s: float = 1_000.0

    def monotonic(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return round(self.now_s * 1_000)

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def store_of(folder: Path, **options: Any) -> AsyncIterator[TieredStore]:
    async with opened(tiered, folder, TieredConfig(**{"share": 1.0, **options})) as store:
        yield store


async def end_windows(store: TieredStore, count: int) -> None:
    for _ in range(count):
        await store.moving.end_window()


async def test_blocks_sink_as_they_age_and_rise_when_they_are_asked_for(tmp_path: Path, still: None) -> None:
    async with store_of(tmp_path, warm_over="sqlite", keep_copies_s=0) as store:
        await store.write([Put(key(i, part), value(i, part)) for i in range(100) for part in (0, 1)])
        await store.write([Put(b"\x01state", bytes(5_000)), Put(key(3, 2), b"small")])
        await store.moving.once()
        await end_windows(store, 5)
        await store.moving.once()
        assert store.moving.moved.rows == 0
        await end_windows(store, 1)
        told = await store.temperature(look=True)
        # Height 3 was written again: it is the hottest.
        assert [(one.source, one.target, one.units, one.rows) for one in told.moves] == [
            ("hot", "warm", 19, 38),
            ("hot", "cold", 80, 160),
        ]
        assert "ranked below hot for 6 windows" in told.moves[0].why
        await store.moving.once()
        told = await store.temperature(look=True)
        assert {one.name: one.rows for one in told.classes} == {"hot": 3, "warm": 38, "cold": 160}
        assert (told.moves, told.units, told.moved_rows) == ((), 100, 198)
        for _ in range(50):
            assert await store.get(key(10)) == value(10)
        await end_windows(store, 1)
        assert (await store.temperature(look=True)).moves == ()
        await end_windows(store, 1)
        await store.moving.once()
        told = await store.temperature()
        assert [(one.source, one.rows) for one in told.moves] == []
        assert {one.name: one.rows for one in told.classes}["hot"] == 5
        async with store.snapshot() as view:
            found = await rows(view)
        assert len(found) == 202
        assert found[key(50, 1)] == value(50, 1)


async def test_the_scores_outlive_the_process_and_damaged_ones_are_forgotten(
    tmp_path: Path, still: None
) -> None:
    async with store_of(tmp_path) as store:
        await store.write([Put(key(height), value(height)) for height in range(50)])
        await store.moving.once()
        await end_windows(store, 4)
    async with store_of(tmp_path) as store:
        assert (len(store.moving.heat), store.moving.heat.windows) == (50, 4)
        await end_windows(store, 2)
        await store.moving.once()
        assert store.moving.moved.rows == 40
    (tmp_path / HEAT_FILE).write_bytes(b"not scores")
    async with store_of(tmp_path) as store:
        assert len(store.moving.heat) == 0
        assert len(await rows(store)) == 50


async def test_a_dry_run_tells_what_it_would_move_and_moves_nothing(tmp_path: Path, still: None) -> None:
    async with store_of(tmp_path, dry_run=True) as store:
        assert isinstance(store, Tempered)
        assert not (await store.temperature()).complete
        await store.write([Put(key(height), value(height)) for height in range(50)])
        await store.moving.once()
        await end_windows(store, 6)
        await store.moving.once()
        told = await store.temperature()
        assert told.complete and told.dry_run
        assert [(one.source, one.target, one.trigger, one.rows) for one in told.moves] == [
            ("hot", "cold", "rank", 40)
        ]
        assert told.moves[0].bytes == sum(len(value(height)) for height in range(40))
        assert told.moved_rows == 0
        assert {one.name: one.rows for one in told.classes} == {"hot": 50, "cold": 0}


async def test_a_tight_disk_sends_away_at_once_what_is_cold(tmp_path: Path, still: None) -> None:
    # Any disk is fuller than that.
    async with store_of(tmp_path, disk_use_max=0.0) as store:
        await store.write([Put(key(height), value(height)) for height in range(50)])
        await store.moving.once()
        await end_windows(store, 1)
        await store.moving.once()
        assert store.moving.moved.rows == 40
        told = await store.temperature()
        assert [one.trigger for one in told.moves] == ["disk"]


async def test_what_surges_comes_up_at_once_and_stays_for_the_windows_that_sinking_takes(
    tmp_path: Path, still: None
) -> None:
    async with store_of(tmp_path, surge_accesses_min=30, dry_run=False) as store:
        await store.write([Put(key(height), value(height)) for height in range(50)])
        await store.moving.once()
        await end_windows(store, 6)
        await store.moving.once()
        assert store.moving.moved.rows == 40
        for _ in range(29):
            await store.get(key(3))
        await store.moving._rise(store.moving._surging)
        assert store.moving.moved.rows == 40
        # Blocks 45 and 3 are asked for alike: one of them lies in the cold class.
        for _ in range(3):
            await store.get_many([key(3), key(45)])
        told = await store.temperature(look=True)
        assert [(one.source, one.target, one.trigger, one.rows) for one in told.moves] == [
            ("cold", "hot", "surge", 1)
        ]
        assert "30 times in a window" in told.moves[0].why
        await store.moving._rise(store.moving._surging)
        assert store.moving.moved.rows == 41
        assert store._shelves.place(key(3), (await store._hot.get(key(3))) or b"")[0] is HOT
        # Others are asked for more from now on, so that it ranks cold; it doesn't sink before its time.
        for window in range(6):
            assert b"\x06" + (3).to_bytes(8, "big") in store.moving._surged, window
            for _ in range(5):
                await store.get_many([key(height) for height in range(20, 35)])
            await store.moving.once()
            assert store._shelves.place(key(3), (await store._hot.get(key(3))) or b"")[0] is HOT
            await end_windows(store, 1)
        assert not store.moving._surged


async def test_a_surge_brings_nothing_to_a_disk_that_is_tight_and_moves_nothing_in_a_dry_run(
    tmp_path: Path, still: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervm.plugins.storage.redistribution.SURGES_MAX", 2)
    async with store_of(tmp_path, surge_accesses_min=5) as store:
        await store.write([Put(key(height), value(height)) for height in range(50)])
        await store._shelves.move([key(height) for height in range(40)], COLD)
        for _ in range(6):
            await store.get_many([key(height) for height in range(5)])
        assert len(store.moving._surged) == 2, "no more than that at once"
        store.moving._tight = (float("inf"), True)
        await store.moving._rise(store.moving._surging)
        assert store.moving.moved.rows == 0
        assert (await store.temperature(look=True)).moves == ()
    async with store_of(tmp_path, surge_accesses_min=5, dry_run=True) as store:
        for _ in range(6):
            await store.get_many([key(height) for height in range(2)])
        await store.moving._rise(store.moving._surging)
        assert store.moving.moved.rows == 0
        assert [(one.trigger, one.rows) for one in (await store.temperature(look=True)).moves] == [
            ("surge", 2)
        ]


async def test_a_full_class_is_left_alone_until_the_next_window(
    tmp_path: Path, still: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store_of(tmp_path) as store:
        await store.write([Put(key(height), bytes(200_000)) for height in range(50)])
        await store.moving.once()
        await end_windows(store, 6)
        asked = []

        async def full(self: Shelves, keys: Sequence[bytes], to: Temperature) -> None:
            asked.append(to)
            raise DiskFull("no space left", "cold")

        with monkeypatch.context() as patched:
            patched.setattr(Shelves, "move", full)
            for rounds in (1, 2):
                await store.moving.once()
                assert (asked, store.moving.moved.rows) == ([COLD], 0), rounds
        await end_windows(store, 1)
        await store.moving.once()
        assert store.moving.moved.rows == 40
        assert len(await rows(store)) == 50


async def test_moving_takes_no_more_than_its_bytes_a_second(tmp_path: Path, still: None) -> None:
    async with store_of(tmp_path, bytes_per_s_max=1_000) as store:
        await store.write([Put(key(height), bytes(10_000)) for height in range(200)])
        await store.moving.once()
        await end_windows(store, 6)
        clock = store.moving.clock = Virtual()
        began_s = clock.monotonic()
        await store.moving.once()
        moved = store.moving.moved.size_bytes
        assert moved == 160 * 10_000
        assert clock.monotonic() - began_s >= moved / 1_000


@pytest.mark.parametrize("lost", ["hot", "cold"])
async def test_a_class_whose_disk_is_not_there_is_told_and_nothing_is_made(tmp_path: Path, lost: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    options = {f"{lost}_path": str(disk / "class")}
    async with store_of(tmp_path / "store", **options) as store:
        await store.write([Put(key(0), value(0))])
    (disk / "class").rename(tmp_path / "away")
    for _ in range(2):
        with refused(StorageError) as told:
            async with store_of(tmp_path / "store", **options):
                pass
        assert f"the disk of class {lost} is not there: {disk / 'class'}. Mount it" in str(told[0])
        assert not (disk / "class").exists() or not list((disk / "class").iterdir())
        # As a mount point without its disk: there, and empty.
        (disk / "class").mkdir(exist_ok=True)
    # The disk came back at another place.
    options = {f"{lost}_path": str(tmp_path / "away")}
    async with store_of(tmp_path / "store", **options) as store:
        assert await store.get(key(0)) == value(0)


async def test_what_is_not_this_stores_class_is_refused(tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "other")):
        async with opened(tiered, tmp_path / name, TieredConfig(warm_over="sqlite"), seed=seed):
            pass
    used = tmp_path / "used"
    used.mkdir()
    (used / "file").write_text("somebody's")
    for options, words in [
        ({"warm_over": ""}, "has a class warm"),
        ({"warm_over": "lmdb"}, "is a sqlite store, not lmdb"),
        ({"warm_over": "sqlite", "cold_path": str(tmp_path / "other/cold")}, "not class cold of this store"),
        ({"warm_over": "sqlite", "cold_path": str(tmp_path / "one/warm")}, "not class cold of this store"),
        ({"warm_over": "sqlite", "cold_options": {"no_such": 1}}, "over sqlite with these options"),
    ]:
        try:
            with refused(StorageError) as told:
                async with store_of(tmp_path / "one", **options):
                    pass
        except AssertionError:
            pytest.fail(f"{options} was opened")
        assert words in str(told[0])
    with refused(StorageError) as told:
        async with store_of(tmp_path / "new", cold_path=str(used)):
            pass
    assert "is not empty (file)" in str(told[0])
    async with store_of(tmp_path / "one", warm_over="sqlite") as store:
        assert await store.health() == Health()


async def test_a_class_may_be_given_later(tmp_path: Path) -> None:
    async with store_of(tmp_path, cold_over="") as store:
        await store.write([Put(key(0), value(0))])
    async with store_of(tmp_path, cold_over="sqlite", warm_over="sqlite") as store:
        assert await store.get(key(0)) == value(0)
        assert [one.name for one in (await store.temperature()).classes] == ["hot", "warm", "cold"]


async def test_a_checkpoint_has_every_class(tmp_path: Path, still: None) -> None:
    async with store_of(tmp_path / "store") as store:
        await store.write([Put(key(height), value(height)) for height in range(50)])
        await store.moving.once()
        await end_windows(store, 6)
        await store.moving.once()
        assert store.moving.moved.rows == 40
        await store.checkpoint(tmp_path / "copy")
    shutil.rmtree(tmp_path / "store")
    async with store_of(tmp_path / "scratch", path=str(tmp_path / "copy")) as copy:
        assert await rows(copy) == {key(height): value(height) for height in range(50)}
    with pytest.raises(ValueError):
        TieredConfig(movable=["no hex"])
    with pytest.raises(ValueError):
        TieredConfig(hot_share=2.0)


async def test_rows_go_to_and_fro_while_they_are_written_and_read(tmp_path: Path, still: None) -> None:
    """What is read is always what was written, wherever chance moves the rows meanwhile."""
    chance = random.Random(5)
    names = [b"row/%02d" % i for i in range(40)]
    model: dict[bytes, bytes] = {}
    moved = dict.fromkeys(Temperature, 0)
    options = {"warm_over": "sqlite", "movable": [""]}

    async def move(shelves: Shelves) -> None:
        while True:
            to = chance.choice(list(Temperature))
            moved[to] += (await shelves.move(chance.sample(names, 10), to)).rows
            await shelves.sweep(chance.choice([WARM, COLD]), b"", 1_000, let_all)

    async with store_of(tmp_path, **options) as store, trio.open_nursery() as nursery:
        nursery.start_soon(move, store._shelves)
        i = 0
        while min(moved.values()) < 20 or i < 60:
            i += 1
            batch = [
                Put(name, b"%d " % i * chance.randrange(30)) if chance.randrange(5) else Delete(name)
                for name in chance.sample(names, 4)
            ]
            await store.write(batch, Durability.BUFFERED)
            for each in batch:
                if isinstance(each, Put):
                    model[each.key] = each.value
                else:
                    model.pop(each.key, None)
            assert await store.get_many(names) == [model.get(name) for name in names]
            assert await rows(store) == model
        nursery.cancel_scope.cancel()
    async with store_of(tmp_path, **options) as store:
        assert await rows(store) == model
