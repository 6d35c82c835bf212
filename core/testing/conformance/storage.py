"""The storage role's promises as tests. `class TestMine(StorageConformance): component = mine`.

Needs pytest-trio and hypothesis. What a backend can't do is taken from its `capabilities`; what it can,
it must do.
"""

import contextlib
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import attrs
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from supervm.contracts.storage import (
    BATCH_OPERATIONS_MAX,
    CAPABILITIES,
    KEY_BYTES_MAX,
    PAGE_ROWS_MAX,
    VALUE_BYTES_MAX,
    BadKey,
    Delete,
    DeleteRange,
    Durability,
    KeyValueStore,
    Operation,
    Put,
    Reader,
    SnapshotExpired,
    StorageError,
    StoreFailed,
    StoreLocked,
    TooLarge,
    Unsupported,
)
from supervm.testing.conformance import storage_child
from supervm.testing.conformance.component import ComponentConformance, refused

AWKWARD_KEYS = [
    b"\x00", b"\x00\x00", b"\x00\xff", b"a", b"a\x00", b"aa", b"b", b"\x7f", b"\x80",
    b"\xff", b"\xff\x00", b"\xff\xff", b"\xff\xff\x00", b"\xff\xff\xff",
]  # fmt: skip

KILL_AFTER_S_MAX = 0.02
PATIENCE_S = 120.0
"""How long a slow machine may take for what must happen; a store that keeps the contract never does."""

keys = st.one_of(st.sampled_from(AWKWARD_KEYS), st.binary(min_size=1, max_size=4))
bounds = st.one_of(st.just(b""), keys)
operations = st.one_of(
    st.builds(Put, keys, st.binary(max_size=6)),
    st.builds(Delete, keys),
    st.builds(DeleteRange, bounds, st.one_of(st.none(), bounds)),
)
steps = st.lists(
    st.tuples(st.lists(operations, max_size=6), st.sampled_from(Durability)), min_size=1, max_size=8
)
spans = st.tuples(
    bounds, st.one_of(st.none(), bounds), st.booleans(), st.one_of(st.none(), st.integers(0, 5))
)


async def rows_of(reader: Reader, *args: Any, **options: Any) -> list[tuple[bytes, bytes]]:
    """All rows of a scan."""
    return [row async for row in reader.scan(*args, **options)]


def expected_rows(
    model: dict[bytes, bytes], start: bytes, end: bytes | None, reverse: bool, limit: int | None
) -> list[tuple[bytes, bytes]]:
    """What a scan of a plain dictionary gives."""
    found = sorted(
        ((k, v) for k, v in model.items() if k >= start and (end is None or k < end)), reverse=reverse
    )
    return found[:limit]


class StorageConformance(ComponentConformance):
    """`kills` is how often a persistent store's process is killed while it writes."""

    kills: ClassVar[int] = 8
    examples: ClassVar[int] = 25

    @asynccontextmanager
    async def opened(self, folder: Path, **options: Any) -> AsyncIterator[KeyValueStore]:
        async with super().opened(folder, **options) as store:
            assert isinstance(store, KeyValueStore)
            yield store

    @asynccontextmanager
    async def opened_checkpoint(self, path: Path, scratch: Path) -> AsyncIterator[KeyValueStore]:
        """Open a checkpoint; override where it is not by the option `path`."""
        assert "path" in {field.name for field in attrs.fields(self.component.config)}
        async with self.opened(scratch, path=str(path)) as store:
            yield store

    async def test_rows_come_in_bytewise_order(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            shuffled = AWKWARD_KEYS[:]
            random.Random(1).shuffle(shuffled)
            for key in shuffled:
                await store.write([Put(key, key)])
            assert await rows_of(store) == [(key, key) for key in sorted(AWKWARD_KEYS)]
            assert await rows_of(store, reverse=True) == [(k, k) for k in sorted(AWKWARD_KEYS)[::-1]]

    async def test_a_scan_includes_its_start_and_excludes_its_end(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.write([Put(b"%d" % i, b"") for i in range(6)])
            assert [k for k, _ in await rows_of(store, b"2", b"4")] == [b"2", b"3"]
            assert [k for k, _ in await rows_of(store, b"2", b"4", reverse=True)] == [b"3", b"2"]
            assert await rows_of(store, b"4", b"4") == []
            assert await rows_of(store, b"4", b"2") == []
            assert await rows_of(store, b"4", b"2", reverse=True) == []

    async def test_a_scan_stops_at_its_limit_on_its_own_side(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.write([Put(b"%d" % i, b"") for i in range(6)])
            assert await rows_of(store, limit=0) == []
            assert [k for k, _ in await rows_of(store, limit=2)] == [b"0", b"1"]
            assert [k for k, _ in await rows_of(store, limit=2, reverse=True)] == [b"5", b"4"]
            with refused(StorageError):
                await rows_of(store, limit=-1)

    async def test_a_prefix_of_ff_bytes_reaches_the_end_of_the_store(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.write([Put(key, b"v") for key in AWKWARD_KEYS])
            for prefix in (b"", b"a", b"\x00", b"\xff", b"\xff\xff", b"\xff\xff\xff", b"zz"):
                under = [k for k in sorted(AWKWARD_KEYS) if k.startswith(prefix)]
                assert [k async for k, _ in store.scan_prefix(prefix)] == under
                assert [k async for k, _ in store.scan_prefix(prefix, reverse=True)] == under[::-1]
                assert [k async for k, _ in store.scan_prefix(prefix, limit=1)] == under[:1]

    async def test_an_empty_value_is_not_an_absent_one(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.write([Put(b"empty", b"")])
            assert await store.get(b"empty") == b""
            assert await store.get(b"absent") is None
            assert await rows_of(store) == [(b"empty", b"")]

    async def test_the_last_operation_on_a_key_wins(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.write([Put(b"a", b"1"), Put(b"a", b"2"), Put(b"b", b"1"), Delete(b"b"), Delete(b"c")])
            assert await rows_of(store) == [(b"a", b"2")]
            await store.write([Delete(b"a"), Put(b"a", b"3")])
            assert await store.get(b"a") == b"3"

    async def test_a_range_is_deleted_at_its_place_in_the_batch(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.write([Put(b"a", b"old"), Put(b"b", b"old"), Put(b"c", b"old")])
            await store.write([Put(b"aa", b"1"), DeleteRange(b"a", b"c"), Put(b"b", b"new")])
            assert await rows_of(store) == [(b"b", b"new"), (b"c", b"old")]
            await store.write([DeleteRange(b"c", b"c"), DeleteRange(b"z", b"a"), DeleteRange(b"", b"b")])
            assert len(await rows_of(store)) == 2
            await store.write([Put(b"\xff" * KEY_BYTES_MAX, b""), DeleteRange(b"c", None)])
            assert await rows_of(store) == [(b"b", b"new")]
            await store.write([DeleteRange(b"", None)])
            assert await rows_of(store) == []

    async def test_deleting_nothing_and_writing_nothing_are_no_errors(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.write([Delete(b"absent"), DeleteRange(b"x", b"y")])
            for level in Durability:
                await store.write([], level)
            assert await rows_of(store) == []

    async def test_many_keys_are_answered_in_the_order_asked(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.write([Put(b"%d" % i, b"v%d" % i) for i in range(5)])
            asked = [b"3", b"absent", b"0", b"3", b"4"]
            wanted = [b"v3", None, b"v0", b"v3", b"v4"]
            assert await store.get_many(asked) == wanted
            assert await store.get_many([]) == []
            async with store.snapshot() as snapshot:
                assert await snapshot.get_many(asked) == wanted
            many = [b"%d" % (i % 7) for i in range(3_000)]
            assert await store.get_many(many) == [b"v" + k if k < b"5" else None for k in many]

    async def test_a_bad_operation_anywhere_leaves_nothing_of_its_batch(self, tmp_path: Path) -> None:
        long = b"k" * (KEY_BYTES_MAX + 1)
        bad: list[tuple[Any, type[StorageError]]] = [
            (Put(b"", b"v"), BadKey),
            (Delete(b""), BadKey),
            (Put(long, b"v"), TooLarge),
            (Delete(long), TooLarge),
            (Put(b"k", bytes(VALUE_BYTES_MAX + 1)), TooLarge),
            (Put("text", b"v"), BadKey),  # type: ignore[arg-type]
            (Put(b"k", None), BadKey),  # type: ignore[arg-type]
            (DeleteRange(b"a", 5), BadKey),  # type: ignore[arg-type]
            ("no operation", BadKey),
        ]
        good: list[Operation] = [Put(b"1", b"v"), Delete(b"kept"), DeleteRange(b"k", b"l")]
        async with self.opened(tmp_path) as store:
            await store.write([Put(b"kept", b"here")])
            for operation, error in bad:
                for place in range(len(good) + 1):
                    with refused(error):
                        await store.write([*good[:place], operation, *good[place:]])
            assert await rows_of(store) == [(b"kept", b"here")]

    async def test_a_bad_key_is_refused_by_every_read(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store, store.snapshot() as snapshot:
            for reader in (store, snapshot):
                for key, error in ((b"", BadKey), (b"k" * (KEY_BYTES_MAX + 1), TooLarge), ("a", BadKey)):
                    with refused(error):
                        await reader.get(key)  # type: ignore[arg-type]
                    with refused(error):
                        await reader.get_many([b"a", key])  # type: ignore[list-item]
                with refused(TooLarge):
                    await rows_of(reader, b"k" * (KEY_BYTES_MAX + 2))
                with refused(BadKey):
                    await rows_of(reader, "text")

    async def test_what_is_just_within_the_limits_is_kept(self, tmp_path: Path) -> None:
        key, value = b"\xff" * KEY_BYTES_MAX, bytes(VALUE_BYTES_MAX)
        async with self.opened(tmp_path) as store:
            await store.write([Put(key, value)])
            assert await store.get(key) == value
            assert len(await rows_of(store, key, key + b"\x00")) == 1

    async def test_a_batch_over_its_limits_is_refused_whole(self, tmp_path: Path) -> None:
        value = bytes(VALUE_BYTES_MAX)
        async with self.opened(tmp_path) as store:
            with refused(TooLarge):
                await store.write([Put(b"%d" % i, value) for i in range(5)])
            with refused(TooLarge):
                await store.write([Put(b"k", b"v")] * (BATCH_OPERATIONS_MAX + 1))
            assert await rows_of(store) == []

    async def test_a_snapshot_never_sees_a_later_write(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.write([Put(b"%03d" % i, b"old") for i in range(100)])
            before = await rows_of(store)
            async with store.snapshot() as snapshot:
                await store.write(
                    [Put(b"%03d" % i, b"new") for i in range(0, 100, 2)]
                    + [Delete(b"001"), DeleteRange(b"050", b"060"), Put(b"000x", b"new"), Put(b"zzz", b"new")]
                )
                assert await rows_of(snapshot) == before
                assert await rows_of(snapshot, reverse=True) == before[::-1]
                assert await rows_of(snapshot, b"049", b"061", limit=5) == before[49:54]
                assert [row async for row in snapshot.scan_prefix(b"05")] == before[50:60]
                assert await snapshot.get(b"zzz") is None
                assert await snapshot.get_many([b"001", b"000", b"055"]) == [b"old"] * 3
                async with store.snapshot() as later:
                    await store.write([DeleteRange(b"", None)])
                    assert await later.get(b"zzz") == b"new"
                    assert await snapshot.get(b"099") == b"old"
                assert await rows_of(snapshot) == before
            assert await rows_of(store) == []

    async def test_a_snapshot_is_closed_with_its_context(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.write([Put(b"a", b"1")])
            async with store.snapshot() as snapshot:
                assert await snapshot.get(b"a") == b"1"
            with refused(SnapshotExpired):
                await snapshot.get(b"a")
            with refused(SnapshotExpired):
                await rows_of(snapshot)

    async def test_a_scan_keeps_its_view_while_others_write(self, tmp_path: Path) -> None:
        count = PAGE_ROWS_MAX * 2 + 500
        for reverse in (False, True):
            async with self.opened(tmp_path / str(reverse)) as store:
                await store.write([Put(b"%06d" % i, b"old") for i in range(count)])
                seen: list[tuple[bytes, bytes]] = []
                async with aclosing(store.scan(reverse=reverse)) as rows:  # type: ignore[type-var]
                    async for row in rows:
                        if len(seen) in (0, PAGE_ROWS_MAX + 1):
                            await store.write(
                                [Put(b"%06d" % i, b"new") for i in range(0, count, 3)]
                                + [DeleteRange(b"000500", b"001700"), Put(b"000001x", b"new")]
                            )
                        seen.append(row)
                wanted = [(b"%06d" % i, b"old") for i in range(count)]
                assert seen == (wanted[::-1] if reverse else wanted)

    async def test_rows_larger_than_a_page_are_scanned(self, tmp_path: Path) -> None:
        values = [bytes([i]) * (700_000 if i % 2 else 2_500_000) for i in range(5)]
        async with self.opened(tmp_path) as store:
            await store.write([Put(b"%d" % i, value) for i, value in enumerate(values)])
            assert [v for _, v in await rows_of(store)] == values
            assert [v for _, v in await rows_of(store, reverse=True)] == values[::-1]

    async def test_readers_see_whole_batches_only(self, tmp_path: Path) -> None:
        names = [b"%02d" % i for i in range(30)]
        seen: set[bytes | None] = set()
        async with self.opened(tmp_path) as store:
            await store.write([Put(name, b"0") for name in names])
            done = trio.Event()

            async def write() -> None:
                # Until they have met, whichever thread the system lets run first.
                i = 0
                with trio.move_on_after(PATIENCE_S):
                    while i < 24 or len(seen) < 2:
                        i += 1
                        await store.write([Put(name, b"%d" % i) for name in names], Durability.BUFFERED)
                        # A store may finish a write that is cancelled, and a reader may have failed.
                        await trio.lowlevel.checkpoint()
                done.set()

            async def read() -> None:
                while not done.is_set():
                    for values in (await store.get_many(names), [v for _, v in await rows_of(store)]):
                        assert len(set(values)) == 1, "a reader saw a part of a batch"
                        seen.add(values[0])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                for _ in range(3):
                    nursery.start_soon(read)
            assert len(seen) > 1

    async def test_a_long_batch_becomes_visible_at_once(self, tmp_path: Path) -> None:
        count = 6_000
        async with self.opened(tmp_path) as store:
            done = trio.Event()

            async def write() -> None:
                await store.write([Put(b"%06d" % i, b"v") for i in range(count)])
                await store.write([DeleteRange(b"", None), Put(b"%06d" % (count - 1), b"v")])
                done.set()

            ends = [b"000000", b"%06d" % (count - 1)]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                while not done.is_set():
                    assert await store.get_many(ends) in ([None, None], [b"v", b"v"], [None, b"v"])
                    assert len(await rows_of(store)) in (0, count, 1)

    async def test_a_cancelled_write_happened_fully_or_not_at_all(self, tmp_path: Path) -> None:
        names = [b"%04d" % i for i in range(2_500)]
        outcomes = set()
        async with self.opened(tmp_path) as store:
            for attempt in range(24):
                mark = b"%d" % attempt

                async def write(mark: bytes = mark) -> None:
                    await store.write([Put(name, mark) for name in names], Durability.BUFFERED)

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(write)
                    for _ in range(attempt):
                        await trio.lowlevel.checkpoint()
                    nursery.cancel_scope.cancel()
                values = set(await store.get_many(names))
                assert len(values) == 1, "a cancelled write was half done"
                outcomes.add(values == {mark})
            await store.write([Put(b"after", b"")])
            assert await store.get(b"after") == b""
        assert outcomes, "no attempt was made"

    async def test_a_write_that_waits_may_be_cancelled_and_others_go_on(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            async with trio.open_nursery() as nursery:
                for i in range(12):
                    scope = trio.CancelScope()

                    async def write(i: int = i, scope: trio.CancelScope = scope) -> None:
                        with scope:
                            await store.write([Put(b"a%02d" % i, b"v"), Put(b"b%02d" % i, b"v")])

                    nursery.start_soon(write)
                    if i % 3 == 0:
                        nursery.start_soon(_cancel_soon, scope)
            for i in range(12):
                values = await store.get_many([b"a%02d" % i, b"b%02d" % i])
                assert values in ([b"v", b"v"], [None, None])
                assert values[0] == b"v" or i % 3 == 0

    async def test_a_cancelled_read_leaves_the_store_serving(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.write([Put(b"%04d" % i, b"v") for i in range(3_000)])
            for checkpoints in range(8):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(rows_of, store)
                    nursery.start_soon(store.get, b"0001")
                    for _ in range(checkpoints):
                        await trio.lowlevel.checkpoint()
                    nursery.cancel_scope.cancel()
            assert len(await rows_of(store)) == 3_000
            assert (await store.stats()).snapshots_open == 0

    async def test_concurrent_writers_all_succeed_each_in_its_order(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:

            async def write(task: int) -> None:
                for i in range(8):
                    await store.write([Put(b"%02d" % task, b"%d" % i), Put(b"%02d/%d" % (task, i), b"v")])
                    assert await store.get(b"%02d" % task) == b"%d" % i

            async with trio.open_nursery() as nursery:
                for task in range(16):
                    nursery.start_soon(write, task)
            assert len(await rows_of(store)) == 16 * 9

    async def test_every_call_after_closing_is_refused(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.write([Put(b"a", b"1")])
        with refused(StoreFailed):
            await store.get(b"a")
        with refused(StoreFailed):
            await store.write([Put(b"a", b"2")])
        with refused(StoreFailed):
            await rows_of(store)
        with refused(StoreFailed):
            async with store.snapshot():
                pass

    async def test_capabilities_and_levels_say_what_is_true(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            assert store.capabilities <= CAPABILITIES
            assert store.capabilities == self.component.features & CAPABILITIES
            assert set(store.gives) == set(Durability)
            if "persistent" in store.capabilities:
                assert all(given >= asked for asked, given in store.gives.items())
            if "compaction" in store.capabilities:
                await store.write([Put(b"a", b"1"), Put(b"b", b"2")])
                await store.compact()
                await store.compact(b"a", b"b")
                assert len(await rows_of(store)) == 2
            else:
                with refused(Unsupported):
                    await store.compact()
            if "properties" in store.capabilities:
                assert await store.get_property("no such property") is None
            else:
                with refused(Unsupported):
                    await store.get_property("anything")

    async def test_statistics_move_with_the_work(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            before = await store.stats()
            await store.write([Put(b"%04d" % i, bytes(500)) for i in range(2_000)])
            async with store.snapshot():
                after = await store.stats()
            assert after.keys_estimate > before.keys_estimate
            assert after.bytes > before.bytes
            assert after.snapshots_open == 1
            assert (await store.stats()).snapshots_open == 0
            assert after.disk_kept_bytes >= 0 and after.stalled_s >= 0
            if after.disk_free_bytes is not None and after.disk_bytes is not None:
                assert 0 <= after.disk_free_bytes <= after.disk_bytes

    async def test_a_checkpoint_is_one_moment_and_opens_as_a_store(self, tmp_path: Path) -> None:
        names = [b"%02d" % i for i in range(40)]
        path = tmp_path / "copies" / "one"
        async with self.opened(tmp_path / "store") as store:
            if "checkpoint" not in store.capabilities:
                with refused(Unsupported):
                    await store.checkpoint(path)
                return
            await store.write([Put(name, b"0") for name in names] + [Put(b"kept", b"v")])
            with refused(StorageError):
                await store.checkpoint(path)
            assert not path.parent.exists()
            path.parent.mkdir()
            done = trio.Event()

            async def write() -> None:
                i = 0
                while not done.is_set():
                    i += 1
                    await store.write([Put(name, b"%d" % i) for name in names], Durability.BUFFERED)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                await store.checkpoint(path)
                done.set()
            assert [entry.name for entry in path.parent.iterdir()] == ["one"]
            with refused(StorageError):
                await store.checkpoint(path)
            await store.write([Delete(b"kept")])
        async with self.opened_checkpoint(path, tmp_path / "scratch") as copy:
            assert len(set(await copy.get_many(names))) == 1
            assert await copy.get(b"kept") == b"v"
            await copy.write([Put(b"more", b"v")])

    async def test_it_agrees_with_a_sorted_dictionary(self) -> None:
        @settings(max_examples=self.examples, deadline=None, database=None)
        @given(steps, st.lists(spans, min_size=1, max_size=4))
        def agrees(history: Any, asked: Any) -> None:
            with tempfile.TemporaryDirectory() as folder:
                trio.run(self._check_history, Path(folder), history, asked)

        # Each example runs in a Trio of its own, so that it has a store of its own.
        await trio.to_thread.run_sync(agrees)

    async def _check_history(self, folder: Path, history: Any, asked: Any) -> None:
        model: dict[bytes, bytes] = {}
        async with self.opened(folder / "store") as store:
            persistent = "persistent" in store.capabilities
            for batch, level in history:
                old = dict(model)
                async with store.snapshot() as snapshot:
                    await store.write(batch, level)
                    storage_child.apply(model, batch)
                    for start, end, reverse, limit in asked:
                        scan = {"reverse": reverse, "limit": limit}
                        assert await rows_of(store, start, end, **scan) == expected_rows(
                            model, start, end, **scan
                        )
                        assert await rows_of(snapshot, start, end, **scan) == expected_rows(
                            old, start, end, **scan
                        )
            assert await store.get_many(AWKWARD_KEYS) == [model.get(key) for key in AWKWARD_KEYS]
        async with self.opened(folder / "store") as store:
            assert dict(await rows_of(store)) == (model if persistent else {})

    async def test_what_was_written_is_there_after_reopening(self, tmp_path: Path) -> None:
        for level in Durability:
            async with self.opened(tmp_path) as store:
                persistent = "persistent" in store.capabilities
                await store.write([Put(b"%d" % level, b"v"), Put(b"d%d" % level, b"v")], level)
                await store.write([Delete(b"d%d" % level)], level)
        async with self.opened(tmp_path) as store:
            wanted = [(b"%d" % level, b"v") for level in Durability]
            assert await rows_of(store) == (wanted if persistent else [])

    async def test_a_second_opener_is_refused_and_the_first_goes_on(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            if "persistent" not in store.capabilities:
                return
            with refused(StoreLocked):
                async with self.opened(tmp_path):
                    pass
            other = await trio.to_thread.run_sync(lambda: self._child(tmp_path, 1).communicate())
            assert "StoreLocked" in other[1]
            await store.write([Put(b"a", b"1")])
            assert await store.get(b"a") == b"1"
        async with self.opened(tmp_path) as store:
            assert await store.get(b"a") == b"1"

    async def test_after_a_kill_the_store_holds_a_prefix_with_all_that_was_acknowledged(
        self, tmp_path: Path
    ) -> None:
        async with self.opened(tmp_path / "store") as store:
            if "persistent" not in store.capabilities:
                return
        chance, seed, kept = random.Random(7), 7, 0
        for _ in range(self.kills):
            must = await trio.to_thread.run_sync(self._kill, tmp_path / "store", seed, chance)
            async with self.opened(tmp_path / "store") as store:
                stands = int(await store.get(storage_child.COUNT) or 0)
                assert stands >= max(must, kept), "an acknowledged batch is gone"
                model: dict[bytes, bytes] = {}
                for i in range(stands):
                    storage_child.apply(model, storage_child.batch_of(seed, i)[0])
                assert dict(await rows_of(store)) == model, "what is there is no prefix of the batches"
                kept = stands
        assert kept > 0

    def _kill(self, folder: Path, seed: int, chance: random.Random) -> int:
        """Let a child write, kill it within a batch; how many batches must be there after that."""
        acknowledged = chance.randrange(1, 60)
        with self._child(folder, seed) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            line = child.stdout.readline()
            if not line.startswith("open"):
                raise AssertionError(child.stderr.read())
            must = 0
            for _ in range(acknowledged):
                i, level = map(int, child.stdout.readline().split())
                if level >= Durability.BUFFERED:
                    must = i + 1
            # The child is killed at some moment of the batches that follow, not just after a commit.
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=chance.random() * KILL_AFTER_S_MAX)
            child.kill()
            for line in child.stdout:
                if line.endswith("\n"):
                    i, level = map(int, line.split())
                    must = i + 1 if level >= Durability.BUFFERED else must
        return must

    def _child(self, folder: Path, seed: int) -> subprocess.Popen[str]:
        module = self.component.open.__module__
        return subprocess.Popen(
            [sys.executable, storage_child.__file__, module, self.component.name, str(folder), str(seed)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # So that the child finds the module where this process did.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )


async def _cancel_soon(scope: trio.CancelScope) -> None:
    for _ in range(3):
        await trio.lowlevel.checkpoint()
    scope.cancel()
