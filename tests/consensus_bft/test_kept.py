"""What is kept of committed blocks beside the ledger: as much as the node keeps blocks, and a restart reads
the rows of its epoch only."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from supervm.contracts.application import ExecutedFacts, Tip
from supervm.contracts.storage import Delete, DeleteRange, DiskFull, KeyValueStore, Put, StoreCorrupt
from supervm.plugins.consensus.bft.driver.component import BftConfig
from supervm.plugins.consensus.bft.driver.kept import (
    BATCHES,
    BATCHES_AT,
    BATCHES_INDEXED,
    BLOCKS,
    INDEXED_TOGETHER,
    OPERATIONS,
    REMOVED_MIN,
    KeptBlocks,
)
from supervm.plugins.consensus.bft.events import Final
from supervm.plugins.storage import supervm_components as stores
from supervm.storage.spaces import seal
from supervm.testing.context import opened
from supervm.types.digests import Digest
from tests.consensus_bft.chains import Truth, true_chain
from tests.consensus_bft.network import Network, network
from tests.consensus_bft.sim.world import hash32

LENGTH = 20
"""Blocks of an epoch."""
CHAIN = true_chain(3, epochs=4, length=LENGTH)


@attrs.define
class Counting:
    """A store that counts the rows that scans give, by the first bytes of their keys."""

    inner: KeyValueStore
    rows: dict[bytes, int] = attrs.Factory(dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def scan(self, *args: Any, **options: Any) -> AsyncIterator[tuple[bytes, bytes]]:
        async for key, value in self.inner.scan(*args, **options):
            self.rows[key[:2]] = self.rows.get(key[:2], 0) + 1
            yield key, value

    async def scan_prefix(self, *args: Any, **options: Any) -> AsyncIterator[tuple[bytes, bytes]]:
        async for key, value in self.inner.scan_prefix(*args, **options):
            self.rows[key[:2]] = self.rows.get(key[:2], 0) + 1
            yield key, value

    @property
    def of_batches(self) -> int:
        return self.rows.get(BATCHES, 0) + self.rows.get(BATCHES_AT, 0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[KeyValueStore]:
    memory = next(each for each in stores() if each.name == "memory")
    async with opened(memory, tmp_path / "store") as made:
        yield made


def batches_of(chain: Truth, first: int, last: int) -> set[Digest]:
    return {batch.digest() for height in range(first, last + 1) for batch in chain.block(height).batches}


async def put(kept: KeptBlocks, height: int, oldest: int = 0, chain: Truth = CHAIN) -> None:
    facts = ExecutedFacts(
        height=height, state_root=hash32(b"s"), receipts_root=hash32(b"r"), base_price=10_000
    )
    final = Final(chain.block(height), chain.views[height], chain.finalisations.get(height))
    await kept.put(final, facts, oldest=oldest)


async def rows(store: KeyValueStore, prefix: bytes) -> list[bytes]:
    return [key[len(prefix) :] async for key, _ in store.scan_prefix(prefix)]


def heights(keys: list[bytes]) -> list[int]:
    return sorted({int.from_bytes(key[:8], "big") for key in keys})


async def without_index(store: KeyValueStore) -> None:
    """As versions left it that had no rows by height."""
    end = bytes((BATCHES_AT[0], BATCHES_AT[1] + 1))
    await store.write([DeleteRange(BATCHES_AT, end), Delete(BATCHES_INDEXED)])


async def test_rows_of_batches_go_with_their_blocks_and_never_before_their_epoch_has_ended(
    store: KeyValueStore,
) -> None:
    kept = KeptBlocks(store)
    window = 5
    for height in range(1, CHAIN.height + 1):
        oldest = max(0, height - window)
        await put(kept, height, oldest)
        begun = (height - 1) // LENGTH * LENGTH + 1
        # The rows of an epoch's last block are written before it is committed: it may still go on.
        lowest = min(oldest, begun) if oldest else 1
        expected = batches_of(CHAIN, max(lowest, 1), height)
        assert set(await rows(store, BATCHES)) == expected, height
        assert {key[8:] for key in await rows(store, BATCHES_AT)} == expected, height
        assert await kept.ordered(begun, height) == batches_of(CHAIN, begun, height)
    for digest in batches_of(CHAIN, CHAIN.height - window, CHAIN.height):
        assert await kept.place(digest) is not None


async def test_a_node_that_keeps_all_blocks_keeps_their_batches_rows(store: KeyValueStore) -> None:
    kept = KeptBlocks(store)
    for height in range(1, CHAIN.height + 1):
        await put(kept, height)
    assert set(await rows(store, BATCHES)) == batches_of(CHAIN, 1, CHAIN.height)


async def test_what_has_to_go_goes_a_part_with_each_block_and_is_read_no_more(store: KeyValueStore) -> None:
    chain = true_chain(5, epochs=2, length=100)
    writer = KeptBlocks(store)
    for height in range(1, 102):
        await put(writer, height, chain=chain)
    before = len(await rows(store, BATCHES))
    assert before > 2 * REMOVED_MIN
    counting = Counting(store)
    kept = KeptBlocks(counting)  # type: ignore[arg-type]
    read: list[int] = []
    for height in range(102, 111):
        counting.rows.clear()
        await put(kept, height, oldest=101, chain=chain)
        read.append(counting.of_batches)
    gone = len(batches_of(chain, 1, 100))
    assert read == [REMOVED_MIN] * (gone // REMOVED_MIN) + [gone % REMOVED_MIN] + [0] * (
        8 - gone // REMOVED_MIN
    )
    assert set(await rows(store, BATCHES)) == batches_of(chain, 101, 110)


async def test_after_a_crash_before_the_commit_of_an_epochs_last_block_its_batches_are_there(
    store: KeyValueStore,
) -> None:
    for height in range(1, LENGTH + 1):
        await put(KeptBlocks(store), height, oldest=height)
    kept = KeptBlocks(store)
    await put(kept, LENGTH, oldest=LENGTH)
    assert await kept.ordered(1, LENGTH) == batches_of(CHAIN, 1, LENGTH)
    await put(kept, LENGTH + 1, oldest=LENGTH)
    # What the last block itself holds is kept as long as it is.
    assert await kept.ordered(1, LENGTH) == batches_of(CHAIN, LENGTH, LENGTH)


async def test_nothing_is_forgotten_by_a_block_that_found_no_room(store: KeyValueStore) -> None:
    @attrs.define
    class Full(Counting):
        full: bool = True

        async def write(self, *args: Any) -> None:
            if self.full:
                raise DiskFull("no room")
            await self.inner.write(*args)

    for height in range(1, LENGTH + 1):
        await put(KeptBlocks(store), height)
    full = Full(store)
    kept = KeptBlocks(full)  # type: ignore[arg-type]
    with pytest.raises(DiskFull):
        await put(kept, LENGTH + 1, oldest=LENGTH)
    full.full = False
    await put(kept, LENGTH + 1, oldest=LENGTH)
    assert set(await rows(store, BATCHES)) == batches_of(CHAIN, LENGTH, LENGTH + 1)


async def test_rows_of_operations_dont_pile_up_on_a_node_that_only_follows(store: KeyValueStore) -> None:
    kept = KeptBlocks(store)
    for height in range(1, 2 * LENGTH + 2):
        final = Final(CHAIN.block(height), 1, None)
        body = attrs.evolve(final.block.body, system_operations=(b"one",))
        block = attrs.evolve(final.block, body=body)
        facts = ExecutedFacts(height=height, state_root=bytes(32), receipts_root=bytes(32), base_price=1)
        await kept.put(attrs.evolve(final, block=block), facts)
    assert heights(await rows(store, OPERATIONS)) == [2 * LENGTH + 1]


async def test_a_store_of_before_rows_by_height_is_given_them_once(store: KeyValueStore) -> None:
    kept = KeptBlocks(store)
    for height in range(1, 3 * LENGTH):
        await put(kept, height)
    made = [(BATCHES + hash32(b"%d" % each), (7).to_bytes(8, "big") + bytes(2)) for each in range(1_100)]
    await store.write([Put(key, seal(key, value)) for key, value in made])
    assert len(made) > INDEXED_TOGETHER
    await without_index(store)
    assert not await kept.is_indexed()
    assert await kept.ordered(2 * LENGTH + 1, 3 * LENGTH) == frozenset(), "which is why it has to be"
    assert await kept.index_batches() == ""
    assert not await kept.is_indexed(), "a crash here: it is done again"
    assert await kept.index_batches() == ""
    await kept.indexed()
    assert await kept.is_indexed()
    assert await kept.ordered(2 * LENGTH + 1, 3 * LENGTH) == batches_of(CHAIN, 2 * LENGTH + 1, 3 * LENGTH - 1)
    assert await kept.ordered(7, 7) == batches_of(CHAIN, 7, 7) | {key[2:] for key, _ in made}


async def test_a_missing_row_and_a_damaged_one_ask_for_no_old_copy_of_a_validators_folder(
    store: KeyValueStore,
) -> None:
    kept = KeptBlocks(store)
    with pytest.raises(StoreCorrupt, match="keep the key") as missing:
        await kept.get(5)
    await store.write([Put(BLOCKS + (5).to_bytes(8, "big"), b"not what was written")])
    with pytest.raises(StoreCorrupt, match="keep the key") as damaged:
        await kept.get(5)
    for each in (missing, damaged):
        assert "backup" not in each.value.mend and "copy" not in str(each.value)


AT_REST = BftConfig(block_interval_min_ms=1, block_interval_max_ms=3_600_000)


async def epochs_then_a_part(net: Network) -> Tip:
    """Some epochs, and some blocks of the next. Gives the tip."""
    chain = net.nodes[0].chain
    while chain.tip().epoch < 3 or len(await ordered_now(net)) < 2:
        sent = net.transfer(0, b"\x07" * 32, 1)
        await chain.submit([sent.data])
        await net.committed(0, sent.digest)
    return chain.tip()


async def ordered_now(net: Network) -> set[Digest]:
    """By the ledger: the batches of the epoch of the block that follows the tip."""
    chain, found = net.nodes[0].chain, set()
    for height in range(chain.tip().height, 0, -1):
        block = await chain.block(height)
        assert block is not None
        if block.header.epoch < net.nodes[0].engine.life.epoch:
            break
        found |= {each.header.digest() for each in block.body.certificates}
    return found


@pytest.mark.parametrize("old", [False, True])
async def test_a_restart_reads_the_rows_of_its_epoch_and_of_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    known: list[frozenset[Digest]] = []
    ordered = KeptBlocks.ordered

    async def noted(kept: KeptBlocks, first: int, last: int) -> frozenset[Digest]:
        known.append(await ordered(kept, first, last))
        return known[-1]

    monkeypatch.setattr(KeptBlocks, "ordered", noted)
    async with network(tmp_path, validators=1, config=AT_REST, epoch_blocks=16) as net:
        await epochs_then_a_part(net)
        right = await ordered_now(net)
        total = len(await rows(net.stores[0], BATCHES))
        await net.stop(0)
        if old:
            await without_index(net.stores[0])
            await net.start(0)
            await net.stop(0)
        assert await rows(net.stores[0], BATCHES_AT)
        counting = Counting(net.stores[0])
        net.stores[0] = counting  # type: ignore[assignment]
        known.clear()
        await net.start(0)
        assert known and all(each == right for each in known)
        # Once to see that they can be read, once to begin with them.
        assert 2 * len(right) == counting.of_batches < total
