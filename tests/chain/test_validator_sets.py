"""Which set an epoch has: by the stakes at the root height of the last block before it (CONS-50, CONS-54)."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from supervm.chain.validator_sets import (
    ValidatorSets,
    read_validator_sets,
    sets_by_digest,
    write_handovers,
)
from supervm.contracts.storage import Durability, KeyValueStore, Put
from supervm.execution.election import MINIMUM_COINS, elect
from supervm.plugins.storage import supervm_components as stores
from supervm.storage import snapshot_restore
from supervm.storage.spaces import RESTORED_KEY, seal
from supervm.testing.context import opened
from supervm.types.address import Suite, node_id_of
from supervm.types.block import BlockHeader
from supervm.types.certificate import Certificate
from supervm.types.digests import ZERO
from supervm.types.genesis import Genesis
from supervm.types.handover import HandOver
from supervm.types.stakes import Stake, Stakes
from supervm.types.validators import Validator, ValidatorSet

FIRST = bytes([1]) * 32
GENESIS = Genesis(
    name="sets",
    created_ms=0,
    validators=ValidatorSet((Validator(node_id_of(Suite.ED25519, FIRST), FIRST, 1),)),
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[KeyValueStore]:
    memory = next(each for each in stores() if each.name == "memory")
    async with opened(memory, tmp_path) as found:
        yield found


def stakes(*weights: int) -> bytes:
    """An entry by which keys 2, 3, .. have these weights beside genesis' member."""
    records = [
        Stake(public_key=bytes([at]) * 32, amount=weight * MINIMUM_COINS * 10**9)
        for at, weight in enumerate(weights, 2)
    ]
    return Stakes(tuple(records)).encode()


def weights_of(found: ValidatorSet) -> list[int]:
    return [each.weight for each in sorted(found.members, key=lambda each: each.public_key)]


def header(height: int, epoch: int, root_height: int, following: ValidatorSet | None = None) -> BlockHeader:
    blank = {
        each.name: ZERO for each in attrs.fields(BlockHeader) if each.name not in ("next_validators_digest",)
    }
    given: dict[str, Any] = blank | {
        "height": height,
        "epoch": epoch,
        "root_height": root_height,
        "timestamp_ms": 0,
        "base_price": 0,
        "next_validators_digest": ZERO if following is None else following.digest(),
    }
    return BlockHeader(**given)


def ledger(height: int, entry: bytes | None = None) -> Any:
    async def get_state(keys: list[bytes]) -> dict[bytes, bytes | None]:
        return dict.fromkeys(keys, entry)

    return SimpleNamespace(tip=SimpleNamespace(height=height), get_state=get_state)


async def commit(sets: ValidatorSets, block: BlockHeader, entry: bytes | None = None) -> None:
    if entry is None:
        sets.unchanged()
    else:
        sets.executed(block.height, entry)
    await sets.write(block)
    sets.settle(block)


async def test_an_epoch_has_the_set_of_the_state_at_the_root_height_of_the_last_block(
    store: KeyValueStore,
) -> None:
    sets = await read_validator_sets(store, GENESIS, ledger(0))
    await commit(sets, header(1, 1, 0))
    await commit(sets, header(2, 1, 0), stakes(2))
    await commit(sets, header(3, 1, 1))
    await commit(sets, header(4, 1, 2), stakes(2, 3))
    assert [weights_of(sets.after(height)) for height in (1, 2, 3, 4)] == [[1], [1, 2], [1, 2], [1, 2, 3]]
    await commit(sets, header(5, 1, 3, sets.after(3)))
    assert weights_of(sets.of_epoch(1)) == [1]
    assert weights_of(sets.of_epoch(2)) == [1, 2]
    assert weights_of(sets.of_epoch(3)) == [1, 2, 3], "what it would be if it began now"
    again = await read_validator_sets(store, GENESIS, ledger(5))
    assert [again.of_epoch(epoch) for epoch in (1, 2, 3)] == [sets.of_epoch(epoch) for epoch in (1, 2, 3)]
    assert [again.after(height) for height in range(6)] == [sets.after(height) for height in range(6)]
    assert set(await sets_by_digest(store)) == {sets.of_epoch(2).digest()}


async def test_what_a_block_that_was_never_committed_wrote_counts_for_nothing(store: KeyValueStore) -> None:
    sets = await read_validator_sets(store, GENESIS, ledger(0))
    await commit(sets, header(1, 1, 0))
    sets.executed(2, stakes(5))
    assert weights_of(sets.after(2)) == [1, 5] and weights_of(sets.after(1)) == [1]
    await sets.write(header(2, 1, 2, sets.after(2)))
    found = await read_validator_sets(store, GENESIS, ledger(1))
    assert weights_of(found.after(1)) == [1]
    assert weights_of(found.of_epoch(2)) == [1]
    await commit(found, header(2, 1, 1, found.after(1)))
    assert weights_of(found.of_epoch(2)) == [1]


async def test_after_a_restore_from_a_snapshot_the_stakes_of_its_state_count(store: KeyValueStore) -> None:
    found = await read_validator_sets(store, GENESIS, ledger(900, stakes(7)))
    assert weights_of(found.after(900)) == [1, 7]


async def restored(store: KeyValueStore, height: int) -> None:
    """The note that a restore leaves."""
    value = snapshot_restore._ORIGIN.pack(1, height, bytes(32))
    await store.write([Put(RESTORED_KEY, seal(RESTORED_KEY, value))], Durability.DURABLE)


async def test_after_a_restore_the_set_of_its_height_is_known_whatever_stakes_do_next(
    store: KeyValueStore,
) -> None:
    await restored(store, 900)
    sets = await read_validator_sets(store, GENESIS, ledger(900, stakes(7)))
    await commit(sets, header(901, 1, 899), stakes(7, 8))
    await commit(sets, header(902, 1, 900))
    again = await read_validator_sets(store, GENESIS, ledger(902, stakes(7, 8)))
    for found in (sets, again):
        assert [weights_of(found.after(height)) for height in (900, 901)] == [[1, 7], [1, 7, 8]]
    # The epoch ends on a block that shows a root of before that change.
    await commit(again, header(903, 1, 900, sets.after(900)))
    assert weights_of(again.of_epoch(2)) == [1, 7]


async def test_where_an_epoch_ends_on_a_root_below_the_snapshot_the_hand_over_tells_the_next_set(
    store: KeyValueStore,
) -> None:
    await restored(store, 900)
    # Stakes changed from 5 to 7 in block 899; block 901 is the last of its epoch and shows the root of 898.
    earlier = elect(GENESIS.validators, Stakes.decode(stakes(5)), 9)
    last = header(901, 1, 898, earlier)
    wrong = header(901, 1, 898, elect(GENESIS.validators, Stakes.decode(stakes(6)), 9))
    certificate = Certificate(0, 1, 1, ZERO, b"", ())
    await write_handovers(store, [HandOver(last, certificate, earlier)])
    sets = await read_validator_sets(store, GENESIS, ledger(900, stakes(7)))
    assert sets.handed_over(wrong) is None
    await commit(sets, last)
    again = await read_validator_sets(store, GENESIS, ledger(901, stakes(7)))
    assert [weights_of(found.of_epoch(2)) for found in (sets, again)] == [[1, 5], [1, 5]]
    # The change is of the epoch after.
    assert weights_of(again.of_epoch(3)) == [1, 7]


async def test_where_it_ends_on_the_set_that_it_began_with_no_hand_over_is_needed(
    store: KeyValueStore,
) -> None:
    await restored(store, 900)
    sets = await read_validator_sets(store, GENESIS, ledger(900, stakes(7)))
    await commit(sets, header(901, 1, 898, GENESIS.validators))
    assert weights_of(sets.of_epoch(2)) == [1] and weights_of(sets.of_epoch(3)) == [1, 7]


async def test_stakes_that_change_nothing_of_the_set_are_no_harm_and_old_changes_go(
    store: KeyValueStore,
) -> None:
    sets = await read_validator_sets(store, GENESIS, ledger(0))
    for height in range(1, 600):
        await commit(sets, header(height, 1, max(height - 2, 0)), stakes(height))
    assert len(sets._changes) <= 256
    again = await read_validator_sets(store, GENESIS, ledger(599))
    for height in (400, 598, 599):
        assert weights_of(again.after(height)) == weights_of(sets.after(height)) == [1, height]
