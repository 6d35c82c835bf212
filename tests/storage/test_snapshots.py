"""Snapshots: of one height while blocks go on, the same root wherever they are restored, nothing believed."""

from contextlib import asynccontextmanager
from datetime import UTC, datetime

import attrs
import pytest
import trio

from supervm.contracts.storage import DiskFull, Put, StoreCorrupt
from supervm.storage import loading, snapshot_chunks, snapshot_folder, snapshot_restore
from supervm.storage.errors import (
    ChunkMissing,
    ForeignChain,
    NotEmpty,
    Pruned,
    SnapshotBusy,
    SnapshotDamaged,
    SnapshotError,
    SnapshotRefused,
    SnapshotTooNew,
    SnapshotUntrusted,
    Unfinished,
    WrongRoot,
)
from supervm.storage.snapshot_chunks import Entry, encode_table
from supervm.storage.snapshot_folder import SnapshotFolder
from supervm.storage.snapshot_format import CREATED_MS_MAX, MANIFEST_BYTES_MAX, Manifest
from supervm.storage.snapshot_restore import (
    FolderSource,
    check_chunks,
    read_genesis,
    read_origin,
    restore_snapshot,
)
from supervm.storage.spaces import (
    BODIES,
    HISTORY,
    STALE,
    Horizon,
    Place,
    encode_block_place,
    header_key,
    state_key,
)
from supervm.storage.verify import verify_tree
from supervm.types import merkle, smt
from supervm.types.state import account_key
from tests.storage.ledger_support import (
    GENESIS,
    FailingStore,
    add_block,
    address,
    digest_of,
    ledger_on,
    make_genesis,
    opened_store,
    rows_of,
    set_balance,
)
from tests.storage.snapshot_support import (
    TRUST,
    folder_at,
    resigned,
    restore,
    take,
)
from tests.storage.test_pruning import grow, heights_of, prune_to, transactions_at

BACKENDS = ["memory", "sqlite", "rocksdb"]


def need(backend: str) -> str:
    if backend == "rocksdb":
        pytest.importorskip("rocksdict")
    return backend


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of some rows, so that a short chain has many of them."""
    monkeypatch.setattr(snapshot_chunks, "CHUNK_BYTES_MIN", 256)
    monkeypatch.setattr(snapshot_chunks, "CHUNK_BYTES_MEAN", 1024)
    monkeypatch.setattr(snapshot_chunks, "CHUNK_BYTES_MAX", 4096)


@pytest.fixture
def folder(tmp_path) -> SnapshotFolder:
    return folder_at(tmp_path)


@pytest.fixture
async def memory(tmp_path):
    async with opened_store("memory", tmp_path / "memory") as store:
        yield store


@pytest.fixture
async def empty(tmp_path):
    async with opened_store("memory", tmp_path / "empty") as store:
        yield store


@asynccontextmanager
async def made(path, backend="memory", blocks=20):
    """A ledger of some blocks."""
    async with opened_store(backend, path / f"made-{backend}") as store, ledger_on(store) as ledger:
        await grow(ledger, blocks)
        yield ledger


async def check_same(store, ledger, blocks_from):
    """The restored ledger tells the same as the one it was taken of, and goes on."""
    async with ledger_on(store) as restored:
        assert restored.tip == ledger.tip
        assert restored.tip_header == ledger.tip_header
        assert restored.horizon == Horizon(blocks_from, ledger.tip.height)
        for height in range(ledger.tip.height + 1):
            assert await restored.header(height) == await ledger.header(height)
            assert await restored.certificate(height) == await ledger.certificate(height)
            if height >= blocks_from:
                assert await restored.block(height) == await ledger.block(height)
                assert await restored.receipts(height) == await ledger.receipts(height)
            else:
                with pytest.raises(Pruned):
                    await restored.block(height)
        for number in (0, 3, 100 + ledger.tip.height, 9_999):
            header, proof = await restored.prove(account_key(address(number)))
            smt.verify(header.state_root, proof)
        digests = [digest_of(transactions_at(height)[0]) for height in range(1, ledger.tip.height + 1)]
        assert await restored.known(digests) == set(digests)
        await verify_tree(restored)


@pytest.mark.parametrize("into", ["memory", "sqlite", "rocksdb", "lmdb"])
@pytest.mark.parametrize("of", ["memory", "sqlite", "rocksdb"])
async def test_a_snapshot_of_any_backend_gives_the_same_ledger_in_any_other(tmp_path, folder, of, into):
    if into == "lmdb":
        pytest.importorskip("lmdb")
    async with made(tmp_path, need(of)) as ledger:
        name, manifest = await take(ledger, folder)
        assert name == f"snapshot-{20:012d}-{manifest.created_ms // 1000}"
        assert manifest.chunks > 20
        async with opened_store(need(into), tmp_path / "into") as store:
            assert await restore(store, folder) == manifest
            await check_same(store, ledger, 0)
            rows = await rows_of(store)
            assert not any(key[:1] in (HISTORY, STALE) for key in rows)
            assert await read_origin(store) == (20, manifest.digest)
            async with ledger_on(store) as restored:
                twin = await add_block(restored, transactions_at(21))
                assert await add_block(ledger, transactions_at(21)) == twin
                assert restored.tip == ledger.tip


async def test_a_restored_ledger_is_the_same_rows_whatever_it_was_restored_through(tmp_path, folder, empty):
    async with made(tmp_path) as ledger:
        await take(ledger, folder)
        async with opened_store("sqlite", tmp_path / "first") as first:
            await restore(first, folder)
            async with ledger_on(first) as ledger_again:
                other = SnapshotFolder(tmp_path / "other")
                await take(ledger_again, other)
                await restore(empty, other)
                one, two = await rows_of(first), await rows_of(empty)
                # They differ in what they were restored from, and in nothing else.
                assert {key for key in one if one[key] != two[key]} == {b"\x00restored"}
                assert one.keys() == two.keys()


async def test_only_the_newest_blocks_go_along_if_so_asked(tmp_path, folder, empty):
    async with made(tmp_path) as ledger:
        _, manifest = await take(ledger, folder, blocks=5)
        assert manifest.first_block == 16
        await restore(empty, folder)
        await check_same(empty, ledger, 16)
        assert heights_of(await rows_of(empty), BODIES) == set(range(16, 21))


async def test_a_pruned_ledger_has_snapshots_of_what_it_keeps(tmp_path, folder, empty):
    async with made(tmp_path) as ledger:
        await prune_to(ledger, 12, 20)
        _, manifest = await take(ledger, folder)
        assert manifest.first_block == 12
        await restore(empty, folder)
        await check_same(empty, ledger, 12)


async def test_a_snapshot_is_of_one_height_while_blocks_and_pruning_go_on(tmp_path, folder, empty):
    async with made(tmp_path, blocks=12) as ledger:
        taken = []
        async with trio.open_nursery() as nursery:

            async def snapshot() -> None:
                taken.append(await take(ledger, folder, share=0.5))

            nursery.start_soon(snapshot)
            while not taken:
                await grow(ledger, 1)
                await prune_to(ledger, ledger.tip.height - 3, ledger.tip.height)
        ((_, manifest),) = taken
        assert manifest.height < ledger.tip.height, "blocks went on meanwhile"
        await restore(empty, folder)
        async with ledger_on(empty) as restored:
            assert restored.tip.height == manifest.height
            assert restored.tip_header == await ledger.header(manifest.height)
            await verify_tree(restored)


async def test_where_headers_show_roots_late_a_snapshot_waits_for_the_one_that_shows_its_own(
    tmp_path, folder, empty
):
    async with opened_store("memory", tmp_path / "late") as store, ledger_on(store) as ledger:

        async def late_block(*transactions: bytes) -> None:
            """A block whose header shows the root of the block before."""
            shown = {"root_height": ledger.tip.height, "state_root": ledger.tip.state_root}
            covered = [ledger.tip.receipts_root] if ledger.tip.height else []
            await add_block(ledger, transactions, receipts_root=merkle.root(covered), **shown)

        for height in range(4):
            await late_block(set_balance(height, 7))
        waited = trio.Event()
        taken = []

        async def snapshot() -> None:
            taken.append(await take(ledger, folder))
            waited.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(snapshot)
            await trio.testing.wait_all_tasks_blocked(0.2)
            assert not waited.is_set(), "no header shows the tip's root yet"
            await late_block(set_balance(9, 9))
            await waited.wait()
        ((_, manifest),) = taken
        assert (manifest.height, manifest.anchor_header.height) == (4, 5)
        await restore(empty, folder)
        async with ledger_on(empty) as restored:
            assert restored.tip.state_root == manifest.state_root
            await verify_tree(restored)


async def test_two_snapshots_share_the_chunks_that_did_not_change(tmp_path, folder):
    async with made(tmp_path, blocks=40) as ledger:
        await take(ledger, folder)
        files = {path.name for path in folder.path.glob("chunks/??/*")}
        await grow(ledger, 1)
        _, manifest = await take(ledger, folder)
        added = {path.name for path in folder.path.glob("chunks/??/*")} - files
        assert len(added) < manifest.chunks / 2
        assert folder.bytes_used() == sum(path.stat().st_size for path in folder.path.glob("chunks/??/*"))


async def test_there_is_no_snapshot_of_height_0(memory, folder):
    async with ledger_on(memory) as ledger:
        with pytest.raises(SnapshotRefused, match="no block yet"):
            await take(ledger, folder)
    assert folder.listed() == []


async def test_a_damaged_row_is_never_put_into_a_snapshot(tmp_path, folder):
    async with opened_store("memory", tmp_path / "bad") as store, ledger_on(store) as ledger:
        await grow(ledger, 5)
        key = header_key(3)
        stored = await store.get(key)
        await store.write([Put(key, stored[:-1] + bytes([stored[-1] ^ 1]))])
        with pytest.raises(StoreCorrupt, match="header of height 3"):
            await take(ledger, folder)
    assert folder.listed() == []


async def test_bounds_are_kept_and_a_snapshot_that_passes_them_is_none(tmp_path, folder):
    async with made(tmp_path) as ledger:
        with pytest.raises(SnapshotRefused, match="more than they may"):
            await take(ledger, folder, folder_bytes_max=5_000)
        with pytest.raises(DiskFull, match="nearly full"):
            await take(ledger, folder, disk_free_bytes_min=2**62)
        assert folder.listed() == []
        with folder.writing():
            assert folder.sweep().files > 0
        assert folder.bytes_used() == 0


# What a restore refuses


async def test_every_flipped_byte_of_a_chunk_is_found_and_the_chunk_named(tmp_path, folder):
    async with made(tmp_path, blocks=3) as ledger:
        name, manifest = await take(ledger, folder)
    source = FolderSource(folder)
    for number, path in enumerate(sorted(folder.path.glob("chunks/??/*"))):
        good = path.read_bytes()
        for at in {0, 1, len(good) // 2, len(good) - 1}:
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises(SnapshotDamaged, match=path.name):
                await check_chunks(manifest, source)
        path.write_bytes(good[:-1])
        async with opened_store("memory", tmp_path / f"damaged{number}") as store:
            with pytest.raises(SnapshotDamaged, match=path.name):
                await restore(store, folder, name)
            path.write_bytes(good)
            # The same store goes on, once the chunk is whole.
            await restore(store, folder, name)
            async with ledger_on(store) as restored:
                await verify_tree(restored)


async def test_every_flipped_byte_of_a_manifest_is_refused_before_a_chunk_is_read(tmp_path, folder, empty):
    async with made(tmp_path, blocks=3) as ledger:
        name, manifest = await take(ledger, folder)
    path = folder.path / f"{name}.manifest"
    good = path.read_bytes()
    assert good == manifest.encode()
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises((SnapshotError, ForeignChain)):
            await restore(empty, folder)
        assert await rows_of(empty) == {}
    for short in (b"", good[:50], good[:-1], good + b"\x00", bytes(MANIFEST_BYTES_MAX + 1)):
        with pytest.raises(SnapshotError):
            Manifest.decode(short)


@pytest.mark.parametrize("at", [0, 1])
async def test_a_newer_format_is_refused_by_name(tmp_path, folder, empty, at):
    async with made(tmp_path, blocks=2) as ledger:
        name, _ = await take(ledger, folder)
    path = folder.path / f"{name}.manifest"
    data = bytearray(path.read_bytes())
    data[at] = 2
    path.write_bytes(bytes(data))
    with pytest.raises(SnapshotTooNew, match="Use a newer release"):
        await restore(empty, folder)


async def test_a_manifest_of_no_date_is_refused(tmp_path, folder):
    async with made(tmp_path, blocks=2) as ledger:
        _, manifest = await take(ledger, folder)
    last = resigned(manifest, created_ms=CREATED_MS_MAX)
    assert datetime.fromtimestamp(Manifest.decode(last.encode()).created_ms / 1_000, UTC).year == 9999
    for created_ms in (CREATED_MS_MAX + 1, 2**64 - 1):
        with pytest.raises(SnapshotDamaged, match="no date"):
            Manifest.decode(resigned(manifest, created_ms=created_ms).encode())


async def test_a_snapshot_of_another_chain_is_refused(tmp_path, folder, empty):
    other = make_genesis("other")
    async with made(tmp_path, blocks=2) as ledger:
        await take(ledger, folder)
    with folder.reading(folder.named("").name) as manifest, pytest.raises(ForeignChain):
        trust = attrs.evolve(TRUST, chain_id=other.chain_id)
        await restore_snapshot(empty, FolderSource(folder), manifest, trust)
    assert await rows_of(empty) == {}


async def test_a_snapshot_that_nobody_final_shows_is_refused(tmp_path, folder, empty):
    async with made(tmp_path, blocks=2) as ledger:
        _, manifest = await take(ledger, folder)
    source = FolderSource(folder)
    wrong = resigned(manifest, anchor_certificate=b"not")
    with pytest.raises(SnapshotUntrusted, match="nothing proves that block 2 is final"):
        await restore_snapshot(empty, source, wrong, TRUST)
    forged = attrs.evolve(manifest, created_ms=1)
    with pytest.raises(SnapshotUntrusted, match="signature"):
        await restore_snapshot(empty, source, forged, TRUST)
    assert await rows_of(empty) == {}


async def entries_of(section, source):
    return [entry async for entry in snapshot_restore._entries(section, source)]


async def rewritten(folder, manifest, section, change):
    """A snapshot signed by its maker, of whose section `change` made other rows."""
    source = FolderSource(folder)
    rows = []
    for entry in await entries_of(manifest.sections[section], source):
        rows += await snapshot_restore._rows(manifest.sections[section], entry, source)
    number = manifest.sections[section].section
    rows = sorted(change(dict(rows)).items())
    blob = b"".join([bytes((1, number)), *(snapshot_chunks.encode_row(*row) for row in rows)])
    with folder.writing():
        digest, _ = folder.put(blob)
        table, _ = folder.put(encode_table([Entry(digest, len(blob), len(rows))]))
    made_of = attrs.evolve(
        manifest.sections[section], rows=len(rows), size_bytes=len(blob), chunks=1, tables=(table,)
    )
    sections = (*manifest.sections[:section], made_of, *manifest.sections[section + 1 :])
    return resigned(manifest, sections=sections)


HEADERS_AT, CERTIFICATES_AT, INDEX_AT, BODIES_AT, RECEIPTS_AT, STATE_AT = range(1, 7)
OTHER_STATE = account_key(address(3))


@pytest.mark.parametrize(
    ("section", "change", "error", "says"),
    [
        (STATE_AT, lambda rows: rows | {OTHER_STATE: b"more"}, WrongRoot, "doesn't have the root"),
        (STATE_AT, lambda rows: dict(list(rows.items())[1:]), WrongRoot, "doesn't have the root"),
        (HEADERS_AT, lambda rows: dict(list(rows.items())[:-1]), SnapshotUntrusted, "missing"),
        (
            HEADERS_AT,
            lambda rows: rows | {(1).to_bytes(8, "big"): rows[(2).to_bytes(8, "big")]},
            SnapshotUntrusted,
            "contradicts itself",
        ),
        (CERTIFICATES_AT, lambda rows: rows | {(4).to_bytes(8, "big"): b"no"}, SnapshotUntrusted, "final"),
        (CERTIFICATES_AT, lambda rows: rows | {(1).to_bytes(8, "big"): b"no"}, SnapshotUntrusted, "final"),
        (CERTIFICATES_AT, lambda rows: dict(list(rows.items())[2:]), SnapshotUntrusted, "final"),
        (INDEX_AT, lambda rows: dict(list(rows.items())[5:]), SnapshotUntrusted, "doesn't lead to block"),
        (INDEX_AT, lambda rows: rows | {bytes(32): b"\x07"}, SnapshotDamaged, "leads to no place"),
        (
            INDEX_AT,
            lambda rows: rows | {bytes(32): encode_block_place(5)},
            SnapshotDamaged,
            "leads to no place",
        ),
        (BODIES_AT, lambda rows: dict(list(rows.items())[1:]), SnapshotUntrusted, "contradicts itself"),
        (BODIES_AT, lambda rows: dict(list(rows.items())[2:]), SnapshotUntrusted, "contradicts itself"),
        (RECEIPTS_AT, lambda rows: dict(list(rows.items())[1:]), SnapshotUntrusted, "receipts root"),
        (RECEIPTS_AT, lambda rows: dict(list(rows.items())[2:]), SnapshotUntrusted, "receipts root"),
    ],
)
async def test_a_snapshot_that_lies_with_good_chunks_is_refused_and_leaves_nothing(
    tmp_path, folder, empty, section, change, error, says
):
    async with made(tmp_path, blocks=4) as ledger:
        _, manifest = await take(ledger, folder)
    lying = await rewritten(folder, manifest, section, change)
    with pytest.raises(error, match=says):
        await restore_snapshot(empty, FolderSource(folder), lying, TRUST)
    if error is not SnapshotDamaged:
        assert await rows_of(empty) == {}
        await restore(empty, folder)


async def test_a_snapshot_that_lies_about_pruned_blocks_is_refused(tmp_path, folder, empty):
    async with made(tmp_path, blocks=8) as ledger:
        digest = (await ledger.header(2)).digest()
        _, manifest = await take(ledger, folder, blocks=3)
    assert manifest.first_block == 6
    source = FolderSource(folder)
    for changes in (
        {digest: encode_block_place(3)},
        {digest: Place(2, 0, 0, 0, 0).encode()},
    ):
        lying = await rewritten(folder, manifest, INDEX_AT, lambda rows, changes=changes: rows | changes)
        with pytest.raises(SnapshotUntrusted, match="doesn't lead to it"):
            await restore_snapshot(empty, source, lying, TRUST)
        assert await rows_of(empty) == {}
    for wrong in ({"epoch": manifest.epoch + 1}, {"validators_digest": bytes(32)}):
        with pytest.raises(SnapshotUntrusted, match="another epoch or validator set"):
            await restore_snapshot(empty, source, resigned(manifest, **wrong), TRUST)
        assert await rows_of(empty) == {}
    await restore_snapshot(empty, source, manifest, TRUST)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        (HEADERS_AT, (5).to_bytes(8, "big")),
        (HEADERS_AT, b"\x01"),
        (CERTIFICATES_AT, (5).to_bytes(8, "big")),
        (INDEX_AT, b"x" * 31),
        (BODIES_AT, (5).to_bytes(8, "big")),
        (BODIES_AT, bytes(9)),
        (RECEIPTS_AT, (5).to_bytes(8, "big") + bytes(4)),
        (STATE_AT, b""),
    ],
)
async def test_a_row_that_no_commit_makes_is_never_written(tmp_path, folder, empty, section, key):
    async with made(tmp_path, blocks=4) as ledger:
        _, manifest = await take(ledger, folder)
    lying = await rewritten(folder, manifest, section, lambda rows: rows | {key: b"?"})
    with pytest.raises(SnapshotDamaged, match="row has key"):
        await restore_snapshot(empty, FolderSource(folder), lying, TRUST)


async def test_tables_that_do_not_add_up_are_refused(tmp_path, folder, empty):
    async with made(tmp_path, blocks=4) as ledger:
        _, manifest = await take(ledger, folder)
    section = attrs.evolve(manifest.sections[STATE_AT], rows=manifest.sections[STATE_AT].rows + 1)
    lying = resigned(manifest, sections=(*manifest.sections[:STATE_AT], section))
    with pytest.raises(SnapshotDamaged, match="don't add up"):
        await restore_snapshot(empty, FolderSource(folder), lying, TRUST)


async def test_a_snapshot_of_many_tables_restores_with_one_of_them_in_memory(
    tmp_path, folder, empty, monkeypatch
):
    monkeypatch.setattr("supervm.storage.snapshot_create.TABLE_ENTRIES_MAX", 1)
    async with made(tmp_path, blocks=40) as ledger:
        root = ledger.tip.state_root
        _, manifest = await take(ledger, folder)
    state = manifest.sections[STATE_AT]
    assert len(state.tables) == state.chunks > 1
    source = Counting(folder)
    await restore_snapshot(empty, source, manifest, TRUST)
    async with ledger_on(empty) as restored:
        assert restored.tip.state_root == root
        await verify_tree(restored)
    # All were added up first; then each was asked for again just before its chunk.
    asked = [digest for digest in source.asked if digest in {*state.tables}]
    assert asked == [*state.tables, *state.tables]
    monkeypatch.setattr("supervm.storage.snapshot_create.TABLES_MAX", 1)
    async with made(tmp_path / "more", blocks=40) as ledger:
        with pytest.raises(SnapshotRefused, match="too large"):
            await take(ledger, folder)


@pytest.mark.parametrize("leaves_max", [1, 3])
async def test_a_tree_of_large_slices_is_built_in_parts_of_no_more_leaves_than_may_be(
    tmp_path, folder, empty, monkeypatch, leaves_max
):
    async with made(tmp_path, blocks=2) as ledger:
        await add_block(ledger, [set_balance(number, 7) for number in range(600)])
        root, wanted = ledger.tip.state_root, await ledger.scan_state(b"")
        _, manifest = await take(ledger, folder)
    built = []
    right = loading.build_slice

    def build_slice(leaves, height, depth):
        built.append((len(leaves), depth))
        return right(leaves, height, depth)

    monkeypatch.setattr(loading, "build_slice", build_slice)
    monkeypatch.setattr(loading, "LEAVES_MAX", leaves_max)
    await restore_snapshot(empty, FolderSource(folder), manifest, TRUST)
    assert max(count for count, _ in built) == leaves_max
    assert max(depth for _, depth in built) > 2
    async with ledger_on(empty) as restored:
        assert restored.tip.state_root == root
        assert await restored.scan_state(b"") == wanted
        await verify_tree(restored)


async def test_a_store_that_holds_anything_is_not_restored_into(tmp_path, folder, memory, empty):
    async with made(tmp_path, blocks=4) as ledger:
        await take(ledger, folder)
    async with ledger_on(memory):
        pass
    before = await rows_of(memory)
    with pytest.raises(NotEmpty, match="holds a ledger already"):
        await restore(memory, folder)
    assert await rows_of(memory) == before
    await empty.write([Put(state_key(b"x"), b"y")])
    with pytest.raises(NotEmpty):
        await restore(empty, folder)


# Going on with a restore that broke


@pytest.mark.parametrize("after", [False, True])
async def test_a_restore_broken_at_any_write_goes_on_and_gives_the_same_rows(tmp_path, folder, after):
    async with made(tmp_path, blocks=6) as ledger:
        await take(ledger, folder)
    async with opened_store("memory", tmp_path / "whole") as store:
        await restore(store, folder)
        expected = await rows_of(store)
    broken_at = 0
    while True:
        async with opened_store("memory", tmp_path / f"broken{after}{broken_at}") as store:
            failing = FailingStore(store, broken_at, after)
            try:
                await restore(failing, folder)
            except Exception as error:
                assert error is failing.error
            else:
                break
            rows = await rows_of(store)
            finished = b"\x00commit" in rows
            if rows and not finished:
                with pytest.raises(Unfinished, match="supervm snapshot restore"):
                    async with ledger_on(store):
                        pass
            if not finished:
                counting = Counting(folder)
                with folder.reading(folder.named("").name) as manifest:
                    await restore_snapshot(store, counting, manifest, TRUST)
                written = max(0, broken_at - 1 + after)
                assert counting.chunks(manifest) <= manifest.chunks - min(written, manifest.chunks)
            assert await rows_of(store) == expected
        broken_at += 1
    assert broken_at > 20


async def test_chunks_are_written_in_small_batches_and_one_that_broke_in_between_from_its_start(
    tmp_path, folder, empty, monkeypatch
):
    async with made(tmp_path, blocks=6) as ledger:
        await take(ledger, folder)
    async with opened_store("memory", tmp_path / "whole") as store:
        manifest = await restore(store, folder)
        expected = await rows_of(store)
    monkeypatch.setattr(snapshot_restore, "BATCH_ROWS", 3)
    assert max(section.rows for section in manifest.sections) > 3 * 3
    for broken_at in (3, 5, 7):
        failing = FailingStore(empty, broken_at, True)
        with pytest.raises(Exception, match="injected"):
            await restore(failing, folder)
    sizes = []

    @attrs.define
    class Sized:
        inner: object

        def __getattr__(self, name):
            return getattr(self.inner, name)

        async def write(self, batch, durability):
            sizes.append(len(batch))
            await self.inner.write(batch, durability)

    await restore(Sized(empty), folder)
    # Of each entry of the state its row and its leaf, and the count. The last batch has the tree's top.
    assert max(sizes[:-1]) <= 3 * 2 + 1
    assert await rows_of(empty) == expected


@attrs.define
class Counting:
    """A folder of chunks that counts what was asked of it, and misses what it is told to."""

    folder: SnapshotFolder
    asked: list[bytes] = attrs.Factory(list)
    missing: set[bytes] = attrs.Factory(set)

    async def blob(self, digest: bytes) -> bytes:
        self.asked.append(digest)
        if digest in self.missing:
            raise ChunkMissing(digest, "nowhere")
        return await FolderSource(self.folder).blob(digest)

    def chunks(self, manifest: Manifest) -> int:
        tables = {table for section in manifest.sections for table in section.tables}
        return len([digest for digest in self.asked if digest not in tables])


async def test_a_missing_chunk_is_named_and_the_restore_goes_on_when_it_is_there(tmp_path, folder, empty):
    async with made(tmp_path, blocks=40) as ledger:
        _, manifest = await take(ledger, folder)
    entries = await entries_of(manifest.sections[STATE_AT], FolderSource(folder))
    source = Counting(folder, missing={entries[1].digest})
    with pytest.raises(ChunkMissing, match=entries[1].digest.hex()):
        await restore_snapshot(empty, source, manifest, TRUST)
    first = source.chunks(manifest)
    source.missing.clear()
    source.asked.clear()
    await restore_snapshot(empty, source, manifest, TRUST)
    assert source.chunks(manifest) == manifest.chunks - first + 1
    async with ledger_on(empty) as restored:
        await verify_tree(restored)


async def test_an_unfinished_restore_is_not_mixed_with_another_snapshot(tmp_path, folder, empty):
    async with made(tmp_path, blocks=6) as ledger:
        _, first = await take(ledger, folder)
        await grow(ledger, 1)
        _, second = await take(ledger, folder)
    with pytest.raises(Exception, match="injected"):
        await restore_snapshot(FailingStore(empty, 5, False), FolderSource(folder), first, TRUST)
    with pytest.raises(NotEmpty, match="unfinished restore of another snapshot"):
        await restore_snapshot(empty, FolderSource(folder), second, TRUST)
    await restore_snapshot(empty, FolderSource(folder), first, TRUST)


async def test_a_cancelled_restore_goes_on(tmp_path, folder, empty):
    async with made(tmp_path, blocks=8) as ledger:
        await take(ledger, folder)
        for stop_at in (1, 10, 100):
            with trio.CancelScope() as scope:
                seen = 0

                def count(done: int, of: int) -> None:
                    nonlocal seen
                    seen += 1
                    if seen == stop_at:  # noqa: B023
                        scope.cancel()

                await restore(empty, folder, progress=count)
            assert scope.cancelled_caught
        await restore(empty, folder)
        await check_same(empty, ledger, 0)


# The folder


async def test_old_snapshots_go_but_not_the_pinned_nor_those_being_read(tmp_path, folder):
    names = []
    async with made(tmp_path, blocks=0) as ledger:
        for _ in range(5):
            await grow(ledger, 10)
            names.append((await take(ledger, folder))[0])
    assert [one.name for one in folder.listed()] == names
    assert [one.height for one in folder.listed()] == [10, 20, 30, 40, 50]
    folder.pin(names[0])
    with folder.reading(names[1]), folder.writing():
        assert folder.remove_old(3) == []
        with pytest.raises(SnapshotRefused, match="pinned"):
            folder.remove(names[0])
        with pytest.raises(SnapshotRefused, match="being read"):
            folder.remove(names[1])
    with folder.writing():
        assert folder.remove_old(3) == [names[1]]
        folder.pin(names[0], False)
        assert folder.remove_old(3) == [names[0]]
        folder.sweep()
    assert [one.name for one in folder.listed()] == names[2:]
    for name in names[2:]:
        manifest = folder.manifest(name)
        await check_chunks(manifest, FolderSource(folder))


@pytest.mark.parametrize("named_max", [1, 4, snapshot_folder.NAMED_MAX])
async def test_a_sweep_removes_what_no_snapshot_names_and_nothing_else(
    tmp_path, folder, monkeypatch, named_max
):
    async with made(tmp_path, blocks=40) as ledger:
        name, _ = await take(ledger, folder)
    held, right = [], SnapshotFolder._named

    def named(self, low):
        found, high = right(self, low)
        held.append(len(found))
        return found, high

    monkeypatch.setattr(snapshot_folder, "NAMED_MAX", named_max)
    monkeypatch.setattr(SnapshotFolder, "_named", named)
    files = {path.name for path in folder.path.glob("chunks/??/*")}
    with folder.writing():
        lost, _ = folder.put(b"\x01\x05nobody's")
        (folder.path / "chunks" / "ab").mkdir(exist_ok=True)
        (folder.path / "chunks" / "ab" / ("ab" * 32 + ".tmp")).write_bytes(b"half")
        swept = folder.sweep()
        assert (swept.files, swept.bytes) == (2, len(b"\x01\x05nobody's") + 4)
        assert {path.name for path in folder.path.glob("chunks/??/*")} == files
        # Two may begin with the same byte.
        assert sum(held) == len(files) > 8 and max(held) <= max(named_max, 3)
        folder.remove(name)
        folder.sweep()
    assert folder.bytes_used() == 0
    assert lost.hex() not in files


async def test_a_sweep_with_an_unreadable_manifest_removes_nothing(tmp_path, folder):
    async with made(tmp_path) as ledger:
        name, _ = await take(ledger, folder)
    (folder.path / f"{name}.manifest").write_bytes(b"\x01rubbish")
    before = folder.bytes_used()
    with folder.writing(), pytest.raises(SnapshotDamaged):
        folder.sweep()
    assert folder.bytes_used() == before > 0


async def test_a_sweep_knows_the_chunks_of_more_snapshots_than_are_listed(tmp_path, folder, monkeypatch):
    async with made(tmp_path, blocks=0) as ledger:
        names = []
        for _ in range(3):
            await grow(ledger, 5)
            names.append((await take(ledger, folder))[0])
    monkeypatch.setattr(snapshot_folder, "LISTED_MAX", 1)
    assert [one.name for one in folder.listed()] == names[2:]
    with folder.writing():
        assert folder.remove_old(2) == names[:1]
        folder.sweep()
    for name in names[1:]:
        await check_chunks(folder.manifest(name), FolderSource(folder))


async def test_a_sweep_removes_half_written_manifests_and_no_other_file(tmp_path, folder):
    async with made(tmp_path, blocks=2) as ledger:
        name, _ = await take(ledger, folder)
    half, foreign = folder.path / f"{name}.manifest.tmp", folder.path / "snapshot-mine.manifest.tmp"
    for path in (half, foreign):
        path.write_bytes(b"half")
    with folder.writing():
        folder.sweep()
    assert not half.exists() and foreign.exists()


async def test_what_goes_while_chunks_are_counted_counts_nothing(tmp_path, folder):
    async with made(tmp_path, blocks=2) as ledger:
        await take(ledger, folder)
    size_bytes = folder.bytes_used()
    (folder.path / "chunks" / "ab").mkdir(exist_ok=True)
    (folder.path / "chunks" / "ab" / "gone").symlink_to(tmp_path / "nowhere")
    assert folder.bytes_used() == size_bytes > 0


async def test_one_writes_at_a_time(tmp_path, folder):
    async with made(tmp_path, blocks=2) as ledger:
        with folder.writing(), pytest.raises(SnapshotBusy):
            await take(ledger, folder)
        await take(ledger, folder)


async def test_names_that_are_no_snapshots_are_ignored_and_unknown_ones_refused(tmp_path, folder):
    async with made(tmp_path, blocks=2) as ledger:
        name, _ = await take(ledger, folder)
    for foreign in ("snapshot-1-2.manifest", "notes.txt", f"{name}.manifest.tmp", "snapshot-x.manifest"):
        (folder.path / foreign).write_bytes(b"")
    assert [one.name for one in folder.listed()] == [name]
    with pytest.raises(SnapshotError, match=name):
        folder.named("snapshot-000000000009-1")


async def test_a_snapshot_brings_the_genesis_of_its_chain(tmp_path, folder):
    async with made(tmp_path, blocks=2) as ledger:
        _, manifest = await take(ledger, folder)
    assert await read_genesis(manifest, FolderSource(folder)) == GENESIS
    other = make_genesis("other").encode()
    lying = await rewritten(folder, manifest, 0, lambda rows: dict.fromkeys(rows, other))
    with pytest.raises(SnapshotDamaged, match="its genesis makes chain"):
        await read_genesis(lying, FolderSource(folder))
