"""What is LMDB's own: a map that grows by itself, slots for readers, the sync that every commit asks for."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from supervm.contracts.storage import Delete, DeleteRange, DiskFull, Durability, Put
from supervm.plugins.storage import lmdb as module
from supervm.plugins.storage.lmdb import LmdbConfig, lmdb
from supervm.testing.conformance.component import refused
from supervm.testing.context import component_context, opened

SMALL = LmdbConfig(map_bytes=2**20)


def rows(batch: int, count: int = 100) -> list[Put]:
    return [Put(b"%04d/%03d" % (batch, i), bytes([batch % 256]) * 1_000) for i in range(count)]


async def test_the_map_grows_by_itself_and_loses_nothing(tmp_path: Path) -> None:
    async with opened(lmdb, tmp_path, SMALL) as store:
        for batch in range(60):
            await store.write(rows(batch))
            assert await store.get(b"%04d/099" % batch) is not None
        stats = await store.stats()
        assert stats.keys_estimate == 6_000
        assert stats.extras["lmdb_map_bytes"] >= 8 * 2**20
        assert stats.extras["lmdb_map_growths"] >= 3
    # The next opener asks for less than there is.
    async with opened(lmdb, tmp_path, SMALL) as store:
        assert len([key async for key, _ in store.scan()]) == 6_000
        await store.write(rows(60))


async def test_a_batch_larger_than_the_map_is_written_whole(tmp_path: Path) -> None:
    async with opened(lmdb, tmp_path, SMALL) as store:
        await store.write([*rows(0, 999), Put(b"large", bytes(12_000_000))], Durability.BUFFERED)
        assert len([key async for key, _ in store.scan()]) == 1_000


async def test_readers_go_on_while_the_map_grows(tmp_path: Path) -> None:
    async with opened(lmdb, tmp_path, SMALL) as store:
        await store.write(rows(0))
        done = trio.Event()

        async def read() -> None:
            wanted = [b"0000/%03d" % i for i in range(100)]
            while not done.is_set():
                assert set(await store.get_many(wanted)) == {bytes(1_000)}

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(read)
            for batch in range(1, 40):
                await store.write(rows(batch))
            done.set()
        assert (await store.stats()).extras["lmdb_map_growths"] >= 2


async def test_a_map_that_is_full_under_a_snapshot_refuses_and_goes_on_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GROW_WAIT_S", 0.05)
    async with opened(lmdb, tmp_path, SMALL) as store:
        await store.write(rows(0))
        acknowledged = 1
        async with store.snapshot() as snapshot:
            with refused(DiskFull) as caught:
                while True:
                    await store.write(rows(acknowledged))
                    acknowledged += 1
            assert "snapshots" in str(caught[0])
            assert (await store.health()).state == "degraded"
            assert await snapshot.get(b"0000/000") == bytes(1_000)
            assert await snapshot.get(b"0001/000") is None
            assert len([key async for key, _ in snapshot.scan()]) == 100
        assert len([key async for key, _ in store.scan()]) == 100 * acknowledged
        await store.write(rows(acknowledged))
        assert (await store.health()).state == "ok"
        assert (await store.stats()).extras["lmdb_map_growths"] >= 1


async def test_a_map_at_its_limit_is_a_full_disk_until_rows_are_deleted(tmp_path: Path) -> None:
    config = attrs.evolve(SMALL, map_bytes_max=2 * 2**20)
    async with opened(lmdb, tmp_path, config) as store:
        acknowledged = 0
        with refused(DiskFull) as caught:
            while True:
                await store.write(rows(acknowledged))
                acknowledged += 1
        assert "map_bytes_max" in str(caught[0])
        assert acknowledged > 8
        assert len([key async for key, _ in store.scan()]) == 100 * acknowledged
        with refused(DiskFull):
            await store.write(rows(acknowledged))
        # Deleting needs pages of its own, and gives more back to what is written after it.
        await store.write([Delete(b"0000/%03d" % i) for i in range(50)])
        await store.write([DeleteRange(b"0000", b"0003")])
        await store.write([Put(b"small", b"v")])
        await store.write(rows(1))
        assert (await store.health()).state == "ok"


async def test_a_machine_without_the_address_space_keeps_the_old_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(lmdb, tmp_path, SMALL) as store:
        with monkeypatch.context() as patch:
            patch.setattr(module, "_fits", lambda size: False)
            with refused(DiskFull):
                for batch in range(30):
                    await store.write(rows(batch))
            assert await store.get(b"0000/000") == bytes(1_000)
        for batch in range(30):
            await store.write(rows(batch))


def test_address_space_is_asked_for_without_taking_it() -> None:
    assert module._fits(2**30)
    assert not module._fits(2**60)


async def test_every_slot_of_a_killed_reader_is_free_again(tmp_path: Path) -> None:
    config = LmdbConfig(readers_max=12, snapshots_max=4)
    for _ in range(3):
        async with opened(lmdb, tmp_path, config) as store:
            async with store.snapshot(), store.snapshot(), store.snapshot(), trio.open_nursery() as nursery:
                for _ in range(30):
                    nursery.start_soon(store.get, b"a")
            assert (await store.stats()).extras["lmdb_readers"] <= 12


@pytest.mark.parametrize(
    "options",
    [
        {"readers_max": 20, "snapshots_max": 64},
        {"map_bytes": 2**20 + 1},
        {"map_bytes": 2**21, "map_bytes_max": 2**20},
        {"readers_max": 8},
    ],
)
def test_options_that_can_not_hold_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"map_bytes|readers_max"):
        LmdbConfig(**options)


async def test_its_gauges_have_the_documented_names(tmp_path: Path) -> None:
    async with component_context(tmp_path) as ctx, lmdb.open(ctx, LmdbConfig()) as store:
        await store.write([Put(b"a", b"v")])
        metrics = module.LmdbMetrics(ctx)
        metrics.report(await store.stats())
        assert {"lmdb_map_bytes", "lmdb_used_bytes", "lmdb_map_growths"} <= set(ctx.metrics.families)
        assert ctx.metrics.families["lmdb_pages"].records[-1][1] == 1
        assert ctx.metrics.families["lmdb_map_bytes"].records[-1][1] == 64 * 2**30
