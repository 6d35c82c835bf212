"""Migration: the same rows on another backend, gone on with when broken, the source unharmed (STO-21)."""

from contextlib import asynccontextmanager

import attrs
import pytest

from supervm.contracts.storage import Delete, Durability, KeyValueStore, Operation, Put
from supervm.storage import migration
from supervm.storage.errors import MigrationFailed, NotEmpty, Unfinished
from supervm.storage.migration import migrate
from supervm.storage.spaces import COMMIT_KEY, MIGRATE_KEY, body_key, index_key, state_key
from supervm.storage.verify import verify_tree
from tests.storage.ledger_support import FailingStore, add_block, ledger_on, opened_store, rows_of
from tests.storage.test_pruning import grow, prune_to, transactions_at

PRIVATE = [Put(b"\x0d" + bytes((number,)), b"vote") for number in range(40)] + [Put(b"\xff" * 3, b"")]
"""Rows of other components: they move too."""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(migration, "ROWS_MAX", 50)


@asynccontextmanager
async def made(path, backend="memory", blocks=12):
    if backend == "rocksdb":
        pytest.importorskip("rocksdict")
    async with opened_store(backend, path / f"source-{backend}") as store:
        async with ledger_on(store) as ledger:
            await grow(ledger, blocks)
            await prune_to(ledger, 4, 6)
        await store.write(PRIVATE)
        yield store


@pytest.fixture
async def empty(tmp_path):
    async with opened_store("memory", tmp_path / "empty") as store:
        yield store


@pytest.mark.parametrize("to", ["memory", "sqlite", "rocksdb", "lmdb"])
@pytest.mark.parametrize("of", ["memory", "sqlite", "rocksdb"])
async def test_any_backends_store_becomes_the_same_rows_on_any_other(tmp_path, of, to):
    pytest.importorskip({"rocksdb": "rocksdict", "lmdb": "lmdb"}.get(to, "trio"))
    async with made(tmp_path, of) as source, opened_store(to, tmp_path / "target") as target:
        before = await rows_of(source)
        done = await migrate(source, target)
        assert await rows_of(target) == await rows_of(source) == before
        assert (done.rows, done.found_copied) == (len(before), 0)
        async with ledger_on(target) as moved, ledger_on(source) as ledger:
            assert (moved.tip, moved.horizon) == (ledger.tip, ledger.horizon)
            await verify_tree(moved)
            block = await add_block(moved, transactions_at(13))
            assert await add_block(ledger, transactions_at(13)) == block
            assert moved.tip == ledger.tip


@pytest.mark.parametrize("after", [False, True])
async def test_a_migration_broken_at_any_write_goes_on_and_copies_nothing_twice(tmp_path, after):
    async with made(tmp_path) as source:
        expected = await rows_of(source)
        others = sum(key[:1] != b"\x00" for key in expected)
        broken_at = 0
        while True:
            async with opened_store("memory", tmp_path / f"{after}{broken_at}") as target:
                failing = FailingStore(target, broken_at, after)
                try:
                    await migrate(source, failing)
                except Exception as error:
                    assert error is failing.error
                else:
                    break
                rows = await rows_of(target)
                if COMMIT_KEY not in rows:
                    if rows:
                        with pytest.raises(Unfinished, match="supervm migrate"):
                            async with ledger_on(target):
                                pass
                    done = await migrate(source, target)
                    assert done.found_copied == min(50 * max(0, broken_at - 1 + after), others)
                assert await rows_of(target) == expected
            broken_at += 1
        assert broken_at > 5
        assert await rows_of(source) == expected


async def test_a_source_that_went_on_meanwhile_is_copied_again_from_the_start(tmp_path, empty):
    async with made(tmp_path) as source:
        with pytest.raises(Exception, match="injected"):
            await migrate(source, FailingStore(empty, 3, False))
        async with ledger_on(source) as ledger:
            await add_block(ledger, transactions_at(13))
        assert (await migrate(source, empty)).found_copied == 0
        assert await rows_of(empty) == await rows_of(source)


async def test_a_source_whose_other_rows_changed_meanwhile_is_copied_again_too(tmp_path, empty):
    async with made(tmp_path) as source:
        with pytest.raises(Exception, match="injected"):
            await migrate(source, FailingStore(empty, 6, False))
        copied = [key for key in await rows_of(empty) if key[:1] != b"\x00"]
        await source.write([Delete(copied[3]), Put(copied[5], b"other")])
        await migrate(source, empty)
        assert await rows_of(empty) == await rows_of(source)


async def test_a_target_that_holds_anything_is_refused_and_left_as_it_is(tmp_path, empty):
    async with made(tmp_path) as source:
        await empty.write([Put(b"\x20x", b"mine")])
        with pytest.raises(NotEmpty):
            await migrate(source, empty)
        assert await rows_of(empty) == {b"\x20x": b"mine"}
        async with opened_store("memory", tmp_path / "ledger") as target:
            async with ledger_on(target):
                pass
            before = await rows_of(target)
            with pytest.raises(NotEmpty):
                await migrate(source, target)
            assert await rows_of(target) == before


@attrs.define
class Lossy:
    """A store that loses, changes or adds a row of what it is given."""

    inner: KeyValueStore
    lost: bytes = b""
    changed: bytes = b""
    added: bytes = b""

    def __getattr__(self, name):
        return getattr(self.inner, name)

    async def write(self, batch: list[Operation], durability: Durability = Durability.DURABLE) -> None:
        kept = [each for each in batch if not isinstance(each, Put) or each.key != self.lost]
        kept = [
            Put(each.key, each.value + b"!") if isinstance(each, Put) and each.key == self.changed else each
            for each in kept
        ]
        await self.inner.write([*kept, *([Put(self.added, b"")] if self.added else [])], durability)


@pytest.mark.parametrize("wrong", ["lost", "changed", "added"])
async def test_a_row_that_differs_afterwards_is_named_and_no_ledger_is_made(tmp_path, empty, wrong):
    async with made(tmp_path) as source:
        rows = [key for key in await rows_of(source) if key[:1] == state_key(b"")]
        key = index_key(b"\x77" * 32) if wrong == "added" else rows[1]
        with pytest.raises(MigrationFailed, match=key.hex()):
            await migrate(source, Lossy(empty, **{wrong: key}))
    rows = await rows_of(empty)
    assert COMMIT_KEY not in rows and MIGRATE_KEY in rows
    with pytest.raises(Unfinished):
        async with ledger_on(empty):
            pass


async def test_progress_counts_up_to_all_rows(tmp_path, empty):
    seen = []
    async with made(tmp_path) as source:
        await migrate(source, empty, lambda done, of: seen.append((done, of)))
        rows = sum(key[:1] != b"\x00" for key in await rows_of(source))
    assert seen[-1] == (rows, rows)
    assert all(done <= of for done, of in seen)
    assert await empty.get(body_key(5)) is not None
